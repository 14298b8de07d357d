"""How alike models are."""
