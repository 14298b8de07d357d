"""Covariances of the outputs of random networks over the draws of their weights.

Sources: Cho and Saul, Kernel methods for deep learning, NIPS 2009 (the arc-cosine kernel of order 1); Lee et al., Deep
neural networks as Gaussian processes, ICLR 2018, appendix C (the recursion for ReLU).
"""

from __future__ import annotations

import math

import numpy as np

from landscape_kernels.arrays import FloatArray

_BLOCK = 256  # rows at a time: what is held beside the kernel is a few of these


def nngp_kernel(
    inputs: FloatArray, depth: int, weight_variance: float = 2.0, bias_variance: float = 0.01
) -> FloatArray:
    """Covariance of an output of a fully connected ReLU network of infinite width at each pair of inputs, (m, m).

    K_0 = sb2 + sw2 x.x' / d and, over `depth` hidden layers,
    K_(l+1) = sb2 + sw2 / (2 pi) sqrt(K_l(x, x) K_l(x', x')) (sin t + (pi - t) cos t), cos t the correlation by K_l.
    `inputs` are (m, d); `weight_variance` sw2 is that of a weight times its fan-in, `bias_variance` sb2 that of a bias.
    The result is symmetric to the bit.
    """
    samples, size = inputs.shape
    kernel = np.empty((samples, samples))
    variances = bias_variance + weight_variance * np.einsum("ij,ij->i", inputs, inputs) / size
    for start in range(0, samples, _BLOCK):
        rows = slice(start, min(start + _BLOCK, samples))
        part = inputs[rows] @ inputs[: rows.stop].T
        part *= weight_variance / size
        part += bias_variance
        own, others = variances[rows], variances[: rows.stop]
        for _ in range(depth):
            part = _through_relu(part, np.sqrt(np.outer(own, others)))
            part *= weight_variance / (2 * math.pi)
            part += bias_variance
            own, others = (bias_variance + weight_variance / 2 * v for v in (own, others))
        kernel[rows, : rows.stop] = part
        kernel[:start, rows] = part[:, :start].T
    lower = np.tril_indices(min(_BLOCK, samples), -1)
    for start in range(0, samples, _BLOCK):  # blocks on the diagonal, which BLAS need not make symmetric
        block = kernel[start : start + _BLOCK, start : start + _BLOCK]
        below = tuple(k[(lower[0] < len(block))] for k in lower)
        block.T[below] = block[below]
    return kernel


def _through_relu(part: FloatArray, sizes: FloatArray) -> FloatArray:
    """`sizes` (sin t + (pi - t) cos t) of cos t = `part` / `sizes`, 0 where `sizes` is."""
    cosine = np.divide(part, sizes, out=part, where=sizes > 0)
    np.clip(cosine, -1.0, 1.0, out=cosine)
    angle = np.arccos(cosine)
    found = math.pi - angle
    found *= cosine
    found += np.sin(angle, out=angle)
    found *= sizes
    return found


def packed(kernel: FloatArray) -> FloatArray:
    """The lower triangle of a symmetric matrix (m, m), row by row: (m (m + 1) / 2,)."""
    found: FloatArray = kernel[np.tril_indices(len(kernel))]
    return found


def unpacked(triangle: FloatArray) -> FloatArray:
    """The symmetric matrix (m, m) of its lower triangle."""
    samples = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    kernel = np.empty((samples, samples))
    start = 0
    for row in range(samples):
        kernel[row, : row + 1] = kernel[: row + 1, row] = triangle[start : start + row + 1]
        start += row + 1
    return kernel
