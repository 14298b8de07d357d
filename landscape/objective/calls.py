"""How a model is called on a batch, and its values on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from landscape.errors import InputError, told_of_user, user_code
from landscape.objective.batches import Batch, inputs_and_targets
from landscape.objective.counting import LABEL_KEYS, Counting
from landscape.objective.model import BoundModel
from landscape.objective.trees import (
    map_tensors,
    shapes_in,
)
from landscape.objective.units import Quantity, Units, main_output

_ARGUMENT = re.compile("unexpected keyword argument|required (positional|keyword-only) argument")


@dataclass(frozen=True)
class Calls:
    """How a model is called on a batch."""

    model: BoundModel
    forward: Callable[[nn.Module, Any], Any] | None  # the user's own, see `Objective`
    loss_is_returned: bool  # by `forward`
    precision: str
    dtype: torch.dtype
    device: torch.device
    counting: Counting = field(default_factory=Counting)  # samples of a batch
    needs_grad: bool = False  # a derivative is part of the forward pass
    copies_inputs: bool = False  # the model writes to its inputs
    channels_last: bool = False  # memory format of images

    def context(self, full_precision: bool) -> AbstractContextManager[object]:
        """Autograd and autocast as the forward pass needs them; `full_precision` leaves autocast off."""
        autocast = self.precision == "bf16" and not full_precision
        # Entering takes time, so it is left out where it would change nothing. An autocast of the caller's is undone.
        if autocast or torch.is_autocast_enabled(self.device.type):
            return self._switched(autocast)
        return self._autograd()

    def _autograd(self) -> AbstractContextManager[object]:
        return torch.enable_grad() if self.needs_grad else torch.no_grad()

    @contextmanager
    def _switched(self, autocast: bool) -> Iterator[None]:
        with self._autograd(), torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            yield

    def call(self, model: Callable[..., Any], batch: Batch) -> tuple[Any, Any]:
        """(outputs, targets) of one batch; with loss=None the loss values and the batch.

        What the user's code raises becomes a UserCodeError with the shapes of the batch.
        """
        if self.copies_inputs:
            batch = map_tensors(batch, Tensor.clone)
        if self.forward is None:
            inputs, named, targets = inputs_and_targets(batch)
            what = "the model cannot be evaluated on a batch"
            with user_code(what, lambda: shapes_in(batch)):
                try:
                    return self._here(main_output(model(*inputs, **named))), targets
                except TypeError as error:
                    if named and _ARGUMENT.search(str(error)):
                        raise told_of_user(error, what, shapes_in(batch), _of_keys(named)) from error
                    raise
        with user_code("forward cannot be evaluated on a batch", lambda: shapes_in(batch)):
            # It gets new tensors and containers: what it pops, or sets requires_grad on, is whole again the next time.
            result = self.forward(model, map_tensors(batch, Tensor.detach))  # type: ignore[arg-type]
        result = self._here(result)
        if self.loss_is_returned:
            return result, batch
        if not (isinstance(result, (tuple, list)) and len(result) == 2):
            raise InputError(
                f"forward returned {type(result).__name__}; with a loss it returns (outputs, targets), and with "
                "loss=None the loss itself"
            )
        return result[0], result[1]

    def _here(self, outputs: Any) -> Any:
        """Outputs on the data's device, which the last layers of a model that is spread may not be on."""
        if self.model.placement is None:
            return outputs
        return map_tensors(outputs, lambda tensor: tensor.to(self.device))

    def outputs(self, model: Callable[..., Any], batch: Batch) -> tuple[Any, Any]:
        """`call` with scores in float32 or better, so that losses do not sum in half precision."""
        outputs, targets = self.call(model, batch)
        half = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
        return outputs.float() if half else outputs, targets

    def units(self, quantities: Sequence[Quantity], model: Callable[..., Any], batch: Batch) -> list[Units]:
        """Numerators and denominators of every quantity on one batch."""
        outputs, targets = self.outputs(model, batch)
        return [self.units_of(quantity, outputs, targets) for quantity in quantities]

    def units_of(self, quantity: Quantity, outputs: Any, targets: Any) -> Units:
        """Numerators and denominators of one quantity; what the user's code raises is told with the shapes."""
        what = f"{quantity.name} ({quantity.describe}) cannot be computed from outputs and targets"
        with user_code(what, lambda: shapes_met(outputs, targets)):
            return quantity.units(outputs, targets)

    def run(self, batch: Batch, full_precision: bool = False, theta: Tensor | None = None) -> tuple[Any, Any]:
        """(outputs, targets) of one batch at theta (size,), the centre by default."""
        with self.model.at(theta) as model, self.context(full_precision):
            return self.outputs(model, batch)

    def formatted(self, tensor: Tensor) -> Tensor:
        """Images in the memory format that is fastest for this model; anything else as it is."""
        if self.channels_last and tensor.ndim == 4 and tensor.is_floating_point():
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor


def _of_keys(named: Iterable[str]) -> str:
    """How a batch that is a mapping is given to the model, and the way out where its names are others."""
    return (
        f"Of a batch with keys the model gets all but the labels ({', '.join(LABEL_KEYS)}: the first that is there) by "
        f"name, here {', '.join(map(str, named))}; where it names them otherwise, give forward=lambda model, batch: "
        "(model(batch['KEY']), batch['LABELS'])"
    )


def shapes_met(outputs: Any, targets: Any) -> str:
    """The shapes of outputs and targets, for messages."""
    return f"outputs {shapes_in(outputs)}; targets {shapes_in(targets)}"
