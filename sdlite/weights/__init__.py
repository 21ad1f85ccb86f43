"""Weights that take the place of a package's own."""
