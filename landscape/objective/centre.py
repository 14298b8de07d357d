"""The centre: a model's own values, a copy of them, or, of a large model, its parameters where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from landscape_kernels.layout import Layout
from landscape_kernels.pieces import Piece, pieces, put_alone_
from torch import Tensor

from landscape.errors import InputError
from landscape.files.slices import StoredTensors
from landscape.objective.interrupts import until_done
from landscape.objective.threads import in_threads
from landscape.objective.trees import Digest, as_real

# Bytes of parameters from which on a model is its own centre: no copy of them is made where none is asked for.
LARGE = 256 << 20


class Centre:
    """The values of a model's trainable parameters, in the working precision.

    They are a copy of them, unless the model is large, or a `checkpoint` is given that it can be put back from. Then it
    is `live`: its parameters are the centre, read where they lie, and nobody else may write to them.
    """

    def __init__(
        self,
        layout: Layout,
        trainable: Sequence[Tensor],
        frozen: Sequence[Tensor],
        buffers: Sequence[Tensor],
        attributes: Sequence[Tensor],
        device: torch.device,
        dtype: torch.dtype,
        checkpoint: str | Path | None,
    ) -> None:
        self._layout, self._trainable, self.device, self.dtype = layout, trainable, device, dtype
        self._numbers = {name: number for number, name in enumerate(layout.names)}
        every = [*trainable, *frozen, *buffers]
        self._parameters = [*trainable, *frozen]
        self._versions = self._now()
        self._known = ""  # digest of a `live` model, once it was taken
        self._of_file = ""  # digest of the checkpoint's values, once it was taken
        large = sum(t.numel() * t.element_size() for t in every) >= LARGE
        self.live = (large or checkpoint is not None) and all(map(self._as_it_lies, trainable))
        # a view of a parameter that a module keeps has the centre's values at every point
        self.live = self.live and not _overlap(every) and not _share(trainable, attributes)
        self._vector = None if self.live else self._made()
        self._spare: Tensor | None = None
        self._others: list[Tensor] | None = None
        self._stored = None if checkpoint is None else self._opened(checkpoint)

    def converted(self, dtype: torch.dtype) -> Centre:
        """The same values in another precision, as a copy."""
        other = object.__new__(Centre)
        other.__dict__ |= self.__dict__
        other.dtype, other.live, other._spare, other._stored = dtype, False, None, None
        other._others = None
        other._vector = self.vector.to(dtype)
        return other

    @property
    def vector(self) -> Tensor:
        """The values (size,), which are not to be written to; made anew where the model is `live`."""
        return self._made() if self._vector is None else self._vector

    @property
    def held(self) -> Tensor | None:
        """The copy (size,); None where the model is `live`."""
        return self._vector

    @property
    def in_place(self) -> bool:
        """Whether the model's own tensors are written to, and put back from its checkpoint."""
        return self._stored is not None

    @property
    def digest(self) -> str:
        """`trees.digest` of the vector, which need not be there.

        Raises InputError where a `live` model, or the checkpoint of one, was written to, also where torch did not count
        it (`parameter.data`).
        """
        found = self.hashed()
        if self.live and self._known not in ("", found):
            raise _changed()
        self._known = found
        return found

    def hashed(self) -> str:
        """`digest` without a look at what it was before; of a checkpoint that is as it was it is taken once."""
        self.require_unchanged()
        if self._stored is not None:
            self._stored.require_unchanged()
            if self._of_file:
                if not all(in_threads(self._is_stored, pieces(self._layout))):
                    raise _changed()
                return self._of_file
        found = Digest(self.dtype, (self._layout.size,))
        for piece in pieces(self._layout):
            values = self.at(piece)
            if self._stored is not None and not _same(values, self._own(piece)):
                raise _changed()
            found.add(values)
        if self._stored is not None:
            self._of_file = found.text
        return found.text

    def fill(self, piece: Piece, out: Tensor) -> None:
        """Put the values of a piece into `out` (size,), of any floating-point type, in this thread alone."""
        name = piece.block.name
        stored = self._stored
        if stored is not None and out.device.type == "cpu" and stored.dtype(name) == self.dtype == out.dtype:
            stored.fill(out, name, piece.start)
        else:
            put_alone_(out, self.at(piece))

    def at(self, piece: Piece) -> Tensor:
        """Values of a piece (size,), a view where they are in memory."""
        if self._vector is not None:
            return self._vector[piece.slice]
        if self._stored is not None:
            return self._read(self._stored, piece)
        # reshape: a model in use may have its images' layout
        return as_real(self._trainable[self._numbers[piece.block.name]].data).reshape(-1)[piece.inside]

    def require_unchanged(self) -> None:
        """Raise InputError where somebody has written to the parameters of a `live` model since it was bound."""
        if self.live and self._versions != self._now():
            raise _changed()

    @contextmanager
    def written(self, write: Callable[[Sequence[Tensor]], None]) -> Iterator[Tensor | None]:
        """theta (size,) into whose parts, a flat tensor for each block, `write` has put values.

        None of a `live` model, which holds the values itself meanwhile, and is put back on every way out: in its own
        tensors where there is a checkpoint to put them back from, else in others of their sizes. Else theta is a
        buffer that the next call writes to again.
        """
        if self.live and self._stored is None:
            with self._in_others(write):
                yield None
            return
        if self._stored is None:
            if self._spare is None:
                self._spare = torch.empty(self._layout.size, dtype=self.dtype, device=self.device)
            write(self._spare.split_with_sizes([block.size for block in self._layout.blocks]))
            yield self._spare
            return
        stored = self._stored
        stored.require_unchanged()

        def put_back() -> None:
            self._put_back(stored)

        try:
            write([as_real(p.data).view(-1) for p in self._trainable])
            yield None
        finally:
            until_done(put_back)

    @contextmanager
    def _in_others(self, write: Callable[[Sequence[Tensor]], None]) -> Iterator[None]:
        """The parameters hold what `write` puts into other tensors of theirs, each of which begins at a whole word.

        In one vector most would not, and would be copied once more.
        """
        if self._others is None:
            self._others = [torch.empty_like(p.data) for p in self._trainable]
        write([as_real(other).view(-1) for other in self._others])
        own = [p.data for p in self._trainable]

        def put_back() -> None:
            for parameter, data in zip(self._trainable, own, strict=True):
                parameter.data = data

        try:
            for parameter, other in zip(self._trainable, self._others, strict=True):
                parameter.data = other
            yield
        finally:
            until_done(put_back)

    def _put_back(self, stored: StoredTensors) -> None:
        in_threads(lambda piece: self.fill(piece, self._own(piece)), pieces(self._layout))
        stored.require_unchanged()

    def _now(self) -> list[int]:
        """How often each parameter was written to, as torch counts it."""
        return [0 if p.is_inference() else p._version for p in self._parameters]

    def _made(self) -> Tensor:
        return torch.cat([as_real(p.data).to(self.device, self.dtype).reshape(-1) for p in self._trainable])

    def _own(self, piece: Piece) -> Tensor:
        """A piece of a parameter of a `live` model, where it lies."""
        return as_real(self._trainable[self._numbers[piece.block.name]].data).view(-1)[piece.inside]

    def _read(self, stored: StoredTensors, piece: Piece) -> Tensor:
        return stored.read(piece.block.name, piece.start, piece.stop).to(self.device, self.dtype)

    def _is_stored(self, piece: Piece) -> bool:
        """Whether the model holds a piece as its checkpoint does."""
        assert self._stored is not None
        return _same(self._read(self._stored, piece), self._own(piece))

    def _as_it_lies(self, p: Tensor) -> bool:
        """Whether a parameter can be used without a copy."""
        here = p.device == self.device and p.layout == torch.strided and p.is_contiguous() and not p.is_conj()
        return here and p.dtype == (self.dtype.to_complex() if p.is_complex() else self.dtype)

    def _opened(self, checkpoint: str | Path) -> StoredTensors:
        """The checkpoint that a `live` model is put back from. Raises InputError where it holds other values."""
        if not self.live:
            raise InputError(
                f"checkpoint={str(checkpoint)!r} is what the model is put back from after it was written to in place, "
                f"which needs dense parameters of {self.dtype} on {self.device} that share no memory; leave it out"
            )
        if not isinstance(checkpoint, str | Path):
            raise InputError(
                f"checkpoint is of type {type(checkpoint).__name__}; give the path of a safetensors file or a "
                "folder of them"
            )
        stored = StoredTensors(checkpoint)
        for block, parameter in zip(self._layout.blocks, self._trainable, strict=True):
            if parameter.is_complex():
                raise InputError(f"{block.name} is complex, which safetensors do not hold; leave checkpoint out")
            stored.require(block.name, block.shape)
        every = pieces(self._layout)
        same = in_threads(lambda piece: _same(self._read(stored, piece), self._own(piece)), every)
        for piece, is_same in zip(every, same, strict=True):
            if not is_same:
                raise InputError(
                    f"checkpoint {checkpoint} has other values of {piece.block.name} than the model; give the file "
                    "that the model was loaded from, or leave checkpoint out: a copy is then held in memory"
                )
        return stored


def _share(parameters: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Whether one of the others lies in the memory of a parameter."""
    memory = {p.untyped_storage().data_ptr() for p in parameters if p.numel()}
    return any(t.numel() and t.device.type != "meta" and t.untyped_storage().data_ptr() in memory for t in others)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two vectors of one type hold the same bits."""
    one, other = (t.contiguous().view(torch.uint8).cpu().numpy() for t in (a, b))
    longs = len(one) // 8 * 8  # compared eight bytes at a time
    same = np.array_equal(one[:longs].view(np.int64), other[:longs].view(np.int64))
    return same and np.array_equal(one[longs:], other[longs:])


def _changed() -> InputError:
    return InputError(
        "the model's parameters were changed after the objective was made, and it holds no copy of them; make a new "
        "Objective of the model as it is now"
    )


def _overlap(tensors: Iterable[Tensor]) -> bool:
    """Whether two of the tensors hold values in the same memory."""
    spans = sorted(
        (str(t.device), t.data_ptr(), t.data_ptr() + t.numel() * t.element_size())
        for t in {id(t): t for t in tensors}.values()
        if t.layout == torch.strided and not t.is_nested and t.numel()
    )
    return any(a[0] == b[0] and b[1] < a[2] for a, b in pairwise(spans))
