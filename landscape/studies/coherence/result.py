"""Coherence as frozen results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.estimate import Estimate
from landscape.results.quantities import Meaning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"  # the row of all parameters together
MEANINGS: Mapping[str, Meaning] = {
    "alpha": Meaning("coherence alpha", "", "mean of g_i.g_j over all pairs of samples over the mean of |g_i|^2"),
    "m_coherence": Meaning("m-coherence", "", "alpha times the number of samples: 1 where gradients are orthogonal"),
    "share": Meaning("share of the squared gradients", "fraction", "mean of |g_i|^2 in the layer over that in all"),
    "noise_scale": Meaning("noise scale", "", "tr Cov(g) / |mean g|^2 = (1 - alpha) / alpha"),
    "signal_to_noise": Meaning("signal to noise", "", "|mean g|^2 / tr Cov(g) = alpha / (1 - alpha)"),
    "diversity": Meaning("gradient diversity", "", "mean of |g_i|^2 over |mean g|^2 = 1 / alpha"),
}
# Of alpha: a quantity, and the absolute value of its derivative in alpha.
_OF_ALPHA: Mapping[str, tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]] = {
    "alpha": (lambda a: a, np.ones_like),
    "noise_scale": (lambda a: (1 - a) / a, lambda a: a**-2),
    "signal_to_noise": (lambda a: a / (1 - a), lambda a: (1 - a) ** -2),
    "diversity": (lambda a: 1 / a, lambda a: a**-2),
}


@dataclass(frozen=True, repr=False)
class Coherence(Result):
    """How far the gradients g_i of m samples agree at T parameter vectors, in R rows: all parameters, and each layer.

    g_i is scaled so that the mean over samples is the gradient of the mean loss. Where there is one parameter vector
    properties have no axis T, and numbers of all parameters are Estimates.
    """

    labels: tuple[str, ...]  # (T,) names of the parameter vectors
    rows: tuple[str, ...]  # (R,) "all", then the layers
    samples: int  # m
    norms: FloatArray  # (T, R), |mean g|^2
    squares: FloatArray  # (T, R), mean of |g_i|^2
    stderr: FloatArray  # (T, R), standard error of alpha, for the population
    groups: tuple[str, ...]  # (G,) names of groups of samples; () where none were given
    group_sizes: IntArray  # (G,)
    products: FloatArray  # (T, G, G), mean of g_i.g_j over i in one group and j in another
    group_squares: FloatArray  # (T, G), mean of |g_i|^2 in a group
    alignments: FloatArray  # (T, m), g_i.g / |g|^2 with g the mean; (T, 0) where it was not asked for
    lengths: FloatArray  # (T, m), |g_i|^2; (T, 0) where it was not asked for
    computed: BoolArray  # (T,)
    attributes: Mapping[str, Any] = field(default_factory=dict)  # route, data, provenance

    def __repr__(self) -> str:
        first = f", m-coherence {float(self.m_coherence):.4g}" if len(self.labels) == 1 and self.computed.all() else ""
        thetas = f" at {len(self.labels)} parameter vectors, {int(self.computed.sum())} computed" if not first else ""
        return f"Coherence({len(self.rows) - 1} layers on {self.samples:,} samples{thetas}{first})"

    @property
    def complete(self) -> bool:
        """Whether every parameter vector was computed."""
        return bool(self.computed.all())

    @checked()
    def quantity(self, name: str) -> FloatArray:
        """One of "alpha", "m_coherence", "share", "noise_scale", "signal_to_noise", "diversity", (T, R).

        Raises InputError for another.
        """
        self.require(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            if name == "share":
                return self.squares / self.squares[:, :1]
            alpha = self.norms / self.squares
            found: FloatArray = alpha * self.samples if name == "m_coherence" else _OF_ALPHA[name][0](alpha)
        return found

    @checked()
    def error(self, name: str) -> FloatArray:
        """The standard error of a quantity, (T, R), for the population; that of shares is not known, NaN.

        Raises InputError for an unknown quantity.
        """
        self.require(name)
        if name == "share":
            return np.full(self.squares.shape, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = self.samples if name == "m_coherence" else _OF_ALPHA[name][1](self.norms / self.squares)
            return self.stderr * slope

    @checked()
    def require(self, name: str) -> None:
        """Raise InputError for an unknown quantity."""
        if name not in MEANINGS:
            raise InputError(f"coherence has no quantity {name!r}; {nearest(name, MEANINGS)}")

    def _whole(self, name: str) -> Any:
        values, errors = self.quantity(name)[:, 0], self.error(name)[:, 0]
        return Estimate(values[0], stderr=errors[0], n=self.samples) if len(self.labels) == 1 else values

    @property
    def alpha(self) -> Any:
        """|mean g|^2 / mean |g_i|^2 of all parameters: an Estimate, of several parameter vectors (T,)."""
        return self._whole("alpha")

    @property
    def m_coherence(self) -> Any:
        """m alpha of all parameters, how many samples one sample's gradient helps: an Estimate, or (T,)."""
        return self._whole("m_coherence")

    @property
    def noise_scale(self) -> Any:
        """tr Cov(g) / |mean g|^2 of all parameters: an Estimate, or (T,)."""
        return self._whole("noise_scale")

    @property
    def between(self) -> FloatArray:
        """Mean of g_i.g_j over i in one group and j in another, (G, G), or (T, G, G).

        Within a group the pairs of a sample with itself count, as they do in alpha: m_a entry(a, a) is m_a times
        smaller without them where gradients are orthogonal.
        """
        return self.products[0] if len(self.labels) == 1 else self.products

    @property
    def within(self) -> FloatArray:
        """Alpha of the samples of each group by themselves, (G,), or (T, G)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: FloatArray = np.diagonal(self.products, axis1=1, axis2=2) / self.group_squares
        return found[0] if len(self.labels) == 1 else found

    @property
    def parts(self) -> FloatArray:
        """<g, g_a> / <g, g> with g = sum_a g_a, g_a what group a adds to the mean gradient: (G,), or (T, G); sum 1."""
        weights = self.group_sizes / max(self.group_sizes.sum(), 1)
        shares = weights * (self.products @ weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: FloatArray = shares / shares.sum(1, keepdims=True)
        return found[0] if len(self.labels) == 1 else found

    @property
    def undefined(self) -> dict[tuple[str, str], str]:
        """{(label, row): why its alpha is NaN} of what was computed."""
        found: dict[tuple[str, str], str] = {}
        for t, k in np.argwhere(self.computed[:, None] & ~np.isfinite(self.norms / _nonzero(self.squares))):
            zero = self.squares[t, k] == 0
            reason = "the gradient of every sample is zero" if zero else "a gradient is NaN or infinite"
            found[self.labels[t], self.rows[k]] = reason
        return found

    @checked()
    def plot(self, quantity: str = "m_coherence") -> Figure:
        """A Figure of one quantity, or of "between"; see `plot_coherence`."""
        return self._drawn(quantity)


def _nonzero(values: FloatArray) -> FloatArray:
    return np.where(values == 0, np.nan, values)
