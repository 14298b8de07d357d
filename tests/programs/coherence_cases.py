"""Coherence of a small network with groups and examples, alike on any number of ranks; same_bytes.py runs it."""

from __future__ import annotations

import numpy as np
import spectrum_nets as nets
from torch import nn

import landscape as ls


def results() -> dict[str, str]:
    """One theta, whose data all ranks share, two that pairs of ranks share, and three."""
    model = nets.settled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    objective = ls.Objective(model, "cross_entropy", (nets.seeded(70, 4), nets.labels(70)), precision="float64")
    thetas = [objective.theta * scale for scale in (1.0, 0.5, 2.0)]
    found = {}
    for name, asked in (("one", thetas[:1]), ("two", thetas[:2]), ("three", thetas)):
        c = ls.measure_coherence(objective, asked, groups=np.arange(70) % 2, examples=True)
        parts = (c.norms, c.squares, c.stderr, c.products, c.alignments, c.lengths)
        found |= {f"{name} {k}": part.tobytes().hex() for k, part in enumerate(parts)}
    return found
