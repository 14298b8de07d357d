"""The table of a corpus: every model through chosen sets of metrics, one item a model."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.arguments import Count, Natural, Seed, checked
from landscape.checkpoints.reading import SUFFIXES, checkpoint_files
from landscape.checkpoints.tensors import digest, open_tensors
from landscape.checkpoints.trained import VALUES, TrainedModels
from landscape.errors import InputError, NumericalError, UserCodeError
from landscape.objective.losses import LossLike
from landscape.objective.random_state import keeps_random_state
from landscape.results.attributes import provenance
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import RESULT, History
from landscape.run.task import Description, Row, Rows
from landscape.run.texts import coded, decoded
from landscape.run.together import agree
from landscape.studies.corpus_table.metric_sets import METRIC_SETS, Metric, as_pair
from landscape.studies.corpus_table.settings import CorpusTableSettings
from landscape.studies.corpus_table.subject import Subject
from landscape.studies.measures.result import Measures
from landscape.studies.training.sources import ModelsLike, Source, of_other_data, resolved, warn_of_other_data
from landscape.studies.weights.metrics import DISTANCES

logger = logging.getLogger(__name__)
MODEL = "model"  # what a row is
_TEXT = 300  # characters of a reason in a row
_DERIVED = {
    "test_accuracy": "1 - test_error",
    "gap": "test_error - error",
}
_TOLD = {
    "loss": "loss on the training data at the end of training",
    "error": "share of training samples predicted wrong at the end of training",
    "test_loss": "loss on the test data at the end of training",
    "test_error": "share of test samples predicted wrong at the end of training",
}


@dataclass(frozen=True)
class _Models:
    """The models that have weights, in order, and what is known of them."""

    source: Source
    labels: Mapping[int, str]  # row of the source -> label
    keys: Mapping[str, tuple[Any, ...]]  # of those rows
    from_start: bool  # whether all have initial weights

    @classmethod
    def of(cls, models: Any, factory: Any, data: Any, test: Any, loss: Any, *, weights_alone: bool) -> _Models:
        """Raises InputError for what is no models, or for none that has weights."""
        paths = _checkpoints(models)
        if paths is not None:
            models = TrainedModels({}, tuple(range(len(paths))), (None,) * len(paths), tuple(paths))
        source = resolved(models, factory, data, test, loss, weights_alone=weights_alone)
        table = source.models
        rows = table.trained()
        if not rows:
            raise InputError("none of the models has final weights; train them first, or name others")
        keys: dict[str, tuple[Any, ...]] = {}
        if paths is not None:
            named = _names(paths)
            labels = {row: named[row] for row in rows}
        else:
            labels = {row: table.label(row) for row in rows}
            keys = {name: tuple(column[row] for row in rows) for name, column in table.keys.items()}
            keys |= {"seed": tuple(table.seed[row] for row in rows)}
        for row in range(len(table)):
            if row not in labels:
                why = table.left_out.get(row, "it has no final weights")
                logger.warning("model %s is left out: %s", table.label(row), why)
        return cls(source, labels, keys, all(table.initial[row] is not None for row in rows))


def _checkpoints(models: Any) -> list[Path] | None:
    """The checkpoints of a list or of a folder of some; None for what tells of models otherwise."""
    if isinstance(models, (list, tuple)):
        if not models or not all(isinstance(one, (str, Path)) for one in models):
            raise InputError("a list of models is of paths of checkpoints, one or more")
        for path in map(Path, models):
            if not path.exists():
                raise InputError(f"{path} is not there; give the paths of checkpoints")
        return [Path(one) for one in models]
    if not isinstance(models, (str, Path)) or not Path(models).is_dir():
        return None
    folder = Path(models)
    if (folder / RESULT).is_file() or (folder / "run.json").is_file():
        return None
    found = [path for path in sorted(folder.iterdir()) if _is_checkpoint(path)]
    if not found:
        raise InputError(
            f"{folder} is neither the run of a training nor a folder of checkpoints ({', '.join(SUFFIXES)}); name one"
        )
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each checkpoint: what of its path tells it from the others."""
    found = [path.absolute() for path in paths]
    if twice := [str(path) for path in found if found.count(path) > 1]:
        raise InputError(f"{twice[0]} is named more than once; give each model once")
    stems, names = [path.stem for path in found], [path.name for path in found]
    top = os.path.commonpath([path.parent for path in found])
    return [
        stem if stems.count(stem) == 1 else name if names.count(name) == 1 else path.relative_to(top).as_posix()
        for stem, name, path in zip(stems, names, found, strict=True)
    ]


