"""The trace of a curvature matrix as a Task: exact, by importance sampling, or by probes, each with its error."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.moments import MOMENTS, moments_, ratio, ratios
from landscape_kernels.operators import complement
from landscape_kernels.probes import derive_seed, normal_vector, rademacher_vector
from landscape_kernels.trace import TwoWay, two_way, xtrace
from landscape_kernels.trace import frobenius as frobenius_norm
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import ChunkProducts
from landscape.curvature.pairs import diagonals, product_chunks
from landscape.curvature.rounding import form_rounding, noise_inside
from landscape.curvature.sampling import importance, loss_seeds
from landscape.curvature.small import UNITS, unit_products
from landscape.curvature.unfinished import not_finite
from landscape.network.layers import GradientSquares
from landscape.objective.parameters import layers_of
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows
from landscape.studies.spectrum.result import Trace
from landscape.studies.spectrum.ways import FEWEST_PROBES, check_trace_tol

logger = logging.getLogger(__name__)
PROBES = 4  # probes of one item: they share a pass over the data
FIRST_PROBES = FEWEST_PROBES // PROBES  # items of the first round
_DRAWS = 64  # draws of one item
_FIRST_DRAWS = 4  # items
_MOST_DRAWS = 4  # for each sample of the data; from there on the exact way is cheaper
XTRACE_PROBES = 20  # two products each
_SHARE = 0.03  # of the products of the first probes that telling their rounding may cost
_LOOKS = 8  # chunks of the exact trace to one whose rounding is looked at, which costs a tenth of a chunk


class TraceTask:
    """Items: chunks of data (the exact part), then batches of probes or draws until the relative error is `tol`."""

    headline = "cost"

    def __init__(
        self,
        matrix: Matrix,
        method: str,
        *,
        tol: float,
        seed: int,
        deflate: Tensor | None = None,
        deflated: Deflated | None = None,
        gauss_newton: Matrix | None = None,
        probes: int = 64,
        units: tuple[FloatArray, FloatArray] | None = None,
        begun: Description | None = None,
    ) -> None:
        """`deflate` (j, size), orthonormal, is taken out, `deflated` its part; `gauss_newton` is G for "split".

        At most `probes` are spent. `units` are diagonals (C, size) of the chunks' matrices and their denominators (C,)
        for "products", where they are known; `begun` is what the folder of the task was begun with, whose columns are
        kept.
        """
        self._rounds = begun is None or "rounding" in begun.columns
        check_trace_tol(tol)
        self._matrix, self._method, self._tol, self._seed = matrix, method, tol, seed
        self._deflated, self._gauss_newton = deflated, gauss_newton
        self._most, self._units = -(-probes // PROBES), units
        self._deflate = None if deflate is None else deflate.to(matrix.theta)
        self._digest = "" if deflate is None else digest(deflate)
        self._layers = layers_of(matrix.names)
        place = {name: i for i, names in enumerate(self._layers.values()) for name in names}
        self._layer_of = torch.tensor([place[name] for name in matrix.names])
        objective = matrix.sample.objective
        self._exact = objective.chunks if method in ("exact", "split") else 0
        first = {"exact": 0, "sampled": _FIRST_DRAWS, "xtrace": 1, "products": 1}.get(method, FIRST_PROBES)
        self.count = self._exact + first
        self._chunks = product_chunks(objective)
        self._squares: GradientSquares | None = None
        self._q: FloatArray = np.zeros(0)
        self._total = 0.0
        if method == "sampled":
            self._q, self._total = importance(objective, matrix.theta, matrix.buffers)

    def describe(self) -> Description:
        """See `Task`."""
        identity = {**self._matrix.identity(), "method": self._method, "tol": self._tol, "seed": self._seed}
        identity["deflated"] = self._digest
        sizes = self._matrix.sizes
        about = {
            **self._matrix.about(),
            "exact_items": self._exact,
            "samples": self._matrix.sample.objective.samples,
            "layers": list(self._layers),
            "decay": {
                layer: self._matrix.weight_decay * sum(sizes[name] for name in names)
                for layer, names in self._layers.items()
            },
        }
        return Description("trace", self._columns(), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self._columns().items()}
        if index < self._exact:
            return row | self._exact_row(index)
        if self._method == "sampled":
            return row | self._drawn_row(index - self._exact)
        if self._method == "xtrace":
            with self._matrix.bind(group) as H:
                count = max(2, min(XTRACE_PROBES, H.size))
                probes = [normal_vector(H.size, self._seed, "xtrace", n) for n in range(count)]
                found = xtrace(H, torch.stack(probes).to(self._matrix.theta))
                if H.dtype == torch.float64:
                    row["rounding"] = noise_inside(self._matrix.check) * abs(found.value)
                else:
                    sign = rademacher_vector(H.size, self._seed, "rounding").to(self._matrix.theta)[None]
                    row |= self._form_rounding(sign, H.by_chunk(sign))
                row |= {"value": found.value, "stderr": found.stderr, "cost": H.products}
                return {name: row[name] for name in self._columns()}
        if self._method == "products":
            return row | self._unit_row(group)
        if self._method == "deflated" and index:  # the first probes are common, for the Frobenius norm
            return row | self._own_row(index, group)
        return row | self._probed_row(index - self._exact, group)

    def extend(self, rows: Rows) -> int:
        """See `Task`: twice as many probes or draws until the error is small enough."""
        count = len(rows.done)
        random = count - self._exact
        if self._method in ("exact", "xtrace", "products"):
            return count
        trace = trace_from_rows(self.describe(), rows, self._deflated)
        assert trace is not None  # all rows of the round are there
        samples = self._matrix.sample.objective.samples
        most = -(-_MOST_DRAWS * samples // _DRAWS) if self._method == "sampled" else self._most
        if trace.stderr_probes <= self._tol * abs(trace.value):
            return count
        if random >= most:
            logger.warning(
                "the trace is known to %.1f %%, not to trace_tol=%g, after the %d %s that are spent at most%s",
                100 * trace.stderr_probes / abs(trace.value) if trace.value else math.inf,
                self._tol,
                random * (_DRAWS if self._method == "sampled" else PROBES),
                "draws" if self._method == "sampled" else "probes",
                "" if self._method == "sampled" else "; trace_probes= allows more",
            )
            return count
        return self._exact + min(2 * random, most)

    def _columns(self) -> dict[str, tuple[int, ...]]:
        layers = len(self._layers)
        columns: dict[str, tuple[int, ...]] = {"cost": (), "rounding": ()} if self._rounds else {"cost": ()}
        if self._exact:
            columns["moments"] = (layers + 1, MOMENTS)
        if self._method == "sampled":
            columns |= {"sums": (layers + 1,), "squares": (layers + 1,), "spread": ()}
        elif self._method == "xtrace":
            columns |= {"value": (), "stderr": ()}
        elif self._method == "products":
            columns |= {"parts": (self._chunks, self._matrix.size), "denominators": (self._chunks,)}
        elif self._method != "exact":
            columns |= {"forms": (PROBES, self._chunks), "blocks": (PROBES, layers), "lengths": (PROBES,)}
            columns |= {"denominators": (self._chunks,)}
        return columns

    # -- the kinds of items -------------------------------------------------------------------------------------

    def _exact_row(self, index: int) -> dict[str, Any]:
        objective = self._matrix.sample.objective
        batch = objective.batch(index)
        per_sample, denominators, passes = self._gradient_squares(batch, None)
        if not bool(per_sample.isfinite().all()):

            def broken(chunk: int) -> list[int]:
                found = self._gradient_squares(objective.batch(chunk), None)[0]
                return torch.nonzero(~found.isfinite().all(1)).flatten().tolist()

            what = "a per-sample gradient of the outputs"
            raise not_finite(objective, what, index, broken, self._matrix.theta, self._matrix.buffers)
        weights = self._matrix.sample.weights
        if weights is not None:
            start = index * objective.chunk
            per_sample = per_sample * weights[start : start + len(per_sample)].to(per_sample)[:, None]
            scale = float(self._matrix.sample.total or 0.0) / objective.samples
            denominators = torch.full_like(per_sample[:, 0], scale)
        moments = torch.zeros((per_sample.shape[1] + 1, MOMENTS), dtype=torch.float64)
        columns = [*per_sample.T, per_sample.sum(1)]
        for row, column in zip(moments, columns, strict=True):
            moments_(row, column.cpu(), None if denominators is None else denominators.cpu())
        first = index * objective.chunk
        looked = index % _LOOKS == 0  # else the most that others tell is taken, by `_rounding`
        told = self._sum_rounding(columns[-1], range(first, first + len(per_sample))) if looked else {}
        return {"moments": moments.numpy(), "cost": passes * len(per_sample), **told}

    def _sum_rounding(self, values: Tensor, rows: Sequence[int], *, signed: bool = False) -> dict[str, float]:
        """What rounding moves the sum of values (B,) of samples by, relative, told by the largest hundredth of them.

        Values that are `signed`, of seeds summed with random signs, say which samples these are.
        """
        matrix = self._matrix
        if not self._rounds:
            return {}
        if matrix.sample.objective.precision == "float64":
            return {"rounding": noise_inside(matrix.check)}
        if not matrix.sample.objective.data.divisible:
            return {"rounding": math.nan}
        largest = values.abs().topk(-(-len(values) // 100)).indices
        few = matrix.of_samples([rows[i] for i in largest.tolist()])
        one = self._sums_of(few) if signed else values[largest]
        try:
            other = self._sums_of(few.in_double())
        except Exception as error:  # whatever a user's model raises in a precision that it was not made for
            logger.info("the model does not run in float64: %s: %s", type(error).__name__, error)
            return {"rounding": math.nan}
        size = float(other.sum())
        return {"rounding": float((one - other).abs().sum()) / size if size else 0.0}

    def _sums_of(self, matrix: Matrix) -> Tensor:
        """(B,) squared gradient norms of the samples of the first chunk, in float64."""
        objective = matrix.sample.objective
        with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
            squares = GradientSquares(model, matrix.names)
            with squares.recording():
                outputs, targets = objective.outputs(model, objective.batch(0))
            seeds = loss_seeds(objective, outputs, targets)
            return squares.of(outputs, seeds.reshape(-1, *outputs.shape)).sum(1).detach().double()

    def _unit_row(self, group: Communicator) -> dict[str, Any]:
        """Diagonals of each chunk's matrix, by the products of all unit vectors where they are not known."""
        exact = self._matrix.double()
        parts, denominators, cost = (*self._units, 0) if self._units is not None else (np.zeros(0), np.zeros(0), 0)
        if self._units is None:
            with (exact or self._matrix).bind(group) as H:
                units = unit_products(H)
                parts, denominators, cost = units.parts, units.denominators, H.products
        rate = math.nan if exact is None else noise_inside(self._matrix.check)
        told = {"rounding": rate * float(np.abs(parts).sum() / denominators.sum())} if self._rounds else {}
        return {"parts": parts, "denominators": denominators, "cost": cost, **told}

    def _drawn_row(self, index: int) -> dict[str, Any]:
        """Draws by importance; the seeds of a sample summed with random signs, whose square has their mean."""
        objective = self._matrix.sample.objective
        key = derive_seed(self._seed, "trace draws", index)
        generator = np.random.Generator(np.random.Philox(key=key))
        rows = generator.choice(len(self._q), size=_DRAWS, p=self._q)
        batch = objective.data.taken(rows.tolist()).first
        per_sample, _, passes = self._gradient_squares(batch, key)
        x = per_sample.cpu().numpy() / (self._q[rows, None] * self._total)
        x = np.concatenate([x, x.sum(1, keepdims=True)], axis=1)
        told = self._sum_rounding(per_sample.sum(1), rows.tolist(), signed=True) if index == 0 else {}
        return {
            **{name: rate * float(np.abs(x[:, -1]).mean()) for name, rate in told.items()},
            "sums": x.sum(0),
            "squares": (x**2).sum(0),
            "spread": float((x[:, -1] ** 2 * self._q[rows]).sum()),
            "cost": passes * _DRAWS,
        }

    def _gradient_squares(self, batch: Any, signs: int | None) -> tuple[Tensor, Tensor | None, float]:
        """((B, tensors) squared gradient norms summed over seeds, denominators, backward passes) of one batch."""
        objective = self._matrix.sample.objective
        with objective.differentiable(self._matrix.theta, self._matrix.buffers) as (model, _):
            # One object for all chunks: it checks only once that samples do not mix, and uses its memory again.
            self._squares = squares = self._squares or GradientSquares(model, self._matrix.names)
            with squares.recording():
                outputs, targets = objective.outputs(model, batch)
            seeds = loss_seeds(objective, outputs, targets)
            if signs is not None:
                count = seeds.shape[0] * seeds.shape[1]
                sign = rademacher_vector(count, signs, "signs").to(seeds).reshape(*seeds.shape[:2], 1)
                seeds = (seeds * sign).sum(0, keepdim=True)
            per_sample = self._by_layer(squares.of(outputs, seeds.reshape(-1, *outputs.shape)))
            with torch.no_grad():
                denominators = objective.loss_units(outputs, targets).denominators
        return per_sample, denominators, float(len(seeds))

    def _by_layer(self, by_tensor: Tensor) -> Tensor:
        """(B, layers) sums of (B, tensors)."""
        sums = by_tensor.new_zeros((len(by_tensor), len(self._layers)))
        return sums.index_add_(1, self._layer_of.to(by_tensor.device), by_tensor)

    def _probes(self, index: int, *keys: int) -> Tensor:
        """(_PROBES, size) random signs of an item, on the complement of what is taken out."""
        numbers = range(index * PROBES, (index + 1) * PROBES)
        size = self._matrix.size
        signs = torch.stack([rademacher_vector(size, self._seed, "trace", n, *keys) for n in numbers])
        probes = signs.to(self._matrix.theta)
        return probes if self._deflate is None else complement(probes, self._deflate)

    def _probed_row(self, index: int, group: Communicator) -> dict[str, Any]:
        """Probes that are the same for all chunks."""
        matrix, probes = self._matrix, self._probes(index)
        with matrix.bind(group) as H:
            parts = H.by_chunk(probes)
            products = H.products
            told = self._form_rounding(probes, parts) if index == 0 else {}
        forms, images = _diagonals(parts), parts.images
        if self._gauss_newton is not None:
            with self._gauss_newton.bind(group) as G:
                other = G.by_chunk(probes)
                products += G.products
            forms, images = forms - _diagonals(other), images - other.images
        outside = images if self._deflate is None else complement(images, self._deflate)
        return {
            "forms": forms,
            "blocks": self._block_sums(probes.double() * images.double()),
            "lengths": outside.double().square().sum(1).cpu().numpy(),
            "denominators": parts.denominators,
            "cost": products,
            **told,
        }

    def _form_rounding(self, probes: Tensor, parts: ChunkProducts) -> dict[str, float]:
        """What rounding of products moves the trace by, told by the probe that is moved most."""
        if not self._rounds:
            return {}
        bound = float(form_rounding(self._matrix, probes, parts, _SHARE * FIRST_PROBES * PROBES).max())
        if self._deflated is not None:  # what was taken out is rounded alike
            outside = float(np.abs(diagonals(parts)).sum(0).mean())
            bound *= 1 + float(np.abs(self._deflated.chunk_values).sum()) / outside if outside else 1.0
        return {"rounding": bound}

    def _own_row(self, index: int, group: Communicator) -> dict[str, Any]:
        """Probes of each chunk's own, which say nothing of |PAP|_F.

        tr(PAP) = sum_c tr(PA_cP), and where the terms have independent probes the variances add up to
        2 sum_c |PA_cP|_F^2 instead of 2 |sum_c PA_cP|_F^2: less by all that the chunks have in common.
        """
        with self._matrix.bind(group) as H:
            own = H.own_forms(PROBES, lambda chunk: self._probes(index, chunk))
            products = H.products
        return {
            "forms": own.forms.T,
            "blocks": self._block_sums(own.overlaps),
            "denominators": own.denominators,
            "cost": products,
        }

    def _block_sums(self, overlaps: Tensor) -> FloatArray:
        """(b, layers) sums of (b, size) over the rows of each layer."""
        by_tensor = torch.split(overlaps, list(self._matrix.sizes.values()), dim=1)
        sums: FloatArray = self._by_layer(torch.stack([part.sum(1) for part in by_tensor], dim=1)).cpu().numpy()
        return sums


