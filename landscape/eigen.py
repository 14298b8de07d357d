"""Extreme eigenpairs of a curvature operator as items of a Task: the whole matrix, or the block of each layer."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import Eigenpairs as RitzEnds
from landscape_kernels.krylov import KrylovState, eigenpairs
from landscape_kernels.perturbation import eigenvalue_errors, form_errors
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature import ChunkProducts, CurvatureOperator, product_chunk, select_blocks
from landscape.errors import InputError, StoreError
from landscape.files.durable import write_durably
from landscape.objective import Objective
from landscape.routes import ProductCheck
from landscape.run.comm import Communicator
from landscape.run.task import Description, ItemStopped, Row, Rows
from landscape.sampling import Sample
from landscape.trees import digest

logger = logging.getLogger(__name__)

# The Krylov state is written when this much time has passed since, and at least this many times what writing took.
_SAVE_EVERY = 10.0
_SAVE_SHARE = 20
_SEEN = 0.1  # relative residual up to which a pair that was not asked for is told
_SPACE_VALUES = 1 << 24  # of Krylov vectors that are stored
_FLOOR = 20  # residuals below this many eps |H| are rounding


@dataclass(frozen=True)
class Matrix:
    """Which matrix is meant: of what loss, which part, at which point, and how its products are computed."""

    sample: Sample
    operator: str
    params: tuple[str, ...] | None
    weight_decay: float
    theta: Tensor
    buffers: Mapping[str, Tensor] | None
    check: ProductCheck

    def bind(
        self, group: Communicator, params: Sequence[str] | None = None, sample: Sample | None = None
    ) -> CurvatureOperator:
        """A `CurvatureOperator`, to be used with `with`."""
        sample = sample or self.sample
        return CurvatureOperator(
            sample.objective,
            operator=self.operator,
            params=params or self.params,
            theta=self.theta,
            buffers=self.buffers,
            weight_decay=self.weight_decay,
            weights=sample.weights,
            total=sample.total,
            group=group,
            check=self.check,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """{parameter name: number of values} of the rows, in order."""
        return {block.name: block.size for block in select_blocks(self.sample.objective, self.params)}

    @property
    def size(self) -> int:
        """Number of rows."""
        return sum(self.sizes.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters whose values are the rows, in order."""
        return tuple(self.sizes)

    def identity(self) -> dict[str, Any]:
        """What its entries depend on."""
        weights = self.sample.weights
        return {
            "objective": self.sample.objective.identity(),
            "operator": self.operator,
            "params": list(self.params) if self.params is not None else None,
            "weight_decay": self.weight_decay,
            "theta": digest(self.theta),
            "buffers": digest(*(self.buffers or {}).values()),
            "weights": "" if weights is None else digest(weights),
        }

    def about(self) -> dict[str, Any]:
        """How products are computed, and what the rows are."""
        return {
            "device": str(self.sample.objective.device),
            "check": asdict(self.check),
            "size": self.size,
            "tensors": {b.name: list(b.shape) for b in select_blocks(self.sample.objective, self.params)},
        }

    def moved(self, theta: Tensor, buffers: Mapping[str, Tensor] | None) -> Matrix:
        """The same at other parameters."""
        return replace(self, theta=theta, buffers=buffers)

    def as_gauss_newton(self, check: ProductCheck) -> Matrix:
        """The Gauss-Newton matrix of the same loss, weight decay included: H - G is without."""
        return replace(self, operator="ggn", check=check)


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
    ) -> None:
        """`space` is how many vectors of the Krylov space are stored for a trace (see `space_rows`)."""
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
        with self._matrix.bind(group) as H:
            found, space = self._eigenpairs(H, group)
            top, bottom = found.largest.vectors, found.smallest.vectors[:low]
            parts = H.by_chunk(torch.cat([top, bottom]), found.further.vectors)
            # those of an earlier attempt, whose state was found, count too
            products, passes = found.products + len(parts.images), found.passes + 1
        known = np.concatenate([found.largest.values, found.smallest.values[:low], found.further.values])
        row: dict[str, Any] = pair_row(known, top, parts, 0, self._tol, k, "")
        if low:
            row |= pair_row(known, bottom, parts, len(top), self._tol, low, "smallest_")
        else:
            row |= seen_row(found, min(k, self.size))
        independent = independent_stderr = np.full(k, np.nan)
        if self._independent is not None:
            with self._matrix.bind(group, sample=self._independent) as other:
                apart = other.by_chunk(top)
                products, passes = products + other.products, passes + other.passes
            independent, independent_stderr = form_errors(_diagonals(apart), apart.denominators)
        row |= {
            "vectors": _padded(top.double().cpu().numpy(), k),
            "smallest_vectors": _padded(bottom.double().cpu().numpy(), low),
            "independent": _padded(independent, k),
            "independent_stderr": _padded(independent_stderr, k),
            "residual_max": float(np.max(row["residuals"], initial=0.0)),
            "products": products,
            "passes": passes,
        }
        pairs = self._eigenspace(top, parts)
        return row | (space if space is not None and space["space_square"] > pairs["space_square"] else pairs)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return 1

    # -- inside -------------------------------------------------------------------------------------------------

    def _eigenpairs(self, H: CurvatureOperator, group: Communicator) -> tuple[RitzEnds, dict[str, Any] | None]:
        """The pairs, and the columns of the Krylov space where they are asked for and known."""
        saved = time.monotonic()
        pause = self._save_every
        last, forms = group.broadcast(self._stored() if group.rank == 0 else None) or (None, np.zeros((0, H.chunks)))
        noting = _Noting(H, forms)

        def save(state: KrylovState) -> None:
            nonlocal saved, pause, last
            last = state
            stop = self.stopping is not None and any(group.gather_all(self.stopping()))
            began = time.monotonic()
            if self._state_path is not None and group.rank == 0 and (stop or began - saved >= pause):
                buffer = io.BytesIO()
                np.savez(buffer, allow_pickle=False, **state.to_arrays(), chunk_forms=noting.forms)
                write_durably(self._state_path, buffer.getvalue())
                saved = time.monotonic()
                pause = max(self._save_every, _SAVE_SHARE * (saved - began))
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
        # a restart leaves other vectors than were multiplied
        known = last is not None and found.restarts == 0 and len(noting.forms) == last.coefficients.shape[1]
        return found, self._krylov_space(last, noting.forms) if self._space and last is not None and known else None

    def _krylov_space(self, state: KrylovState, forms: FloatArray) -> dict[str, Any]:
        """The columns of the Krylov vectors V, whose products are A V' = [V; Q]' C; the first of them if too many."""
        rows = min(self._space, len(forms))
        C = state.coefficients[:, :rows]
        basis, factor = state.basis, torch.from_numpy(np.ascontiguousarray(C.T)).to(state.basis)
        parts = torch.split(basis, list(self._matrix.sizes.values()), dim=1)
        return {
            "space": _padded(basis[:rows].double().cpu().numpy(), self._space),
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
            "space_chunks": _diagonals(parts)[:, :k].sum(1),
            "space_tensors": np.array([float(part.sum()) for part in by_tensor]),
            "space_square": float(2 * images.square().sum() - inside.square().sum()),
        }

    def _stored(self) -> tuple[KrylovState, FloatArray] | None:
        """The Krylov state a killed run left, and what chunks had in its products."""
        if self._state_path is None or not self._state_path.exists():
            return None
        try:
            with np.load(self._state_path, allow_pickle=False) as arrays:
                return KrylovState.from_arrays(dict(arrays)), arrays["chunk_forms"]
        except (OSError, ValueError, LookupError) as error:
            raise StoreError(
                f"cannot read the Krylov state {self._state_path}: {error}. Delete it; the eigenpairs then start anew."
            ) from error


