"""Factors of the loss' Hessian in the outputs: seeds of backward passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import InputError

_UNIT_ROUNDINGS = 16  # of numbers near 1 that the curvature of one sample's loss is made of


def softmax_seeds(outputs: Tensor) -> Tensor:
    """Seeds (C-1, B, C) with sum_s seed_s seed_s' = diag(p) - pp', p the softmax of outputs (B, C).

    The Cholesky factor in closed form (Tanabe & Sagae 1992): with the tails r_c = p_c + ... + p_C, seed s holds
    sqrt(p_s r_{s+1} / r_s) at s and -p_c / r_{s+1} times that at c > s. Nothing is subtracted, so small p keep their
    digits.
    """
    p = outputs.detach().softmax(1)
    tails = p.flip(1).cumsum(1).flip(1).clamp_min(torch.finfo(p.dtype).tiny)
    at = p[:, :-1].sqrt() * (tails[:, 1:] / tails[:, :-1]).sqrt()  # (B, C-1)
    after = p[:, None, :] / tails[:, 1:, None] * at[:, :, None]  # (B, C-1, C)
    return (F.pad(torch.diag_embed(at), (0, 1)) - after.triu(1)).movedim(1, 0)


def output_seeds(loss_of_outputs: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Seeds (S, B, ...) with sum_s seed_s seed_s' = Hessian of sample i's loss in its outputs; S is the largest rank.

    `loss_of_outputs` takes outputs (B, ...) in float64 and returns values (B,), each a function of its own sample's
    outputs. Raises ValueError when it is not, or when a Hessian has a negative eigenvalue (beyond rounding).
    """
    z = outputs.detach().double().requires_grad_()
    with torch.enable_grad():
        values = loss_of_outputs(z)
        if values.shape != z.shape[:1]:
            raise InputError(f"the loss returns shape {tuple(values.shape)} for {len(z)} samples; give one value each")
        hessian = _output_hessian(values, z)
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    eps = torch.finfo(torch.float64).eps
    rounding = 1e3 * eps * eigenvalues.abs().amax(1, keepdim=True)
    # Where a network is sure, curvatures of 1e-17 are differences of numbers near 1, with the rounding of those.
    if bool((eigenvalues < -torch.clamp(rounding, min=_UNIT_ROUNDINGS * eps)).any()):
        worst = int(eigenvalues[:, 0].argmin())
        raise InputError(
            f"the loss of sample {worst} is not convex in its outputs: its Hessian there has the eigenvalue "
            f"{float(eigenvalues[worst, 0]):.3g}, and the Gauss-Newton trace has no real factor"
        )
    kept = (eigenvalues > rounding).any(0)
    seeds: Tensor = (vectors * eigenvalues.clamp_min(0).sqrt()[:, None, :])[:, :, kept]
    return seeds.movedim(2, 0).reshape(-1, *outputs.shape).to(outputs.dtype)


def _output_hessian(values: Tensor, z: Tensor) -> Tensor:
    """(B, C, C) second derivatives of values (B,) in the C outputs of each sample z (B, ...)."""
    hessian = z.new_zeros(len(z), z[0].numel(), z[0].numel())
    if not values.requires_grad:
        return hessian
    half = len(z) // 2
    (alone,) = torch.autograd.grad(values[:half].sum(), z, retain_graph=True)
    if bool((alone[half:] != 0).any()):
        raise InputError("the loss of a sample depends on the outputs of others; it has no factor per sample")
    (gradient,) = torch.autograd.grad(values.sum(), z, create_graph=True)
    if gradient.requires_grad:
        for c, column in enumerate(gradient.flatten(1).unbind(1)):
            (row,) = torch.autograd.grad(column.sum(), z, retain_graph=True)
            hessian[:, c] = row.detach().flatten(1)
    return hessian
