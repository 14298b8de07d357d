"""Spectra of a small network, alike on any number of ranks; same_bytes.py runs them."""

from __future__ import annotations

import functools

import numpy as np
import spectrum_nets as nets
from torch import nn

import landscape as ls


def objective() -> ls.Objective:
    """A network of 51 parameters on 13 samples."""
    model = nets.settled(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    return ls.Objective(model, "cross_entropy", (nets.seeded(13, 4), nets.labels(13)))


@functools.cache
def spectrum() -> ls.Spectrum:
    """Both ends by Lanczos' method, whose products the ranks share, then probes, an item each."""
    return ls.measure_spectrum(
        objective(), 3, 1e-8, smallest=2, trace="hutchinson", trace_tol=0.5, density_steps=6, block=1
    )


def map_to_an_error() -> str:
    """Two lines of one point, each from samples of its own."""
    model = nets.settled(nn.Linear(4, 3))
    many = ls.Objective(model, "cross_entropy", (nets.seeded(2100, 4), nets.labels(2100)))
    plane = ls.random_plane(many, seed=0)
    found = ls.measure_curvature_map(many, plane, x=np.array([0.5]), y=np.array([0.0, 0.5]), error=0.3)
    assert found.error is not None
    assert (found.found == "sampled").all()
    return "".join((found.values[name].tobytes() + found.error[name].tobytes()).hex() for name in found.values)


def results() -> dict[str, str]:
    """What comes from items over ranks, and what from a small matrix that every rank multiplies alone."""
    found = spectrum()
    whole = ls.measure_spectrum(objective(), 0, trace="split", trace_tol=0.5, density_steps=6)
    layers = ls.measure_layer_spectra(objective(), 1, 1e-8, trace_tol=0.5)
    assert found.trace is not None
    assert whole.trace is not None
    assert whole.density is not None
    return {
        "trace": repr([found.trace.value, found.trace.stderr, found.trace.stderr_probes, dict(found.trace.layers)]),
        "whole trace": repr([whole.trace.value, whole.trace.stderr, dict(whole.trace.layers)]),
        "whole density": (whole.density.values.tobytes() + whole.density.nodes.tobytes()).hex(),
        "map to an error": map_to_an_error(),
        "layers": (layers.eigenvalues.tobytes() + layers.trace.tobytes()).hex(),
    }


def rounded() -> dict[str, list[float]]:
    """Eigenpairs, whose data the ranks share, and the density on the complement of their vectors."""
    found = spectrum()
    assert found.density is not None
    return {
        "eigenvalues": found.eigenvalues.tolist(),
        "smallest": found.smallest.values.tolist(),
        "stderr": found.eigenvalue_stderr.tolist(),
        "bias": found.largest.bias.tolist(),
        "density": found.density.values.tolist(),
    }
