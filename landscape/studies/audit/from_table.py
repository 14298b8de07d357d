"""The audit of a table of measures: published ones, or those of several audits below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.arguments import Seed, checked
from landscape.errors import InputError
from landscape.files.provenance import engine_version
from landscape.results.settings import name_tuple, require_plain
from landscape.studies.audit.models import JOIN, RESCALED, Models
from landscape.studies.audit.result import Audit
from landscape.studies.audit.settings import AuditSettings
from landscape.studies.audit.statistics import compare, follow
from landscape.studies.corpus.reading import ModelTable, read_table


@checked(AuditSettings)
def audit_table(
    table: Any,
    measures: str | Sequence[str],
    knobs: str | Sequence[str],
    *,
    keys: str | Sequence[str] = (),
    complexity: str | Sequence[str] = (),
    samples: str = "samples",
    test_error: str = "test_error",
    within: float = 0.01,
    level: float = 0.95,
    draws: int = 2000,
    seed: Seed = 0,
) -> Audit:
    """How fragile measures of generalisation are, from a table of models with their measures.

    `table` has a row for each model: the path of a CSV file, a DataFrame, a mapping of columns. `measures`, `samples`
    (of the training set) and `test_error` (a fraction) name columns of numbers; `knobs`, `complexity` and `keys` name
    columns that tell models apart: what was turned, what makes the data harder, and everything else that has to be
    equal. Rows that agree in all of these and in `samples` are seeds of one cell, and a column "seed" says which. For
    what is compared, and for the other arguments, see `audit_fragility`.

    Raises InputError for columns that are not there or hold no numbers, models that agree in everything with one seed,
    knobs that no two models differ in alone, and values of the other arguments that cannot be.
    """
    require_plain(AuditSettings, within=within, level=level, draws=draws)
    found = read_table(table)
    measured, turned = name_tuple(measures) or (), name_tuple(knobs) or ()
    harder = name_tuple(complexity) or ()
    own = [part.strip() for knob in turned for part in knob.split(JOIN)]
    names = list(dict.fromkeys((*own, *harder, *(name_tuple(keys) or ()))))
    if RESCALED in found.order:
        names += [RESCALED] if RESCALED not in names else []
    for role, columns in (("measure", measured), ("samples", (samples,)), ("test_error", (test_error,))):
        for name in columns:
            found.require(role, name, numeric=True)
    for name in names:
        found.require("key", name)
        if name in (*measured, samples, test_error):
            raise InputError(f"{name!r} is a measure, samples or test_error, and no key of the models; leave it out")
    if not measured or not (turned or harder):
        raise InputError("nothing to audit: name one measure or more, and knobs or complexity")
    models = Models(
        {name: _key(found, name) for name in names},
        _seeds(found),
        _whole(found, samples),
        found.numbers[test_error],
        {name: found.numbers[name] for name in measured},
    )
    if "seed" in found.numbers:
        models.require_seeds()
    asked = (within, level, draws, seed)
    unknown = np.full(len(models), np.nan)
    errors: dict[str, FloatArray] = {name: found.numbers.get(f"{name}_stderr", unknown) for name in measured}
    return Audit(
        keys=models.keys,
        seed=models.seed,
        samples=models.samples,
        test_error=models.test_error,
        values=models.values,
        stderr=errors,
        computed=np.ones(len(models), dtype=bool),
        note=("",) * len(models),
        comparisons=compare(models, measured, turned, *asked),
        orders=follow(models, measured, harder, *asked),
        attributes={
            "engine_version": engine_version(),
            "table": found.source,
            "knobs": list(turned),
            "complexity": list(harder),
            "within": within,
            "level": level,
            "draws": draws,
            "seed": seed,
        },
    )


def _key(table: ModelTable, name: str) -> tuple[Any, ...]:
    """A column as whole numbers where all are, else numbers, else texts. Raises InputError for a missing cell."""
    column: Sequence[Any] = table.numbers[name].tolist() if name in table.numbers else table.texts[name]
    for row, value in enumerate(column):
        if value is None or value != value:
            raise InputError(
                f"key {name!r} is missing in model {row + 1} of {table.source}; give every model its value"
            )
    if name in table.numbers and all(value == int(value) for value in column):
        return tuple(int(value) for value in column)
    return tuple(column)


def _whole(table: ModelTable, name: str) -> Any:
    values = table.numbers[name]
    bad = next((row for row, v in enumerate(values.tolist()) if not (math.isfinite(v) and v == int(v) and v > 0)), None)
    if bad is not None:
        raise InputError(
            f"{name!r} is {values[bad]} in model {bad + 1} of {table.source}; give the number of training "
            "samples, 1 or more"
        )
    return values.astype(np.int64)


def _seeds(table: ModelTable) -> tuple[int, ...]:
    """The column of seeds, else the number of each row."""
    if "seed" not in table.numbers or not np.isfinite(table.numbers["seed"]).all():
        return tuple(range(len(table)))
    return tuple(int(value) for value in table.numbers["seed"])
