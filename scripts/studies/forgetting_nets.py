"""Networks and data of forgetting.toml: MNIST turned further with each task, of the data in LANDSCAPE_SHARED."""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape as ls

_SHARED = Path(os.environ.get("LANDSCAPE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
_TRAINED, _TESTED = 10000, 2000  # images of each part


def net(dropout: float) -> nn.Module:
    """An MLP of one hidden layer of 100, with dropout behind it."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Dropout(dropout), nn.Linear(100, 10)
    )  # fmt: skip


@functools.cache
def _images(part: str, count: int) -> tuple[Tensor, Tensor]:
    def read(name: str, offset: int) -> Any:
        with gzip.open(_SHARED / "data" / "mnist" / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:count].astype(np.float32) / 255
    labels = read(f"{part}-labels-idx1-ubyte.gz", 8)[:count].astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels)


def data() -> Callable[[int], tuple[Tensor, Tensor]]:
    """What is trained on, by task."""
    return lambda task: ls.rotated_task(_images("train", _TRAINED), task)


def held_out() -> Callable[[int], tuple[Tensor, Tensor]]:
    """What is not."""
    return lambda task: ls.rotated_task(_images("t10k", _TESTED), task)
