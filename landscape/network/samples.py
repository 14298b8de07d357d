"""Gradients of the loss of single samples: their sum, their squares, and what they have along a direction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from landscape.errors import InputError, raised_by
from landscape.network.layers import GradientSquares
from landscape.objective.batches import Batch
from landscape.objective.objective import Objective
from landscape.objective.trees import has_batch_axis, map_tensors, take_rows, tensors_in
from landscape.objective.units import Units

logger = logging.getLogger(__name__)
ROUTES = ("rules", "vmap", "single")
_VMAP_BYTES = 256 << 20  # gradients of single samples at a time
_TRIAL = 4  # samples whose places are tried


@dataclass(frozen=True)
class Sums:
    """Sums over the samples i of a batch, g_i the gradient of the sum of i's numerators of the loss."""

    gradient: list[Tensor]  # sum_i g_i, tensor by tensor
    squares: Tensor  # (samples, tensors) float64, |g_i|^2
    denominators: float  # of the loss


class SampleGradients:
    """The gradients of single samples in the parameters of some names, by the cheapest route that is right.

    "rules" takes squares from the inputs of the layers and the gradients of their outputs, in one backward pass, where
    each layer has a rule (`GradientSquares`); "vmap" has torch batch the backward pass over the samples; "single" takes
    them one by one. The first of them is used whose gradients of two samples are those that plain backward passes give;
    of rules four are tried, in either order.

    Raises InputError, at construction, where a sample's gradient is not defined: a loss without values per sample, or
    samples that meet in the network.
    """

    def __init__(self, objective: Objective, names: Sequence[str], *, directions: bool = False) -> None:
        """`directions` says whether `along` will be asked for."""
        self._objective, self.names = objective, tuple(names)
        unfit = [name for name in names if name in objective.complex_names]
        if unfit:
            raise InputError(f"{', '.join(unfit)} are complex, and gradients of single samples are of real parameters")
        index = {block.name: number for number, block in enumerate(objective.layout.blocks)}
        self.chosen = [index[name] for name in names]  # their numbers among the trainable parameters
        self._rules: tuple[int, GradientSquares] | None = None
        self._way = ""  # to products with a direction
        self._cut = objective.data.divisible  # whether batches may be cut into single samples
        self.route = "single"
        self.reasons: list[str] = []  # why routes before it were not taken
        self._settle(directions)

    @property
    def chunk(self) -> int:
        """Samples at a time."""
        objective = self._objective
        size = sum(objective.layout.blocks[k].size for k in self.chosen) * objective.dtype.itemsize
        return objective.chunk if self.route != "vmap" else max(1, min(objective.chunk, _VMAP_BYTES // size))

    def of(self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int) -> Sums:
        """The sums of a batch of so many samples, inside `Objective.differentiable`, which gives the first two."""
        if self.route == "rules":
            return self._by_rules(model, batch, samples)
        if self.route == "vmap":
            return self._by_vmap(model, parameters, batch, samples)
        return self._one_by_one(model, parameters, batch, samples)[0]

    def along(
        self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int, direction: Sequence[Tensor]
    ) -> Tensor:
        """g_i.v (samples,) in float64 for a direction v, tensor by tensor.

        By dual numbers, in one pass forward; where torch lacks a derivative for these, by two passes backward, as the
        derivative in w of <v, sum_i w_i g_i>; else sample by sample.
        """
        return self._ways()[self._way](model, parameters, batch, samples, direction)

    def _ways(self) -> dict[str, Callable[[Any, Sequence[Tensor], Batch, int, Sequence[Tensor]], Tensor]]:
        return {
            "dual numbers": self._by_dual_numbers,
            "two passes": self._by_two_passes,
            "single": lambda *given: self._one_by_one(*given[:4], direction=given[4])[1],
        }

    def check(self, theta: Tensor, buffers: Mapping[str, Tensor] | None, label: str) -> None:
        """Raise InputError where samples meet at theta, of a few of them: branches and losses may depend on it.

        Alone they must have the gradients that the route finds, and their sum be that of the batch. What rounding
        leaves of the gradients of a fitted network differs, too, so what differs must differ beside theta as well.
        """
        objective = self._objective
        if not objective.data.divisible:  # the user's batches are not to be cut
            return
        data = objective.data.spread(min(_TRIAL, objective.chunk))
        for place in (theta, _near(theta)):
            with objective.differentiable(place, buffers) as (model, parameters):
                values, _ = self._values(model, data.first, data.samples)
                together = _flat(_gradients(values.sum(), [parameters[k] for k in self.chosen]))
                alone = self._one_by_one(model, parameters, data.first, data.samples)[0]
                found = self.of(model, parameters, data.first, data.samples)
            finite = bool(together.isfinite().all()) and bool(alone.squares.isfinite().all())
            apart = _alike(together, _flat(alone.gradient), objective.dtype)
            if not finite or (apart and _alike(found.squares, alone.squares, objective.dtype)):
                return
        raise InputError(
            f"at {label} samples meet, though not at the objective's own parameters: of {data.samples} samples the "
            "gradients alone are not those that they have together, so that the loss is no sum over samples. Take out "
            "what joins them there, or leave this theta out"
        )

    # -- routes -------------------------------------------------------------------------------------------------

    def _by_rules(self, model: Any, batch: Batch, samples: int) -> Sums:
        if self._rules is None or self._rules[0] != id(model):
            pairs = [(layer, norm) for layer, norm, _ in self._objective.folded_pairs]
            squares = GradientSquares(model, self.names, pairs=pairs)
            self._rules = id(model), squares  # it knows by then that samples do not meet
        squares = self._rules[1]
        with squares.recording(samples):
            values, denominators = self._values(model, batch, samples)
        gradient, found = squares.sums_and_squares(values.flatten(), samples)
        return Sums(gradient, found, denominators)

    def _by_vmap(self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int) -> Sums:
        objective = self._objective
        with torch.no_grad():
            outputs, targets = objective.outputs(model, batch)
        if not self._cut or not isinstance(outputs, Tensor) or outputs.numel() % samples:
            raise InputError("batches cannot be cut, or the outputs are not one tensor with rows of each sample")
        outputs.requires_grad_()
        values, denominators = self._summed(objective.loss_units(outputs, targets), samples)
        seeds = torch.autograd.grad(values.sum(), outputs)[0].reshape(samples, -1)

        def pulled(chosen: list[Tensor], sample: Batch, seed: Tensor) -> Tensor:
            given = list(parameters)
            for k, value in zip(self.chosen, chosen, strict=True):
                given[k] = value
            one = map_tensors(sample, lambda tensor: tensor.unsqueeze(0))
            scores: Tensor = objective.call_with(given, lambda m, b: objective.outputs(m, b)[0], one)
            return (scores.reshape(-1) * seed).sum()

        chosen = [parameters[k].detach() for k in self.chosen]
        found = torch.func.vmap(torch.func.grad(pulled), in_dims=(None, 0, 0))(chosen, batch, seeds)
        squares = torch.stack([_squares(one.flatten(1)) for one in found], 1)
        return Sums([one.sum(0) for one in found], squares, denominators)

    def _one_by_one(
        self,
        model: Any,
        parameters: Sequence[Tensor],
        batch: Batch,
        samples: int,
        *,
        direction: Sequence[Tensor] = (),
    ) -> tuple[Sums, Tensor]:
        """The sums, and g_i.v (samples,) of a direction v, zeros where none is given."""
        chosen = [parameters[k] for k in self.chosen]
        total = [torch.zeros_like(p, dtype=torch.float64) for p in chosen]
        squares, denominators, along = [], 0.0, torch.zeros(samples, dtype=torch.float64, device=chosen[0].device)
        whole = None if self._cut else self._values(model, batch, samples)
        for i in range(samples):
            if whole is None:
                values, weight = self._values(model, _rows(batch, i), 1)
                found, denominators = _gradients(values.sum(), chosen), denominators + weight
            else:
                found, denominators = _gradients(whole[0][i].sum(), chosen, keep=i + 1 < samples), whole[1]
            for sum_, one in zip(total, found, strict=True):
                sum_ += one
            squares.append(torch.stack([_squares(one.reshape(1, -1))[0] for one in found]))
            if direction:
                along[i] = _dot(found, direction)
        return Sums(total, torch.stack(squares), denominators), along

    def _by_dual_numbers(
        self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int, direction: Sequence[Tensor]
    ) -> Tensor:
        with torch.no_grad(), forward_ad.dual_level():
            given = [p.detach() for p in parameters]
            for k, v in zip(self.chosen, direction, strict=True):
                given[k] = forward_ad.make_dual(given[k], v)  # type: ignore[no-untyped-call]
            values = self._objective.call_with(given, lambda m, b: self._values(m, b, samples)[0], batch)
            tangent = forward_ad.unpack_dual(values).tangent  # type: ignore[no-untyped-call]
        return _per_sample(values if tangent is None else tangent, zero=tangent is None)

    def _by_two_passes(
        self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int, direction: Sequence[Tensor]
    ) -> Tensor:
        chosen = [parameters[k] for k in self.chosen]
        values, _ = self._values(model, batch, samples)
        weights = torch.ones_like(values, requires_grad=True)
        pulled = torch.autograd.grad(values, chosen, weights, create_graph=True, allow_unused=True)
        used = [(g, v) for g, v in zip(pulled, direction, strict=True) if g is not None and g.requires_grad]
        if not used:
            return _per_sample(values, zero=True)
        (found,) = torch.autograd.grad([g for g, _ in used], weights, [v for _, v in used])
        return _per_sample(found)

    # -- the loss of single samples -----------------------------------------------------------------------------

    def _values(self, model: Any, batch: Batch, samples: int) -> tuple[Tensor, float]:
        """(numerators (samples, parts), sum of the denominators) of a batch."""
        return self._summed(self._objective.loss_units(*self._objective.outputs(model, batch)), samples)

    def _summed(self, units: Units, samples: int) -> tuple[Tensor, float]:
        if units.denominators is not None and units.denominators.requires_grad:
            raise InputError(
                "the loss' denominators depend on the parameters, so its mean is no sum over samples; return "
                "(numerators, denominators) with denominators made of the data alone"
            )
        values = units.numerators
        if values.numel() % samples or (samples > 1 and not units.per_sample):
            raise InputError(
                f"the loss gives {values.numel()} value{'s' if values.numel() > 1 else ''} for a batch of {samples} "
                "samples, and the gradient of a sample is that of its own values; return values per sample, or a "
                "(numerators, denominators) pair per sample, or give batches of one sample"
            )
        return values.reshape(samples, -1), units.total

    # -- which route --------------------------------------------------------------------------------------------

    def _settle(self, directions: bool) -> None:
        objective = self._objective
        head = objective.data.head(2)
        batch, samples = self._few(head.first, head.samples)
        rows = sorted({0, samples - 1})
        for theta, where in ((objective.theta, "the objective's own parameters"), (_small(objective.theta), "others")):
            try:
                seen = self._settle_at(theta, batch, samples, rows, directions)
            except _SamplesMeetError:  # of a fitted network what rounding leaves of the gradients differs, too
                seen = self._settle_at(_near(theta), batch, samples, rows, directions)
            if seen:
                return
            self.reasons.append(f"no route can be tried at {where}: the gradients of the samples tried are not finite")
        self._way = "single"

    def _few(self, batch: Batch, samples: int) -> tuple[Batch, int]:
        """The first samples of a batch that is not to be cut, where these have the losses that they have in it."""
        few = partial(take_rows, numbers=slice(_TRIAL))
        if samples <= _TRIAL or not has_batch_axis(batch) or next(tensors_in(batch)).size(0) != samples:
            return batch, samples
        part = map_tensors(batch, few)
        with self._objective.differentiable() as (model, _), torch.no_grad():
            whole = self._values(model, batch, samples)[0]
            try:
                alone = self._values(model, part, _TRIAL)[0]
            except Exception:  # whatever a forward made for whole batches does
                return batch, samples
        same = alone.shape[1] == whole.shape[1] and _alike(alone, whole[:_TRIAL], self._objective.dtype)
        return (part, _TRIAL) if same else (batch, samples)

    def _settle_at(self, theta: Tensor, batch: Batch, samples: int, rows: Sequence[int], directions: bool) -> bool:
        """Choose route and way at theta; False where there is no number to compare, and the route stays "single"."""
        objective = self._objective
        with objective.differentiable(theta) as (model, parameters):
            true, gradient, dots = self._plainly(model, parameters, batch, samples, rows)
            if not true.isfinite().all(1).any():
                return False
            for route in ROUTES[:-1]:
                self.route = route
                try:
                    found = self.of(model, parameters, batch, samples)
                except Exception as error:  # whatever a model does where it was not made for
                    self.reasons.append(f"{route}: {raised_by(error)}")
                    continue
                near = _alike(found.squares[rows], true, objective.dtype)
                near = near and _alike(_flat(found.gradient), _flat(gradient), objective.dtype)
                if near and (route != "rules" or self._keeps_places(model, parameters, batch, samples)):
                    break
                self.reasons.append(f"{route}: its gradients of two samples are not those of plain backward passes")
            else:
                self.route = "single"
            if self.reasons:
                logger.info("per-sample gradients: route %r; %s", self.route, "; ".join(self.reasons))
            for way, product in self._ways().items() if directions else ():
                self._way = way
                try:
                    found_along = product(model, parameters, batch, samples, gradient)[rows]
                except Exception:  # not every operation has the derivative; the last way needs none
                    continue
                if _alike(found_along, dots, objective.dtype):
                    break
        return True

    def _keeps_places(self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int) -> bool:
        """Whether rules find each sample's squares in either order: not where a network sorts the samples."""
        if not self._cut:
            return True
        if self._objective.data.divisible:
            data = self._objective.data.spread(min(_TRIAL, self._objective.chunk))
            batch, samples = data.first, data.samples
        samples = min(samples, _TRIAL)
        rows = map_tensors(batch, partial(take_rows, numbers=torch.arange(samples)))
        true = self._one_by_one(model, parameters, rows, samples)[0].squares
        for order in (torch.arange(samples), torch.arange(samples - 1, -1, -1)):
            found = self._by_rules(model, map_tensors(rows, partial(take_rows, numbers=order)), samples).squares
            if not _alike(found, true[order.to(true.device)], self._objective.dtype):
                return False
        return True

    def _plainly(
        self, model: Any, parameters: Sequence[Tensor], batch: Batch, samples: int, rows: Sequence[int]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """(squares (rows, tensors), the sum g of g_i, g_i.g (rows,)) by backward passes; samples must not meet."""
        chosen = [parameters[k] for k in self.chosen]
        values, _ = self._values(model, batch, samples)
        gradient = _gradients(values.sum(), chosen, keep=True)
        squares, dots, alone = [], [], []
        cut = samples > 1 and has_batch_axis(batch) and next(tensors_in(batch)).size(0) == samples
        for i in rows:
            found = _gradients(values[i].sum(), chosen, keep=True)
            if cut and not _flat(found).isfinite().all():  # zero times another sample's NaN is NaN
                found = _gradients(self._values(model, _rows(batch, i), 1)[0].sum(), chosen)
            elif cut:
                alone.append(self._is_alone(model, _rows(batch, i), chosen, found))
            squares.append(torch.stack([_squares(one.reshape(1, -1))[0] for one in found]))
            dots.append(_dot(found, gradient))
        if self._cut and not all(alone):
            raise _SamplesMeetError(
                f"the gradient of sample {rows[alone.index(False)]} alone is not the one it has beside another: "
                "samples meet in the network (statistics of the batch, attention over it) or in the loss, so that they "
                "have no gradients of their own. Take out what joins them, or give batches of one sample"
            )
        self._cut = self._cut or (bool(alone) and all(alone))
        return torch.stack(squares), gradient, torch.stack(dots)

    def _is_alone(self, model: Any, sample: Batch, chosen: Sequence[Tensor], beside: Sequence[Tensor]) -> bool:
        """Whether a sample has the gradient alone that it has beside others."""
        try:
            found = _gradients(self._values(model, sample, 1)[0].sum(), chosen)
        except InputError:  # a forward that takes no such part of a batch
            if self._cut:
                raise
            return False
        return _alike(_flat(found), _flat(beside), self._objective.dtype)


class _SamplesMeetError(InputError):
    """The gradient of a sample alone is not the one it has beside another."""


def _near(theta: Tensor) -> Tensor:
    """Every entry changed by up to a hundredth of itself, always alike."""
    change = torch.rand(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return theta * (0.99 + 0.02 * change.to(theta))


def _small(theta: Tensor) -> Tensor:
    """Small random entries, always alike, to run a network at where its own are not finite."""
    return 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(theta)


def _gradients(value: Tensor, parameters: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(value, parameters, retain_graph=keep, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.to_dense() for g, p in zip(found, parameters, strict=True)]


def _per_sample(values: Tensor, *, zero: bool = False) -> Tensor:
    """(samples,) float64 sums of (samples, parts)."""
    found: Tensor = values.detach().double().sum(1)
    return torch.zeros_like(found) if zero else found


def _rows(batch: Batch, i: int) -> Batch:
    return map_tensors(batch, lambda tensor: take_rows(tensor, slice(i, i + 1)))


def _squares(rows: Tensor) -> Tensor:
    """(n,) float64, squared lengths of rows (n, size)."""
    return rows.double().square().sum(1)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.reshape(-1).double() for p in parts])


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    products = [(a.double() * b.double()).sum() for a, b in zip(first, second, strict=True)]
    return torch.stack(products).sum()


def _alike(found: Tensor, true: Tensor, dtype: torch.dtype) -> bool:
    """Equal to half of the digits; NaN where NaN is."""
    tolerance = 10 * torch.finfo(dtype).eps ** 0.5
    finite = true[true.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(found, true, rtol=tolerance, atol=tolerance * largest, equal_nan=True)
