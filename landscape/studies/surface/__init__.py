"""Loss on grids."""
