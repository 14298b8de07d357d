"""Which matrices the tensors of a model hold: one for a layer, a gate or a projection, a stack for a convolution.

Modules tell what their tensors are; of a state dict or a file, names and shapes do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.checkpoints.tensors import Entry, TensorSource

CONVENTIONS = ("matrix", "weightwatcher")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_GATES = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n"), "RNN": ("",)}
_NORM = re.compile(r"Norm(\dd)?$")  # classes of normalisation
_FUSED = ("in_proj_weight", "qkv.weight", "qkv_proj.weight", "Wqkv.weight", "c_attn.weight")  # q, k, v in one tensor
_BY_HEADS = "query_key_value.weight"  # the same, head after head
_VECTOR = "no matrix: a bias, a scale or a statistic"
_PART = "a part that a re-parametrised weight is made of; remove the parametrisation, or give the weight itself"


@dataclass(frozen=True)
class ToolLimits:
    """What WeightWatcher keeps, by its defaults."""

    fewest: int = 8  # eigenvalues
    most: int = 15_000  # 0 for no limit
    longest: int = 50_000  # larger side
    pooled: bool = True  # whether eigenvalues are those of all taps of a convolution, or of one


@dataclass(frozen=True)
class WeightMatrix:
    """One matrix, or a stack of matrices whose eigenvalues are taken together."""

    name: str  # of the row: the layer, and which part of its tensor where there are several
    tensor: str
    # "linear", "convolution", "transposed convolution", "embedding", "attention", "recurrent", "bilinear" or "stack"
    kind: str
    larger: int  # sides of each matrix
    smaller: int  # under the convention "weightwatcher" these may be the other way round, see `_as_weightwatcher`
    slices: int
    # how the tensor holds them: as a "matrix", in "taps" behind two axes, as a "stack", or "loose" among axes of 1
    form: str = "matrix"
    groups: int = 1  # blocks of a grouped convolution, along the first axis
    part: tuple[int, int, int] | None = None  # (axis, start, stop) of the tensor
    factor: float = 1.0  # of the eigenvalues

    @property
    def count(self) -> int:
        """How many eigenvalues there are."""
        return self.slices * min(self.larger, self.smaller)

    @property
    def work(self) -> float:
        """Multiplications of a spectrum, up to a factor."""
        return float(self.slices) * self.larger * self.smaller**2

    def matrices(self, tensor: Tensor) -> Iterator[FloatArray]:
        """Each matrix as float64, one after another; of a float64 tensor it may be the tensor's own memory."""
        for view in self.views(tensor):
            yield np.ascontiguousarray(view.double().numpy())

    def part_of(self, tensor: Tensor) -> Tensor:
        """The part of the tensor that holds the matrices, as a view."""
        if self.part is None:
            return tensor.detach()
        axis, start, stop = self.part
        return tensor.detach().narrow(axis, start, stop - start)

    def views(self, tensor: Tensor) -> Iterator[Tensor]:
        """Each matrix as a view of the tensor, which lies in one piece."""
        tensor = self.part_of(tensor)
        if self.form == "matrix":
            yield tensor
        elif self.form == "stack":
            yield from tensor
        elif self.form == "loose":
            tensor = tensor.squeeze()
            yield from tensor if tensor.ndim > 2 else (tensor,)
        else:
            taps = tensor.reshape(*tensor.shape[:2], -1)
            for block in taps.chunk(self.groups, 0):
                yield from (block[:, :, tap] for tap in range(taps.shape[2]))


@dataclass(frozen=True)
class Matrices:
    """What a model holds, and why the rest is left out."""

    kept: tuple[WeightMatrix, ...]  # in the model's order
    skipped: Mapping[str, str]  # name of a tensor -> why it is no matrix
    notes: Mapping[str, str]  # name of a row -> what was supposed


@dataclass(frozen=True)
class _Module:
    """What a module says of its tensors."""

    kind: str  # name of the class of torch it is of; "Norm" for those of normalisation, empty for others
    groups: int
    transposed: bool
    hidden: int
    number: int  # the same for one module under two names


_KNOWN = (
    "Linear", "Bilinear", "Embedding", "EmbeddingBag", "MultiheadAttention", "Conv1D",
    *(f"{name}{d}d" for name in ("Conv", "ConvTranspose") for d in (1, 2, 3)),
    *("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"),
)  # fmt: skip


def weight_matrices(
    source: TensorSource, model: Any = None, convention: str = "matrix", limits: ToolLimits | None = None
) -> Matrices:
    """The matrices in the tensors of a source; `model` is the module they are of, where there is one."""
    modules = _modules(model) if hasattr(model, "named_modules") else {}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)} if modules else set()
    ties = source.ties() if convention == "matrix" else {}
    kept: list[WeightMatrix] = []
    skipped: dict[str, str] = {}
    notes: dict[str, str] = {}
    seen: set[int] = set()
    for name, entry in source.entries.items():
        module = modules.get(name.rpartition(".")[0])
        if convention == "weightwatcher":
            found = _as_weightwatcher(name, entry, module, seen, limits or ToolLimits())
        elif name in buffers and not _unfit(entry):
            found = "a buffer of the module, which is no parameter"
        elif name in ties:
            found = f"the same tensor as {ties[name]}, which is counted once"
        else:
            found = _as_matrices(name, entry, module, source.entries, notes)
        if isinstance(found, str):
            skipped[name] = found
        else:
            kept += found
    return Matrices(tuple(kept), skipped, notes)


