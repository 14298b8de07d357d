"""Names, units and long names of a path in a file; paths to and from its tree of groups.

path    loss (t), loss_stderr, error, test_loss, ..., arc, computed, loss_statistics_stderr, ...,
        loss_replicates (t, group), ...
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Any

from landscape.files import hdf5
from landscape.files.schema import read_attributes, reading
from landscape.objective.rows import REPLICATES
from landscape.precise.told import error_variables, found_variable, read_errors
from landscape.results.estimate import Estimate
from landscape.results.quantities import long_name
from landscape.studies.path.result import DEFINITIONS, PEAK, Path

_STATISTICS = "_statistics_stderr"
_NAMES = "derived"  # attributes that follow from the arrays, separated by spaces


def read_path(tree: hdf5.Group, file: str | FilePath) -> Path:
    """The path in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "path", file) as group:
        v, names = group.variables, str(group.attributes["quantities"]).split()
        return Path(
            t=v["t"].data,
            values={name: v[name].data for name in names},
            stderr={name: v[f"{name}_stderr"].data for name in names},
            arc=v["arc"].data,
            length=float(group.attributes["length"]),
            distance=float(group.attributes["distance"]),
            computed=v["computed"].data,
            statistics_stderr={name: v[name + _STATISTICS].data for name in names if name + _STATISTICS in v},
            replicates={name: v[name + REPLICATES].data for name in names if name + REPLICATES in v},
            **read_errors(v, names),
            attributes=read_attributes(tree, "path", ("quantities", _NAMES, *str(group.attributes[_NAMES]).split())),
        )


def path_group(path: Path) -> hdf5.Group:
    """Variables over the dimension t; what is made of several places as attributes, each with its definition."""
    variables = {
        "t": _variable(path.t, "place on the curve gamma(t), from one end to the other"),
        "arc": _variable(path.arc, "length of the curve from t = 0, in parameter units"),
        "computed": _variable(path.computed, "whether the place was computed; elsewhere values are NaN"),
    }
    for name, values in path.values.items():
        variables[name] = _variable(values, long_name(name))
        text = f"standard error of {name} over samples, as an estimate for the population"
        variables[f"{name}_stderr"] = _variable(path.stderr[name], text)
        variables |= error_variables(path, name, ("t",))
    variables |= found_variable(path, ("t",))
    for name, values in path.statistics_stderr.items():
        text = f"standard error of {name} from sampling BatchNorm statistics: {DEFINITIONS['statistics_stderr']}"
        variables[name + _STATISTICS] = _variable(values, text)
    for name, values in path.replicates.items():
        text = f"replicates of {name} for errors of numbers made of several places: {DEFINITIONS['replicates']}"
        variables[name + REPLICATES] = hdf5.Variable(("t", "group"), values, {"long_name": text, "units": "1"})
    numbers = _numbers(path)
    return hdf5.Group(variables, {"quantities": " ".join(path.values), _NAMES: " ".join(numbers), **numbers})


def _variable(data: Any, long_name: str) -> hdf5.Variable:
    return hdf5.Variable(("t",), data, {"long_name": long_name, "units": "1"})


def _numbers(path: Path) -> dict[str, Any]:
    """What is made of several places, for readers without this package, and its definitions."""
    numbers: dict[str, Any] = {"length": path.length, "distance": path.distance, "maximum_excess": path.maximum_excess}
    numbers |= {"mc_quantity": path.mc_quantity, **_with_error("mc", path.mc), **_with_error("barrier", path.barrier)}
    numbers |= _with_error("rebasin_barrier", path.rebasin_barrier)
    if path.found is not None:
        numbers |= {f"peak_{name}": value for name, value in asdict(path.peak).items()} | {"peak_definition": PEAK}
    for name, mean in path.mean.items():
        high, low = path.maximum[name], path.minimum[name]
        numbers |= _with_error(f"mean_{name}", mean)
        numbers |= {
            **_with_error(f"mc_{name}", path.mc_of(name)),
            **_with_error(f"barrier_{name}", path.barrier_of(name)),
        }
        numbers |= {f"maximum_{name}": high.value, f"maximum_{name}_t": high.t}
        numbers |= {f"minimum_{name}": low.value, f"minimum_{name}_t": low.t}
    return numbers | {f"{name}_definition": text for name, text in DEFINITIONS.items()}


def _with_error(name: str, found: Estimate) -> dict[str, float]:
    return {name: float(found), f"{name}_stderr": found.stderr}
