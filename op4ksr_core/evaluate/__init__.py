"""How good pictures are, by the field's instruments: metrics, pairs, tables, tests and a page to look at."""
