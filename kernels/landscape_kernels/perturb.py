"""theta + sum_i c_i d_i into a given buffer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from landscape_kernels.pieces import ALONE, put_alone_


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


def perturb_alone_(out: Tensor, directions: Iterable[Tensor], coefficients: Sequence[float]) -> Tensor:
    """`perturb_` of a piece that holds its centre, in this thread alone; returns `out`.

    Of directions that come one by one no two are held at once.
    """
    if out.device.type != "cpu":
        return perturb_(out, out, list(directions), coefficients)
    total: Tensor | None = None
    for coefficient, direction in zip(coefficients, directions, strict=True):
        if coefficient == 0:
            continue
        if total is None:
            dtype = wide(direction.dtype)
            total = out if out.dtype == dtype else put_alone_(torch.empty(out.shape, dtype=dtype), out)
        # one call for all parts: as many calls take as long as their sums
        parts = torch.split(direction.to(total.dtype), ALONE)
        torch._foreach_add_(torch.split(total, ALONE), parts, alpha=coefficient)
    return out if total is None or total is out else put_alone_(out, total)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that directions are kept in: float32 for half precision, else the same."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
