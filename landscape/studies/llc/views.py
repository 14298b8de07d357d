"""Local learning coefficients as pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape.pictures.numbers import numbers
from landscape.pictures.views import Picture, View, bars, lines, thinned
from landscape.studies.llc.result import LLC
from landscape.studies.llc.tables import llc_columns

_COLOURS = ("@blue", "@red", "@green", "@purple", "@orange")
_RISE = "nbeta (loss - loss at the centre)"
_LINES = 8  # chains that have a line each


def llc_views(llc: LLC, most: int) -> Iterator[Picture]:
    """A line of the draws of each chain, and bars of the coefficient by each."""
    views: dict[str, View] = {}
    known = llc.computed & np.isfinite(llc.per_chain)
    if not known.any():
        return
    drawn = np.flatnonzero(known)[:_LINES]
    at = thinned(llc.traces.shape[1], max(2, most // len(drawn)))
    rise = llc.nbeta * (llc.traces - llc.loss)
    traces: list[View] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": numbers((at + 1).astype(np.float64)),
            "y": numbers(rise[chain][at]),
            "name": f"chain {chain}",
            "line": {"color": _COLOURS[k % len(_COLOURS)], "width": 1},
        }
        for k, chain in enumerate(drawn)
    ]
    views["traces"] = lines(traces, "draw", _RISE, rise[drawn][:, at].ravel(), showlegend=True)
    names = [f"chain {chain}" for chain in range(len(known))]
    values = np.where(known, llc.per_chain, np.nan)
    solid = np.ones(len(known), dtype=bool)
    views["chains"], notes = bars(names, values, np.full(len(known), np.nan), solid, "coefficient", "chains")
    notes = (f"the first {llc.burn_in:,} draws are burn-in and left out", llc.verdict, *notes)
    alt = (
        f"Draws of {len(drawn)} chains around the minimum. The local learning coefficient is {float(llc.value):.4g} "
        f"with standard error {llc.stderr:.2g}, {llc.verdict}."
    )
    yield Picture("local learning coefficient", alt, views, notes, llc_columns(llc))
