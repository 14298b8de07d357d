"""The covariance of a network's outputs over draws of its initial weights, one network at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.errors import InputError, user_code
from landscape.objective.described import describe_callable
from landscape.objective.random_state import random_state_kept, seed_everything

_BATCH = 256  # samples of one forward pass


def initial_network(factory: Callable[..., Any], seed: int, number: int) -> Any:
    """Network `number` as the factory makes it from random streams that follow from (seed, number), in eval mode.

    Raises UserCodeError where the factory raises, InputError where it returns no module.
    """
    with random_state_kept():
        seed_everything(derive_seed(seed, "random network", number))
        with user_code(f"the factory {describe_callable(factory)} cannot be called"):
            model = factory()
    if not hasattr(model, "named_parameters"):
        raise InputError(f"the factory returned {type(model).__name__}; let it return an nn.Module")
    return model.eval()


def network_kernel(model: Any, inputs: Tensor, device: torch.device) -> FloatArray:
    """One network's part of the covariance of an output, (m, m) in float64; its mean over networks is the estimate.

    Where the outputs (m, C) are those of a linear layer, W phi + b, the draws of W and b are averaged over in closed
    form: mean(W^2) phi phi' + mean(b^2), of rank as high as the layer has inputs. That holds for entries of W and b
    that are drawn alike, with mean 0. Elsewhere it is the mean of f f' over the C outputs. `inputs` are (m, ...).
    Raises InputError for outputs that are no scores (m, C) or (m,), and NaN or Inf among them.
    """
    model = model.to(device)
    last: list[_Call] = []  # of a linear layer, the latest
    layers = [module for module in model.modules() if hasattr(module, "in_features") and hasattr(module, "weight")]
    handles = [
        layer.register_forward_hook(lambda *call: last.__setitem__(slice(None), [_Call(*call)])) for layer in layers
    ]
    try:
        with torch.no_grad():
            parts = [_features(model, batch.to(device), last) for batch in torch.split(inputs, _BATCH)]
    finally:
        for handle in handles:
            handle.remove()
    layer = parts[-1][1]
    features = torch.cat([part.double().cpu() for part, _ in parts]).numpy()
    if not np.isfinite(features).all():
        raise InputError("a network's outputs hold NaN or Inf at its initial weights; look at its initialisation")
    found: FloatArray = features @ features.T
    if layer is None:
        found /= features.shape[1]
        return found
    found *= float(layer.weight.detach().double().square().mean())
    found += 0.0 if layer.bias is None else float(layer.bias.detach().double().square().mean())
    return found


class _Call(NamedTuple):
    layer: Any
    inputs: tuple[Tensor, ...]
    output: Tensor


def _features(model: Any, batch: Tensor, last: list[_Call]) -> tuple[Tensor, Any]:
    """(phi, the linear layer) where the outputs are a linear layer's, else (outputs, None)."""
    with user_code("a network of the factory cannot be called", lambda: f"inputs {tuple(batch.shape)}"):
        outputs = model(batch)
    if not isinstance(outputs, Tensor) or outputs.ndim > 2 or outputs.shape[:1] != batch.shape[:1]:
        what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"a network returned {what} of {len(batch)} samples; let it return scores (m, C)")
    if last and last[0].output is outputs and last[0].inputs[0].ndim == 2:
        return last[0].inputs[0], last[0].layer
    return outputs.reshape(len(batch), -1), None
