"""Ways to a second-derivative product of one chunk's summed loss; each gives a function of directions.

A route makes `image`, which takes a direction shaped like the parameters to a product of that shape. Which route is
right for a network is found out on a trial (`check_products`), never assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from landscape.errors import InputError
from landscape.objective.batches import Batch
from landscape.objective.model import aligned, shaped_like
from landscape.objective.objective import Objective
from landscape.objective.trees import as_real
from landscape.objective.units import Units

Parts = Sequence[Tensor]
Image = Callable[[Parts], Parts]

ROUTES = {
    "hessian": ("double backward", "forward over reverse", "finite differences"),
    "ggn": ("double backward",),
}
_STEP_POWER = 1 / 3  # eps^(1/3) |theta|: where truncation and rounding of a central difference are alike


def double_backward(loss: Tensor, parameters: Parts) -> Image:
    """v -> Hv as the gradient of <g, v>, g the gradient of `loss` (Pearlmutter 1994); its graph is kept for more v."""
    gradients = gradient_parts(loss, parameters, create_graph=True)
    moving = [g for g in gradients if g.requires_grad]

    def image(direction: Parts) -> Parts:
        if not moving:  # a loss linear in the parameters
            return [torch.zeros_like(p) for p in parameters]
        along = [v for g, v in zip(gradients, direction, strict=True) if g.requires_grad]
        found = torch.autograd.grad(moving, parameters, along, retain_graph=True, allow_unused=True)
        return _filled(found, parameters)

    return image


def gauss_newton(outputs: Tensor, loss_of: Callable[[Tensor], Tensor], parameters: Parts) -> Image:
    """v -> J'H_L J v, J the derivative of `outputs` and H_L the Hessian of `loss_of` in them (Schraudolph 2002).

    Jv is the derivative in w of <J'w, v>, so that backward passes alone are needed; their graphs are kept for more v.
    """
    if not outputs.requires_grad:
        return lambda direction: [torch.zeros_like(p) for p in parameters]
    point = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(point), point, create_graph=True)
    weights = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, parameters, weights, create_graph=True, allow_unused=True)
    used = [i for i, part in enumerate(pulled) if part is not None and part.requires_grad]

    def image(direction: Parts) -> Parts:
        if not (used and slope.requires_grad):
            return [torch.zeros_like(p) for p in parameters]
        (pushed,) = torch.autograd.grad(
            [pulled[i] for i in used], weights, [direction[i] for i in used], retain_graph=True
        )
        (bent,) = torch.autograd.grad(slope, point, pushed, retain_graph=True)
        return _filled(torch.autograd.grad(outputs, parameters, bent, retain_graph=True, allow_unused=True), parameters)

    return image


def forward_over_reverse(loss_at: Callable[[Parts], Tensor], parameters: Parts) -> Image:
    """v -> Hv as the tangent of the gradient at theta + eps v, by dual numbers; nothing is kept between directions."""

    def image(direction: Parts) -> Parts:
        leaves = [p.detach().requires_grad_() for p in parameters]
        with forward_ad.dual_level():
            pairs = zip(leaves, direction, strict=True)
            duals = [forward_ad.make_dual(leaf, v) for leaf, v in pairs]  # type: ignore[no-untyped-call]
            gradients = torch.autograd.grad(loss_at(duals), leaves, allow_unused=True)
            tangents = [
                None if g is None else forward_ad.unpack_dual(g).tangent  # type: ignore[no-untyped-call]
                for g in gradients
            ]
        return _filled([None if t is None else t.detach() for t in tangents], parameters)

    return image


def length_of(parameters: Parts, chosen: Sequence[int]) -> float:
    """What steps are relative to: the larger of the chosen weights' norm and their share of the whole vector's."""
    selected = [parameters[i] for i in chosen]
    count, size = (sum(as_real(p).numel() for p in parts) for parts in (selected, parameters))
    if count == size:
        return norm(selected) or 1.0
    return max(norm(selected), norm(parameters) * math.sqrt(count / size)) or 1.0


def finite_difference(loss_now: Callable[[], Tensor], parameters: Parts, length: float) -> Image:
    """v -> (g(theta + h v) - g(theta - h v)) / 2h, h |v| = `length`: right to its square and to rounding over it.

    The parameters are moved where they stand, and moved back.
    """

    def gradients_at(points: Parts) -> Parts:
        for parameter, point in zip(parameters, points, strict=True):
            parameter.data = point
        return gradient_parts(loss_now(), parameters)

    def image(direction: Parts) -> Parts:
        size = norm(direction)
        if size == 0:
            return [torch.zeros_like(p) for p in parameters]
        step = length / size
        centre = [p.data for p in parameters]
        try:
            ahead, behind = (
                gradients_at([c + sign * step * v for c, v in zip(centre, direction, strict=True)]) for sign in (1, -1)
            )
        finally:
            for parameter, value in zip(parameters, centre, strict=True):
                parameter.data = value
        return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]

    return image


def gradient_parts(loss: Tensor, parameters: Parts, *, create_graph: bool = False) -> Parts:
    """The gradient of `loss`, zeros for parameters it does not depend on."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(loss, parameters, create_graph=create_graph, allow_unused=True)
    return _filled(found, parameters)


