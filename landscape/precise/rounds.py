"""Which points of a grid are measured on which samples, round by round, until the error asked for is reached.

Pure functions of what was measured so far: numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray
from landscape_kernels.control_variates import regressed_means, samples_needed
from landscape_kernels.gaps import above_ends, around, between
from landscape_kernels.probes import derive_seed

FULL = 0  # the level of a full pass; level k is the k-th block of the common sub-sample
ANCHOR, SAMPLED, INTERPOLATED, _UNKNOWN = 0, 1, 2, -1  # how a value was found: numbers in FOUND of the result
_CONTROLS = 9  # full passes nearest to a point, on which its samples are regressed
_REACH = 2  # steps around a point within which known points tell how well those between them are interpolated
_TRIED = 25  # one in so many points left to interpolation is measured to tell how well that works
_FEWEST_TRIED = 16
_SHARPER = 0.8  # of the error allowed, that measured points are brought to: those beside them are no better known
_STEP = 0.1  # less of it for each coarser tier, on whose points finer ones are regressed,
_SHARPEST = 0.4  # but no less than this
OWN = 0.5  # of what a point is brought to, that its own samples are left at least, whatever is handed on to it
_BEYOND = 1.5  # times the largest number of samples, that may be needed where these are taken to do
_LEAST = 1.5  # times its samples that a point gets at least: rounds of a few items leave ranks idle
_SLACK = 1.15  # times what points of coarser tiers are brought to, up to which they are left as they are
_BETWEEN = 0.6  # of the error allowed, that interpolation alone may take: 0.6^2 + 0.8^2 = 1
_TORN = 3  # times the error allowed, by which neighbours may miss one another where a point is left to interpolation
_GROWTH = 8  # times its samples that a point gets more at most in a round: its error is not known better
_ALIKE = 16  # times the squared error of a point, up to which those of full passes tell what its residuals lack
_NONE = 1e-8  # of the squared errors of full passes, up to which the residuals of a point are those of the ridge alone
_UNSEEN = 1 / 2  # of what full passes miss beyond their stated variance, that points between them have at least
_APART = 2.0  # lines, in lengths of one: what is nearest to a point is on its own line
_AT_ONCE = 1 << 21  # numbers of controls on samples at once, 16 MiB

Item = tuple[int, int]  # (number of the grid point, level)


@dataclass(frozen=True)
class Asked:
    """What is to be reached on which grid and data.

    Several lines are so many grids of one axis, one after another; where the axis has 0 all of them are at one point.
    """

    axes: tuple[FloatArray, ...]  # in the order of the dimensions: the last axis first
    first: tuple[int, ...]  # points that get a full pass before anything is known
    samples: int  # of the data
    block: int  # samples of a block
    blocks: int  # largest number of blocks; 0 where every point gets a full pass
    error: float
    scale: str  # "relative", "absolute", "range" or "log"
    share: float  # of the points whose error is to be within that asked
    statistics: int = 0  # samples on which BatchNorm is estimated anew for every item
    lines: int = 1
    highest: bool = False  # whether the highest point of a line above its ends is to be known to that error, too

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each dimension, of each line."""
        return tuple(map(len, self.axes))

    @property
    def size(self) -> int:
        """Number of grid points, of all lines."""
        return self.lines * math.prod(self.shape)

    @property
    def whole(self) -> tuple[int, ...]:
        """The lines, then the points along each dimension."""
        return (self.lines, *self.shape)

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
    own: FloatArray  # the part of it that more samples of the point itself take away
    missed: FloatArray  # by how much known points around a point miss what lies between their neighbours
    stderr: FloatArray  # for the population
    found: IntArray  # ANCHOR, SAMPLED, INTERPOLATED


def lattice_lines(shape: Sequence[int], finer: int = 0) -> list[IntArray]:
    """The places of a coarse grid on each axis: 5 of one axis, 3 of each of more, both ends; 2^finer the steps."""
    steps = (4 if len(shape) == 1 else 2) << finer
    return [np.unique(np.linspace(0, n - 1, min(n, steps + 1)).round().astype(np.int64)) for n in shape]


