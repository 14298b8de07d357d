"""How many samples a batch holds, by one rule; and what follows: weights, `samples`, standard errors, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
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
    "tuple of samples": (tuple((zeros(6), zeros()) for _ in range(5)), 5),
    "objects": ([SimpleNamespace(x=zeros(6), y=zeros()) for _ in range(5)], 5),
    "pair of mappings": ([{"x": zeros(8, 4)}, {"x": zeros(8, 4)}], 8),
    "two views": ([zeros(8, 4), zeros(8, 4)], 8),
    "class weights": ((zeros(20, 4), zeros(20).long(), zeros(3)), None),
    "temperature": ((zeros(20, 4), torch.arange(20) % 3, zeros(1)), None),
    "domains": ((zeros(20, 4), zeros(20).long(), torch.arange(2)), None),
    "a number aside": ((zeros(20, 4), zeros(20).long(), zeros()), 20),
    "anchors": ({"x": zeros(20, 4), "classes": zeros(20).long(), "target": zeros(7, 4)}, None),
    "names of classes": ({"x": zeros(20, 4), "y": zeros(20).long(), "names": ["a", "b"]}, 20),
    "lists": ({"x": [zeros(4)] * 6, "y": [zeros()] * 6}, 6),
    "lists, labels as numbers": ({"x": [zeros(4)] * 6, "y": [1] * 6}, 6),
    "lists of images and masks": (([zeros(3, 5, 5)] * 4, [zeros(5, 5)] * 4), 4),
    "tuples of images and masks": ((tuple([zeros(3, 5, 5)] * 4), tuple([zeros(5, 5)] * 4)), 4),
    "images alone": ({"images": [zeros(3, 5, 5)] * 4}, None),
    "rows of lengths": ((zeros(9, 4), torch.tensor([2, 3, 4]), zeros(3)), 3),
    "bounds": ({"x": zeros(9, 4), "ptr": torch.tensor([0, 2, 5, 9]), "y": zeros(3)}, 3),
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


# -- values that are returned say more than shapes ---------------------------------------------------------

X, Y = seeded(40, 5), torch.arange(40) % 3
CUTS = [(0, 15), (15, 22), (22, 40)]
Batches = Callable[[int, int], Any]
Read = Callable[[Any], tuple[Tensor, Tensor]]
# what stands in a batch of rows a to b, how forward reads it, and whether the mean over a batch can be weighted
OTHERS: dict[str, tuple[Batches, Read, bool]] = {
    "class weights": (lambda a, b: (X[a:b], Y[a:b], zeros(3)), lambda b: b[:2], False),
    "temperature": (lambda a, b: (X[a:b], Y[a:b], zeros(1)), lambda b: b[:2], False),
    "a number aside": (lambda a, b: (X[a:b], Y[a:b], zeros()), lambda b: b[:2], True),
    "a setting aside": (lambda a, b: (X[a:b], Y[a:b], 0.5), lambda b: b[:2], True),
    "anchors": (
        lambda a, b: {"x": X[a:b], "c": Y[a:b], "target": zeros(7, 5)},
        lambda b: (b["x"], b["c"]),
        False,
    ),
    "numbers of classes": (
        lambda a, b: {"x": X[a:b], "c": Y[a:b], "labels": torch.arange(3)},
        lambda b: (b["x"], b["c"]),
        False,
    ),
    "pairs of mappings": (
        lambda a, b: [{"x": X[a:b]}, {"x": Y[a:b, None].double()}],
        lambda b: (b[0]["x"], b[1]["x"][:, 0].long()),
        True,
    ),
    "objects": (
        lambda a, b: [SimpleNamespace(x=x, y=y) for x, y in zip(X[a:b], Y[a:b], strict=True)],
        lambda b: (torch.stack([one.x for one in b]), torch.stack([one.y for one in b])),
        True,
    ),
    "samples with labels of an axis": (
        lambda a, b: [{"x": x, "y": F.one_hot(y, 5)} for x, y in zip(X[a:b], Y[a:b], strict=True)],
        lambda b: (torch.stack([one["x"] for one in b]), torch.stack([one["y"] for one in b]).argmax(1)),
        True,
    ),
    "columns of samples": (
        lambda a, b: {"x": list(X[a:b]), "y": list(Y[a:b])},
        lambda b: (torch.stack(b["x"]), torch.stack(b["y"])),
        True,
    ),
    "weights over time": (
        lambda a, b: (torch.stack([X[a:b]] * 4, 1), zeros(4)),
        lambda b: (b[0][:, 0], b[0][:, 0].argmax(1) % 3),
        False,
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_values_decide_and_means_are_weighted_right_or_asked_for(case: str) -> None:
    make, read, known = OTHERS[case]
    data, model = [make(a, b) for a, b in CUTS], linear()

    def loss(m: Any, batch: Any, reduction: str) -> Tensor:
        x, y = read(batch)
        return F.cross_entropy(m(x), y, reduction=reduction)

    truth = torch.cat([loss(model, batch, "none") for batch in data]).mean().item()
    for forward in (
        lambda m, b: loss(m, b, "none"),
        lambda m, b: list(loss(m, b, "none")),
        lambda m, b: (loss(m, b, "sum"), len(read(b)[1])),
    ):
        objective = Objective(model, None, data, forward=forward)
        assert objective.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
        assert objective.samples == 40
    split = Objective(model, data=data, forward=lambda m, b: (m(read(b)[0]), read(b)[1]))
    assert split.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
    assert split.samples == 40
    if known:
        objective = Objective(model, None, data, forward=lambda m, b: loss(m, b, "mean"))
        assert objective.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
        assert objective.samples == 40
        return
    for forward in (lambda m, b: loss(m, b, "mean"), lambda m, b: loss(m, b, "mean").reshape(1)):
        with pytest.raises(InputError, match=r"cannot be told from its tensors \(float64 \(15"):
            Objective(model, None, data, forward=forward)
    asked = Objective(model, None, data, forward=lambda m, b: loss(m, b, "mean"), batch_size=lambda b: len(read(b)[1]))
    assert asked.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)


BARE: dict[str, Callable[[int], Tensor]] = {
    "images of as many channels": lambda i: seeded(3, 5, seed=i),
    "sequences of one length": lambda i: seeded(10, 5, seed=i),
    "sequences of lengths of their own": lambda i: seeded(4 + i, 5, seed=i),
}


@pytest.mark.parametrize("cut", [3, 4])
@pytest.mark.parametrize("case", BARE)
def test_bare_lists_of_samples_are_counted_by_what_varies_or_by_trial(case: str, cut: int) -> None:
    """Lists of three and two, or four and one, of which the first axis is something else."""
    samples, model = [BARE[case](i) for i in range(5)], linear()
    data = [samples[:cut], samples[cut:]]

    def each(m: Any, batch: list[Tensor]) -> Tensor:
        return torch.stack([m(one).square().mean() for one in batch])

    truth = each(model, samples).mean().item()
    for forward in (each, lambda m, b: each(m, b).mean()):
        objective = Objective(model, None, data, forward=forward)
        assert objective.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
        assert objective.samples == 5


def test_batches_of_one_shape_weigh_alike_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be counted needs no number where all batches are alike; where one differs, it is asked for."""
    data, model = [(X[a:b], Y[a:b], zeros(3)) for a, b in ((0, 10), (10, 20), (20, 25))], linear()

    def mean(m: Any, b: Any) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1])

    found = Objective(model, None, data[:2], forward=mean)
    assert found.evaluate()["loss"] == pytest.approx(mean(model, (X[:20], Y[:20])).item(), rel=1e-12)
    assert found.samples == 2
    assert "each counts as one sample" in caplog.text
    for refused in (lambda: Objective(model, None, data, forward=mean), lambda: found.elsewhere(data)):
        with pytest.raises(InputError, match="cannot be told"):
            refused()


