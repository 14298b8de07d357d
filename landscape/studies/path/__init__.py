"""Loss along a curve or line."""
