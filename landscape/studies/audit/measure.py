"""The audit job: every measure of every trained model, and what that says of the measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.arguments import Count, Natural, Seed, checked
from landscape.errors import InputError, NumericalError, UserCodeError
from landscape.objective.described import describe_callable
from landscape.objective.losses import LossLike
from landscape.objective.random_state import keeps_random_state
from landscape.results.attributes import result_attributes
from landscape.results.inside import run_inside
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History, Store
from landscape.run.task import Description, Row, Rows
from landscape.run.texts import coded, decoded
from landscape.run.together import agree
from landscape.studies.audit.models import Models, comparisons
from landscape.studies.audit.networks import Networks
from landscape.studies.audit.result import Audit
from landscape.studies.audit.settings import AuditSettings
from landscape.studies.audit.statistics import SIZES, compare, follow
from landscape.studies.complexity.catalogue import chosen
from landscape.studies.complexity.entry import Measure
from landscape.studies.complexity.measure import complexity_from_rows, complexity_task
from landscape.studies.training.sources import ModelsLike, resolved, warn_of_other_data

_TEXT = 600  # characters of a note in a row
_STATISTICS = ("knobs", "complexity", "within", "level", "draws")
_ERROR = "intervals and probabilities are over seeds, drawn with replacement inside their cells"


class AuditTask:
    """Item i: all measures of one model."""

    headline = "measures"

    def __init__(self, networks: Networks, measures: Sequence[Measure]) -> None:
        self._networks, self._measures = networks, tuple(measures)
        self.count = len(networks.items)
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        networks, settings = self._networks, self._networks.settings
        models, wide = networks.models(), (len(self._measures),)
        looked = {id(seen): seen for seen in networks.looked.values()}
        first = next(iter(looked.values()))
        identity = {
            "objective": first.identity,
            "cells": [[seen.identity, [list(pair) for pair in seen.digests]] for seen in looked.values()],
            "items": [networks.label(item) for item in range(self.count)],
            "measures": [[one.name, describe_callable(one.function) if one.own else ""] for one in self._measures],
            "adjusted": settings.adjusted,
            "seed": settings.seed,
        }
        source = networks.source.models
        about = {
            "device": str(networks.objective(0).device),
            "keys": {name: list(column) for name, column in models.keys.items()},
            "seeds": list(models.seed),
            "samples": models.samples.tolist(),
            "test_error": models.test_error.tolist(),
            "sources": {one.name: one.source for one in self._measures},
            "formulas": {one.name: one.formula for one in self._measures},
            "left_out": {source.label(row): reason for row, reason in source.left_out.items()},
            "other_data": networks.of_other_data,
            "statistics": {name: asdict(settings)[name] for name in _STATISTICS},
        }
        return Description("audit", {"measures": (), "value": wide, "stderr": wide, "note": (_TEXT,)}, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        networks, settings = self._networks, self._networks.settings
        label = networks.label(index)

        def tell(text: str) -> None:
            if self.report is not None:
                self.report(f"{label}: {text}")

        try:
            task = complexity_task(
                networks.objective(index), initial=networks.initial(index), measures=self._measures, seed=settings.seed
            )
            stage = run_inside(task, group, tell, self.stopping)
        except UserCodeError:
            raise
        except (InputError, NumericalError) as error:
            raise type(error)(f"model {label}: {error}") from error
        found = complexity_from_rows(stage.description, stage.rows, History())
        by_name = found.adjusted if settings.adjusted else found.estimates
        names = [one.name for one in self._measures]
        notes = [f"{name}: {reason}" for name, reason in found.skipped.items()]
        if settings.adjusted:
            notes += [f"{name}: it has no adjustment" for name in found.estimates if name not in by_name]
        return {
            "measures": float(len(by_name)),
            "value": np.array([float(by_name[name]) if name in by_name else np.nan for name in names]),
            "stderr": np.array([by_name[name].stderr if name in by_name else np.nan for name in names]),
            "note": coded("; ".join(notes), _TEXT),
        }

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


@keeps_random_state
@checked(AuditSettings)
def audit_fragility(
    models: ModelsLike,
    measures: str | Measure | Sequence[str | Measure],
    knobs: str | Sequence[str],
    *,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    complexity: str | Sequence[str] = (),
    within: float = 0.01,
    adjusted: bool = False,
    rescale: float = 10.0,
    level: float = 0.95,
    draws: int = 2000,
    seed: Seed = 0,
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Audit:
    """How fragile measures of generalisation are: compared between trained models that do equally well.

    `models` are what `train_models` returned, the folder of its run, or a table of models or its path, with their test
    errors; a training of this process brings factory, data and loss (see `measure_phases`). `measures` are those of
    `measure_complexity`, of the user's own, too. Models that agree in all keys and in the size of their training set
    are the seeds of a cell.

    A knob is a key of the models, or several joined by "+" that change together. Two cells that differ in it alone are
    a pair, and are compared where their mean test errors differ by no more than `within`. For two values of the knob
    and one setting of the other keys, over the matched pairs of all sizes m of the training set: the ratio C'/C
    (geometric mean; of measures called `log_...`, which are natural logarithms, that of what these are logarithms of),
    and of 3 sizes or more the slopes of log10 C against log10 m. The measure is fragile there where the ratio is more
    than 2 or less than 1/2, or the slopes have opposite signs: its `probability` is the share of `draws` of the seeds
    in which that is so, "fragile" from `level` on, "robust" up to 1 - `level`, else "undecided". The knob "rescaled"
    compares every model with itself, the weights before each BatchNorm times `rescale`: the same function.

    `complexity` names keys that make the data harder: for each setting of the other keys, of all pairs of their values
    whose test errors differ by more than `within`, those that the measure orders as the test error does less those it
    orders the other way, over all.

    Measures are taken before adjustment, or with `adjusted` after it. An item is a model; `out` is the run folder: what
    is found there is not computed again. Raises InputError before computing: for knobs that no two models differ in
    alone, no matched pair (told how many there are, and which `within` would match more), models without test errors,
    and all that `measure_complexity` and `measure_phases` refuse; see `run_task` for the rest.
    Source: Zhang and Louis, "Many generalization measures are fragile", arXiv:2510.18934; Dziugaite et al.,
    arXiv:2010.11924.
    """
    task = audit_task(
        models,
        measures,
        knobs,
        factory=factory,
        data=data,
        loss=loss,
        device=device,
        complexity=complexity,
        within=within,
        adjusted=adjusted,
        rescale=rescale,
        level=level,
        draws=draws,
        seed=seed,
    )
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    agree(world(), lambda: _require_statistics(out, task))
    run.run(task)
    return run.result(of_rows(audit_from_rows))


def audit_task(
    models: ModelsLike,
    measures: str | Measure | Sequence[str | Measure],
    knobs: str | Sequence[str],
    *,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    **asked: Any,
) -> AuditTask:
    """The task of `audit_fragility`, `asked` being the other fields of `AuditSettings`; all ranks call this."""
    comm = world()

    def networks_of() -> tuple[Networks, tuple[Measure, ...]]:
        found = tuple(chosen(measures))
        settings = AuditSettings(tuple(one.name for one in found), knobs, **asked)  # type: ignore[arg-type]
        return Networks(resolved(models, factory, data, None, loss), settings, device), found

    networks, found = agree(comm, networks_of)
    networks.prepare(comm)
    if comm.rank == 0:
        warn_of_other_data(networks.of_other_data, "their test errors are not those of a training on these data")
    agree(comm, lambda: _require_pairs(networks.models(), networks.settings))
    return AuditTask(networks, found)


def _require_pairs(models: Models, settings: AuditSettings) -> None:
    """Raise InputError for knobs that cannot be compared, or where no pair of cells does equally well."""
    found = {knob: comparisons(models, knob, settings.within) for knob in settings.knobs}
    follow(models, (), settings.complexity, settings.within, settings.level, settings.draws, settings.seed)
    every = [one for several in found.values() for one in several]
    if not settings.complexity and not any(one.matched for one in every):
        said = {knob: max(several, key=lambda one: len(one.pairs)) for knob, several in found.items()}
        told = "; ".join(f"{knob}: {one.advice(settings.within, SIZES)}" for knob, one in said.items())
        raise InputError(f"no two models that differ in a knob do equally well, so there is nothing to compare. {told}")


def _require_statistics(out: str | Path | None, task: AuditTask) -> None:
    """Raise InputError where a folder was begun with others: what is opened from its rows would have those."""
    if out is None or not (Path(out) / "run.json").is_file():
        return
    known = Store.open(out).description()
    if known.name != "audit":
        return  # the run refuses the folder
    before, now = known.about["statistics"], task.describe().about["statistics"]
    changed = {name: value for name, value in now.items() if _plain(value) != _plain(before[name])}
    if changed:
        said = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        raise InputError(
            f"{out} was begun with other statistics ({before}); they need no new measurement: "
            f"landscape.audit_table(landscape.open({str(out)!r}).models_to_pandas(), measures, knobs, {said})"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def audit_from_rows(description: Description, rows: Rows, history: History) -> Audit:
    """The audit in the rows of its models; those that are missing have no values."""
    identity, about = description.identity, description.about
    names = [name for name, _ in identity["measures"]]
    values = {name: rows.columns["value"][:, k] for k, name in enumerate(names)}
    done = rows.done
    models = Models(
        {name: tuple(column) for name, column in about["keys"].items()},
        tuple(about["seeds"]),
        np.array(about["samples"], dtype=np.int64),
        np.array(about["test_error"], dtype=np.float64),
        values,
    )
    asked = about["statistics"]
    numbers = (asked["within"], asked["level"], asked["draws"], identity["seed"])
    notes = [decoded(codes) if there else "" for codes, there in zip(rows.columns["note"], done, strict=True)]
    attributes = result_attributes(description, history)
    return Audit(
        keys=models.keys,
        seed=models.seed,
        samples=models.samples,
        test_error=models.test_error,
        values=values,
        stderr={name: rows.columns["stderr"][:, k] for k, name in enumerate(names)},
        computed=done,
        note=tuple(notes),
        comparisons=compare(models, names, asked["knobs"], *numbers),
        orders=follow(models, names, asked["complexity"], *numbers),
        attributes={
            **attributes,
            "knobs": list(asked["knobs"]),
            "complexity": list(asked["complexity"]),
            "within": asked["within"],
            "level": asked["level"],
            "draws": asked["draws"],
            "seed": identity["seed"],
            "adjusted": identity["adjusted"],
            "sources": dict(about["sources"]),
            "left_out": dict(about["left_out"]),
            "missing": int((~done).sum()) - len(history.failed),
            "error": _ERROR,
        },
    )
