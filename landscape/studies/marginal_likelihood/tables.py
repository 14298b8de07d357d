"""A marginal likelihood in a file, in tables, and at a glance.

marginal_likelihood  class (class); log_evidence (class), kl, train_error, numerical_error, computed (class);
                     without_log_evidence (class, group), without_kl, without_train_error
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names, texts
from landscape.files.schema import read_attributes, reading
from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.marginal_likelihood.result import MarginalLikelihood

_PARTS = {
    "log_evidence": "logarithm of the probability of the labelling, of a density for regression",
    "kl": "Kullback-Leibler divergence of the posterior from the prior",
    "train_error": "error of the posterior's draws on the samples",
}
_NUMERICAL = "error left by the iterations, or standard error of the integral"
_STRUCTURE = ("samples_labelled", "method_used", "kernel_used")


def marginal_likelihood_group(found: MarginalLikelihood) -> hdf5.Group:
    """Variables over classes, and over the groups of networks that are left out in turn."""
    values = (found.log_evidences, found.kls, found.train_errors)
    variables = {"class": names("class", found.classes, "class told from the others, or the two classes")}
    for (name, words), one, left in zip(_PARTS.items(), values, found.without, strict=True):
        variables[name] = array(("class",), one, words)
        variables[f"without_{name}"] = array(("class", "group"), left, f"without a group of networks: {words}")
    variables["numerical_error"] = array(("class",), found.numerical_errors, _NUMERICAL)
    variables["computed"] = array(
        ("class",), found.computed, "whether the class was computed; elsewhere values are NaN"
    )
    structure = {"samples_labelled": found.samples, "method_used": found.method, "kernel_used": found.kernel}
    return hdf5.Group(variables, structure)


def read_marginal_likelihood(tree: hdf5.Group, path: str | Path) -> MarginalLikelihood:
    """The result in the tree of a file. Raises StoreError for a newer schema or a tree without it."""
    with reading(tree, "marginal_likelihood", path) as group:
        v = group.variables
        return MarginalLikelihood(
            classes=texts(v["class"]),
            log_evidences=v["log_evidence"].data,
            kls=v["kl"].data,
            train_errors=v["train_error"].data,
            numerical_errors=v["numerical_error"].data,
            without=np.stack([v[f"without_{name}"].data for name in _PARTS]),
            computed=v["computed"].data,
            samples=int(group.attributes["samples_labelled"]),
            method=str(group.attributes["method_used"]),
            kernel=str(group.attributes["kernel_used"]),
            attributes=read_attributes(tree, "marginal_likelihood", _STRUCTURE),
        )


def marginal_likelihood_tables(found: MarginalLikelihood, title: str) -> Iterator[Table]:
    """The evidence of the whole labelling and its bounds, then each class."""
    about = found.attributes
    totals = {
        "log P (nats)": found.log_evidence,
        "bound on the mean error": found.bound,
        "bound on 99 % of draws": found.bound_on_draw,
    }
    yield pairs_table(
        title,
        {
            **{name: number(float(one), stderr=one.stderr if one.stderr else None) for name, one in totals.items()},
            **({"bias of log P by few networks": number(found.bias, 3)} if found.without.shape[2] else {}),
            "samples labelled": found.samples,
            "kernel": _kernel(found),
            "method": f"{found.method or 'none yet'}, {about.get('link') or 'Gaussian noise'}",
            **what(about, "samples", "method"),
            "errors": about.get("error", "unknown"),
        },
    )
    regression = found.method == "regression"
    headings = ("class", "log P", *(("KL", "training error") if regression else ()), "numerical error", "note")
    yield Table("classes", headings, tuple(_row(found, k, regression) for k in range(len(found.classes))))


def _kernel(found: MarginalLikelihood) -> str:
    about = found.attributes
    if found.kernel == "nngp":
        return f"NNGP, {about.get('depth', 'some')} hidden layers of ReLU"
    return f"empirical, of {about.get('nets', 'some')} networks"


def _row(found: MarginalLikelihood, k: int, regression: bool) -> tuple[Cell, ...]:
    if not found.computed[k]:
        return (Cell(found.classes[k]), *[Cell("not computed")] * (3 + 2 * regression))
    value, error = float(found.log_evidences[k]), float(found.errors()[k])
    more = (number(float(found.kls[k])), number(float(found.train_errors[k]))) if regression else ()
    numerical = number(float(found.numerical_errors[k]), 2)
    return (Cell(found.classes[k]), number(value, stderr=error), *more, numerical, Cell(note(value)))


def note(value: float) -> str:
    """Why a value is no number."""
    if np.isnan(value):
        return "did not settle: the kernel may be of too low a rank for these labels, so that P = 0"
    return "P = 0: two samples are alike and have different labels" if value == -np.inf else ""


def marginal_likelihood_columns(found: MarginalLikelihood) -> Columns:
    """A row for each class."""
    return {
        "class": list(found.classes),
        "log_evidence": found.log_evidences,
        "log_evidence_stderr": found.errors(),
        "kl": found.kls,
        "train_error": found.train_errors,
        "numerical_error": found.numerical_errors,
        "computed": found.computed,
    }


def marginal_likelihood_glance(found: MarginalLikelihood) -> Line:
    """log P of each class."""
    classes = np.arange(float(len(found.classes)))
    return Line("log P of each class", "class", classes, found.log_evidences, found.computed)
