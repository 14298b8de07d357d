"""What is asked of the table of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.results.settings import Accuracy, Names, Settings

LEAST_DRAWS = 100


@dataclass(frozen=True)
class CorpusSettings(Settings):
    """Which columns are what, and how intervals are drawn; see `analyse_corpus`."""

    target: str = "test_accuracy"
    groups: Names = ("depth",)
    metrics: Names | None = None
    hyperparameters: Names = ()
    level: Accuracy = 0.95
    draws: Annotated[int, Ge(LEAST_DRAWS)] = 2000
    seed: Seed = 0
