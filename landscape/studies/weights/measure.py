"""Eigenvalues and metrics of weight matrices, one item a matrix, the most work first."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.spectra import gram_spectrum
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.checkpoints.reading import INDEX, checkpoint_files, step_files
from landscape.checkpoints.states import in_order
from landscape.checkpoints.tensors import HeldTensors, TensorSource, digest, open_tensors
from landscape.errors import InputError, LandscapeError
from landscape.network.weights import CONVENTIONS, Matrices, WeightMatrix, weight_matrices
from landscape.objective.objective import Objective
from landscape.objective.trees import digest_of
from landscape.results.attributes import provenance
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import SERIAL, Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.weights.drawn import ITSELF, drawn_spectra, draws, pooled
from landscape.studies.weights.metrics import (
    DISTANCES,
    FINE,
    METRICS,
    NOT_FINITE,
    OUTSIDE,
    REASONS,
    Sides,
    matrix_metrics,
    null_metrics,
    weightwatcher_metrics,
)
from landscape.studies.weights.result import Weights
from landscape.studies.weights.settings import WeightsSettings

logger = logging.getLogger(__name__)
_NAMED = 6  # tensors that a message names
_LEAST, _MOST = 1e-140, 1e140  # of the largest entry: squares of it, and sums of them, are in the range of float64
_SAMPLED = 1000  # values of a tensor that every rank looks at


@dataclass(frozen=True)
class _Model:
    """A model whose tensors are read one by one."""

    label: str
    source: TensorSource
    matrices: Matrices


class WeightsTask:
    """Item i: one weight matrix, its eigenvalues and all that follows from them."""

    headline = "norm"

    def __init__(self, model: Any, settings: WeightsSettings, initial: Any = None, labels: Sequence[str] = ()) -> None:
        if settings.convention not in CONVENTIONS:
            raise InputError(f"convention={settings.convention!r}; give one of {', '.join(CONVENTIONS)}")
        for name in ("shuffles", "roundings"):
            if getattr(settings, name) < 0:
                raise InputError(f"{name}={getattr(settings, name)}; give 0 or more")
        self._settings = settings
        self._models = _opened(model, labels, settings.convention)
        self._initial = None if initial is None else _source(initial)[0]
        found = [(k, matrix) for k, one in enumerate(self._models) for matrix in one.matrices.kept]
        if not found:
            raise InputError(_nothing(self._models[0]))
        self._rows = sorted(range(len(found)), key=lambda i: -found[i][1].work)  # of items, in the models' order
        self._items = [found[i] for i in self._rows]
        self.count = len(found)
        self._longest = max(matrix.count for _, matrix in found)
        self._metrics = list(METRICS[settings.convention])
        if self._initial is not None:
            self._check_initial(self._initial)
            self._metrics += list(DISTANCES)
        self._digests: dict[str, Any] = {}
        _tell(self._models)

    def describe(self) -> Description:
        """See `Task`."""
        if not self._digests:
            self.identify(SERIAL)
        settings, items = self._settings, self._items
        own = settings.convention == "matrix"
        columns: dict[str, tuple[int, ...]] = dict.fromkeys(self._metrics, ())
        columns |= {"reason": (), "spectrum": (self._longest,)}
        columns |= {"nulls": (settings.shuffles,)} if own and settings.shuffles else {}
        identity = {
            **self._digests,
            "matrices": [[k, matrix.name] for k, matrix in items],
            "convention": settings.convention,
            **({"shuffles": settings.shuffles, "roundings": settings.roundings, "seed": settings.seed} if own else {}),
        }
        about = {
            "models": [model.label for model in self._models],
            "rows": self._rows,
            "matrix": {
                "layer": [matrix.name for _, matrix in items],
                "tensor": [matrix.tensor for _, matrix in items],
                "kind": [matrix.kind for _, matrix in items],
                "larger": [matrix.larger for _, matrix in items],
                "smaller": [matrix.smaller for _, matrix in items],
                "slices": [matrix.slices for _, matrix in items],
                "note": [self._models[k].matrices.notes.get(matrix.name, "") for k, matrix in items],
                "stored": [_stored(self._models[k].source, matrix) for k, matrix in items],
            },
            "skipped": {name: why for one in reversed(self._models) for name, why in one.matrices.skipped.items()},
        }
        return Description("weights", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        number, matrix = self._items[index]
        source, settings = self._models[number].source, self._settings
        tensor = source.read(matrix.tensor)
        initial = None if self._initial is None else self._initial.read(matrix.tensor)
        eps = float(torch.finfo(tensor.dtype).eps)
        sides = Sides(matrix.larger, matrix.smaller, matrix.slices, eps)
        row: dict[str, Any] = dict.fromkeys(self._metrics, math.nan)
        row["spectrum"] = np.full(self._longest, np.nan)
        own = settings.convention == "matrix"
        row |= {"nulls": np.full(settings.shuffles, np.nan)} if own and settings.shuffles else {}
        if reason := _unfit(matrix.part_of(tensor)):
            return {**row, "reason": reason}
        asked = draws(settings.shuffles, settings.roundings) if own else [ITSELF]
        spectra = drawn_spectra(matrix, tensor, asked, settings.seed, eps, group)
        spectrum = pooled(spectra[ITSELF])
        if own:
            found, reason = matrix_metrics(spectrum, sides)
            shuffled, rounded = (
                [pooled(spectra[draw]) for draw in asked if draw[0] == what] for what in ("shuffle", "rounding")
            )
            more, nulls = null_metrics(found.get("alpha", math.nan), spectrum, shuffled, rounded, sides)
            found |= more
            row |= {"nulls": nulls} if nulls.size else {}
        else:
            found, reason = weightwatcher_metrics(spectra[ITSELF], sides)
        row["spectrum"][: spectrum.size] = spectrum
        if initial is not None:
            found |= _distances(matrix, tensor, initial)
        return {**row, **found, "reason": reason}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def identify(self, comm: Communicator) -> None:
        """Digest every tensor that holds a matrix, of all models and of the initial one, each on one rank.

        A few values of each are part of every rank's own identity: ranks that hold other weights are told apart.
        """
        held = [(self._models[k].source, matrix.tensor) for k, matrix in self._items]
        held += [(self._initial, matrix.tensor) for _, matrix in self._items] if self._initial is not None else []
        tensors = {(id(source), name): (source, name) for source, name in held}
        reads = sorted(tensors.values(), key=lambda one: -math.prod(one[0].entries[one[1]].shape))

        def own() -> tuple[dict[int, str], str]:
            found, samples = {}, []
            for i, (source, name) in enumerate(reads):
                tensor = source.read(name)
                samples.append(_sample(tensor))
                if i % comm.size == comm.rank:
                    found[i] = digest(tensor)
            return found, digest_of(samples)

        mine, sampled = agree(comm, own)
        every = {i: text for part in comm.gather_all(mine) for i, text in part.items()}
        self._digests = {"tensors": [every[i] for i in range(len(reads))], "sampled": sampled}

    def _check_initial(self, initial: TensorSource) -> None:
        """Raise InputError where the initial weights are not of the same tensors."""
        for number, matrix in self._items:
            shape = self._models[number].source.entries[matrix.tensor].shape
            there = initial.entries.get(matrix.tensor)
            if there is None or there.shape != shape:
                what = "does not have" if there is None else f"has as {there.shape}"
                raise InputError(
                    f"initial {what} {matrix.tensor!r}, which is {shape} in the model; give the initial weights of the "
                    "same network"
                )


def _distances(matrix: WeightMatrix, tensor: Tensor, initial: Tensor) -> dict[str, float]:
    if _unfit(matrix.part_of(initial)):
        return {}
    square = before = largest = 0.0
    for now, then in zip(matrix.views(tensor), matrix.views(initial), strict=True):
        change = now.to(torch.float64, copy=True).sub_(then)  # one copy of a matrix, however large it is
        before += float(torch.linalg.vector_norm(then, dtype=torch.float64)) ** 2
        square += float(torch.linalg.vector_norm(change)) ** 2
        largest = max(largest, float(gram_spectrum(change.numpy())[-1]))
    relative = math.sqrt(square / before) if before else math.nan if square == 0 else math.inf
    return {"distance": math.sqrt(square), "relative_distance": relative, "spectral_distance": math.sqrt(largest)}


def _unfit(tensor: Tensor) -> int:
    """The number of the reason why a part of a tensor has no eigenvalues, found without a copy of it."""
    ends = [float(end) for end in tensor.aminmax()]
    if not all(map(math.isfinite, ends)):
        return NOT_FINITE
    largest = max(map(abs, ends))
    return FINE if largest == 0 or _LEAST < largest < _MOST else OUTSIDE


def _sample(tensor: Tensor) -> Tensor:
    """Some thousand of its values, far apart; a copy, which lets go of the tensor."""
    return tensor.reshape(-1)[:: max(1, tensor.numel() // _SAMPLED)].clone()


def _stored(source: TensorSource, matrix: WeightMatrix) -> str:
    return str(source.entries[matrix.tensor].dtype).removeprefix("torch.")


def _source(model: Any) -> tuple[TensorSource, Any]:
    """(tensors, the module they are of) of a model in any form."""
    if not isinstance(model, Objective):
        return open_tensors(model), model
    with model.differentiable() as (module, _):
        held = HeldTensors(module.state_dict())
        ties = held.ties()
        copies = {name: held.read(name).clone() for name in held.entries if name not in ties}
        return HeldTensors({name: copies[ties.get(name, name)] for name in held.entries}), module


def _opened(model: Any, labels: Sequence[str], convention: str) -> list[_Model]:
    models, names = _listed(model, labels)
    found: list[_Model] = []
    for label, one in zip(names, models, strict=True):
        try:
            source, module = _source(one)
            found.append(_Model(label, source, weight_matrices(source, module, convention)))
        except InputError as error:
            if len(models) == 1:
                raise
            raise InputError(f"model {label}: {error}") from error
    return found


def _listed(model: Any, labels: Sequence[str]) -> tuple[Sequence[Any], Sequence[str]]:
    """The models and their labels; a folder of checkpoints by step is several."""
    if isinstance(model, (list, tuple)) and len(model) == 1:
        model = model[0]
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        try:
            checkpoint_files(Path(model))
        except InputError:
            if not any(True for _ in Path(model).iterdir()) or any(Path(model).glob(f"*{INDEX}")):
                raise
            try:
                return in_order(step_files(model), labels)
            except LandscapeError as error:
                raise InputError(f"{model} is neither a checkpoint nor a folder of them: {error}") from error
    if isinstance(model, (list, tuple)):
        if not model:
            raise InputError("no model is given; give one, or a list of them")
        return in_order(model, labels)
    label = Path(model).stem if isinstance(model, (str, Path)) else "model"
    if labels and len(labels) != 1:
        raise InputError(f"{len(labels)} labels for 1 model; give one each")
    return [model], tuple(labels) or (label,)


def _nothing(model: _Model) -> str:
    skipped = list(model.matrices.skipped.items())
    told = "; ".join(f"{name}: {reason}" for name, reason in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f"{model.label} holds no weight matrix among {len(skipped)} tensors ({told}{more})"


def _tell(models: Sequence[_Model]) -> None:
    """Every tensor, kept or left out and why, before the work; of further models those that are new."""
    if world().rank != 0:
        return
    told: set[tuple[str, ...]] = set()
    for one in (model.matrices for model in models):
        lines: list[tuple[str, ...]] = []
        for matrix in one.kept:
            note = f" ({one.notes[matrix.name]})" if matrix.name in one.notes else ""
            many = f"{matrix.slices} of " if matrix.slices > 1 else ""
            sides = f"{matrix.kind}, {many}{matrix.larger} x {matrix.smaller}{note}"
            lines.append(("kept", matrix.name, sides))
        lines += [("left out", name, reason) for name, reason in one.skipped.items()]
        for line in lines:
            if line not in told:
                logger.info("%s %s: %s", *line)
        told |= set(lines)


def weights_task(model: Any, initial: Any = None, labels: Sequence[str] = (), **asked: Any) -> WeightsTask:
    """The task of `measure_weights`."""
    return WeightsTask(model, WeightsSettings(**asked), initial, labels)


@checked(WeightsSettings)
def measure_weights(
    model: Any,
    initial: Any = None,
    convention: str = "matrix",
    out: str | Path | None = None,
    *,
    shuffles: int = 20,
    roundings: int = 3,
    seed: Seed = 0,
    labels: Sequence[str] = (),
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Weights:
    """Shape and scale of every weight matrix, by the eigenvalues lambda = sigma^2 of W'W, shared out over the ranks.

    `model` is a module, an Objective (its model), a state dict, a checkpoint, whole or sharded, or several: a list, or
    a folder of checkpoints by step. Tensors of safetensors files are read one by one. A convolution is the stack of its
    taps; each gate, each of q, k and v, is a matrix; tied tensors count once. Tensors that hold no matrix are logged
    before the work, and told in `skipped`. With `initial` weights of the same network come distances from them.

    Under the convention "matrix" alpha is fitted by maximum likelihood to the tail that is nearest to a power law,
    among tails of 10 eigenvalues or more above the rounding of the stored type; beside it stand the range of fits that
    are nearly as good, its spread where entries move by their rounding (`roundings` draws), and its quantiles over
    `shuffles` of the entries of the same matrix. Under "weightwatcher" all is as WeightWatcher 0.7.7 has it, failed
    fits as alpha = -1 included; randomised columns and later options of the tool are not part of it.

    What has no power law has NaN, and its reason. Raises InputError for what is no model, one without matrices,
    initial weights of another network; see `run_task` for the rest. Martin and Mahoney, arXiv 2106.00734; Clauset,
    Shalizi and Newman, SIAM Review 51 (2009).
    """
    settings = {"convention": convention, "shuffles": shuffles, "roundings": roundings, "seed": seed}
    task = agree(world(), partial(weights_task, model, initial, labels, **settings))
    task.identify(world())
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task)
    return run.result(of_rows(weights_from_rows))


def weights_from_rows(description: Description, rows: Rows, history: History) -> Weights:
    """The result in the rows of its task, in the models' order, masked where rows are missing."""
    identity, about = description.identity, description.about
    order = np.argsort(about["rows"])
    of_item: Mapping[str, Sequence[Any]] = about["matrix"]
    told = {name: [column[i] for i in order] for name, column in of_item.items()}
    columns = {name: column[order] for name, column in rows.columns.items()}
    done = rows.done[order]
    metrics = [name for name in columns if name not in ("reason", "spectrum", "nulls")]
    return Weights(
        models=tuple(about["models"]),
        model_of=np.array([identity["matrices"][i][0] for i in order], dtype=np.int64),
        layers=tuple(told["layer"]),
        tensors=tuple(told["tensor"]),
        kinds=tuple(told["kind"]),
        larger=np.array(told["larger"], dtype=np.int64),
        smaller=np.array(told["smaller"], dtype=np.int64),
        slices=np.array(told["slices"], dtype=np.int64),
        values={name: columns[name] for name in metrics},
        reasons=tuple(REASONS[int(r)] if there else "" for r, there in zip(columns["reason"], done, strict=True)),
        notes=tuple(told["note"]),
        spectra=columns["spectrum"],
        nulls=columns.get("nulls", np.zeros((len(done), 0))),
        computed=done,
        skipped=dict(about["skipped"]),
        convention=str(identity["convention"]),
        attributes={
            "task": "weights",
            **{name: identity[name] for name in ("shuffles", "roundings", "seed") if name in identity},
            "stored": ", ".join(dict.fromkeys(told["stored"])),
            **provenance(description, history),
        },
    )
