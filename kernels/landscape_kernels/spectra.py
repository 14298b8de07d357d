"""Eigenvalues of W'W for matrices and stacks of them, and what is said of such a spectrum by its values alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from landscape_kernels.arrays import FloatArray

AnyArray = npt.NDArray[np.generic]
_SMALLEST = 1e-13  # of M lambda_max: below it a Gram matrix has lost the digits of an eigenvalue


def gram_spectrum(matrix: AnyArray) -> FloatArray:
    """Eigenvalues of W'W, ascending.

    lambda_i = sigma_i(W)^2, from the smaller Gram matrix in float64. Where the smallest of them is below
    1e-13 M lambda_max, rounding of the Gram matrix would be all of it, and singular values are computed instead.

    `matrix` is (a, b) of any real type; the result is (min(a, b),), in units of W squared. Raises ValueError for values
    that are not finite. Golub and Van Loan, Matrix Computations, 8.6.
    """
    w = np.asarray(matrix, dtype=np.float64)
    scale = max(float(w.max(initial=0.0)), -float(w.min(initial=0.0)))  # NaN where there is one; makes no copy
    if not math.isfinite(scale):
        raise ValueError("the matrix holds values that are not finite")
    if scale == 0.0:
        return np.zeros(min(w.shape))
    small = not 1e-100 < scale < 1e100  # whose squares would leave the range of float64
    w = w / scale if small else w
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    found: FloatArray = np.asarray(np.linalg.eigvalsh(gram), np.float64)
    if found[0] < _SMALLEST * found.size * found[-1]:
        found = np.asarray(np.linalg.svd(w, compute_uv=False)[::-1] ** 2, np.float64)
    return found * scale**2 if small else found


def stable_rank(spectrum: FloatArray) -> float:
    """sum lambda / lambda_max, from 1 to n; NaN for a matrix of zeros. `spectrum` is (n,), ascending."""
    return float(spectrum.sum() / spectrum[-1]) if spectrum.size and spectrum[-1] > 0 else math.nan


def rounding_floor(spectrum: FloatArray, larger: int, smaller: int, slices: int, eps: float) -> float:
    """What the rounding of entries adds to an eigenvalue of W'W at most, where it has random signs.

    Entries w that move by +-eps |w| / 2 are a matrix of noise, whose largest singular value is (sqrt N + sqrt M) times
    their root mean square: sigma = eps |W|_F (1 / sqrt N + 1 / sqrt M) / 2. The usual bound N eps sigma_max is that of
    signs that all agree, and of bfloat16 with N > 128 no singular value is above it. Rounding of the eigenvalues
    themselves is counted, too: 16 units of float64.

    `spectrum` (n,) is that of all `slices` matrices (larger, smaller); `eps` is the unit of rounding of the type that
    their entries are stored in. The result is in units of W squared.
    """
    norm = float(spectrum.sum()) / slices
    stored = eps * eps / 4 * norm * (1 / math.sqrt(larger) + 1 / math.sqrt(smaller)) ** 2
    return max(stored, (16 * float(np.finfo(np.float64).eps)) ** 2 * float(spectrum[-1]))


def rank(spectrum: FloatArray, larger: int, smaller: int, slices: int, eps: float) -> int:
    """Number of eigenvalues above `rounding_floor`, see there."""
    return int((spectrum > rounding_floor(spectrum, larger, smaller, slices, eps)).sum())


def entropy(spectrum: FloatArray) -> float:
    """-sum p ln p / ln n with p = lambda / sum lambda, from 0 (rank one) to 1 (all equal).

    `spectrum` (n,) holds the eigenvalues that count, of which n > 1; NaN otherwise.
    """
    total = float(spectrum.sum())
    if spectrum.size < 2 or not total > 0:
        return math.nan
    p = spectrum[spectrum > 0] / total
    return float(-(p * np.log(p)).sum() / math.log(spectrum.size))


def log_schatten(spectrum: FloatArray, alpha: float) -> float:
    """log10 sum_i lambda_i^alpha, without overflow; -inf for a matrix of zeros. `spectrum` is (n,), any order."""
    positive = spectrum[spectrum > 0]
    if not positive.size or not math.isfinite(alpha):
        return -math.inf if math.isfinite(alpha) else math.nan
    top = float(positive.max())
    return alpha * math.log10(top) + math.log10(float(((positive / top) ** alpha).sum()))


def jensen_shannon(p: FloatArray, q: FloatArray) -> float:
    """Jensen-Shannon distance of two histograms, in nats^0.5: sqrt((KL(p|m) + KL(q|m)) / 2), m = (p + q) / 2.

    `p` and `q` are (n,), not negative, and are brought to sum 1. At most sqrt(ln 2).
    """
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2

    def divergence(a: FloatArray) -> float:
        there = a > 0
        return float((a[there] * np.log(a[there] / m[there])).sum())

    return math.sqrt(max((divergence(p) + divergence(q)) / 2, 0.0))


def density_distance(a: FloatArray, b: FloatArray, bins: int = 0) -> float:
    """Jensen-Shannon distance of the densities of two spectra, in nats^0.5.

    Histograms of log lambda over the range of both, in 2 n^(1/3) bins (Rice's rule) where `bins` does not say. Values
    of 0 share the lowest bin. `a` and `b` are (n,) and (m,).
    """
    bins = bins or math.ceil(2 * min(a.size, b.size) ** (1 / 3))
    both = np.concatenate([a, b])
    positive = both[both > 0]
    if not positive.size:
        return 0.0
    top = float(positive.max())
    low = max(float(positive.min()), top * 1e-12)
    if top < low * (1 + 1e-9):  # one value but for rounding
        return 0.0
    edges = np.linspace(math.log(low), math.log(top), bins + 1)
    edges[-1] = math.inf
    inner = edges[1:-1]

    def histogram(values: FloatArray) -> FloatArray:
        logs = np.log(np.clip(values, low, None))
        return np.bincount(np.searchsorted(inner, logs, side="right"), minlength=bins).astype(np.float64)

    return jensen_shannon(histogram(a), histogram(b))
