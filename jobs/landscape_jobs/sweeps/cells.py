"""Running the cells of a sweep one after another: one that fails is noted, and the others go on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from landscape.errors import LandscapeError, RunFailedError, RunInterrupted, StoreError
from landscape.files.durable import write_durably
from landscape.files.provenance import time_now
from landscape.opening.runs import failed_items, finished
from landscape.run.comm import world
from landscape.run.records import refused
from landscape.run.together import on_rank_0
from landscape_jobs.codes import BAD_INPUT, COMPLETE, CRASHED, SOME_FAILED
from landscape_jobs.spec.job import Job
from landscape_jobs.sweeps.folder import (
    Place,
    begin_cell,
    forget_failure,
    note_failure,
    places,
    stop_signal,
    unfinished,
    write_index,
)
from landscape_jobs.sweeps.sweep_file import Sweep


@dataclass(frozen=True)
class Ended:
    """How a cell ended: the exit code of its job alone, and the error where it failed with one."""

    place: Place
    code: int
    error: Exception | None = None
    reason: str = ""  # why it failed, in a line or a few


def run_sweep(sweep: Sweep, run: Callable[[Job], int], tell: Callable[[str], None]) -> list[Ended]:
    """Run the unfinished cells of a sweep on all ranks, in order, and return how each ended.

    `run` runs a job and returns its exit code; `tell` shows a line. Why a cell failed is noted in its folder and comes
    back as a reason, without the error. Raises RunInterrupted at a signal and StoreError where the sweep's folder
    cannot be written; on several ranks also what may have failed on one of them alone.
    """

    def begin() -> tuple[list[int], int]:
        found = places(sweep)
        left = unfinished(found)
        try:
            write_index(sweep, found)
        except StoreError as error:
            if left or not refused(error):  # a finished sweep is only read
                raise
        once = {place.folder: place.cell.number for place in reversed(found)}
        return sorted(once.values()), len(left)

    since = time_now()
    numbers, left = on_rank_0(begin)
    cells = len(sweep.cells)
    alike = f" (of {cells} cells, some of which compute the same)" if cells > len(numbers) else ""
    tell(f"{len(numbers)} runs{alike} in {sweep.out}, of which {left} are not finished")
    ended: list[Ended] = []
    for number in numbers:
        ended.append(run_cell(sweep, number, run, tell))
        if ended[-1].reason:
            ended[-1] = replace(ended[-1], error=None)  # whose traceback holds the model and the data
            tell(f"cell {number} failed: {ended[-1].reason}")
        elif stopped := on_rank_0(partial(stop_signal, ended[-1].place.folder, since)):  # just when it was done
            raise RunInterrupted(f"stopped by {stopped} after cell {number}; the same command goes on from there")
    return ended


def run_cell(
    sweep: Sweep, number: int, run: Callable[[Job], int], tell: Callable[[str], None], note: Path | None = None
) -> Ended:
    """Run one cell on all ranks where it is not finished, and return how it ended; see `run_sweep`.

    Before, its folder's path is written to the file `note`.
    """
    cell = sweep.cell(number)

    def begin() -> tuple[Place, int | None]:
        place = places(sweep, [cell])[0]  # anew: files that it names may have come meanwhile
        if note is not None:
            write_durably(note, str(place.folder).encode())
        if finished(place.folder):
            return place, SOME_FAILED if failed_items(place.folder) else COMPLETE
        begin_cell(place)
        return place, None

    place, known = on_rank_0(begin)
    if known is not None:
        return Ended(place, known)
    tell(f"cell {number}: {cell.label}")
    try:
        code = run(place.job)
    except RunInterrupted:
        raise
    except Exception as error:
        if world().size > 1 and not isinstance(error, LandscapeError):
            raise  # perhaps of this rank alone, and then all end
        crashed = isinstance(error, RunFailedError) or not isinstance(error, LandscapeError)
        ended = Ended(place, CRASHED if crashed else BAD_INPUT, error, _reason(error))
        on_rank_0(lambda: note_failure(place.folder, ended.reason, ended.code))
        return ended
    on_rank_0(lambda: forget_failure(place.folder))
    return Ended(place, code)


def _reason(error: Exception) -> str:
    if isinstance(error, RunFailedError):  # ends with a traceback, whose last line says it
        return str(error).strip().splitlines()[-1]
    if isinstance(error, LandscapeError):
        return str(error)
    where: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error}" + (f" ({where[-1].filename}:{where[-1].lineno})" if where else "")
