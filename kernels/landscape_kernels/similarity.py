"""How alike two representations of the same samples are: linear CKA, its unbiased version, and Jensen-Shannon distance.

A representation is a matrix X of n samples and d features. Everything is made of sums that chunks of samples add to, so
that memory does not grow with the data.

Sources: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019 (linear CKA); Song et
al., "Feature selection via dependence maximization", JMLR 2012, eq. 5 (unbiased HSIC); Nguyen, Raghu and Kornblith, "Do
wide and deep networks learn the same things?", ICLR 2021, eq. 2-3 (its mean over minibatches).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray

Products = Sequence[tuple[int, int]]  # which representations are paired

SMALLEST_CHUNK = 4  # samples without which unbiased HSIC is not defined
_FLAT = 400.0  # exp(-2 * 400) is 0


class Comoments(NamedTuple):
    """Centred products of representations over the samples seen so far."""

    samples: int
    mean: FloatArray  # (m, d)
    products: FloatArray  # (p, d, d), sum over samples of (x_i - mean_i)'(x_j - mean_j) for each pair (i, j)


def comoments(x: Tensor, products: Products) -> Comoments:
    """Means and centred products of one chunk: `x` (m, n, d) float64 holds n samples of m representations."""
    mean = x.mean(1)
    centred = x - mean[:, None]
    left, right = (centred[list(side)] for side in zip(*products, strict=True))
    return Comoments(x.shape[1], _numpy(mean), _numpy(left.mT @ right))


def merged(a: Comoments, b: Comoments, products: Products) -> Comoments:
    """Both sets of samples together: products_a + products_b + n_a n_b / n (mean_b - mean_a)'(mean_b - mean_a).

    Nothing is subtracted but means, so large offsets of the features do no harm (Chan, Golub and LeVeque 1983).
    """
    count = a.samples + b.samples
    gap = b.mean - a.mean
    left, right = (gap[list(side)] for side in zip(*products, strict=True))
    across = left[:, :, None] * right[:, None, :] * (a.samples * b.samples / count)
    return Comoments(count, a.mean + gap * (b.samples / count), a.products + b.products + across)


def without(whole: Comoments, part: Comoments, products: Products) -> Comoments:
    """The samples of `whole` that are not in `part`: `merged` undone."""
    count = whole.samples - part.samples
    mean = (whole.mean * whole.samples - part.mean * part.samples) / count
    gap = part.mean - mean
    left, right = (gap[list(side)] for side in zip(*products, strict=True))
    across = left[:, :, None] * right[:, None, :] * (count * part.samples / whole.samples)
    return Comoments(count, mean, whole.products - part.products - across)


def squared_norms(products: FloatArray) -> FloatArray:
    """|X_i'X_j|_F^2, (p,), of products (p, d, d): n^2 times biased HSIC with linear kernels."""
    result: FloatArray = np.einsum("pij,pij->p", products, products)
    return result


def normalised(hsic: FloatArray, products: Products) -> FloatArray:
    """hsic_ij / sqrt(hsic_ii hsic_jj) for each pair with i != j, in their order; `hsic` (..., p) has every (i, i), too.

    With squared norms of centred products it is linear CKA, with means of unbiased HSIC the unbiased version. NaN where
    a representation does not vary, or where sampling has made its own unbiased HSIC negative.
    """
    own = {i: k for k, (i, j) in enumerate(products) if i == j}
    across = [k for k, (i, j) in enumerate(products) if i != j]
    first = hsic[..., [own[products[k][0]] for k in across]]
    second = hsic[..., [own[products[k][1]] for k in across]]
    with np.errstate(invalid="ignore", divide="ignore"):
        result: FloatArray = hsic[..., across] / (np.sqrt(first) * np.sqrt(second))
    return result


def linear_cka(x: Tensor, y: Tensor) -> float:
    """|X'Y|_F^2 / (|X'X|_F |Y'Y|_F) of centred X (n, d) and Y (n, e): the feature form, for n above d and e."""
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    return float((x.mT @ y).square().sum() / ((x.mT @ x).norm() * (y.mT @ y).norm()))


def linear_cka_gram(x: Tensor, y: Tensor) -> float:
    """<K, L>_F / (|K|_F |L|_F) with K = XX', L = YY' of centred X (n, d) and Y (n, e): the same, for n below d."""
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    k, l = x @ x.mT, y @ y.mT  # noqa: E741  (the letters of the formula)
    return float((k * l).sum() / (k.norm() * l.norm()))


def hsic_unbiased(x: Tensor, products: Products) -> FloatArray:
    """HSIC_1 with linear kernels of each pair of representations, (p,): `x` (m, n, d) float64, n >= 4 samples.

    [tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1] / (n (n - 3)) with K = XX' and L = YY' whose diagonals
    are 0. Its expectation over draws of n samples does not depend on n. K is formed only where n <= d; otherwise
    tr(KL) = |X'Y|_F^2 - sum_i |x_i|^2 |y_i|^2 and K1 = X(X'1) - |x_i|^2. Raises ValueError for fewer samples.
    """
    n, d = x.shape[1:]
    if n < SMALLEST_CHUNK:
        raise ValueError(f"unbiased HSIC needs {SMALLEST_CHUNK} samples or more, not {n}")
    x = x - x.mean(1, keepdim=True)  # changes nothing but rounding
    lengths = x.square().sum(2)
    i, j = (list(side) for side in zip(*products, strict=True))
    if n <= d:
        k = x @ x.mT
        k.diagonal(dim1=1, dim2=2).zero_()
        flat = k.flatten(1)
        traces = (flat @ flat.mT)[i, j]
        rows = k.sum(2)
    else:
        traces = (x[i].mT @ x[j]).square().sum((1, 2)) - (lengths @ lengths.mT)[i, j]
        rows = (x @ x.sum(1)[:, :, None])[:, :, 0] - lengths
    totals = rows.sum(1)
    crossed = (rows @ rows.mT)[i, j]
    sums = traces + totals[i] * totals[j] / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed
    return _numpy(sums / (n * (n - 3)))


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """sqrt(JS(p, q)) in nats, (...), of scores (..., C) with p and q their softmax: between 0 and sqrt(ln 2).

    JS = 1/2 KL(p | m) + 1/2 KL(q | m), m = (p + q) / 2, computed as sum_c (p + q) / 2 phi(ln(q / p) / 2) with
    phi(u) = u tanh u - ln cosh u, whose terms are all positive, so that close distributions lose no digits.
    """
    log_p, log_q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    mass = (log_p.exp() + log_q.exp()) / 2
    u = ((log_q - log_p) / 2).abs().clamp(max=_FLAT)
    near = u * u.tanh() - torch.log1p(2 * torch.sinh(u.clamp(max=1) / 2).square())
    far = math.log(2) - 2 * u / (torch.exp(2 * u) + 1) - torch.log1p(torch.exp(-2 * u))
    terms = mass * torch.where(u < 1, near, far)
    return torch.where(mass == 0, 0.0, terms).sum(-1).sqrt()


def jackknife(leaving_out: FloatArray) -> FloatArray:
    """Standard error, (...), of a statistic from its values (b, ...) with each of b parts of the data left out.

    sqrt((b - 1) / b sum_k (value_k - mean)^2) (Efron and Stein 1981); NaN for fewer than two parts.
    """
    parts = len(leaving_out)
    if parts < 2:
        return np.full(leaving_out.shape[1:], np.nan)
    spread = np.square(leaving_out - leaving_out.mean(0)).sum(0)
    result: FloatArray = np.sqrt((parts - 1) / parts * spread)
    return result


def _numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().numpy()
    return array
