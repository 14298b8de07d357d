"""What is wrong with a job file, in its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from landscape.errors import InputError, nearest
from landscape_jobs.spec.planes import PLANES, plane_kind
from landscape_jobs.spec.tables import DATA, DataTable


def problem(
    error: Mapping[str, Any], content: Mapping[str, Any], job: type[BaseModel], measured: Mapping[str, type[BaseModel]]
) -> str:
    """One validation error in the words of the job file; `measured` are the tables of which a job holds one."""
    where = [part for i, part in enumerate(error["loc"]) if not (i == 1 and error["loc"][0] == "plane")]
    key = ".".join(str(part) for part in where)
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{key}: {_unknown_key(where, content, job, measured)}"
    if kind == "missing":
        return f"{key} is missing; it has no default"
    if kind == "model_type":
        return f"{key} = {_short(error['input'])}: a table is needed here, [{key}]"
    if kind == "union_tag_invalid" and isinstance(content["plane"], dict):
        return f"plane.kind = {plane_kind(content['plane'])!r}: not known; {nearest(error['ctx']['tag'], PLANES)}"
    cause = error.get("ctx", {}).get("error")
    text = str(cause) if isinstance(cause, InputError) else str(error["msg"])
    if kind == "union_tag_invalid":
        text = "a table is needed here, [plane]"
    if kind == "value_error" and isinstance(error["input"], dict):  # about several keys of one table
        return f"{key}: {text}" if key else text
    return f"{key} = {_short(error['input'])}: {text}"


def _unknown_key(
    where: Sequence[str | int],
    content: Mapping[str, Any],
    job: type[BaseModel],
    measured: Mapping[str, type[BaseModel]],
) -> str:
    name = str(where[-1])
    if len(where) == 1:
        return f"unknown; {nearest(name, job.model_fields)}"
    table: type[BaseModel]
    if where[0] == "plane":
        kind = plane_kind(content["plane"])
        table = PLANES[kind]
        owners = [other for other, model in PLANES.items() if name in model.model_fields]
        if owners:
            return f"does not belong to a plane of kind {kind!r}, but to {' and '.join(map(repr, owners))}"
    elif len(where) > 2 and where[1] in DATA:
        table = DataTable
    else:
        table = _table(job, str(where[0]))
        owners = [f"[{other}]" for other, one in measured.items() if name in one.model_fields]
        if where[0] in measured and owners:
            return f"does not belong to [{where[0]}], but to {' and '.join(owners)}"
    return f"unknown; {nearest(name, table.model_fields)}"


def _table(job: type[BaseModel], key: str) -> type[BaseModel]:
    """The model of one of the job's tables, also where the table may be left out."""
    annotation = job.model_fields[key].annotation
    found = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
    return found[0]


def bracketed(names: Sequence[str]) -> str:
    """Names of tables as they stand in a file."""
    return ", ".join(f"[{name}]" for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text)} characters)"
