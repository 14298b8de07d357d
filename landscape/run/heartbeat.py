"""A sign of life while a run computes, for `landscape status`: how far it is, every few seconds."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from landscape.errors import StoreError
from landscape.run.progress import Progress
from landscape.run.records import TEXT, WHOLE, Form, read_record

_FORMS = {
    **dict.fromkeys(("done", "total", "failed", "computed", "ranks"), WHOLE),
    "elapsed": Form("a number, maybe not finite", lambda value: type(value) in (int, float)),
    "note": TEXT,
}
_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Beat:
    """How far the newest attempt of a run was when it last gave a sign of life."""

    attempt: int
    when: float  # POSIX seconds, by the clock of the file system
    done: int  # rows finished, those of earlier attempts included
    total: int
    failed: int  # rows given up
    computed: int  # rows finished in this attempt
    elapsed: float  # seconds since this attempt began to compute
    ranks: int
    note: str  # how far the item in hand is, where the task tells


class Heartbeat:
    """While active, writes how far the run is to `path` every ten seconds, from a thread of its own.

    Where the file system refuses, there are no signs of life; the run goes on.
    """

    def __init__(self, path: Path | None, ranks: int, progress: Callable[[], Progress | None]) -> None:
        self._path, self._ranks, self._progress = path, ranks, progress
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Heartbeat:
        if self._path is not None:
            self._thread = threading.Thread(target=self._beat, args=(self._path,), name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self, path: Path) -> None:
        while True:
            with contextlib.suppress(OSError):
                temporary = path.with_suffix(".beat.tmp")
                temporary.write_text(json.dumps(self._content()), encoding="utf-8")
                temporary.replace(path)
            if self._ended.wait(_EVERY):
                return

    def _content(self) -> dict[str, object]:
        now = self._progress() or Progress(0, 0, 0, 0.0, math.nan)
        return {
            "done": now.done,
            "total": now.total,
            "failed": now.failed,
            "computed": now.computed,
            "elapsed": now.elapsed,
            "ranks": self._ranks,
            "note": now.note,
        }


def read_beat(path: Path, attempt: int) -> Beat | None:
    """The last sign of life in `path`; None where there is none, or a newer version wrote another."""
    try:
        return Beat(attempt=attempt, when=path.stat().st_mtime, **read_record(path, _FORMS, way=""))
    except (OSError, StoreError, TypeError):
        return None
