"""Grids: one picture for every combination of settings along two or three axes."""
