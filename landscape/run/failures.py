"""Items that fail: what is noted of a failure, how often an item is tried again, and when it is given up.

An item fails by an exception, by taking longer than it may, or by ending its rank. The first two are noted by the rank
itself. Of the third nobody is left to tell, so a rank keeps the number of the item in hand in a file mapped into its
memory, which the operating system keeps when the process is gone; the next attempt reads it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from landscape_kernels.arrays import BoolArray

from landscape.errors import InputError
from landscape.files.durable import write_durably
from landscape.files.provenance import time_now

logger = logging.getLogger(__name__)
_HAND = struct.Struct("<q248s")  # an item, -1 for none, and the host and the place in the item, as text
_NEARLY = 1e-9  # shares of a third and the like add up with rounding
_LONGEST_REASON = 20_000  # characters


@dataclass(frozen=True)
class Tolerance:
    """What a run does about items that fail, instead of ending: tries again, then goes on without them.

    An item is tried `retries` times again, by whichever rank is free, and then given up: its row stays masked, with
    the reason beside it. `item_seconds` bounds the time of one item; None for no bound. Raises InputError for values
    that cannot be.
    """

    retries: int = 2
    item_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise InputError(f"retries={self.retries}; give 0 (a failed item is given up at once) or more")
        if self.item_seconds is not None and not self.item_seconds > 0:
            raise InputError(f"item_seconds={self.item_seconds}; give a time above 0, or leave it out for no bound")


@dataclass(frozen=True)
class Failure:
    """One failure of one item."""

    item: int
    reason: str
    attempt: int
    rank: int
    host: str
    when: str  # UTC, ISO 8601
    share: float = 1.0  # of m ranks that ended together, one item alone may be the cause: each has 1/m of a failure
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
        self._folder = folder

    def add(self, failure: Failure) -> None:
        """Note a failure, durably. Raises OSError."""
        self._folder.mkdir(exist_ok=True)
        stem = f"{failure.attempt:04d}-{failure.rank:05d}"
        number = sum(1 for _ in self._folder.glob(f"{stem}-*.json")) + 1
        write_durably(self._folder / f"{stem}-{number:06d}.json", json.dumps(asdict(failure), indent=1).encode())

    def all(self) -> tuple[Failure, ...]:
        """Every failure noted, oldest attempt first; a damaged file counts for nothing."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(ValueError, TypeError, OSError):
                found.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
        return tuple(found)

    def forget(self, attempt: int | None) -> None:
        """Take back the failures of an attempt (None: of all) whose cause was not in its items."""
        for path in self._folder.glob("*.json" if attempt is None else f"{attempt:04d}-*.json"):
            path.unlink(missing_ok=True)


class Hand:
    """The item that a rank has in hand, where the next attempt finds it if the rank ends without a word."""

    def __init__(self, path: Path | None) -> None:
        self._map: mmap.mmap | None = None
        self._file: BinaryIO | None = None
        self._path, self._item = path, -1
        self._host = socket.gethostname()
        if path is None:
            return
        try:
            path.parent.mkdir(exist_ok=True)
            self._file = path.open("wb+")  # held open: its lock says that the rank lives
            self._file.write(_HAND.pack(-1, b""))
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), _HAND.size)
            _locked(self._file)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be kept (%s): an item that ends its rank will not be found out", path, error)

    def take(self, item: int) -> None:
        """This item is begun."""
        self._item = item
        self._keep(item)

    def note(self, place: str) -> None:
        """The item in hand has come to this place; what follows a semicolon is news, another each time."""
        self._keep(self._item, place.partition(";")[0])

    def clear(self) -> None:
        """Nothing is in hand, or what is will be left in good order."""
        self._keep(-1)

    def _keep(self, item: int, place: str = "") -> None:
        if self._map is not None:
            self._map[:] = _HAND.pack(item, f"{self._host}\n{place}".encode()[:248])

    def close(self) -> None:
        """The rank leaves in good order."""
        if self._map is not None and self._path is not None:
            self.clear()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._map = None
            if self._file is not None:
                self._file.close()


def left_in_hand(folder: Path) -> tuple[Failure, ...]:
    """Failures of the items that ranks had in hand when they ended without a word; forgets what it read.

    What ranks have in hand that live, of another attempt in the same folder, is left to them.
    """
    found: dict[int, list[tuple[int, int, str, str]]] = defaultdict(list)
    for path in sorted(folder.glob("*-*")):
        try:
            with path.open("rb") as handle:
                if _locked(handle):
                    continue
                item, text = _HAND.unpack(handle.read())
            attempt, rank = (int(part) for part in path.name.split("-"))
            host, _, place = text.rstrip(b"\0").decode(errors="replace").partition("\n")
        except (OSError, ValueError, struct.error):
            continue
        if item >= 0:
            found[attempt].append((item, rank, host, place))
        with contextlib.suppress(OSError):
            path.unlink()
    when = time_now()
    return tuple(
        Failure(item, _ended(attempt, rank, host, len(hands)), attempt, rank, host, when, 1 / len(hands), place)
        for attempt, hands in found.items()
        for item, rank, host, place in hands
    )


def _locked(handle: BinaryIO) -> bool:
    """Whether somebody else holds the lock of a file, which else is taken; False where there are no locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not on every file system
        return False
    return False


def _ended(attempt: int, rank: int, host: str, together: int) -> str:
    alone = "" if together == 1 else f" ({together} ranks did, each with an item in hand)"
    return f"rank {rank} of attempt {attempt} was killed or crashed on {host} while it computed this item{alone}"


def failure(item: int, reason: str, attempt: int, rank: int) -> Failure:
    """A failure that this rank saw, now."""
    if len(reason) > _LONGEST_REASON:
        reason = reason[:1000] + "\n...\n" + reason[-_LONGEST_REASON:]
    return Failure(item, reason, attempt, rank, socket.gethostname(), time_now())
