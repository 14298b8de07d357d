"""Spectra of the diagonal blocks of layers."""
