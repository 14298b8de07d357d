"""Losses and metrics as numerators and denominators per unit, from names, torch criteria or any callable."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import InputError, nearest, user_code
from landscape.objective.trees import digest, has_batch_axis, kind_of, map_tensors, shapes_in, tensors_in

LossLike = str | Callable[..., Any]
_PLAIN = (int, float, str, bool, Tensor, type(None))  # settings of a callable that its description shows
_RESERVED = {"loss", "computed", "items", "file", "x", "y", "z", "u", "v", "w"}  # names the result file gives itself
_TRIAL = 16  # samples that a callable is tried on
COMPARING = (
    "A criterion that compares the samples of a batch with one another (a contrastive one) belongs into forward=, with "
    "loss=None: lambda model, batch: (n * criterion(...), n)."
)
_WAYS = f"Return values per sample, or a (numerators, denominators) pair. {COMPARING}"
_OF_ALL = "A metric of all samples together (F1, AUROC) has no values per sample: leave it out, or give one that has."
_TWO_LOSSES = (
    "Two losses that belong together are summed: return first + second; else return the sum and the number, or weight, "
    "of what it is a sum over"
)
SEPARABLE = 1e-4  # relative gap allowed between a batch value and its per-sample sum, in float32 or bfloat16


@dataclass(frozen=True)
class Units:
    """Numerators (B,) and denominators (B,) or None for ones; one unit per sample, or one for a whole batch."""

    numerators: Tensor
    denominators: Tensor | None
    per_sample: bool

    @property
    def total(self) -> float:
        """Sum of the denominators."""
        return self.numerators.numel() if self.denominators is None else float(self.denominators.double().sum())


@dataclass(frozen=True)
class Quantity:
    """One measured quantity: `units(outputs, targets)` gives its Units on a batch."""

    name: str
    describe: str
    units: Callable[[Any, Any], Units]
    ignored: int = -100  # the label that marks targets left out
    threshold: float = 0.0  # score above which a single score per label means "yes"
    # Raises InputError where batches of these outputs and targets cannot be weighted right; None where they always can.
    verify: Callable[[Any, Any], None] | None = None
    is_scalar: bool = False  # whether the user's function returns one number for a batch
    is_pair: bool = False  # whether it returns (numerators, denominators)


def named_losses() -> tuple[str, ...]:
    """Names accepted as `loss`."""
    return tuple(_LOSSES)


def named_metrics() -> tuple[str, ...]:
    """Names accepted in `metrics`."""
    return tuple(_METRICS)


def loss_quantity(loss: LossLike, outputs: Any, targets: Any) -> Quantity:
    """The loss as a Quantity; `outputs, targets` is a trial batch that decides how a scalar callable reduces."""
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise InputError(f"loss {loss!r} is unknown; {nearest(loss, _LOSSES)} A callable is accepted too.")
        weigh = _class_weights(_NAMED_SETTINGS.get(loss, {}))
        return _by_elements("loss", loss, _LOSSES[loss], weigh, classes=loss in _OF_CLASSES)
    reducible = _unreduced(loss, next(tensors_in(outputs), None))
    if reducible is not None:
        elements, settings = reducible
        weigh = _class_weights(settings)
        quantity = _by_elements("loss", describe_callable(loss), elements, weigh, classes=_is_of_classes(loss))
        # BCELoss scores are probabilities, those of every other loss with one score per label are logits
        probabilities = any(name in quantity.describe for name in ("BCELoss(", ".binary_cross_entropy("))
        threshold = 0.5 if probabilities or quantity.describe.endswith(".binary_cross_entropy") else 0.0
        return replace(quantity, ignored=settings.get("ignore_index", -100), threshold=threshold)
    with _label_types_told("loss", outputs, targets):
        return callable_quantity("loss", loss, outputs, targets)


def metric_quantities(
    metrics: Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]],
    outputs: Any,
    targets: Any,
    loss: Quantity,
) -> list[Quantity]:
    """The metrics as Quantities, named by `__name__` or key; labels the loss ignores do not count."""
    items: list[tuple[str, str | Callable[..., Any]]] = (
        list(metrics.items())
        if isinstance(metrics, Mapping)
        else [(m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__), m) for m in metrics]
    )
    result: list[Quantity] = []
    for name, metric in items:
        if name in _RESERVED or name.endswith("_stderr") or name in {q.name for q in result}:
            raise InputError(f"metric name {name!r} is taken; name it otherwise: metrics={{'my_name': function}}")
        if not name.isidentifier():
            raise InputError(
                f"metric name {name!r} cannot name a variable of the result file; use letters, digits and _, and name "
                "a function without a name of its own: metrics={'my_name': function}"
            )
        if isinstance(metric, str):
            if metric not in _METRICS:
                raise InputError(f"metric {metric!r} is unknown; {nearest(metric, _METRICS)} A callable works too.")
            units = functools.partial(_METRICS[metric], ignored=loss.ignored, threshold=loss.threshold)
            result.append(Quantity(name, metric, units))
        else:
            with _label_types_told(name, outputs, targets):
                result.append(callable_quantity(name, metric, outputs, targets))
    return result


def is_pair(value: Any) -> bool:
    """Whether what a callable returned is (numerators, denominators): a tuple of two. A list is values per sample."""
    return isinstance(value, tuple) and len(value) == 2


def values_as_units(value: Any, size: int | None, what: str) -> Units | None:
    """Units from what a callable returned: values per sample, or a (numerators, denominators) tuple; None for a scalar.

    Values are a tensor (B,), (B, ...), or a list of one number for each sample. `size` is the number of samples; where
    it is None, the values say how many there are. Raises InputError for what is no number, and for another number of
    values.
    """
    if is_pair(value):
        pair = [_numbers(v, what) for v in value]
        rows = pair[0].shape[0] if size is None and pair[0].ndim else size
        numerators, denominators = (_per_sample_sums(v, rows) for v in pair)
        if numerators.shape != denominators.shape:
            raise InputError(
                f"{what} returned numerators of shape {tuple(numerators.shape)} and denominators of shape "
                f"{tuple(denominators.shape)}; they must agree"
            )
        return Units(numerators, denominators, per_sample=numerators.numel() == rows)
    tensor = _numbers(value, what)
    if tensor.ndim == 0:
        return None
    if size is not None and tensor.shape[0] != size:
        raise InputError(
            f"{what} returned shape {tuple(tensor.shape)} for a batch of {size} samples; return a scalar mean, "
            f"({size},) values per sample, or a (numerators, denominators) pair"
        )
    size = int(tensor.shape[0])
    if tensor.ndim > 1:
        return Units(_per_sample_sums(tensor, size), _per_sample_sums(torch.ones_like(tensor), size), per_sample=True)
    return Units(tensor, None, per_sample=True)


def require_weights(units: Units, what: str, moved: Sequence[Units] = (), parts: Sequence[Units] = ()) -> None:
    """Raise InputError for denominators that cannot be weights, or numbers of what the numerators sum over.

    They are finite and not negative, stay when the parameters have `moved`, and a scalar one is the sum of those of the
    `parts` of its batch, where these are known, or a whole number.
    """
    weights = units.denominators
    if weights is None:
        return
    broken = (~((weights >= 0) & weights.isfinite())).nonzero()
    if len(broken):
        raise InputError(
            f"{what} returned denominators of which one is {float(weights[int(broken[0])]):.6g}; they are weights, or "
            "numbers of what the numerators sum over: finite, none negative"
        )
    if any(there.denominators is not None and not torch.equal(weights, there.denominators) for there in moved):
        raise InputError(
            f"{what} returned two values, and the second changes with the model's parameters: a pair is (numerators, "
            f"denominators), and no denominator does. {_TWO_LOSSES}"
        )
    if weights.numel() != 1 or units.per_sample:
        return
    value = float(weights)
    given = [float(part.denominators) for part in parts if part.denominators is not None]
    adds_up = bool(given) and math.isclose(value, sum(given), rel_tol=SEPARABLE)
    counts = value >= 1 and value == round(value) and not (given and weights.is_floating_point())
    if not (adds_up or counts):
        seen = f", and {' and '.join(f'{v:.6g}' for v in given)} for the parts of its batch" if given else ""
        raise InputError(
            f"{what} returned two numbers, and the second, {value:.6g}{seen}, is no number of what the first sums "
            f"over: a pair is (numerators, denominators). {_TWO_LOSSES}"
        )


def _numbers(value: Any, what: str) -> Tensor:
    """What a callable returned as a tensor. Raises InputError that names anything that is no number or array."""
    if isinstance(value, (Tensor, float)):
        found = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    elif isinstance(value, (Mapping, str, bytes)) or value is None or isinstance(value, tuple):
        raise InputError(_not_numbers(value, what))
    elif isinstance(value, list):
        found = _stacked(value, what)
    else:
        try:
            found = torch.as_tensor(value)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(_not_numbers(value, what)) from error
    if found.is_complex() or found.shape == (0,):
        kind = "complex values" if found.is_complex() else "no value"
        raise InputError(f"{what} returned {kind}; return real numbers: a mean, values per sample, or a pair")
    return found


def _stacked(values: list[Any], what: str) -> Tensor:
    """A list of one number for each sample as one tensor, with its graph."""
    if any(isinstance(v, Tensor) for v in values):
        if not all(isinstance(v, (Tensor, int, float)) for v in values):
            raise InputError(_not_numbers(values, what))
        like = next(v for v in values if isinstance(v, Tensor))
        parts = [v if isinstance(v, Tensor) else like.new_tensor(v) for v in values]
        if all(v.numel() == 1 for v in parts):
            return torch.stack([v.reshape(()) for v in parts])
        several = next(v for v in parts if v.numel() != 1)
        raise InputError(_no_list(values, tuple(several.shape), what))
    try:
        found = torch.as_tensor(values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(_not_numbers(values, what)) from error
    if found.ndim > 1 and len(values) == 2:
        raise InputError(_no_list(values, tuple(found.shape[1:]), what))
    return found


def _no_list(values: list[Any], shape: tuple[int, ...], what: str) -> str:
    return (
        f"{what} returned a list of {len(values)}, one of shape {shape}; a list holds one number for each sample. "
        "Return a tuple (numerators, denominators) where it is a pair, torch.cat(values) where each holds values of "
        "several samples"
    )


def _not_numbers(value: Any, what: str) -> str:
    advice = "return a scalar mean, values per sample, or a (numerators, denominators) pair"
    if isinstance(value, Mapping):
        advice = (
            "return one of them, or, of losses, their sum where all belong to it: sum(losses.values()) (a total may be "
            "among them); of several metrics give each by itself"
        )
    elif value is None:
        advice = "a function returns what stands after its return; " + advice
    elif isinstance(value, tuple):
        advice = "values per sample are a tensor, torch.stack(values), or a list; else " + advice
    return f"{what} returned {'None' if value is None else kind_of(value)}, which is no number; {advice}"


def _per_sample_sums(tensor: Tensor, size: int | None) -> Tensor:
    """(size,) sums over all but the first axis, in float64; values of another length stay as they are, flat."""
    if tensor.ndim < 2 or tensor.shape[0] != size:
        return tensor.reshape(-1)
    return tensor.flatten(1).sum(1, dtype=torch.float64)


def mean_as_unit(value: Any, size: int) -> Units:
    """A batch mean as one unit of weight `size`."""
    scalar = torch.as_tensor(value, dtype=torch.float64).reshape(1)
    return Units(scalar * size, torch.full_like(scalar, float(size)), per_sample=False)


def callable_quantity(name: str, function: Callable[..., Any], outputs: Any, targets: Any) -> Quantity:
    """A Quantity from any callable of (outputs, targets).

    Per-sample values and (numerators, denominators) pairs are used as they are. A scalar is a mean or a sum over the
    batch; which, is decided on the trial batch by comparing it with its values on single samples, never assumed. A
    scalar that is neither (a mean over tokens, say) cannot be weighted right and is refused. A metric with a state
    (`update`, `compute`, `reset`) is called on a batch from an empty state, on a copy.
    """
    if _has_state(function):
        function = _Stateless(function, next(tensors_in(outputs), None))
    describe = describe_callable(function.metric if isinstance(function, _Stateless) else function)
    what = f"{name} ({describe})"
    size = _size_of(outputs, targets)
    value = function(outputs, targets)
    if values_as_units(value, size, what) is not None:
        _refuse_broadcast(value, outputs, targets, what)

        def direct(o: Any, t: Any) -> Units:
            units = values_as_units(function(o, t), _size_of(o, t), what)
            if units is None:
                raise InputError(f"{what} returned values per sample of one batch, and a scalar of another")
            return units

        return Quantity(name, describe, direct, is_pair=is_pair(value))
    units, verify = _scalar_units(function, outputs, targets, _required_size(outputs, targets, what), what)
    return Quantity(name, describe, units, verify=verify, is_scalar=True)


def _size_of(outputs: Any, targets: Any) -> int | None:
    """Samples that a loss has values of: the first axis of all targets, or of all outputs where there are no targets.

    None where those disagree, but for a list, which has one entry for each sample then.
    """
    tree = targets if next((t for t in tensors_in(targets) if t.ndim), None) is not None else outputs
    lengths = {int(t.shape[0]) for t in tensors_in(tree) if t.ndim}
    if len(lengths) == 1:
        return lengths.pop()
    return len(tree) if isinstance(tree, list) and tree else None


def _required_size(outputs: Any, targets: Any, what: str) -> int:
    size = _size_of(outputs, targets)
    if size is None:
        raise InputError(
            f"{what} returns a scalar, and over how many samples cannot be told from its targets "
            f"({shapes_in(targets)}), whose first axes differ; return values per sample, or a (numerators, "
            "denominators) pair"
        )
    return size


def _refuse_broadcast(value: Any, outputs: Any, targets: Any, what: str) -> None:
    """Refuse values of every sample with every other, which (n, 1) outputs make of (n,) targets."""
    values = _numbers(value[0] if is_pair(value) else value, what)
    given = [t for t in (main_output(outputs), targets) if isinstance(t, Tensor)]
    crossed = values.ndim > 1 and values.shape[0] == values.shape[1]
    if len(given) == 2 and crossed and values.numel() > max(t.numel() for t in given):
        raise _broadcast_error(given[0], given[1], what)


def _has_state(function: Any) -> bool:
    """Whether a metric gathers a state over calls, as those of torchmetrics do."""
    return not isinstance(function, type) and all(
        callable(getattr(function, name, None)) for name in ("update", "compute", "reset")
    )


class _Stateless:
    """A metric with a state as a function of one batch; the user's own object is left as it is."""

    def __init__(self, metric: Any, like: Tensor | None) -> None:
        self.metric = copy.deepcopy(metric)
        self.metric.reset()
        if like is not None and callable(getattr(self.metric, "to", None)):
            self.metric.to(like.device)

    def __call__(self, outputs: Any, targets: Any) -> Any:
        self.metric.reset()
        self.metric.update(main_output(outputs), targets)
        value = self.metric.compute()
        self.metric.reset()
        return value


