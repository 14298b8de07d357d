"""Which points of a surface are measured on which samples, round by round, until the error asked for is reached.

Pure functions of what was measured so far: numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray
from landscape_kernels.control_variates import regressed_means, samples_needed
from landscape_kernels.gaps import around, between
from landscape_kernels.probes import derive_seed

FULL = 0  # the level of a full pass; level k is the k-th block of the common sub-sample
ANCHOR, SAMPLED, INTERPOLATED, _UNKNOWN = 0, 1, 2, -1  # how a value was found: numbers in FOUND of the result
_CONTROLS = 9  # full passes nearest to a point, on which its samples are regressed
_REACH = 2  # steps around a point within which known points tell how well those between them are interpolated
_TRIED = 25  # one in so many points left to interpolation is measured to tell how well that works
_FEWEST_TRIED = 16
_SHARPER = 0.8  # of the error allowed, that measured points are brought to: those beside them are no better known
_BETWEEN = 0.6  # of the error allowed, that interpolation alone may take: 0.6^2 + 0.8^2 = 1
_TORN = 3  # times the error allowed, by which neighbours may miss one another where a point is left to interpolation
_GROWTH = 16  # times its samples that a point gets more at most in a round: its error is not known better
_FEW = 16  # one in so many points are upgraded at once, and do not wait for one another
_UNSEEN = 1 / 2  # of what full passes miss beyond their stated variance, that points between them have at least
_CANDIDATES = 1024  # points with the largest cost among which new anchors are looked for

Item = tuple[int, int]  # (number of the grid point, level)


@dataclass(frozen=True)
class Asked:
    """What is to be reached on which grid and data."""

    axes: tuple[FloatArray, ...]  # in the order of the dimensions: the last axis first
    first: tuple[int, ...]  # points that get a full pass before anything is known
    samples: int  # of the data
    block: int  # samples of a block
    blocks: int  # largest number of blocks; 0 where every point gets a full pass
    error: float
    scale: str  # "relative", "absolute", "range" or "log"
    share: float  # of the points whose error is to be within that asked
    statistics: int = 0  # samples on which BatchNorm is estimated anew for every item

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each dimension."""
        return tuple(map(len, self.axes))

    @property
    def size(self) -> int:
        """Number of grid points."""
        return math.prod(self.shape)

    def cost(self, level: int) -> int:
        """Samples that an item takes."""
        return self.statistics + (self.samples if level == FULL else self.block)


@dataclass(frozen=True)
class Held:
    """What was measured of one quantity so far."""

    full: BoolArray  # (size,), whether the point had a full pass
    values: FloatArray  # (size,), of full passes
    stderr: FloatArray  # (size,), theirs for the population
    units: Mapping[int, FloatArray]  # point -> (samples,), the blocks that it has one after another, mean = the value


@dataclass(frozen=True)
class Estimated:
    """A quantity at every grid point, (size,) each; NaN and -1 where nothing tells."""

    values: FloatArray
    error: FloatArray  # one standard error of the value of a full pass
    interpolation: FloatArray  # the part of it that is not of the samples
    missed: FloatArray  # by how much known points around a point miss what lies between their neighbours
    stderr: FloatArray  # for the population
    found: IntArray  # ANCHOR, SAMPLED, INTERPOLATED


def lattice(shape: Sequence[int]) -> list[int]:
    """The points of the coarse grid: 5 of each axis of one or two, 3 of more, both ends among them."""
    count = 5 if len(shape) < 3 else 3
    lines = [np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)) for n in shape]
    return sorted(np.ravel_multi_index(np.meshgrid(*lines, indexing="ij"), shape).ravel().tolist())


def estimate(asked: Asked, held: Held, *, positive: bool) -> Estimated:
    """The quantity at every point: as measured, regressed on what is better known, or between what is known beside it.

    `positive` says that a quantity whose known values are all above 0 is interpolated as its logarithm.
    """
    values, stderr = np.where(held.full, held.values, np.nan), np.where(held.full, held.stderr, np.nan)
    error, found = np.where(held.full, 0.0, np.nan), np.where(held.full, ANCHOR, _UNKNOWN)
    now = Estimated(values, error, np.zeros(asked.size), np.full(asked.size, np.inf), stderr, found)
    _sampled(asked, held, now)
    if len(asked.axes) > 1:
        _interpolated(asked, now, positive)
    return now


