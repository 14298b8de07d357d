"""The table of a study in a job file, made of its settings and inputs."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

from pydantic import Field, create_model, model_validator

from landscape.errors import InputError
from landscape.planes.grid import AXIS_NAMES
from landscape.results.study import Input, Study, studies
from landscape_jobs.spec.tables import DataTable
from landscape_jobs.spec.words import FilePath, JobTable, Real, Strings, Truth, Whole, called


class StudyTable(JobTable):
    """What is measured: a table of a job file, of which a job holds one."""

    study: ClassVar[Study[Any]]

    @model_validator(mode="after")
    def _consistent(self) -> StudyTable:
        """Raises InputError for values that do not go together."""
        batchnorm = getattr(self, "batchnorm", None)
        if getattr(self, "statistics", None) is not None and batchnorm not in (None, "reestimated"):
            raise InputError(f"statistics are not used with batchnorm = {batchnorm!r}; say 'reestimated'")
        if self.study.settings is not None:
            self.study.settings(**self._settings())
        return self

    def arguments(self) -> dict[str, Any]:
        """Plain arguments of the study's function, those given."""
        return {name: value for name, value in self._settings().items() if name in self.model_fields_set}

    @property
    def axes(self) -> int:
        """How many axes the plane has that is measured on."""
        return sum(getattr(self, name, None) is not None for name in AXIS_NAMES)

    def inputs(self) -> dict[str, tuple[Input, Any]]:
        """{argument: (what it is, what is named in its place)}, those given."""
        named = {name: (given, getattr(self, given.key or name, None)) for name, given in self.study.inputs.items()}
        return {name: (given, value) for name, (given, value) in named.items() if value is not None}

    def _settings(self) -> dict[str, Any]:
        names = [] if self.study.settings is None else [field.name for field in fields(self.study.settings)]
        return {name: getattr(self, name) for name in names}


# What stands in a job file in the place of an argument; a plane has a table of its own.
_FORMS: dict[str, Any] = {
    "data": DataTable,
    "model": FilePath,
    "checkpoint": FilePath,
    "models": Annotated[Strings, Field(min_length=1)],
    "curve": Annotated[Strings, Field(min_length=1, max_length=2)],
    "surface": FilePath,
    "table": Annotated[Strings, Field(min_length=1)],
    "trained": FilePath,
}


def table_of(study: Study[Any]) -> type[StudyTable]:
    """The table of a study: a key for each of its settings and inputs, of the type and default that they have."""
    found: dict[str, Any] = {}
    for name, given in study.inputs.items():
        if given.form in _FORMS:
            form = _FORMS[given.form]
            found[given.key or name] = (form, ...) if given.required else (form | None, None)
    if study.settings is not None:
        hints = get_type_hints(study.settings, include_extras=True)
        for field in fields(study.settings):
            default = ... if field.default is MISSING else field.default
            found[field.name] = (_strict(hints[field.name]), default)
    table: type[StudyTable] = create_model(f"{study.name.title()}Table", __base__=StudyTable, **found)
    table.study = study
    return table


_STRICT: dict[Any, Any] = {int: Whole, bool: Truth, float: Real}


def _strict(hint: Any) -> Any:
    """A type as pydantic takes it: no conversions but of whole numbers to real ones, and our constraints called."""
    if hint in _STRICT:
        return _STRICT[hint]
    if get_origin(hint) is Annotated:
        base, *constraints = get_args(hint)
        if base is float and any(getattr(one, "after", False) for one in constraints):
            strict = Field(strict=True)  # not finite: the words of such a constraint fit NaN as well
            return Annotated[(base, strict, *(called(one) for one in constraints))]
        return Annotated[(_strict(base), *(called(one) for one in constraints))]
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_strict(part) for part in get_args(hint)]
        return Union[tuple(parts)]  # noqa: UP007  (made of a list)
    return hint


def study_tables() -> Mapping[str, type[StudyTable]]:
    """{name of the table: the table} of every study that is measured and has settings, in their order."""
    return {study.name: table_of(study) for study in studies() if study.settings is not None}
