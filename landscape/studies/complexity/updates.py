"""Directions to measure along, read piece by piece: gradients, vectors, updates of optimisers, callables."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from numbers import Number
from pathlib import Path
from typing import Any, Protocol

import torch
from landscape_kernels.filed import FiledVectors
from landscape_kernels.layout import Block
from landscape_kernels.pieces import Piece, pieces, stretches
from torch import Tensor

from landscape.curvature.filed import each_gradient
from landscape.errors import InputError, nearest, user_code
from landscape.files.slices import StoredTensors, alike
from landscape.objective.objective import Objective
from landscape.objective.threads import in_threads
from landscape.objective.trees import as_real
from landscape.results.trial import bytes_text

_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optimizer_state")  # of checkpoints with more in them
_KINDS = "a vector, an Objective, a file of tensors, an optimiser or the path of its state, or a callable"


class Direction(Protocol):
    """A direction d in the space of the parameters."""

    def __call__(self, piece: Piece) -> Tensor:
        """(size,) values of a piece, on any device; asked for in several threads."""
        ...


def direction_of(objective: Objective, given: Any) -> Direction:
    """What `critical_sharpness` takes for a direction. Raises InputError for what is none."""
    if isinstance(given, Objective):
        _require_same(objective, given)
        return descent(given)
    if isinstance(given, str | Path):
        return _from_file(objective, Path(given))
    if hasattr(given, "named_parameters"):
        raise InputError(f"direction is a module, {type(given).__name__}; give {_KINDS}")
    if isinstance(given, torch.optim.Optimizer):
        given = given.state_dict()
    if callable(given):
        return _Named(objective, given)
    if isinstance(given, Mapping):
        state = _state_in(given)
        if state is not None:
            return _Update(objective, state, "direction")
        return _Named(objective, _entry_of(given, "direction", objective))
    if isinstance(given, Number):
        raise InputError(f"direction={given!r} is a number; give {_KINDS}")
    vector = objective.vector(given, torch.float64 if objective.dtype == torch.float64 else torch.float32)
    return lambda piece: vector[piece.slice]


def descent(objective: Objective) -> Direction:
    """Minus the gradient of the loss at the centre, kept in a file without a name; no copy of it is held in memory.

    Raises InputError where the disk has no room for it.
    """
    needed, folder = 4 * objective.layout.size, tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the gradient takes {bytes_text(needed)} of disk, and {folder} has {bytes_text(free)} free; give TMPDIR "
            "on a larger disk, or the direction of an optimiser's state or a callable, which take none"
        )
    filed = FiledVectors(objective.layout.size)

    def add(piece: Piece, values: Tensor) -> None:
        filed.add(0, piece.slice, values, alpha=-1.0)

    _, weight = each_gradient(objective, add, half=True)

    def read(piece: Piece) -> Tensor:
        values = filed.read(0, piece.slice)
        for (part,) in stretches(values):
            part.div_(weight)
        return values

    return read


def square(objective: Objective, direction: Direction) -> float:
    """|d|^2, summed in float64."""

    def of(piece: Piece) -> float:
        return math.fsum(float(part.double().square().sum()) for (part,) in stretches(direction(piece)))

    return math.fsum(in_threads(of, pieces(objective.layout)))


def _require_same(objective: Objective, other: Objective) -> None:
    """Raise InputError for an objective of other parameters."""
    mine, its = ([(b.name, b.shape) for b in one.layout.blocks] for one in (objective, other))
    if mine != its or objective.centre.digest != other.centre.digest:
        raise InputError(
            "direction is an Objective of other parameters; the gradient of a second loss is taken at the same "
            "model: objective.elsewhere(data), or an Objective of the same model"
        )


class _Named:
    """A direction whose values are asked for by the parameter's name, one tensor at a time."""

    def __init__(self, objective: Objective, values: Callable[[str], Any]) -> None:
        self._values, self._device = values, objective.device
        self._name, self._held = "", torch.empty(0)
        self._lock = threading.Lock()

    def __call__(self, piece: Piece) -> Tensor:
        block = piece.block
        with self._lock:
            if block.name != self._name:
                with user_code(f"the direction of {block.name} cannot be had"):
                    given = torch.as_tensor(self._values(block.name)).detach()
                values = as_real(given)
                if not alike(tuple(values.shape), block.shape):
                    raise InputError(
                        f"the direction of {block.name} has shape {tuple(values.shape)}, the parameter {block.shape}"
                    )
                self._name, self._held = block.name, values.reshape(-1).to(self._device)
            return self._held[piece.inside]


def _entry_of(tensors: Mapping[str, Any], what: str, objective: Objective) -> Callable[[str], Any]:
    """What a mapping has for a parameter. Raises InputError where it has not all of them."""
    missing = [name for name in objective.layout.names if name not in tensors]
    if missing:
        raise InputError(f"{what} has nothing for parameter {missing[0]!r}; {nearest(missing[0], map(str, tensors))}")
    return lambda name: tensors[name]


# -- files -----------------------------------------------------------------------------------------------------------


