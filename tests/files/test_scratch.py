"""Files without a name: values come back, nothing is left behind, and none is made where there is no room."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from landscape.files import scratch
from landscape.files.scratch import Scratch


@pytest.mark.parametrize("known", [True, False])  # whether the system brings values in when it is asked to
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_come_back_and_no_name_is_left(
    dtype: torch.dtype, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr(scratch, "_BRING_IN", 9999)
    values = torch.randn(5000).to(dtype)
    file = Scratch(tmp_path, 10000 * dtype.itemsize)
    assert list(tmp_path.iterdir()) == []
    file.write(values, 50 * dtype.itemsize)
    file.write(values[:30], 0)
    for begin, count, expected in ((70, 4000, values[20:4020]), (0, 30, values[:30])):
        with file.values(begin * dtype.itemsize, count, dtype) as found:
            assert torch.equal(found, expected)
    with pytest.raises(OSError, match="ends early"), file.values(9950 * dtype.itemsize, 60, dtype):
        pass
    handle = file._file
    del file, found
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_what_the_disk_does_not_give_is_an_error(tmp_path: Path) -> None:
    file = Scratch(tmp_path, 20000)
    os.ftruncate(file._file, 0)  # reading what lies beyond the end is a fault that would end the process
    with pytest.raises(OSError, match="Bad address"), file.values(0, 100, torch.float32):
        pass


def test_nothing_of_it_stays_in_memory(tmp_path: Path) -> None:
    size = 64 << 20
    file = Scratch(tmp_path, size)
    file.write(torch.ones(size // 4), 0)

    def resident() -> int:
        """Of files, also of those on a file system in memory."""
        status = Path("/proc/self/status").read_text()
        return sum(1024 * int(status.split(f"{key}:")[1].split()[0]) for key in ("RssFile", "RssShmem"))

    before = resident()
    for begin in range(0, size, 4 << 20):
        with file.values(begin, 1 << 20, torch.float32) as found:
            assert float(found.sum()) == 1 << 20
            assert resident() > before
    assert resident() < before + (4 << 20)


def test_it_takes_a_disk_with_twice_as_much_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_is_memory", lambda folder: folder != tmp_path)
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_bavail=10, f_frsize=512))
    found = Scratch.where_there_is_room(2560)
    assert found is not None
    assert (found.folder, found.size) == (tmp_path, 2560)
    assert Scratch.where_there_is_room(2561) is None
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert Scratch.where_there_is_room(1) is None


def test_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "/dev/vda / ext4 rw 0 0\nnone /dev/shm tmpfs rw 0 0\nnone /dev/shm/disk xfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda _: mounts)
    monkeypatch.setattr(Path, "resolve", lambda self: self)
    folders = ("/", "/tmp/a", "/dev/shm", "/dev/shm/a", "/dev/shm/disk/a", "/dev")
    assert [scratch._is_memory(Path(folder)) for folder in folders] == [False, False, True, True, False, False]
