"""The structure of layers as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class LayerStructure(Result):
    """What the block of each of L layers' weights (m, p) is made of, beside its Kronecker approximation.

    E[M] (m, m) is the mean Gauss-Newton Hessian of the loss in the layer's outputs, E[x x'] (p, p) the mean of its
    inputs' products, and E[M] (x) E[x x'] the approximation of the block. Column j - 1 of an overlap is of the j
    leading eigenvectors. What there is less of than k is NaN beyond.
    """

    layers: tuple[str, ...]  # L module names
    outputs: IntArray  # (L,), m
    inputs: IntArray  # (L,), p; of a convolution the values under its kernel
    places: IntArray  # (L,), positions at which the layer is used for one sample
    output_eigenvalues: FloatArray  # (L, k) of E[M]
    output_stderr: FloatArray  # (L, k), for the population, as all standard errors here
    input_eigenvalues: FloatArray  # (L, k) of E[x x']
    input_stderr: FloatArray  # (L, k)
    mean_alignment: FloatArray  # (L,), |cos| of the first eigenvector of E[x x'] with E[x]
    kronecker: FloatArray  # (L, k), the k largest eigenvalues of E[M] (x) E[x x']
    kronecker_stderr: FloatArray  # (L, k)
    eigenvalues: FloatArray  # (L, k) of the block itself
    stderr: FloatArray  # (L, k)
    residuals: FloatArray  # (L, k), relative
    rounding: FloatArray  # (L, k), what rounding may move an eigenvalue by, relative
    converged: BoolArray  # (L, k)
    overlap: FloatArray  # (L, k), of the leading eigenvectors of the block with those of its approximation
    rank_one: FloatArray  # (L, k), sigma_1^2 / |V|_F^2 of the block's eigenvectors reshaped as the weight (m, p)
    computed: BoolArray  # (L,), False where the layer was not computed yet
    products: int
    passes: int
    other_overlap: FloatArray | None = None  # (L, k), with the leading eigenvectors of the other model's block
    output_factors: Mapping[str, FloatArray] = field(default_factory=dict)  # layer -> E[M] (m, m)
    input_factors: Mapping[str, FloatArray] = field(default_factory=dict)  # layer -> E[x x'] (p, p)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> FloatArray:
        """(L, k) the overlap of j-dimensional spaces of which one is random: j / (m p) on average."""
        j = np.arange(1, self.overlap.shape[1] + 1)
        sizes = (self.outputs * self.inputs)[:, None]
        return np.where(j <= sizes, j / sizes, np.nan)

    @property
    def left_out(self) -> Mapping[str, str]:
        """Layers without such factors, and why."""
        found: Mapping[str, str] = self.attributes.get("left_out", {})
        return found

    @property
    def complete(self) -> bool:
        """Whether every layer was computed."""
        return bool(self.computed.all())

    def __repr__(self) -> str:
        return f"LayerStructure({len(self.layers)} layers, {int(self.computed.sum())} computed)"

    def plot(self) -> Figure:
        """Eigenvalues of blocks and of their approximations, overlaps and rank-one shares, layer by layer."""
        return self._drawn()
