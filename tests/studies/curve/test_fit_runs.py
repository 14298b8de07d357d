"""fit_curve stopped, killed and resumed, on ranks, in folders; what it leaves of the user's world."""

from __future__ import annotations

import io
import math
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fit_job
import numpy as np
import pytest
import torch
from conftest import RunMpi
from torch import nn

import landscape as ls
from landscape.errors import InputError, NumericalError, RunInterrupted, StoreError
from landscape.files import hdf5
from landscape.objective.random_state import random_streams
from landscape.run import progress
from landscape.run.store import Store
from landscape.studies.curve import fit
from landscape.studies.curve.measure import FIT_STATE, curve_from_rows, fit_curve
from landscape.studies.curve.result import Curve
from landscape.studies.curve.schema import read_curve

INPUTS, LABELS = fit_job.samples()


# -- stopping and resuming --------------------------------------------------------------------------------------------


DATA: dict[str, Callable[[], Any]] = {
    "loader": fit_job.augmented,
    "own generator": lambda: fit_job.augmented(generator=torch.Generator().manual_seed(random.randrange(10**6))),
    "workers": lambda: fit_job.augmented(num_workers=2),
    "list of batches": lambda: list(zip(INPUTS.split(8), LABELS.split(8), strict=True)),
    "tensors": lambda: (INPUTS, LABELS),
    "dataset": fit_job.Augmented,
}


