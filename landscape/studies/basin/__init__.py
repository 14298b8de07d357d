"""How far the basin around a minimum reaches along random directions, and the logarithm of its volume."""
