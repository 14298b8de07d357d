"""train_models: against a plain loop, killed and resumed, on ranks, left out, refused."""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import training_job
from conftest import RunMpi
from landscape_kernels.descent import Descent
from landscape_kernels.probes import derive_seed
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training_job import RECIPE, SAMPLES, data, mlp, net, trained

import landscape as ls
from landscape.errors import InputError, RunInterrupted
from landscape.objective.graphs import Looks
from landscape.objective.training import TrainingData
from landscape.studies.training import one, plan, together
from landscape.studies.training.data import trained_on
from landscape.studies.training.tables import training_tables

ONE: dict[str, Any] = {"cells": None, "seeds": 1}


def bits(training: ls.Training) -> dict[str, np.ndarray]:
    """All numbers of a training, its weights among them."""
    found = dict(training.values)
    found |= {f"{name}_stderr": values for name, values in training.stderr.items()}
    found |= {name: getattr(training, name) for name in ("kept", "epochs", "steps", "computed")}
    table = training.checkpoints
    for row in range(len(table)):
        for end, paths in (("initial", table.initial), ("final", table.final)):
            path = paths[row]
            if path is not None:
                found |= {f"{row}.{end}.{name}": value.numpy() for name, value in load_file(path).items()}
    return found


def same(a: ls.Training, b: ls.Training) -> None:
    one, other = bits(a), bits(b)
    assert list(one) == list(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert (a.ended, a.left_out, a.keys, a.seed) == (b.ended, b.left_out, b.keys, b.seed)


# -- against a plain loop ---------------------------------------------------------------------------------------------


def plain(
    model: nn.Module, recipe: ls.Recipe, batches: Callable[[int], list[tuple[Tensor, Tensor]]], **sizes: Any
) -> list[list[float]]:
    """[training loss, error, held-out loss, error] before and after each epoch of a loop as one writes it."""
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    own = {"momentum": recipe.momentum, "nesterov": recipe.nesterov} if recipe.optimizer == "sgd" else {}
    optimizer = kinds[recipe.optimizer](model.parameters(), lr=1.0, weight_decay=recipe.weight_decay, **own)
    seen = [looked(model, recipe)]
    per_epoch = len(batches(0))
    step, total = 0, recipe.epochs * per_epoch
    for epoch in range(recipe.epochs):
        model.train()
        for inputs, labels in batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            cosine = (1 + math.cos(math.pi * step / total)) / 2
            optimizer.param_groups[0]["lr"] = recipe.lr * (cosine if recipe.schedule == "cosine" else 1)
            optimizer.step()
            step += 1
        seen.append(looked(model, recipe))
    return seen


def looked(model: nn.Module, recipe: ls.Recipe) -> list[float]:
    model.eval()
    found = []
    with torch.no_grad():
        for inputs, labels in (trained_on(data(), recipe), data(1)):
            outputs = model(inputs)
            found += [float(F.cross_entropy(outputs, labels)), float((outputs.argmax(1) != labels).double().mean())]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "lr": 0.01, "clip": None},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "schedule": "constant"},
        {"nesterov": True, "fraction": 0.7, "label_noise": 0.3},
    ],
    ids=["sgd", "adam", "adamw", "noise"],
)
def test_equals_a_plain_loop(changes: dict[str, Any], tmp_path: Path) -> None:
    """With the same batches, on a net with BatchNorm."""
    recipe = RECIPE.with_keys(**changes)
    training = trained(tmp_path / "run", recipe=recipe, cells={"dropout": [0.0]}, seeds=[3])
    stream = derive_seed(3, "train", "dropout=0.0")
    drawn = TrainingData(trained_on(data(), recipe), 8, device=torch.device("cpu"), dtype=torch.float64)
    model = net(dropout=0.0)
    ls.load_checkpoint(model, tmp_path / "run/models/0000/initial.safetensors")
    expected = plain(model, recipe, lambda epoch: list(drawn.epoch(stream, epoch)))
    for k, name in enumerate(("loss", "error", "test_loss", "test_error")):
        np.testing.assert_allclose(training.values[name][0], [seen[k] for seen in expected], rtol=1e-10, err_msg=name)
    for name, value in load_file(tmp_path / "run/models/0000/final.safetensors").items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_the_users_world_stays_and_the_initial_weights_are_the_factorys(tmp_path: Path) -> None:
    """The caller's random streams go on; seeds give other weights, and the same whatever other cells there are."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a = trained(tmp_path / "a")
    assert torch.equal(torch.rand(3), expected)
    b = trained(tmp_path / "b", cells={"width": [6], "lr": [0.2]}, seeds=[1])
    assert (a.keys["width"][7], a.keys["lr"][7], a.seed[7]) == (6, 0.2, 1)
    for name in a.values:
        np.testing.assert_array_equal(a.values[name][7], b.values[name][0])
    first, second = (load_file(a.checkpoints.initial[row])["0.weight"] for row in (0, 1))
    assert not torch.equal(first, second)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(derive_seed(1, "train", "width=4,lr=0.05"), "initial") % 2**63)
        assert torch.equal(net(4)[0].weight, second)


def test_the_table_and_what_it_was_made_with(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", factory := net)
    table = run.checkpoints
    assert table.keys == {"width": (4, 4, 4, 4, 6, 6, 6, 6), "lr": (0.05, 0.05, 0.2, 0.2, 0.05, 0.05, 0.2, 0.2)}
    assert table.seed == (0, 1) * 4
    np.testing.assert_array_equal(table.values["test_error"], run.values["test_error"][:, -1])
    model = net(6)
    ls.load_checkpoint(model, table.final[4])
    objective = ls.Objective(model, "cross_entropy", data(), metrics=("error",))
    assert float(objective.evaluate()["loss"]) == pytest.approx(table.values["loss"][4], rel=1e-12)
    assert run.factory is factory
    assert run.training_data(0)[0].equal(data()[0])
    assert run.recipe(2) == RECIPE.with_keys(lr=0.2)
    again = trained(tmp_path / "run", factory)  # found finished
    assert again.factory is factory
    assert again.test is not None
    same(run, again)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    for opened in (ls.open(moved), ls.open(moved / "landscape.h5")):
        assert isinstance(opened, ls.Training)
        assert opened.factory is None
        same(run.at(moved), opened)
        with pytest.raises(InputError, match="opened from its folder"):
            opened.training_data()


# -- resuming, ranks --------------------------------------------------------------------------------------------------


def test_stopped_twice_equals_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one, "SAVE_EVERY", 0.0)
    steps = RECIPE.epochs * 6
    asked = {"recipe": RECIPE.with_keys(keep="best", optimizer="adam"), "cells": {"width": [4]}, "trajectory": 5}
    with training_job.Stopped() as all_steps:
        whole = trained(tmp_path / "whole", **asked)
    assert all_steps.count == 2 * steps
    for step in (15, 20):
        with training_job.Stopped(step), pytest.raises(RunInterrupted):
            trained(tmp_path / "run", **asked)
    with training_job.Stopped() as rest:
        resumed = trained(tmp_path / "run", **asked)
    assert rest.count < 2 * steps - 12
    same(whole, resumed)
    assert not (tmp_path / "run/fits").exists()
    for row in (0, 1):
        states = sorted((tmp_path / f"run/models/{row:04d}/trajectory").iterdir())
        assert [path.name for path in states] == [f"step-{step:08d}.safetensors" for step in range(0, steps + 1, 5)]
        other = tmp_path / f"whole/models/{row:04d}/trajectory"
        assert all(path.read_bytes() == (other / path.name).read_bytes() for path in states)


@pytest.mark.mpi
def test_killed_on_two_ranks_and_resumed_on_one_is_the_serial_run(run_mpi: RunMpi, tmp_path: Path) -> None:
    with training_job.Stopped():
        whole = trained(tmp_path / "whole")
    done = run_mpi(2, "training_job.py", tmp_path, 40)
    assert done.returncode != 0
    states = list((tmp_path / "run/fits").iterdir())
    assert states
    with training_job.Stopped() as rest:
        resumed = trained(tmp_path / "run")
    assert rest.count < 8 * RECIPE.epochs * 6 - 8
    same(whole, resumed)


def test_a_damaged_state_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one, "SAVE_EVERY", 0.0)
    with training_job.Stopped(15), pytest.raises(RunInterrupted):
        trained(tmp_path / "run", **ONE)
    state = tmp_path / "run/fits/0000.npz"
    whole = state.read_bytes()
    state.write_bytes(whole[:-30])
    with pytest.raises(ls.StoreError, match=r"0000\.npz.*Delete it; the training of this model then starts anew"):
        trained(tmp_path / "run", **ONE)
    state.write_bytes(whole)
    with pytest.raises(InputError, match=r"(?s)holds a different run.*recipe"):
        trained(tmp_path / "run", recipe=RECIPE.with_keys(weight_decay=0.5), **ONE)


@pytest.mark.parametrize("batched", [False, True])
def test_no_step_waits_for_a_device(batched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are looked at after an epoch alone, as large as it may be."""
    for name in ("losses.on_host", "graphs.is_host"):
        monkeypatch.setattr(f"landscape.objective.{name}", lambda where: False)
    looks, steps = Looks(), 0
    kind = together.SeedsTraining if batched else one.ModelTraining
    run = kind._run_epoch

    def counted(self: Any, *given: Any) -> None:
        nonlocal steps
        before = self._steps
        with looks:
            run(self, *given)
        steps += self._steps - before

    monkeypatch.setattr(kind, "_run_epoch", counted)
    recipe = RECIPE.with_keys(epochs=2, clip=1.0)
    trained(tmp_path / "run", mlp, batched=batched, recipe=recipe, cells={"width": [4]}, seeds=2)
    assert steps > 8
    assert not looks.counted


