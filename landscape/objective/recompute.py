"""Blocks of a model whose activations are computed again where a derivative needs them, and not kept.

A block keeps what went into it. Its backward pass runs it once more, and so do the two passes of a second derivative:
torch.utils.checkpoint does that for the first derivative alone, since the graph that `create_graph=True` makes of a
backward pass keeps all that was computed again. Here that graph, too, keeps of a block what goes into it: its inputs
and the gradient of its outputs.

Source: Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
differentiation", Optim. Methods Softw. 1, 1992; Chen, Xu, Zhang, Guestrin, arXiv:1604.06174 (sqrt(n) layers a block).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from landscape.errors import InputError, nearest, raised_by
from landscape.objective.interrupts import until_done
from landscape.objective.trees import equal, map_tensors, tensors_in

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Block:
    """Modules that are computed one after another, or a single one."""

    name: str
    modules: tuple[nn.Module, ...]

    @cached_property
    def parameters(self) -> list[Tensor]:
        """Those that vary, each once."""
        found = dict.fromkeys(p for module in self.modules for p in module.parameters())
        return [parameter for parameter in found if parameter.requires_grad]


class Recomputing:
    """The blocks of a model; `active` while it is called, their activations are not kept."""

    def __init__(self, model: nn.Module, asked: bool | str | Sequence[str]) -> None:
        """`asked` are names of modules, or True for the entries of the model's lists and sequences of modules.

        Raises InputError for a name that is none, and for a model without such lists.
        """
        owners = _lists_in(model) if asked is True else _named(model, asked)
        self._model = model
        self._blocks = {owner: _blocks_of(owner, name) for name, owner in owners.items()}
        if not any(self._blocks.values()):
            raise InputError(
                f"recompute={asked!r}: {type(model).__name__} has no ModuleList or Sequential of several modules with "
                "parameters; give the names of the modules that are to be computed again"
            )
        self._require_apart()

    def _require_apart(self) -> None:
        """Raise InputError for a block that lies in one of another list or name."""
        inside: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
        for owner, blocks in self._blocks.items():
            for block in blocks:
                for module in {module for part in block.modules for module in part.modules()}:
                    inside.setdefault(module, []).append((owner, block.name))
        for owner, blocks in self._blocks.items():
            for block in blocks:
                for other, name in inside[block.modules[0]]:
                    if other is not owner:
                        raise InputError(
                            f"recompute: block {block.name!r} lies in block {name!r}, which is computed again as a "
                            "whole; name one of them alone"
                        )

    @property
    def names(self) -> list[str]:
        """Names of the blocks."""
        return [block.name for blocks in self._blocks.values() for block in blocks]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Calls of the model inside keep of every block what goes into it."""
        with self._calling(_Again.of):
            yield

    def check(self, run: Callable[[], object]) -> None:
        """Look at all blocks while `run` calls the model: they must give the same again, of what is known of them.

        Raises InputError for blocks that answer otherwise the second time, write to their inputs, or take tensors that
        vary from elsewhere, whose derivative would be lost, and where no block is called.
        """
        called: set[str] = set()

        def look(block: Block, forward: Forward, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
            called.add(block.name)
            return _looked_at(block, _Call(forward, block.parameters, inputs, named), self._model)

        with self._calling(look):
            run()
        missed = [name for name in self.names if name not in called]
        if missed:
            raise InputError(
                f"recompute: block {missed[0]!r} is not called when the model is ({len(missed)} of {len(self.names)} "
                "are not); give the names of modules that are"
            )

    @contextmanager
    def _calling(self, how: Callable[[Block, Forward, tuple[Any, ...], Mapping[str, Any]], Any]) -> Iterator[None]:
        """The blocks' forwards exchanged for `how` of them, that of a Sequential for one that goes block by block."""
        exchanged = [module for owner in self._blocks for module in self._exchanged(owner)]
        own = [vars(module).get("forward") for module in exchanged]

        def single(block: Block, forward: Forward) -> Forward:
            return lambda *inputs, **named: how(block, forward, inputs, named)

        def in_turn(blocks: Sequence[Block]) -> Forward:
            def forward(input: Any) -> Any:
                for block in blocks:
                    input = how(block, _chain(block.modules), (input,), {})
                return input

            return forward

        def put_back() -> None:
            for module, forward in zip(exchanged, own, strict=True):
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = forward

        try:
            for owner, blocks in self._blocks.items():
                if _is_plain(owner):
                    vars(owner)["forward"] = in_turn(blocks)
                    continue
                for block in blocks:
                    vars(block.modules[0])["forward"] = single(block, block.modules[0].forward)
            yield
        finally:
            until_done(put_back)

    def _exchanged(self, owner: nn.Module) -> list[nn.Module]:
        return [owner] if _is_plain(owner) else [block.modules[0] for block in self._blocks[owner]]


# -- which modules are blocks ----------------------------------------------------------------------------------------


def _is_plain(module: nn.Module) -> bool:
    """Whether it calls its entries one after another, as torch's own Sequential."""
    own = type(module).forward if "forward" not in vars(module) else None
    return isinstance(module, nn.Sequential) and own is nn.Sequential.forward


def _chain(modules: Sequence[nn.Module]) -> Forward:
    def forward(input: Any) -> Any:
        for module in modules:
            input = module(input)
        return input

    return forward


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _lists_in(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost lists of several modules with parameters, or those in an entry that has over two thirds of one."""

    def walk(module: nn.Module, name: str) -> dict[str, nn.Module]:
        inner: dict[str, nn.Module] = {}
        for key, child in module.named_children():
            inner |= walk(child, f"{name}.{key}" if name else key)
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            return inner
        sizes = {entry: _size(entry) for entry in module}
        if sum(size > 0 for size in sizes.values()) < 2:
            return inner
        largest = max(sizes, key=lambda entry: sizes[entry])
        inside = set(largest.modules())
        if 3 * sizes[largest] > 2 * sum(sizes.values()) and any(other in inside for other in inner.values()):
            return inner
        return {name: module}

    return walk(model, "")


def _named(model: nn.Module, asked: bool | str | Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names. Raises InputError for others."""
    names = (asked,) if isinstance(asked, str) else asked
    if not (isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names)):
        raise InputError(f"recompute={asked!r}; give true, or names of modules")
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise InputError(
                f"recompute: the model has no module {name!r}; {nearest(name, [other for other in modules if other])}"
            )
    return {name: modules[name] for name in names}


def _blocks_of(owner: nn.Module, name: str) -> list[Block]:
    """The entries of a list, of which single layers of a Sequential are taken together; any other module as it is."""

    def called(key: object) -> str:
        return f"{name}.{key}" if name else str(key)

    if not isinstance(owner, (nn.ModuleList, nn.Sequential)):
        return [Block(name or type(owner).__name__, (owner,))]
    entries = list(owner)
    if not _is_plain(owner):
        places = {entry: i for i, entry in reversed(list(enumerate(entries)))}  # each once, at its first place
        return [Block(called(i), (entry,)) for entry, i in sorted(places.items(), key=lambda p: p[1]) if _size(entry)]
    blocks: list[Block] = []
    start = 0
    while start < len(entries):
        stop = start
        while stop < len(entries) and not any(True for _ in entries[stop].children()):
            stop += 1
        step = math.ceil(math.sqrt(stop - start))
        blocks += [Block(called(i), tuple(entries[i : min(i + step, stop)])) for i in range(start, stop, step or 1)]
        if stop < len(entries):
            blocks.append(Block(called(stop), (entries[stop],)))
        start = stop + 1
    return blocks


# -- a block that keeps its inputs alone -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """One call of a block."""

    forward: Forward
    parameters: list[Tensor]
    given: tuple[Any, ...]
    named: Mapping[str, Any]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors given that a derivative is asked of."""
        return [t for tree in (*self.given, *self.named.values()) for t in tensors_in(tree) if t.requires_grad]

    def outputs(self, inputs: Sequence[Tensor]) -> Any:
        """What the block returns of other `inputs`."""
        left = iter(inputs)

        def put(tree: Any) -> Any:
            if not any(tensor.requires_grad for tensor in tensors_in(tree)):
                return tree
            return map_tensors(tree, lambda tensor: next(left) if tensor.requires_grad else tensor)

        return self.forward(*[put(tree) for tree in self.given], **{key: put(t) for key, t in self.named.items()})

    def again(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """((inputs, parameters) that a derivative is asked of, outputs) of the block computed again."""
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        return [*leaves, *self.parameters], list(tensors_in(self.outputs(leaves)))


@contextmanager
def _graph_of_its_own() -> Iterator[None]:
    """A graph that is gone soon: what it keeps is not counted with that of the model."""
    with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor):
        yield


class _Again(torch.autograd.Function):
    """The outputs of a block, of whose graph nothing is kept."""

    @staticmethod
    def of(block: Block, forward: Forward, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """What the block returns, which may be nested."""
        call = _Call(forward, block.parameters, inputs, named)
        moving = [*call.inputs, *call.parameters]
        if not (torch.is_grad_enabled() and moving):
            return forward(*inputs, **named)
        trees: list[Any] = []
        outputs = iter(_Again.apply(call, trees, *moving))  # type: ignore[no-untyped-call]
        return map_tensors(trees.pop(), lambda _: next(outputs))

    @staticmethod
    def forward(ctx: Any, call: _Call, trees: list[Any], *moving: Tensor) -> tuple[Tensor, ...]:
        """See torch."""
        inputs = moving[: len(moving) - len(call.parameters)]
        with _graph_of_its_own():  # layers may compute otherwise where no graph is wanted
            trees.append(call.outputs([tensor.detach().requires_grad_() for tensor in inputs]))
        outputs = tuple(tensor.detach() for tensor in tensors_in(trees[0]))
        trees[0] = map_tensors(trees[0], Tensor.detach)
        ctx.call = call
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[o for o in outputs if not (o.is_floating_point() or o.is_complex())])
        return outputs

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Any, ...]:
        """See torch."""
        known = tuple(i for i, slope in enumerate(slopes) if slope is not None)
        wanted = tuple(i for i, needed in enumerate(ctx.needs_input_grad[2:]) if needed)
        moving = [*ctx.saved_tensors, *ctx.call.parameters, *[slopes[i] for i in known]]
        found = _Slopes.apply(ctx.call, wanted, known, *moving)  # type: ignore[no-untyped-call]
        given = dict(zip(wanted, found, strict=True))
        return (None, None, *[given.get(i) for i in range(len(ctx.needs_input_grad) - 2)])


class _Slopes(torch.autograd.Function):
    """The backward pass of a block, of whose graph nothing is kept either."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, wanted: tuple[int, ...], known: tuple[int, ...], *moving: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The gradients in the `wanted` of (inputs, parameters), from those in the `known` outputs."""
        slopes = moving[len(moving) - len(known) :]
        inputs = moving[: len(moving) - len(known) - len(call.parameters)]
        ctx.call, ctx.wanted, ctx.known = call, wanted, known
        ctx.save_for_backward(*inputs, *slopes)
        ctx.set_materialize_grads(False)
        with _graph_of_its_own():
            _, found = _pulled(call, wanted, known, inputs, slopes)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Any, ...]:
        """See torch."""
        call, needed = ctx.call, ctx.needs_input_grad[3:]
        inputs = ctx.saved_tensors[: len(ctx.saved_tensors) - len(ctx.known)]
        slopes = [slope.detach().requires_grad_() for slope in ctx.saved_tensors[len(inputs) :]]
        with _graph_of_its_own():
            moved, found = _pulled(call, ctx.wanted, ctx.known, inputs, slopes, create_graph=True)
            pairs = [(g, v) for g, v in zip(found, directions, strict=True) if g is not None and v is not None]
            pairs = [(g, v) for g, v in pairs if g.requires_grad]
            ends = [end for end, need in zip([*moved, *slopes], needed, strict=True) if need]
            given = iter(_slopes([g for g, _ in pairs], ends, [v for _, v in pairs]))
        return (None, None, None, *[next(given) if need else None for need in needed])