def describe_callable(function: Any) -> str:
    """A stable text for a callable: module, name and settings, without memory addresses."""
    if isinstance(function, functools.partial):
        settings = [_describe_value(v) for v in function.args]
        settings += [f"{k}={_describe_value(v)}" for k, v in sorted(function.keywords.items())]
        return f"{describe_callable(function.func)}({', '.join(settings)})"
    name = getattr(function, "__qualname__", None)
    if name is not None:
        return f"{getattr(function, '__module__', '?')}.{name}{_code_digest(function)}"
    given = {**getattr(function, "__dict__", {}), **getattr(function, "_buffers", {})}
    states = getattr(function, "_defaults", {})  # what a metric of torchmetrics has gathered is no setting
    settings = [
        f"{k}={_describe_value(v)}"
        for k, v in sorted(given.items())
        if not k.startswith("_") and k != "training" and k not in states and isinstance(v, _PLAIN)
    ]
    learned = own_parameters(function)
    if learned:
        settings.append(f"parameters={digest(*learned.values())}")
    return f"{type(function).__module__}.{type(function).__qualname__}({', '.join(settings)})"


def own_parameters(function: Any) -> dict[str, Tensor]:
    """The parameters of a criterion that is a module, by name; {} for any other callable."""
    named = getattr(function, "named_parameters", None)
    return dict(named()) if callable(named) and not isinstance(function, type) else {}


