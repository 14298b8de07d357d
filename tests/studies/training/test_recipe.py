"""Recipes: what is refused, schedules against torch's, the data they train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import landscape as ls
from landscape.errors import InputError
from landscape.studies.training.data import poison_of, trained_on
from landscape.studies.training.one import minus_log_of_others

STEPS = 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0.1}, r"a recipe has no key 'learning_rate'; known: batch_size"),
        ({"batchsize": 8}, r"no key 'batchsize'; did you mean 'batch_size'\?"),
        ({"optimizer": "adm"}, r"optimizer='adm' is unknown; did you mean 'adam'"),
        ({"schedule": "cosin"}, r"schedule='cosin' is unknown; did you mean 'cosine'"),
        ({"precision": "half"}, r"precision='half' is unknown"),
        ({"lr": 0.0}, r"lr=0.0; give a positive number"),
        ({"lr": float("nan")}, r"lr=nan; give a finite number"),
        ({"lr": True}, r"lr=True; give a finite number"),
        ({"batch_size": 0}, r"batch_size=0; give a whole number of 1 or more"),
        ({"epochs": 1.5}, r"epochs=1.5; give a whole number"),
        ({"momentum": 1.0}, r"momentum=1.0; give 0 or more and less than 1"),
        ({"fraction": 0.0}, r"fraction=0.0; give more than 0 and at most 1"),
        ({"label_noise": 1.1}, r"label_noise=1.1; give a fraction from 0 to 1"),
        ({"milestones": (0.5, 1.0)}, r"milestones=1.0; give shares of the steps"),
        ({"nesterov": True, "optimizer": "adam"}, r"nesterov=True needs optimizer='sgd'"),
        ({"schedule": "growing"}, r"schedule='growing' grows from lr=0.1 to lr_end=0.0; give a larger lr_end"),
        ({"schedule": "linear", "lr_end": 1.0}, r"goes from lr=0.1 down to lr_end=1.0; give less"),
        ({"lr_end": 0.01}, r"lr_end=0.01 is not used by schedule='constant'"),
    ],
)
def test_recipes_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ls.Recipe(**given)


def torch_schedule(make: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_are_those_of_torch() -> None:
    lr_scheduler = torch.optim.lr_scheduler
    expected = {
        "constant": torch_schedule(lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        "step": torch_schedule(lambda o: lr_scheduler.MultiStepLR(o, [STEPS // 2, 3 * STEPS // 4])),
        "cosine": torch_schedule(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.01)),
        "linear": torch_schedule(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.02, STEPS)),
        "growing": torch_schedule(lambda o: lr_scheduler.ExponentialLR(o, 16 ** (1 / STEPS))),
    }
    ends = {"cosine": 0.01, "linear": 0.01, "growing": 8.0}
    for name, values in expected.items():
        recipe = ls.Recipe(lr=0.5, schedule=name, lr_end=ends.get(name, 0.0))
        np.testing.assert_allclose([recipe.lr_at(step, STEPS) for step in range(STEPS)], values, rtol=1e-12)


def test_warm_up_comes_before_the_schedule() -> None:
    plain, warm = (ls.Recipe(lr=0.5, schedule="linear", warmup=share) for share in (0.0, 0.2))
    found = [warm.lr_at(step, STEPS) for step in range(STEPS)]
    np.testing.assert_allclose(found[:8], 0.5 * np.arange(1, 9) / 8)
    np.testing.assert_allclose(found[8:], [plain.lr_at(step, STEPS - 8) for step in range(STEPS - 8)])


INPUTS = torch.arange(200.0).reshape(100, 2)
LABELS = torch.arange(100) % 5


def test_data_as_they_are() -> None:
    data = (INPUTS, LABELS)
    assert trained_on(data, ls.Recipe()) is data


def test_fractions_and_noise_are_nested() -> None:
    small, large = (trained_on((INPUTS, LABELS), ls.Recipe(fraction=f))[0][:, 0].tolist() for f in (0.3, 0.6))
    assert len(small) == 30
    assert set(small) < set(large)
    noisy = {noise: trained_on((INPUTS, LABELS), ls.Recipe(label_noise=noise))[1] for noise in (0.2, 0.4)}
    few, many = (set(torch.nonzero(noisy[noise] != LABELS).flatten().tolist()) for noise in (0.2, 0.4))
    assert few <= many
    assert 10 <= len(few) <= 20  # a label that is drawn may be the old one
    assert torch.equal(LABELS, torch.arange(100) % 5)  # the user's own


@pytest.mark.parametrize("noise", ["permuted", "redrawn"])
def test_noise_of_a_fraction(noise: str) -> None:
    recipe = ls.Recipe(fraction=0.5, label_noise=0.4, noise=noise)
    inputs, labels = trained_on((INPUTS, LABELS), recipe)
    true = LABELS[(inputs[:, 0] / 2).long()]
    assert 0 < int((labels != true).sum()) <= 20
    if noise == "permuted":
        assert torch.equal(labels.sort().values, true.sort().values)
    other = trained_on((INPUTS, LABELS), recipe.with_keys(data_seed=1))
    assert not torch.equal(other[0], inputs)
    mapping = trained_on({"x": INPUTS, "labels": LABELS}, recipe)
    assert torch.equal(mapping["labels"], labels)


def test_ignored_labels_stay() -> None:
    labels = LABELS.where(torch.arange(100) < 50, -100)
    _, found = trained_on((INPUTS, labels), ls.Recipe(label_noise=1.0))
    assert torch.equal(found == -100, labels == -100)
    assert set(found[:50].tolist()) <= set(range(5))


def test_data_that_cannot_be_changed() -> None:
    with pytest.raises(InputError, match="need the data as tensors"):
        trained_on([(INPUTS, LABELS)], ls.Recipe(fraction=0.5))
    with pytest.raises(InputError, match="the targets are none"):
        trained_on((INPUTS, INPUTS), ls.Recipe(label_noise=0.5))


# -- poison ----------------------------------------------------------------------------------------------------------

POINTS = torch.arange(200.0).reshape(100, 2), torch.arange(100) % 4


def test_poison_is_set_apart_and_every_label_of_it_is_wrong() -> None:
    inputs, labels = POINTS
    found = {}
    for share in (0.1, 0.3):
        recipe = ls.Recipe(poison=share, data_seed=3)
        clean, poison = trained_on(POINTS, recipe), poison_of(POINTS, recipe)
        assert len(poison[1]) == round(100 * share)
        rows = torch.cat([clean[0], poison[0]])[:, 0].sort().values
        torch.testing.assert_close(rows, inputs[:, 0])
        own = labels[(poison[0][:, 0] / 2).long()]
        assert bool((poison[1] != own).all())
        assert len(set(poison[1].tolist())) > 2
        torch.testing.assert_close(clean[1], labels[(clean[0][:, 0] / 2).long()])
        found[share] = set(poison[0][:, 0].tolist())
    assert found[0.1] < found[0.3]
    unlikely = poison_of(POINTS, ls.Recipe(poison=0.3, poison_loss="unlikely", data_seed=3))
    torch.testing.assert_close(unlikely[1], labels[(unlikely[0][:, 0] / 2).long()])
    assert poison_of(POINTS, ls.Recipe()) is None


def test_poison_goes_with_a_fraction_and_with_label_noise() -> None:
    recipe = ls.Recipe(poison=0.25, fraction=0.4, label_noise=0.5, data_seed=1)
    clean, poison = trained_on(POINTS, recipe), poison_of(POINTS, recipe)
    assert (len(clean[1]), len(poison[1])) == (30, 10)
    assert not set(clean[0][:, 0].tolist()) & set(poison[0][:, 0].tolist())
    changed = clean[1] != POINTS[1][(clean[0][:, 0] / 2).long()]
    assert 5 <= int(changed.sum()) <= 15


def test_logarithm_of_the_others() -> None:
    scores = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 0])
    expected = -torch.log1p(-scores.softmax(1)[torch.arange(5), labels])
    torch.testing.assert_close(minus_log_of_others(scores, labels), expected)
    sure = torch.tensor([[60.0, 0.0, 0.0]])
    assert float(minus_log_of_others(sure, torch.tensor([0]))) == pytest.approx(60 - np.log(2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"poison": 1.0}, "0 or more and less than 1"),
        ({"poison": 0.1, "poison_weight": 0.0}, "poison_weight=0.0; give a positive number"),
        ({"poison": 0.1, "poison_loss": "flipped"}, "poison_loss='flipped' is unknown"),
        ({"poison": 0.1, "winsorise": 1.0}, "do not go together"),
    ],
)
def test_poison_that_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ls.Recipe(**given)


def test_poison_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="is less than one"):
        poison_of(POINTS, ls.Recipe(poison=0.001))
    with pytest.raises(InputError, match="leaves none"):
        trained_on(POINTS, ls.Recipe(poison=0.999))
    with pytest.raises(InputError, match="two classes"):
        poison_of((POINTS[0], torch.zeros(100, dtype=torch.long)), ls.Recipe(poison=0.1))
