"""The rows of local learning coefficients."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study, of_rows
from landscape.run.task import Description
from landscape.studies.llc.measure import llc_from_rows, measure_llc
from landscape.studies.llc.result import LLC
from landscape.studies.llc.settings import LLCSettings
from landscape.studies.llc.tables import llc_columns, llc_glance, llc_group, llc_tables, read_llc
from landscape.studies.llc.trial import llc_trial


def _pictures() -> Pictures[LLC]:
    from landscape.studies.llc.pictures import PICTURES

    return PICTURES


def _views() -> Views[LLC]:
    from landscape.studies.llc.views import llc_views

    return llc_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The chains of an item, or the Hessian."""
    items = description.identity["items"]
    if item == len(items):
        return {"the": "Hessian"}
    first, last = items[item][0], items[item][-1]
    return {"chain": str(first)} if first == last else {"chains": f"{first} to {last}"}


KIND = Kind(
    "llc",
    "local learning coefficient",
    LLC,
    llc_group,
    read_llc,
    llc_tables,
    llc_columns,
    _pictures,
    _views,
    llc_glance,
    unit="chains",
)
STUDY = Study(
    "llc",
    KIND,
    measure_llc,
    ("llc",),
    of_rows(llc_from_rows),
    settings=LLCSettings,
    trial=llc_trial,
    place=place,
    unit="items",
)
