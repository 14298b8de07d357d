"""The network as it is in training: BatchNorm on the statistics of the data, and nothing else that differs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.objective.batchnorm import Statistics
from landscape.objective.objective import Objective
from landscape.objective.trees import tensors_in

_TRIAL = 8  # samples


def train_statistics(objective: Objective) -> Statistics:
    """What BatchNorm normalises by in train mode: mean and variance of the objective's data at each theta.

    The data count as a single batch, and their statistics as constants, so that samples do not meet. Raises InputError
    where the network in train mode is another than that: dropout, whose masks make a sample's gradient random, and
    layers that train() leaves in eval mode.
    """
    names = objective.batchnorm_names
    found = Statistics("reestimated", objective.read_statistics()) if names else Statistics("frozen", None)
    batch, theta = objective.data.head(_TRIAL).first, objective.theta.nan_to_num(0.1, 0.1, 0.1)
    with objective.differentiable(theta, found.at(objective, theta)) as (model, _), torch.no_grad():
        resting = _outputs(objective, model, batch)
        modules = dict(model.named_modules())
        model.train()
        if kept := [name for name in names if not modules[name].training]:
            raise InputError(
                f"train=True: train() leaves BatchNorm {', '.join(kept)} in eval mode, so the network is trained with "
                "stored statistics there; leave train out, which measures with the stored ones"
            )
        active = [name for name, module in modules.items() if module.training and name not in names]
        for name in names:
            modules[name].training = False
        if not _alike(_outputs(objective, model, batch), resting):
            for module in modules.values():
                module.training = False
            differ = []
            for name in active:
                modules[name].training = True
                if not _alike(_outputs(objective, model, batch), resting):
                    differ.append(f"{name or 'the network itself'} ({type(modules[name]).__name__})")
                modules[name].training = False
            raise InputError(
                "train=True: beside BatchNorm the network has other outputs in train mode than in eval mode, by "
                f"{', '.join(differ) or 'several modules together'}. Under dropout the gradient of a sample is random, "
                "and its coherence that of the masks as well. Set their p to 0, or leave train out"
            )
    return found


def _outputs(objective: Objective, model: Any, batch: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(objective.outputs(model, batch)[0]) if tensor.is_floating_point()]


def _alike(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal to half of the digits."""
    for a, b in zip(found, expected, strict=True):
        tolerance = 10 * torch.finfo(b.dtype).eps ** 0.5
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().nan_to_num(0.0).max())):
            return False
    return True
