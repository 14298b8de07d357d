"""The phases job: every model and every pair of seeds of a sweep over load and temperature."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray

from landscape.arguments import Count, Natural, Seed, checked
from landscape.errors import InputError
from landscape.objective.losses import LossLike
from landscape.objective.random_state import keeps_random_state
from landscape.results.attributes import result_attributes, whole_time
from landscape.results.measured import Measurement
from landscape.results.stages import Stage
from landscape.run.comm import world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.together import agree
from landscape.studies.phases.cells import Cells, Place, Told, mean_over_pairs, mean_over_seeds, summed_up
from landscape.studies.phases.networks import Networks
from landscape.studies.phases.result import METRICS, Phases, Thresholds
from landscape.studies.phases.settings import PhasesSettings
from landscape.studies.phases.sources import mapped
from landscape.studies.phases.tasks import MODELS, PAIRS, STATES, ModelsTask, PairsTask
from landscape.studies.spectrum.measure import begun
from landscape.studies.training.sources import ModelsLike, resolved, warn_of_other_data

STAGES = (MODELS, PAIRS)
_ERROR = (
    "seed_stderr is that of the mean over seeds, of pairs by a jackknife over seeds; own_stderr is the mean of the "
    "measurements' own, for the population the data were drawn from; stderr is the root of the sum of their squares"
)


@keeps_random_state
@checked(PhasesSettings)
def measure_phases(
    models: ModelsLike,
    *,
    load: str,
    temperature: str,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    pairs: str | Sequence[Sequence[int]] = "all",
    curve_epochs: int = 50,
    curve_lr: float | None = None,
    curve_batch_size: int = 128,
    places: Count = 5,
    hessian_samples: int = 200,
    cka_samples: int = 768,
    cka_inputs: str = "mixup",
    well: bool = True,
    bracket_samples: int = 2000,
    curve_tol: float = 0.01,
    seed: Seed = 0,
    sharp: float = 20.0,
    connected: float = -1.0,
    alike: float = 0.7,
    fitted: float | None = None,
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Phases:
    """Five metrics of every cell of `load` x `temperature`, and its phase, on all MPI ranks of this run.

    `models` are what `train_models` returned, the folder of its run, or a table of models or its path (see
    `landscape.checkpoints.trained.read_models`); `load` and `temperature` are two of their keys, numbers. A training of
    this process brings factory, data, test data and loss; else `factory`, whose arguments are keys of the models, and
    `data`, what they were trained on, are needed. Without `loss` it is the cross entropy.

    Of every model: loss and error on all training and all test data, and the largest eigenvalue and the trace of the
    Hessian of `hessian_samples` training samples, the same for all. Of every pair of seeds in a cell (`pairs`: "all",
    "ring", "star" or a list of pairs of their places among the cell's seeds): a Bezier curve fitted for `curve_epochs`
    (see `fit_curve`), mode connectivity mc of the training error in per cent and of the loss at `places` places on it,
    and linear CKA of softmax outputs on `cka_samples` training inputs, mixed in pairs with weights from Beta(16, 16),
    or as they are with `cka_inputs` "data". These are the metrics of the paper. With `well` each is measured once more,
    as "METRIC_well": the largest eigenvalue between two ends from `bracket_samples` samples drawn by importance (of all
    data, where they are no more), the trace and CKA on all training data, mc with places added until the largest loss
    on the curve is known to `curve_tol` (units of the loss). `Phases.done_well` classifies by these.

    A cell's value is the mean over its seeds or pairs, with the error over seeds and the measurements' own. The
    thresholds `sharp`, `connected`, `alike` and `fitted` are those of `Thresholds`; others need no new measurement (see
    `Phases.classified`). Models that were left out, and cells with fewer than two seeds, are holes that say why.

    An item is a model, then a pair; the ranks share items, and `ranks_per_item` of them the data of each. `out` is the
    run folder: what is found there is not computed again, killed items go on where they keep a state.

    Raises InputError for keys that are not there (the nearest are named), models that differ in a third key, no cell
    with two seeds, checkpoints that do not fit the model of their cell, a training with a forward= of its own, and what
    cannot be measured as asked, before computing; see `run_task` for the rest.
    Source: Yang et al., "Taxonomizing local versus global structure in neural network loss landscapes", NeurIPS 2021.
    """
    settings = PhasesSettings(
        load=load,
        temperature=temperature,
        pairs=pairs,  # type: ignore[arg-type]
        curve_epochs=curve_epochs,
        curve_lr=curve_lr,
        curve_batch_size=curve_batch_size,
        places=places,
        hessian_samples=hessian_samples,
        cka_samples=cka_samples,
        cka_inputs=cka_inputs,
        well=well,
        bracket_samples=bracket_samples,
        curve_tol=curve_tol,
        seed=seed,
        sharp=sharp,
        connected=connected,
        alike=alike,
        fitted=fitted,
    )
    folder = None if out is None else Path(out)
    tasks = phases_tasks(
        models, settings, factory=factory, data=data, test=test, loss=loss, device=device, folder=folder
    )
    run = Measurement(
        out,
        stages=STAGES,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    agree(world(), lambda: _require_thresholds(folder, settings.thresholds))
    for name, task in tasks.items():
        if run.going:
            run.run(task, kept=None if folder is None else folder / name / STATES)
    return run.result(phases_from_stages)


def phases_tasks(
    models: ModelsLike,
    settings: PhasesSettings,
    *,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    folder: Path | None = None,
) -> dict[str, ModelsTask | PairsTask]:
    """The tasks of `measure_phases` by their names; all ranks call this."""
    comm = world()

    def networks_of() -> Networks:
        source = resolved(models, factory, data, test, loss)
        return Networks(source, mapped(source.models, settings.load, settings.temperature), settings, device)

    networks = agree(comm, networks_of).prepare(comm)
    if comm.rank == 0:
        warn_of_other_data(networks.of_other_data, "load and temperature are not those of a training on these data")

    def tasks_of() -> dict[str, ModelsTask | PairsTask]:
        models_in, pairs_in = (None if folder is None else folder / name for name in STAGES)
        return {MODELS: ModelsTask(networks, models_in), PAIRS: PairsTask(networks, pairs_in)}

    return agree(comm, tasks_of)


def _require_thresholds(folder: Path | None, limits: Thresholds) -> None:
    """Raise InputError where a folder was begun with others: what is opened from its rows would have those."""
    known = begun(folder, MODELS)
    if known is None:
        return
    asked = {name: value for name, value in asdict(limits).items() if value != known.about["thresholds"][name]}
    if asked:
        said = ", ".join(f"{name}={value}" for name, value in asked.items())
        raise InputError(
            f"{folder} was begun with other thresholds ({known.about['thresholds']}); they need no new measurement: "
            f"landscape.open({str(folder)!r}).classified({said})"
        )


def phases_from_stages(stages: Mapping[str, Stage]) -> Phases:
    """The result of what its tasks left, masked where items are missing."""
    first = stages[MODELS]
    about = first.description.about
    places = [(float(a), float(b)) for a, b in about["places"]]
    cells = Cells.of(places)
    told: dict[Place, dict[str, Told]] = defaultdict(dict)
    reasons: dict[Place, list[str]] = defaultdict(list)
    notes: dict[Place, list[str]] = defaultdict(list)
    for (a, b), lost in about["lost"]:
        notes[a, b] += lost
    for stage in stages.values():
        _add_stage(stage, told, notes, reasons)
    seeds = {(float(a), float(b)): count for (a, b), count in about["seeds"]}
    limits = Thresholds(**about["thresholds"])
    for place in places:
        if seeds.get(place, 0) < 2:
            what = "no trained model" if place not in seeds else "one seed only, and mc and CKA are of pairs of seeds"
            reasons[place].append(what)
    metrics = [name for name in METRICS if any(name in found for found in told.values())]
    needed = ["lambda_max", "mc", "cka", *(["train_loss"] if limits.fitted is not None else [])]
    metrics = list(dict.fromkeys([*metrics, *(name for name in needed if name not in metrics)]))
    values, over_seeds, own = ({name: cells.table(told, name, k) for name in metrics} for k in range(3))
    for place in places:
        bad = [name for name in needed if name in told[place] and np.isnan(told[place][name][0])]
        reasons[place] += [f"{name} is NaN" for name in bad]
    attributes = _attributes(stages)
    return Phases(
        axes=(str(about["axes"][0]), str(about["axes"][1])),
        load=cells.load,
        temperature=cells.temperature,
        values={name: values[name] for name in sorted(metrics, key=_order)},
        stderr={name: summed_up(over_seeds[name], own[name]) for name in metrics},
        seed_stderr=over_seeds,
        own_stderr=own,
        reason=_written(cells, reasons),
        notes=_written(cells, notes),
        thresholds=limits,
        attributes=attributes,
    )


def _order(metric: str) -> int:
    return list(METRICS).index(metric)


def _add_stage(
    stage: Stage,
    told: dict[Place, dict[str, Told]],
    notes: dict[Place, list[str]],
    reasons: dict[Place, list[str]],
) -> None:
    """Add what a stage tells of each cell: means over its models, or its pairs, and those that failed."""
    items = stage.description.identity["items"]
    there: dict[Place, list[int]] = defaultdict(list)
    asked: Counter[Place] = Counter()
    gone: Counter[Place] = Counter()  # items that failed
    for number, item in enumerate(items):
        a, b = item["at"]
        place = (float(a), float(b))
        asked[place] += 1
        if stage.rows.done[number]:
            there[place].append(number)
        elif number in stage.history.failed:
            gone[place] += 1
            reason = str(stage.history.failed[number]).strip().splitlines()[-1].removeprefix(f"{item['label']}: ")
            notes[place].append(f"{item['label']} failed: {reason}")
    for place, count in asked.items():
        if gone[place] == count:
            reasons[place].append(f"all of its {stage.description.name} failed")
        elif (done := len(there.get(place, ()))) + gone[place] < count:
            notes[place].append(f"{done} of {count} {stage.description.name} so far")
    columns = stage.rows.columns
    names = [name for name in columns if name in METRICS]
    for place, rows in there.items():
        for name in names:
            values = columns[name][rows]
            errors: FloatArray = columns.get(f"{name}_stderr", np.zeros(len(items)))[rows]
            if "seeds" in items[0]:
                told[place][name] = mean_over_pairs(values, errors, [tuple(items[row]["seeds"]) for row in rows])
            else:
                told[place][name] = mean_over_seeds(values, errors)


def _written(cells: Cells, said: Mapping[Place, list[str]]) -> Any:
    found = cells.texts()
    for place, texts in said.items():
        found[cells.place(place)] = "; ".join(texts)
    return found.astype(str)


def _attributes(stages: Mapping[str, Stage]) -> dict[str, Any]:
    first = stages[MODELS]
    about, identity = first.description.about, first.description.identity
    found = result_attributes(first.description, first.history)
    failures = [one for stage in stages.values() for one in _failures(stage)]
    smallest, largest = min(about["sizes"]), max(about["sizes"])
    asked = {name: value for name, value in about["settings"].items() if name not in about["thresholds"]}
    return found | {
        "task": "phases",
        "models": len(identity["items"]),
        "missing": sum(int((~stage.rows.done).sum()) - len(stage.history.failed) for stage in stages.values())
        + (PAIRS not in stages),
        "parameters": str(smallest) if smallest == largest else f"{smallest} to {largest}",
        "settings": asked,
        "seed": identity["seed"],
        "mc_of": "error in per cent" if about["labelled"] else "loss",
        "ways": identity["ways"][0],
        "error": _ERROR,
        **({"failures": failures} if failures else {}),
        **whole_time(stage.history for stage in stages.values()),
    }


def _failures(stage: Stage) -> list[dict[str, Any]]:
    return list(result_attributes(stage.description, stage.history).get("failures", ()))
