"""Linear maps that make a basin rounder: v = P u with |det P| = 1, u uniform on the sphere, leaves volumes as they are.

With P near H^(-1/2) radii along v are nearly alike, so that a few directions tell the volume that plain ones would need
exponentially many for (Scherlis and Belrose 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.layout import Block
from torch import Tensor

from landscape.curvature.matrix import matrix_of
from landscape.curvature.operator import CurvatureOperator
from landscape.errors import InputError, NumericalError
from landscape.objective.objective import Objective
from landscape.objective.trees import digest
from landscape.run.comm import SERIAL
from landscape.studies.diagonal.measure import measure_diagonal

_FLOOR = 0.1  # of the largest root of a curvature: flatter axes are stretched as if they had that (measured best)
_PAIRS = 32  # eigenpairs beside the diagonal
_TOL = 0.05  # of their residuals: what is left only makes the map less good
_PRODUCTS = 200
_BATCH, _BATCHES = 32, 64  # of second moments of gradients


@dataclass(frozen=True)
class Preconditioner:
    """P = diag(scale) (I + Q'(diag(stretch) - 1) Q), of determinant 1 on what is varied."""

    name: str
    scale: Tensor  # (size,) float64, 0 on what does not vary
    basis: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.float64))  # Q (k, size), orthonormal
    stretch: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))  # (k,)

    def apply(self, vector: Tensor) -> Tensor:
        """P u for u (size,)."""
        if len(self.stretch):
            vector = vector + ((self.stretch - 1) * (self.basis @ vector)) @ self.basis
        return self.scale * vector

    def identity(self) -> str:
        """What tells it from others."""
        return f"{self.name} {digest(self.scale, self.basis, self.stretch)}"


def preconditioner(objective: Objective, name: str, blocks: Sequence[Block], second_moments: Any) -> Preconditioner:
    """The map of that name at the centre, on the parameters of `blocks`; all ranks call this.

    - "diagonal": P_ii ~ 1 / sqrt(h_ii), h the diagonal of the Gauss-Newton matrix (of the Hessian with loss=None)
    - "krylov": that, and 1 / sqrt(lambda) along the largest eigenvectors of the matrix that it leaves
    - "adam": P_ii ~ 1 / sqrt(m_i), m the second moments of gradients: given, or of batches at the centre

    Raises InputError for second moments that do not fit the model, NumericalError where no curvature is above 0.
    """
    if name == "adam":
        moments = _given(objective, second_moments) if second_moments is not None else _moments(objective)
        return Preconditioner(name, _scale(moments, blocks, name))
    operator = "hessian" if objective.loss_is_returned else "ggn"
    names = [block.name for block in blocks]
    found = measure_diagonal(objective, operator, names).arrays["diagonal"]
    diagonal = torch.zeros(objective.layout.size, dtype=torch.float64)
    for block in blocks:
        diagonal[block.slice] = torch.from_numpy(np.asarray(found[block.name]).reshape(-1).copy())
    scale = _scale(diagonal, blocks, name)
    if name == "diagonal":
        return Preconditioner(name, scale)
    rows = torch.cat([torch.arange(block.size) + block.offset for block in blocks])
    matrix, _ = matrix_of(objective, params=names, operator=operator, weight_decay=0.0, seed=0)
    count = min(_PAIRS, len(rows) - 1)
    with matrix.bind(SERIAL) as H:  # every rank by itself: where ranks share the data, sums differ by rounding
        pairs = eigenpairs(_Scaled(H, scale[rows]), count, tol=_TOL, max_products=_PRODUCTS).largest
    rest = max(float((scale[rows].square() * diagonal[rows].abs()).sum()) - float(pairs.values.sum()), 0.0)
    rest = max(rest / (len(rows) - count), _FLOOR**2 * float(pairs.values[0]))
    kept = np.flatnonzero(pairs.values > rest)
    stretch = torch.from_numpy(np.sqrt(rest / pairs.values[kept]))
    basis = torch.zeros((len(kept), objective.layout.size), dtype=torch.float64)
    basis[:, rows] = pairs.vectors[kept].double().cpu()
    # its determinant is the product of all stretches
    return Preconditioner(name, scale * torch.exp(-stretch.log().sum() / len(rows)), basis, stretch)


class _Scaled:
    """diag(p) H diag(p), p (size,)."""

    def __init__(self, inner: CurvatureOperator, scale: Tensor) -> None:
        self._inner, self._scale = inner, scale.to(inner.device, inner.dtype)
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device

    def apply(self, vectors: Tensor) -> Tensor:
        """See `Operator`."""
        return self._scale * self._inner.apply(self._scale * vectors)


def _scale(curvature: Tensor, blocks: Sequence[Block], name: str) -> Tensor:
    """1 / sqrt(|h|), of geometric mean 1 over the blocks, 0 elsewhere."""
    rows = torch.cat([curvature[block.slice] for block in blocks])
    if not bool(rows.isfinite().all()) or not bool(rows.any()):
        raise NumericalError(
            f"precondition={name!r} needs curvature, and at the centre it is 0, NaN or infinite for all parameters "
            "that vary; leave precondition out"
        )
    roots = rows.abs().sqrt()
    logs = -roots.clamp(min=_FLOOR * float(roots.max())).log()
    values = torch.exp(logs - logs.mean())
    scale = torch.zeros_like(curvature)
    for block, part in zip(blocks, torch.split(values, [block.size for block in blocks]), strict=True):
        scale[block.slice] = part
    return scale


def _given(objective: Objective, moments: Any) -> Tensor:
    """Second moments {parameter name: tensor}, or a flat vector, as a vector (size,)."""
    layout = objective.layout
    if isinstance(moments, Mapping):
        missing = [name for name in layout.names if name not in moments]
        if missing:
            raise InputError(
                f"second_moments has nothing for parameter {missing[0]!r}; give {{name: optimizer.state[p]"
                "['exp_avg_sq']} for all named parameters"
            )
        found = {block.name: torch.as_tensor(moments[block.name]).double() for block in layout.blocks}
        for block in layout.blocks:
            shape = tuple(found[block.name].shape)
            if shape != tuple(block.shape):
                raise InputError(
                    f"second_moments of {block.name!r} have shape {shape}, and the parameter {tuple(block.shape)}"
                )
        moments = torch.cat([found[name].reshape(-1) for name in layout.names])
    elif not isinstance(moments, Tensor | np.ndarray):
        raise InputError(
            f"second_moments is of type {type(moments).__name__}; give {{name: optimizer.state[p]['exp_avg_sq'] for "
            "name, p in model.named_parameters()}"
        )
    vector = objective.vector(moments).double().cpu()
    if not bool((vector >= 0).all()):
        raise InputError("second_moments holds values that are negative or NaN; they are means of squares")
    return vector


def _moments(objective: Objective) -> Tensor:
    """(size,) mean over batches of the square of their mean gradient, at the centre."""
    data = objective.data
    small = objective.on(data, chunk=_BATCH) if data.divisible else objective
    step = -(-small.chunks // _BATCHES)
    total, count = torch.zeros(objective.layout.size, dtype=torch.float64), 0
    with small.differentiable() as (model, parameters):
        for _, batch in small.every(step, 0):
            units = small.units(model, batch)[0]
            slopes = torch.autograd.grad(units.numerators.sum() / units.total, parameters, allow_unused=True)
            flat = torch.cat(
                [(torch.zeros_like(p) if s is None else s).reshape(-1) for s, p in zip(slopes, parameters, strict=True)]
            )
            total += flat.double().cpu().square()
            count += 1
    return total / count
