"""Second derivatives: products, and the matrix that is meant."""
