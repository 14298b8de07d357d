"""Basins in files.

basin       direction (direction); radius (direction), length, log_contribution, computed; place (place); profile
            (profiled, place); dimension, centre, cutoff; log_volume, log_volume_stderr, log_volume_low,
            log_volume_high, mean_log, effective_samples, largest_share
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, number
from landscape.files.schema import read_attributes, reading
from landscape.studies.basin.result import Basin


def basin_group(basin: Basin) -> hdf5.Group:
    """Variables over the dimension direction, and of the profiles of the first of them."""
    over, found = ("direction",), basin.log_volume
    variables = {
        "direction": array(over, np.arange(len(basin.radii)), "number of the direction"),
        "radius": array(over, basin.radii, "multiple of the direction at which the cutoff is reached; Inf: never"),
        "length": array(over, basin.lengths, "length of the direction in parameter space"),
        "log_contribution": array(over, basin.contributions, "what the direction says of the log volume, in nats"),
        "computed": array(over, basin.computed, "whether it was computed; elsewhere values are NaN"),
        "place": array(("place",), basin.places, "place on a direction, in multiples of its radius"),
        "profile": array(("profiled", "place"), basin.profiles, f"{basin.of} at the places of the first directions"),
        "dimension": number(basin.dimension, "number of parameters that vary"),
        "centre": number(basin.centre, f"{basin.of} at the centre"),
        "cutoff": number(basin.cutoff, f"{basin.of} at which the basin ends"),
        "log_volume": number(float(found), "ln of the mean over directions of exp(log_contribution), in nats"),
        "log_volume_stderr": number(found.stderr, "standard error of log_volume, over directions"),
        "log_volume_low": number(found.interval[0], "lower end of the 95 % interval of the log volume"),
        "log_volume_high": number(found.interval[1], "its upper end; Inf where log_volume is not to be believed"),
        "mean_log": number(found.mean, "mean of log_contribution, an estimate of a lower bound of the log volume"),
        "effective_samples": number(found.effective_samples, "(sum w)^2 / sum w^2 of w = exp(log_contribution)"),
        "largest_share": number(found.largest_share, "of one direction in the sum of w"),
    }
    return hdf5.Group(variables, {"of": basin.of})


def read_basin(tree: hdf5.Group, path: str | Path) -> Basin:
    """The basin in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "basin", path) as group:
        v = group.variables
        return Basin(
            radii=v["radius"].data,
            lengths=v["length"].data,
            contributions=v["log_contribution"].data,
            places=v["place"].data,
            profiles=v["profile"].data,
            computed=v["computed"].data,
            dimension=int(v["dimension"].data),
            centre=float(v["centre"].data),
            cutoff=float(v["cutoff"].data),
            of=str(group.attributes["of"]),
            attributes=read_attributes(tree, "basin", structure=("of",)),
        )
