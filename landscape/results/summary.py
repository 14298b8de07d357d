"""Any result in tables: what was measured, on what, how exact it is, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from landscape.results.kind import kind_of
from landscape.results.tables import Cell, Table, number, pairs_table

_PROVENANCE = (
    "engine_version",
    "git",
    "command",
    "host",
    "platform",
    "python",
    "libraries",
    "gpu",
    "ranks",
    "threads",
    "started",
    "ended",
    "checkpoint_hash",
    "data_hash",
    "origin",
    "dir_file",
)
_LEFT_OUT = 20  # failures shown


def result_tables(result: Any, title: str) -> Iterator[Table]:
    """Tables of any result: the first, of that title, says what was measured; then numbers, with errors where known.

    Last stand the items that failed and were left out, and the provenance, each where there is something to tell.
    """
    yield from kind_of(result).tables(result, title)
    yield from left_out_table(result.attributes)
    yield from provenance_table(result.attributes)


def left_out_table(about: Mapping[str, Any]) -> Iterator[Table]:
    """Items that failed and were left out, where there are any: their place, and the last line of the reason."""
    failures = about.get("failures") or ()
    if not failures:
        return
    rows = []
    for failure in failures[:_LEFT_OUT]:
        reason = str(failure["reason"]).strip().splitlines()[-1]
        rows.append((number(int(failure["item"])), Cell(str(failure.get("where", ""))), Cell(reason)))
    if len(failures) > _LEFT_OUT:
        rows.append((Cell(""), Cell(""), Cell(f"and {len(failures) - _LEFT_OUT} more")))
    yield Table("left out, because they failed", ("item", "where", "reason"), tuple(rows))


def provenance_table(about: Mapping[str, Any]) -> Iterator[Table]:
    """Where a result comes from, as far as it tells."""
    known = {name: about[name] for name in _PROVENANCE if about.get(name) not in (None, "")}
    if known:
        yield pairs_table("provenance", known)
