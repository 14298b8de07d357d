"""Gradient descents that follow what the gradients of many examples agree on, as optimisers of torch."""

from landscape.descents.median import M3, RA3, RM3
from landscape.descents.winsorised import WinsorisedSGD

__all__ = ["M3", "RA3", "RM3", "WinsorisedSGD"]
