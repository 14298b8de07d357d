"""Extreme eigenpairs and Gauss quadrature of a symmetric operator from its products with vectors.

One relation carries everything. With orthonormal rows V (m, size), the basis whose products are known, and Q (r, size),
the directions in which those products leave its span,

    A V' = [V; Q]' C,      C (m + r, m) = [T; B],

where T = V A V' is the projected matrix and B the coupling to Q. A step moves the rows of Q to V, applies A to them
and orthogonalises what comes out against all rows, in two sweeps of classical Gram-Schmidt; C takes every coefficient
of these sweeps (as in Arnoldi's method), not only those that are not zero in exact arithmetic. A Ritz pair (theta,
v = V's) then has

    |A v - theta v| = |C s - theta [s; 0]|

up to the rounding of one product, its missing symmetry included; eps |A| is added for that rounding. Starting from one
random vector this is Lanczos' method, from b vectors block Lanczos. A restart keeps the best Ritz vectors as V and all
of Q: the relation still holds, but for what a lack of symmetry couples to the vectors given up, whose norm is added to
all residuals from then on; converged pairs stay (locked: they cost no further product).

A space grown from one vector has one direction of every eigenspace, so further copies of an eigenvalue are orthogonal
to it. Once the wanted pairs have converged, a search looks for them: a chain of products from a new random vector
orthogonal to V, Lanczos' method on the complement of V, for which Q is rotated so that its first row is the chain's
next vector. Where it brings nothing beyond the wanted values, the list is
complete but for a chance: the chain's last vector is p(B) r, B the compression of A and p a polynomial known from its
coefficients, and of length one, so that an eigenvector u of B has |u'r| <= 1 / |p(lambda)|, which a random r has with a
probability below sqrt(2 n / pi) / |p(lambda)|, n its number of free entries. Where it brings something, the run goes on
until that has converged, too, and searches again.

Sources: Parlett, The Symmetric Eigenvalue Problem, 1998, ch. 13; Wu and Simon, "Thick-restart Lanczos method for large
symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 22, 2000; Giraud, Langou, Rozloznik, van den Eshof, "Rounding
error analysis of the classical Gram-Schmidt orthogonalization process", Numer. Math. 101, 2005 (two sweeps are enough);
van Dorsselaer, Hochstenbach, van der Vorst, "Computing probabilistic bounds for extreme eigenvalues of symmetric
matrices with the Lanczos method", SIAM J. Matrix Anal. Appl. 22, 2000 (the chance of a search).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape_kernels.arrays import BoolArray, FloatArray
from landscape_kernels.operators import Operator
from landscape_kernels.probes import normal_vector

_ROUNDING = 10  # a number below _ROUNDING eps |A| cannot be told from zero
_SWEEPS = 5  # of Gram-Schmidt; two are the rule, more where almost nothing is left outside the basis
_CHUNK = 1 << 16  # columns of the basis that a restart combines at a time
_SHARE = 0.15  # of the products of a run that a search takes as a rule
_LEAST = 2  # products of a search; the first one only measures the random vector
_MOST = 0.5  # of the products so far that a search takes where it learns little
_MOST_LEAST = 8  # products that it may take in any case
_SURE = 1e-3  # chance of a missing copy at which a search ends before its share is spent
_CHANCE = 0.05  # and at which it ends then, where copies were not seen before
_APART = 0.1  # length of the random part of a start that no search follows, in that of the guesses
_WARM = 8  # products of such a run at least


@dataclass(frozen=True)
class RitzPairs:
    """Approximate eigenpairs, each with the residual of its product."""

    values: FloatArray  # (k,)
    vectors: Tensor  # (k, size), orthonormal rows
    residuals: FloatArray  # (k,), |A v - theta v|: some eigenvalue lies within this distance of theta
    converged: BoolArray  # (k,), residual <= tol |theta|, or both zero to rounding


@dataclass(frozen=True)
class Eigenpairs:
    """Both ends of a spectrum and what they cost."""

    largest: RitzPairs  # descending
    smallest: RitzPairs  # ascending
    further: RitzPairs  # the k next to the largest, descending, as far as the run has them; seldom converged
    products: int  # vectors multiplied
    passes: int  # calls of the operator's apply
    restarts: int
    norm: float  # largest |A v| seen for a unit vector or |theta|, a lower bound of |A|
    exhausted: bool  # an invariant subspace or the whole space was reached
    searched: int  # of the products: those of searches for copies of eigenvalues that the space does not hold
    # chance that a copy of an eigenvalue beyond the last wanted ones (by more than the tolerance) is missing, at most:
    # 0 where the whole space is known or one value an end was asked for; NaN where no search was finished
    missed: float


@dataclass(frozen=True)
class KrylovState:
    """All that a run knows between two products.

    `basis` is a view of the run's memory and holds until the run goes on; `to_arrays` copies.
    """

    basis: Tensor  # (m + r, size): V, then Q
    coefficients: FloatArray  # (m + r, m): C
    products: int
    passes: int
    restarts: int
    fresh: int  # random vectors drawn so far
    norm: float
    lost: float  # norm of what restarts left out of the relation
    settled: FloatArray  # wanted values when the search began, each moved outwards by its error
    exhausted: bool
    seed: int
    chain: int = -1  # first row of V that the search under way has added; -1 where none is
    searched: int = 0  # products of searches so far
    share: int = 0  # of the search under way: its products as a rule; 0 where it has to be sure, -1 where it has ended
    missed: float = math.nan  # chance of a missing copy after a search that brought nothing, else NaN

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Plain arrays, for a file."""
        counters = [self.products, self.passes, self.restarts, self.fresh, int(self.exhausted)]
        counters += [self.chain, self.searched, self.share]
        return {
            "basis": self.basis.cpu().numpy().copy(),
            "coefficients": self.coefficients.copy(),
            "counters": np.array(counters, dtype=np.int64),
            "norms": np.array([self.norm, self.lost, self.missed]),
            "settled": self.settled.copy(),
            "seed": np.frombuffer(str(self.seed).encode(), dtype=np.uint8),  # may have more than 64 bits
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> KrylovState:
        """The state that `to_arrays` wrote, also before there were searches."""
        counters = [int(n) for n in arrays["counters"]]
        products, passes, restarts, fresh, exhausted, *search = counters
        chain, searched, share = search or (-1, 0, 0)
        norm, lost, *chance = (float(n) for n in arrays["norms"])
        return cls(
            basis=torch.from_numpy(np.array(arrays["basis"])),
            coefficients=np.array(arrays["coefficients"], dtype=np.float64),
            products=products,
            passes=passes,
            restarts=restarts,
            fresh=fresh,
            norm=norm,
            lost=lost,
            settled=np.array(arrays["settled"], dtype=np.float64),
            exhausted=bool(exhausted),
            seed=int(arrays["seed"].astype(np.uint8).tobytes().decode()),
            chain=chain,
            searched=searched,
            share=share,
            missed=chance[0] if chance else math.nan,
        )


def eigenpairs(
    operator: Operator,
    k: int,
    *,
    smallest: int = 0,
    tol: float = 1e-3,
    block: int = 1,
    start: Tensor | None = None,
    seed: int = 0,
    max_products: int | None = None,
    basis_limit: int | None = None,
    state: KrylovState | None = None,
    save: Callable[[KrylovState], None] | None = None,
    report: Callable[[int, int], None] | None = None,
    by_magnitude: bool = False,
) -> Eigenpairs:
    """The k largest and the `smallest` smallest eigenpairs, by value with sign, from one Krylov space.

    Stops as soon as all of them have a residual |A v - theta v| <= tol |theta| (or are zero to rounding: value and
    residual below 10 eps |A|) and a search brought nothing beyond them, or after `max_products` (by default
    200 + 50 (k + smallest)); pairs that did not make it say so. With `smallest=0` the lowest min(k, m) Ritz pairs that
    the run happens to have are returned all the same. Fewer than k pairs come back only where `max_products` is below
    k. With `by_magnitude` the k pairs are those of largest |theta|: `largest` has the positive, `smallest` the negative
    ones.

    `block` vectors share one call of the operator. A space grown from one vector holds one copy of a multiple
    eigenvalue, one grown from b vectors b copies. Others are found by searches from random vectors, of
    max(2, 15 %) of the products so far, or less where the chance of having missed one is below 1e-3 before:
    `searched` and `missed` tell both. None is needed for one value an end, where the start has a random part.

    `start` (j, size) are guesses of the wanted eigenvectors, of length one. They are summed into the first block, guess
    i into row i mod block: a Krylov space grown from the sum of good guesses has separated them after about as many
    products, and grown from bad ones it is no worse than from a random vector. Guesses may span an invariant subspace
    with the wrong eigenvalues: the search shows it, and for one value an end a random part that the start then has.

    At most `basis_limit` vectors are kept, and then the run restarts from its best Ritz vectors. By default that is
    2 (k + smallest + block) + 40.

    `save` is called after every product with the state; a run given such a `state` (and otherwise the same arguments)
    goes on from there and returns the same bits. All decisions follow from the bytes of the products. `report` is
    called before every product with the number of products so far and of wanted pairs that have converged.

    Raises ValueError for arguments that cannot be, FloatingPointError where a product holds NaN or Inf.

    >>> from landscape_kernels.operators import MatrixOperator
    >>> found = eigenpairs(MatrixOperator(torch.diag(torch.tensor([5.0, 1.0, -2.0]))), 1, smallest=1)
    >>> found.largest.values.round(6), found.smallest.values.round(6), found.products
    (array([5.]), array([-2.]), 3)
    """
    if basis_limit is None:
        basis_limit = 2 * (k + smallest + block) + 40
    if max_products is None:
        max_products = 200 + 50 * (k + smallest)
    _check(operator, k, smallest, tol, block, max_products, basis_limit, start, state)
    if by_magnitude and smallest:
        raise ValueError(f"smallest={smallest} with by_magnitude, which takes both ends by itself")
    wanted = _Wanted(k, smallest, by_magnitude, tol)
    one_an_end = max(k, smallest) <= 1
    least = _WARM if one_an_end and start is not None else max(k, smallest)
    run = _Run(operator, min(basis_limit, operator.size), seed)
    if state is None:
        run.begin(start, min(block, operator.size), _APART if one_an_end else 0.0)
    else:
        run.resume(state)
    made_room = False
    while True:
        ritz = run.ritz(tol)
        low, high = wanted.ends(ritz.values)
        places = np.unique(np.r_[0 : min(low, run.m), max(run.m - high, 0) : run.m])
        enough = run.m >= least and bool(ritz.converged[places].all())
        if run.m == operator.size or (enough and one_an_end):
            run.missed = 0.0
            break
        if run.searching or run.searched:
            if wanted.beyond(ritz.values, run.settled):
                run.end_search(math.nan)
            elif run.searching and run.search_ends(chance := run.chance(*wanted.edges(ritz, run.floor))):
                run.end_search(chance)
        if run.products >= max_products or (enough and not math.isnan(run.missed)):
            break
        if enough and not run.searching:
            if not made_room and run.room < run.search_length(k + smallest, whole=run.restarts > 0):
                made_room = True
                run.restart(ritz, high, low, 1)
                continue
            made_room = False
            run.begin_search(wanted.outside(ritz, run.floor), k + smallest)
        if report is not None:
            report(run.products, int(ritz.converged[places].sum()))
        if run.q == 0:
            run.add_random()
        if not run.searching:
            run.put_first(ritz.rotation[:, places[~ritz.converged[places]]], block)
        count = 1 if run.searching else min(run.q, block, max_products - run.products)
        if min(run.m + run.q + count, operator.size) > basis_limit:
            run.restart(ritz, high, low, count)
            continue
        run.step(count)
        if save is not None:
            save(run.state())
    lowest = low if by_magnitude else smallest or k
    top = np.arange(run.m)[::-1][:high]
    return Eigenpairs(
        run.pairs(ritz, top),
        run.pairs(ritz, np.arange(min(lowest, run.m))),
        run.pairs(ritz, np.arange(low, run.m)[::-1][high : high + k]),
        run.products,
        run.passes,
        run.restarts,
        run.norm,
        run.exhausted,
        run.searched,
        run.missed,
    )


def dense_eigenpairs(matrix: FloatArray, k: int, *, smallest: int = 0, by_magnitude: bool = False) -> Eigenpairs:
    """What `eigenpairs` returns for a matrix (size, size) in float64 that is known whole, by a dense solver.

    All copies of an eigenvalue are there; residuals are the solver's rounding, ten eps |A|.
    """
    size = len(matrix)
    values, vectors = np.linalg.eigh(matrix)
    low, high = _Wanted(k, smallest, by_magnitude, 0.0).ends(values)
    norm = float(np.abs(values).max(initial=0.0))
    rows = torch.from_numpy(np.ascontiguousarray(vectors.T))

    def pairs(chosen: npt.NDArray[np.intp]) -> RitzPairs:
        rounding = np.full(len(chosen), _rounding(torch.float64) * norm)
        return RitzPairs(values[chosen], rows[torch.from_numpy(chosen)], rounding, np.ones(len(chosen), dtype=bool))

    lowest = low if by_magnitude else smallest or k
    return Eigenpairs(
        pairs(np.arange(size)[::-1][:high].copy()),
        pairs(np.arange(min(lowest, size))),
        pairs(np.arange(low, size)[::-1][high : high + k].copy()),
        products=size,
        passes=0,
        restarts=0,
        norm=norm,
        exhausted=True,
        searched=0,
        missed=0.0,
    )


def _check(
    operator: Operator,
    k: int,
    smallest: int,
    tol: float,
    block: int,
    max_products: int,
    basis_limit: int,
    start: Tensor | None,
    state: KrylovState | None,
) -> None:
    for name, count in (("k", k), ("smallest", smallest)):
        if not 0 <= count <= operator.size:
            raise ValueError(f"{name}={count} eigenpairs of an operator of size {operator.size}")
    if k + smallest == 0:
        raise ValueError("k=0 and smallest=0: no eigenpair is asked for")
    for name, value in (("tol", tol), ("block", block), ("max_products", max_products)):
        if not value > 0:
            raise ValueError(f"{name}={value} is not positive")
    least = min(k + smallest + 2 * block + 1, operator.size)
    if basis_limit < least:
        raise ValueError(
            f"basis_limit={basis_limit} leaves no room for k={k} and smallest={smallest} eigenpairs and "
            f"blocks of {block}: at least {least}"
        )
    if start is not None:
        if start.numel() == 0 or start.shape[-1] != operator.size:
            raise ValueError(f"start of shape {tuple(start.shape)} holds no vectors of size {operator.size}")
        if not bool(torch.isfinite(start).all()):
            raise ValueError("start holds NaN or Inf")
    if state is not None and (state.basis.shape[1] != operator.size or state.basis.dtype != operator.dtype):
        raise ValueError(
            f"the state has vectors of size {state.basis.shape[1]} ({state.basis.dtype}), "
            f"the operator {operator.size} ({operator.dtype})"
        )


@dataclass(frozen=True)
class _Ritz:
    """All Ritz pairs of the projected matrix, ascending."""

    values: FloatArray  # (m,)
    rotation: FloatArray  # (m, m), columns s
    residuals: FloatArray  # (m,)
    converged: BoolArray  # (m,)


@dataclass(frozen=True)
class _Wanted:
    """Which of the Ritz values are asked for."""

    k: int
    smallest: int
    by_magnitude: bool
    tol: float

    def ends(self, values: FloatArray) -> tuple[int, int]:
        """(how many of the smallest, how many of the largest) of the ascending values."""
        if not self.by_magnitude:
            return self.smallest, self.k
        descending = values[::-1]  # so that of two of equal magnitude the positive one comes first
        best = descending[np.argsort(-np.abs(descending), kind="stable")[: self.k]]
        negative = int((best < 0).sum())
        return negative, self.k - negative

    def _ranked(self, values: FloatArray, errors: FloatArray) -> FloatArray:
        """What a copy would raise: the largest, and the smallest negated, each best first; or all by magnitude."""
        if self.by_magnitude:
            best = np.argsort(-np.abs(values), kind="stable")[: self.k]
            return np.abs(values[best]) + errors[best]
        return np.concatenate([(values + errors)[::-1][: self.k], (errors - values)[: self.smallest]])

    def outside(self, ritz: _Ritz, floor: float) -> FloatArray:
        """The values, each moved outwards by its residual: what is beyond has not been there."""
        return self._ranked(ritz.values, ritz.residuals + floor)

    def beyond(self, values: FloatArray, outside: FloatArray) -> bool:
        """Whether a value has come that was not there."""
        return bool((self._ranked(values, np.zeros(len(values))) > outside).any())

    def edges(self, ritz: _Ritz, floor: float) -> tuple[float, float]:
        """Between which two values copies do not matter: the last wanted ones, moved outwards by the tolerance."""
        margins = np.maximum(ritz.residuals, self.tol * np.abs(ritz.values)) + floor
        if self.by_magnitude:
            last = np.argsort(-np.abs(ritz.values), kind="stable")[self.k - 1]
            most = float(np.abs(ritz.values[last]) + margins[last])
            return -most, most
        bottom = float((ritz.values - margins)[self.smallest - 1]) if self.smallest else -math.inf
        return bottom, float((ritz.values + margins)[-self.k]) if self.k else math.inf


class _Run:
    """The relation A V' = [V; Q]' C while it grows."""

    def __init__(self, operator: Operator, limit: int, seed: int) -> None:
        self._operator = operator
        self._vectors = torch.empty(limit, operator.size, dtype=operator.dtype, device=operator.device)
        self._coefficients = np.zeros((0, 0))
        self._seed = seed
        self._fresh = 0
        self.products = self.passes = self.restarts = 0
        self.norm = self._lost = 0.0
        self.settled = np.zeros(0)
        self.exhausted = False
        self._chain, self.searched, self._share, self.missed = -1, 0, 0, math.nan

    @property
    def m(self) -> int:
        """Rows of V."""
        return self._coefficients.shape[1]

    @property
    def q(self) -> int:
        """Rows of Q."""
        return self._coefficients.shape[0] - self.m

    @property
    def _basis(self) -> Tensor:
        return self._vectors[: self.m + self.q]

    def state(self) -> KrylovState:
        """What `resume` needs."""
        return KrylovState(
            self._basis,
            self._coefficients,
            self.products,
            self.passes,
            self.restarts,
            self._fresh,
            self.norm,
            self._lost,
            self.settled,
            self.exhausted,
            self._seed,
            self._chain,
            self.searched,
            self._share,
            self.missed,
        )

    def resume(self, state: KrylovState) -> None:
        """Go on from a state."""
        rows = len(state.basis)
        if rows > len(self._vectors) or state.coefficients.shape[0] != rows:
            raise ValueError(f"a state of {rows} vectors does not fit a basis of at most {len(self._vectors)}")
        self._vectors[:rows] = state.basis.to(self._vectors)
        self._coefficients = state.coefficients.copy()
        self.products, self.passes, self.restarts = state.products, state.passes, state.restarts
        self._fresh, self._seed = state.fresh, state.seed
        self.norm, self._lost = state.norm, state.lost
        self.settled, self.exhausted = state.settled, state.exhausted
        self._chain, self.searched, self._share = state.chain, state.searched, state.share
        self.missed = state.missed

    def begin(self, start: Tensor | None, width: int, apart: float) -> None:
        """Q from the guesses, guess i added to row i mod width, filled up with random vectors to `width` rows.

        A random vector of the length `apart` is added to the first row, so that it is orthogonal to no eigenvector.
        """
        if start is not None:
            guesses = start.reshape(-1, self._operator.size).to(self._vectors)
            sums = torch.stack([guesses[row::width].sum(0) for row in range(min(width, len(guesses)))])
            scale = float(torch.linalg.vector_norm(sums, dim=1).max())
            if apart:
                sums[0] += apart * scale / math.sqrt(self._operator.size) * self._random().to(sums)
            self._append(orthonormalise(sums, self._basis, _rounding(self._operator.dtype) * scale)[0])
        while self.q < width:
            self.add_random()

    def add_random(self) -> FloatArray:
        """One more row of Q: what of a random vector is orthogonal to the basis; returns its coefficients in Q."""
        vector = self._random().to(self._vectors)[None]
        rest, inside, outside = orthonormalise(vector, self._basis, self._left_over(vector))
        self._append(rest)
        return np.concatenate([inside[0, self.m :], outside[0]])

    def _left_over(self, vector: Tensor) -> float:
        """Up to which length nothing of a vector is left outside the basis; 0 where some must be."""
        if self.m + self.q < self._operator.size:
            return 0.0
        return 2 * float(torch.linalg.vector_norm(vector))

    def _random(self) -> Tensor:
        self._fresh += 1
        return normal_vector(self._operator.size, self._seed, "krylov", self._fresh - 1)

    def _append(self, rows: Tensor) -> None:
        end = self.m + self.q + len(rows)
        self._vectors[self.m + self.q : end] = rows
        self._coefficients = np.pad(self._coefficients, ((0, len(rows)), (0, 0)))

    def ritz(self, tol: float) -> _Ritz:
        """Eigenpairs of the symmetrised projected matrix with the residuals of the whole relation."""
        m = self.m
        projected = self._coefficients[:m]
        values, rotation = np.linalg.eigh((projected + projected.T) / 2)
        rest = self._coefficients @ rotation
        rest[:m] -= rotation * values
        self.norm = max(self.norm, float(np.abs(values).max(initial=0.0)))
        unseen = math.hypot(torch.finfo(self._operator.dtype).eps * self.norm, self._lost)
        residuals = np.hypot(np.linalg.norm(rest, axis=0), unseen)
        zero = np.maximum(np.abs(values), residuals) <= self.floor
        return _Ritz(values, rotation, residuals, (residuals <= tol * np.abs(values)) | zero)

    # -- searches -------------------------------------------------------------------------------------------------

    @property
    def searching(self) -> bool:
        """Whether a search is under way: its chain is the last rows of V and the first of Q."""
        return self._chain >= 0

    @property
    def room(self) -> int:
        """Products that a search can make before the basis is full."""
        limit, size = len(self._vectors), self._operator.size
        return size if limit == size else limit - self.m - self.q - int(not self.searching)

    def begin_search(self, settled: FloatArray, pairs: int) -> None:
        """A chain from a new random vector; `settled` are the values that it must not bring anything beyond.

        `pairs` are the products that the run's residuals will take: they count for the share of a search.
        """
        self.settled = settled
        self._share = 0 if self.searched else self.search_length(pairs)
        self._chain = self.m
        self._turn(self.add_random())

    def search_length(self, pairs: int, whole: bool = False) -> int:
        """Products of the next search as a rule, or with `whole` the most that it may take."""
        if whole:
            return max(_MOST_LEAST, int(_MOST * self.products))
        return max(_LEAST, int(_SHARE * (self.products + pairs)))

    def search_ends(self, chance: float) -> bool:
        """Whether the search has brought enough, with this `chance` of a missing copy, or has spent all it may."""
        made = self.m - self._chain
        if chance <= _SURE or self.room < 1:
            return True
        if self._share > 0 and made >= self._share and chance <= _CHANCE:
            return True
        return made >= max(_MOST_LEAST, int(_MOST * (self.products - made)))

    def end_search(self, missed: float) -> None:
        """Nothing came, but for the chance `missed`; or with NaN go on with what the search has brought."""
        self._chain, self.missed = -1, missed

    def chance(self, bottom: float, top: float) -> float:
        """Of a random start that its chain shows no eigenvalue below `bottom` or above `top`, though there is one."""
        rows = slice(self._chain, self.m)
        if self._share < 0:
            return 0.0
        diagonal = np.diag(self._coefficients[rows, rows])
        beta = np.diag(self._coefficients[self._chain + 1 : self.m + 1, rows])
        free = self._operator.size - self._chain
        chance = 0.0
        for edge in (bottom, top):
            if math.isfinite(edge):
                before, now = 0.0, 1.0
                for i, (a, b) in enumerate(zip(diagonal, beta, strict=True)):
                    before, now = now, ((edge - a) * now - (beta[i - 1] if i else 0.0) * before) / b
                chance += math.sqrt(2 * free / math.pi) / abs(now) if now else math.inf
        return min(chance, 1.0)

    def put_first(self, rotation: FloatArray, width: int) -> None:
        """Order Q by how strongly its rows couple to the vectors of `rotation` (m, j), where more than `width` do."""
        if self.q > width:
            coupling = np.linalg.norm(self._coefficients[self.m :] @ rotation, axis=1)
            self._reorder(np.argsort(-coupling, kind="stable").tolist())

    def _reorder(self, order: list[int]) -> None:
        """The rows of Q in another order."""
        if order != sorted(order):
            places = [self.m + i for i in order]
            self._vectors[self.m : self.m + self.q] = self._vectors[places]
            self._coefficients[self.m :] = self._coefficients[places]

    def _turn(self, direction: FloatArray) -> None:
        """Rotate Q, as a Householder reflection, so that its first row has the `direction` (q,) in its rows."""
        axis = direction / np.linalg.norm(direction)
        axis[0] += math.copysign(1.0, axis[0])
        axis /= np.linalg.norm(axis)
        if self.q > 1:
            vector = torch.from_numpy(axis).to(self._vectors)
            block = self._vectors[self.m : self.m + self.q]
            block -= 2 * torch.outer(vector, vector @ block)
            self._coefficients[self.m :] -= 2 * np.outer(axis, axis @ self._coefficients[self.m :])

    # -- growth ---------------------------------------------------------------------------------------------------

    @property
    def floor(self) -> float:
        """Numbers up to it cannot be told from zero."""
        return _rounding(self._operator.dtype) * self.norm

    def step(self, count: int) -> None:
        """Move the first `count` rows of Q (all, unless products run out) to V: one call of the operator."""
        m, rows = self.m, self.m + self.q
        product = self._operator.apply(self._vectors[m : m + count])
        self.passes += 1
        self.products += count
        if not bool(torch.isfinite(product).all()):
            raise FloatingPointError(f"product {self.products} of the operator holds NaN or Inf")
        self.norm = max(self.norm, float(torch.linalg.vector_norm(product, dim=1).max()))
        rest, inside, outside = orthonormalise(product, self._basis, self.floor)
        rest, outside = rest[: self._operator.size - rows], outside[:, : self._operator.size - rows]
        grown = np.zeros((rows + len(rest), m + count))
        grown[:rows, :m] = self._coefficients
        grown[:rows, m:] = inside.T
        grown[rows:, m:] = outside.T
        self._vectors[rows : rows + len(rest)] = rest
        self._coefficients = grown
        self.exhausted = self.exhausted or self.q == 0
        if self.searching:
            self.searched += count
            leaving = self._coefficients[self.m :, -1]
            if np.linalg.norm(leaving) > self.floor:
                self._turn(leaving)
            else:
                self._share = -1  # all that the random vector can show is known

    def restart(self, ritz: _Ritz, k: int, smallest: int, count: int) -> None:
        """Keep the wanted Ritz vectors, and of the others those at the same ends until half the room is taken.

        Of Q goes what couples least, where searches have left more rows than there is room for.
        """
        most = len(self._vectors) - count - k - smallest - 1
        if self.q > most:
            wanted = np.r_[0:smallest, self.m - k : self.m]
            coupling = self._coefficients[self.m :] @ ritz.rotation[:, wanted]
            self._reorder(np.argsort(-np.linalg.norm(coupling, axis=1), kind="stable").tolist())
            left_out = self._coefficients[self.m + most :]
            self._lost = math.hypot(self._lost, np.linalg.norm(left_out @ ritz.rotation[:, wanted], 2))
            self._coefficients = self._coefficients[: self.m + most]
        room = len(self._vectors) - self.q - count
        spare = (room - k - smallest) // 2
        low = smallest + min(spare, max(1, spare * smallest // (k + smallest)))
        high = k + spare - (low - smallest)
        kept = np.r_[0:low, self.m - high : self.m]
        rotation, given_up = ritz.rotation[:, kept], np.delete(ritz.rotation, kept, axis=1)
        self._lost = math.hypot(self._lost, np.linalg.norm(given_up.T @ self._coefficients[: self.m] @ rotation, 2))
        _combine(self._basis[: self.m], rotation.T)
        self._vectors[len(kept) : len(kept) + self.q] = self._basis[self.m :].clone()
        self._coefficients = np.concatenate(
            [rotation.T @ self._coefficients[: self.m] @ rotation, self._coefficients[self.m :] @ rotation]
        )
        self.restarts += 1

    def pairs(self, ritz: _Ritz, chosen: npt.NDArray[np.intp]) -> RitzPairs:
        """The chosen pairs with their vectors."""
        rotation = torch.from_numpy(np.ascontiguousarray(ritz.rotation[:, chosen].T)).to(self._vectors)
        vectors = rotation @ self._vectors[: self.m]
        return RitzPairs(ritz.values[chosen], vectors, ritz.residuals[chosen], ritz.converged[chosen])


def _rounding(dtype: torch.dtype) -> float:
    return _ROUNDING * torch.finfo(dtype).eps


def _combine(vectors: Tensor, rotation: FloatArray) -> None:
    """The first rows of `vectors` (m, size) become rotation (j, m) @ vectors, in place and with little memory."""
    factor = torch.from_numpy(np.ascontiguousarray(rotation)).to(vectors)
    for begin in range(0, vectors.shape[1], _CHUNK):
        part = vectors[:, begin : begin + _CHUNK]
        part[: len(factor)] = factor @ part


def orthonormalise(block: Tensor, basis: Tensor, floor: float) -> tuple[Tensor, FloatArray, FloatArray]:
    """Split rows W (b, size) into W = H V + R Q with orthonormal rows Q (r, size), V Q' = 0; returns (Q, H, R).

    V are the orthonormal rows of `basis` (m, size). Directions of the remainder whose singular value is at most `floor`
    are left out, so that r may be less than b. Sweeps of classical Gram-Schmidt, with a QR factorisation after each so
    that the next one corrects every direction relative to its own length, until a sweep takes little away.
    """
    inside = np.zeros((len(block), len(basis)))
    outside = np.eye(len(block))
    for sweep in range(_SWEEPS):
        inner = block @ basis.T
        block, triangle = _factorise(torch.addmm(block, inner, basis, alpha=-1))
        inside += outside @ _numpy(inner)
        outside = outside @ triangle
        left, values, right = np.linalg.svd(outside, full_matrices=False)
        kept = values > floor
        if not kept.all():
            block = torch.from_numpy(right[kept]).to(block) @ block
            outside = left[:, kept] * values[kept]
        if not len(block) or (sweep and np.linalg.svd(triangle, compute_uv=False).min() > 0.5):
            break
    return block, inside, outside


def _factorise(block: Tensor) -> tuple[Tensor, FloatArray]:
    """(orthonormal rows Q, L) with block = L Q, by norms or Householder's QR factorisation."""
    if len(block) == 1:
        norm = torch.linalg.vector_norm(block)
        return (block / norm if norm > 0 else block), _numpy(norm.reshape(1, 1))
    q, r = torch.linalg.qr(block.T)
    return q.T.contiguous(), _numpy(r).T


def _numpy(tensor: Tensor) -> FloatArray:
    return tensor.double().cpu().numpy()


def lanczos_quadrature(operator: Operator, start: Tensor, steps: int) -> tuple[FloatArray, FloatArray]:
    """Nodes (m,) and weights (m,) of the Gauss quadrature of one start vector (size,): see `lanczos_quadratures`."""
    return lanczos_quadratures(operator, start[None], steps)[0]


def lanczos_quadratures(operator: Operator, starts: Tensor, steps: int) -> list[tuple[FloatArray, FloatArray]]:
    """Gauss quadratures of the spectral measures of b start vectors (b, size): nodes ascending (m,), weights (m,).

    For the unit vector v = start / |start| and the eigenpairs (lambda_i, u_i) of A, the measure sum_i (u_i'v)^2
    delta(lambda_i) has the moments v'A^q v. `steps` products of Lanczos' method with full reorthogonalisation give the
    m-node rule exact for q <= 2m - 1; its nodes are the eigenvalues of the tridiagonal matrix, its weights the squared
    first components of the eigenvectors, with sum 1. m < steps where the vector's Krylov space is exhausted earlier.

    The b runs are independent; each step multiplies all of their vectors in one call, so that several probes share one
    pass over the data. Memory: b * steps vectors.

    Source: Golub and Meurant, Matrices, Moments and Quadrature with Applications, 2010, ch. 3 and 6.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} is not positive")
    steps = min(steps, operator.size)
    norms = torch.linalg.vector_norm(starts, dim=1, keepdim=True)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise ValueError("a start vector is zero or holds NaN or Inf")
    bases = torch.empty(len(starts), steps, operator.size, dtype=operator.dtype, device=operator.device)
    bases[:, 0] = (starts / norms).to(bases)
    diagonals: list[list[float]] = [[] for _ in starts]
    couplings: list[list[float]] = [[] for _ in starts]
    largest = [0.0] * len(starts)
    active = list(range(len(starts)))
    for step in range(steps):
        products = operator.apply(bases[active, step])
        if not bool(torch.isfinite(products).all()):
            raise FloatingPointError(f"a product of step {step + 1} holds NaN or Inf")
        running = []
        for run, product in zip(active, products, strict=True):
            largest[run] = max(largest[run], float(torch.linalg.vector_norm(product)))
            floor = _rounding(operator.dtype) * largest[run]
            rest, inside, outside = orthonormalise(product[None], bases[run, : step + 1], floor)
            diagonals[run].append(inside[0, -1])
            if len(rest) and step + 1 < steps:
                couplings[run].append(outside[0, 0])
                bases[run, step + 1] = rest[0]
                running.append(run)
        active = running
        if not active:
            break
    return [_gauss(diagonal, coupling) for diagonal, coupling in zip(diagonals, couplings, strict=True)]


def _gauss(diagonal: list[float], coupling: list[float]) -> tuple[FloatArray, FloatArray]:
    import scipy.linalg  # loading scipy would be a sixth of `import landscape`

    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, coupling)
    weights = vectors[0] ** 2
    return nodes, weights / weights.sum()