def _sampled(asked: Asked, held: Held, now: Estimated) -> None:
    """Fill in the points that were measured on samples alone, those with most samples first.

    A point is regressed on points nearby that are better known, and these on others. So the error of each is a sum over
    samples of what each adds to it: the residuals of its own regression, and the coefficients times what the controls
    have. The variance is the sum of the squares: controls that share samples do not err independently.

    The residuals are those of the sub-sample. Where few samples make up the mean and it holds none of them, they are
    too small; full passes, each left out in turn, tell by how much.
    """
    longest = max((len(u) for u in held.units.values()), default=0)
    further = _Further.of(asked, held)
    adds: dict[int, FloatArray] = {}
    for points, controls in groups(asked, held):
        n = len(held.units[points[0]])
        near = [c for c in controls if len(held.units[c]) >= n and np.isfinite(held.units[c]).all()]
        targets = np.stack([held.units[p] for p in points], 1)
        given = np.stack([held.units[c][:n] for c in near], 1) if near else np.empty((n, 0))
        found, coefficients, residuals = regressed_means(targets, given, now.values[near])
        sums = np.zeros((longest, len(points)))
        own = residuals / n * math.sqrt(n / (n - 1) * max(0.0, 1 - n / asked.samples))
        sums[:n] = further.added(points, own)
        for control, weights in zip(near, coefficients, strict=True):
            if control in adds:
                sums += adds[control][:, None] * weights
        adds |= dict(zip(points, sums.T, strict=True))
        now.values[points], now.error[points] = found, np.sqrt(np.square(sums).sum(0))
        spread = given[:, 0].std(ddof=1) if near else 0.0
        factor = now.stderr[near[0]] / spread if spread > 0 else asked.samples**-0.5
        now.stderr[points], now.found[points] = factor * targets.std(0, ddof=1), SAMPLED
    for point, units in held.units.items():
        if not held.full[point] and not np.isfinite(units).all():  # a full pass holds these samples, too
            now.values[point], now.error[point], now.found[point] = units.sum(), 0.0, SAMPLED


@dataclass(frozen=True)
class _Further:
    """How much further full passes are from what their first block tells of them than its residuals say."""

    asked: Asked
    points: IntArray  # those that had a full pass
    missed: FloatArray  # squares of how far each is off, regressed on the others nearest to it
    stated: FloatArray  # squares of the errors stated

    @staticmethod
    def of(asked: Asked, held: Held) -> _Further:
        """From every full pass that is finite, left out in turn."""
        from scipy.spatial import KDTree

        known = held.full & np.isfinite(held.values)
        points = np.array(
            [p for p in np.flatnonzero(known).tolist() if p in held.units and np.isfinite(held.units[p]).all()],
            dtype=np.int64,
        )
        missed, stated = np.zeros(len(points)), np.zeros(len(points))
        if len(points) > 1:
            units = np.stack([held.units[p][: asked.block] for p in points.tolist()], 1)
            n = len(units)
            places = _places(asked)[points]
            near = KDTree(places).query(places, k=min(_CONTROLS + 1, len(points)))[1]
            for k, others in enumerate(near.tolist()):
                controls = [c for c in others if c != k][:_CONTROLS]
                found, _, residuals = regressed_means(units[:, [k]], units[:, controls], held.values[points[controls]])
                missed[k] = (found[0] - held.values[points[k]]) ** 2
                stated[k] = np.square(residuals).sum() / (n * (n - 1)) * max(0.0, 1 - n / asked.samples)
        return _Further(asked, points, missed, stated)

    def added(self, points: Sequence[int], own: FloatArray) -> FloatArray:
        """What each of n samples adds to the errors of points, (n, points), made larger where that is needed."""
        from scipy.spatial import KDTree

        if len(self.points) < 2:
            return own
        places, n = _places(self.asked), len(own)
        k = min(_CONTROLS, len(self.points))
        near = KDTree(places[self.points]).query(places[list(points)], k=k)[1].reshape(len(points), k)
        missed, stated, squares = self.missed[near].mean(1), self.stated[near].mean(1), np.square(own).sum(0)
        beyond = np.maximum(missed - stated, 0.0) * self.asked.block / n
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(stated > 0, beyond / stated, 0.0)
            least = np.maximum(squares * (1 + ratio), beyond * _UNSEEN)
            scaled: FloatArray = np.where(squares > 0, own * np.sqrt(least / squares), np.sqrt(least / n))
        return scaled


