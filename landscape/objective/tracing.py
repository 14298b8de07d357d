"""Functions of tensors as torch's operations alone: what is not arithmetic is most of the time of small networks."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import disable_autocast_cache
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
_AS_THEY_ARE = {_aten.detach.default, _aten.expand.default, _aten.view.default, _aten._unsafe_view.default}
_SHOWN = {  # views, too, though their schemas do not say so
    _aten._unsafe_view.default,
    _aten.unsafe_split.Tensor,
    _aten.unsafe_split_with_sizes.default,
    _aten.unsafe_chunk.default,
}
_IN_PLACE = {
    _aten.add.Tensor: _aten.add_.Tensor,
    _aten.mul.Tensor: _aten.mul_.Tensor,
    _aten.relu.default: _aten.relu_.default,
    _aten.tanh.default: _aten.tanh_.default,
    _aten.neg.default: _aten.neg_.default,
}
_FILLED = {_aten.ones_like.default: 1, _aten.zeros_like.default: 0, _aten.new_zeros.default: 0}


def traced(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """The operations of `function` at the example, for arguments of the same shapes; what else it reads stays as it is.

    Those that give what they were given, a third of all, are left out: each costs its start. What depends on no
    argument is computed here, once. On CPUs the products and softmaxes of many samples of few numbers go by columns,
    and an operation writes to what nobody reads after it. Raises whatever a function does under torch's tracing that
    asks for the value of a number.
    """
    found = _recorded(function, example)
    _leave_out(found)
    if not any(_writes(node.target) for node in found.graph.nodes):
        _fold(found)
        _write_in_place(found)
    found.recompile()
    return found


# -- recording -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lies:
    """How the values of a node lie in memory."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    device: torch.device

    @staticmethod
    def of(tensor: Tensor) -> _Lies:
        return _Lies(tensor.dtype, tensor.shape, tensor.stride(), tensor.device)


def _recorded(function: Callable[..., Any], example: Sequence[Any]) -> GraphModule:
    """The operations below autograd and vmap in their order, as torch's `make_fx` has them, which loads the compiler.

    Constants are copied when they are made (`lift_fresh`), since an operation may write to them.
    """
    recorder = _Recorder()
    given = [recorder.given(f"given_{k}", value) for k, value in enumerate(example)]
    with disable_autocast_cache(), recorder:
        result = function(*given)
    recorder.graph.output(recorder.known(result))
    return GraphModule(recorder.constants, recorder.graph)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes in `graph` each operation that reaches torch's dispatch; what it reads besides are its `constants`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, which takes seconds, only to tell it to stay away

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.constants, self.graph = dict[str, Tensor](), Graph()
        self._nodes: dict[int, Node] = {}
        self._tensors: list[Tensor] = []  # kept, or another could get the id of one

    def given(self, name: str, value: Any) -> Any:
        """An argument of the function."""
        assert isinstance(value, Tensor), "what is traced is a function of tensors"
        self._is(value, self.graph.placeholder(name))
        return value

    def known(self, values: Any) -> Any:
        """The same with nodes in the place of tensors."""
        return tree_map_only(Tensor, self._node, values)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        for way in (_BY_COLUMNS.get(func), func.decompose):
            if way is not None:
                with self:
                    made = way(*args, **kwargs)
                if made is not NotImplemented:
                    return made
        if torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError(f"{func} asks for the value of a number, which is another at each call")
        if func is _aten.lift_fresh.default:
            func = _aten.lift_fresh_copy.default
        node = self.graph.call_function(func, self.known(args), self.known(kwargs))
        found = func(*args, **kwargs)
        if isinstance(found, Tensor):
            self._is(found, node)
        else:
            for k, part in enumerate(found if isinstance(found, (list, tuple)) else ()):
                if isinstance(part, Tensor):
                    self._is(part, self.graph.call_function(operator.getitem, (node, k)))
        return found

    def _is(self, tensor: Tensor, node: Node) -> None:
        node.meta["val"] = _Lies.of(tensor)
        self._nodes[id(tensor)] = node
        self._tensors.append(tensor)

    def _node(self, tensor: Tensor) -> Node:
        if id(tensor) not in self._nodes:
            name = f"_constant_{len(self._tensors)}"
            self.constants[name] = tensor.detach()
            self._is(tensor, self.graph.get_attr(name))
        return self._nodes[id(tensor)]


