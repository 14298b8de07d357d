"""The diagonal of a curvature matrix: from per-sample gradients, from unit vectors, or from probes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.moments import ratios
from landscape_kernels.probes import rademacher_vector
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.operator import product_chunk
from landscape.curvature.pairs import product_chunks
from landscape.curvature.sampling import loss_seeds
from landscape.curvature.unfinished import broken_rows, not_finite
from landscape.errors import InputError
from landscape.network.layers import GradientSquares
from landscape.objective.batches import Batch
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.parameters import layers_of
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
from landscape.studies.diagonal.settings import FEWEST_PROBES, METHODS, DiagonalSettings
from landscape.studies.measures.result import Measures
from landscape.studies.spectrum.ways import exact_reasons

logger = logging.getLogger(__name__)
_BLOCKS = 32  # of data, at most: their differences tell the error, and each keeps a diagonal
_UNITS = 16  # unit vectors of one item
_PROBES = 4  # of one item: they share a pass over the data
_SMALL = 256  # rows up to which a matrix has all of its unit vectors tried
_WORDS = {
    "trace": "sum of the diagonal over the layer's parameters",
    "mean": "mean of the diagonal over the layer's parameters",
    "stderr_probes": "standard error from the probes alone, for the data given",
    "size": "number of parameters of the layer",
    "diagonal": "second derivative of the mean loss in the parameter, or its Gauss-Newton part",
    "diagonal_stderr": "standard error of the diagonal, for the population the data were drawn from",
}
_POPULATION = "stderr is for the population the data were drawn from, by differences between blocks of data"
_ERRORS = {
    "exact": f"values are exact for the data given; {_POPULATION}",
    "products": f"values are exact for the data given; {_POPULATION}",
    "probes": f"{_POPULATION}, the noise of the probes in it; stderr_probes is that noise alone, for the data given",
}


class DiagonalTask:
    """Items: blocks of data ("exact"), batches of unit vectors ("products"), or of probes until their error is small.

    What an item adds to is a vector of "entries": the diagonal, its sums over the layers, and the sum of all.
    """

    headline = "cost"

    def __init__(self, matrix: Matrix, settings: DiagonalSettings) -> None:
        self._matrix, self._asked = matrix, settings
        self.method = settings.method or _method_for(matrix, settings.max_probes)
        self._layers = list(layers_of(matrix.names))
        self._layer_of = torch.from_numpy(_layer_numbers(matrix.sizes)).to(matrix.theta.device)
        objective = matrix.sample.objective
        self._chunks = product_chunks(objective)
        self._objective = objective.on(objective.data, chunk=product_chunk(objective))
        self._squares: GradientSquares | None = None
        self.count = {
            "exact": min(self._chunks, _BLOCKS),
            "products": -(-matrix.size // _UNITS),
            "probes": FEWEST_PROBES // _PROBES,
        }[self.method]

    def describe(self) -> Description:
        """See `Task`."""
        identity = {**self._matrix.identity(), "method": self.method, "seed": self._asked.seed}
        about = {
            **self._matrix.about(),
            "layers": self._layers,
            "tol": self._asked.tol,
        }
        return Description("diagonal", self._columns(), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        if self.method == "exact":
            return self._exact_row(index)
        return self._unit_row(index, group) if self.method == "products" else self._probed_row(index, group)

    def extend(self, rows: Rows) -> int:
        """See `Task`: twice as many probes until the error of the layers' sums is small enough."""
        count = len(rows.done)
        if self.method != "probes":
            return count
        values, _, probes = _found(self.describe(), rows)
        sums, errors = (part[self._matrix.size : -1] for part in (values, probes))
        error = float(np.linalg.norm(errors) / np.linalg.norm(sums)) if sums.any() else float(errors.any())
        if error <= self._asked.tol:
            return count
        most = self._asked.max_probes // _PROBES
        if count >= most:
            logger.warning(
                "the layers' sums of the diagonal are known to %.1f %%, not to tol=%g, after %d probes; max_probes= "
                "allows more",
                100 * error,
                self._asked.tol,
                count * _PROBES,
            )
            return count
        return min(2 * count, most)

    def _columns(self) -> dict[str, tuple[int, ...]]:
        entries = (self._matrix.size + len(self._layers) + 1,)
        if self.method == "exact":
            return {"sums": entries, "denominator": (), "cost": ()}
        if self.method == "products":
            return {"parts": (self._chunks, _UNITS), "denominators": (self._chunks,), "cost": ()}
        return {"values": entries, "variances": entries, "probe_variances": entries, "cost": ()}

    # -- the kinds of items -------------------------------------------------------------------------------------

    def _exact_row(self, index: int) -> Row:
        """Squares of per-sample gradients of the outputs, summed over a factor of the loss' Hessian in them."""
        objective, matrix = self._objective, self._matrix
        total = torch.zeros(matrix.size, dtype=torch.float64, device=matrix.theta.device)
        denominator, cost = 0.0, 0
        with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
            # Kept for all blocks: it knows by then that samples do not meet.
            self._squares = squares = self._squares or GradientSquares(model, matrix.names)
            for number, batch in objective.every(self.count, index):
                with squares.recording():
                    outputs, targets = objective.outputs(model, batch)
                seeds = loss_seeds(objective, outputs, targets)
                found = squares.entries(outputs, seeds.reshape(-1, *outputs.shape))
                total += torch.cat([part.flatten() for part in found])
                if not bool(total.isfinite().all()):
                    raise not_finite(
                        objective,
                        "a per-sample gradient of the outputs",
                        number,
                        lambda n: broken_rows(objective.batch(n), objective.samples_of(n), self._is_finite),
                        matrix.theta,
                        matrix.buffers,
                    )
                with torch.no_grad():
                    denominator += objective.loss_units(outputs, targets).total
                cost += len(seeds) * len(outputs)
        sums = self._entries(total[None] + matrix.weight_decay * denominator)[0]
        return {"sums": sums.cpu().numpy(), "denominator": denominator, "cost": cost}

    def _is_finite(self, batch: Batch, _place: slice) -> bool:
        """Whether the squares of a part of a batch are finite."""
        objective, matrix = self._objective, self._matrix
        with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
            squares = GradientSquares(model, matrix.names)
            with squares.recording():
                outputs, targets = objective.outputs(model, batch)
            seeds = loss_seeds(objective, outputs, targets)
            found = squares.entries(outputs, seeds.reshape(-1, *outputs.shape))
        return all(bool(part.isfinite().all()) for part in found)

    def _unit_row(self, index: int, group: Communicator) -> Row:
        """Entries of the diagonal of each chunk's matrix."""
        rows = torch.arange(index * _UNITS, min((index + 1) * _UNITS, self._matrix.size))
        units = torch.zeros((len(rows), self._matrix.size)).to(self._matrix.theta)
        units[torch.arange(len(rows)), rows] = 1
        parts = np.zeros((self._chunks, _UNITS))
        with self._matrix.bind(group) as H:
            for number, _, image in H.chunk_products(len(rows), lambda _: units):
                parts[number, : len(rows)] = image[torch.arange(len(rows)), rows].double().cpu().numpy()
            group.allreduce_(parts)
            return {"parts": parts, "denominators": H.denominators, "cost": H.products}

    def _probed_row(self, index: int, group: Communicator) -> Row:
        """Probes of each chunk's own, v * H_c v of random signs v (Bekas, Kokiopoulou & Saad 2007).

        The mean of v * H v is the diagonal, as v * v = 1. Where chunks have independent probes the variances add up to
        less than those of common ones by all that the chunks have in common.
        """
        size = self._matrix.size

        def draw(chunk: int) -> Tensor:
            numbers = range(index * _PROBES, (index + 1) * _PROBES)
            signs = [rademacher_vector(size, self._asked.seed, "diagonal", n, chunk) for n in numbers]
            return torch.stack(signs).to(self._matrix.theta)

        sums, squares, weighted, spread = np.zeros((4, size + len(self._layers) + 1))
        with self._matrix.bind(group) as H:
            for number, vectors, image in H.chunk_products(_PROBES, draw):
                found = self._entries(vectors.double() * image.double()).cpu().numpy()
                mean = found.mean(0)
                sums += mean
                squares += mean**2
                weighted += H.denominators[number] * mean
                spread += found.var(0, ddof=1) / _PROBES
            for part in (sums, squares, weighted, spread):
                group.allreduce_(part)
            weights, products = H.denominators, H.products
        total, chunks = weights.sum(), len(weights)
        values = sums / total
        # the variance of a ratio of sums, as in `ratios`, from sums alone
        between = squares - 2 * values * weighted + values**2 * np.square(weights).sum()
        factor = chunks / (chunks - 1) / total**2 if chunks > 1 else np.nan
        variances = factor * np.maximum(between, 0.0)
        return {"values": values, "variances": variances, "probe_variances": spread / total**2, "cost": products}

    def _entries(self, diagonals: Tensor) -> Tensor:
        """(b, size + layers + 1): diagonals (b, size), their sums over the layers, and the sum of all."""
        layers = diagonals.new_zeros((len(diagonals), len(self._layers))).index_add_(1, self._layer_of, diagonals)
        return torch.cat([diagonals, layers, layers.sum(1, keepdim=True)], 1)


