"""Trained parameters: read from safetensors, torch files or folders of them, never code; under a model's own names."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from landscape.arguments import checked
from landscape.errors import InputError

logger = logging.getLogger(__name__)
_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and torch.compile
_COMPILED = "_orig_mod."  # of a submodule, so anywhere in a name
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")  # usual keys of training checkpoints
_AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|swa|polyak|shadow|avg)(?:$|[^a-z])|^(?:ema|swa)|averag", re.IGNORECASE)
_KEPT_IN = ("callbacks",)  # where Lightning keeps what callbacks hold
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
# What transformers and PEFT call the file in a checkpoint's folder. Of several, the first of these is read.
_IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
INDEX = ".index.json"  # how the name of the index of a sharded checkpoint ends
_STEP = re.compile(r"(?:^|[^a-z])(step|checkpoint|epoch)[-_=]?(\d+)", re.IGNORECASE)
_STEPS = ("step", "checkpoint", "epoch")  # of a name that holds several, the first of these counts


def is_model(given: Any) -> bool:
    """Whether something has a state dict, as a module and what wraps one have; the class of a module has none yet."""
    return not isinstance(given, type) and callable(getattr(given, "state_dict", None))


# -- reading ---------------------------------------------------------------------------------------------------------


@checked()
def read_state(path: str | Path) -> dict[str, Tensor]:
    """{name: tensor} of a checkpoint on the CPU, prefixes of wrappers stripped.

    `path` is a safetensors file by its suffix; else a torch file read with `weights_only=True`, its state dict found
    under the usual keys (also those of Lightning); or the folder of one checkpoint that transformers or PEFT wrote,
    whole, sharded or an adapter. Raises InputError when it is missing, holds pickled code, or no tensors.
    """
    path = Path(path)
    if path.is_dir():
        return strip_prefixes(_read_folder(path))
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist or is not a file")
    if path.name.endswith(INDEX):
        raise InputError(f"{path} is the index of a sharded checkpoint; give its folder, {path.parent}")
    return strip_prefixes(_read_file(path))


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"checkpoint {path} is not a readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds pickled Python objects{_objects_in(path)}, which could run code when read, and "
            "is refused. Save the tensors alone, by safetensors.torch.save_file or torch.save(model.state_dict(), "
            "path); a Lightning module keeps such hyper-parameters out by save_hyperparameters(ignore=[...]). To read "
            "a class that you trust: torch.serialization.add_safe_globals([...])."
        ) from error
    except Exception as error:  # what torch raises at damage is no short list
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"checkpoint {path} cannot be read as a torch file ({path.stat().st_size:,} bytes; damaged or cut off?): "
            f"{reason}"
        ) from error
    found = content if isinstance(content, Mapping) else {}
    key = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
    _require_one(found, key, path)
    content = content if key is None else found[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"checkpoint {path} holds no tensors by name (found {type(content).__name__})")
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise InputError(
                f"checkpoint {path} holds {name!r} without values (it is on the meta device); save it after the model "
                "was loaded"
            )
        if tensor.layout != torch.strided:
            tensors[name] = tensor.to_dense()
    return tensors


def _require_one(content: Mapping[Any, Any], key: str | None, path: Path) -> None:
    """Raise InputError where moving averages of the weights lie beside the weights, under `key` or at the top."""
    if not any(isinstance(value, Tensor) for value in (content if key is None else content[key]).values()):
        return
    beside: dict[tuple[Any, ...], Any] = {(n,): v for n, v in content.items() if n != key and not isinstance(v, Tensor)}
    for kept in _KEPT_IN:
        inner = content.get(kept)
        beside |= {(kept, name): value for name, value in inner.items()} if isinstance(inner, Mapping) else {}
    for place, value in beside.items():
        if _AVERAGED.search(str(place[-1])) and _has_weights(value):
            averages = "".join(f"[{part!r}]" for part in place)
            weights = "its top" if key is None else f"[{key!r}]"
            raise InputError(
                f"checkpoint {path} holds weights at {weights} and, at {averages}, what looks like moving averages of "
                "them: two models, and which one is meant is not known. Save the tensors of the one that is meant "
                "alone, by torch.save(torch.load(path, weights_only=True)[...], 'one.pt'), and name that file"
            )


def _has_weights(value: Any, depth: int = 0) -> bool:
    """Whether weights lie in a nesting: a tensor of one axis or more."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and value.is_floating_point()
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return depth < 4 and any(_has_weights(one, depth + 1) for one in inner)


