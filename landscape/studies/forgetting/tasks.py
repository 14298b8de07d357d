"""Data of task after task made of one data set: turned, permuted, split by class."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.arguments import Seed, checked
from landscape.errors import InputError

Labelled = tuple[Tensor, Tensor]  # inputs (n, ...), labels (n,)


@checked()
def rotated_task(data: Labelled, task: int, *, degrees: float = 10.0) -> Labelled:
    """Images (n, h, w), (n, c, h, w) or (n, h^2), labels (n,) of task k: turned left by k `degrees`.

    About the centre, bilinear, 0 outside the image; task 0 has them as they are. Raises InputError for inputs of
    another shape, or that are no real numbers. Lopez-Paz & Ranzato, arXiv 1706.08840.
    """
    images, labels = _labelled(data, task)
    flat, side = images.ndim == 2, math.isqrt(images.shape[-1])
    if not images.is_floating_point() or images.ndim not in (2, 3, 4) or (flat and side * side != images.shape[1]):
        raise InputError(
            f"inputs of shape {tuple(images.shape)} and {images.dtype} are no images; give real numbers (n, h, w), "
            "(n, c, h, w), or (n, h * h) of square ones"
        )
    angle = math.radians(task * degrees)
    if math.remainder(task * degrees, 360.0) == 0:
        return images, labels
    shape = (len(images), 1, side, side) if flat else (len(images), 1, *images.shape[1:])
    stacked = images if images.ndim == 4 else images.reshape(shape)
    h, w = stacked.shape[2:]
    cos, sin = math.cos(angle), math.sin(angle)  # the grid has sides of length 2, whatever h and w are
    turn = torch.tensor([[cos, -sin * h / w, 0.0], [sin * w / h, cos, 0.0]], dtype=images.dtype)
    grid = F.affine_grid(turn.expand(len(images), 2, 3).to(images.device), list(stacked.shape), align_corners=False)
    return F.grid_sample(stacked, grid, align_corners=False).reshape(images.shape), labels


@checked()
def permuted_task(data: Labelled, task: int, *, seed: Seed = 0) -> Labelled:
    """Inputs (n, ...) with their values in another order, the same for all samples, drawn for task k; labels (n,).

    Task 0 has them as they are. Goodfellow et al., arXiv 1312.6211.
    """
    inputs, labels = _labelled(data, task)
    if task == 0:
        return inputs, labels
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "permuted", task)))
    order = torch.from_numpy(random.permutation(inputs[0].numel())).to(inputs.device)
    return inputs.flatten(1)[:, order].reshape(inputs.shape), labels


@checked()
def split_task(data: Labelled, task: int, *, classes: int = 2) -> Labelled:
    """The samples of task k: those of labels k `classes` to (k + 1) `classes` - 1, whose labels begin at 0 again.

    All tasks share one output layer of `classes` scores. Raises InputError for a task without samples. Zenke et al.,
    arXiv 1703.04200.
    """
    inputs, labels = _labelled(data, task)
    if type(classes) is not int or classes < 2:
        raise InputError(f"classes={classes!r}; give 2 or more, the classes of a task")
    there = (labels >= task * classes) & (labels < (task + 1) * classes)
    if not bool(there.any()):
        last = int(labels.max()) // classes
        raise InputError(f"task={task} has no samples: with classes={classes} the tasks are 0 to {last}")
    return inputs[there], labels[there] - task * classes


def _labelled(data: Labelled, task: int) -> Labelled:
    if type(task) is not int or task < 0:
        raise InputError(f"task={task!r}; give the number of the task, 0, 1, 2, ...")
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise InputError("the data of tasks are made of two tensors, (inputs, labels)")
    inputs, labels = data
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or inputs.ndim < 2
        or len(inputs) != len(labels)
        or not len(labels)
    ):
        raise InputError(
            f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)} of {labels.dtype}; give inputs (n, ...) "
            "and a whole number for each"
        )
    return inputs, labels
