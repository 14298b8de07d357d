"""Job files, the command line, Slurm, reports: what runs work; it knows no study by name."""
