"""Losses and metrics from any callable: whether what it returns is a mean, a sum, or values per sample is tried."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.described import describe_callable
from landscape.objective.trees import has_batch_axis, map_tensors, shapes_in, tensors_in
from landscape.objective.units import (
    COMPARING,
    SEPARABLE,
    Quantity,
    Units,
    broadcast_error,
    is_pair,
    main_output,
    mean_as_unit,
    numbers_of,
    values_as_units,
)

_TRIAL = 16  # samples that a callable is tried on
_WAYS = f"Return values per sample, or a (numerators, denominators) pair. {COMPARING}"
_OF_ALL = "A metric of all samples together (F1, AUROC) has no values per sample: leave it out, or give one that has."


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
    values = numbers_of(value[0] if is_pair(value) else value, what)
    given = [t for t in (main_output(outputs), targets) if isinstance(t, Tensor)]
    crossed = values.ndim > 1 and values.shape[0] == values.shape[1]
    if len(given) == 2 and crossed and values.numel() > max(t.numel() for t in given):
        raise broadcast_error(given[0], given[1], what)


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

    whole = numbers_of(function(o, t), what).double()
    singles = torch.stack([numbers_of(function(row(o, i), row(t, i)), what).double().reshape(()) for i in range(count)])
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
        value, n = numbers_of(self.function(o, t), self.what), _required_size(o, t, self.what)
        return mean_as_unit(value if self.is_mean else value.double() / n, n)

    def verify(self, o: Any, t: Any) -> None:
        """The two halves of a batch must give the value of the whole."""
        size = _required_size(o, t, self.what)
        if size < 2 or not (_has_rows(o, size) and _has_rows(t, size)):
            return
        half = size // 2

        def on(part: slice) -> Tensor:
            return numbers_of(self.function(*(map_tensors(tree, lambda tensor: tensor[part]) for tree in (o, t))), what)

        what = self.what

        first, second = on(slice(0, half)), on(slice(half, size))
        joined = (first * half + second * (size - half)) / size if self.is_mean else first + second
        whole = numbers_of(self.function(o, t), what)
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
