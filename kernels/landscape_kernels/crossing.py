"""Where functions of a radius first come to a cutoff, many functions at a time, each with a bracket of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from landscape_kernels.arrays import FloatArray, IntArray

DOUBLINGS = 24  # of the first radius, at most: a function that is below the cutoff everywhere up to there never crosses
_HALVINGS = 60
_STEPS = 200  # of a bracket, far more than bisection needs
_FLOOR = -14.0  # ln of the smallest share of the rise to the cutoff that is told apart
_BESIDE = 0.02  # share by which a radius that is foretold is passed, so that it makes a bracket; four times that next

# (numbers of the functions (m,), radii (m,)) -> values (m,)
Values = Callable[[IntArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Crossings:
    """Radii (n,), Inf where a function never crosses; how many values they took; the power that rises go about as."""

    radii: FloatArray
    evaluations: int
    power: float


def first_crossings(
    values: Values,
    count: int,
    centre: float,
    cutoff: float,
    start: float = 1.0,
    power: float = 2.0,
    rtol: float = 1e-6,
) -> Crossings:
    """The radius at which each of `count` functions comes to `cutoff`, from `centre` below it at radius 0.

    All begin at `start`, and foretell their radii by the `power` of the radius that rises go about as. A radius is
    doubled, or made smaller by a half, at most, until it brackets a crossing: at its lower end the value is below the
    cutoff, at its upper end not (NaN is not). What rises and falls again between two of these radii is not seen. In the
    bracket Chandrupatla's method (1997), inverse quadratic interpolation or bisection, goes on in ln r and the
    logarithm of the rise until the bracket is narrower than `rtol` relatively. For a power of the radius that takes one
    step.
    """
    if not centre < cutoff:
        raise ValueError(f"the cutoff {cutoff} is not above the value at the centre, {centre}")
    search = _Search(values, count, centre, cutoff, start, power, rtol)
    search.follow(start)
    return Crossings(search.radii, search.evaluations, search.power)


class _Search:
    def __init__(
        self, values: Values, count: int, centre: float, cutoff: float, start: float, power: float, rtol: float
    ) -> None:
        self._values, self._centre, self._cutoff, self._rtol = values, centre, cutoff, rtol
        self._nearest = math.log(start) - _HALVINGS * math.log(2)
        self._furthest = math.log(start) + DOUBLINGS * math.log(2)
        self.radii = np.full(count, np.inf)
        self.evaluations = 0
        self.power = power

    def _rises(self, which: IntArray, logs: FloatArray) -> FloatArray:
        """ln((value - centre) / (cutoff - centre)) at radii exp(logs): below 0 inside, 0 or more outside."""
        found = np.asarray(self._values(which, np.exp(logs)), dtype=np.float64)
        self.evaluations += len(which)
        outside = ~(found < self._cutoff)
        share = np.where(np.isfinite(found), (found - self._centre) / (self._cutoff - self._centre), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = np.log(np.maximum(share, math.exp(_FLOOR)))
        rise = np.clip(rise, _FLOOR, -_FLOOR)
        return np.where(outside, np.maximum(rise, 0.0), np.minimum(rise, -1e-300))

    def follow(self, start: float) -> None:
        """Find the radii of all functions from one start."""
        count = len(self.radii)
        low, high = np.full(count, np.nan), np.full(count, np.nan)  # ln r inside and outside
        at_low, at_high = np.full(count, np.nan), np.full(count, np.nan)
        here = np.full(count, math.log(start))
        open_, beside = np.arange(count), _BESIDE
        while len(open_):
            rise = self._rises(open_, here[open_])
            inside = rise < 0
            low[open_[inside]], at_low[open_[inside]] = here[open_[inside]], rise[inside]
            high[open_[~inside]], at_high[open_[~inside]] = here[open_[~inside]], rise[~inside]
            step = np.minimum(np.abs(rise) / self.power + beside, math.log(2))
            beside *= 4
            here[open_] += np.where(inside, step, -step)
            bracketed = np.isfinite(low[open_]) & np.isfinite(high[open_])
            self.radii[open_[here[open_] < self._nearest]] = 0.0
            open_ = open_[~bracketed & (here[open_] <= self._furthest) & (here[open_] >= self._nearest)]
        there = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
        if len(there):
            powers = (at_high[there] - at_low[there]) / (high[there] - low[there])
            self.power = float(np.clip(np.median(powers), 0.5, 20.0))
            self.radii[there] = np.exp(self._narrowed(there, low[there], high[there], at_low[there], at_high[there]))

    def _narrowed(
        self, which: IntArray, a: FloatArray, b: FloatArray, at_a: FloatArray, at_b: FloatArray
    ) -> FloatArray:
        """Chandrupatla's method on brackets [a, b] in ln r, with the values at their ends."""
        # b is the newest point, a the other side of the root, c the one before
        c, at_c, share = a.copy(), at_a.copy(), np.full(len(which), 0.5)
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = np.clip(at_a / (at_a - at_b), 0.0, 1.0)
        share = 1 - secant  # of the way from b to a, by the line through both ends
        open_ = np.arange(len(which))
        for _ in range(_STEPS):
            best = np.where(np.abs(at_a) < np.abs(at_b), a, b)
            width = np.abs(b - a)
            done = (width <= self._rtol) | (np.where(np.abs(at_a) < np.abs(at_b), at_a, at_b) == 0)
            open_ = open_[~done[open_]]
            if not len(open_):
                break
            least = 0.5 * self._rtol / np.maximum(width, self._rtol)
            share = np.clip(share, least, 1 - least)
            new = b + share * (a - b)
            at_new = np.zeros(len(which))
            at_new[open_] = self._rises(which[open_], new[open_])
            moved = np.zeros(len(which), dtype=bool)
            moved[open_] = True
            same = np.sign(at_new) == np.sign(at_b)
            same = np.where(at_new == 0, at_b >= 0, same).astype(bool)
            c, at_c = np.where(moved, np.where(same, b, a), c), np.where(moved, np.where(same, at_b, at_a), at_c)
            a, at_a = np.where(moved & ~same, b, a), np.where(moved & ~same, at_b, at_a)
            b, at_b = np.where(moved, new, b), np.where(moved, at_new, at_b)
            share = _share(a, b, c, at_a, at_b, at_c)
        return best


def _share(
    a: FloatArray, b: FloatArray, c: FloatArray, at_a: FloatArray, at_b: FloatArray, at_c: FloatArray
) -> FloatArray:
    """How far to go from b to a: inverse quadratic interpolation where it may be trusted, else half."""
    with np.errstate(divide="ignore", invalid="ignore"):
        xi, phi = (b - a) / (c - a), (at_b - at_a) / (at_c - at_a)
        trusted = (1 - np.sqrt(1 - xi) < phi) & (phi < np.sqrt(xi))
        second = at_b / (at_b - at_a) * at_c / (at_c - at_a)
        third = at_b / (at_c - at_b) * at_a / (at_c - at_a)
        found = second + third * (c - b) / (a - b)
    return np.where(trusted & np.isfinite(found), found, 0.5)
