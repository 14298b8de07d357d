"""Texts in rows, which hold numbers: a reason, a note."""

from __future__ import annotations

import numpy as np
from landscape_kernels.arrays import FloatArray


def coded(text: str, size: int) -> FloatArray:
    """(size,): the numbers of the characters of a text, 0 behind them; what is longer ends in dots.

    >>> decoded(coded("no margins", 12)), decoded(coded("no margins", 8))
    ('no margins', 'no ma...')
    """
    codes = np.zeros(size)
    short = text if len(text) <= size else f"{text[: size - 3]}..."
    codes[: len(short)] = [ord(character) for character in short]
    return codes


def decoded(codes: FloatArray) -> str:
    """The text; empty where the row is not computed."""
    return "".join(chr(int(code)) for code in codes if code > 0)
