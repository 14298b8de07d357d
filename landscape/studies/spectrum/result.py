"""What curvature measurements return: eigenpairs, traces and densities, every number beside its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.results.base import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def completeness(whole: bool, searched: int, missed: float) -> str:
    """How a list of eigenvalues is known to be complete, in words."""
    if whole:
        return "the matrix was computed whole: all copies of every eigenvalue are there"
    if missed == 0 and not searched:
        return "one value an end, which has no copies before it"
    if missed == missed:
        return f"{searched} products from random vectors brought nothing beyond; the chance of a miss is {missed:.1g}"
    return "not known: copies of an eigenvalue may be missing"


@dataclass(frozen=True)
class Eigenpairs:
    """k eigenpairs from one end of a spectrum."""

    values: FloatArray  # (k,), largest first at the upper end, smallest first at the lower
    residuals: FloatArray  # (k,), |A v - theta v| / |theta| by a product with v itself
    converged: BoolArray  # (k,), residual at most the tolerance
    stderr: FloatArray  # (k,), standard error over chunks of data, for the population; NaN where not estimated
    bias: FloatArray  # (k,), expected excess over the population's eigenvalue (Jensen): values - bias is corrected
    vectors: FloatArray | None = None  # (k, size), unit eigenvectors; None where they were not asked to be kept
    independent: FloatArray | None = None  # (k,), v'Hv on an independent sample of the data; sub-samples only
    independent_stderr: FloatArray | None = None  # (k,), its standard error over chunks
    # (k,), what rounding of products may move a value by, relative; NaN where it is not known
    rounding: FloatArray = field(default_factory=lambda: np.zeros(0))
    # with error=, (k,): how far the value may be off from that of all data (one standard error and half the bracket's
    # width), and the bracket, whose lower end is a mean over draws
    error: FloatArray | None = None
    lower: FloatArray | None = None
    upper: FloatArray | None = None

    def __post_init__(self) -> None:
        if len(self.rounding) != len(self.values):
            object.__setattr__(self, "rounding", np.full(len(self.values), np.nan))

    @property
    def sampled(self) -> bool:
        """Whether the values are of samples, to an error that was asked for; False where all data were measured."""
        return self.error is not None and bool(self.error.any())

    @property
    def known_to(self) -> FloatArray:
        """(k,), `error` of values of samples, else `stderr`: what bars in pictures are of."""
        return self.error if self.error is not None and self.sampled else self.stderr


@dataclass(frozen=True)
class Trace:
    """The trace of a matrix and how well it is known."""

    value: float
    stderr: float  # of the value as an estimate for the population: probes and data
    stderr_probes: float  # of the value for the data given: random probes or draws; 0 for an exact route
    stderr_data: float  # from the data being a sample of the population
    method: str  # "exact", "sampled", "split", "deflated", "hutchinson" or "xtrace"
    products: int  # matrix-vector products
    passes: int  # passes over the data
    gradients: float  # per-sample backward passes over the number of samples: the cost of the exact routes
    layers: Mapping[str, float] = field(default_factory=dict)  # layer -> trace of its diagonal block
    # layer -> standard error: for the population by the exact ways, for the data given by probes
    layers_stderr: Mapping[str, float] = field(default_factory=dict)
    # |A|_F from the same probes (deflated: the first four); NaN where the method has none
    frobenius: float = float("nan")
    frobenius_stderr: float = float("nan")
    # what rounding in float32 may move the value by, measured on some of the data; NaN where it is not known
    rounding: float = float("nan")

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Density:
    """Spectral density by stochastic Lanczos quadrature, Gaussian-broadened; its integral is 1."""

    grid: FloatArray  # (n,), eigenvalue axis
    values: FloatArray  # (n,), density per unit of eigenvalue
    lower: FloatArray  # (n,), band over probes: two standard errors below
    upper: FloatArray  # (n,)
    nodes: FloatArray  # (p, m), quadrature nodes of each probe, NaN where a probe has fewer
    weights: FloatArray  # (p, m), their weights, which sum to 1 for each probe
    deflated: FloatArray  # (j,), eigenvalues taken out before, each of weight 1 / size
    width: float  # standard deviation of the Gaussians, in units of the eigenvalues
    products: int
    passes: int
    # by what rounding of products moves the eigenvalues, in the root mean square and at most, measured on some of the
    # data; 0 where products are in float64, NaN where it is not known
    rounding: float = float("nan")


@dataclass(frozen=True, repr=False)
class Spectrum(Result):
    """Eigenpairs, trace and density of the Hessian (or Gauss-Newton matrix) of the mean loss.

    For all data an eigenvalue is exact for the data given up to its residual; `eigenvalue_stderr` is for the
    population the data were drawn from.
    """

    largest: Eigenpairs
    smallest: Eigenpairs  # the other end: what was asked for, else what the run happened to see (mostly unconverged)
    size: int  # dimension of the matrix
    products: int  # of the eigenpairs: matrix-vector products
    passes: int  # of the eigenpairs: passes over the data
    trace: Trace | None = None
    density: Density | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # operator, params, route, data, provenance: see schema
    searched: int = 0  # of the products: those of searches for copies that one Krylov space does not hold
    # chance, at most, that a copy of an eigenvalue beyond the last of the list is missing: 0 where the matrix was
    # computed whole or one value an end was asked for; NaN where no search was finished
    missed: float = float("nan")
    whole: bool = False  # whether the matrix was computed whole, by the products of all unit vectors

    def __repr__(self) -> str:
        top = f"{self.eigenvalues[0]:.6g}" if len(self.eigenvalues) else "none asked"
        parts = [f"{len(self.eigenvalues)} eigenvalues from {top}, {int(self.converged.sum())} converged"]
        if self.trace is not None:
            parts.append(f"trace {self.trace.value:.6g} +- {self.trace.stderr:.2g}")
        if self.density is not None:
            probes = f"of {len(self.density.nodes)} probes" if self.density.nodes.size else "exact"
            parts.append(f"density {probes}")
        if "work" in self.attributes:
            share = f"by {self.attributes['work']['share_of_full']:.0%} of a full measurement"
            spent = share if self.largest.sampled else "all data measured"
            parts.append(f"error {self.attributes['error_asked']:g} asked, {spent}")
        return f"Spectrum({self.attributes.get('operator', 'hessian')} of size {self.size:,}: {'; '.join(parts)})"

    @property
    def completeness(self) -> str:
        """How the lists of eigenvalues are known to be complete."""
        return completeness(self.whole, self.searched, self.missed)

    @property
    def eigenvalues(self) -> FloatArray:
        """(k,), the largest eigenvalues, descending."""
        return self.largest.values

    @property
    def residuals(self) -> FloatArray:
        """(k,), |H v - lambda v| / |lambda| of each of them."""
        return self.largest.residuals

    @property
    def eigenvalue_stderr(self) -> FloatArray:
        """(k,), standard errors as estimates for the population."""
        return self.largest.stderr

    @property
    def eigenvalue_error(self) -> FloatArray:
        """(k,), what each may be off from that of all data: 0 without `error=`, residuals and rounding apart."""
        return np.zeros(len(self.largest.values)) if self.largest.error is None else self.largest.error

    @property
    def eigenvectors(self) -> FloatArray | None:
        """(k, size), unit vectors in the order of the eigenvalues, or None."""
        return self.largest.vectors

    @property
    def converged(self) -> BoolArray:
        """(k,), whether each of the largest pairs reached the tolerance."""
        return self.largest.converged

    @checked()
    def plot(self, kind: str = "spectrum", **options: Any) -> Figure:
        """A matplotlib Figure: "spectrum", "density", "layers" (their traces) or "vectors"; see `plot_spectrum`."""
        return self._drawn(kind, **options)
