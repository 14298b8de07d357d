"""Ways to a second-derivative product of one chunk's summed loss; each gives a function of directions.

A route makes `image`, which takes a direction shaped like the parameters to a product of that shape. Which route is
right for a network is found out on a trial, never assumed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from landscape_kernels.probes import normal_vector
from torch import Tensor
from torch.autograd import forward_ad

from landscape.errors import InputError
from landscape.objective.data import Batch
from landscape.objective.losses import Units
from landscape.objective.objective import Objective

logger = logging.getLogger(__name__)
Parts = Sequence[Tensor]
Image = Callable[[Parts], Parts]

ROUTES = {
    "hessian": ("double backward", "forward over reverse", "finite differences"),
    "ggn": ("double backward",),
}
_TRIAL_SAMPLES = 4
_AWAY = 1e-3  # the trial's distance from theta, relative to the mean size of its values
# Steps relative to |theta|. Short ones come first, since they cross few kinks of ReLUs. Long ones are for models that
# round to float32 inside.
_STEPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_AGREES = 1e-4  # relative gap allowed to differences; the silent faults known are off by tens of percent
_CLOSE = 1e-5  # a gap that ends the search for a better step
# Where differences of two steps disagree, a gap as large as theirs is allowed, but no larger than this.
_DOUBT = 0.02
# Relative asymmetry allowed: it is 1e-9 where a model rounds to float32 inside, 1e-3 where a gradient is not the loss's
_SYMMETRIC = 1e-7
_STEP_POWER = 1 / 3  # eps^(1/3) |theta|: where truncation and rounding of a central difference are alike


def double_backward(loss: Tensor, parameters: Parts) -> Image:
    """v -> Hv as the gradient of <g, v>, g the gradient of `loss` (Pearlmutter 1994); its graph is kept for more v."""
    gradients = gradient_parts(loss, parameters, create_graph=True)
    moving = [g for g in gradients if g.requires_grad]

    def image(direction: Parts) -> Parts:
        if not moving:  # a loss linear in the parameters
            return [torch.zeros_like(p) for p in parameters]
        along = [v for g, v in zip(gradients, direction, strict=True) if g.requires_grad]
        found = torch.autograd.grad(moving, parameters, along, retain_graph=True, allow_unused=True)
        return _filled(found, parameters)

    return image


def gauss_newton(outputs: Tensor, loss_of: Callable[[Tensor], Tensor], parameters: Parts) -> Image:
    """v -> J'H_L J v, J the derivative of `outputs` and H_L the Hessian of `loss_of` in them (Schraudolph 2002).

    Jv is the derivative in w of <J'w, v>, so that backward passes alone are needed; their graphs are kept for more v.
    """
    if not outputs.requires_grad:
        return lambda direction: [torch.zeros_like(p) for p in parameters]
    point = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(point), point, create_graph=True)
    weights = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, parameters, weights, create_graph=True, allow_unused=True)
    used = [i for i, part in enumerate(pulled) if part is not None and part.requires_grad]

    def image(direction: Parts) -> Parts:
        if not (used and slope.requires_grad):
            return [torch.zeros_like(p) for p in parameters]
        (pushed,) = torch.autograd.grad(
            [pulled[i] for i in used], weights, [direction[i] for i in used], retain_graph=True
        )
        (bent,) = torch.autograd.grad(slope, point, pushed, retain_graph=True)
        return _filled(torch.autograd.grad(outputs, parameters, bent, retain_graph=True, allow_unused=True), parameters)

    return image


def forward_over_reverse(loss_at: Callable[[Parts], Tensor], parameters: Parts) -> Image:
    """v -> Hv as the tangent of the gradient at theta + eps v, by dual numbers; nothing is kept between directions."""

    def image(direction: Parts) -> Parts:
        leaves = [p.detach().requires_grad_() for p in parameters]
        with forward_ad.dual_level():
            pairs = zip(leaves, direction, strict=True)
            duals = [forward_ad.make_dual(leaf, v) for leaf, v in pairs]  # type: ignore[no-untyped-call]
            gradients = torch.autograd.grad(loss_at(duals), leaves, allow_unused=True)
            tangents = [
                None if g is None else forward_ad.unpack_dual(g).tangent  # type: ignore[no-untyped-call]
                for g in gradients
            ]
        return _filled([None if t is None else t.detach() for t in tangents], parameters)

    return image


def finite_difference(loss_now: Callable[[], Tensor], parameters: Parts, length: float) -> Image:
    """v -> (g(theta + h v) - g(theta - h v)) / 2h, h |v| = `length`: right to its square and to rounding over it.

    The parameters are moved where they stand, and moved back.
    """

    def gradients_at(points: Parts) -> Parts:
        for parameter, point in zip(parameters, points, strict=True):
            parameter.data = point
        return gradient_parts(loss_now(), parameters)

    def image(direction: Parts) -> Parts:
        norm = _norm(direction)
        if norm == 0:
            return [torch.zeros_like(p) for p in parameters]
        step = length / norm
        centre = [p.data for p in parameters]
        try:
            ahead, behind = (
                gradients_at([c + sign * step * v for c, v in zip(centre, direction, strict=True)]) for sign in (1, -1)
            )
        finally:
            for parameter, value in zip(parameters, centre, strict=True):
                parameter.data = value
        return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]

    return image


def gradient_parts(loss: Tensor, parameters: Parts, *, create_graph: bool = False) -> Parts:
    """The gradient of `loss`, zeros for parameters it does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(loss, parameters, create_graph=create_graph, allow_unused=True)
    return _filled(found, parameters)


