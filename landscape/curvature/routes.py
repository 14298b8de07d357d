"""Ways to a second-derivative product of one chunk's summed loss; each gives a function of directions.

A route makes `image`, which takes a direction shaped like the parameters to a product of that shape. Which route is
right for a network is found out on a trial, never assumed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from landscape_kernels.probes import normal_vector
from torch import Tensor
from torch.autograd import forward_ad

from landscape.errors import InputError, UserCodeError, raised_by
from landscape.objective.data import Batch
from landscape.objective.losses import Units
from landscape.objective.model import aligned, as_real, shaped_like
from landscape.objective.objective import Objective
from landscape.objective.trees import floats_in

logger = logging.getLogger(__name__)
Parts = Sequence[Tensor]
Image = Callable[[Parts], Parts]

ROUTES = {
    "hessian": ("double backward", "forward over reverse", "finite differences"),
    "ggn": ("double backward",),
}
_TRIAL_SAMPLES = 4
_AWAY = 1e-3  # the trial's distance from theta, relative to the mean size of its values
# Steps relative to the length that `_length` gives. Short ones come first, since they cross few kinks of ReLUs. Long
# ones are for models that round to float32 inside.
_STEPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_AGREES = 1e-4  # relative gap allowed to differences; the silent faults known are off by tens of percent
_CLOSE = 1e-5  # a gap that ends the search for a better step
# Where differences of two steps disagree, a gap of a few times theirs is allowed, but no larger than this.
_DOUBT, _TIMES = 0.02, 3.0
# Relative asymmetry allowed: 1e-3 is seen where a gradient is not the loss's. More than the first, up to the second, is
# allowed where two steps show that gradients are rounded by more than float64 does.
_SYMMETRIC, _ROUNDED = 1e-7, 1e-3
_AMPLIFIED = 100.0  # asymmetry, relative to the rounding of a gradient over the product's size
_COUPLED = 1e-6  # relative gap between samples together and in parts that no rounding of float64 makes
_STEP_POWER = 1 / 3  # eps^(1/3) |theta|: where truncation and rounding of a central difference are alike
_SAME_SLOPE = 0.3  # relative gap between slopes of the outputs that agree: kinks and curvature make less
_SLOPE = 0.05  # relative gap between a gradient and differences of the loss that no rounding makes
# Values jump at theta where two short steps, the second a hundredth of the first, change them by as much, by more than
# this part of their size, and by many times as much as beside theta.
_SHORT = (1e-4, 1e-6)
_JUMP, _JUMP_STAYS, _JUMP_STANDS_OUT = 1e-3, 0.3, 10.0


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


def _length(parameters: Parts, chosen: Sequence[int]) -> float:
    """What steps are relative to: the larger of the chosen weights' norm and their share of the whole vector's."""
    selected = [parameters[i] for i in chosen]
    count, size = (sum(as_real(p).numel() for p in parts) for parts in (selected, parameters))
    if count == size:
        return _norm(selected) or 1.0
    return max(_norm(selected), _norm(parameters) * math.sqrt(count / size)) or 1.0


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
    return [torch.zeros_like(p) if part is None else _dense(part) for part, p in zip(found, parameters, strict=True)]


def _dense(part: Tensor) -> Tensor:
    """The same values in strided memory: an Embedding with sparse=True has gradients that are not."""
    return part if part.layout == torch.strided else part.to_dense()


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
    step: float = 0.0,
) -> Chunk:
    """Products of the summed loss of one batch with the `chosen` of the bound parameters.

    `step` is that of finite differences, relative to `_length`; eps^(1/3) where it is 0.
    """
    selected = [parameters[i] for i in chosen]
    if route in ("finite differences", "forward over reverse"):
        _, count = summed_loss(objective, batch, weights)
        if route == "finite differences":
            length = (step or torch.finfo(objective.dtype).eps ** _STEP_POWER) * _length(parameters, chosen)
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


def image_rows(chunk: Chunk, vectors: Tensor, parameters: Parts) -> Tensor:
    """(b, size) products of a chunk with the rows of `vectors` (b, size); `parameters` are those multiplied with."""
    return torch.stack([flat(chunk.image(_shaped(vector, parameters))) for vector in vectors])


def flat(parts: Parts) -> Tensor:
    """(size,), the values of all parts, of complex ones real and imaginary parts in turn."""
    return torch.cat([as_real(part).reshape(-1) for part in parts])


def _shaped(vector: Tensor, parameters: Parts) -> Parts:
    """Parts of `vector` (size,) shaped like the parameters; copies where a view would not be aligned."""
    pieces = vector.split_with_sizes([as_real(p).numel() for p in parameters])
    return [shaped_like(p, aligned(piece), as_real(p).shape) for piece, p in zip(pieces, parameters, strict=True)]


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what a graph keeps for its backward passes."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:  # another has no storage of its own to count
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
    rounding: float  # gap between the working precision and the trial's, and between two repeats: noise of a product
    graph_bytes: float  # per sample, of a graph kept from product to product
    refused: Mapping[str, str]  # route -> why it is not used
    precision: str = "float64"  # of the trial, and of finite differences
    in_float64: str = ""  # why the trial was not made in float64
    step: float = 0.0  # of finite differences, relative (see `chunk_of`); 0: as the precision has it
    at_theta: float = 0.0  # gap to central differences at theta itself; large at a kink
    parts: float = 0.0  # gap between samples together and in two parts


def check_products(
    objective: Objective, operator: str, chosen: Sequence[int], theta: Tensor, buffers: Mapping[str, Tensor] | None
) -> ProductCheck:
    """Try the routes of `operator` in order on a few samples; the first that gives the right products is taken.

    In float64, a small random step away from theta (exact zeros, where ReLUs have no derivative, are gone there):
    u'Hv = v'Hu, and Hv against central differences of gradients (for the Gauss-Newton matrix v'Gv against those of
    the outputs). How far they may be apart follows from the rounding that differences of two steps show. Then at theta
    itself, where a product must be finite, and the same for samples together and in parts. A model that does not run
    in float64 is tried in its own precision.

    Raises InputError where no route is right, saying why each is not, where the outputs jump at theta, and where
    products of a sample depend on the other samples of its batch.
    """
    few = objective.data.head(_TRIAL_SAMPLES)
    own = "float64" if objective.precision == "float64" else "float32"
    refused: dict[str, str] = {}  # by what they give
    raised: dict[str, str] = {}
    reason = ""
    trials = None
    for precision in dict.fromkeys(("float64", own)):
        if set(ROUTES[operator]) <= refused.keys():
            break
        try:
            tried = objective.on(few, precision=precision)
        except Exception as error:  # whatever the model and its loss do in a precision that they were not made for
            reason = raised_by(error)
            continue
        trials = _Trials(tried, objective.on(few), operator, chosen, theta, buffers)
        for route in (r for r in ROUTES[operator] if r not in refused):
            try:
                check = trials.of(route)
            except Exception as error:  # a hook, a missing derivative, a precision: the next may do without
                if isinstance(error, InputError) and not isinstance(error, UserCodeError):
                    raise
                raised[route] = raised_by(error)
                continue
            if isinstance(check, str):
                refused[route] = check
                continue
            told = {r: (raised | refused)[r] for r in ROUTES[operator] if r in raised | refused and r != route}
            for other, why in told.items():
                logger.warning("%s is not used for %s products: %s", other, operator, why)
            if precision != "float64":
                reason = reason or raised[route]
                logger.warning(
                    "%s products were tried in %s, because the model does not run in float64: %s",
                    *(operator, precision, reason),
                )
            return replace(check, refused=told, precision=precision, in_float64=reason)
    told = {r: (raised | refused)[r] for r in ROUTES[operator] if r in raised | refused}
    raise InputError(_no_route(operator, told, reason, trials))


def _no_route(operator: str, why: Mapping[str, str], in_float64: str, trials: _Trials | None) -> str:
    """What is said where no route is right, with the cause that was seen."""
    lines = [f"no route to {operator} products is right for this model:"]
    lines += [f"  {route}: {reason}" for route, reason in why.items()]
    if in_float64:
        lines.append(f"  in float64: {in_float64}")
    parts = 0.0 if trials is None else trials.parts()
    if parts > _COUPLED:
        return "\n".join([*lines, _coupled(operator, parts)])
    slope = None if trials is None else trials.slope()
    asymmetry = 0.0 if trials is None else trials.asymmetry
    if slope is not None and (slope.gap > _SLOPE or asymmetry):
        seen = f"along a random direction it is {slope.gradient:.3g}, and the loss itself changes by {slope.loss:.3g}"
        if slope.gap <= _SLOPE:
            seen = f"its differences are off from symmetry by {asymmetry:.1e}, and those of a gradient are symmetric"
        lines.append(
            f"The gradient that backward gives is not that of the loss: {seen}. detach() and no_grad() inside the "
            "model do that, straight-through and surrogate gradients, rounding inside (quantisation, half precision), "
            "an embedding whose padding_idx stands in the data, checkpoint() with use_reentrant=True (give False), and "
            "implicit layers whose derivative is switched off in eval mode. Where a module has its derivative in train "
            "mode alone, call its .train() inside forward=. Otherwise there is no Hessian that these derivatives are "
            "of: use params= to leave those tensors out; "
            "surfaces, profiles and paths take values of the loss alone, and are right."
        )
    else:
        lines.append(
            "A layer has no second derivative, or a wrong one: weight_norm (the old one and, in torch 2.13, that of "
            "torch.nn.utils.parametrizations for every integer dim), custom autograd functions and fused kernels are "
            "known for it. Write the layer in plain torch operations, take a parametrization off "
            "(torch.nn.utils.parametrize.remove_parametrizations), or use params= to leave that layer out."
        )
    return "\n".join(lines)


def _coupled(operator: str, parts: float) -> str:
    return (
        f"{operator} products of a sample depend on the other samples of its batch: of {_TRIAL_SAMPLES} samples "
        f"together and in two parts they differ by {parts:.1e} of their size. Products are summed over other batches "
        "than values, so they would be the derivatives of another function than that which is evaluated. Where a "
        "solver chooses its steps for a whole batch, fix them or tighten its tolerances; or say how batches are made: "
        "pass a list of batches with forward=, and both see the same."
    )


class _Trials:
    """The trial beside theta, the trial at theta, and the one in the working precision."""

    def __init__(
        self,
        tried: Objective,
        native: Objective,
        operator: str,
        chosen: Sequence[int],
        theta: Tensor,
        buffers: Mapping[str, Tensor] | None,
    ) -> None:
        wide = theta.double()
        step = normal_vector(theta.numel(), 0, "self-check").to(theta.device)
        away = wide + _AWAY * (float(wide.abs().mean()) or 1.0) * step
        self._operator = operator
        self._away, self._here = (_Trial(tried, operator, chosen, at, buffers) for at in (away, wide))
        self._native = _Trial(native, operator, chosen, away, buffers)
        self._steps: tuple[float, ...] = ()
        self.asymmetry = 0.0  # of the gradient's own differences, where they are seen far better than that
        self._continuous = False  # whether it was seen that values do not jump at theta

    def of(self, route: str) -> ProductCheck | str:
        """What a route was seen to do; the reason where it is not right."""
        step = 0.0
        if not self._steps:
            self._steps = self._away.steps()
        seen = self._away.judge(route, self._steps)
        if route == "finite differences" and seen.refusal(route) and seen.best_step:
            step = seen.best_step  # a model that rounds inside needs a longer one
            seen = self._away.judge(route, self._steps, step)
        if seen.refusal(route):
            if route == "finite differences" and seen.symmetry > max(_SYMMETRIC, _AMPLIFIED * seen.difference):
                self.asymmetry = seen.symmetry
            return seen.refusal(route)
        self._require_no_jump()
        here = self._here.judge(route, self._steps, step)
        if not here.is_finite:
            return "its product, or a gradient it is compared with, is not finite at theta itself on the first samples"
        if here.refusal(route):
            if route == "finite differences":
                return f"at theta itself {here.refusal(route)}"
            if here.doubt <= _DOUBT:
                logger.warning(
                    "at theta itself differences of gradients are off by %.1e of the size of a %s product, and not "
                    "beside it: the second derivative jumps there, and products are those of one side",
                    *(here.difference, self._operator),
                )
        parts = self._here.gap_of_parts(route, step, here)
        if parts > here.allowed:
            raise InputError(_coupled(self._operator, parts))
        if route == "finite differences":  # in the trial's precision whatever the working precision
            rounding, graph_bytes = seen.difference, 0.0
        else:
            rounding, graph_bytes = self._native.rounding(route, seen.product)
            rounding = max(rounding, seen.symmetry if self._native.dtype == seen.product.dtype else 0.0)
        return ProductCheck(
            *(route, seen.symmetry, seen.difference, rounding, graph_bytes, {}),
            step=step,
            at_theta=here.difference,
            parts=parts,
        )

    def _require_no_jump(self) -> None:
        """Raise InputError where values jump at theta, and do not beside it."""
        if self._continuous:
            return
        here = self._here.jump()
        if here.size > 0 and here.size > _JUMP_STANDS_OUT * self._away.jump().size:
            raise InputError(
                f"the model's values jump at theta: a step of {_SHORT[-1]:.0e} of the parameters' length changes the "
                f"outputs by {here.size:.2g} of their size, and one of {_SHORT[0]:.0e} by {here.longer:.2g}. There is "
                f"no Hessian at a jump. The tensors that do it: {', '.join(here.names) or 'none by itself'}. Leave "
                "them out by params=, or write the layer without a jump (torch's parametrizations.orthogonal of a "
                "weight that is not square has one: its Householder map truncates to whole numbers, "
                "orthogonal_map='cayley' and 'matrix_exp' do not)."
            )
        self._continuous = True

    def parts(self) -> float:
        """The gap between samples together and in parts by plain double backward; 0 where it cannot be had."""
        try:
            return self._here.gap_of_parts("double backward", 0.0, self._here.judge("double backward", ()))
        except Exception:  # the route was refused for it, which is told
            return 0.0

    def slope(self) -> _Slope | None:
        """The gradient against differences of the loss, beside theta; None where they cannot be had."""
        try:
            return self._away.slope()
        except Exception:  # a route was refused for it, which is told
            return None


@dataclass(frozen=True)
class _Slope:
    """The derivative of the loss along a direction, by the gradient and by differences of the loss."""

    gap: float  # relative
    gradient: float
    loss: float
    clear: bool  # whether two steps that follow each other give more nearly the same


def _gap(slope: _Slope) -> float:
    return slope.gap


@dataclass(frozen=True)
class _Jump:
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
class _Seen:
    """What a route did at one place."""

    symmetry: float
    near: _Near
    slope: _Slope | None  # looked at where the rest leaves room for a gradient that is not the loss's
    product: Tensor
    size: float

    @property
    def difference(self) -> float:
        return self.near.gap

    @property
    def doubt(self) -> float:
        return self.near.doubt

    @property
    def best_step(self) -> float:
        return self.near.best_step

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.symmetry) and math.isfinite(self.difference)

    @property
    def allowed(self) -> float:
        """The gap that differences may have, by what they show of their own error."""
        return max(_AGREES, min(_TIMES * self.doubt, _DOUBT))

    def refusal(self, route: str) -> str:
        """Why the route is not right; empty where it is."""
        if not self.is_finite:
            return "its product, or a gradient it is compared with, is not finite on the first samples"
        rounded = _TIMES * self.difference if route == "finite differences" else _AMPLIFIED * self.near.rounding
        if self.difference > self.allowed or self.symmetry > max(_SYMMETRIC, min(rounded, _ROUNDED)):
            return (
                f"its product is off by {self.difference:.1e} of its size from central differences, and by "
                f"{self.symmetry:.1e} from symmetry"
            )
        if self.slope is not None and self.slope.clear and self.slope.gap > _SLOPE:
            return (
                f"the gradient it is the derivative of is not that of the loss: {self.slope.gradient:.3g} along a "
                f"direction in which the loss changes by {self.slope.loss:.3g}"
            )
        return ""


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
        self._theta = theta
        self._blocks = [objective.layout.blocks[i] for i in chosen]
        size = sum(block.size for block in self._blocks)
        self._vectors = torch.stack([normal_vector(size, 0, "self-check", i) for i in range(2)]).to(
            objective.device, objective.dtype
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the products."""
        return self._vectors.dtype

    def judge(self, route: str, steps: Sequence[float], step: float = 0.0) -> _Seen:
        """The products of a route with two vectors, seen against each other and against differences."""
        u, v = self._vectors
        with self._bound() as parameters:
            selected = self._selected(parameters)
            chunk = self._chunk(parameters, route, step)
            hu, hv = image_rows(chunk, self._vectors, selected).detach()
            size = _norm([hv])
            still = size == 0 and _norm([hu]) == 0
            if still:  # a loss linear in the parameters: its differences must vanish, too
                size = _norm(gradient_parts(self._loss(), selected)) or 1.0
            symmetry = abs(_dot(u, hv) - _dot(v, hu)) / (size * _norm([u]))
            if self._operator == "hessian":
                near = self._near(self._gradient_differences(parameters, steps), hv, size)
            else:
                form = torch.tensor([_dot(v, hv)], dtype=torch.float64)
                near = self._near(self._forms(parameters, steps), form, float(form.abs()) or 1.0)
            slope = self._slope(parameters) if still or symmetry > _SYMMETRIC else None
        return _Seen(symmetry, near, slope, hv, size)

    def slope(self) -> _Slope:
        """The derivative of the loss by its gradient and by its differences."""
        with self._bound() as parameters:
            return self._slope(parameters)

    def rounding(self, route: str, exact: Tensor) -> tuple[float, float]:
        """(relative gap of this precision's product to `exact`, and between two of them; graph bytes per sample)."""
        vector = self._vectors[1:]
        with self._bound() as parameters:
            chunk = self._chunk(parameters, route, 0.0)
            one, two = (image_rows(chunk, vector, self._selected(parameters))[0].detach().double() for _ in range(2))
        gaps = [_norm([one - other]) for other in (exact, two)]
        return max(gaps) / (_norm([exact]) or 1.0), chunk.graph_bytes / self._objective.samples

    def gap_of_parts(self, route: str, step: float, whole: _Seen) -> float:
        """How far the product of the samples is from the sum of two parts' products; 0 for batches that stay whole."""
        data = self._objective.data
        if not data.divisible or data.samples < 2:
            return 0.0
        halves = self._objective.on(data, chunk=-(-data.samples // 2))
        with halves.differentiable(self._theta, self._buffers) as (_, parameters):
            total = torch.zeros_like(whole.product)
            for _, batch in halves.batches():
                chunk = chunk_of(halves, parameters, self._chosen, batch, None, self._operator, route, step)
                total += image_rows(chunk, self._vectors[1:], self._selected(parameters))[0].detach()
        return _norm([total - whole.product]) / whole.size

    def steps(self) -> tuple[float, ...]:
        """The steps that differences may take: those long enough for a model that rounds inside.

        Under short ones such a model stays where it is, and its differences agree with each other about nothing; then
        come steps of which each says something else, then long ones that agree.
        """
        with self._bound() as parameters:
            selected, length = self._selected(parameters), _length(parameters, self._chosen)

            def slope(step: float) -> Tensor:
                by = step * length / _norm([self._vectors[1]])
                ahead, behind = (self._values(selected, sign * by * self._vectors[1]) for sign in (1, -1))
                return (ahead - behind).nan_to_num(posinf=0.0, neginf=0.0) / (2 * by)

            def apart(a: Tensor, b: Tensor) -> float:
                return _norm([a - b]) / (max(_norm([a]), _norm([b])) or 1.0)

            shortest = slope(_STEPS[0])
            if apart(shortest, slope(_STEPS[-2])) <= _SAME_SLOPE:
                return _STEPS
            slopes = [shortest, *map(slope, _STEPS[1:])]
        agree = [apart(a, b) <= _SAME_SLOPE for a, b in pairwise(slopes)]
        last = max((i for i in range(len(agree)) if not agree[i] and any(agree[i:])), default=-1)
        return _STEPS[last + 1 :]

    def jump(self) -> _Jump:
        """How the outputs change under short steps along a random direction."""
        with self._bound() as parameters:
            selected, length = self._selected(parameters), _length(parameters, self._chosen)
            direction = self._vectors[1]
            centre = self._values()

            def change(direction: Tensor, step: float) -> float:
                by = step * length / _norm([direction])
                gaps = [self._values(selected, sign * by * direction) - centre for sign in (1, -1)]
                return max(_norm([gap[gap.isfinite()]]) for gap in gaps)

            longer, short = (change(direction, step) for step in _SHORT)
            if short <= _JUMP_STAYS * longer:
                return _Jump(0.0, 0.0, ())
            size = max(_norm([centre[centre.isfinite()]]), change(direction, _STEPS[-2])) or 1.0
            if short <= _JUMP * size:
                return _Jump(0.0, 0.0, ())
            names = []
            for block, part in zip(self._blocks, torch.split(direction, [b.size for b in self._blocks]), strict=True):
                alone = torch.zeros_like(direction)
                place = int(part.storage_offset() - direction.storage_offset())
                alone[place : place + block.size] = part
                if change(alone, _SHORT[-1]) > _JUMP * size:
                    names.append(block.name)
        return _Jump(short / size, longer / size, tuple(names))

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
            outputs, targets = self._outputs()
        floats = floats_in(outputs) or [self._objective.loss_units(outputs, targets).numerators]
        return torch.cat([t.detach().double().reshape(-1) for t in floats])

    def _gradient_differences(self, parameters: Parts, steps: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
        """(step, difference of gradients along v over its length) of the steps, short ones first."""
        selected, length = self._selected(parameters), _length(parameters, self._chosen)
        for step in steps:
            image = finite_difference(self._loss, selected, step * length)
            yield step, flat(image(_shaped(self._vectors[1], selected))).detach()

    def _forms(self, parameters: Parts, steps: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
        """(step, v'Gv by differences of the outputs) of the steps, short ones first."""
        selected, length = self._selected(parameters), _length(parameters, self._chosen)
        outputs, targets = self._outputs()
        point = outputs.detach().requires_grad_()
        loss, _ = _sums(self._objective.loss_units(point, targets), None)
        (slope,) = torch.autograd.grad(loss, point, create_graph=True)
        for step in steps:
            by = step * length / _norm([self._vectors[1]])
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
            near.append(_norm([image - product]) / size)
            if before is not None:
                apart.append((_norm([image - before[1]]) / size, before[0], step))
            elif near[-1] <= _CLOSE:
                return _Near(near[-1], 0.0, near[-1] * step, 0.0)
            before = step, image
            if near[-1] <= _CLOSE:
                break
        apart = [entry for entry in apart if not math.isnan(entry[0])]
        if not apart:
            return _Near(_least(near) if near else _norm([product]) / size, 0.0, 0.0, 0.0)
        doubt, first, second = min(apart)
        rounding = min(gap * step for gap, step, _ in apart)
        return _Near(_least(near), doubt, rounding, math.sqrt(first * second))

    def _slope(self, parameters: Parts) -> _Slope:
        """Of two random directions, that along which the gradient is further from differences of the loss.

        Their gap is the smallest that two steps in a row stay below: a loss that jumps comes near by chance.
        """
        selected, length = self._selected(parameters), _length(parameters, self._chosen)
        gradient = flat(gradient_parts(self._loss(), selected)).detach()
        worst = _Slope(0.0, 0.0, 0.0, False)
        for vector in self._vectors:
            along, typical = _dot(gradient, vector), _norm([gradient]) * _norm([vector]) / math.sqrt(len(vector))
            found: list[_Slope] = []
            for step in _STEPS:
                by = step * length / _norm([vector])
                ahead, behind = (self._loss_at(selected, sign * by * vector) for sign in (1, -1))
                moved = (ahead - behind) / (2 * by)
                scale = max(abs(along), abs(moved), typical / 3)
                if moved != 0 or step == _STEPS[-1]:  # else nothing has moved
                    gap = abs(moved - along) / scale if scale else 0.0
                    apart = abs(moved - found[-1].loss) if found else 0.0
                    found.append(_Slope(gap, along, moved, _TIMES * apart < abs(moved - along)))
            pairs = [replace(max(pair, key=_gap), clear=pair[1].clear) for pair in pairwise(found)] or found
            best = min(pairs, key=lambda slope: math.inf if math.isnan(slope.gap) else slope.gap)
            worst = max(worst, best, key=_gap)
        return worst

    def _loss_at(self, selected: Parts, shift: Tensor) -> float:
        with _shifted(selected, shift):
            return float(self._loss().detach())


@contextmanager
def _shifted(parameters: Parts, shift: Tensor | None) -> Iterator[None]:
    """The parameters moved by `shift` (size,) where they stand, and moved back."""
    if shift is None:
        yield
        return
    centre = [p.data for p in parameters]
    try:
        for parameter, value, part in zip(parameters, centre, _shaped(shift, parameters), strict=True):
            parameter.data = value + part
        yield
    finally:
        for parameter, value in zip(parameters, centre, strict=True):
            parameter.data = value


def _least(gaps: Iterable[float]) -> float:
    """The smallest of those that are numbers; NaN where none is."""
    return min((gap for gap in gaps if not math.isnan(gap)), default=math.nan)


def _norm(parts: Parts) -> float:
    return math.sqrt(sum(float(as_real(part.detach()).double().square().sum()) for part in parts))


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())
