"""Results as pandas tables: one row for each thing measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas
from landscape_kernels.arrays import FloatArray

from landscape.agreement import Agreement
from landscape.connections import Connectivity
from landscape.paths import Path
from landscape.planes.grid import AXIS_NAMES
from landscape.results import Points, Surface
from landscape.spectra import Eigenpairs, LayerSpectra, Spectrum
from landscape.topology import CriticalPoints, Topology


def surface_frame(surface: Surface) -> pandas.DataFrame:
    """A row for each grid point, the first axis fastest: coordinates, quantities and their `_stderr`, computed."""
    places = np.meshgrid(*[*surface.axes.values()][::-1], indexing="ij")[::-1]
    columns: dict[str, Any] = {name: array.ravel() for name, array in zip(surface.axes, places, strict=True)}
    for name, values in surface.values.items():
        columns |= {name: values.ravel(), f"{name}_stderr": surface.stderr[name].ravel()}
    return pandas.DataFrame({**columns, "computed": surface.computed.ravel()})


def points_frame(points: Points) -> pandas.DataFrame:
    """A row for each point: label, coordinates, distance, quantities at itself (`_true`) and where it is drawn."""
    columns: dict[str, Any] = {"label": list(points.labels)}
    columns |= dict(zip(AXIS_NAMES, points.coordinates.T, strict=False))
    columns["distance"] = points.distance
    for name, values in points.true.items():
        columns |= {f"{name}_true": values, f"{name}_projected": points.projected[name]}
    return pandas.DataFrame(columns)


def spectrum_frame(spectrum: Spectrum) -> pandas.DataFrame:
    """A row for each eigenpair: end, index there from 0, value, its stderr and bias, residual, converged."""
    ends = {"largest": spectrum.largest, "smallest": spectrum.smallest}
    return pandas.concat([_eigenpairs(end, pairs) for end, pairs in ends.items()], ignore_index=True)


def layers_frame(layers: LayerSpectra) -> pandas.DataFrame:
    """A row for each layer: its size, eigenvalues by index from 0, their errors and residuals, and the trace."""
    columns: dict[str, Any] = {"layer": list(layers.layers), "size": list(layers.sizes)}
    for k in range(layers.eigenvalues.shape[1]):
        columns |= {
            f"eigenvalue_{k}": layers.eigenvalues[:, k],
            f"eigenvalue_{k}_stderr": layers.stderr[:, k],
            f"residual_{k}": layers.residuals[:, k],
            f"converged_{k}": layers.converged[:, k],
        }
    columns |= {"trace": layers.trace, "trace_stderr": layers.trace_stderr, "computed": layers.computed}
    return pandas.DataFrame(columns)


def path_frame(path: Path) -> pandas.DataFrame:
    """A row for each place: t, arc length, quantities and their `_stderr` and `_statistics_stderr`, computed."""
    columns: dict[str, Any] = {"t": path.t, "arc": path.arc}
    for name, values in path.values.items():
        columns |= {name: values, f"{name}_stderr": path.stderr[name]}
        if name in path.statistics_stderr:
            columns[f"{name}_statistics_stderr"] = path.statistics_stderr[name]
    return pandas.DataFrame({**columns, "computed": path.computed})


def connectivity_frame(table: Connectivity) -> pandas.DataFrame:
    """A row for each pair: the two models, the numbers of `NUMBERS`, computed."""
    return pandas.DataFrame({**_pairs(table), **table.numbers, "computed": table.computed})


def agreement_frame(agreement: Agreement) -> pandas.DataFrame:
    """A row for each pair: the two models, and each measure with its `_stderr` where it has one."""
    columns = _pairs(agreement)
    for name, values in agreement.values.items():
        columns[name] = values
        if name in agreement.stderr:
            columns[f"{name}_stderr"] = agreement.stderr[name]
    return pandas.DataFrame(columns)


def topology_frame(topology: Topology) -> pandas.DataFrame:
    """A row for each minimum, saddle and maximum that counts; what the others alone have is missing."""

    def frame(kind: str, points: CriticalPoints, **more: Any) -> pandas.DataFrame:
        columns = dict(zip(topology.surface.axes, points.coordinates.T, strict=True))
        known = {name: getattr(points, name) for name in ("value", "stderr", "persistence", "on_border")}
        return pandas.DataFrame({"kind": [kind] * len(points), **columns, **known, **more})

    frames = (
        frame("minimum", topology.minima, depth=topology.minima.depth),
        frame("saddle", topology.saddles, joins=topology.saddles.joins),
        frame("maximum", topology.maxima),
    )
    return pandas.concat([found for found in frames if len(found)], ignore_index=True)


def _eigenpairs(end: str, pairs: Eigenpairs) -> pandas.DataFrame:
    optional: Mapping[str, FloatArray | None] = {
        "independent": pairs.independent,
        "independent_stderr": pairs.independent_stderr,
    }
    return pandas.DataFrame(
        {
            "end": [end] * len(pairs.values),
            "index": np.arange(len(pairs.values)),
            "value": pairs.values,
            "stderr": pairs.stderr,
            "bias": pairs.bias,
            "residual": pairs.residuals,
            "converged": np.asarray(pairs.converged, dtype=bool),
            **{name: values for name, values in optional.items() if values is not None},
        }
    )


def _pairs(table: Connectivity | Agreement) -> dict[str, Any]:
    """The two models of each pair."""
    first, second = ([table.labels[i] for i in end] for end in table.pairs.T)
    return {"first": first, "second": second}
