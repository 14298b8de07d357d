"""Products of a few samples at one point, seen against each other, against differences and in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from landscape.curvature.routes import (
    Chunk,
    Parts,
    chunk_of,
    finite_difference,
    flat,
    gradient_parts,
    image_rows,
    length_of,
    norm,
    shaped,
    summed,
    summed_loss,
)
from landscape.objective.batches import Batch
from landscape.objective.objective import Objective
from landscape.objective.trees import floats_in

# Steps relative to the length that `length_of` gives. Short ones come first, since they cross few kinks of ReLUs. Long
# ones are for models that round to float32 inside.
_STEPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
AGREES = 1e-4  # relative gap allowed to differences; the silent faults known are off by tens of percent
CLOSE = 1e-5  # a gap that ends the search for a better step
# Where differences of two steps disagree, a gap of a few times theirs is allowed, but no larger than this.
DOUBT, _TIMES = 0.02, 3.0
# Relative asymmetry allowed: 1e-3 is seen where a gradient is not the loss's. More than the first, up to the second, is
# allowed where two steps show that gradients are rounded by more than float64 does.
SYMMETRIC, _ROUNDED = 1e-7, 1e-3
AMPLIFIED = 100.0  # asymmetry, relative to the rounding of a gradient over the product's size
_SAME_SLOPE = 0.3  # relative gap between slopes of the outputs that agree: kinks and curvature make less
SLOPE = 0.05  # relative gap between a gradient and differences of the loss that no rounding makes
_SAME = 1e-3  # a relative gap at two steps in a row that ends the search for better ones
# Values jump where two short steps, the second a hundredth of the first, change them by as much, and by more than this
# part of their size.
SHORT = (1e-4, 1e-6)
_JUMP, _JUMP_STAYS = 1e-3, 0.3


@dataclass(frozen=True)
class Slope:
    """The derivative of the loss along a direction, by the gradient and by differences of the loss."""

    gap: float  # relative
    gradient: float
    loss: float
    clear: bool  # whether two steps that follow each other give more nearly the same


def _gap(slope: Slope) -> float:
    return slope.gap


@dataclass(frozen=True)
class Jump:
    """How much the outputs change under two short steps, relative to their size; 0 where they follow the steps."""

    size: float
    longer: float
    names: tuple[str, ...]  # of the tensors that do it alone


@dataclass(frozen=True)
class _Near:
    """Differences of several steps against a product; gaps are relative to its size."""

    gap: float  # the smallest
    doubt: float  # the smallest between two steps that follow each other
    rounding: float  # of a gradient, over the product's size times the length that steps are relative to
    best_step: float  # between the two steps that agree best; 0 where one step was enough


@dataclass(frozen=True)
class Seen:
    """What a route did at one place."""

    symmetry: float
    near: _Near
    slope: Slope | None  # a gradient times a number is as symmetric as the loss's, and has differences as good
    product: Tensor
    size: float

    @property
    def difference(self) -> float:
        """The smallest gap to differences."""
        return self.near.gap

    @property
    def doubt(self) -> float:
        """The smallest gap between differences of two steps that follow each other."""
        return self.near.doubt

    @property
    def best_step(self) -> float:
        """Between the two steps that agree best; 0 where one step was enough."""
        return self.near.best_step

    @property
    def is_finite(self) -> bool:
        """Whether products and what they are compared with are numbers."""
        return math.isfinite(self.symmetry) and math.isfinite(self.difference)

    @property
    def allowed(self) -> float:
        """The gap that differences may have, by what they show of their own error."""
        return max(AGREES, min(_TIMES * self.doubt, DOUBT))

    def refusal(self, route: str) -> str:
        """Why the route is not right; empty where it is."""
        if not self.is_finite:
            return "its product, or a gradient it is compared with, is not finite on the first samples"
        rounded = _TIMES * self.difference if route == "finite differences" else AMPLIFIED * self.near.rounding
        if self.difference > self.allowed or self.symmetry > max(SYMMETRIC, min(rounded, _ROUNDED)):
            return (
                f"its product is off by {self.difference:.1e} of its size from central differences, and by "
                f"{self.symmetry:.1e} from symmetry"
            )
        if self.slope is not None and self.slope.clear and self.slope.gap > SLOPE:
            return (
                f"the gradient it is the derivative of is not that of the loss: {self.slope.gradient:.3g} along a "
                f"direction in which the loss changes by {self.slope.loss:.3g}"
            )
        return ""


class Trial:
    """Products of a few samples at a fixed point."""

    def __init__(
        self,
        objective: Objective,
        operator: str,
        chosen: Sequence[int],
        theta: Tensor,
        buffers: Mapping[str, Tensor] | None,
        vectors: Tensor,
        *,
        compares: bool = False,
    ) -> None:
        """`vectors` (2, size) are multiplied with; with `compares` the gradient is held against differences, too."""
        self._compares = compares
        self._objective, self._operator, self._chosen, self._buffers = objective, operator, chosen, buffers
        self._theta = theta
        self._blocks = [objective.layout.blocks[i] for i in chosen]
        self._vectors = vectors.to(objective.device, objective.dtype)
        self._moved: dict[tuple[int, float, int], tuple[Tensor, float]] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of the products."""
        return self._vectors.dtype

    def judge(self, route: str, steps: Sequence[float], step: float = 0.0) -> Seen:
        """The products of a route with two vectors, seen against each other and against differences."""
        u, v = self._vectors
        with self._bound() as parameters:
            selected = self._selected(parameters)
            chunk = self._chunk(parameters, route, step)
            hu, hv = image_rows(chunk, self._vectors, selected).detach()
            size = norm([hv])
            still = size == 0 and norm([hu]) == 0
            if still:  # a loss linear in the parameters: its differences must vanish, too
                size = norm(gradient_parts(self._loss(), selected)) or 1.0
            symmetry = abs(_dot(u, hv) - _dot(v, hu)) / (size * norm([u]))
            near = self._compared(parameters, steps, hv, size)
        return Seen(symmetry, near, self.slope if self._compares else None, hv, size)

    def gap_in_parts(self, route: str, steps: Sequence[float]) -> float:
        """The gap between the product of two parts of the samples and differences of all of them together.

        Where it is small both are seen at once: that the product is right, and that samples are not coupled. Infinite
        for batches that stay whole.
        """
        if not self._can_be_cut:
            return math.inf
        product = self._product(2, route, 0.0)
        size = norm([product])
        if size == 0:
            return math.inf
        with self._bound() as parameters:
            return self._compared(parameters, steps, product, size).gap

    def _compared(self, parameters: Parts, steps: Sequence[float], product: Tensor, size: float) -> _Near:
        """Differences against the product with the second vector."""
        if self._operator == "hessian":
            return self._near(self._gradient_differences(parameters, steps), product, size)
        form = torch.tensor([_dot(self._vectors[1], product)], dtype=torch.float64)
        return self._near(self._forms(parameters, steps), form, float(form.abs()) or 1.0)

    @cached_property
    def slope(self) -> Slope:
        """The derivative of the loss by its gradient and by its differences."""
        with self._bound() as parameters:
            return self._slope(parameters)

    def rounding(self, route: str, exact: Tensor) -> tuple[float, float]:
        """(relative gap of this precision's product to `exact`, and between two of them; graph bytes per sample)."""
        vector = self._vectors[1:]
        with self._bound() as parameters:
            chunk = self._chunk(parameters, route, 0.0)
            one, two = (image_rows(chunk, vector, self._selected(parameters))[0].detach().double() for _ in range(2))
        gaps = [norm([one - other]) for other in (exact, two)]
        return max(gaps) / (norm([exact]) or 1.0), chunk.graph_bytes / self._objective.samples

    def gap_of_parts(self, route: str, step: float, whole: Seen | None = None) -> float:
        """How far the product of the samples is from the sum of two parts' products; 0 for batches that stay whole."""
        if not self._can_be_cut:
            return 0.0
        together = self._product(1, route, step) if whole is None else whole.product
        return norm([self._product(2, route, step) - together]) / (norm([together]) or 1.0)

    def gap_of_gradients(self) -> float:
        """The same of gradients, which cost less, relative to the sizes of the parts' gradients."""
        if not self._can_be_cut:
            return 0.0
        (together,), parts = self._gradients(1), self._gradients(2)
        return norm([torch.stack(parts).sum(0) - together]) / (sum(norm([part]) for part in parts) or 1.0)

    @property
    def _can_be_cut(self) -> bool:
        return self._objective.data.divisible and self._objective.data.samples > 1

    def _cut(self, count: int) -> Objective:
        data = self._objective.data
        return self._objective.on(data, chunk=-(-data.samples // count))

    def _product(self, count: int, route: str, step: float) -> Tensor:
        """The product with the second vector, summed over `count` parts of the samples."""
        cut, total = self._cut(count), torch.zeros_like(self._vectors[1])
        with cut.differentiable(self._theta, self._buffers) as (_, parameters):
            for _, batch in cut.batches():
                chunk = chunk_of(cut, parameters, self._chosen, batch, None, self._operator, route, step)
                total += image_rows(chunk, self._vectors[1:], self._selected(parameters))[0].detach()
        return total

    def _gradients(self, count: int) -> list[Tensor]:
        """Gradients of the summed loss of each of `count` parts of the samples."""
        cut = self._cut(count)
        with cut.differentiable(self._theta, self._buffers) as (_, parameters):
            losses = (summed_loss(cut, batch, None)[0] for _, batch in cut.batches())
            return [flat(gradient_parts(loss, self._selected(parameters))).detach() for loss in losses]

    def steps(self) -> tuple[float, ...]:
        """The steps that differences may take: those long enough for a model that rounds inside.

        Under short ones such a model stays where it is, and its differences agree with each other about nothing; then
        come steps of which each says something else, then long ones that agree.
        """
        with self._bound() as parameters:
            selected, length = self._selected(parameters), length_of(parameters, self._chosen)

            def slope(step: float) -> Tensor:
                by, ((ahead, _), (behind, _)) = self._both_sides(selected, length, 1, step)
                return (ahead - behind).nan_to_num(posinf=0.0, neginf=0.0) / (2 * by)

            def apart(a: Tensor, b: Tensor) -> float:
                return norm([a - b]) / (max(norm([a]), norm([b])) or 1.0)

            shortest = slope(_STEPS[0])
            if apart(shortest, slope(_STEPS[-2])) <= _SAME_SLOPE:
                return _STEPS
            slopes = [shortest, *map(slope, _STEPS[1:])]
        agree = [apart(a, b) <= _SAME_SLOPE for a, b in pairwise(slopes)]
        last = max((i for i in range(len(agree)) if not agree[i] and any(agree[i:])), default=-1)
        return _STEPS[last + 1 :]

    def jump(self) -> Jump:
        """How the outputs change under short steps along a random direction."""
        with self._bound() as parameters:
            selected, length = self._selected(parameters), length_of(parameters, self._chosen)
            direction = self._vectors[1]
            centre = self._values()

            def change(direction: Tensor, step: float) -> float:
                by = step * length / norm([direction])
                gaps = [self._values(selected, sign * by * direction) - centre for sign in (1, -1)]
                return max(norm([gap[gap.isfinite()]]) for gap in gaps)

            short, size = change(direction, SHORT[-1]), norm([centre[centre.isfinite()]])
            if short <= _JUMP * size:
                return Jump(0.0, 0.0, ())
            longer = change(direction, SHORT[0])
            size = max(size, change(direction, _STEPS[-2])) or 1.0
            if short <= max(_JUMP_STAYS * longer, _JUMP * size):
                return Jump(0.0, 0.0, ())
            names = []
            for block, part in zip(self._blocks, torch.split(direction, [b.size for b in self._blocks]), strict=True):
                alone = torch.zeros_like(direction)
                place = int(part.storage_offset() - direction.storage_offset())
                alone[place : place + block.size] = part
                if change(alone, SHORT[-1]) > _JUMP * size:
                    names.append(block.name)
        return Jump(short / size, longer / size, tuple(names))

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _bound(self) -> Iterator[Parts]:
        with self._objective.differentiable(self._theta, self._buffers) as (_, parameters):
            yield parameters

    def _selected(self, parameters: Parts) -> list[Tensor]:
        return [parameters[i] for i in self._chosen]

    def _chunk(self, parameters: Parts, route: str, step: float) -> Chunk:
        return chunk_of(self._objective, parameters, self._chosen, self._batch(), None, self._operator, route, step)

    def _batch(self) -> Batch:
        (_, batch), *_ = self._objective.batches()
        return batch

    def _loss(self) -> Tensor:
        return summed_loss(self._objective, self._batch(), None)[0]

    def _outputs(self) -> tuple[Any, Any]:
        return self._objective.outputs(self._objective.folded(), self._batch())

    def _values(self, selected: Parts = (), shift: Tensor | None = None) -> Tensor:
        """The outputs as one vector in float64, with `shift` added to the chosen parameters."""
        with _shifted(selected, shift):
            return self._as_values(*self._outputs())

    def _as_values(self, outputs: Any, targets: Any) -> Tensor:
        floats = floats_in(outputs) or [self._objective.loss_units(outputs, targets).numerators]
        return torch.cat([t.detach().double().reshape(-1) for t in floats])

    def _both_sides(
        self, selected: Parts, length: float, vector: int, step: float
    ) -> tuple[float, list[tuple[Tensor, float]]]:
        """(distance in lengths of the vector, (outputs, loss) ahead and behind) of a step; each is computed once."""
        by = step * length / norm([self._vectors[vector]])
        for sign in (1, -1):
            if (vector, step, sign) not in self._moved:
                with _shifted(selected, sign * by * self._vectors[vector]):
                    outputs, targets = self._outputs()
                    loss = float(summed(self._objective.loss_units(outputs, targets), None)[0].detach())
                    self._moved[vector, step, sign] = self._as_values(outputs, targets), loss
        return by, [self._moved[vector, step, sign] for sign in (1, -1)]

    def _gradient_differences(self, parameters: Parts, steps: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
        """(step, difference of gradients along v over its length) of the steps, short ones first."""
        selected, length = self._selected(parameters), length_of(parameters, self._chosen)
        for step in steps:
            image = finite_difference(self._loss, selected, step * length)
            yield step, flat(image(shaped(self._vectors[1], selected))).detach()

    def _forms(self, parameters: Parts, steps: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
        """(step, v'Gv by differences of the outputs) of the steps, short ones first."""
        selected, length = self._selected(parameters), length_of(parameters, self._chosen)
        outputs, targets = self._outputs()
        point = outputs.detach().requires_grad_()
        loss, _ = summed(self._objective.loss_units(point, targets), None)
        (slope,) = torch.autograd.grad(loss, point, create_graph=True)
        for step in steps:
            by = step * length / norm([self._vectors[1]])
            found = []
            for sign in (1, -1):
                with _shifted(selected, sign * by * self._vectors[1]):
                    found.append(self._outputs()[0].detach())
            pushed = (found[0] - found[1]) / (2 * by)
            bent = (
                torch.autograd.grad(slope, point, pushed, retain_graph=True)[0] if slope.requires_grad else 0 * pushed
            )
            form = torch.tensor([float((pushed * bent).sum())], dtype=torch.float64)
            # outputs that have not moved say nothing
            yield step, form if bool(pushed.any()) else torch.zeros_like(form)

    @staticmethod
    def _near(found: Iterator[tuple[float, Tensor]], product: Tensor, size: float) -> _Near:
        """Differences against a product.

        A long step crosses kinks of ReLUs, a short one loses digits. A difference of zero says nothing, since nothing
        has moved; but where all are zero, the product must be, too.
        """
        near: list[float] = []
        apart: list[tuple[float, float, float]] = []  # (gap, step, next step)
        before: tuple[float, Tensor] | None = None
        for step, image in found:
            if not bool(image.any()):
                continue
            near.append(norm([image - product]) / size)
            if before is not None:
                apart.append((norm([image - before[1]]) / size, before[0], step))
            elif near[-1] <= CLOSE:
                return _Near(near[-1], 0.0, near[-1] * step, 0.0)
            before = step, image
            if near[-1] <= CLOSE:
                break
        apart = [entry for entry in apart if not math.isnan(entry[0])]
        if not apart:
            return _Near(_least(near) if near else norm([product]) / size, 0.0, 0.0, 0.0)
        doubt, first, second = min(apart)
        rounding = min(gap * step for gap, step, _ in apart)
        return _Near(_least(near), doubt, rounding, math.sqrt(first * second))

    def _slope(self, parameters: Parts) -> Slope:
        """Of two random directions, that along which the gradient is further from differences of the loss.

        Their gap is the smallest that two steps in a row stay below: a loss that jumps comes near by chance.
        """
        selected, length = self._selected(parameters), length_of(parameters, self._chosen)
        gradient = flat(gradient_parts(self._loss(), selected)).detach()
        worst = Slope(0.0, 0.0, 0.0, False)
        for number, vector in enumerate(self._vectors):
            along, typical = _dot(gradient, vector), norm([gradient]) * norm([vector]) / math.sqrt(len(vector))
            found: list[Slope] = []
            for step in _STEPS:
                by, ((_, ahead), (_, behind)) = self._both_sides(selected, length, number, step)
                moved = (ahead - behind) / (2 * by)
                scale = max(abs(along), abs(moved), typical / 3)
                if moved != 0 or step == _STEPS[-1]:  # else nothing has moved
                    gap = abs(moved - along) / scale if scale else 0.0
                    apart = abs(moved - found[-1].loss) if found else 0.0
                    found.append(Slope(gap, along, moved, _TIMES * apart < abs(moved - along)))
                last = [slope.gap for slope in found[-2:]]
                if last and max(last) <= (CLOSE if len(last) == 1 else _SAME):
                    break
            pairs = [replace(max(pair, key=_gap), clear=pair[1].clear) for pair in pairwise(found)] or found
            best = min(pairs, key=lambda slope: math.inf if math.isnan(slope.gap) else slope.gap)
            worst = max(worst, best, key=_gap)
        return worst


@contextmanager
def _shifted(parameters: Parts, shift: Tensor | None) -> Iterator[None]:
    """The parameters moved by `shift` (size,) where they stand, and moved back."""
    if shift is None:
        yield
        return
    centre = [p.data for p in parameters]
    try:
        for parameter, value, part in zip(parameters, centre, shaped(shift, parameters), strict=True):
            parameter.data = value + part
        yield
    finally:
        for parameter, value in zip(parameters, centre, strict=True):
            parameter.data = value


def _least(gaps: Iterable[float]) -> float:
    """The smallest of those that are numbers; NaN where none is."""
    return min((gap for gap in gaps if not math.isnan(gap)), default=math.nan)


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())
