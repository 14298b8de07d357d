"""Bezier curves and polygonal chains: weights of their control points, lengths, and random places on them.

A curve is gamma(t) = sum_i w_i(t) p_i, t in [0, 1], so all that concerns its shape follows from the weights and the
Gram matrix of the control points' differences; vectors of millions of parameters are touched only to form a point.

Sources: Farin, Curves and Surfaces for CAGD, 5th ed. 2002, ch. 5 (Bernstein polynomials); Garipov et al., "Loss
surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS 2018, section 3.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed
from landscape_kernels.projection import gram

CURVES = ("bezier", "polychain")
_STRATA = 16  # of stratified places
_EPS = 1e-13  # relative accuracy of lengths


def weights(kind: str, count: int, t: float) -> FloatArray:
    """Weights of the `count` control points at t, (count,): they sum to 1, and at t = 0 and 1 one of them is 1.

    Bezier: the Bernstein polynomials C(n, i) t^i (1 - t)^(n - i) of degree n = count - 1. Polygonal chain: linear
    between neighbours, each of the n segments taking 1 / n of t (Garipov et al. 2018, with one bend at t = 1/2).

    >>> weights("bezier", 3, 0.25)
    array([0.5625, 0.375 , 0.0625])
    >>> weights("polychain", 3, 0.25)
    array([0.5, 0.5, 0. ])
    """
    n = count - 1
    if kind == "bezier":
        return np.array([math.comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(count)])
    segment = min(int(t * n), n - 1)
    result = np.zeros(count)
    result[segment + 1] = t * n - segment
    result[segment] = 1 - result[segment + 1]
    return result


def slopes(kind: str, count: int, t: float) -> FloatArray:
    """Weights of the differences p_{i+1} - p_i in the tangent gamma'(t), (count - 1,); at a bend the later segment's.

    >>> slopes("bezier", 3, 0.25)
    array([1.5, 0.5])
    """
    n = count - 1
    if kind == "bezier":
        return n * weights("bezier", n, t)
    result = np.zeros(n)
    result[min(int(t * n), n - 1)] = n
    return result


def combine_(out: Tensor, points: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """out <- sum_i coefficients[i] * points[i], all (size,) on one device; returns `out`.

    Points with coefficient 0 are left out, so that a curve meets its ends to the bit.
    """
    terms = [(float(c), p) for c, p in zip(coefficients, points, strict=True) if c != 0]
    if not terms:
        return out.zero_()
    (first, point), *rest = terms
    torch.mul(point, first, out=out)
    for coefficient, point in rest:
        out.add_(point, alpha=coefficient)
    return out


def difference_gram(points: Sequence[Tensor]) -> FloatArray:
    """Inner products of the differences p_{i+1} - p_i of control points in float64, (count - 1, count - 1)."""
    return gram([b.double() - a.double() for a, b in itertools.pairwise(points)])


def arc_length(kind: str, differences: FloatArray, t: float = 1.0) -> float:
    """Length of the curve from 0 to t, from the Gram matrix of its differences (see `difference_gram`).

    int_0^t |gamma'(s)| ds, with |gamma'|^2 = a(s)' G a(s) for the slopes a: a sum of segments for a chain, adaptive
    quadrature to 1e-13 of the length for a Bezier curve, cut where the speed is stationary, so that a cusp is an end
    point of two smooth pieces.

    >>> arc_length("polychain", np.array([[9.0, 0.0], [0.0, 16.0]]), 0.75)
    5.0
    """
    count = len(differences) + 1
    if kind == "polychain":
        n = count - 1
        done = np.clip(t * n - np.arange(n), 0, 1)
        return float(done @ np.sqrt(np.maximum(differences.diagonal(), 0)))
    if t == 0:
        return 0.0
    from scipy.integrate import quad  # loading scipy would be a sixth of `import landscape`

    def speed(s: float) -> float:
        a = slopes(kind, count, s)
        return math.sqrt(max(float(a @ differences @ a), 0.0))

    cuts = [0.0, *(s for s in _stationary(differences) if s < t), t]
    # With the full output it keeps quiet where rounding near a cusp is all that is left of the error.
    parts = (quad(speed, a, b, epsabs=0.0, epsrel=_EPS, limit=200, full_output=1) for a, b in itertools.pairwise(cuts))
    return float(sum(part[0] for part in parts))


def _stationary(differences: FloatArray) -> list[float]:
    """Places inside (0, 1) where the squared speed of a Bezier curve is stationary."""
    n = len(differences)
    t, rest = np.polynomial.Polynomial([0.0, 1.0]), np.polynomial.Polynomial([1.0, -1.0])
    basis = [math.comb(n - 1, i) * t**i * rest ** (n - 1 - i) for i in range(n)]
    square = np.polynomial.Polynomial([0.0])
    for i in range(n):
        for j in range(n):
            square += differences[i, j] * basis[i] * basis[j]
    # a double root (a cusp) is found with a small imaginary part
    roots: list[complex] = [complex(root) for root in square.deriv().roots()]
    return sorted(r.real for r in roots if abs(r.imag) < 1e-6 and 0 < r.real < 1)


def stratified(seed: int, start: int, count: int) -> FloatArray:
    """Places number start..start + count - 1 of an endless stream, uniform on [0, 1), one in each 16th per 16 of them.

    They depend on (seed, number) alone. The mean over any block of 16 has a variance far below that of free draws.

    >>> bool(np.all(np.sort(stratified(0, 32, 16) * 16).astype(int) == np.arange(16)))
    True
    """
    found: list[float] = []
    for block in range(start // _STRATA, (start + count - 1) // _STRATA + 1):
        random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "strata", block)))
        found += ((random.permutation(_STRATA) + random.random(_STRATA)) / _STRATA).tolist()
    first = start % _STRATA
    return np.array(found[first : first + count])
