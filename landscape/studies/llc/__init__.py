"""The local learning coefficient of a minimum, by chains of Langevin steps around it."""
