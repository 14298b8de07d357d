#!/bin/bash
# torch 2.13.0: making an optimiser loads torch's compiler, and sympy with it.
#
# `import torch` does not load torch._dynamo. The first torch.optim.SGD(...) does, although nothing is compiled: in a process of its
# own, as each rank of an MPI job, about two seconds for some hundred modules, of which sympy has the most. A process that only
# evaluates a network, or steps by arithmetic of its own, does without.
# Seen: neither is loaded after `import torch` and a backward pass; both are after an optimiser was made, before any step.
# Exits with 0 while that holds, with 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


def loaded() -> tuple[bool, bool]:
    """Whether the compiler's first part and sympy are loaded."""
    return "torch._dynamo" in sys.modules, "sympy" in sys.modules


weight = torch.nn.Parameter(torch.ones(3))
weight.square().sum().backward()
before, modules = loaded(), len(sys.modules)
torch.optim.SGD([weight], lr=0.1)
print(f"(torch._dynamo, sympy): {before} before, {loaded()} after, {len(sys.modules) - modules} modules more")
sys.exit(not (before == (False, False) and loaded() == (True, True)))
PYTHON
