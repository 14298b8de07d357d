"""Chains of Langevin steps, alike on any number of ranks; same_bytes.py runs them."""

from __future__ import annotations

import torch
from torch import nn

import landscape as ls


def results() -> dict[str, str]:
    """Three chains one after another, by exact steps and by batches with a step that is found."""
    torch.manual_seed(0)
    inputs, labels = torch.linspace(-1, 1, 48).reshape(24, 2).sin(), torch.arange(24) % 3
    objective = ls.Objective(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), data=(inputs, labels))
    found = {
        "llc": ls.measure_llc(objective, chains=3, draws=20),
        "llc by batches": ls.measure_llc(objective, chains=3, draws=16, batch_size=5),
    }
    return {
        name: b"".join(array.tobytes() for array in (one.traces, one.halved, one.steps)).hex()
        for name, one in found.items()
    }
