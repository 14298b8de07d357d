"""Sweeps: cells and their content, running, resuming, submitting and merging them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from conftest import GUARD, mpi_environment
from landscape_jobs.cli import app
from landscape_jobs.spec.job import load_job
from landscape_jobs.spec.toml import read_toml
from landscape_jobs.sweeps import cells as cells_module
from landscape_jobs.sweeps.folder import content_key, places, stop_signal, stored_sweep, unfinished, write_index
from landscape_jobs.sweeps.sweep_file import load_sweep, parse_sweep
from typer.testing import CliRunner, Result

import landscape as ls
from landscape.errors import InputError, RunInterrupted, StoreError
from landscape.opening.runs import finished
from landscape.opening.sweeps import is_sweep, sweep_cells
from landscape.run.store import Store

NETS = """
import torch
from torch import nn


def mlp(width: int = 4) -> nn.Module:
    if width == 13:
        raise ArithmeticError("an unlucky width")
    net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 3, generator=generator), torch.arange(20) % 2
"""
JOB = """
[model]
factory = "nets_of_sweeps:mlp"
[data]
factory = "nets_of_sweeps:data"
[surface]
x = [-1, 1, 3]
[run]
threads = 1
"""
HEAD = 'job = "job.toml"\nout = "runs/sweep"\n'
SEEDS = HEAD + '[product]\n"plane.seed" = [0, 1]\n'
# a checkpoint that does not fit, and a factory that raises
FAILING = (
    HEAD
    + """
[zip]
"model.args.width" = [4, 5, 13]
"model.checkpoint" = ["a.pt", "a.pt", "a.pt"]
"""
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a job, its module, a checkpoint of width 4, and an sbatch; the current one."""
    folder = tmp_path / "größe [1]"
    (folder / "bin").mkdir(parents=True)
    (folder / "nets_of_sweeps.py").write_text(NETS, encoding="utf-8")
    (folder / "job.toml").write_text(JOB, encoding="utf-8")
    checkpoint(folder / "a.pt", 4)
    (folder / "bin" / "sbatch").write_text('#!/bin/bash\necho "$*" >>calls; echo 77\n')
    (folder / "bin" / "sbatch").chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("SLURM_CONF", str(folder / "none"))  # no squeue answers
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    threads = torch.get_num_threads()
    sys.modules.pop("nets_of_sweeps", None)
    yield folder
    sys.modules.pop("nets_of_sweeps", None)
    torch.set_num_threads(threads)


