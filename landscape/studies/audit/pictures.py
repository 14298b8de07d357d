"""Audits as matplotlib figures: verdicts of measures by knobs, ratios of all comparisons, learning curves of one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.pictures.bars import bar_figure, short
from landscape.pictures.scale import name_log_ticks
from landscape.pictures.style import GREEN, MISSING, RED, StyledFigure, finish, hatch_cells, line_look, styled
from landscape.results.kind import Asked, Pictures
from landscape.studies.audit.models import JOIN, Models, alike, setting_text, value_text
from landscape.studies.audit.result import FRAGILE, ROBUST, UNDECIDED, Audit
from landscape.studies.audit.statistics import FACTOR, log10_of
from landscape.studies.audit.tables import states_text

KINDS = ("matrix", "ratios", "curves")
_STATES = (ROBUST, UNDECIDED, FRAGILE)
_LOOK = {ROBUST: GREEN, UNDECIDED: "0.82", FRAGILE: RED}
_ROWS = 60  # comparisons drawn; the table has them all
_PANELS = 6
_LINES = 12  # of a panel
_FLIPPED = "\u21c5"
_SHORTENED = "settings: what most have is not named"
_TICKS = 5  # sizes named along an axis


@styled
@checked()
def plot_audit(audit: Audit, kind: str = "matrix", measure: str | None = None, knob: str | None = None) -> Figure:
    """Draw an audit as one of three kinds of picture.

    - "matrix": measures by knobs, coloured by verdict, with the largest factor between equally good models.
    - "ratios": for every comparison the factor with its interval and the band within a factor of 2; of one `measure` or
      one `knob` where they are given. Of more than 60 comparisons those farthest from 1.
    - "curves": a `measure` (by default the first) over the size of the training set: a panel for each setting and each
      knob, or of one `knob`, a line for each of its values, with 2 standard errors over seeds.

    Raises InputError for a kind, measure or knob that is not there.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not a picture of an audit; {nearest(kind, KINDS)}")
    if measure is not None:
        audit.require(measure)
    if not audit.knobs or not audit.measures:
        raise InputError("this audit compares no knobs, so there is nothing to draw; its orders are in .orders")
    if knob is not None:
        audit.rows_of(audit.measures[0], knob)
    if kind == "matrix":
        if measure is not None or knob is not None:
            raise InputError("measure and knob belong to kind='ratios' and 'curves'; a matrix shows all of them")
        return _matrix(audit)
    if kind == "ratios":
        return _ratios(audit, measure, knob)
    return _curves(audit, measure or audit.measures[0], knob)


# -- matrix ----------------------------------------------------------------------------------------------------------


def _matrix(audit: Audit) -> Figure:
    measures, knobs = audit.measures, audit.knobs
    states = [[audit.verdict(measure, knob) for knob in knobs] for measure in measures]
    folds = np.array([[audit.fold(measure, knob) for knob in knobs] for measure in measures])
    figure = StyledFigure(figsize=(3.2 + 1.25 * len(knobs), 1.9 + 0.27 * max(len(measures), 4)), layout="constrained")
    ax = figure.add_subplot()
    codes = np.array([[_STATES.index(state) for state in row] for row in states], dtype=float)
    x, y = (np.arange(n + 1, dtype=np.float64) - 0.5 for n in (len(knobs), len(measures)))
    colours = ListedColormap([_LOOK[state] for state in _STATES])
    unknown = np.isnan(folds)
    ax.pcolormesh(x, y, np.ma.masked_array(codes, unknown), cmap=colours, vmin=-0.5, vmax=2.5, alpha=0.55)
    hatch_cells(ax, unknown, x, y, **{**MISSING, "label": "no pair does equally well"})
    flips = [[_flips(audit, measure, knob) for knob in knobs] for measure in measures]
    for (i, j), fold in np.ndenumerate(folds):
        if math.isfinite(fold):
            look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small"}
            text = f"{_fold_text(fold)} {_FLIPPED}" if flips[i][j] else _fold_text(fold)
            ax.text(j, i, text, fontweight="bold" if states[i][j] == FRAGILE else "normal", **look)
    for state in reversed(_STATES):
        ax.plot([], [], "s", color=_LOOK[state], alpha=0.55, label=state)
    ax.set_xticks(np.arange(len(knobs)), [knob.replace(JOIN, "\n+ ") for knob in knobs])
    ax.set_yticks(np.arange(len(measures)), short(measures), fontsize="small")
    ax.tick_params(length=0)
    ax.set_ylim(len(measures) - 0.5, -0.5)
    notes = ["numbers: largest factor between equally good models"]
    notes += [f"{_FLIPPED} slopes over sizes have opposite signs"] if any(map(any, flips)) else []
    notes += _notes(audit)
    return finish(figure, [ax], notes, last=("no pair does equally well",))


