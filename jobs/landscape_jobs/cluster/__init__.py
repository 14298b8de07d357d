"""Slurm, sites, stages, and the scheduler simulated."""
