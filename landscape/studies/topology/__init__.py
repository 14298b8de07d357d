"""Minima, saddles and merge tree of a surface."""