def _filled(found: Sequence[Tensor | None], parameters: Parts) -> Parts:
    return [torch.zeros_like(p) if part is None else part for part, p in zip(found, parameters, strict=True)]


@dataclass(frozen=True)
class Chunk:
    """Products of the summed loss of one batch."""

    image: Image
    denominators: float  # their sum
    graph_bytes: int  # what keeping it for more products holds; 0: nothing is gained by keeping it


def summed_loss(objective: Objective, batch: Batch, weights: Tensor | None) -> tuple[Tensor, float]:
    """(sum of the loss' numerators, each times its sample's weight, sum of the denominators) where the model is."""
    return _sums(objective.loss_units(*objective.outputs(objective.folded(), batch)), weights)


def _sums(units: Units, weights: Tensor | None) -> tuple[Tensor, float]:
    if units.denominators is not None and units.denominators.requires_grad:
        raise InputError(
            "the loss' denominators depend on the parameters, so its mean is no sum over samples and its Hessian no "
            "sum over batches; return (numerators, denominators) with denominators made of the data alone"
        )
    if weights is None:
        return units.numerators.sum(), units.total
    if not units.per_sample:
        raise InputError(
            "importance sampling weighs samples, and the loss gives one value per batch; return values per sample"
        )
    return (units.numerators * weights.to(units.numerators)).sum(), units.total


def chunk_of(
    objective: Objective,
    parameters: Parts,
    chosen: Sequence[int],
    batch: Batch,
    weights: Tensor | None,
    operator: str,
    route: str,
) -> Chunk:
    """Products of the summed loss of one batch with the `chosen` of the bound parameters."""
    selected = [parameters[i] for i in chosen]
    if route in ("finite differences", "forward over reverse"):
        with torch.no_grad():
            _, count = summed_loss(objective, batch, weights)
        if route == "finite differences":
            length = torch.finfo(objective.dtype).eps ** _STEP_POWER * (_norm(selected) or 1.0)
            image = finite_difference(lambda: summed_loss(objective, batch, weights)[0], selected, length)
            return Chunk(image, count, 0)

        def plain(model: Any, batch: Batch) -> Tensor:  # folded convolutions have no forward derivatives
            return _sums(objective.loss_units(*objective.outputs(model, batch)), weights)[0]

        def loss_at(values: Parts) -> Tensor:
            given = list(parameters)
            for i, value in zip(chosen, values, strict=True):
                given[i] = value
            return objective.call_with(given, plain, batch)

        return Chunk(forward_over_reverse(loss_at, selected), count, 0)
    saved = _SavedBytes()
    with saved:
        if operator == "ggn":
            outputs, targets = objective.outputs(objective.folded(), batch)
            if not isinstance(outputs, Tensor):
                raise InputError(f"operator='ggn' needs outputs that are one tensor, not {type(outputs).__name__}")
            _, count = _sums(objective.loss_units(outputs.detach(), targets), weights)
            image = gauss_newton(outputs, lambda o: _sums(objective.loss_units(o, targets), weights)[0], selected)
        else:
            loss, count = summed_loss(objective, batch, weights)
            image = double_backward(loss, selected)
    return Chunk(image, count, saved.bytes)


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what a graph keeps for its backward passes."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an operation that keeps its own result would keep itself alive for ever by it

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())


