"""Coherence in files.

coherence   theta (theta); row (row); gradient_square, mean_square (theta, row), alpha, alpha_stderr, m_coherence;
            computed (theta); group (group), group_size, product (theta, group, other_group), group_square (theta,
            group); alignment, length (theta, sample); samples
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names, number, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.coherence.result import MEANINGS, Coherence


def coherence_group(coherence: Coherence) -> hdf5.Group:
    """Variables over the dimensions theta and row, and of groups and single samples where these were asked for."""
    over = ("theta", "row")
    variables = {
        "theta": names("theta", coherence.labels, "name of the parameter vector"),
        "row": names("row", coherence.rows, "layer, or all parameters"),
        "gradient_square": array(over, coherence.norms, "squared length of the gradient of the mean loss"),
        "mean_square": array(over, coherence.squares, "mean over samples of the squared length of their gradients"),
        "alpha": array(over, coherence.quantity("alpha"), MEANINGS["alpha"].long_name),
        "alpha_stderr": array(over, coherence.stderr, "standard error of alpha, for the population"),
        "m_coherence": array(over, coherence.quantity("m_coherence"), MEANINGS["m_coherence"].long_name),
        "computed": array(("theta",), coherence.computed, "whether it was computed; elsewhere values are NaN"),
        "samples": number(coherence.samples, "number of samples"),
    }
    if coherence.groups:
        variables |= {
            "group": names("group", coherence.groups, "name of the group of samples"),
            "group_size": array(("group",), coherence.group_sizes, "samples in the group"),
            "product": array(
                ("theta", "group", "other_group"),
                coherence.products,
                "mean inner product of gradients of two groups' samples",
            ),
            "group_square": array(("theta", "group"), coherence.group_squares, "mean_square of the group's samples"),
        }
    if coherence.alignments.shape[1]:
        text = "inner product of the sample's gradient with that of the mean loss, over gradient_square"
        variables["alignment"] = array(("theta", "sample"), coherence.alignments, text)
        variables["length"] = array(("theta", "sample"), coherence.lengths, "squared length of the sample's gradient")
    return hdf5.Group(variables)


def read_coherence(tree: hdf5.Group, path: str | Path) -> Coherence:
    """The coherence in the tree of a file. Raises StoreError for a newer schema or a tree without one."""
    with reading(tree, "coherence", path) as group:
        v = group.variables
        count = len(v["theta"].data)
        nothing = np.zeros((count, 0))
        return Coherence(
            labels=texts(v["theta"]),
            rows=texts(v["row"]),
            samples=int(v["samples"].data),
            norms=v["gradient_square"].data,
            squares=v["mean_square"].data,
            stderr=v["alpha_stderr"].data,
            groups=texts(v["group"]) if "group" in v else (),
            group_sizes=v["group_size"].data if "group" in v else np.zeros(0, dtype=np.int64),
            products=v["product"].data if "group" in v else np.zeros((count, 0, 0)),
            group_squares=v["group_square"].data if "group" in v else nothing,
            alignments=v["alignment"].data if "alignment" in v else nothing,
            lengths=v["length"].data if "length" in v else nothing,
            computed=v["computed"].data,
            attributes=read_attributes(tree, "coherence"),
        )