@pytest.mark.parametrize("kind", list(DATA))
def test_resumed_equals_uninterrupted(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of epoch 3, then at the end of epoch 4, with the random streams elsewhere each time."""
    monkeypatch.setattr(fit, "_SAVE_EVERY", 0.0)

    def run(stop: int, out: Path | None) -> tuple[Curve | None, int]:
        model = fit_job.net()
        optimizer = "adam" if kind == "tensors" else "sgd"
        torch.rand(random.randrange(1, 50)), np.random.rand(random.randrange(1, 50))
        with fit_job.Stopped(model, stop) as steps:
            try:
                options: dict[str, Any] = {"optimizer": optimizer, "epochs": 5, "batch_size": 8, "out": out}
                return fit_job.fitted(model, train=DATA[kind](), **options), steps.count
            except RunInterrupted:
                return None, steps.count

    steps = fit_job.STEPS
    whole, made = run(0, None)
    assert made == 5 * steps
    assert run(2 * steps + 3, tmp_path / "run") == (None, 2 * steps + 3)
    assert run(2 * steps, tmp_path / "run") == (None, 2 * steps)
    resumed, made = run(0, tmp_path / "run")
    assert made == 2 * steps  # epoch 4 was stopped in its last step
    assert whole is not None
    assert resumed is not None
    assert torch.equal(resumed.control_points, whole.control_points)
    for name, values in whole.history.items():
        assert np.array_equal(resumed.history[name], values), name


@pytest.mark.mpi
def test_ranks_give_the_bits_of_one_also_where_they_are_killed(run_mpi: RunMpi, tmp_path: Path) -> None:
    """1 part on 2 ranks; then 4 parts until SIGKILL in the middle of epoch 3: the states of whole epochs are there."""
    whole = {parts: fit_job.fitted(fit_job.spectral_net(), parts=parts).control_points for parts in (1, 4)}
    assert not torch.equal(whole[1], whole[4])  # other batch statistics
    done = run_mpi(2, "fit_job.py", tmp_path, "kill", 2 * 2 * fit_job.STEPS + 2, 1, 4)
    assert done.returncode != 0
    assert (tmp_path / "points_1.npy").exists(), done.stderr
    assert np.array_equal(np.load(tmp_path / "points_1.npy"), whole[1].numpy())
    assert (tmp_path / "run_4" / FIT_STATE).exists()
    with fit_job.Stopped(model := fit_job.spectral_net()) as steps:
        curve = fit_job.fitted(model, parts=4, out=tmp_path / "run_4")
    assert steps.count == 4 * 2 * fit_job.STEPS
    assert torch.equal(curve.control_points, whole[4])
    assert not (tmp_path / "run_4" / FIT_STATE).exists()


def test_finished_folder(tmp_path: Path) -> None:
    """It is read, not fitted again; the file holds the curve, its history and where it is from."""
    model = fit_job.net()
    curve = fit_job.fitted(model, out=tmp_path / "run")
    with fit_job.Stopped(model) as steps:
        again = fit_job.fitted(model, out=tmp_path / "run")
    assert steps.count == 0
    read = read_curve(hdf5.read(tmp_path / "run" / "landscape.h5"), "landscape.h5")
    for other in (again, read):
        assert other.kind == "bezier"
        assert torch.equal(other.control_points, curve.control_points)
        assert list(other.history) == ["loss", "lr"]
        for name, values in curve.history.items():
            assert np.array_equal(other.history[name], values)
        settings = {"made": "fitted", "degree": 2, "epochs": 4, "lr": 0.1, "optimizer": "sgd", "decay": "point"}
        assert settings.items() <= dict(other.attributes).items()
        assert other.attributes["train"].startswith("DataLoader, Augmented of 48, batches of 8, the first ")
        assert other.attributes["seed"] == 0


def test_unfinished_folder(tmp_path: Path) -> None:
    with fit_job.Stopped(model := fit_job.net(), 3), pytest.raises(RunInterrupted, match="the same command goes on"):
        fit_job.fitted(model, out=tmp_path / "run")
    store = Store.open(tmp_path / "run")
    with pytest.raises(StoreError, match="not fitted to the end yet"):
        curve_from_rows(store.description(), store.rows(), store.history())


def test_progress_tells_epoch_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT", 0.0)
    notes: list[str] = []
    fit_job.fitted(fit_job.net(), progress=lambda progress: notes.append(progress.note))
    told = [note for note in notes if note.startswith("epoch")]
    assert told[0] == "epoch 1 of 4, step 1"
    assert re.match(r"epoch 4 of 4, step \d+; loss ", told[-1])
    assert told[-1].endswith(" left")


def test_every_step_is_a_place_of_its_own_and_the_same_in_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT", 0.0)

    def places() -> list[str]:
        notes: list[str] = []
        fit_job.fitted(fit_job.net(), progress=lambda progress: notes.append(progress.note.partition(";")[0]))
        return list(dict.fromkeys(note for note in notes if note))

    steps = [f"epoch {epoch} of 4, step {step}" for epoch in range(1, 5) for step in range(1, fit_job.STEPS + 1)]
    assert places() == steps


# -- the user's world -------------------------------------------------------------------------------------------------


def world_of(model: nn.Module, generator: torch.Generator) -> Iterator[Any]:
    """All that a user may see."""
    for parameter in model.parameters():
        yield parameter.data_ptr()
        yield parameter.tolist()
        yield parameter.requires_grad
        yield None if parameter.grad is None else (id(parameter.grad), parameter.grad.tolist())
    for buffer in model.buffers():
        yield id(buffer)
        yield buffer.tolist()
    yield [module.training for module in model.modules()]
    yield random_streams()
    yield torch.get_rng_state().tolist()
    yield generator.get_state().tolist()
    yield torch.is_grad_enabled()


@pytest.mark.parametrize("ending", ["finished", "stopped", "diverged", "broken"])
def test_the_users_world_is_untouched(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_REPORT_EVERY", 0.0)  # a loss that is NaN is seen in the middle of an epoch
    model = fit_job.net().train()
    model[1].eval()
    model(INPUTS).sum().backward()  # gradients, and statistics of BatchNorm
    model[4].weight.grad = None
    generator = torch.Generator().manual_seed(3)
    objective = fit_job.objective(model)
    a, b = fit_job.ends(objective)
    before = list(world_of(model, generator))
    expected = {"stopped": RunInterrupted, "diverged": NumericalError, "broken": ArithmeticError}.get(ending)
    steps = 0

    def seen(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        nonlocal steps
        steps += 1
        if ending == "stopped" and steps == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        if ending == "broken" and steps == 9:
            raise ArithmeticError("in the middle")
        return outputs * math.nan if ending == "diverged" and steps == 9 else outputs

    handle = model.register_forward_hook(seen)
    try:
        fit_curve(objective, a, b, epochs=3, train=fit_job.augmented(generator=generator))
        assert expected is None
    except (Exception, RunInterrupted) as error:
        kept = error  # with its traceback, and so the frames
        assert expected is not None
        assert isinstance(kept, expected) or "ArithmeticError: in the middle" in str(kept)
        assert list(world_of(model, generator)) == before
    handle.remove()
    assert list(world_of(model, generator)) == before
    assert steps == 18 if ending == "finished" else steps >= 9


def test_ends_and_start_are_not_written_to() -> None:
    objective = fit_job.objective()
    given = [*fit_job.ends(objective), 0.5 * objective.theta]
    copies = [point.clone() for point in given]
    fit_curve(objective, given[0], given[1], epochs=2, start=[given[2]])
    assert all(torch.equal(point, copy) for point, copy in zip(given, copies, strict=True))
    assert torch.equal(objective.theta, copies[0])


# -- folders that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "named"),
    [({"lr": 0.2}, "lr"), ({"seed": 1}, "seed"), ({"degree": 3}, "degree"), ({"train": (INPUTS, LABELS)}, "train")],
)
def test_folder_of_another_fit(other: dict[str, Any], named: str, tmp_path: Path) -> None:
    options = {"epochs": 1, "train": (INPUTS + 1, LABELS), "out": tmp_path / "run"}
    fit_job.fitted(fit_job.net(), **options)
    with pytest.raises(InputError, match=rf"(?s)holds a different run.*{named}.*Name another folder"):
        fit_job.fitted(fit_job.net(), **{**options, **other})


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "flipped", "of another engine"])
def test_damaged_state(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_SAVE_EVERY", 0.0)
    with fit_job.Stopped(model := fit_job.net(), 9), pytest.raises(RunInterrupted):
        fit_job.fitted(model, out=tmp_path / "run")
    state = tmp_path / "run" / FIT_STATE
    whole = state.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"free.npy") + 400] ^= 255
    other = io.BytesIO()
    with np.load(state) as arrays:
        np.savez(other, **{name: arrays[name] for name in arrays if not name.startswith("descent.")})
    contents = {"cut": whole[:-40], "empty": b"", "garbage": b"half a file", "flipped": bytes(flipped)}
    state.write_bytes((contents | {"of another engine": other.getvalue()})[damage])
    with pytest.raises(StoreError, match=r"cannot read the state .*fit\.npz: .*\. Delete it; the fit then starts anew"):
        fit_job.fitted(fit_job.net(), out=tmp_path / "run")
    state.unlink()
    assert fit_job.fitted(fit_job.net(), out=tmp_path / "run").history["loss"].shape == (4,)


def test_a_sweep_with_an_unfinished_curve_is_read(tmp_path: Path) -> None:
    """The node of a run of which there is no curve yet is empty; the others are there."""
    fit_job.fitted(fit_job.net(), out=tmp_path / "a")
    with pytest.raises(ls.NumericalError):
        fit_job.fitted(fit_job.net(), out=tmp_path / "b", lr=1e200)
    with pytest.raises(ls.StoreError, match="not fitted to the end yet; landscape resume"):
        ls.open(tmp_path / "b")
    file = ls.merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "both.h5")
    tree = ls.open(file)
    assert "curve" in tree["a"].children
    assert not tree["b"].children
