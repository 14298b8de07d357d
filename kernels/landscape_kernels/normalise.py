"""Scaling a direction to the parameters it perturbs, and making directions exactly orthogonal.

Source: Li, Xu, Taylor, Studer, Goldstein, "Visualizing the loss landscape of neural nets", NeurIPS 2018, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape_kernels.layout import Block, Layout
from landscape_kernels.pieces import WHOLE, columns_of, norm_of, pieces_of

NORMALIZATIONS = ("none", "filter", "layer", "weight", "model")

_ORTHOGONAL = 1e-13  # cosine below which two float64 directions count as orthogonal; rounding leaves about 1e-16
_SWEEPS = 200


def block_norms(vector: Tensor, block: Block, how: str) -> Tensor:
    """Norm of every group of one block of vectors (..., size), shaped to broadcast over the block's grouped view.

    `how="filter"` gives one norm per filter (one for the whole tensor where it has no filters), "layer" one norm.
    """
    view = _grouped(vector, block, how)
    columns = columns_of(block) if how == "filter" else 0
    if vector.ndim == 1 and (view.ndim == 1 or columns) and block.size > WHOLE:
        parts = (vector[piece.slice] for piece in pieces_of(block))
        return norm_of(parts, block.size, columns).reshape(-1, *[columns] * bool(columns))
    filters = block.filters if how == "filter" else None
    inner = [axis - len(filters.shape) for axis in filters.inner] if filters else [-1]
    norms: Tensor = torch.linalg.vector_norm(view, dim=inner, keepdim=True)
    return norms


def _grouped(vector: Tensor, block: Block, how: str) -> Tensor:
    shape = block.filters.shape if how == "filter" and block.filters else (block.size,)
    return vector[..., block.slice].view(*vector.shape[:-1], *shape)


def normalise_(direction: Tensor, theta: Tensor, layout: Layout, how: str, ignored: Sequence[Block] = ()) -> Tensor:
    """Scale `direction` (..., size), one or many, in place to `theta` (size,), zero on `ignored`; returns it.

    - "none":   d unchanged
    - "filter": d_f <- d_f |theta_f| / |d_f| for each filter f; tensors without filters are scaled as a layer
    - "layer":  the same for each tensor
    - "weight": d_i <- d_i |theta_i|
    - "model":  the same for the whole vector (ignored blocks left out of both norms)

    A group whose direction is zero stays zero. Deviation from the source, which copies theta into one-dimensional
    tensors that are not ignored: they get a random direction of the layer's norm like every other tensor.

    >>> layout = Layout.of({"w": (2, 2)})
    >>> theta = torch.tensor([3.0, 4.0, 0.0, 2.0])
    >>> normalise_(torch.tensor([0.0, 1.0, 5.0, 0.0]), theta, layout, "filter")
    tensor([0., 5., 2., 0.])
    """
    if how not in NORMALIZATIONS:
        raise ValueError(f"normalisation {how!r} is not one of {', '.join(NORMALIZATIONS)}")
    skipped = {block.name for block in ignored}
    for block in ignored:
        direction[..., block.slice] = 0
    if how == "weight":
        direction.mul_(theta.abs())
    elif how == "model":
        parts = [piece for block in layout.blocks for piece in pieces_of(block)]
        kept = [piece for piece in parts if piece.block.name not in skipped]
        if direction.ndim > 1:
            norm = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        else:
            norm = norm_of((direction[piece.slice] for piece in parts), layout.size)
        wanted = norm_of((theta[piece.slice] for piece in kept), sum(piece.size for piece in kept))
        direction.mul_(torch.where(norm > 0, wanted / norm, torch.ones_like(norm)))
    elif how in ("filter", "layer"):
        for block in layout.blocks:
            if block.name in skipped:
                continue
            norms = block_norms(direction, block, how)
            scale = torch.where(norms > 0, block_norms(theta, block, how) / norms, torch.zeros_like(norms))
            _grouped(direction, block, how).mul_(scale)
    return direction


def orthogonalise_(
    direction: Tensor, others: Sequence[Tensor], theta: Tensor, layout: Layout, how: str, ignored: Sequence[Block] = ()
) -> Tensor:
    """Make `direction` orthogonal to `others` in place while it keeps the norms of its normalisation; returns it.

    Alternates projection on the orthogonal complement with renormalisation until every cosine is below 1e-13 (all
    float64). For "none" and "weight", which fix no norm, one projection (done twice against rounding) is enough.
    Raises ValueError when no direction satisfies both, as with filters of a single weight, whose only freedom is a
    sign, or where the others span the space.
    """
    basis = _orthonormal(others)
    if basis is None:
        return direction
    for _ in range(_SWEEPS):
        before = torch.linalg.vector_norm(direction)
        direction.sub_(basis @ (basis.T @ direction))
        direction.sub_(basis @ (basis.T @ direction))
        if torch.linalg.vector_norm(direction) <= 1e-10 * before:
            break
        # "weight" would scale each entry once more; what rounding left on ignored blocks goes with any normalisation.
        normalise_(direction, theta, layout, "none" if how == "weight" else how, ignored)
        norm = torch.linalg.vector_norm(direction)
        if bool((basis.T @ direction).abs().max() <= _ORTHOGONAL * norm):
            return direction
    raise ValueError("no direction is orthogonal to the others and keeps the norms of its normalisation")


def _orthonormal(vectors: Sequence[Tensor]) -> Tensor | None:
    if not vectors:
        return None
    basis: Tensor = torch.linalg.qr(torch.stack(list(vectors), dim=1)).Q
    return basis