# -- all seeds as one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "keep"), [("sgd", "last"), ("adam", "best")])
def test_seeds_trained_as_one_have_the_same_losses(optimizer: str, keep: str, tmp_path: Path) -> None:
    """Also where one ends before the others; on a part of the data, with noisy labels."""
    recipe = RECIPE.with_keys(optimizer=optimizer, epochs=8, stop_loss=0.85, keep=keep, fraction=0.7, label_noise=0.2)
    asked: dict[str, Any] = {"recipe": recipe, "cells": {"width": [4], "lr": [0.02, 0.2]}, "seeds": 3}
    alone = trained(tmp_path / "alone", mlp, batched=False, **asked)
    as_one = trained(tmp_path / "together", mlp, batched=True, **asked)
    assert len(as_one.attributes["items"]) == 2
    assert len(set(alone.epochs.tolist())) > 1
    assert as_one.epochs.tolist() == alone.epochs.tolist()
    assert as_one.ended == alone.ended
    assert as_one.kept.tolist() == alone.kept.tolist()
    for name, values in alone.values.items():
        np.testing.assert_allclose(as_one.values[name], values, rtol=1e-10, atol=1e-12, err_msg=name)
    for ours, theirs in zip(as_one.checkpoints.final, alone.checkpoints.final, strict=True):
        for name, value in load_file(theirs).items():
            torch.testing.assert_close(load_file(ours)[name], value, rtol=1e-9, atol=1e-12)


