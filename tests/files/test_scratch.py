"""Files without a name: values come back, nothing is left behind, and none is made where there is no room."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from landscape.files import scratch
from landscape.files.scratch import Scratch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_come_back_and_no_name_is_left(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(100).to(dtype)
    file = Scratch(tmp_path, 200 * dtype.itemsize)
    assert list(tmp_path.iterdir()) == []
    file.write(values, 50 * dtype.itemsize)
    file.write(values[:30], 0)
    found = torch.empty(60, dtype=dtype)
    file.read(found, 70 * dtype.itemsize)
    assert torch.equal(found, values[20:80])
    file.read(found[:30], 0)
    assert torch.equal(found[:30], values[:30])
    with pytest.raises(OSError, match="ends early"):
        file.read(found, 150 * dtype.itemsize)
    handle = file._file
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


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
