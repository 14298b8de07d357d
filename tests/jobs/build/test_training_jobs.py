"""Jobs that train, and jobs whose models are those of a training: the command line, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import training_job
from test_cli import contents, done, landscape

import landscape as ls

TRAIN = """
[model]
factory = "training_job:mlp"
[data]
factory = "training_job:data"
[train]
seeds = 2
[train.recipe]
epochs = 2
batch_size = 8
lr = 0.3
[train.cells]
width = [4, 6]
momentum = [0.0, 0.9]
[train.test]
factory = "training_job:data"
args = { seed = 1 }
[run]
out = "runs/train"
threads = 1
"""
PAIRS = """
[model]
factory = "training_job:mlp"
args = { width = 6 }
[data]
factory = "training_job:data"
[connectivity]
models = "runs/train"
t = 3
epochs = 0
[run]
out = "runs/pairs"
threads = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a job that trains, and one of pairs of what it trained."""
    (tmp_path / "train.toml").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "pairs.toml").write_text(PAIRS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


COHERENCE = """
[model]
factory = "training_job:mlp"
args = { width = 6 }
[data]
factory = "training_job:data"
[coherence]
models = ["steps"]
[run]
out = "runs/coherence"
threads = 1
"""


def test_the_first_of_a_folder_of_checkpoints_is_the_networks(folder: Path) -> None:
    (folder / "coherence.toml").write_text(COHERENCE, encoding="utf-8")
    (folder / "steps").mkdir()
    for step in (0, 10):
        torch.save(training_job.mlp(width=6).state_dict(), folder / f"steps/step-{step:08d}.pt")
    done("run", folder / "coherence.toml")
    found = ls.open(folder / "runs/coherence")
    assert isinstance(found, ls.Coherence)
    assert found.labels == ("0", "10")


def test_from_a_job_to_pairs_of_what_it_trained(folder: Path) -> None:
    checked = done("check", folder / "train.toml")
    for words in ("8 in 8 items, of which 0 are there already", "16 epochs in all"):
        assert words in checked
    assert not (folder / "runs").exists()
    assert landscape("run", folder / "train.toml", "--limit-items", 3).exit_code == 3
    assert "3 of 8" in done("status", folder / "runs/train")
    done("resume", folder / "runs/train")
    run = ls.open(folder / "runs/train")
    assert isinstance(run, ls.Training)
    expected = ls.train_models(
        training_job.mlp,
        training_job.data(),
        recipe={"epochs": 2, "batch_size": 8, "lr": 0.3},
        cells={"width": [4, 6], "momentum": [0.0, 0.9]},
        seeds=2,
        test=training_job.data(1),
        out=folder / "python",
    )
    for name in ("loss", "error", "test_loss", "test_error"):
        np.testing.assert_array_equal(run.values[name], expected.values[name])

    done("run", folder / "pairs.toml")
    pairs = ls.open(folder / "runs/pairs")
    assert isinstance(pairs, ls.Connectivity)
    assert pairs.labels == ("momentum=0.0,seed=0", "momentum=0.0,seed=1", "momentum=0.9,seed=0", "momentum=0.9,seed=1")
    finals = run.final("loss")[4:]
    first, second = pairs.pairs.T
    np.testing.assert_allclose(pairs.line["loss"][:, 0], finals[first], rtol=1e-12)
    np.testing.assert_allclose(pairs.line["loss"][:, -1], finals[second], rtol=1e-12)

    rows = [f"6,{seed},{run.checkpoints.final[4 + seed]}" for seed in (0, 1)]
    (folder / "models.csv").write_text("\n".join(["width,seed,final", *rows]), encoding="utf-8")
    done("run", folder / "pairs.toml", "--set", "connectivity.models=models.csv", "--set", "run.out=runs/table")
    table = ls.open(folder / "runs/table")
    assert isinstance(table, ls.Connectivity)
    assert table.labels == ("seed=0", "seed=1")
    np.testing.assert_array_equal(table.line["loss"][0], pairs.line["loss"][0])

    for overrides, message in (
        (["model.args={width=5}"], "has no trained model with width = 5 (model.args)"),
        (["model.args={}"], "model width=6,momentum=0.0,seed=0: checkpoint"),
        (["connectivity.models=runs/pairs"], "holds a Connectivity, not a training"),
    ):
        refused = landscape("run", folder / "pairs.toml", *(word for o in overrides for word in ("--set", o)))
        assert refused.exit_code == 2
        assert message in refused.stderr


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.recipe.lrr=0.1"], ["train.recipe", "a recipe has no key 'lrr'; did you mean 'lr'"]),
        (["train.recipe.lr=-1"], ["train.recipe", "lr=-1; give a positive number"]),
        (["train.recip=1"], ["train.recip", "did you mean 'recipe'"]),
        (["train.cells.widht=[4]"], ["key 'widht' is no key of a recipe", "did you mean 'width'"]),
        (["train.cells.width=4"], ["train.cells", "key 'width' has 4; give a list of values"]),
        (["train.seeds=0"], ["train.seeds", "0; give how many seeds"]),
        (['objective.metrics=["error"]'], ["objective.metrics is not used by [train]"]),
        (["model.checkpoint=a.pt"], ["model.checkpoint: models that are trained begin as their factory makes them"]),
        (["run.ranks_per_item=2"], ["ranks_per_item=2: a model is trained by one rank"]),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(folder: Path, overrides: list[str], expected: list[str]) -> None:
    before = contents(folder)
    result = landscape("run", folder / "train.toml", *(word for o in overrides for word in ("--set", o)))
    assert result.exit_code == 2, result.output
    for words in expected:
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(folder) == before