def test_seeds_trained_as_one_are_resumed_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one, "SAVE_EVERY", 0.0)
    asked: dict[str, Any] = {"cells": {"width": [4]}, "seeds": 3, "batched": True}
    whole = trained(tmp_path / "whole", mlp, **asked)

    steps = 0
    step = Descent.step

    def stopping(self: Descent, gradient: Tensor, lr: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, gradient, lr)

    monkeypatch.setattr(Descent, "step", stopping)
    with pytest.raises(RunInterrupted):
        trained(tmp_path / "run", mlp, **asked)
    steps = 100
    resumed = trained(tmp_path / "run", mlp, **asked)
    assert steps < 100 + RECIPE.epochs * 6
    same(whole, resumed)
    with pytest.raises(InputError, match=r"(?s)holds a different run.*items"):
        trained(tmp_path / "run", mlp, **{**asked, "batched": False})


def test_by_default_small_networks_are_trained_as_one_by_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_LEAST_STEPS", 24)
    monkeypatch.setattr(plan, "MOST_OPERATIONS", 6 * 24 * 8)  # of the 24 weights that are multiplied, batches of 8
    asked: dict[str, Any] = {"recipe": RECIPE.with_keys(epochs=1), "cells": {"batch_size": [4, 8, 16]}}
    run = trained(tmp_path / "run", mlp, **asked)
    assert run.attributes["items"] == [[0, 1], [2, 3], [4], [5]]
    monkeypatch.setattr(plan, "_LEAST_STEPS", 100)
    assert len(trained(tmp_path / "few", mlp, **asked).attributes["items"]) == 6


def test_dropout_buffers_and_other_data_are_trained_alone(tmp_path: Path) -> None:
    def items(name: str, factory: Any, **options: Any) -> int:
        run = trained(tmp_path / name, factory, recipe=RECIPE.with_keys(epochs=1), batched=True, cells=None, **options)
        return len(run.attributes["items"])

    def dropout() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()

    class Shifted(nn.Module):
        """What it adds is no parameter, and each seed's own."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.shift = mlp(), torch.rand((), dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + self.shift)

    class Skipping(nn.Module):
        """What it skips in train mode is up to Python's random numbers, which tracing would not draw again."""

        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) if not self.training or random.random() < 0.999 else self.net(-x)

    assert items("mlp", mlp) == 1
    assert items("skipping", Skipping) == 2
    assert items("shifted", Shifted) == 2
    assert items("dropout", dropout) == 2
    assert items("buffers", net) == 2
    assert items("loader", mlp, train=[data()]) == 2
    assert items("loss", mlp, loss=nn.CrossEntropyLoss()) == 2


