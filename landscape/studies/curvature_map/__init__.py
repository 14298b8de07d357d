"""Curvature on grids."""
