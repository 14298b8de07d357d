"""The random streams of torch, numpy and Python: where they are, and putting them back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")


def keeps_random_state(function: Callable[P, R]) -> Callable[P, R]:
    """The function, after which the caller's random streams go on as if it had not been called, whatever runs in it."""

    @wraps(function)
    def keeping(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        with random_state_kept():
            try:
                return function(*args, **kwargs)
            finally:
                if devices:
                    torch.cuda.set_rng_state_all(devices)

    return keeping


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever draws random numbers inside (a DataLoader does), the caller's streams go on as if it had not."""
    states = np.random.get_state(), random.getstate()
    try:
        with torch_random_state_kept():
            yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


class torch_random_state_kept:  # noqa: N801  (stands where the function above does, and takes half as long)
    """The same for torch's own stream on the CPU alone."""

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._state)


def random_streams() -> tuple[Any, ...]:
    """Where numpy's and Python's random streams are, to see whether something has drawn from them."""
    _, state, place, *_ = np.random.get_state()
    return bytes(state), place, random.getstate()  # type: ignore[arg-type]


def seed_everything(seed: int) -> None:
    """Put every random stream where `seed`, any whole number, says; use inside `random_state_kept`."""
    # torch.manual_seed asks every kind of device, which takes 0.2 ms a call.
    torch.default_generator.manual_seed(seed % 2**63)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)
    random.seed(seed)
