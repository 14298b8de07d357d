"""Radii of a small network's basin, alike on any number of ranks; same_bytes.py runs it."""

from __future__ import annotations

from typing import Any

import spectrum_nets as nets
from torch import nn

import landscape as ls
from landscape.run.comm import world


def results() -> dict[str, str]:
    """Blocks of directions over ranks, and with a preconditioner that all ranks make together."""
    model = nets.settled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    objective = ls.Objective(model, "cross_entropy", (nets.seeded(70, 4), nets.labels(70)), precision="float64")
    cutoff = float(objective.evaluate()["loss"]) + 0.5
    found = {}
    cases: dict[str, dict[str, Any]] = {
        "filter": {},
        "traced": {"directions": 256},
        "krylov": {"kind": "gaussian", "precondition": "krylov"},
        "shared": {"kind": "gaussian", "ranks_per_item": min(2, world().size)},
    }
    for name, asked in cases.items():
        basin = ls.measure_basin(objective, cutoff, **{"directions": 70, **asked})
        parts = (basin.radii, basin.lengths, basin.contributions, basin.profiles)
        found |= {f"{name} {k}": part.tobytes().hex() for k, part in enumerate(parts)}
    return found
