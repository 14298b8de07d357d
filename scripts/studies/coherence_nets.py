"""Networks and data of coherence.py and coherence.toml: 1,000 MNIST images of 14 x 14 pixels."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from landscape.studies.training.data import trained_on
from landscape.studies.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from shared import mnist_train

TRAINED, HELD_OUT = 1000, 1000


def mlp(width: int = 256) -> nn.Module:
    """Three fully connected layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(196, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def narrow() -> nn.Module:
    """The MLP of the descents."""
    return mlp(128)


def cnn() -> nn.Module:
    """Two convolutions and two fully connected layers."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(216, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _images(start: int, count: int) -> tuple[Tensor, Tensor]:
    """Without the mean image of those trained on, which all gradients would have in common, and of unit variance."""
    images, labels = mnist_train()
    trained, chosen = (F.avg_pool2d(part, 2) for part in (images[:TRAINED], images[start : start + count]))
    return (chosen - trained.mean(0)) / (trained - trained.mean(0)).std(), labels[start : start + count]


def data(noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """What is trained on, the labels of a share of it drawn anew as a recipe with that `label_noise` does."""
    found: tuple[Tensor, Tensor] = trained_on(_images(0, TRAINED), Recipe(label_noise=noise))
    return found


def kinds(noise: float) -> list[str]:
    """ "corrupt" where the label is another than the image's own, else "pristine"."""
    changed = data(noise)[1] != data()[1]
    return ["corrupt" if one else "pristine" for one in changed.tolist()]


def held_out() -> tuple[Tensor, Tensor]:
    """What is not trained on."""
    return _images(TRAINED, HELD_OUT)
