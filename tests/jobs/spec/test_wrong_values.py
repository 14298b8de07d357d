"""Every key of every table of a job file: a value of another kind is told, all of them at once."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest
from landscape_jobs.spec.job import TABLES, job_of
from landscape_jobs.spec.planes import PLANES
from landscape_jobs.spec.tables import ModelTable, ObjectiveTable, RunTable
from landscape_jobs.spec.words import JobTable
from pydantic import BaseModel

from landscape.errors import InputError

GOOD: dict[str, Any] = {
    "model": {"factory": "nets:mlp"},
    "data": {"factory": "nets:data"},
    "surface": {"x": [-1, 1, 3], "y": [-1, 1, 3]},
    "run": {"out": "runs/a"},
}
DATE = datetime.date(2026, 1, 1)  # TOML has it, and no key of a job does
BESIDE = {"model": ModelTable, "objective": ObjectiveTable, "run": RunTable}
CASES: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
    *((name, table, {}) for name, table in TABLES.items()),
    *(("plane", table, {"kind": kind}) for kind, table in PLANES.items()),
    *((name, table, {}) for name, table in BESIDE.items()),
]


def told(content: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        job_of(content, "some/job.toml")
    return str(caught.value)


def job_with(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """A good job, with a table put in the place of its own, or of the one that says what is measured."""
    others = {key: value for key, value in GOOD.items() if not (name in TABLES and key == "surface")}
    return {**others, name: table}


@pytest.mark.parametrize(("name", "table", "beside"), CASES, ids=[f"{n}{b.get('kind', '')}" for n, _, b in CASES])
def test_a_wrong_value_of_each_key_is_told(name: str, table: type[JobTable], beside: dict[str, Any]) -> None:
    keys = [key for key in table.model_fields if key not in beside]
    message = told(job_with(name, {**beside, **dict.fromkeys(keys, DATE)}))
    assert message.startswith("job file some/job.toml cannot be used:\n")
    lines = message.splitlines()
    for key in keys:
        own = [line for line in lines if re.match(rf"  {name}\.{key}(\.\d+)? = ", line)]
        assert own, key
        assert all(re.search(r" = (\[)?datetime.date\(2026, 1, 1\)(\])?: \S", line) for line in own), own


@pytest.mark.parametrize(("name", "table", "beside"), CASES, ids=[f"{n}{b.get('kind', '')}" for n, _, b in CASES])
def test_texts_are_no_numbers_and_true_is_no_one(name: str, table: type[JobTable], beside: dict[str, Any]) -> None:
    kinds = {key: str(field.annotation) for key, field in table.model_fields.items()}
    plain = {
        key: kind
        for key, kind in kinds.items()
        if re.search(r"\b(int|float|bool)\b", kind) and not re.search(r"\b(str|tuple|Any)\b", kind)
    }
    for number in ({"int": "1", "float": "0.5", "bool": "yes"}, {"int": True, "float": True, "bool": 1}):
        values = {key: next(value for word, value in number.items() if word in kind) for key, kind in plain.items()}
        message = told(job_with(name, {**beside, **values})) if values else ""
        for key, value in values.items():
            assert f"  {name}.{key} = {value!r}: " in message, (key, message)


def test_what_tables_lack_or_do_not_have_is_told_beside_wrong_values() -> None:
    message = told(
        {
            "model": {"factory": "nets:mlp"},
            "surface": {"x": [-1, 1, 3], "scale": "log", "share": 0.5},
            "path": {"t": "many"},
            "objective": {"loss": "returned", "chunk": 1.5},
            "run": {"out": "", "threads": "two"},
        }
    )
    for line in (
        "a job measures one thing",
        "data is missing",
        "surface: scale='log' and share=0.5 without error=, of which that is said",
        "path.t = 'many': not a number of places",
        "objective.loss = 'returned' needs objective.forward",
        "objective.chunk = 1.5: ",
        "run.out = '': no path is given",
        "run.threads = 'two': ",
    ):
        assert f"\n  {line}" in message, message
