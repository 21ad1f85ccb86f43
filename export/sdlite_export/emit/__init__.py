"""Emitters: one model definition in, graph files out."""
