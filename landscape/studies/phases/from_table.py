"""Phases of a table of cells that were measured elsewhere."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.studies.phases.cells import Cells, mean_over_seeds, summed_up
from landscape.studies.phases.result import METRICS, Phases, Thresholds
from landscape.studies.phases.settings import PhasesSettings

_STDERR = "_stderr"
_NEEDED = ("lambda_max", "mc", "cka")


@checked(PhasesSettings)
def phases_from_table(
    path: str | Path,
    load: str,
    temperature: str,
    columns: Mapping[str, str] | None = None,
    *,
    sharp: float = 20.0,
    connected: float = -1.0,
    alike: float = 0.7,
    fitted: float | None = None,
) -> Phases:
    """Phases of the cells in a table of comma-separated values with a line of headings, as of a published sweep.

    `load` and `temperature` are the headings of the two axes, columns of numbers. `columns` {metric: heading} says
    where "lambda_max", "mc" (of the error in per cent) and "cka" stand, which decide, and any other metrics, known or
    not; by default the columns whose headings are metrics. {"mc_stderr": heading} names standard errors, by default
    the column whose heading is that of the metric with "_stderr". Several lines of a cell are its seeds: their mean
    counts, with its error from how they differ. Values stay in the units of the table.

    A cell that lacks a metric of `columns`, be it one that does not decide, has no phase, and a reason. Without
    errors phases have no probability (NaN). The thresholds are those of `Thresholds`.

    Raises InputError for a file that cannot be read, headings that are not there (the nearest are named), entries that
    are no numbers (with their line), and where one of the three metrics that decide is missing.
    """
    limits = Thresholds(sharp, connected, alike, fitted)
    path = Path(path)
    lines, headings = _read(path)
    for name, heading in (("load", load), ("temperature", temperature)):
        _require(path, headings, heading, name)
    if load == temperature:
        raise InputError(f"load and temperature are both {load!r}; name two columns of {path}")
    chosen = _columns(path, headings, columns, (load, temperature), limits)
    metrics = [metric for metric in chosen if not metric.endswith(_STDERR)]
    found: dict[tuple[float, float], list[dict[str, float]]] = defaultdict(list)
    for number, line in lines:
        at = [_number(path, number, line, heading) for heading in (load, temperature)]
        if not all(map(math.isfinite, at)):
            said = f"{load} = {line[load]!r} and {temperature} = {line[temperature]!r}"
            raise InputError(f"{path}, line {number}: {said} are to be finite numbers")
        found[at[0], at[1]].append({name: _number(path, number, line, chosen[name]) for name in chosen})
    cells = Cells.of(found)
    table = {place: _of_lines(found[place], metrics) for place in found}
    values, seeds, own = ({name: cells.table(table, name, k) for name in metrics} for k in range(3))
    total = {name: np.where(np.isnan(seeds[name]), own[name], summed_up(seeds[name], own[name])) for name in metrics}
    reason = cells.texts()
    notes = cells.texts()
    for i, j in np.ndindex(reason.shape):
        lacking = [chosen[name] for name in metrics if np.isnan(values[name][i, j])]
        place = (float(cells.load[i]), float(cells.temperature[j]))
        if place not in found:
            reason[i, j] = "not in the table"
        elif lacking:
            reason[i, j] = f"the table has no {', '.join(lacking)} here"
        elif len(found[place]) > 1:
            notes[i, j] = f"{len(found[place])} lines"
    attributes: dict[str, Any] = {"table": path.name, "columns": dict(chosen)}
    known = [name for name in metrics if np.isfinite(total[name]).any()]
    return Phases(
        (load, temperature),
        cells.load,
        cells.temperature,
        values,
        {name: total[name] for name in known},
        {name: seeds[name] for name in known},
        {name: own[name] for name in known},
        reason.astype(str),
        notes.astype(str),
        limits,
        attributes=attributes,
    )


def _read(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """((line number, {heading: entry}) of every line, headings)."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            headings = [heading.strip() for heading in reader.fieldnames or ()]
            reader.fieldnames = headings
            lines = [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of comma-separated values: {error}") from error
    if not lines:
        raise InputError(f"{path} holds no cells: it needs a line of headings and a line for each cell")
    repeated = sorted({heading for heading in headings if headings.count(heading) > 1})
    if repeated:
        raise InputError(f"{path} has several columns {', '.join(map(repr, repeated))}; give each its own heading")
    for number, line in lines:
        if None in line or None in line.values():
            raise InputError(f"{path}, line {number}: it has not the {len(headings)} entries that the headings ask for")
    return lines, headings


def _require(path: Path, headings: Sequence[str], heading: str, what: str) -> None:
    if heading not in headings:
        raise InputError(f"{what}: {path} has no column {heading!r}; {nearest(heading, headings)}")


def _columns(
    path: Path, headings: Sequence[str], asked: Mapping[str, str] | None, axes: tuple[str, str], limits: Thresholds
) -> dict[str, str]:
    """{metric, or metric_stderr: its heading}."""
    if asked is None:
        asked = {name: name for name in headings if name in METRICS}
    for metric, heading in asked.items():
        _require(path, headings, heading, f"columns[{metric!r}]")
        if heading in axes:
            raise InputError(f"columns[{metric!r}] = {heading!r} is an axis of the map; name the column of a metric")
        if metric.endswith(_STDERR) and metric.removesuffix(_STDERR) not in asked:
            raise InputError(
                f"columns[{metric!r}] has no metric {metric.removesuffix(_STDERR)!r} beside it; name it, too"
            )
    needed = (*_NEEDED, *(("train_loss",) if limits.fitted is not None else ()))
    for metric in needed:
        if metric not in asked:
            said = f"columns= {dict(asked)}" if asked else f"{path}"
            strange = [name for name in asked if name.removesuffix(_STDERR) not in METRICS]
            raise InputError(
                f"{said} does not say where {metric!r} stands, which phases are made of: "
                f"{''.join(f'{name!r} is no metric; ' for name in strange)}{nearest(metric, headings)}; "
                f"give columns={{{metric!r}: HEADING, ...}} with {', '.join(needed)}"
            )
    errors = {
        f"{metric}{_STDERR}": f"{heading}{_STDERR}"
        for metric, heading in asked.items()
        if f"{heading}{_STDERR}" in headings and f"{metric}{_STDERR}" not in asked and not metric.endswith(_STDERR)
    }
    return {**asked, **errors}


def _number(path: Path, number: int, line: Mapping[str, str], heading: str) -> float:
    """An entry as a number; NaN of an empty one."""
    text = line[heading].strip()
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: {heading} = {text!r} is not a number; leave unknown ones empty"
        ) from error


def _of_lines(lines: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """{metric: (mean, error over the lines, own error)} of the lines of one cell."""
    found: dict[str, tuple[float, float, float]] = {}
    for metric in metrics:
        values = np.array([line[metric] for line in lines])
        own = np.array([line.get(f"{metric}{_STDERR}", math.nan) for line in lines])
        known = ~np.isnan(values)
        found[metric] = mean_over_seeds(values[known], own[known])
    return found
