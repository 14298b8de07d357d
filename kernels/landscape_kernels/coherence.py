"""How far the gradients of different samples agree, from sums over samples (Chatterjee & Zielinski 2022)."""

from __future__ import annotations

import numpy as np

from landscape_kernels.arrays import FloatArray, IntArray


def alpha_and_error(
    dots: FloatArray, squares: FloatArray, counts: FloatArray, strata: IntArray
) -> tuple[FloatArray, FloatArray]:
    """(alpha (n,), its standard error (n,)) of n parts of gradients g_i, from sums over blocks b of the m samples.

    alpha = |S|^2 / (m Q) with S = sum_i g_i and Q = sum_i |g_i|^2: the mean of g_i.g_j over all pairs over that of
    |g_i|^2 (arXiv 2203.10036, eq. 1). `dots` (B, n) are S.S_b, `squares` (B, n) the Q_b, `counts` (B,) the samples of
    each block, and `strata` (B,) says which blocks are of one kind of samples: blocks of one sample, or random ones.

    The error is that for m new samples, of kinds as they come: alpha's linearisation in the blocks, D_b = (2 S.S_b -
    |S|^2 (m_b/m + Q_b/Q)) / (m Q), by the variance of a sum of m draws, inside kinds h and between them, m/(m - 1)
    sum_h ((1 - 1/m_h) V_h + D_h^2/m_h), where V_h = B_h/(B_h - 1) sum_{b in h} (D_b - D_h m_b/m_h)^2 and D_h = sum_{b
    in h} D_b. Kinds of a single block count together as one. NaN where all squares are zero, where one is not finite,
    and, of the error, for fewer than two blocks.

    >>> g = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> alpha, stderr = alpha_and_error((g @ g.sum(0))[:, None], (g * g).sum(1)[:, None], np.ones(3), np.zeros(3, int))
    >>> float(round(alpha[0], 6)), float(round(stderr[0], 6))
    (0.666667, 0.166667)
    """
    total, whole, m = dots.sum(0), squares.sum(0), counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha: FloatArray = total / (m * whole)
        terms = (2 * dots - total * (counts[:, None] / m + squares / whole)) / (m * whole)
    variance = np.zeros_like(alpha)
    names, sizes = np.unique(strata, return_counts=True)
    alone = np.isin(strata, names[sizes == 1])
    if alone.sum() == 1 and len(strata) > 1:  # nothing like it: with the blocks of the first stratum
        strata, alone = np.where(alone, names[sizes > 1][0], strata), np.zeros_like(alone)
    joined = np.where(alone, names.min() - 1, strata)
    for name in np.unique(joined):
        part, held = terms[joined == name], counts[joined == name, None]
        if len(part) < 2:
            return alpha, np.full_like(alpha, np.nan)
        count, sums = held.sum(), part.sum(0)
        inside = len(part) / (len(part) - 1) * np.square(part - sums * held / count).sum(0)
        variance += (1 - 1 / count) * inside + np.square(sums) / count
    return alpha, np.sqrt(m / (m - 1) * variance)


def alpha_of_batches(alpha: FloatArray | float, k: int) -> FloatArray | float:
    """Alpha of the mean gradients of k independent samples each: k alpha / (1 + (k - 1) alpha).

    `alpha` is that of the population; (m alpha - 1) / (m - 1) estimates it from the alpha of m samples.

    >>> alpha_of_batches(0.25, 1), alpha_of_batches(0.25, 3)
    (0.25, 0.5)
    """
    return k * alpha / (1 + (k - 1) * alpha)


def coherence_bound(
    alpha: FloatArray, lr: FloatArray, samples: int, *, lipschitz: float, smoothness: float
) -> FloatArray:
    """What the expected gap of test and training loss is at most after each of T steps of gradient descent, (T,).

    (L^2 / m) sum_{t <= T} prod_{t < k <= T} (1 + eta_k beta) eta_t sqrt(2 (1 - alpha(w_{t-1}))): the theorem of
    arXiv 2203.10036, of a loss with gradients of at most L = `lipschitz` that are `smoothness`-Lipschitz (beta).
    `alpha` (T,) is that of the population before each step and `lr` (T,) its eta; `samples` is m.

    >>> coherence_bound(np.array([1.0, 0.5]), np.array([0.1, 0.1]), 10, lipschitz=1.0, smoothness=0.0).tolist()
    [0.0, 0.010000000000000002]
    """
    found, gap = np.empty(len(alpha)), 0.0
    for t, (a, eta) in enumerate(zip(alpha, lr, strict=True)):
        gap = (1 + eta * smoothness) * gap + eta * np.sqrt(2 * max(1 - a, 0.0))
        found[t] = gap
    return lipschitz**2 / samples * found
