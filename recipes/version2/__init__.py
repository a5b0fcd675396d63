"""How version 2 of the bundled model and its compensation were made; kept until version 3 takes their place."""
