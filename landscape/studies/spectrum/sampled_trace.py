"""The trace to a stated error from blocks of the data: probes and samples drawn together, item by item."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from landscape_kernels.operators import complement
from landscape_kernels.probes import rademacher_vector
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.sampling import Balanced
from landscape.objective.parameters import layers_of
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows
from landscape.studies.spectrum.result import Trace

logger = logging.getLogger(__name__)
METHOD = "blocks"
_PROBES = 4  # of an item
_DRAWS = 64  # of an item
_FIRST = 16  # items


class SampledTraceTask:
    """Item i: tr(V H_i V') + the mean of z'H_i z over probes z on the complement of V, H_i of draws of its own.

    Each is right on average, and items are independent, so that their spread tells the error of probes and draws
    together. V are the eigenvectors that are known; the forms of their products vary with the draws alone.
    """

    headline = "value"
    count = _FIRST

    def __init__(
        self,
        matrix: Matrix,
        *,
        error: float,
        seed: int,
        vectors: Tensor | None,
        most: int,
        draws: Balanced | None = None,
    ) -> None:
        """At most as much is spent as `most` products of all data take."""
        self._matrix, self._error, self._seed = matrix, error, seed
        self._vectors = None if vectors is None else vectors.to(matrix.theta)
        self._most, self._draws = most, draws
        self._layers = layers_of(matrix.names)

    def describe(self) -> Description:
        """See `Task`."""
        vectors = "" if self._vectors is None else digest(self._vectors)
        identity = {**self._matrix.identity(), "method": METHOD, "error": self._error, "seed": self._seed}
        identity |= {"deflated": vectors, "probes": _PROBES, "draws": _DRAWS}
        about = {**self._matrix.about(), "exact_items": 0, "layers": list(self._layers)}
        about["samples"] = self._matrix.sample.objective.samples
        columns: dict[str, tuple[int, ...]] = {"value": (), "blocks": (len(self._layers),), "cost": ()}
        return Description("trace", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        if self._draws is None:
            self._draws = Balanced.of(self._matrix.sample.objective, self._matrix.theta, self._matrix.buffers)
        sample = self._draws.drawn(1, _DRAWS, self._seed, "trace", index)
        size = self._matrix.size
        signs = [rademacher_vector(size, self._seed, "trace", index, n) for n in range(_PROBES)]
        rows = torch.stack(signs).to(self._matrix.theta)
        scale = torch.full((_PROBES,), 1 / _PROBES, dtype=torch.float64)
        if self._vectors is not None:
            rows = torch.cat([complement(rows, self._vectors), self._vectors])
            scale = torch.cat([scale, torch.ones(len(self._vectors), dtype=torch.float64)])
        with self._matrix.bind(group, sample=sample) as H:
            overlaps = scale.to(H.device) @ (rows.double() * H.apply(rows).double())
        parts = torch.split(overlaps.cpu(), list(self._matrix.sizes.values()))
        sums = dict(zip(self._matrix.names, (float(part.sum()) for part in parts), strict=True))
        blocks = np.array([math.fsum(sums[name] for name in names) for names in self._layers.values()])
        return {"value": float(blocks.sum()), "blocks": blocks, "cost": float(len(rows))}

    def extend(self, rows: Rows) -> int:
        """See `Task`: twice as many items until the error is small enough."""
        count = len(rows.done)
        found = sampled_trace(self.describe(), rows)
        if found.stderr_probes <= self._error * abs(found.value):
            return count
        each = _DRAWS * float(rows.columns["cost"][0]) / self._matrix.sample.objective.samples
        if 2 * count * each > self._most:
            logger.warning(
                "the trace is known to %.1f %%, not to error=%g, after as much as %.0f products of all data; "
                "trace_probes= allows more",
                100 * found.stderr_probes / abs(found.value) if found.value else math.inf,
                self._error,
                count * each,
            )
            return count
        return 2 * count


def sampled_trace(description: Description, rows: Rows) -> Trace:
    """The trace in the rows of such a task, of which there are two or more."""
    values, blocks = rows.columns["value"][rows.done], rows.columns["blocks"][rows.done]
    count = len(values)
    names: Mapping[str, Any] = dict.fromkeys(description.about["layers"])
    errors = blocks.std(axis=0, ddof=1) / math.sqrt(count)
    spent = int(rows.columns["cost"][rows.done].sum())
    return Trace(
        value=float(values.mean()),
        stderr=math.nan,
        stderr_probes=float(values.std(ddof=1) / math.sqrt(count)),
        stderr_data=math.nan,
        method=METHOD,
        products=spent,
        passes=max(1, round(count * _DRAWS / int(description.about["samples"]))),
        gradients=0.0,
        layers=dict(zip(names, blocks.mean(0).tolist(), strict=True)),
        layers_stderr=dict(zip(names, errors.tolist(), strict=True)),
    )