def groups(asked: Asked, held: Held) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """(points, their controls): points with the same samples and controls, those with most samples first.

    Controls are the finite points nearest to a point that had a full pass or twice its samples, nearest first.
    """
    from scipy.spatial import KDTree  # loading scipy would be a sixth of `import landscape`

    places = _places(asked)
    finite = {p: len(u) for p, u in held.units.items() if np.isfinite(u).all() and not held.full[p]}
    anchors = np.flatnonzero(held.full & np.isfinite(held.values)).tolist()
    for n in sorted(set(finite.values()), reverse=True):
        points = sorted(p for p, count in finite.items() if count == n)
        known = np.array(sorted([*anchors, *(p for p, count in finite.items() if count >= 2 * n)]), dtype=np.int64)
        if not len(known):
            yield points, ()
            continue
        k = min(_CONTROLS, len(known))
        near = known[KDTree(places[known]).query(places[points], k=k)[1].reshape(len(points), k)]
        alike: dict[tuple[int, ...], list[int]] = {}
        for point, controls in zip(points, near.tolist(), strict=True):
            alike.setdefault(tuple(controls), []).append(point)
        yield from ((those, controls) for controls, those in alike.items())


def _places(asked: Asked) -> FloatArray:
    """Places of the grid points, each axis from 0 to 1, (size, dimensions)."""
    lines = [(x - x[0]) / max(float(np.ptp(x)), np.finfo(float).tiny) for x in asked.axes]
    return np.stack([line.ravel() for line in np.meshgrid(*lines, indexing="ij")], 1)


def _interpolated(asked: Asked, now: Estimated, positive: bool) -> None:
    """Fill in the points that nothing was measured at, with what known points say of such errors."""
    shape, values, error, stderr, found = asked.shape, now.values, now.error, now.stderr, now.found
    known = (found != _UNKNOWN) & np.isfinite(values)
    logarithmic = positive and bool((values[known] > 0).all())
    with np.errstate(invalid="ignore", divide="ignore"):
        heights = np.where(known, np.log(values) if logarithmic else values, 0.0)
        widths = np.where(known, error / values if logarithmic else error, np.nan)
    guessed, gap = (part.ravel() for part in between(asked.axes, heights.reshape(shape), known.reshape(shape)))
    missed = np.where(known, guessed - heights, np.nan)
    local = _mean(np.square(around(missed.reshape(shape), _REACH))).ravel()
    expected = np.sqrt(local + np.square(gap))
    # How much closer than their neighbours' errors say the values between them are: those beside known points on all
    # sides lie at half the distance of these.
    tried = [p for p in trial_points(asked) if known[p]]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(expected[tried] > 0, np.abs(missed[tried]) / expected[tried], 0.0)
    ratio = ratio[np.isfinite(ratio)]
    factor = min(1.0, float(np.sqrt(np.square(ratio).mean()))) if len(ratio) >= _FEWEST_TRIED // 2 else 1.0
    sampling = _mean(around(widths.reshape(shape))).ravel()
    free = (found == _UNKNOWN) & np.isfinite(guessed) & np.isfinite(sampling) & np.isfinite(expected)
    values[free] = np.exp(guessed[free]) if logarithmic else guessed[free]
    unit = values[free] if logarithmic else 1.0
    now.missed[free] = expected[free] * unit
    now.interpolation[free] = factor * now.missed[free]
    error[free] = np.hypot(sampling[free] * unit, now.interpolation[free])
    stderr[free] = _mean(around(np.where(known, stderr, np.nan).reshape(shape))).ravel()[free]
    found[free] = INTERPOLATED


