"""Numerators and denominators of losses and metrics, and how they follow from what a callable returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.trees import kind_of

COMPARING = (
    "A criterion that compares the samples of a batch with one another (a contrastive one) belongs into forward=, with "
    "loss=None: lambda model, batch: (n * criterion(...), n)."
)
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
    def weight(self) -> float | Tensor:
        """Sum of the denominators, a number or where they are."""
        return self.numerators.numel() if self.denominators is None else self.denominators.double().sum()

    @property
    def total(self) -> float:
        """Sum of the denominators."""
        return self.numerators.numel() if self.denominators is None else float(self.weight)


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
        pair = [numbers_of(v, what) for v in value]
        rows = pair[0].shape[0] if size is None and pair[0].ndim else size
        numerators, denominators = (per_sample_sums(v, rows) for v in pair)
        if numerators.shape != denominators.shape:
            raise InputError(
                f"{what} returned numerators of shape {tuple(numerators.shape)} and denominators of shape "
                f"{tuple(denominators.shape)}; they must agree"
            )
        return Units(numerators, denominators, per_sample=numerators.numel() == rows)
    tensor = numbers_of(value, what)
    if tensor.ndim == 0:
        return None
    if size is not None and tensor.shape[0] != size:
        raise InputError(
            f"{what} returned shape {tuple(tensor.shape)} for a batch of {size} samples; return a scalar mean, "
            f"({size},) values per sample, or a (numerators, denominators) pair"
        )
    size = int(tensor.shape[0])
    if tensor.ndim > 1:
        return Units(per_sample_sums(tensor, size), per_sample_sums(torch.ones_like(tensor), size), per_sample=True)
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


def numbers_of(value: Any, what: str) -> Tensor:
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


def per_sample_sums(tensor: Tensor, size: int | None) -> Tensor:
    """(size,) sums over all but the first axis, in float64; values of another length stay as they are, flat."""
    if tensor.ndim < 2 or tensor.shape[0] != size:
        return tensor.reshape(-1)
    return tensor.flatten(1).sum(1, dtype=torch.float64)


def mean_as_unit(value: Any, size: int) -> Units:
    """A batch mean as one unit of weight `size`."""
    scalar = torch.as_tensor(value, dtype=torch.float64).reshape(1)
    return Units(scalar * size, torch.full_like(scalar, float(size)), per_sample=False)


def main_output(outputs: Any) -> Any:
    """The scores in what a model returns: `.logits` of a transformers output, else the thing itself."""
    return getattr(outputs, "logits", outputs)


def broadcast_error(outputs: Tensor, targets: Tensor, describe: str) -> InputError:
    """What is to be raised where outputs and targets of `describe` would be broadcast against each other."""
    return InputError(
        f"outputs of shape {tuple(outputs.shape)} meet targets of shape {tuple(targets.shape)} in {describe}; "
        "broadcasting them would compare every sample with every other. Reshape one to the other's shape."
    )
