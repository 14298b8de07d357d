"""Trace and Frobenius norm of a symmetric operator from products with random probes.

A probe is an item of its own: `probe` turns random vectors into numbers, one pair per vector, wherever it runs; the
pure functions `trace` and `frobenius` combine stored numbers. `xtrace` needs all of its probes at once.

Sources: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
Commun. Stat. Simul. Comput. 18, 1989; Meyer, Musco, Musco, Woodruff, "Hutch++: optimal stochastic trace estimation",
SOSA 2021; Epperly, Tropp, Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J.
Matrix Anal. Appl. 45, 2024; Searle, Casella, McCulloch, Variance Components, 1992, ch. 4 (analysis of variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import orthonormalise
from landscape_kernels.operators import Operator, complement


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; NaN where one probe leaves the error unknown."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Probed:
    """What the products with b probes say."""

    quadratics: FloatArray  # (b,), z'PAPz, with mean tr(PAP)
    squares: FloatArray  # (b,), |PAPz|^2, with mean |PAP|_F^2


@dataclass(frozen=True)
class TwoWay:
    """A mean over probes and chunks of data with its errors from both."""

    value: float
    stderr: float  # for the population that the data are drawn from
    stderr_probes: float  # for the given data: more probes would make it smaller
    stderr_data: float  # for the given probes: more data would make it smaller


def probe(operator: Operator, probes: Tensor, vectors: Tensor | None = None) -> Probed:
    """Quadratic forms and squared products of the probes (b, size), on the complement of `vectors` if given.

    With P = I - V'V for orthonormal rows V (k, size), P = I without, and probes z of independent entries with mean 0
    and variance 1: E z'PAPz = tr(PAP) and E |PAPz|^2 = |PAP|_F^2. Random signs give the quadratic form the least
    variance, 2 (|PAP|_F^2 - sum_i (PAP)_ii^2). One call of the operator.
    """
    inside = probes if vectors is None else complement(probes, vectors)
    products = operator.apply(inside)
    if vectors is not None:
        products = complement(products, vectors)
    return Probed(
        (inside * products).sum(1, dtype=torch.float64).cpu().numpy(),
        products.square().sum(1, dtype=torch.float64).cpu().numpy(),
    )


def trace(quadratics: FloatArray, exact: FloatArray | None = None) -> Estimate:
    """tr(A) from the numbers z'PAPz of p probes (p,), with the standard error of their mean.

    `exact` (k,) are the numbers v'Av of the orthonormal vectors that P projects out, usually Ritz values: tr(A) =
    sum_i v_i'A v_i + tr(PAP) holds for any orthonormal vectors, so that an eigenpair of poor residual costs variance
    but no bias. (Vectors and probes have to be independent: do not deflate with vectors made from the same probes.)

    >>> trace(np.array([3.0, 5.0]), np.array([10.0]))
    Estimate(value=14.0, stderr=1.0)
    """
    mean = _mean(quadratics)
    return Estimate(float(np.sum(exact if exact is not None else 0.0)) + mean.value, mean.stderr)


def frobenius(squares: FloatArray, exact: FloatArray | None = None, residuals: FloatArray | None = None) -> Estimate:
    """|A|_F from the numbers |PAPz|^2 of p probes (p,); its standard error is s(|A|_F^2) / (2 |A|_F).

    With Ritz pairs projected out, values theta (`exact`) and residuals r,
    |A|_F^2 = sum theta^2 + 2 sum r^2 + |PAP|_F^2.
    """
    mean = _mean(squares)
    square = mean.value
    if exact is not None:
        square += float(np.sum(np.square(exact)))
    if residuals is not None:
        square += 2 * float(np.sum(np.square(residuals)))
    value = math.sqrt(square)
    return Estimate(value, mean.stderr / (2 * value) if value > 0 else mean.stderr)


def _mean(numbers: FloatArray) -> Estimate:
    count = len(numbers)
    stderr = float(np.std(numbers, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(np.mean(numbers)), stderr)


def xtrace(operator: Operator, probes: Tensor) -> Estimate:
    """tr(A) by XTrace from m standard normal probes (m, size): 2 m products in two calls of the operator.

    With Y = A Omega and P_i the orthogonal projector on the range of Y without its column i, every probe gives

        t_i = tr(P_i A) + c_i u_i'A u_i,    u_i = (I - P_i) omega_i,    c_i = (size - m + 1) / |u_i|^2,

    and the value is their mean. In the basis Q of Y = Q R, P_i = Q (I - s_i s_i') Q' with s_i the normalised columns of
    R^-T, and no further product is needed. Where A has a rank below m its range is found, every P_i is Q Q' and the
    trace exact to rounding.

    The stderr is the standard deviation of the t_i over sqrt(m), as in the source. It is too small, for the t_i are not
    independent: rms errors were 1.0 to 1.6 times as large over spectra with and without decay, m = 5 to 40, so that
    2 stderr cover 70 to 90 %. Deflated probes (`trace`) have an error that covers.
    """
    count, size = probes.shape
    if count < 2:
        raise ValueError(f"xtrace needs two probes, not {count}")
    sample = operator.apply(probes)
    floor = 10 * torch.finfo(operator.dtype).eps * float(torch.linalg.matrix_norm(sample))
    basis, _, factor = orthonormalise(sample, sample[:0], floor)
    R = factor.T  # (r, m)
    rank = len(R)
    H = (operator.apply(basis) @ basis.T if rank else basis @ basis.T).double().cpu().numpy()
    W = (basis @ probes.T).double().cpu().numpy()
    S = np.zeros((rank, count))
    if rank == count:
        S += np.linalg.inv(R).T
        S /= np.linalg.norm(S, axis=0)
    X = W - S * (S * W).sum(0)
    lengths = probes.square().sum(1, dtype=torch.float64).cpu().numpy() - (X * X).sum(0)  # |u|^2
    free = size - rank + int(rank == count)
    forms = (W * R).sum(0) - 2 * (X * R).sum(0) + (X * (H @ X)).sum(0)  # omega'A omega = w'r, Q'A omega = r
    scale = np.divide(free, lengths, out=np.zeros(count), where=lengths > 0)
    return _mean(np.trace(H) - (S * (H @ S)).sum(0) + scale * forms)


def two_way(values: FloatArray, weights: FloatArray | None = None) -> TwoWay:
    """Mean of values (p, c), probe i on chunk of data j, with errors by two-way analysis of variance, random effects.

    For X_ij = mu + a_i + b_j + e_ij and the mean squares MS_p, MS_c, MS_e of probes, chunks and the rest,

        stderr_probes^2 = MS_p / (p c),    stderr_data^2 = MS_c / (p c),    stderr^2 = (MS_p + MS_c - MS_e) / (p c):

    each part alone holds the rest e once, their sum holds it twice. Where the sum comes out below the larger part it
    is that part. `weights` (c,) are the sizes of unequal chunks, X_ij being means over a chunk; with w_j of sum 1,
    means over chunks are weighted, X_i = sum_j w_j X_ij, and the variances those of a ratio of sums (`moments.ratio`):

        stderr_data^2 = c / (c - 1) sum_j w_j^2 (X_j - X)^2,

    and the rest likewise, which for equal chunks are the formulas above. With one probe stderr_probes is NaN and stderr
    is stderr_data; with one chunk stderr_data is NaN and stderr is stderr_probes: a part that is not known is left out,
    and with one of each nothing is known and all are NaN.

    >>> two_way(np.array([[1.0, 3.0], [3.0, 5.0]]))
    TwoWay(value=3.0, stderr=1.4142135623730951, stderr_probes=1.0, stderr_data=1.0)
    """
    probes, chunks = values.shape
    share = np.full(chunks, 1 / chunks) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
    by_probe, by_chunk = values @ share, values.mean(0)
    value = float(by_probe.mean())
    of_probes = of_data = of_rest = math.nan
    if probes > 1:
        of_probes = float(np.sum((by_probe - value) ** 2)) / (probes * (probes - 1))
    if chunks > 1:
        of_data = float(share**2 @ (by_chunk - value) ** 2) * chunks / (chunks - 1)
    if probes > 1 and chunks > 1:
        rest = values - by_probe[:, None] - by_chunk + value
        of_rest = float(np.sum(rest**2 @ share**2)) * chunks / ((chunks - 1) * probes * (probes - 1))
    known = [part for part in (of_probes, of_data, of_probes + of_data - of_rest) if not math.isnan(part)]
    return TwoWay(value, math.sqrt(max(known, default=math.nan)), math.sqrt(of_probes), math.sqrt(of_data))
