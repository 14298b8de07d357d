"""The rows of spectra of layers."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study
from landscape.run.task import Description
from landscape.studies.layer_spectra.measure import STAGES, layers_from_stages, measure_layer_spectra
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.schema import layers_group, read_layers
from landscape.studies.layer_spectra.settings import LayerSpectraSettings
from landscape.studies.layer_spectra.tables import layers_columns, layers_tables
from landscape.studies.layer_spectra.trial import layers_trial


def _pictures() -> Pictures[LayerSpectra]:
    from landscape.studies.layer_spectra.pictures import PICTURES

    return PICTURES


def _views() -> Views[LayerSpectra]:
    from landscape.studies.layer_spectra.views import layers_views

    return layers_views


KIND = Kind(
    "layer_spectra",
    "spectra of layers",
    LayerSpectra,
    layers_group,
    read_layers,
    layers_tables,
    layers_columns,
    _pictures,
    _views,
)


def place(description: Description, item: int) -> dict[str, float | str]:
    """The layer."""
    layers = description.about.get("layers", ())
    return {"layer": str(layers[item])} if description.name == "layers" else {}


STUDY = Study(
    "layers",
    KIND,
    measure_layer_spectra,
    STAGES,
    layers_from_stages,
    settings=LayerSpectraSettings,
    trial=layers_trial,
    place=place,
    unit="layers",
)
