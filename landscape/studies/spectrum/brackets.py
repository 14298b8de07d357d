"""What samples say of the largest eigenvalues, and which samples come next: numbers in, numbers out.

V are the eigenvectors of one sample's matrix, M = V H V' and R = H V' - V'M are known from independent blocks of
draws. The Ritz values mu of M are never above the eigenvalues (Cauchy), and no eigenvalue is further above its Ritz
value than r^2 / (mu - nu), r the norm of its residual and nu what bounds the rest of the spectrum (Kato 1949; Temple
1928). The first end of this bracket varies with the blocks, its width follows from how good the vectors are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from landscape_kernels.arrays import FloatArray

GROUPS = 16  # of blocks, each left out in turn
# Times the standard error of so many groups: 1.09 for Student's t at two of them, and a tenth because rounds end where
# errors came out small
CAUTION = 1.2
_SPARE = 0.85  # of the error asked that a round aims at: the errors are themselves estimates
_NARROW = 0.75  # of it, that the width may take where more values are to tell the rest
_FINER = 1.25  # power of the draws that variances fall with: more draws of a block are finer strata
_ALMOST = 0.6  # of the data, from which on all of them, which tell a value exactly, are the better buy
_MARGIN = 1.25  # times the draws that vectors are taken to need
_GROWTH = 8  # times its draws that a sample gets at most in one round


@dataclass(frozen=True)
class Bracket:
    """Between what the k largest eigenvalues of all data lie, all of (k,)."""

    lower: FloatArray  # Ritz values on independent data
    upper: FloatArray  # with what the residuals allow beyond them
    stderr: FloatArray  # standard error of the lower end, over the draws; 0 where it is of all data
    residuals: FloatArray  # |Hv - mu v| / |mu|, estimated without bias
    rotation: FloatArray  # (k, m), the Ritz vectors in V

    @property
    def values(self) -> FloatArray:
        """The middle."""
        middle: FloatArray = (self.lower + self.upper) / 2
        return middle

    @property
    def error(self) -> FloatArray:
        """Half the width, and the standard error."""
        found: FloatArray = np.hypot((self.upper - self.lower) / 2, self.stderr)
        return found


def bracket(
    forms: FloatArray, outside: FloatArray, k: int, *, around: FloatArray | None = None, exact: bool = False
) -> Bracket:
    """The bracket from `forms` (G, m, m), V H_g V' of G groups of blocks, and `outside` (m, m), unbiased for R'R.

    `around` (G, m, m) is `outside` without each of the groups: how far it varies with the draws is allowed for in the
    upper end. With `exact` the groups are parts of all data, whose mean is no estimate.
    """
    mean = forms.mean(0)
    values, rotation = _ritz(mean)
    stderr, bias = np.zeros(k), np.zeros(k)
    if not exact:
        count = len(forms)
        left_out = np.stack([_ritz((forms.sum(0) - part) / (count - 1))[0][:k] for part in forms])
        stderr = CAUTION * np.sqrt((count - 1) * left_out.var(axis=0))
        bias = (count - 1) * (left_out.mean(0) - values[:k])
    rotation = rotation[:, :k].T
    squares = np.maximum(np.einsum("ia,ab,ib->i", rotation, outside, rotation), 0.0)
    most = squares
    if around is not None:
        varied = np.einsum("ia,gab,ib->gi", rotation, around, rotation)
        most = squares + np.sqrt((len(around) - 1) * varied.var(axis=0))
    lower = values[:k] - bias
    rest = values[-1] if len(values) > k else 0.0
    gaps = np.maximum(values[:k] - rest, 0.0)
    lengths, longest = np.sqrt(squares), np.sqrt(most)
    width = np.zeros(k)
    np.divide(most, np.maximum(gaps, longest), out=width, where=most > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = np.where(lengths > 0, lengths / np.abs(values[:k]), 0.0)
    return Bracket(lower, lower + width, stderr, residuals, rotation)


def _ritz(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1], vectors[:, ::-1]


ALL, KRYLOV, VECTORS, SINGLE = range(4)  # what a round measures


@dataclass(frozen=True)
class Step:
    """What a round measures.

    ALL: all data, without sampling. KRYLOV: eigenvectors of a sample. VECTORS: V H V' of the last vectors V on new
    draws, and vectors of the next round from H V'. SINGLE: V H v' of some of the Ritz vectors v on more draws, or where
    these are as many as the data hold on all of them.
    """

    kind: int
    draws: int
    pairs: tuple[int, ...] = ()  # of single values


@dataclass(frozen=True)
class More:
    """What further draws say of some Ritz vectors."""

    draws: float  # infinite for all data
    pairs: tuple[int, ...]
    forms: FloatArray  # (G, p, m), V H_g v' of each of the pairs, V those that the bracket's rotation is of


def with_more(
    forms: FloatArray, outside: FloatArray, k: int, draws: int, more: Sequence[More], around: FloatArray | None = None
) -> tuple[Bracket, FloatArray]:
    """(the bracket of `draws` draws and of `more` of some of its Ritz vectors, weighted by draws; those Ritz vectors).

    A Ritz vector holds some of its neighbours, by the noise of the draws that it follows from, so v'Hv of others is too
    near to theirs. What H v has of the neighbours tells how much: values are those of the whole matrix in V.
    """
    first = _ritz(forms.mean(0))[1].T
    if not more:
        return bracket(forms, outside, k, around=around), first
    total = draws * (first @ forms @ first.T)
    weights = np.full(total.shape[1:], float(draws))
    for part in sorted(more, key=lambda part: part.draws):
        pairs, rows = list(part.pairs), part.forms @ first.T
        new, there = np.zeros_like(total), np.zeros(weights.shape, bool)
        new[:, pairs], new[:, :, pairs] = rows, rows.transpose(0, 2, 1)
        there[pairs], there[:, pairs] = True, True
        if math.isinf(part.draws):
            total, weights = np.where(there, new, total), np.where(there, 1.0, weights)
        else:
            total, weights = total + part.draws * new, weights + part.draws * there
    turned = None if around is None else first @ around @ first.T
    found = bracket(total / weights, first @ outside @ first.T, k, around=turned)
    return replace(found, rotation=found.rotation @ first), first


@dataclass(frozen=True)
class Spent:
    """The draws so far."""

    quality: int  # those that the vectors follow from
    draws: int  # those that V H V' was measured on, which the next vectors follow from
    single: FloatArray  # (k,), those of single values; infinite for all data


def next_step(found: Bracket, spent: Spent, error: float, samples: int, full: int) -> Step | None:
    """What is to be measured so that every error is `error` of its value at least cost; None once it is there.

    The width falls with the draws that the vectors follow from, the variance with a power of those of the values.
    `full` are the products of a measurement of all data, which is told where nothing else is cheaper.
    """
    aim = error * np.abs(found.values)
    if bool((found.error <= aim).all()):
        return None
    half, m = (found.upper - found.lower) / 2, found.rotation.shape[1]
    options: list[tuple[float, Step]] = [(float(full) * samples, Step(ALL, samples))]
    left = (_SPARE * aim) ** 2 - half**2
    if bool((half <= _NARROW * aim).all()):  # not at less room, as new vectors have their values measured anew
        everything = np.isinf(spent.single)  # nothing is lacking with all data
        have = spent.draws + np.where(everything, 0.0, spent.single)
        needed = np.where(everything, 0.0, _further(have, found.stderr**2 / left, samples))
        lacking = np.flatnonzero(found.error > aim)
        # few rounds: where each ended as soon as its own error came out small, errors would come out too small
        needed = np.minimum(np.maximum(needed[lacking], spent.draws / 2), samples) * (needed[lacking] > 0)
        more = math.ceil(float(needed.max()))
        if more:
            now = lacking[needed > more / 2]  # the others wait for a round of less
            options.append((float(needed.sum()), Step(SINGLE, more, tuple(now.tolist()))))
    half = half * min(1.0, spent.quality / spent.draws)
    grown = float((half / (_NARROW * aim)).max())
    # widths vary with the draws, too: where little is to spare, a round of a few more saves another one
    draws = math.ceil(spent.draws * min(max(_MARGIN * grown, 1.0), _GROWTH))
    left = np.maximum((_SPARE * aim) ** 2 - half**2, (aim / 2) ** 2)
    later = _further(np.full(len(left), draws), spent.draws / draws * found.stderr**2 / left, samples)
    options.append((m * draws * (1 + (grown > 1)) + float(later.sum()), Step(VECTORS, draws)))
    return min(options, key=lambda option: option[0])[1]


def _further(have: FloatArray, ratio: FloatArray, samples: int) -> FloatArray:
    """Draws beside those at hand that bring variances down by `ratio`; all data where that is hardly more."""
    times = np.clip(ratio ** (1 / _FINER), 1.0, _GROWTH)
    needed: FloatArray = (times - 1) * have
    return np.where(needed > _ALMOST * samples, float(samples), needed)
