#!/bin/bash
# torch 2.13.0: model.double() and back again cuts a graph from the model's parameters, for torch.autograd.grad alone.
#
# A loss of a float32 model, its graph kept. model.double(); model.float() leaves the same Parameter objects with the same
# values, bit for bit. After that torch.autograd.grad says that the parameters were not used in the graph, and with
# allow_unused=True it gives None for each, which code that fills in zeros takes for a derivative of zero. backward() on the same
# graph still gives the right gradients. A parameter whose .data is given another type gets a new node to accumulate in: grad()
# looks for that one, backward() fills the one that the graph has.
# Seen: values equal, grad() None and None, the gradients of backward() equal to those of grad() before.
# Exits with 0 while that holds, with 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
parameters = list(model.parameters())
values = [p.detach().clone() for p in parameters]
loss = model(torch.randn(5, 3)).square().mean()
before = torch.autograd.grad(loss, parameters, retain_graph=True)

model.double()
model.float()

same = all(torch.equal(p, value) for p, value in zip(model.parameters(), values, strict=True))
same &= all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
after = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
loss.backward()
backward = all(torch.equal(p.grad, g) for p, g in zip(parameters, before, strict=True))
print(f"the same parameters and values: {same}; grad(): {after}; backward() as before: {backward}")
sys.exit(not (same and backward and all(g is None for g in after)))
PYTHON
