"""Loss and metrics along many random directions: the Task, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.perturb import perturb_, wide
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.errors import InputError
from landscape.objective.batchnorm import WITHOUT_ENDS, chosen_statistics
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.parameters import blocks_matching
from landscape.objective.rows import RECHECK_RTOL, evaluated
from landscape.planes.directions import random_direction, random_plane
from landscape.planes.grid import Grid, axis_values
from landscape.precise.task import SHARE, PreciseTask, require_objective
from landscape.precise.told import of_rows_to_an_error
from landscape.results.attributes import EXACT, result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.profiles.result import Profiles
from landscape.studies.profiles.settings import ProfilesSettings
from landscape.studies.surface.task import anchor_points, precision_error


class ProfilesTask:
    """Item k nx + i: direction k at x[i]; then, for bf16, anchor points in float32 that measure its error."""

    headline = "loss"
    highest = False

    def __init__(self, objective: Objective, settings: ProfilesSettings, statistics: Any = None) -> None:
        n, normalize, ignore, seed = settings.n, settings.normalize, settings.ignore, settings.seed
        if n < 1:
            raise InputError(f"n={n}; give 1 or more directions, 10 are usual")
        x = axis_values("x", settings.x)
        first = random_plane(objective, normalize=normalize, ignore=ignore, seed=seed, axes=1).flat()
        self._objective, self._first, self._seed, self._normalize = objective, first, seed, normalize
        self._ignored = blocks_matching(objective.layout, first.about["ignore"])
        self.grid, self.lines = Grid({"x": x}), n
        self._size = n * x.size
        self._statistics = chosen_statistics(
            objective, settings.batchnorm, statistics, between=False, modes=WITHOUT_ENDS
        )
        self._theta = torch.empty_like(first.centre)
        # The direction in hand, by its number. Points of one direction come one after the other.
        self._held: tuple[int, Tensor] = (0, first.directions[0])
        self.anchors = anchor_points(self._size) if objective.precision == "bf16" else []
        self.count = self._size + len(self.anchors)

    def describe(self) -> Description:
        """See `Task`."""
        objective, first = self._objective, self._first
        names = [name for quantity in objective.quantities for name in (quantity, f"{quantity}_stderr")]
        identity = {
            "objective": objective.identity(),
            "directions": {**first.identity(), "made": first.made},
            "n": self.lines,
            "x": self.grid.axes["x"].tolist(),
            "batchnorm": self._statistics.mode,
            "statistics": self._statistics.digest,
        }
        about = {
            "device": str(objective.device),
            "statistics_samples": self._statistics.samples,
            "anchors": self.anchors,
            "along_axis_0": list(first.about.get("along_axis_0", ())),
        }
        return Description("profiles", dict.fromkeys(names, ()), identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        with self.at(index) as (theta, buffers, full_precision):
            return evaluated(self._objective, theta, buffers, group, full_precision=full_precision)

    @contextmanager
    def at(self, index: int) -> Iterator[tuple[Tensor, Mapping[str, Tensor] | None, bool]]:
        """(theta, buffers, whether autocast is left off) of an item."""
        anchor = index - self._size
        number, place = divmod(index if anchor < 0 else self.anchors[anchor], self.grid.size)
        (x,) = self.grid.coordinates(place)
        theta = perturb_(self._theta, self._first.centre, [self._direction(number)], [x])
        yield theta, self._statistics.at(self._objective, theta), anchor >= 0

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _direction(self, number: int) -> Tensor:
        """Direction `number` of `random_plane`."""
        if self._held[0] != number:
            objective = self._objective
            theta = objective.theta.double().cpu()
            drawn = random_direction(theta, objective.layout, self._normalize, self._ignored, self._seed, number)
            self._held = (number, objective.vector(drawn, wide(objective.dtype)))
        return self._held[1]


def profiles_task(
    objective: Objective, settings: ProfilesSettings, statistics: Any = None
) -> ProfilesTask | PreciseTask:
    """The task of `measure_profiles`."""
    require_objective(objective, settings.error, settings.scale, settings.share)
    task = ProfilesTask(objective, settings, statistics)
    if settings.error is None:
        return task
    return PreciseTask(objective, task, settings.error, settings.scale, settings.share)


@of_objective
@checked(ProfilesSettings)
def measure_profiles(
    objective: Objective,
    n: int = 10,
    x: Any = (-1, 1, 51),
    normalize: str = "filter",
    ignore: str | Sequence[str] = ("bias", "norm"),
    seed: Seed = 0,
    out: str | Path | None = None,
    *,
    batchnorm: str | None = None,
    statistics: Any = None,
    error: float | None = None,
    scale: str = "relative",
    share: float = SHARE,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Profiles:
    """Loss and metrics at theta + x d_k along `n` random directions d_k, on all MPI ranks of this run.

    One pair of directions is one draw; how much profiles differ over directions tells what a picture of one is worth.
    Direction k is that of axis k of `random_plane(objective, normalize=, ignore=, seed=)`, drawn from (seed, k) alone,
    and `x` is (start, stop, n) with both ends included, or an array of coordinates. The other arguments are those of
    `measure_surface`.

    With an `error` the work is what that takes: full passes at five places of each line, of which the centre is common
    to all, and samples of a common sub-sample elsewhere, regressed on what is better known on the line, until the
    standard error of the loss, as an estimate of what a full pass gives, is at most `error` at a `share` of the points.
    Nothing is interpolated. `scale` says in which unit; see `measure_surface`. `Profiles.error` and `Profiles.found`
    then tell how well each point is known and how it was found, and `attributes["work"]` what was spent.

    Raises InputError for anything that cannot be measured as asked, before computing; see `run_task` for the rest.
    """
    settings = ProfilesSettings(n, x, normalize, name_tuple(ignore) or (), seed, batchnorm, error, scale, share)
    task = agree(world(), lambda: profiles_task(objective, settings, statistics))
    run = Measurement(
        out,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    run.run(task, recheck=RECHECK_RTOL[objective.precision])
    return run.result(of_rows(profiles_from_rows))


def profiles_from_rows(description: Description, rows: Rows, history: History) -> Profiles:
    """The result in the rows of a profiles task, masked where rows are missing."""
    return of_rows_to_an_error(_of_points, description, rows, history)


def _of_points(description: Description, rows: Rows, history: History) -> Profiles:
    identity = description.identity
    x = np.array(identity["x"])
    shape = (int(identity["n"]), x.size)
    size = shape[0] * shape[1]
    quantities = [name for name in rows.columns if not name.endswith("_stderr")]
    made = identity["directions"]["made"]
    attributes = result_attributes(description, history) | {
        **{name: made[name] for name in ("normalize", "ignore", "seed")},
        "batchnorm": identity["batchnorm"],
        "statistics_samples": description.about["statistics_samples"],
        **({"along_axis_0": unclear} if (unclear := description.about.get("along_axis_0")) else {}),
        "error": EXACT,
        **precision_error(description, rows, size),
    }
    return Profiles(
        x,
        {name: rows.columns[name][:size].reshape(shape) for name in quantities},
        {name: rows.columns[f"{name}_stderr"][:size].reshape(shape) for name in quantities},
        rows.done[:size].reshape(shape),
        attributes,
    )