def checkpoint(path: Path, width: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (width, 3), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    torch.save({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, path)


def write(text: str) -> Path:
    path = Path("sweep.toml")
    path.write_text(text, encoding="utf-8")
    return path


def landscape(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def attempts(folder: Path) -> int:
    return len(Store.open(folder).attempts.all())


# -- sweep files -----------------------------------------------------------------------------------------------------


def test_product_zip_and_cells_make_their_product_in_order(home: Path) -> None:
    sweep = parse_sweep(
        HEAD
        + """
[product]
"plane.seed" = [0, 1]
[zip]
"model.args.width" = [4, 5]
"model.checkpoint" = ["a.pt", "b.pt"]
[[cell]]
"surface.x" = [-1, 1, 5]
[[cell]]
"plane.normalize" = "layer"
""",
        home / "sweep.toml",
    )
    assert [cell.number for cell in sweep.cells] == list(range(8))
    changes = [tuple(cell.changes.values()) for cell in sweep.cells[:5]]
    assert changes[:2] == [(0, 4, "a.pt", [-1, 1, 5]), (0, 4, "a.pt", "layer")]
    assert changes[2][:3] == (0, 5, "b.pt")
    assert changes[4][:3] == (1, 4, "a.pt")
    assert sweep.cells[0].label == "seed=0, width=4, checkpoint=a.pt, x=[-1, 1, 5]"
    assert sweep.cells[0].job.table.arguments()["x"] == (-1, 1, 5)
    assert sweep.cells[7].job.plane.normalize == "layer"
    assert sweep.cells[7].job.model.args == {"width": 5}
    assert sweep.out == home / "runs" / "sweep"


def test_labels_tell_keys_of_one_last_name_apart(home: Path) -> None:
    text = HEAD + '[zip]\n"model.args.width" = [1]\n"data.args.width" = [2]\n"plane.seed" = [3]\n'
    assert parse_sweep(text, "sweep.toml").cells[0].label == "model.args.width=1, data.args.width=2, seed=3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('job = "job.toml"\n[product]\n"plane.seed" = [0]', "out is missing"),
        ('job = 3\nout = "r"\n[product]\n"plane.seed" = [0]', "job = 3 is neither"),
        ('job = "none.toml"\nout = "r"\n[product]\n"plane.seed" = [0]', "none.toml cannot be read"),
        ('job = "sweep.toml"\nout = "r"\n[product]\n"plane.seed" = [0]', "is a sweep itself"),
        (HEAD + "prodct = 1", "did you mean 'product'"),
        (HEAD, "changes nothing"),
        (HEAD + '[product]\n"plane.seed" = 3', "plane.seed = 3 is not a list"),
        (HEAD + '[product]\n"plane.seed" = []', "not a list of one value or more"),
        (HEAD + "[product]\nplane.seed = [1]", 'in quotes, as in "plane.seed"'),
        (HEAD + '[zip]\n"plane.seed" = [1, 2]\n"model.args.width" = [1]', "plane.seed has 2, model.args.width has 1"),
        (HEAD + '[product]\n"plane.seed" = [1]\n[zip]\n"plane.seed" = [1]', r"in \[product\] and in \[zip\]"),
        (HEAD + '[product]\n"plane" = [{}]\n"plane.seed" = [1]', "plane holds plane.seed"),
        (HEAD + '[product]\n"run.threads" = [1]', "run.threads does not change what is computed"),
        (HEAD + '[product]\n"a=b" = [1]', "no key of a job"),
        (HEAD + "[[cell]]\n", "with a key or more"),
        (HEAD + '[product]\n"plane.seed" = [1, 2, 1]', "cells 0 and 2 are equal"),
        ("=", "not valid TOML"),
    ],
)
def test_what_is_no_sweep_is_refused(home: Path, text: str, said: str) -> None:
    path = write(text)
    with pytest.raises(InputError, match=said) as raised:
        load_sweep(path)
    assert "sweep.toml" in str(raised.value)


def test_every_bad_value_is_told_at_once_with_its_cell(home: Path) -> None:
    text = HEAD + '[product]\n"plane.normalize" = ["filter", "filtr"]\n"surface.x" = [[-1, 1, 3], [0, 1]]\n'
    with pytest.raises(InputError) as raised:
        load_sweep(write(text))
    told = str(raised.value)
    assert "cells 1, 3: surface.x" in told
    assert "a range is three numbers" in told
    assert "cells 2, 3: plane.normalize = 'filtr'" in told
    with pytest.raises(InputError, match=r"every cell: objective\.loss"):
        load_sweep(write(SEEDS), ["objective.loss=crossentropy"])
    assert landscape("submit", write(text)).exit_code == 2
    assert not Path("calls").exists()
    assert not Path("runs").exists()


def test_set_changes_the_base_but_nothing_that_the_sweep_changes(home: Path) -> None:
    sweep = load_sweep(write(SEEDS), ["plane.normalize=layer", "run.threads=2"])
    assert {(cell.job.plane.normalize, cell.job.run.threads) for cell in sweep.cells} == {("layer", 2)}
    for override in ("plane.seed=3", "plane={}"):
        with pytest.raises(InputError, match=r"the sweep itself changes plane\.seed"):
            load_sweep(write(SEEDS), [override])
    with pytest.raises(InputError, match="give `out`"):
        load_sweep(write(SEEDS), ["run.out=elsewhere"])


def test_text_means_the_same_wherever_it_is_read(home: Path) -> None:
    text = HEAD + '[product]\n"model.args.text" = ["it\'s \\"a\\"", "b"]\n[[cell]]\n"surface.x" = [-1, 1, 5]\n'
    sweep = load_sweep(write(text), ["plane.seed=3"])
    again = parse_sweep(sweep.text(), "/elsewhere/x.toml")
    assert [cell.job for cell in again.cells] == [cell.job for cell in sweep.cells]
    assert [cell.label for cell in again.cells] == [cell.label for cell in sweep.cells]
    assert again.out == sweep.out


def test_base_may_stand_in_the_sweep(home: Path) -> None:
    inside = "out = 'runs/sweep'\n" + JOB.replace("[", "[job.", 1).replace("\n[d", "\n[job.d")
    inside = inside.replace("\n[surface", "\n[job.surface").replace("\n[run", "\n[job.run")
    sweep = load_sweep(write(inside + '[product]\n"plane.seed" = [0, 1]\n'))
    assert [cell.job for cell in sweep.cells] == [cell.job for cell in load_sweep(write(SEEDS)).cells]
    assert read_toml("sweep.toml").kind == "sweep"
    assert read_toml("job.toml").kind == "job"


# -- content ---------------------------------------------------------------------------------------------------------


def key(*overrides: str) -> str:
    return content_key(load_job("job.toml", ["run.out=r", *overrides]))[0]


def test_key_is_of_what_is_computed_alone(home: Path) -> None:
    assert key() == key("plane.seed=0", "surface.x=[-1.0,1.0,3]", "objective.loss=cross_entropy")
    assert key() == key("run.threads=7", "run.ranks_per_item=2", "run.out=other")
    assert len({key(), key("plane.seed=1"), key("model.args.width=5"), key("objective.metrics=['accuracy']")}) == 4


@pytest.mark.parametrize(
    "named",
    [
        "model.checkpoint={}",
        "plane={{kind='through', checkpoints=['{}']}}",
        "plane={{kind='pca', checkpoints=['*{}']}}",
        "plane={{kind='directions', file='{}'}}",
        "surface.known={}",
    ],
)
def test_key_is_of_what_files_hold(home: Path, named: str) -> None:
    shutil.copy("a.pt", "copy_a.pt")
    first = key(named.format("a.pt").replace("*", "copy_"))
    assert first == key(named.format("copy_a.pt").replace("*", ""))
    checkpoint(Path("a.pt"), 4, seed=1)
    checkpoint(Path("copy_a.pt"), 4, seed=1)
    assert key(named.format("a.pt").replace("*", "copy_")) != first


def test_key_of_files_that_do_not_exist_names_them(home: Path) -> None:
    found, missing = content_key(load_job("job.toml", ["run.out=r", "model.checkpoint=later.pt"]))
    assert missing == ("later.pt",)
    assert found != key("model.checkpoint=latest.pt")
    checkpoint(Path("later.pt"), 4)
    assert content_key(load_job("job.toml", ["run.out=r", "model.checkpoint=later.pt"])) != (found, missing)


def test_a_folder_is_found_by_its_content_not_its_name(home: Path) -> None:
    first = places(load_sweep(write(SEEDS)))[1].folder
    first.with_name(f"renamed-{first.name[-12:]}").mkdir(parents=True)
    assert places(load_sweep(write(SEEDS)))[1].folder.name == f"renamed-{first.name[-12:]}"


# -- running ---------------------------------------------------------------------------------------------------------


def test_values_added_later_keep_what_is_finished(home: Path) -> None:
    assert landscape("run", write(SEEDS)).exit_code == 0
    before = {cell.label: cell.folder for cell in sweep_cells(Path("runs/sweep"))}
    text = HEAD + '[product]\n"plane.seed" = [7, 0, 1]\n"plane.normalize" = ["filter", "layer"]\n'
    result = landscape("run", write(text))
    assert result.exit_code == 0, result.output
    assert "6 runs" in result.stderr
    assert "4 are not finished" in result.stderr
    after = {cell.label: cell.folder for cell in sweep_cells(Path("runs/sweep"))}
    assert after["seed=0, normalize=filter"] == before["seed=0"]
    assert [attempts(folder) for folder in after.values()] == [1] * 6
    for cell in sweep_cells(Path("runs/sweep")):
        plane = ls.open(cell.folder).attributes["plane"]
        assert (plane["seed"], plane["normalize"]) == tuple(cell.changes.values())


def test_a_changed_checkpoint_makes_a_new_cell(home: Path) -> None:
    sweep = write(HEAD + '[product]\n"model.checkpoint" = ["a.pt"]\n')
    assert landscape("run", sweep).exit_code == 0
    old = sweep_cells(Path("runs/sweep"))[0].folder
    checkpoint(home / "a.pt", 4, seed=1)
    write_index(load_sweep(sweep), places(load_sweep(sweep)))
    assert not sweep_cells(Path("runs/sweep"))[0].exists
    assert landscape("run", sweep).exit_code == 0
    new = sweep_cells(Path("runs/sweep"))[0].folder
    assert new != old
    assert (attempts(old), attempts(new)) == (1, 1)
    assert ls.open(old).attributes["checkpoint_hash"] != ls.open(new).attributes["checkpoint_hash"]


def test_a_cell_that_fails_is_noted_and_the_others_go_on(home: Path) -> None:
    result = landscape("run", write(FAILING))
    assert result.exit_code == 4, result.output
    assert "1 of 3 runs are complete" in result.stderr
    good, misfit, raising = sweep_cells(Path("runs/sweep"))
    assert (good.failure, good.exists, finished(good.folder)) == (None, True, True)
    assert "does not fit the model" in str(misfit.failure)
    assert "an unlucky width" in str(raising.failure)
    assert not misfit.exists
    assert json.loads((misfit.folder / "failure.json").read_text())["code"] == 2
    assert json.loads((raising.folder / "failure.json").read_text())["code"] == 2
    assert {"reason", "code", "when"} == json.loads((misfit.folder / "failure.json").read_text()).keys()

    (home / "nets_of_sweeps.py").write_text(NETS.replace("== 13", "== 14"))
    sys.modules.pop("nets_of_sweeps")
    checkpoint(home / "b.pt", 5)
    checkpoint(home / "c.pt", 13)
    path = write(FAILING.replace('["a.pt", "a.pt", "a.pt"]', '["a.pt", "b.pt", "c.pt"]'))
    assert landscape("run", path).exit_code == 0
    assert [(cell.failure, attempts(cell.folder)) for cell in sweep_cells(Path("runs/sweep"))] == [(None, 1)] * 3


def test_a_failure_is_forgotten_when_the_cell_succeeds(home: Path) -> None:
    path = write(HEAD + '[product]\n"model.args.width" = [13]\n')
    assert landscape("run", path).exit_code == 4
    failed = sweep_cells(Path("runs/sweep"))[0]
    assert failed.failure is not None
    (home / "nets_of_sweeps.py").write_text(NETS.replace("== 13", "== 14"))
    sys.modules.pop("nets_of_sweeps")
    assert landscape("run", path).exit_code == 0
    cell = sweep_cells(Path("runs/sweep"))[0]
    assert (cell.folder, cell.failure) == (failed.folder, None)
    assert not (cell.folder / "failure.json").exists()


def test_finished_is_what_has_all_rows_and_its_result(home: Path) -> None:
    """The tasks of a spectrum have a store each, and one may be complete before the next begins."""
    path = write(HEAD + '[product]\n"plane.seed" = [0]\n')
    folder = places(load_sweep(path))[0].folder
    assert not finished(folder)
    landscape("run", path, "--limit-items", 1)
    assert not finished(folder)
    assert landscape("run", path).exit_code == 0
    assert finished(folder)
    (folder / "landscape.h5").unlink()
    assert not finished(folder)
    assert landscape("run", path).exit_code == 0
    assert finished(folder)


def test_resume_goes_on_with_all_cells_and_forgets_failures(home: Path) -> None:
    result = landscape("run", write(FAILING.replace("5, 13", "6, 13")), "--limit-items", 1)
    assert result.exit_code == 3, result.output
    (home / "nets_of_sweeps.py").write_text(NETS.replace("== 13", "== 14"))
    sys.modules.pop("nets_of_sweeps")
    Path("sweep.toml").unlink()
    shutil.move("runs/sweep", "moved")
    result = landscape("resume", "moved")
    assert result.exit_code == 4, result.output  # the checkpoint fits one width alone
    assert ["does not fit" in (cell.failure or "") for cell in sweep_cells(Path("moved"))] == [False, True, True]
    assert attempts(sweep_cells(Path("moved"))[0].folder) == 2
    assert not Path("runs/sweep").exists()


def test_resume_of_one_cell_forgets_its_failure(home: Path) -> None:
    landscape("run", write(SEEDS), "--limit-items", 1)
    cell = sweep_cells(Path("runs/sweep"))[0]
    (cell.folder / "failure.json").write_text('{"reason": "node lost"}')
    assert sweep_cells(Path("runs/sweep"))[0].failure == "node lost"
    assert landscape("resume", cell.folder).exit_code == 0
    assert sweep_cells(Path("runs/sweep"))[0].failure is None


def test_one_cell_ends_with_the_code_of_its_job(home: Path) -> None:
    path = write(FAILING)
    for number, code in ((0, 0), (1, 2), (2, 2), (0, 0)):
        assert landscape("run", path, "--cell", number).exit_code == code, number
        assert len(sweep_cells(Path("runs/sweep"))) == 3  # so that the folder opens as a sweep
    assert landscape("run", path, "--cell", 0, "--note-folder", "noted").exit_code == 0
    assert attempts(Path(Path("noted").read_text())) == 1
    assert [finished(place.folder) for place in places(load_sweep(path))] == [True, False, False]
    for number in (3, -1):
        result = landscape("run", path, "--cell", number)
        assert result.exit_code == 2
        assert "numbered from 0 to 2" in result.stderr
    result = landscape("run", "job.toml", "--cell", 0, "--set", "run.out=r")
    assert result.exit_code == 2
    assert "single job" in result.stderr


def test_cells_that_compute_the_same_are_computed_once(home: Path) -> None:
    shutil.copy("a.pt", "b.pt")
    path = write(HEAD + '[product]\n"model.checkpoint" = ["a.pt", "b.pt"]\n')
    assert landscape("run", path).exit_code == 0
    first, second = sweep_cells(Path("runs/sweep"))
    assert first.folder == second.folder
    assert attempts(first.folder) == 1
    assert len(unfinished(places(load_sweep(path)))) == 0


def test_a_checkpoint_that_comes_later_is_part_of_the_content_when_the_cell_begins(home: Path) -> None:
    path = write(HEAD + '[product]\n"model.checkpoint" = ["later.pt"]\n')
    sweep = load_sweep(path)
    assert places(sweep)[0].missing == ("later.pt",)
    write_index(sweep, places(sweep))
    assert landscape("run", path, "--cell", 0).exit_code == 2
    failed = sweep_cells(sweep.out)[0]
    assert "later.pt" in str(failed.failure)
    checkpoint(home / "later.pt", 4)
    assert landscape("run", path, "--cell", 0).exit_code == 0
    cell = sweep_cells(sweep.out)[0]
    assert (cell.failure, cell.exists) == (None, True)
    assert cell.folder == places(sweep)[0].folder != failed.folder


def test_items_given_up_are_told_again_without_computing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(SEEDS)
    assert landscape("run", path).exit_code == 0
    monkeypatch.setattr(Store, "failed", lambda self: {0: "raised"})
    result = landscape("run", path)
    assert result.exit_code == 4
    assert [attempts(cell.folder) for cell in sweep_cells(Path("runs/sweep"))] == [1, 1]


def test_a_signal_at_the_end_of_a_cell_stops_the_sweep(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a cell ends as one that nobody told to stop."""
    assert landscape("run", write(SEEDS)).exit_code == 0
    folder = sweep_cells(Path("runs/sweep"))[0].folder
    record = folder / "attempts" / "0001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"signal": "SIGUSR1", "ended": "2999-01-01T00:00"}))
    assert stop_signal(folder, "2998-01-01T00:00") == "SIGUSR1"
    assert stop_signal(folder, "2999-01-02T00:00") is None
    ran: list[Any] = []
    with pytest.raises(RunInterrupted, match="stopped by SIGUSR1 after cell 0"):
        cells_module.run_sweep(load_sweep(Path("sweep.toml")), lambda job: ran.append(job) or 0, lambda line: None)
    assert ran == []


@pytest.mark.mpi
def test_ranks_go_on_together_after_a_cell_that_fails(home: Path) -> None:
    text = HEAD + '[zip]\n"model.args.width" = [13, 4, 5]\n[[cell]]\n"plane.seed" = 2\n'
    command = [sys.executable, "-m", "landscape_jobs.cli", "run", str(write(text))]
    root = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join(str(path) for path in (root, root / "kernels", root / "jobs"))
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if mpiexec is None:
        pytest.skip("needs mpiexec")
    done = subprocess.run(
        [mpiexec, "-n", "2", *command],
        env={**mpi_environment(), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD,
    )
    assert done.returncode == 4, done.stderr
    raising, *others = sweep_cells(Path("runs/sweep"))
    assert "an unlucky width" in str(raising.failure)
    assert [ls.open(cell.folder).attributes["ranks"] for cell in others] == [2, 2]
    assert all(finished(cell.folder) for cell in others)


# -- the folder ------------------------------------------------------------------------------------------------------


def test_what_is_no_folder_of_a_sweep_is_refused(home: Path) -> None:
    assert not is_sweep(home)
    for asked in (sweep_cells, stored_sweep):
        with pytest.raises(StoreError, match=r"no sweep\.json"):
            asked(home)
    landscape("run", write(SEEDS))
    index = Path("runs/sweep/sweep.json")
    assert is_sweep(index.parent)
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 99}))
    with pytest.raises(StoreError, match="newer version"):
        sweep_cells(index.parent)
    index.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        sweep_cells(index.parent)


def test_merge_has_a_group_for_each_cell(home: Path) -> None:
    landscape("run", write(FAILING))
    text = FAILING.replace("4, 5, 13]", "4, 5, 13, 4]").replace('"a.pt"]', '"a.pt", "c.pt"]')
    text += '[[cell]]\n"plane.seed" = 0\n[[cell]]\n"plane.seed" = 1\n'
    checkpoint(home / "c.pt", 4, seed=5)
    sweep = load_sweep(write(text))
    write_index(sweep, places(sweep))
    landscape("run", write(text), "--cell", 1, "--limit-items", 1)  # seed 1 of the first
    result = landscape("merge", "runs/sweep", "-o", "sweep.h5")
    assert result.exit_code == 0, result.output
    with xarray.open_datatree("sweep.h5") as tree:
        table = tree.to_dataset().to_dataframe().set_index("name")
        assert list(table["state"]) == [
            "complete", "partial", "failed", "not begun", "failed", "not begun", "not begun", "not begun"
        ]  # fmt: skip
        assert list(table["plane.seed"]) == [0, 1] * 4
        assert list(table["model.args.width"]) == [4, 4, 5, 5, 13, 13, 4, 4]
        assert set(tree.children) == set(table.index)
        for name, row in table.iterrows():
            group = tree[str(name)]
            assert {k: group.attrs[k] for k in table.columns} == dict(row)
            assert ("surface" in group.children) == (row["state"] in ("complete", "partial"))
        partial = tree[str(table.index[1])]["surface"].to_dataset()
        assert partial["computed"].sum() == 1
        assert np.isnan(partial["loss"].to_numpy()).tolist() == (~partial["computed"].to_numpy()).tolist()
        assert "does not fit the model" in table["reason"].iloc[2]
        assert "an unlucky width" in table["reason"].iloc[4]
    whole = ls.open("sweep.h5", run=str(table.index[0]))
    assert isinstance(whole, ls.Surface)
    assert whole.complete
    assert whole.attributes["plane.seed"] == 0
    shown = landscape("show", "sweep.h5")
    assert shown.exit_code == 0
    assert shown.stdout.count("1 of 3 computed") == 1
    result = landscape("merge", "runs/sweep", sweep_cells(Path("runs/sweep"))[0].folder, "-o", "both.h5")
    assert result.exit_code == 2
    assert "merge it alone" in result.stderr


def test_merge_tells_cells_of_one_safe_name_apart(home: Path) -> None:
    sweep = load_sweep(write(HEAD + '[product]\n"data.args.text" = ["a b", "a/b"]\n'))
    write_index(sweep, places(sweep))
    assert landscape("merge", "runs/sweep", "-o", "sweep.h5").exit_code == 0
    with xarray.open_datatree("sweep.h5") as tree:
        assert set(tree.children) == {"text=a_b-0", "text=a_b-1"}
        assert {str(group.attrs["data.args.text"]) for group in tree.children.values()} == {"a b", "a/b"}


# -- submitting ------------------------------------------------------------------------------------------------------


def array(script: Path) -> str:
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH --array=")]
    assert len(lines) == 1
    return lines[0].removeprefix("#SBATCH --array=")


def test_submit_is_an_array_of_the_cells_that_are_not_finished(home: Path) -> None:
    path = write(HEAD + '[product]\n"plane.seed" = [0, 1, 2, 3, 4]\n')
    assert landscape("run", path, "--cell", 1).exit_code == 0
    result = landscape("submit", path, "--array", "%2", "--time", "10", "--set", "surface.x=[-1,1,3]")
    assert result.exit_code == 0, result.output
    kept = home / "runs" / "sweep" / "submitted"
    assert "submitted job 77, an array (0,2-4%2)" in result.stdout
    assert "1 of 5 runs" in result.stderr
    assert Path("calls").read_text() == f"--parsable {kept / '001.sh'}\n"
    assert array(kept / "001.sh") == "0,2-4%2"
    assert len(sweep_cells(Path("runs/sweep"))) == 5
    Path("job.toml").write_text("")
    path.write_text("")
    jobs = [cell.job for cell in load_sweep(kept / "001.toml").cells]
    assert [job.plane.seed for job in jobs] == [0, 1, 2, 3, 4]
    assert landscape("run", kept / "001.toml", "--cell", 2).exit_code == 0
    assert landscape("submit", kept / "001.toml").exit_code == 0
    assert array(kept / "002.sh") == "0,3-4%2"  # with the options of before


def test_submit_of_a_finished_sweep_submits_nothing(home: Path) -> None:
    path = write(SEEDS)
    assert landscape("run", path).exit_code == 0
    assert "nothing to submit" in landscape("submit", path).stderr
    assert not Path("calls").exists()
    assert not Path("runs/sweep/submitted").exists()


def test_submit_names_what_is_missing_and_what_is_the_same(home: Path) -> None:
    shutil.copy("a.pt", "b.pt")
    path = write(HEAD + '[product]\n"model.checkpoint" = ["a.pt", "b.pt", "later.pt"]\n')
    result = landscape("submit", path, "--dry-run")
    assert result.exit_code == 0
    assert "compute the same, which is done once: 0 and 1" in result.stderr
    assert "do not exist yet: later.pt" in result.stderr
    assert "#SBATCH --array=0,2\n" in result.stdout
    assert "--cell" in result.stdout
    assert not Path("runs").exists()


def test_submit_refuses_indices_and_leaves_nothing_where_sbatch_refuses(home: Path) -> None:
    path = write(SEEDS)
    result = landscape("submit", path, "--array", "0-1")
    assert result.exit_code == 2
    assert "--array %4" in result.stderr
    Path("bin/sbatch").write_text('#!/bin/bash\necho "error: Invalid job array specification" >&2; exit 1\n')
    result = landscape("submit", path)
    assert result.exit_code == 2
    assert "MaxArraySize" in result.stderr
    assert not Path("runs").exists()
