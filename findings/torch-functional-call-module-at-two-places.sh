#!/bin/bash
# torch 2.13.0: torch.func.functional_call changes the model where one module stands at two places of it.
#
# functional_call promises to put the model's own parameters back after the call. A layer that is used twice,
# Sequential(layer, activation, layer), has one name for its weight in named_parameters(), "0.weight". After a call with
# {"0.weight": ..., "0.bias": ...} the layer holds the given tensors, not its own: parameters() lists plain tensors that are no
# Parameter, and the model's next outputs are those of the given weights. With tie_weights=False its own are put back, and so is
# a weight that two different modules share in either case.
# Seen: after the call the weight is another object, a plain tensor with the values that were given.
# Exits with 0 while that holds, with 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.func import functional_call


def called(model: nn.Module, layer: nn.Linear, **options: bool) -> tuple[bool, str]:
    """(whether the layer still has its own weight, the type of what it has) after a call with other weights."""
    weight = layer.weight
    given = {name: 2 * value.detach() for name, value in model.named_parameters()}
    functional_call(model, given, (torch.ones(2, 3),), **options)
    return layer.weight is weight, type(next(model.parameters())).__name__


layer = nn.Linear(3, 3)
twice = called(nn.Sequential(layer, nn.Tanh(), layer), layer)
layer = nn.Linear(3, 3)
untied = called(nn.Sequential(layer, nn.Tanh(), layer), layer, tie_weights=False)
first, second = nn.Linear(3, 3), nn.Linear(3, 3)
second.weight = first.weight
shared = called(nn.Sequential(first, nn.Tanh(), second), first)
print(f"(own weight, its type): a module at two places {twice}, tie_weights=False {untied}, a shared weight {shared}")
sys.exit(not (twice == (False, "Tensor") and untied == shared == (True, "Parameter")))
PYTHON
