"""How far gradients of samples agree: sums over blocks of the data at each parameter vector, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.coherence import alpha_and_error
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.arguments import Count, Natural, checked
from landscape.checkpoints.states import ThetaLike, in_order, read_model
from landscape.errors import InputError
from landscape.network.samples import SampleGradients
from landscape.objective.batches import Batch
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.parameters import layers_of, select_blocks
from landscape.objective.random_state import random_state_kept
from landscape.objective.trees import digest
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
from landscape.studies.coherence.groups import grouped
from landscape.studies.coherence.result import ALL, Coherence
from landscape.studies.coherence.settings import CoherenceSettings
from landscape.studies.coherence.train_mode import train_statistics

_BLOCKS, _FEWEST = 32, 16  # of the data, whose sums of gradients tell the error: fewer where these are large
_SAMPLES = 100  # of a block, or there are fewer blocks: a pass of few samples costs as much as one of many
_HELD_BYTES = 256 << 20  # sums of gradients up to which there are _BLOCKS of them
_ERROR = (
    "values are exact for the data given; stderr is that of alpha for the population they were drawn from, by its "
    "linearisation in blocks of the data"
)
Part = tuple[Batch, int, IntArray]  # a batch, its samples, their numbers


class CoherenceTask:
    """Item i: the sums of the samples' gradients, and of their squares, at parameter vector i."""

    headline = "m_coherence"

    def __init__(
        self,
        objective: Objective,
        settings: CoherenceSettings,
        thetas: Any = None,
        groups: Any = None,
        labels: Sequence[str] = (),
    ) -> None:
        self._objective, self._asked = objective, settings
        self._names = [block.name for block in select_blocks(objective, settings.params)]
        self._layers = layers_of(self._names)
        number = {name: k for k, names in enumerate(self._layers.values()) for name in names}
        self._statistics = train_statistics(objective) if settings.train else None
        self._layer_of = torch.tensor([number[name] for name in self._names], device=objective.device)
        sizes = {block.name: block.size for block in objective.layout.blocks}
        self._sizes = [sizes[name] for name in self._names]
        self._settle_thetas(thetas, labels)
        self._gradients = SampleGradients(objective, self._names, directions=settings.examples)
        self._groups, codes = grouped(objective, groups)
        self._settle_blocks(codes)
        self.count = len(self._thetas)

    def _settle_thetas(self, thetas: Any, labels: Sequence[str]) -> None:
        objective = self._objective
        if thetas is None:
            self._thetas: Sequence[ThetaLike] = [objective.theta]
            self._labels: tuple[str, ...] = ("centre",)
            self._digests = [digest(objective.theta)]
            return
        thetas = tuple(thetas) if isinstance(thetas, Iterator) else thetas
        if isinstance(thetas, (list, tuple)) and len(thetas) == 1 and _is_folder(thetas[0]) and not labels:
            thetas = thetas[0]  # as job files name it
        self._thetas, self._labels = in_order(thetas, labels)
        if not len(self._thetas):
            raise InputError("thetas is empty; give one parameter vector or more, or leave it out")
        self._digests = []
        for label, theta in zip(self._labels, self._thetas, strict=True):
            try:
                vector, buffers = read_model(objective, theta)
            except InputError as error:
                raise InputError(f"model {label}: {error}") from error
            stored = bool(objective.batchnorm_names) and not self._asked.train
            if stored and not buffers and not torch.equal(vector, objective.theta):
                raise InputError(
                    f"model {label!r} comes without BatchNorm statistics, and those of the objective's model belong to "
                    "other parameters; give a module, a whole state dict or a checkpoint, or measure with train=True"
                )
            self._digests.append(digest(vector, *buffers.values()))

    def _settle_blocks(self, codes: IntArray | None) -> None:
        """Blocks of samples in a random order, each of one group; of fixed batches runs of them."""
        data, size = self._objective.data, 8 * sum(self._sizes)
        most = max(_FEWEST, min(_BLOCKS, _HELD_BYTES // size, data.samples // _SAMPLES))
        if not data.divisible:
            self._blocks: list[IntArray] = list(np.array_split(np.arange(data.count), min(most, data.count)))
            self._strata = np.zeros(len(self._blocks), dtype=np.int64)
            ends = np.cumsum([0, *(data.samples_of(number) for number in range(data.count))])
            self._samples = [np.arange(ends[n], ends[n + 1]) for n in range(data.count)]
            return
        generator = np.random.Generator(np.random.Philox(key=derive_seed(0, "order")))
        order = generator.permutation(data.samples)
        kinds = [order] if codes is None else [order[codes[order] == k] for k in range(len(self._groups))]
        each = max(2, most // len(kinds))
        parts = [np.array_split(rows, min(each, len(rows))) for rows in kinds]
        self._blocks = [block for part in parts for block in part]
        self._strata = np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def describe(self) -> Description:
        """See `Task`."""
        objective, layers, blocks = self._objective, len(self._layers), len(self._blocks)
        columns: dict[str, tuple[int, ...]] = {
            "m_coherence": (),
            "denominator": (),
            "dots": (blocks, layers),
            "squares": (blocks, layers),
            "products": (len(self._groups), len(self._groups)),
        }
        if self._asked.examples:
            columns |= dict.fromkeys(("example_dots", "example_squares"), (objective.samples,))
        identity = {
            "objective": objective.identity(centre=False),
            "models": self._digests,
            "params": None if self._asked.params is None else list(self._asked.params),
            "groups": list(self._groups),
            "blocks": digest(*(torch.from_numpy(block) for block in self._blocks)),
            "route": self._gradients.route,
            "chunk": self._gradients.chunk,
            "examples": self._asked.examples,
            **({"train": True} if self._asked.train else {}),
        }
        about = {
            "device": str(objective.device),
            "labels": list(self._labels),
            "layers": list(self._layers),
            "block_samples": [self._samples_in(block) for block in self._blocks],
            "strata": self._strata.tolist(),
            "route_reasons": self._gradients.reasons,
        }
        return Description("coherence", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; the ranks of `group` share the blocks of data."""
        objective, asked = self._objective, self._asked
        theta, buffers = read_model(objective, self._thetas[index])
        if self._statistics is not None:
            buffers |= self._statistics.at(objective, theta) or {}
        if not torch.equal(theta, objective.theta):
            self._gradients.check(theta, buffers or None, f"theta {self._labels[index]!r}")
        mine = range(group.rank, len(self._blocks), group.size)
        with objective.differentiable(theta, buffers or None) as (model, parameters):
            row, sums = self._sums(model, parameters, mine)
            total, of_groups = self._added(sums, group)
            for b in mine:
                row["dots"][b] = self._by_layer(sums[b] * total)
            if asked.examples:
                pieces = zip(
                    total.split_with_sizes(self._sizes), (parameters[k] for k in self._gradients.chosen), strict=True
                )
                direction = [piece.view_as(p).to(p) for piece, p in pieces]
                for _, (batch, samples, rows) in self._parts(mine):
                    found = self._gradients.along(model, parameters, batch, samples, direction)
                    row["example_dots"][rows] = found.cpu().numpy()
        for name in sorted(row):
            group.allreduce_(row[name])
        row["products"] = (of_groups @ of_groups.T).cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            row["m_coherence"] = float(row["dots"].sum() / row["squares"].sum())
        row["denominator"] = float(row.pop("denominators").sum())
        return {name: row[name] for name in self.describe().columns}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _sums(
        self, model: Any, parameters: Sequence[Tensor], mine: Sequence[int]
    ) -> tuple[dict[str, Any], dict[int, Tensor]]:
        """(what is known of these blocks alone, {block: sum of its samples' gradients (size,) as exact as they})."""
        blocks, layers, asked = len(self._blocks), len(self._layers), self._asked
        row: dict[str, Any] = {name: np.zeros((blocks, layers)) for name in ("dots", "squares")}
        row["denominators"] = np.zeros(blocks)
        if asked.examples:
            row |= {name: np.zeros(self._objective.samples) for name in ("example_dots", "example_squares")}
        sums: dict[int, Tensor] = {}
        for b, (batch, samples, rows) in self._parts(mine):
            found = self._gradients.of(model, parameters, batch, samples)
            vector = torch.cat([part.detach().double().reshape(-1) for part in found.gradient])
            sums[b] = (vector + sums[b] if b in sums else vector).to(self._objective.dtype)
            squares = found.squares.sum(0)
            row["squares"][b] += squares.new_zeros(layers).index_add_(0, self._layer_of, squares).cpu().numpy()
            row["denominators"][b] += found.denominators
            if asked.examples:
                row["example_squares"][rows] = found.squares.sum(1).cpu().numpy()
        return row, sums

    def _added(self, sums: dict[int, Tensor], group: Communicator) -> tuple[Tensor, Tensor]:
        """(sum over all blocks, sums over the blocks of each group (groups, size)), blocks added in their order."""
        size, device = sum(self._sizes), self._objective.device
        total = torch.zeros(size, dtype=torch.float64, device=device)
        of_groups = total.new_zeros((len(self._groups), size))
        for b in range(len(self._blocks)):
            vector = sums.get(b)
            if group.size > 1:
                sent = np.zeros(size) if vector is None else vector.double().cpu().numpy().copy()
                group.allreduce_(sent)
                vector = torch.from_numpy(sent).to(device)
            assert vector is not None
            total += vector
            if self._groups:
                of_groups[self._strata[b]] += vector
        return total, of_groups

    def _by_layer(self, products: Tensor) -> FloatArray:
        """(layers,) sums of products (size,) over the parameters of each layer."""
        by_name = torch.stack([part.sum() for part in products.split_with_sizes(self._sizes)])
        found: FloatArray = by_name.new_zeros(len(self._layers)).index_add_(0, self._layer_of, by_name).cpu().numpy()
        return found

    def _parts(self, mine: Sequence[int]) -> Iterator[tuple[int, Part]]:
        """(block, batch, its samples, their numbers in the data) of the blocks."""
        data = self._objective.data
        if data.divisible:
            size = self._gradients.chunk
            for b in mine:
                block = self._blocks[b]
                for rows in np.array_split(block, -(-len(block) // size)):  # alike: no last part of one sample
                    taken = data.taken(rows.tolist())
                    yield b, (taken.first, taken.samples, rows)
            return
        of = {int(number): b for b in mine for number in self._blocks[b]}
        with random_state_kept():
            for number, batch in data.chunks():
                if number in of:
                    yield of[number], (batch, data.samples_of(number), self._samples[number])

    def _samples_in(self, block: IntArray) -> int:
        data = self._objective.data
        return len(block) if data.divisible else sum(data.samples_of(int(number)) for number in block)


def _is_folder(theta: Any) -> bool:
    return isinstance(theta, (str, Path)) and Path(theta).is_dir()


@of_objective
@checked(CoherenceSettings)
def measure_coherence(
    objective: Objective,
    thetas: Any = None,
    params: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    *,
    groups: Any = None,
    examples: bool = False,
    train: bool = False,
    labels: Sequence[str] = (),
    ranks_per_item: Count | None = None,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Coherence:
    """How far the gradients of the m samples agree, of all parameters and layer by layer, at one or many theta.

    With g_i the gradient of sample i's loss, alpha = |mean g|^2 / mean |g_i|^2: the loss that a small step along the
    mean gradient takes off, over what steps of each sample alone would. It lies from 0 to 1, is 1/m where gradients are
    orthogonal, and m-coherence is m alpha, how many samples the gradient of one helps (Chatterjee & Zielinski 2022,
    arXiv 2203.10036). Over layers alpha = sum_l f_l alpha_l with f_l the layer's share of mean |g_i|^2.
    The noise scale tr Cov(g) / |mean g|^2 (McCandlish et al. 2018, arXiv 1812.06162, there of the population) is
    (1 - alpha) / alpha, gradient diversity (Yin et al. 2018, arXiv 1706.05699) 1 / alpha.

    `thetas` are models in any form (a folder of checkpoints, a list), by default the objective's own; they bring their
    BatchNorm statistics. `params` names modules, parameters or patterns. `groups` has an entry for each sample, a
    number or a text: `between` are then the mean products g_i.g_j over samples of two groups, at no further pass.
    `examples` takes one more pass for g_i.g / |g|^2 and |g_i|^2 of every sample, in the order of the data.

    The network runs in eval mode, BatchNorm on its stored statistics. With `train` it is the network as trained, so far
    as samples have gradients of their own there: BatchNorm normalises by mean and (unbiased) variance of the data at
    theta as one batch, constants in the gradients; a network with dropout is refused, as its gradients are random.

    One pass over the data at each theta, sums in float64. Squares come from the rules of the layers, or where a layer
    has none from torch's vmap, or sample by sample; the attribute "route" says which. Ranks share the theta, and the
    data where there are fewer theta than ranks: equal bits for any number of ranks. The standard error of alpha is by
    linearisation in 32 blocks of random samples, down to 16 of fewer than 3,200 or beyond 2 million parameters, as each
    keeps a sum of gradients; a block is of one group. Of fixed batches blocks are runs of them, whose order must
    not follow the labels, and with a single batch it is NaN. It is for new draws of m samples, of which alpha is on
    average (1 - alpha) / m above that of the population.

    alpha is NaN where all gradients are zero or one is not finite, and `undefined` says so. Raises InputError, before
    computing, for a loss without values per sample, samples that meet in the network, complex parameters, dropout
    with `train`, and all that cannot be measured as asked, and at a later theta for samples that meet there alone; see
    `run_task` for the rest.
    """
    comm = world()
    settings = CoherenceSettings(name_tuple(params), examples, train)
    task = agree(comm, lambda: CoherenceTask(objective, settings, thetas, groups, labels))
    sharing = [size for size in range(1, comm.size + 1) if not comm.size % size and comm.size // size >= task.count]
    run = Measurement(
        out,
        ranks_per_item=max(sharing, default=1) if ranks_per_item is None else ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task)
    return run.result(of_rows(coherence_from_rows))


def coherence_task(
    objective: Objective,
    *,
    thetas: Any = None,
    groups: Any = None,
    labels: Sequence[str] = (),
    **asked: Any,
) -> CoherenceTask:
    """The task of `measure_coherence`, `asked` being the fields of `CoherenceSettings`."""
    return CoherenceTask(objective, CoherenceSettings(**asked), thetas, groups, labels)


def coherence_from_rows(description: Description, rows: Rows, history: History) -> Coherence:
    """The result in the rows of a coherence task, masked where rows are missing."""
    identity, about, columns, done = description.identity, description.about, rows.columns, rows.done
    layers, names = list(about["layers"]), tuple(identity["groups"])
    counts, strata = np.array(about["block_samples"], dtype=np.float64), np.array(about["strata"], dtype=np.int64)
    m, count = int(counts.sum()), len(done)
    norms, squares, stderr = np.full((3, count, len(layers) + 1), np.nan)
    sizes = np.array([int(counts[strata == k].sum()) for k in range(len(names))], dtype=np.int64)
    products, group_squares = np.full((count, len(names), len(names)), np.nan), np.full((count, len(names)), np.nan)
    examples = m if "example_dots" in columns else 0
    alignments, lengths = np.full((2, count, examples), np.nan)
    for t in np.flatnonzero(done):
        both = (columns[name][t] for name in ("dots", "squares"))
        dots, own = (np.concatenate([part.sum(1, keepdims=True), part], 1) for part in both)
        scale = columns["denominator"][t] ** 2  # of sums over samples, to the gradient of the mean loss
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            norms[t], squares[t] = dots.sum(0) / scale, own.sum(0) * m / scale
            stderr[t] = alpha_and_error(dots, own, counts, strata)[1]
            products[t] = columns["products"][t] / np.outer(sizes, sizes) * m**2 / scale
            for k in range(len(names)):
                group_squares[t, k] = own[strata == k, 0].sum() / sizes[k] * m**2 / scale
            if examples:
                alignments[t] = columns["example_dots"][t] * m / dots[:, 0].sum()
                lengths[t] = columns["example_squares"][t] * m**2 / scale
    attributes = result_attributes(description, history) | {
        "params": identity["params"],
        "route": identity["route"],
        "route_reasons": "; ".join(about["route_reasons"]),
        "mode": "train" if identity.get("train") else "eval",
        "chunk": identity["chunk"],
        "blocks": len(counts),
        "error": _ERROR,
    }
    return Coherence(
        labels=tuple(about["labels"]),
        rows=(ALL, *layers),
        samples=m,
        norms=norms,
        squares=squares,
        stderr=stderr,
        groups=names,
        group_sizes=sizes,
        products=products,
        group_squares=group_squares,
        alignments=alignments,
        lengths=lengths,
        computed=done,
        attributes=attributes,
    )