def _mean(stacked: FloatArray) -> FloatArray:
    """Means over the first dimension of what is not NaN; NaN where all is."""
    there = ~np.isnan(stacked)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: FloatArray = np.where(there, stacked, 0.0).sum(0) / there.sum(0)
    return mean


def board(asked: Asked) -> BoolArray:
    """The points that are always measured, (size,): every second one, as the squares of one colour; all of a line."""
    if len(asked.axes) == 1:
        return np.ones(asked.size, dtype=np.bool_)
    squares: BoolArray = (np.indices(asked.shape).sum(0) % 2 == 0).ravel()
    return squares


def trial_points(asked: Asked) -> IntArray:
    """Points drawn among the others, whose values tell how well they could have been interpolated."""
    others = np.flatnonzero(~board(asked))
    generator = np.random.Generator(np.random.Philox(key=derive_seed(0, "interpolated", asked.size)))
    count = min(len(others), max(_FEWEST_TRIED, len(others) // _TRIED))
    return np.sort(generator.permutation(others)[:count])


def aims(asked: Asked, values: FloatArray) -> FloatArray:
    """The error allowed at each point, in units of the values, (size,).

    "relative": error times the size of the value; "absolute": error; "range": error times the range of the finite
    values; "log": what moves the decadic logarithm by error.
    """
    if asked.scale == "absolute":
        return np.full(asked.size, asked.error)
    if asked.scale == "range":
        finite = values[np.isfinite(values)]
        return np.full(asked.size, asked.error * (float(np.ptp(finite)) if len(finite) else 0.0))
    factor = asked.error * (math.log(10) if asked.scale == "log" else 1.0)
    return factor * np.abs(values)


def reached(asked: Asked, estimated: Estimated) -> BoolArray:
    """Whether each point is known to the error asked for; NaN and Inf are."""
    aim = aims(asked, estimated.values)
    with np.errstate(invalid="ignore"):
        close = estimated.error <= aim
    known: BoolArray = (estimated.found != _UNKNOWN) & (close | ~np.isfinite(estimated.values))
    return known


def next_items(asked: Asked, held: Held, tried: Set[Item]) -> list[Item]:
    """The items of the next round, none where the end is reached.

    `tried` are the items of all rounds so far: one that failed is not asked for again.
    """
    if asked.blocks == 0:
        return sorted({(p, FULL) for p in range(asked.size)} - tried)
    wanted = np.union1d(np.flatnonzero(board(asked)), trial_points(asked))
    items = {(p, 1) for p in wanted.tolist() if not held.full[p]} - tried
    if not items:
        now = estimate(asked, held, positive=True)
        items = _lacking(asked, held) | _beside_what_is_not_finite(asked, held, now) | _closer(asked, held, now)
    return sorted(items - tried)


def _lacking(asked: Asked, held: Held) -> set[Item]:
    """Blocks that controls lack and the points regressed on them have."""
    items: set[Item] = set()
    for points, controls in groups(asked, held):
        have = len(held.units[points[0]]) // asked.block
        items |= {(c, k) for c in controls for k in range(len(held.units[c]) // asked.block + 1, have + 1)}
    return items


def _beside_what_is_not_finite(asked: Asked, held: Held, now: Estimated) -> set[Item]:
    """Full passes for what is infinite on some samples, and for all that lies next to a value that is not finite."""
    measured = (now.found == ANCHOR) | (now.found == SAMPLED)
    odd = measured & ~np.isfinite(now.values)
    marked = np.where(odd, 1.0, 0.0).reshape(asked.shape)
    next_to = (np.nan_to_num(around(marked)).max(0) > 0).ravel() & ~odd
    infinite = odd & (now.found == SAMPLED) & ~np.isnan(now.values)
    return {(p, FULL) for p in np.flatnonzero((next_to | infinite) & ~held.full).tolist()}


def _closer(asked: Asked, held: Held, now: Estimated) -> set[Item]:
    """More samples, points or anchors where the error is reached at least cost, as many as the share asked lacks."""
    aim = aims(asked, now.values)
    # Wherever it is not sure what lies between measured points it is measured: that takes little.
    unsure = (now.interpolation > _BETWEEN * aim) | (now.missed > _TORN * aim) | (now.found == _UNKNOWN)
    items = {(p, 1) for p in np.flatnonzero(unsure & ~held.full).tolist() if p not in held.units}
    return items | _more_samples(asked, held, now, aim)


def _more_samples(asked: Asked, held: Held, now: Estimated, aim: FloatArray) -> set[Item]:
    """Blocks or full passes where samples tell too little, of a point or of what lies between it and others."""
    far = np.flatnonzero(~reached(asked, now) & ~held.full)
    lacking = len(far) - math.floor((1 - asked.share) * asked.size + 1e-9)
    if lacking <= 0:
        return set()
    have = np.array([len(held.units.get(p, ())) for p in range(asked.size)], dtype=np.float64)
    needed = samples_needed(now.error, have, _SHARPER * aim, asked.samples)
    possible = (needed <= asked.blocks * asked.block) & (asked.statistics == 0)
    cost = np.where(possible, needed - have, asked.cost(FULL))
    cost[have == 0] = asked.cost(1)
    far = far[np.argsort(cost[far], kind="stable")[:lacking]]
    empty = far[have[far] == 0]
    items: set[Item] = set()
    waiting = np.zeros(asked.size, dtype=np.bool_)
    waiting[empty] = True  # for their neighbours, which are to be known better
    waiting = (np.nan_to_num(around(np.where(waiting, 1.0, 0.0).reshape(asked.shape))).max(0) > 0).ravel()
    close = now.error <= _SHARPER * aim
    needy = np.union1d(far[have[far] > 0], np.flatnonzero(waiting & (have > 0) & ~held.full & ~close))
    needy = needy[now.error[needy] > 0]
    for point in _chosen(asked, held, needy, cost[needy]):
        if not possible[point]:
            items.add((point, FULL))
            continue
        blocks = int(have[point]) // asked.block
        last = min(math.ceil(needed[point] / asked.block), _GROWTH * blocks, asked.blocks)
        items |= {(point, level) for level in range(blocks + 1, max(last, blocks + 1) + 1)}
    return {(p, level) for p, level in items if level <= asked.blocks}


def _chosen(asked: Asked, held: Held, points: IntArray, cost: FloatArray) -> list[int]:
    """Those of the points that are to be known better first; the others near them may then be regressed on them.

    A point waits for a neighbour that is nearer to it than 0.7 of the neighbour's distance from what that one is
    regressed on. Chosen first are points that spare most of what those around them cost, for what they cost themselves.
    """
    if len(points) * _FEW <= asked.size:
        return [int(p) for p in points]  # rounds of a few items leave ranks idle
    controls = {p: c for group, c in groups(asked, held) for p in group}
    most = np.argsort(-cost, kind="stable")[:_CANDIDATES]
    points, cost = points[most], np.maximum(cost[most], 1.0)
    places = _places(asked)
    reach = np.array(
        [
            np.square(places[list(controls[p])] - places[p]).sum(1).min() / 2 if controls.get(p) else 0.0
            for p in points.tolist()
        ]
    )
    near = np.square(places[points][:, None] - places[points][None]).sum(2) <= reach[:, None]
    gain = near @ cost
    chosen: list[int] = []
    waiting = np.ones(len(points), dtype=np.bool_)
    while waiting.any():
        best = int(np.where(waiting, gain / cost, -np.inf).argmax())
        chosen.append(int(points[best]))
        spared = near[best] & waiting
        spared[best] = True
        waiting &= ~spared
        gain -= near[:, spared] @ cost[spared]
    return chosen
