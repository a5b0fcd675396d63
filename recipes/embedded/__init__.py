"""How the bundled model was made: one command per stage, see `python -m recipes.embedded --help`."""
