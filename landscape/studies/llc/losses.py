"""The loss and its gradient at the parameters of several chains at once, on all data or on batches of each chain."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed, normal_vector
from torch import Tensor

from landscape.errors import InputError, raised_by
from landscape.objective.batches import Batch
from landscape.objective.objective import Objective
from landscape.objective.tracing import traced
from landscape.objective.trees import map_tensors, take_rows
from landscape.objective.units import Units

logger = logging.getLogger(__name__)
Sums = Callable[[Tensor], tuple[Tensor, Tensor]]  # (C, d) -> sums of the loss (C,), their gradients (C, d)
_AGREES = {torch.float32: 1e-4, torch.float64: 1e-10}  # largest gap of a gradient, relative to the largest entry


class ChainLosses:
    """The mean loss of an objective in eval mode, never in half precision, at theta (C, d).

    Chains of small networks are computed side by side (vmap) where their operations can be, else one after another. All
    of this works inside `bound`, after `settle`.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._blocks = objective.layout.blocks
        self._sizes = [block.size for block in self._blocks]
        self._complex = frozenset(objective.complex_names)
        self._total = math.nan
        self._together: dict[int, Sums] | None = None  # chains -> their sums at once

    @contextmanager
    def bound(self) -> Iterator[None]:
        """The model is in eval mode inside, and put back after."""
        with self._objective.differentiable():
            yield

    def settle(self) -> FloatArray:
        """See what the data weigh.

        Returns numerators and denominators (2, n) of the n samples at the centre; (2, 0) where the loss has values of
        batches alone. Raises InputError for a loss at the centre that is not finite.
        """
        centre = self._objective.theta
        parts: list[Tensor] = []
        single, total, loss = True, 0.0, 0.0
        with torch.no_grad():
            for batch in self._batches():
                units: Units = self._called(centre, batch, self._objective.loss_of)
                total += units.total
                single &= units.per_sample
                loss += float(units.numerators.sum(dtype=torch.float64))
                weights = torch.ones_like(units.numerators) if units.denominators is None else units.denominators
                parts.append(torch.stack([units.numerators, weights]).double())
        self._total = total
        if not math.isfinite(loss):
            raise InputError(
                f"the loss at the centre is {loss / total}, so there is nothing for chains to stay near; give the "
                "parameters of a trained model"
            )
        table: FloatArray = torch.cat(parts, 1).cpu().numpy() if single else np.zeros((2, 0))
        return table

    def put_together(self, chains: int) -> bool:
        """Compute chains side by side from now on, if so many of them come to what each alone does."""
        if self._objective.chunks > 1:
            return False
        batch = self._objective.batch(0)
        self._together = {}
        if self.agree(self._at_once, lambda theta: self.alone(theta, batch), chains):
            return True
        self._together = None
        return False

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(losses (C,) in float64, their gradients (C, d)) on all data."""
        if self._together is not None:
            losses, gradients = self._at_once(theta)
        else:
            parts = [self.alone(theta, batch) for batch in self._batches()]
            losses, gradients = parts[0]
            for more, slopes in parts[1:]:
                losses, gradients = losses + more, gradients + slopes
        return losses / self._total, gradients / self._total

    def _at_once(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The sums on all data of chains side by side; by operations that are traced once for each number of them."""
        assert self._together is not None
        if len(theta) not in self._together:
            batch = self._objective.batch(0)
            self._together[len(theta)] = traced(lambda t: self.side_by_side(t, batch, None), theta)
        return self._together[len(theta)](theta)

    # -- for batches of each chain, too ----------------------------------------------------------------------------

    def side_by_side(self, theta: Tensor, batch: Batch, batched: int | None) -> tuple[Tensor, Tensor]:
        """(sums of the numerators (C,), their gradients (C, d)); `batched` is the axis of the chains in the batch."""
        varied = theta.detach().requires_grad_()
        sums, totals = torch.vmap(self._sum, in_dims=(0, batched))(varied, batch)
        (gradients,) = torch.autograd.grad(sums.sum(), varied)
        return totals, gradients

    def alone(self, theta: Tensor, batch: Batch, batches: Sequence[Batch] | None = None) -> tuple[Tensor, Tensor]:
        """The same one chain after another, of `batches` each on its own."""
        values, slopes = [], []
        for chain, row in enumerate(theta.detach()):
            varied = row.requires_grad_()
            value, total = self._sum(varied, batch if batches is None else batches[chain])
            slopes.append(torch.autograd.grad(value, varied)[0])
            values.append(total)
        return torch.stack(values), torch.stack(slopes)

    def agree(self, once: Sums, alone: Sums, chains: int) -> bool:
        """Whether so many chains at once come to what they do alone, a little beside the centre."""
        centre = self._objective.theta
        size = max(float(centre.norm()) / math.sqrt(len(centre)), 1e-3)
        noise = torch.stack([normal_vector(len(centre), 0, "beside", k) for k in range(chains)]).to(centre)
        beside = centre + 0.1 * size * noise
        try:
            found = once(beside)
        except Exception as error:  # whatever a model's own code does under vmap
            logger.info("chains run one after another, as vmap fails: %s", raised_by(error))
            return False
        pairs = zip(found, alone(beside), strict=True)
        gaps = [float((a - b).abs().max()) / max(float(b.abs().max()), 1e-30) for a, b in pairs]
        return max(gaps) <= _AGREES[centre.dtype]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Batch]:
        return (batch for _, batch in self._objective.batches())

    def _sum(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the loss' numerators on a batch at theta (d,): to be differentiated, and in float64."""

        def total(model: Any, one: Batch) -> tuple[Tensor, Tensor]:
            found = self._objective.loss_elements(*self._objective.outputs(model, one))
            return found.sum(), found.detach().sum(dtype=torch.float64)

        found: tuple[Tensor, Tensor] = self._called(theta, batch, total)
        return found

    def _called(self, theta: Tensor, batch: Batch, function: Callable[[Any, Batch], Any]) -> Any:
        """A function of the model at theta (d,) and a batch."""
        parts = zip(self._blocks, theta.split_with_sizes(self._sizes), strict=True)
        values = [self._value(block.name, part, block.shape) for block, part in parts]
        return self._objective.call_with(values, function, batch)

    def _value(self, name: str, part: Tensor, shape: Sequence[int]) -> Tensor:
        if name not in self._complex:
            return part.reshape(shape)
        return torch.view_as_complex(part.reshape(shape).clone())


class BatchLosses:
    """The same on batches, each chain on its own: that of step k follows from the chain's seed and k alone.

    Every sample comes once in an epoch. Losses are those of the data at the centre plus what they rise by on the batch,
    so that they differ from those of all data by the noise of the rise alone.
    """

    def __init__(self, losses: ChainLosses, objective: Objective, table: FloatArray, size: int) -> None:
        """`table` is what `settle` gave. Raises InputError for data that have no batches to be drawn."""
        data = objective.data
        if not (data.divisible and data.held) or not table.shape[1]:
            raise InputError(
                f"batch_size={size} draws single samples, and there are none: the data are streamed or in batches of "
                "your own, or the loss has one value for a batch. Give tensors as data and a loss with values per "
                "sample, or leave batch_size out"
            )
        self._losses, self._whole, self._samples = losses, data.first, table.shape[1]
        self._table = torch.from_numpy(table).to(objective.device)
        self._centre = float(table[0].sum() / table[1].sum())
        self._parts = -(-self._samples // size)
        self._orders: dict[tuple[int, int], Any] = {}
        self._together: dict[tuple[int, ...], Callable[..., tuple[Tensor, Tensor]]] | None = None

    def rows(self, seeds: Sequence[int], step: int) -> Tensor:
        """(C, b) the samples of each chain's batch."""
        epoch, part = divmod(step, self._parts)
        each, more = divmod(self._samples, self._parts)  # the first `more` parts have one sample more
        start = part * each + min(part, more)
        rows = slice(start, start + each + (part < more))
        return torch.from_numpy(np.stack([self._order(seed, epoch)[rows] for seed in seeds]))

    def _order(self, seed: int, epoch: int) -> Any:
        if (seed, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[1] == epoch}
            random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "order", epoch)))
            self._orders[seed, epoch] = random.permutation(self._samples)
        return self._orders[seed, epoch]

    def put_together(self, chains: int) -> bool:
        """Compute chains side by side from now on, if so many of them come to what each alone does."""
        rows = self.rows(list(range(chains)), 0)
        self._together = {}
        if self._losses.agree(lambda theta: self._at_once(theta, rows), lambda theta: self._alone(theta, rows), chains):
            return True
        self._together = None
        return False

    def at(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(losses (C,) in float64, gradients (C, d)) of each chain on its batch."""
        rows = rows.to(theta.device)
        sums, gradients = (self._alone if self._together is None else self._at_once)(theta, rows)
        at_centre, weights = self._table[:, rows].sum(2)
        return self._centre + (sums - at_centre) / weights, gradients / weights[:, None].to(gradients.dtype)

    def _at_once(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        assert self._together is not None
        shape = tuple(rows.shape)
        if shape not in self._together:
            self._together[shape] = traced(lambda t, r: self._losses.side_by_side(t, self._taken(r), 0), theta, rows)
        return self._together[shape](theta, rows)

    def _alone(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._losses.alone(theta, None, [self._taken(row) for row in rows])

    def _taken(self, rows: Tensor) -> Batch:
        """The samples of these numbers, in their shape."""
        return map_tensors(self._whole, lambda t: take_rows(t, rows.reshape(-1)).reshape(*rows.shape, *t.shape[1:]))
