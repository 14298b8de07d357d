"""Surfaces as frozen results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import BoolArray, FloatArray

from landscape.arguments import checked
from landscape.precise.told import errors_as_quantities, precision_words
from landscape.results.base import Result

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Points:
    """Known parameter vectors drawn on a surface: end points of a plane, or the checkpoints of a trajectory.

    `true` is the quantity at the vector itself, `projected` at its foot on the plane, where the surface shows it.
    """

    kind: str  # "points", or "trajectory" or "curve" (joined by a line when drawn)
    labels: tuple[str, ...]  # m names
    coordinates: FloatArray  # (m, axes), least-squares coordinates on the axes, x first
    distance: FloatArray  # (m,), Euclidean distance of each vector from the plane, in parameter units
    true: Mapping[str, FloatArray] = field(default_factory=dict)  # quantity -> (m,)
    projected: Mapping[str, FloatArray] = field(default_factory=dict)  # quantity -> (m,)
    explained_variance: FloatArray | None = None  # (axes,), fraction of the trajectory's variance, PCA planes only

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each point: label, coordinates, distance, quantities at itself and at its projection."""
        from landscape.results.frames import frame

        columns: dict[str, Any] = {"label": list(self.labels)}
        columns |= dict(zip("xyz", self.coordinates.T, strict=False))
        columns["distance"] = self.distance
        for name, values in self.true.items():
            columns |= {f"{name}_true": values, f"{name}_projected": self.projected[name]}
        return frame(columns)


@dataclass(frozen=True, repr=False)
class Surface(Result):
    """Quantities on a grid of 1, 2, 3 or more axes: theta(x, y, ...) = centre + x d_x + y d_y + ...

    Arrays are indexed with the last axis first: shape (ny, nx) in 2-D, (nz, ny, nx) in 3-D.
    """

    axes: Mapping[str, FloatArray]  # "x" -> (nx,), "y" -> (ny,), ...; in that order
    values: Mapping[str, FloatArray]  # quantity -> (..., ny, nx); NaN and Inf are results
    stderr: Mapping[str, FloatArray]  # quantity -> same shape; standard error over samples (population)
    computed: BoolArray  # (..., ny, nx); False where no value was computed yet
    points: Points | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # plane, data, precision, provenance: see schema
    # Of surfaces measured to a stated error: quantity -> one standard error of what a full pass gives, same shape
    error: Mapping[str, FloatArray] | None = None
    found: npt.NDArray[np.str_] | None = None  # and how each value was found, of FOUND or ""
    # error^2 = error_sampling^2 + error_interpolation^2; None in files of before
    error_sampling: Mapping[str, FloatArray] | None = None  # the part of samples that were not looked at
    error_interpolation: Mapping[str, FloatArray] | None = None  # and of points that were not

    def __repr__(self) -> str:
        sizes = " x ".join(str(len(values)) for values in self.axes.values())
        done = int(self.computed.sum())
        asked = f", {words}" if (words := self.precision_words()) else ""
        return (
            f"Surface({', '.join(self.values)} at {sizes} points of ({', '.join(self.axes)}), {done} computed{asked})"
        )

    def precision_words(self) -> str:
        """The error asked for and the work spent on it, "" where none was asked for."""
        return precision_words(self.attributes)

    def with_errors(self) -> Surface:
        """The surface with its errors as further quantities, as `loss_error`, to be drawn as maps."""
        errors = errors_as_quantities(self)
        unknown = dict.fromkeys(errors, np.full(self.computed.shape, np.nan))
        return replace(self, values={**self.values, **errors}, stderr={**self.stderr, **unknown})

    @property
    def x(self) -> FloatArray:
        """Coordinates along the first axis, (nx,)."""
        return self.axes["x"]

    @property
    def y(self) -> FloatArray:
        """Coordinates along the second axis, (ny,); KeyError for a line."""
        return self.axes["y"]

    @property
    def complete(self) -> bool:
        """Whether every grid point was computed, and to a stated error all rounds."""
        return bool(self.computed.all() and self.attributes.get("finished", True))

    @checked()
    def plot(self, quantity: str | None = None, kind: str | None = None, **options: Any) -> Figure:
        """A matplotlib Figure of one quantity, the first by default; see `plot_surface`."""
        return self._drawn(quantity or next(iter(self.values)), kind, **options)
