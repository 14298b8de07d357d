"""Extreme eigenpairs of an operator whose vectors are too long to be held: Lanczos' method on rows of a file.

The relation is that of `krylov`, A V' = [V; q]' C with one vector q outside: full reorthogonalisation in two sweeps of
classical Gram-Schmidt, all coefficients kept, thick restarts. Rows are in float32, and coefficients are sums in float64
of products over stretches, so that only stretches of rows are in memory. Copies of a multiple eigenvalue are not looked
for: there is no random part beyond the first vector.

The rows of V may be in a shorter type, bfloat16 say. The vector that is multiplied stays in float32, and is rounded
where it is stored: v~ = v + d, |d| about 0.0015 in bfloat16. Products are orthogonalised against what is stored; a
vector couples to the product before it as it was. So A V' = [V~; q]' C - E, and the Ritz vector y = V~'s has

    |A y - theta y| <= |C s - theta [s; 0]| + |E s| + |A (V~ - V)'s|,    |E s|^2 = sum_i |d_i|^2 (sum_{j<i} C_ij s_j)^2

as what rounding takes is as good as random, and orthogonal to all else. As |C_ij| is at most half of what lies between
the ends of the spectrum, |E s| is at most 0.0008 of that; the last term, about 0.0015 |A|_F / sqrt(size), is far less
where few eigenvalues are large. |E s| is known, and counted in residuals; what restarts round is, too, but they keep
the wanted Ritz vectors in float32. More products do not make it smaller: a run ends where it is all that keeps pairs
from the tolerance. The error of theta is quadratic in the vector's: at most the square of the residual over the gap to
the next eigenvalue (Kato and Temple; Parlett, ch. 11).

Sources: as in `krylov`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.filed import FiledVectors
from landscape_kernels.probes import NormalPieces

_STRETCH = 1 << 16  # values of a row that are held at once
_SWEEPS = 5  # of Gram-Schmidt; two are the rule
_ROUNDING = 10  # a number below _ROUNDING eps |A| cannot be told from zero
_EPS = torch.finfo(torch.float32).eps
_KNOWN = 0.9  # share of the tolerance that the known part of a residual may take where rows are rounded
# Rows in float32 of a run whose other rows are rounded: the vector that is multiplied, its product, and the vector of
# the state that was kept last, from which a killed run goes on.
_WORK = 3


@dataclass(frozen=True)
class FiledEnd:
    """Approximate eigenpairs; their vectors are rows of the file."""

    values: FloatArray  # (j,)
    rows: tuple[int, ...]  # (j,), empty where they were not made
    residuals: FloatArray  # (j,), |A v - theta v|
    converged: BoolArray  # (j,)


@dataclass(frozen=True)
class FiledEigenpairs:
    """Both ends of a spectrum, as `krylov.Eigenpairs`."""

    largest: FiledEnd  # descending
    smallest: FiledEnd  # ascending; without vectors where none was asked for
    further: FiledEnd  # the k next to the largest
    free: int  # rows of the file from here on are not used
    products: int
    restarts: int
    norm: float  # largest |A v| seen


@dataclass(frozen=True)
class FiledState:
    """What a run knows between two products, but for the rows of the file: V and q begin at row `base`."""

    coefficients: FloatArray  # (m + 1, m)
    base: int
    products: int
    restarts: int
    fresh: int
    norm: float
    lost: float
    noise: FloatArray  # (r, m), whose products with s are as long as E s
    place: int = 0  # of the rows in float32 that of q, where rows are rounded

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays, for a file."""
        counters = np.array([self.base, self.products, self.restarts, self.fresh, self.place], dtype=np.int64)
        norms = np.array([self.norm, self.lost])
        return {"coefficients": self.coefficients, "counters": counters, "norms": norms, "noise": self.noise}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FiledState:
        """The state that `to_arrays` wrote, also before rows were rounded."""
        base, products, restarts, fresh, *place = arrays["counters"].tolist()
        norm, lost = arrays["norms"].tolist()
        coefficients = np.array(arrays["coefficients"], dtype=np.float64)
        noise = np.array(arrays["noise"]) if "noise" in arrays else np.zeros((0, coefficients.shape[1]))
        return cls(coefficients, base, products, restarts, fresh, norm, lost, noise, *place)


def basis_rows(k: int, smallest: int, size: int) -> int:
    """How many rows a run keeps before it restarts."""
    return min(2 * (k + smallest + 1) + 16, size)


