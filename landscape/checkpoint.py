"""Reading trained parameters: safetensors or torch files, never code."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from landscape.errors import InputError

_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and torch.compile
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")  # usual keys of training checkpoints


def read_state(path: str | Path) -> dict[str, Tensor]:
    """{name: tensor} of a checkpoint on the CPU, prefixes of wrappers stripped.

    Safetensors by suffix; else a torch file read with `weights_only=True`, its state dict found under the usual keys.
    Raises InputError when the file is missing, holds pickled code, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist or is not a file")
    if path.suffix == ".safetensors":
        try:
            return strip_prefixes(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError(f"checkpoint {path} is not a readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds pickled Python objects, which could run code when read, and is refused. Save the "
            "tensors alone: torch.save(model.state_dict(), path), or safetensors.torch.save_file."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"checkpoint {path} cannot be read as a torch file: {error}") from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"checkpoint {path} holds no tensors by name (found {type(content).__name__})")
    return strip_prefixes(tensors)


def strip_prefixes(state: Mapping[str, Tensor], like: Iterable[str] = ()) -> dict[str, Tensor]:
    """Names without what DataParallel and torch.compile put before all of them, unless the names in `like` have it too.

    >>> list(strip_prefixes({"module.a": torch.zeros(1), "module.b": torch.zeros(1)}))
    ['a', 'b']
    """
    added, own = len(_prefix(state)), _prefix(like)
    return {own + name[added:]: value for name, value in state.items()}


def _prefix(names: Iterable[str]) -> str:
    """What wrappers put before all of the names."""
    names, found = list(names), ""
    while names:
        for prefix in _PREFIXES:
            if all(name.startswith(found + prefix) for name in names):
                found += prefix
                break
        else:
            break
    return found


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise InputError naming what is missing, unexpected or of another shape in `state`, against a model's `shapes`.

    `num_batches_tracked` may be missing: torch before 0.4.1 did not save it, and evaluation does not use it.
    """
    missing = [n for n in shapes if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in shapes]
    other = [
        f"{n} {tuple(state[n].shape)} against {shapes[n]}"
        for n in shapes
        if n in state and tuple(state[n].shape) != tuple(shapes[n])
    ]
    problems = [
        f"{what}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    if problems:
        raise InputError(
            f"{source} does not fit the model; {'; '.join(problems)}. It belongs to another architecture, or the model "
            "was built with other arguments."
        )


def load_checkpoint(model: Any, path: str | Path) -> None:
    """Load a checkpoint into `model` (an nn.Module); raises InputError naming every key that does not fit."""
    load_state(model, read_state(path), path)


def load_state(model: Any, state: Mapping[str, Tensor], path: str | Path) -> None:
    """The same for the tensors read from the checkpoint at `path`."""
    shapes = {n: tuple(v.shape) for n, v in model.state_dict().items()}
    state = strip_prefixes(state, shapes)
    check_state(state, shapes, f"checkpoint {path}")
    model.load_state_dict(state, strict=False)
