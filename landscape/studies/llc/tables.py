"""A local learning coefficient in a file, in tables, as columns, and at a glance.

llc         loss, nbeta, localisation, burn_in, parameters, quadratic, value, value_stderr, bias, r_hat,
            effective_samples; trace (chain, draw), halved_trace (chain, kept_draw), step (chain), acceptance,
            per_chain, computed
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, number
from landscape.files.schema import read_attributes, reading
from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, pairs_table
from landscape.results.tables import number as cell
from landscape.studies.llc.result import LLC


def llc_group(llc: LLC) -> hdf5.Group:
    """Variables over the dimensions chain and draw, and the numbers that follow from them."""
    value = llc.value
    variables = {
        "value": number(float(value), "local learning coefficient"),
        "value_stderr": number(value.stderr, "standard error of value over draws, the bias of the step put in"),
        "bias": number(llc.bias, "what the step size adds to value, 0 where steps are exact"),
        "r_hat": number(llc.r_hat, "potential scale reduction of the chains cut into halves"),
        "effective_samples": number(llc.effective_samples, "independent draws that all draws are worth"),
        "quadratic": number(llc.quadratic, "coefficient of the quadratic form of the Hessian at the centre"),
        "loss": number(llc.loss, "loss at the centre"),
        "nbeta": number(llc.nbeta, "inverse temperature of the loss"),
        "localisation": number(llc.localisation, "strength of the pull to the centre"),
        "burn_in": number(llc.burn_in, "draws at the beginning that are left out"),
        "parameters": number(llc.parameters, "number of parameters"),
        "trace": array(("chain", "draw"), llc.traces, "loss of a draw, the burn-in first"),
        "step": array(("chain",), llc.steps, "step size after the burn-in"),
        "acceptance": array(("chain",), llc.acceptance, "mean probability of acceptance after the burn-in"),
        "per_chain": array(("chain",), llc.per_chain, "local learning coefficient by the chain, NaN where left out"),
        "computed": array(("chain",), llc.computed, "whether the chain was run; elsewhere values are NaN"),
    }
    if llc.halved.shape[1]:
        variables["halved_trace"] = array(("chain", "kept_draw"), llc.halved, "loss of a draw by half the step")
    return hdf5.Group(variables)


def read_llc(tree: hdf5.Group, path: str | Path) -> LLC:
    """The result in the tree of a file. Raises StoreError for a newer schema or a tree without it."""
    with reading(tree, "llc", path) as group:
        v = group.variables
        return LLC(
            loss=float(v["loss"].data),
            nbeta=float(v["nbeta"].data),
            localisation=float(v["localisation"].data),
            burn_in=int(v["burn_in"].data),
            traces=v["trace"].data,
            halved=v["halved_trace"].data if "halved_trace" in v else np.zeros((len(v["step"].data), 0)),
            steps=v["step"].data,
            acceptance=v["acceptance"].data,
            quadratic=float(v["quadratic"].data),
            parameters=int(v["parameters"].data),
            computed=v["computed"].data,
            attributes=read_attributes(tree, "llc"),
        )


def llc_tables(llc: LLC, title: str) -> Iterator[Table]:
    """The coefficient with all it depends on and whether it is to be believed, then each chain."""
    about, value = llc.attributes, llc.value
    exact = not llc.halved.shape[1]
    yield pairs_table(
        title,
        {
            "local learning coefficient": cell(float(value), 4, value.stderr),
            "verdict": llc.verdict,
            "nbeta": cell(llc.nbeta, 6),
            "localisation": cell(llc.localisation, 6),
            "step": _range(llc.steps),
            **({} if exact else {"bias of the step": cell(llc.bias, 3, llc.bias_stderr)}),
            **({"acceptance": _range(llc.acceptance)} if np.isfinite(llc.acceptance).any() else {}),
            "chains": f"{int(llc.computed.sum())} of {len(llc.computed)} computed, {len(llc.left_out)} left out",
            "draws": f"{llc.traces.shape[1] - llc.burn_in:,} of each chain after {llc.burn_in:,} of burn-in",
            "R-hat": cell(llc.r_hat, 4),
            "effective samples": cell(llc.effective_samples, 4),
            "drift": cell(float(llc.drift), 3, llc.drift.stderr),
            "by the quadratic form": cell(llc.quadratic, 4, nan="not computed"),
            "loss at the centre": cell(llc.loss, 6),
            "steps until the centre is forgotten": f"{llc.relaxation:,.3g} where the loss is flat",
            **({"samples of a batch": about["batch_size"]} if "batch_size" in about else {}),
            **({"parity": about["parity"]} if about.get("parity") else {}),
            **what(about),
            "errors": about.get("error", "unknown"),
        },
    )
    rows = tuple(_row(llc, chain) for chain in range(len(llc.computed)))
    yield Table("chains", ("chain", "coefficient", "step", "acceptance", "note"), rows)


def _range(values: np.ndarray) -> str:
    """The span of finite values in words."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "not known"
    low, high = float(known.min()), float(known.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _row(llc: LLC, chain: int) -> tuple[Cell, ...]:
    if not llc.computed[chain]:
        return (cell(chain), *[Cell("not computed")] * 3, Cell(""))
    note = llc.left_out.get(chain, "")
    mean = float(llc.draws[chain].mean())
    accepted = cell(float(llc.acceptance[chain]), 3, nan="all steps")
    told = Cell(f"left out: {note}" if note else "")
    return cell(chain), cell(mean, 4), cell(float(llc.steps[chain]), 4), accepted, told


def llc_columns(llc: LLC) -> Columns:
    """A row for each chain."""
    left_out = llc.left_out
    return {
        "chain": np.arange(len(llc.computed)),
        "llc": llc.per_chain,
        "step": llc.steps,
        "acceptance": llc.acceptance,
        "left_out": [left_out.get(chain, "") for chain in range(len(llc.computed))],
        "computed": llc.computed,
    }


def llc_glance(llc: LLC) -> Line:
    """The coefficient by each chain, for `landscape watch`."""
    return Line("local learning coefficient", "chain", np.arange(float(len(llc.steps))), llc.per_chain, llc.computed)