def lattice(shape: Sequence[int], finer: int = 0) -> list[int]:
    """The points of that coarse grid."""
    return sorted(
        np.ravel_multi_index(np.meshgrid(*lattice_lines(shape, finer), indexing="ij"), shape).ravel().tolist()
    )


def meeting(axes: Sequence[FloatArray], lines: int) -> IntArray:
    """The point, of the first line, at which each point of all lines is: its own number but where lines meet, (size,).

    >>> meeting([np.array([-1.0, 0.0, 1.0])], 2).tolist()
    [0, 1, 2, 3, 1, 5]
    """
    size = math.prod(map(len, axes))
    found = np.arange(lines * size).reshape(lines, size)
    if lines > 1:
        centre = axes[0] == 0
        found[:, centre] = found[0, centre]
    return found.ravel()


def tiers(shape: Sequence[int], lines: int = 1) -> tuple[IntArray, list[int]]:
    """(tier of each point, (size,), how many steps the points of each tier are apart), of each of several lines alike.

    Tier 0 is the coarse grid, each further one twice as fine, the last all that is closer than two steps. Points are
    regressed on those of the tiers before.
    """
    first, longest = 4 if len(shape) == 1 else 2, max(shape) - 1
    apart = [math.ceil(longest / (first << k)) for k in range(32) if k < 2 or longest >= 2 * (first << k)]
    found = np.full(math.prod(shape), len(apart))
    for tier in reversed(range(len(apart))):
        found[lattice(shape, tier)] = tier
    return np.tile(found, lines), [*apart, 1]


