"""How many samples a batch holds, by one rule; and what follows: weights, `samples`, standard errors, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from landscape.errors import InputError
from landscape.objective.counting import Counting
from landscape.objective.objective import Objective


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


class Graphs:
    """A batch of graphs as a library gives it: it says how many there are, and maps its own tensors."""

    def __init__(self, sizes: list[int], targets: int | None = None) -> None:
        self.x = seeded(sum(sizes), 5)
        self.edge_index = torch.zeros(2, 3, dtype=torch.long)
        self.graph = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.y = torch.arange(len(sizes) if targets is None else targets) % 3
        self.num_graphs = len(sizes)

    def to(self, device: Any) -> Graphs:
        return self.apply(lambda tensor: tensor.to(device))

    def apply(self, function: Callable[[Tensor], Tensor]) -> Graphs:
        for name in ("x", "edge_index", "graph", "y"):
            setattr(self, name, function(getattr(self, name)))
        return self


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PACKED = pack_sequence([zeros(n, 4) for n in (6, 5, 3, 2)])
IMAGES = [zeros(3, 8, 8), zeros(3, 9, 9), zeros(3, 5, 5)]
OF_GRAPH = torch.repeat_interleave(torch.arange(3), torch.tensor([4, 6, 5]))
COUNTS: dict[str, tuple[Any, int | None]] = {
    "tensor": (zeros(9, 2), 9),
    "scalar aside": ({"x": zeros(9, 2), "temperature": zeros()}, 9),
    "graphs": ({"x": zeros(15, 5), "graph": OF_GRAPH, "y": zeros(3)}, 3),
    "graphs, targets first": ({"y": zeros(3), "x": zeros(15, 5), "graph": OF_GRAPH}, 3),
    "graphs with edges": ({"x": zeros(15, 5), "edge_index": zeros(2, 40).long(), "y": zeros(3)}, 3),
    "nodes": ({"x": zeros(15, 5), "edge_index": zeros(2, 40).long(), "y": zeros(15)}, 15),
    "graphs of a library": (Graphs([4, 6, 5]), 3),
    "its nodes": (Graphs([4, 6, 5], targets=15), None),
    "packed": ((PACKED, zeros(4)), 4),
    "packed with targets per step": ((PACKED, zeros(16)), None),
    "time first": ((zeros(7, 12, 3), zeros(12)), 12),
    "bag": ((zeros(20).long(), zeros(4).long(), zeros(4)), 4),
    "flat tokens": ({"ids": zeros(30), "starts": zeros(5), "labels": zeros(30)}, None),
    "CTC": ({"x": zeros(50, 4, 20), "targets": zeros(30), "lengths": zeros(4)}, None),
    "list of images": ((IMAGES, zeros(3)), 3),
    "list of images of one size": (([zeros(3, 8, 8)] * 4, zeros(4)), 4),
    "detection": (([zeros(3, 8, 8)] * 2, [{"boxes": zeros(k, 4), "labels": zeros(k)} for k in (5, 1)]), 2),
    "two inputs, two targets": ([[zeros(8, 2), zeros(8, 3)], [zeros(8), zeros(8)]], 8),
    "single samples": ([(zeros(6), zeros()) for _ in range(5)], 5),
    "single samples in mappings": ([{"x": zeros(6), "y": 1} for _ in range(5)], 5),
    "points": ({"inside": zeros(9, 2), "edge": zeros(4, 2)}, None),
}


@pytest.mark.parametrize("case", COUNTS)
def test_a_batch_is_counted_or_left_open(case: str) -> None:
    batch, count = COUNTS[case]
    assert Counting().of(batch) == count


def graphs(sizes: list[int], seed: int, *, targets_first: bool = False) -> dict[str, Tensor]:
    batch = {
        "x": seeded(sum(sizes), 5, seed=seed),
        "graph": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        "y": torch.arange(len(sizes)) % 3,
    }
    return dict(reversed(batch.items())) if targets_first else batch


def logits(model: Any, batch: Any) -> Tensor:
    x, graph, y = (getattr(batch, k) if isinstance(batch, Graphs) else batch[k] for k in ("x", "graph", "y"))
    return torch.zeros(len(y), 5, dtype=x.dtype).index_add(0, graph, x) @ model.weight.T


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 3, bias=False).double()


def mean_loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(logits(model, batch), y_of(batch))


def each_loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(logits(model, batch), y_of(batch), reduction="none")


def y_of(batch: Any) -> Tensor:
    y: Tensor = batch.y if isinstance(batch, Graphs) else batch["y"]
    return y


SIZES = [[4, 6, 5], [7, 3, 8], [5]]
GRAPHS: dict[str, list[Any]] = {
    "mappings": [graphs(sizes, i) for i, sizes in enumerate(SIZES)],
    "targets first": [graphs(sizes, i, targets_first=True) for i, sizes in enumerate(SIZES)],
    "objects": [Graphs(sizes) for sizes in SIZES],
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_weigh_alike_whatever_batch_they_are_in(case: str) -> None:
    data, model = GRAPHS[case], linear()
    each = torch.cat([each_loss(model, batch) for batch in data]).detach()
    for forward, units in ((mean_loss, 3), (each_loss, 7)):
        objective = Objective(model, None, data, forward=forward)
        found = objective.evaluate()["loss"]
        assert (found.n, objective.samples) == (units, 7)
        assert found == pytest.approx(float(each.mean()), rel=1e-12)
    assert found.stderr == pytest.approx(float(each.std()) / math.sqrt(7), rel=1e-10)
    split = Objective(model, data=data, forward=lambda m, b: (logits(m, b), y_of(b)))
    assert split.samples == 7
    assert split.evaluate()["loss"] == pytest.approx(float(each.mean()), rel=1e-12)


def test_a_mean_over_nodes_is_asked_for_its_weights() -> None:
    """The library says graphs, the targets nodes: a scalar may be a mean over either."""
    data = [Graphs([4, 6, 5], targets=15), Graphs([2, 3], targets=5)]
    model = linear()

    def forward(model: Any, batch: Graphs) -> Tensor:
        return F.cross_entropy(batch.x @ model.weight.T, batch.y)

    with pytest.raises(InputError, match=r"float64 \(15, 5\).*batch_size=, a number or a function"):
        Objective(model, None, data, forward=forward)
    objective = Objective(model, None, data, forward=forward, batch_size=lambda batch: len(batch.x))
    x, y = (torch.cat([getattr(batch, name) for batch in data]) for name in ("x", "y"))
    assert objective.evaluate()["loss"] == pytest.approx(
        float(F.cross_entropy(x @ model.weight.detach().T, y)), rel=1e-12
    )
    assert objective.samples == 20
    assert objective.identity()["batch_size"]


def test_values_per_sample_say_how_many_where_tensors_do_not() -> None:
    """CTC: scores run over time first, targets are flat."""

    def batch(lengths: list[int]) -> dict[str, Tensor]:
        n = len(lengths)
        return {
            "x": seeded(12, n, 5, seed=n),
            "targets": torch.arange(sum(lengths)) % 2 + 1,
            "lengths": torch.tensor(lengths),
        }

    def each(model: Any, b: dict[str, Tensor]) -> Tensor:
        scores = (b["x"] @ model.weight.T).log_softmax(2)
        times = torch.full_like(b["lengths"], 12)
        return F.ctc_loss(scores, b["targets"], times, b["lengths"], reduction="none") / b["lengths"]

    data, model = [batch([4, 2, 3]), batch([5])], linear()
    objective = Objective(model, None, data, forward=each)
    truth = torch.cat([each(model, b) for b in data]).detach()
    assert objective.samples == 4
    assert objective.evaluate()["loss"] == pytest.approx(float(truth.mean()), rel=1e-12)
    with pytest.raises(InputError, match=r"cannot be told from its tensors.*float64 \(12, 3, 5\)"):
        Objective(model, None, data, forward=lambda m, b: each(m, b).mean())
    weighed = Objective(
        model, None, data, forward=lambda m, b: each(m, b).mean(), batch_size=lambda b: len(b["lengths"])
    )
    assert weighed.evaluate()["loss"] == pytest.approx(float(truth.mean()), rel=1e-12)


def test_time_first_batches_count_sequences() -> None:
    """(time, batch, features) with a shorter last batch: every tensor's first axis is time."""
    model = linear()
    data = [{"x": seeded(7, n, 5, seed=n), "c": torch.arange(7 * n).reshape(7, n) % 3} for n in (12, 8)]

    def each(m: Any, b: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy((b["x"] @ m.weight.T).permute(1, 2, 0), b["c"].T, reduction="none").mean(1)

    truth = float(torch.cat([each(model, b) for b in data]).mean())
    objective = Objective(model, None, data, forward=each)
    assert (objective.samples, objective.evaluate()["loss"].n) == (20, 20)
    assert objective.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
    with pytest.raises(InputError, match="share a second axis, of length 12 in one batch and 8 in the next"):
        Objective(model, None, data, forward=lambda m, b: each(m, b).mean())


def test_points_in_one_batch_are_one_unit(caplog: pytest.LogCaptureFixture) -> None:
    """All the data in one batch: its weight says nothing, so nothing is asked."""
    model = linear()
    points = {"inside": seeded(9, 5), "edge": seeded(4, 5, seed=1)}

    def forward(m: Any, b: dict[str, Tensor]) -> Tensor:
        return m(b["inside"]).square().mean() + m(b["edge"]).mean()

    objective = Objective(model, None, points, forward=forward)
    assert objective.evaluate()["loss"] == pytest.approx(float(forward(model, points)), rel=1e-12)
    assert objective.samples == 1
    assert not caplog.records


def test_what_batch_size_says_is_checked() -> None:
    model, data = linear(), GRAPHS["mappings"]
    for given, says in (
        (0, "batch_size=0; give the number"),
        (True, "batch_size=True"),
        (11, "batch_size=11 is not to be seen in a batch"),
        (lambda batch: 0, "batch_size= returned 0"),
        (lambda batch: 1.5, "batch_size= returned 1.5"),
        (lambda batch: batch["n"], r"batch_size=, called with a batch .*KeyError: 'n'"),
    ):
        with pytest.raises(InputError, match=says):
            Objective(model, None, data, forward=mean_loss, batch_size=given)  # type: ignore[arg-type]


# -- scalars of forward ----------------------------------------------------------------------------------


def texts(lengths: list[int], seed: int, width: int = 12) -> dict[str, Tensor]:
    x = seeded(len(lengths), width, 5, seed=seed)
    y = torch.arange(x.shape[0] * width).reshape(x.shape[:2]) % 3
    y[torch.arange(width) >= torch.tensor(lengths)[:, None]] = -100
    return {"x": x, "labels": y}


def token_mean(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]).transpose(1, 2), batch["labels"])