def _objects_in(path: Path) -> str:
    """ " (class, class)", found without running anything; empty where that cannot be told."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # old formats
        return ""
    return f" ({', '.join(sorted(names)[:4])}{', ...' if len(names) > 4 else ''})" if names else ""


def _read_folder(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in checkpoint_files(folder):
        state |= _read_file(file)
    return state


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of tensors of the one checkpoint in a folder, of which a sharded one has several.

    Raises InputError for a folder of several checkpoints or of none, and for one that is not whole.
    """
    file = next((folder / name for name in _IN_FOLDER if (folder / name).is_file()), None)
    if file is None:
        steps = list(_by_step(_candidates(folder)))
        raise InputError(
            f"{folder} is a folder of {len(steps)} checkpoints; name one, such as {steps[-1]}, or give the folder to "
            "pca_plane, which takes all"
            if steps
            else f"{folder} is not a file, nor the folder of a checkpoint: it holds none of {', '.join(_IN_FOLDER)}. "
            "Name the file of tensors."
        )
    if file.suffix != ".json":
        return [file]
    try:
        parts = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{file} is not the index of a sharded checkpoint: {error!r}") from error
    for part in parts:
        if Path(part).name != part or not (folder / part).is_file():
            raise InputError(f"{file} names {part!r}, which is not in its folder; the checkpoint is not whole")
    return [folder / part for part in parts]


# -- steps of a trajectory -------------------------------------------------------------------------------------------


