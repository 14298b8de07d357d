"""Which axes of a parameter make outputs and which run over the weights of one output, from one traced forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.objective.trees import tensors_in

_OUT, _IN = "out", "in"
_VIEWS = ("view", "_unsafe_view", "_reshape_alias", "reshape")
_SAME = ("_to_copy", "alias", "clone", "contiguous", "detach", "lift_fresh")
_SUMS = ("sum", "mean")
_GATHERS = ("index", "index_select", "embedding")
_ARRANGED = ("t", "transpose", "permute", "squeeze", "unsqueeze", "expand", "select", "slice")
# The letters of a product's two arguments; "k" is summed over.
_PRODUCTS = {
    "mm": ("self", "nk", "mat2", "km"),
    "bmm": ("self", "bnk", "mat2", "bkm"),
    "mv": ("self", "nk", "vec", "k"),
    "dot": ("self", "k", "tensor", "k"),
    "addmm": ("mat1", "nk", "mat2", "km"),
    "baddbmm": ("batch1", "bnk", "batch2", "bkm"),
    "addmv": ("mat", "nk", "vec", "k"),
    "_grouped_mm": ("self", "nk", "mat2", "bkm"),
}
Factors = tuple[tuple[int, int], ...]  # (axis of the parameter, or -1 for none of them; size), outer ones first


@dataclass(frozen=True)
class _Origin:
    """A tensor that holds the values of a parameter: where each of its axes comes from."""

    name: str
    axes: tuple[Factors, ...]
    # Axes that a product with another weight has summed over: outputs of this one where its other axes are inputs, and
    # the other way round, as in x (U V).
    hidden: Factors = ()


def axes_of_outputs(
    parameters: Mapping[str, Tensor], batch: Any, call: Callable[[], object]
) -> dict[str, frozenset[int]]:
    """{name: axes that number outputs} of the parameters for which that is seen while `call()` runs on `batch`.

    An axis that a product with a value made of the batch sums over runs over the weights of one output. The other axes
    of the product number outputs, and so does an axis that is taken by an index (experts, rows of a table). A tensor
    that is seen in both ways, or in none, is left out.
    """
    watch = _Uses(parameters, batch)
    with watch:
        call()
    found = {}
    for name, parameter in parameters.items():
        roles = [watch.roles[name].get(axis, set()) for axis, size in enumerate(parameter.shape)]
        long = [role for role, size in zip(roles, parameter.shape, strict=True) if size > 1]
        table = {_OUT} in long and all(role in ({_OUT}, set()) for role in long) and set() in long
        if table or (long and all(len(role) == 1 for role in long) and {_IN} in long):
            found[name] = frozenset(axis for axis, role in enumerate(roles) if role == {_OUT})
    return found


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the axes of parameters through views to the products in which they meet values made of the batch."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds, only to tell it to stay away

    def __init__(self, parameters: Mapping[str, Tensor], batch: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.roles: dict[str, dict[int, set[str]]] = {name: {} for name in parameters}
        self._origins: dict[object, list[_Origin]] = {}
        self._fed: set[object] = set()  # storages of values made of the batch
        self._gathered: set[object] = set()  # values of parameters that the batch has chosen by an index
        self._alive: list[Tensor] = []  # an address that was freed could be given to another value
        for name, tensor in parameters.items():
            axes = tuple(((axis, size),) for axis, size in enumerate(tensor.shape))
            self._origins.setdefault(_key(tensor), []).append(_Origin(name, axes))
            self._alive.append(tensor)
        for tensor in tensors_in(batch):
            self._fed.add(tensor.untyped_storage()._cdata)
            self._alive.append(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = {a.name: value for a, value in zip(function._schema.arguments, args, strict=False)} | dict(kwargs or {})
        tensors = list(tensors_in(given))
        known = [self._origins.get(_key(tensor), []) for tensor in tensors]
        fed = any(self._is_fed(tensor) for tensor in tensors)
        result = function(*args, **(kwargs or {}))
        results = list(tensors_in(result))
        name = function.overloadpacket.__name__.removesuffix("_")
        if any(known):
            for tensor, origins in zip(results, self._followed(name, function, given, tensors, results), strict=False):
                if origins:
                    self._origins[_key(tensor)] = origins
        source = given.get("self", given.get("weight"))
        whole = isinstance(source, Tensor) and not self._is_fed(source)
        arranged = name in _VIEWS + _SAME + _ARRANGED and isinstance(source, Tensor) and _key(source) in self._gathered
        if any(known) and ((name in _GATHERS and whole) or arranged):
            self._gathered.update(_key(tensor) for tensor in results)
        if fed:
            self._fed.update(tensor.untyped_storage()._cdata for tensor in results)
        self._alive += results
        return result

    def _is_fed(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._fed

    def _is_weight(self, tensor: Tensor) -> bool:
        """Whether the values are those of parameters, if maybe chosen by the batch."""
        return not self._is_fed(tensor) or _key(tensor) in self._gathered

    def _of(self, tensor: object) -> list[_Origin]:
        return self._origins.get(_key(tensor), []) if isinstance(tensor, Tensor) else []

    def _note(self, origin: _Origin, dims: Sequence[int], role: str) -> None:
        seen = [axis for dim in dims for axis, size in origin.axes[dim] if axis >= 0 and size > 1]
        for axis in seen:
            self.roles[origin.name].setdefault(axis, set()).add(role)
        for axis, _ in origin.hidden if seen else ():
            self.roles[origin.name].setdefault(axis, set()).add(_IN if role == _OUT else _OUT)

    def _followed(
        self, name: str, function: Any, given: Mapping[str, Any], tensors: Sequence[Tensor], results: Sequence[Tensor]
    ) -> list[list[_Origin]]:
        """Origins of each result; roles are noted where a parameter meets a value made of the batch."""
        if name in _PRODUCTS:
            return [self._product(*_PRODUCTS[name], given, results[0])]
        if name == "convolution":
            self._convolution(given)
            return []
        if name in _SUMS:
            self._sum(given)
            return []
        if torch.Tag.pointwise in function.tags or name in _SAME:
            return [self._pointwise(name, tensors, result) for result in results]
        source = given.get("self", given.get("weight"))
        if name in ("cat", "stack"):
            dim = given.get("dim", 0) % results[0].ndim
            return [
                [o for t in given["tensors"] for origin in self._of(t) for o in _joined(origin, dim, results[0], name)]
            ]
        found: list[list[_Origin]] = [[] for _ in results]
        for origin in self._of(source):
            for k, axes in enumerate(self._moved(name, given, origin, results)):
                if axes is not None:
                    found[k].append(replace(origin, axes=axes))
        return found

    def _moved(
        self, name: str, given: Mapping[str, Any], origin: _Origin, results: Sequence[Tensor]
    ) -> list[tuple[Factors, ...] | None]:
        """The axes of each result of an operation that arranges the values of one tensor anew; None where unknown."""
        axes, ndim = list(origin.axes), len(origin.axes)
        shape = results[0].shape if results else ()
        if name in _VIEWS:
            return [_reshaped(axes, shape)]
        if name in ("t", "transpose", "permute"):
            order = list(range(ndim))
            if name == "permute":
                order = [d % ndim for d in given["dims"]]
            elif ndim > 1:
                a, b = given.get("dim0", 0) % ndim, given.get("dim1", 1) % ndim
                order[a], order[b] = order[b], order[a]
            return [tuple(axes[d] for d in order)]
        if name in ("squeeze", "unsqueeze"):
            rest = iter([axis for axis in axes if _length(axis) != 1])
            return [tuple(() if n == 1 else next(rest) for n in shape)]
        if name == "expand":
            axes = [()] * (len(shape) - ndim) + axes
            return [tuple(a if _length(a) == n else ((-1, n),) for a, n in zip(axes, shape, strict=True))]
        if name in ("select", "unbind"):
            dim = given.get("dim", 0) % ndim
            self._note(origin, [dim], _OUT)
            return [tuple(axes[:dim] + axes[dim + 1 :])] * len(results)
        if name in ("slice", "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"):
            dim = given.get("dim", 0) % ndim
            if len(axes[dim]) != 1:
                return []
            ((axis, _),) = axes[dim]
            return [(*axes[:dim], ((axis, r.shape[dim]),), *axes[dim + 1 :]) for r in results]
        if name in _GATHERS:
            if name == "index_select":
                indices = [None] * (given["dim"] % ndim) + [given["index"]]
            else:
                indices = [given["indices"]] if name == "embedding" else list(given["indices"])
            at = [d for d, index in enumerate(indices) if index is not None]
            self._note(origin, at, _OUT)
            if at != list(range(at[0], at[-1] + 1)):
                return []
            new = len(shape) - (ndim - len(at))
            fresh = [((-1, n),) for n in shape[at[0] : at[0] + new]]
            return [(*axes[: at[0]], *fresh, *axes[at[-1] + 1 :])]
        return []

    def _pointwise(self, name: str, tensors: Sequence[Tensor], result: Tensor) -> list[_Origin]:
        """A weight that is masked or scaled stays one; times a value made of the batch it is half a product."""
        fed = any(self._is_fed(t) for t in tensors) and name not in _SAME
        if fed and not (name == "mul" and all(self._is_weight(t) for t in tensors if self._of(t))):
            return []
        found = []
        for tensor in tensors:
            for origin in self._of(tensor):
                axes = [()] * (result.ndim - tensor.ndim) + list(origin.axes)
                pairs = zip(axes, result.shape, strict=True)
                found.append(replace(origin, axes=tuple(a if _length(a) == n else ((-1, n),) for a, n in pairs)))
        return found

    def _product(
        self, one: str, first: str, two: str, second: str, given: Mapping[str, Any], result: Tensor
    ) -> list[_Origin]:
        """Roles where a weight meets a value made of the batch; what two weights make is a weight again."""
        made = [letter for letter in first if letter != "k"] + [c for c in second if c != "k" and c not in first]
        found = []
        for mine, letters, other in ((one, first, two), (two, second, one)):
            for origin in self._of(given[mine]):
                if len(origin.axes) != len(letters) or not self._is_weight(given[mine]):
                    continue
                axes = dict(zip(letters, origin.axes, strict=True))
                if self._is_fed(given[other]):
                    self._note(origin, [d for d, letter in enumerate(letters) if letter == "k"], _IN)
                    self._note(origin, [d for d, letter in enumerate(letters) if letter != "k"], _OUT)
                elif len(made) == result.ndim:
                    hidden = origin.hidden + tuple(f for f in axes["k"] if f[0] >= 0 and f[1] > 1)
                    kept = tuple(axes.get(c, ((-1, n),)) for c, n in zip(made, result.shape, strict=True))
                    found.append(_Origin(origin.name, kept, hidden))
        return found

    def _convolution(self, given: Mapping[str, Any]) -> None:
        weight = given["weight"]
        if not self._is_fed(given["input"]) or self._is_fed(weight):
            return
        made = 1 if given["transposed"] else 0
        for origin in self._of(weight):
            if made == 1 and given["groups"] > 1:  # axis 0 numbers groups and inputs at once
                self._note(origin, [0], _OUT)
            self._note(origin, [made], _OUT)
            self._note(origin, [d for d in range(weight.ndim) if d != made], _IN)

    def _sum(self, given: Mapping[str, Any]) -> None:
        """A sum over a weight times a value made of the batch is a product written out."""
        values, dims = given["self"], given.get("dim")
        if not self._is_fed(values) or not dims:
            return
        over = {d % values.ndim for d in ([dims] if isinstance(dims, int) else dims)}
        for origin in self._of(values):
            summed = {axis for d in over for axis, size in origin.axes[d] if axis >= 0 and size > 1}
            if summed:
                self._note(origin, sorted(over), _IN)
                self._note(origin, [d for d in range(values.ndim) if d not in over], _OUT)


def _length(axis: Factors) -> int:
    return prod(size for _, size in axis)


def _reshaped(axes: Sequence[Factors], shape: Sequence[int]) -> tuple[Factors, ...] | None:
    """The axes of the same values in another shape; None where a new axis cuts across factors."""
    rest = [factor for axis in axes for factor in axis if factor[1] != 1]
    found: list[Factors] = []
    for n in shape:
        taken: list[tuple[int, int]] = []
        missing = n
        while missing > 1:
            if not rest:
                return None
            axis, size = rest.pop(0)
            if missing % size == 0:
                taken.append((axis, size))
                missing //= size
            elif size % missing == 0:
                taken.append((axis, missing))
                rest.insert(0, (axis, size // missing))
                missing = 1
            else:
                return None
        found.append(tuple(taken))
    return None if rest else tuple(found)


def _joined(origin: _Origin, dim: int, result: Tensor, name: str) -> list[_Origin]:
    """A tensor's axes after others were put beside it along `dim`."""
    axes = list(origin.axes)
    if name == "stack":
        axes.insert(dim, ((-1, result.shape[dim]),))
    elif len(axes) != result.ndim or len(axes[dim]) != 1:
        return []
    else:
        axes[dim] = ((axes[dim][0][0], result.shape[dim]),)
    return [replace(origin, axes=tuple(axes))]


def _key(tensor: Tensor) -> object:
    """What two tensors have in common that are the same values in the same arrangement."""
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
