"""The analysis of a corpus, one item a metric and a grouping: the Task, and its result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.rank_statistics import holm

from landscape.arguments import Count, Natural, Seed, checked
from landscape.files.provenance import engine_version
from landscape.results.attributes import provenance
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.corpus.analyse import (
    Analysed,
    Asked,
    Group,
    analysed,
    inside_of,
    known_models,
    notes_of,
    simpson_flag,
    statistics,
)
from landscape.studies.corpus.reading import ModelTable
from landscape.studies.corpus.result import OUTSIDE, Corpus, ordered
from landscape.studies.corpus.settings import CorpusSettings

_INSIDE = ("models", "kendall", "spearman", "slope")  # of each group


class CorpusTask:
    """Item i: one metric by one grouping."""

    headline = "p_paradox"

    def __init__(self, table: Any, settings: CorpusSettings) -> None:
        self._asked = Asked.of(table, settings)
        self.count = len(self._asked.rows)

    def describe(self) -> Description:
        """See `Task`."""
        asked, table = self._asked, self._asked.table
        columns: dict[str, tuple[int, ...]] = dict.fromkeys(statistics(asked.settings), ())
        most = max(len(set(table.labels(grouping))) for _, grouping in asked.rows)
        columns |= {f"inside_{name}": (most,) for name in _INSIDE}
        told: dict[str, dict[str, list[Any]]] = {
            "numbers": {name: _plain(table.numbers[name]) for name in asked.columns() if name in table.numbers},
            "texts": {name: list(table.texts[name]) for name in asked.columns() if name in table.texts},
        }
        identity = {
            "columns": {name: _digest(column) for part in told.values() for name, column in part.items()},
            "target": asked.target,
            "rows": [list(row) for row in asked.rows],
            "hyperparameters": list(asked.settings),
            "level": asked.level,
            "draws": asked.draws,
            "seed": asked.seed,
        }
        return Description("corpus", columns, identity, {**told, "source": table.source})

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        found = analysed(self._asked, *self._asked.rows[index])
        shape = self.describe().columns["inside_models"]
        row: dict[str, Any] = {name: found.values.get(name, math.nan) for name in statistics(self._asked.settings)}
        for name in _INSIDE:
            row[f"inside_{name}"] = np.full(shape, np.nan)
            row[f"inside_{name}"][: len(found.inside)] = [getattr(one, name) for one in found.inside]
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def _plain(values: Any) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _digest(column: Any) -> str:
    return hashlib.sha256(json.dumps(column).encode()).hexdigest()


def corpus_task(table: Any, **asked: Any) -> CorpusTask:
    """The task of `analyse_corpus`. Raises InputError for a table or columns that cannot be used."""
    return CorpusTask(table, CorpusSettings(**asked))


@checked(CorpusSettings)
def analyse_corpus(
    table: Any,
    target: str = "test_accuracy",
    groups: str | Sequence[str] = "depth",
    metrics: str | Sequence[str] | None = None,
    *,
    hyperparameters: str | Sequence[str] = (),
    level: float = 0.95,
    draws: int = 2000,
    seed: Seed = 0,
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Corpus:
    """Kendall's tau-b, Spearman's rho and slopes of the target on each metric, over all models and inside groups.

    `table` has a row for each model: the path of a CSV file, a DataFrame, a mapping of columns, or a result; or it is a
    list of these, joined by their columns "model". `target` and `metrics` (by default every other column of numbers)
    name columns of numbers, `groups` one or several columns, each of which groups the models in its own way. Tau and
    rho within are means over the groups, by their numbers of models; the slope within is the common one of lines with
    an intercept for each group, in units of the target for a unit of the metric. Groups in which metric or target do
    not vary have no tau and are left out, and so is a model whose cell of metric, target or group is missing.

    Intervals are central ones of `level` over `draws` draws of the models with replacement inside their groups; they
    hold the design of the corpus, its groups and their sizes, as fixed. Simpson's paradox: tau overall and tau within
    have opposite signs. The flag is "paradox" or "none" where both intervals lie on one side of 0, and both orders are
    no chance at 1 - `level` by the test of no order (which a bootstrap of a few models cannot tell: tau of two models
    is 1 or -1 in every draw); else it is "undecided". It is of one row; over all rows of the corpus Holm's method
    holds the chance of any false finding: `p_paradox_holm` and its like are adjusted by it.

    With `hyperparameters`, columns that say how the models were trained: granulated tau, conditional mutual
    information, and the partial rho with these held, of the models that have all of them, each with its interval. Of
    conditional information, which is too large in draws as in the corpus, it spans the percentile and the basic one.

    A row of the result is an item: in a script under mpiexec all ranks call this and share them, into the run folder
    `out` where one is given.

    Raises InputError for a table, target, metric or group column that cannot be used, a target that does not vary, and
    groups of one model each; see `run_task` for the rest.
    Source: Martin and Mahoney, Post-mortem on a deep learning contest: a Simpson's paradox and the complementary roles
    of scale metrics versus shape metrics, arXiv:2106.00734 (2021); Jiang et al., ICLR 2020, section 2.2.
    """
    settings = CorpusSettings(
        target, name_tuple(groups) or (), name_tuple(metrics), name_tuple(hyperparameters) or (), level, draws, seed
    )
    task = agree(world(), lambda: CorpusTask(table, settings))
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task)
    return run.result(of_rows(corpus_from_rows))


def corpus_from_rows(description: Description, rows: Rows, history: History) -> Corpus:
    """The result in the rows of its task; metrics whose rows are missing are not in it."""
    identity, about = description.identity, description.about
    table = ModelTable(
        {name: np.array(column, dtype=np.float64) for name, column in about["numbers"].items()},
        {name: tuple(column) for name, column in about["texts"].items()},
        tuple(identity["columns"]),
        str(about["source"]),
    )
    asked = Asked(
        table,
        str(identity["target"]),
        tuple((str(metric), str(grouping)) for metric, grouping in identity["rows"]),
        tuple(identity["hyperparameters"]),
        float(identity["level"]),
        int(identity["draws"]),
        int(identity["seed"]),
    )
    there = np.flatnonzero(rows.done)
    found = [_row(asked, rows, int(item)) for item in there]
    values = {name: rows.columns[name][there] for name in statistics(asked.settings)}
    for key in ("p_overall", "p_within", "p_paradox"):
        values[f"{key}_holm"] = holm(values[key])
    share = f"central {100 * asked.level:.4g} % of {asked.draws:,} draws"
    missing = len(asked.rows) - len(there) - len(history.failed)
    return Corpus(
        target=asked.target,
        metric=tuple(row.metric for row in found),
        grouping=tuple(row.grouping for row in found),
        models=np.array([len(known_models(asked, row.metric, row.grouping)[0]) for row in found], dtype=np.int64),
        values=values,
        simpson=tuple(simpson_flag(row.values, asked.level) for row in found),
        note=tuple("; ".join(notes_of(asked, row)) for row in found),
        inside=inside_of(found),
        columns={name: table.numbers[name] for name in dict.fromkeys([asked.target, *(m for m, _ in asked.rows)])},
        groups={
            name: tuple(OUTSIDE if v is None else v for v in table.labels(name))
            for name in dict.fromkeys(grouping for _, grouping in asked.rows)
        },
        attributes={
            "engine_version": engine_version(),
            "table": table.source,
            "hyperparameters": list(asked.settings),
            "level": asked.level,
            "draws": asked.draws,
            "seed": asked.seed,
            "error": f"{share} of the models with replacement inside their groups",
            **({"missing": missing} if missing else {}),
            **provenance(description, history),
        },
    )


def _row(asked: Asked, rows: Rows, item: int) -> Analysed:
    metric, grouping = asked.rows[item]
    values = {name: float(rows.columns[name][item]) for name in statistics(asked.settings)}
    _, named = known_models(asked, metric, grouping)
    inside = []
    if len(named) > 1:
        for k, name in enumerate(ordered(named)):
            models, *found = (float(rows.columns[f"inside_{key}"][item][k]) for key in _INSIDE)
            inside.append(Group(name, int(models), *found))
    return Analysed(metric, grouping, values, inside)
