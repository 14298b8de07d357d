"""Recording a training trajectory: the states of a model as numbered safetensors, for `landscape.pca_plane`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from landscape.arguments import Count, Natural, checked
from landscape.checkpoints.reading import is_model, same_values, strip_prefixes
from landscape.errors import InputError, StoreError
from landscape.files.durable import write_durably

logger = logging.getLogger(__name__)
_FILE = re.compile(r"step-(\d+)\.safetensors")


class TrajectoryRecorder:
    """Writes the state of `model` (an nn.Module) to `folder` at the start, every `every` optimiser steps, at the end.

        with ls.TrajectoryRecorder(model, "trajectory", every=100) as recorder:
            for inputs, targets in batches:
                ...
                optimizer.step()
                recorder.step()
        plane = ls.pca_plane(objective, "trajectory")

    Each `step-00000100.safetensors` holds all parameters and buffers, as they are named without DataParallel and
    torch.compile, tied tensors under their first name. Under torch.distributed rank 0 writes alone.

    In a folder that holds states it goes on from `start`, the steps the model has taken, by default those of the last
    one. States of later steps, which are taken again, are set aside as `*.safetensors.old`. Raises InputError where the
    states are of another model or another training, and for a model whose parameters are cut into shards; StoreError
    where the folder cannot be written.
    """

    @checked()
    def __init__(self, model: Any, folder: str | Path, every: Count = 100, start: Natural | None = None) -> None:
        if not is_model(model) or not hasattr(model, "named_parameters"):
            raise InputError(f"model is {type(model).__name__}; give a torch.nn.Module")
        _require_whole(model)
        self._model = model
        self._folder = Path(folder)
        self._every = every
        self._steps = start or 0
        self._written: int | None = None
        if not _writes():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"folder {folder} for a trajectory cannot be made: {error.strerror}") from error
        recorded = self._recorded()
        if recorded:
            self._resume(recorded, start)
        if self._written is None:
            self._write()

    def __repr__(self) -> str:
        return f"TrajectoryRecorder({str(self._folder)!r}, every={self._every}, at step {self._steps})"

    @checked()
    def step(self, number: Natural | None = None) -> None:
        """Note that the model has taken `number` steps in all, by default one more than before.

        Its state is written where a multiple of `every` has been reached. Raises StoreError where that fails.
        """
        before = self._steps
        self._steps = before + 1 if number is None else number
        if self._steps // self._every > before // self._every:
            self.save()

    def save(self) -> None:
        """Write the state as it is now, unless that of this step is written. Raises StoreError where that fails."""
        if _writes() and self._written != self._steps:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # after an error the statistics may be those of half a step
            self.save()

    def _write(self) -> None:
        path = self._folder / f"step-{self._steps:08d}.safetensors"
        write_state(self._model, path, {"step": str(self._steps)})
        self._written = self._steps

    def _recorded(self) -> dict[int, Path]:
        """{step: file} of the states in the folder."""
        matches = {path: _FILE.fullmatch(path.name) for path in sorted(self._folder.iterdir())}
        return {int(match[1]): path for path, match in matches.items() if match is not None}

    def _resume(self, recorded: dict[int, Path], start: int | None) -> None:
        """Go on from step `start` in a folder that holds these states, as far as they are of this model's training."""
        last = max(recorded)
        state = state_of(self._model)
        self._require_same_model(recorded[last], state)
        self._steps = last if start is None else start
        others = f"To record another training, name another folder than {self._folder}."
        if self._steps in recorded:
            path = recorded[self._steps]
            if not all(same_values(value, state[name]) for name, value in _read(path).items()):
                raise InputError(
                    f"{path} holds another state of step {self._steps} than the model has now. To go on with the "
                    f"training recorded there, put the model where it was (landscape.load_checkpoint(model, "
                    f"{str(path)!r}), or start=, the steps taken by the checkpoint it comes from). {others}"
                )
            self._written = self._steps
        elif self._steps < min(recorded):
            raise InputError(f"{self._folder} holds states from step {min(recorded)} on, not of {start}. {others}")
        later = [path for number, path in recorded.items() if number > self._steps]
        for path in later:
            path.replace(path.with_name(f"{path.name}.old"))
        if later:
            told = "%s: training goes on from step %d; %d states of later steps are set aside as *.safetensors.old"
            logger.warning(told, self._folder, self._steps, len(later))

    def _require_same_model(self, path: Path, state: dict[str, Tensor]) -> None:
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        try:
            with safe_open(path, "pt") as file:
                recorded = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path} is not a readable safetensors file: {error}; delete it") from error
        differ = sorted(n for n in {*shapes, *recorded} if shapes.get(n) != recorded.get(n))
        if differ:
            name = differ[0]
            raise InputError(
                f"{path} is of another model: {name!r} is {recorded.get(name, 'not there')} in it and "
                f"{shapes.get(name, 'not there')} in this one ({len(differ)} differ); name another folder"
            )


def state_of(model: Any) -> dict[str, Tensor]:
    """The state dict of an nn.Module on the CPU, each tensor once and with memory of its own, as safetensors wants it.

    Names are those without DataParallel and torch.compile, of tied tensors the first.
    """
    values = {n: v for n, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    first = {id(value): name for name, value in reversed(values.items())}
    state: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in strip_prefixes({n: v for n, v in values.items() if first[id(v)] == n}).items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()
        memory.add(tensor.untyped_storage().data_ptr())
        state[name.replace("_orig_mod.", "")] = tensor
    return state


def write_state(model: Any, path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write `state_of` a model as a safetensors file, whole or not at all. Raises StoreError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, save(state_of(model), {"format": "pt", **(about or {})}))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"the state of the model cannot be written to {path}: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} is not a readable safetensors file: {error}; delete it") from error


def _writes() -> bool:
    """Whether this process writes: the only one, or rank 0 under torch.distributed."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _require_whole(model: Any) -> None:
    """Raise InputError where a rank holds only a part of the parameters."""
    parts = ["a parameter in shards" for p in model.parameters() if hasattr(p, "full_tensor") or hasattr(p, "ds_id")]
    parts += ["FSDP" for module in model.modules() if type(module).__name__ == "FullyShardedDataParallel"]
    if parts:
        raise InputError(
            f"the model holds {parts[0]} (FSDP, tensor parallel, ZeRO-3), so no process has its whole state. Save "
            "whole checkpoints by the framework's own means and give their folder to landscape.pca_plane."
        )