class _Noting:
    """Products that note what each chunk has in v'Hv."""

    def __init__(self, H: CurvatureOperator, forms: FloatArray) -> None:
        self._H = H
        self.size, self.dtype, self.device = H.size, H.dtype, H.device
        self.forms = forms  # (n, C), v' H_c v of the n vectors so far

    def apply(self, vectors: Tensor) -> Tensor:
        """See `landscape_kernels.operators.Operator`."""
        parts = self._H.by_chunk(vectors)
        self.forms = np.concatenate([self.forms, _diagonals(parts).T])
        return parts.images


def space_rows(k: int, size: int) -> int:
    """How many Krylov vectors to store so that a trace takes them out instead of the k eigenvectors; 0 where too long.

    A run to residuals of 1e-3 makes about 3 k of them.
    """
    rows = min(3 * k + 8, size, _SPACE_VALUES // max(size, 1))
    return rows if rows >= min(2 * k, size) > 0 else 0


def product_chunks(objective: Objective) -> int:
    """Number of chunks that products with this objective's curvature have."""
    return -(-objective.samples // product_chunk(objective)) if objective.data.divisible else objective.chunks


def pair_columns(k: int, prefix: str) -> dict[str, tuple[int, ...]]:
    """Columns of k eigenpairs."""
    return {f"{prefix}{name}": (k,) for name in ("values", "residuals", "converged", "stderr", "bias")}


def pair_row(
    spectrum: FloatArray, vectors: Tensor, parts: ChunkProducts, first: int, tol: float, k: int, prefix: str
) -> dict[str, FloatArray]:
    """The columns of the pairs whose products are the rows of `parts` from `first` on, padded with NaN to k.

    `spectrum` are the Ritz values of all vectors that `parts.forms` is about, in their order.
    """
    place = slice(first, first + len(vectors))
    images, values = parts.images[place].double(), spectrum[place]
    theta = torch.from_numpy(values.copy()).to(images.device)
    gaps = torch.linalg.vector_norm(images - theta[:, None] * vectors.double(), dim=1).cpu().numpy()
    norm = float(torch.linalg.vector_norm(parts.images.double(), dim=1).max()) if len(values) else 0.0
    # zero to rounding: an exact eigenvalue 0 has no relative residual
    zero = np.maximum(np.abs(values), gaps) <= _FLOOR * torch.finfo(parts.images.dtype).eps * norm
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = np.where(zero, 0.0, gaps / np.abs(values))
    cross = (images * parts.weighted[place].double()).sum(1).cpu().numpy()
    lengths = images.square().sum(1).cpu().numpy()
    stderr, bias = eigenvalue_errors(
        parts.forms[:, place], spectrum, first, parts.squares[:, place], cross, lengths, parts.denominators, parts.shift
    )
    columns = (values, residuals, (residuals <= tol).astype(float), stderr, bias)
    return {name: _padded(column, k) for name, column in zip(pair_columns(k, prefix), columns, strict=True)}


def seen_row(found: RitzEnds, k: int) -> dict[str, FloatArray]:
    """The columns of the lower end that was not asked for: what the run happened to see, without errors over data.

    It ends at the first Ritz pair that says little, by a residual above a tenth of its value; the rest is NaN.
    """
    low = found.smallest
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = np.where(low.residuals > 0, low.residuals / np.abs(low.values), 0.0)
    seen = int(np.argmax(np.append(residuals > _SEEN, True)))
    unknown = np.full(len(low.values), np.nan)
    columns = (low.values, residuals, low.converged.astype(float), unknown, unknown)
    return {
        name: _padded(column[: min(seen, k)], k)
        for name, column in zip(pair_columns(k, "smallest_"), columns, strict=True)
    }


def _diagonals(parts: ChunkProducts) -> FloatArray:
    """(C, b), v_i' H_c v_i."""
    return np.diagonal(parts.forms, axis1=1, axis2=2)


def _padded(values: FloatArray, k: int) -> FloatArray:
    """`values` with NaN rows up to k of them."""
    missing = k - len(values)
    return np.concatenate([values, np.full((missing, *values.shape[1:]), np.nan)]) if missing else values


def check_tol(tol: float, objective: Objective, check: ProductCheck) -> None:
    """Raise InputError for a relative residual that products in this precision cannot reach."""
    eps = torch.finfo(objective.dtype).eps
    floor = max(_FLOOR * eps, check.rounding if check.route == "finite differences" else 0.0)
    if not floor <= tol < 1:
        way_out = "" if objective.precision == "float64" else ", or build the Objective with precision='float64'"
        raise InputError(
            f"tol={tol}: relative residuals of {floor:.1e} are the floor of {check.route} in "
            f"{str(objective.dtype).removeprefix('torch.')}, and 1 is no accuracy; give a tol between{way_out}"
        )
