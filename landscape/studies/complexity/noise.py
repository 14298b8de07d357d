"""How much noise on the parameters costs a tenth of the accuracy, and the PAC-Bayes measures made of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.results.estimate import Estimate
from landscape.studies.complexity.entry import Measure
from landscape.studies.complexity.norms import JIANG
from landscape.studies.complexity.subject import Subject, margins_at

logger = logging.getLogger(__name__)
_DROP = 0.1  # of the accuracy
_EPS = 1e-3  # of the magnitude-aware noise
_BLOCK = 32  # samples that a draw is tried on: draws differ by more than samples do, and cost little on few
_FIRST, _MOST = 8, 4096  # draws to begin with, and of all
_SAMPLES = 256  # that the search for about where it is looks at, over all of its draws
_STEADY = 0.2  # relative error of the slope, at most
_STEPS = 14  # of sigma by factors of two, or of the bracket
_JIANG_STEPS, _JIANG_DRAWS, _JIANG_TOL, _JIANG_TOP = 15, 10, 0.01, 2.0


@dataclass(frozen=True)
class Sigma:
    """The size of the noise, its standard error over draws, and how it was found."""

    value: float
    stderr: float
    draws: int


class _Noise:
    """Accuracy under noise on the free parameters of the fused network; draw k is the same for every sigma."""

    def __init__(self, subject: Subject, magnitude: bool) -> None:
        self._subject, self._magnitude = subject, magnitude
        fused, objective = subject.fused, subject.objective
        self._theta = objective.vector(fused.theta)
        self._free, self._buffers = fused.free, dict(fused.buffers)
        self._blocks = _blocks(objective, subject.parity)
        self._right: dict[int, float] = {}
        self.passes = 0.0

    def without(self, number: int) -> float:
        """The accuracy on the block of that number without noise."""
        if number not in self._right:
            self._right[number] = self._accuracy(number, self._theta)
        return self._right[number]

    def drops(self, sigma: float, draws: range) -> FloatArray:
        """(draws,): by how much each draw lowers the accuracy of its block of samples."""
        found = []
        for draw in draws:
            number = draw % len(self._blocks)
            found.append(self.without(number) - self._accuracy(number, self._theta + self._scaled(sigma, draw)))
        return np.array(found)

    @property
    def few(self) -> range:
        """Draws that tell about where it is."""
        return range(min(max(_SAMPLES // self.samples, _FIRST // 2), _SAMPLES // 4))

    @property
    def blocks(self) -> int:
        """Blocks that the data are in: so many draws use every sample once."""
        return len(self._blocks)

    @property
    def samples(self) -> int:
        """Samples of a block."""
        return self._blocks[0].samples

    @property
    def size(self) -> float:
        """A sigma to begin with: a tenth of the root mean square of the parameters, or of their relative change."""
        if self._magnitude:
            return 0.1
        return max(0.1 * float(self._theta[self._free].double().square().mean().sqrt()), 1e-9)

    def _accuracy(self, number: int, theta: Tensor) -> float:
        block = self._blocks[number]
        self.passes += block.samples / self._subject.samples
        return float((margins_at(block, theta, self._buffers) > 0).double().mean())

    def _scaled(self, sigma: float, draw: int) -> Tensor:
        key = derive_seed(self._subject.seed, "noise", int(self._magnitude), draw)
        generator = np.random.Generator(np.random.Philox(key=key))
        normal = torch.from_numpy(generator.standard_normal(len(self._theta), dtype=np.float32)).to(self._theta)
        normal *= self._free
        if not self._magnitude:
            return normal * (sigma if self._subject.parity is None else sigma**2)
        squares = sigma**2 * self._theta.square() + _EPS**2
        return normal * (squares.sqrt() if self._subject.parity is None else squares)


def _blocks(objective: Objective, parity: str | None) -> list[Objective]:
    """The data in blocks of samples from all over them; whole where the reference has it so, or batches are fixed."""
    data = objective.data
    count = data.samples // _BLOCK
    if parity is not None or not data.divisible or count < 2:
        return [objective]
    return [
        objective.on(data.taken(range(start, data.samples, count)), chunk=objective.chunk) for start in range(count)
    ]


def find_sigma(subject: Subject, magnitude: bool) -> Sigma:
    """The size of noise that lowers the accuracy by 0.1, with a relative standard error of `subject.tol`.

    The mean drop over draws that are the same for every sigma (common random numbers) is bracketed on a few draws, and
    then interpolated in ln sigma inside a narrow bracket, on more and more draws until the error is small enough. Every
    draw is tried on a block of the samples, one after another, so that many draws cost few passes. Raises InputError
    where no noise costs that much, or any does.
    """
    noise = _Noise(subject, magnitude)
    accuracy = float(np.mean([noise.without(number) for number in range(min(len(noise.few), noise.blocks))]))
    if accuracy <= _DROP:
        raise InputError(f"the accuracy without noise is {accuracy:.3g}, which no noise can lower by {_DROP}")
    try:
        return _reference(noise, subject) if subject.parity else _searched(noise, subject.tol)
    finally:
        subject.passes += noise.passes


def _searched(noise: _Noise, tol: float) -> Sigma:
    width = math.sqrt(2 * tol)  # of the bracket of ln sigma: interpolating in it errs by about a quarter of tol at most
    middle = _near(noise)
    low, high = middle * math.exp(-width / 2), middle * math.exp(width / 2)
    draws = _FIRST
    below, above = noise.drops(low, range(draws)), noise.drops(high, range(draws))
    for _ in range(_STEPS):
        first, second = float(below.mean()), float(above.mean())
        if first > _DROP:  # the root lies outside
            low, high, above = low * math.exp(-width), low, below
            below = noise.drops(low, range(draws))
            continue
        if second < _DROP:
            low, high, below = high, high * math.exp(width), above
            above = noise.drops(high, range(draws))
            continue
        rises = above - below
        rise = float(rises.mean())
        share = (_DROP - first) / rise if rise > 0 else 0.5
        spread, of_rise = ((values.std(ddof=1) / math.sqrt(draws)) for values in (below + share * rises, rises))
        steady = float(of_rise) <= _STEADY * rise  # else the error told is not to be believed
        error = float(spread) / (rise - float(of_rise)) * width if rise > float(of_rise) else math.inf
        if (error <= tol and steady) or draws >= _MOST:
            if error > tol:
                logger.warning("sigma is known to %.1f %%, not to tol=%g, after %d draws", 100 * error, tol, draws)
            return Sigma(low * math.exp(share * width), error * low * math.exp(share * width), draws)
        # As many draws as the error asks for and a tenth more.
        enough = draws * min(1.1 * (error / tol) ** 2, 4.0) if error > tol else 1.5 * draws
        more = range(draws, max(math.ceil(enough), draws + 1))
        below = np.concatenate([below, noise.drops(low, more)])
        above = np.concatenate([above, noise.drops(high, more)])
        draws = more.stop
    raise InputError(f"no size of noise was found that costs {_DROP} of the accuracy: it does not grow with the noise")


def _near(noise: _Noise) -> float:
    """About where few draws cost a tenth of the accuracy, from two sizes of noise that differ by a factor of two."""
    few = noise.few
    low = high = noise.size
    below = above = float(noise.drops(low, few).mean())
    if above < _DROP:
        for _ in range(_STEPS):
            low, high, below = high, 2 * high, above
            above = float(noise.drops(high, few).mean())
            if above >= _DROP:
                break
        else:
            raise InputError(
                f"no noise up to {high:.3g} lowers the accuracy by {_DROP}; it may be near chance, as without training"
            )
    else:
        for _ in range(_STEPS):
            low, high, above = low / 2, low, below
            below = float(noise.drops(low, few).mean())
            if below < _DROP:
                break
        else:
            raise InputError(
                f"noise of {low:.3g} still lowers the accuracy by {_DROP}: samples lie on the border of their classes, "
                f"or the noise of {_EPS} that magnitude-aware noise has besides is too large for these weights"
            )
    return low * 2 ** ((_DROP - below) / (above - below))


def _reference(noise: _Noise, subject: Subject) -> Sigma:
    """Bisection of [0, 2] as Jiang et al. have it: fresh draws at each step, ended where the drop is 0.1 +- 0.01."""
    low, high, sigma = 0.0, _JIANG_TOP, _JIANG_TOP
    for step in range(_JIANG_STEPS):
        sigma = (low + high) / 2
        drops = noise.drops(sigma, range(step * _JIANG_DRAWS, (step + 1) * _JIANG_DRAWS))
        gap = abs(float(drops.mean())) - _DROP
        if abs(gap) < _JIANG_TOL:
            break
        low, high = (sigma, high) if gap < 0 else (low, sigma)
    subject.note("the reference's bisection has no error of its own; parity=None has one")
    return Sigma(sigma, math.nan, _JIANG_DRAWS)


# -- the table ------------------------------------------------------------------------------------------------------


def _sigma(subject: Subject, magnitude: bool) -> Sigma:
    return subject.once(f"sigma {magnitude}", lambda: find_sigma(subject, magnitude))


def _through(subject: Subject, magnitude: bool, value: Callable[[float], float]) -> Estimate:
    """value(sigma) with the error of sigma, by a difference over that error."""
    found = _sigma(subject, magnitude)
    h = found.stderr if found.stderr > 0 else 1e-4 * found.value
    slope = (value(found.value + h / 2) - value(found.value - h / 2)) / h
    note = f"sigma = {found.value:.4g}"
    subject.note(note if math.isnan(found.stderr) else f"{note} +- {found.stderr:.2g}")
    return Estimate(value(found.value), stderr=abs(slope) * found.stderr, n=found.draws, unit="draw")


def _changes(subject: Subject) -> Tensor:
    then = subject.initial_weights
    return torch.cat([(w - then[name]).flatten() for name, w in subject.varying.items()])


def _vector(subject: Subject) -> Tensor:
    return torch.cat([w.flatten() for w in subject.varying.values()])


def _pacbayes(squares: float, samples: int) -> Callable[[float], float]:
    return lambda sigma: squares / (4 * sigma**2) + math.log(samples / sigma) + 10


def _init(subject: Subject) -> Estimate:
    return _through(subject, False, _pacbayes(float(_changes(subject).square().sum()), subject.samples))


def _orig(subject: Subject) -> Estimate:
    return _through(subject, False, _pacbayes(float(_vector(subject).square().sum()), subject.samples))


def _magnitude_aware(subject: Subject, squares: float) -> Estimate:
    changes, m = _changes(subject).square(), subject.samples
    count = len(changes)

    def value(sigma: float) -> float:
        above = _EPS**2 + (sigma**2 + 1) * squares / count
        logs = float((above / (_EPS**2 + sigma**2 * changes)).log().sum())
        return logs / 4 + math.log(m / sigma) + 10

    return _through(subject, True, value)


def _mag_init(subject: Subject) -> Estimate:
    return _magnitude_aware(subject, float(_changes(subject).square().sum()))


def _mag_orig(subject: Subject) -> Estimate:
    return _magnitude_aware(subject, float(_vector(subject).square().sum()))


def _flatness(magnitude: bool) -> Callable[[Subject], Estimate]:
    return lambda subject: _through(subject, magnitude, lambda sigma: sigma**-2)


_SIGMA = "N(0, sigma^2) on all parameters lowers the accuracy by 0.1"
_MAGNITUDE = "N(0, sigma^2 p_i^2 + eps^2) on each parameter p_i lowers the accuracy by 0.1, eps = 1e-3"
_LOGS = "1/4 sum_i ln((eps^2 + (sigma^2 + 1) |r|^2 / n) / (eps^2 + sigma^2 (w_i - w0_i)^2)) + ln(m / sigma) + 10"


def _entry(
    name: str, number: int, function: Callable[[Subject], Estimate], formula: str, needs: tuple[str, ...] = ()
) -> Measure:
    family = "magnitude noise" if "_mag_" in name else "noise"
    return Measure(name, function, ("margins", *needs), formula, f"{JIANG}, {number}", "root", family)


MEASURES = (
    _entry("pacbayes_init", 48, _init, f"|w - w0|^2 / (4 sigma^2) + ln(m / sigma) + 10, where {_SIGMA}", ("initial",)),
    _entry("pacbayes_orig", 49, _orig, f"|w|^2 / (4 sigma^2) + ln(m / sigma) + 10, where {_SIGMA}"),
    _entry("pacbayes_flatness", 53, _flatness(False), f"1 / sigma^2, where {_SIGMA}"),
    _entry("pacbayes_mag_init", 56, _mag_init, f"{_LOGS}, r = w - w0, where {_MAGNITUDE}", ("initial",)),
    _entry("pacbayes_mag_orig", 57, _mag_orig, f"{_LOGS}, r = w, where {_MAGNITUDE}", ("initial",)),
    _entry("pacbayes_mag_flatness", 61, _flatness(True), f"1 / sigma^2, where {_MAGNITUDE}"),
)