def _writes(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


# -- many samples of few numbers -------------------------------------------------------------------------------------


def _tall(tensor: Tensor) -> bool:
    return tensor.ndim > 1 and tensor.shape[-2] > tensor.shape[-1] and tensor.device.type == "cpu"


def _bmm(a: Tensor, b: Tensor) -> Any:
    if not (a.shape[1] > b.shape[2] and a.device.type == "cpu"):
        return NotImplemented
    return torch.bmm(b.mT, a.mT).mT


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    """Along a short last axis torch's own takes up to 20 times as long as along one that is not the last."""
    if not _tall(x) or dim % x.ndim != x.ndim - 1:
        return NotImplemented
    return _aten._log_softmax(x.mT.contiguous(), x.ndim - 2, half_to_float).mT


def _log_softmax_backward(slopes: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Any:
    if not _tall(output) or dim % output.ndim != output.ndim - 1:
        return NotImplemented
    by_column = slopes.mT.contiguous(), output.mT.contiguous()
    return _aten._log_softmax_backward_data(*by_column, output.ndim - 2, dtype).mT


_BY_COLUMNS: dict[OpOverload[..., Any], Callable[..., Any]] = {
    _aten.bmm.default: _bmm,
    _aten._log_softmax.default: _log_softmax,
    _aten._log_softmax_backward_data.default: _log_softmax_backward,
}


# -- what can be left out ----------------------------------------------------------------------------------------------


def _leave_out(found: GraphModule) -> None:
    """Operations that give what they were given, and transposing twice."""
    for node in found.graph.nodes:
        if node.op != "call_function":
            continue
        taken: Any = node.args[0] if node.args else None
        if node.target is _aten.transpose.int and getattr(taken, "target", None) is _aten.transpose.int:
            if _axes(node) == _axes(taken):
                node.replace_all_uses_with(taken.args[0])
            continue
        times_one = node.target is _aten.mul.Scalar and node.args[1] == 1
        if (times_one or node.target in _AS_THEY_ARE) and _lie_alike(node, taken):
            node.replace_all_uses_with(taken)
    found.graph.eliminate_dead_code()


def _lie_alike(node: Node, other: Node) -> bool:
    mine, its = node.meta["val"], other.meta["val"]
    found: bool = (mine.dtype, mine.shape, mine.stride) == (its.dtype, its.shape, its.stride)
    return found


def _axes(node: Node) -> set[int]:
    axes: Any = node.args[1:]
    return {axis % len(node.meta["val"].shape) for axis in axes}


def _fold(found: GraphModule) -> None:
    """Compute what depends on no argument."""
    known: dict[Node, Any] = {}
    for node in found.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(found, str(node.target))
        elif node.op != "call_function" or not _is_pure(node.target):
            continue
        elif node.target in _FILLED:
            like: _Lies = node.meta["val"]
            empty = torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device=like.device)
            known[node] = empty.fill_(_FILLED[node.target])
        elif all(given in known for given in node.all_input_nodes):
            arguments, named = map_arg((node.args, node.kwargs), lambda given: known[given])
            known[node] = node.target(*arguments, **named)
        elif node.target is _aten.where.self and _is_true(known.get(node.args[0])) and _lie_alike(node, node.args[1]):
            node.replace_all_uses_with(node.args[1])
    for node, value in known.items():
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        name = f"_folded_{node.name}"
        found.register_buffer(name, _as_factor(node, value.detach()))
        with found.graph.inserting_before(node):
            constant = found.graph.get_attr(name)
        constant.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(constant)
    found.graph.eliminate_dead_code()


def _is_true(value: Tensor | None) -> bool:
    return value is not None and bool(value.all())


def _as_factor(node: Node, value: Tensor) -> Tensor:
    """One matrix that is the second factor of many products in the order in which they read it fastest."""
    factor = all(user.target is _aten.bmm.default and user.args[1] is node for user in node.users)
    if not factor or value.stride(0) != 0:
        return value
    return value[0].contiguous().expand_as(value)


def _is_pure(target: Any) -> bool:
    if target is operator.getitem:
        return True
    return isinstance(target, OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags


# -- writing in place --------------------------------------------------------------------------------------------------


def _write_in_place(found: GraphModule) -> None:
    """Elementwise operations write to memory that nobody reads after them."""
    nodes = list(found.graph.nodes)
    owner: dict[Node, Node] = {}  # whose memory a node shows
    last: dict[Node, int] = {}  # place of the last node that reads the memory of one
    for place, node in enumerate(nodes):
        owner[node] = owner[node.all_input_nodes[0]] if _is_view(node) else node
        last |= {owner[given]: place for given in node.all_input_nodes}
    for place, node in enumerate(nodes):
        if node.op != "call_function" or node.target not in _IN_PLACE or node.kwargs:
            continue  # a factor belongs to the second operand
        owners = [owner[given] for given in node.args if isinstance(given, Node)]
        for given in node.args:
            if not isinstance(given, Node):
                continue
            memory = owner[given]
            free = memory.op == "call_function" and last[memory] == place and owners.count(memory) == 1
            if free and _lie_alike(node, given):
                node.target = _IN_PLACE[node.target]
                node.args = (given, *(other for other in node.args if other is not given))
                break


def _is_view(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return node.target is operator.getitem
    return node.target in _SHOWN or any(result.alias_info for result in node.target._schema.returns)
