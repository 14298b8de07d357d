"""Topology as frozen results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.results.base import Result
from landscape.studies.surface.result import Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NOWHERE = -1  # number of a grid point, saddle or node that is not there


@dataclass(frozen=True)
class Pairs:
    """What appears and disappears as the level rises: n persistence pairs, by dimension, the most persistent first.

    Dimension 0: a basin, from its minimum to the saddle where it meets a deeper one. Dimension 1: a loop; on two axes
    from the saddle that closes a ring to the maximum that fills it. Dimension 2, on three axes: a shell, to a maximum.
    What never disappears (the deepest basin of each piece of the domain, loops around holes) has death +inf.
    """

    dimension: IntArray  # (n,)
    birth: FloatArray  # (n,), value where it appears
    death: FloatArray  # (n,), value where it disappears
    birth_point: IntArray  # (n,), number of the grid point: index in the flattened values, the first axis fastest
    death_point: IntArray  # (n,), -1 where there is none
    stderr: FloatArray  # (n,), sqrt(se(birth)^2 + se(death)^2); NaN where an error is not known or there is no death
    counts: BoolArray  # (n,), whether it stands out of the noise

    @property
    def persistence(self) -> FloatArray:
        """death - birth, (n,)."""
        return difference(self.death, self.birth)


@dataclass(frozen=True)
class CriticalPoints:
    """Grid points where the topology of {values <= level} changes, n of them, by ascending value."""

    point: IntArray  # (n,), number of the grid point
    coordinates: FloatArray  # (n, axes), of the grid point: exact to its spacing, not interpolated
    value: FloatArray  # (n,)
    stderr: FloatArray  # (n,), standard error of the value
    persistence: FloatArray  # (n,), of its pair
    on_border: BoolArray  # (n,), at an end of an axis or beside a point outside of the domain: the surface may go on

    def __len__(self) -> int:
        return len(self.point)


@dataclass(frozen=True)
class Minima(CriticalPoints):
    """Minima; the first is the global one."""

    depth: FloatArray  # (n,), height of the lowest saddle out of the basin above the minimum; inf where none leads out
    saddle: IntArray  # (n,), row of the saddle where the basin meets a deeper one, -1 where it meets none


@dataclass(frozen=True)
class Saddles(CriticalPoints):
    """Saddles, one for each pair they belong to; on one axis these are the maxima between two minima."""

    index: IntArray  # (n,), number of descending directions: 1, or on three axes 2
    joins: BoolArray  # (n,), whether two basins meet there; elsewhere a loop (index 1) or shell (index 2) closes


@dataclass(frozen=True)
class MergeTree:
    """How basins meet as the level rises. Nodes 0, 1, ... are the minima as they are numbered, then joins by height."""

    height: FloatArray  # (nodes,), value of the minimum, or of the saddle that joins
    parent: IntArray  # (nodes,), the join above, -1 at a root; the domain's pieces have one root each
    point: IntArray  # (nodes,), number of the grid point


@dataclass(frozen=True, repr=False)
class Topology(Result):
    """Minima, saddles and maxima of a quantity of a surface that stand out of the noise, and all persistence pairs."""

    surface: Surface
    quantity: str
    minima: Minima
    saddles: Saddles
    maxima: CriticalPoints  # inside a loop or shell; none on one axis
    pairs: Pairs  # also those that do not count
    merge_tree: MergeTree  # of the minima that count
    z: float  # a pair counts where its persistence exceeds z standard errors,
    threshold: float | None  # or this, where it is given
    outside: int  # grid points outside of the domain: not computed, NaN or +inf

    def __repr__(self) -> str:
        return f"Topology({self.quantity}: {self.found})"

    @property
    def attributes(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Those of the surface."""
        return self.surface.attributes

    @property
    def found(self) -> str:
        """In words, how many of each kind count."""
        named = ((self.minima, "minimum", "minima"), (self.saddles, "saddle", "saddles"))
        counts = [(len(points), one, many) for points, one, many in (*named, (self.maxima, "maximum", "maxima"))]
        return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)

    @property
    def stderr(self) -> FloatArray:
        """Standard errors of the values, of the grid's shape; NaN where they are not known."""
        return stderr_at(self.surface, self.quantity)

    @property
    def rule(self) -> str:
        """In words, which pairs count."""
        if self.threshold is not None:
            return f"persistence above {self.threshold:.6g}, as given"
        if np.isfinite(self.stderr).any():
            all_known = np.isfinite(self.stderr[self.surface.computed]).all()
            return f"persistence above {self.z:g} standard errors" + ("" if all_known else ", where these are known")
        return "every pair: the values' errors are not known"

    @property
    def smad(self) -> float:
        """Saddle-minimum average distance: mean over the minima of f(saddle) - f(minimum); NaN where no basins meet.

        The saddle is the one the minimum hangs from in the sublevel merge tree, where its basin first meets another;
        minima without one are left out. With `threshold=0` all minima of the grid take part, as in Landscaper, which
        introduced the measure; without, those that stand out of the noise. Landscaper lets basins spread along the axes
        alone, which finds more minima, and its release 1.3.1 takes the contour tree, whose arcs may end sooner.

        Source: Chen, Hadler et al., Landscaper: Understanding Loss Landscapes Through Multi-Dimensional Topological
        Analysis, arXiv:2602.07135 (2026), and `LossLandscape.smad` of that package.
        """
        depth = self.minima.depth[np.isfinite(self.minima.depth)]
        return float(depth.mean()) if depth.size else math.nan

    @property
    def smad_stderr(self) -> float:
        """At most the standard error of `smad`: the mean of sqrt(se(saddle)^2 + se(minimum)^2); NaN if not known.

        No more than that where the errors of a minimum and of its saddle are not anticorrelated, whatever the
        correlation between minima.
        """
        known = np.isfinite(self.minima.depth)
        if not known.any():
            return math.nan
        tree, stderr = self.merge_tree, self.stderr.ravel()
        above = stderr[tree.point[tree.parent[: len(self.minima)][known]]]
        return float(np.hypot(self.minima.stderr[known], above).mean())

    @checked()
    def plot(self, kind: str = "barcode") -> Figure:
        """A matplotlib Figure: "barcode", "tree" or "surface"; see `plot_topology`."""
        return self._drawn(kind)


def stderr_at(surface: Surface, quantity: str) -> FloatArray:
    """Standard errors of a quantity, NaN where they are unknown."""
    unknown = np.full(surface.computed.shape, np.nan)
    return np.asarray(surface.stderr.get(quantity, unknown), dtype=np.float64)


def difference(high: FloatArray, low: FloatArray) -> FloatArray:
    """`high` - `low`, without a warning where that is infinite or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):  # 1e308 - -1e308 is as good as endless
        return high - low
