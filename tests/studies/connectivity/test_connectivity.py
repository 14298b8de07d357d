"""Pairs of models: against fit_curve and measure_path, through kills, in files, in pictures, refused."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import kill_trials
import numpy as np
import pytest
import sweep_nets
import torch
from conftest import GUARD, mpi_command, mpi_environment
from torch import nn

import landscape as ls
from landscape.errors import InputError, RunInterrupted, StoreError
from landscape.studies.connectivity.result import NUMBERS
from landscape.studies.curve import fit
from landscape.studies.path.result import barrier, mode_connectivity


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return sweep_nets.objective()


@pytest.fixture(scope="module")
def models() -> list[dict[str, torch.Tensor]]:
    return [sweep_nets.trained(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a whole sweep on one rank."""
    out = tmp_path_factory.mktemp("sweep") / "run"
    sweep_nets.sweep(out)
    return out


def opened(path: Path) -> ls.Connectivity:
    table = ls.open(path)
    assert isinstance(table, ls.Connectivity)
    return table


def test_a_pair_is_what_fit_curve_and_measure_path_give(
    objective: ls.Objective, models: list[dict[str, torch.Tensor]], folder: Path
) -> None:
    """Bit for bit: line, curve, values on both, and the curve's own file."""
    table = opened(folder)
    assert table.complete
    curve = ls.fit_curve(objective, models[2], models[3], epochs=6, batch_size=64, lr=0.3)
    assert torch.equal(curve.point(0), objective.layout.flatten({n: models[2][n] for n in objective.layout.names}))
    stored = ls.open(folder / "curves" / "2-3.h5")
    assert isinstance(stored, ls.Curve)
    assert torch.equal(stored.control_points, curve.control_points)
    for sides, path in (
        (table.line_path(2, 3), ls.measure_path(objective, [models[2], models[3]], t=5)),
        (table.curve_path(2, 3), ls.measure_path(objective, curve, t=5)),
    ):
        assert np.array_equal(sides.t, path.t)
        for name in ("loss", "error"):
            assert np.array_equal(sides.values[name], path.values[name])
            assert np.array_equal(sides.stderr[name], path.stderr[name])
        assert sides.barrier == path.barrier
        assert sides.mc == path.mc
        assert np.allclose(sides.arc, path.arc, rtol=1e-12)
    assert table.distance[2] == pytest.approx(curve.distance, rel=1e-12)
    assert table.numbers["length"][2] == pytest.approx(curve.length, rel=1e-12)


def test_numbers_matrices_and_groups(folder: Path) -> None:
    table = opened(folder)
    numbers = table.numbers
    assert set(numbers) == set(NUMBERS)
    for k, (i, j) in enumerate(sweep_nets.PAIRS):
        assert numbers["curve_barrier"][k] == barrier(table.t, table.curve["loss"][k])
        assert numbers["line_mc"][k] == 100 * mode_connectivity(table.line["error"][k])
        matrix = table.matrix("line_barrier")
        assert matrix[i, j] == matrix[j, i] == numbers["line_barrier"][k]
    assert np.isnan(matrix[0, 2])
    assert np.array_equal(matrix.diagonal(), np.zeros(6))
    turned, straight = table.curve_path(3, 2), table.curve_path(2, 3)
    assert np.array_equal(turned.values["loss"], straight.values["loss"][::-1])
    assert np.array_equal(turned.arc, straight.arc[-1] - straight.arc[::-1])
    assert turned.barrier == pytest.approx(straight.barrier, rel=1e-12)
    order = np.sort(numbers["curve_barrier"])
    assert len(table.groups(order[-1])) == 1
    assert len(table.groups(order[0] - 1e-9)) == 6
    third = np.flatnonzero(numbers["curve_barrier"] <= order[2])
    joined = {frozenset(table.labels[i] for i in sweep_nets.PAIRS[k]) for k in third}
    groups = table.groups(order[2])
    assert all(any(pair <= set(group) for group in groups) for pair in joined)
    assert sum(map(len, groups)) == 6


def test_curves_are_lower_than_lines(folder: Path) -> None:
    """What the job is for: fitted curves of trained nets meet a lower barrier than straight lines."""
    numbers = opened(folder).numbers
    assert (numbers["curve_barrier"] < 0.5 * numbers["line_barrier"]).all()


