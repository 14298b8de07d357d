"""What is asked of forgetting."""

from __future__ import annotations

from dataclasses import dataclass

from landscape.arguments import Seed
from landscape.results.settings import Accuracy, Settings


@dataclass(frozen=True)
class ForgettingSettings(Settings):
    """Which key tells the tasks, and how exact the largest eigenvalue is; see `measure_forgetting`."""

    sequence: str | None = None
    tol: Accuracy = 1e-3
    seed: Seed = 0
