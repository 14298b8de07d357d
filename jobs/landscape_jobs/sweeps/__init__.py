"""Sweeps: their files, folders and cells."""
