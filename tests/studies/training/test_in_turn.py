"""Sequences of tasks: against a plain loop, killed and resumed, cut short, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import training_job
from landscape_kernels.probes import derive_seed
from safetensors.torch import load_file
from test_train_models import same
from torch import Tensor, nn
from training_job import mlp

import landscape as ls
from landscape.errors import InputError, RunInterrupted
from landscape.objective.training import TrainingData
from landscape.studies.training import one

RECIPE = ls.Recipe(batch_size=8, epochs=2, lr=0.2, lr_decay=0.5, momentum=0.8)


def task_data(task: int) -> tuple[Tensor, Tensor]:
    inputs, labels = training_job.data()
    return inputs.roll(task, dims=1), labels


def in_turn(out: Path, factory: Any = mlp, **options: Any) -> ls.Training:
    asked: dict[str, Any] = {
        "recipe": RECIPE,
        "cells": {"task": [2, 0, 1]},
        "arms": [{}, {"lr_decay": 1.0}],
        "sequence": "task",
        "seeds": [3, 4],
    }
    return ls.train_models(factory, task_data, out=out, **(asked | options))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ls.Training:
    with training_job.Stopped():
        return in_turn(tmp_path_factory.mktemp("in_turn"))


def state(run: ls.Training, row: int, end: str) -> dict[str, Tensor]:
    return load_file(getattr(run.checkpoints, end)[row])


def test_each_model_begins_where_the_one_before_ended_and_equals_a_plain_loop(run: ls.Training) -> None:
    """Rows are arm by arm, task by task, seed by seed; seed 4 of the first arm is 1, 3, 5."""
    assert run.keys["task"] == (2, 2, 0, 0, 1, 1) * 2
    assert run.attributes["items"][1] == [1, 3, 5]
    model = mlp()
    model.load_state_dict(state(run, 1, "initial"))
    for place, (row, task) in enumerate(zip((1, 3, 5), (2, 0, 1), strict=True)):
        for name, value in state(run, row, "initial").items():
            torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-12, atol=1e-14)
        assert run.recipe(row) == RECIPE.with_keys(lr=0.2 * 0.5**place, lr_decay=1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2 * 0.5**place, momentum=0.8)
        drawn = TrainingData(task_data(task), 8, device=torch.device("cpu"), dtype=torch.float64)
        stream = derive_seed(4, "train", f"task={task},lr_decay=0.5")
        for epoch in range(2):
            for inputs, labels in drawn.epoch(stream, epoch):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        inputs, labels = task_data(task)
        with torch.no_grad():
            assert run.values["loss"][row, -1] == pytest.approx(
                float(F.cross_entropy(model(inputs), labels)), rel=1e-10
            )
    assert run.recipe(11).lr == 0.2  # of the arm without decay
    assert run.sequence == "task"


def with_a_frozen_layer() -> nn.Module:
    model = mlp()
    model.get_parameter(next(iter(model.state_dict()))).requires_grad_(False)
    return model


def test_weights_that_are_frozen_pass_on_too(tmp_path: Path) -> None:
    """The factory draws other ones for every task and seed."""
    run = in_turn(tmp_path, with_a_frozen_layer, arms=None)
    first, other, *later = (0, 1, 2, 4)
    name = next(iter(mlp().state_dict()))
    assert not torch.equal(state(run, first, "final")[name], state(run, other, "final")[name])
    for row in later:
        assert torch.equal(state(run, row, "initial")[name], state(run, first, "final")[name])
        model = mlp()
        model.load_state_dict(state(run, row, "final"))
        inputs, labels = task_data(run.keys["task"][row])
        with torch.no_grad():
            assert run.values["loss"][row, -1] == pytest.approx(float(F.cross_entropy(model(inputs), labels)))
    forgetting = ls.measure_forgetting(run)
    assert forgetting.complete


def test_initial_weights_of_a_later_task_are_the_final_ones_of_the_one_before(run: ls.Training) -> None:
    for row in (2, 3, 8, 9):
        for name, value in state(run, row, "initial").items():
            assert torch.equal(value, state(run, row - 2, "final")[name])
    np.testing.assert_array_equal(run.training_data(2)[0], task_data(0)[0])


def test_stopped_in_a_later_task_equals_undisturbed(
    run: ls.Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the end of a task's first epoch, where the state of the task before is on the disk, too."""
    monkeypatch.setattr(one, "SAVE_EVERY", 1e9)  # a state is left at the end of every task alone
    with training_job.Stopped(20), pytest.raises(RunInterrupted):
        in_turn(tmp_path / "run")
    with training_job.Stopped() as rest:
        resumed = in_turn(tmp_path / "run")
    assert rest.count == 4 * 3 * 12 - 12
    same(run, resumed)
    assert not (tmp_path / "run/fits").exists()


class Fragile(nn.Module):
    """Its BatchNorm statistics pass on; its loss is NaN once it has seen so many batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
        self.after = after
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return self.net(x) + torch.where(self.seen > self.after, torch.nan, 0.0)


def test_tasks_behind_one_that_diverged_are_left_out(tmp_path: Path) -> None:
    run = in_turn(tmp_path / "run", Fragile, cells={"task": [0, 1, 2], "after": [8, 100]}, arms=None, seeds=1)
    assert run.keys["after"] == (8, 100) * 3
    assert run.ended == ("diverged", "epochs", "", "epochs", "", "epochs")
    assert run.left_out == {
        0: "its loss became NaN in epoch 2",
        2: "the model before it in the sequence is left out",
        4: "the model before it in the sequence is left out",
    }
    assert run.complete
    assert run.computed.tolist() == [True, True, False, True, False, True]
    assert run.kept.tolist() == [2, 2, -1, 2, -1, 2]
    assert run.checkpoints.initial[2] is None
    assert float(state(run, 5, "final")["seen"]) == 3 * 12


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("sequence='tusk' is no key of cells.*task", {"sequence": "tusk"}),
        ("one value in cells", {"cells": {"task": [0]}}),
        ("is a key of arms, too", {"arms": [{"task": 1}, {"task": 2}]}),
        ("goes to the factory", {"cells": {"width": [4, 5], "task": [0, 1]}, "sequence": "width", "arms": None}),
        ("lr_decay is of models that are trained one after another", {"sequence": None}),
        ("train= are the same batches in every task", {"train": [training_job.data()]}),
        ("lr_decay=1.5; give more than 0 and at most 1", {"recipe": {"lr_decay": 1.5}}),
    ],
)
def test_sequences_that_cannot_be(words: str, changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        in_turn(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