def _flips(audit: Audit, measure: str, knob: str) -> bool:
    """Whether a comparison is fragile by the signs of its slopes more than by its ratio."""
    found = audit.comparisons
    return any(
        found.verdict[row] == FRAGILE and found.values["p_flip"][row] > found.values["p_ratio"][row]
        for row in audit.rows_of(measure, knob)
    )


def _short_settings(audit: Audit, knob: str) -> dict[str, str]:
    """{setting: what more than half of the settings of a knob do not have in common}."""
    found = audit.comparisons
    settings = list(dict.fromkeys(found.setting[row] for row in audit.rows_of(audit.measures[0], knob)))
    often = Counter(part for setting in settings for part in setting.split(","))
    return {
        setting: ", ".join(
            part for part in setting.split(",") if len(settings) == 1 or 2 * often[part] <= len(settings)
        )
        for setting in settings
    }


def _fold_text(fold: float) -> str:
    if fold < 1.0005:
        return "×1"
    if fold < 1000:
        return f"×{fold:.3g}"
    return f"×1e{round(math.log10(fold))}"


def _notes(audit: Audit) -> list[str]:
    about = audit.attributes
    notes = [f"equally good: test errors within {about['within']:g}"] if "within" in about else []
    missing = int((~audit.computed).sum())
    return [states_text(audit), *notes, *([f"{missing} models are not measured yet"] if missing else [])]


# -- ratios ----------------------------------------------------------------------------------------------------------


def _ratios(audit: Audit, measure: str | None, knob: str | None) -> Figure:
    found = audit.comparisons
    rows = [
        row
        for row in range(len(found.measure))
        if measure in (None, found.measure[row]) and knob in (None, found.knob[row])
    ]
    ratios = found.values["ratio"].tolist()
    known = [abs(math.log10(ratio)) if ratio > 0 and math.isfinite(ratio) else -1.0 for ratio in ratios]
    kept = sorted(sorted(rows, key=lambda row: -known[row])[:_ROWS])
    shortened = {knob: _short_settings(audit, knob) for knob in dict.fromkeys(found.knob[row] for row in kept)}
    figure = bar_figure(len(kept), 1)
    figure.set_figwidth(9.4)
    ax = figure.add_subplot()
    ax.axvspan(1 / FACTOR, FACTOR, color="0.93", zorder=0, label=f"within a factor of {FACTOR:g}")
    seen: set[str] = set()
    for place, row in enumerate(kept):
        values = [float(found.values[f"ratio{end}"][row]) for end in ("", "_low", "_high")]
        state = found.verdict[row]
        if not math.isfinite(values[0]) or values[0] <= 0:
            ax.axhspan(place - 0.5, place + 0.5, zorder=0, **{**MISSING, "label": "no pair does equally well"})
            continue
        ends = np.nan_to_num(np.abs(np.array([[values[0] - values[1]], [values[2] - values[0]]])))
        colour = "0.45" if state == UNDECIDED else _LOOK[state]
        marker = {FRAGILE: "D", ROBUST: "o", UNDECIDED: "s"}[state]
        look: dict[str, Any] = {"fmt": marker, "color": colour, "elinewidth": 1.4, "capsize": 2}
        ax.errorbar([values[0]], [place], xerr=ends, label="_" if state in seen else state, **look)
        seen.add(state)
    ax.set_xscale("log")
    ax.axvline(1.0, color="0.4", linestyle=":", linewidth=1)
    name_log_ticks(ax.xaxis)
    ax.set_yticks(np.arange(len(kept)), [_row_text(audit, row, shortened) for row in kept], fontsize="x-small")
    ax.set_ylim(len(kept) - 0.4, -0.6)
    ax.grid(axis="x")
    ax.set_xlabel("measure of the second value over that of the first")
    notes = [f"the {len(kept)} of {len(rows)} comparisons farthest from 1"] if len(kept) < len(rows) else []
    level = audit.attributes.get("level")
    notes += [f"bars: {100 * level:g} % over seeds"] if isinstance(level, float) else []
    notes += (
        [_SHORTENED]
        if any(k != text.replace(", ", ",") for one in shortened.values() for k, text in one.items())
        else []
    )
    return finish(figure, [ax], [*notes, *_notes(audit)])


