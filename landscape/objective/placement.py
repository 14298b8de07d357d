"""Where the parameters of a model lie that is spread over devices, kept in host memory by hooks, or sharded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.objective.trees import as_real, why_without_values


@dataclass(frozen=True)
class Home:
    """The values of one parameter that lie in this process, of its flat tensor in row-major order."""

    values: Tensor  # (stop - start,), a view: what is written to it is the parameter's
    start: int
    version: int  # how often the parameter was written to, as torch counts it

    @property
    def stop(self) -> int:
        """The end of the stretch."""
        return self.start + self.values.numel()


def home_of(tensor: Tensor) -> Home:
    """The home of a dense tensor of this process, whole."""
    return Home(as_real(tensor.data).view(-1), 0, 0 if tensor.is_inference() else tensor._version)


class Placement:
    """The homes of the parameters of a model that is used where it lies.

    Parameters are *spread* (tensors on several devices), *offloaded* (on the meta device, brought in for a call by
    hooks of accelerate, which keep them in host memory) or *sharded* (DTensors of FSDP2, split along axis 0 among the
    processes of a mesh). One model may have all three.
    """

    def __init__(self, model: nn.Module) -> None:
        self._wrapped = [module for module in model.modules() if _is_fsdp(module)]
        self.reshard()  # parameters that FSDP left whole after a pass are copies, and no home
        self._parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._slots: list[tuple[nn.Module, str]] = []
        self._maps: dict[str, tuple[Any, str]] = {}
        self._computes_on: list[torch.device] = []
        for prefix, module in model.named_modules():
            for hook in _offloading(module):
                self._computes_on.append(torch.device(hook.execution_device))
                for name, _ in module.named_parameters(recurse=hook.place_submodules):
                    self._maps[f"{prefix}.{name}".lstrip(".")] = hook.weights_map, name
        self._sharded = [name for name, p in self._parameters.items() if _is_sharded(p)]
        self.tied: set[str] = set()  # parameters whose values are those of one named before
        if self._maps:
            found: dict[int, str] = {}
            for name in [name for name in self._parameters if name in self._maps]:
                self._require_in_memory(name)
                if found.setdefault(self._held(name).data_ptr(), name) != name:
                    self.tied.add(name)
            self._slots = [(module, key) for module in model.modules() for key in module._parameters]
        for name in self._sharded:
            _share_of(name, self._parameters[name])

    @property
    def is_spread_alone(self) -> bool:
        """Whether every parameter is a tensor that modules hold, on whatever device."""
        return not (self._maps or self._sharded)

    @property
    def is_sharded(self) -> bool:
        """Whether a parameter is split among processes, which then have to work together."""
        return bool(self._sharded)

    @property
    def device(self) -> torch.device | None:
        """The device that data are put on by default; None for this rank's own."""
        if self._computes_on:
            return self._computes_on[0]
        if self._sharded:
            mesh: Any = self._parameters[self._sharded[0]]
            return torch.device("cpu") if mesh.device_mesh.device_type == "cpu" else None
        return next(iter(self._parameters.values())).device

    def holds(self, name: str) -> bool:
        """Whether a parameter without values of its own has them elsewhere in this process."""
        return name in self._maps or name in self._sharded

    def home(self, name: str) -> Home:
        """Where a parameter's values lie, of a sharded one those of this process."""
        if name in self._maps:
            return home_of(self._held(name))
        parameter = self._parameters[name]
        if name not in self._sharded:
            return home_of(parameter)
        local, start = _share_of(name, parameter)
        found = home_of(local)
        rows = local.shape[0] if local.ndim else 0
        # torch counts what is written to a DTensor there, and not in the tensor that holds this process's rows
        version = found.version + parameter._version
        return Home(found.values, start * (found.values.numel() // rows) if rows else 0, version)

    def whole(self, name: str) -> Tensor:
        """All values of a parameter in its shape; the processes that share it call this together."""
        if name in self._maps:
            return self._held(name).data
        parameter: Any = self._parameters[name]
        found: Tensor = parameter.full_tensor() if name in self._sharded else parameter
        return found.data

    def lying(self) -> list[Tensor]:
        """The tensors of this process in which the values of all parameters lie."""
        return [self.home(name).values for name in self._parameters if name not in self.tied]

    def versions(self) -> list[int]:
        """How often each parameter was written to, as torch counts it."""
        return [self.home(name).version for name in self._parameters]

    def reshard(self) -> None:
        """Have FSDP forget the whole parameters it made, which are made anew from the shards at the next call."""
        for module in self._wrapped:
            module.reshard()  # type: ignore[operator]

    @contextmanager
    def slots_kept(self) -> Iterator[None]:
        """For the length of a `with` block hooks may exchange Parameter objects; modules then have their own again."""
        saved = [(module, key, module._parameters[key]) for module, key in self._slots]
        try:
            yield
        finally:
            for module, key, parameter in saved:
                module._parameters[key] = parameter

    def require_together(self, mark: int) -> None:
        """Raise InputError on all processes that share a parameter where they are not about to compute the same.

        `mark` tells one point from another.
        """
        if not self._sharded:
            return
        parameter: Any = self._parameters[self._sharded[0]]
        mesh = parameter.device_mesh
        axis = next((n for n, placement in enumerate(parameter.placements) if placement.is_shard()), 0)
        ends = torch.tensor([mark, -mark], device=mesh.device_type)
        torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX, group=mesh.get_group(axis))
        if ends.tolist() != [mark, -mark]:
            raise InputError(
                f"the model is sharded over {mesh.size(axis)} processes, which have to compute a point together, and "
                f"are about to compute different ones; give ranks_per_item={mesh.size(axis)}, and make the same "
                "calls on every rank"
            )

    def _held(self, name: str) -> Tensor:
        weights, key = self._maps[name]
        found: Tensor = weights[key]
        return found

    def _require_in_memory(self, name: str) -> None:
        weights, key = self._maps[name]
        if weights[key] is weights[key] and not why_without_values(weights[key]):
            return
        raise InputError(
            f"parameter {name} is offloaded to the disk, and is read from there at every call, so nothing can be put "
            "in its place; load the model with room for it in host memory (max_memory={'cpu': ...}, no offload_folder)"
        )


def placement_of(model: nn.Module) -> Placement | None:
    """The placement of a model that is spread, offloaded or sharded; None for one whose tensors are on one device."""
    parameters = list(model.parameters())
    spread = len({p.device for p in parameters}) > 1 and all(p.device.type != "meta" for p in parameters)
    sharded = any(map(_is_sharded, parameters)) or any(map(_is_fsdp, model.modules()))
    return Placement(model) if spread or sharded or any(map(_offloading, model.modules())) else None


def mark_of(mark: int, values: Tensor) -> int:
    """`mark` and the values (n,) as a number that tells them from others."""
    return zlib.crc32(values.contiguous().view(torch.uint8).cpu().numpy().tobytes(), mark)


def _offloading(module: nn.Module) -> list[Any]:
    """Hooks of accelerate on a module that keep its parameters and bring them in for a call."""
    hook: Any = vars(module).get("_hf_hook")
    every = getattr(hook, "hooks", (hook,))
    return [h for h in every if getattr(h, "offload", False) and getattr(h, "weights_map", None) is not None]


def _is_fsdp(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def _is_sharded(parameter: Tensor) -> bool:
    return any(kind.__name__ == "DTensor" for kind in type(parameter).__mro__)


def _share_of(name: str, parameter: Any) -> tuple[Tensor, int]:
    """This process's rows of a DTensor, and the number of the first. Raises InputError where they are no such rows."""
    start, split = 0, False
    rows = parameter.shape[0] if parameter.ndim else 1
    for axis, placement in enumerate(parameter.placements):
        if placement.is_replicate():
            continue
        if split or type(placement).__name__ != "Shard" or placement.dim != 0:
            raise InputError(
                f"parameter {name} is a DTensor placed as {tuple(parameter.placements)}; what fully_shard makes by "
                "default is measured where it lies: rows of axis 0, split once. Of other layouts give the whole model "
                "on every rank (full_tensor(), or the model before it was sharded)"
            )
        split = True
        each = -(-rows // parameter.device_mesh.size(axis))
        start = min(rows, each * parameter.device_mesh.get_local_rank(axis))
    return parameter.to_local(), start