def _code_digest(function: Any) -> str:
    """Tells apart functions of one name, as lambdas are: a digest of what the user's own code compiles to."""
    code = getattr(function, "__code__", None)
    if code is None or str(function.__module__).startswith("torch."):
        return ""
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *captured]
    text = repr(_code_parts(code)) + "".join(
        _describe_value(v) if isinstance(v, _PLAIN) else getattr(v, "__qualname__", type(v).__qualname__) for v in given
    )
    return "#" + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _code_parts(code: CodeType) -> tuple[Any, ...]:
    constants = [
        _code_parts(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else c
        for c in code.co_consts
    ]
    return (code.co_code, constants, code.co_names)


def _describe_value(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)


def _scalar_units(
    function: Callable[..., Any], outputs: Any, targets: Any, size: int, what: str
) -> tuple[Callable[[Any, Any], Units], Callable[[Any, Any], None]]:
    """(units of a batch, check of a batch) of a callable that returns a scalar."""
    if not (_has_rows(outputs, size) and _has_rows(targets, size)):
        raise InputError(
            f"{what} returns a scalar, and whether it is a mean or a sum over the samples cannot be tried: the first "
            f"axes of outputs ({shapes_in(outputs)}) and targets ({shapes_in(targets)}) do not both run over the "
            "samples. Return values per sample, or a (numerators, denominators) pair."
        )
    count = min(size, _TRIAL)
    o, t = (map_tensors(tree, lambda tensor: tensor[:count]) for tree in (outputs, targets))
    if size == 1:  # a mean and a sum differ only on more than one sample
        count = 2
        o, t = (map_tensors(tree, lambda tensor: torch.cat([tensor, tensor])) for tree in (o, t))
    found = _reduction(function, o, t, count, what)
    chosen = found
    if found.is_mean and found.is_sum:  # all zero, as an error is where all trial samples are right: on other scores
        turned = map_tensors(t, lambda tensor: tensor.roll(1, 0))
        chosen = _reduction(function, _disturbed(o), turned, count, what)
    if chosen.is_mean and chosen.is_sum:
        raise InputError(
            f"{what} is zero on all samples tried, so whether it is a mean or a sum over the batch cannot be told; "
            "return values per sample"
        )
    scalar = _Scalar(function, what, chosen.is_mean)
    # vmap refuses data-dependent code in many ways; whole batches as units are right for any callable.
    try:
        vmapped = scalar.per_sample(o, t).numerators.double()
    except Exception:
        return scalar.per_batch, scalar.verify
    alike = bool(((vmapped - found.singles).abs() <= found.rounding).all())
    return (scalar.per_sample if alike else scalar.per_batch), scalar.verify


def _has_rows(tree: Any, size: int) -> bool:
    """Whether samples can be cut out of outputs or targets: all tensors have them along the first axis, or none has."""
    tensors = list(tensors_in(tree))
    return not tensors or (has_batch_axis(tree) and tensors[0].shape[0] == size)


@dataclass(frozen=True)
class _Reduction:
    """What a callable makes of the values of single samples; both where all of them are zero."""

    is_mean: bool
    is_sum: bool
    singles: Tensor  # (n,), values of single samples
    rounding: Tensor  # gap that rounding may make between values


def _reduction(function: Callable[..., Any], o: Any, t: Any, count: int, what: str) -> _Reduction:
    def row(tree: Any, i: int) -> Any:
        return map_tensors(tree, lambda tensor: tensor[i : i + 1])

    whole = _numbers(function(o, t), what).double()
    singles = torch.stack([_numbers(function(row(o, i), row(t, i)), what).double().reshape(()) for i in range(count)])
    rounding = singles.abs().mean() * SEPARABLE + 1e-12
    is_mean = bool((whole - singles.mean()).abs() <= rounding)
    is_sum = bool((whole - singles.sum()).abs() <= rounding * count)
    if not (is_mean or is_sum):
        raise InputError(
            f"{what} returns a scalar that is neither the mean ({float(singles.mean()):.6g}) nor the sum "
            f"({float(singles.sum()):.6g}) of its values on single samples, but {float(whole):.6g}; batches cannot "
            f"be weighted right from that. {_OF_ALL if isinstance(function, _Stateless) else _WAYS}"
        )
    return _Reduction(is_mean, is_sum, singles, rounding)


@dataclass(frozen=True)
class _Scalar:
    """A callable that returns the mean over the batch, or else the sum."""

    function: Callable[..., Any]
    what: str
    is_mean: bool

    def per_sample(self, o: Any, t: Any) -> Units:
        """A unit for each sample."""

        def with_axis(tree: Any) -> Any:
            return map_tensors(tree, lambda tensor: tensor.unsqueeze(0))

        values = torch.vmap(lambda a, b: self.function(with_axis(a), with_axis(b)))(o, t)
        return Units(values.reshape(values.shape[0], -1)[:, 0], None, per_sample=True)

    def per_batch(self, o: Any, t: Any) -> Units:
        """The batch as one unit."""
        value, n = _numbers(self.function(o, t), self.what), _required_size(o, t, self.what)
        return mean_as_unit(value if self.is_mean else value.double() / n, n)

    def verify(self, o: Any, t: Any) -> None:
        """The two halves of a batch must give the value of the whole."""
        size = _required_size(o, t, self.what)
        if size < 2 or not (_has_rows(o, size) and _has_rows(t, size)):
            return
        half = size // 2

        def on(part: slice) -> Tensor:
            return _numbers(self.function(*(map_tensors(tree, lambda tensor: tensor[part]) for tree in (o, t))), what)

        what = self.what

        first, second = on(slice(0, half)), on(slice(half, size))
        joined = (first * half + second * (size - half)) / size if self.is_mean else first + second
        whole = _numbers(self.function(o, t), what)
        if whole.isfinite() and not torch.isclose(whole.double(), joined.double(), rtol=10 * SEPARABLE, atol=1e-9):
            raise InputError(
                f"{self.what} is {float(whole):.6g} on a batch of {size} samples, but its halves give "
                f"{float(joined):.6g}: it is no plain mean or sum over samples (a mean over kept tokens?), and batches "
                "cannot be weighted right. Return values per sample, or a (numerators, denominators) pair."
            )


def _disturbed(tree: Any) -> Any:
    """Scores moved at random by about their own spread, the same way each time."""
    generator = torch.Generator().manual_seed(0)

    def move(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        return tensor + noise * (tensor.std() + 1e-3)

    return map_tensors(tree, move)


def _by_elements(
    name: str,
    describe: str,
    elements: Callable[[Any, Any], Tensor],
    weigh: Callable[[Any, Any, Tensor], Tensor | None],
    *,
    classes: bool,
) -> Quantity:
    """Units from element-wise values: summed over everything but the first axis; the weights decide the denominator.

    Whole numbers as targets are numbers of `classes`, which torch wants in int64, or values like the outputs.
    """

    def units(outputs: Any, targets: Any) -> Units:
        outputs, targets = _aligned(outputs, targets, describe)
        if not targets.is_floating_point() and not targets.is_complex():
            targets = _class_numbers(outputs, targets, describe) if classes else targets.to(outputs.dtype)
        values = elements(outputs, targets)
        if isinstance(targets, Tensor) and targets.shape != outputs.shape and values.ndim >= outputs.ndim:
            raise _broadcast_error(outputs, targets, describe)
        weights = weigh(outputs, targets, values)
        if weights is None and values.ndim == 1:
            return Units(values, None, per_sample=True)
        size = values.shape[0]
        weights = torch.ones_like(values) if weights is None else weights
        return Units(_per_sample_sums(values, size), _per_sample_sums(weights, size), per_sample=True)

    return Quantity(name, describe, units)


def _class_numbers(outputs: Tensor, targets: Tensor, describe: str) -> Tensor:
    """Numbers of classes in int64, exactly: torch takes no other type but uint8, which is a mask where it indexes."""
    if outputs.shape == targets.shape and "multilabel" not in describe.lower():
        raise InputError(
            f"the targets are {shapes_in(targets)}, whole numbers of the outputs' shape (one-hot?), and {describe!r} "
            "needs the number of a class for each sample, or floating-point probabilities of all classes: give "
            "y.argmax(1), or y.float()"
        )
    return _as_int64(targets)


def _as_int64(labels: Tensor) -> Tensor:
    """Whole numbers in int64. Raises InputError where one has no place there."""
    found = labels.long()
    if labels.dtype == torch.uint64 and bool((found < 0).any()):
        raise InputError("a label in uint64 is larger than int64 holds; give labels as class numbers from 0 on")
    return found


def _is_of_classes(loss: Callable[..., Any]) -> bool:
    """Whether a criterion or functional loss of torch takes whole numbers for numbers of classes."""
    base = loss.func if isinstance(loss, functools.partial) else loss
    kinds = {kind.__name__ for kind in type(base).__mro__} | {getattr(base, "__name__", "")}
    return bool(kinds & _OF_CLASSES)


def no_such_class(error: IndexError, outputs: Any, targets: Any) -> str | None:
    """What is to be said of a label that torch found out of bounds: whose it is, and which there are; else None."""
    found = re.search(r"Target (-?\d+) is out of bounds", str(error))
    outputs = main_output(outputs)
    if found is None or not isinstance(targets, Tensor) or targets.ndim == 0:
        return None
    at = (targets == int(found[1])).nonzero()
    whose = f"Sample {int(at[0, 0])} of the batch tried has the label {found[1]}" if len(at) else "A label is no class"
    of_scores = isinstance(outputs, Tensor) and outputs.ndim == 2
    scores = f", and the model gives {outputs.shape[1]} scores: labels are numbers from 0 on, below that"
    return f"{whose}{scores if of_scores else ': labels are numbers from 0 on, below the number of scores'}"


def _label_types_told(name: str, outputs: Any, targets: Any) -> AbstractContextManager[Any]:
    """Inside, what a callable of the user's raises is told with a way out where labels are of a type torch refuses."""
    kinds = {t.dtype for t in tensors_in(targets) if not (t.is_floating_point() or t.is_complex())}
    odd = sorted(str(kind).removeprefix("torch.") for kind in kinds - {torch.int64, torch.uint8})
    if not odd:
        return nullcontext()
    return user_code(
        f"{name} cannot be computed from outputs and targets",
        lambda: f"outputs {shapes_in(outputs)}; targets {shapes_in(targets)}",
        f"The targets are {' and '.join(odd)}: torch takes numbers of classes in int64, as y.long() makes, and values "
        "or yes and no as floats, as y.float() makes; give the data so",
    )


def _aligned(outputs: Any, targets: Any, describe: str) -> tuple[Tensor, Any]:
    """Outputs in float32 or better; (B, L, C) scores with (B, L) labels turned into torch's (B, C, L)."""
    outputs = main_output(outputs)
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"the model returned {type(outputs).__name__}, and loss {describe!r} needs a tensor; give "
            "forward=lambda model, batch: (outputs, targets)"
        )
    if not isinstance(targets, Tensor):
        raise InputError(
            f"the targets are {kind_of(targets)}, and {describe!r} needs a tensor; give a loss= that takes them as "
            "they are, or forward=lambda model, batch: (outputs, targets)"
        )
    if outputs.dtype in (torch.bfloat16, torch.float16):
        outputs = outputs.float()
    labels = not targets.is_floating_point()
    if targets.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which torch compares and adds with little
        targets = _as_int64(targets)
    if targets.is_floating_point() and targets.shape != outputs.shape:
        raise _broadcast_error(outputs, targets, describe)
    if labels and outputs.ndim == 3 and targets.ndim == 2:
        scores_last = outputs.shape[1] == targets.shape[1]
        if scores_last and outputs.shape[2] == targets.shape[1]:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} with labels of shape {tuple(targets.shape)}: either of the "
                f"last two axes could hold the classes, in {describe}. Return (B*L, C) outputs and (B*L,) labels."
            )
        if scores_last:
            outputs = outputs.transpose(1, 2)
    return outputs, targets


