"""The arm of exact invariance: weights before a BatchNorm multiplied, and the function of the network as it was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from landscape.objective.folding import foldable_pairs
from landscape.objective.objective import Objective


def before_normalisation(objective: Objective) -> tuple[tuple[str, str], ...]:
    """(layer, BatchNorm) by their names, where the BatchNorm alone reads what the convolution or Linear puts out."""
    with objective.at(objective.theta) as model, torch.no_grad():  # a graph would hold every layer's output
        pairs = foldable_pairs(model, objective.outputs, objective.data.head(2).first)
        names = {id(module): name for name, module in model.named_modules()}
        return tuple((names[id(pair.layer)], names[id(pair.norm)]) for pair in pairs)


def rescaled(state: Mapping[str, Tensor], pairs: tuple[tuple[str, str], ...], factor: float) -> dict[str, Tensor]:
    """A state {name: tensor} with the layers' weights and biases times `factor`, and the statistics that follow.

    The running mean is times `factor`, the running variance times factor^2: (w x - mean) / sqrt(variance) stays as it
    is, but for the eps that BatchNorm adds to the variance, which weighs less (factor > 1) or more.
    """
    powers: dict[str, int] = {}
    for layer, norm in pairs:
        powers |= {f"{layer}.weight": 1, f"{layer}.bias": 1, f"{norm}.running_mean": 1, f"{norm}.running_var": 2}
    return {name: tensor * factor ** powers[name] if name in powers else tensor for name, tensor in state.items()}
