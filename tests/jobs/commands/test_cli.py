"""The command line on real jobs: results, exit codes, messages, and that bad input leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GUARD
from landscape_jobs.build.objects import build, set_threads
from landscape_jobs.build.run import run_job
from landscape_jobs.cli import app
from landscape_jobs.spec.job import load_job
from landscape_jobs.terminal import progress as progress_module
from landscape_jobs.terminal.progress import ProgressDisplay
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import landscape as ls
from landscape.opening.opening import Place

NETS = """
import time

import torch
from torch import nn


def mlp(width: int = 4) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def batchnorm(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def data(samples: int = 20):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 3, generator=generator), torch.arange(samples) % 2


def slow(outputs, targets):
    time.sleep(0.02)
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def own_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def fails_away_from_the_centre(model, batch):
    if not torch.equal(model[0].weight, mlp()[0].weight):
        raise ArithmeticError("no such luck")
    return model(batch[0]), batch[1]


not_a_callable = 3
"""
JOB = """
[model]
factory = "job_nets:mlp"
checkpoint = "trained.safetensors"
[data]
factory = "job_nets:data"
[objective]
metrics = ["accuracy"]
[surface]
x = [-1, 1, 5]
y = [-1, 1, 3]
[run]
out = "runs/a"
threads = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a job, its module and its checkpoint, in a place with spaces and non-ASCII letters."""
    home = tmp_path / "größe и путь [1]"
    home.mkdir()
    (home / "job_nets.py").write_text(NETS, encoding="utf-8")
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    generator = torch.Generator().manual_seed(5)
    save_file(state(4, generator), home / "trained.safetensors")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    threads = torch.get_num_threads()
    sys.modules.pop("job_nets", None)
    yield home
    sys.modules.pop("job_nets", None)
    torch.set_num_threads(threads)


def state(width: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    shapes = {"0.weight": (width, 3), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def landscape(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def done(*words: object) -> str:
    result = landscape(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def values(path: Path) -> dict[str, bytes]:
    surface = ls.open(path)
    return {name: array.tobytes() for name, array in [*surface.values.items(), *surface.stderr.items()]}


# -- work ------------------------------------------------------------------------------------------------------------


def test_run_leaves_the_surface_that_the_library_measures(folder: Path) -> None:
    assert str(folder / "runs/a/landscape.h5") in done("run", folder / "job.toml")
    surface = ls.open(folder / "runs/a/landscape.h5")
    assert surface.values["loss"].shape == (3, 5)
    import job_nets  # type: ignore[import-not-found]

    net = job_nets.mlp()
    ls.load_checkpoint(net, folder / "trained.safetensors")
    objective = ls.Objective(net, data=job_nets.data(), metrics=("accuracy",))
    plane = ls.random_plane(objective, normalize="filter", ignore=("bias", "norm"), seed=0)
    expected = ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 3))
    for name in ("loss", "accuracy"):
        assert surface.values[name].tobytes() == expected.values[name].tobytes()
        assert surface.stderr[name].tobytes() == expected.stderr[name].tobytes()


def test_a_limited_run_resumed_from_elsewhere_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = folder / "runs/whole", folder / "runs/in parts"
    done("run", folder / "job.toml", "--set", f"run.out={whole}")
    limited = landscape("run", folder / "job.toml", "--set", f"run.out={parts}", "--limit-items", 7)
    assert limited.exit_code == 3
    assert "7 of 15 rows are done" in limited.stderr
    assert "landscape resume" in limited.stderr
    assert not (parts / "landscape.h5").exists()
    assert int(ls.open(parts).computed.sum()) == 7
    moved = shutil.move(parts, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    done("resume", "moved")
    assert values(Path(moved) / "landscape.h5") == values(whole / "landscape.h5")
    assert not parts.exists()


def test_overrides_are_part_of_the_job_that_resume_reads(folder: Path) -> None:
    landscape("run", folder / "job.toml", "--set", "plane.seed=3", "--set", "surface.x=[-2,2,4]", "--limit-items", 2)
    done("resume", folder / "runs/a")
    surface = ls.open(folder / "runs/a/landscape.h5")
    assert surface.x.tolist() == ls.open(folder / "runs/a").x.tolist()
    assert (surface.x[0], len(surface.x), surface.attributes["seed"]) == (-2, 4, 3)


def test_status_tells_how_far_each_run_is(folder: Path) -> None:
    done("run", folder / "job.toml", "--set", "run.out=whole")
    landscape("run", folder / "job.toml", "--set", "run.out=part", "--limit-items", 4)
    told = done("status", folder / "whole", folder / "part")
    assert "15 of 15" in told
    assert "4 of 15" in told
    assert "not yet" in told
    assert "landscape.h5" in told.replace("\n", "")
    assert "stopped at a limit" in told
    assert "landscape resume" in told


def test_show_tells_values_with_errors_plane_and_origin(folder: Path) -> None:
    done("run", folder / "job.toml", "--set", "plane.seed=9")
    surface = ls.open(folder / "runs/a")
    for source in (folder / "runs/a", folder / "runs/a/landscape.h5"):
        told = done("show", source)
        loss = surface.values["loss"]
        for expected in (
            f"{loss.min():.6g} +- {surface.stderr['loss'].ravel()[loss.argmin()]:.2g}",
            f"{loss.max():.6g} +- {surface.stderr['loss'].ravel()[loss.argmax()]:.2g}",
            f"{loss[1, 2]:.6g} +- {surface.stderr['loss'][1, 2]:.2g}",
            "5 x 3, 15 of 15 computed",
            "filter",
            "xy ",
            "torch",
            str(surface.attributes["data_hash"]),
        ):
            assert expected in told, (expected, told)


def test_show_counts_what_is_not_finite_and_what_is_missing(folder: Path) -> None:
    landscape("run", folder / "job.toml", "--limit-items", 6)
    surface = ls.open(folder / "runs/a")
    surface.values["loss"].ravel()[np.flatnonzero(surface.computed)[0]] = np.inf
    told = done("show", surface.save(folder / "holes.h5"))
    assert "6 of 15 computed" in told
    row = next(line for line in told.splitlines() if " loss " in line and "+-" in line)
    assert row.split("│")[-2].strip() == "1"


def test_plot_writes_the_picture_asked_for(folder: Path) -> None:
    done("run", folder / "job.toml")
    picture = folder / "runs/a/loss_contour.png"
    assert str(picture) in done("plot", folder / "runs/a")
    assert picture.read_bytes().startswith(b"\x89PNG")
    done("plot", folder / "runs/a/landscape.h5", "-q", "accuracy", "--kind", "3d", "-o", folder / "b.svg")
    assert b"<svg" in (folder / "b.svg").read_bytes()
    done("plot", folder / "runs/a/landscape.h5", "--kind", "profile", "--levels", "log")
    assert (folder / "runs/a/landscape_loss_profile.png").exists()


def test_merge_writes_one_run_masked_and_several_as_groups(folder: Path) -> None:
    done("run", folder / "job.toml", "--set", "run.out=whole")
    landscape("run", folder / "job.toml", "--set", "run.out=part", "--limit-items", 4)
    done("merge", folder / "part", "-o", folder / "part.h5")
    assert int(ls.open(folder / "part.h5").computed.sum()) == 4
    assert Place(folder / "part.h5").run_names == []
    both = folder / "both.h5"
    done("merge", folder / "whole", folder / "part", "-o", both)
    assert ls.open(both, run="whole").complete
    told = " ".join(done("show", both).split())  # a long path breaks the line
    assert "run whole" in told
    assert "run part" in told
    assert "run whole" not in " ".join(done("show", both, "--run", "part").split())
    assert str(folder / "both_part_loss_contour.png") in done("plot", both, "--run", "part")
    unnamed = landscape("plot", both)
    assert unnamed.exit_code == 2
    assert "whole, part" in unnamed.stderr


def test_check_estimates_and_writes_nothing(folder: Path) -> None:
    before = contents(folder)
    told = done("check", folder / "job.toml")
    assert contents(folder) == before
    assert "15, of which 0 are there already" in told
    for expected in ("time on 1 rank, 1 thread each", "time on 64 ranks", "memory per rank", "size of the result"):
        assert expected in told
    for expected in ("time of a sample on this machine", "float32: ", "bf16: ", "would be faster"):
        assert expected in told
    objective = build(load_job(folder / "job.toml")).subject
    proposed = load_job(folder / "job.toml", ["objective.chunk=4", "objective.channels_last=false"])
    assert build(proposed).subject.chunk == 4 != objective.chunk
    recorded = landscape(
        "check", folder / "job.toml", "--set", "objective.cuda_graphs=true", "--set", "objective.device='cpu'"
    )
    assert recorded.exit_code == 2
    assert "records what a GPU computes" in recorded.stderr
    assert f"{float(objective.evaluate()['loss']):.6g}" in told
    landscape("run", folder / "job.toml", "--limit-items", 5)
    assert "15, of which 5 are there already" in done("check", folder / "job.toml")
    other = landscape("check", folder / "job.toml", "--set", "plane.seed=8")
    assert other.exit_code == 2
    assert "plane.directions" in other.stderr


def test_a_surface_to_an_error_is_foretold_and_measured(folder: Path) -> None:
    text = JOB.replace('checkpoint = "trained.safetensors"', "args.width = 1024").replace("[-1, 1, 5]", "[-1, 1, 12]")
    text = text.replace('data"\n', 'data"\nargs.samples = 3000\n')
    text = text.replace("[-1, 1, 3]", '[-1, 1, 12]\nerror = 0.05\nscale = "log"\nshare = 0.9')
    (folder / "job.toml").write_text(text)
    told = " ".join(done("check", folder / "job.toml").split())
    assert "for an error of 0.05 log at 90% of the points" in told
    guess = float(re.search(r"about (\S+) full passes", told).group(1))  # type: ignore[union-attr]
    assert "9, of which 0 are there already" in told
    assert "rounds nothing" in told
    landscape("run", folder / "job.toml", "--limit-items", 7)
    begun = " ".join(done("check", folder / "job.toml").split())
    assert "9, of which 7 are there already" in begun
    assert "rounds 7 full passes and 0 times 128 samples" in re.sub(r"\W*│\W*", " ", begun)
    done("run", folder / "job.toml")
    ended = re.sub(r"\W*│\W*", " ", " ".join(done("check", folder / "job.toml").split()))
    assert "9, of which 9 are there already" in ended
    assert "1 thread each 0:00:00" in ended
    surface = ls.open(folder / "runs/a")
    sampled, full = (int((surface.found == how).sum()) for how in ("sampled", "anchor"))
    assert f"rounds all: {full} full passes and " in ended
    assert int(re.search(r"passes and (\d+) times 128 samples", ended).group(1)) >= sampled  # type: ignore[union-attr]
    assert surface.attributes["error_scale"] == "log"
    spent = surface.attributes["work"]["full_passes"]
    assert 9 < spent < 144 / 2
    assert spent / 2 < guess < 2 * spent
    assert "error 0.05 log asked at 90% of the points" in str(surface)
    everywhere = done("check", folder / "job.toml", "--set", "data.args.samples=20", "--set", "run.out=b")
    assert "a full pass at every point" in " ".join(everywhere.split())


def test_check_refuses_a_folder_that_a_run_would_refuse(folder: Path) -> None:
    """One with a result of several tasks, whose run.json lie in folders of their own."""
    (folder / "held").mkdir()
    (folder / "held" / "landscape.h5").write_bytes(b"")
    refused = landscape("check", folder / "job.toml", "--set", f"run.out={str(folder / 'held')!r}")
    assert refused.exit_code == 2
    assert "holds landscape.h5 but no run.json" in refused.stderr


def test_planes_through_checkpoints_take_a_glob_in_natural_order(folder: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    for epoch in (9, 10, 2):
        save_file(state(4, generator), folder / f"epoch{epoch}.safetensors")
    through = ("--set", "plane.kind=through", "--set", 'plane.checkpoints="epoch*.safetensors"')
    told = done("check", folder / "job.toml", *through, "--set", "surface.x=[-0.5, 0.5, 3]")
    assert re.search(r"models on the plane\W+x from 0 to 1, y from 0 to 0\.\d+; 2 lie OFF THE GRID: widen", told)
    done("run", folder / "job.toml", *through)
    points = ls.open(folder / "runs/a").points
    assert points is not None
    assert points.labels == ("epoch2", "epoch9", "epoch10")
    assert "epoch10" in done("show", folder / "runs/a")
    wrong = landscape("run", folder / "job.toml", *through, "--set", "surface.z=[0,1,2]", "--set", "run.out=b")
    assert wrong.exit_code == 2
    assert "are 3 models, and [surface] has 3 ranges" in wrong.stderr
    none = landscape("run", folder / "job.toml", *through[:3], 'plane.checkpoints="epoc*.pt"')
    assert none.exit_code == 2
    assert "'epoc*.pt' matches no file" in none.stderr
    done("run", folder / "job.toml", "--set", "plane.kind=pca", *through[2:], "--set", "run.out=c")
    assert "variance explained" in done("show", folder / "c")


def test_without_a_checkpoint_a_plane_of_checkpoints_brings_its_own(folder: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    files = [folder / f"{name}.safetensors" for name in "abc"]
    for file in files:
        save_file(state(4, generator), file)
    text = JOB.replace('checkpoint = "trained.safetensors"\n', "")
    (folder / "job.toml").write_text(text + '[plane]\nkind = "pca"\ncheckpoints = "[abc].safetensors"\n')
    for kind, file in (("pca", files[-1]), ("through", files[0])):
        objective = build(load_job(folder / "job.toml", [f"plane.kind={kind}"])).subject
        assert torch.equal(objective.theta, objective.layout.flatten(ls.read_state(file)))


def test_directions_and_known_points_come_from_files_of_loss_landscape(folder: Path) -> None:
    built = build(load_job(folder / "job.toml", ["plane.seed=4"]))
    ls.write_loss_landscape_directions(folder / "d.h5", built.subject, built.arguments["plane"].directions)
    surface = ls.measure_surface(built.subject, **built.arguments)
    surface.computed[1, 2] = False
    ls.write_loss_landscape_surface(folder / "s.h5", surface)
    given = ("--set", "plane.kind=directions", "--set", "plane.file=d.h5")
    done("run", folder / "job.toml", *given, "--set", "surface.known=s.h5")
    found = ls.open(folder / "runs/a/landscape.h5")
    np.testing.assert_allclose(found.values["loss"], surface.values["loss"], rtol=1e-12)
    assert json.loads((folder / "runs/a/attempts/0001.json").read_text())["computed"] == 1
    wrong = landscape("run", folder / "job.toml", *given, "--set", "surface.z=[0,1,2]", "--set", "run.out=b")
    assert wrong.exit_code == 2
    assert "holds 2 directions, and [surface] has 3 ranges" in wrong.stderr


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective.loss=torch.nn:CrossEntropyLoss"],
        ["objective.loss=torch.nn.functional:cross_entropy"],
        ["objective.loss=returned", "objective.forward=job_nets:own_loss", "objective.metrics=[]"],
    ],
)
def test_losses_are_named_imported_or_returned(folder: Path, overrides: list[str]) -> None:
    found = build(load_job(folder / "job.toml", overrides)).subject.evaluate()["loss"]
    named = build(load_job(folder / "job.toml")).subject.evaluate()["loss"]
    assert float(found) == pytest.approx(float(named), rel=1e-6)


def test_statistics_come_from_their_own_factory(folder: Path) -> None:
    bn = ["model.factory=job_nets:batchnorm", "surface.batchnorm=reestimated"]
    given = [*bn, "surface.statistics.factory=job_nets:data", "surface.statistics.args.samples=8"]
    text = JOB.replace('checkpoint = "trained.safetensors"\n', "")
    (folder / "job.toml").write_text(text)
    assert run_job(load_job(folder / "job.toml", given)).attributes["statistics_samples"] == 8
    assert "statistics" not in build(load_job(folder / "job.toml", bn)).arguments


def test_threads_are_asked_for_or_shared_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(load_job(folder / "job.toml", ["run.threads=3"]))
    assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    set_threads(None)
    assert torch.get_num_threads() == 3  # torch took the variable's value when it was imported; it is not overruled
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(None)
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["plane.normalise=layer"], ["plane.normalise", "did you mean 'normalize'?"]),
        (["surface.x=[-1,1,0]"], ["surface.x", "n=0", "at least 1"]),
        (["surface.x=[1,-1,5]"], ["surface.x", "from 1.0 down to -1.0", "smaller end first"]),
        (["surface.x=[nan,1,5]"], ["surface.x", "nan", "finite"]),
        (["model.factory=no_such.module:net"], ["'no_such.module' cannot be imported", "beside the job file"]),
        (["model.factory=job_nets:mpl"], ["job_nets has no 'mpl'", "did you mean 'mlp'?"]),
        (["model.factory=job_nets:not_a_callable"], ["is a int, not a callable"]),
        (["model.factory=job_nets:data"], ["returned tuple", "nn.Module"]),
        (["model.factory=broken:net"], ["'broken' cannot be imported", "SyntaxError"]),
        (["model.factory=needs:net"], ["'needs' cannot be imported", "Install 'not_installed_here'"]),
        (["model.factory=mute:net"], ["'mute' cannot be imported, E: it cannot say what it is", "raises TypeError"]),
        (["model.factory=ends:net"], ["model.factory = 'ends:net' cannot be called", "StopIteration"]),
        (["model.args.widht=3"], ["model.args", "widht", "did you mean 'width'?"]),
        (["model.args.width=7"], ["does not fit the model", "0.weight (4, 3) against (7, 3)", "architecture"]),
        (["model.checkpoint=objects.pt"], ["pickled", "refused", "torch.save(model.state_dict()"]),
        (["model.checkpoint=nowhere.pt"], ["nowhere.pt does not exist"]),
        (["data.args.samples=0"], ["data", "empty", "at least one"]),
        (["plane.ignore=wieght"], ["ignore='wieght'", "did you mean"]),
        (["surface.batchnorm=reestimated"], ["no BatchNorm layer"]),
        (["run.ranks_per_item=2"], ["ranks_per_item=2", "mpiexec"]),
        (["surface.known=nowhere.h5"], ["nowhere.h5 does not exist"]),
        (["run.out"], ["--set 'run.out'", "table.key=value"]),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(folder: Path, overrides: list[str], expected: list[str]) -> None:
    (folder / "broken.py").write_text("def net(:\n")
    (folder / "needs.py").write_text("import not_installed_here\n")
    (folder / "mute.py").write_text("class E(Exception):\n    def __str__(self): return 1\nraise E\n")
    (folder / "ends.py").write_text("def net(**given): return next(iter([]))\n")
    (folder / "objects.pt").write_bytes(pickle.dumps({"anything": Path("x")}))
    before = contents(folder)
    for command in ("run", "check"):
        if command == "check" and overrides == ["run.ranks_per_item=2"]:
            continue  # it estimates for more ranks than it has
        result = landscape(command, folder / "job.toml", *(word for o in overrides for word in ("--set", o)))
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        for words in expected:
            assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert contents(folder) == before


def test_the_folder_of_another_job_is_refused_with_the_differences(folder: Path) -> None:
    landscape("run", folder / "job.toml", "--limit-items", 4)
    before = contents(folder)
    result = landscape("run", folder / "job.toml", "--set", "plane.seed=1", "--set", "surface.y=[-1,1,4]")
    assert result.exit_code == 2
    for words in ("holds a different run", "plane.directions", "axes.y", "Name another folder"):
        assert words in result.stderr
    assert "objective" not in result.stderr
    assert contents(folder) == before


def test_a_file_of_a_newer_schema_is_refused(folder: Path) -> None:
    done("run", folder / "job.toml")
    file = folder / "runs/a/landscape.h5"
    import h5py

    with h5py.File(file, "r+") as opened:
        opened.attrs["schema_version"] = 99
    for command in ("show", "plot"):
        result = landscape(command, file)
        assert result.exit_code == 2
        assert "schema version 99" in result.stderr
        assert "update" in result.stderr


@pytest.mark.parametrize("command", ["show", "plot", "status", "resume"])
def test_what_is_no_result_is_named(folder: Path, command: str) -> None:
    for source in (folder, folder / "nowhere"):
        result = landscape(command, source)
        assert result.exit_code == 2, result.output
        assert str(source) in result.stderr


def test_a_run_made_from_python_says_how_to_go_on(folder: Path) -> None:
    built = build(load_job(folder / "job.toml"))
    ls.measure_surface(built.subject, **built.arguments, out=folder / "made", limit_items=3)
    result = landscape("resume", folder / "made")
    assert result.exit_code == 2
    assert "measure_surface" in result.stderr
    assert "made from Python" in result.stderr


def test_unknown_pictures_are_refused(folder: Path) -> None:
    done("run", folder / "job.toml")
    before = contents(folder)
    for words, expected in (
        (("-q", "los"), "did you mean 'loss'?"),
        (("--kind", "4d"), "'4d'"),
        (("--levels", "cubic"), "'cubic'"),
        (("-o", folder / "a.jpg"), "'.jpg'"),
    ):
        result = landscape("plot", folder / "runs/a", *words)
        assert result.exit_code == 2
        assert expected in result.stderr
    assert contents(folder) == before


def test_points_that_fail_end_it_with_4_and_cost_only_themselves(folder: Path) -> None:
    (folder / "job.toml").write_text(JOB.replace('checkpoint = "trained.safetensors"\n', ""))
    forward = ("--set", "objective.forward=job_nets:fails_away_from_the_centre")
    axes = ("--set", "surface.x=[0,1,5]", "--set", "surface.y=[0,1,3]")
    result = landscape("run", folder / "job.toml", *forward, *axes)
    assert result.exit_code == 4
    assert "14 of 15 items failed and are left out" in result.stderr
    assert "ArithmeticError: no such luck" in result.stderr
    assert int(ls.open(folder / "runs/a").computed.sum()) == 1
    assert "14 failed" in done("status", folder / "runs/a")


ENDS = """
import sys

