"""Jobs of pairs of models: the command line from a job file to pictures, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sweep_nets
import torch
from safetensors.torch import save_file
from test_cli import contents, done, landscape

import landscape as ls

JOB = """
[model]
factory = "sweep_nets:mlp"
[data]
factory = "sweep_nets:data"
args = { count = 128 }
[objective]
metrics = ["error"]
[connectivity]
models = "trained/*.safetensors"
t = 3
epochs = 2
[run]
out = "runs/a"
threads = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with three trained nets and a job of all pairs of them."""
    (tmp_path / "trained").mkdir()
    for seed in (1, 2, 10):
        save_file(sweep_nets.trained(seed, epochs=2), tmp_path / "trained" / f"net{seed}.safetensors")
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def test_a_sweep_from_three_lines_to_pictures(folder: Path) -> None:
    checked = done("check", folder / "job.toml")
    for words in ("3, of which 0 are there already", "2 steps of", "3 on each line and curve"):
        assert words in checked
    assert not (folder / "runs").exists()
    stopped = landscape("run", folder / "job.toml", "--limit-items", 2)
    assert stopped.exit_code == 3
    assert "2 of 3 rows are done" in stopped.stderr
    assert "2 of 3" in done("status", folder / "runs/a")
    assert str(folder / "runs/a/landscape.h5") in done("resume", folder / "runs/a")
    table = ls.open(folder / "runs/a/landscape.h5")
    assert isinstance(table, ls.Connectivity)
    assert table.labels == ("net1", "net2", "net10")  # in natural order
    net = sweep_nets.mlp()
    ls.load_checkpoint(net, folder / "trained/net1.safetensors")
    expected = ls.measure_connectivity(
        ls.Objective(net, data=sweep_nets.data(128), metrics=("error",)),
        [folder / f"trained/net{seed}.safetensors" for seed in (1, 2, 10)],
        t=3,
        epochs=2,
    )
    for name in ("loss", "error"):
        assert np.array_equal(table.curve[name], expected.curve[name])
        assert np.array_equal(table.line[name], expected.line[name])
    shown = done("show", folder / "runs/a/landscape.h5")
    for words in ("net1, net2, net10", "barrier", f"{table.numbers['curve_barrier'][0]:.3g}", "provenance"):
        assert words in shown
    drawn = done("plot", folder / "runs/a").split()
    assert [Path(path).name for path in drawn] == ["table.png", "graph.png", "paths.png"]
    assert all(Path(path).stat().st_size > 10_000 for path in drawn)


def test_a_curve_of_a_sweep_is_shown_drawn_and_a_plane_of_a_surface(folder: Path) -> None:
    done("run", folder / "job.toml", "--set", "connectivity.pairs=[[0, 2]]")
    curve = folder / "runs/a/curves/0-2.h5"
    shown = done("show", curve)
    for words in ("bezier of 3 control points", "epoch", "lr", "128 samples"):
        assert words in shown
    assert Path(done("plot", curve).strip()).name == "0-2_history.png"
    surface = JOB[: JOB.index("[connectivity]")] + (
        '[plane]\nkind = "curve"\ncurve = "runs/a/curves/0-2.h5"\n'
        '[surface]\nx = [0, 1, 2]\ny = [0, 0.5, 2]\nbatchnorm = "reestimated"\n[run]\nout = "runs/s"\nthreads = 1\n'
    )
    (folder / "surface.toml").write_text(surface.replace("[model]", '[model]\ncheckpoint = "trained/net1.safetensors"'))
    done("run", folder / "surface.toml")
    found, table = ls.open(folder / "runs/s"), ls.open(folder / "runs/a")
    assert isinstance(found, ls.Surface)
    assert isinstance(table, ls.Connectivity)
    assert found.points is not None
    assert found.points.kind == "curve"
    assert found.values["loss"][0] == pytest.approx(table.curve["loss"][0][[0, -1]], rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["connectivity.models=trained/net1.safetensors"], ["1 model given; a pair needs 2"]),
        (["connectivity.models=nowhere/*.pt"], ["connectivity.models", "matches no file"]),
        (["connectivity.pairs=rings"], ["connectivity.pairs", "all, ring, star"]),
        (["connectivity.pairs=[[0, 3]]"], ["two different numbers of models from 0 to 2"]),
        (["connectivity.epoch=3"], ["connectivity.epoch", "did you mean 'epochs'"]),
        (["connectivity.lr=-1"], ["connectivity.lr = -1", "greater than 0"]),
        (["connectivity.kind=spline"], ["connectivity.kind", "bezier, polychain"]),
        (["connectivity.align=hungarian"], ["connectivity.align", "weights, activations"]),
        (["connectivity.train.factor=a:b"], ["connectivity.train.factor", "did you mean 'factory'"]),
        (["connectivity.k=3"], ["connectivity.k", "but to [spectrum] and [layers]"]),
        (["surface.x=[0,1,2]"], ["[surface], [connectivity]"]),
        (["plane.kind=pca"], ["plane.checkpoints is missing"]),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(folder: Path, overrides: list[str], expected: list[str]) -> None:
    before = contents(folder)
    for command in ("run", "check"):
        result = landscape(command, folder / "job.toml", *(word for o in overrides for word in ("--set", o)))
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        for words in expected:
            assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert contents(folder) == before
