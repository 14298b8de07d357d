"""Hessian products of a large model with vectors in a file: beside the model at most COPIES of it are held."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.filed import FiledVectors
from landscape_kernels.layout import Block
from landscape_kernels.pieces import Piece, pieces, pieces_of
from landscape_kernels.probes import NormalPieces
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import product_chunk
from landscape.curvature.routes import gradient_parts, summed_loss
from landscape.errors import InputError, NumericalError, raised_by
from landscape.objective.model import aligned, shaped_like
from landscape.objective.objective import Objective
from landscape.objective.trees import as_real

logger = logging.getLogger(__name__)
_SAMPLES = 4  # of the trial
_STEPS = (1e-6, 1e-7)  # of differences in float64, in lengths of the parameters
_AGREES = 0.02  # relative gap between a product in float32 and such differences; silent faults make tens of percent
_APART = 1e-4  # relative gap between samples together and in parts
_SLOPE = 0.05  # relative gap between the gradient and differences of the loss
Take = Callable[[Piece, Tensor], None]  # is given a gradient or a product in pieces
COPIES = 4  # of the model's parameters in float32 that a run takes beside the model, at most


@dataclass(frozen=True)
class FiledForms:
    """What the data's C chunks have in products with b vectors; see `operator.ChunkProducts`."""

    values: FloatArray  # (b,), v'Hv / v'v
    forms: FloatArray  # (C, b, b + e), v_i' H_c w_j
    squares: FloatArray  # (C, b), |H_c v|^2
    cross: FloatArray  # (b,), Hv' (sum_c d_c H_c v / sum_c d_c)
    lengths: FloatArray  # (b,), |Hv|^2
    gaps: FloatArray  # (b,), |Hv - lambda v|, lambda the value
    denominators: FloatArray  # (C,), d_c


