"""What a user's factories, model, loss and data raise in a job ends it with exit code 2 and no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from landscape_jobs.cli import app
from landscape_jobs.spec.job import parse_job
from typer.testing import CliRunner

from landscape.errors import InputError

NETS = """
import torch
from torch import nn


class Missing(nn.Module):
    def __init__(self, needed):
        super().__init__()


def net():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def raises():
    raise KeyError("weights")


def data():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    return x, x[:, 0] > 0


def graphs():
    return [{"x": torch.ones(5, 3), "n": torch.ones(2)}, {"x": torch.ones(4, 3), "n": torch.ones(1)}]


def mean(model, batch):
    return model(batch["x"]).square().mean()


def size(batch):
    return len(batch["n"])


def odd(outputs, targets):
    assert outputs.shape == targets.shape, "shapes"
"""
JOB = """
[model]
factory = "users_nets:net"
[data]
factory = "users_nets:data"
[objective]
loss = "binary_cross_entropy_with_logits"
[surface]
x = [-1, 1, 3]
[run]
out = "runs/a"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_nets.py").write_text(NETS)
    (tmp_path / "job.toml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "users_nets", raising=False)
    return tmp_path


BROKEN = {
    "loss": ([], r"outputs float32 (20, 1); targets bool (20,)): ValueError: Target size"),
    "model": (["model.factory=users_nets:raises"], "model.factory = 'users_nets:raises' cannot be called"),
    "data": (["data.factory=users_nets:raises"], "KeyError: 'weights' (users_nets.py, line"),
    "callable": (["objective.loss=users_nets:odd"], "AssertionError: shapes"),
    "class": (["objective.loss=users_nets:Missing"], "is a class, and cannot be made without arguments"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_the_users_code_raises_is_bad_input(home: Path, case: str) -> None:
    changes, says = BROKEN[case]
    words = [word for change in changes for word in ("--set", change)]
    for command in ("check", "run"):
        done = CliRunner().invoke(app, [command, "job.toml", *words])
        assert done.exit_code == 2, done.output
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_job_says_how_many_samples_a_batch_holds(home: Path) -> None:
    changes = ["data.factory=users_nets:graphs", "objective.loss=returned", "objective.forward=users_nets:mean"]
    words = [word for change in changes for word in ("--set", change)]
    refused = CliRunner().invoke(app, ["check", "job.toml", *words])
    assert refused.exit_code == 2
    assert "batch_size=" in refused.stderr
    done = CliRunner().invoke(app, ["run", "job.toml", *words, "--set", "objective.batch_size=users_nets:size"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "true", '"eight"'])
def test_batch_sizes_that_cannot_be_are_refused(size: str) -> None:
    text = JOB.replace("[surface]", f"batch_size = {size}\n[surface]")
    with pytest.raises(InputError, match=r"objective\.batch_size = .*: .*of the form 'package\.module:callable'"):
        parse_job(text, "job.toml")
