"""What one rank raises, all raise; what rank 0 reads, all have."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from landscape.errors import LandscapeError, RunFailedError, UserCodeError
from landscape.run.comm import Communicator, world

T = TypeVar("T")


def write_result(save: Callable[[Path], object], path: Path) -> None:
    """Have rank 0 write a result by its `save`; where that fails, raise on all ranks."""
    agree(world(), lambda: save(path) if world().rank == 0 else None)


def agree(comm: Communicator, action: Callable[[], T]) -> T:
    """Run `action` on every rank; where it raises on any rank, raise on all, so that none waits for another."""
    results: list[T] = []
    problem: LandscapeError | None = None
    try:
        results.append(action())
    except Exception as error:
        if comm.size == 1:
            raise
        problem = told_error(error)
    raise_first(comm.gather_all(problem))
    return results[0]


def told_error(error: Exception) -> LandscapeError:
    """The error as other ranks can be told it: our own as they are, any other with its traceback."""
    if isinstance(error, LandscapeError):
        return error
    return RunFailedError("".join(traceback.format_exception(error)))


def reason_of(error: Exception) -> str:
    """Why an item failed, for its record: with a traceback, of what the user's code raised where it was that."""
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        return f"{error}\n{''.join(traceback.format_exception(error.__cause__))}"
    return str(told_error(error))


def raise_first(problems: list[LandscapeError | None]) -> None:
    """Raise the first rank's error on all ranks, where there is one."""
    for rank, problem in enumerate(problems):
        if isinstance(problem, RunFailedError):
            raise RunFailedError(f"rank {rank} failed; rows finished before are kept:\n{problem}")
        if problem is not None:
            raise problem


def on_rank_0(action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, on every rank; raises on all where it raises there."""
    result: T = world().broadcast(agree(world(), lambda: action() if world().rank == 0 else None))
    return result