TOKENS: dict[str, tuple[list[Any], str]] = {
    "within a batch": ([texts([12, 11, 3, 2], 0), texts([3, 2, 4, 2], 1)], "no mean over samples"),
    "from batch to batch": ([texts([12] * 4, 0), texts([3] * 4, 1)], "no mean over samples"),
    "padded to each batch's longest": ([texts([12] * 4, 0), texts([9] * 4, 1, width=9)], "share a second axis"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_a_mean_over_tokens_that_forward_returns_is_refused(case: str) -> None:
    data, says = TOKENS[case]
    with pytest.raises(InputError, match=says):
        Objective(linear(), None, data, forward=token_mean)
    model = linear()
    found = Objective(model, None, data, forward=lambda m, b: (token_sum(m, b), (b["labels"] != -100).sum()))
    total = sum(float(token_sum(model, b)) for b in data)
    assert found.evaluate()["loss"] == pytest.approx(total / sum(int((b["labels"] != -100).sum()) for b in data))


def token_sum(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]).transpose(1, 2), batch["labels"], reduction="sum")


def test_the_same_as_loss_is_refused_from_batch_to_batch_too() -> None:
    with pytest.raises(InputError, match="halves"):
        Objective(
            linear(),
            lambda o, t: F.cross_entropy(o.transpose(1, 2), t),
            TOKENS["from batch to batch"][0],
            forward=lambda m, b: (m(b["x"]), b["labels"]),
        )


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("cut", [12, 20])
def test_sums_are_refused_of_one_batch_as_of_several(cut: int, penalty: float) -> None:
    x, y = seeded(20, 5), torch.arange(20) % 3
    data = [(x[:cut], y[:cut]), (x[cut:], y[cut:])][: 1 + (cut < 20)]

    def total(m: Any, b: Any) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1], reduction="sum") + penalty * m.weight.square().sum()

    says = "it is a sum, and a scalar counts as the mean" if cut == 20 or not penalty else "no mean over samples"
    with pytest.raises(InputError, match=says):
        Objective(linear(), None, data, forward=total)
    if cut == 20:
        with pytest.raises(InputError, match=says):
            Objective(linear(), None, data[0], forward=total)