def _filled(found: Sequence[Tensor | None], parameters: Parts) -> Parts:
    return [torch.zeros_like(p) if part is None else _dense(part) for part, p in zip(found, parameters, strict=True)]


def _dense(part: Tensor) -> Tensor:
    """The same values in strided memory: an Embedding with sparse=True has gradients that are not."""
    return part if part.layout == torch.strided else part.to_dense()


@dataclass(frozen=True)
class Chunk:
    """Products of the summed loss of one batch."""

    image: Image
    denominators: float | Tensor  # their sum
    graph_bytes: int  # what keeping it for more products holds; 0: nothing is gained by keeping it


def summed_loss(objective: Objective, batch: Batch, weights: Tensor | None) -> tuple[Tensor, float | Tensor]:
    """(sum of the loss' numerators, each times its sample's weight, sum of the denominators) where the model is."""
    return summed(objective.loss_units(*outputs_of(objective, batch)), weights)


def outputs_of(objective: Objective, batch: Batch) -> tuple[Any, Any]:
    """(outputs, targets) of one batch where the model is, for derivatives of any order."""
    with objective.recomputing():
        return objective.outputs(objective.folded(), batch)


def summed(units: Units, weights: Tensor | None) -> tuple[Tensor, float | Tensor]:
    """(sum of the numerators, each times its sample's weight, sum of the denominators).

    Raises InputError for denominators that move with the parameters.
    """
    if units.denominators is not None and units.denominators.requires_grad:
        raise InputError(
            "the loss' denominators depend on the parameters, so its mean is no sum over samples and its Hessian no "
            "sum over batches; return (numerators, denominators) with denominators made of the data alone"
        )
    if weights is None:
        return units.numerators.sum(), units.weight
    if not units.per_sample:
        raise InputError(
            "importance sampling weighs samples, and the loss gives one value per batch; return values per sample"
        )
    return (units.numerators * weights.to(units.numerators)).sum(), units.weight


def chunk_of(
    objective: Objective,
    parameters: Parts,
    chosen: Sequence[int],
    batch: Batch,
    weights: Tensor | None,
    operator: str,
    route: str,
    step: float = 0.0,
) -> Chunk:
    """Products of the summed loss of one batch with the `chosen` of the bound parameters.

    `step` is that of finite differences, relative to `length_of`; eps^(1/3) where it is 0.
    """
    selected = [parameters[i] for i in chosen]
    if route in ("finite differences", "forward over reverse"):
        _, count = summed_loss(objective, batch, weights)
        if route == "finite differences":
            length = (step or torch.finfo(objective.dtype).eps ** _STEP_POWER) * length_of(parameters, chosen)
            image = finite_difference(lambda: summed_loss(objective, batch, weights)[0], selected, length)
            return Chunk(image, count, 0)

        def plain(model: Any, batch: Batch) -> Tensor:  # folded convolutions have no forward derivatives
            return summed(objective.loss_units(*objective.outputs(model, batch)), weights)[0]

        def loss_at(values: Parts) -> Tensor:
            given = list(parameters)
            for i, value in zip(chosen, values, strict=True):
                given[i] = value
            return objective.call_with(given, plain, batch)

        return Chunk(forward_over_reverse(loss_at, selected), count, 0)
    saved = _SavedBytes()
    with saved:
        if operator == "ggn":
            outputs, targets = outputs_of(objective, batch)
            if not isinstance(outputs, Tensor):
                raise InputError(f"operator='ggn' needs outputs that are one tensor, not {type(outputs).__name__}")
            _, count = summed(objective.loss_units(outputs.detach(), targets), weights)
            image = gauss_newton(outputs, lambda o: summed(objective.loss_units(o, targets), weights)[0], selected)
        else:
            loss, count = summed_loss(objective, batch, weights)
            image = double_backward(loss, selected)
    return Chunk(image, count, saved.bytes)


def image_rows(chunk: Chunk, vectors: Tensor, parameters: Parts) -> Tensor:
    """(b, size) products of a chunk with the rows of `vectors` (b, size); `parameters` are those multiplied with."""
    return torch.stack([flat(chunk.image(shaped(vector, parameters))) for vector in vectors])


def flat(parts: Parts) -> Tensor:
    """(size,), the values of all parts, of complex ones real and imaginary parts in turn."""
    return torch.cat([as_real(part).reshape(-1) for part in parts])


def shaped(vector: Tensor, parameters: Parts) -> Parts:
    """Parts of `vector` (size,) shaped like the parameters; copies where a view would not be aligned."""
    pieces = vector.split_with_sizes([as_real(p).numel() for p in parameters])
    return [shaped_like(p, aligned(piece), as_real(p).shape) for piece, p in zip(pieces, parameters, strict=True)]


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what a graph keeps for its backward passes."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:  # another has no storage of its own to count
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an operation that keeps its own result would keep itself alive for ever by it

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())


def norm(parts: Parts) -> float:
    """Euclidean norm of all parts as one vector, summed in float64."""
    if not parts:
        return 0.0
    squares = torch.stack([as_real(part.detach()).double().square().sum() for part in parts])
    return math.sqrt(sum(squares.tolist()))
