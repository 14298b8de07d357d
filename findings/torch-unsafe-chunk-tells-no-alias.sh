#!/bin/bash
# torch 2.13.0: the schemas of aten.unsafe_chunk, aten.unsafe_split and aten._unsafe_view tell of no shared memory, and there is.
#
# Whoever changes a traced graph (torch.fx, make_fx) and wants to know whether an operation shows the memory of its input asks its
# schema: aten.chunk has `Tensor(a)[]` there, and alias_info with it. unsafe_chunk, unsafe_split and _unsafe_view return views all the
# same, but have plain `Tensor[]` and `Tensor`. A pass that writes in place where the schemas see no other reader writes into the
# pieces. ("unsafe" is said of autograd's checks of in-place writes to the pieces; schemas are not spoken of.)
# Seen: no alias_info for the three, alias_info for chunk; zeros written to the piece stand in the input.
# Exits with 0 while that holds, with 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

aten = torch.ops.aten


def told(operation: torch._ops.OpOverload) -> bool:
    """Whether the schema says that a result shares memory with an argument."""
    return any(result.alias_info is not None for result in operation._schema.returns)


def shares(piece: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether zeros written to the piece stand in the whole."""
    piece.zero_()
    return bool((whole == 0).any())


ones = [torch.ones(6) for _ in range(4)]
found = {
    "chunk": (told(aten.chunk.default), shares(aten.chunk(ones[0], 2)[0], ones[0])),
    "unsafe_chunk": (told(aten.unsafe_chunk.default), shares(aten.unsafe_chunk(ones[1], 2)[0], ones[1])),
    "unsafe_split": (told(aten.unsafe_split.Tensor), shares(aten.unsafe_split(ones[2], 3)[0], ones[2])),
    "_unsafe_view": (told(aten._unsafe_view.default), shares(aten._unsafe_view(ones[3], [2, 3]), ones[3])),
}
print("(told by the schema, so in memory):", found)
wanted = {"chunk": (True, True), **dict.fromkeys(("unsafe_chunk", "unsafe_split", "_unsafe_view"), (False, True))}
sys.exit(found != wanted)
PYTHON