def _from_file(objective: Objective, path: Path) -> Direction:
    """Tensors by parameter name, or an optimiser's state, of which the last update is made."""
    if path.suffix == ".safetensors" or path.is_dir():
        stored = StoredTensors(path)
        for block in objective.layout.blocks:
            stored.require(block.name, block.shape)
        return lambda piece: stored.read(piece.block.name, piece.start, piece.stop)
    if not path.is_file():
        raise InputError(f"direction={str(path)!r} does not exist or is not a file; give {_KINDS}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch raises at damage, at pickled objects and at old formats is no short list
        raise InputError(
            f"direction={str(path)!r} cannot be read as a torch file of tensors alone ("
            f"{(str(error) or type(error).__name__).splitlines()[0]}); save it by torch.save(optimizer.state_dict(), "
            "path)"
        ) from error
    state = _state_in(content)
    if state is not None:
        return _Update(objective, state, str(path))
    if isinstance(content, Mapping):
        return _Named(objective, _entry_of(content, f"direction={str(path)!r}", objective))
    raise InputError(f"direction={str(path)!r} holds a {type(content).__name__}; give {_KINDS}")


def _state_in(content: Any) -> Mapping[str, Any] | None:
    """The optimiser's state dict in what a file holds; None where there is none."""
    if not isinstance(content, Mapping):
        return None
    if "state" in content and "param_groups" in content:
        return content
    for key in _KEYS:
        inner = content.get(key)
        found = _state_in(inner[0] if isinstance(inner, list) and len(inner) == 1 else inner)
        if found is not None:
            return found
    return None


class _Update:
    """The last update of torch's Adam, AdamW or SGD with momentum over its learning rate, by their own states.

    Adam: -m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps), and of AdamW less w theta besides, w its weight decay
    and theta as it was before that update; SGD: minus the momentum. States of `maximize=True` hold minus the gradient,
    so that the signs are the same. Groups of smaller learning rates count by their share of the largest one.
    """

    def __init__(self, objective: Objective, state: Mapping[str, Any], source: str) -> None:
        self._centre, self._source = objective.centre, source
        groups = state["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        names = [name for group in groups for name in group.get("param_names", ())]
        layout = objective.layout
        if len(names) != len(numbers):  # without names the order is all there is
            names = list(layout.names)
            if len(groups) > 1 or len(numbers) != len(names):
                raise InputError(
                    f"{source} is of {len(numbers)} parameters in {len(groups)} groups and has no names for them, so "
                    "which one is which is not known; make the optimiser of model.named_parameters(), which keeps "
                    "names (torch 2.6), or give a callable: direction=lambda name: ..."
                )
        place = dict(zip(names, numbers, strict=True))
        of = {number: group for group in groups for number in group["params"]}
        highest = max(float(group["lr"]) for group in groups) or 1.0
        self._kept: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], float]] = {}
        for block in layout.blocks:
            if block.name not in place:
                raise InputError(f"{source} has no parameter {block.name!r}; {nearest(block.name, place)}")
            kept, group = state["state"].get(place[block.name], {}), of[place[block.name]]
            self._require(block, kept, group)
            even = all(one["lr"] == groups[0]["lr"] for one in groups)
            self._kept[block.name] = kept, group, 1.0 if even else float(group["lr"]) / highest
        if not any(kept for kept, _, _ in self._kept.values()):
            raise InputError(
                f"{source} has no state yet, or is of an optimiser without one (SGD without momentum, whose update is "
                "the gradient: leave direction out)"
            )

    def _require(self, block: Block, kept: Mapping[str, Any], group: Mapping[str, Any]) -> None:
        """Raise InputError for a state whose update is not known."""
        adam = {"exp_avg", "exp_avg_sq", "step"} <= kept.keys() and {"betas", "eps", "amsgrad"} <= group.keys()
        adam = adam and "mu_product" not in kept  # NAdam's
        # others, too, have a buffer of that name: Muon's is made orthogonal before it is a step
        plain = "dampening" in group and not group.get("nesterov")
        momentum = kept.get("momentum_buffer") is not None and plain
        if kept and not (adam or momentum):
            raise InputError(
                f"{self._source} keeps {', '.join(map(str, kept))} of {block.name}, and updates are known of torch's "
                "Adam, AdamW and SGD with momentum (not Nesterov's, which has the gradient in it); give a callable: "
                "direction=lambda name: update[name]"
            )
        if adam and group.get("weight_decay") and "decoupled_weight_decay" not in group:
            raise InputError(
                f"{self._source} does not say whether its weight decay is Adam's or AdamW's, which torch before 2.7 "
                "does not tell; give a callable: direction=lambda name: update[name]"
            )
        tensor = kept.get("exp_avg", kept.get("momentum_buffer"))
        if tensor is not None and tuple(as_real(tensor).shape) != tuple(block.shape):
            raise InputError(
                f"{self._source} has shape {tuple(tensor.shape)} for {block.name}, the parameter {tuple(block.shape)}; "
                "it is of another model, or its parameters are in another order"
            )

    def __call__(self, piece: Piece) -> Tensor:
        kept, group, share = self._kept[piece.block.name]
        if not kept:  # it never had a gradient
            return torch.zeros(piece.size)

        def values(key: str) -> Tensor:
            found: Tensor = kept[key]
            return as_real(found).reshape(-1)[piece.inside].double()

        if "exp_avg" not in kept:
            return -share * values("momentum_buffer")
        step, (first, second) = float(kept["step"]), group["betas"]
        squares = values("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
        mean, spread = values("exp_avg") / (1 - first**step), (squares / (1 - second**step)).sqrt()
        update: Tensor = -share * mean / (spread + group["eps"])
        if group.get("weight_decay") and group["decoupled_weight_decay"]:
            decay = group["weight_decay"]
            update -= share * decay * self._centre.at(piece).to(update)
            update /= (1 - float(group["lr"]) * decay) or 1.0  # theta before the step, of that after it
        return update
