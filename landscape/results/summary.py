"""Any result in tables: what was measured, on what, how exact it is, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.agreement.result import Agreement
from landscape.studies.agreement.tables import agreement_tables
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.connectivity.tables import connectivity_tables
from landscape.studies.curve.result import Curve
from landscape.studies.curve.tables import curve_tables
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.tables import layers_tables
from landscape.studies.path import result as paths
from landscape.studies.path.tables import path_tables
from landscape.studies.profiles.result import Profiles
from landscape.studies.profiles.tables import profiles_tables
from landscape.studies.spectrum.result import Spectrum
from landscape.studies.spectrum.tables import spectrum_tables
from landscape.studies.surface.result import Surface
from landscape.studies.surface.tables import surface_tables

_TABLES: dict[type, Callable[[Any, str], Iterator[Table]]] = {
    Surface: surface_tables,
    Spectrum: spectrum_tables,
    LayerSpectra: layers_tables,
    Curve: curve_tables,
    paths.Path: path_tables,
    Connectivity: connectivity_tables,
    Agreement: agreement_tables,
    Profiles: profiles_tables,
}
_PROVENANCE = (
    "engine_version",
    "git",
    "command",
    "host",
    "platform",
    "python",
    "libraries",
    "gpu",
    "ranks",
    "threads",
    "started",
    "ended",
    "checkpoint_hash",
    "data_hash",
    "origin",
    "dir_file",
)
_LEFT_OUT = 20  # failures shown


def result_tables(result: Any, title: str) -> Iterator[Table]:
    """Tables of any result: the first, of that title, says what was measured; then numbers, with errors where known.

    Last stand the items that failed and were left out, and the provenance, each where there is something to tell.
    """
    yield from _TABLES[type(result)](result, title)
    yield from left_out_table(result)
    yield from provenance_table(result.attributes)


def left_out_table(result: Any) -> Iterator[Table]:
    """Items that failed and were left out, where there are any, with the last line of the reason."""
    failures = result.attributes.get("failures") or ()
    if not failures:
        return
    rows = []
    for failure in failures[:_LEFT_OUT]:
        item = int(failure["item"])
        reason = str(failure["reason"]).strip().splitlines()[-1]
        rows.append((number(item), Cell(_place(result, item)), Cell(reason)))
    if len(failures) > _LEFT_OUT:
        rows.append((Cell(""), Cell(""), Cell(f"and {len(failures) - _LEFT_OUT} more")))
    yield Table("left out, because they failed", ("item", "where", "reason"), tuple(rows))


def provenance_table(about: Mapping[str, Any]) -> Iterator[Table]:
    """Where a result comes from, as far as it tells."""
    known = {name: about[name] for name in _PROVENANCE if about.get(name) not in (None, "")}
    if known:
        yield pairs_table("provenance", known)


def _place(result: Any, item: int) -> str:
    """Where an item of a surface is, in its coordinates."""
    if not isinstance(result, Surface) or item >= result.computed.size:
        return ""
    place = np.unravel_index(item, result.computed.shape)
    axes = zip(result.axes.items(), reversed(place), strict=True)
    return ", ".join(f"{name} = {values[i]:.6g}" for (name, values), i in axes)


_WHAT = (
    "model",
    "parameters",
    "samples",
    "loss",
    "metrics",
    "precision",
    "batchnorm",
    "statistics_samples",
    "test_samples",
    "train",
    "fit",
    "align",
    "seed",
    "device",
)


def what(about: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured on what, of the attributes that are known."""
    return {name: about[name] for name in _WHAT if about.get(name) not in (None, "", {}, 0, "none")}