@pytest.mark.mpi
def test_killed_on_two_ranks_and_resumed_on_one_is_the_serial_sweep(
    tmp_path: Path, folder: Path, models: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    torch.save(models, tmp_path / "models.pt")
    process = subprocess.Popen(
        mpi_command(2, "sweep_job.py", tmp_path, 0.05),
        env=mpi_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kill_trials.wait_for(lambda: epochs_in(tmp_path) >= 8 or process.poll() is not None)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    for pid in kill_trials.pids(tmp_path).values():
        os.kill(pid, signal.SIGKILL)
    process.wait(GUARD)
    kill_trials.wait_for(lambda: not any(map(kill_trials.alive, kill_trials.pids(tmp_path).values())))
    assert not (run / "landscape.h5").exists()
    assert not opened(run).complete
    assert list((run / "fits").glob("*.npz")), "fits that were under way left no state"
    run_epoch, epochs = fit.CurveFit._run_epoch, 0

    def counted(self: fit.CurveFit, *arguments: Any) -> None:
        nonlocal epochs
        epochs += 1
        run_epoch(self, *arguments)

    monkeypatch.setattr(fit.CurveFit, "_run_epoch", counted)
    sweep_nets.sweep(run, models)
    table, serial = opened(run), opened(folder)
    assert table.complete
    for name in ("loss", "error"):
        for ours, theirs in (
            (table.line, serial.line),
            (table.curve, serial.curve),
            (table.curve_stderr, serial.curve_stderr),
        ):
            assert np.array_equal(ours[name], theirs[name])
    for pair in sweep_nets.PAIRS:
        found = [ls.open(place / "curves" / f"{pair[0]}-{pair[1]}.h5") for place in (run, folder)]
        assert torch.equal(found[0].control_points, found[1].control_points)  # type: ignore[union-attr]
    assert epochs < 36, "epochs in stored states were trained again"
    assert not (run / "fits").exists()


def epochs_in(folder: Path) -> int:
    """Epochs begun by all ranks and attempts."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("epochs*"))


def test_a_signal_stops_between_steps_and_the_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Ctrl-C in the middle of a fit keeps pairs and epochs that are done."""
    run_epoch = fit.CurveFit._run_epoch
    count = 0

    def interrupted(self: fit.CurveFit, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 10:
            os.kill(os.getpid(), signal.SIGINT)
        run_epoch(self, *arguments)

    monkeypatch.setattr(fit, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(fit.CurveFit, "_run_epoch", interrupted)
    with pytest.raises(RunInterrupted, match="1 of 6"):
        sweep_nets.sweep(tmp_path / "run")
    partial = opened(tmp_path / "run")
    assert partial.computed.tolist() == [True] + [False] * 5
    assert np.isnan(partial.numbers["curve_barrier"][1:]).all()
    table = sweep_nets.sweep(tmp_path / "run")
    assert count == 10 + 36 - 9  # six epochs of the first pair, three of the second were there
    assert np.array_equal(table.curve["loss"], opened(folder).curve["loss"])


def test_file_and_xarray(tmp_path: Path, folder: Path) -> None:
    import xarray

    table = opened(folder)
    read = opened(table.save(tmp_path / "a.h5"))
    assert read.labels == table.labels
    assert np.array_equal(read.pairs, table.pairs)
    for name, values in table.numbers.items():
        assert np.array_equal(read.numbers[name], values)
    data = xarray.open_dataset(tmp_path / "a.h5", group="connectivity")
    assert np.array_equal(data["curve_loss"], table.curve["loss"])
    assert data["curve_loss"].dims == ("pair", "t")
    assert "depends on the grid of t" in data.attrs["mc_definition"]
    assert table.to_xarray()["line_barrier"].shape == (6,)
    assert read.attributes["fit"]["epochs"] == 6
    assert read.attributes["batchnorm"] == "reestimated"


def test_lines_alone_and_test_data(objective: ls.Objective, models: list[dict[str, torch.Tensor]]) -> None:
    images, labels = sweep_nets.digits("test")
    table = ls.measure_connectivity(
        objective, models[:3], pairs="star", t=3, epochs=0, test=(images, labels), labels=["a", "b", "c"]
    )
    assert table.pairs.tolist() == [[0, 1], [0, 2]]
    assert not table.curve
    assert set(table.line) == {"loss", "error", "test_loss", "test_error"}
    assert "curve_barrier" not in table.numbers
    with pytest.raises(InputError, match="no curves were fitted"):
        table.curve_path(0, 1)
    path = ls.measure_path(objective, models[:2], t=3, test=(images, labels))
    assert np.array_equal(table.line_path(0, 1).values["test_loss"], path.values["test_loss"])


@pytest.mark.parametrize("kind", ["table", "graph", "paths"])
def test_pictures(folder: Path, kind: str) -> None:
    table = opened(folder)
    figure = table.plot(kind)
    words = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "straight line" in words or "barrier" in words
    assert all(label in words for label in table.labels)


def test_table_picture_shows_every_barrier(folder: Path) -> None:
    table = opened(folder)
    texts = [text.get_text() for ax in table.plot().axes for text in ax.texts]
    for name in ("line_barrier", "curve_barrier"):
        for value in table.numbers[name]:
            assert texts.count(f"{value:.3g}") >= 2  # both halves of the table


def test_what_cannot_be_swept(objective: ls.Objective, models: list[dict[str, torch.Tensor]], folder: Path) -> None:
    def refused(match: str, thetas: Any = None, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            ls.measure_connectivity(
                objective, models[:2] if thetas is None else thetas, **{"t": 3, "epochs": 1, **options}
            )

    refused("1 model given; a pair needs 2", models[:1])
    refused("models 0 and 1 are equal", [models[0], models[0]])
    refused("pairs='rings' is not one of all, ring, star", pairs="rings")
    refused(r"pair \(0, 2\) is not two different numbers of models from 0 to 1", pairs=[(0, 2)])
    refused(r"pair \(1, 0\) is given twice", pairs=[(0, 1), (1, 0)])
    refused("epochs=-1; give a whole number of 0 or more", epochs=-1)
    refused("align='weight'; give one of weights, activations", align="weight")
    refused("batchnorm='interpolated'; give one of frozen, reestimated", batchnorm="interpolated")
    refused("10 samples for BatchNorm statistics are too few", statistics=sweep_nets.data(10))
    other = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 10))
    refused("does not fit the model; of another shape: 0.weight", [models[0], other])
    broken = {**models[1], "0.weight": models[1]["0.weight"] * float("nan")}
    refused("model 1 holds 2048 values that are NaN or infinite", [models[0], broken])
    refused("2 labels for 3 models", models[:3], labels=["a", "b"])
    refused("holds a different run", models[:3], out=folder)
    with pytest.raises(InputError, match=r"there is no pair \(0, 3\) here"):
        opened(folder).line_path(0, 3)
    with pytest.raises(InputError, match="pairs of models have no 'barriers'"):
        opened(folder).matrix("barriers")


def test_a_fit_that_is_not_finished_opens_with_a_way_out(
    tmp_path: Path, objective: ls.Objective, models: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fit.CurveFit, "_gradient", lambda self, *_: (stop(), torch.ones(2, 2))[1])
    with pytest.raises(RunInterrupted):
        ls.fit_curve(objective, models[0], models[1], epochs=2, out=tmp_path / "run")
    with pytest.raises(StoreError, match="not fitted to the end yet"):
        ls.open(tmp_path / "run")


def test_plane_of_a_curve(objective: ls.Objective, folder: Path) -> None:
    """The plane holds all of a quadratic curve; its true and projected losses agree, ends at (0, 0) and (1, 0)."""
    curve = ls.open(folder / "curves" / "0-1.h5")
    assert isinstance(curve, ls.Curve)
    plane = ls.curve_plane(objective, curve, places=5)
    assert plane.points is not None
    assert np.allclose(plane.points.coordinates[[0, -1]], [[0, 0], [1, 0]], atol=1e-6)
    scale = curve.length * torch.finfo(torch.float32).eps
    assert (plane.points.distance < 10 * scale).all()
    a, b = (direction.double() for direction in plane.directions)
    assert abs(float(a @ b / (a @ a))) < 1e-6
    assert float(b @ b / (a @ a)) == pytest.approx(1, rel=1e-6)
    assert plane.points.coordinates[2, 1] > 0
    surface = ls.measure_surface(objective, plane, x=(-0.25, 1.25, 4), y=(-0.25, 1, 3), batchnorm="reestimated")
    assert surface.points is not None
    assert surface.points.kind == "curve"
    path = ls.measure_path(objective, curve, t=5)
    assert np.allclose(surface.points.true["loss"], path.values["loss"], rtol=1e-6)
    assert np.allclose(surface.points.projected["loss"], path.values["loss"], rtol=1e-4)
    assert surface.plot().axes


def test_plane_of_what_is_no_curve(objective: ls.Objective, models: list[dict[str, torch.Tensor]]) -> None:
    a, b = (objective.layout.flatten({n: m[n] for n in objective.layout.names}) for m in models[:2])
    for points in ([a, b], [a, (a + b) / 2, b]):
        with pytest.raises(InputError, match="lie on a straight line"):
            ls.curve_plane(objective, ls.curve_from_points(objective, points, kind="bezier"))
    cubic = ls.curve_from_points(objective, [a, a + torch.ones_like(a), b - torch.ones_like(a), b], kind="bezier")
    plane = ls.curve_plane(objective, cubic)
    assert plane.points is not None
    assert plane.points.distance.max() < 1e-3 * cubic.length


def test_the_objectives_own_centre_does_not_matter(models: list[dict[str, torch.Tensor]], folder: Path) -> None:
    """A script that builds its network anew, with other random weights, goes on with the run it began."""
    net = sweep_nets.mlp()
    objective = ls.Objective(net, data=sweep_nets.data(), metrics=("error",))
    given = {"pairs": sweep_nets.PAIRS, "t": 5, "epochs": 6, "batch_size": 64, "lr": 0.3}
    table = ls.measure_connectivity(objective, models, out=folder, **given)  # type: ignore[arg-type]
    assert np.array_equal(table.curve["loss"], opened(folder).curve["loss"])


def test_planes_between_models_have_batchnorm_reestimated(models: list[dict[str, torch.Tensor]], folder: Path) -> None:
    """The statistics of one model give nonsense at another: by default they are estimated anew."""
    objective = ls.Objective(sweep_nets.mlp(), data=sweep_nets.data(), metrics=("error",))
    curve = ls.open(folder / "curves" / "0-1.h5")
    assert isinstance(curve, ls.Curve)
    path = ls.measure_path(objective, curve, t=2)
    for plane in (ls.curve_plane(objective, curve, places=3), ls.plane_through(objective, models[:2])):
        axes = [(0, 1, 2), (0, 1, 2)][: plane.axes]
        surface = ls.measure_surface(objective, plane, axes=axes)
        assert surface.attributes["batchnorm"] == "reestimated"
        assert surface.values["loss"].ravel()[:2] == pytest.approx(path.values["loss"], rel=1e-5)
    around = ls.measure_surface(objective, ls.random_plane(objective, axes=1), (0, 1, 2))
    assert around.attributes["batchnorm"] == "frozen"


def test_a_curve_file_tells_where_it_is_from(folder: Path) -> None:
    curve = ls.open(folder / "curves" / "0-1.h5")
    about = curve.attributes
    assert (about["from"], about["to"], about["align"], about["lr"], about["epochs"]) == ("0", "1", "none", 0.3, 6)
    assert about["data_hash"]


def test_other_training_data_in_the_folder_is_refused(
    objective: ls.Objective, models: list[Any], tmp_path: Path
) -> None:
    """A loader tells little of itself; its first batch is compared, too."""
    images, labels = sweep_nets.data()

    def fitted(labels: torch.Tensor) -> ls.Curve:
        data = torch.utils.data.TensorDataset(images, labels)
        loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
        return ls.fit_curve(objective, models[0], models[1], epochs=1, train=loader, out=tmp_path / "run")

    first = fitted(labels)
    assert torch.equal(first.control_points, fitted(labels).control_points)
    with pytest.raises(InputError, match="train: "):
        fitted((labels + 1) % 10)


class Overflowing(nn.Linear):
    """Scores that are infinite become inf - inf, whatever order a processor sums in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = super().forward(x)
        return scores + (scores - scores)


def test_nan_scores_have_no_accuracy() -> None:
    """A diverged place is no place where everything, or a tenth of it, is right."""
    images, labels = torch.ones(50, 5), torch.zeros(50, dtype=torch.long)
    objective = ls.Objective(Overflowing(5, 3), data=(images, labels), metrics=("error", "accuracy"))
    theta = objective.theta
    curve = ls.curve_from_points(objective, [theta, torch.full_like(theta, 3e38), -theta])
    path = ls.measure_path(objective, curve, t=3)
    assert np.isnan(path.values["error"][1])
    assert np.isnan(path.values["accuracy"][1])
    assert np.isnan(path.mc)
