"""Networks and data of basins.py and its jobs: MLPs of handwritten digits, and of two spirals in the plane."""

from __future__ import annotations

import itertools

from landscape_jobs.demo import digits
from landscape_jobs.toy_data import swiss_roll
from torch import Tensor, nn

from landscape.studies.training.data import trained_on
from landscape.studies.training.recipe import Recipe

POISONS = (0.0, 0.05, 0.1, 0.2, 0.3)
_TRAINED = 800  # of 1,297 samples: the rest would only take time
_WIDTHS = (2, 128, 128, 128, 128, 2)  # what the paper's 4,000 parameters learn of as much poison is 70 %


def net() -> nn.Module:
    """An MLP of one hidden layer, 9,610 parameters."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def data() -> tuple[Tensor, Tensor]:
    """What is trained on, poison included."""
    images, labels = digits()
    return images[:_TRAINED], labels[:_TRAINED]


def clean() -> tuple[Tensor, Tensor]:
    """Those samples of `data` that are no poison at any level, on which all basins are measured."""
    found: tuple[Tensor, Tensor] = trained_on(data(), Recipe(poison=max(POISONS)))
    return found


def held_out() -> tuple[Tensor, Tensor]:
    """What is not trained on."""
    return digits("test")


def spiral_net() -> nn.Module:
    """An MLP of four hidden layers for two spirals, 50,178 parameters."""
    layers = [part for a, b in itertools.pairwise(_WIDTHS) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def spirals() -> tuple[Tensor, Tensor]:
    """Two spirals, poison included."""
    return swiss_roll(200, seed=0)


def spirals_held_out() -> tuple[Tensor, Tensor]:
    """More points of them."""
    return swiss_roll(500, seed=1)
