"""Items that fail: what is noted of a failure, how often an item is tried again, and when it is given up.

An item fails by an exception, by taking longer than it may, or by ending its rank. The first two are noted by the rank
itself, the third by the next attempt (see `landscape.run.hands`).
"""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from landscape_kernels.arrays import BoolArray

from landscape.arguments import Natural, Positive, require_fields
from landscape.errors import StoreError
from landscape.files.durable import write_durably
from landscape.files.provenance import time_now
from landscape.run.records import MOMENT, NUMBER, TEXT, WHOLE, as_json, read_record, unwritable

_FORMS = {
    **dict.fromkeys(("item", "attempt", "rank"), WHOLE),
    **dict.fromkeys(("reason", "host", "place"), TEXT),
    "when": MOMENT,
    "share": NUMBER,
}
_NEARLY = 1e-9  # sums of shares such as 1/3 are rounded
_LONGEST_REASON = 20_000  # characters


@dataclass(frozen=True)
class Tolerance:
    """What a run does about items that fail, instead of ending: tries again, then goes on without them.

    An item is tried `retries` times again, by whichever rank is free, and then given up: its row stays masked, with
    the reason beside it. `item_seconds` bounds the time of one item; None for no bound. Raises InputError for values
    that cannot be.
    """

    retries: Natural = 2
    item_seconds: Positive | None = None

    def __post_init__(self) -> None:
        require_fields(self)


@dataclass(frozen=True)
class Failure:
    """One failure of one item."""

    item: int
    reason: str
    attempt: int
    rank: int
    host: str
    when: str  # UTC, ISO 8601
    share: float = 1.0  # 1/m where m ranks ended together, since the item of any one of them may be the cause
    place: str = ""  # how far the item was, for items that keep what they have and go on from there


def given_up(failures: Iterable[Failure], retries: int) -> dict[int, str]:
    """Items that failed more often than they are tried again, with the reason.

    A long item that goes on from where it was killed is not to blame for kills at different places: only failures at
    one and the same place are added up.
    """
    at: dict[tuple[int, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        at[failure.item, failure.place].append(failure)
    return {
        item: f"failed {len(found)} times; the last: {found[-1].reason}"
        for (item, _), found in sorted(at.items())
        if sum(failure.share for failure in found) >= retries + 1 - _NEARLY
    }


def ended(done: BoolArray, failed: Iterable[int]) -> BoolArray:
    """Which items are finished or given up, (n,)."""
    both = done.copy()
    both[list(failed)] = True
    return both


class Ledger:
    """How often items may still fail, for the rank that hands them out."""

    def __init__(self, failures: Iterable[Failure], retries: int) -> None:
        self._left: dict[int, float] = defaultdict(lambda: retries + 1.0)
        for failure in failures:
            if not failure.place:
                self._left[failure.item] -= failure.share

    def failed(self, item: int) -> bool:
        """Note one more failure; whether the item is to be tried again."""
        self._left[item] -= 1
        return self._left[item] > _NEARLY


class Failures:
    """The failures noted in a run folder: a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, failure: Failure) -> None:
        """Note a failure, durably. Raises StoreError when the disk refuses."""
        try:
            self.folder.mkdir(exist_ok=True)
            stem = f"{failure.attempt:04d}-{failure.rank:05d}"
            number = sum(1 for _ in self.folder.glob(f"{stem}-*.json")) + 1
            write_durably(self.folder / f"{stem}-{number:06d}.json", as_json(asdict(failure)))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def all(self) -> tuple[Failure, ...]:
        """Every failure noted, oldest attempt first; a damaged file counts for nothing."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(StoreError, TypeError):
                found.append(Failure(**read_record(path, _FORMS, way="")))
        return tuple(found)

    def forget(self, attempt: int | None) -> None:
        """Take back the failures of an attempt (None: of all) whose cause was not in its items."""
        for path in self.folder.glob("*.json" if attempt is None else f"{attempt:04d}-*.json"):
            path.unlink(missing_ok=True)


def failure(item: int, reason: str, attempt: int, rank: int) -> Failure:
    """A failure that this rank saw, now."""
    if len(reason) > _LONGEST_REASON:
        reason = reason[:1000] + "\n...\n" + reason[-_LONGEST_REASON:]
    return Failure(item, reason, attempt, rank, socket.gethostname(), time_now())
