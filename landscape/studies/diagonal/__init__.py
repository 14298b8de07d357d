"""The diagonal of a curvature matrix."""
