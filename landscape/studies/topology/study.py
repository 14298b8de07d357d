"""The rows of topologies, which are made of a surface: they have no run and no file of their own."""

from __future__ import annotations

from pathlib import Path

from landscape.errors import InputError, StoreError
from landscape.files.hdf5 import Group
from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study
from landscape.studies.topology.result import Topology
from landscape.studies.topology.tables import topology_columns, topology_tables

_NOT_FILED = "a topology is not filed: save its surface, and find the topology again with find_topology"


def _group(topology: Topology) -> Group:
    raise InputError(_NOT_FILED)


def _read(tree: Group, path: str | Path) -> Topology:
    raise StoreError(_NOT_FILED)


def _pictures() -> Pictures[Topology]:
    from landscape.studies.topology.pictures import PICTURES

    return PICTURES


def _views() -> Views[Topology]:
    from landscape.studies.topology.views import topology_views

    return topology_views


KIND = Kind("topology", "topology", Topology, _group, _read, topology_tables, topology_columns, _pictures, _views)
STUDY = Study("topology", KIND, None)
