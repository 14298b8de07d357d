"""Trained models in any of the forms users have them: flat vectors, state dicts, modules, checkpoints; and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.checkpoint import check_state, read_state, strip_prefixes
from landscape.errors import InputError
from landscape.objective import Objective

ThetaLike = Any  # flat vector, {name: tensor}, a module with state_dict(), or the path of a checkpoint
PAIRS = ("all", "ring", "star")


def read_model(objective: Objective, theta: ThetaLike) -> tuple[Tensor, dict[str, Tensor]]:
    """(flat vector, buffers) of a model given in any of the accepted forms; buffers empty where it brings none."""
    source = "the given state"
    if isinstance(theta, (str, Path)):
        source = f"checkpoint {theta}"
        theta = read_state(theta)
    elif hasattr(theta, "state_dict"):
        source = type(theta).__name__
        theta = theta.state_dict()
    if not isinstance(theta, Mapping):
        return objective.vector(theta), {}
    state = strip_prefixes(theta, objective.state_shapes)
    parameters = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
    if set(state) == set(parameters):
        check_state(state, parameters, source)
        return objective.vector(objective.layout.flatten(state)), {}
    check_state(state, objective.state_shapes, source)
    for name, value in objective.frozen.items():
        if name in state and not torch.equal(state[name].to(value.device, value.dtype), value):
            raise InputError(
                f"{source} has another value of {name!r}, which is frozen (requires_grad=False) and so the same all "
                "over the plane; set requires_grad on the parameters that differ between the models"
            )
    buffers = {
        name: state[name].to(value.device, value.dtype) if name in state else value
        for name, value in objective.buffers.items()
    }
    return objective.vector(objective.layout.flatten(state)), buffers


def model_labels(thetas: Sequence[ThetaLike], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, or file names and numbers where there are none."""
    if labels and len(labels) != len(thetas):
        raise InputError(f"{len(labels)} labels for {len(thetas)} models; give one each")
    named = (Path(t).stem if isinstance(t, (str, Path)) else str(i) for i, t in enumerate(thetas))
    return tuple(labels) or tuple(named)


def model_pairs(count: int, pairs: str | Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs (i, j) of `count` models: "all" with i < j, a "ring" i, i + 1 and back, a "star" about model 0, or a list.

    Raises InputError for one model, unknown numbers, a model paired with itself, or a pair given twice.

    >>> model_pairs(3, "ring")
    [(0, 1), (1, 2), (2, 0)]
    """
    if count < 2:
        raise InputError(f"{count} model given; a pair needs 2")
    if isinstance(pairs, str):
        if pairs not in PAIRS:
            raise InputError(f"pairs={pairs!r} is not one of {', '.join(PAIRS)} or a list of pairs of model numbers")
        if pairs == "star":
            return [(0, j) for j in range(1, count)]
        if pairs == "ring" and count > 2:
            return [(i, (i + 1) % count) for i in range(count)]
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    found: list[tuple[int, int]] = []
    for pair in pairs:
        if len(pair) != 2 or not all(type(i) is int and 0 <= i < count for i in pair) or pair[0] == pair[1]:
            raise InputError(f"pair {list(pair)} is not two different numbers of models from 0 to {count - 1}")
        if tuple(pair) in found or tuple(pair)[::-1] in found:
            raise InputError(f"pair {list(pair)} is given twice")
        found.append((pair[0], pair[1]))
    if not found:
        raise InputError("pairs is empty; give at least one pair, or 'all'")
    return found
