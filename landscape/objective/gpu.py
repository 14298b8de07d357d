"""What a GPU needs: exact float32, the same kernels every time, and no look at its values while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from landscape.run.comm import available_memory, local_size

_EXACT = ("ieee", "none")


def on_host(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return is_host(tensor.device)


def is_host(device: torch.device) -> bool:
    """Whether it is the processor, which has its values at once."""
    return device.type == "cpu"


def free_memory(device: torch.device) -> int:
    """Bytes that are free for this rank: of its GPU's memory, else its share of this machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory() // local_size()


@contextmanager
def settled(device: torch.device) -> Iterator[None]:
    """Inside, computing on the GPU `device` is exact and repeatable; its random stream, too, goes on as before."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device]))
        stack.enter_context(torch.cuda.device(device))
        stack.enter_context(cudnn(benchmark=False, deterministic=True))
        stack.enter_context(exact_float32())
        yield


@contextmanager
def cudnn(**settings: bool) -> Iterator[None]:
    """Inside, settings of `torch.backends.cudnn` are these; all others stay.

    `torch.backends.cudnn.flags` sets those it is not given, too, and switches cuDNN off unless told otherwise.
    """
    backend: Any = torch.backends.cudnn
    before = {name: getattr(backend, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(backend, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(backend, name, value)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, products of float32 are products of float32 and not of TensorFloat32, whatever the user has allowed.

    Torch keeps two sets of settings: from 2.9 on words by which its kernels go, and older switches, which are refused
    when they are read while the words say otherwise. Where the older ones can be read, both say the same inside.
    """
    cuda: Any = torch.backends.cuda.matmul
    backend: Any = torch.backends.cudnn
    words = _words()
    before = [holder.fp32_precision for holder in words]
    matmul, convolutions = _matmul_precision(), _convolutions_allow_tf32()
    try:
        if matmul is not None:
            cuda.allow_tf32 = False
        if convolutions is not None:
            backend.allow_tf32 = False
        for holder in words:
            if holder.fp32_precision not in _EXACT:
                holder.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            backend.allow_tf32 = convolutions
        for holder, word in zip(words, before, strict=True):
            for value in ("none", word):  # "none" follows the setting above it, as it did where that says the same
                if holder.fp32_precision != word:
                    holder.fp32_precision = value


def _words() -> list[Any]:
    """What holds a word for products, convolutions and recurrences of CUDA, and for the CPU's products.

    The switches change the last one, too.
    """
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the user has set it by its word
        return None


def _convolutions_allow_tf32() -> bool | None:
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None
