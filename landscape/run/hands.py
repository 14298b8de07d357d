"""What a rank has in hand: the item that it computes, where the next attempt finds it if the rank ends without a word.

Of an item that ends its rank nobody is left to tell. So a rank keeps the number of its item in a file that is mapped
into its memory: the operating system keeps what stands there when the process is gone, and the next attempt reads it.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import socket
import struct
import sys
from collections import defaultdict
from pathlib import Path
from typing import BinaryIO

from landscape.files.provenance import time_now
from landscape.run.failures import Failure

logger = logging.getLogger(__name__)
_HAND = struct.Struct("<q248s")  # an item, -1 for none, and the host and the place in the item, as text


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


class Hands:
    """The folder of what ranks have in hand: 0001-00003 is the item of rank 3 in the first attempt."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, attempt: int, rank: int) -> Hand:
        """Where a rank keeps what it has in hand during one attempt."""
        return Hand(self._folder / f"{attempt:04d}-{rank:05d}")

    def left(self) -> tuple[Failure, ...]:
        """Failures of the items that ranks had in hand when they ended without a word; forgets what it read.

        What ranks of another attempt in the same folder have in hand is left alone while they live.
        """
        found: dict[int, list[tuple[int, int, str, str]]] = defaultdict(list)
        for path in sorted(self._folder.glob("*-*")):
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
