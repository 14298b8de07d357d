"""Networks and data of phases.toml: MLPs of handwritten digits."""

from __future__ import annotations

from landscape_jobs.demo import digits
from torch import Tensor, nn

_TRAINED = 800  # of 1,297 samples: the rest would only take time


def net(width: int) -> nn.Module:
    """An MLP of one hidden layer."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def data() -> tuple[Tensor, Tensor]:
    """What is trained on."""
    images, labels = digits()
    return images[:_TRAINED], labels[:_TRAINED]


def held_out() -> tuple[Tensor, Tensor]:
    """What is not."""
    return digits("test")
