"""Traced functions against the functions themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph
from torch.fx.experimental.proxy_tensor import make_fx

from landscape.objective import tracing
from landscape.objective.tracing import traced

INPUTS, LABELS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(40) % 3


def slopes(theta: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The losses of a network of one hidden layer at theta (C, d), and their gradients."""

    def loss(row: Tensor) -> Tensor:
        first, bias, second = row.split([5 * width, width, 3 * width])
        hidden = F.relu(F.linear(INPUTS, first.reshape(width, 5), bias))
        return F.cross_entropy(F.linear(hidden, second.reshape(3, width)), LABELS)

    varied = theta.detach().requires_grad_()
    losses = torch.vmap(loss)(varied)
    return losses.detach(), torch.autograd.grad(losses.sum(), varied)[0]


@pytest.mark.parametrize("width", [4, 60])  # less, and more, than there are samples
def test_losses_and_gradients_are_those_of_the_function(width: int) -> None:
    theta = torch.randn(3, 9 * width, generator=torch.Generator().manual_seed(1)).double()
    found = traced(lambda t: slopes(t, width), torch.zeros_like(theta))
    before = theta.clone()
    for _ in range(2):  # what it keeps is as it was
        for mine, expected in zip(found(theta), slopes(theta, width), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(theta, before)
    targets = {str(node.target) for node in found.graph.nodes}  # type: ignore[attr-defined]
    assert "aten.relu_.default" in targets
    assert "aten.scatter_add.default" not in targets  # the slopes of a sum are constants


def read_again(x: Tensor) -> Tensor:
    """What is computed is read after an operation that could write to it."""
    twice = x * 2
    above = twice.relu()
    return twice + above


def read_by_a_view(x: Tensor) -> Tensor:
    """The same, by a view that was there before."""
    twice = x * 2
    turned = twice.t()
    return (twice + 1) @ turned + twice.relu().sum()


def read_by_parts(x: Tensor) -> Tensor:
    """The same by views whose operation does not say that they are: torch's recurrent cells are made of it."""
    twice = x * 2
    left, _ = torch.unsafe_chunk(twice, 2)
    return twice.relu()[:2] + left


def written_twice(x: Tensor) -> Tensor:
    """A chain that ends in the memory that it began in, which a view made in between shows."""
    twice = (x * 2).tanh()
    row = twice[0]
    return (twice + 3).neg() * 2 + row


def to_itself(x: Tensor) -> Tensor:
    """Both operands are one memory."""
    twice = x * 2
    return twice + twice.t()


def weighed(x: Tensor) -> Tensor:
    """A sum whose second operand has a factor."""
    return torch.add(x, x * 2, alpha=3)


def turned_about(x: Tensor) -> Tensor:
    """Transposed twice, by other axes."""
    return (x * 2).reshape(4, 2, 2).transpose(0, 1).transpose(1, 2)


def returned(x: Tensor) -> tuple[Tensor, Tensor]:
    """A result that another is made of."""
    twice = x * 2
    return twice, twice.neg()


@pytest.mark.parametrize(
    "function", [read_again, read_by_a_view, read_by_parts, written_twice, to_itself, turned_about, weighed, returned]
)
def test_nothing_that_is_read_is_written_to(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    found = traced(function, torch.ones(4, 4))
    for _ in range(2):
        torch.testing.assert_close(found(x), function(x), rtol=0, atol=0)


def with_constants(x: Tensor) -> Tensor:
    """One from outside, one that is made inside and written to, and numbers that are drawn."""
    counts = torch.tensor([1.0, 2.0, 3.0, 4.0])
    counts += 1
    return x @ OUTSIDE + counts + torch.zeros(4).bernoulli_(0.5) + x.log_softmax(-1)


OUTSIDE = torch.eye(4)
TRACED: dict[str, tuple[Callable[..., Any], Tensor]] = {
    **{f.__name__: (f, torch.ones(4, 4)) for f in (read_by_parts, written_twice, turned_about, with_constants)},
    "slopes": (lambda theta: slopes(theta, 60), torch.zeros(3, 540).double()),
}


def operations(graph: Graph) -> list[tuple[str, int]]:
    """(name, tensors that it takes) of each operation that changes a value."""
    graph.eliminate_dead_code()  # parts of a result that nobody asks for
    nodes = [node for node in graph.nodes if node.target is not torch.ops.aten.detach.default]
    return [(str(node.target), len(node.all_input_nodes)) for node in nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", TRACED)
def test_operations_are_those_that_torch_itself_traces(name: str) -> None:
    function, example = TRACED[name]
    theirs = make_fx(lambda x: function(x), decomposition_table=tracing._BY_COLUMNS)(example)
    assert operations(tracing._recorded(function, [example]).graph) == operations(theirs.graph)


def test_the_value_of_a_number_is_refused() -> None:
    with pytest.raises(RuntimeError, match="asks for the value of a number"):
        traced(lambda x: x * float(x.sum()), torch.ones(3))


def test_tracing_loads_no_compiler() -> None:
    """Which takes a second or two, in each process."""
    program = (
        "import sys, torch\nfrom landscape.objective.tracing import traced\n"
        "traced(lambda x: x @ x, torch.ones(2, 2))\nassert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_functions_that_write_are_left_as_they_are() -> None:
    def function(x: Tensor) -> Tensor:
        kept = x.new_zeros(3)
        kept += x
        return kept

    found = traced(function, torch.ones(3))
    for _ in range(2):
        assert torch.equal(found(torch.ones(3)), torch.ones(3))


def test_random_numbers_are_drawn_anew() -> None:
    found = traced(lambda x: x + torch.rand(3), torch.zeros(3))
    with torch.random.fork_rng():
        assert not torch.equal(found(torch.zeros(3)), found(torch.zeros(3)))
