"""Jobs that train and map: [train], then [phases] of its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from landscape_jobs.build.run import run_job
from landscape_jobs.spec.job import load_job

import landscape as ls

NETS = """
import torch
from torch import nn

def net(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)).double()

def data(samples=40):
    generator = torch.Generator().manual_seed(samples)
    inputs = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()
"""
HEAD = '[model]\nfactory = "phase_nets:net"\n[data]\nfactory = "phase_nets:data"\n'
TRAIN = f"""{HEAD}
[train]
recipe = {{ lr = 0.2, epochs = 2, label_noise = 0.5 }}
cells = {{ width = [3, 4], batch_size = [8] }}
seeds = 2
[run]
out = "trained"
"""
PHASES = f"""{HEAD}
[phases]
models = "trained"
load = "width"
temperature = "batch_size"
test = {{ factory = "phase_nets:data", args = {{ samples = 30 }} }}
curve_epochs = 1
well = false
[run]
out = "map"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the networks and both jobs."""
    (tmp_path / "phase_nets.py").write_text(NETS)
    (tmp_path / "train.toml").write_text(TRAIN)
    (tmp_path / "phases.toml").write_text(PHASES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_a_trained_sweep_is_mapped_on_the_noisy_labels_it_was_trained_on(home: Path) -> None:
    trained = run_job(load_job(home / "train.toml"))
    assert isinstance(trained, ls.Training)
    phases = run_job(load_job(home / "phases.toml"))
    assert isinstance(phases, ls.Phases)
    assert phases.complete
    assert phases.axes == ("width", "batch_size")
    expected = trained.final("loss").reshape(2, 2).mean(1)  # of the noisy labels
    np.testing.assert_allclose(phases.values["train_loss"][:, 0], expected, rtol=1e-9)
    assert phases.values["test_loss"].shape == (2, 1)
    read = ls.open(home / "map")
    assert isinstance(read, ls.Phases)
    np.testing.assert_array_equal(read.phase, phases.phase)


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("trained.* holds no landscape.h5", "phases.models", '"trained"'),
        ("forward is not used by", "objective.forward", '"phase_nets:net"'),
        ("did you mean 'load'", "phases.laod", '"width"'),
        ("sharp", "phases.sharp", "-1"),
        ("cka_inputs", "phases.cka_inputs", '"mix"'),
    ],
)
def test_jobs_that_cannot_be(home: Path, words: str, key: str, value: str) -> None:
    (home / "trained").mkdir()
    with pytest.raises(ls.InputError, match=words):
        run_job(load_job(home / "phases.toml", [f"{key}={value}"]))
    assert not (home / "map").exists()