class FiledProducts:
    """The Hessian of the mean loss, with weight decay w I added, as products of rows of a file.

    A context manager: the model is bound at its own parameters inside `with`. Of the graph of a gradient its values are
    let go of, and products are added up in the file: beside the model are a vector and what backward passes hold, the
    gradient of all parameters at most, and activations.
    """

    def __init__(self, objective: Objective, vectors: FiledVectors, weight_decay: float = 0.0) -> None:
        # A product reads all parameters some ten times for every chunk, so chunks are those of an evaluation; there are
        # more of them where they are compared.
        self._objective, self._compared = objective, objective.on(objective.data, chunk=product_chunk(objective))
        objective.centre.let_go()  # a copy of the model that is of no use here
        self._vectors, self._decay = vectors, weight_decay
        self._blocks = objective.layout.blocks
        self._bound = ExitStack()

    def __enter__(self) -> FiledProducts:
        with ExitStack() as stack:
            _, self._parameters = stack.enter_context(self._objective.differentiable())
            self._bound = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bound.close()

    def multiply(self, row: int, to: int) -> None:
        """Make row `to` of the file H times row `row`."""
        self._vectors.clear(to)
        vector, total = self._vector(row), 0.0
        for _, batch in self._objective.batches():
            loss, weight = summed_loss(self._objective, batch, None)
            total += float(weight)
            self._product(loss, vector, lambda piece, values: self._vectors.add(to, piece.slice, values))
        if not total > 0:
            raise InputError("the loss' denominators sum to 0 (is every target ignored?), so its mean is not defined")
        for piece in pieces(self._objective.layout):
            image, values = (self._vectors.read(one, piece.slice) for one in (to, row))
            self._vectors.write(to, piece.slice, image / total + self._decay * values)

    def forms(self, rows: list[int], others: list[int], free: int) -> FiledForms:
        """Products with the vectors in `rows`, and what the chunks have in them.

        `others` are more vectors that products are projected on; rows of the file from `free` on are written to.
        """
        objective, every = self._compared, [*rows, *others]
        count, chunks = len(rows), objective.chunks
        forms, squares = np.zeros((chunks, count, len(every))), np.zeros((chunks, count))
        values, cross, lengths, gaps = np.zeros((4, count))
        image, weighted = free, free + 1
        denominators = self.denominators()
        total = float(denominators.sum())
        even = bool((denominators == denominators[0]).all())  # then both are the same but for a factor
        for i, row in enumerate(rows):
            self._vectors.clear(image)
            self._vectors.clear(weighted)
            vector = self._vector(row)
            for number, batch in objective.batches():
                loss, weight = summed_loss(objective, batch, None)
                share = float(weight)

                def take(piece: Piece, product: Tensor) -> None:
                    mine = self._vectors.read(row, piece.slice).to(product)  # noqa: B023  (called inside the loop alone)
                    found = product + share * self._decay * mine  # noqa: B023
                    squares[number, i] += float(found.double().square().sum())  # noqa: B023
                    for j, other in enumerate(every):
                        forms[number, i, j] += _dot(found, self._vectors.read(other, piece.slice))  # noqa: B023
                    self._vectors.add(image, piece.slice, found)
                    if not even:
                        self._vectors.add(weighted, piece.slice, found, alpha=share)  # noqa: B023

                self._product(loss, vector, take)
            del vector
            square = 0.0
            for piece in pieces(objective.layout):
                at = self._vectors.read(image, piece.slice).double() / total
                beside = at * denominators[0] if even else self._vectors.read(weighted, piece.slice) / total
                mine = self._vectors.read(row, piece.slice)
                lengths[i] += float(at.square().sum())
                cross[i] += _dot(at, beside)
                values[i] += _dot(at, mine)
                square += _square(mine)
            values[i] /= square
            for piece in pieces(objective.layout):
                at = self._vectors.read(image, piece.slice).double() / total
                gaps[i] += _square(at - values[i] * self._vectors.read(row, piece.slice).double())
        return FiledForms(values, forms, squares, cross, lengths, np.sqrt(gaps), denominators)

    @property
    def chunks(self) -> int:
        """How many chunks of the data are compared."""
        return self._compared.chunks

    def denominators(self) -> FloatArray:
        """Those of the loss in every chunk that is compared, of a pass forward."""
        found = np.zeros(self.chunks)
        with torch.no_grad():
            for number, batch in self._compared.batches():
                found[number] = float(summed_loss(self._compared, batch, None)[1])
        return found

    # -- inside -------------------------------------------------------------------------------------------------

    def _vector(self, row: int) -> list[Tensor]:
        """A row shaped like the parameters."""
        parts = []
        for block, parameter in zip(self._blocks, self._parameters, strict=True):
            flat = self._vectors.read(row, block.slice).to(self._objective.device)
            parts.append(shaped_like(parameter, aligned(flat), block.shape))
        return parts

    def _product(self, loss: Tensor, vector: list[Tensor], take: Take) -> None:
        """Give `take` the product of a loss with a vector, tensor by tensor as the backward pass has it, in pieces."""
        slopes = gradient_parts(loss, self._parameters, create_graph=True)
        moving = [(get_gradient_edge(g), v) for g, v in zip(slopes, vector, strict=True) if g.requires_grad]
        del slopes  # the graph does without their values
        with _let_go(self._parameters, self._blocks, take) as taken:
            if moving:
                edges, along = zip(*moving, strict=True)
                torch.autograd.backward(edges, along, inputs=self._parameters)
        for block in self._blocks:
            for piece in () if block.name in taken else pieces_of(block):  # the loss is linear in it
                take(piece, torch.zeros(piece.size, dtype=loss.dtype, device=loss.device))


