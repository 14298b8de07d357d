"""Pictures of profiles along many directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from matplotlib.figure import Figure

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.marks import coordinate_words, counted, mark_nonfinite
from landscape.pictures.scale import choose_scale
from landscape.pictures.style import BLUE, ERROR, StyledFigure, cell_borders, finish, hatch_spans, styled
from landscape.precise.told import UNSURE, quantity_label
from landscape.results.kind import Asked, Pictures
from landscape.studies.profiles.result import SHARES, Profiles

LEVELS = ("auto", "linear", "log")
_BARRED = 10  # places with bars


@styled
@checked()
def plot_profiles(profiles: Profiles, quantity: str = "loss", *, levels: str | Sequence[float] = "auto") -> Figure:
    """One quantity along every direction (thin), its median, and the band that holds the middle 80 % of directions.

    Bars on the thin lines, at about ten places, are 2 standard errors over samples (population). A dotted line marks
    the centre. Heights are "linear", "log", or by `levels` "auto" log where all values are positive and span more than
    a decade (an accuracy is linear). Places that no direction has are hatched, NaN and Inf marked, and the sentence
    below counts what is left out.

    Of profiles measured to a stated error each line has a band of 2 of these errors, and they are quantities, too:
    "loss_error", "loss_error_sampling", "loss_error_interpolation".

    Raises InputError for an unknown quantity or `levels`, and log levels of values that are not positive.
    """
    if quantity not in profiles.values:
        profiles = profiles.with_errors()
    if quantity not in profiles.values:
        raise InputError(f"the profiles have no quantity {quantity!r}; {nearest(quantity, profiles.values)}")
    if not isinstance(levels, str) or levels not in LEVELS:
        raise InputError(f"levels {levels!r} is not known for profiles; {nearest(str(levels), LEVELS)}")
    x, values, computed = profiles.x, profiles.values[quantity], profiles.computed
    finite = computed & np.isfinite(values)
    scale = choose_scale(values[finite], levels, 12, 1.0, quantity)
    figure = StyledFigure(figsize=(6.8, 4.8), layout="constrained")
    ax = figure.add_subplot()

    def drawn(heights: FloatArray) -> FloatArray:
        return np.maximum(scale.drawn(heights), scale.floor) if scale.log else scale.drawn(heights)

    thin: dict[str, Any] = {"color": "0.55", "linewidth": 0.7, "zorder": 2}
    barred = np.zeros(x.size, dtype=bool)
    barred[:: -(-x.size // _BARRED)] = True
    off, nowhere, banded = profiles.error or {}, np.zeros(values.shape), False
    for number, (row, error, known) in enumerate(zip(values, profiles.stderr[quantity], finite, strict=True)):
        alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
        label = "each direction" if number == 0 else "_"  # one entry in the legend
        heights = drawn(np.where(known, row, np.nan))
        ax.plot(x, heights, marker=".", markevery=np.flatnonzero(alone).tolist(), label=label, **thin)
        unsure = off.get(quantity, nowhere)[number]
        if unsure[known].any():
            low, high = (drawn(np.where(known, row + side * unsure, np.nan)) for side in (-2, 2))
            ax.fill_between(x, low, high, color="0.55", alpha=0.35, linewidth=0, label="_" if banded else UNSURE)
            banded = True
        sure = known & np.isfinite(error) & (barred | alone)
        if sure.any():
            low, high = (np.abs(drawn(row + side * error)[sure] - heights[sure]) for side in (-2, 2))
            bars: dict[str, Any] = {"fmt": "none", "ecolor": "0.55", "elinewidth": 0.7, "capsize": 1.5, "zorder": 2}
            ax.errorbar(x[sure], heights[sure], np.stack([low, high]), label="_" if number else ERROR, **bars)
    if len(values) > 1:
        lower, middle, upper = (drawn(_finite(profiles.quantile(quantity, share))) for share in SHARES)
        band = f"{SHARES[0]:.0%} to {SHARES[2]:.0%} of directions".replace("%", " %")
        ax.fill_between(x, lower, upper, color=BLUE, alpha=0.25, linewidth=0, zorder=1, label=band)
        ax.plot(x, middle, color=BLUE, linewidth=2.0, marker="o" if x.size < 3 else None, zorder=3, label="median")
    hatch_spans(ax, np.asarray(~computed.any(axis=0)), x)
    for row, known in zip(values, computed, strict=True):
        mark_nonfinite(ax, x, np.where(known, row, 0.0))
    ax.set_xlim(*(cell_borders(x) if x.size == 1 or not computed.any(axis=0).all() else x)[[0, -1]])
    if x[0] <= 0 <= x[-1]:
        ax.axvline(0.0, color="0.4", linestyle=":", linewidth=1, label="centre")
    if scale.log:
        ax.set_ylim(bottom=scale.floor)
    scale.tick(ax.yaxis, scale.heights)
    ax.grid(axis="y")
    ax.set_xlabel(f"x ({coordinate_words(profiles.attributes)})")
    ax.set_ylabel(quantity_label(profiles, quantity))
    notes = [f"{len(values)} direction{'s' * (len(values) != 1)}", *counted([(values, computed)], "points")]
    notes += [scale.note] if scale.note else []
    return finish(figure, [ax], notes, last=("centre",))


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def _asked(profiles: Profiles, asked: Asked) -> Iterator[tuple[str, Figure]]:
    kind = asked.of_kind("profiles")
    for name in (asked.quantity,) if asked.quantity is not None else profiles.values:
        yield f"{name}_{kind}", plot_profiles(profiles, name, levels=asked.levels or "auto")


PICTURES = Pictures(plot_profiles, _asked, lambda profiles: profiles.plot())
