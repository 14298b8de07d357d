"""What sampling of data does to eigenvalues: standard errors and bias, to second order in the sampling error."""

from __future__ import annotations

import numpy as np

from landscape_kernels.arrays import FloatArray

_COPY = 1e-6  # a gap, relative to the largest eigenvalue, below which two are copies of one


def eigenvalue_errors(
    forms: FloatArray,
    spectrum: FloatArray,
    first: int,
    squares: FloatArray,
    cross: FloatArray,
    lengths: FloatArray,
    denominators: FloatArray,
    bulk: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """(stderr (k,), bias (k,)) of eigenvalues of H = sum_c H_c / sum_c d_c, the C chunks taken as independent draws.

    For orthonormal w_1 .. w_n, of which w_first .. are the k eigenvectors v_i and the others as good as the rest of the
    spectrum is known, `forms` (C, k, n) are v_i' H_c w_j and `spectrum` (n,) w_j'Hw_j; `squares` (C, k) are
    |H_c v_i|^2, `cross` (k,) the products of Hv_i with sum_c d_c H_c v_i / sum_c d_c, `lengths` (k,) |Hv_i|^2,
    `denominators` (C,) d_c.

    With E = sum_c (H_c - d_c H) / sum_c d_c the sampling error, perturbation theory gives (Kato 1966, II.2)

        lambda_i(H + E) = lambda_i + v_i'Ev_i + sum_(j != i) (w_j'Ev_i)^2 / (lambda_i - lambda_j) + ...

    The first term has mean 0 and gives the standard error (that of a ratio of means); the second is the bias (Jensen):
    the sum over the given vectors, and what of E v_i lies outside their span, as if the rest of the spectrum were at
    `bulk`. Nearly equal eigenvalues repel at most by the size of the error that couples them; copies of one, whose
    vectors are any of their space, push each other to both sides, which is no bias, and share the mean of the rest.
    NaN for fewer than two chunks, and where the bias would be larger than the value: it is then no small correction.
    """
    chunks, k, _ = forms.shape
    if chunks < 2:
        return np.full(k, np.nan), np.full(k, np.nan)
    total = float(denominators.sum())
    own = first + np.arange(k)
    mean = forms.sum(0) / total
    scale = chunks / (chunks - 1) / total**2
    variances = scale * ((forms - denominators[:, None, None] * mean) ** 2).sum(0)  # of v_i' E w_j
    whole = scale * (squares.sum(0) - 2 * total * cross + lengths * (denominators**2).sum())  # E |E v_i|^2
    outside = np.maximum(whole - variances.sum(1), 0.0)
    stderr = np.sqrt(variances[np.arange(k), own])
    gaps = spectrum[own][:, None] - spectrum[None, :]
    gaps = np.where(gaps < 0, -1.0, 1.0) * np.maximum(np.abs(gaps), np.sqrt(variances))
    variances[np.arange(k), own] = 0.0
    copies = np.abs(spectrum[own][:, None] - spectrum[None, :]) <= _COPY * np.abs(spectrum).max()
    variances[copies] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(variances > 0, variances / gaps, 0.0)
        rest = np.where(outside > 0, outside / (spectrum[own] - bulk), 0.0)
    together = copies[:, own].astype(float)
    bias = together @ (inside.sum(1) + rest) / together.sum(1)
    return stderr, np.where(np.abs(bias) <= np.abs(spectrum[own]), bias, np.nan)


def form_errors(forms: FloatArray, denominators: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(values (k,), stderr (k,)) of v_i'Hv_i from its chunks' parts (C, k), as ratios of means; NaN for one chunk."""
    chunks, total = len(forms), float(denominators.sum())
    values = forms.sum(0) / total
    if chunks < 2:
        return values, np.full(forms.shape[1], np.nan)
    spread = ((forms - denominators[:, None] * values) ** 2).sum(0)
    return values, np.sqrt(chunks / (chunks - 1) * spread) / total