def _method_for(matrix: Matrix, max_probes: int) -> str:
    """Per-sample gradients where they give the diagonal; of small matrices all unit vectors; else probes."""
    reasons = exact_reasons(matrix)
    if not reasons:
        return "exact"
    logger.info("the diagonal is not taken from per-sample gradients: %s", "; ".join(reasons[:3]))
    return "products" if matrix.size <= max(_SMALL, max_probes) else "probes"


@of_objective
@checked(DiagonalSettings)
def measure_diagonal(
    objective: Objective,
    operator: str = "hessian",
    params: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    *,
    theta: Any = None,
    buffers: Mapping[str, Tensor] | None = None,
    weight_decay: float = 0.0,
    method: str | None = None,
    tol: float = 0.05,
    max_probes: int = 64,
    seed: Seed = 0,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Measures:
    """The diagonal of the Hessian of the mean loss, or of its Gauss-Newton matrix, by parameter and summed by layer.

    The result has a row for each layer, a module that holds parameters of its own: "trace", the sum of its part of the
    diagonal, "mean" and "size". `arrays["diagonal"][name]` has the diagonal in the shape of the parameter of that name,
    `arrays["diagonal_stderr"][name]` its standard error. `operator`, `params`, `theta`, `buffers` and `weight_decay`
    are those of `measure_spectrum`.

    `method` is by default the cheapest that is right here: "exact", from per-sample gradients, where the trace is
    exact (operator="ggn", or a network piecewise linear layer by layer); "products" with all unit vectors, exact too,
    for small matrices; else "probes" (Bekas et al. 2007): the mean of v * Hv over random signs v. Probes go on until
    the errors of the layers' sums are `tol` of these, both as lengths over the layers, or `max_probes` are spent; then
    "stderr_probes" is their error alone, for the data given. A call with the same `out` and more `max_probes` goes on
    from there. All other errors are for the population that the data were drawn from.

    Raises InputError for anything that cannot be measured as asked, before computing; NumericalError for NaN or Inf in
    a product or gradient.
    """
    settings = DiagonalSettings(operator, name_tuple(params), weight_decay, method, tol, max_probes, seed)
    task = agree(world(), lambda: diagonal_task(objective, settings, theta=theta, buffers=buffers))
    run = Measurement(
        out, ranks_per_item=ranks_per_item, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job
    )
    run.run(task, tolerant=False)
    return run.result(of_rows(diagonal_from_rows))


def diagonal_task(
    objective: Objective,
    settings: DiagonalSettings,
    *,
    theta: Any = None,
    buffers: Mapping[str, Tensor] | None = None,
) -> DiagonalTask:
    """The task of `measure_diagonal`. Raises InputError for what cannot be measured as asked."""
    if settings.method not in (None, *METHODS):
        raise InputError(f"method={settings.method!r} is not one of {', '.join(METHODS)}")
    if not 0 < settings.tol < 1:
        raise InputError(f"tol={settings.tol}; it is a relative standard error, give a number between 0 and 1")
    if settings.max_probes < FEWEST_PROBES:
        raise InputError(f"max_probes={settings.max_probes}; give {FEWEST_PROBES} or more, those of the first round")
    matrix, _ = matrix_of(
        objective,
        params=settings.params,
        operator=settings.operator,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        theta=theta,
        buffers=buffers,
    )
    if settings.method == "exact" and (reasons := exact_reasons(matrix)):
        raise InputError(
            "method='exact' needs layers with known per-sample gradients and, for the Hessian, a network that is "
            "piecewise linear layer by layer:\n  "
            + "\n  ".join(reasons[:8])
            + "\nLeave method out, which takes another "
            "way here."
        )
    return DiagonalTask(matrix, settings)


def diagonal_from_rows(description: Description, rows: Rows, history: History) -> Measures:
    """The measures in the rows of a diagonal task, masked where too few of them are there."""
    about, identity = description.about, description.identity
    method, layers, size = str(identity["method"]), tuple(about["layers"]), int(about["size"])
    shapes: Mapping[str, Sequence[int]] = about["tensors"]
    sizes = np.bincount(_layer_numbers(_sizes(shapes))).astype(np.float64)
    values, stderr, probes = _found(description, rows)
    trace, errors = values[size:-1], stderr[size:-1]
    quantities = {"trace": trace, "mean": trace / sizes, "size": sizes}
    arrays = {"diagonal": values, "diagonal_stderr": stderr}
    attributes = result_attributes(description, history) | {
        **{name: identity[name] for name in ("operator", "weight_decay", "params", "method", "seed")},
        "tensors": about["tensors"],
        "error": _ERRORS[method],
        "trace": float(values[-1]),
        "trace_stderr": float(stderr[-1]),
    }
    if method != "exact":
        attributes |= {"route": about["check"]["route"], "check": about["check"]}
        attributes |= {"complex": about["complex"]} if "complex" in about else {}
    if method == "probes":
        quantities["stderr_probes"], arrays["stderr_probes"] = probes[size:-1], probes
        attributes |= {"tol": about["tol"], "probes": _PROBES * int(rows.done.sum())}
        attributes["trace_stderr_probes"] = float(probes[-1])
    return Measures(
        rows=layers,
        row_kind="layer",
        values=quantities,
        stderr={"trace": errors, "mean": errors / sizes},
        words={name: text for name, text in _WORDS.items() if name in quantities or name in arrays},
        computed=np.full(len(layers), bool(rows.done.any() if method == "probes" else rows.done.all())),
        arrays={name: _by_tensor(entries[:size], shapes) for name, entries in arrays.items()},
        attributes=attributes,
    )


def _sizes(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    return {name: int(np.prod(shape)) for name, shape in shapes.items()}


def _layer_numbers(sizes: Mapping[str, int]) -> IntArray:
    """(size,) the number of the layer that each entry belongs to, of tensors of these sizes."""
    of = {name: k for k, names in enumerate(layers_of(list(sizes)).values()) for name in names}
    return np.repeat(np.array([of[name] for name in sizes]), list(sizes.values()))


def _by_tensor(vector: FloatArray, shapes: Mapping[str, Sequence[int]]) -> dict[str, FloatArray]:
    """{name: its part of a vector, in its shape}."""
    ends = np.cumsum(list(_sizes(shapes).values()))
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(tuple(shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _found(description: Description, rows: Rows) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(entries, their standard errors, those of the probes alone), NaN where they are not known."""
    about, columns, method = description.about, rows.columns, description.identity["method"]
    size, count, done = int(about["size"]), len(about["layers"]), rows.done
    nothing = np.full(size + count + 1, np.nan)
    if method == "probes":
        if not done.any():
            return nothing, nothing, nothing
        values = columns["values"][done].mean(0)
        of_probes = columns["probe_variances"][done].mean(0)
        of_data = columns["variances"][done].mean(0) - of_probes
        noise = of_probes / done.sum()
        return values, np.sqrt(np.maximum(of_data, 0.0) + noise), np.sqrt(noise)
    if not done.all():
        return nothing, nothing, nothing
    if method == "exact":
        values, stderr = ratios(columns["sums"], columns["denominator"])
    else:
        diagonals = np.concatenate(list(columns["parts"]), axis=1)[:, :size]
        numbers = _layer_numbers(_sizes(about["tensors"]))
        sums = np.stack([diagonals[:, numbers == k].sum(1) for k in range(count)], axis=1)
        entries = np.concatenate([diagonals, sums, sums.sum(1, keepdims=True)], axis=1)
        values, stderr = ratios(entries, columns["denominators"][0])
    return values, stderr, np.zeros_like(values)
