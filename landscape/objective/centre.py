"""The centre: a model's own values, a copy of them, or, of a large model, its parameters where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from landscape_kernels.layout import Block, Layout
from landscape_kernels.pieces import Piece, pieces, pieces_of, put_alone_
from torch import Tensor

from landscape.errors import InputError
from landscape.files.slices import StoredTensors
from landscape.objective.interrupts import until_done
from landscape.objective.placement import Home, Placement, home_of, mark_of
from landscape.objective.threads import in_threads
from landscape.objective.trees import Digest, as_real

# Puts values of the pieces into flat tensors, one for each block by name.
Write = Callable[[Sequence[Piece], Mapping[str, Tensor]], None]
_MARKED = 256  # values of a parameter by which processes tell whether they are at the same point
# Bytes of parameters from which on a model is its own centre: no copy of them is made where none is asked for.
LARGE = 256 << 20


class Centre:
    """The values of a model's trainable parameters, in the working precision.

    They are a copy of them, unless the model is large, or a `checkpoint` is given that it can be put back from. Then it
    is `live`: its parameters are the centre, read where they lie, and nobody else may write to them. So is a model that
    has a `placement`, which is written to in place, and put back from its checkpoint or from a copy in host memory.
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
        placement: Placement | None = None,
    ) -> None:
        self._layout, self._trainable, self.device, self.dtype = layout, trainable, device, dtype
        self._numbers = {name: number for number, name in enumerate(layout.names)}
        self._parameters, self._placement = [*trainable, *frozen], placement
        every = [*(placement.lying() if placement else self._parameters), *buffers]
        self._versions = self._now()
        self.mark = 0  # of what a sharded model holds: another number at another point, 0 at the centre
        self._known = ""  # digest of a `live` model, once it was taken
        self._of_file = ""  # digest of the stored values, once it was taken
        if placement is not None:
            self._require_as_they_lie(placement, every, attributes)
        large = sum(t.numel() * t.element_size() for t in every) >= LARGE
        self.live = placement is not None or (
            (large or checkpoint is not None)
            and all(map(self._as_it_lies, trainable))
            and not _overlap(every)
            # a view of a parameter that a module keeps has the centre's values at every point
            and not _share(trainable, attributes)
        )
        self._vector = None if self.live else self._made(dtype)
        self._spare: Tensor | None = None
        self._others: list[Tensor] | None = None
        self._stored: StoredTensors | _Copy | None = None
        if checkpoint is not None:
            self._stored = self._opened(checkpoint)
        elif placement is not None:
            self._stored = _Copy(layout, placement, dtype)

    def converted(self, dtype: torch.dtype) -> Centre:
        """The same values in another precision, as a copy."""
        other = object.__new__(Centre)
        other.__dict__ |= self.__dict__
        other.dtype, other.live, other._spare, other._stored = dtype, False, None, None
        other._others = None
        other._vector = self._made(dtype) if self._vector is None else self._vector.to(dtype)
        return other

    @property
    def vector(self) -> Tensor:
        """The values (size,), which are not to be written to; made anew where the model is `live`."""
        return self._made(self.dtype) if self._vector is None else self._vector

    @property
    def held(self) -> Tensor | None:
        """The copy (size,); None where the model is `live`."""
        return self._vector

    @property
    def in_place(self) -> bool:
        """Whether the model's own tensors are written to, and put back from its checkpoint or a copy."""
        return self._stored is not None

    @property
    def copied(self) -> bool:
        """Whether a copy of the values is held in memory, beside the model's own tensors, to put them back."""
        return isinstance(self._stored, _Copy)

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

    def require_same_values(self) -> None:
        """Raise InputError where the values are no longer those of the first `digest`, or of the checkpoint.

        It reads all of them, as `digest` does, for what asks for no digest.
        """
        if self.live:
            self.digest  # noqa: B018

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
            if self._stored is not None and not self._is_here(piece, values):
                raise _changed()
            found.add(values)
        if self._stored is not None:
            self._of_file = found.text
        return found.text

    def fill(self, piece: Piece, out: Tensor) -> None:
        """Put the values of a piece into `out` (size,), of any floating-point type, in this thread alone.

        Where `out` is the model's own memory, which `written` gives to be written to, they are there already.
        """
        if not self._is_own(piece, out):
            self._restore(piece, out)

    def begun(self, piece: Piece, out: Tensor) -> Tensor:
        """The values (size,) of a piece where they lie in memory beside `out`; else put there by `fill`."""
        if not self.in_place:
            values = self.at(piece)
            if (values.device, values.dtype) == (out.device, out.dtype):
                return values
        self.fill(piece, out)
        return out

    def _restore(self, piece: Piece, out: Tensor) -> None:
        """`fill`, also of the model's own memory that holds other values."""
        name = piece.block.name
        stored = self._stored
        if (
            isinstance(stored, StoredTensors)
            and out.device.type == "cpu"
            and stored.dtype(name) == self.dtype == out.dtype
        ):
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
    def written(self, write: Write) -> Iterator[Tensor | None]:
        """theta (size,) into whose parts, a flat tensor for each block by name, `write` has put the pieces it is told.

        None of a `live` model, which holds the values itself meanwhile, and is put back on every way out: in its own
        tensors where these can be put back, else in others of their sizes. Else theta is a buffer that the next call
        writes to again.
        """
        if self.live and self._stored is None:
            with self._in_others(write):
                yield None
            return
        if self._stored is None:
            if self._spare is None:
                self._spare = torch.empty(self._layout.size, dtype=self.dtype, device=self.device)
            parts = self._spare.split_with_sizes([block.size for block in self._layout.blocks])
            write(pieces(self._layout), dict(zip(self._layout.names, parts, strict=True)))
            yield self._spare
            return
        stored = self._stored
        stored.require_unchanged()

        def put_back() -> None:
            self._put_back(stored)

        try:
            self._write(write)
            yield None
        finally:
            try:
                until_done(put_back)
            except KeyboardInterrupt:  # which may come before its first line
                until_done(put_back)
                raise

    def let_go(self) -> None:
        """Forget the buffer of `written`, which the next call makes anew."""
        self._spare = self._others = None

    @contextmanager
    def _in_others(self, write: Write) -> Iterator[None]:
        """The parameters hold what `write` puts into other tensors of theirs, each of which begins at a whole word.

        In one vector most would not, and would be copied once more.
        """
        if self._others is None:
            self._others = [torch.empty_like(p.data) for p in self._trainable]
        flat = (as_real(other).view(-1) for other in self._others)
        write(pieces(self._layout), dict(zip(self._layout.names, flat, strict=True)))
        own = [p.data for p in self._trainable]

        def put_back() -> None:
            for parameter, data in zip(self._trainable, own, strict=True):
                parameter.data = data

        try:
            for parameter, other in zip(self._trainable, self._others, strict=True):
                parameter.data = other
            yield
        finally:
            try:
                until_done(put_back)
            except KeyboardInterrupt:  # which may come before its first line
                until_done(put_back)
                raise

    def _write(self, write: Write) -> None:
        """Have the model's own tensors written to; of those that lie here in part the pieces of that part alone."""
        mark = 0
        chosen: list[Piece] = []
        parts: dict[str, Tensor] = {}
        for block in self._layout.blocks:
            home, cut = self._home(block), pieces_of(block)
            if home.values.numel() == block.size:
                chosen += cut
                parts[block.name] = home.values
                continue
            room = torch.empty(block.size, dtype=self.dtype)  # pages that nothing is written to take no memory
            # the first one on every process, to tell what is computed
            here = [piece for piece in cut if piece.start == 0 or (piece.start < home.stop and piece.stop > home.start)]
            write(here, {block.name: room})
            home.values.copy_(room[home.start : home.stop])
            mark ^= mark_of(block.offset & 0xFFFFFFFF, room[: min(_MARKED, here[0].stop)])
        write(chosen, parts)
        if self._placement is not None and self._placement.is_sharded:
            # in no order: a parameter of one row is whole on one process and nothing on the others
            for block in self._layout.blocks:
                if block.name in parts:
                    mark ^= mark_of(block.offset & 0xFFFFFFFF, parts[block.name][:_MARKED])
        self.mark = mark

    def _put_back(self, stored: StoredTensors | _Copy) -> None:
        self.mark = 0

        def put(piece: Piece) -> None:
            part, own = self._own(piece)
            if part.size:
                self._restore(part, own)

        in_threads(put, pieces(self._layout))
        stored.require_unchanged()

    def _now(self) -> list[int]:
        """How often each parameter was written to, as torch counts it."""
        if self._placement is not None:
            return self._placement.versions()
        return [0 if p.is_inference() else p._version for p in self._parameters]

    def _made(self, dtype: torch.dtype) -> Tensor:
        """The values (size,) of the model's tensors; nothing as large is held beside them."""
        found = torch.empty(self._layout.size, dtype=dtype, device=self.device)
        if self._placement is not None:
            for piece in pieces(self._layout):
                found[piece.slice] = self.at(piece)
            return found
        for block, parameter in zip(self._layout.blocks, self._trainable, strict=True):
            found[block.slice].view(block.shape).copy_(as_real(parameter.data))
        return found

    def _home(self, block: Block) -> Home:
        """Where the values of a parameter of a `live` model lie."""
        if self._placement is not None:
            return self._placement.home(block.name)
        return home_of(self._trainable[self._numbers[block.name]])

    def _own(self, piece: Piece) -> tuple[Piece, Tensor]:
        """What of a piece of a `live` model lies in this process, which may be nothing, and its values there."""
        home = self._home(piece.block)
        start = max(piece.start, home.start)
        stop = max(start, min(piece.stop, home.stop))
        return Piece(piece.block, start, stop), home.values[start - home.start : stop - home.start]

    def _is_own(self, piece: Piece, out: Tensor) -> bool:
        """Whether a tensor is the place where the model itself has the values of a piece."""
        return self.in_place and out.data_ptr() == self._own(piece)[1].data_ptr()

    def _is_here(self, piece: Piece, values: Tensor) -> bool:
        """Whether the model has these values of a piece, as far as it lies in this process."""
        part, own = self._own(piece)
        return _same(values[part.start - piece.start : part.stop - piece.start].to(own.device), own)

    def _read(self, stored: StoredTensors | _Copy, piece: Piece) -> Tensor:
        return stored.read(piece.block.name, piece.start, piece.stop).to(self.device, self.dtype)

    def _is_stored(self, piece: Piece) -> bool:
        """Whether the model has a piece as it is stored, as far as it lies in this process."""
        assert self._stored is not None
        return self._is_here(piece, self._read(self._stored, piece))

    def _require_as_they_lie(self, placement: Placement, every: list[Tensor], attributes: Sequence[Tensor]) -> None:
        """Raise InputError where parameters of a model with a placement cannot be written to in place."""
        lying = []
        for block in self._layout.blocks:
            values = placement.home(block.name).values
            lying.append(values)
            if values.dtype != self.dtype:
                raise InputError(
                    f"parameter {block.name} is {values.dtype}, and the precision asked for {self.dtype}; a model that "
                    "is spread over devices, offloaded or sharded is measured as it lies: leave precision out, or "
                    "convert all parameters that vary before it is distributed"
                )
        if _overlap(every) or _share(lying, attributes):
            raise InputError(
                "parameters of a model that is spread over devices, offloaded or sharded share memory without being "
                "one tensor, so they cannot vary where they lie; clone() one of them"
            )

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
        stored = StoredTensors(checkpoint)
        for block, parameter in zip(self._layout.blocks, self._trainable, strict=True):
            if parameter.is_complex():
                raise InputError(f"{block.name} is complex, which safetensors do not hold; leave checkpoint out")
            stored.require(block.name, block.shape)
        every = pieces(self._layout)
        same = in_threads(lambda piece: self._is_here(piece, self._read(stored, piece)), every)
        for piece, is_same in zip(every, same, strict=True):
            if not is_same:
                raise InputError(
                    f"checkpoint {checkpoint} has other values of {piece.block.name} than the model; give the file "
                    "that the model was loaded from, or leave checkpoint out: a copy is then held in memory"
                )
        return stored


class _Copy:
    """The values of a model's parameters in host memory, read as a checkpoint is."""

    def __init__(self, layout: Layout, placement: Placement, dtype: torch.dtype) -> None:
        self._flat = torch.empty(layout.size, dtype=dtype)
        self._offsets = {block.name: block.offset for block in layout.blocks}
        for block in layout.blocks:
            self._flat[block.slice].copy_(as_real(placement.whole(block.name)).reshape(-1))

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Values `start` to `stop` of a tensor in row-major order."""
        offset = self._offsets[name]
        return self._flat[offset + start : offset + stop]

    def require_unchanged(self) -> None:
        """Nobody else knows of them."""


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
