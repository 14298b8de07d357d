"""Losses and metrics against torch's own mean over the whole set, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from landscape_kernels.moments import MOMENTS, moments_, ratio
from torch import Tensor, nn

from landscape.errors import InputError, UserCodeError
from landscape.objective.described import describe_callable
from landscape.objective.losses import loss_quantity, metric_quantities, named_losses, named_metrics
from landscape.objective.units import Quantity, values_as_units

N = 37


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


LOSS = Quantity("loss", "cross_entropy", lambda outputs, targets: None)  # type: ignore[arg-type,return-value]


def measured(quantity: Quantity, outputs: Any, targets: Any, size: int = 8) -> tuple[float, float, int]:
    """Value, stderr and units over ragged batches."""
    rows = range(0, len(targets), size)
    sums = torch.zeros(len(rows), MOMENTS, dtype=torch.float64)
    for out, i in zip(sums, rows, strict=True):
        units = quantity.units(outputs[i : i + size], targets[i : i + size])
        moments_(out, units.numerators, units.denominators)
    return ratio(sums.sum(0).numpy())


SCORES, TOKENS = seeded(N, 5), seeded(N, 7, 5)
CLASSES, TOKEN_CLASSES = labels(N, classes=5), labels(N, 7, classes=5)
IGNORED = CLASSES.where(CLASSES != 2, -100)
HIDDEN = TOKEN_CLASSES.where(seeded(N, 7, seed=3) > 0, -100)
VOID = CLASSES.where(CLASSES != 2, 255)
WEIGHT = seeded(5).abs()
SOFT = seeded(N, 5, seed=5).softmax(1)
GRID = seeded(N, 5, seed=6)

# outputs, targets, loss given, torch's own mean over everything at once
CASES: dict[str, tuple[Tensor, Tensor, Any, Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": (SCORES, CLASSES, "cross_entropy", F.cross_entropy),
    "nll": (SCORES.log_softmax(1), CLASSES, "nll", F.nll_loss),
    "mse": (SCORES, GRID, "mse", F.mse_loss),
    "l1": (SCORES, GRID, "l1", F.l1_loss),
    "smooth_l1": (SCORES, GRID, "smooth_l1", F.smooth_l1_loss),
    "huber": (SCORES, GRID, "huber", F.huber_loss),
    "bce": (SCORES, SOFT, "binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits),
    "multi_margin": (SCORES, CLASSES, "multi_margin", F.multi_margin_loss),
    "mse of counts": (SCORES, CLASSES[:, None].repeat(1, 5) - 100, "mse", F.mse_loss),
    "soft labels": (SCORES, SOFT, "cross_entropy", F.cross_entropy),
    "default ignore": (SCORES, IGNORED, "cross_entropy", F.cross_entropy),
    "tokens last": (
        TOKENS,
        TOKEN_CLASSES,
        "cross_entropy",
        lambda o, t: F.cross_entropy(o.reshape(-1, 5), t.reshape(-1)),
    ),
    "tokens ignored": (TOKENS, HIDDEN, "cross_entropy", lambda o, t: F.cross_entropy(o.transpose(1, 2), t)),
    "classes second": (TOKENS.transpose(1, 2), HIDDEN, "cross_entropy", F.cross_entropy),
    "criterion": (SCORES, CLASSES, nn.CrossEntropyLoss(), F.cross_entropy),
    "criterion sum": (SCORES, CLASSES, nn.CrossEntropyLoss(reduction="sum"), F.cross_entropy),
    "criterion none": (SCORES, CLASSES, nn.CrossEntropyLoss(reduction="none"), F.cross_entropy),
    "float32 weights": (
        SCORES,
        CLASSES,
        nn.CrossEntropyLoss(weight=WEIGHT.float()),
        partial(F.cross_entropy, weight=WEIGHT.float().double()),
    ),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "weights": {"weight": WEIGHT},
    "smoothing": {"label_smoothing": 0.2},
    "weights and smoothing": {"weight": WEIGHT, "label_smoothing": 0.2},
    "weights, smoothing, ignored": {"weight": WEIGHT, "label_smoothing": 0.2, "ignore_index": 2},
}
for name, settings in SETTINGS.items():
    CASES[f"criterion {name}"] = (
        SCORES,
        CLASSES,
        nn.CrossEntropyLoss(**settings),
        partial(F.cross_entropy, **settings),
    )
    CASES[f"partial {name}"] = (
        SCORES,
        CLASSES,
        partial(F.cross_entropy, **settings),
        partial(F.cross_entropy, **settings),
    )
void: dict[str, Any] = {"weight": WEIGHT, "ignore_index": 255}
CASES |= {
    "ignored label beyond the classes": (SCORES, VOID, nn.CrossEntropyLoss(**void), partial(F.cross_entropy, **void)),
    "functional": (SCORES, CLASSES, F.cross_entropy, F.cross_entropy),
    "functional sum": (SCORES, GRID, partial(F.mse_loss, reduction="sum"), F.mse_loss),
    "mse criterion": (SCORES, GRID, nn.MSELoss(), F.mse_loss),
    "kl batchmean": (
        SCORES.log_softmax(1),
        SOFT,
        nn.KLDivLoss(reduction="batchmean"),
        partial(F.kl_div, reduction="batchmean"),
    ),
    "poisson counts": (SCORES, CLASSES[:, None].repeat(1, 5), nn.PoissonNLLLoss(), F.poisson_nll_loss),
    "lambda mean": (SCORES, CLASSES, lambda o, t: F.cross_entropy(o, t), F.cross_entropy),
    "lambda sum": (SCORES, CLASSES, lambda o, t: F.cross_entropy(o, t, reduction="sum"), F.cross_entropy),
    "lambda per sample": (SCORES, GRID, lambda o, t: ((o - t) ** 2).mean(1), F.mse_loss),
    "lambda per element": (SCORES, GRID, lambda o, t: (o - t) ** 2, F.mse_loss),
    "lambda pair": (
        TOKENS,
        HIDDEN,
        lambda o, t: (F.cross_entropy(o.transpose(1, 2), t, reduction="none"), t != -100),
        lambda o, t: F.cross_entropy(o.transpose(1, 2), t),
    ),
    "lambda pair of sums": (
        TOKENS,
        HIDDEN,
        lambda o, t: (F.cross_entropy(o.transpose(1, 2), t, reduction="sum"), (t != -100).sum()),
        lambda o, t: F.cross_entropy(o.transpose(1, 2), t),
    ),
    "lambda that vmap refuses": (
        SCORES,
        GRID,
        lambda o, t: (o - t).pow(2).mean() if float(o[0, 0]) < 9 else o.sum(),
        F.mse_loss,
    ),
    "booleans per token": (
        TOKENS,
        TOKEN_CLASSES,
        lambda o, t: o.argmax(2) == t,
        lambda o, t: (o.argmax(2) == t).double().mean(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_value_is_torchs_mean_over_everything(case: str) -> None:
    outputs, targets, loss, truth = CASES[case]
    quantity = loss_quantity(loss, outputs[:16], targets[:16])
    value, _, _ = measured(quantity, outputs, targets)
    assert value == pytest.approx(float(truth(outputs, targets)), rel=1e-12)


@pytest.mark.parametrize("case", ["cross_entropy", "mse", "lambda mean", "lambda sum", "lambda per element"])
def test_stderr_is_that_of_the_per_sample_losses(case: str) -> None:
    outputs, targets, loss, truth = CASES[case]
    each = torch.stack([truth(outputs[i : i + 1], targets[i : i + 1]) for i in range(N)])
    _, stderr, units = measured(loss_quantity(loss, outputs[:16], targets[:16]), outputs, targets)
    assert stderr == pytest.approx(float(each.std() / math.sqrt(N)), rel=1e-9)
    assert units == N


def test_tokens_of_a_pair_are_added_up_per_sample() -> None:
    outputs, targets, loss, _ = CASES["lambda pair"]
    named = measured(loss_quantity("cross_entropy", outputs, targets), outputs, targets)
    assert measured(loss_quantity(loss, outputs, targets), outputs, targets) == pytest.approx(named, rel=1e-12)
    assert named[2] == N


def test_a_sum_is_known_as_such_from_a_single_sample() -> None:
    def total(o: Tensor, t: Tensor) -> Tensor:
        if float(o[0, 0]) > 99:  # vmap refuses this, so that batches are units
            raise ValueError
        return ((o - t) ** 2).sum()

    value, _, _ = measured(loss_quantity(total, SCORES[:1], GRID[:1]), SCORES, GRID)
    assert value == pytest.approx(5 * float(F.mse_loss(SCORES, GRID)), rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: F.cross_entropy(o.transpose(1, 2), t),  # mean over kept tokens
        lambda o, t: F.cross_entropy(o[:, 0], t[:, 0].clamp(min=0)) ** 2,
        lambda o, t: o.std(),
    ],
)
def test_scalars_that_batches_cannot_weigh_are_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(InputError, match=r"neither the mean .* nor the sum .* \(numerators, denominators\) pair"):
        loss_quantity(loss, TOKENS, HIDDEN)


def test_targets_that_would_broadcast_are_refused() -> None:
    column, row = seeded(N, 1), seeded(N)
    for loss in ("mse", nn.MSELoss(), F.l1_loss):
        for outputs, targets in ((column, row), (row, column), (column, CLASSES), (SCORES[:5], CLASSES[:5])):
            quantity = loss_quantity(loss, outputs, targets)
            with pytest.raises(InputError, match="broadcasting"):
                quantity.units(outputs, targets)


def test_axes_that_both_could_hold_classes_are_refused() -> None:
    outputs, targets = seeded(N, 5, 5), labels(N, 5, classes=5)
    with pytest.raises(InputError, match="either of the last two axes"):
        loss_quantity("cross_entropy", outputs, targets).units(outputs, targets)


def test_shapes_that_cannot_be_units_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\) for a batch of 4 samples"):
        values_as_units(torch.zeros(3), 4, "it")
    with pytest.raises(InputError, match="must agree"):
        values_as_units((torch.zeros(4), torch.zeros(3)), 4, "it")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'cross_entropy'"):
        loss_quantity("crossentropy", SCORES, CLASSES)
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        metric_quantities(["acuracy"], SCORES, CLASSES, LOSS)
    with pytest.raises(InputError, match="taken"):
        metric_quantities(["accuracy", "accuracy"], SCORES, CLASSES, LOSS)
    with pytest.raises(InputError, match="taken"):
        metric_quantities({"loss": F.mse_loss}, SCORES, CLASSES, LOSS)
    assert "mse" in named_losses()
    assert named_metrics() == ("accuracy", "error")


LOGITS = seeded(N)
METRIC_CASES: dict[str, tuple[Tensor, Tensor, int, Tensor]] = {
    "classes": (SCORES, CLASSES, -100, (SCORES.argmax(1) == CLASSES).double().mean()),
    "ignored": (SCORES, IGNORED, -100, (SCORES.argmax(1) == CLASSES)[CLASSES != 2].double().mean()),
    "the loss' own ignored": (SCORES, CLASSES, 2, (SCORES.argmax(1) == CLASSES)[CLASSES != 2].double().mean()),
    "tokens": (TOKENS, HIDDEN, -100, (TOKENS.argmax(2) == HIDDEN)[HIDDEN >= 0].double().mean()),
    "one hot": (SCORES, F.one_hot(CLASSES, 5).double(), -100, (SCORES.argmax(1) == CLASSES).double().mean()),
    "plus and minus one": (
        SCORES,
        2 * F.one_hot(CLASSES, 5).double() - 1,
        -100,
        (SCORES.argmax(1) == CLASSES).double().mean(),
    ),
    "one logit": (LOGITS, (CLASSES > 2).double(), -100, ((LOGITS > 0) == (CLASSES > 2)).double().mean()),
    "one column": (LOGITS[:, None], (CLASSES > 2).long(), -100, ((LOGITS > 0) == (CLASSES > 2)).double().mean()),
}


@pytest.mark.parametrize("case", METRIC_CASES)
def test_accuracy_and_error(case: str) -> None:
    outputs, targets, ignored, truth = METRIC_CASES[case]
    accuracy, error = metric_quantities(
        ["accuracy", "error"], outputs, targets, dataclasses.replace(LOSS, ignored=ignored)
    )
    value, stderr, _ = measured(accuracy, outputs, targets)
    assert value == pytest.approx(float(truth), rel=1e-12)
    opposite, same_error, _ = measured(error, outputs, targets)
    assert opposite == pytest.approx(1 - value, rel=1e-12)
    assert same_error == pytest.approx(stderr, rel=1e-9)


def test_accuracy_of_several_labels_is_refused() -> None:
    several = (seeded(N, 5) > 0).double()
    (accuracy,) = metric_quantities(["accuracy"], SCORES, several, LOSS)
    with pytest.raises(InputError, match="several labels at once"):
        accuracy.units(SCORES, several)


def test_metrics_are_named_by_key_or_function() -> None:
    def top_two(o: Tensor, t: Tensor) -> Tensor:
        return (o.topk(2, 1).indices == t[:, None]).any(1)

    (quantity,) = metric_quantities([top_two], SCORES, CLASSES, LOSS)
    assert quantity.name == "top_two"
    (renamed,) = metric_quantities({"second": top_two}, SCORES, CLASSES, LOSS)
    truth = float(top_two(SCORES, CLASSES).double().mean())
    assert (renamed.name, measured(renamed, SCORES, CLASSES)[0]) == ("second", pytest.approx(truth))


def make(alpha: float, table: frozenset[str] = frozenset()) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda o, t: alpha * F.mse_loss(o, t)


def test_descriptions_tell_settings_apart_and_hold_no_addresses() -> None:
    different = [
        make(0.1),
        make(0.2),
        lambda o, t: (o - t).mean(),
        lambda o, t: (o + t).mean(),
        lambda o, t, k=1: (o + t).mean(),
        lambda o, t, k=2: (o + t).mean(),
        lambda o, t: sum(a * 2 for a in o),
        lambda o, t: sum(a * 3 for a in o),
        partial(F.huber_loss, delta=1.0),
        partial(F.huber_loss, delta=2.0),
        partial(make, 1.0),
        partial(make, 2.0),
        nn.CrossEntropyLoss(weight=WEIGHT),
        nn.CrossEntropyLoss(weight=2 * WEIGHT),
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
    ]
    texts = [describe_callable(f) for f in different]
    assert len(set(texts)) == len(texts)
    assert not any(" at 0x" in text for text in texts)
    assert describe_callable(make(0.1)) == describe_callable(make(0.1))
    assert describe_callable(nn.CrossEntropyLoss(reduction="none").eval()).count("reduction='none'") == 1


def test_a_sum_that_is_zero_on_the_trial_is_still_a_sum() -> None:
    """The first samples all right: a count of errors is zero as a mean and as a sum."""
    outputs = torch.eye(4)[torch.arange(40) % 4]
    targets = (torch.arange(40) % 4) ^ (torch.arange(40) >= 20)

    def wrong(o: Tensor, t: Tensor) -> Tensor:
        return (o.argmax(1) != t).sum().float()

    (quantity,) = metric_quantities({"wrong": wrong}, outputs, targets, LOSS)
    value, _, _ = measured(quantity, outputs, targets)
    assert value == pytest.approx(0.5)


def test_a_scalar_that_is_always_zero_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be told"):
        metric_quantities({"nothing": lambda o, t: 0 * o.sum()}, SCORES, CLASSES, LOSS)


@pytest.mark.parametrize("name", ["my metric", "a/b", "computed", "items", "x", "loss_stderr", "<lambda>"])
def test_names_a_file_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="metric name"):
        metric_quantities({name: lambda o, t: (o.argmax(1) == t).float()}, SCORES, CLASSES, LOSS)


@pytest.mark.parametrize("ignored", [-100, 0, 3])
def test_accuracy_where_scores_are_equal_or_none(ignored: int) -> None:
    """The first of equal scores counts; of scores that are NaN none is the largest; labels may be left out."""
    scores = torch.tensor(
        [[1.0, 2, 2], [3, 3, 3], [math.nan, 0, 1], [-math.inf, -math.inf, -math.inf], [0, math.inf, 1]]
    )
    labels = torch.tensor([1, 0, 2, 0, 2]).where(torch.tensor([True, True, True, ignored != 3, True]), ignored)
    (accuracy,) = metric_quantities(["accuracy"], scores, labels, dataclasses.replace(LOSS, ignored=ignored))
    units = accuracy.units(scores, labels)
    right = torch.tensor([1.0, 1, math.nan, 1, 0], dtype=torch.float64)
    kept = labels != ignored
    expected = right.where(kept, 0).where(~right.isnan(), right)
    assert torch.equal(units.numerators.nan_to_num(7.0), expected.nan_to_num(7.0))
    if bool(kept.all()):
        assert units.denominators is None
    else:
        assert units.denominators is not None
        assert torch.equal(units.denominators, kept.double())


def test_accuracy_of_probabilities() -> None:
    """Sigmoid outputs and BCELoss: one half is the threshold, as 0 is for logits."""
    probabilities = torch.tensor([0.2, 0.7, 0.4, 0.9])
    truth = torch.tensor([0.0, 1.0, 1.0, 1.0])
    loss = loss_quantity(nn.BCELoss(), probabilities, truth)
    (accuracy,) = metric_quantities(["accuracy"], probabilities, truth, loss)
    assert measured(accuracy, probabilities, truth)[0] == pytest.approx(0.75)
    loss = loss_quantity(nn.BCEWithLogitsLoss(), probabilities, truth)
    (accuracy,) = metric_quantities(["accuracy"], probabilities.logit(), truth, loss)
    assert measured(accuracy, probabilities.logit(), truth)[0] == pytest.approx(0.75)


# -- whole numbers as targets ----------------------------------------------------------------------------

LABELS = torch.arange(12) % 3
KINDS = (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
OF_CLASSES: dict[str, Any] = {
    "cross_entropy": "cross_entropy",
    "nll": "nll",
    "multi_margin": "multi_margin",
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), ignore_index=2),
    "functional": partial(F.cross_entropy, label_smoothing=0.1),
}


@pytest.mark.parametrize("case", OF_CLASSES)
def test_numbers_of_classes_are_the_same_in_any_type(case: str) -> None:
    outputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    quantity = loss_quantity(OF_CLASSES[case], outputs, LABELS)
    truth = quantity.units(outputs, LABELS)
    (accuracy,) = metric_quantities(["accuracy"], outputs, LABELS, quantity)
    right = accuracy.units(outputs, LABELS).numerators
    for kind in KINDS:
        targets = LABELS.to(kind)
        loss = loss_quantity(OF_CLASSES[case], outputs, targets)
        assert torch.equal(loss.units(outputs, targets).numerators, truth.numerators)
        assert loss.units(outputs, targets).total == truth.total
        (accuracy,) = metric_quantities(["accuracy"], outputs, targets, loss)
        assert torch.equal(accuracy.units(outputs, targets).numerators, right)


@pytest.mark.parametrize("loss", ["binary_cross_entropy_with_logits", "mse", "huber", nn.BCEWithLogitsLoss()])
def test_whole_numbers_are_values_where_losses_take_values(loss: Any) -> None:
    outputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = LABELS[:, None].expand(12, 3) % 2
    truth = loss_quantity(loss, outputs, targets.float()).units(outputs, targets.float()).numerators
    (gradient,) = torch.autograd.grad(truth.sum(), outputs, retain_graph=True)
    for kind in (*KINDS, torch.int64, torch.bool):
        found = loss_quantity(loss, outputs, targets.to(kind)).units(outputs, targets.to(kind)).numerators
        assert torch.equal(found, truth)
        assert torch.equal(torch.autograd.grad(found.sum(), outputs)[0], gradient)


def test_labels_that_no_loss_can_take_are_told_with_what_can() -> None:
    outputs = torch.randn(12, 3)
    one_hot = F.one_hot(LABELS, 3)
    with pytest.raises(
        InputError, match=r"int64 \(12, 3\), whole numbers of the outputs' shape .*y.argmax\(1\), or y.flo"
    ):
        loss_quantity("cross_entropy", outputs, one_hot).units(outputs, one_hot)
    huge = torch.full((12,), 2**64 - 1, dtype=torch.uint64)
    with pytest.raises(InputError, match="uint64 is larger than int64 holds"):
        loss_quantity("cross_entropy", outputs, huge).units(outputs, huge)

    def own(o: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(o, t, reduction="none")

    quantity = loss_quantity("cross_entropy", outputs, LABELS)
    for labels, says in ((LABELS.int(), "targets are int32: .*int64, as y.long"), (LABELS.to(torch.uint16), "uint16")):
        with pytest.raises(UserCodeError, match=f"loss cannot be .*{says}"):
            loss_quantity(own, outputs, labels)
        with pytest.raises(UserCodeError, match=f"mine cannot be .*{says}"):
            metric_quantities({"mine": own}, outputs, labels, quantity)
