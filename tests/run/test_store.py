"""The run folder: whole or absent files, damage that is told, other jobs and newer formats that are refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import GUARD, PROGRAMS
from toys import WIDTH, Toy, check_rows, noted, true_row

from landscape.errors import InputError, StoreError
from landscape.files import durable as files
from landscape.files import hdf5
from landscape.files.durable import create_durably, write_durably
from landscape.run.loop import run_task
from landscape.run.manifest import FORMAT
from landscape.run.records import in_lines
from landscape.run.shards import flush_interval, write_shard
from landscape.run.store import Store
from landscape.run.task import Description

COLUMNS = {"loss": (), "vector": (WIDTH,)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 12 rows in three shards."""
    for limit in (4, 4, 4):
        run_task(Toy(12), tmp_path / "run", limit=limit)
    assert len(shards(tmp_path / "run")) == 3
    return tmp_path / "run"


def shards(run: Path) -> list[Path]:
    return sorted((run / "shards").iterdir())


# -- whole or absent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [1, 11])
def test_killed_writer_leaves_only_whole_files(moment: int, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, str(PROGRAMS / "writer.py"), str(tmp_path)])
    try:
        while len(list(tmp_path.glob("*.npz"))) < moment:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(GUARD)
    written = sorted(tmp_path.glob("*.npz"))
    assert [path.stem for path in written] == [f"{number:06d}" for number in range(len(written))]
    for number, path in enumerate(written):
        with np.load(path) as content:
            assert content["items"].tolist() == [number]
            assert (content["vector"] == number).all()
    if (tmp_path / "result.h5").exists():
        (value,) = set(hdf5.read(tmp_path / "result.h5").variables["v"].data)
        assert len(written) - 2 <= value < len(written)


def test_write_fails_before_the_rename_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is broken"):
        write_durably(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_disk_that_refuses_everything_tells_the_first_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "nor can it be removed")

    def refuse(temporary: Path, path: Path) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(Path, "unlink", fail)
    monkeypatch.setattr(files, "sync_replace", refuse)
    with pytest.raises(OSError, match="the disk is broken"):
        write_durably(tmp_path / "file", b"new")


def test_content_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")  # noqa: PTH112
        sync(handle)

    def rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    write_durably(tmp_path / "file", b"content")
    assert steps == ["file", "rename", "folder"]