@dataclass(frozen=True)
class ProductCheck:
    """What a route was seen to do on a few samples before it was used; gaps are relative to |Hv|."""

    route: str  # how products are computed
    symmetry: float  # |u'Hv - v'Hu|
    difference: float  # gap to central differences
    rounding: float  # gap between the working precision and float64, and between two repeats: noise of a product
    graph_bytes: float  # per sample, of a graph kept from product to product
    refused: Mapping[str, str]  # route -> why it is not used


def check_products(
    objective: Objective, operator: str, chosen: Sequence[int], theta: Tensor, buffers: Mapping[str, Tensor] | None
) -> ProductCheck:
    """Try the routes of `operator` in order on a few samples; the first that gives the right products is taken.

    In float64, a small random step away from theta (exact zeros, where ReLUs have no derivative, are gone there):
    u'Hv = v'Hu, and Hv against central differences of gradients (for the Gauss-Newton matrix v'Gv against those of
    the outputs). Raises InputError where no route is right, saying why each is not.
    """
    few = objective.data.head(_TRIAL_SAMPLES)
    native = objective.on(few)
    trial = _Trial(objective.on(few, precision="float64"), operator, chosen, theta, buffers)
    refused: dict[str, str] = {}
    for route in ROUTES[operator]:
        try:
            symmetry, difference, doubt, product = trial.judge(route)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            refused[route] = str(error).partition("\n")[0]
            continue
        if not (math.isfinite(difference) and math.isfinite(symmetry)):
            refused[route] = "its product, or a gradient it is compared with, is not finite on the first samples"
            continue
        if difference > max(_AGREES, min(doubt, _DOUBT)) or symmetry > _SYMMETRIC:
            refused[route] = (
                f"its product is off by {difference:.1e} of its size from central differences, and by {symmetry:.1e} "
                "from symmetry"
            )
            continue
        if route == "finite differences":  # in float64 whatever the working precision
            rounding, graph_bytes = difference, 0.0
        else:
            rounding, graph_bytes = _Trial(native, operator, chosen, theta, buffers).rounding(route, product)
        for other, reason in refused.items():
            logger.warning("%s is not used for %s products: %s", other, operator, reason)
        return ProductCheck(route, symmetry, difference, rounding, graph_bytes, refused)
    raise InputError(
        f"no route to {operator} products is right for this model:\n"
        + "\n".join(f"  {route}: {reason}" for route, reason in refused.items())
        + "\nA layer has no second derivative, or a wrong one (old weight_norm, custom autograd functions and fused "
        "kernels are known for it), or its gradient is not that of the loss (an embedding whose padding_idx stands in "
        "the data). Use torch.nn.utils.parametrizations, plain torch operations, or params= to leave "
        "that layer out."
    )


