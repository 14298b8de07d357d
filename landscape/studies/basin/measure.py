"""The radii of a basin along random directions: the Task, and its result."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray, IntArray
from landscape_kernels.crossing import Values, first_crossings
from landscape_kernels.layout import Block
from landscape_kernels.probes import normal_vector
from landscape_kernels.volumes import log_ball_contributions, log_gaussian_contributions, log_mean_exp
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.parameters import blocks_matching
from landscape.objective.stacked import Stacked
from landscape.planes.directions import random_directions
from landscape.results.attributes import result_attributes
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.basin.precondition import Preconditioner, preconditioner
from landscape.studies.basin.result import Basin
from landscape.studies.basin.settings import BasinSettings

logger = logging.getLogger(__name__)
_MANY = 256  # directions from which on tracing the model is little
_COARSE = 1e-2  # relative accuracy of the radius where the search begins
_PROFILED = 32  # directions whose values are looked at between the centre and twice the radius
_PLACES = np.linspace(0, 2, 17)[1:]
_STEPS = np.exp2(np.arange(-20.0, 12.0))  # along the descent direction, of where it would reach the cutoff
_LOWER = 0.05  # share of the rise to the cutoff, or of the loss, that a descent has to gain to be told
_ERROR = "over directions, for the data given; volumes are seen from the centre, up to the first crossing"


class BasinTask:
    """Items are blocks of directions, whose losses are computed side by side where the model is small."""

    headline = "median"

    def __init__(
        self,
        objective: Objective,
        settings: BasinSettings,
        blocks: Sequence[Block],
        still: Sequence[Block],
    ) -> None:
        """`blocks` vary, those of `still` do not. Raises InputError where the centre is not below the cutoff."""
        self._asked, self._still = settings, list(still)
        self._precondition: Preconditioner | None = None
        self._given = objective
        self._values = Stacked(objective, settings.of, settings.directions >= _MANY)
        self._objective = self._values.objective
        self._theta = self._objective.theta
        self._exact = self._theta.double().cpu()
        self._varied = torch.zeros(len(self._exact), dtype=torch.bool)
        for block in blocks:
            self._varied[block.slice] = True
        self.dimension = int(self._varied.sum())
        self.centre = float(self._values.values(self._theta[None])[0])
        if not math.isfinite(self.centre):
            raise InputError(
                f"the {settings.of} at the centre is {self.centre:g}, so it has no basin; give the parameters of a "
                "trained model"
            )
        if not self.centre < settings.cutoff:
            raise InputError(
                f"the {settings.of} at the centre is {self.centre:.6g}, not below cutoff={settings.cutoff:g}: the "
                "centre lies outside of the basin. Give a cutoff above it, or a model that is trained further"
            )
        self._width = self._values.width
        self.count = -(-settings.directions // self._width)
        self._start = 0.1 if settings.kind == "filter" else max(0.1 * float(self._exact[self._varied].norm()), 1e-3)
        self._first: tuple[float, float] | None = None  # see `_usual`
        if not float(self._directions([0]).norm()) > 0:
            raise InputError(
                "directions are zero: kind='filter' scales them by parameters that are all zero. Use kind='gaussian', "
                "or a trained model"
            )
        self.gain, self.minimum = self._descent()

    def _descent(self) -> tuple[float, bool]:
        """By how much the loss falls along its steepest descent, and whether that is little."""
        objective = self._objective
        loss = self._values if self._asked.of == "loss" else Stacked(objective)
        at = float(loss.values(self._theta[None])[0])
        slope = torch.zeros_like(self._theta, dtype=torch.float64)
        with objective.differentiable() as (model, parameters):
            weight = 0.0
            for _, batch in objective.batches():
                units = objective.units(model, batch)[0]
                parts = torch.autograd.grad(units.numerators.sum(), parameters, allow_unused=True)
                flat = [
                    (torch.zeros_like(p) if s is None else torch.view_as_real(s) if s.is_complex() else s).reshape(-1)
                    for s, p in zip(parts, parameters, strict=True)
                ]
                slope += torch.cat(flat).double()
                weight += units.total
        slope = slope / weight * self._varied.to(slope.device)
        square = float(slope.square().sum())
        if not square > 0:
            return 0.0, True
        rise = self._asked.cutoff - self.centre if self._asked.of == "loss" else max(abs(at), 1e-12)
        lowest = at
        for step in np.array_split(_STEPS * rise / square, max(1, len(_STEPS) // self._width)):
            thetas = (self._theta.double() - torch.from_numpy(step).to(slope)[:, None] * slope).to(self._theta)
            lowest = min(lowest, float(np.nanmin(loss.values(thetas), initial=at)))
        gain = at - lowest
        if self._asked.of == "kl":  # at the centre it is 0, the least there is, wherever the loss goes
            return gain, True
        if gain > _LOWER * rise and world().rank == 0:
            logger.warning(
                "the centre is no minimum: along its descent direction the loss falls by %.3g, from %.6g; radii are of "
                "the region below the cutoff that is seen from there. Train on for those of a minimum",
                gain,
                at,
            )
        return gain, gain <= _LOWER * rise

    def preconditioned(self, by: Preconditioner) -> BasinTask:
        """The same along directions that are mapped by `by`."""
        other = copy.copy(self)
        other._precondition = by
        return other

    def describe(self) -> Description:
        """See `Task`."""
        asked = self._asked
        b = self._width
        columns: dict[str, tuple[int, ...]] = dict.fromkeys(("radius", "length", "along"), (b,))
        columns |= {"profile": (b, len(_PLACES)), "evaluations": (), "median": ()}
        identity = {
            "objective": self._given.identity(),
            **{name: getattr(asked, name) for name in ("of", "cutoff", "directions", "kind", "rtol", "seed")},
            "still": [block.name for block in self._still],
            "precondition": "" if self._precondition is None else self._precondition.identity(),
            "width": b,
        }
        about = {
            "device": str(self._objective.device),
            "dimension": self.dimension,
            "centre": self.centre,
            "norm": float(self._exact[self._varied].norm()),
            "prior_sigma": asked.prior_sigma,
            "precondition": asked.precondition,
            "descent_gain": self.gain,
            "minimum": self.minimum,
        }
        return Description("basin", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        b, asked = self._width, self._asked
        numbers = range(index * b, min((index + 1) * b, asked.directions))
        drawn = self._directions(numbers)
        lengths = drawn.norm(dim=1).numpy()
        along = (drawn @ self._exact).numpy() / lengths
        values = self._along(drawn, group)
        if self._first is None:
            self._first = self._usual(group)
        found = first_crossings(values, len(drawn), self.centre, asked.cutoff, *self._first, asked.rtol)
        profile = np.full((b, len(_PLACES)), np.nan)
        there = np.flatnonzero(np.isfinite(found.radii) & (np.array(numbers) < _PROFILED))
        for k, place in enumerate(_PLACES):
            if len(there):
                profile[there, k] = values(there, place * found.radii[there])

        def padded(part: FloatArray) -> FloatArray:
            return np.concatenate([part, np.full(b - len(part), np.nan)])

        return {
            "radius": padded(found.radii),
            "length": padded(lengths),
            "along": padded(along),
            "profile": profile,
            "evaluations": found.evaluations,
            "median": float(np.median(found.radii)),
        }

    def _usual(self, group: Communicator) -> tuple[float, float]:
        """The radius of direction 0, where all others are looked for, and the power that its rise goes as."""
        values = self._along(self._directions([0]), group)
        found = first_crossings(values, 1, self.centre, self._asked.cutoff, self._start, rtol=_COARSE)
        radius = float(found.radii[0])
        return (radius if 0 < radius < math.inf else self._start), found.power

    def _along(self, directions: Tensor, group: Communicator) -> Values:
        """What is asked for at radii along directions (n, size)."""
        directions = directions.to(self._theta)

        def values(which: IntArray, radii: FloatArray) -> FloatArray:
            steps = torch.from_numpy(radii).to(self._theta)[:, None]
            return self._values.values(self._theta + steps * directions[torch.from_numpy(which)], group)

        return values

    def _directions(self, numbers: Sequence[int]) -> Tensor:
        """Directions of these numbers (n, size) in float64, each from (seed, number) alone."""
        layout, seed = self._objective.layout, self._asked.seed
        if self._asked.kind == "filter":
            return random_directions(self._exact, layout, "filter", self._still, seed, numbers)
        drawn = torch.stack([normal_vector(layout.size, seed, "direction", number) for number in numbers])
        drawn *= self._varied
        drawn /= drawn.norm(dim=1, keepdim=True)
        by = self._precondition
        return drawn if by is None else torch.stack([by.apply(direction) for direction in drawn])

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


@of_objective
@checked(BasinSettings)
def measure_basin(
    objective: Objective,
    cutoff: float = 0.1,
    of: str = "loss",
    directions: int = 1000,
    kind: str = "filter",
    precondition: str | None = None,
    prior_sigma: float | None = None,
    out: str | Path | None = None,
    *,
    ignore: str | Sequence[str] | None = None,
    rtol: float = 1e-6,
    seed: Seed = 0,
    second_moments: Any = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> Basin:
    """The radius at which `of` comes to `cutoff` along random directions from the centre, and the basin's log volume.

    `of` is the "loss", the "error" (a metric of the objective), or "kl", the divergence of the predictions from those
    at the centre. The radius along d is the first r at which the value at theta + r d is not below the cutoff: found by
    steps of a factor of two at most from where direction 0 crosses, which begins at a tenth of the centre's length,
    then a bracketing method to a relative `rtol`. What rises and falls again within one step, or below the
    radius that the steps begin at, is not seen there; `crossed_before` counts where the profiles see it. A direction
    along which it never comes to the cutoff has radius Inf.

    `kind` is "filter", Gaussian directions whose filters have the length of theta's (Li et al. 2018; direction i is
    axis i of `random_plane`), or "gaussian", uniform on the unit sphere; `ignore` names what does not move, by default
    ("bias", "norm") with "filter" and nothing with "gaussian". BatchNorm statistics are those of the model.

    The log volume is ln(omega_D mean r^D) over D parameters (Huang et al. 2019), with `prior_sigma` ln of the
    probability that N(0, sigma^2 I) gives the basin (Scherlis and Belrose 2025). It hangs on the largest radii:
    `log_volume` has the largest share, effective samples, an interval, and whether it is to be believed.
    `precondition` "diagonal", "krylov" (32 eigenpairs and the diagonal) or "adam" (second moments of gradients,
    {name: tensor} as `second_moments`, or those of batches at the centre) stretches directions to make radii alike; the
    volume stays what it is, and `log_volume.spread` shrinks. `attributes["whole_prior"]` is what the same directions
    say of all of space, whose log probability is 0: how far they are from seeing where the prior is.

    Directions are computed side by side where the model is small. Radii are equal bits for any number of ranks.
    Raises InputError, before computing, for a cutoff that is not above the value at the centre and for anything else
    that cannot be measured as asked; see `run_task` for the rest. A centre that is no minimum is told in a warning and
    in the result, with what the descent direction gains.
    """
    settings = BasinSettings(cutoff, of, directions, kind, precondition, prior_sigma, name_tuple(ignore), rtol, seed)
    task = basin_task(objective, settings, second_moments)
    run = Measurement(
        out, ranks_per_item=ranks_per_item, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job
    )
    run.run(task)
    return run.result(of_rows(basin_from_rows))


def basin_task(objective: Objective, settings: BasinSettings, second_moments: Any = None) -> BasinTask:
    """The task of `measure_basin`; all ranks call this. Raises InputError for what cannot be measured as asked."""
    if second_moments is not None and settings.precondition != "adam":
        raise InputError("second_moments is used with precondition='adam' alone; say so, or leave it out")
    still = blocks_matching(objective.layout, settings.still)
    blocks = [block for block in objective.layout.blocks if block not in still]
    if not blocks:
        raise InputError(f"ignore={settings.still} covers all parameters; no direction is left")
    task = agree(world(), lambda: BasinTask(objective, settings, blocks, still))
    if settings.precondition is None:
        return task
    return task.preconditioned(preconditioner(objective, settings.precondition, blocks, second_moments))


def basin_from_rows(description: Description, rows: Rows, history: History) -> Basin:
    """The result in the rows of a basin task, masked where rows are missing."""
    identity, about, count = description.identity, description.about, int(description.identity["directions"])
    width, dimension = int(identity["width"]), int(about["dimension"])
    radii, lengths, along = (rows.columns[name].reshape(-1)[:count] for name in ("radius", "length", "along"))
    computed = np.repeat(rows.done, width)[:count]
    sigma, whole = about["prior_sigma"], math.nan
    contributions = np.full(count, np.nan)
    if sigma is None:
        contributions[computed] = log_ball_contributions(radii[computed], dimension)
    elif computed.any():
        asked = lengths[computed], along[computed], dimension, float(about["norm"]), float(sigma)
        contributions[computed] = log_gaussian_contributions(radii[computed], *asked)
        whole = log_mean_exp(log_gaussian_contributions(np.full(int(computed.sum()), np.inf), *asked))
    profiles = rows.columns["profile"].reshape(-1, len(_PLACES))[: min(_PROFILED, count)]
    attributes = result_attributes(description, history) | {
        **{name: identity[name] for name in ("kind", "rtol", "seed")},
        "precondition": about["precondition"] or "",
        "still": list(identity["still"]),
        **({} if sigma is None else {"prior_sigma": float(sigma), "norm": float(about["norm"]), "whole_prior": whole}),
        "descent_gain": float(about["descent_gain"]),
        "minimum": int(about["minimum"]),
        "evaluations": int(np.nansum(rows.columns["evaluations"])),
        "error": _ERROR,
    }
    return Basin(
        radii=radii,
        lengths=lengths,
        contributions=contributions,
        places=_PLACES.copy(),
        profiles=profiles,
        computed=computed,
        dimension=dimension,
        centre=float(about["centre"]),
        cutoff=float(identity["cutoff"]),
        of=str(identity["of"]),
        attributes=attributes,
    )