def _is_checkpoint(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix in SUFFIXES
    try:
        return bool(checkpoint_files(path))
    except InputError:
        return False


class CorpusTableTask:
    """Item i: all metrics of one model."""

    def __init__(self, models: _Models, settings: CorpusTableSettings, device: str | torch.device | None) -> None:
        self._models, self._settings, self._device = models, settings, device
        self._sets = {name: METRIC_SETS[name] for name in settings.measure}
        self._rows = list(models.labels)
        self.count = len(self._rows)
        self.headline = next(name for one in self._sets.values() for name in one.metrics)
        self._digests: list[Any] = []
        self.of_other_data = ""  # the models, in words, that their training tells were trained on others

    def prepare(self, comm: Communicator) -> CorpusTableTask:
        """Look at all models before any is measured, shared out over the ranks of `comm`; all of them call this.

        Raises InputError for checkpoints that cannot be read or do not fit what the factory makes of their keys, for
        too few samples, and what `Objective` refuses.
        """
        mine = agree(comm, lambda: {k: self._looked_at(k) for k in range(comm.rank, self.count, comm.size)})
        found = {k: seen for part in comm.gather_all(mine) for k, seen in part.items()}
        self._digests = [found[k][0] for k in range(self.count)]
        self.of_other_data = of_other_data({self._label(k): found[k][1] for k in range(self.count)})
        return self

    def describe(self) -> Description:
        """See `Task`."""
        settings, models = self._settings, self._models
        metrics = self._metrics()
        columns: dict[str, tuple[int, ...]] = {}
        for name, metric in metrics.items():
            columns |= {name: (), **({f"{name}_stderr": ()} if metric.error else {})}
        columns |= {f"{name}_reason": (_TEXT,) for name in self._sets}
        identity = {
            "models": self._digests,
            "measure": list(self._sets),
            "samples": settings.samples,
            "seed": settings.seed,
        }
        table = models.source.models
        told = {
            name: [_plain(table.values[name][row]) for row in self._rows] for name in VALUES if name in table.values
        }
        about = {
            "labels": list(models.labels.values()),
            "keys": {name: list(column) for name, column in models.keys.items()},
            "told": told,
            "words": {name: metric.words for name, metric in metrics.items()},
            "units": {name: metric.unit for name, metric in metrics.items()},
            "sets": {name: list(self._kept(name)) for name in self._sets},
            "other_data": self.of_other_data,
        }
        return Description("corpus_table", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        model = self._subject(index)
        row: dict[str, Any] = {}
        for name, one in self._sets.items():
            row[f"{name}_reason"] = np.zeros(_TEXT)
            found: Mapping[str, float] = {}
            try:
                found = one.measure(model, group)
            except UserCodeError:
                raise
            except (InputError, NumericalError) as error:  # of this model: others have their metrics, and it its others
                logger.warning("model %s has no %s: %s", self._label(index), one.words, error)
                row[f"{name}_reason"] = coded(str(error), _TEXT)
            for metric, about in self._kept(name).items():
                value, error_of = as_pair(found.get(metric, math.nan))
                row |= {metric: value, **({f"{metric}_stderr": error_of} if about.error else {})}
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _subject(self, index: int) -> Subject:
        models = self._models
        return Subject(models.source, self._rows[index], self._settings, self._device, from_start=models.from_start)

    def _label(self, index: int) -> str:
        return self._models.labels[self._rows[index]]

    def _metrics(self) -> dict[str, Metric]:
        """Every column, of all sets."""
        return {name: metric for one in self._sets for name, metric in self._kept(one).items()}

    def _kept(self, name: str) -> Mapping[str, Metric]:
        """The metrics of a set that models of this corpus can have."""
        lacking = set() if self._models.from_start else set(DISTANCES)
        lacking |= set() if self._models.source.tested else {"test_loss", "test_error"}
        return {metric: one for metric, one in METRIC_SETS[name].metrics.items() if metric not in lacking}

    def _looked_at(self, index: int) -> tuple[str, bool]:
        """Digest of all that the metrics of a model depend on; whether they take other data than it was trained on."""
        model = self._subject(index)
        known: dict[str, Any] = {"weights": _digest_of(model.path), "module": self._models.source.factory is not None}
        assert model.weights is not None  # which fits what the factory makes
        if model.initial is not None and "weights" in self._sets:
            known["initial"] = _digest_of(model.initial)
        on_data = any(one.network for one in self._sets.values())
        if on_data:
            known["objective"] = model.objective.identity(centre=False)
            known["test"] = None if model.test is None or "loss" not in self._sets else model.test.data.digest
            assert model.part is not None  # enough samples
        other = on_data and self._models.source.is_other_data(self._rows[index])
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest(), other


def _digest_of(path: Path) -> dict[str, str]:
    source = open_tensors(path)
    return {name: digest(source.read(name)) for name in sorted(source.entries)}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def corpus_table_task(
    models: ModelsLike,
    *,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    **asked: Any,
) -> CorpusTableTask:
    """The task of `measure_corpus`; all ranks call this."""
    comm = world()

    def made() -> CorpusTableTask:
        settings = CorpusTableSettings(**asked)
        needing = [name for name in settings.measure if METRIC_SETS[name].network]
        found = _Models.of(models, factory, data, test, loss, weights_alone=not needing)
        return CorpusTableTask(found, settings, device)

    task = agree(comm, made).prepare(comm)
    if comm.rank == 0:
        warn_of_other_data(task.of_other_data, "what the training tells of them is not of these data")
    return task


@keeps_random_state
@checked(CorpusTableSettings)
def measure_corpus(
    models: ModelsLike,
    measure: str | Sequence[str] = ("weights",),
    *,
    factory: Callable[..., Any] | None = None,
    data: Any = None,
    test: Any = None,
    loss: LossLike | None = None,
    device: str | torch.device | None = None,
    samples: int | None = None,
    seed: Seed = 0,
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Measures:
    """A row of metrics for every model of a corpus, on all MPI ranks of this run: the table of `analyse_corpus`.

    `models` are what `train_models` returned, the folder of its run, a table of models or its path (see
    `landscape.checkpoints.trained.read_models`), a folder of checkpoints, or a list of these. `measure` names sets of
    metrics: "weights" (see `measure_weights`; means over the matrices, and distances where initial weights are known),
    "loss" (loss and error on training and `test` data), "profiles" (rise of the loss along 10 random directions),
    "spectrum" (largest eigenvalue and trace of the Hessian). All but the first need the network: a training of this
    process brings factory, data, test data and loss; else `factory`, whose arguments are keys of the models, and
    `data`, what they were trained on, are needed. Profiles and spectrum are of the loss of `samples` of the training
    data, or of all.

    The result has the models' keys and seeds, what the training tells of them (loss, error, `test_accuracy`, ...) and
    the metrics; `words` has the definition of each. A model is an item. A set of metrics that a model does not allow is
    NaN there, and the attribute "reasons" says why.

    Raises InputError for what is no models, sets that are not known, a factory or data that are lacking, and
    checkpoints that cannot be read or do not fit, before computing; see `run_task` for the rest.
    """
    asked: dict[str, Any] = {"measure": name_tuple(measure), "samples": samples, "seed": seed}
    task = corpus_table_task(models, factory=factory, data=data, test=test, loss=loss, device=device, **asked)
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task)
    return run.result(of_rows(corpus_table_from_rows))


def corpus_table_from_rows(description: Description, rows: Rows, history: History) -> Measures:
    """The table in the rows of its task, masked where rows are missing."""
    about, identity = description.about, description.identity
    measured = list(about["words"])
    values = {
        name: np.array(column, dtype=np.float64) for name, column in about["told"].items() if name not in measured
    }
    words = {name: _TOLD[name] for name in values}
    values |= {name: rows.columns[name] for name in measured}
    words |= about["words"]
    values = {name: column for name, column in values.items() if name not in _TOLD or np.isfinite(column).any()}
    if "test_error" in values:
        values["test_accuracy"] = 1 - values["test_error"]
        if "error" in values:
            values["gap"] = values["test_error"] - values["error"]
    first = [name for name in (*_TOLD, *_DERIVED) if name in values]
    order = [*first, *(name for name in values if name not in first)]
    stderr = {name: rows.columns[f"{name}_stderr"] for name in order if f"{name}_stderr" in rows.columns}
    if "test_error" in stderr:
        stderr["test_accuracy"] = stderr["test_error"]
    return Measures(
        rows=tuple(about["labels"]),
        row_kind=MODEL,
        values={name: values[name] for name in order},
        stderr=stderr,
        words={name: (words | _DERIVED)[name] for name in order},
        computed=rows.done,
        units={name: unit for name, unit in about["units"].items() if unit != "1" and name in values},
        keys={name: tuple(column) for name, column in about["keys"].items()},
        attributes={
            "task": description.name,
            "of_models": [*about["keys"], *first],
            "reasons": _reasons(about, rows),
            "seed": identity["seed"],
            "error": "over samples or random directions; without one a value is exact for the weights or data given",
            **provenance(description, history),
        },
    )


def _reasons(about: Mapping[str, Any], rows: Rows) -> dict[str, dict[str, str]]:
    """{model: {set of metrics: why it has no values}}."""
    found: dict[str, dict[str, str]] = {}
    for name in about["sets"]:
        for label, codes, done in zip(about["labels"], rows.columns[f"{name}_reason"], rows.done, strict=True):
            if done and codes.any():
                found.setdefault(label, {})[name] = decoded(codes)
    return found