def test_full_lists_of_mappings_are_seen_by_trial() -> None:
    """As many mappings in each batch, and as many features in each mapping."""
    model = linear()
    data = [[{"x": X[i], "y": F.one_hot(Y[i], 5)} for i in range(a, a + 4)] for a in (0, 4)]

    def mean(m: Any, batch: Any) -> Tensor:
        x, y = (torch.stack([one[key] for one in batch]) for key in ("x", "y"))
        return F.cross_entropy(m(x), y.argmax(1))

    found = Objective(model, None, data, forward=mean)
    assert found.samples == 8
    assert found.evaluate()["loss"] == pytest.approx(F.cross_entropy(model(X[:8]), Y[:8]).item(), rel=1e-12)


def test_full_lists_of_samples_are_seen_by_trial_or_asked_for() -> None:
    """Lists of two and two: no length varies, so parts of them are tried."""
    model = linear()

    def mean(m: Any, batch: list[Tensor]) -> Tensor:
        return torch.stack([m(one).square().mean() for one in batch]).mean()

    own = [seeded(n, 5, seed=n) for n in (4, 7, 9, 5)]
    truth = mean(model, own).item()
    found = Objective(model, None, [own[:2], own[2:]], forward=mean)
    assert found.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
    assert found.samples == 4
    equal = [seeded(n, 5, seed=i) for i, n in enumerate((4, 4, 9, 9))]
    with pytest.raises(InputError, match="cannot be told"):  # two views of 4, then of 9; or two sequences twice
        Objective(model, None, [equal[:2], equal[2:]], forward=mean)


