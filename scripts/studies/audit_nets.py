"""Networks, data and two measures of audit.toml: Fashion-MNIST at 14 x 14 pixels, of the data in LANDSCAPE_SHARED."""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from landscape_kernels.evidence import bound_on_error, signed_correlations
from landscape_kernels.nngp import nngp_kernel
from landscape_kernels.propagation import propagated_orthant
from torch import Tensor, nn

import landscape as ls

_SHARED = Path(os.environ.get("LANDSCAPE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
_TRAINED, _TESTED = 400, 2000  # images of each part
_CLASSES = {"two": 2, "ten": 10}


def net(task: str, arch: str) -> nn.Module:
    """An MLP of two hidden layers, or a small convolutional network with BatchNorm."""
    classes = _CLASSES[task]
    if arch == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(196, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
        )
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(784, classes),
    )  # fmt: skip


@functools.cache
def _images(part: str, count: int) -> tuple[Tensor, Tensor]:
    def read(name: str, offset: int) -> Any:
        with gzip.open(_SHARED / "data" / "fashion_mnist" / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:count].astype(np.float32)
    labels = read(f"{part}-labels-idx1-ubyte.gz", 8)[:count].astype(np.int64)
    return F.avg_pool2d(torch.from_numpy((images / 255 - 0.286) / 0.353), 2), torch.from_numpy(labels)


def _of(task: str, part: str, count: int) -> tuple[Tensor, Tensor]:
    images, labels = _images(part, count)
    return images, labels if task == "ten" else (labels >= 5).long()


def data() -> Any:
    """What is trained on, by task: ten classes, or whether the class is one of the last five."""
    return lambda task: _of(task, "train", _TRAINED)


def held_out() -> Any:
    """What is not."""
    return lambda task: _of(task, "t10k", _TESTED)


def all_weights(subject: Any) -> Tensor:
    """Squares of all parameters as they stand, no BatchNorm fused."""
    return subject.theta.square().sum()


_bounds: dict[str, float] = {}  # of the data that were seen already, by their digest


def evidence_bound(subject: Any) -> float:
    """The PAC-Bayes bound by the marginal likelihood of the labels: infinitely wide MLP, expectation propagation.

    It follows from the training data alone, and sums over the classes, each against the others.
    """
    samples = subject.objective.data
    if samples.digest not in _bounds:
        inputs, labels = samples.head(subject.samples).first
        kernel = nngp_kernel(inputs.flatten(1).double().numpy(), depth=2)
        classes = labels.unique().tolist()
        signs = [np.where(labels.numpy() == one, 1.0, -1.0) for one in (classes[1:] if len(classes) == 2 else classes)]
        log = sum(propagated_orthant(signed_correlations(kernel, one)).log for one in signs)
        _bounds[samples.digest] = bound_on_error(-log, subject.samples)
    return _bounds[samples.digest]


weights = ls.measure("all_weights", all_weights)
evidence = ls.measure("evidence_bound", evidence_bound)
