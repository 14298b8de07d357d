"""Pairs of models, on lines and on curves."""
