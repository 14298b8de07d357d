"""Which pictures `landscape plot` draws of a result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from landscape.errors import InputError
from landscape.opening import Result
from landscape.plotting import plot_surface
from landscape.results import Surface
from landscape.spectra import Spectrum
from landscape.spectral_plotting import kinds_of, plot_layers, plot_spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(
    result: Result, kind: str | None = None, quantity: str | None = None, levels: str | None = None
) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of the picture asked for; without a kind, all of a spectrum's and the usual one of a surface.

    Raises InputError for what a picture of this result cannot show.
    """
    if isinstance(result, Surface):
        drawn = kind or ("profile" if len(result.axes) == 1 else "contour")
        shown = quantity or "loss"
        yield f"{shown}_{drawn}", plot_surface(result, shown, drawn, levels=levels or "auto")
        return
    for option, value in (("-q", quantity), ("--levels", levels)):
        if value is not None:
            raise InputError(f"{option} {value}: an option of surfaces; this result has curvature, leave it out")
    if isinstance(result, Spectrum):
        kinds = [kind] if kind is not None else kinds_of(result)
        if not kinds:
            raise InputError("nothing of this spectrum is computed yet, so there is nothing to draw")
        yield from ((name, plot_spectrum(result, name)) for name in kinds)
    else:
        if kind not in (None, "layers"):
            raise InputError(f"kind {kind!r} is not a picture of the spectra of layers; known: layers")
        yield "layers", plot_layers(result)
