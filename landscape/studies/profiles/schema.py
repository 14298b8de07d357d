"""Names and long names of profiles in a file, and back.

profiles    direction (direction), x (x); loss (direction, x), loss_stderr, ...; computed (direction, x)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.schema import read_attributes, reading
from landscape.precise.told import error_variables, found_variable, read_errors
from landscape.results.quantities import long_name
from landscape.studies.profiles.result import Profiles

_DIMS = ("direction", "x")


def profiles_group(profiles: Profiles) -> hdf5.Group:
    """Variables over (direction, x): each quantity, its `_stderr`, `computed`, and the coordinates.

    Of profiles measured to a stated error `_error` of each quantity and its parts, and `found`, too.
    """
    number = {"long_name": "number of the direction, which with the seed fixes it"}
    place = {"long_name": "coordinate along each direction: theta = centre + x d", "units": "1"}
    variables = {
        "direction": hdf5.Variable(("direction",), np.arange(len(profiles.computed)), number),
        "x": hdf5.Variable(("x",), profiles.x, place),
    }
    for name, values in profiles.values.items():
        text = f"standard error of {name} over samples, as an estimate for the population"
        variables[name] = hdf5.Variable(_DIMS, values, {"long_name": long_name(name), "units": "1"})
        variables[f"{name}_stderr"] = hdf5.Variable(_DIMS, profiles.stderr[name], {"long_name": text, "units": "1"})
        variables |= error_variables(profiles, name, _DIMS)
    variables |= found_variable(profiles, _DIMS)
    computed = {"long_name": "whether the point was computed; elsewhere values are NaN and mean nothing", "units": "1"}
    variables["computed"] = hdf5.Variable(_DIMS, profiles.computed, computed)
    return hdf5.Group(variables, {"quantities": " ".join(profiles.values)})


def read_profiles(tree: hdf5.Group, path: str | Path) -> Profiles:
    """The profiles in the tree of a file. Raises StoreError for a newer schema or a tree without them."""
    with reading(tree, "profiles", path) as group:
        v = group.variables
        names = str(group.attributes["quantities"]).split()
        return Profiles(
            v["x"].data,
            {name: v[name].data for name in names},
            {name: v[f"{name}_stderr"].data for name in names},
            v["computed"].data,
            read_attributes(tree, "profiles", structure=("quantities",)),
            **read_errors(v, names),
        )
