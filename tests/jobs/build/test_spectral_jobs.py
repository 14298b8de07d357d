"""Jobs that measure curvature: run folders, resuming, and every command of the command line on them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GUARD
from landscape_jobs.build.objects import build
from landscape_jobs.build.run import run_job
from landscape_jobs.spec.job import load_job
from landscape_jobs.terminal.progress import ProgressDisplay
from rich.console import Console
from test_cli import contents, done, ended, landscape, start

import landscape as ls
from landscape.curvature.operator import CurvatureOperator
from landscape.opening.opening import Place
from landscape.opening.runs import run_stores
from landscape.opening.several import save_together
from landscape.run import progress

NETS = """
import os
import time

import torch
from torch import nn


def mlp(activation: str = "relu", width: int = 6) -> nn.Module:
    act = {"relu": nn.ReLU, "gelu": nn.GELU}[activation]()
    net = nn.Sequential(nn.Linear(3, width), act, nn.Linear(width, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def data(samples: int = 48):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 3, generator=generator), torch.arange(samples) % 2


def own_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def slow(model, batch):
    time.sleep(float(os.environ.get("NAP", "0")))
    return model(batch[0]), batch[1]
"""
SPECTRUM = """
[model]
factory = "curved_nets:mlp"
[data]
factory = "curved_nets:data"
[objective]
precision = "float64"
[spectrum]
k = 3
tol = 1e-6
density_probes = 3
density_steps = 6
block = 1
[run]
out = "runs/a"
threads = 1
"""
LAYERS = SPECTRUM.replace("[spectrum]", "[layers]").replace("density_probes = 3\ndensity_steps = 6\nblock = 1\n", "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a job of a spectrum, one of layers, and their module."""
    (tmp_path / "curved_nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "job.toml").write_text(SPECTRUM, encoding="utf-8")
    (tmp_path / "layers.toml").write_text(LAYERS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    threads = torch.get_num_threads()
    sys.modules.pop("curved_nets", None)
    yield tmp_path
    sys.modules.pop("curved_nets", None)
    torch.set_num_threads(threads)


def dense(folder: Path, *overrides: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The Hessian that a job means, from unit vectors."""
    with CurvatureOperator(build(load_job(folder / "job.toml", overrides)).subject) as H:
        return H.apply(torch.eye(H.size, dtype=H.dtype)).numpy()


def numbers(spectrum: Any) -> dict[str, bytes]:
    """All that a spectrum's file says in numbers."""
    return {str(name): v.values.tobytes() for name, v in spectrum.to_xarray().variables.items() if v.dtype != object}


def attempts(folder: Path) -> dict[str, int]:
    """{task: how often it was begun}."""
    return {store.folder.name: len(store.attempts.all()) for store in run_stores(folder)}


# -- run folders -------------------------------------------------------------------------------------------------------


def test_run_leaves_the_spectrum_that_the_library_measures(folder: Path) -> None:
    assert str(folder / "runs/a/landscape.h5") in done("run", folder / "job.toml")
    assert sorted(p.name for p in (folder / "runs/a").iterdir()) == ["density", "eigenpairs", "landscape.h5", "trace"]
    objective = build(load_job(folder / "job.toml")).subject
    expected = ls.measure_spectrum(objective, k=3, tol=1e-6, density_probes=3, density_steps=6, block=1)
    for source in (folder / "runs/a", folder / "runs/a/landscape.h5"):
        spectrum = ls.open(source)
        assert isinstance(spectrum, ls.Spectrum)
        assert numbers(spectrum) == numbers(expected)
    values = np.linalg.eigvalsh(dense(folder))
    np.testing.assert_allclose(expected.eigenvalues, values[::-1][:3], rtol=1e-9)
    assert expected.trace is not None
    assert expected.trace.value == pytest.approx(values.sum(), rel=1e-9)


def test_keys_of_the_table_reach_the_measurement(folder: Path) -> None:
    given = ("k=2", "smallest=1", "params=2", "weight_decay=0.5", "trace=hutchinson", "density=false", "seed=3")
    done("run", folder / "job.toml", *(word for g in given for word in ("--set", f"spectrum.{g}")))
    spectrum = ls.open(folder / "runs/a")
    assert isinstance(spectrum, ls.Spectrum)
    values = np.linalg.eigvalsh(dense(folder)[-14:, -14:]) + 0.5
    np.testing.assert_allclose(spectrum.eigenvalues, values[::-1][:2], rtol=1e-9)
    np.testing.assert_allclose(spectrum.smallest.values, values[:1], rtol=1e-6)
    assert spectrum.density is None
    assert spectrum.trace is not None
    assert spectrum.trace.method == "hutchinson"
    assert spectrum.attributes["seed"] == 3
    assert attempts(folder / "runs/a") == {"eigenpairs": 1, "trace": 1}


def test_layers_leave_a_table_of_their_own(folder: Path) -> None:
    done("run", folder / "layers.toml")
    assert attempts(folder / "runs/a") == {"layers": 1, "trace": 1}
    for source in (folder / "runs/a", folder / "runs/a/landscape.h5"):
        layers = ls.open(source)
        assert isinstance(layers, ls.LayerSpectra)
        assert layers.layers == ("0", "2")
        assert layers.computed.all()
        matrix = dense(folder)
        for row, block in zip(layers.eigenvalues, (matrix[:24, :24], matrix[24:, 24:]), strict=True):
            np.testing.assert_allclose(row, np.linalg.eigvalsh(block)[::-1][:3], rtol=1e-9)
        np.testing.assert_allclose(layers.trace.sum(), np.trace(matrix), rtol=1e-9)


def test_a_folder_opens_after_each_of_its_tasks(folder: Path) -> None:
    done("run", folder / "job.toml")
    whole = ls.open(folder / "runs/a")
    part = folder / "part"
    part.mkdir()
    with pytest.raises(ls.StoreError, match="is not a run folder"):
        ls.open(part)
    for name in ("eigenpairs", "trace", "density"):
        shutil.copytree(folder / "runs/a" / name, part / name)
        spectrum = ls.open(part)
        assert isinstance(spectrum, ls.Spectrum)
        assert isinstance(whole, ls.Spectrum)
        assert spectrum.eigenvalues.tobytes() == whole.eigenvalues.tobytes()
        assert (spectrum.trace is not None) == (name != "eigenpairs")
        assert (spectrum.density is not None) == (name == "density")
        assert "not yet" in done("status", part)
    with pytest.raises(ls.StoreError, match=r"one part of a run, its trace; open .*part"):
        ls.open(part / "trace")
    for shard in (part / "eigenpairs/shards").iterdir():
        shard.unlink()
    shutil.rmtree(part / "trace")
    shutil.rmtree(part / "density")
    nothing = ls.open(part)
    assert isinstance(nothing, ls.Spectrum)
    assert np.isnan(nothing.eigenvalues).all()
    assert not nothing.converged.any()


def test_a_folder_of_another_kind_of_run_is_left_alone(folder: Path) -> None:
    done("run", folder / "layers.toml")
    surface = ("[layers]\nk = 3\ntol = 1e-6\n", "[surface]\nx = [0, 1, 2]\n")
    (folder / "surface.toml").write_text(LAYERS.replace(*surface).replace("runs/a", "runs/s"))
    done("run", folder / "surface.toml")
    before = contents(folder)
    for job, out, found in (
        ("job", "runs/a", "layers/run.json"),
        ("job", "runs/s", "run.json"),
        ("layers", "runs/s", "run.json"),
        ("surface", "runs/a", "landscape.h5"),
    ):
        for command in ("run", "check") if job != "surface" else ("run",):
            refused = landscape(command, folder / f"{job}.toml", "--set", f"run.out={out}")
            assert refused.exit_code == 2, refused.output
            assert found in refused.stderr
            assert "name another folder" in refused.stderr.lower()
    assert contents(folder) == before


def test_another_job_in_the_folder_is_refused_with_the_differences(folder: Path) -> None:
    done("run", folder / "job.toml")
    before = contents(folder)
    for command in ("run", "check"):
        refused = landscape(command, folder / "job.toml", "--set", "spectrum.k=4", "--set", "data.args.samples=40")
        assert refused.exit_code == 2
        for words in ("holds a different run", "k: 3 there, 4 now", "objective.data"):
            assert words in refused.stderr
    assert contents(folder) == before


def children(parent: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


# -- stopping and going on ---------------------------------------------------------------------------------------------


def interrupt_when(words: str) -> Any:
    """A progress callback that sends Ctrl-C the first time a line holds the words."""
    state = {"sent": False}

    def callback(progress: ls.Progress) -> None:
        if not state["sent"] and words in f"{progress.task} {progress.done} {progress.note}":
            state["sent"] = True
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def test_ctrl_c_stops_within_a_product_and_resume_goes_on_from_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REPORT", 0.0)
    done("run", folder / "job.toml", "--set", "spectrum.trace=false", "--set", "run.out=whole")
    job = load_job(folder / "job.toml", ["spectrum.trace=false"])
    with pytest.raises(ls.RunInterrupted, match="stopped by SIGINT with 0 of 1 rows"):
        run_job(job, progress=interrupt_when("eigenpairs 0 7 products"))
    state = folder / "runs/a/eigenpairs/krylov.npz"
    with np.load(state) as arrays:
        assert arrays["counters"][0] == 8  # the product in hand was finished
    assert not (folder / "runs/a/density").exists()
    assert "0 of 1" in done("status", folder / "runs/a")

    calls = []
    real = CurvatureOperator.apply

    def counted(self: CurvatureOperator, vectors: torch.Tensor) -> torch.Tensor:
        calls.append(len(vectors))
        return real(self, vectors)

    monkeypatch.setattr(CurvatureOperator, "apply", counted)
    objective = build(job).subject
    ls.measure_spectrum(objective, k=3, tol=1e-6, trace=False, density=False, block=1)
    alone = sum(calls)
    calls.clear()
    done("resume", folder / "runs/a")
    assert sum(calls) == alone - 8 + 3 * 6  # the rest of the eigenpairs, and the density
    assert not state.exists()
    assert numbers(ls.open(folder / "runs/a")) == numbers(ls.open(folder / "whole"))


def test_ctrl_c_between_two_tasks_is_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT", 0.0)
    with pytest.raises(ls.RunInterrupted, match="stopped by SIGINT before its trace"):
        run_job(load_job(folder / "job.toml"), progress=interrupt_when("eigenpairs 1"))
    assert attempts(folder / "runs/a") == {"eigenpairs": 1}
    done("resume", folder / "runs/a")
    assert attempts(folder / "runs/a") == {"eigenpairs": 2, "trace": 1, "density": 1}


def test_resume_takes_the_job_of_the_task_that_is_not_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT", 0.0)
    done("run", folder / "job.toml", "--set", "spectrum.density=false")
    assert "density" not in attempts(folder / "runs/a")
    with pytest.raises(ls.RunInterrupted):
        run_job(load_job(folder / "job.toml"), progress=interrupt_when("density 1"))
    assert "not yet" in done("status", folder / "runs/a")
    moved = shutil.move(folder / "runs/a", folder / "moved")
    done("resume", moved)
    spectrum = ls.open(Path(moved) / "landscape.h5")
    assert isinstance(spectrum, ls.Spectrum)
    assert spectrum.density is not None
    assert len(spectrum.density.nodes) == 3


def test_a_run_made_from_python_names_its_function(folder: Path) -> None:
    objective = build(load_job(folder / "job.toml")).subject
    ls.measure_spectrum(objective, k=1, tol=1e-6, density=False, out=folder / "s")
    ls.measure_layer_spectra(objective, k=1, tol=1e-6, out=folder / "l")
    for name, function in (("s", "measure_spectrum"), ("l", "measure_layer_spectra")):
        refused = landscape("resume", folder / name)
        assert refused.exit_code == 2
        assert f"landscape.{function}(" in refused.stderr


@pytest.mark.mpi
def test_a_killed_job_goes_on_and_two_ranks_give_the_spectrum_of_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = 40  # which take some seconds of naps until it is killed, and no time after
    more = ("--set", f"spectrum.density_probes={probes}", "--set", "objective.forward=curved_nets:slow")
    monkeypatch.setenv("NAP", "0.03")
    process = start("run", folder / "job.toml", *more, ranks=2, start_new_session=True)
    monkeypatch.delenv("NAP")
    deadline = time.monotonic() + GUARD
    while not list((folder / "runs/a/density/shards").glob("*.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None, ended(process)
        time.sleep(0.01)
    for rank in children(process.pid):
        os.kill(rank, signal.SIGKILL)
    ended(process)
    assert not (folder / "runs/a/landscape.h5").exists()
    kept = contents(folder / "runs/a/eigenpairs/shards") | contents(folder / "runs/a/trace/shards")
    density = run_stores(folder / "runs/a")[-1].rows()
    assert 0 < density.done.sum() < probes
    code, out, err = ended(start("resume", folder / "runs/a", ranks=2))
    assert code == 0, err
    assert out.count("landscape.h5") == 1
    assert kept == contents(folder / "runs/a/eigenpairs/shards") | contents(folder / "runs/a/trace/shards")
    record = json.loads((folder / "runs/a/density/attempts/0002.json").read_text())
    assert record["computed"] == probes - density.done.sum()
    done("run", folder / "job.toml", *more, "--set", "run.out=one")
    two, one = ls.open(folder / "runs/a"), ls.open(folder / "one")
    assert isinstance(two, ls.Spectrum)
    assert isinstance(one, ls.Spectrum)
    np.testing.assert_allclose(two.eigenvalues, one.eigenvalues, rtol=1e-12)
    assert two.trace is not None
    assert one.trace is not None
    assert two.trace.value == pytest.approx(one.trace.value, rel=1e-12)
    assert two.density is not None
    assert one.density is not None
    np.testing.assert_allclose(two.density.nodes, one.density.nodes, atol=1e-8)


@pytest.mark.mpi
def test_two_ranks_leave_their_eigenpairs_together(folder: Path) -> None:
    """SIGUSR1 is what mpiexec passes on; the ranks hear it at different moments of one long item."""
    more = ("spectrum.k=150", "spectrum.tol=1e-10", "model.args.width=200", "data.args.samples=2000")
    words = [word for o in more for word in ("--set", o)]
    process = start("run", folder / "job.toml", *words, ranks=2)
    attempt = folder / "runs/a/eigenpairs/attempts/0001.json"
    deadline = time.monotonic() + GUARD
    while not attempt.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGUSR1)
    code, _, err = ended(process)
    assert code == 3, err
    assert "stopped by SIGUSR1 with 0 of 1 rows" in err
    assert (folder / "runs/a/eigenpairs/krylov.npz").exists()
    assert json.loads(attempt.read_text())["signal"] == "SIGUSR1"


# -- commands ----------------------------------------------------------------------------------------------------------


def test_status_tells_every_task(folder: Path) -> None:
    done("run", folder / "job.toml")
    done("run", folder / "layers.toml", "--set", "run.out=l")
    told = done("status", folder / "runs/a", folder / "l")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if "│" in line]
    tasks = [(cells[1], cells[2]) for cells in lines if cells[1]]
    assert tasks == [
        ("eigenpairs", "1 of 1"), ("trace", "1 of 1"), ("density", "3 of 3"), ("layers", "2 of 2"), ("trace", "1 of 1"),
    ]  # fmt: skip
    assert told.count("landscape.h5") == 2


def test_show_plot_and_merge_know_every_result(folder: Path) -> None:
    done("run", folder / "job.toml")
    done("run", folder / "layers.toml", "--set", "run.out=l")
    spectrum, layers = ls.open(folder / "runs/a"), ls.open(folder / "l")
    assert isinstance(spectrum, ls.Spectrum)
    assert isinstance(layers, ls.LayerSpectra)
    for words in (f"{spectrum.eigenvalues[1]:.6g} +- {spectrum.eigenvalue_stderr[1]:.2g}", "exact", "double backward"):
        assert words in done("show", folder / "runs/a")
    assert f"{layers.eigenvalues[1, 0]:.6g} +- {layers.stderr[1, 0]:.2g}" in done("show", folder / "l/landscape.h5")

    kinds = ("spectrum", "density", "layers", "vectors")
    told = done("plot", folder / "runs/a")
    for kind in kinds:
        assert str(folder / f"runs/a/{kind}.png") in told
        assert (folder / f"runs/a/{kind}.png").read_bytes().startswith(b"\x89PNG")
    done("plot", folder / "runs/a/landscape.h5", "--kind", "density", "-o", folder / "d.svg")
    assert b"<svg" in (folder / "d.svg").read_bytes()
    assert str(folder / "l/layers.png") in done("plot", folder / "l")

    both = folder / "both.h5"
    done("merge", folder / "runs/a", folder / "l", "-o", both)
    assert Place(both).run_names == ["a", "l"]
    told = done("show", both)
    assert f"{spectrum.eigenvalues[0]:.6g}" in told
    assert f"{layers.eigenvalues[0, 0]:.6g}" in told
    assert (folder / "both_a_vectors.png").exists() is False
    done("plot", both, "--run", "a", "--kind", "vectors")
    assert (folder / "both_a_vectors.png").exists()
    done("merge", folder / "runs/a", "-o", folder / "one.h5")
    assert numbers(ls.open(folder / "one.h5")) == numbers(spectrum)


def test_results_side_by_side_are_all_shown_and_chosen_by_group(folder: Path) -> None:
    done("run", folder / "job.toml")
    done("run", folder / "layers.toml", "--set", "run.out=l")
    results = [ls.open(folder / "runs/a"), ls.open(folder / "l")]
    file = save_together(folder / "both.h5", *results)
    assert Place(file).group_names() == ["spectrum", "layer_spectra"]
    told = done("show", file)
    assert "largest eigenvalues" in told
    assert "diagonal blocks" in told
    assert str(folder / "both_layers.png") in done("plot", file, "--group", "layer_spectra")
    refused = landscape("plot", file, "--group", "surface")
    assert refused.exit_code == 2
    assert "holds no group 'surface'" in refused.stderr


def test_pictures_that_cannot_be_are_refused(folder: Path) -> None:
    done("run", folder / "job.toml", "--set", "spectrum.density=false")
    done("run", folder / "layers.toml", "--set", "run.out=l")
    before = contents(folder)
    for words, expected in (
        ((folder / "runs/a", "--kind", "density"), "no density was measured"),
        ((folder / "runs/a", "--kind", "contour"), "'contour'"),
        ((folder / "runs/a", "-q", "accuracy"), "-q accuracy: the pictures of this result do not have it"),
        ((folder / "runs/a", "--levels", "log"), "--levels log: the pictures of this result do not have it"),
        ((folder / "runs/a", "-o", folder / "a.png"), "say which with --kind or -q: spectrum, layers, vectors"),
        ((folder / "l", "--kind", "density"), "known: layers"),
    ):
        refused = landscape("plot", *words)
        assert refused.exit_code == 2, refused.output
        assert expected in refused.stderr
    assert contents(folder) == before


def test_check_tells_matrix_route_trace_and_cost_and_writes_nothing(folder: Path) -> None:
    before = contents(folder)
    told = done("check", folder / "job.toml")
    for words in (
        "hessian of size 38 (all parameters, 2 layers)",
        "48 samples in 16 chunks",
        "double backward",
        "exact, 1 backward passes per sample",
        "eigenpairs about 12, density about 18",
        "time per product",
        "gradients of the loss",
        "time on 64 ranks, 1 thread each",
        "memory per rank",
        "nothing",
    ):
        assert words in told, (words, told)
    assert "split, 1 backward" in done("check", folder / "job.toml", "--set", "model.args.activation=gelu")
    sampled = ("spectrum.samples=20", "spectrum.params=0", "spectrum.trace=deflated")
    told = done("check", folder / "job.toml", *(word for s in sampled for word in ("--set", s)))
    assert "of size 24 (of 38 parameters, 1 layers)" in told
    assert "20 samples in" in told
    assert "deflated; more products until its error is small enough" in told
    assert "layers about 24" in done("check", folder / "layers.toml")
    assert contents(folder) == before
    done("run", folder / "job.toml")
    assert "eigenpairs 1 of 1, trace 1 of 1, density 3 of 3" in done("check", folder / "job.toml")


def test_check_against_pyhessian(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = done("check", folder / "job.toml", "--against", "pyhessian")
    assert "they agree" in told
    refused = landscape("check", folder / "job.toml", "--against", "pyhesian")
    assert refused.exit_code == 2
    assert "pyhessian" in refused.stderr
    real = CurvatureOperator.apply
    monkeypatch.setattr(CurvatureOperator, "apply", lambda self, vectors: 1.01 * real(self, vectors))
    differs = landscape("check", folder / "job.toml", "--against", "pyhessian")
    assert differs.exit_code == 1
    assert "they DIFFER" in differs.stdout


@pytest.mark.parametrize(
    ("job", "overrides", "expected"),
    [
        ("job", ["spectrum.desity=false"], ["spectrum.desity: unknown", "did you mean 'density'"]),
        ("job", ["spectrum.k=0", "spectrum.trace=false", "spectrum.density=false"], ["nothing is asked for"]),
        ("job", ["spectrum.k=39"], ["k=39", "38 rows", "0 to 38"]),
        ("job", ["spectrum.tol=1e-16"], ["tol=1e-16", "floor"]),
        ("job", ["spectrum.params=1"], ["params='1' matches no trainable parameter"]),
        ("job", ["spectrum.samples=49"], ["samples=49", "2 to 48"]),
        ("job", ["spectrum.trace=exact", "model.args.activation=gelu"], ["piecewise linear", "trace=True"]),
        (
            "job",
            ["spectrum.operator=ggn", "objective.loss=returned", "objective.forward=curved_nets:own_loss"],
            ["ggn"],
        ),
        ("job", ["run.out=curved_nets.py/a"], ["curved_nets.py"]),
        ("layers", ["layers.density=true"], ["layers.density", "but to [spectrum]"]),
        ("layers", ["layers.params=nothing*"], ["matches no trainable parameter"]),
        ("layers", ["surface.x=[0,1,2]"], ["[surface], [layers]"]),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(
    folder: Path, job: str, overrides: list[str], expected: list[str]
) -> None:
    before = contents(folder)
    for command in ("run", "check"):
        result = landscape(command, folder / f"{job}.toml", *(word for o in overrides for word in ("--set", o)))
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        for words in expected:
            assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert contents(folder) == before


def test_a_limit_of_items_ends_a_spectrum_between_its_tasks(folder: Path) -> None:
    """The eigenpairs are one item; nothing is computed behind it, and the same run goes on from there."""
    ended = landscape("run", folder / "job.toml", "--limit-items", 1)
    assert ended.exit_code == 3
    assert [int(store.rows().done.sum()) for store in run_stores(folder / "runs/a")] == [1, 0]
    assert not (folder / "runs/a/landscape.h5").exists()
    assert landscape("resume", folder / "runs/a").exit_code == 0
    assert (folder / "runs/a/landscape.h5").is_file()


# -- progress ----------------------------------------------------------------------------------------------------------


def test_progress_names_the_task_and_how_far_the_eigenpairs_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REPORT", 0.0)
    seen: list[ls.Progress] = []
    run_job(load_job(folder / "job.toml"), progress=seen.append)
    assert list(dict.fromkeys(p.task for p in seen)) == ["eigenpairs", "trace", "density"]
    notes = [p.note for p in seen if p.task == "eigenpairs" and p.done == 0]
    assert notes[0] == "0 products, 0 of 3 pairs converged"
    products = [int(note.split()[0]) for note in notes]
    assert products == list(range(len(products)))
    assert len(products) > 3
    assert seen[len(notes)].note == ""


def test_a_failing_progress_callback_costs_no_run(folder: Path) -> None:
    def closed(progress: ls.Progress) -> None:
        raise OSError("closed")

    assert isinstance(run_job(load_job(folder / "job.toml"), progress=closed), ls.Spectrum)


def test_progress_of_several_tasks_ends_each_with_a_line() -> None:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file)) as display:
        display(ls.Progress(0, 1, 0, 2.0, float("nan"), "eigenpairs", "4 products, 1 of 3 pairs converged"))
        display(ls.Progress(1, 1, 1, 4.0, 1e-4, "eigenpairs"))
        display(ls.Progress(2, 4, 2, 1.0, 9.0, "density"))
    assert file.getvalue().splitlines() == [
        "eigenpairs: 1 of 1 rows (100 %), 0.25/s, 0:00:00 left",
        "density: 2 of 4 rows (50 %), 2/s, 0:00:01 left",
    ]


def test_progress_on_a_terminal_has_a_bar_for_each_task() -> None:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=True, width=120)) as display:
        display(ls.Progress(0, 1, 0, 2.0, float("nan"), "eigenpairs", "4 products, 1 of 3 pairs converged"))
        display(ls.Progress(2, 4, 2, 1.0, 9.0, "density"))
    assert "eigenpairs: 0 of 1 rows (0 %), 4 products, 1 of 3 pairs converged, 0:00:02 so far" in file.getvalue()
    assert "density: 2 of 4 rows" in file.getvalue()


def test_vectors_in_bf16_and_activations_computed_again(folder: Path) -> None:
    """Both are keys of the job; `check` tells of them, and a run is the one of Python."""
    text = SPECTRUM.replace('precision = "float64"', 'recompute = ["0", "2"]')
    asked = 'k = 2\ntrace = false\ndensity = false\nmemory = "streamed"\nvectors = "bf16"\n'
    text = text[: text.index("k = 3")] + asked + text[text.index("[run]") :]
    (folder / "streamed.toml").write_text(text, encoding="utf-8")
    told = " ".join(done("check", folder / "streamed.toml").replace("│", " ").split())
    assert "in bf16 but for those that are multiplied or wanted" in told
    assert "of 2 blocks (0, 2) computed again, and not kept" in told
    done("run", folder / "streamed.toml")
    found = ls.open(folder / "runs" / "a")
    assert isinstance(found, ls.Spectrum)
    assert found.largest.converged.all()
    whole = build(load_job(folder / "streamed.toml", ["objective.recompute=false"])).subject
    assert whole.recomputed == ()
    plain = ls.measure_spectrum(whole, k=2, trace=False, density=False, memory="streamed")
    assert found.eigenvalues == pytest.approx(plain.eigenvalues, rel=1e-4)
    for wrong, told in (("objective.recompute=3", "recompute"), ("spectrum.vectors='fp8'", "vectors")):
        refused = landscape("check", folder / "streamed.toml", "--set", wrong)
        assert refused.exit_code == 2
        assert told in refused.stderr
    named = load_job(folder / "streamed.toml", ["objective.recompute='0'"])
    assert build(named).subject.recomputed == ("0",)
