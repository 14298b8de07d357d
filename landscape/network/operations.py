"""What each operation does to the axes of its arguments: which of them permute together from there on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from landscape_kernels.axes import (
    ONE,
    Atom,
    Axis,
    Labels,
    Segment,
    fresh,
    length,
    pin,
    product,
    resolved,
    root,
    split,
    stretch,
    unite,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.objective.trees import tensors_in


@dataclass(frozen=True)
class Sight:
    """Where activations of a group's units are seen: an argument or the result of a numbered operation."""

    call: int  # number of the operation in a forward pass
    operation: str
    argument: str  # its name, or "" for the result
    dim: int  # the axis of the units


Given = Mapping[str, Any]
Found = list[Labels] | None  # labels of each result; None where the operation is not known
Rule = Callable[["Watch", Given, Sequence[Tensor]], Found]
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels the axes of every value, by the memory it lies in, so that views and writes are seen."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds, only to tell it to stay away

    def __init__(self, running: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.doubts: dict[str, None] = {}  # operations that are not known, where they run
        self.sights: dict[str, Sight] = {}
        self._running = running
        self._labels: dict[object, Labels] = {}
        self._storages: dict[object, list[Labels]] = defaultdict(list)
        self._alive: list[Tensor] = []  # an address that was freed could be given to another value
        self.state: dict[str, Labels] = {}
        self._weights: set[object] = set()  # values made of parameters and buffers alone
        self.records: list[Labels] = []
        self.mixed: list[tuple[Labels, Labels]] = []  # axes that an operation runs over, axes it keeps
        self.families: list[tuple[Atom, Atom, Segment]] = []
        self._calls, self._operation = 0, ""
        self.heard: dict[str, Labels] = {}

    def start(self, name: str, tensor: Tensor, fixed: str) -> None:
        """A parameter or buffer, its units fixed where there is a reason."""
        labels = [fresh(n, fixed) for n in tensor.shape]
        self._set(tensor, labels)
        self.state[name] = labels
        self._weights.add(_key(tensor))

    def of(self, tensor: Tensor) -> Labels:
        """The labels of a tensor; those of one that comes from outside, or that cannot be followed, are fixed."""
        if _key(tensor) not in self._labels:
            for labels in self._storages.get(tensor.untyped_storage()._cdata, ()):
                self.unknown(labels, "a view made out of sight")
            self._set(tensor, [fresh(n, "an input or a constant") for n in tensor.shape])
        return list(self._labels[_key(tensor)])

    def _set(self, tensor: Tensor, labels: Labels) -> None:
        self._labels[_key(tensor)] = labels
        self._alive.append(tensor)
        self._storages[tensor.untyped_storage()._cdata].append(labels)
        self.records.append(labels)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given, name = arguments(function, args, kwargs), function.overloadpacket.__name__
        written = given.get("self") if name.endswith("_") else None
        before = (_key(written), self.of(written)) if isinstance(written, Tensor) else (None, [])
        result = function(*args, **(kwargs or {}))
        results = list(tensors_in(result))
        if isinstance(written, Tensor) and _key(written) != before[0]:  # turned in place: transpose_ and its kin
            self._labels[_key(written)] = before[1]
        self._operation, name = str(function), name.removesuffix("_")
        found: Found = None
        if function.namespace == "aten" and name in _RULES:
            found = _RULES[name](self, given, results)
        elif torch.Tag.pointwise in function.tags:
            found = [self.elementwise(tensors_in(given), len(t.shape)) for t in results]
        shapes = [list(map(length, labels)) for labels in found or ()]
        if found is None or shapes != [list(t.shape) for t in results]:
            self.unknown([axis for tensor in tensors_in(given) for axis in self.of(tensor)], name)
            found = [[fresh(n, "unknown") for n in t.shape] for t in results]
        keys = [_key(t) for t in tensors_in(given)]
        for tensor, labels in zip(results, found, strict=True):
            self._set(tensor, labels)
            if keys and self._weights.issuperset(keys):
                self._weights.add(_key(tensor))
        self._calls += 1
        return result

    # -- what the rules are made of

    def unknown(self, axes: Iterable[Axis], what: str) -> None:
        """Fix the units of the axes, because what an operation does to them is not known."""
        why = f"{what} in {self._running[-1]}" if self._running else what
        self.doubts[why] = None
        for axis in axes:
            pin(axis, why)

    def mix(self, labels: Labels, dims: Iterable[int]) -> None:
        """An operation runs over axes `dims` and keeps the others."""
        over = {d % len(labels) for d in dims}
        self.mixed.append(([labels[d] for d in sorted(over)], [axis for d, axis in enumerate(labels) if d not in over]))

    def elementwise(self, tensors: Iterable[Tensor], ndim: int) -> Labels:
        """Labels of the result of an operation on broadcast arguments."""
        return self.broadcast((self.of(t) for t in tensors), ndim)

    def broadcast(self, all_labels: Iterable[Labels], ndim: int) -> Labels:
        """Axes of one length united, from the last on."""
        found: Labels = [ONE] * ndim
        for labels in all_labels:
            for d in range(1, len(labels) + 1):
                if length(found[-d]) == 1:
                    found[-d] = labels[-d]
                elif length(labels[-d]) != 1:
                    unite(found[-d], labels[-d])
        return found

    def contract(self, equation: str, operands: Mapping[str, Tensor]) -> Labels:
        """Labels of a product written like an einsum; activations that meet weights in it are sighted."""
        inputs, output = equation.split("->")
        letters = dict(zip(operands, inputs.split(","), strict=True))
        axes: dict[str, Axis] = {}
        weight = {name: _key(tensor) in self._weights for name, tensor in operands.items()}
        for name, tensor in operands.items():
            labels = self.of(tensor)
            for letter, axis in zip(letters[name], labels, strict=True):
                unite(axes.setdefault(letter, axis), axis)
            self.mix(labels, [k for k, letter in enumerate(letters[name]) if letter not in output])
        if sum(weight.values()) == 1:
            (made,) = (name for name, is_weight in weight.items() if is_weight)
            (other,) = operands.keys() - {made}
            self.sight(other, letters[other].index("k"), self.of(operands[other]))
            for dim, letter in enumerate(output):
                if letter not in letters[other]:
                    self.sight("", dim, [axes[letter] for letter in output])
        return [axes[letter] for letter in output]

    def sight(self, argument: str, dim: int, labels: Labels) -> None:
        """An argument of the running operation, or its result, shows activations of the units along axis `dim`."""
        name = f"{self._calls}.{argument}"
        self.sights[name] = Sight(self._calls, self._operation, argument, dim)
        self.heard[name] = labels

    def take(self, labels: Labels, dim: int, start: int, stop: int) -> Labels:
        """Labels of positions start to stop along an axis.

        One index of an outer factor has, of the inner factors, units of its own (q, k and v of a packed projection).
        """
        axis, labels = resolved(labels[dim]), list(labels)
        family = self._family(axis[0][0]) if stop - start == 1 and len(axis) == 1 and len(axis[0]) == 1 else None
        if family is not None:
            top, inner = family
            pin(axis, "taken by index")
            self.families.append((top, axis[0][0], inner))
            own = {f: f.members.setdefault(start, Atom(f.size, f.reason)) for f in inner}
            labels = [tuple(tuple(own.get(a, a) for a in segment) for segment in resolved(x)) for x in labels]
            labels[dim] = ONE
            return labels
        found = stretch(axis, start, stop)
        if found is None:
            self.unknown([axis], "a slice across units")
            found = fresh(stop - start, "unknown")
        labels[dim] = found
        return labels

    @staticmethod
    def _family(p: Atom) -> tuple[Atom, Segment] | None:
        """(atom, inner factors) where an atom is (p, *inner factors)."""
        top, source = None, p.source
        while source is not None:
            segments = resolved(((source,),))
            if len(segments) != 1 or segments[0][0] is not p or any(a.parts is not None for a in segments[0]):
                break
            top, source = root(source), root(source).source
        return None if top is None else (top, resolved(((top,),))[0][1:])

    def view(self, labels: Labels, shape: Sequence[int]) -> Labels:
        """Labels of the same values in another shape."""
        if 0 in shape:
            return [fresh(n, "empty") for n in shape]
        axes, sizes, found = [a for a in labels if length(a) != 1], [n for n in shape if n != 1], []
        while sizes:
            block, ahead = axes.pop(0), [sizes.pop(0)]
            while length(block) != np.prod(ahead):
                if length(block) < np.prod(ahead):
                    block = product(block, axes.pop(0))
                else:
                    ahead.append(sizes.pop(0))
            parts: Labels = []
            for n in reversed(ahead[1:]):
                halves = split(block, n)
                if halves is None:
                    self.unknown([block], "a reshape across units")
                    halves = fresh(length(block) // n, "unknown"), fresh(n, "unknown")
                block, parts = halves[0], [halves[1], *parts]
            found += [block, *parts]
        return [ONE if n == 1 else found.pop(0) for n in shape]


def arguments(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of an operation by name."""
    return {a.name: value for a, value in zip(function._schema.arguments, args, strict=False)} | dict(kwargs or {})


def _key(tensor: Tensor) -> object:
    """What two tensors have in common that are the same values in the same arrangement."""
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


# -- the operations ---------------------------------------------------------------------------------------------------


@_rule("_to_copy", "alias", "clone", "contiguous", "detach", "lift_fresh", "fill", "zero")
def _same(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    return [watch.of(given["self"])]


@_rule("copy")
def _copy(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    return [watch.elementwise([given["self"], given["src"]], given["self"].ndim)]


@_rule("_prelu_kernel", "hardswish", "hardsigmoid", "silu", "mish")
def _elementwise(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    return [watch.elementwise(tensors_in(given), results[0].ndim)]


@_rule("zeros", "ones", "full", "empty", "empty_strided", "new_zeros", "new_ones", "new_full", "new_empty",
       "new_empty_strided", "zeros_like", "ones_like", "full_like", "empty_like", "scalar_tensor")  # fmt: skip
def _uniform(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    return [[fresh(n) for n in results[0].shape]]


@_rule("view", "_unsafe_view", "_reshape_alias", "reshape")
def _view(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    return [watch.view(watch.of(given["self"]), results[0].shape)]


@_rule("t", "transpose")
def _transpose(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels = watch.of(given["self"])
    if len(labels) > 1:
        a, b = given.get("dim0", 0), given.get("dim1", 1)
        labels[a], labels[b] = labels[b], labels[a]
    return [labels]


@_rule("permute")
def _permute(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels = watch.of(given["self"])
    return [[labels[d] for d in given["dims"]]]


@_rule("squeeze", "unsqueeze")
def _ones(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    rest = iter([axis for axis in watch.of(given["self"]) if length(axis) != 1])
    return [[ONE if n == 1 else next(rest) for n in results[0].shape]]


@_rule("as_strided")
def _as_strided(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    """Known where nothing but axes of length 1 is new, as pooling to one position has it."""

    def long(tensor: Tensor) -> list[tuple[int, int]]:
        return [pair for pair in zip(tensor.shape, tensor.stride(), strict=True) if pair[0] != 1]

    source, result = given["self"], results[0]
    if long(source) == long(result) and source.storage_offset() == result.storage_offset():
        return _ones(watch, given, results)
    return None


@_rule("expand")
def _expand(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    shape, labels = results[0].shape, watch.of(given["self"])
    labels = [ONE] * (len(shape) - len(labels)) + labels
    return [[axis if length(axis) == n else fresh(n) for axis, n in zip(labels, shape, strict=True)]]


@_rule("repeat")
def _repeat(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    times, labels = given["repeats"], watch.of(given["self"])
    labels = [ONE] * (len(times) - len(labels)) + labels
    return [[product(fresh(n), axis) for n, axis in zip(times, labels, strict=True)]]


@_rule("cat")
def _cat(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    tensors = [t for t in given["tensors"] if t.ndim == results[0].ndim]
    dim = given.get("dim", 0) % results[0].ndim
    joined: Axis = ()
    others: list[Labels] = []
    for labels in map(watch.of, tensors):
        joined += labels[dim]
        others.append([ONE if d == dim else axis for d, axis in enumerate(labels)])
    found = watch.broadcast(others, results[0].ndim)
    found[dim] = joined
    return [found]


@_rule("stack")
def _stack(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    found = watch.elementwise(given["tensors"], results[0].ndim - 1)
    found.insert(given.get("dim", 0) % results[0].ndim, ONE * len(given["tensors"]))
    return [found]


@_rule("select")
def _select(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    tensor = given["self"]
    dim = given["dim"] % tensor.ndim
    index = given["index"] % tensor.shape[dim]
    labels = watch.take(watch.of(tensor), dim, index, index + 1)
    del labels[dim]
    return [labels]


@_rule("unbind")
def _unbind(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    dim = given.get("dim", 0)
    return [_select(watch, {"self": given["self"], "dim": dim, "index": i}, ())[0] for i in range(len(results))]  # type: ignore[index]


@_rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk")
def _pieces(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    dim, begin = given.get("dim", 0) % given["self"].ndim, 0
    found: list[Labels] = []
    for result in results:
        found.append(watch.take(watch.of(given["self"]), dim, begin, begin + result.shape[dim]))
        begin += result.shape[dim]
    return found


@_rule("slice")
def _slice(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    tensor = given["self"]
    dim = given.get("dim", 0) % tensor.ndim
    start, _, step = slice(given.get("start"), given.get("end"), given.get("step", 1)).indices(tensor.shape[dim])
    if step == 1:
        return [watch.take(watch.of(tensor), dim, start, start + results[0].shape[dim])]
    return _ordered(watch, {"self": tensor, "dim": dim}, results)


@_rule("constant_pad_nd")
def _pad(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels, pad = watch.of(given["self"]), given["pad"]
    for k in range(len(pad) // 2):
        before, after = pad[2 * k], pad[2 * k + 1]
        d = len(labels) - 1 - k
        labels = watch.take(labels, d, max(-before, 0), length(labels[d]) - max(-after, 0))
        labels[d] = fresh(max(before, 0)) + labels[d] + fresh(max(after, 0))
    return [labels]


@_rule("glu")
def _glu(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels, ndim = watch.of(given["self"]), given["self"].ndim
    dim = given.get("dim", -1) % ndim
    half = results[0].shape[dim]
    return [watch.broadcast([watch.take(labels, dim, i * half, (i + 1) * half) for i in (0, 1)], ndim)]


def _product(equation: str, *names: str, added: str = "") -> Rule:
    def rule(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
        found = watch.contract(equation, {name: given[name] for name in names})
        return [watch.broadcast([found, *([watch.of(given[added])] if added else [])], len(found))]

    return rule


_rule("mm")(_product("nk,km->nm", "self", "mat2"))
_rule("bmm")(_product("bnk,bkm->bnm", "self", "mat2"))
_rule("mv")(_product("nk,k->n", "self", "vec"))
_rule("dot")(_product("k,k->", "self", "tensor"))
_rule("addmm")(_product("nk,km->nm", "mat1", "mat2", added="self"))
_rule("baddbmm")(_product("bnk,bkm->bnm", "batch1", "batch2", added="self"))
_rule("addmv")(_product("nk,k->n", "mat", "vec", added="self"))


@_rule("convolution")
def _convolution(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    x, w, groups = watch.of(given["input"]), watch.of(given["weight"]), given["groups"]
    space = len(w) - 2
    channels = -(len(w) - 1)
    for axis in (*w[2:], *x[-space:]):
        pin(axis, "positions of a convolution")
    read, made = (w[0], w[1]) if given["transposed"] else (w[1], w[0])
    inner = length(x[channels]) // groups
    inputs, weights = split(x[channels], inner), split(w[0], length(w[0]) // groups)
    if inputs is None or weights is None:
        return None
    unite(inputs[0], weights[0])
    unite(inputs[1], weights[1] if given["transposed"] else read)
    outputs = product(weights[0], made) if given["transposed"] else made
    if given["bias"] is not None:
        unite(outputs, watch.of(given["bias"])[0])
    for label in (x, w):
        watch.mix(label, [d for d in range(len(label)) if d >= len(label) - space])
    watch.mix([*inputs, *x[:channels], *x[-space:]], [1])
    labels = [*x[:channels], outputs, *(fresh(n, "positions of a convolution") for n in results[0].shape[-space:])]
    watch.sight("input", given["input"].ndim + channels, x)
    watch.sight("", results[0].ndim + channels, labels)
    return [labels]


@_rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
       "miopen_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update")  # fmt: skip
def _batch_norm(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels = watch.of(given["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(given.get(name), Tensor):
            unite(labels[1], watch.of(given[name])[0])
    if given.get("training"):
        watch.mix(labels, [d for d in range(len(labels)) if d != 1])
    channels = length(labels[1])
    return [
        labels,
        *([labels[1]] if r.shape == (channels,) else [fresh(n, "saved") for n in r.shape] for r in results[1:]),
    ]


@_rule("native_layer_norm", "_fused_rms_norm")
def _layer_norm(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels, ndim = watch.of(given["input"]), len(given["normalized_shape"])
    watch.mix(labels, range(-ndim, 0))
    watch.broadcast(
        [labels, *(watch.of(given[n]) for n in ("weight", "bias") if given.get(n) is not None)], len(labels)
    )
    kept = labels[:-ndim] + [ONE] * ndim
    return [labels, *(kept if r.ndim == len(kept) else [fresh(n, "saved") for n in r.shape] for r in results[1:])]


@_rule("native_group_norm")
def _group_norm(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels, groups = watch.of(given["input"]), given["group"]
    halves = split(labels[1], length(labels[1]) // groups)
    if halves is None:
        return None
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            unite(labels[1], watch.of(given[name])[0])
    watch.mix([labels[0], *halves, *labels[2:]], range(2, len(labels) + 1))
    return [labels, *([labels[0], halves[0]] for _ in results[1:])]


@_rule("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels = watch.of(given["self"])
    if labels:
        watch.mix(labels, [given["dim"]])
    return [labels]


@_rule("_weight_norm_interface")
def _weight_norm(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    v, g, dim = watch.of(given["v"]), watch.of(given["g"]), given.get("dim", 0)
    watch.mix(v, [d for d in range(len(v)) if d != dim % len(v)])
    watch.broadcast([v, g], len(v))
    return [v, g]


@_rule("sum", "mean", "amax", "amin", "prod", "var", "std", "var_mean", "std_mean", "logsumexp", "linalg_vector_norm",
       "norm", "any", "all", "nansum")  # fmt: skip
def _reduce(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels, dims = watch.of(given["self"]), given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(len(labels))
    over = {d % len(labels) for d in dims}
    watch.mix(labels, over)
    keep = given.get("keepdim", False)
    found = [ONE if d in over else axis for d, axis in enumerate(labels) if keep or d not in over]
    return [found for _ in results]


@_rule("cumsum", "cumprod", "flip", "roll", "sort", "topk", "argmax", "argmin", "argsort", "max", "min", "median",
       "kthvalue", "tril", "triu")  # fmt: skip
def _ordered(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    """What depends on the order along some axes fixes their units; the other axes go through."""
    labels = watch.of(given["self"])
    dims = given.get("dims", given.get("dim", (-2, -1) if "diagonal" in given or given.keys() == {"self"} else -1))
    over = {d % len(labels) for d in ([dims] if isinstance(dims, int) else dims or range(len(labels)))}
    watch.mix(labels, over)
    watch.unknown([labels[d] for d in over], "an operation that depends on the order of units")
    found = []
    for result in results:
        keep = result.ndim == len(labels)
        kept = [(d, axis) for d, axis in enumerate(labels) if keep or d not in over]
        found.append([
            fresh(n, "positions") if d in over else axis for (d, axis), n in zip(kept, result.shape, strict=True)
        ])  # fmt: skip
    return found


@_rule("embedding")
def _embedding(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    table = watch.of(given["weight"])
    watch.mix(table, [0])
    pin(table[0], "an index")
    labels = [*watch.of(given["indices"]), *table[1:]]
    for axis in watch.of(given["indices"]):
        pin(axis, "an index")
    return [labels]


@_rule("index", "index_select")
def _index(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels = watch.of(given["self"])
    indices = given.get("indices") or [None] * (given["dim"] % len(labels)) + [given["index"]]
    at = [d for d, index in enumerate(indices) if index is not None]
    if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return None
    watch.mix(labels, at)
    for axis in (labels[d] for d in at):
        watch.unknown([axis], "an index")
    for axis in (axis for index in indices if index is not None for axis in watch.of(index)):
        watch.unknown([axis], "an index")
    kept = [axis for d, axis in enumerate(labels) if d not in at]
    first = at[0] if at[-1] - at[0] == len(at) - 1 else 0
    new = results[0].ndim - len(kept)
    return [[*kept[:first], *(fresh(n, "an index") for n in results[0].shape[first : first + new]), *kept[first:]]]


@_rule("index_add")
def _index_add(watch: Watch, given: Given, results: Sequence[Tensor]) -> Found:
    labels, source = watch.of(given["self"]), watch.of(given["source"])
    dim = given["dim"] % len(labels)
    watch.mix(labels, [dim])
    watch.unknown([labels[dim], source[dim], *watch.of(given["index"])], "an index")
    source[dim] = ONE
    return [watch.broadcast([labels, source], len(labels))]


def _neighbours(watch: Watch, given: Given, results: Sequence[Tensor], dims: int = 0) -> Found:
    """Pooling, resizing and padding by neighbours act on the last axes alone."""
    labels = watch.of(given["self"])
    for axis in labels[-dims:]:
        pin(axis, "positions")
    watch.mix(labels, range(-dims, 0))
    return [[*labels[:-dims], *(fresh(n, "positions") for n in r.shape[-dims:])] for r in results]


for _n in (1, 2, 3):
    _rule(*(name.format(n=_n) for name in (
        "max_pool{n}d_with_indices", "avg_pool{n}d", "_adaptive_avg_pool{n}d", "adaptive_avg_pool{n}d",
        "adaptive_max_pool{n}d", "upsample_nearest{n}d", "upsample_bilinear{n}d", "upsample_bicubic{n}d",
        "upsample_trilinear{n}d", "upsample_linear{n}d", "reflection_pad{n}d", "replication_pad{n}d",
    )))(partial(_neighbours, dims=_n))  # fmt: skip
