"""Random vectors that depend on (seed, keys) alone: not on the rank, the device, the clock or what was drawn before."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape_kernels.arrays import FloatArray


def derive_seed(seed: int, *keys: str | int) -> int:
    """A 128-bit seed for one purpose: BLAKE2b of the seed and the keys.

    >>> derive_seed(0, "direction", 0) != derive_seed(0, "direction", 1)
    True
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def normal_vector(size: int, seed: int, *keys: str | int) -> Tensor:
    """Independent standard normal values, (size,) float64 on the CPU, from numpy's Philox counter generator."""
    generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, *keys)))
    return torch.from_numpy(generator.standard_normal(size))


def rademacher_vector(size: int, seed: int, *keys: str | int) -> Tensor:
    """Independent signs, (size,) float64 of -1 and +1 on the CPU, from the bits of numpy's Philox counter generator."""
    generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, *keys)))
    bits = np.unpackbits(np.frombuffer(generator.bytes((size + 7) // 8), dtype=np.uint8), count=size)
    return torch.from_numpy(2.0 * bits - 1.0)


_PLACE = 65  # bytes of a counter, four numbers left, and how much of them


class NormalPieces:
    """The values of `normal_vector` in pieces of given sizes, each drawn when it is asked for.

    A normal value may take several numbers of the generator, so that where a piece begins is known once the pieces
    before it were drawn. Its place in the generator's count is kept then, 200 bytes a piece, and it is drawn from there
    on its own, by any thread.
    """

    def __init__(self, sizes: Sequence[int], seed: int, *keys: str | int) -> None:
        self._sizes = sizes
        self._key = derive_seed(seed, *keys)
        self._generator = np.random.Generator(np.random.Philox(key=self._key))  # before the first piece not known
        self._places = np.empty((len(sizes), _PLACE), np.uint8)  # one array: small ones would split the free memory
        self._known = 0
        self._lock = threading.Lock()

    def draw(self, number: int, out: FloatArray) -> FloatArray:
        """Piece `number` into `out`, an array of its size, which is returned."""
        with self._lock:
            while self._known <= number:
                place = _place(self._generator.bit_generator.state)
                self._places[self._known] = np.frombuffer(place, np.uint8)
                self._known += 1
                if self._known == number + 1:
                    return self._generator.standard_normal(out=out)
                self._generator.standard_normal(self._sizes[self._known - 1])
        bits = np.random.Philox(key=self._key)
        bits.state = _state(bits.state, self._places[number].tobytes())
        return np.random.Generator(bits).standard_normal(out=out)


def _place(state: Any) -> bytes:
    """Where a Philox generator is: its counter, what is left of the last four numbers, and how much of that."""
    left: bytes = state["buffer"].tobytes()
    counter: bytes = state["state"]["counter"].tobytes()
    return counter + left + bytes([state["buffer_pos"]])


def _state(state: Any, place: bytes) -> Any:
    """The state of a generator of the same key at that place."""
    counter, left = np.frombuffer(place[:32], np.uint64), np.frombuffer(place[32:64], np.uint64)
    return {
        **state,
        "state": {**state["state"], "counter": counter.copy()},
        "buffer": left.copy(),
        "buffer_pos": place[64],
    }
