"""Jobs of a study that needs no data, and no network where it is told which checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from landscape_jobs.build.run import run_job
from landscape_jobs.cli import app
from landscape_jobs.spec.job import load_job, parse_job
from typer.testing import CliRunner

import landscape as ls

JOB = '[weights]\nmodels = "a.pt"\nshuffles = 0\nroundings = 0\n[run]\nout = "run"\n'
NET = "from torch import nn\n\ndef net(width=5):\n    return nn.Linear(width, 12)\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with checkpoints of two widths, a table of them and a factory; no data."""
    for seed, (name, width) in enumerate((("a", 20), ("b", 20), ("c", 30))):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(width, 12).state_dict(), tmp_path / f"{name}.pt")
    (tmp_path / "models.csv").write_text("width,seed,final\n20,0,a.pt\n20,1,b.pt\n30,0,c.pt\n")
    (tmp_path / "weight_nets.py").write_text(NET)
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def weights(home: Path, *overrides: str, text: str = JOB) -> ls.Weights:
    result = run_job(parse_job(text, home / "job.toml", overrides))
    assert isinstance(result, ls.Weights)
    return result


def test_a_checkpoint_a_pattern_and_a_table_of_checkpoints(home: Path) -> None:
    one = weights(home)
    assert one.models == ("a",)
    direct = ls.measure_weights(home / "a.pt", shuffles=0, roundings=0)
    np.testing.assert_array_equal(one.spectra, direct.spectra)
    assert weights(home, "weights.models=?.pt", "run.out=all").models == ("a", "b", "c")
    table = weights(home, "weights.models=models.csv", "run.out=table")
    assert table.models == ("width=20,seed=0", "width=20,seed=1", "width=30,seed=0")
    np.testing.assert_array_equal(table.spectra[2], ls.measure_weights(home / "c.pt").spectra[0])
    assert parse_job(load_job(home / "job.toml").text(), "/elsewhere/run.json") == load_job(home / "job.toml")


def test_a_network_without_data(home: Path) -> None:
    text = JOB.replace('models = "a.pt"\n', "")
    model = '[model]\nfactory = "weight_nets:net"\nargs = { width = 20 }\ncheckpoint = "b.pt"\n'
    for read in ("each", "once"):
        found = weights(home, f"run.read={read}", f"run.out={read}", text=f"{model}{text}")
        np.testing.assert_array_equal(found.spectra, ls.measure_weights(home / "b.pt").spectra)
    # tables that another study needs may be there; nothing of them is imported
    spare = '[model]\nfactory = "no_such:net"\n[data]\nfactory = "no_such:data"\n'
    assert weights(home, "run.out=spare", text=f"{spare}{JOB}").models == ("a",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            JOB.replace('models = "a.pt"\n', ""),
            r"\[weights\] has nothing to be measured on.*weights\.models.*\[model\]",
        ),
        (JOB.replace("a.pt", "d.pt"), r"d\.pt"),
        (JOB.replace("weights", "agreement"), r"model is missing; \[agreement\] is not measured without \[model\]"),
        (f'[model]\nfactory = "weight_nets:net"\n{JOB.replace("weights", "spectrum")}', "data is missing"),
    ],
)
def test_what_is_lacking_is_named(home: Path, text: str, said: str) -> None:
    with pytest.raises(ls.InputError, match=f"(?s){said}"):
        run_job(parse_job(text, home / "job.toml"))


def test_check_resume_and_status(home: Path) -> None:
    def landscape(*words: str) -> str:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == 0, done.output
        return done.output

    job, run = str(home / "job.toml"), str(home / "run")
    assert "1, of which 0 are there already" in landscape("check", job)
    assert CliRunner().invoke(app, ["run", job, "--limit-items", "0"]).exit_code == 3
    landscape("resume", run)
    assert "complete" in landscape("status", run)
