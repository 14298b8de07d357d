"""What is asked of coherence."""

from __future__ import annotations

from dataclasses import dataclass

from landscape.results.settings import Names


@dataclass(frozen=True)
class CoherenceSettings:
    """Of which parameters, and whether example by example; see `measure_coherence`."""

    params: Names | None = None
    examples: bool = False