def estimate(asked: Asked, held: Held, *, positive: bool) -> Estimated:
    """The quantity at every point: as measured, regressed on what is better known, or between what is known beside it.

    `positive` says that a quantity whose known values are all above 0 is interpolated as its logarithm.
    """
    values, stderr = np.where(held.full, held.values, np.nan), np.where(held.full, held.stderr, np.nan)
    error, found = np.where(held.full, 0.0, np.nan), np.where(held.full, ANCHOR, _UNKNOWN)
    nothing = np.zeros(asked.size)
    now = Estimated(values, error, nothing, nothing.copy(), np.full(asked.size, np.inf), stderr, found)
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
    too small; full passes, each left out in turn, tell by how much. Of a count, where residuals may be none at all, one
    sample may be off, if nearby points have so many.
    """
    further, one = _Further.of(asked, held), _counted(held)
    sizes = {p: len(u) for p, u in held.units.items() if np.isfinite(u).all()}
    longest, fewest = max(sizes.values(), default=0), min(sizes.values(), default=0)
    adds = np.zeros((0, longest))
    row = np.full(asked.size, -1)  # of a point in `adds`
    for n, points, controls in _batches(asked, held):
        there = np.array([sizes[c] >= n for c in controls.ravel().tolist()], dtype=np.bool_).reshape(controls.shape)
        targets = np.stack([held.units[p] for p in points.tolist()])
        given = np.zeros((*controls.shape, n))
        for place in np.argwhere(there).tolist():
            given[tuple(place)] = held.units[int(controls[tuple(place)])][:n]
        means = np.where(there, now.values[controls], 0.0)
        found, coefficients, residuals = regressed_means(targets[..., None], given.swapaxes(1, 2), means)
        sums = np.zeros((len(points), longest))
        own = residuals[..., 0].T / n * math.sqrt(n / (n - 1) * max(0.0, 1 - n / asked.samples))
        rare = np.minimum(means, one - means).max(1, initial=0.0) if controls.shape[1] else np.full(len(points), one)
        floor = np.clip(rare, 0.0, one / n) * math.sqrt(max(0.0, 1 - n / asked.samples))
        sums[:, :n] = further.added(points, own, np.square(floor)).T
        now.own[points] = np.sqrt(np.square(sums).sum(1))
        for k in range(controls.shape[1]):
            sampled = np.flatnonzero(row[controls[:, k]] >= 0)
            sums[sampled] += coefficients[sampled, k] * adds[row[controls[sampled, k]]]
        if n > fewest:  # others may be regressed on these
            row[points] = len(adds) + np.arange(len(points))
            adds = np.concatenate([adds, sums])
        now.values[points], now.error[points] = found[:, 0], np.sqrt(np.square(sums).sum(1))
        factor = np.full(len(points), asked.samples**-0.5)
        if controls.shape[1]:
            spread = given[:, 0].std(1, ddof=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = np.where(spread > 0, now.stderr[controls[:, 0]] / spread, factor)
        now.stderr[points], now.found[points] = factor * targets.std(1, ddof=1), SAMPLED
    for point, units in held.units.items():
        if not held.full[point] and not np.isfinite(units).all():  # a full pass holds these samples, too
            now.values[point], now.error[point], now.found[point] = units.sum(), 0.0, SAMPLED


def _counted(held: Held) -> float:
    """The value of one that is counted, where samples have that or 0 alone, as those of an accuracy; 0 elsewhere."""
    one = max((float(units.max()) for units in held.units.values()), default=0.0)
    return one if all(((units == 0) | (units == one)).all() for units in held.units.values()) else 0.0


def _batches(asked: Asked, held: Held) -> Iterator[tuple[int, IntArray, IntArray]]:
    """The same as `levels`, no more points at once than memory has room for."""
    for n, points, controls in levels(asked, held):
        step = max(1, _AT_ONCE // (n * max(1, controls.shape[1])))
        for begin in range(0, len(points), step):
            yield n, points[begin : begin + step], controls[begin : begin + step]


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
            units = np.stack([held.units[p][: asked.block] for p in points.tolist()])
            n, places = units.shape[1], places_of(asked)[points]
            near = KDTree(places).query(places, k=min(_CONTROLS + 1, len(points)))[1]
            for begin in range(0, len(points), _AT_ONCE // (n * _CONTROLS)):
                here = np.arange(begin, min(begin + _AT_ONCE // (n * _CONTROLS), len(points)))
                others = np.stack([[c for c in near[k].tolist() if c != k][: near.shape[1] - 1] for k in here])
                found, _, residuals = regressed_means(
                    units[here, :, None], units[others].swapaxes(1, 2), held.values[points[others]]
                )
                missed[here] = np.square(found[:, 0] - held.values[points[here]])
                stated[here] = np.square(residuals[..., 0]).sum(1) / (n * (n - 1)) * max(0.0, 1 - n / asked.samples)
        return _Further(asked, points, missed, stated)

    def added(self, points: IntArray, own: FloatArray, floor: FloatArray) -> FloatArray:
        """What each of n samples adds to the errors of points, (n, points), made larger where that is needed.

        `floor`, (points,), are squares that they have at least.
        """
        from scipy.spatial import KDTree

        if len(self.points) < 2:
            return own
        places, n = places_of(self.asked), len(own)
        k = min(_CONTROLS, len(self.points))
        near = KDTree(places[self.points]).query(places[points], k=k)[1].reshape(len(points), k)
        squares = np.square(own).sum(0)
        # Full passes with residuals no larger tell what such residuals lack: larger ones of others would hide it.
        size = self.stated[near] * self.asked.block / n
        line = len(self.asked.axes) == 1
        least = np.median(size, 1) if line else size.min(1)  # of a line one alone, an end perhaps, tells little
        alike = size <= np.maximum(_ALIKE * squares, least)[:, None]
        counts = alike.sum(1)
        missed, stated = ((part[near] * alike).sum(1) / counts for part in (self.missed, self.stated))
        # Residuals that are none, as of counts that the sub-sample holds none of, leave all that full passes missed.
        none = line & (squares <= _NONE * least)
        beyond = np.maximum(missed - np.where(none, 0.0, stated), 0.0) * self.asked.block / n
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(stated > 0, np.minimum(squares / stated, _ALIKE), 0.0)
            needed = np.maximum(squares + part * beyond, beyond * np.where(squares > 0, _UNSEEN, 1.0))
            needed = np.maximum(needed, floor)
            scaled: FloatArray = np.where(squares > 0, own * np.sqrt(needed / squares), np.sqrt(needed / n))
        return scaled


def levels(asked: Asked, held: Held) -> Iterator[tuple[int, IntArray, IntArray]]:
    """(n, points (p,) that have so many samples, their controls (p, k)), from most samples on.

    Controls are the finite points nearest to a point that had a full pass or twice its samples, nearest first.
    """
    from scipy.spatial import KDTree  # loading scipy would be a sixth of `import landscape`

    places = places_of(asked)
    finite = {p: len(u) for p, u in held.units.items() if np.isfinite(u).all() and not held.full[p]}
    anchors = np.flatnonzero(held.full & np.isfinite(held.values)).tolist()
    for n in sorted(set(finite.values()), reverse=True):
        points = np.array(sorted(p for p, count in finite.items() if count == n), dtype=np.int64)
        known = np.array(sorted([*anchors, *(p for p, count in finite.items() if count >= 2 * n)]), dtype=np.int64)
        k = min(_CONTROLS, len(known))
        near = KDTree(places[known]).query(places[points], k=k)[1] if k else np.empty(0, dtype=np.int64)
        yield n, points, known[near.reshape(len(points), k)]


def places_of(asked: Asked) -> FloatArray:
    """Places of the grid points, each axis from 0 to 1, (size, dimensions); lines are further apart than long."""
    lines = [(x - x[0]) / max(float(np.ptp(x)), np.finfo(float).tiny) for x in asked.axes]
    if asked.lines > 1:
        lines.insert(0, _APART * np.arange(asked.lines))
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


def sharpness(tier: int, last: int) -> float:
    """The part of the error allowed that points of a tier are brought to."""
    return max(_SHARPER - _STEP * (last - tier), _SHARPEST)


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
    at = meeting(asked.axes, asked.lines)
    if asked.blocks == 0:
        return sorted({(p, FULL) for p in at.tolist()} - tried)
    tier, apart = tiers(asked.shape, asked.lines)
    wanted = np.flatnonzero(
        board(asked) | (tier < len(apart) - 1) | np.isin(np.arange(asked.size), trial_points(asked))
    )
    items = {(int(at[p]), 1) for p in wanted.tolist() if not held.full[p]} - tried
    if not items:
        now = estimate(asked, held, positive=True)
        items = _lacking(asked, held) | _beside_what_is_not_finite(asked, held, now) | _closer(asked, held, now)
        if asked.highest and not items - tried:
            items = _highest(asked, held, now)
    return sorted({(int(at[p]), level) for p, level in items} - tried)


def _lacking(asked: Asked, held: Held) -> set[Item]:
    """Blocks that controls lack and the points regressed on them have."""
    items: set[Item] = set()
    for n, _, controls in levels(asked, held):
        for c in np.unique(controls).tolist():
            items |= {(c, k) for k in range(len(held.units[c]) // asked.block + 1, n // asked.block + 1)}
    return items


def _beside_what_is_not_finite(asked: Asked, held: Held, now: Estimated) -> set[Item]:
    """Full passes for what is infinite on some samples, and for all that lies next to a value that is not finite."""
    measured = (now.found == ANCHOR) | (now.found == SAMPLED)
    odd = measured & ~np.isfinite(now.values)
    next_to = (_largest_within(asked, odd, 1) > 0) & ~odd
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
    """Blocks or full passes where samples tell too little, of a point or of what is regressed on it or lies beside it.

    The coarsest tier first: what is regressed on its points may then need no more. Its points are to be known better
    than others, as their errors are handed on.
    """
    far = ~reached(asked, now) & ~held.full
    lacking = int(far.sum()) - math.floor((1 - asked.share) * asked.size + 1e-9)
    if lacking <= 0:
        return set()
    have = np.array([len(held.units.get(p, ())) for p in range(asked.size)], dtype=np.float64)
    tier, apart = tiers(asked.shape, asked.lines)
    last = len(apart) - 1
    target = aim * np.array([sharpness(k, last) for k in range(last + 1)])[tier]
    room = np.maximum(np.square(target) - np.square(now.error) + np.square(now.own), np.square(OWN * target))
    needed = samples_needed(now.own, have, np.sqrt(room), asked.samples)
    possible = (needed <= _BEYOND * asked.blocks * asked.block) & (asked.statistics == 0)
    cost = np.where(possible, np.maximum(needed - have, 0.0), asked.cost(FULL))
    open_ = (have > 0) & ~held.full & (now.error > 0)
    most_had = have >= asked.blocks * asked.block
    # What nothing was measured at lies between others, which are what it takes to know it.
    beside = _largest_within(asked, np.where(open_ & (now.error > target), cost, 0.0), 1)
    cost = np.where(have == 0, asked.cost(1) + beside, cost)
    wanted = np.zeros(asked.size, dtype=np.bool_)
    points = np.flatnonzero(far)
    wanted[points[np.argsort(cost[points], kind="stable")[:lacking]]] = True
    for level, steps in enumerate(apart):
        useful = _largest_within(asked, wanted, steps) > 0
        chosen = open_ & useful & (tier == level) & (now.error > _SLACK * target) & ~(most_had & possible)
        if level == last:
            chosen = open_ & ((wanted & (have > 0)) | (chosen & (_largest_within(asked, wanted & (have == 0), 1) > 0)))
        if chosen.any():
            break
    items: set[Item] = set()
    for point in np.flatnonzero(chosen).tolist():
        blocks = int(have[point]) // asked.block
        most = min(_GROWTH * blocks, asked.blocks)
        if blocks == asked.blocks or (not possible[point] and (most == asked.blocks or asked.statistics)):
            items.add((point, FULL))
            continue
        wanted_blocks = math.ceil(max(needed[point] / asked.block, _LEAST * blocks))
        items |= {(point, k) for k in range(blocks + 1, min(wanted_blocks, most) + 1)}
    return items or {(p, 1) for p in np.flatnonzero(wanted & (have == 0)).tolist()}


def _highest(asked: Asked, held: Held, now: Estimated) -> set[Item]:
    """A full pass where a line is highest above its ends; then more samples where it may be higher still."""
    heights = above_ends(asked.axes[0], now.values)
    if not np.isfinite(heights).all():
        return set()
    top = int(np.argmax(heights))
    if not held.full[top]:
        return {(top, FULL)}
    rises = squared_rises(heights - heights[top], now.error)
    if math.sqrt(float(rises.sum())) <= aims(asked, now.values)[top]:
        return set()
    items: set[Item] = set()
    for point in np.flatnonzero(rises > rises.max() / _ALIKE).tolist():
        blocks = len(held.units.get(point, ())) // asked.block
        if asked.statistics or 2 * blocks > asked.blocks:
            items.add((point, FULL))
        else:
            items |= {(point, k) for k in range(blocks + 1, 2 * blocks + 1)}
    return items


def squared_rises(heights: FloatArray, error: FloatArray) -> FloatArray:
    """E[max(0, h + e Z)^2] = (h^2 + e^2) Phi(h/e) + h e phi(h/e) of normal Z, for heights h and errors e (n,).

    Their sum bounds the square by which the largest of h + e Z is above 0, however these depend on one another.

    >>> squared_rises(np.array([0.0, -1.0, -1.0]), np.array([1.0, 0.0, 1.0])).round(4).tolist()
    [0.5, 0.0, 0.0753]
    """
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        z = heights / error
        density = np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
        found = (np.square(heights) + np.square(error)) * ndtr(z) + heights * error * density
    return np.where(error > 0, np.maximum(found, 0.0), np.square(np.maximum(heights, 0.0)))


def _largest_within(asked: Asked, values: FloatArray | BoolArray, steps: int) -> FloatArray:
    """The largest value within so many steps along each axis, (size,)."""
    from scipy.ndimage import maximum_filter

    grid = values.astype(np.float64).reshape(asked.whole)
    size = (1, *(2 * steps + 1,) * len(asked.shape))
    found: FloatArray = maximum_filter(grid, size=size, mode="constant", cval=0.0).ravel()
    return found
