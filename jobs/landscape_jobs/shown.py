"""Any result as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import RenderableType

from landscape import paths
from landscape.agreement import Agreement
from landscape.connections import Connectivity
from landscape.curves import Curve
from landscape.opening import Result
from landscape.results import Surface
from landscape.spectra import LayerSpectra, Spectrum
from landscape_jobs.pair_tables import agreement_tables, connectivity_tables, curve_tables, path_tables
from landscape_jobs.spectral_tables import layers_table, spectrum_table
from landscape_jobs.tables import left_out_table, surface_tables

_TABLES: dict[type[Result], Callable[[Any, str], Iterator[RenderableType]]] = {
    Surface: surface_tables,
    Spectrum: spectrum_table,
    LayerSpectra: layers_table,
    Curve: curve_tables,
    paths.Path: path_tables,
    Connectivity: connectivity_tables,
    Agreement: agreement_tables,
}


def result_tables(result: Result, title: str) -> Iterator[RenderableType]:
    """What was measured, on what, and how exact it is."""
    yield from _TABLES[type(result)](result, title)
    yield from left_out_table(result)
