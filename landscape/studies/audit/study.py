"""The rows of audits."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.audit.measure import audit_fragility, audit_from_rows, audit_task
from landscape.studies.audit.result import Audit
from landscape.studies.audit.schema import audit_group, read_audit
from landscape.studies.audit.settings import AuditSettings
from landscape.studies.audit.tables import audit_columns, audit_tables


def _pictures() -> Pictures[Audit]:
    from landscape.studies.audit.pictures import PICTURES

    return PICTURES


def _views() -> Views[Audit]:
    from landscape.studies.audit.views import audit_views

    return audit_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The model."""
    return {"model": str(description.identity["items"][item])}


KIND = Kind(
    "audit",
    "audit of measures",
    Audit,
    audit_group,
    read_audit,
    audit_tables,
    audit_columns,
    _pictures,
    _views,
    unit="models",
    flat=False,
)
STUDY = Study(
    "audit",
    KIND,
    audit_fragility,
    ("audit",),
    of_rows(audit_from_rows),
    AuditSettings,
    inputs={"models": Input("trained", required=True)},
    task=audit_task,
    place=place,
    subject="models",
    unit="models",
)
