"""What is asked of coherence."""

from __future__ import annotations

from dataclasses import dataclass

from landscape.results.settings import Names, Settings


@dataclass(frozen=True)
class CoherenceSettings(Settings):
    """Of which parameters, whether example by example, and in which mode; see `measure_coherence`."""

    params: Names | None = None
    examples: bool = False
    train: bool = False