def _broadcast_error(outputs: Tensor, targets: Tensor, describe: str) -> InputError:
    return InputError(
        f"outputs of shape {tuple(outputs.shape)} meet targets of shape {tuple(targets.shape)} in {describe}; "
        "broadcasting them would compare every sample with every other. Reshape one to the other's shape."
    )


def main_output(outputs: Any) -> Any:
    """The scores in what a model returns: `.logits` of a transformers output, else the thing itself."""
    return getattr(outputs, "logits", outputs)


def _unreduced(
    loss: Callable[..., Any], like: Tensor | None
) -> tuple[Callable[[Any, Any], Tensor], dict[str, Any]] | None:
    """Element-wise form and settings of a torch criterion, a functional loss or a partial of one; None for others."""
    if getattr(loss, "reduction", None) in ("mean", "sum", "none") and type(loss).__module__.startswith("torch."):
        criterion: Any = copy.deepcopy(loss)
        if like is not None:  # class weights follow the scores, which losses see in float32 or better
            criterion.to(like.device, torch.promote_types(like.dtype, torch.float32))
        criterion.reduction = "none"
        classes = any(kind.__name__ in ("CrossEntropyLoss", "NLLLoss") for kind in type(loss).__mro__)
        return criterion, {k: getattr(criterion, k) for k in ("weight", "ignore_index")} if classes else {}
    base = loss.func if isinstance(loss, functools.partial) else loss
    given = dict(loss.keywords) if isinstance(loss, functools.partial) else {}
    if getattr(base, "__module__", None) == "torch.nn.functional" and "reduction" in inspect.signature(base).parameters:
        weight = given.get("weight")
        if isinstance(weight, Tensor) and like is not None:
            given["weight"] = weight = weight.to(like.device, torch.promote_types(like.dtype, torch.float32))
        settings = {"weight": weight, "ignore_index": given.get("ignore_index", -100)}
        classes = base in (F.cross_entropy, F.nll_loss)
        arguments = loss.args if isinstance(loss, functools.partial) else ()
        return functools.partial(base, *arguments, **{**given, "reduction": "none"}), settings if classes else {}
    return None


