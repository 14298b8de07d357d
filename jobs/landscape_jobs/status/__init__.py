"""How far runs are."""
