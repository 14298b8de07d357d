"""Pictures of basins, of several against their accuracy, of where minima lie, and of decision boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.objective.objective import Objective
from landscape.pictures.style import BLUE, GREY, LINE_COLOURS, RED, VALUES, StyledFigure, finish, line_look, styled
from landscape.planes.plane import Plane
from landscape.results.estimate import Estimate
from landscape.results.kind import Asked, Pictures
from landscape.studies.basin.result import Basin
from landscape.studies.basin.tables import volume_words

WHAT = ("radii", "profiles", "contributions")
_BINS = 40
_SIDE = 200  # of the grid of a decision boundary


@styled
@checked()
def plot_basin(basin: Basin, what: str = "radii") -> Figure:
    """The histogram of the "radii" or of the "contributions" to the log volume, or the "profiles" of directions.

    Profiles are over multiples of each direction's own radius, with their median and the band from 5 to 95 % of them.
    Raises InputError for anything else, and where nothing is computed yet.
    """
    if what not in WHAT:
        raise InputError(f"a basin has no picture {what!r}; {nearest(what, WHAT)}")
    if not basin.computed.any():
        raise InputError("no direction is computed yet, so there is nothing to draw")
    figure = StyledFigure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.add_subplot()
    done = int(basin.computed.sum())
    notes = [f"{done} of {len(basin.radii)} directions in {basin.dimension:,} dimensions"]
    if basin.never:
        notes.append(f"{basin.never} never come to the cutoff")
    if what == "profiles":
        _profiles(ax, basin)
        return finish(figure, [ax], [*notes, f"profiles of {len(basin.profiles)} directions"])
    values = (basin.radii if what == "radii" else basin.contributions)[basin.computed]
    values = values[np.isfinite(values)]
    if len(values):
        ax.hist(values, bins=min(_BINS, max(4, len(values) // 5)), color=BLUE, alpha=0.8)
    if what == "radii":
        if len(values):
            ax.axvline(float(np.median(values)), color="black", linewidth=1.0, label="median")
        ax.set_xlabel(f"radius to {basin.of} = {basin.cutoff:g} (multiples of the direction)")
    else:
        found = basin.log_volume
        if np.isfinite(float(found)):
            label = "log-mean-exp" if found.believable else "log-mean-exp, not to be believed"
            ax.axvline(float(found), color=RED, label=label)
            ax.axvline(found.mean, color="black", linestyle="--", label="mean, a lower bound")
        ax.set_xlabel("contribution of a direction to the log volume (nats)")
        notes.append(f"{volume_words(basin)}; {found.effective_samples:.3g} effective samples")
    ax.set_ylabel("directions")
    ax.grid(axis="y")
    return finish(figure, [ax], notes)


def _profiles(ax: Axes, basin: Basin) -> None:
    shown = basin.profiles[np.isfinite(basin.profiles).any(1)]
    x = np.concatenate([[0.0], basin.places])
    lines = np.column_stack([np.full(len(shown), basin.centre), shown])
    for k, line in enumerate(lines):
        ax.plot(x, line, color=GREY, linewidth=0.5, alpha=0.4, label="a direction" if k == 0 else "_")
    if len(lines):
        low, middle, high = np.nanquantile(lines, [0.05, 0.5, 0.95], axis=0)
        ax.fill_between(x, low, high, color=BLUE, alpha=0.25, linewidth=0, label="5 to 95 % of directions")
        ax.plot(x, middle, color=BLUE, label="median")
    ax.axhline(basin.cutoff, color=RED, linestyle=":", label="cutoff")
    ax.set_xlabel("place (multiples of the direction's radius)")
    ax.set_ylabel(basin.of)
    ax.grid(axis="y")


@styled
@checked()
def plot_volumes(
    basins: Sequence[Basin],
    values: Sequence[float],
    *,
    axis: str = "test accuracy",
    labels: Sequence[str] = (),
    which: str = "log_mean_exp",
) -> Figure:
    """Log volumes of several basins against a value of each, an accuracy say, with their intervals.

    `which` is "log_mean_exp", with the 95 % interval (open above where it is not to be believed), or "mean", the lower
    bound, with two standard errors. Values that are Estimates have two standard errors, too. Raises InputError for
    lists of different lengths and basins that were not measured alike.
    """
    if which not in ("log_mean_exp", "mean"):
        raise InputError(f"which={which!r} is not one of log_mean_exp, mean")
    if len(basins) != len(values) or (labels and len(labels) != len(basins)) or not basins:
        raise InputError(f"{len(basins)} basins with {len(values)} values and {len(labels)} labels; give one for each")
    kinds = {(basin.of, basin.dimension, basin.attributes.get("kind")) for basin in basins}
    if len(kinds) > 1:
        raise InputError(f"the basins differ in quantity, dimension or kind of directions: {sorted(map(str, kinds))}")
    figure = StyledFigure(figsize=(6.4, 4.6), layout="constrained")
    ax = figure.add_subplot()
    names = list(labels) or [f"model {k}" for k in range(len(basins))]
    kinds_of = list(dict.fromkeys(names))  # those of one label look alike
    for basin, value, label in zip(basins, values, names, strict=True):
        found = basin.log_volume
        at = found.mean if which == "mean" else float(found)
        error = 2 * found.mean_stderr
        low, high = (at - error, at + error) if which == "mean" else found.interval
        open_ = not np.isfinite(high)
        look = line_look(kinds_of.index(label))
        x_error = 2 * value.stderr if isinstance(value, Estimate) else None
        bars = [[at - low], [0.0 if open_ else high - at]]
        ax.errorbar([float(value)], [at], bars, x_error, label=label, linestyle="none", capsize=3, lolims=open_, **look)
    ax.set_xlabel(axis)
    ax.set_ylabel("log volume (nats)" if which == "log_mean_exp" else "lower bound of the log volume (nats)")
    ax.grid()
    believed = all(basin.log_volume.believable for basin in basins)
    note = "bars: 95 % intervals over directions" if which == "log_mean_exp" else "bars: ±2 standard errors"
    notes = [volume_words(basins[0]), note]
    if not believed and which == "log_mean_exp":
        notes.append("arrows: not to be believed, the volume is likely to be larger")
    return finish(figure, [ax], notes)


@styled
@checked()
def plot_minima(
    plane: Plane, values: Sequence[float], *, axis: str = "test accuracy", labels: Sequence[str] = ()
) -> Figure:
    """Where models lie in a plane, in the colour of a value of each, with a marker for each label.

    `plane` is one of two axes with points, as `ls.pca_plane(objective, models)` makes it; axes are distances in
    parameter space. A value that is NaN leaves its marker empty. Raises InputError for another plane, values that are
    no numbers, or lists of other lengths.
    """
    if not isinstance(plane, Plane):
        raise InputError(f"plane is a {type(plane).__name__}; give one that pca_plane(objective, models) makes")
    points = plane.points
    if plane.axes != 2 or points is None:
        there = "no" if points is None else "its"
        raise InputError(
            f"{plane!r} has {plane.axes} axes and {there} points; give two axes with the models on them, as "
            "pca_plane(objective, models) makes them"
        )
    try:
        known = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(f"values={values!r} are no numbers, one for each model: {error}") from error
    count = len(points.labels)
    if len(known) != count or (len(labels) and len(labels) != count):
        raise InputError(f"{count} models with {len(known)} values and {len(labels)} labels; give one for each")
    finite = known[np.isfinite(known)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    names = list(labels) or ["model"] * count
    figure = StyledFigure(figsize=(6.4, 5.2), layout="constrained")
    ax = figure.add_subplot()
    x, y = points.coordinates.T
    for number, name in enumerate(dict.fromkeys(names)):
        rows = np.array([k for k, one in enumerate(names) if one == name])
        marker, solid = line_look(number)["marker"], rows[np.isfinite(known[rows])]
        ax.scatter(x[rows], y[rows], s=60, marker=marker, facecolor="none", edgecolor="0.2", label=name)
        ax.scatter(x[solid], y[solid], s=60, c=known[solid], marker=marker, cmap=VALUES, vmin=low, vmax=high)
    if len(finite):
        figure.colorbar(ScalarMappable(Normalize(low, high), VALUES), ax=ax, label=axis)
    ax.set_aspect("equal", adjustable="datalim")
    ax.grid()
    shares = points.explained_variance
    told = ["", ""] if shares is None else [f", {100 * share:.0f} % of the variance" for share in shares]
    ax.set_xlabel(f"axis 1 (distance{told[0]})")
    ax.set_ylabel(f"axis 2 (distance{told[1]})")
    notes = [f"{count} models; they lie up to {float(np.max(points.distance)):.3g} from the plane"]
    if len(finite) < count:
        notes.append("empty markers: value not known")
    return finish(figure, [ax] if labels else [], notes)


@styled
@checked()
def plot_boundary(objective: Objective, theta: Tensor | None = None, *, margin: float = 0.1, title: str = "") -> Figure:
    """Which class a network says in the plane, with its data, whose inputs are two numbers.

    `theta` (size,) is the centre by default; `margin` is the share of the data's extent around them. Raises InputError
    for inputs that are not (samples, 2) and outputs that are no scores of classes.
    """
    inputs, labels = _points(objective)
    low, high = inputs.min(0), inputs.max(0)
    pad = margin * np.maximum(high - low, 1e-12)
    x, y = (np.linspace(a - p, b + p, _SIDE) for a, b, p in zip(low, high, pad, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)).to(objective.theta)
    with torch.no_grad(), objective.at(objective.theta if theta is None else theta) as model:
        outputs, _ = objective.outputs(model, (grid, torch.zeros(len(grid), dtype=torch.long)))
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(grid):
        raise InputError("a decision boundary needs scores of classes, (samples, classes)")
    classes = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
    said = classes.reshape(_SIDE, _SIDE).cpu().numpy()
    figure = StyledFigure(figsize=(5.2, 5.4), layout="constrained")
    ax = figure.add_subplot()
    kinds = max(int(said.max()), int(labels.max())) + 1
    colours = [LINE_COLOURS[k % len(LINE_COLOURS)] for k in range(kinds)]
    ax.contourf(x, y, said, levels=np.arange(kinds + 1) - 0.5, colors=colours, alpha=0.25)
    for k in range(kinds):
        there = labels == k
        ax.plot(*inputs[there].T, ".", color=colours[k], markersize=4, label=f"class {k}")
    ax.set_aspect("equal")
    ax.set_title(title)
    return finish(figure, [ax], ["areas: the class that the network says"])


def _points(objective: Objective) -> tuple[FloatArray, FloatArray]:
    found = [batch for _, batch in objective.batches()]
    if not all(isinstance(b, (tuple, list)) and len(b) == 2 and b[0].ndim == 2 and b[0].shape[1] == 2 for b in found):
        raise InputError("a decision boundary needs data (inputs, labels) with inputs (samples, 2)")
    parts = [np.concatenate([b[k].cpu().numpy() for b in found]) for k in (0, 1)]
    return parts[0].astype(np.float64), parts[1]


def _asked(basin: Basin, asked: Asked) -> Iterator[tuple[str, Figure]]:
    asked.without("-q", "--levels")
    for name in (asked.kind,) if asked.kind is not None else WHAT:
        yield name, plot_basin(basin, name)


PICTURES = Pictures(plot_basin, _asked, lambda basin: basin.plot())