# -- how a training ends ----------------------------------------------------------------------------------------------


def test_a_loss_that_becomes_nan_leaves_the_model_out(tmp_path: Path) -> None:
    class Breaking(nn.Module):
        """Its loss is NaN once it has seen so many batches."""

        def __init__(self, after: int) -> None:
            super().__init__()
            self.net, self.after = mlp(), after
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen += 1
            return self.net(x) + torch.where(self.seen > self.after, math.nan, 0.0)

    run = trained(tmp_path / "run", Breaking, cells={"after": [14, 100]}, seeds=1)
    assert run.left_out == {0: "its loss became NaN in epoch 3"}
    assert run.ended == ("diverged", "epochs")
    assert run.complete
    assert np.isfinite(run.values["loss"][0]).tolist() == [True, True, True, False, False]
    table = run.checkpoints
    assert table.final[0] is None
    assert table.final[1] is not None
    assert table.initial[0] is not None
    assert math.isnan(table.values["loss"][0])
    assert table.trained() == (1,)
    same(run, ls.open(tmp_path / "run"))


def test_a_loss_that_becomes_infinite(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", mlp, recipe=RECIPE.with_keys(lr=1e200, clip=None, momentum=0.0), **ONE)
    assert run.left_out[0] in ("its loss became NaN in epoch 1", "its loss became infinite in epoch 1")
    assert all(math.isnan(values[0]) for values in run.checkpoints.values.values())


def test_stop_criteria_and_the_best_weights(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", mlp, recipe=RECIPE.with_keys(epochs=12, lr=1.0), **ONE)
    loss, error = whole.values["loss"][0], whole.values["error"][0]
    bound = float(np.sort(loss)[4])
    first = int(np.flatnonzero(loss <= bound)[0])
    by_loss = trained(tmp_path / "a", mlp, recipe=RECIPE.with_keys(epochs=12, lr=1.0, stop_loss=bound), **ONE)
    assert (by_loss.ended, int(by_loss.epochs[0]), int(by_loss.kept[0])) == (("stop_loss",), first, first)
    np.testing.assert_array_equal(by_loss.values["loss"][0, : first + 1], loss[: first + 1])
    assert np.isnan(by_loss.values["loss"][0, first + 1 :]).all()
    level = float(error.min())
    by_error = trained(tmp_path / "b", mlp, recipe=RECIPE.with_keys(epochs=12, lr=1.0, stop_error=level), **ONE)
    assert (by_error.ended, int(by_error.epochs[0])) == (("stop_error",), int(error.argmin()))
    best = trained(tmp_path / "c", mlp, recipe=RECIPE.with_keys(epochs=12, lr=1.0, keep="best"), **ONE)
    at = int(whole.values["test_loss"][0].argmin())
    assert int(best.kept[0]) == at
    assert best.checkpoints.values["test_loss"][0] == whole.values["test_loss"][0, at]
    model = mlp()
    ls.load_checkpoint(model, best.checkpoints.final[0])
    with torch.no_grad():
        found = float(F.cross_entropy(model(data(1)[0]), data(1)[1]))
    assert found == pytest.approx(whole.values["test_loss"][0, at], rel=1e-12)


def test_steps_in_the_place_of_epochs(tmp_path: Path) -> None:
    run = trained(
        tmp_path / "run", mlp, recipe=RECIPE.with_keys(schedule="constant"), cells={"steps": [9, 12]}, seeds=1
    )
    assert run.steps.tolist() == [9, 12]
    assert run.epochs.tolist() == [2, 2]
    assert run.values["loss"].shape == (2, 3)


def test_items_that_fail_are_left_out(tmp_path: Path) -> None:
    class Failing(nn.Module):
        def __init__(self, fails: bool) -> None:
            super().__init__()
            self.net, self.fails = mlp(), fails

        def forward(self, x: Tensor) -> Tensor:
            if self.fails and self.training:
                raise ArithmeticError("in the middle")
            return self.net(x)

    cells = {"fails": [True, False]}
    run = trained(tmp_path / "run", Failing, cells=cells, seeds=1, tolerance=ls.Tolerance(retries=0))
    assert list(run.left_out) == [0]
    assert "in the middle" in run.left_out[0]
    assert run.complete
    assert run.checkpoints.trained() == (1,)


# -- data -------------------------------------------------------------------------------------------------------------


def test_batches_of_a_loader(tmp_path: Path) -> None:
    """An augmenting loader trains, the data are what is measured on; each epoch is the same each time."""

    def run(name: str) -> ls.Training:
        loader = DataLoader(TensorDataset(*data()), 8, shuffle=True)
        return trained(tmp_path / name, train=loader, **ONE)

    same(run("a"), run("b"))
    with pytest.raises(InputError, match="fraction, label_noise and poison change `data`, and the batches are of"):
        trained(tmp_path / "c", train=[data()], recipe=RECIPE.with_keys(label_noise=0.5), **ONE)


def test_regression_has_no_error(tmp_path: Path) -> None:
    inputs, _ = data()
    targets = inputs.sum(1, keepdim=True)
    run = ls.train_models(
        lambda: nn.Linear(3, 1).double(), (inputs, targets), loss="mse", recipe=RECIPE, out=tmp_path / "run"
    )
    assert list(run.values) == ["loss"]
    assert run.values["loss"][0, -1] < 0.1 * run.values["loss"][0, 0]
    with pytest.raises(InputError, match="stop_error needs targets that are labels"):
        ls.train_models(
            lambda: nn.Linear(3, 1).double(),
            (inputs, targets),
            loss="mse",
            recipe=RECIPE.with_keys(stop_error=0.1),
            out=tmp_path / "other",
        )


def test_the_recipe_is_told_with_what_is_not_its_default() -> None:
    told = " ".join(cell.text for table in training_tables(made.training(), "t") for row in table.rows for cell in row)
    assert "optimizer sgd, lr 0.5, batch_size 128, epochs 20" in told


# -- refused before any training --------------------------------------------------------------------------------------


def shapes_by_seed(width: int = 4) -> nn.Module:
    return mlp(width + int(torch.randint(0, 50, ())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cells": {"widht": [4, 8]}},
            r"key 'widht' is no key of a recipe, and no argument of .*did you mean 'width'\?",
        ),
        ({"cells": {"batch_sise": [4, 8]}}, r"did you mean 'batch_size'\?"),
        ({"cells": {"lr": [0.1, -0.1]}}, r"cell lr=-0.1: lr=-0.1; give a positive number"),
        ({"cells": {"width": []}}, r"cells: key 'width' has \[\]; give a list of values, at least one"),
        ({"cells": {"width": [4, 4]}}, r"key 'width' has a value twice"),
        ({"cells": {"width": 4}}, r"cells=\{'width': 4\}; give a dict, each value a list"),
        ({"cells": {"seed": [0, 1]}}, r"key 'seed' is a column of every table.*or give the seeds as seeds="),
        ({"seeds": 0}, r"seeds: 0; give how many seeds, 1 or more"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\]; give how many seeds"),
        ({"recipe": {"lrr": 0.1}}, r"a recipe has no key 'lrr'; did you mean 'lr'"),
        (
            {"factory": shapes_by_seed},
            r"models of cell width=4 differ in shape: '0.weight' is \(\d+, 3\) for seed 0",
        ),
        ({"factory": lambda depth: mlp(depth), "cells": None}, r"cannot be called with the keys \(none\): missing a"),
        ({"factory": nn.Tanh, "cells": None}, r"has no trainable parameter"),
        ({"factory": lambda width: "net"}, r"the factory returned str; let it return an nn.Module"),
        ({"factory": 3}, r"factory=3; give something to call"),
        ({"recipe": {"keep": "best"}, "test": None}, r"keep='best' keeps the weights of the lowest held-out loss"),
        ({"out": None}, r"out=None; give a path"),
        ({"ranks_per_item": 2}, r"ranks_per_item=2: a model is trained by one rank"),
        ({"labels": 3}, r"(?i)label 3|class 3|3 is no class"),
        ({"labels": -1}, r"-1"),
    ],
)
def test_told_before_training(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"factory": mlp, "cells": {"width": [4, 6]}, "seeds": 2, "recipe": RECIPE, **changes}
    inputs, labels = data()
    wrong = asked.pop("labels", None)
    if wrong is not None:
        labels = labels.clone()
        labels[SAMPLES // 2] = wrong
    factory = asked.pop("factory")
    with training_job.Stopped() as steps, pytest.raises(InputError, match=message):
        ls.train_models(factory, (inputs, labels), **{"out": tmp_path / "run", **asked})
    assert steps.count == 0
    assert not (tmp_path / "run").exists()
