"""E[M] and E[x x'] of the layers: sums over blocks of the data, a pass for each group of layers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import product_chunk
from landscape.curvature.pairs import product_chunks
from landscape.curvature.sampling import loss_seeds
from landscape.curvature.unfinished import broken_rows, not_finite
from landscape.errors import InputError
from landscape.network.layers import GradientSquares
from landscape.network.rules.layer import Factors
from landscape.objective.batches import Batch
from landscape.objective.parameters import layers_of
from landscape.results.trial import bytes_text
from landscape.run.comm import Communicator
from landscape.run.task import Description, Row, Rows

logger = logging.getLogger(__name__)
_BLOCKS = 16  # of data, at most: their differences tell the errors, and each keeps all factors
_GROUP_BYTES = 256 << 20  # of the factors that one pass sums up; a single layer may take more
_MOST_OUTPUTS = 1024  # of one sample: a backward pass each


@dataclass(frozen=True)
class Layer:
    """A layer that has factors."""

    name: str
    weight: str  # name of the parameter
    outputs: int  # m
    inputs: int  # p
    places: int

    @property
    def values(self) -> int:
        """Numbers of its factors and its mean input."""
        return self.outputs**2 + self.inputs**2 + self.inputs


@dataclass(frozen=True)
class LayerSums:
    """The sums of one layer over each of B blocks of the data."""

    outputs: FloatArray  # (B, m, m), of g g'
    inputs: FloatArray  # (B, p, p), of x x'
    means: FloatArray  # (B, p), of x
    denominators: FloatArray  # (B,), of the loss
    samples: FloatArray  # (B,)


def find_layers(matrix: Matrix, places: str) -> tuple[list[Layer], dict[str, str]]:
    """(the layers whose weights have factors, {each other layer: why it has none}), from two samples.

    Raises InputError where the loss or its outputs allow none, or no layer has any.
    """
    objective = matrix.sample.objective
    if objective.loss_is_returned:
        raise InputError(
            "the factors of layers need outputs and a loss of them; with loss=None forward returns the loss itself: "
            "let forward return (outputs, targets), and give loss="
        )
    batch = objective.data.head(2).first
    found: list[Layer] = []
    left_out: dict[str, str] = {}
    sizes = matrix.sizes
    with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
        for name, parameters in layers_of(matrix.names).items():
            weight = f"{name}.weight" if name not in parameters else name
            if weight not in parameters:
                left_out[name] = "it has no parameter named weight"
                continue
            squares = GradientSquares(model, (weight,))
            reasons = squares.unsupported or squares.factor_reasons
            if not reasons:
                with squares.recording():
                    outputs, targets = objective.outputs(model, batch)
                _require_outputs(outputs)
                seeds = loss_seeds(objective, outputs, targets).reshape(-1, *outputs.shape)
                try:
                    factors = squares.factors(outputs, seeds[:1], places)
                except InputError as error:
                    reasons = (str(error).partition("\n")[0],)
                else:
                    if weight in factors:
                        m, p = len(factors[weight].outputs), len(factors[weight].inputs)
                        assert m * p == sizes[weight]
                        found.append(Layer(name, weight, m, p, factors[weight].places))
                        continue
                    reasons = ("it is not called",)
            left_out[name] = "; ".join(reason.removeprefix(f"{name}: ") for reason in reasons)
    if not found:
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:8])
        raise InputError(
            f"no layer has factors; they are those of linear layers and convolutions without groups:\n  {listed}\n"
            "Name other layers in params=, or measure_layer_spectra, which takes all."
        )
    if left_out:
        logger.info("layers left out: %s", "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:5]))
    return found, left_out


def _require_outputs(outputs: Any) -> None:
    if not isinstance(outputs, Tensor):
        raise InputError(f"outputs are {type(outputs).__name__}; forward= may return (one tensor, targets)")
    if outputs[0].numel() > _MOST_OUTPUTS:
        raise InputError(
            f"a sample has {outputs[0].numel():,} outputs, and its factors take a backward pass for each; at most "
            f"{_MOST_OUTPUTS:,} are taken: let forward= return fewer (one token of a text, say)"
        )


def groups_of(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The layers in order, in groups whose factors one pass over the data sums up."""
    groups: list[list[Layer]] = []
    room = 0
    for layer in layers:
        if not groups or 8 * layer.values > room:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append(layer)
        room -= 8 * layer.values
    return groups