def step_files(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, files or folders of one, in the order of the steps in their names.

    Names hold "step", "checkpoint" or "epoch" and a number: `step-00000100.safetensors`, `checkpoint-100`,
    `epoch=3-step=40.ckpt`. Others in the folder are left alone. Raises InputError where there are none, or two of
    a step.
    """
    found = _candidates(Path(folder))
    ordered = list(_by_step(found))
    if not ordered:
        raise InputError(
            f"{folder} holds no checkpoints by step, such as step-00000100.safetensors, checkpoint-100 or epoch10.pt; "
            "give a list of files, in order"
        )
    for one, other in pairwise(ordered):
        if step_of(one) == step_of(other):
            raise InputError(f"{one} and {other.name} are of the same step; give a list of those that are meant")
    return ordered


def step_of(path: str | Path) -> tuple[str, int] | None:
    """("step", "checkpoint" or "epoch", its number) in the name of a checkpoint; None where there is none.

    >>> step_of("run/epoch=3-step=40.ckpt"), step_of("checkpoint-100"), step_of("best.pt")
    (('step', 40), ('checkpoint', 100), None)
    """
    found = {word.lower(): int(number) for word, number in _STEP.findall(Path(path).name)}
    return next(((word, found[word]) for word in _STEPS if word in found), None)


def _candidates(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read as a folder: {error.strerror}") from error
    return [p for p in paths if not p.name.startswith(".") and (p.suffix in SUFFIXES or p.is_dir())]


def _by_step(paths: Sequence[Path]) -> Iterator[Path]:
    """Those whose names hold a step, all by the same word, in order."""
    steps = {path: step for path in paths if (step := step_of(path)) is not None}
    word = next((word for word in _STEPS if any(word == step[0] for step in steps.values())), None)
    of_word = [path for path, step in steps.items() if step[0] == word]
    yield from sorted(of_word, key=lambda path: steps[path][1])


def in_step_order(paths: Sequence[Path]) -> list[int]:
    """Numbers of the paths in the order of their steps, where each holds another step by the same word; else as given.

    >>> in_step_order([Path("checkpoint-20"), Path("checkpoint-100"), Path("checkpoint-3")])
    [2, 0, 1]
    """
    steps = [step_of(path) for path in paths]
    if None in steps or len(set(steps)) < len(steps) or len({step[0] for step in steps if step}) > 1:
        return list(range(len(paths)))
    return sorted(range(len(paths)), key=lambda i: steps[i] or ("", 0))


# -- names -----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Entries:
    """What the state dict of a model holds."""

    shapes: Mapping[str, tuple[int, ...]]
    ties: tuple[tuple[str, ...], ...]  # names of one and the same tensor
    trainable: frozenset[str]  # parameters with requires_grad


def entries_of(model: Any) -> Entries:
    """The entries of `model` (an nn.Module)."""
    values = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    same: dict[int, list[str]] = defaultdict(list)
    for name, value in values.items():
        same[id(value)].append(name)
    return Entries(
        {name: tuple(value.shape) for name, value in values.items()},
        tuple(tuple(names) for names in same.values() if len(names) > 1),
        frozenset(name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad),
    )


def fit_state(state: Mapping[str, Tensor], entries: Entries, source: str) -> dict[str, Tensor]:
    """`state` under a model's own names, complete but for what PEFT leaves to the base model.

    Wrappers' prefixes are taken off or put on, and so is the name of an attribute before all of them, as where a
    Lightning module holds the network as `self.net`; what lies beside it is left out, and both is logged. A tied tensor
    has all its names, whichever was stored. A PEFT adapter holds trainable parameters alone. Raises InputError naming
    what is missing, unexpected or of another shape, and where two networks in the state fit, or tied tensors differ.
    """
    state = _uncompiled(strip_prefixes(state, entries.shapes), entries.shapes)
    plain = _completed(state, entries.ties)
    if not _count(plain, entries.shapes):
        return _consistent(plain, entries.ties, source)
    adapter = _adapter(state, entries)
    if adapter is not None:
        check_state(adapter, {n: s for n, s in entries.shapes.items() if n in {*adapter, *entries.trainable}}, source)
        return adapter
    if any(".lora_" in name for name in state) and not any(".lora_" in name for name in entries.shapes):
        raise InputError(
            f"{source} holds a PEFT adapter, and the model has none. Wrap it: peft.PeftModel.from_pretrained(model, "
            "folder, is_trainable=True), or peft.get_peft_model(model, config)."
        )
    ways = [_Way(off=prefix) for prefix in _prefixes(entries.shapes, state)]
    ways += [_Way(on=prefix) for prefix in _prefixes(state, entries.shapes)]
    tried = {way: _completed(way.renamed(state), entries.ties) for way in ways}
    misfits = {way: _count(tried[way], entries.shapes) for way in ways}
    fitting = [way for way in ways if not misfits[way]]
    if not fitting:
        closest = min(ways, key=misfits.__getitem__, default=None)
        if closest is not None and misfits[closest] < _count(plain, entries.shapes):
            check_state(tried[closest], entries.shapes, f"{source}, its names taken {closest},")
        check_state(plain, entries.shapes, source)
    way, *others = fitting
    for other in others:
        if not all(same_values(value, tried[other].get(name, value)) for name, value in tried[way].items()):
            raise InputError(
                f"{source} holds more than one network that fits the model: names taken {way}, or {other}. Give the "
                "one that is meant as a state dict, {name: tensor}."
            )
    left = len(state) - len(way.renamed(state))
    logger.info("%s: names are taken %s%s", source, way, f"; {left} tensors beside it are left out" if left else "")
    return _consistent(tried[way], entries.ties, source)


@dataclass(frozen=True)
class _Way:
    """How names in a state become those of a model."""

    off: str = ""  # what is taken off those that begin with it; others are left out
    on: str = ""  # what is put before

    def __str__(self) -> str:
        return f"after {self.off!r}" if self.off else f"with {self.on!r} before them"

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.on + n.removeprefix(self.off): v for n, v in state.items() if n.startswith(self.off)}


def _uncompiled(state: Mapping[str, Tensor], like: Iterable[str]) -> dict[str, Tensor]:
    """Names as in `like` where they differ by submodules that were compiled in one of the two."""
    own = {name.replace(_COMPILED, ""): name for name in like}
    return {own.get(plain := name.replace(_COMPILED, ""), plain): value for name, value in state.items()}


def _prefixes(names: Iterable[str], longer: Iterable[str]) -> list[str]:
    """Prefixes "a.b." that lead from names to those in `longer`, the one of most names first."""
    before: dict[str, list[str]] = defaultdict(list)
    for name in longer:
        for dot in (i + 1 for i, letter in enumerate(name) if letter == "."):
            before[name[dot:]].append(name[:dot])
    return [p for p, _ in Counter(prefix for name in names for prefix in before.get(name, ())).most_common()]


def _completed(state: Mapping[str, Tensor], ties: Iterable[Sequence[str]]) -> dict[str, Tensor]:
    """With all names of each tied tensor that has one."""
    completed = dict(state)
    for names in ties:
        stored = next((state[name] for name in names if name in state), None)
        if stored is not None:
            completed |= {name: stored for name in names if name not in state}
    return completed


def _consistent(state: dict[str, Tensor], ties: Iterable[Sequence[str]], source: str) -> dict[str, Tensor]:
    for first, *others in ties:
        for other in others:
            if first in state and other in state and not same_values(state[first], state[other]):
                raise InputError(
                    f"{source} has different values for {first!r} and {other!r}, which are one tensor in the model; "
                    "build the model without tying them"
                )
    return state


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape and values, NaN in the same places."""
    return a is b or (a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()))


