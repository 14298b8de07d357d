"""Spectral norms of circular convolutions, by their blocks at each frequency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_MARGIN = 1e-4  # of the logarithm of a bound: what rounding to single precision may take from it
_SQUARINGS, _LOOSE = 6, 2  # squarings at most, and those before bounds are worth an eigenvalue
_HUGE = 80.0  # of the logarithm of a norm in single precision
_FEW = 4  # frequencies whose eigenvalues are taken without looking further
_AT_ONCE = 64  # of those that are left when squaring ends


def circular_norm(weight: Tensor, size: Sequence[int], groups: int = 1) -> float:
    """The largest singular value of a circular convolution of stride 1, to rounding in float64.

    `weight` (O, I / groups, *kernel), `size` the extent of the input along each axis of the kernel, which reaches
    around where it is larger. The singular values are those of the O x I matrices F(u) = sum_t w(t) exp(-2 pi i u.t/n)
    at each frequency u. As the kernel is real, F(-u) is the conjugate of F(u): half of the frequencies hold all values.
    The largest one is the root of the largest eigenvalue lambda of the smaller Gram matrices G: as lambda^p <= |G^p|_F,
    repeated squaring in single precision bounds it ever closer, and leaves the few frequencies that can hold a larger
    one than those whose eigenvalues were computed. NaN where the weight is not finite. Raises ValueError where the
    sizes do not match. Source: Sedghi, Gupta and Long, ICLR 2019, theorem 6.
    """
    axes = weight.ndim - 2
    if len(size) != axes or any(n < 1 for n in size):
        raise ValueError(
            f"size={tuple(size)} of an input of a kernel with {axes} axes; give {axes} extents of 1 or more"
        )
    if weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} outputs cannot be in {groups} groups of equal size")
    if not bool(weight.isfinite().all()):
        return math.nan
    scale = float(weight.detach().abs().max())
    if not scale:
        return 0.0
    taps = (weight.detach().double() / scale).flatten(2).movedim(2, 0).flatten(1)  # (T, O I / groups)
    angles = _angles(weight.shape[2:], size).to(taps)
    shape = (groups, weight.shape[0] // groups, weight.shape[1])

    def blocks(at: Tensor, dtype: torch.dtype) -> Tensor:
        rows, of = angles[at].to(dtype), taps.to(dtype)
        return torch.complex(rows.cos() @ of, -(rows.sin() @ of)).reshape(-1, *shape[1:])

    everywhere = torch.arange(len(angles), device=taps.device)
    gram = _gram(blocks(everywhere, torch.float32))

    def exact(numbers: Tensor) -> float:
        """The largest eigenvalue of the Gram matrices of these numbers."""
        of = blocks(numbers // groups, torch.float64).reshape(-1, groups, *shape[1:])
        chosen = of[torch.arange(len(numbers), device=taps.device), numbers % groups]
        return float(torch.linalg.eigvalsh(_gram(chosen))[:, -1].max())

    return scale * math.sqrt(max(_largest_eigenvalue(gram, exact), 0.0))


def _gram(blocks: Tensor) -> Tensor:
    """The smaller of A A* and A* A, of matrices A (U, m, n)."""
    adjoint = blocks.mH
    return blocks @ adjoint if blocks.shape[1] <= blocks.shape[2] else adjoint @ blocks


def _angles(kernel: Sequence[int], size: Sequence[int]) -> Tensor:
    """(U, T): 2 pi u.t / n of half of the frequencies u and the taps t."""
    last = len(size) - 1
    each = [
        torch.arange(n // 2 + 1 if axis == last else n).double()[:, None] * torch.arange(k).double() * 2 * math.pi / n
        for axis, (k, n) in enumerate(zip(kernel, size, strict=True))
    ]
    total = torch.zeros(1, 1, dtype=torch.float64)
    for one in each:
        total = (total[:, None, :, None] + one[None, :, None, :]).flatten(2).flatten(0, 1)
    return total


def _largest_eigenvalue(gram: Tensor, exact: Callable[[Tensor], float]) -> float:
    """The largest eigenvalue of Hermitian matrices (U, m, m) without negative ones, by `exact` of few of them."""
    numbers, power, p = torch.arange(len(gram), device=gram.device), gram, 1
    norms = _log_norms(power)
    scale = torch.zeros_like(norms)  # G^p = power exp(p scale)
    lowest = -math.inf
    for squared in range(_SQUARINGS + 1):
        if squared >= _LOOSE:
            bounds = norms / p + scale
            top = int(bounds.argmax())
            found = exact(numbers[top : top + 1])
            lowest = max(lowest, math.log(found) if found > 0 else -math.inf)
            bounds[top] = -math.inf
            kept = (bounds >= lowest - _MARGIN).nonzero().flatten()
            if not len(kept):
                return math.exp(lowest)
            numbers, scale, norms, power = numbers[kept], scale[kept], norms[kept], power[kept]
            if len(kept) <= _FEW:
                break
        scale = scale + norms / p
        power = power / norms.clamp(min=-_HUGE).exp().to(power.dtype)[:, None, None]
        power = power @ power
        p *= 2
        norms = _log_norms(power)
    return max(math.exp(lowest), *(exact(part) for part in torch.split(numbers, _AT_ONCE)))


def _log_norms(matrices: Tensor) -> Tensor:
    """(U,) logarithms of the Frobenius norms of complex matrices (U, m, m)."""
    norms: Tensor = torch.linalg.vector_norm(torch.view_as_real(matrices).flatten(1), dim=1).double().log()
    return norms