def _modules(model: Any) -> dict[str, _Module]:
    found: dict[str, _Module] = {}
    numbers: dict[int, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        classes = [base.__name__ for base in type(module).__mro__]
        norm = any(_NORM.search(name) for name in classes)
        kind = next((name for name in classes if name in _KNOWN), "Norm" if norm else "")
        found[name] = _Module(
            kind,
            int(getattr(module, "groups", 1)) if kind.startswith("Conv") else 1,
            kind.startswith("ConvTranspose"),
            int(getattr(module, "hidden_size", 0)),
            numbers.setdefault(id(module), len(numbers)),
        )
    return found


def _unfit(entry: Entry) -> str:
    """Why a tensor can hold no matrix; empty where it can."""
    if len(entry.shape) < 2:
        return _VECTOR
    if entry.dtype not in _FLOATS:
        name = str(entry.dtype).removeprefix("torch.")
        if entry.dtype is not None and entry.dtype.is_complex:
            return f"stored as {name}; only real numbers are measured"
        if entry.dtype in (torch.bool, torch.int64):
            return f"stored as {name}, which is none of float64, float32, float16 and bfloat16"
        return (
            f"stored as {name}, whose scale is not in the tensor; give the weights dequantised, as float16 or float32"
        )
    if not math.prod(entry.shape):
        return f"empty, of shape {entry.shape}"
    return ""


def _no_weight(name: str, entry: Entry, module: _Module | None, entries: Mapping[str, Entry]) -> str:
    """Why a tensor of two axes or more is no weight matrix, of what its module or its name tells."""
    shape, last = entry.shape, name.rpartition(".")[2]
    shift = entries.get(f"{name.removesuffix('weight')}bias")
    if last == "bias":
        return "no matrix: a bias of several axes"
    if (module is not None and module.kind == "Norm") or (last == "weight" and shift and shift.shape == shape):
        return "no matrix: a scale or a statistic of a normalisation"
    return ""


def _matrix(name: str, tensor: str, kind: str, shape: tuple[int, int], **more: Any) -> WeightMatrix:
    return WeightMatrix(name, tensor, kind, max(shape), min(shape), **{"slices": 1, **more})


def _layer(name: str) -> str:
    return name.removesuffix(".weight") or name


def _as_matrices(
    name: str, entry: Entry, module: _Module | None, entries: Mapping[str, Entry], notes: dict[str, str]
) -> list[WeightMatrix] | str:
    if reason := _unfit(entry):
        return reason
    shape, last, kind = entry.shape, name.rpartition(".")[2], module.kind if module else ""
    if reason := _no_weight(name, entry, module, entries):
        return reason
    if "parametrizations." in name or _is_part(name, entries):
        return _PART
    if kind == "Bilinear":
        sides = (shape[1], shape[2])
        return [_matrix(_layer(name), name, "bilinear", sides, slices=shape[0], form="stack")]
    if last.startswith(("weight_ih", "weight_hh", "weight_hr")) and len(shape) == 2:
        return _recurrent(name, shape, module, entries)
    if name.endswith(_FUSED) and len(shape) == 2:
        axis = 1 if name.endswith("c_attn.weight") and (shape[1] == 3 * shape[0]) else 0
        size = shape[axis] // 3
        if shape[axis] == 3 * shape[1 - axis]:
            sides = (size, shape[1 - axis])
            return [
                _matrix(f"{_layer(name)}[{part}]", name, "attention", sides, part=(axis, k * size, (k + 1) * size))
                for k, part in enumerate("qkv")
            ]
        notes[_layer(name)] = (
            "q, k and v in one tensor of unequal parts, which its shape does not tell apart; taken whole"
        )
    if name.endswith(_BY_HEADS):
        notes[_layer(name)] = "q, k and v of each head in turn, whose number its shape does not tell; taken whole"
    if len(shape) == 2:
        what = "embedding" if kind.startswith("Embedding") or "emb" in name.lower() else "linear"
        what = "attention" if last.endswith("_proj_weight") else what
        return [_matrix(_layer(name), name, what, (shape[0], shape[1]))]
    if not kind.startswith("Conv") and (last != "weight" or _is_stack(shape)):
        return _loose(name, shape, notes)
    groups = module.groups if module else 1
    if module is None:
        notes[_layer(name)] = "a state dict does not tell groups of channels; taken as one group" + (
            ", and where this is a depthwise convolution its spectrum is that of norms" if shape[1] == 1 else ""
        )
    what = "transposed convolution" if module and module.transposed else "convolution"
    taps = math.prod(shape[2:])
    sides = (shape[0] // groups, shape[1])
    return [_matrix(_layer(name), name, what, sides, slices=taps * groups, form="taps", groups=groups)]


def _is_part(name: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a tensor is what weight_norm, spectral_norm or pruning of torch.nn.utils make a weight of."""
    whole, _, end = name.rpartition("_")
    if whole in entries:
        return False
    if end in ("orig", "mask"):
        return f"{whole}_orig" in entries and (f"{whole}_mask" in entries or f"{whole}_u" in entries)
    if end in ("g", "v") and {f"{whole}_g", f"{whole}_v"} <= entries.keys():
        norms, directions = entries[f"{whole}_g"].shape, entries[f"{whole}_v"].shape
        return len(norms) == len(directions) and math.prod(norms) == max(norms)
    return False


def _is_stack(shape: tuple[int, ...]) -> bool:
    """Whether three axes are rather those of some matrices than of a convolution: the first is the shortest."""
    return len(shape) == 3 and 1 < shape[0] < min(shape[1:])


def _loose(name: str, shape: tuple[int, ...], notes: dict[str, str]) -> list[WeightMatrix] | str:
    """A parameter of three axes or more that is no convolution: a matrix, or one for each index of the first axis."""
    sides = [side for side in shape if side > 1]
    if len(sides) < 2:
        return _VECTOR
    if len(sides) > 3:
        return f"no convolution by its name, and its shape {shape} does not tell which matrices it holds"
    if len(sides) == 3:
        notes[_layer(name)] = f"taken as {sides[0]} matrices along its first axis"
    what = "embedding" if "emb" in name.lower() else "stack"
    slices = sides[0] if len(sides) == 3 else 1
    return [_matrix(_layer(name), name, what, (sides[-2], sides[-1]), slices=slices, form="loose")]


def _recurrent(
    name: str, shape: tuple[int, ...], module: _Module | None, entries: Mapping[str, Entry]
) -> list[WeightMatrix] | str:
    """A matrix for each gate."""
    if "weight_hr" in name:
        return [_matrix(name, name, "recurrent", (shape[0], shape[1]))]
    hidden = module.hidden if module else 0
    if not hidden:
        projection = entries.get(name.replace("weight_ih", "weight_hr").replace("weight_hh", "weight_hr"))
        inner = entries.get(name.replace("weight_ih", "weight_hh"))
        hidden = projection.shape[1] if projection else inner.shape[1] if inner else 0
    gates = next((names for names in _GATES.values() if len(names) * hidden == shape[0]), None)
    if gates is None:
        return f"recurrent weights of shape {shape}, whose gates its names and shapes do not tell"
    return [
        _matrix(
            f"{name}[{gate}]" if gate else name,
            name,
            "recurrent",
            (hidden, shape[1]),
            part=(0, k * hidden, (k + 1) * hidden),
        )
        for k, gate in enumerate(gates)
    ]


def _as_weightwatcher(
    name: str, entry: Entry, module: _Module | None, seen: set[int], limits: ToolLimits
) -> list[WeightMatrix] | str:
    """What WeightWatcher 0.7.7 keeps, with its names, factors and sides."""
    if reason := _unfit(entry):
        return reason
    shape, kind = entry.shape, module.kind if module else ""
    if not name.endswith(".weight") and (module is None or name != "weight"):
        return "no key that ends in '.weight'"
    if module is not None:
        if kind not in ("Linear", "Conv1D", "Embedding", "EmbeddingBag", "Conv2d"):
            what = f"{kind} layers" if kind else "layers of this class"
            wrong = kind in ("Bilinear", "Conv1d")
            return f"{what} are {'computed wrongly' if wrong else 'not known'} there; convention='matrix' has them"
        if module.number in seen:
            return "the same module under another name, counted once"
        seen.add(module.number)
    if len(shape) not in (2, 4):
        return f"tensors of {len(shape)} axes are not known there; convention='matrix' has them"
    larger, smaller, taps = max(shape[:2]), min(shape[:2]), math.prod(shape[2:])
    if len(shape) == 4 and shape[0] < shape[1] and taps % 2 == 0:
        larger, smaller = smaller, larger  # its sides change places with every tap
    count = smaller * taps if limits.pooled else smaller
    most = limits.most or count
    if not limits.fewest <= count <= most or larger > limits.longest:
        return (
            f"{count:,} eigenvalues and a larger side of {larger:,}; kept there are {limits.fewest} to {most:,} "
            f"eigenvalues and sides up to {limits.longest:,}"
        )
    if len(shape) == 2:
        what = "embedding" if kind.startswith("Embedding") else "linear"
        return [_matrix(_layer(name), name, what, (shape[0], shape[1]))]
    found = WeightMatrix(_layer(name), name, "convolution", larger, smaller, taps, "taps", 1, None, 0.5)
    return [found]