@contextmanager
def _let_go(parameters: Sequence[Tensor], blocks: Sequence[Block], take: Take) -> Iterator[set[str]]:
    """Have the gradients of a backward pass given to `take` in pieces, each forgotten before the next; whose they were.

    No copy of the gradient is held.
    """
    taken: set[str] = set()

    def hook(block: Block) -> Callable[[Tensor], None]:
        def give(parameter: Tensor) -> None:
            if parameter.grad is None:  # a block that is computed again has none for a parameter that it did not use
                return
            flat = as_real(parameter.grad).reshape(-1)
            for piece in pieces_of(block):
                take(piece, flat[piece.inside])
            parameter.grad = None
            taken.add(block.name)

        return give

    with ExitStack() as stack:
        for parameter, block in zip(parameters, blocks, strict=True):
            added: Any = parameter.register_post_accumulate_grad_hook(hook(block))  # type: ignore[no-untyped-call]
            stack.callback(added.remove)
        yield taken


def _dot(first: Tensor, second: Tensor) -> float:
    return float(first.double().cpu().flatten() @ second.double().cpu().flatten())


# -- whether products are right --------------------------------------------------------------------------------------


def check_filed(objective: Objective) -> ProductCheck:
    """Products of a few samples with a random vector, seen against what they must be; none of it holds four copies.

    Two products are symmetric; a product agrees with differences of gradients in float64, which are those of the loss;
    and gradients of samples together are those of two parts. Where the model does not run in float64, symmetry is all
    that is seen, with a warning. Raises InputError where one of it is not so.
    """
    objective.centre.require_same_values()  # differences are taken of those, and products of what the model holds
    few = objective.on(objective.data.head(_SAMPLES))
    trial = _FiledTrial(few)
    symmetry = trial.symmetry()
    if not symmetry <= _AGREES:
        raise InputError(_refusal(f"its product is off from symmetry by {symmetry:.1e} of its size"))
    apart = trial.apart()
    if not apart <= _APART:
        raise InputError(
            "hessian products of a sample depend on the other samples of its batch: gradients of a few samples "
            f"together and in two parts differ by {apart:.1e} of their size, so that they are no sums over samples"
        )
    difference, in_float64 = math.nan, ""
    try:
        difference, slope = trial.differences()
    except Exception as error:  # whatever a model does in a precision that it was not made for
        in_float64 = raised_by(error)
        logger.warning("hessian products were seen to be symmetric and no more, without float64: %s", in_float64)
    else:
        if not slope <= _SLOPE:
            raise InputError(_refusal(f"the gradient is off by {slope:.1e} from differences of the loss"))
        if not difference <= _AGREES:
            raise InputError(_refusal(f"its product is off by {difference:.1e} of its size from central differences"))
    precision = "float32" if in_float64 else "float64"
    return ProductCheck(
        "double backward",
        symmetry,
        difference,
        symmetry,
        0.0,
        {},
        precision=precision,
        in_float64=in_float64,
        at_theta=difference,
        parts=apart,
    )


def _refusal(why: str) -> str:
    return (
        f"double backward is not right for this model: {why}; memory='flat' tries other ways to products and tells "
        "more of the cause, and params= leaves layers out"
    )


