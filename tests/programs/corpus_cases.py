"""A small corpus whose table and analysis must have the same bytes on any number of ranks; same_bytes.py runs it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import phases_cases

import landscape as ls

SETS = ("weights", "loss", "profiles", "spectrum")


def table(folder: Path, **options: object) -> ls.Measures:
    """All metrics of six small networks."""
    found = phases_cases.models(folder, batch_sizes=(8,))
    given = {"factory": phases_cases.net, "data": phases_cases.data(), "test": phases_cases.data(20)}
    return ls.measure_corpus(found, SETS, samples=40, **given, **options)  # type: ignore[arg-type]


def results() -> dict[str, str]:
    """Every array as text."""
    with tempfile.TemporaryDirectory() as folder:
        found = table(Path(folder))
    corpus = ls.analyse_corpus(found, "test_loss", "width", draws=100)
    arrays = {**found.values, **{f"{name} error": values for name, values in found.stderr.items()}, **corpus.values}
    return {name: values.tobytes().hex() for name, values in arrays.items()}
