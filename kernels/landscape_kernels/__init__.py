"""Computation on flat vectors with torch and numpy; knows nothing of models, files or MPI."""
