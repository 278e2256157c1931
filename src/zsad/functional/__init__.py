"""Formulas as pure functions of tensors: maps, windows, losses."""