def _class_weights(settings: Mapping[str, Any]) -> Callable[[Any, Any, Tensor], Tensor | None]:
    """Weight of each element of a class loss in torch's mean: 0 where ignored, the class weight, else 1.

    None, for all ones, where nothing is ignored or weighted, and for any other loss, which has no settings.
    """
    weight, ignore = settings.get("weight"), settings.get("ignore_index", -100)

    def weigh(outputs: Any, targets: Any, values: Tensor) -> Tensor | None:
        if (
            not settings
            or not isinstance(targets, Tensor)
            or targets.is_floating_point()
            or targets.shape != values.shape
        ):
            return None
        kept = targets != ignore
        if weight is None:
            return None if values.ndim == 1 and bool(kept.all()) else kept.to(values.dtype)
        return torch.where(kept, weight.to(values)[targets.where(kept, 0)], torch.zeros_like(values))

    return weigh


def _correct(outputs: Any, targets: Any, ignored: int = -100, threshold: float = 0.0) -> Units:
    scores, labels = _aligned(outputs, targets, "accuracy")
    if not isinstance(labels, Tensor):
        raise InputError(f"accuracy needs class labels as a tensor, the targets are {type(labels).__name__}")
    if scores.ndim == labels.ndim + 1 and scores.shape[1] == 1:
        scores = scores.squeeze(1)
    if labels.is_floating_point() and labels.shape == scores.shape and scores.ndim > 1 and scores.shape[1] > 1:
        if bool(((labels == labels.amax(1, keepdim=True)).sum(1) != 1).any()):
            raise InputError(
                "accuracy compares the largest score with the largest target, and some targets have no single largest "
                "one (several labels at once?); give a callable of (outputs, targets) that says what counts as right"
            )
        labels = labels.argmax(dim=1)
    if scores.ndim == labels.ndim:
        hit = (scores > threshold) == (labels > 0.5)
        kept = torch.ones_like(hit)
    else:
        hit, kept = scores.argmax(dim=1) == labels, labels != ignored
    size = hit.shape[0]
    right = (hit & kept).reshape(size, -1).sum(1).double()
    # no class is the largest of scores that are NaN
    undecided = scores.isnan().reshape(size, -1).any(1)
    right = right.masked_fill(undecided, float("nan"))
    if hit.ndim == 1 and bool(kept.all()):
        return Units(right, None, per_sample=True)
    return Units(right, kept.reshape(size, -1).sum(1).double(), per_sample=True)


