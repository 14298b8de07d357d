"""Which pictures `landscape plot` draws of a result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from landscape.errors import InputError
from landscape.opening.opening import Result
from landscape.studies.agreement.pictures import plot_agreement
from landscape.studies.agreement.result import Agreement
from landscape.studies.connectivity.pictures import KINDS as CONNECTIVITY_KINDS
from landscape.studies.connectivity.pictures import plot_connectivity
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.curve.pictures import plot_history
from landscape.studies.curve.result import Curve
from landscape.studies.layer_spectra.pictures import plot_layers
from landscape.studies.path import result as paths
from landscape.studies.path.pictures import plot_paths
from landscape.studies.profiles.pictures import plot_profiles
from landscape.studies.profiles.result import Profiles
from landscape.studies.spectrum.pictures import kinds_of, plot_spectrum
from landscape.studies.spectrum.result import Spectrum
from landscape.studies.surface.pictures import plot_surface, usual_kind
from landscape.studies.surface.result import Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(
    result: Result, kind: str | None = None, quantity: str | None = None, levels: str | None = None
) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of the picture asked for; without a kind, all there is something for, of a surface the usual one.

    Raises InputError for what a picture of this result cannot show.
    """
    if isinstance(result, Surface):
        drawn = kind or usual_kind(result)
        shown = quantity or "loss"
        yield f"{shown}_{drawn}", plot_surface(result, shown, drawn, levels=levels or "auto")
        return
    if isinstance(result, Agreement):
        _only(kind, None)
        for measure in (quantity,) if quantity is not None else result.values:
            yield measure.replace(":", "_"), plot_agreement(result, measure)
        return
    if isinstance(result, Profiles):
        _only(kind, "profiles")
        for name in (quantity,) if quantity is not None else result.values:
            yield f"{name}_profiles", plot_profiles(result, name, levels=levels or "auto")
        return
    for option, value in (("-q", quantity), ("--levels", levels)):
        if value is not None:
            raise InputError(f"{option} {value}: an option of surfaces and profiles, which this is not; leave it out")
    if isinstance(result, Connectivity):
        for name in (kind,) if kind is not None else CONNECTIVITY_KINDS:
            yield name, plot_connectivity(result, name)
    elif isinstance(result, paths.Path):
        _only(kind, "path")
        yield "path", plot_paths(result)
    elif isinstance(result, Curve):
        _only(kind, "history")
        yield "history", plot_history(result)
    elif isinstance(result, Spectrum):
        kinds = [kind] if kind is not None else kinds_of(result)
        if not kinds:
            raise InputError("nothing of this spectrum is computed yet, so there is nothing to draw")
        yield from ((name, plot_spectrum(result, name)) for name in kinds)
    else:
        _only(kind, "layers")
        yield "layers", plot_layers(result)


def _only(kind: str | None, known: str | None) -> None:
    if kind not in (None, known):
        raise InputError(
            f"kind {kind!r} is not a picture of this result; {f'known: {known}' if known else 'it has one'}"
        )
