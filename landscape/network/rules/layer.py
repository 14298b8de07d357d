"""What every kind of layer tells of the gradients of single samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}  # unfolded at a time; on a CPU it should stay in a core's cache
_LOST = 300.0  # how much smaller than the largest sum of such terms a sum of products is to be exact
PLACES = ("reduce", "expand")  # how the places of a layer that is used at several join in its factors


@dataclass(frozen=True)
class Call:
    """One call of a layer in the forward pass."""

    inputs: Tensor  # (B, ...)
    version: int  # of the inputs: writing to them afterwards changes it
    before: Node | None  # where the graph goes on behind the layer
    edge: GradientEdge  # the layer's output, whatever is written to it afterwards
    shape: torch.Size


@dataclass(frozen=True)
class Factors:
    """What a weight's gradients g a' are made of, in sums over samples; see `GradientSquares.factors`."""

    outputs: Tensor  # (M, M) float64, sum of g g' over samples and seeds
    inputs: Tensor  # (K, K) float64, sum of a a' over samples
    mean_input: Tensor  # (K,) float64, sum over samples of the mean of a over places
    places: int  # positions of all calls


class Layer(ABC):
    """Rule of one kind of module: squares of its parameters' per-sample gradients.

    A module that is called several times has the sum of its calls' gradients, each a sum over positions: the positions
    of all calls count together. `gradients` are those of the outputs (B, ...), one for each call.
    """

    parameters: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def __init__(self, title: str, module: Any) -> None:
        self.title = title
        self.module = module
        self.columns: dict[str, int] = {}  # {name of a parameter in the module: its place in the result}
        self.calls: list[Call] = []
        self.tied = False  # to another layer: its own part of a sum is of no use

    def refusal(self, inputs: Tensor | None = None) -> str:
        """Why the rule does not hold for this module (and `inputs`); empty when it does."""
        return ""

    def factor_refusal(self) -> str:
        """Why gradients of the weight are no sum of products g a' of one vector each; empty where they are."""
        return f"a {type(self.module).__name__} does not multiply its input by a matrix"

    def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Compute of the inputs what all seeds need."""

    @abstractmethod
    def squares(self, gradients: list[Tensor], slot: int, slots: int) -> dict[str, Tensor]:
        """{parameter: (B,)} for one seed; what is better done for several at once is held, in one of `slots` places."""

    def held_squares(self, slots: int) -> dict[str, Tensor]:
        """{parameter: (B,)} summed over the seeds in the first `slots` places."""
        return {}

    @abstractmethod
    def entries(self, gradients: list[Tensor]) -> dict[str, Tensor]:
        """{parameter: squares of its entries, summed over the samples, in its shape} for one seed."""

    def summed(self) -> tuple[str, ...]:
        """Parameters whose gradients' sum `sums_and_squares` makes on its way; that of others is autograd's."""
        return ()

    def sums_and_squares(self, gradients: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({parameter: sum of its gradients over the samples, in its shape}, {parameter: (B,)}) for one seed."""
        return {}, self.squares(gradients, 0, 1)

    def rows(self, gradients: list[Tensor], size: int) -> Iterator[tuple[str, slice, Tensor]]:
        """(parameter, which of its entries, their gradients (entries, B)), about `size` numbers at a time.

        Of the parameters that come; nothing of others.
        """
        yield from ()


def joined(parts: list[Tensor]) -> Tensor:
    """Parts (B, ..., L) one after another along the last axis."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products (B,) of two (B, ...), in float64."""
    return (first * second).flatten(1).sum(1, dtype=torch.float64)


def squares_by_places(g: Tensor, a: Tensor) -> Tensor:
    """|sum_l g_l a_l'|^2 (B,), summed over groups, of g (B, groups, M, L) and a (B, groups, K, L), in float64.

    As sum_{l,l'} (g_l.g_l')(a_l.a_l'). Where places all but take each other out, as those with a large common part may,
    rounding decides in float32, and these samples are done again in float64.
    """
    outputs, inputs = g.transpose(2, 3) @ g, a.transpose(2, 3) @ a
    found = inner(outputs, inputs)
    if g.shape[3] == 1 or g.dtype == torch.float64:
        return found
    lengths = (outputs.diagonal(dim1=2, dim2=3).double() * inputs.diagonal(dim1=2, dim2=3)).sqrt()
    lost = found < lengths.sum(2).square().sum(1) / _LOST
    if lost.any():
        found[lost] = squares_by_places(g[lost].double(), a[lost].double())
    return found


def norms(vectors: Any) -> Tensor:
    """Squared norms (B,) of vectors (B, ...)."""
    return inner(vectors, vectors)


def entries_of(vectors: Any) -> Tensor:
    """Squares of (B, ...) summed over the samples, in float64."""
    squares: Tensor = vectors.square().sum(0, dtype=torch.float64)
    return squares