def test_create_has_one_winner(tmp_path: Path) -> None:
    results = {n: create_durably(tmp_path / "run.json", str(n).encode()) for n in (1, 2)}
    assert results == {1: True, 2: False}
    assert (tmp_path / "run.json").read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_create_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(old: Path, new: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(files.os, "link", link)
    assert create_durably(tmp_path / "run.json", b"1")
    assert not create_durably(tmp_path / "run.json", b"2")
    assert (tmp_path / "run.json").read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_shards_are_never_written_twice(tmp_path: Path) -> None:
    """Each attempt, rank, round and flush has a name of its own."""
    seen: dict[Path, bytes] = {}
    for limit in (3, 3, 3, 3):
        run_task(Toy(12), tmp_path / "run", limit=limit)
        now = {path: path.read_bytes() for path in shards(tmp_path / "run")}
        assert {path: now[path] for path in seen} == seen
        assert len(now) == len(seen) + 1
        seen = now


def test_at_1000_ranks_shards_come_seldom() -> None:
    assert flush_interval(0.0, ranks=2) == 1.0
    assert 30 <= flush_interval(0.0, ranks=1000) <= 60


# -- damage -------------------------------------------------------------------------------------------------------


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        yield f"cut to {length}", content[:length]
    yield "zeros", bytes(len(content))
    yield "text", b"<html>not found</html>"


def test_damaged_shard_is_named_and_costs_only_itself(run: Path) -> None:
    path = shards(run)[1]
    content = path.read_bytes()
    for what, damaged in damages(content):
        path.write_bytes(damaged)
        with pytest.raises(StoreError) as caught:
            run_task(Toy(12), run)
        assert path.name in str(caught.value), what
        assert "Delete this file and resume" in str(caught.value), what
        assert len(shards(run)) == 3, what
    path.unlink()
    log = run.parent / "log"
    outcome = run_task(Toy(12, log), run)
    assert noted(log) == dict.fromkeys(range(4, 8), 1)
    check_rows(outcome.rows)


def test_no_flipped_bit_passes_as_another_value(tmp_path: Path) -> None:
    """A bit in every byte of a shard, one by one: the rows come out as they were, or the shard is called damaged."""
    store = Store.create(tmp_path / "run", Toy(6).describe(), 6, "")
    path = tmp_path / "run" / "shards" / "0001-00000-000001.npz"
    write_shard(path, [(item, true_row(item)) for item in range(4)], COLUMNS)
    good = path.read_bytes()
    refused = 0
    for position in range(len(good)):
        content = bytearray(good)
        content[position] ^= 1 << position % 7
        path.write_bytes(content)
        try:
            rows = store.rows()
        except StoreError as error:
            assert path.name in str(error)  # noqa: PT017
            refused += 1
        else:
            assert rows.done.tolist() == [True] * 4 + [False] * 2
            check_rows(rows)
    assert refused > len(good) / 2


@pytest.mark.parametrize(
    ("rows", "columns", "told"),
    [
        ([(0, {"loss": 1.0})], {"loss": ()}, "vector"),
        ([(0, {"loss": 1.0, "vector": np.ones(2)})], {"loss": (), "vector": (2,)}, r"vector has shape \(1, 2\)"),
        ([(12, true_row(12))], COLUMNS, r"outside 0\.\.11"),
        ([(-1, true_row(1))], COLUMNS, r"outside 0\.\.11"),
    ],
)
def test_shard_that_does_not_fit(rows: list, columns: dict, told: str, run: Path) -> None:  # type: ignore[type-arg]
    write_shard(run / "shards" / "0009-00000-000001.npz", rows, columns)
    with pytest.raises(StoreError, match=told):
        Store.open(run).rows()


def test_left_over_temporary_files_do_no_harm(run: Path) -> None:
    (run / "shards" / ".0001-00000-000009.npz.host-1-1.tmp").write_bytes(b"half")
    (run / ".run.json.host-1-1.tmp").write_bytes(b"{")
    (run / "attempts" / "0004.json").write_bytes(b"")  # a run killed as it began
    assert Store.open(run).rows().done.all()
    assert len(Store.open(run).attempts.all()) == 3
    assert run_task(Toy(12), run).computed == 0
    assert (run / "attempts" / "0005.json").exists()


# -- other folders ------------------------------------------------------------------------------------------------


def test_newer_format_is_refused(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "format": FORMAT + 1}))
    for action in (lambda: Store.open(run), lambda: run_task(Toy(12), run)):
        with pytest.raises(StoreError, match=f"format {FORMAT + 1}, this version reads up to {FORMAT}; update"):
            action()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": "new"}'])
def test_damaged_manifest(text: str, run: Path) -> None:
    (run / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"cannot read .*run\.json.*restore it from a copy"):
        Store.open(run)


def test_different_job_lists_all_differences(run: Path) -> None:
    before = sorted((p, p.read_bytes()) for p in run.rglob("*") if p.is_file())
    other = Toy(13, identity={"seed": 1, "count": 13, "data": {"name": "digits", "rows": [1, 2]}})
    with pytest.raises(InputError) as caught:
        run_task(other, run)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0].startswith(str(run))
    assert lines[1:-1] == [
        "count: 12 there, 13 now",
        'data: null there, {"name": "digits", "rows": [1, 2]} now',
        "items: 12 there, 13 now",
        "seed: 2024 there, 1 now",
    ]
    assert "another folder" in lines[-1]
    with pytest.raises(InputError, match='task: "toy" there, "other" now'):
        run_task(Toy(12, name="other"), run)
    assert before == sorted((p, p.read_bytes()) for p in run.rglob("*") if p.is_file())


