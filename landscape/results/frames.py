"""Results as pandas tables: one row for each thing measured."""

from __future__ import annotations

from typing import Any

from landscape.studies.agreement.result import Agreement
from landscape.studies.connectivity.result import Connectivity


def pairs(table: Connectivity | Agreement) -> dict[str, Any]:
    """The two models of each pair."""
    first, second = ([table.labels[i] for i in end] for end in table.pairs.T)
    return {"first": first, "second": second}
