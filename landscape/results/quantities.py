"""What quantities are, in words: a table for what several studies measure; others stand in their study's result.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PURE = ("", "fraction", "parameter units")  # units of plain numbers, which files have as "1"


@dataclass(frozen=True)
class Meaning:
    """What a quantity is."""

    words: str  # short, for headings and axes
    unit: str = ""
    definition: str = ""  # how it is made, where the words do not tell

    @property
    def long_name(self) -> str:
        """What it is, for a file."""
        return self.definition or self.words

    @property
    def units(self) -> str:
        """Its unit, for a file."""
        return "1" if self.unit in _PURE else self.unit

    @property
    def label(self) -> str:
        """The words with the unit, for an axis."""
        return f"{self.words} ({self.unit})" if self.unit else self.words


QUANTITIES: Mapping[str, Meaning] = {
    "loss": Meaning("loss per sample"),
    "accuracy": Meaning("accuracy", "fraction", "fraction of predictions that are right"),
    "error": Meaning("error", "fraction", "fraction of predictions that are wrong"),
    "eigenvalue_max": Meaning("largest eigenvalue"),
    "eigenvalue_min": Meaning("smallest eigenvalue"),
    "eigenvalue_max_residual": Meaning("relative residual of the largest eigenvalue"),
    "eigenvalue_min_residual": Meaning("relative residual of the smallest eigenvalue"),
    "convexity": Meaning(r"$|\lambda_{\min}/\lambda_{\max}|$", definition="|smallest eigenvalue / largest eigenvalue|"),
}


def words(quantity: str, attributes: Mapping[str, Any] | None = None) -> str:
    """What a quantity is, with its unit, for an axis; the loss with its name where the result's attributes tell it.

    >>> words("loss", {"loss": "cross_entropy"}), words("test_error"), words("depth")
    ('loss per sample (cross entropy)', 'error (fraction), test data', 'depth')
    """
    plain = quantity.removeprefix("test_")
    if plain not in QUANTITIES:
        return quantity
    name = str((attributes or {}).get("loss", "")) if plain == "loss" else ""
    about = f" ({name.replace('_', ' ')})" if name.isidentifier() else ""
    return QUANTITIES[plain].label + about + (", test data" if plain != quantity else "")


def long_name(quantity: str) -> str:
    """What a quantity is, for a file.

    >>> long_name("test_error"), long_name("depth")
    ('fraction of predictions that are wrong on the test data', 'depth')
    """
    plain = quantity.removeprefix("test_")
    name = QUANTITIES[plain].long_name if plain in QUANTITIES else plain
    return name + (" on the test data" if plain != quantity else "")