def test_identity_with_nan_equals_itself(tmp_path: Path) -> None:
    task = Toy(2, identity={"range": [float("nan"), float("inf"), 0.1]})
    run_task(task, tmp_path / "run")
    assert run_task(task, tmp_path / "run").computed == 0


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a run folder: it holds no run\.json"):
        Store.open(tmp_path)
    (tmp_path / "landscape.h5").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"holds landscape\.h5 but no run\.json"):
        run_task(Toy(2), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["landscape.h5"]


def test_killed_while_the_folder_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a kill leaves of a folder in the making, the same command goes on in it."""

    class Killed(BaseException):
        pass

    def attempt(name: str) -> None:
        made = 0

        def mkdir(self: Path, *args: int, **options: bool) -> None:
            nonlocal made
            if self.name == name:
                raise Killed
            original(self, *args, **options)  # type: ignore[arg-type]
            made += 1

        original = Path.mkdir
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", mkdir)
            with pytest.raises(Killed):
                run_task(Toy(3), tmp_path / name / "run")
        assert run_task(Toy(3), tmp_path / name / "run").complete

    for name in ("shards", "attempts"):
        attempt(name)


def test_two_different_jobs_that_begin_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw an empty folder; one makes it, and the other is told."""
    from landscape.run import manifest

    first = Toy(3, identity={"seed": 1})

    def create(path: Path, content: bytes) -> bool:
        monkeypatch.undo()
        run_task(first, tmp_path / "run")
        return create_durably(path, content)

    monkeypatch.setattr(manifest, "create_durably", create)
    with pytest.raises(InputError, match="seed: 1 there, 2 now"):
        run_task(Toy(3, identity={"seed": 2}), tmp_path / "run")
    assert run_task(first, tmp_path / "run").computed == 0


def test_another_run_went_further(tmp_path: Path) -> None:
    """A slower run of the same task neither takes rounds back nor adds them twice."""
    store = Store.create(tmp_path / "run", Toy(3).describe(), 3, "")
    for count in (5, 9, 5, 9):
        store.add_round(count)
    assert (store.count, store.manifest()["rounds"]) == (9, [3, 5, 9])


# -- disks that refuse --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk_half_way(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from landscape.run import shards

    monkeypatch.setattr(shards, "_LAST_INTERVAL", 0.0)  # a shard for every row
    log = small_disk.parent / "log"
    with pytest.raises(StoreError, match=r"No space left on device.*make room"):
        run_task(Toy(60, log), small_disk / "run")
    kept = Store.open(small_disk / "run").rows()
    assert 0 < kept.done.sum() < 60
    check_rows(kept)
    assert not list((small_disk / "run" / "shards").glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    outcome = run_task(Toy(60, log), small_disk / "run")
    assert outcome.complete
    check_rows(outcome.rows)
    assert outcome.computed == 60 - kept.done.sum()


def test_full_disk_at_the_result(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = small_disk / "a.h5"
    hdf5.write(path, hdf5.Group({"v": hdf5.Variable(("x",), np.arange(10.0))}))
    with pytest.raises(StoreError, match="No space left on device"):
        hdf5.write(path, hdf5.Group({"v": hdf5.Variable(("x",), np.arange(10000.0))}))
    assert hdf5.read(path).variables["v"].data.tolist() == list(range(10))
    assert [p.name for p in small_disk.iterdir()] == ["a.h5"]
    assert capfd.readouterr().err == ""  # HDF5 itself would complain until the process ends


def test_read_only_folder(small_disk: Path) -> None:
    run_task(Toy(6), small_disk / "run", limit=2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match=r"cannot write .*attempts.*Read-only file system.*writable"):
        run_task(Toy(6), small_disk / "run")
    with pytest.raises(StoreError, match=r"cannot create the run folder .*Read-only file system"):
        run_task(Toy(6), small_disk / "other")
    assert Store.open(small_disk / "run").rows().done.sum() == 2  # it can still be read
    with pytest.raises(StoreError, match=r"cannot write 1 rows to .*Read-only file system"):
        write_shard(small_disk / "run" / "shards" / "x.npz", [(0, true_row(0))], COLUMNS)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert run_task(Toy(6), small_disk / "run").computed == 4


def test_refusing_disk_without_mounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(temporary: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run_task(Toy(6), tmp_path / "run", limit=2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_replace", refuse)
        with pytest.raises(StoreError, match="No space left on device"):
            run_task(Toy(6), tmp_path / "run")
    assert not [p for p in (tmp_path / "run").rglob(".*") if p.is_file()]
    assert run_task(Toy(6), tmp_path / "run").computed == 4


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_whose_name_is_taken_by_a_file(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot create the run folder .*choose a folder"):
        run_task(Toy(2), tmp_path / place)


def test_an_identity_with_the_names_of_what_is_beside_it_is_compared(tmp_path: Path) -> None:
    class Named(Toy):
        def __init__(self, digest: str) -> None:
            super().__init__(3)
            self.digest = digest

        def describe(self) -> Description:
            given = super().describe()
            items = [{"data": "same"}, {"data": self.digest}]
            return replace(given, identity={**given.identity, "items": items, "columns": {"x": self.digest}})

    run_task(Named("one"), tmp_path / "run")
    run_task(Named("one"), tmp_path / "run")
    with pytest.raises(InputError, match="holds a different run") as told:
        run_task(Named("two"), tmp_path / "run")
    assert 'items[1].data: "one" there, "two" now' in str(told.value)
    assert 'columns.x: "one" there, "two" now' in str(told.value)


def test_a_message_lists_no_more_differences_than_can_be_read() -> None:
    assert in_lines(["a", "b"]) == "a\n  b"
    assert in_lines([str(number) for number in range(40)]).splitlines()[-1] == "  and 28 more"
