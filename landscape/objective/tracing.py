"""Functions of tensors as torch's operations alone: what is not arithmetic is most of the time of small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

_AS_THEY_ARE = {
    torch.ops.aten.detach.default,
    torch.ops.aten.expand.default,
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
}


def traced(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """The operations of `function` at the example, for arguments of the same shapes; what else it reads stays as it is.

    Those that give what they were given, a third of all, are left out: each costs its start. Raises whatever a function
    does under torch's tracing that asks for the value of a number.
    """
    found: GraphModule = make_fx(function)(*example)
    for node in found.graph.nodes:
        if node.op != "call_function":
            continue
        times_one = node.target is torch.ops.aten.mul.Scalar and node.args[1] == 1
        if not times_one and node.target not in _AS_THEY_ARE:
            continue
        given, taken = node.meta["val"], node.args[0].meta["val"]
        same = given.dtype == taken.dtype and given.shape == taken.shape and given.stride() == taken.stride()
        if same:
            node.replace_all_uses_with(node.args[0])
            found.graph.erase_node(node)
    found.graph.eliminate_dead_code()
    found.recompile()
    return found
