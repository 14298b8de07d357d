"""Spectral norms of circular convolutions, by their blocks at each frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MARGIN = 1e-4  # of the logarithm of a bound: what rounding to single precision may take from it
_SQUARINGS = 6
_FEW = 2  # frequencies whose eigenvalues are taken without looking further


def circular_norm(weight: Tensor, size: Sequence[int], groups: int = 1) -> float:
    """The largest singular value of a circular convolution of stride 1, to rounding in float64.

    `weight` (O, I / groups, *kernel), `size` the extent of the input along each axis of the kernel, which reaches
    around where it is larger. The singular values are those of the O x I matrices F(u) = sum_t w(t) exp(-2 pi i u.t/n)
    at each frequency u. As the kernel is real, F(-u) is the conjugate of F(u): half of the frequencies hold all values.
    The largest one is the root of the largest eigenvalue lambda of the smaller Gram matrices G: as
    |G^2p|_F / |G^p|_F <= lambda^p <= |G^p|_F, repeated squaring leaves the few frequencies that can hold it, whose
    eigenvalues are then computed. NaN where the weight is not finite. Raises ValueError where the sizes do not match.
    Source: Sedghi, Gupta and Long, ICLR 2019, theorem 6.
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
    taps = weight.detach().double().flatten(2).movedim(2, 0).flatten(1)  # (T, O I / groups)
    angles = _angles(weight.shape[2:], size).to(taps)
    shape = (len(angles) * groups, weight.shape[0] // groups, weight.shape[1])
    blocks = torch.complex(angles.cos() @ taps, -(angles.sin() @ taps)).reshape(shape)
    return math.sqrt(_largest_eigenvalue(blocks @ blocks.mH if shape[1] <= shape[2] else blocks.mH @ blocks))


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


def _largest_eigenvalue(gram: Tensor) -> float:
    """The largest eigenvalue of Hermitian matrices (U, m, m) without negative ones."""
    traces = gram.diagonal(dim1=1, dim2=2).real.sum(1)
    if not bool(traces.any()):
        return 0.0
    gram, traces = gram[traces > 0], traces[traces > 0]
    power, p, scale = (gram / traces[:, None, None]).to(torch.complex64), 1, traces.log()  # G^p = power exp(p scale)
    norms, lowest = _log_norms(power), -math.inf
    for _ in range(_SQUARINGS):
        if len(gram) <= _FEW:
            break
        power = power @ power
        squares = _log_norms(power)
        lowest = max(lowest, float(((squares - norms) / p + scale).max()))
        p *= 2
        kept = (squares / p + scale >= lowest - _MARGIN).nonzero().flatten()
        gram, squares, scale = gram[kept], squares[kept], scale[kept]
        power = power[kept] / squares.exp().to(power.dtype)[:, None, None]
        scale, norms = scale + squares / p, torch.zeros_like(squares)
    return float(torch.linalg.eigvalsh(gram)[:, -1].max())


def _log_norms(matrices: Tensor) -> Tensor:
    """(U,) logarithms of the Frobenius norms of complex matrices (U, m, m)."""
    norms: Tensor = torch.linalg.vector_norm(torch.view_as_real(matrices).flatten(1), dim=1).double().log()
    return norms
