"""Checkpoints: what is read, what is refused and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from landscape.checkpoints.reading import (
    check_state,
    in_step_order,
    load_checkpoint,
    read_state,
    step_files,
    strip_prefixes,
)
from landscape.errors import InputError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(model: nn.Module, other: nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fresh() -> nn.Module:
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
    return model


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model_state", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_and_prefixes_are_seen_through(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    saved, path = fresh(), tmp_path / "müde datei.pt"
    state = {prefix + name: value for name, value in saved.state_dict().items()}
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state}, path)
    model = net()
    load_checkpoint(model, path)
    assert same(model, saved)


def test_safetensors(tmp_path: Path) -> None:
    saved, path = fresh(), tmp_path / "a.safetensors"
    save_file({f"module.{k}": v for k, v in saved.state_dict().items()}, path)
    model = net()
    load_checkpoint(model, str(path))
    assert same(model, saved)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_state(path)


def test_a_model_whose_own_names_begin_like_a_wrapper(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = net()

    saved, model, path = Wrapper(), Wrapper(), tmp_path / "a.pt"
    saved.module = fresh()
    for given in (saved.state_dict(), saved.module.state_dict(), nn.DataParallel(saved).state_dict()):
        model.module = net()
        torch.save(given, path)
        load_checkpoint(model, path)
        assert same(model, saved)


def test_prefixes_of_some_names_only_stay() -> None:
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert strip_prefixes(state).keys() == state.keys()
    assert strip_prefixes({}) == {}


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("never"),)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Evil(), net()):
        torch.save(content, "a.pt")
        with pytest.raises(InputError, match=r"pickled Python objects.*model\.state_dict\(\)"):
            read_state("a.pt")
    assert not Path("never").exists()


@pytest.mark.parametrize("content", [b"", b"not a torch file", b"PK\x03\x04 broken"])
def test_broken_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_state(path)
    with pytest.raises(InputError, match="does not exist"):
        read_state(tmp_path / "b.pt")
    with pytest.raises(InputError, match="not a file"):
        read_state(tmp_path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no tensors"):
        read_state(tmp_path / "a.pt")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = dict(net().state_dict())
    state["2.weight"] = torch.zeros(3, 4)
    del state["0.bias"]
    state["9.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError) as caught:
        load_checkpoint(net(), tmp_path / "a.pt")
    for text in ("missing: 0.bias", "unexpected: 9.bias", "of another shape: 2.weight (3, 4) against (2, 4)", "a.pt"):
        assert text in str(caught.value)


def test_many_names_are_counted() -> None:
    shapes = {f"p{i}": (1,) for i in range(10)}
    with pytest.raises(InputError, match="p5 and 4 more"):
        check_state({}, shapes, "it")


def test_num_batches_tracked_may_be_missing(tmp_path: Path) -> None:
    saved, model = fresh(), net()
    state = {k: v for k, v in saved.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pt")
    load_checkpoint(model, tmp_path / "a.pt")
    assert same(model, saved)


def test_the_class_that_would_be_pickled_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": net().state_dict(), "options": Evil()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"pickled Python objects \(.*pathlib\.Path.*\), which could run code"):
        read_state(tmp_path / "a.pt")
    assert not Path("never").exists()


# -- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["step-00000002.safetensors", "step-00000010.safetensors", "step-123456789.safetensors"],
        ["checkpoint-2", "checkpoint-10", "checkpoint-100"],
        ["epoch=9-step=2.ckpt", "epoch=1-step=10.ckpt", "epoch=2-step=100.ckpt"],
        ["net.epoch2.pt", "net.epoch10.pt", "net.Epoch_011.pth"],
        ["global_step2.bin", "global_step10.bin", "global_step11.bin"],
    ],
)
def test_steps_are_numbers(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    for other in ("best.pt", "step.txt", ".step-7.safetensors.tmp", ".step-8.safetensors", "step-9.safetensors.old"):
        (tmp_path / other).touch()
    if names[0].startswith("checkpoint"):
        for name in names:
            (tmp_path / name).unlink()
            (tmp_path / name).mkdir()
    assert [path.name for path in step_files(tmp_path)] == names
    paths = [tmp_path / name for name in sorted(names)]
    assert [paths[i].name for i in in_step_order(paths)] == names


def test_paths_without_steps_of_their_own_stay_as_given() -> None:
    for names in (["b.pt", "a.pt"], ["epoch2.pt", "best.pt"], ["b/epoch1.pt", "a/epoch1.pt"], ["step-2", "epoch-1"]):
        assert in_step_order([Path(name) for name in names]) == [0, 1]


def test_folders_without_a_clear_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no checkpoints by step.*give a list"):
        step_files(tmp_path)
    for name in ("epoch=1-step=10.ckpt", "epoch=1-step=10-v1.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="are of the same step"):
        step_files(tmp_path)
    with pytest.raises(InputError, match="cannot be read as a folder"):
        step_files(tmp_path / "none")
