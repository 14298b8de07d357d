"""Axes, grids and directions."""
