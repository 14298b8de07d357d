"""Extreme eigenpairs of a curvature operator as items of a Task: the whole matrix, or the block of each layer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import Eigenpairs as RitzEnds
from landscape_kernels.krylov import KrylovState, dense_eigenpairs, eigenpairs
from landscape_kernels.perturbation import form_errors
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import ChunkProducts, CurvatureOperator
from landscape.curvature.pairs import check_tol, diagonals, padded, pair_columns, pair_row, product_chunks, seen_row
from landscape.curvature.rounding import checked_products
from landscape.curvature.sampling import Sample
from landscape.curvature.small import unit_products
from landscape.errors import InputError
from landscape.objective.trees import digest
from landscape.run.comm import Communicator
from landscape.run.kept import Kept
from landscape.run.task import Description, ItemStopped, Row, Rows

logger = logging.getLogger(__name__)

_SAVE_EVERY = 10.0  # seconds at least between two Krylov states on the disk
_SAVE_SHARE = 20.0  # and this many times what writing one took
_SPACE_VALUES = 1 << 24  # of Krylov vectors that are stored


class EigenTask:
    """Item 0: the k largest and the `smallest` smallest eigenpairs, their residuals and errors over the data."""

    headline = "residual_max"
    count = 1

    def __init__(
        self,
        matrix: Matrix,
        k: int,
        *,
        smallest: int,
        tol: float,
        block: int | None,
        start: Tensor | None,
        seed: int,
        independent: Sample | None,
        max_products: int | None,
        state: Path | None = None,
        save_every: float = _SAVE_EVERY,
        space: int = 0,
        whole: bool = False,
        beside: int = 0,
        begun: Description | None = None,
    ) -> None:
        """`space` is how many vectors of the Krylov space are stored for a trace (see `space_rows`).

        With `whole` the matrix is computed whole. `beside` are the products that are made for other things, `begun` is
        what the folder of the task was begun with, whose columns are kept.
        """
        self._whole, self._beside = whole, beside
        self._begun = None if begun is None else set(begun.columns)
        self._matrix, self._k, self._smallest, self._tol, self._block = matrix, k, smallest, tol, block
        self._start, self._seed, self._independent, self._max_products = start, seed, independent, max_products
        self._state_path, self._save_every = state, save_every
        self._space = space
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None
        objective = matrix.sample.objective
        self.size = matrix.size
        for name, value in (("k", k), ("smallest", smallest)):
            if not 0 <= value <= self.size:
                raise InputError(f"{name}={value}; the matrix has {self.size} rows, so give 0 to {self.size}")
        if k + smallest > self.size:
            raise InputError(f"k={k} and smallest={smallest}; the matrix has {self.size} eigenvalues in all")
        for name, number in (("block", block), ("max_products", max_products)):
            if number is not None and number < 1:
                raise InputError(f"{name}={number}; give 1 or more, or leave it out")
        if start is not None and (start.ndim > 2 or start.shape[-1] != self.size or not bool(start.isfinite().all())):
            wrong = "NaN or Inf" if start.shape[-1:] == (self.size,) else f"shape {tuple(start.shape)}"
            raise InputError(f"start holds {wrong}; give (j, {self.size}), one finite vector a row")
        check_tol(tol, objective, matrix.check)

    def describe(self) -> Description:
        """See `Task`."""
        k, low = self._k, self._smallest
        columns = pair_columns(k, "") | pair_columns(low or min(k, self.size), "smallest_")
        columns |= {"vectors": (k, self.size), "smallest_vectors": (low, self.size)}
        columns |= {"independent": (k,), "independent_stderr": (k,), "residual_max": ()}
        columns |= {"products": (), "passes": (), "space": (self._space, self.size)}
        columns |= {"space_chunks": (self._chunks,), "space_tensors": (len(self._matrix.sizes),), "space_square": ()}
        columns |= {"searched": (), "missed": ()}
        if self._whole:
            columns |= {"all_values": (self.size,), "unit_parts": (self._chunks, self.size)}
            columns |= {"unit_denominators": (self._chunks,)}
        if self._begun is not None:
            columns = {name: shape for name, shape in columns.items() if name in self._begun}
        identity = {
            **self._matrix.identity(),
            "k": k,
            "smallest": low,
            "tol": self._tol,
            "block": self._block,
            "seed": self._seed,
            "start": "" if self._start is None else digest(self._start),
            "max_products": self._max_products,
        }
        return Description("eigenpairs", columns, identity, self._matrix.about())

    @property
    def _chunks(self) -> int:
        return product_chunks(self._matrix.sample.objective)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        k, low = self._k, self._smallest
        matrix = (self._matrix.double() or self._matrix) if self._whole else self._matrix
        space: dict[str, Any] | None = None
        row: dict[str, Any] = {}
        with matrix.bind(group) as H:
            if self._whole:
                found, units = self._all_pairs(H, group)
                row |= units
            else:
                found, space = self._eigenpairs(H, group)
            top, bottom = found.largest.vectors.to(H.device), found.smallest.vectors[:low].to(H.device)
            ends = (len(top), len(bottom))
            values, vectors, parts, rounding, more = checked_products(
                matrix,
                H,
                np.concatenate([found.largest.values, found.smallest.values[:low]]),
                torch.cat([top, bottom]).to(H.dtype),
                found.further.vectors.to(H.device, H.dtype),
                group,
                beside=found.products + self._beside,
                ends=ends,
            )
            # those of an earlier attempt, whose state was found, count too
            products, passes = found.products + more, found.passes + 1
            dtype = H.dtype
        top, bottom = torch.split(vectors, list(ends))
        known = np.concatenate([values, found.further.values])
        row |= pair_row(known, top, parts, 0, self._tol, k, "", dtype=dtype, rounding=rounding)
        if low:
            row |= pair_row(known, bottom, parts, ends[0], self._tol, low, "smallest_", dtype=dtype, rounding=rounding)
        else:
            row |= seen_row(found.smallest, min(k, self.size))
        independent = independent_stderr = np.full(k, np.nan)
        if self._independent is not None:
            with self._matrix.bind(group, sample=self._independent) as other:
                top = top.to(other.dtype)
                apart = other.by_chunk(top)
                products, passes = products + other.products, passes + other.passes
            independent, independent_stderr = form_errors(diagonals(apart), apart.denominators)
        row |= {
            "vectors": padded(top.double().cpu().numpy(), k),
            "smallest_vectors": padded(bottom.double().cpu().numpy(), low),
            "independent": padded(independent, k),
            "independent_stderr": padded(independent_stderr, k),
            "residual_max": float(np.max(row["residuals"], initial=0.0)),
            "products": products,
            "passes": passes,
            "searched": found.searched,
            "missed": found.missed,
        }
        pairs = self._eigenspace(top, parts)
        row |= space if space is not None and space["space_square"] > pairs["space_square"] else pairs
        return {name: row[name] for name in self.describe().columns}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return 1

    # -- inside -------------------------------------------------------------------------------------------------

    def _all_pairs(self, H: CurvatureOperator, group: Communicator) -> tuple[RitzEnds, dict[str, Any]]:
        """The pairs of a small matrix, and the columns that are of all of it."""

        def between(products: int) -> None:
            if self.stopping is not None and any(group.gather_all(self.stopping())):
                raise ItemStopped
            if self.report is not None:
                self.report(f"{products} of {H.size} products of unit vectors")

        units = unit_products(H, between)
        found = replace(dense_eigenpairs(units.matrix, self._k, smallest=self._smallest), passes=H.passes)
        every = np.linalg.eigvalsh(units.matrix)
        return found, {"all_values": every, "unit_parts": units.parts, "unit_denominators": units.denominators}

    def _eigenpairs(self, H: CurvatureOperator, group: Communicator) -> tuple[RitzEnds, dict[str, Any] | None]:
        """The pairs, and the columns of the Krylov space where they are asked for and known."""
        path = self._state_path if group.rank == 0 else None
        kept = Kept(
            path, "the eigenpairs then start anew", every=self._save_every, share=_SAVE_SHARE, name="Krylov state"
        )
        last, forms = group.broadcast(_krylov_state(kept)) or (None, np.zeros((0, H.chunks)))
        noting = _Noting(H, forms)

        def save(state: KrylovState) -> None:
            nonlocal last
            last = state
            stop = self.stopping is not None and any(group.gather_all(self.stopping()))
            if stop or kept.due:
                kept.write({**state.to_arrays(), "chunk_forms": noting.forms})
            if stop:
                raise ItemStopped

        def tell(products: int, converged: int) -> None:
            if self.report is not None:
                self.report(f"{products} products, {converged} of {self._k + self._smallest} pairs converged")

        if self._k + self._smallest == 0:
            raise InputError("k=0 and smallest=0: no eigenpair is asked for")
        found = eigenpairs(
            noting if self._space else H,
            self._k,
            smallest=self._smallest,
            tol=self._tol,
            block=self._block or (1 if H.keeps_graphs else 2),
            start=self._start,
            seed=derive_seed(self._seed, "eigenpairs"),
            max_products=self._max_products,
            state=last,
            save=save,
            report=tell,
        )
        if not found.largest.converged.all():
            logger.warning(
                "%d of %d eigenpairs did not reach tol=%g in %d products; `converged` says which",
                int((~found.largest.converged).sum()),
                self._k,
                self._tol,
                found.products,
            )
        # After a restart the vectors of the space are not those that were multiplied, whose forms were noted.
        known = last is not None and found.restarts == 0 and len(noting.forms) == last.coefficients.shape[1]
        return found, self._krylov_space(last, noting.forms) if self._space and last is not None and known else None

    def _krylov_space(self, state: KrylovState, forms: FloatArray) -> dict[str, Any]:
        """The columns of the Krylov vectors V, whose products are A V' = [V; Q]' C; the first of them if too many."""
        rows = min(self._space, len(forms))
        C = state.coefficients[:, :rows]
        basis, factor = state.basis, torch.from_numpy(np.ascontiguousarray(C.T)).to(state.basis)
        parts = torch.split(basis, list(self._matrix.sizes.values()), dim=1)
        return {
            "space": padded(basis[:rows].double().cpu().numpy(), self._space),
            "space_chunks": forms[:rows].sum(0),
            "space_tensors": np.array([float((part[:rows] * (factor @ part)).double().sum()) for part in parts]),
            "space_square": 2 * float((C**2).sum()) - float((C[:rows] ** 2).sum()),
        }

    def _eigenspace(self, vectors: Tensor, parts: ChunkProducts) -> dict[str, Any]:
        """The same columns of the largest eigenvectors, which are stored already."""
        k = len(vectors)
        images = parts.images[:k].double()
        inside = images @ vectors.double().T
        by_tensor = torch.split(vectors.double() * images, list(self._matrix.sizes.values()), dim=1)
        return {
            "space": np.full((self._space, self.size), np.nan),
            "space_chunks": diagonals(parts)[:, :k].sum(1),
            "space_tensors": np.array([float(part.sum()) for part in by_tensor]),
            "space_square": float(2 * images.square().sum() - inside.square().sum()),
        }


def _krylov_state(kept: Kept) -> tuple[KrylovState, FloatArray] | None:
    """The Krylov state a killed run left, and what chunks had in its products."""
    arrays = kept.read()
    if arrays is None:
        return None
    try:
        return KrylovState.from_arrays(arrays), arrays["chunk_forms"]
    except (ValueError, LookupError) as error:
        raise kept.damaged(error) from error


class _Noting:
    """Products that note what each chunk has in v'Hv."""

    def __init__(self, H: CurvatureOperator, forms: FloatArray) -> None:
        self._H = H
        self.size, self.dtype, self.device = H.size, H.dtype, H.device
        self.forms = forms  # (n, C), v' H_c v of the n vectors so far

    def apply(self, vectors: Tensor) -> Tensor:
        """See `landscape_kernels.operators.Operator`."""
        parts = self._H.by_chunk(vectors)
        self.forms = np.concatenate([self.forms, diagonals(parts).T])
        return parts.images


def space_rows(k: int, size: int) -> int:
    """How many Krylov vectors to store so that a trace takes them out instead of the k eigenvectors; 0 where too long.

    A run to residuals of 1e-3 makes about 3 k of them.
    """
    rows = min(3 * k + 8, size, _SPACE_VALUES // max(size, 1))
    return rows if rows >= min(2 * k, size) > 0 else 0
