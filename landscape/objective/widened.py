"""A model in half precision computed in float32: the parameters of a module are made for its call, and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from landscape.objective.model import BoundModel

_HALF = (torch.bfloat16, torch.float16)
_Saved = list[tuple[Callable[[Tensor], None], Tensor]]


def widened_tensor(tensor: Tensor) -> Tensor:
    """A tensor in half precision in float32; any other as it is."""
    return tensor.float() if tensor.dtype in _HALF else tensor


@contextmanager
def widened(
    model: BoundModel,
    values: Callable[[str], Tensor],
    held: Collection[nn.Module] = (),
    idle: set[nn.Module] | None = None,
) -> Iterator[None]:
    """For the length of a `with` block every module computes in float32, with `values(name)` as trainable parameters.

    To be entered inside `BoundModel.at`. Beside the model this takes the largest module's own tensors, and those of the
    modules `held`, which are widened all the while: the parameters of a module that is not called itself, as a
    ParameterList, are used by others. `idle` gets the modules of which that may be so.
    """
    names = {id(p): name for name, p in zip(model.layout.names, model.trainable, strict=True)}
    stacks: dict[nn.Module, list[_Saved]] = {}
    called: set[nn.Module] = set()

    def narrow(parameter: nn.Parameter | None) -> bool:
        return parameter is not None and id(parameter) in names

    def before(module: nn.Module, _inputs: Any) -> None:
        saved: _Saved = []
        stacks.setdefault(module, []).append(saved)
        for part in _computing(module):
            called.add(part)
            for parameter in part._parameters.values():
                name = names.get(id(parameter))
                if parameter is not None and (name is not None or parameter.dtype in _HALF):
                    saved.append((_setter(parameter), parameter.data))
                    parameter.data = parameter.data.float() if name is None else values(name).to(parameter.device)
            for key, buffer in part._buffers.items():
                if buffer is not None and buffer.dtype in _HALF:
                    saved.append((_slot(part, key), buffer))
                    part._buffers[key] = buffer.float()

    def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
        for put, value in stacks[module].pop():
            put(value)

    with ExitStack() as stack:
        for module in model.model.modules():
            if any(t is not None for t in (*module._parameters.values(), *module._buffers.values())):
                stack.callback(module.register_forward_pre_hook(before, prepend=True).remove)
                stack.callback(module.register_forward_hook(after, always_call=True).remove)
        try:
            for module in held:
                before(module, None)
            yield
            if idle is not None:
                for module in set(model.model.modules()) - called:
                    if any(map(narrow, module._parameters.values())):
                        idle.add(module)
        finally:
            for module, left in stacks.items():  # of a pass that was interrupted
                while left:
                    after(module, None, None)


def _computing(module: nn.Module) -> Iterator[nn.Module]:
    """The modules whose tensors are used in a call of one: torch's attention never calls its output projection."""
    return module.modules() if hasattr(module, "in_proj_weight") else iter((module,))


def _setter(parameter: nn.Parameter) -> Callable[[Tensor], None]:
    def put(value: Tensor) -> None:
        parameter.data = value

    return put


def _slot(module: nn.Module, key: str) -> Callable[[Tensor], None]:
    def put(value: Tensor) -> None:
        module._buffers[key] = value

    return put
