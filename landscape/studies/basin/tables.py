"""Basins in tables, as columns, and at a glance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.results.attributes import what
from landscape.results.kind import Columns, Line
from landscape.results.tables import Cell, Table, number, pairs_table
from landscape.studies.basin.result import Basin

_SHARES = (5, 25, 50, 75, 95)  # per cent of the directions


def basin_columns(basin: Basin) -> Columns:
    """A row for each direction."""
    return {
        "direction": np.arange(len(basin.radii)),
        "radius": basin.radii,
        "length": basin.lengths,
        "log_contribution": basin.contributions,
        "computed": basin.computed,
    }


def basin_tables(basin: Basin, title: str) -> Iterator[Table]:
    """What was measured on what, the radii, and the log volume with what tells whether it is to be believed."""
    about, done = basin.attributes, basin.computed
    prior, whole = about.get("prior_sigma"), about.get("whole_prior")
    precondition = str(about.get("precondition") or "none")
    yield pairs_table(
        title,
        {
            "directions": f"{int(done.sum())} of {len(done)} computed, {about.get('kind', 'unknown')}",
            "preconditioner": precondition,
            "parameters that vary": basin.dimension,
            f"{basin.of} at the centre": number(basin.centre),
            "cutoff": number(basin.cutoff),
            "never cross": basin.never,
            "descent from the centre": descent_words(basin),
            **what(about),
            "errors": about.get("error", "unknown"),
        },
    )
    radii, distances = basin.radii[done], basin.distances[done]
    if len(radii):
        rows = tuple(
            (Cell(f"{share} %"), *(number(_quantile(part, share), 5) for part in (radii, distances)))
            for share in _SHARES
        )
        yield Table("radii", ("directions below", "multiples of the direction", "distance"), rows)
    found = basin.log_volume
    low, high = found.interval
    unit = volume_words(basin)
    yield pairs_table(
        f"log volume (nats): {unit}",
        {
            "log-mean-exp, an estimate": number(float(found), 8, found.stderr),
            "mean, a lower bound": number(found.mean, 8, found.mean_stderr),
            "in decades": number(float(found) / float(np.log(10)), 8),
            "95 % interval": f"{low:.8g} to {high:.8g}" if np.isfinite(high) else f"above {low:.8g}",
            "spread over directions": number(found.spread, 4),
            "largest share": number(found.largest_share, 3),
            "effective samples": number(found.effective_samples, 3),
            "tail index": number(found.tail, 3),
            "told": basin.believed,
            **({} if prior is None else {"prior sigma": number(float(prior))}),
            **({} if whole is None else {"all of space, the truth being 0": number(float(whole), 8)}),
        },
    )


def volume_words(basin: Basin) -> str:
    """What the log volume is of."""
    if basin.attributes.get("prior_sigma") is not None:
        return "of the probability that the prior gives the basin"
    if basin.attributes.get("kind") == "filter":
        return "over filter-normalised directions, in their units"
    return "of the basin, seen from its centre"


def descent_words(basin: Basin) -> str:
    """What the steepest descent from the centre gains."""
    gain = float(basin.attributes.get("descent_gain", float("nan")))
    if basin.of == "kl":
        return f"the loss falls by {gain:.3g}; the divergence is smallest at the centre"
    if basin.attributes.get("minimum", 1):
        return f"the loss falls by {gain:.3g}, little beside the cutoff"
    return f"the loss falls by {gain:.3g}: the centre is no minimum"


def _quantile(values: np.ndarray, share: int) -> float:
    """A value of the list itself, so that Inf counts."""
    return float(np.quantile(values, share / 100, method="higher"))


def basin_glance(basin: Basin) -> Line:
    """The radii of the directions, for `landscape watch`."""
    x = np.arange(len(basin.radii), dtype=np.float64)
    return Line("radius", "direction", x, basin.radii, basin.computed)
