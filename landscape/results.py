"""What a measurement returns: frozen records, every number beside its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape_kernels.arrays import BoolArray, FloatArray

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure


class Estimate(float):
    """A number with its standard error; behaves as a float.

    `stderr` is the standard error of the value as an estimate for the population the data were drawn from,
    with the `n` units (samples, or batches where only batch values are known) taken as independent draws.
    For the data given the value is exact: every sample was used once. `stderr` is NaN where fewer than two
    units leave it unknown.

    >>> e = Estimate(0.5, stderr=0.125, n=16)
    >>> e + 1, e.stderr, e.n
    (1.5, 0.125, 16)
    """

    __slots__ = ("n", "stderr", "unit")
    stderr: float
    n: int
    unit: str

    def __new__(cls, value: float, *, stderr: float, n: int, unit: str = "sample") -> Estimate:
        self = super().__new__(cls, value)
        object.__setattr__(self, "stderr", float(stderr))
        object.__setattr__(self, "n", int(n))
        object.__setattr__(self, "unit", unit)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Estimate is frozen; cannot set {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _estimate, (float(self), self.stderr, self.n, self.unit)

    def __repr__(self) -> str:
        return f"Estimate({float(self)!r}, stderr={self.stderr:.3g}, n={self.n})"


def _estimate(value: float, stderr: float, n: int, unit: str) -> Estimate:
    return Estimate(value, stderr=stderr, n=n, unit=unit)


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
        from landscape.frames import points_frame

        return points_frame(self)


@dataclass(frozen=True, repr=False)
class Surface:
    """Quantities on a grid of 1, 2, 3 or more axes: theta(x, y, ...) = centre + x d_x + y d_y + ...

    Arrays are indexed with the last axis first: shape (ny, nx) in 2-D, (nz, ny, nx) in 3-D.
    """

    axes: Mapping[str, FloatArray]  # "x" -> (nx,), "y" -> (ny,), ...; in that order
    values: Mapping[str, FloatArray]  # quantity -> (..., ny, nx); NaN and Inf are results
    stderr: Mapping[str, FloatArray]  # quantity -> same shape; standard error over samples (population)
    computed: BoolArray  # (..., ny, nx); False where no value was computed yet
    points: Points | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # plane, data, precision, provenance: see schema

    def __repr__(self) -> str:
        sizes = " x ".join(str(len(values)) for values in self.axes.values())
        done = int(self.computed.sum())
        return f"Surface({', '.join(self.values)} at {sizes} points of ({', '.join(self.axes)}), {done} computed)"

    def _repr_html_(self) -> str:
        from landscape.html import result_html

        return result_html(self)

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
        """Whether every grid point was computed."""
        return bool(self.computed.all())

    def to_xarray(self) -> xarray.Dataset:
        """The surface as an xarray Dataset: one variable per quantity, its `_stderr`, `computed`, coordinates."""
        from landscape.files.schema import surface_to_xarray

        return surface_to_xarray(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each grid point, the first axis fastest: coordinates, quantities, their `_stderr`, `computed`."""
        from landscape.frames import surface_frame

        return surface_frame(self)

    def plot(self, quantity: str | None = None, kind: str | None = None, **options: Any) -> Figure:
        """A matplotlib Figure of one quantity, the first by default; see `landscape.plotting.plot_surface`."""
        from landscape.plotting import plot_surface

        return plot_surface(self, quantity or next(iter(self.values)), kind, **options)

    def save(self, path: str | Path) -> Path:
        """Write the surface as one HDF5 file (netCDF-4), atomically; returns the path."""
        from landscape.files.schema import write_surface

        return write_surface(path, self)
