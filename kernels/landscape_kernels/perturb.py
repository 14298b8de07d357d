"""theta + sum_i c_i d_i into a given buffer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from landscape_kernels.pieces import ALONE, put_alone_, stretches


def perturb_(out: Tensor, centre: Tensor, directions: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """out <- centre + sum_i coefficients[i] * directions[i], all (size,) on one device; returns `out`.

    The sum runs in the order of the directions, coordinate by coordinate, so its bits depend on nothing else. A zero
    coefficient leaves its direction out: the centre is met exactly. What is in half precision is summed in float32,
    and rounded once.
    """
    terms = [(c, d) for c, d in zip(coefficients, directions, strict=True) if c != 0]
    if not terms:
        return out.copy_(centre)
    dtype = wide(terms[0][1].dtype)
    if dtype != out.dtype or any(direction.dtype != dtype for _, direction in terms):
        total = centre.to(dtype, copy=True)
        return out.copy_(perturb_(total, total, [d.to(dtype) for _, d in terms], [c for c, _ in terms]))
    (first, direction), *rest = terms
    torch.add(centre, direction, alpha=first, out=out)
    for coefficient, direction in rest:
        out.add_(direction, alpha=coefficient)
    return out


def perturb_alone_(out: Tensor, centre: Tensor, directions: Iterable[Tensor], coefficients: Sequence[float]) -> Tensor:
    """`perturb_` of a piece, in this thread alone; returns `out`, which may be its centre.

    Of directions that come one by one no two are held at once.
    """
    if out.device.type != "cpu":
        return perturb_(out, centre, list(directions), coefficients)
    total: Tensor | None = None
    for coefficient, direction in zip(coefficients, directions, strict=True):
        if coefficient == 0:
            continue
        dtype = wide(direction.dtype) if total is None else total.dtype
        along = direction.to(dtype)
        if total is None and centre is not out and centre.dtype == out.dtype == dtype:
            for part, at, step in stretches(out, centre, along):  # the centre is read and `out` written once
                torch.add(at, step, alpha=coefficient, out=part)
            total = out
            continue
        if total is None:
            total = out if out.dtype == dtype else torch.empty(out.shape, dtype=dtype)
            if total is not centre:
                put_alone_(total, centre)
        # one call for all parts: as many calls take as long as their sums
        torch._foreach_add_(torch.split(total, ALONE), torch.split(along, ALONE), alpha=coefficient)
    found = centre if total is None else total
    return out if found is out else put_alone_(out, found)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that directions are kept in: float32 for half precision, else the same."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
