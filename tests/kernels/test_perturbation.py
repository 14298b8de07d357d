"""What sampling does to eigenvalues where several are one, and where it is no small correction."""

from __future__ import annotations

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.perturbation import eigenvalue_errors

CHUNKS, N = 12, 6


def errors_of(values: FloatArray, noise: float, turn: float) -> tuple[FloatArray, FloatArray]:
    """Of all eigenvectors of chunks D + noise, the first two turned in their plane."""
    generator = np.random.default_rng(0)
    bent = generator.normal(size=(CHUNKS, N, N))
    chunks = np.diag(values) + noise * (bent - bent.mean(0) + np.swapaxes(bent - bent.mean(0), 1, 2))
    vectors = np.eye(N)
    vectors[:2, :2] = [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    images = chunks @ vectors.T  # (C, N, b)
    forms = np.swapaxes(vectors @ images, 1, 2)
    squares = np.square(images).sum(1)
    mean = images.mean(0)
    lengths = np.square(mean).sum(0)
    return eigenvalue_errors(forms, values, 0, squares, lengths, lengths, np.ones(CHUNKS))


def test_copies_have_one_bias_whatever_their_vectors_are() -> None:
    values = np.array([3.0, 3.0, 2.0, 1.0, 0.5, 0.2])
    plain, turned = (errors_of(values, 0.05, turn)[1] for turn in (0.0, 0.7))
    assert plain[0] == plain[1]
    np.testing.assert_allclose(turned, plain, rtol=1e-9)
    # of the other eigenvalues, as in the formula
    near = errors_of(np.array([3.0, 3.0 - 1e-9, 2.0, 1.0, 0.5, 0.2]), 0.05, 0.0)[1]
    np.testing.assert_allclose(near, plain, rtol=1e-6)
    assert 0 < plain[0] < 0.1


def test_a_bias_larger_than_the_value_is_none() -> None:
    bias = errors_of(np.array([3.0, 2.5, 2.0, 1.0, 0.5, 1e-5]), 0.05, 0.0)[1]
    assert np.isfinite(bias[:5]).all()
    assert np.isnan(bias[5])