def _pulled(
    call: _Call,
    wanted: Sequence[int],
    known: Sequence[int],
    inputs: Sequence[Tensor],
    slopes: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> tuple[list[Tensor], list[Tensor | None]]:
    """((inputs, parameters) of a block computed again, gradients in the `wanted` of them)."""
    moved, outputs = call.again(inputs)
    ends = [(outputs[i], slope) for i, slope in zip(known, slopes, strict=True) if outputs[i].requires_grad]
    chosen = [moved[i] for i in wanted]
    return moved, _slopes([o for o, _ in ends], chosen, [s for _, s in ends], create_graph=create_graph)


def _slopes(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], slopes: Sequence[Tensor], *, create_graph: bool = False
) -> list[Tensor | None]:
    if not (outputs and inputs):
        return [None] * len(inputs)
    return list(torch.autograd.grad(outputs, inputs, slopes, create_graph=create_graph, allow_unused=True))


# -- whether a block may be computed again ----------------------------------------------------------------------------


def _looked_at(block: Block, call: _Call, model: nn.Module) -> Any:
    """What the block returns, as the beginning of a graph. Raises InputError where it is not to be computed again."""
    inputs = call.inputs
    versions = [tensor._version for tensor in inputs]
    with torch.no_grad():
        call.outputs([tensor.detach() for tensor in inputs])
    if [tensor._version for tensor in inputs] != versions:
        raise InputError(_refusal(block, "it writes to what it is given (inplace=True?)"))
    try:
        tree = call.outputs([tensor.detach().requires_grad_() for tensor in inputs])
        moved, outputs = call.again(inputs)
    except Exception as error:  # a cache that a first call has filled, say
        raise InputError(_refusal(block, f"it raises when it is computed again: {raised_by(error)}")) from error
    first = list(tensors_in(tree))
    if len(outputs) != len(first) or not all(map(equal, outputs, first)):
        raise InputError(_refusal(block, "it answers otherwise when it is computed again"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    known = {id(tensor) for tensor in moved}
    for leaf in _leaves(outputs):
        if id(leaf) not in known:
            what = f"parameter {names[id(leaf)]!r}" if id(leaf) in names else f"a tensor of shape {tuple(leaf.shape)}"
            raise InputError(_refusal(block, f"it takes {what}, which is neither given to it nor its own"))
    for name, parameter in model.named_parameters():
        if id(parameter) in known and parameter._backward_hooks:
            raise InputError(_refusal(block, f"parameter {name!r} has a hook, which would see its gradient twice"))
    varies = iter([tensor.requires_grad for tensor in outputs])
    return map_tensors(tree, lambda tensor: tensor.detach().requires_grad_(next(varies)))


def _leaves(outputs: Sequence[Tensor]) -> Iterator[Tensor]:
    """The tensors at which the graph of `outputs` ends."""
    left = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(left)
    while left:
        node = left.pop()
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            yield variable
        following = {other for other, _ in node.next_functions if other is not None} - seen
        seen |= following
        left.extend(following)


def _refusal(block: Block, why: str) -> str:
    return (
        f"recompute: block {block.name!r} cannot be computed again: {why}. A cache of keys and values is left out by "
        "use_cache=False in forward=. Otherwise name other modules, or leave recompute out"
    )