def test_what_cannot_be_tried_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Objective(linear(), None, GRAPHS["mappings"], forward=mean_loss)
    assert "taken for a mean over samples" in caplog.text
    assert "(numerators, denominators)" in caplog.text
    caplog.clear()
    Objective(linear(), None, GRAPHS["mappings"], forward=mean_loss, batch_size=lambda b: len(b["y"]))
    assert not caplog.records


def test_single_samples_are_told_a_loader() -> None:
    samples = [(seeded(5, seed=i), i % 3) for i in range(4)]
    for forward in (None, lambda m, b: (m(b[0]), b[1])):
        with pytest.raises(InputError, match=r"single sample\. Give torch\.utils\.data\.DataLoader"):
            Objective(linear(), data=samples, forward=forward)

    class Like:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Any:
            return samples[i]

    with pytest.raises(InputError, match=r"Like is not understood; give torch\.utils\.data\.DataLoader"):
        Objective(linear(), data=Like())


# -- another model ---------------------------------------------------------------------------------------


def test_a_forward_that_uses_another_model_is_refused() -> None:
    x, y, model, other = seeded(20, 5), torch.arange(20) % 3, linear(), linear()
    for loss, forward in (
        ("cross_entropy", lambda m, b: (other(b[0]), b[1])),
        (None, lambda m, b: F.cross_entropy(other(b[0]), b[1])),
        (None, lambda m, b: F.cross_entropy(other(b[0]), b[1], reduction="none")),
    ):
        with pytest.raises(InputError, match="not change when all its trainable parameters do"):
            Objective(model, loss, (x, y), forward=forward)

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            return found

    wrapper = Wrapper()
    found = Objective(model, data=(x, y), forward=lambda m, b: (wrapper(b[0]), b[1]))
    assert found.evaluate()["loss"] == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-12)


def test_a_loss_that_is_flat_at_the_centre_is_none_of_another_model() -> None:
    x = seeded(20, 5)
    objective = Objective(linear(), None, (x, x), forward=lambda m, b: F.relu(m(b[0]) - 50).mean(1))
    assert objective.evaluate()["loss"] == 0


def test_values_of_every_sample_with_every_other_are_refused() -> None:
    x = seeded(20, 5)
    one = nn.Linear(5, 1).double()
    with pytest.raises(InputError, match="every sample with every other"):
        Objective(one, lambda o, t: (o - t) ** 2, (x, x[:, 0]))
    with pytest.raises(InputError, match="every sample with every other"):
        Objective(one, None, (x, x[:, 0]), forward=lambda m, b: (m(b[0]) - b[1]) ** 2)
