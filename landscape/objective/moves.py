"""Parameters far from the centre, always the same, to try a model at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from landscape_kernels.perturb import perturb_alone_
from landscape_kernels.pieces import ALONE, PIECE, Piece, pieces
from landscape_kernels.probes import normal_vector
from torch import Tensor

from landscape.objective.model import BoundModel
from landscape.objective.threads import in_threads


class Moves:
    """Steps from the centre: normal values times the mean size of the parameters.

    Those of a model that is its own centre repeat themselves from piece to piece, so that they are drawn once.
    """

    def __init__(self, model: BoundModel) -> None:
        self._model, own, size = model, model.own, model.layout.size
        self._pieces = pieces(model.layout)
        if own.held is not None:
            at = own.held
            self._step = (at.abs().mean() or 1.0) * normal_vector(size, 0, "moves").to(at)
            return
        total = sum(in_threads(lambda piece: _sum_of_sizes(own.at(piece)), self._pieces))
        drawn = normal_vector(min(PIECE, size), 0, "moves").to(own.device, own.dtype)
        self._step = (total / size or 1.0) * drawn

    @contextmanager
    def by(self, scale: float) -> Iterator[Tensor | None]:
        """theta (size,) so many steps away, for `BoundModel.at`; 0 is the centre."""
        held = self._model.own.held
        if scale == 0:
            yield None
        elif held is not None:
            yield held + scale * self._step
        else:
            with self._model.own.written(lambda chosen, parts: self._write(scale, chosen, parts)) as theta:
                yield theta

    def _write(self, scale: float, chosen: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
        def put(piece: Piece) -> None:
            out = parts[piece.block.name][piece.inside]
            self._model.own.fill(piece, out)
            for part in torch.split(out, len(self._step)):
                perturb_alone_(part, part, [self._step[: len(part)].to(out.device)], [scale])

        in_threads(put, chosen)


def _sum_of_sizes(values: Tensor) -> float:
    parts: tuple[Tensor, ...] = torch.split(values, ALONE)
    return sum(float(part.abs().sum(dtype=torch.float64)) for part in parts)
