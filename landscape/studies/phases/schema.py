"""Phases in files.

phases      load (load), temperature (temperature); METRIC (load, temperature), METRIC_stderr, METRIC_seed_stderr,
            METRIC_own_stderr, ...; phase (load, temperature), reason, note; probability (load, temperature, of)
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names
from landscape.files.schema import read_attributes, reading
from landscape.studies.phases.result import PHASES, Phases, Texts, Thresholds

_DIMS = ("load", "temperature")
_STRUCTURE = ("quantities", "axes", "thresholds", "well")
_ERRORS = {
    "stderr": "standard error, over seeds and of the measurement",
    "seed_stderr": "standard error over seeds",
    "own_stderr": "standard error of the measurement",
}


def phases_group(phases: Phases) -> hdf5.Group:
    """Variables over the dimensions load and temperature."""
    variables = {
        "load": array(_DIMS[:1], phases.load, f"load: {phases.axes[0]}"),
        "temperature": array(_DIMS[1:], phases.temperature, f"temperature: {phases.axes[1]}"),
    }
    for name, values in phases.values.items():
        meaning = phases.meaning(name)
        about = {"long_name": meaning.long_name, "units": meaning.units}
        variables[name] = hdf5.Variable(_DIMS, values, about)
        for error, text in _ERRORS.items():
            if name in (found := getattr(phases, error)):
                about = {"long_name": f"{text}: {meaning.words}", "units": meaning.units}
                variables[f"{name}_{error}"] = hdf5.Variable(_DIMS, found[name], about)
    variables |= {
        "phase": _texts(phases.phase, "phase"),
        "of": names("of", PHASES, "phase that a probability is of"),
        "probability": array((*_DIMS, "of"), phases.probability, "probability of each phase, given the errors"),
        "reason": _texts(phases.reason, "why the cell has no phase"),
        "note": _texts(phases.notes, "what else is to be said of the cell"),
    }
    structure = {
        "quantities": " ".join(phases.values),
        "axes": json.dumps(phases.axes),
        "thresholds": json.dumps(asdict(phases.thresholds)),
        "well": int(phases.well),
    }
    return hdf5.Group(variables, structure)


def read_phases(tree: hdf5.Group, path: str | Path) -> Phases:
    """The phases in the tree of a file. Raises StoreError for a newer schema or a tree without them."""
    with reading(tree, "phases", path) as group:
        v, about = group.variables, group.attributes
        metrics = str(about["quantities"]).split()
        errors = {
            error: {name: v[f"{name}_{error}"].data for name in metrics if f"{name}_{error}" in v} for error in _ERRORS
        }
        first, second = json.loads(str(about["axes"]))
        return Phases(
            axes=(str(first), str(second)),
            load=v["load"].data,
            temperature=v["temperature"].data,
            values={name: v[name].data for name in metrics},
            reason=v["reason"].data.astype(str),
            notes=v["note"].data.astype(str),
            thresholds=Thresholds(**json.loads(str(about["thresholds"]))),
            well=bool(about["well"]),
            attributes=read_attributes(tree, "phases", _STRUCTURE),
            **errors,
        )


def _texts(found: Texts, long_name: str) -> hdf5.Variable:
    return hdf5.Variable(_DIMS, np.asarray(found, dtype=object), {"long_name": long_name})