def _diagonals(parts: ChunkProducts) -> FloatArray:
    """(b, C), v_i' H_c v_i."""
    return np.diagonal(parts.forms, axis1=1, axis2=2).T


@dataclass(frozen=True)
class Deflated:
    """What the vectors taken out contribute: orthonormal v_i, with the projector P on their complement."""

    chunk_values: FloatArray  # (C,), sum_i v_i' H_c v_i
    blocks: FloatArray  # (layers,), sum over the layer's rows of sum_i v_i * H v_i
    square: float  # |H|_F^2 - |PHP|_F^2


def trace_from_rows(description: Description, rows: Rows, deflated: Deflated | None) -> Trace | None:
    """The trace in the rows of a trace task; None where too few of them are there yet."""
    method, exact = str(description.identity["method"]), int(description.about["exact_items"])
    random = np.flatnonzero(rows.done[exact:]) + exact
    if not rows.done[:exact].all() or (len(random) == 0 and method != "exact"):
        return None
    if method == "xtrace":
        found = _by_xtrace(rows)
    elif method == "sampled":
        found = _by_draws(description, rows, random)
    elif method == "exact":
        found = _by_gradients(description, rows)
    elif method == "products":
        found = _by_units(description, rows)
    elif method == "split":
        found = _by_both(description, rows, random)
    else:
        found = _by_probes(description, rows, random, deflated)
    return replace(found, rounding=_rounding(rows, exact)) if "rounding" in rows.columns else found


