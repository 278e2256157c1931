"""The benchmark: a grid of methods, data sets, classes and seeds, a JSON file per cell, and the report made of them."""
