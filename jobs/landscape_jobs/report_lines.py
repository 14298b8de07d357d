"""Pictures of a report of all results but surfaces: spectra, layers, paths, curves, and tables of pairs of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from landscape.pictures.views import Picture
from landscape.studies.agreement.result import Agreement
from landscape.studies.agreement.views import agreement_views
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.connectivity.views import connectivity_views
from landscape.studies.curve.result import Curve
from landscape.studies.curve.views import curve_views
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.views import layers_views
from landscape.studies.path.result import Path
from landscape.studies.path.views import path_views
from landscape.studies.profiles.result import Profiles
from landscape.studies.profiles.views import profiles_views
from landscape.studies.spectrum.result import Spectrum
from landscape.studies.spectrum.views import spectrum_views
from landscape.studies.surface.result import Surface
from landscape.studies.surface.views import surface_pictures
from landscape.studies.topology.result import Topology
from landscape.studies.topology.views import topology_pictures


def pictures_of(result: Any, most: int) -> Iterator[Picture]:
    """What a report draws of a result, of at most about `most` points each; nothing where nothing is known."""
    for kind, draw in _PICTURES.items():
        if isinstance(result, kind):
            yield from draw(result, most)


_PICTURES: Mapping[type, Callable[[Any, int], Iterator[Picture]]] = {
    Surface: surface_pictures,
    Spectrum: spectrum_views,
    LayerSpectra: layers_views,
    Profiles: profiles_views,
    Path: path_views,
    Curve: curve_views,
    Connectivity: connectivity_views,
    Agreement: agreement_views,
    Topology: topology_pictures,
}
