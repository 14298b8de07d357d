"""Results, runs and trials as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

import landscape as ls
from landscape.grid import Grid
from landscape.results import FloatArray
from landscape_jobs.check import Trial

if TYPE_CHECKING:
    from landscape.compat import ProductComparison
    from landscape_jobs.pair_check import PairsTrial
    from landscape_jobs.spectral_check import CurvatureTrial

_PROVENANCE = (
    "engine_version",
    "git",
    "command",
    "host",
    "platform",
    "python",
    "libraries",
    "gpu",
    "ranks",
    "threads",
    "started",
    "ended",
    "checkpoint_hash",
    "data_hash",
    "origin",
    "dir_file",
)
_LEFT_OUT = 20  # failures shown
_WHAT = ("model", "parameters", "samples", "loss", "metrics", "precision", "batchnorm", "statistics_samples", "device")


def surface_tables(surface: ls.Surface, title: str) -> Iterator[RenderableType]:
    """What was measured, on what, and how exact it is."""
    about = surface.attributes
    done, size = int(surface.computed.sum()), surface.computed.size
    yield _pairs(
        title,
        {
            "grid": " x ".join(str(len(values)) for values in surface.axes.values()) + f", {done} of {size} computed",
            **{name: about[name] for name in _WHAT if about.get(name) not in (None, "", {}, 0)},
            "errors": about.get("error", "unknown: this file came without them"),
            **_precision(about),
        },
    )
    plane: Mapping[str, Any] = about.get("plane") or {}
    yield _axes(surface, plane)
    if plane:
        shown = {k: v for k, v in plane.items() if k not in ("lengths", "cosines")}
        if len(surface.axes) > 1 and "cosines" in plane:
            shown["cosines"] = ", ".join(
                f"{a}{b} {plane['cosines'][i][j]:.3g}"
                for i, a in enumerate(surface.axes)
                for j, b in enumerate(surface.axes)
                if i < j
            )
        yield _pairs("plane", shown)
    yield _quantities(surface)
    if surface.points is not None:
        yield _points(surface.points, tuple(surface.axes), list(surface.values))
    yield from provenance_table(about)


def left_out_table(result: Any) -> Iterator[Table]:
    """Items that failed and were left out, where there are any, with the last line of the reason."""
    failures = result.attributes.get("failures") or ()
    if not failures:
        return
    table = _table("left out, because they failed", "item", "where", "reason")
    for failure in failures[:_LEFT_OUT]:
        item = int(failure["item"])
        where = ""
        if isinstance(result, ls.Surface) and item < result.computed.size:
            place = np.unravel_index(item, result.computed.shape)
            axes = result.axes.items()
            where = ", ".join(
                f"{name} = {values[i]:.6g}" for (name, values), i in zip(axes, reversed(place), strict=True)
            )
        table.add_row(str(item), where, str(failure["reason"]).strip().splitlines()[-1])
    if len(failures) > _LEFT_OUT:
        table.add_row("", "", f"and {len(failures) - _LEFT_OUT} more")
    yield table


def provenance_table(about: Mapping[str, Any]) -> Iterator[Table]:
    """Where a result comes from, as far as it tells."""
    known = {name: about[name] for name in _PROVENANCE if about.get(name) not in (None, "")}
    if known:
        yield _pairs("provenance", known)


def trial_table(trial: Trial) -> Table:
    """The estimate of `landscape check`."""
    return _pairs(
        "estimate",
        {
            "rows": f"{trial.rows}, of which {trial.done} are there already",
            "loss at two trial points": ", ".join(f"{loss:.6g}" for loss in trial.losses),
            "time per row": f"{trial.seconds:.3g} s",
            **times_table(trial),
            "memory per rank": bytes_text(trial.memory),
            **({"GPU memory per rank": bytes_text(trial.device_memory)} if trial.device_memory else {}),
            "size of the result": f"about {bytes_text(trial.result)}",
        },
    )


def curvature_trial_table(trial: CurvatureTrial) -> Table:
    """The estimate of `landscape check` for a job that measures curvature."""
    matrix, check = trial.matrix, trial.matrix.check
    products = [f"{name} about {count}" for name, count in trial.products.items()]
    whole = "all" if matrix.size == trial.parameters else f"of {trial.parameters:,}"
    in_gradients = trial.product_seconds / trial.gradient_seconds
    return _pairs(
        "estimate",
        {
            "matrix": f"{matrix.operator} of size {matrix.size:,} ({whole} parameters, {trial.layers} layers)",
            "data": f"{matrix.sample.objective.samples:,} samples in {trial.chunks} chunks",
            "route of products": check.route,
            "seen on a few samples": f"off from central differences by {check.difference:.1e}, from symmetry by "
            f"{check.symmetry:.1e}, from float64 by {check.rounding:.1e}",
            **{f"not by {route}": reason for route, reason in check.refused.items()},
            "trace": _trace_way(trial),
            "products": ", ".join(products) or "none",
            "time per product": f"{trial.product_seconds:.3g} s, {in_gradients:.2g} gradients of the loss",
            **times_table(trial),
            "memory per rank": f"{bytes_text(trial.memory)}, and {bytes_text(trial.basis)} for vectors",
            **({"GPU memory per rank": bytes_text(trial.device_memory)} if trial.device_memory else {}),
            "size of the result": f"about {bytes_text(trial.result)}",
            "there already": trial.done or "nothing",
        },
    )


def comparison_table(comparison: ProductComparison) -> Table:
    """Our products beside those of pyhessian."""
    verdict = "they agree" if comparison.agrees else "they DIFFER by more than rounding explains"
    return _pairs(
        "products beside pyhessian's",
        {
            "verdict": verdict,
            "gap of each, relative": ", ".join(f"{gap:.1e}" for gap in comparison.gaps),
            "largest gap of an entry": ", ".join(f"{gap:.1e}" for gap in comparison.elementwise),
            "explained by rounding": f"{comparison.allowed:.1e} in {comparison.precision}",
            "our route": comparison.route,
            "data": f"{comparison.samples:,} samples in {comparison.batches} batches",
        },
    )


def _trace_way(trial: CurvatureTrial) -> str:
    if not trial.method:
        return "not asked for"
    gradients = f", {trial.gradients:.3g} backward passes per sample" if trial.gradients else ""
    more = "; more products until its error is small enough" if trial.products.get("trace") else ""
    return trial.method + gradients + (more if trial.method != "xtrace" else "")


def times_table(trial: Trial | CurvatureTrial | PairsTrial) -> dict[str, str]:
    """{on so many ranks: estimated time}."""
    many = (trial.ranks,) if trial.ranks > 1 else (8, 64)
    per_rank = f"{trial.threads} thread{'s' if trial.threads > 1 else ''} each"
    return {
        f"time on {ranks} rank{'s' if ranks > 1 else ''}, {per_rank}": str(
            timedelta(seconds=math.ceil(trial.duration(ranks)))
        )
        for ranks in (1, *many)
    }


def _axes(surface: ls.Surface, plane: Mapping[str, Any]) -> Table:
    table = _table("axes", "axis", "from", "to", "points", "length of its direction")
    lengths = plane.get("lengths", [math.nan] * len(surface.axes))
    for (name, values), length in zip(surface.axes.items(), lengths, strict=True):
        table.add_row(name, f"{values[0]:.6g}", f"{values[-1]:.6g}", str(len(values)), f"{length:.6g}")
    return table


def _quantities(surface: ls.Surface) -> Table:
    grid = Grid(surface.axes)
    table = _table("values +- standard error", "quantity", "minimum", "maximum", "nearest to the centre", "NaN or Inf")
    centre = grid.nearest([0.0] * len(grid.axes))
    computed = surface.computed.ravel()
    for name, array in surface.values.items():
        values, stderr = array.ravel(), surface.stderr[name].ravel()
        finite = np.flatnonzero(computed & np.isfinite(values))
        places = [int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])] if len(finite) else []
        texts = [_at(values, stderr, place, grid) for place in places] or ["-", "-"]
        middle = _at(values, stderr, centre, grid) if computed[centre] else "not computed"
        table.add_row(name, *texts, middle, str(int((computed & ~np.isfinite(values)).sum())))
    return table


def _at(values: FloatArray, stderr: FloatArray, place: int, grid: Grid) -> str:
    where = ", ".join(f"{c:.4g}" for c in grid.coordinates(place))
    error = f" +- {stderr[place]:.2g}" if np.isfinite(stderr[place]) else ""
    return f"{values[place]:.6g}{error} at ({where})"


def _points(points: ls.Points, axes: tuple[str, ...], quantities: Sequence[str]) -> Table:
    explained = points.explained_variance
    share = "" if explained is None else f"; variance explained {', '.join(f'{v:.1%}' for v in explained)}"
    headings = [heading for q in quantities for heading in (f"{q} itself", f"{q} projected")]
    table = _table(f"{points.kind} on the plane{share}", "point", *axes, "distance", *headings)
    for i, label in enumerate(points.labels):
        pairs = [(points.true[q][i], points.projected[q][i]) for q in quantities]
        numbers = [*points.coordinates[i], points.distance[i], *(value for pair in pairs for value in pair)]
        table.add_row(label, *(f"{number:.5g}" for number in numbers))
    return table


def _precision(about: Mapping[str, Any]) -> dict[str, str]:
    if "precision_error_relative" not in about:
        return {}
    error, points = about["precision_error_relative"], about["precision_error_points"]
    return {"precision error": f"at most {float(error):.2g} relative at {points} points also computed in float32"}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _pairs(title: str, content: Mapping[str, Any]) -> Table:
    table = _table(title, "", "")
    table.show_header = False
    for name, value in content.items():
        if isinstance(value, dict):
            value = ", ".join(k if k == v else f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(str(v) for v in value)
        table.add_row(name, str(value))
    return table


def bytes_text(count: int) -> str:
    """A size in MB or GB."""
    return f"{count / 2**20:.3g} MB" if count < 2**30 else f"{count / 2**30:.3g} GB"
