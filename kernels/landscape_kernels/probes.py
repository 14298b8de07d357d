"""Random vectors that depend on (seed, keys) alone: not on the rank, the device, the clock or what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


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
