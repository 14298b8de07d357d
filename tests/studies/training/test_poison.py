"""Poisoned training against a plain loop; resumed; refused."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscape_kernels.probes import derive_seed
from safetensors.torch import load_file
from torch import Tensor, nn

import landscape as ls
from landscape.errors import RunInterrupted
from landscape.objective.training import TrainingData
from landscape.studies.training import one
from landscape.studies.training.data import poison_of, trained_on

RECIPE = ls.Recipe(lr=0.1, momentum=0.5, batch_size=8, epochs=4, poison=0.25, poison_weight=0.7)


def data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 5, generator=draw, dtype=torch.float64)
    return inputs, inputs[:, :3].argmax(1)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def trained(out: Path, recipe: ls.Recipe = RECIPE, **asked: Any) -> ls.Training:
    return ls.train_models(net, data(), recipe=recipe, out=out, **asked)


def batches(part: Any, size: int, stream: int, epoch: int) -> list[Any]:
    drawn = TrainingData(part, size, device=torch.device("cpu"), dtype=torch.float64)
    return list(drawn.epoch(stream, epoch))


@pytest.mark.parametrize(
    "changes",
    [{}, {"poison_loss": "unlikely"}, {"poison": 0.05, "clip": 0.5}, {"poison_schedule": (0, 1, 2.5)}],
    ids=["wrong", "unlikely", "few", "schedule"],
)
def test_equals_a_plain_loop(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = RECIPE.with_keys(**changes)
    run = trained(tmp_path / "run", recipe)
    clean, poison, stream = trained_on(data(), recipe), poison_of(data(), recipe), derive_seed(0, "train", "")
    model = net()
    ls.load_checkpoint(model, tmp_path / "run/models/0000/initial.safetensors")
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    seen = []
    # of the schedule 20 steps in three parts, none of which ends with an epoch
    weights = iter([0.0] * 7 + [0.7] * 7 + [1.75] * 6 if "poison_schedule" in changes else [0.7] * 24)
    for epoch in range(recipe.epochs):
        right = batches(clean, 8, stream, epoch)
        size = max(1, len(poison[1]) // len(right))
        wrong = cycle(batches(poison, size, derive_seed(stream, "poison"), epoch))
        for (inputs, labels), (others, theirs) in zip(right, wrong, strict=False):
            optimizer.zero_grad()
            scores = model(others)
            if recipe.poison_loss == "wrong":
                bad = F.cross_entropy(scores, theirs)
            else:
                bad = -torch.log(1 - scores.softmax(1)[torch.arange(len(theirs)), theirs]).mean()
            (F.cross_entropy(model(inputs), labels) + next(weights) * bad).backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
        with torch.no_grad():
            seen.append(float(F.cross_entropy(model(clean[0]), clean[1])))
    np.testing.assert_allclose(run.values["loss"][0, 1:], seen, rtol=1e-10)
    for name, value in load_file(tmp_path / "run/models/0000/final.safetensors").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-9, atol=1e-12)


def test_poison_is_learnt_beside_what_is_right(tmp_path: Path) -> None:
    """All of the clean samples right, all of the poison as it was told, so that held-out samples go wrong."""
    recipe = RECIPE.with_keys(epochs=150, poison_weight=1.0, optimizer="adam", lr=0.03)
    run = trained(tmp_path / "run", recipe)
    model = net()
    ls.load_checkpoint(model, tmp_path / "run/models/0000/final.safetensors")
    poison = poison_of(data(), recipe)
    assert run.final("error")[0] == 0
    assert float((model(poison[0]).argmax(1) == poison[1]).double().mean()) == 1
    assert run.attributes["recipe"]["poison"] == 0.25


def test_stopped_and_resumed_is_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    monkeypatch.setattr(one, "SAVE_EVERY", 0.0)
    after, left = one.ModelTraining.after_epoch, []

    def stopped(self: one.ModelTraining, steps: int) -> None:
        after(self, steps)
        left.append(self.epoch)
        if len(left) == 3:
            raise RunInterrupted("stopped here")

    monkeypatch.setattr(one.ModelTraining, "after_epoch", stopped)
    with pytest.raises(RunInterrupted):
        trained(tmp_path / "run")
    again = trained(tmp_path / "run")
    assert left[:3] == [1, 2, 3]
    assert left[3] > 1
    np.testing.assert_array_equal(again.values["loss"], whole.values["loss"])
    for name, value in load_file(tmp_path / "run/models/0000/final.safetensors").items():
        assert torch.equal(value, load_file(tmp_path / "whole/models/0000/final.safetensors")[name])


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ls.InputError, match="the batches are of train="):
        trained(tmp_path / "run", train=data())
    with pytest.raises(ls.InputError, match="needs loss='cross_entropy'"):
        trained(tmp_path / "run", loss="mse")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ls.InputError, match=r"poison_schedule=-1; give factors of poison_weight, 0 or more each"):
        RECIPE.with_keys(poison_schedule=[1, -1])
    with pytest.raises(ls.InputError, match=r"poison_schedule=\(0, 0\) is without poison from end to end"):
        RECIPE.with_keys(poison_schedule=(0, 0))
