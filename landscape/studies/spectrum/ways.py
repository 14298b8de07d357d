"""Ways to a trace, and which is right here."""

from __future__ import annotations

import logging

import numpy as np
import torch
from landscape_kernels.probes import normal_vector
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.routes import chunk_of
from landscape.curvature.sampling import is_softmax, loss_seeds
from landscape.errors import InputError
from landscape.network.layers import GradientSquares
from landscape.network.piecewise import piecewise_linear

logger = logging.getLogger(__name__)

METHODS = ("exact", "sampled", "split", "deflated", "hutchinson", "xtrace", "products")
FEWEST_PROBES = 16  # of the first round
_MOST_OUTPUTS = 256  # of one sample: its output Hessian is formed, and costs as many backward passes
# Tensors whose blocks are compared, from the first to the last, and samples. What bends behind a tensor is in its
# block, so that of the first tells of all; every layer and operation was looked at before.
_BLOCKS, _VERIFIED_ON = 4, 2
# Relative gap of blocks of H and G; where the network is piecewise linear only rounding is between them.
_EQUAL = {torch.float64: 1e-9, torch.float32: 1e-4}


def exact_reasons(matrix: Matrix) -> tuple[str, ...]:
    """Why the trace cannot be had from per-sample gradients of the outputs; empty where it can.

    tr H = tr G = mean_i sum_s |grad <seed_s, outputs_i>|^2 needs layers whose per-sample gradients are known and, for
    the Hessian, a network piecewise linear layer by layer (Botev et al. 2017): decided from its modules and operations,
    and verified on products within single tensors in float64.
    """
    gauss_newton = gauss_newton_reasons(matrix)
    if gauss_newton or matrix.operator == "ggn":
        return gauss_newton
    objective = matrix.sample.objective
    batch = objective.data.head(2).first
    with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
        reasons = piecewise_linear(model, lambda: objective.outputs(model, batch))
    return reasons or _verify_blocks(matrix)


def gauss_newton_reasons(matrix: Matrix) -> tuple[str, ...]:
    """Why per-sample gradient norms do not give tr G here; empty where they do."""
    objective = matrix.sample.objective
    if objective.loss_is_returned:
        return ("forward returns the loss itself, so there are no outputs to differentiate",)
    batch = objective.data.head(2).first
    with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
        squares = GradientSquares(model, matrix.names)
        if squares.unsupported:
            return squares.unsupported
        try:
            with squares.recording():
                outputs, targets = objective.outputs(model, batch)
            if not isinstance(outputs, Tensor) or outputs[0].numel() > _MOST_OUTPUTS:
                return (f"the outputs of a sample are not one tensor of at most {_MOST_OUTPUTS} values",)
            squares.of(outputs, loss_seeds(objective, outputs, targets).reshape(-1, *outputs.shape))
            if not is_softmax(objective, outputs, targets):  # another loss may be convex at some samples alone
                with torch.no_grad():
                    for _, batch in objective.batches():
                        loss_seeds(objective, *objective.outputs(model, batch))
        except (InputError, ValueError, RuntimeError) as error:
            return (str(error).partition("\n")[0],)
    return ()


def _verify_blocks(matrix: Matrix) -> tuple[str, ...]:
    """Products of H and G with vectors in one tensor each, on a few samples: the reason where they differ.

    For v in tensor t alone, (H v)_t = (G v)_t where the network is piecewise linear: all entries of the block in one.
    """
    objective = matrix.sample.objective
    few = objective.on(objective.data.head(_VERIFIED_ON), precision=matrix.check.precision)
    blocks = few.layout.blocks
    chosen = [i for i, block in enumerate(blocks) if block.name in matrix.sizes]
    seen = sorted(set(np.linspace(0, len(chosen) - 1, _BLOCKS).astype(int).tolist()))
    with few.differentiable(matrix.theta, matrix.buffers) as (_, parameters):
        _, batch = next(iter(few.batches()))
        gap = size = 0.0
        zeros = [torch.zeros_like(parameters[i]) for i in chosen]
        hessian, gauss_newton = (
            # the two are compared with each other, so the second needs no check of its own
            chunk_of(few, parameters, chosen, batch, None, operator, route, matrix.check.step).image
            for operator, route in (("hessian", matrix.check.route), ("ggn", "double backward"))
        )
        for n in seen:
            block = blocks[chosen[n]]
            vector = normal_vector(block.size, 0, "block", block.name).to(zeros[n]).view(block.shape)
            direction = [*zeros[:n], vector, *zeros[n + 1 :]]
            ours, theirs = hessian(direction)[n], gauss_newton(direction)[n]
            gap, size = max(gap, float((ours - theirs).norm())), max(size, float(theirs.norm()))
    gap /= size or 1.0
    return (
        () if gap <= _EQUAL[few.dtype] else (f"products of H and G within a tensor differ by {gap:.1e} of the largest",)
    )


def choose_method(matrix: Matrix, asked: bool | str, pairs: int, *, whole: bool = False) -> str:
    """The method that is meant; for `True` the cheapest one that is right. Raises InputError for what cannot be.

    `whole` says whether the matrix is computed whole, which gives its trace, too.
    """
    if asked is not True and asked not in METHODS:
        raise InputError(f"trace={asked!r} is not True, False or one of {', '.join(METHODS)}")
    if asked == "sampled" and matrix.sample.weights is not None:
        raise InputError("trace='sampled' draws from all data; leave samples= out, or let trace=True choose")
    if asked == "deflated" and pairs == 0:
        raise InputError("trace='deflated' takes out the largest eigenpairs, and k=0 asks for none")
    if asked in ("exact", "sampled", True):
        reasons = exact_reasons(matrix)
        if not reasons:
            return "exact" if asked is True else str(asked)
        logger.info("the trace is not taken exactly: %s", "; ".join(reasons[:3]))
        if asked is not True:
            raise InputError(
                f"trace={asked!r} needs layers with known per-sample gradients and, for the Hessian, a network that is "
                "piecewise linear layer by layer:\n  " + "\n  ".join(reasons[:8]) + "\nUse trace=True, which takes "
                "another way here."
            )
    if asked is True and whole:
        return "products"
    if asked in ("split", True) and matrix.operator == "hessian":
        reasons = gauss_newton_reasons(matrix)
        if not reasons:
            return "split"
        if asked == "split":
            raise InputError(
                "trace='split' needs layers with known per-sample gradients:\n  " + "\n  ".join(reasons[:8])
            )
    if asked is True:
        return "deflated" if pairs else "hutchinson"
    return str(asked)


def check_trace_probes(probes: int) -> None:
    """Raise InputError for fewer than the first round has."""
    if probes < FEWEST_PROBES:
        raise InputError(f"trace_probes={probes}; give {FEWEST_PROBES} or more, those of the first round")


def check_trace_tol(tol: float) -> None:
    """Raise InputError for what is no relative standard error."""
    if not 0 < tol < 1:
        raise InputError(f"trace_tol={tol}; it is a relative standard error, give a number between 0 and 1")