def _rounding(rows: Rows, exact: int) -> float:
    """What rounding moves the trace by: of the exact part relative to its chunks' sums, of the rest as it stands."""
    found, told = 0.0, rows.columns["rounding"]
    if exact:
        moments = rows.columns["moments"][:exact, -1]
        rates = told[:exact].copy()
        known = ~np.isnan(rates)
        rates[~known] = np.max(rates, initial=-1, where=known)
        found = math.nan if (rates < 0).any() else float((rates * moments[:, 1]).sum() / moments[:, 2].sum())
    return found + (float(told[exact]) if len(told) > exact else 0.0)


def _by_xtrace(rows: Rows) -> Trace:
    products = int(rows.columns["cost"][0])
    return Trace(
        value=float(rows.columns["value"][0]),
        stderr=math.nan,
        stderr_probes=float(rows.columns["stderr"][0]),
        stderr_data=math.nan,
        method="xtrace",
        products=products,
        passes=products,
        gradients=0.0,
    )


def _by_units(description: Description, rows: Rows) -> Trace:
    """Exact, from the products of all unit vectors."""
    layers: Mapping[str, list[str]] = layers_of(list(description.about["tensors"]))
    names = {name: layer for layer, names in layers.items() for name in names}
    parts, weights = rows.columns["parts"][0], rows.columns["denominators"][0]
    sizes = [int(np.prod(shape)) for shape in description.about["tensors"].values()]
    by_tensor = np.split(parts, np.cumsum(sizes)[:-1], axis=1)
    sums = {layer: np.zeros(len(weights)) for layer in layers}
    for name, part in zip(description.about["tensors"], by_tensor, strict=True):
        sums[names[name]] += part.sum(1)
    values, errors = ratios(np.stack([*sums.values(), parts.sum(1)], axis=1), weights)
    products = int(rows.columns["cost"][0])
    return Trace(
        value=float(values[-1]),
        stderr=float(errors[-1]),
        stderr_probes=0.0,
        stderr_data=float(errors[-1]),
        method="products",
        products=products,
        passes=-(-products // UNITS),
        gradients=0.0,
        layers=dict(zip(layers, values[:-1].tolist(), strict=True)),
        layers_stderr=dict(zip(layers, errors[:-1].tolist(), strict=True)),
    )


def _by_draws(description: Description, rows: Rows, items: IntArray) -> Trace:
    """The mean over samples drawn by importance."""
    samples, decay = description.about["samples"], description.about["decay"]
    sums, squares = rows.columns["sums"][items].sum(0), rows.columns["squares"][items].sum(0)
    n = _DRAWS * len(items)
    means = sums / n
    errors = np.sqrt(np.maximum(squares / n - means**2, 0.0) / (n - 1))
    # sum_i t_i^2 / N^2 from the draws; random signs make the t_i noisier than they are, so this errs upwards
    second = float(rows.columns["spread"][items].sum()) / n
    data = math.sqrt(max(second - means[-1] ** 2 / samples, 0.0))
    names = description.about["layers"]
    return Trace(
        value=float(means[-1]) + sum(decay.values()),
        stderr=math.hypot(float(errors[-1]), data),
        stderr_probes=float(errors[-1]),
        stderr_data=data,
        method="sampled",
        products=0,
        passes=1,
        gradients=float(rows.columns["cost"][items].sum()) / samples,
        layers={name: float(mean) + decay[name] for name, mean in zip(names, means, strict=False)},
        layers_stderr={name: float(error) for name, error in zip(names, errors, strict=False)},
    )


def _by_gradients(description: Description, rows: Rows) -> Trace:
    """Exact, from squared gradient norms of all samples."""
    part = _gradient_part(description, rows)
    return Trace(
        value=part.value,
        stderr=part.stderr,
        stderr_probes=0.0,
        stderr_data=part.stderr,
        method="exact",
        products=0,
        passes=1,
        gradients=part.gradients,
        layers=part.layers,
        layers_stderr=_roots(part.variances),
    )


def _by_both(description: Description, rows: Rows, items: IntArray) -> Trace:
    """The Gauss-Newton part exactly, the rest by probes."""
    part, estimate = _gradient_part(description, rows), _estimate(rows, items, None)
    layers, variances = _layer_sums(description, rows, items, None)
    # one chunk tells no data error of the rest; that of the exact part is then all that is known
    seen = math.isfinite(estimate.stderr_data)
    return Trace(
        value=part.value + estimate.value,
        stderr=math.hypot(estimate.stderr, part.stderr),
        stderr_probes=estimate.stderr_probes,
        stderr_data=math.hypot(part.stderr, estimate.stderr_data) if seen else part.stderr,
        method="split",
        products=int(rows.columns["cost"][items].sum()),
        passes=len(items),
        gradients=part.gradients,
        layers={name: value + layers[name] for name, value in part.layers.items()},
        layers_stderr=_roots({name: value + variances[name] for name, value in part.variances.items()}),
    )


def _by_probes(description: Description, rows: Rows, items: IntArray, deflated: Deflated | None) -> Trace:
    """By probes alone, with the part of the vectors taken out where there are some."""
    estimate = _estimate(rows, items, deflated)
    layers, variances = _layer_sums(description, rows, items, deflated)
    squares = rows.columns["lengths"][items]
    squares = squares[~np.isnan(squares)]
    frobenius = frobenius_stderr = math.nan
    if len(squares):
        found = frobenius_norm(squares, None if deflated is None else np.array([math.sqrt(deflated.square)]))
        frobenius, frobenius_stderr = found.value, found.stderr
    return Trace(
        value=estimate.value,
        stderr=estimate.stderr,
        stderr_probes=estimate.stderr_probes,
        stderr_data=estimate.stderr_data,
        method=str(description.identity["method"]),
        products=int(rows.columns["cost"][items].sum()),
        passes=len(items),
        gradients=0.0,
        layers=layers,
        layers_stderr=_roots(variances),
        frobenius=frobenius,
        frobenius_stderr=frobenius_stderr,
    )


@dataclass(frozen=True)
class _GradientPart:
    """What squared gradient norms of all samples tell, weight decay included."""

    value: float
    stderr: float  # for the population
    gradients: float  # see `Trace`
    layers: Mapping[str, float]
    variances: Mapping[str, float]  # layer -> square of its standard error


def _gradient_part(description: Description, rows: Rows) -> _GradientPart:
    about, exact = description.about, int(description.about["exact_items"])
    decay = dict(about["decay"])
    *blocks, total = (ratio(moments) for moments in rows.columns["moments"][:exact].sum(0))
    named = dict(zip(about["layers"], blocks, strict=True))
    return _GradientPart(
        value=total[0] + sum(decay.values()),
        stderr=total[1],
        gradients=float(rows.columns["cost"][:exact].sum()) / about["samples"],
        layers={name: value + decay[name] for name, (value, _, _) in named.items()},
        variances={name: stderr**2 for name, (_, stderr, _) in named.items()},
    )


def _estimate(rows: Rows, items: IntArray, deflated: Deflated | None) -> TwoWay:
    """The trace by probes, which all chunks share; the vectors taken out are in every chunk's part."""
    forms = rows.columns["forms"][items].reshape(-1, rows.columns["forms"].shape[2])
    weights = rows.columns["denominators"][items[0]]
    fixed = deflated.chunk_values if deflated is not None else np.zeros(len(weights))
    # per-chunk means, so that their weighted mean over chunks is the trace
    return two_way((forms + fixed[None, :]) / weights[None, :], weights)


def _layer_sums(
    description: Description, rows: Rows, items: IntArray, deflated: Deflated | None
) -> tuple[dict[str, float], dict[str, float]]:
    """({layer: trace of its block by probes}, {layer: square of the standard error over probes})."""
    names = list(description.about["layers"])
    sums = rows.columns["blocks"][items].reshape(-1, len(names))
    fixed = deflated.blocks if deflated is not None else np.zeros(len(names))
    values = {name: float(sums[:, i].mean() + fixed[i]) for i, name in enumerate(names)}
    return values, {name: float(sums[:, i].var(ddof=1) / len(sums)) for i, name in enumerate(names)}


def _roots(variances: Mapping[str, float]) -> dict[str, float]:
    return {name: math.sqrt(variance) for name, variance in variances.items()}
