"""Spectral density and moments from Gauss quadratures of random probes.

A probe gives nodes and weights (see `krylov.lanczos_quadratures`), a discrete measure whose mean over probes
approximates the spectrum: every eigenvalue with weight 1/size. Eigenvalues known exactly are taken out of the probes'
operator and put back with their own weight.

Sources: Golub and Meurant, Matrices, Moments and Quadrature with Applications, 2010; Lin, Saad, Yang, "Approximating
spectral densities of large matrices", SIAM Review 58, 2016; Ghorbani, Krishnan, Xiao, "An investigation into neural net
optimization via Hessian eigenvalue density", ICML 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from landscape_kernels.arrays import FloatArray

_REACH = 6  # widths beyond the outermost nodes; a Gaussian has 1e-9 of its mass outside


@dataclass(frozen=True)
class Density:
    """Spectral density with integral 1, broadened by Gaussians, and its band over probes."""

    grid: FloatArray  # (n,)
    values: FloatArray  # (n,), mean over probes
    lower: FloatArray  # (n,), mean - 2 standard errors; NaN with a single probe
    upper: FloatArray  # (n,), mean + 2 standard errors
    width: float  # standard deviation of the Gaussians, in units of the eigenvalues

    @property
    def integral(self) -> float:
        """Integral of the values over the grid by the trapezoidal rule."""
        return float(np.diff(self.grid) @ (self.values[1:] + self.values[:-1])) / 2


def combine(
    nodes: Sequence[FloatArray], weights: Sequence[FloatArray], *, exact: FloatArray | None = None, size: int
) -> tuple[FloatArray, FloatArray]:
    """One measure from those of p probes: nodes ascending (n,) and weights (n,) with sum 1.

    The k `exact` eigenvalues have weight 1/size each; the probes, drawn from their orthogonal complement, share
    (size - k)/size.

    >>> combine([np.array([0.0, 1.0])], [np.array([0.75, 0.25])], exact=np.array([9.0]), size=5)
    (array([0., 1., 9.]), array([0.6, 0.2, 0.2]))
    """
    known = _known(exact)
    _check(nodes, known, size)
    rest = (size - len(known)) / size / max(len(nodes), 1)
    points = np.concatenate([*nodes, known])
    masses = np.concatenate([*(rest * w for w in weights), np.full(len(known), 1 / size)])
    order = np.argsort(points, kind="stable")
    return points[order], masses[order]


def density(
    nodes: Sequence[FloatArray],
    weights: Sequence[FloatArray],
    *,
    exact: FloatArray | None = None,
    size: int,
    points: int = 1024,
    width: float = 0.01,
) -> Density:
    """Spectral density phi(t) = mean over probes of sum_j w_j g(t - theta_j), g the normal density.

    `nodes` and `weights` are lists with one array (m,) per probe, `exact` (k,) the eigenvalues whose vectors were
    projected out of operator and probes; see `combine` for their shares. `width` is the standard deviation of g as a
    fraction of the range of all nodes and exact eigenvalues; with a range of zero, of their size. The grid of `points`
    values reaches six widths beyond them on both sides. Raises ValueError where its spacing exceeds the width: the
    values would no longer show every node, nor integrate to 1.
    """
    known = _known(exact)
    _check(nodes, known, size)
    every = np.concatenate([*nodes, known])
    low, high = float(every.min()), float(every.max())
    sigma = width * ((high - low) or abs(high) or 1.0)
    reach = high - low + 2 * _REACH * sigma
    if reach > sigma * (points - 1):
        raise ValueError(f"points={points} cannot show a width of {width}: at least {math.ceil(reach / sigma) + 1}")
    grid = np.linspace(low - _REACH * sigma, high + _REACH * sigma, points)
    outliers = _broaden(grid, known, np.full(len(known), 1 / size), sigma)
    share = (size - len(known)) / size
    curves = np.array([share * _broaden(grid, n, w, sigma) for n, w in zip(nodes, weights, strict=True)])
    if share == 0:
        return Density(grid, outliers, outliers, outliers, sigma)
    values = outliers + curves.mean(0)
    stderr = curves.std(0, ddof=1) / math.sqrt(len(curves)) if len(curves) > 1 else np.full(points, math.nan)
    return Density(grid, values, values - 2 * stderr, values + 2 * stderr, sigma)


def _broaden(grid: FloatArray, nodes: FloatArray, weights: FloatArray, sigma: float) -> FloatArray:
    bells = np.exp(-0.5 * ((grid[:, None] - nodes) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return bells @ weights


def _known(exact: FloatArray | None) -> FloatArray:
    return np.zeros(0) if exact is None else np.asarray(exact, dtype=np.float64)


def _check(nodes: Sequence[FloatArray], known: FloatArray, size: int) -> None:
    if len(known) > size:
        raise ValueError(f"{len(known)} exact eigenvalues of an operator of size {size}")
    if not nodes and len(known) < size:
        raise ValueError(f"no probe for the {size - len(known)} eigenvalues that are not given")


def moments(nodes: FloatArray, weights: FloatArray, degree: int) -> FloatArray:
    """sum_j w_j theta_j^q for q = 0 .. degree, (degree + 1,): v'A^q v for q <= 2 m - 1 of an m-node Gauss rule.

    >>> moments(np.array([1.0, 3.0]), np.array([0.5, 0.5]), 2)
    array([1., 2., 5.])
    """
    return np.power.outer(nodes, np.arange(degree + 1)).T @ weights


def wasserstein(nodes: FloatArray, weights: FloatArray, eigenvalues: FloatArray) -> float:
    """W1 distance of a discrete measure from a spectrum (n,) of equal weights: the integral of |F - G| over both CDFs.

    >>> wasserstein(np.array([0.0, 2.0]), np.array([0.5, 0.5]), np.array([1.0, 1.0]))
    1.0
    """
    points = np.concatenate([nodes, eigenvalues])
    masses = np.concatenate([weights, np.full(len(eigenvalues), -1 / len(eigenvalues))])
    order = np.argsort(points, kind="stable")
    return float(np.abs(np.cumsum(masses[order])[:-1]) @ np.diff(points[order]))
