"""Measures of a network, one item for each family of measures that share work: the Task, and its result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray

from landscape.arguments import Count, Natural, Seed, checked
from landscape.checkpoints.states import read_model
from landscape.errors import InputError, NumericalError, UserCodeError, raised_by
from landscape.objective.described import describe_callable
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept
from landscape.objective.trees import digest
from landscape.results.attributes import result_attributes
from landscape.results.estimate import Estimate
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.texts import coded, decoded
from landscape.run.together import agree
from landscape.studies.complexity.catalogue import chosen
from landscape.studies.complexity.entry import NEEDS, Measure, as_estimate
from landscape.studies.complexity.fused import fused
from landscape.studies.complexity.result import Complexity
from landscape.studies.complexity.settings import PARITIES, ComplexitySettings
from landscape.studies.complexity.sharpness import CURVATURE
from landscape.studies.complexity.subject import Subject
from landscape.studies.spectrum.measure import Plan
from landscape.studies.spectrum.settings import SpectrumSettings

logger = logging.getLogger(__name__)
_EIGEN_TOL = 1e-3  # relative residual of the largest eigenvalue
_TEXT = 400  # characters of a reason or note in a row
_NUMBERS = ("value", "stderr", "adjusted", "adjusted_stderr", "n", "passes")
_UNITS = ("weight", "sample", "draw", "matrix", "group", "batch")


class ComplexityTask:
    """Item i: the measures of one family."""

    headline = "passes"

    def __init__(self, objective: Objective, initial: Any, measures: Any, settings: ComplexitySettings) -> None:
        if settings.parity not in (None, *PARITIES):
            raise InputError(f"parity={settings.parity!r}; give {' or '.join(map(repr, PARITIES))}, or None")
        if not 0 < settings.tol < 1:
            raise InputError(f"tol={settings.tol}; it is a relative error, give a number between 0 and 1")
        self._objective, self._settings = objective, settings
        self._measures = chosen(measures)
        self._initial = None if initial is None else read_model(objective, initial)
        families: dict[str, list[Measure]] = {}
        for one in self._measures:
            families.setdefault(one.family or one.name, []).append(one)
        self._families = list(families.items())
        self._plan = self._planned() if any(one.name in CURVATURE for one in self._measures) else None
        self._widest = max(len(members) for members in families.values())
        self.count = len(self._families)

    def describe(self) -> Description:
        """See `Task`."""
        initial, settings = self._initial, self._settings
        columns: dict[str, tuple[int, ...]] = dict.fromkeys(_NUMBERS, (self._widest,))
        columns |= {"unit": (self._widest,), "reason": (self._widest, _TEXT), "note": (self._widest, _TEXT)}
        columns["passes"] = (self._widest,)
        identity = {
            "objective": self._objective.identity(),
            "initial": "" if initial is None else digest(initial[0], *initial[1].values()),
            "measures": [
                [family, [[one.name, describe_callable(one.function) if one.own else ""] for one in members]]
                for family, members in self._families
            ],
            "parity": settings.parity,
            "tol": settings.tol,
            "seed": settings.seed,
        }
        about = {
            "device": str(self._objective.device),
            "batchnorm": _batchnorm(self._objective),
            "order": [one.name for one in self._measures],
            "formulas": {one.name: one.formula for one in self._measures},
            "sources": {one.name: one.source for one in self._measures},
        }
        return Description("complexity", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        _, members = self._families[index]
        settings = self._settings
        subject = Subject(
            self._objective,
            self._initial,
            parity=settings.parity,
            tol=settings.tol,
            seed=settings.seed,
            plan=self._plan,
            group=group,
        )
        row = {name: np.full(self._widest, np.nan) for name in (*_NUMBERS, "unit")}
        texts = {name: np.zeros((self._widest, _TEXT)) for name in ("reason", "note")}
        for k, one in enumerate(members):
            before = subject.passes
            subject.notes.clear()
            found = self._measured(one, subject)
            row["passes"][k] = subject.passes - before
            if isinstance(found, str):
                logger.log(
                    logging.INFO if found == NEEDS["initial"] else logging.WARNING,
                    "measure %s is skipped: %s",
                    one.name,
                    found,
                )
                texts["reason"][k] = coded(found, _TEXT)
                continue
            adjusted = one.adjusted(found, subject.samples)
            numbers = (float(found), found.stderr, float(adjusted), adjusted.stderr, found.n)
            for name, number in zip(_NUMBERS, numbers, strict=False):
                row[name][k] = number
            row["unit"][k] = _UNITS.index(found.unit) if found.unit in _UNITS else 0
            texts["note"][k] = coded("; ".join(subject.notes), _TEXT)
        return {**row, **texts}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _planned(self) -> Plan | str:
        """How the largest eigenvalue and the trace are computed, or why they cannot be; tried on all ranks together."""
        asked = SpectrumSettings(k=1, tol=_EIGEN_TOL, density=False, trace_tol=self._settings.tol)
        try:
            return Plan.of(self._objective, replace(asked, seed=self._settings.seed))
        except UserCodeError:
            raise
        except (InputError, NumericalError) as error:
            return str(error)

    def _measured(self, one: Measure, subject: Subject) -> Estimate | str:
        """The value of a measure, or why it has none."""
        for need in one.needs:
            if need == "initial" and self._initial is None:
                return NEEDS["initial"]
            if need == "margins" and subject.no_margins:
                return f"{NEEDS['margins']}: {subject.no_margins}"
        try:
            with random_state_kept():
                found = as_estimate(one.function(subject))
        except UserCodeError:
            raise
        except (InputError, NumericalError) as error:
            return str(error)
        except Exception as error:  # whatever a measure of the user's own does
            if not one.own:
                raise
            return f"it raised {raised_by(error)}"
        if math.isnan(found):
            subject.notes.append("the measure returned NaN")
            logger.warning("measure %s returned NaN", one.name)
        return found


def _batchnorm(objective: Objective) -> str:
    """What is done with BatchNorm, in words."""
    names = objective.batchnorm_names
    if not names:
        return ""
    affine = fused(objective, objective.theta, objective.buffers).affine
    return f"{len(names) - len(affine)} fused into the layers before, affine: {', '.join(affine) or 'none'}"


@of_objective
@checked(ComplexitySettings)
def measure_complexity(
    objective: Objective,
    out: str | Path | None = None,
    *,
    initial: Any = None,
    measures: str | Measure | Sequence[str | Measure] = "all",
    parity: str | None = None,
    tol: float = 0.05,
    seed: Seed = 0,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Complexity:
    """Generalisation measures of a network on its training data, with their errors, shared out over the ranks.

    `initial` are the weights that training began from, in any form that a model comes in. `measures` are names, "all",
    "jiang" (those of Jiang et al.), measures of the user's own made by `measure`, or "package.module:callable". A
    measure that this network, data or call does not allow is skipped, `skipped` says why, and the others are computed.

    Raises InputError for measures that are not known, for initial weights of another network, for a `parity` other than
    "jiang" and for a `tol` outside 0 to 1; a UserCodeError where the user's model or loss raises; see `run_task` for
    the rest. Jiang et al., arXiv 1912.02178; Dziugaite et al., arXiv 2010.11924.
    """
    settings = ComplexitySettings((), parity, tol, seed)
    task = agree(world(), lambda: ComplexityTask(objective, initial, measures, settings))
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task)
    return run.result(of_rows(complexity_from_rows))


def complexity_task(
    objective: Objective, *, initial: Any = None, measures: Any = "all", **asked: Any
) -> ComplexityTask:
    """The task of `measure_complexity`. Raises InputError for what cannot be measured as asked."""
    return ComplexityTask(objective, initial, measures, ComplexitySettings((), **asked))


def complexity_from_rows(description: Description, rows: Rows, history: History) -> Complexity:
    """The measures in the rows of their task, in the order asked for, masked where rows are missing."""
    about, identity, columns = description.about, description.identity, rows.columns
    at = {
        name: (item, k) for item, (_, members) in enumerate(identity["measures"]) for k, (name, _) in enumerate(members)
    }
    names: tuple[str, ...] = tuple(about["order"])
    places = [at[name] for name in names]
    numbers: Mapping[str, FloatArray] = {
        name: np.array([columns[name][place] for place in places]) for name in (*_NUMBERS, "unit")
    }
    done = np.array([bool(rows.done[item]) for item, _ in places])
    reasons, notes = (
        tuple(decoded(columns[name][place]) if there else "" for place, there in zip(places, done, strict=True))
        for name in ("reason", "note")
    )
    return Complexity(
        names=names,
        value=numbers["value"],
        stderr=numbers["stderr"],
        adjusted_value=numbers["adjusted"],
        adjusted_stderr=numbers["adjusted_stderr"],
        n=np.nan_to_num(numbers["n"]).astype(np.int64),
        units=tuple(_UNITS[int(unit)] for unit in np.nan_to_num(numbers["unit"])),
        passes=numbers["passes"],
        formulas=tuple(about["formulas"][name] for name in names),
        sources=tuple(about["sources"][name] for name in names),
        reasons=reasons,
        notes=notes,
        computed=done,
        attributes={
            **result_attributes(description, history),
            "parity": identity["parity"] or "none",
            **({"batchnorm": about["batchnorm"]} if about["batchnorm"] else {}),
            "tol": identity["tol"],
            "seed": identity["seed"],
            "error": "0 where the value follows from the weights alone; else over the units that each measure names",
        },
    )
