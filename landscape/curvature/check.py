"""Which route gives right products, found out on a few samples before it is used."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from landscape_kernels.probes import normal_vector
from torch import Tensor

from landscape.curvature.routes import ROUTES
from landscape.curvature.trial import AGREES, AMPLIFIED, CLOSE, DOUBT, SHORT, SLOPE, SYMMETRIC, Seen, Slope, Trial
from landscape.errors import InputError, UserCodeError, raised_by
from landscape.objective.objective import Objective

logger = logging.getLogger(__name__)
_TRIAL_SAMPLES = 4
_MORE_SAMPLES = 8  # from all over the data, for what a few of them do to the others
_AWAY = 1e-3  # the trial's distance from theta, relative to the mean size of its values
_COUPLED = 1e-6  # relative gap between samples together and in parts that no rounding of float64 makes
_JUMP_STANDS_OUT = 10.0  # how many times more than beside theta values jump at theta


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
    parts: float = 0.0  # gap between samples together and in two parts; at most `at_theta` where that settled it


def check_products(
    objective: Objective, operator: str, chosen: Sequence[int], theta: Tensor, buffers: Mapping[str, Tensor] | None
) -> ProductCheck:
    """Try the routes of `operator` in order on a few samples; the first that gives the right products is taken.

    In float64, a small random step away from theta (exact zeros, where ReLUs have no derivative, are gone there):
    u'Hv = v'Hu, and Hv against central differences of gradients (for the Gauss-Newton matrix v'Gv against those of
    the outputs). How far they may be apart follows from the rounding that differences of two steps show. Then at theta
    itself, where a product must be finite, and the same for samples together and in parts. A model that does not run
    in float64 is tried in its own precision. The gradient must be that of the loss, by differences of it. Jumps of the
    outputs and samples that depend on one another are looked for among a few samples from all over the data.

    Raises InputError where no route is right, saying why each is not, where the outputs jump at theta, and where
    products of a sample depend on the other samples of its batch.
    """
    own = "float64" if objective.precision == "float64" else "float32"
    refused: dict[str, str] = {}  # by what they give
    raised: dict[str, str] = {}
    reason = ""
    trials = None
    for precision in dict.fromkeys(("float64", own)):
        if set(ROUTES[operator]) <= refused.keys():
            break
        try:
            trials = _Trials(objective, precision, operator, chosen, theta, buffers)
        except Exception as error:  # whatever the model and its loss do in a precision that they were not made for
            reason = raised_by(error)
            continue
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
    if slope is not None and (slope.gap > SLOPE or asymmetry):
        seen = f"along a random direction it is {slope.gradient:.3g}, and the loss itself changes by {slope.loss:.3g}"
        if slope.gap <= SLOPE:
            seen = f"its differences are off from symmetry by {asymmetry:.1e}, and those of a gradient are symmetric"
        lines.append(
            f"The gradient that backward gives is not that of the loss: {seen}. detach() and no_grad() inside the "
            "model do that, straight-through and surrogate gradients, rounding inside (quantisation, half precision), "
            "an embedding whose padding_idx stands in the data, checkpoint() with use_reentrant=True (give False), "
            "gradients that are scaled or reversed on their way back, and "
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
        f"{operator} products of a sample depend on the other samples of its batch: of a few samples "
        f"together and in two parts they differ by {parts:.1e} of their size. Products are summed over other batches "
        "than values, so they would be the derivatives of another function than that which is evaluated. Where a "
        "solver chooses its steps for a whole batch, fix them or tighten its tolerances; or say how batches are made: "
        "pass a list of batches with forward=, and both see the same."
    )


class _Trials:
    """The trial beside theta, the trial at theta, the one in the working precision, and those of more samples."""

    def __init__(
        self,
        objective: Objective,
        precision: str,
        operator: str,
        chosen: Sequence[int],
        theta: Tensor,
        buffers: Mapping[str, Tensor] | None,
    ) -> None:
        few, more = objective.data.head(_TRIAL_SAMPLES), objective.data.spread(_MORE_SAMPLES)
        tried, tried_more = (objective.on(data, precision=precision) for data in (few, more))
        wide = theta.double()
        step = normal_vector(theta.numel(), 0, "self-check").to(theta.device)
        away = wide + _AWAY * (float(wide.abs().mean()) or 1.0) * step
        self._operator = operator
        size = sum(objective.layout.blocks[i].size for i in chosen)
        vectors = torch.stack([normal_vector(size, 0, "self-check", i) for i in range(2)])

        def trial(of: Objective, at: Tensor, *, compares: bool = False) -> Trial:
            return Trial(of, operator, chosen, at, buffers, vectors, compares=compares)

        self._away, self._here = trial(tried, away, compares=operator == "hessian"), trial(tried, wide)
        self._more_away, self._more_here = trial(tried_more, away), trial(tried_more, wide)
        self._more_native, self._native = trial(objective.on(more), wide), trial(objective.on(few), away)
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
            if route == "finite differences" and seen.symmetry > max(SYMMETRIC, AMPLIFIED * seen.difference):
                self.asymmetry = seen.symmetry
            return seen.refusal(route)
        self._require_no_jump()
        at_theta = parts = math.inf
        if route != "finite differences":
            at_theta = parts = self._here.gap_in_parts(route, self._steps)
        allowed = AGREES
        if not at_theta <= CLOSE:  # a closer look, which tells what it is
            here = self._here.judge(route, self._steps, step)
            if refusal := self._refusal_at_theta(route, here):
                return refusal
            at_theta, allowed, parts = here.difference, here.allowed, self._here.gap_of_parts(route, step, here)
        if (gap := max(parts, self._more_native.gap_of_gradients())) > allowed:
            raise InputError(_coupled(self._operator, gap))
        if route == "finite differences":  # in the trial's precision whatever the working precision
            rounding, graph_bytes = seen.difference, 0.0
        else:
            rounding, graph_bytes = self._native.rounding(route, seen.product)
            rounding = max(rounding, seen.symmetry if self._native.dtype == seen.product.dtype else 0.0)
        return ProductCheck(
            *(route, seen.symmetry, seen.difference, rounding, graph_bytes, {}),
            step=step,
            at_theta=at_theta,
            parts=parts,
        )

    def _refusal_at_theta(self, route: str, here: Seen) -> str:
        """Why a route is not right at theta itself; empty where it is, and a warning where it is of one side."""
        if not here.is_finite:
            return "its product, or a gradient it is compared with, is not finite at theta itself on the first samples"
        if here.refusal(route):
            if route == "finite differences":
                return f"at theta itself {here.refusal(route)}"
            if here.doubt <= DOUBT:
                logger.warning(
                    "at theta itself differences of gradients are off by %.1e of the size of a %s product, and not "
                    "beside it: the second derivative jumps there, and products are those of one side",
                    *(here.difference, self._operator),
                )
        return ""

    def _require_no_jump(self) -> None:
        """Raise InputError where values jump at theta, and do not beside it."""
        if self._continuous:
            return
        here = self._more_here.jump()
        if here.size > 0 and here.size > _JUMP_STANDS_OUT * self._more_away.jump().size:
            raise InputError(
                f"the model's values jump at theta: a step of {SHORT[-1]:.0e} of the parameters' length changes the "
                f"outputs by {here.size:.2g} of their size, and one of {SHORT[0]:.0e} by {here.longer:.2g}. There is "
                f"no Hessian at a jump. The tensors that do it: {', '.join(here.names) or 'none by itself'}. Leave "
                "them out by params=, or write the layer without a jump (torch's parametrizations.orthogonal of a "
                "weight that is not square has one: its Householder map truncates to whole numbers, "
                "orthogonal_map='cayley' and 'matrix_exp' do not)."
            )
        self._continuous = True

    def parts(self) -> float:
        """The gap between samples together and in parts by plain double backward; 0 where it cannot be had."""
        try:
            return self._here.gap_of_parts("double backward", 0.0)
        except Exception:  # the route was refused for it, which is told
            return 0.0

    def slope(self) -> Slope | None:
        """The gradient against differences of the loss, beside theta; None where they cannot be had."""
        try:
            return self._away.slope
        except Exception:  # a route was refused for it, which is told
            return None
