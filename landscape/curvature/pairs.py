"""Eigenpairs as columns of a row."""

from __future__ import annotations

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.filed_krylov import FiledEnd
from landscape_kernels.krylov import RitzPairs
from landscape_kernels.perturbation import eigenvalue_errors
from torch import Tensor

from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import ChunkProducts, product_chunk
from landscape.errors import InputError
from landscape.objective.objective import Objective

_SEEN = 0.1  # relative residual up to which a pair that was not asked for is told
_FLOOR = 20  # residuals below this many eps |H| are rounding


def product_chunks(objective: Objective) -> int:
    """Number of chunks that products with this objective's curvature have."""
    return -(-objective.samples // product_chunk(objective)) if objective.data.divisible else objective.chunks


def pair_columns(k: int, prefix: str) -> dict[str, tuple[int, ...]]:
    """Columns of k eigenpairs."""
    return {f"{prefix}{name}": (k,) for name in ("values", "residuals", "converged", "stderr", "bias", "rounding")}


def pair_row(
    spectrum: FloatArray,
    vectors: Tensor,
    parts: ChunkProducts,
    first: int,
    tol: float,
    k: int,
    prefix: str,
    *,
    dtype: torch.dtype,
    rounding: FloatArray,
) -> dict[str, FloatArray]:
    """The columns of the pairs whose products are the rows of `parts` from `first` on, padded with NaN to k.

    `spectrum` are the Ritz values of all vectors that `parts.forms` is about, in their order; `dtype` is the precision
    that the vectors were found in, and `rounding` (b,) what that of the products may move values by.
    """
    place = slice(first, first + len(vectors))
    images, values = parts.images[place].double(), spectrum[place]
    theta = torch.from_numpy(values.copy()).to(images.device)
    gaps = torch.linalg.vector_norm(images - theta[:, None] * vectors.double(), dim=1).cpu().numpy()
    norm = float(torch.linalg.vector_norm(parts.images.double(), dim=1).max()) if len(values) else 0.0
    cross = (images * parts.weighted[place].double()).sum(1).cpu().numpy()
    lengths = images.square().sum(1).cpu().numpy()
    errors = eigenvalue_errors(
        parts.forms[:, place], spectrum, first, parts.squares[:, place], cross, lengths, parts.denominators, parts.shift
    )
    return pair_numbers(values, gaps, norm, errors, tol, k, prefix, dtype=dtype, rounding=rounding[place])


def pair_numbers(
    values: FloatArray,
    gaps: FloatArray,
    norm: float,
    errors: tuple[FloatArray, FloatArray],
    tol: float,
    k: int,
    prefix: str,
    *,
    dtype: torch.dtype,
    rounding: FloatArray,
) -> dict[str, FloatArray]:
    """The columns of eigenvalues (b,) whose products are off by `gaps` (b,), the longest product being `norm` long.

    `errors` are their (stderr, bias), `rounding` (b,) what that of products may move them by.
    """
    # zero to rounding: an exact eigenvalue 0 has no relative residual
    zero = np.maximum(np.abs(values), gaps) <= _FLOOR * torch.finfo(dtype).eps * norm
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = np.where(zero, 0.0, gaps / np.abs(values))
        rounded = np.where(zero, 0.0, rounding / np.abs(values))
    columns = (values, residuals, (residuals <= tol).astype(float), *errors, rounded)
    return {name: padded(column, k) for name, column in zip(pair_columns(k, prefix), columns, strict=True)}


def seen_row(low: RitzPairs | FiledEnd, k: int) -> dict[str, FloatArray]:
    """The columns of the lower end that was not asked for: what the run happened to see, without errors over data.

    It ends at the first Ritz pair that says little, by a residual above a tenth of its value; the rest is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = np.where(low.residuals > 0, low.residuals / np.abs(low.values), 0.0)
    seen = int(np.argmax(np.append(residuals > _SEEN, True)))
    unknown = np.full(len(low.values), np.nan)
    columns = (low.values, residuals, low.converged.astype(float), unknown, unknown, unknown)
    return {
        name: padded(column[: min(seen, k)], k)
        for name, column in zip(pair_columns(k, "smallest_"), columns, strict=True)
    }


def diagonals(parts: ChunkProducts) -> FloatArray:
    """(C, b), v_i' H_c v_i."""
    return np.diagonal(parts.forms, axis1=1, axis2=2)


def padded(values: FloatArray, k: int) -> FloatArray:
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
