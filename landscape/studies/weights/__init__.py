"""Shape and scale of weight matrices, by their eigenvalues."""
