"""How alike trained models are, pair by pair: CKA, disagreement, Jensen-Shannon and L2 distances."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels import similarity
from landscape_kernels.arrays import FloatArray
from landscape_kernels.moments import MOMENTS, moments_, ratio
from landscape_kernels.probes import derive_seed
from landscape_kernels.similarity import SMALLEST_CHUNK, Comoments
from torch import Tensor

from landscape.arguments import Count, Natural, checked
from landscape.checkpoints.states import ThetaLike, model_labels, model_pairs, read_models
from landscape.errors import InputError, nearest
from landscape.objective.batches import Batch
from landscape.objective.batchnorm import WITHOUT_ENDS, chosen_statistics
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.random_state import random_state_kept
from landscape.objective.trees import digest, map_tensors, tensors_in
from landscape.objective.units import main_output
from landscape.results.attributes import result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.agreement.result import MEASURES, Agreement
from landscape.studies.agreement.settings import REPRESENTATIONS, AgreementSettings

IGNORED = -100  # label of positions that have none, as torch has it
# Errors come from how much chunks differ. The data are cut into this many chunks or more, but not for that into chunks
# of fewer samples than _SAMPLES.
_CHUNKS = 16
_SAMPLES = 32
_ITEMS = 64  # blocks of data at most; more ranks do not make a run faster
_ITEMS_STREAMED = 8  # the same where each item has to read the user's batches from the first one on
_ROW_BYTES = 256 << 20  # centred products of one representation in a row, at most
_RUN_BYTES = 1 << 30  # centred products in all rows together, at most


class AgreementTask:
    """Item i: a block of the data's chunks, and on it the sums behind every measure of all pairs.

    A block evaluates every model once, so N models cost N passes over the data and not one for each end of each pair.
    """

    headline = "samples"

    def __init__(
        self,
        objective: Objective,
        thetas: Sequence[ThetaLike],
        settings: AgreementSettings,
        statistics: Any = None,
        labels: Sequence[str] = (),
    ) -> None:
        self._labels = model_labels(thetas, labels)
        self._pairs = model_pairs(len(thetas), settings.pairs)
        _check_options(objective, settings.of)
        self._objective = objective
        self._statistics = chosen_statistics(
            objective, settings.batchnorm, statistics, between=False, modes=WITHOUT_ENDS
        )
        self._statistics.require_enough()
        self._features = settings.features or ()
        self._used, self._products = _products(self._pairs)
        self._models = read_models(objective, [thetas[i] for i in self._used], [self._labels[i] for i in self._used])
        if self._statistics.data is None and objective.batchnorm_names:
            self._require_statistics()
        self._grad = False
        self._settle_trial(settings.of)
        self._settle_blocks()

    def describe(self) -> Description:
        """See `Task`."""
        objective = self._objective
        identity = {
            "objective": objective.identity(centre=self._statistics.data is None and bool(objective.batchnorm_names)),
            "models": [digest(theta, *buffers.values()) for theta, buffers in self._models]
            if self._statistics.data is None
            else [digest(theta) for theta, _ in self._models],
            "pairs": [list(pair) for pair in self._pairs],
            "of": self._of,
            "features": list(self._features),
            "batchnorm": self._statistics.mode,
            "statistics": self._statistics.digest,
            "chunk": self._chunk,
        }
        ends = [(self._models[i][0], self._models[j][0]) for i, j in self._products[len(self._used) :]]
        about = {
            "device": str(objective.device),
            "labels": list(self._labels),
            "l2": [float((b.double() - a.double()).norm()) for a, b in ends],
            "widths": self._widths,
            "statistics_samples": self._statistics.samples,
        }
        return Description("agreement", self._columns(), identity, about)

    def reestimate(self, comm: Communicator) -> None:
        """BatchNorm statistics of all models where they are to be re-estimated, shared out over the ranks of `comm`."""
        if self._statistics.data is None:
            return

        def estimated(i: int) -> dict[str, Tensor]:
            return {k: v.cpu() for k, v in (self._statistics.at(self._objective, self._models[i][0]) or {}).items()}

        mine = agree(comm, lambda: {i: estimated(i) for i in range(comm.rank, len(self._models), comm.size)})
        for part in comm.gather_all(mine):
            for i, found in part.items():
                theta, buffers = self._models[i]
                self._models[i] = theta, {**buffers, **{k: v.to(theta.device) for k, v in found.items()}}

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; the ranks of `group` share the models."""
        row: dict[str, Any] = {name: np.zeros(shape) for name, shape in self._columns().items()}
        sums: dict[str, Comoments] = {}
        for place, (batch, size) in enumerate(self._batches(index)):
            scores, kept, found = self._observed(batch, group)
            row["samples"] += size
            if scores is not None:
                self._add_predictions(row, scores, kept)
            for name, x in found.items():
                suffix = _suffix(name)
                rows = x.shape[1]
                row[f"rows{suffix}"][place] = rows
                enough = rows >= SMALLEST_CHUNK
                row[f"hsic{suffix}"][place] = similarity.hsic_unbiased(x, self._products) if enough else np.nan
                if f"products{suffix}" in row and rows:
                    part = similarity.comoments(x, self._products)
                    sums[name] = similarity.merged(sums[name], part, self._products) if name in sums else part
        for name, total in sums.items():
            row[f"mean{_suffix(name)}"], row[f"products{_suffix(name)}"] = total.mean, total.products
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    # -- settled at construction --------------------------------------------------------------------------------

    def _require_statistics(self) -> None:
        """A flat vector brings no BatchNorm statistics, and those of another network would give other outputs."""
        for i, (theta, buffers) in zip(self._used, self._models, strict=True):
            if not buffers and not torch.equal(theta, self._objective.theta):
                raise InputError(
                    f"model {self._labels[i]!r} comes without BatchNorm statistics, and those of the objective's model "
                    "belong to other parameters; give a module, a whole state dict or a checkpoint, or "
                    "batchnorm='reestimated'"
                )

    def _settle_trial(self, of: str | None) -> None:
        """What the outputs are, and how wide each representation is, from a few samples."""
        head = self._objective.data.head(SMALLEST_CHUNK)
        batch = head.first
        try:
            outputs, targets, found = self._run(0, batch)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            self._grad = True  # a derivative is part of the forward pass
            outputs, targets, found = self._run(0, batch)
        self._classes = of == "probabilities" or _are_scores(self._objective, outputs, targets)
        self._of = of or ("probabilities" if self._classes else "outputs")
        size = head.samples
        for name, value in found.items():
            if not value.ndim or len(value) != size:
                raise InputError(
                    f"module {name!r} gives values of shape {tuple(value.shape)} for {size} samples, whose first axis "
                    "does not run over the samples; name a module before or after it"
                )
        shaped = self._shaped([(outputs, found)], targets)[2]
        self._widths = {name: int(x.shape[2]) for name, x in shaped.items()}

    def _settle_blocks(self) -> None:
        data = self._objective.data
        self._chunk = min(self._objective.chunk, max(_SAMPLES, -(-data.samples // _CHUNKS)))
        chunks = -(-data.samples // self._chunk) if data.divisible else data.count
        stored = sum(self._bytes(width) for width in self._widths.values() if self._bytes(width) <= _ROW_BYTES)
        most = _ITEMS if data.divisible or data.held else _ITEMS_STREAMED
        self._length = -(-chunks // min(most, max(1, _RUN_BYTES // max(stored, 1))))
        self._chunks, self.count = chunks, -(-chunks // self._length)
        generator = np.random.Generator(np.random.Philox(key=derive_seed(0, "order")))
        # Chunks must be like random draws, not one class after another: unbiased HSIC is a mean over them.
        self._order: list[int] = generator.permutation(data.samples).tolist() if data.divisible else []

    def _bytes(self, width: int) -> int:
        return len(self._products) * width**2 * 8

    def _columns(self) -> dict[str, tuple[int, ...]]:
        columns: dict[str, tuple[int, ...]] = {"samples": ()}
        if self._classes:
            columns |= dict.fromkeys(("disagreement", "jensen_shannon"), (len(self._pairs), MOMENTS))
        for name, width in self._widths.items():
            suffix = _suffix(name)
            columns |= {f"rows{suffix}": (self._length,), f"hsic{suffix}": (self._length, len(self._products))}
            if self._bytes(width) <= _ROW_BYTES:
                columns[f"mean{suffix}"] = (len(self._used), width)
                columns[f"products{suffix}"] = (len(self._products), width, width)
        return columns

    # -- one chunk ----------------------------------------------------------------------------------------------

    def _batches(self, index: int) -> Iterator[tuple[Batch, int]]:
        """(batch, its samples) of an item."""
        data, first = self._objective.data, index * self._length
        last = min(first + self._length, self._chunks)
        if data.divisible:
            for chunk in range(first, last):
                taken = data.taken(self._order[chunk * self._chunk : (chunk + 1) * self._chunk])
                yield taken.first, taken.samples
            return
        with random_state_kept():
            for number, batch in itertools.islice(data.chunks(), first, last):
                yield batch, data.samples_of(number)

    def _run(self, place: int, batch: Batch) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """(outputs, targets, {module: activations}) of one model."""
        theta, buffers = self._models[place]
        with (
            self._objective.differentiable(theta, buffers or None) as (model, _),
            torch.set_grad_enabled(self._grad),
            _captured(model, self._features) as captured,
        ):
            outputs, targets = self._objective.outputs(model, batch)
        for name, calls in captured.items():
            if len(calls) != 1:
                raise InputError(
                    f"module {name!r} is called {len(calls)} times in a forward pass and needs to be called once for "
                    "its activations to have one meaning; name another module"
                )
        outputs = main_output(outputs)
        if not isinstance(outputs, Tensor):
            raise InputError(f"outputs are {type(outputs).__name__}; forward= may return (one tensor, targets)")
        return outputs.detach(), targets, {name: calls[0] for name, calls in captured.items()}

    def _observed(self, batch: Batch, group: Communicator) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """(scores (m, B, S, C) of S predictions for each sample, which count (B, S), {name: (m, n, d)}) of a chunk."""
        mine: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}
        targets: Any = None
        for place in range(group.rank, len(self._models), group.size):
            outputs, targets, found = self._run(place, batch)
            mine[place] = (outputs, found)
        if group.size > 1:
            device = self._objective.device
            parts = group.gather_all((_moved(mine, torch.device("cpu")), _moved(targets, torch.device("cpu"))))
            mine = _moved({k: v for part, _ in parts for k, v in part.items()}, device)
            targets = _moved(parts[0][1], device)
        scores, kept, shaped = self._shaped([mine[place] for place in sorted(mine)], targets)
        for name, x in shaped.items():
            if x.shape[2] != self._widths[name]:
                raise InputError(
                    f"{name or 'outputs'} have {x.shape[2]} values in one batch and {self._widths[name]} in another; "
                    "similarity needs the same features throughout: pad the data to one length"
                )
        return scores, kept, shaped

    def _shaped(
        self, runs: Sequence[tuple[Tensor, dict[str, Tensor]]], targets: Any
    ) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """What `_observed` returns, from (outputs, {module: activations}) of the models and the targets."""
        outputs = torch.stack([scores.double() for scores, _ in runs])
        shaped = {}
        for name in self._features:
            activations = torch.stack([found[name].double() for _, found in runs])
            shaped[name] = activations.reshape(*activations.shape[:2], -1)
        if not self._classes:
            return None, None, {"": outputs.reshape(*outputs.shape[:2], -1), **shaped}
        scores = _class_scores(outputs)
        kept = torch.ones(scores.shape[1:3], dtype=torch.bool, device=scores.device)
        if isinstance(targets, Tensor) and targets.ndim == outputs.ndim - 2:
            kept = (targets != IGNORED).reshape(kept.shape)
        rows = scores[:, kept]
        return scores, kept, {"": rows.softmax(2) if self._of == "probabilities" else rows, **shaped}

    def _add_predictions(self, row: dict[str, Any], scores: Tensor, kept: Tensor | None) -> None:
        """Moments of disagreement and of Jensen-Shannon distance, the sample being the unit."""
        assert kept is not None
        counted = kept.sum(1).double()
        unknown = scores.isnan().any(3)
        chosen = scores.argmax(3)
        found = torch.zeros((2, MOMENTS), dtype=torch.float64, device=scores.device)
        for pair, (i, j) in enumerate(self._products[len(self._used) :]):
            differ = (chosen[i] != chosen[j]).double().masked_fill(unknown[i] | unknown[j], math.nan)
            distance = similarity.jensen_shannon(scores[i], scores[j])
            for out, value in zip(found, (differ, distance), strict=True):
                moments_(out, torch.where(kept, value, 0.0).sum(1), counted)
            sums = found.cpu().numpy()
            row["disagreement"][pair] += sums[0]
            row["jensen_shannon"][pair] += sums[1]


@of_objective
@checked(AgreementSettings)
def measure_agreement(
    objective: Objective,
    thetas: Sequence[ThetaLike],
    pairs: str | Sequence[Sequence[int]] = "all",
    *,
    of: str | None = None,
    features: str | Sequence[str] | None = None,
    batchnorm: str = "frozen",
    statistics: Any = None,
    labels: Sequence[str] = (),
    out: str | Path | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Agreement:
    """How alike the models of each pair are on the objective's data, on all MPI ranks of this run.

    `thetas` are models as state dicts, modules, checkpoints or flat vectors; `pairs` is "all", "ring", "star" (about
    the first) or a list of pairs of their numbers. Measured are:

    - "cka": linear CKA |X'Y|_F^2 / (|X'X|_F |Y'Y|_F) of centred X, Y (samples, features): the models' `of`,
      "probabilities" (softmax of the outputs) or "outputs" as they are; by default probabilities where the outputs are
      scores of classes, of which there is a row for each prediction (a pixel, a token) that has a label;
    - "cka_unbiased": unbiased HSIC_1 of chunks of samples, numerators and denominators averaged over chunks apart
      (Nguyen et al. 2021), which does not rise with the number of features as "cka" of few samples does;
    - "cka:NAME" and "cka_unbiased:NAME" of the activations of each module named in `features`, flattened to a row for
      each sample; "cka" is NaN of those so wide that their products take more than 256 MiB;
    - "disagreement": the share of predictions with different largest score; "jensen_shannon": the mean of sqrt(JS) in
      nats of the predicted probabilities; both where the outputs are scores of classes (or `of` says so);
    - "l2": the Euclidean distance of the parameters.

    Standard errors are for the population the data were drawn from: over samples for the means, by the jackknife over
    chunks and blocks of chunks for CKA, NaN where there is one only. Where the data are fixed batches, these are the
    chunks, and their order must not follow the labels. Outputs are computed without autocast.

    `batchnorm` is "frozen" (the statistics that each model brings) or "reestimated" (of each model on `statistics`, by
    default the objective's data). The ranks share blocks of the data, and `ranks_per_item` of them the models.

    Yang et al., "Taxonomizing local versus global structure in neural network loss landscapes", NeurIPS 2021, take CKA
    of softmax outputs on mixup inputs: to do so, give an objective on such inputs.

    Raises InputError for anything that cannot be measured as asked, before computing; see `run_task` for the rest.
    """
    comm = world()
    task = agree(
        comm,
        lambda: agreement_task(
            objective,
            thetas,
            statistics=statistics,
            labels=labels,
            pairs=pairs,
            of=of,
            features=name_tuple(features),
            batchnorm=batchnorm,
        ),
    )
    task.reestimate(comm)
    run = Measurement(
        out, ranks_per_item=ranks_per_item, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job
    )
    run.run(task, tolerant=False)
    return run.result(of_rows(agreement_from_rows))


def agreement_task(
    objective: Objective,
    thetas: Sequence[ThetaLike],
    *,
    statistics: Any = None,
    labels: Sequence[str] = (),
    **asked: Any,
) -> AgreementTask:
    """The task of `measure_agreement`, `asked` being the fields of `AgreementSettings`."""
    return AgreementTask(objective, thetas, AgreementSettings(**asked), statistics, labels)


def agreement_from_rows(description: Description, rows: Rows, history: History) -> Agreement:
    """The result in the rows of an agreement task: of the blocks that are done, where some are missing."""
    identity, about, columns = description.identity, description.about, rows.columns
    pairs = np.array(identity["pairs"], dtype=np.int64).reshape(-1, 2)
    _, products = _products(pairs.tolist())
    done = np.flatnonzero(rows.done)
    values: dict[str, FloatArray] = {}
    stderr: dict[str, FloatArray] = {}
    for name in about["widths"]:
        suffix = _suffix(name)
        blocks = [
            Comoments(
                int(columns[f"rows{suffix}"][k].sum()), columns[f"mean{suffix}"][k], columns[f"products{suffix}"][k]
            )
            for k in done
            if f"products{suffix}" in columns
        ]
        values[f"cka{suffix}"], stderr[f"cka{suffix}"] = _cka(blocks, products)
        counts, hsic = columns[f"rows{suffix}"][done].ravel(), columns[f"hsic{suffix}"][done].reshape(-1, len(products))
        enough = counts >= SMALLEST_CHUNK
        unbiased = _cka_unbiased(counts[enough], hsic[enough], products)
        values[f"cka_unbiased{suffix}"], stderr[f"cka_unbiased{suffix}"] = unbiased
    for measure in ("disagreement", "jensen_shannon"):
        if measure in columns:
            found = [ratio(moments) for moments in columns[measure][done].sum(0)]
            values[measure], stderr[measure] = (np.array([f[k] for f in found]) for k in (0, 1))
    values["l2"] = np.array(about["l2"])
    attributes = result_attributes(description, history) | {
        "of": identity["of"],
        "cka_chunk": identity["chunk"],
        "batchnorm": identity["batchnorm"],
        "statistics_samples": about["statistics_samples"],
        "definitions": {measure: MEASURES[measure].long_name for measure in MEASURES if measure in values},
        "error": "values are exact for the data given; stderr is for the population they were drawn from",
    }
    return Agreement(tuple(about["labels"]), pairs, values, stderr, int(columns["samples"][done].sum()), attributes)


def _products(pairs: Sequence[Sequence[int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """(models in any pair, their places paired with themselves and then as in `pairs`)."""
    used = sorted({i for pair in pairs for i in pair})
    places = {model: place for place, model in enumerate(used)}
    return used, [*((k, k) for k in range(len(used))), *((places[i], places[j]) for i, j in pairs)]


def _cka(blocks: Sequence[Comoments], products: similarity.Products) -> tuple[FloatArray, FloatArray]:
    """(CKA, standard error) of each pair."""
    blocks = [block for block in blocks if block.samples]
    if not blocks:
        unknown = np.full(sum(i != j for i, j in products), np.nan)
        return unknown, unknown.copy()

    def value(sums: Comoments) -> FloatArray:
        return similarity.normalised(similarity.squared_norms(sums.products), products)

    whole = functools.reduce(lambda a, b: similarity.merged(a, b, products), blocks)
    if len(blocks) < 2:
        return value(whole), np.full(value(whole).shape, np.nan)
    left = np.array([value(similarity.without(whole, block, products)) for block in blocks])
    return value(whole), similarity.jackknife(left)


def _cka_unbiased(counts: FloatArray, hsic: FloatArray, products: similarity.Products) -> tuple[FloatArray, FloatArray]:
    """(unbiased CKA, standard error) of each pair from chunks of `counts` (c,) samples with HSIC_1 (c, p)."""
    weighted = counts[:, None] * hsic
    whole = weighted.sum(0)
    left = similarity.normalised(whole - weighted, products)
    return similarity.normalised(whole, products), similarity.jackknife(left)


def _check_options(objective: Objective, of: str | None) -> None:
    if of is not None and of not in REPRESENTATIONS:
        raise InputError(f"of={of!r} is not one of {', '.join(REPRESENTATIONS)}")
    if objective.loss_is_returned:
        raise InputError(
            "agreement compares outputs; with loss=None forward returns the loss itself: let forward return (outputs, "
            "targets) and give loss="
        )


def _are_scores(objective: Objective, outputs: Tensor, targets: Any) -> bool:
    """Whether outputs (B, C, ...) are scores of C classes: labels (B, ...), or probabilities under cross entropy."""
    if not isinstance(targets, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        return False
    if targets.is_floating_point():
        return objective.loss_is_cross_entropy and targets.shape == outputs.shape
    return targets.ndim == outputs.ndim - 1


def _class_scores(outputs: Tensor) -> Tensor:
    """(m, B, S, C) of outputs (m, B, C, ...); one score alone is that of the second of two classes."""
    scores = outputs.flatten(3).mT if outputs.ndim > 3 else outputs.reshape(*outputs.shape[:2], 1, -1)
    return torch.cat([torch.zeros_like(scores), scores], 3) if scores.shape[3] == 1 else scores


@contextmanager
def _captured(model: Any, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside, {name: the first tensor of what the module returns at each of its calls}."""
    modules = {name: module for name, module in model.named_modules() if name}
    captured: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for name in names:
            if name not in modules:
                raise InputError(f"features: the model has no module {name!r}; {nearest(name, modules)}")
            if name in captured:
                raise InputError(f"features: {name!r} is named twice")
            calls = captured.setdefault(name, [])

            def keep(_module: object, _inputs: object, output: object, calls: list[Tensor] = calls) -> None:
                # A copy: what comes next may work in place.
                calls.extend(tensor.detach().clone() for tensor in itertools.islice(tensors_in(output), 1))

            stack.callback(modules[name].register_forward_hook(keep).remove)
        yield captured


def _moved(tree: Any, device: torch.device) -> Any:
    """The same nesting with every tensor detached and on `device`."""
    return map_tensors(tree, lambda tensor: tensor.detach().to(device))


def _suffix(name: str) -> str:
    """What is appended to the names of measures and columns of a module; the outputs' name is empty."""
    return f":{name}" if name else ""