def _adapter(state: Mapping[str, Tensor], entries: Entries) -> dict[str, Tensor] | None:
    """A stored PEFT adapter under the model's names, which hold the adapter's own besides; None for other states."""
    if not state or not all(name.startswith("base_model.") for name in state):
        return None
    for adapter in sorted({part for name in entries.trainable for part in name.split(".")}):
        named = {name: name.split(".") for name in entries.trainable}
        full = {
            ".".join(part for part in parts if part not in (adapter, "modules_to_save")): name
            for name, parts in named.items()
            if adapter in parts
        }
        if state.keys() <= full.keys():
            return {full[name]: value for name, value in state.items()}
    return None


def _misfits(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, and of another shape (with the shapes)."""
    return (
        [n for n in shapes if n not in state and not n.endswith("num_batches_tracked")],
        [n for n in state if n not in shapes],
        [
            f"{n} {tuple(state[n].shape)} against {shapes[n]}"
            for n in shapes
            if n in state and tuple(state[n].shape) != tuple(shapes[n])
        ],
    )


def _count(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(len, _misfits(state, shapes)))


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise InputError naming what is missing, unexpected or of another shape in `state`, against a model's `shapes`.

    `num_batches_tracked` may be missing: torch before 0.4.1 did not save it, and evaluation does not use it.
    """
    problems = [
        f"{what}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
        for what, names in zip(("missing", "unexpected", "of another shape"), _misfits(state, shapes), strict=True)
        if names
    ]
    if problems:
        raise InputError(
            f"{source} does not fit the model; {'; '.join(problems)}. It belongs to another architecture, or the model "
            "was built with other arguments."
        )


@checked()
def load_checkpoint(model: Any, path: str | Path) -> None:
    """Load a checkpoint (see `read_state`) into `model` (an nn.Module), under its own names (see `fit_state`).

    Raises InputError naming every key that does not fit.
    """
    if not is_model(model) or not hasattr(model, "load_state_dict"):
        raise InputError(f"model is {type(model).__name__}; give a torch.nn.Module")
    load_state(model, read_state(path), path)


def load_state(model: Any, state: Mapping[str, Tensor], path: str | Path) -> None:
    """The same for the tensors read from the checkpoint at `path`."""
    model.load_state_dict(fit_state(state, entries_of(model), f"checkpoint {path}"), strict=False)
