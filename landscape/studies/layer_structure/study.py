"""The rows of the structure of layers."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Input, Study
from landscape.run.task import Description
from landscape.studies.layer_structure.measure import STAGES, measure_layer_structure, structure_from_stages
from landscape.studies.layer_structure.result import LayerStructure
from landscape.studies.layer_structure.schema import read_structure, structure_group
from landscape.studies.layer_structure.settings import LayerStructureSettings
from landscape.studies.layer_structure.tables import structure_columns, structure_tables
from landscape.studies.layer_structure.trial import structure_trial


def _pictures() -> Pictures[LayerStructure]:
    from landscape.studies.layer_structure.pictures import PICTURES

    return PICTURES


def _views() -> Views[LayerStructure]:
    from landscape.studies.layer_structure.views import structure_views

    return structure_views


KIND = Kind(
    "layer_structure",
    "structure of layers",
    LayerStructure,
    structure_group,
    read_structure,
    structure_tables,
    structure_columns,
    _pictures,
    _views,
    unit="layers",
    flat=False,  # the factors are named by layers
)


def place(description: Description, item: int) -> dict[str, float | str]:
    """The layer."""
    return {"layer": str(description.identity["layers"][item])} if description.name == "structure" else {}


STUDY = Study(
    "layer_structure",
    KIND,
    measure_layer_structure,
    STAGES,
    structure_from_stages,
    settings=LayerStructureSettings,
    inputs={"other": Input("checkpoint")},
    trial=structure_trial,
    place=place,
    unit="layers",
)
