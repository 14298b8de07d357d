"""The tensors of a model by name, each read when it is asked for: a large checkpoint is never whole in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from landscape.checkpoints.reading import checkpoint_files, is_model, read_state, strip_prefixes
from landscape.errors import InputError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None for a type that torch does not have


class TensorSource(Protocol):
    """Tensors by name."""

    entries: dict[str, Entry]

    def read(self, name: str) -> Tensor:
        """One of them, on the CPU."""

    def ties(self) -> Mapping[str, str]:
        """{name: an earlier name of the same tensor}, those that have one."""


class HeldTensors:
    """Tensors in memory."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
        if not self._state:
            raise InputError("the model holds no tensors by name; give a module, a state dict or a checkpoint")
        self.entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in self._state.items()}

    def read(self, name: str) -> Tensor:
        """See `TensorSource`."""
        value = self._state[name]
        return (value.to_dense() if value.layout != torch.strided else value).cpu()

    def ties(self) -> dict[str, str]:
        """See `TensorSource`: names of the same memory."""
        first: dict[Any, str] = {}
        found: dict[str, str] = {}
        for name, value in self._state.items():
            if value.layout != torch.strided or value.is_meta or not value.numel():
                continue
            place = (value.device, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
            if first.setdefault(place, name) != name:
                found[name] = first[place]
        return found


class FiledTensors:
    """Tensors of safetensors files, mapped."""

    def __init__(self, files: list[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  (no mapping)
                        part = opened.get_slice(name)
                        self.entries[name] = Entry(tuple(part.get_shape()), _DTYPES.get(part.get_dtype()))
                        self._places[name] = (file, name)
            except (SafetensorError, OSError) as error:
                raise InputError(f"checkpoint {file} is not a readable safetensors file: {error}") from error
        plain = list(strip_prefixes(dict.fromkeys(self.entries, torch.empty(0))))
        renamed = dict(zip(self.entries, plain, strict=True))
        self.entries = {renamed[name]: entry for name, entry in self.entries.items()}
        self._places = {renamed[name]: place for name, place in self._places.items()}

    def read(self, name: str) -> Tensor:
        """See `TensorSource`."""
        file, inside = self._places[name]
        with safe_open(file, framework="pt") as opened:
            found: Tensor = opened.get_tensor(inside)
            return found

    def ties(self) -> dict[str, str]:
        """See `TensorSource`: a file tells of none."""
        return {}


def open_tensors(model: Any) -> TensorSource:
    """The tensors of a module, a state dict, a file or the folder of a checkpoint.

    Those of safetensors are read one by one, of other files at once. Raises InputError for what holds none.
    """
    if isinstance(model, (str, Path)):
        path = Path(model)
        files = checkpoint_files(path) if path.is_dir() else [path]
        if not path.exists():
            raise InputError(f"checkpoint {path} does not exist")
        if all(file.suffix == ".safetensors" for file in files):
            return FiledTensors(files)
        return HeldTensors(read_state(path))
    if is_model(model):
        return HeldTensors(model.state_dict(keep_vars=True))
    if isinstance(model, Mapping):
        return HeldTensors(strip_prefixes(dict(model)))
    raise InputError(
        f"{type(model).__name__} is no model; give a module, a state dict {{name: tensor}}, the path of a checkpoint, "
        "or a list of these"
    )


def digest(tensor: Tensor) -> str:
    """BLAKE2b of a tensor's type, shape and bits."""
    flat = tensor.detach().contiguous().reshape(-1)
    found = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    if flat.numel():
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
