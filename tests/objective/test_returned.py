"""What the user's code returns for a batch: lists, pairs and scalars, each tried alike at every entrance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.curvature.operator import CurvatureOperator
from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.units import values_as_units

CLASS_WEIGHTS = torch.tensor([1.0, 9.0, 1.0], dtype=torch.float64)
Forward = Callable[[Any, Any], Any]


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(outputs: int = 3) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, outputs, bias=False).double()


X, Y = seeded(20, 5), torch.arange(20) % 3
WHOLE = [(X, Y)]
SEVERAL = [(X[:12], Y[:12]), (X[12:], Y[12:])]


def ce(m: Any, b: Any, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    return F.cross_entropy(m(b[0]), b[1], weight, reduction=reduction)


# -- lists -----------------------------------------------------------------------------------------------


def one_by_one(m: Any, b: Any) -> list[Tensor]:
    return [F.cross_entropy(m(x[None]), y[None]) for x, y in zip(*b, strict=True)]


@pytest.mark.parametrize("cut", [[2, 2, 1], [3, 2], [5]])
@pytest.mark.parametrize("convert", [lambda v: v, float, lambda v: v.reshape(1)], ids=["0-d", "float", "(1,)"])
def test_a_list_is_values_per_sample_also_of_two(cut: list[int], convert: Callable[[Tensor], Any]) -> None:
    model, x, y = linear(), X[:5], Y[:5]
    data = list(zip(x.split(cut), y.split(cut), strict=True))
    truth = ce(model, (x, y)).item()

    def listed(outputs: Tensor, targets: Tensor) -> list[Any]:
        return [convert(F.cross_entropy(o[None], t[None])) for o, t in zip(outputs, targets, strict=True)]

    for objective in (
        Objective(model, None, data, forward=lambda m, b: [convert(v) for v in one_by_one(m, b)]),
        Objective(model, listed, data),
        Objective(model, "cross_entropy", data, metrics={"m": listed}),
    ):
        for value in objective.evaluate().values():
            assert value == pytest.approx(truth, rel=1e-6 if convert is float else 1e-12)  # floats in float32
            assert value.n == 5


def test_a_list_keeps_its_graph() -> None:
    model = linear()
    data = [(X[:3], Y[:3]), (X[3:5], Y[3:5])]
    v = seeded(15, seed=2)
    found = []
    for forward in (one_by_one, lambda m, b: ce(m, b, "none")):
        with CurvatureOperator(Objective(model, None, data, forward=forward)) as H:
            found.append(H.apply(v[None])[0])
    assert (found[0] - found[1]).norm() < 1e-10 * found[1].norm()


def test_a_list_of_two_arrays_is_asked_what_it_is() -> None:
    for pair in ([torch.ones(4), torch.ones(4)], [[1.0, 2.0], [1.0, 1.0]], [torch.ones(4), 1.0]):
        with pytest.raises(InputError, match=r"a list holds one number for each sample.*tuple \(numerators"):
            values_as_units(pair, None, "it")
    with pytest.raises(InputError, match=r"tuple of 3 float.*torch\.stack\(values\), or a list"):
        values_as_units((1.0, 2.0, 3.0), 3, "it")


# -- pairs -----------------------------------------------------------------------------------------------

# forward, what is said
PAIRS: dict[str, tuple[Forward, str]] = {
    "two losses": (lambda m, b: (ce(m, b), m.weight.square().sum()), "second changes with the model's parameters"),
    "loss and accuracy": (
        lambda m, b: (ce(m, b), (m(b[0]).argmax(1) == b[1]).double().mean()),
        r"a pair is \(numerators, denominators\)",
    ),
    "two losses per sample": (
        lambda m, b: (ce(m, b, "none"), m(b[0]).square().sum(1).detach()),
        "second changes with the model's parameters",
    ),
    "loss and a setting": (lambda m, b: (ce(m, b), 0.01), "no number of what the first sums over"),
    "loss and a mean of the data": (
        lambda m, b: (ce(m, b), b[0].square().mean()),
        "no number of what the first sums over",
    ),
    "loss and one": (lambda m, b: (ce(m, b), torch.ones(())), "no number of what the first sums over"),
    "negative": (lambda m, b: (ce(m, b, "none"), -torch.ones(len(b[1]))), "one is -1"),
    "one negative": (lambda m, b: (ce(m, b, "none"), torch.arange(len(b[1])) - 1), "one is -1"),
    "not a number": (lambda m, b: (ce(m, b, "none"), torch.full((len(b[1]),), torch.nan)), "one is nan"),
    "all zero": (lambda m, b: (ce(m, b, "none"), torch.zeros(len(b[1]))), "all zero"),
}


@pytest.mark.parametrize("data", [WHOLE, SEVERAL], ids=["one batch", "several"])
@pytest.mark.parametrize("case", PAIRS)
def test_a_pair_that_cannot_be_weights_is_refused(case: str, data: Any) -> None:
    forward, says = PAIRS[case]
    with pytest.raises(InputError, match=says):
        Objective(linear(), None, data, forward=forward)


def test_a_pair_of_a_loss_or_metric_is_tried() -> None:
    """Denominators of neither are negative; of a metric they may be zero or move."""

    def each(o: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(o, t, reduction="none")

    for pair, says, of in (
        (lambda o, t: (each(o, t), o.square().sum(1)), "second changes with the model's parameters", ["loss"]),
        (lambda o, t: (each(o, t), -torch.ones(len(t))), "one is -1", ["loss", "metrics"]),
        (lambda o, t: (each(o, t), torch.zeros(len(t))), "all zero", ["loss"]),
    ):
        for name in of:
            with pytest.raises(InputError, match=says):
                Objective(linear(), data=(X, Y), **{name: pair if name == "loss" else {"m": pair}})  # type: ignore[arg-type]


GOOD_PAIRS: dict[str, tuple[Forward, Tensor | None]] = {
    "sum and number": (lambda m, b: (ce(m, b, "sum"), len(b[1])), None),
    "sum and a tensor of the number": (lambda m, b: (ce(m, b, "sum"), torch.tensor(float(len(b[1])))), None),
    "class weights": (
        lambda m, b: (ce(m, b, "sum", CLASS_WEIGHTS), CLASS_WEIGHTS[b[1]].sum()),
        CLASS_WEIGHTS,
    ),
    "weights per sample": (
        lambda m, b: (ce(m, b, "none", CLASS_WEIGHTS), CLASS_WEIGHTS[b[1]]),
        CLASS_WEIGHTS,
    ),
    "a mask": (
        lambda m, b: (ce(m, b, "none") * (b[1] != 1), b[1] != 1),
        torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("data", [WHOLE, SEVERAL, [(x[None], y[None]) for x, y in zip(X, Y, strict=True)]])
@pytest.mark.parametrize("case", GOOD_PAIRS)
def test_numerators_and_denominators_go_on(case: str, data: Any) -> None:
    forward, weight = GOOD_PAIRS[case]
    model = linear()
    found = Objective(model, None, data, forward=forward).evaluate()["loss"]
    assert found == pytest.approx(ce(model, (X, Y), weight=weight).item(), rel=1e-12)


def test_pairs_of_samples_are_counted_by_a_whole_number() -> None:
    """A loss that compares samples, over n(n - 1) pairs: that number is no sum over halves."""

    def pairs(m: Any, b: Any) -> tuple[Tensor, int]:
        n = len(b[1])
        return torch.cdist(m(b[0]), m(b[0])).sum(), n * (n - 1)

    model = linear()
    sums = [pairs(model, b) for b in SEVERAL]
    truth = sum(v.item() for v, _ in sums) / sum(n for _, n in sums)
    found = Objective(model, None, SEVERAL, forward=lambda m, b: pairs(m, b)).evaluate()["loss"]
    assert found == pytest.approx(truth, rel=1e-12)


# -- scalars ---------------------------------------------------------------------------------------------


def texts(lengths: list[int], width: int = 12, seed: int = 0, **more: Tensor) -> dict[str, Tensor]:
    y = torch.arange(len(lengths) * width).reshape(len(lengths), width) % 3
    y[torch.arange(width) >= torch.tensor(lengths)[:, None]] = -100
    return {"x": seeded(len(lengths), width, 5, seed=seed), "labels": y, **more}


def token_mean(m: Any, b: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(m(b["x"]).transpose(1, 2), b["labels"])


def unlabelled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"x": batch["x"], "kept": batch["labels"] != -100, "aside": torch.ones(len(batch["x"]), 2)}


def kept_mean(m: Any, b: dict[str, Tensor]) -> Tensor:
    return (m(b["x"]).square().sum(2) * b["kept"]).sum() / b["kept"].sum()


ASIDE = torch.zeros(4, 1)
SCALARS: dict[str, tuple[list[Any], Forward, str]] = {
    "batches of one text": ([texts([n], seed=n) for n in (12, 2, 7)], token_mean, "no mean over samples"),
    "batches of one text, own lengths": (
        [texts([n], n, seed=n) for n in (12, 2, 7)],
        token_mean,
        "what it is a mean over cannot be told",
    ),
    "only the last text differs": (
        [texts([6] * 4), texts([6] * 3, seed=1), texts([1], seed=2)],
        token_mean,
        "no mean over samples",
    ),
    "own lengths, something aside": (
        [texts([12] * 4, aside=ASIDE), texts([5] * 4, 5, aside=ASIDE)],
        token_mean,
        "what it is a mean over cannot be told",
    ),
    "own lengths, no labels": (
        [unlabelled(texts([12] * 4)), unlabelled(texts([5] * 4, 5))],
        kept_mean,
        "what it is a mean over cannot be told",
    ),
    "own lengths, weights last": (
        [(*texts([12] * 4).values(), torch.ones(4)), (*texts([5] * 4, 5).values(), torch.ones(4))],
        lambda m, b: token_mean(m, {"x": b[0], "labels": b[1]}),
        "what it is a mean over cannot be told",
    ),
    "class weights, batches of one": (
        [(X[i : i + 1], Y[i : i + 1]) for i in range(6)],
        lambda m, b: ce(m, b, weight=CLASS_WEIGHTS),
        "no mean over samples",
    ),
    "root of a mean": (
        [(X[i : i + 1], Y[i : i + 1]) for i in range(6)],
        lambda m, b: m(b[0]).square().mean().sqrt(),
        "no mean over samples",
    ),
}


@pytest.mark.parametrize("case", SCALARS)
def test_a_scalar_that_is_weighted_wrong_is_refused(case: str) -> None:
    data, forward, says = SCALARS[case]
    with pytest.raises(InputError, match=says):
        Objective(linear(), None, data, forward=forward)


def test_what_is_no_mean_over_samples_is_one_as_pair_or_by_number() -> None:
    data = SCALARS["batches of one text, own lengths"][0]
    model = linear()
    tokens = [int((b["labels"] != -100).sum()) for b in data]
    truth = sum(token_mean(model, b).item() * n for b, n in zip(data, tokens, strict=True)) / sum(tokens)

    def pair(m: Any, b: Any) -> tuple[Tensor, Tensor]:
        n = (b["labels"] != -100).sum()
        return token_mean(m, b) * n, n

    for arguments in (
        {"forward": pair},
        {"forward": token_mean, "batch_size": lambda b: int((b["labels"] != -100).sum())},
    ):
        found = Objective(model, None, data, **arguments).evaluate()["loss"]  # type: ignore[arg-type]
        assert found == pytest.approx(truth, rel=1e-12)


def test_batches_of_one_sample_and_of_samples_of_own_shapes_go_on() -> None:
    """Means over samples, whatever the batches: single ones, texts of their own lengths with a label each."""
    model = linear()
    single = [(x[None], y[None]) for x, y in zip(X, Y, strict=True)]
    found = Objective(model, None, single, forward=ce).evaluate()["loss"]
    assert found == pytest.approx(ce(model, (X, Y)).item(), rel=1e-12)
    own = [(seeded(4, n, 5, seed=n), Y[:4]) for n in (7, 9)]

    def pooled(m: Any, b: Any) -> Tensor:
        return F.cross_entropy(m(b[0].mean(1)), b[1])

    found = Objective(model, None, own, forward=pooled).evaluate()["loss"]
    assert found == pytest.approx(sum(pooled(model, b).item() for b in own) / 2, rel=1e-12)


def test_a_scalar_of_a_loss_over_targets_of_other_shapes_is_refused() -> None:
    data = [tuple(texts([12] * 4).values()), tuple(texts([5] * 4, 5).values())]

    def mean(o: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(o.transpose(1, 2), t)

    for arguments in ({"loss": mean}, {"metrics": {"m": mean}}, {"loss": mean, "batch_size": lambda b: b[1].numel()}):
        with pytest.raises(InputError, match="targets of other shapes from batch to batch"):
            Objective(linear(), data=data, **arguments)  # type: ignore[arg-type]
    right = Objective(linear(), "cross_entropy", data).evaluate()["loss"]
    tokens = [F.cross_entropy(linear()(x).flatten(0, 1), y.flatten(), reduction="sum").item() for x, y in data]
    assert right == pytest.approx(sum(tokens) / 68, rel=1e-12)


@pytest.mark.parametrize("data", [(X, X[:, 0]), {"x": X, "y": X[:, 0]}, [(X[:19], X[:19, 0])], [(X[:2], X[:2, 0])]])
def test_one_batch_of_outputs_with_an_axis_more_than_targets_is_refused(data: Any) -> None:
    def forward(m: Any, b: Any) -> Tensor:
        x, y = b.values() if isinstance(b, dict) else b
        return (m(x) - y).square().mean()

    with pytest.raises(InputError, match="every sample with every other"):
        Objective(linear(1), None, data, forward=forward)


LISTS: dict[str, tuple[Callable[[int, int], Any], Callable[[Any], Any]]] = {
    "samples": (lambda a, b: [{"x": X[i], "y": Y[i]} for i in range(a, b)], lambda b: [(o["x"], o["y"]) for o in b]),
    "columns": (lambda a, b: (list(X[a:b]), list(Y[a:b])), lambda b: zip(*b, strict=True)),
    "named columns": (lambda a, b: {"x": list(X[a:b]), "y": Y[a:b].tolist()}, lambda b: zip(*b.values(), strict=True)),
}


@pytest.mark.parametrize("cut", [6, 9])
@pytest.mark.parametrize("case", LISTS)
def test_sums_over_lists_are_refused_and_means_go_on(case: str, cut: int) -> None:
    make, read = LISTS[case]
    data = [make(0, cut), make(cut, 9)][: 1 + (cut < 9)]

    def total(m: Any, b: Any) -> Tensor:
        return torch.stack([F.cross_entropy(m(x[None]), torch.as_tensor(y)[None]) for x, y in read(b)]).sum()

    def mean(m: Any, b: Any) -> Tensor:
        return total(m, b) / len(list(read(b)))

    with pytest.raises(InputError, match="it is a sum"):
        Objective(linear(), None, data, forward=total)
    found = Objective(linear(), None, data, forward=mean)
    assert found.samples == 9
    assert found.evaluate()["loss"] == pytest.approx(ce(linear(), (X[:9], Y[:9])).item(), rel=1e-12)


def test_a_mean_over_nodes_of_lists_of_graphs_is_refused() -> None:
    data = [[{"x": seeded(n, 5, seed=n), "y": Y[n]} for n in sizes] for sizes in ([4, 4], [9, 9])]

    def mean(m: Any, b: Any) -> Tensor:
        return torch.cat([m(one["x"]).square().sum(1) for one in b]).mean()

    with pytest.raises(InputError, match="no mean over samples"):
        Objective(linear(), None, data, forward=mean)


ALL_AT_ONCE: dict[str, Forward] = {
    "class weights": lambda m, b: ce(m, b, weight=CLASS_WEIGHTS),
    "contrastive": lambda m, b: F.cross_entropy(m(b[0]) @ m(b[0]).T, torch.arange(len(b[0]))),
    "of pairs": lambda m, b: torch.cdist(m(b[0]), m(b[0])).mean(),
    "root": lambda m, b: m(b[0]).square().mean().sqrt(),
    "evidence": lambda m, b: torch.logdet(torch.eye(len(b[0])) + m(b[0]) @ m(b[0]).T),
}


@pytest.mark.parametrize("case", ALL_AT_ONCE)
def test_all_data_in_one_batch_need_be_no_mean_over_samples(case: str, caplog: pytest.LogCaptureFixture) -> None:
    forward, model = ALL_AT_ONCE[case], linear()
    for data in ((X, Y), WHOLE):
        found = Objective(model, None, data, forward=forward).evaluate()["loss"]
        assert found == pytest.approx(float(forward(model, (X, Y))), rel=1e-12)
    assert not caplog.records


def test_a_loss_of_booleans_is_refused_with_its_type() -> None:
    def wrong(o: Tensor, t: Tensor) -> Tensor:
        return o.argmax(1) != t

    for arguments in (
        {"loss": None, "forward": lambda m, b: wrong(m(b[0]), b[1])},
        {"loss": None, "forward": lambda m, b: wrong(m(b[0]), b[1]).any()},
        {"loss": None, "forward": lambda m, b: bool(wrong(m(b[0]), b[1]).any())},
        {"loss": None, "forward": lambda m, b: (wrong(m(b[0]), b[1]), torch.ones(len(b[1])))},
        {"loss": wrong},
    ):
        with pytest.raises(InputError, match=r"values of dtype torch\.bool and shape"):
            Objective(linear(), data=SEVERAL, **arguments)
    objective = Objective(linear(), data=(X, Y), metrics={"wrong": wrong})
    assert objective.evaluate()["wrong"] == pytest.approx(wrong(linear()(X), Y).double().mean().item())


@pytest.mark.parametrize("shift", [0.0, 100.0], ids=["some positive", "none positive"])
def test_denominators_of_a_metric_may_move(shift: float) -> None:
    """Precision: right ones among those predicted to be positive, NaN where there are none."""

    def precision(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        positive = outputs.argmax(1) == 1
        return (positive & (targets == 1)).float(), positive.float()

    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias[0] += shift
    x, y = torch.randn(30, 3), torch.randint(2, (30,))
    found = Objective(model, "cross_entropy", (x, y), metrics={"precision": precision}).evaluate()["precision"]
    positive = model(x).argmax(1) == 1
    right = (y[positive] == 1).double().mean().item()
    assert float(found) == pytest.approx(right, rel=1e-6, nan_ok=True)