def _row_text(audit: Audit, row: int, shortened: Mapping[str, Mapping[str, str]]) -> str:
    found = audit.comparisons
    told = f"{found.measure[row]}, {found.knob[row]} {found.first[row]} → {found.second[row]}"
    setting = shortened[found.knob[row]][found.setting[row]]
    return f"{told}, {setting}" if setting else told


# -- learning curves -------------------------------------------------------------------------------------------------


def _curves(audit: Audit, measure: str, knob: str | None) -> Figure:
    rows = [row for one in ([knob] if knob else audit.knobs) for row in audit.rows_of(measure, one)]
    found = audit.comparisons
    panels = dict.fromkeys((found.knob[row], found.setting[row]) for row in rows)
    shown = list(panels)[:_PANELS]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = StyledFigure(figsize=(1.2 + 3.9 * columns, 1.6 + 3.1 * lines), layout="constrained")
    axes = []
    for place, (one, setting) in enumerate(shown):
        ax = figure.add_subplot(lines, columns, place + 1)
        axes.append(ax)
        _panel(ax, audit, measure, [r for r in rows if (found.knob[r], found.setting[r]) == (one, setting)])
        told = _short_settings(audit, one)[setting]
        ax.set_title(f"{one}\n{told}" if told else one, fontsize="small")
        ax.set_xlabel("training samples")
        if place % columns == 0:
            ax.set_ylabel(measure)
    notes = ["bars: ±2 standard errors over seeds", "filled: pairs that do equally well", _SHORTENED]
    if len(panels) > len(shown):
        notes.append(f"the first {len(shown)} of {len(panels)} settings; knob= draws another")
    return finish(figure, axes, [*notes, *_notes(audit)[1:]])


def _panel(ax: Axes, audit: Audit, measure: str, rows: list[int]) -> None:
    """The cells of a setting: a line for each value of the knob."""
    found = audit.comparisons
    knob, setting = found.knob[rows[0]], found.setting[rows[0]]
    values = dict.fromkeys(value for row in rows for value in (found.first[row], found.second[row]))
    models = Models(audit.keys, audit.seed, audit.samples, audit.test_error, {measure: audit.values[measure]})
    names = knob.split(JOIN)
    chosen = models.of_knob(names)
    told = [name for name in chosen.keys if name in chosen.varied() and name not in names]
    logs = log10_of(measure, chosen.values[measure])
    errors = chosen.cell_errors()
    curves: dict[str, dict[int, tuple[float, float, float]]] = {}
    for cell, members in chosen.cells.items():
        by_name = dict(zip(chosen.keys, cell, strict=False))
        if setting_text({name: by_name[name] for name in told}) != setting:
            continue
        arm, known = JOIN.join(value_text(by_name[name]) for name in names), logs[members][np.isfinite(logs[members])]
        if arm in values and len(known):
            error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else 0.0
            curves.setdefault(arm, {})[int(cell[-1])] = (float(known.mean()), float(error), errors[cell][0])
    within = float(audit.attributes.get("within", math.inf))
    for number, arm in enumerate(list(values)[:_LINES]):
        points = sorted(curves.get(arm, {}).items())
        if not points:
            continue
        x = np.array([size for size, _ in points], dtype=float)
        log, error = np.array([p[0] for _, p in points]), np.array([p[1] for _, p in points])
        middle = 10**log
        bars = np.abs(np.stack([middle - 10 ** (log - 2 * error), 10 ** (log + 2 * error) - middle]))
        look = line_look(number)
        label = f"{knob} {arm}"
        ax.errorbar(x, middle, yerr=bars, color=look["color"], elinewidth=1, capsize=2, linewidth=1.4, label=label)
        others = [curves[other] for other in curves if other != arm]
        full = [any(size in o and alike(o[size][2] - p[2], within) for o in others) for size, p in points]
        for where, face in ((np.array(full), look["color"]), (~np.array(full), "white")):
            ax.plot(x[where], middle[where], look["marker"], color=look["color"], markerfacecolor=face, label="_")
    ax.set_xscale("log")
    ax.set_yscale("log")
    name_log_ticks(ax.yaxis)
    sizes = sorted({size for points in curves.values() for size in points})
    kept = sizes[:: -(-len(sizes) // _TICKS)] if sizes else []
    ax.set_xticks(kept, [f"{size:,}" for size in kept])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid()


def _asked(audit: Audit, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("--levels")
    for kind in KINDS if asked.kind is None else (asked.kind,):
        chosen = {"measure": asked.quantity} if kind != "matrix" and asked.quantity is not None else {}
        yield kind, plot_audit(audit, kind, **chosen)


PICTURES = Pictures(plot_audit, _asked, plot_audit)