def _wrong(outputs: Any, targets: Any, ignored: int = -100, threshold: float = 0.0) -> Units:
    units = _correct(outputs, targets, ignored, threshold)
    total = torch.ones_like(units.numerators) if units.denominators is None else units.denominators
    return Units(total - units.numerators, units.denominators, per_sample=True)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """F.cross_entropy with reduction="none"; on CPUs many samples of few classes go by columns.

    There torch's softmax along a short last axis takes 20 times as long as along the first (10 classes, 1,800 samples),
    more than the rest of a small network.
    """
    tall = outputs.ndim == 2 and outputs.shape[0] > outputs.shape[1] and outputs.device.type == "cpu"
    if not tall or targets.is_floating_point():
        return F.cross_entropy(outputs, targets, reduction="none")
    return F.nll_loss(outputs.t().contiguous().log_softmax(0).t(), targets, reduction="none")


def _elements(function: Callable[..., Tensor]) -> Callable[[Any, Any], Tensor]:
    return functools.partial(function, reduction="none")


_LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "nll": _elements(F.nll_loss),
    "mse": _elements(F.mse_loss),
    "l1": _elements(F.l1_loss),
    "smooth_l1": _elements(F.smooth_l1_loss),
    "huber": _elements(F.huber_loss),
    "binary_cross_entropy_with_logits": _elements(F.binary_cross_entropy_with_logits),
    "multi_margin": _elements(F.multi_margin_loss),
}
_OF_CLASSES = {  # names given, and torch's own
    *("cross_entropy", "nll", "nll_loss", "multi_margin", "multi_margin_loss", "multilabel_margin_loss"),
    *("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelMarginLoss"),
}
_NAMED_SETTINGS = {"cross_entropy": {"ignore_index": -100}, "nll": {"ignore_index": -100}}
_METRICS: dict[str, Callable[..., Units]] = {"accuracy": _correct, "error": _wrong}
