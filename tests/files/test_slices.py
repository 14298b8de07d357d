"""Stretches of the tensors of safetensors files, against what safetensors reads itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from landscape.errors import InputError
from landscape.files.slices import StoredTensors


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    tensors = {f"t{i}": torch.randn(5, 7).to(kind) for i, kind in enumerate(kinds)}
    save_file({**dict(list(tensors.items())[:2]), "n": torch.arange(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    save_file(dict(list(tensors.items())[2:]), tmp_path / "b.safetensors")
    stored = StoredTensors(tmp_path)
    for name, tensor in tensors.items():
        stored.require(name, (5, 7))
        for start, stop in ((0, 35), (3, 19), (34, 35), (4, 4)):
            found = stored.read(name, start, stop)
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor.reshape(-1)[start:stop])
    with pytest.raises(InputError, match="has no tensor 't9'"):
        stored.require("t9", (5, 7))
    with pytest.raises(InputError, match=r"t0 has shape \(5, 7\), the model's has \(5, 8\)"):
        stored.require("t0", (5, 8))


def test_files_that_are_none_or_change_are_told(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}"):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.safetensors"):
            StoredTensors(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"nowhere\.safetensors does not exist"):
        StoredTensors(tmp_path / "nowhere.safetensors")
    torch.save({"t": torch.randn(8)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt is not a readable safetensors file.*write one by safetensors"):
        StoredTensors(tmp_path / "a.pt")
    save_file({"t": torch.randn(8)}, tmp_path / "a.safetensors")
    stored = StoredTensors(tmp_path / "a.safetensors")
    stored.require_unchanged()
    os.truncate(tmp_path / "a.safetensors", (tmp_path / "a.safetensors").stat().st_size - 4)
    with pytest.raises(InputError, match="was written to while"):
        stored.require_unchanged()
    with pytest.raises(InputError, match="ends inside 't'"):
        stored.read("t", 0, 8)
