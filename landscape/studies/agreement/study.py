"""The rows of agreement."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study, of_rows
from landscape.studies.agreement.measure import agreement_from_rows, agreement_task, measure_agreement
from landscape.studies.agreement.result import Agreement
from landscape.studies.agreement.schema import agreement_group, read_agreement
from landscape.studies.agreement.settings import AgreementSettings
from landscape.studies.agreement.tables import agreement_columns, agreement_tables


def _pictures() -> Pictures[Agreement]:
    from landscape.studies.agreement.pictures import PICTURES

    return PICTURES


def _views() -> Views[Agreement]:
    from landscape.studies.agreement.views import agreement_views

    return agreement_views


KIND = Kind(
    "agreement",
    "agreement",
    Agreement,
    agreement_group,
    read_agreement,
    agreement_tables,
    agreement_columns,
    _pictures,
    _views,
)
STUDY = Study(
    "agreement",
    KIND,
    measure_agreement,
    ("agreement",),
    of_rows(agreement_from_rows),
    settings=AgreementSettings,
    inputs={"thetas": Input("models", "models", required=True, labels="labels"), "statistics": DATA},
    task=agreement_task,
    leaves_out=False,
    unit="blocks",
)
