"""What is measured of every model of a map, and of every pair of seeds, by the tasks of other studies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.checkpoints.states import model_pairs
from landscape.curvature.sampling import draw, whole
from landscape.errors import told_of
from landscape.objective.objective import Objective
from landscape.objective.rows import evaluated
from landscape.results.estimate import Estimate
from landscape.results.inside import run_inside
from landscape.results.stages import Stage
from landscape.run.comm import Communicator
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.studies.agreement.measure import AgreementTask, agreement_from_rows
from landscape.studies.agreement.settings import AgreementSettings
from landscape.studies.curve.fit import CurveFit
from landscape.studies.curve.measure import fitted_curve, on_line, training_data
from landscape.studies.path.measure import path_from_rows, path_task
from landscape.studies.path.result import Path as Along
from landscape.studies.phases.cells import Place
from landscape.studies.phases.networks import Networks
from landscape.studies.spectrum.measure import Plan, spectrum_from_stages
from landscape.studies.spectrum.result import Spectrum

MODELS, PAIRS = "models", "pairs"  # names of the tasks, and of their folders
STATES = "states"  # in these, while items are in hand
Model = tuple[Tensor, dict[str, Tensor]]


class _CellTask:
    """Items that lie in cells."""

    def __init__(self, networks: Networks, folder: Path | None) -> None:
        self._networks, self._folder = networks, folder
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return len(rows.done)

    def _described(
        self, name: str, columns: list[str], items: list[dict[str, Any]], asked: dict[str, Any]
    ) -> Description:
        networks, settings = self._networks, self._networks.settings
        looked = networks.looked
        first = next(iter(looked.values()))
        placed = networks.placed
        identity = {
            "objective": first.identity,
            "cells": [[list(place), seen.identity, list(seen.digests), seen.test] for place, seen in looked.items()],
            "items": items,
            "seed": settings.seed,
            **asked,
        }
        about = {
            "device": str(networks.objective(next(iter(looked))).device),
            "axes": [settings.load, settings.temperature],
            "places": sorted([list(place) for place in {*placed.rows, *placed.lost}]),
            "seeds": [[list(place), len(rows)] for place, rows in placed.rows.items()],
            "lost": [[list(place), list(found)] for place, found in placed.lost.items()],
            "labelled": networks.labelled,
            "sizes": [int(seen.identity["parameters"]) for seen in looked.values()],
            "samples": [int(seen.identity["samples"]) for seen in looked.values()],
            "thresholds": asdict(settings.thresholds),
            "well": settings.well,
            "settings": asdict(settings),
            "other_data": networks.of_other_data,
        }
        return Description(name, dict.fromkeys(columns, ()), identity, about)

    def _tell(self, label: str) -> Callable[[str], None]:
        def tell(text: str) -> None:
            if self.report is not None:
                self.report(f"{label}: {text}")

        return tell

    def _state(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / STATES / name


class ModelsTask(_CellTask):
    """Item i: loss and error of one model, largest eigenvalue and trace of its Hessian."""

    headline = "train_loss"

    def __init__(self, networks: Networks, folder: Path | None) -> None:
        """`folder` is that of the task, where states of items go; None for a run in memory."""
        super().__init__(networks, folder)
        self._items = networks.placed.ordered
        self.count = len(self._items)

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        models, settings = self._networks.source.models, self._networks.settings
        items = [
            {"at": list(place), "seed": models.seed[row], "label": models.label(row)} for place, row in self._items
        ]
        names = ("hessian_samples", *(("bracket_samples",) if settings.well else ()))
        asked: dict[str, Any] = {name: getattr(settings, name) for name in names}
        asked["ways"] = [list(seen.ways) for seen in self._networks.looked.values()]
        return self._described(MODELS, self._columns(), items, {**asked, "well": settings.well})

    def _columns(self) -> list[str]:
        networks = self._networks
        names = ["train_loss", *(["train_error"] if networks.labelled else [])]
        if any(seen.test for seen in networks.looked.values()):
            names += ["test_loss", *(["test_error"] if networks.labelled else [])]
        names += ["lambda_max", "trace"]
        if networks.settings.well:
            names += ["lambda_max_upper", "lambda_max_lower", "lambda_max_well", "trace_well"]
        return [*(column for name in names for column in (name, f"{name}_stderr")), "products"]

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        networks, (place, row) = self._networks, self._items[index]
        model = networks.model(place, row)
        with told_of(networks.label(row)):
            return self._measured(index, place, row, model, group)

    def _measured(self, index: int, place: Place, row: int, model: Model, group: Communicator) -> Row:
        networks = self._networks
        objective, test = networks.objective(place), networks.test(place)
        tell = self._tell(networks.label(row))
        found: dict[str, Any] = {}
        for prefix, one in (("train", objective), ("test", test)):
            if one is not None:
                tell(f"{prefix} loss")
                values = evaluated(one, model[0], model[1] or None, group)
                found |= {f"{prefix}_{name}": value for name, value in values.items()}
        looked = networks.looked[place]
        plan = networks.plan(place, networks.few(objective), model, looked.ways[0])
        few = self._spectrum(plan, index, "few", group, tell)
        found |= _largest("lambda_max", few) | _trace("trace", few)
        products = few.products
        if networks.settings.well:
            products += self._done_well(found, objective, place, model, index, group, tell)
        return {name: found[name] for name in self._columns()[:-1]} | {"products": products}

    def _done_well(
        self,
        found: dict[str, Any],
        objective: Objective,
        place: Place,
        model: Model,
        index: int,
        group: Communicator,
        tell: Callable[[str], None],
    ) -> int:
        """Add the bracket of the largest eigenvalue, or that of all data, and the trace of all data; the products."""
        networks, asked = self._networks, self._networks.settings
        way = networks.looked[place].ways[1]
        every = networks.plan(place, whole(objective), model, way)
        if objective.samples <= asked.bracket_samples:
            wide = self._spectrum(every, index, "all", group, tell)
            for name in ("lambda_max_upper", "lambda_max_lower", "lambda_max_well"):
                found |= _largest(name, wide)
            found |= _trace("trace_well", wide)
            return wide.products
        theta, buffers = model
        samples, apart = draw(
            objective, asked.bracket_samples, "importance", asked.seed, theta=theta, buffers=buffers or None
        )
        wide = self._spectrum(networks.plan(place, samples, model, "", apart), index, "bracket", group, tell)
        found |= _bracket(wide)
        only = every if way == "deflated" else replace(every, settings=replace(every.settings, k=0))
        found |= _trace("trace_well", self._spectrum(only, index, "all", group, tell))
        return wide.products

    def _spectrum(
        self, plan: Plan, index: int, name: str, group: Communicator, tell: Callable[[str], None]
    ) -> Spectrum:
        """Largest eigenvalue and trace, as far as a plan asks for them."""
        stages: dict[str, Stage] = {}
        eigen = plan.eigenpairs(self._state(f"{index}-{name}"))
        if eigen is not None:
            eigen.report, eigen.stopping = tell, self.stopping
            stages["eigenpairs"] = run_inside(eigen, group)
        if plan.method:
            stages["trace"] = run_inside(plan.trace(stages), group, tell, self.stopping)
        return spectrum_from_stages(stages)


def _largest(name: str, found: Spectrum) -> dict[str, float]:
    """The largest eigenvalue; where it has not converged its residual counts as an error, too."""
    value, error = float(found.largest.values[0]), float(found.largest.stderr[0])
    return {name: value, f"{name}_stderr": math.hypot(error, float(found.largest.residuals[0]) * value)}


def _bracket(found: Spectrum) -> dict[str, float]:
    """Both ends of the largest eigenvalue, and their middle, of which half their distance is an error, too."""
    pairs = found.largest
    assert pairs.independent is not None
    assert pairs.independent_stderr is not None
    upper = _largest("lambda_max_upper", found)
    high, high_error = upper["lambda_max_upper"], upper["lambda_max_upper_stderr"]
    low, low_error = float(pairs.independent[0]), float(pairs.independent_stderr[0])
    return {
        **upper,
        "lambda_max_lower": low,
        "lambda_max_lower_stderr": low_error,
        "lambda_max_well": (high + low) / 2,
        "lambda_max_well_stderr": math.hypot(high - low, low_error, high_error) / 2,
    }


def _trace(name: str, found: Spectrum) -> dict[str, float]:
    assert found.trace is not None
    return {name: found.trace.value, f"{name}_stderr": found.trace.stderr}


class PairsTask(_CellTask):
    """Item i: how alike two seeds of a cell are, and a curve fitted between them, at few places and at many."""

    headline = "mc"

    def __init__(self, networks: Networks, folder: Path | None) -> None:
        """`folder` is that of the task, where states of fits go; None for a run in memory."""
        super().__init__(networks, folder)
        self._items: list[tuple[Place, int, int]] = []
        pairs = networks.settings.pairs
        for place, rows in networks.placed.rows.items():
            if len(rows) > 1:
                asked = pairs if isinstance(pairs, str) else [p for p in pairs if max(p) < len(rows)]
                chosen = model_pairs(len(rows), asked) if len(asked) else []
                self._items += [(place, rows[i], rows[j]) for i, j in chosen]
        self.count = len(self._items)

    def describe(self) -> Description:
        """See `Task`."""
        return self._description

    @cached_property
    def _description(self) -> Description:
        models, settings = self._networks.source.models, self._networks.settings
        items = [
            {"at": list(place), "seeds": [models.seed[i], models.seed[j]], "label": self._label(i, j)}
            for place, i, j in self._items
        ]
        names = ["places", "cka_samples", "cka_inputs", "curve_batch_size"]
        asked: dict[str, Any] = {name: getattr(settings, name) for name in names}
        asked["fit"] = {**asdict(settings.fit), "lr": settings.fit.step_size}
        asked |= {"well": settings.well, "curve_tol": settings.curve_tol if settings.well else None}
        return self._described(PAIRS, self._columns(), items, asked)

    def with_epochs(self, epochs: int) -> PairsTask:
        """The same task with curves fitted for so many epochs, in memory: a trial."""
        return PairsTask(self._networks.asked(replace(self._networks.settings, curve_epochs=epochs)), None)

    def _label(self, i: int, j: int) -> str:
        return f"{self._networks.label(i)} and {self._networks.source.models.seed[j]}"

    def _columns(self) -> list[str]:
        names = ["mc", "mc_loss", "cka"]
        if self._networks.settings.well:
            names += ["mc_well", "mc_loss_well", "barrier", "cka_well"]
        return [*(column for name in names for column in (name, f"{name}_stderr")), "l2", "places"]

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        networks, asked = self._networks, self._networks.settings
        place, i, j = self._items[index]
        objective = networks.objective(place)
        tell = self._tell(self._label(i, j))
        ends = [networks.model(place, row) for row in (i, j)]
        a, b = ends[0][0], ends[1][0]
        found: dict[str, Any] = {"l2": float(torch.linalg.vector_norm(b.double() - a.double()))}
        found |= self._alike("cka", networks.compared(place), (i, j), group, tell)
        if asked.well:
            found |= self._alike("cka_well", objective, (i, j), group, tell)
        data = training_data(objective, None, asked.curve_batch_size)
        fit = CurveFit(objective, on_line(a, b, asked.fit.degree), data, asked.fit, asked.seed)
        left = fit.run(group, state=self._state(f"{index}.npz"), report=tell, stopping=self.stopping)
        settings = {**asdict(asked.fit), "lr": asked.fit.step_size}
        curve = fitted_curve(left, settings, objective.quantities, {})
        task = path_task(objective, curve, asked.places, tol=asked.curve_tol if asked.well else None)
        stage = run_inside(task, group, tell, self.stopping)
        few = Rows(
            {name: values[: asked.places] for name, values in stage.rows.columns.items()},
            stage.rows.done[: asked.places],
        )
        found |= _connected("", path_from_rows(stage.description, few, History()))
        whole_path = path_from_rows(stage.description, stage.rows, History())
        if asked.well:
            found |= _connected("_well", whole_path) | _told("barrier", whole_path.barrier)
        found["places"] = len(whole_path.t)
        return {name: found[name] for name in self._columns()}

    def _alike(
        self, name: str, objective: Objective, rows: tuple[int, int], group: Communicator, tell: Callable[[str], None]
    ) -> dict[str, float]:
        """CKA of the outputs of two models."""
        models = self._networks.source.models
        paths = [models.final[row] for row in rows]
        of = "probabilities" if self._networks.labelled else None
        task = AgreementTask(objective, paths, AgreementSettings(of=of), labels=[models.label(row) for row in rows])
        stage = run_inside(task, group, tell, self.stopping)
        with np.errstate(invalid="ignore"):  # in the unbiased CKA of few samples, which is not used
            found = agreement_from_rows(stage.description, stage.rows, History())
        if _constant(stage.rows):
            return {name: math.nan, f"{name}_stderr": math.nan}
        return {name: float(found.values["cka"][0]), f"{name}_stderr": float(found.stderr["cka"][0])}


def _constant(rows: Rows) -> bool:
    """Whether one of two models says the same of all inputs, to rounding: CKA would be that of rounding errors."""
    columns = rows.columns
    if "products" not in columns:
        return False
    size = columns["rows"].sum(1)[:, None] * np.square(columns["mean"]).sum(2)  # (blocks, 2)
    spread = np.trace(columns["products"][:, :2], axis1=2, axis2=3)
    return bool((spread <= size * (64 * np.finfo(np.float64).eps) ** 2).all(0).any())


def _told(name: str, estimate: Estimate) -> dict[str, float]:
    error = estimate.stderr
    return {name: float(estimate), f"{name}_stderr": 0.0 if np.isnan(error) and float(estimate) == 0 else error}


def _connected(end: str, path: Along) -> dict[str, float]:
    """mc of the error in per cent where there is one, else of the loss, and mc of the loss."""
    return _told(f"mc{end}", path.mc) | _told(f"mc_loss{end}", path.mc_of("loss"))