from job_nets import *


def model(what):
    if what == "memory":
        raise MemoryError("a table of 8 TB")
    if what != "":
        sys.exit(what)
    return mlp()


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        sys.exit(0)


calls = 0


def loss(outputs, targets):
    global calls
    calls += 1
    if calls > 30:
        raise ArithmeticError("no such luck")
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def leaves(outputs, targets):
    global calls
    calls += 1
    if calls > 30:
        sys.exit(3)
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
"""


@pytest.fixture
def ends(folder: Path) -> Iterator[Path]:
    """A job whose own code ends the program, or fails, at several places."""
    (folder / "ends.py").write_text(ENDS, encoding="utf-8")
    (folder / "job.toml").write_text(
        JOB.replace('checkpoint = "trained.safetensors"\n', "").replace('metrics = ["accuracy"]', ""), encoding="utf-8"
    )
    sys.modules.pop("ends", None)
    yield folder
    sys.modules.pop("ends", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("model.factory=ends:model", "model.args={what=0}"),
            "factory = 'ends:model' .*SystemExit: 0 .ends.py, line 11",
        ),
        (("model.factory=ends:model", "model.args={what=3}"), "'what': 3.*SystemExit: 3 .ends.py, line 11, in model"),
        (
            ("model.factory=ends:model", 'model.args={what="memory"}'),
            "'ends:model' .*MemoryError: a table of 8 TB .ends.py",
        ),
        (("data.factory=ends:Samples",), r"SystemExit: 0 \(ends.py, line 20, in __getitem__\). It ended the program"),
        (("objective.loss=ends:leaves", "surface.x=[-1,1,50]"), r"SystemExit: 3 \(ends.py, line 38, in leaves\)"),
    ],
)
def test_an_exit_in_the_users_code_is_told(change: tuple[str, ...], said: str, ends: Path) -> None:
    """With any code, 0 too, which would look like the end of the work; and so is a lack of memory in a factory."""
    result = landscape("run", ends / "job.toml", *(word for key in change for word in ("--set", key)))
    assert result.exit_code == 2, result.output
    assert re.search(said, result.stderr)
    assert "Traceback" not in result.output


def test_an_exit_while_the_users_module_is_imported_is_told(ends: Path) -> None:
    (ends / "ends.py").write_text("import argparse\n\nargparse.ArgumentParser().parse_args(['--no'])\n")
    result = landscape("check", ends / "job.toml", "--set", "model.factory=ends:model")
    assert result.exit_code == 2
    assert "SystemExit: 2 (ends.py, line 3, in <module>)" in result.stderr


def test_a_loss_that_fails_late_is_told_as_the_users(ends: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = landscape("run", ends / "job.toml", "--set", "objective.loss=ends:loss", "--set", "surface.x=[-1,1,50]")
    assert result.exit_code == 2
    assert "50 items failed one after another" in result.stderr
    assert "ArithmeticError: no such luck (ends.py, line 30, in loss)" in result.stderr
    assert "Traceback" not in result.stderr
    told = [record.getMessage() for record in caplog.records if "no such luck" in record.getMessage()]
    assert len(told) == 4
    assert told[-1] == "47 more failures say the same: ArithmeticError: no such luck"


# -- processes -----------------------------------------------------------------------------------------------------


def start(*words: object, ranks: int = 1, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "landscape_jobs.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    if ranks > 1:
        command = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks), *command]
        environment |= {
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_btl": "^ofi",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
            "OMPI_MCA_mpi_yield_when_idle": "1",
        }
    return subprocess.Popen(
        command, env=environment, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=GUARD)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def test_help_and_version_answer_without_loading_what_is_heavy() -> None:
    for words in ("--help", "run --help", "--version"):
        command = [sys.executable, "-X", "importtime", "-m", "landscape_jobs.cli", *words.split()]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
        assert "typer" in loaded
        assert not loaded & {"torch", "numpy", "landscape", "mpi4py", "h5py", "matplotlib"}
    assert result.stdout.startswith("landscape 0.")


def test_no_command_shows_the_help() -> None:
    assert "resume" in landscape().output


def test_ctrl_c_ends_with_3_and_resume_completes_the_same_surface(folder: Path) -> None:
    slow = ("--set", "objective.loss=job_nets:slow", "--set", "surface.x=[-1,1,31]")
    process = start("run", folder / "job.toml", *slow, "--set", "run.out=stopped")
    deadline = time.monotonic() + GUARD
    while not list((folder / "stopped/shards").glob("*.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None, ended(process)
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 3, err
    assert "stopped by SIGINT" in err
    assert "Traceback" not in err
    assert 0 < int(ls.open(folder / "stopped").computed.sum()) < 93
    done("resume", folder / "stopped")
    done("run", folder / "job.toml", *slow[:3], "surface.x=[-1,1,31]", "--set", "run.out=whole")
    assert values(folder / "stopped/landscape.h5") == values(folder / "whole/landscape.h5")


@pytest.mark.mpi
def test_two_ranks_give_the_surface_of_one_and_only_one_of_them_talks(folder: Path) -> None:
    """In two parts, and they end together with the code of what is left, or of the error."""
    code, _, err = ended(start("run", folder / "job.toml", "--set", "surface.x=[1,-1,5]", ranks=2))
    assert code == 2, err
    assert err.count("smaller end first") == 1
    limited = ("--limit-items", "3", "--set", "run.out=two")
    code, _, err = ended(start("run", folder / "job.toml", *limited, ranks=2))
    assert code == 3, err
    assert err.count("3 of 15 rows are done") == 1
    code, out, err = ended(start("resume", folder / "two", ranks=2))
    assert code == 0, err
    assert out.count("landscape.h5") == 1
    done("run", folder / "job.toml", "--set", "run.out=one")
    assert values(folder / "two/landscape.h5") == values(folder / "one/landscape.h5")


def test_a_reader_that_has_enough_is_no_failure(folder: Path) -> None:
    """As `landscape check job.toml | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("check", folder / "job.toml", stdout=writer)
    os.close(writer)
    _, told = process.communicate()
    assert (process.returncode, told) == (0, "")


# -- progress ----------------------------------------------------------------------------------------------------------


def seen(done: int) -> ls.Progress:
    return ls.Progress(done=done, total=200, computed=done, elapsed=done / 5, minimum=0.25)


def test_progress_into_a_file_is_a_line_a_minute_and_a_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    with ProgressDisplay(Console(file=file)) as display:
        for second in range(0, 130, 10):
            clock[0] = float(second)
            display(seen(second + 1))
    lines = file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["61", "121", "121"]
    assert lines[0] == "61 of 200 rows (30 %), 5/s, 0:00:28 left, minimum 0.25"


def test_progress_on_a_terminal_is_a_bar() -> None:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=True, width=120)) as display:
        display(seen(50))
    assert "50 of 200 rows (25 %), 5/s, 0:00:30 left, minimum 0.25" in file.getvalue()
    assert "━" in file.getvalue()


def test_progress_of_a_run_without_rows_is_silent() -> None:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file)):
        pass
    assert file.getvalue() == ""