class _Trial:
    """Products of a few samples at a fixed point."""

    def __init__(
        self,
        objective: Objective,
        operator: str,
        chosen: Sequence[int],
        theta: Tensor,
        buffers: Mapping[str, Tensor] | None,
    ) -> None:
        self._objective, self._operator, self._chosen, self._buffers = objective, operator, chosen, buffers
        step = normal_vector(theta.numel(), 0, "self-check").to(theta.device)
        wide = theta.double()
        self._theta = wide + _AWAY * (float(wide.abs().mean()) or 1.0) * step
        blocks = [objective.layout.blocks[i] for i in chosen]
        size = sum(block.size for block in blocks)
        self._shapes = [block.shape for block in blocks]
        self._u, self._v = (self._parts(normal_vector(size, 0, "self-check", i)) for i in range(2))

    def judge(self, route: str) -> tuple[float, float, float, Parts]:
        """(gap to symmetry, gap to central differences, least gap between two of these, Hv) of a route."""
        with self._objective.differentiable(self._theta, self._buffers) as (_, parameters):
            image = self._chunk(parameters, route).image
            hu, hv = (_detached(image(w)) for w in (self._u, self._v))
            scale = _norm(hv)
            if scale == 0 and _norm(hu) == 0:  # a loss linear in the parameters: its differences must vanish, too
                scale = _norm(gradient_parts(self._loss(), [parameters[i] for i in self._chosen])) or 1.0
            symmetry = abs(_dot(self._u, hv) - _dot(self._v, hu)) / (scale * _norm(self._u))
            return symmetry, *self._difference(parameters, hv, scale), hv

    def rounding(self, route: str, exact: Parts) -> tuple[float, float]:
        """(relative gap of this precision's product to `exact`, and between two of them; graph bytes per sample)."""
        with self._objective.differentiable(self._theta, self._buffers) as (_, parameters):
            chunk = self._chunk(parameters, route)
            one, two = (_detached(chunk.image(self._v)) for _ in range(2))
        scale = _norm(exact) or 1.0
        gaps = [[a.double() - b.double() for a, b in zip(one, other, strict=True)] for other in (exact, two)]
        return max(_norm(gap) for gap in gaps) / scale, chunk.graph_bytes / self._objective.samples

    def _chunk(self, parameters: Parts, route: str) -> Chunk:
        return chunk_of(self._objective, parameters, self._chosen, self._batch(), None, self._operator, route)

    def _batch(self) -> Batch:
        (_, batch), *_ = self._objective.batches()
        return batch

    def _loss(self) -> Tensor:
        return summed_loss(self._objective, self._batch(), None)[0]

    def _difference(self, parameters: Parts, hv: Parts, scale: float) -> tuple[float, float]:
        """(smallest gap over a few steps, smallest gap between two steps that follow each other).

        A long step crosses kinks of ReLUs, a short one loses digits.
        """
        selected = [parameters[i] for i in self._chosen]
        lengths = [step * _norm(selected) for step in _STEPS]
        if self._operator == "hessian":
            near: list[float] = []
            apart: list[float] = []
            before: Parts | None = None
            for length in lengths:
                image = finite_difference(self._loss, selected, length)(self._v)
                near.append(_gap(image, hv) / scale)
                if before is not None:
                    apart.append(_gap(image, before) / scale)
                before = image
                if near[-1] <= _CLOSE:
                    break
            return _least(near), _least(apart) if apart else 0.0
        outputs, targets = self._objective.outputs(self._objective.folded(), self._batch())
        point = outputs.detach().requires_grad_()
        loss, _ = _sums(self._objective.loss_units(point, targets), None)
        (slope,) = torch.autograd.grad(loss, point, create_graph=True)
        form = _dot(self._v, hv)
        gaps: list[float] = []
        for length in lengths:
            pushed = self._pushed(selected, length)
            bent = (
                torch.autograd.grad(slope, point, pushed, retain_graph=True)[0] if slope.requires_grad else 0 * pushed
            )
            gaps.append(abs(float((pushed * bent).sum()) - form) / (abs(form) or 1.0))
        return _least(gaps), 0.0

    @torch.no_grad()
    def _pushed(self, selected: Parts, length: float) -> Tensor:
        """Jv of the outputs by a central difference."""
        step = length / _norm(self._v)
        centre = [p.data for p in selected]
        found: list[Tensor] = []
        try:
            for sign in (1, -1):
                for parameter, c, v in zip(selected, centre, self._v, strict=True):
                    parameter.data = c + sign * step * v
                found.append(self._objective.outputs(self._objective.folded(), self._batch())[0])
        finally:
            for parameter, c in zip(selected, centre, strict=True):
                parameter.data = c
        return (found[0] - found[1]) / (2 * step)

    def _parts(self, vector: Tensor) -> Parts:
        moved = vector.to(self._objective.device, self._objective.dtype)
        sizes = [math.prod(shape) for shape in self._shapes]
        return [part.view(shape) for part, shape in zip(torch.split(moved, sizes), self._shapes, strict=True)]


def _least(gaps: Iterable[float]) -> float:
    """The smallest of those that are numbers; NaN where none is."""
    return min((gap for gap in gaps if not math.isnan(gap)), default=math.nan)


def _detached(parts: Parts) -> Parts:
    return [part.detach().clone() for part in parts]


def _norm(parts: Parts) -> float:
    return math.sqrt(sum(float(part.detach().double().square().sum()) for part in parts))


def _gap(first: Parts, second: Parts) -> float:
    return _norm([a - b for a, b in zip(first, second, strict=True)])


def _dot(first: Parts, second: Parts) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
