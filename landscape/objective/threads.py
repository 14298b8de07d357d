"""The pieces of a large model, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from landscape.objective.interrupts import until_done

_T = TypeVar("_T")
_Found = TypeVar("_Found")


def in_threads(work: Callable[[_T], _Found], every: Iterable[_T]) -> list[_Found]:
    """What `work` returns for each, in order; as many are done at once as torch has threads.

    Whatever a piece raises is raised, and what is not begun then is left. No thread is at work any more when this ends,
    also where Ctrl-C ends it.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(one) for one in every]
    pool = ThreadPoolExecutor(threads)
    try:
        return [future.result() for future in [pool.submit(work, one) for one in every]]
    finally:
        until_done(lambda: pool.shutdown(cancel_futures=True))