class FactorsTask:
    """Item g B + b: the factors of the layers of group g, summed over block b of the data's B blocks."""

    headline = "samples"

    def __init__(
        self,
        matrix: Matrix,
        layers: Sequence[Layer],
        places: str,
        memory_budget: int,
        about: Mapping[str, Any],
    ) -> None:
        """`about` is what the result tells beside the sums."""
        objective = matrix.sample.objective
        self._matrix, self._places, self._about = matrix, places, about
        self._objective = objective.on(objective.data, chunk=product_chunk(objective))
        self._groups = groups_of(layers)
        self._width = max(sum(layer.values for layer in group) for group in self._groups)
        each = 8 * self._width * len(self._groups)
        if each > memory_budget:
            largest = sorted(layers, key=lambda layer: -layer.values)[:3]
            raise InputError(
                f"E[M] and E[x x'] of {len(layers)} layers take {bytes_text(each)} on each rank, and memory_budget="
                f"{memory_budget} allows {bytes_text(memory_budget)}; give more, or fewer layers in params=. The "
                "largest are "
                + ", ".join(
                    f"{one.name} ({one.outputs} x {one.inputs}, {bytes_text(8 * one.values)})" for one in largest
                )
            )
        self.blocks = min(product_chunks(objective), _BLOCKS, memory_budget // each)
        self.count = len(self._groups) * self.blocks
        self.memory = each * self.blocks
        self._squares: dict[int, GradientSquares] = {}
        logger.info("%s", self.memory_words)

    @property
    def memory_words(self) -> str:
        """What is kept on each rank."""
        passes = f", in {len(self._groups)} passes" if len(self._groups) > 1 else ""
        return f"{bytes_text(self.memory)} per rank for the factors of {self.blocks} blocks of data{passes}"

    def describe(self) -> Description:
        """See `Task`."""
        layers = [layer for group in self._groups for layer in group]
        identity = {
            **self._matrix.identity(),
            "places": self._places,
            "layers": [asdict(layer) for layer in layers],
            "blocks": self.blocks,
            "groups": [len(group) for group in self._groups],
        }
        columns: dict[str, tuple[int, ...]] = {"sums": (self._width,), "denominator": (), "samples": ()}
        return Description("factors", columns, identity, {**self._matrix.about(), **self._about})

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        number, block = divmod(index, self.blocks)
        layers = self._groups[number]
        objective, matrix = self._objective, self._matrix
        total = torch.zeros(self._width, dtype=torch.float64)
        denominator, samples = 0.0, 0
        with objective.differentiable(matrix.theta, matrix.buffers) as (model, _):
            # Kept for all blocks: it knows by then that samples do not meet.
            squares = self._squares.setdefault(number, GradientSquares(model, [layer.weight for layer in layers]))
            for chunk, batch in objective.every(self.blocks, block):
                outputs, targets, found = self._factors(model, squares, batch)
                parts = [part.flatten().cpu() for layer in layers for part in _parts(found[layer.weight])]
                joined = torch.cat(parts)
                if not bool(joined.isfinite().all()):
                    raise not_finite(
                        objective,
                        "a layer's input, or the gradient in its output,",
                        chunk,
                        lambda n: broken_rows(objective.batch(n), objective.samples_of(n), self._is_finite(layers)),
                        matrix.theta,
                        matrix.buffers,
                    )
                total[: len(joined)] += joined
                with torch.no_grad():
                    denominator += objective.loss_units(outputs, targets).total
                samples += len(outputs)
        return {"sums": total.numpy(), "denominator": denominator, "samples": samples}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _factors(self, model: Any, squares: GradientSquares, batch: Batch) -> tuple[Tensor, Any, dict[str, Factors]]:
        """(outputs, targets, {weight: its factors}) of one batch."""
        with squares.recording():
            outputs, targets = self._objective.outputs(model, batch)
        seeds = loss_seeds(self._objective, outputs, targets).reshape(-1, *outputs.shape)
        return outputs, targets, squares.factors(outputs, seeds, self._places)

    def _is_finite(self, layers: Sequence[Layer]) -> Any:
        """Whether the factors of a part of a batch are finite, as a function of the part."""

        def finite(batch: Batch, _place: slice) -> bool:
            with self._objective.differentiable(self._matrix.theta, self._matrix.buffers) as (model, _):
                squares = GradientSquares(model, [layer.weight for layer in layers])
                found = self._factors(model, squares, batch)[2]
            return all(bool(part.isfinite().all()) for one in found.values() for part in _parts(one))

        return finite


def _parts(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    return factors.outputs, factors.inputs, factors.mean_input


def layer_sums(description: Description, rows: Rows, number: int) -> LayerSums:
    """The sums of the layer with that number over each block of data, from the rows of a FactorsTask."""
    identity = description.identity
    layers = [Layer(**one) for one in identity["layers"]]
    blocks, first, group = int(identity["blocks"]), 0, 0
    while first + identity["groups"][group] <= number:
        first += identity["groups"][group]
        group += 1
    start = sum(layer.values for layer in layers[first:number])
    m, p = layers[number].outputs, layers[number].inputs
    ends = start + np.cumsum([0, m * m, p * p, p])
    items = slice(group * blocks, (group + 1) * blocks)
    outputs, inputs, means = (rows.columns["sums"][items, a:b] for a, b in itertools.pairwise(ends))
    return LayerSums(
        outputs.reshape(blocks, m, m),
        inputs.reshape(blocks, p, p),
        means,
        rows.columns["denominator"][items],
        rows.columns["samples"][items],
    )
