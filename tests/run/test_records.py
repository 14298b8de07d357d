"""Records of a run in another form than they were written in, and complete runs where nothing may be written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import landscape as ls
from landscape.errors import StoreError

GRID: dict[str, Any] = {"x": (-1, 1, 3)}


def measured(folder: Path, **more: Any) -> ls.Surface:
    torch.manual_seed(0)
    objective = ls.Objective(torch.nn.Linear(3, 2), data=(torch.randn(6, 3), torch.arange(6) % 2))
    return ls.measure_surface(objective, ls.random_plane(objective, axes=1), **GRID, out=folder, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    measured(folder, tolerance=ls.Tolerance())
    return folder


def values(run: Path) -> Iterator[tuple[Path, str, Any]]:
    for file in sorted(run.rglob("*.json")):
        for key in json.loads(file.read_text()):
            for value in (None, 3, "x", [], {}, "absent", -1, 1e300, [[]], {"x": None}):
                yield file, key, value


def test_every_key_of_every_record(run: Path) -> None:
    """It is named with its file, or it is not needed."""
    said = 0
    for file, key, value in values(run):
        before = file.read_text()
        changed = {**json.loads(before), key: value}
        if value == "absent":
            del changed[key]
        file.write_text(json.dumps(changed))
        told = ""
        try:
            ls.open(run)
        except StoreError as error:
            told = str(error)
        file.write_text(before)
        if told:
            said += 1
            assert key == "task" or str(file) in told
            assert key in ("format", "task") or repr(key) in told
    assert said > 50
    assert ls.open(run).computed.all()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"x"', "{}", "[" * 100_000, "\x00\xff"])
def test_records_that_are_no_tables(content: str, run: Path) -> None:
    file = run / "run.json"
    before = file.read_text()
    file.write_text(content)
    with pytest.raises(StoreError, match=r"cannot read .*run\.json"):
        ls.open(run)
    file.write_text(before)


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """The file system takes nothing in a folder any more."""

    def guarded(action: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **more: Any) -> Any:
            if str(path).startswith(str(folder)) and writes(*args, **more):
                raise OSError(number, os.strerror(number), str(path))
            return action(path, *args, **more)

        return call

    monkeypatch.setattr(os, "open", guarded(os.open, lambda flags, *_: bool(flags & os.O_CREAT)))
    monkeypatch.setattr(Path, "open", guarded(Path.open, lambda mode="r", **_: mode[0] in "wax"))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("tolerance", [None, ls.Tolerance()])
def test_a_complete_run_is_read_where_nothing_may_be_written(
    number: int, tolerance: ls.Tolerance | None, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refuse(monkeypatch, run, number)
    again = measured(run, tolerance=tolerance)
    assert again.values["loss"].tobytes() == ls.open(run).values["loss"].tobytes()
    assert len(again.attributes["attempts"]) == len(list((run / "attempts").glob("*.json")))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_an_unfinished_run_is_refused_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path / "run", limit_items=1)
    refuse(monkeypatch, tmp_path / "run", errno.EROFS)
    with pytest.raises(StoreError, match="Read-only file system"):
        measured(tmp_path / "run")


def test_a_full_disk_is_no_read_only_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, run, errno.ENOSPC)
    with pytest.raises(StoreError, match="No space left"):
        measured(run)