class _FiledTrial:
    """Products and gradients of a few samples; rows of the file are u, v, Hu and Hv."""

    _U, _V, _HU, _HV = range(4)

    def __init__(self, few: Objective) -> None:
        self._few, self._pieces = few, pieces(few.layout)
        self._rows = FiledVectors(few.layout.size)
        drawn = [NormalPieces([p.size for p in self._pieces], 0, "self-check", i) for i in range(2)]
        for number, piece in enumerate(self._pieces):
            for row, one in enumerate(drawn):
                self._rows.write(row, piece.slice, torch.from_numpy(one.draw(number, np.empty(piece.size))))

    def symmetry(self) -> float:
        """|u'Hv - v'Hu| / (|Hv| |u|)."""
        with FiledProducts(self._few, self._rows) as H:
            H.multiply(self._U, self._HU)
            H.multiply(self._V, self._HV)
            self._count = float(H.denominators().sum())
        gap = abs(self._product(self._U, self._HV) - self._product(self._V, self._HU))
        size = math.sqrt(self._product(self._HV, self._HV) * self._product(self._U, self._U))
        if not math.isfinite(size):
            raise NumericalError("a hessian product of the first samples holds NaN or Inf")
        return gap / (size or 1.0)

    def apart(self) -> float:
        """How far the gradient of the samples is from the sum of two parts' gradients, relative to it."""
        data = self._few.data
        if not (data.divisible and data.samples > 1):
            return 0.0
        found = FiledVectors(self._few.layout.size)

        def add(factor: float) -> Take:
            return lambda piece, values: found.add(0, piece.slice, values, alpha=factor)

        def size() -> float:
            return math.sqrt(sum(_square(found.read(0, piece.slice)) for piece in self._pieces))

        each_gradient(self._few.on(data, chunk=data.samples), add(1.0))
        whole = size()
        each_gradient(self._few.on(data, chunk=-(-data.samples // 2)), add(-1.0))
        return size() / (whole or 1.0)

    def differences(self) -> tuple[float, float]:
        """(gap of Hv to differences of gradients in float64, gap of their slope along v to the loss'), both relative.

        Of two steps that with the smaller gap.
        """
        exact = self._few.on(self._few.data, precision="float64")
        theta = exact.centre.held  # a copy that is this trial's alone
        assert theta is not None
        far = math.sqrt(sum(_square(self._few.centre.at(piece)) for piece in self._pieces)) or 1.0
        best = math.inf, math.inf
        for step in _STEPS:
            by = step * far / math.sqrt(self._product(self._V, self._V))
            rows = FiledVectors(self._few.layout.size, dtype=torch.float64)
            losses: list[float] = []
            along = square = 0.0

            def add(piece: Piece, values: Tensor) -> None:
                nonlocal along, square
                factor = (-1 if losses else 1) / (2 * by)  # noqa: B023  (used inside the loop alone)
                rows.add(0, piece.slice, values, alpha=factor)  # noqa: B023
                along += _dot(values, self._rows.read(self._V, piece.slice)) / 2
                square += _square(values) / 2

            for sign in (1, -1):
                for piece in self._pieces:
                    at = self._few.centre.at(piece).double()
                    theta[piece.slice] = at + sign * by * self._rows.read(self._V, piece.slice).to(at)
                losses.append(each_gradient(exact, add)[0])
            gap = size = 0.0
            for piece in self._pieces:
                product = self._rows.read(self._HV, piece.slice).double() * self._count
                gap += _square(rows.read(0, piece.slice) - product)
                size += _square(product)
            moved = (losses[0] - losses[1]) / (2 * by)
            typical = math.sqrt(square * self._product(self._V, self._V) / self._few.layout.size)
            scale = max(abs(along), abs(moved), typical / 3) or 1.0
            best = min(best, (math.sqrt(gap) / (math.sqrt(size) or 1.0), abs(moved - along) / scale))
            if best[0] <= _AGREES:
                break
        return best

    def _product(self, row: int, other: int) -> float:
        return sum(_dot(self._rows.read(row, p.slice), self._rows.read(other, p.slice)) for p in self._pieces)


def each_gradient(objective: Objective, take: Take, *, half: bool = False) -> tuple[float, float]:
    """(sum of the loss' numerators, of its denominators); `take(piece, values)` gets the gradient of the former.

    It comes batch by batch and tensor by tensor in pieces, which add up to the whole: no copy of it is held.
    """

    value = weight = 0.0
    with objective.differentiable(half=half) as (_, parameters), _let_go(parameters, objective.layout.blocks, take):
        for _, batch in objective.batches():
            loss, count = summed_loss(objective, batch, None)
            if loss.requires_grad:
                torch.autograd.backward(loss, inputs=parameters)
            value, weight = value + float(loss.detach()), weight + float(count)
    return value, weight


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
