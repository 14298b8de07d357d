"""Trained models in any of the forms users have them: flat vectors, state dicts, modules, checkpoints; and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from landscape_kernels.arrays import IntArray
from torch import Tensor

from landscape.checkpoints.reading import (
    check_state,
    entries_of,
    fit_state,
    in_step_order,
    is_model,
    read_state,
    step_files,
    step_of,
    strip_prefixes,
)
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.trees import equal

ThetaLike = Any  # flat vector, {name: tensor}, a module with state_dict(), or the path of a checkpoint or its folder
PAIRS = ("all", "ring", "star")
_BLOCK = 1 << 16
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def named_state(objective: Objective, theta: ThetaLike) -> dict[str, Tensor] | None:
    """A model given by name as {name: tensor} under the names of the objective's model; None for a flat vector.

    Raises InputError where it does not fit, see `landscape.checkpoints.reading.fit_state`.
    """
    source = _source(theta)
    if isinstance(theta, (str, Path)):
        theta = read_state(theta)
    elif is_model(theta):
        theta = theta.state_dict()
    if not isinstance(theta, Mapping):
        return None
    tensors = {  # no extra state
        str(name): torch.as_tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "iufc" else value
        for name, value in theta.items()
        if hasattr(value, "shape")
    }
    values = {name: value.detach() if isinstance(value, Tensor) else value for name, value in tensors.items()}
    state = strip_prefixes(values, objective.state_shapes)
    parameters = {  # a complex tensor has an axis less than its block
        block.name: block.shape[: -1 if block.name in objective.complex_names else None]
        for block in objective.layout.blocks
    }
    if set(state) == set(parameters):
        check_state(state, parameters, source)
        return state
    with objective.at(None) as model:  # whose tensors tell which names are tied
        entries = entries_of(model)
    return fit_state(state, entries, source)


def _source(theta: ThetaLike) -> str:
    if isinstance(theta, (str, Path)):
        return f"checkpoint {theta}"
    return type(theta).__name__ if is_model(theta) else "the given state"


def read_model(objective: Objective, theta: ThetaLike) -> tuple[Tensor, dict[str, Tensor]]:
    """(flat vector, buffers) of a model given in any of the accepted forms; buffers empty where it brings none."""
    state = named_state(objective, theta)
    if state is None:
        return objective.vector(theta), {}
    if set(state) == set(objective.layout.names):
        return _flat(objective, theta, state), {}
    for name, value in objective.frozen.items():
        if name in state and not equal(state[name].to(value.device, value.dtype), value):
            raise InputError(
                f"{_source(theta)} has another value of {name!r}, which is frozen (requires_grad=False) and so the "
                "same all over the plane; set requires_grad on the parameters that differ between the models"
            )
    buffers = {  # copies: the caller's may change, and a slice of a mapped file keeps the whole of it
        name: state[name].to(value.device, value.dtype, copy=True) if name in state else value
        for name, value in objective.buffers.items()
    }
    return _flat(objective, theta, state), buffers


def _flat(objective: Objective, theta: ThetaLike, state: Mapping[str, Tensor]) -> Tensor:
    try:
        return objective.vector(objective.layout.flatten(state))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{_source(theta)} does not fit the model: {error}") from error


def read_models(
    objective: Objective, thetas: Sequence[ThetaLike], labels: Sequence[str]
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """`read_model` of each; an InputError names the model."""
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for label, theta in zip(labels, thetas, strict=True):
        try:
            found.append(read_model(objective, theta))
        except InputError as error:
            raise InputError(f"model {label}: {error}") from error
    return found


class ModelVectors(Sequence[Tensor]):
    """The vectors of models in any of the accepted forms, each made when it is asked for: those of files are read anew.

    Raises InputError for one that does not fit, holds NaN or infinity, or has other values than when it was read first.
    """

    def __init__(self, objective: Objective, thetas: Sequence[ThetaLike], names: Sequence[str]) -> None:
        self._objective, self._thetas, self._names = objective, thetas, names
        self._read: dict[int, tuple[int, dict[str, Tensor]]] = {}  # the sum of the bits, and the buffers
        self._held: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._thetas)

    def __getitem__(self, index: Any) -> Any:
        found = range(len(self))[index]
        return self._vector(found) if isinstance(found, int) else tuple(map(self._vector, found))

    @property
    def buffers(self) -> list[Mapping[str, Tensor]]:
        """Buffers of each model, empty where it brings none."""
        for number in range(len(self)):
            if number not in self._read:
                self._vector(number)
        return [self._read[number][1] for number in range(len(self))]

    def hold(self) -> None:
        """Keep copies of the models that are no files: whoever gave them may change them."""
        for number, theta in enumerate(self._thetas):
            if not isinstance(theta, (str, Path)):
                self._held[number] = self._vector(number)

    def _vector(self, number: int) -> Tensor:
        if number in self._held:
            return self._held[number]
        vector, buffers = read_model(self._objective, self._thetas[number])
        bits = 0
        for start in range(0, len(vector), _BLOCK):
            part = vector[start : start + _BLOCK]
            if not bool(part.isfinite().all()):
                require_finite(vector, f"checkpoint {self._names[number]}")
            bits += int(part.view(_BITS[part.element_size()]).sum(dtype=torch.int64))  # exact in any order
        if self._read.setdefault(number, (bits, buffers))[0] != bits:
            raise InputError(
                f"checkpoint {self._names[number]} has other values than when it was read first; make the plane again, "
                "once nothing writes these files any more"
            )
        return vector


def in_order(
    thetas: str | Path | Sequence[ThetaLike], labels: Sequence[str]
) -> tuple[Sequence[ThetaLike], tuple[str, ...]]:
    """Models of a trajectory and a label for each, checkpoints in the order of the steps in their names.

    `thetas` is a folder of them (see `landscape.checkpoints.reading.step_files`), or a list, which stays as it is where
    not each has a step of its own. Labels are by default the steps, for other names than "step" and "checkpoint" those
    of `model_labels`. Raises InputError for a single file, and what `model_labels` refuses.

    >>> in_order(["checkpoint-20", "checkpoint-100", "checkpoint-3"], ())[1]
    ('3', '20', '100')
    """
    if isinstance(thetas, (str, Path)) and Path(thetas).is_dir():
        thetas = step_files(thetas)
    elif isinstance(thetas, (str, Path)):
        raise InputError(
            f"thetas is one path, {str(thetas)!r}, and no folder of checkpoints; give a folder, or a list, as in "
            "glob.glob('epoch*.pt')"
        )
    names = model_labels(thetas, labels)
    paths = [Path(theta) for theta in thetas if isinstance(theta, (str, Path))]
    if len(paths) < len(thetas):
        return thetas, names
    order = in_step_order(paths)
    steps = [step for path in paths if (step := step_of(path)) is not None and step[0] != "epoch"]
    if not labels and len({number for _, number in steps}) == len(paths):
        names = tuple(str(number) for _, number in steps)
    return [thetas[i] for i in order], tuple(names[i] for i in order)


def require_finite(vector: Tensor, name: str) -> None:
    """Raise InputError where a vector holds NaN or Inf."""
    if not bool(vector.isfinite().all()):
        raise InputError(
            f"{name} holds {int((~vector.isfinite()).sum())} values that are NaN or infinite; it is of a diverged run"
        )


class _Pairs:
    """All pairs, a ring, a star, or a list of pairs of numbers of models."""

    def check(self, name: str, value: Any) -> Any:
        """The value, a list as tuples. Raises InputError for another."""
        listed = value if isinstance(value, (list, tuple)) else ()
        pairs = [p for p in listed if isinstance(p, (list, tuple)) and len(p) == 2 and all(type(i) is int for i in p)]
        if pairs and len(pairs) == len(listed):
            return tuple((i, j) for i, j in pairs)
        if not isinstance(value, str) or value not in PAIRS:
            raise InputError(
                f"not one of {', '.join(PAIRS)}, or a list of pairs of model numbers such as [[0, 1], [2, 3]]"
            )
        return value


ModelPairs = Annotated[str | tuple[tuple[int, int], ...], _Pairs()]


def model_labels(thetas: Sequence[ThetaLike], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, or file names and numbers where there are none; no two alike.

    Files of the same name are told apart by their folders. Raises InputError for a single model where a list is meant,
    another number of labels than models, or a label given twice.

    >>> model_labels(["a/best.pt", "b/best.pt", "c/last.pt"], ())
    ('a/best', 'b/best', 'c/last')
    """
    if isinstance(thetas, (str, Path, Mapping)) or is_model(thetas):
        what = f"one path, {str(thetas)!r}" if isinstance(thetas, (str, Path)) else "one model"
        raise InputError(f"{what} is given where a list of models is meant; as in sorted(glob.glob('trained/*.pt'))")
    if labels and len(labels) != len(thetas):
        raise InputError(f"{len(labels)} labels for {len(thetas)} models; give one each")
    if labels:
        twice = next((label for label in labels if list(labels).count(label) > 1), None)
        if twice is not None:
            raise InputError(f"label {twice!r} is given twice; give each model a name of its own")
        return tuple(labels)
    named = [Path(t).with_suffix("").parts if isinstance(t, (str, Path)) else (str(i),) for i, t in enumerate(thetas)]
    for depth in range(1, 1 + max((len(parts) for parts in named), default=1)):
        found = tuple("/".join(parts[-depth:]) for parts in named)
        if len(set(found)) == len(found):
            return found
    return tuple(f"{name}#{i}" for i, name in enumerate(found))  # the same file twice


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
    for given in pairs:
        try:
            pair = [index(i) for i in given]
        except TypeError:
            pair = []
        if len(pair) != 2 or not all(0 <= i < count for i in pair) or pair[0] == pair[1]:
            raise InputError(f"pair {given} is not two different numbers of models from 0 to {count - 1}")
        if (pair[0], pair[1]) in found or (pair[1], pair[0]) in found:
            raise InputError(f"pair {given} is given twice")
        found.append((pair[0], pair[1]))
    if not found:
        raise InputError("pairs is empty; give at least one pair, or 'all'")
    return found


def pair_columns(labels: Sequence[str], pairs: IntArray) -> dict[str, Any]:
    """The labels of the two models of each pair (p, 2), as columns of a table."""
    first, second = ([labels[i] for i in end] for end in pairs.T)
    return {"first": first, "second": second}
