"""The kernel of infinitely wide networks against the recursion written out, its symmetries, and random networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from landscape_kernels.nngp import nngp_kernel, packed, unpacked

EPS = np.finfo(np.float64).eps


def pair(x: np.ndarray, z: np.ndarray, depth: int, sw2: float, sb2: float) -> float:
    """The recursion for one pair of inputs, in scalars."""
    xx, xz, zz = (sb2 + sw2 * float(a @ b) / len(x) for a, b in ((x, x), (x, z), (z, z)))
    for _ in range(depth):
        size = math.sqrt(xx * zz)
        t = math.acos(max(-1.0, min(1.0, xz / size)))
        xz = sb2 + sw2 / (2 * math.pi) * size * (math.sin(t) + (math.pi - t) * math.cos(t))
        xx, zz = sb2 + sw2 * xx / 2, sb2 + sw2 * zz / 2
    return xz


@pytest.mark.parametrize(("depth", "sw2", "sb2"), [(0, 2.0, 0.01), (1, 2.0, 0.0), (3, 1.5, 0.2)])
def test_equals_the_recursion_and_is_symmetric(depth: int, sw2: float, sb2: float) -> None:
    x = np.random.default_rng(0).normal(size=(300, 4))  # more than a block
    kernel = nngp_kernel(x, depth, sw2, sb2)
    assert np.array_equal(kernel, kernel.T)
    for i, j in ((0, 1), (5, 290), (299, 257), (128, 127)):
        assert kernel[i, j] == pytest.approx(pair(x[i], x[j], depth, sw2, sb2), rel=64 * EPS, abs=64 * EPS)
    diagonal = sb2 + sw2 * (x * x).sum(1) / 4
    for _ in range(depth):
        diagonal = sb2 + sw2 * diagonal / 2
    np.testing.assert_allclose(np.diag(kernel), diagonal, rtol=8 * EPS)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-12 * kernel.max()


def test_copies_opposites_and_nothing() -> None:
    """A copy has correlation 1; without biases the kernel has the inputs' scale, and its own sum with the opposite."""
    x = np.random.default_rng(1).normal(size=(3, 5))
    kernel = nngp_kernel(np.concatenate([x, x[:1], -x[:1], 0 * x[:1]]), 1, 2.0, 0.0)
    assert kernel[0, 3] == pytest.approx(kernel[0, 0], rel=1e-7)  # sin t of t near 0
    assert kernel[0, 4] == pytest.approx(0.0, abs=1e-7)
    assert not kernel[5].any()
    np.testing.assert_allclose(nngp_kernel(3 * x, 2, 2.0, 0.0), 9 * nngp_kernel(x, 2, 2.0, 0.0), rtol=1e-13)


@pytest.mark.parametrize(("depth", "width", "nets"), [(1, 16, 4000), (2, 100, 800)])
def test_random_networks_have_this_covariance(depth: int, width: int, nets: int) -> None:
    """Of one hidden layer that is exact at any width, of more up to 1 / width."""
    stream = np.random.default_rng(2)
    x = stream.normal(size=(4, 6))
    sw2, sb2 = 2.0, 0.1
    h = np.broadcast_to(x, (nets, 4, 6))
    for layer in range(depth + 1):
        fan, out = h.shape[2], width if layer < depth else 1
        weights = stream.normal(size=(nets, fan, out)) * math.sqrt(sw2 / fan)
        h = h @ weights + stream.normal(size=(nets, 1, out)) * math.sqrt(sb2)
        h = np.maximum(h, 0) if layer < depth else h
    products = h @ np.swapaxes(h, 1, 2)
    mean, error = products.mean(0), products.std(0, ddof=1) / math.sqrt(nets)
    kernel = nngp_kernel(x, depth, sw2, sb2)
    assert (np.abs(mean - kernel) < 3.5 * error + (depth - 1) / width * kernel.max()).all()
    assert (np.abs(mean - nngp_kernel(x, depth + 1, sw2, sb2)) > 3.5 * error).any()


def test_a_triangle_is_the_matrix() -> None:
    kernel = nngp_kernel(np.random.default_rng(3).normal(size=(7, 2)), 1)
    assert packed(kernel).shape == (28,)
    assert np.array_equal(unpacked(packed(kernel)), kernel)
