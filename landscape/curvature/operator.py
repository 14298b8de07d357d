"""Hessian and Gauss-Newton products of an objective with vectors, chunk by chunk over its data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from landscape_kernels.arrays import FloatArray
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from landscape.arguments import Count, checked
from landscape.curvature.check import ProductCheck, check_products
from landscape.curvature.routes import (
    Chunk,
    chunk_of,
    flat,
    gradient_parts,
    image_rows,
    summed_loss,
)
from landscape.curvature.unfinished import broken_rows, not_finite
from landscape.errors import InputError, NumericalError
from landscape.objective.batches import Batch
from landscape.objective.gate import require_objective
from landscape.objective.gpu import free_memory, on_host
from landscape.objective.objective import Objective
from landscape.objective.parameters import select_blocks
from landscape.run.comm import SERIAL, Communicator

OPERATORS = ("hessian", "ggn")
# Standard errors rest on differences between chunks, so there are at least this many where the data allow it.
_CHUNKS = 32
_FEW = 8  # samples; smaller chunks cost more than they tell
_LOOKED_AT = 16  # chunks on a GPU after which their products are seen to be finite: each look waits for it
# Graphs of chunks are kept from one product to the next up to this many bytes; a product then costs a third less.
_GRAPH_BYTES = 6 << 30


@dataclass(frozen=True)
class ChunkProducts:
    """Products with b vectors, and what differs between the data's C chunks.

    With H_c the Hessian of chunk c's summed numerators (weight decay d_c w I included) and d_c its denominators,
    H = sum_c H_c / sum_c d_c.
    """

    images: Tensor  # (b, size), H v
    forms: FloatArray  # (C, b, b + e), v_i' H_c w_j with w the vectors, then e others
    squares: FloatArray  # (C, b), |H_c v|^2
    weighted: Tensor  # (b, size), sum_c d_c H_c v / sum_c d_c
    denominators: FloatArray  # (C,), d_c
    shift: float  # weight decay: where the eigenvalues are that the loss itself does not move


@dataclass(frozen=True)
class ChunkForms:
    """What chunks have in products with b vectors of their own: z_c of chunk c, H_c and d_c as in `ChunkProducts`."""

    forms: FloatArray  # (C, b), z_c' H_c z_c
    overlaps: Tensor  # (b, size) float64, sum_c z_c * H_c z_c / sum_c d_c entry by entry
    denominators: FloatArray  # (C,), d_c


def require_operator(objective: Objective, operator: str, weight_decay: float) -> None:
    """Raise InputError for a matrix that this objective does not have."""
    if operator not in OPERATORS:
        raise InputError(f"operator={operator!r} is not one of {', '.join(OPERATORS)}")
    if operator == "ggn" and objective.loss_is_returned:
        raise InputError(
            "operator='ggn' needs outputs and a loss of them; with loss=None forward returns the loss itself. Let "
            "forward return (outputs, targets) and give loss=, or use operator='hessian'"
        )
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay={weight_decay}; give a finite number of 0 or more")


def require_finite(theta: Tensor) -> None:
    """Raise InputError for a point that has NaN or infinite values."""
    if not bool(theta.isfinite().all()):
        raise InputError(f"theta holds {int((~theta.isfinite()).sum())} values that are NaN or infinite")


def _require_weights(objective: Objective, weights: Tensor | None, total: float | None) -> None:
    """Raise InputError for weights that are not one for each sample, and for a total without them."""
    if total is not None and (weights is None or not (math.isfinite(total) and total > 0)):
        raise InputError(f"total={total}; it is the positive sum of denominators that weights= go with")
    if weights is None:
        return
    right = weights.shape == (objective.samples,) and bool((weights.isfinite() & (weights >= 0)).all())
    if not right:
        raise InputError(
            f"weights of shape {tuple(weights.shape)}; give ({objective.samples},), a finite number of 0 or more for "
            "each sample"
        )


def _graph_room(device: torch.device) -> int:
    """Bytes of graphs that a rank keeps: `_GRAPH_BYTES`, or less where little memory is free, or ranks share it."""
    # Only a quarter of the available memory: a graph takes about twice the bytes of the tensors that are counted.
    return min(_GRAPH_BYTES, free_memory(device) // 4)


class CurvatureOperator:
    """The Hessian H (or Gauss-Newton matrix G = J'H_L J) of the mean loss at theta, as products with vectors.

    H is the Hessian of what `Objective.evaluate` calls loss: numerators and denominators are summed apart over the
    data, so a short last batch weighs what it holds. With `weight_decay` w, w I is added (the loss plus
    w |theta|^2 / 2). `params` restricts it to the diagonal block of some parameters (see `select_blocks`). With
    `weights` (samples,) sample i counts w_i times in the numerators, whose mean is then over `total` (importance
    sampling, see `landscape.curvature.sampling`). The ranks of `group` share the chunks, of `chunk` samples each.

    A context manager: the model is bound to theta inside `with`, and put back after. `check` tells by which route
    products are computed and how well that was seen to work (see `landscape.curvature.check.check_products`).

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> with CurvatureOperator(Objective(torch.nn.Linear(2, 1), "mse", (x, torch.zeros(2, 1)))) as H:
    ...     H.apply(torch.eye(3)).round(decimals=4)  # 2 X'X / N, the bias' column of ones last
    tensor([[1., 0., 1.],
            [0., 4., 2.],
            [1., 2., 2.]])
    """

    @checked()
    def __init__(
        self,
        objective: Objective,
        *,
        operator: str = "hessian",
        params: str | Sequence[str] | None = None,
        theta: Any = None,
        buffers: Mapping[str, Tensor] | None = None,
        weight_decay: Annotated[float, Ge(0)] = 0.0,
        weights: Tensor | None = None,
        total: float | None = None,
        group: Communicator = SERIAL,
        check: ProductCheck | None = None,
        chunk: Count | None = None,
    ) -> None:
        require_objective(objective)
        require_operator(objective, operator, weight_decay)
        _require_weights(objective, weights, total)
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk={chunk}; give how many samples are computed at a time, 1 or more")
        self.operator = operator
        self.blocks = select_blocks(objective, params)
        self.size = sum(block.size for block in self.blocks)
        self.dtype, self.device = objective.dtype, objective.device
        self.products = self.passes = 0
        self._theta = objective.theta if theta is None else objective.vector(theta)
        require_finite(self._theta)
        self._buffers, self._weight_decay = buffers, weight_decay
        self._weights, self._total, self._group = weights, total, group
        names = {block.name for block in self.blocks}
        self._chosen = [i for i, name in enumerate(objective.layout.names) if name in names]
        self.check = check or check_products(objective, operator, self._chosen, self._theta, buffers)
        # A difference of two gradients has half the digits of one.
        precision = self.check.precision if self.check.route == "finite differences" else None
        self._objective = objective.on(objective.data, chunk=chunk or product_chunk(objective), precision=precision)
        sizes = [] if weights is None else [self._objective.samples_of(c) for c in range(self._objective.chunks)]
        self._starts = list(itertools.accumulate(sizes, initial=0))  # of chunks that may differ in length
        self._bound = ExitStack()
        self._kept: dict[int, Chunk] = {}
        self._leaf: object = None  # where the kept graphs end at the first parameter
        self._room = _graph_room(self.device)
        self._denominators: FloatArray = np.zeros(self._objective.chunks)
        self._summed_up = False  # whether the denominators are known for all chunks

    def __enter__(self) -> CurvatureOperator:
        with ExitStack() as stack:
            _, self._parameters = stack.enter_context(self._objective.differentiable(self._theta, self._buffers))
            self._place = self._selected[0].data_ptr()
            self._bound = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.clear()
        self._room = _graph_room(self.device)
        self._bound.close()

    @property
    def chunks(self) -> int:
        """Number of chunks of the data."""
        return self._objective.chunks

    @property
    def keeps_graphs(self) -> bool:
        """Whether the graphs of all the data fit in one rank's memory: a pass then costs no more than its products."""
        return 0 < self.check.graph_bytes * self._objective.samples <= _GRAPH_BYTES

    def apply(self, vectors: Tensor) -> Tensor:
        """(b, size) products with the rows of `vectors` (b, size), in one pass over the data."""
        total = torch.zeros((len(vectors), self.size), dtype=torch.float64, device=self.device)
        for _, _, image in self._images(len(vectors), lambda _: vectors):
            total += image
        return self._mean(vectors, self.over_ranks(total))

    def by_chunk(self, vectors: Tensor, others: Tensor | None = None) -> ChunkProducts:
        """Products with the rows of `vectors` (b, size), and the parts that the chunks have in them.

        `others` (e, size) are more vectors that the products are projected on.
        """
        rows = vectors if others is None else torch.cat([vectors, others])
        sums = torch.zeros((2, len(vectors), self.size), dtype=torch.float64, device=self.device)
        small = torch.zeros((self.chunks, len(vectors), len(rows) + 1), dtype=torch.float64, device=self.device)
        for number, _, image in self._images(len(vectors), lambda _: vectors):
            image = self._decayed(number, vectors, image)
            sums[0] += image
            sums[1] += self._denominators[number] * image.double()
            small[number, :, :-1] = (image @ rows.T).double()
            small[number, :, -1] = image.double().square().sum(1)
        sums, small = self.over_ranks(sums), self.over_ranks(small)
        images, weighted = (sums / float(self._denominators.sum())).to(self.dtype)
        table: FloatArray = small.cpu().numpy()
        return ChunkProducts(
            images, table[:, :, :-1], table[:, :, -1], weighted, self._denominators.copy(), self._weight_decay
        )

    def own_forms(self, count: int, draw: Callable[[int], Tensor]) -> ChunkForms:
        """Quadratic forms of each chunk with `count` vectors of its own, `draw(number)` (count, size).

        As many products as one with `count` vectors, in one pass: every chunk is multiplied once with each.
        """
        overlaps = torch.zeros((count, self.size), dtype=torch.float64, device=self.device)
        forms = torch.zeros((self.chunks, count), dtype=torch.float64, device=self.device)
        for number, vectors, image in self.chunk_products(count, draw):
            overlap = vectors * image
            overlaps += overlap
            forms[number] = overlap.sum(1, dtype=torch.float64)
        overlaps, forms = self.over_ranks(overlaps), self.over_ranks(forms)
        table: FloatArray = forms.cpu().numpy()
        return ChunkForms(table, overlaps / float(self._denominators.sum()), self._denominators.copy())

    def chunk_products(self, count: int, draw: Callable[[int], Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(c, its vectors `draw(c)` (b, size), their products with H_c) of this rank's chunks, in one pass.

        `count` 0 lets chunks have different numbers of vectors, and counts none.
        """
        for number, vectors, image in self._images(count, draw):
            yield number, vectors, self._decayed(number, vectors, image)

    @property
    def denominators(self) -> FloatArray:
        """(C,), d_c of the chunks that this rank has passed, and after a pass over the data of all."""
        return self._denominators.copy()

    def over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over the group's ranks, the same bytes on each."""
        if self._group.size == 1:
            return tensor
        array = tensor.cpu().numpy()
        self._group.allreduce_(array)
        return torch.from_numpy(array).to(tensor.device)

    def chunk_gradients(self) -> Iterator[tuple[int, Tensor]]:
        """(c, gradient (size,) of chunk c's summed loss, without weight decay) of this rank's chunks, in one pass."""
        _require_autograd()
        for number, batch in self._batches():
            loss, count = summed_loss(self._objective, batch, self._weights_of(number))
            self._note(number, count)
            yield number, flat([part.detach() for part in gradient_parts(loss, self._selected)])
        self._sum_up()

    def gradient(self) -> Tensor:
        """(size,) gradient of the mean loss at theta."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        for _, gradient in self.chunk_gradients():
            total += gradient
        mean = self.over_ranks(total) / float(self._denominators.sum())
        at = torch.cat([self._theta[block.slice] for block in self.blocks])
        return mean.to(self.dtype) + self._weight_decay * at

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _selected(self) -> list[Tensor]:
        return [self._parameters[i] for i in self._chosen]

    def _batches(self) -> Iterator[tuple[int, Batch]]:
        return self._objective.batches(self._group)

    def _images(self, count: int, draw: Callable[[int], Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(number, its vectors (count, size), their products with the summed loss) of this rank's chunks."""
        self.passes += 1
        self.products += count
        seen: list[tuple[int, Tensor]] = []
        for number, chunk in self._chunks():
            vectors = draw(number)
            if vectors.ndim != 2 or vectors.shape[1] != self.size or count not in (0, len(vectors)):
                raise InputError(f"vectors of shape {tuple(vectors.shape)}; give (b, {self.size}), one vector a row")
            rows = vectors.to(self.device, self._objective.dtype)
            image = image_rows(chunk, rows, self._selected).to(self.dtype)
            seen.append((number, image.isfinite().all()))
            if on_host(image) or len(seen) == _LOOKED_AT:
                self._require_finite(seen, draw)
            yield number, vectors, image
        self._require_finite(seen, draw)
        self._sum_up()

    def _require_finite(self, seen: list[tuple[int, Tensor]], draw: Callable[[int], Tensor]) -> None:
        """Raise NumericalError where one of the chunks `seen`, which are then forgotten, has products that are not."""
        finite = torch.stack([flag for _, flag in seen]).tolist() if seen else []
        for (number, _), is_finite in zip(seen, finite, strict=True):
            if not is_finite:
                raise self._not_finite(number, draw(number).to(self.device, self._objective.dtype))
        seen.clear()

    def _not_finite(self, number: int, vectors: Tensor) -> NumericalError:
        """The error that names the samples of a chunk whose own products are not finite."""
        objective = self._objective
        how = self.operator, self.check.route, self.check.step

        def broken(chunk: int) -> list[int] | None:
            all_weights = self._weights_of(chunk)

            def is_finite(part: Batch, place: slice) -> bool:
                weights = None if all_weights is None else all_weights[place]
                products = chunk_of(objective, self._parameters, self._chosen, part, weights, *how)
                return bool(image_rows(products, vectors, self._selected).isfinite().all())

            return broken_rows(objective.batch(chunk), objective.samples_of(chunk), is_finite)

        return not_finite(objective, f"a {self.operator} product", number, broken, self._theta, self._buffers)

    def _decayed(self, number: int, vectors: Tensor, image: Tensor) -> Tensor:
        """A chunk's products with its share of the weight decay."""
        share = float(self._denominators[number]) * self._weight_decay
        return image + share * vectors if share else image

    def _chunks(self) -> Iterator[tuple[int, Chunk]]:
        """(number, products) of this rank's chunks; graphs are kept for the next pass while there is room."""
        mine = range(self._group.rank, self.chunks, self._group.size)
        self._require_bound()
        if len(self._kept) == len(mine):  # nothing left to read the data for
            yield from self._kept.items()
            return
        for number, batch in self._batches():
            if number in self._kept:
                yield number, self._kept[number]
                continue
            weights = self._weights_of(number)
            how = self.operator, self.check.route, self.check.step
            chunk = chunk_of(self._objective, self._parameters, self._chosen, batch, weights, *how)
            self._note(number, chunk.denominators)
            if 0 < chunk.graph_bytes <= self._room:
                self._room -= chunk.graph_bytes
                self._kept[number] = chunk
            yield number, chunk

    def _require_bound(self) -> None:
        """Raise RuntimeError where the model stands elsewhere, and let go of graphs that no longer end at it.

        InputError where autograd is off, as all products would be 0.

        Tensors of another type in a parameter, as another operator puts there inside this one's `with`, cut every graph
        from it without a word: its derivatives are 0 from then on, also when the old tensor is back.
        """
        _require_autograd()
        first = self._selected[0]
        if first.data_ptr() != self._place:
            raise RuntimeError(
                "the model is bound to other parameters: another CurvatureOperator of it was opened inside this one's "
                "`with`; close that one first"
            )
        leaf = get_gradient_edge(first).node
        if leaf is not self._leaf:
            self._kept.clear()
            self._room = _graph_room(self.device)
            self._leaf = leaf

    def _weights_of(self, number: int) -> Tensor | None:
        if self._weights is None:
            return None
        start, size = self._starts[number], self._objective.samples_of(number)
        return self._weights[start : start + size]

    def _note(self, number: int, count: float | Tensor) -> None:
        """The denominators of a chunk; an even share of `total` where samples were drawn by importance."""
        if not self._summed_up:
            even = self._objective.samples_of(number) / self._objective.samples
            self._denominators[number] = float(count) if self._total is None else even * self._total

    def _sum_up(self) -> None:
        """Let every rank know all denominators; raises InputError where their sum says nothing."""
        if self._summed_up:
            return
        self._group.allreduce_(self._denominators)
        self._summed_up = True
        if not self._denominators.sum() > 0:
            raise InputError("the loss' denominators sum to 0 (is every target ignored?), so its mean is not defined")

    def _mean(self, vectors: Tensor, total: Tensor) -> Tensor:
        mean = (total / float(self._denominators.sum())).to(self.dtype)
        return mean + self._weight_decay * vectors.to(mean) if self._weight_decay else mean


def _require_autograd() -> None:
    """Raise InputError where a caller has switched autograd off inside an operator's `with`."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise InputError(
            "products are derivatives, and autograd is off here (torch.no_grad or inference_mode); end that block "
            "before the products, or open the operator inside torch.no_grad"
        )


def product_chunk(objective: Objective) -> int:
    """Samples per chunk of a product: those of an evaluation, or fewer so that there are chunks to compare."""
    return min(objective.chunk, chunk_for(objective.samples))


def chunk_for(samples: int) -> int:
    """Samples per chunk that give about 32 chunks to compare, but half as many where they would be of very few."""
    return max(-(-samples // _CHUNKS), min(_FEW, -(-samples // (_CHUNKS // 2))))
