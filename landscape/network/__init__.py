"""What one run of a network tells of it: layers, linearity, symmetry."""