def rows_of_file(k: int, smallest: int, size: int, *, rounded: bool = False) -> int:
    """How many rows of the file a run writes at most: two bases, as a restart writes the other, and Ritz vectors.

    Where rows are `rounded`, in a type shorter than float32, there are three more; see `_WORK`.
    """
    return 2 * (basis_rows(k, smallest, size) + 1) + (_WORK if rounded else 0) + 2 * k + smallest


def wide_rows(k: int, smallest: int, size: int, rows: int) -> tuple[int, ...]:
    """Which of the file's `rows` rows are in float32 where the others are rounded."""
    base = basis_rows(k, smallest, size) + 1
    wanted = range(min(k + smallest, base))
    return (*wanted, *(base + row for row in wanted), *range(2 * base, rows))


def filed_eigenpairs(
    vectors: FiledVectors,
    multiply: Callable[[int, int], None],
    k: int,
    *,
    smallest: int = 0,
    tol: float = 1e-3,
    seed: int = 0,
    max_products: int | None = None,
    state: FiledState | None = None,
    save: Callable[[FiledState, bool], bool] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> FiledEigenpairs:
    """The k largest and the `smallest` smallest eigenpairs of A, where `multiply(i, j)` makes row j A times row i.

    Stops as `krylov.eigenpairs` does, but looks for no copies, and where rounding alone keeps pairs from the tolerance.
    `save(state, restarted)` is called after every product and restart, and says whether it kept the state; a run given
    the one that was kept last and the same file goes on to the same bits, where that after each restart was kept.
    `vectors` in a type shorter than float32 are to be `wide` as `wide_rows` says. Raises FloatingPointError where a
    product holds NaN or Inf.

    >>> A, rows = torch.diag(torch.tensor([5.0, 1.0, -2.0])), FiledVectors(3)
    >>> def multiply(i, j):
    ...     rows.write(j, slice(0, 3), A @ rows.read(i, slice(0, 3)))
    >>> found = filed_eigenpairs(rows, multiply, 1, smallest=1)
    >>> found.largest.values.round(5), found.smallest.values.round(5), found.products
    (array([5.]), array([-2.]), 3)
    """
    run = _Run(vectors, multiply, basis_rows(k, smallest, vectors.size), seed, state)
    most = max_products or 200 + 50 * (k + smallest)
    while True:
        values, rotation, residuals, converged, over = run.ritz(tol)
        wanted = np.unique(np.r_[0 : min(smallest, run.m), max(run.m - k, 0) : run.m]).astype(int)
        enough = run.m >= max(k, smallest) and bool(over[wanted].all())
        if run.m == vectors.size or enough or run.products >= most:
            break
        if report is not None:
            report(run.products, int(converged[wanted].sum()))
        if run.m + 1 >= run.limit and run.limit < vectors.size:
            run.restart(values, rotation, k, smallest)
            if save is not None and save(run.state, True):
                run.is_kept()
            continue
        run.step()
        if save is not None and save(run.state, False):
            run.is_kept()
    top, bottom = np.arange(run.m)[::-1], np.arange(run.m)
    free = run.work + (_WORK if run.rounded else 0)

    def end(chosen: npt.NDArray[np.intp], made: bool = True) -> FiledEnd:
        nonlocal free
        rows = run.vectors(rotation[:, chosen], free) if made and len(chosen) else ()
        free += len(rows)
        return FiledEnd(values[chosen], rows, residuals[chosen], converged[chosen])

    ends = end(top[:k]), end(bottom[: smallest or k], bool(smallest))
    further = end(top[k : 2 * k][: max(0, run.m - k - smallest)])
    return FiledEigenpairs(*ends, further, free, run.products, run.restarts, run.norm)


class _Run:
    """The relation A V' = [V; q]' C while it grows."""

    def __init__(
        self,
        vectors: FiledVectors,
        multiply: Callable[[int, int], None],
        limit: int,
        seed: int,
        state: FiledState | None,
    ) -> None:
        self._vectors, self._multiply, self.limit, self._seed = vectors, multiply, limit, seed
        self.rounded = vectors.dtype.itemsize < torch.float32.itemsize
        self.work = 2 * (limit + 1)  # the first row after both bases
        self._coefficients, self._noise = np.zeros((1, 0)), np.zeros((0, 0))
        self._base = self.products = self.restarts = self._fresh = 0
        self.norm = self._lost = 0.0
        self._place, self._kept = 0, -1  # rows in float32 of q, and of that of the state that was kept last
        if state is not None:
            self._coefficients, self._base = state.coefficients, state.base
            self.products, self.restarts, self._fresh = state.products, state.restarts, state.fresh
            self.norm, self._lost, self._noise = state.norm, state.lost, state.noise
            self._place = state.place
            self.is_kept()
        else:
            self._random(self._rows[0], 0)

    @property
    def m(self) -> int:
        """Rows of V."""
        return self._coefficients.shape[1]

    @property
    def state(self) -> FiledState:
        """All that there is beside the file."""
        counters = self._base, self.products, self.restarts, self._fresh
        noise = self._noise.copy()
        return FiledState(self._coefficients.copy(), *counters, self.norm, self._lost, noise, self._place)

    def is_kept(self) -> None:
        """Note that a run may go on from the present state: its q stays in the file until another is kept."""
        self._kept = self._place

    @property
    def _rows(self) -> tuple[int, int]:
        """Where the vector to be multiplied is in float32, and where its product goes."""
        if self.rounded:
            return self.work + self._place, self.work + self._free
        return self._base + self.m, self._base + self.m + 1

    @property
    def _free(self) -> int:
        """Of the rows in float32 one that holds neither q nor that of the state that was kept last."""
        return next(place for place in range(_WORK) if place not in (self._place, self._kept))

    def ritz(self, tol: float) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray, BoolArray]:
        """Values ascending, coefficients (m, m) of the vectors, residuals, which are within the tolerance.

        Last of which nothing more is to be had: they are within it, or what further products change, the coupling to q,
        is the smaller part of a residual whose other part alone is beyond it.
        """
        m = self.m
        values, rotation = np.linalg.eigh((self._coefficients[:m] + self._coefficients[:m].T) / 2)
        rest = self._coefficients @ rotation
        rest[:m] -= rotation * values
        unseen = np.hypot(math.hypot(_EPS * self.norm, self._lost), np.linalg.norm(self._noise @ rotation, axis=0))
        residuals = np.hypot(np.linalg.norm(rest, axis=0), unseen)
        inside, coupled = np.hypot(np.linalg.norm(rest[:m], axis=0), unseen), np.linalg.norm(rest[m:], axis=0)
        zero = np.maximum(np.abs(values), residuals) <= self._floor
        asked = (_KNOWN if self.rounded else 1) * tol * np.abs(values)
        converged = (residuals <= asked) | zero
        return values, rotation, residuals, converged, converged | ((inside > asked) & (coupled <= inside))

    def step(self) -> None:
        """Multiply q, which joins V, and make what is left of the product the next q."""
        m = self.m
        here, row = self._rows
        following = self._free
        if self.rounded:
            taken = self._copy(here, self._base + m)
            self._noise = np.vstack([self._noise, taken * self._coefficients[m]])
        self._noise = np.pad(self._noise, ((0, 0), (0, 1)))
        self._multiply(here, row)
        self.products += 1
        self._place = following
        length = self._length(row)
        if not math.isfinite(length):
            raise FloatingPointError(f"product {self.products} of the operator holds NaN or Inf")
        self.norm = max(self.norm, length)
        inside, left = self._orthogonalise(row, m + 1)
        grown = np.zeros((m + 2, m + 1))
        grown[: m + 1, :m] = self._coefficients
        grown[: m + 1, m] = inside
        if left > self._floor:
            grown[m + 1, m] = left
            self._scale(row, 1 / left)
        elif m + 1 < self._vectors.size:  # V holds all its products: another random vector
            self._random(row, m + 1)
        self._coefficients = grown

    def restart(self, values: FloatArray, rotation: FloatArray, k: int, smallest: int) -> None:
        """Keep the wanted Ritz vectors and of the others those at the same ends, about half of the rows, and q."""
        m = self.m
        spare = max(1, (self.limit - 2 - k - smallest) // 2)
        low = smallest + (max(1, spare * smallest // (k + smallest)) if smallest else 0)
        high = min(k + spare - (low - smallest), m - low - 1)
        kept = np.r_[0:smallest, m - k : m, smallest:low, m - high : m - k].astype(int)  # the wanted ones first
        given_up = np.delete(rotation, kept, axis=1)
        chosen = rotation[:, kept]
        coupled = given_up.T @ self._coefficients[:m] @ chosen
        self._lost = math.hypot(self._lost, float(np.linalg.norm(coupled, 2)) if coupled.size else 0.0)
        base = 0 if self._base else self.limit + 1
        taken = self._combine(chosen, base)
        noise = np.vstack([self._noise @ chosen, np.diag(taken * values[kept])])
        self._noise = np.linalg.qr(noise).R  # as long with every s, in fewer rows
        if not self.rounded:
            self._copy(self._base + m, base + len(kept))
        self._coefficients = np.concatenate(
            [chosen.T @ self._coefficients[:m] @ chosen, self._coefficients[m:] @ chosen]
        )
        self._base = base
        self.restarts += 1

    def vectors(self, rotation: FloatArray, first: int) -> tuple[int, ...]:
        """Rows from `first` on become the Ritz vectors rotation' V, of length one where V is rounded; their numbers."""
        rows = tuple(range(first, first + self._combine(rotation, first).size))
        for row in rows if self.rounded else ():
            self._scale(row, 1 / self._length(row))
        return rows

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _floor(self) -> float:
        return _ROUNDING * _EPS * self.norm

    def _places(self) -> Iterator[slice]:
        size = self._vectors.size
        return (slice(start, min(start + _STRETCH, size)) for start in range(0, size, _STRETCH))

    def _basis(self, count: int, place: slice) -> Tensor:
        return torch.stack([self._vectors.read(self._base + row, place).float() for row in range(count)])

    def _combine(self, rotation: FloatArray, first: int) -> FloatArray:
        """Rows from `first` on become rotation' V; lengths of what rounding takes from them."""
        factor = torch.from_numpy(np.ascontiguousarray(rotation.T)).float()
        squares = np.zeros(len(factor))
        for place in self._places():
            made = factor @ self._basis(self.m, place)
            squares += [self._write(first + number, place, part) for number, part in enumerate(made)]
        return np.sqrt(squares)

    def _copy(self, row: int, to: int) -> float:
        """Make a row another; the length of what rounding takes from it."""
        return math.sqrt(sum(self._write(to, place, self._vectors.read(row, place)) for place in self._places()))

    def _write(self, row: int, place: slice, values: Tensor) -> float:
        """Write values of a row; the square of the length of what rounding takes from them."""
        self._vectors.write(row, place, values)
        kind = self._vectors.dtype_of(row)
        return 0.0 if kind == values.dtype else float((values - values.to(kind)).double().square().sum())

    def _random(self, row: int, count: int) -> None:
        """A row of random values of length one, orthogonal to the first `count` of the basis."""
        places = list(self._places())
        drawn = NormalPieces([p.stop - p.start for p in places], self._seed, "krylov", self._fresh)
        self._fresh += 1
        for number, place in enumerate(places):
            values = drawn.draw(number, np.empty(place.stop - place.start))
            self._vectors.write(row, place, torch.from_numpy(values))
        self._scale(row, 1 / self._length(row))
        if count:
            _, left = self._orthogonalise(row, count)
            self._scale(row, 1 / left)

    def _length(self, row: int) -> float:
        parts = (self._vectors.read(row, place).double().square().sum() for place in self._places())
        return math.sqrt(sum(float(part) for part in parts))

    def _scale(self, row: int, factor: float) -> None:
        for place in self._places():
            self._vectors.write(row, place, self._vectors.read(row, place).mul_(factor))

    def _orthogonalise(self, row: int, count: int) -> tuple[FloatArray, float]:
        """(coefficients (count,) in the basis, length of what is left) of a row, which becomes what is left."""
        inside = np.zeros(count)
        inner, before = self._sweep(row, count, None)
        for sweep in range(_SWEEPS):
            inside += inner
            inner, left = self._sweep(row, count, inner)
            if left <= self._floor or (sweep and left > 0.5 * before):
                break
            before = left
        return inside, left

    def _sweep(self, row: int, count: int, inner: FloatArray | None) -> tuple[FloatArray, float]:
        """Take `inner` times the basis from a row; then its coefficients in the basis, and its length."""
        found, square = np.zeros(count), 0.0
        factor = None if inner is None else torch.from_numpy(inner).float()
        for place in self._places():
            basis, values = self._basis(count, place), self._vectors.read(row, place)
            if factor is not None:
                values = torch.addmv(values, basis.T, factor, alpha=-1)
                self._vectors.write(row, place, values)
            found += (basis @ values).double().numpy()
            square += float(values.double().square().sum())
        return found, math.sqrt(square)