def test_as_many_values_whatever_the_batch_are_no_values_of_samples() -> None:
    """Means over a batch by class or feature, or of shape (1,), beside tensors of as many settings."""
    model = linear()

    def by_class(m: Any, batch: Any) -> Tensor:
        return m(batch[0]).square().mean(0)

    for settings, says in (((), r"returned shape \(3,\) for a batch of 15"), ((zeros(3),), "cannot be told")):
        data = [(X[a:b], Y[a:b], *settings) for a, b in CUTS]
        with pytest.raises(InputError, match=says):
            Objective(model, None, data, forward=by_class)
    with pytest.raises(InputError, match=r"returned shape \(5,\) for a batch of 15"):
        Objective(model, None, [X[a:b] for a, b in CUTS], forward=lambda m, b: (m(b).sum(1, True) - b).mean(0))


def test_more_values_than_rows_count_where_they_follow_the_rows() -> None:
    """Both views of every sample, or those that are kept."""
    model = linear()
    data = [(X[a:b], Y[a:b]) for a, b in CUTS]

    def both(m: Any, batch: Any) -> Tensor:
        return F.cross_entropy(m(torch.cat([batch[0], -batch[0]])), batch[1].repeat(2), reduction="none")

    def kept(m: Any, batch: Any) -> Tensor:
        return F.cross_entropy(m(batch[0]), batch[1], reduction="none")[batch[1] != 1]

    for forward in (both, kept):
        truth = torch.cat([forward(model, batch) for batch in data]).detach()
        objective = Objective(model, None, data, forward=forward)
        assert objective.evaluate()["loss"] == pytest.approx(truth.mean().item(), rel=1e-12)
        assert objective.samples == len(truth)


@pytest.mark.parametrize("features", [4, 5])
def test_a_number_of_samples_holds_for_full_batches(features: int) -> None:
    """Batches of 4, 4 and 2 with as many features: only what all parts agree on confirms the number."""
    torch.manual_seed(0)
    model = nn.Linear(features, 3).double()
    x = seeded(10, features)
    y = Y[:10]
    data = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    truth = F.cross_entropy(model(x), y).item()
    for reduce in (torch.mean, torch.clone):

        def forward(m: Any, b: Any, reduce: Any = reduce) -> Tensor:
            found: Tensor = reduce(F.cross_entropy(m(b[0]), b[1], reduction="none"))
            return found

        objective = Objective(model, None, data, forward=forward, batch_size=4)
        assert objective.evaluate()["loss"] == pytest.approx(truth, rel=1e-12)
        assert objective.samples == 10


def test_a_number_of_samples_that_another_axis_has_by_chance_is_asked_again() -> None:
    model = linear()
    aside = [(X[:3], Y[:3], zeros(3)), (X[3:5], Y[3:5], zeros(3))]  # the last has as many weights as a full batch rows
    with pytest.raises(InputError, match="batch_size=3 is not to be seen"):
        Objective(model, None, aside, forward=lambda m, b: F.cross_entropy(m(b[0]), b[1]), batch_size=3)
    with pytest.raises(InputError, match="batch_size=5 is not to be seen"):
        Objective(model, None, [X[:5], X[5:7]], forward=lambda m, b: m(b).square().mean(), batch_size=5)
    time = [seeded(7, n, 5, seed=n) for n in (4, 2)]
    found = Objective(model, None, time, forward=lambda m, b: m(b).square().mean(), batch_size=4)
    assert found.samples == 6
    assert found.evaluate()["loss"] == pytest.approx(model(torch.cat(time, 1)).square().mean().item(), rel=1e-12)


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
