"""Squares of per-sample gradients of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from landscape.errors import InputError, nearest
from landscape.network import recurrent
from landscape.network.piecewise import graph_nodes
from landscape.network.rules.convolution import Convolution, TransposedConvolution
from landscape.network.rules.embedding import Embedding, cross
from landscape.network.rules.folded import NORM, FoldedConvolution
from landscape.network.rules.layer import Call, Factors, Layer
from landscape.network.rules.normalisation import Normalisation
from landscape.network.rules.product import Linear, Product, Transposed

_HELD_BYTES = {"cpu": 512 << 20, "cuda": 8 << 30}  # gradients held until they are used together

_RULES: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), Convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), TransposedConvolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), Normalisation),
    **dict.fromkeys((nn.GroupNorm, nn.LayerNorm, nn.RMSNorm), Normalisation),
    nn.Embedding: Embedding,
}


def _rule(module: nn.Module) -> type[Layer] | None:
    """The rule of a module whose forward pass is that of a known type."""
    own = {"forward", "_conv_forward", "__call__"}
    if own & set(vars(module)):
        return None
    for kind in type(module).__mro__:
        if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."):
            return Transposed
        if kind in _RULES or own & set(vars(kind)):
            return _RULES.get(kind)
    return None


class GradientSquares:
    """sum_s |gradient in p of <seed_s(i), outputs(i)>|^2 of every sample i and named parameter tensor p.

    With seeds that factor the Hessian of the loss in the outputs, sum_s seed_s seed_s' = H_L(i), the mean over samples
    is the trace of p's block of the Gauss-Newton matrix. One forward pass keeps the inputs of the layers; each seed is
    one backward pass to their outputs, and norms come from the two by the rule of each layer, without the gradients of
    single samples (Goodfellow 2015, "Efficient per-example gradient computations"; Rochette et al. 2019 for
    convolutions).

        squares = GradientSquares(model, names)
        with squares.recording():
            outputs = model(inputs)                        # (B, ...), samples first in every layer
        squares.of(outputs, softmax_seeds(outputs))        # (B, len(names))

    `entries` has the squares of single entries, summed over the samples: the diagonal of the same matrix.
    Raises InputError for a name that is no trainable parameter.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], *, pairs: Sequence[tuple[str, str]] = ()) -> None:
        """`pairs` (a convolution, the BatchNorm that alone reads it) fold; then `sums_and_squares` alone holds."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name in names:
            if name not in parameters:
                raise InputError(f"no trainable parameter is called {name!r}; {nearest(name, parameters)}")
        self.names = tuple(names)
        self._shapes = [parameters[name].shape for name in names]
        self._tensors = [parameters[name] for name in names]
        self._parameters = {id(parameters[name]): name for name in names}
        self._layers: list[Layer] = []
        self._samples_seen_apart = False
        self._samples: int | None = None
        self._reasons: dict[str, None] = {}
        self._elsewhere: dict[str, None] = {}  # reasons that hold but for `sums_and_squares`
        uses: dict[str, list[str]] = {}
        self._recurrent: list[tuple[Any, dict[str, Layer]]] = []
        self._tied: dict[int, list[Layer]] = {}  # number of a name -> the layers that share it
        for path, module in model.named_modules():
            if isinstance(module, nn.RNNBase) and type(module) in (nn.RNN, nn.GRU, nn.LSTM):
                self._add_recurrent(path, module, uses)
                continue
            kind = _rule(module)
            layer = kind(path or type(module).__name__, module) if kind else None
            for local, parameter in module._parameters.items():
                if id(parameter) not in self._parameters:
                    continue
                name = self._parameters[id(parameter)]
                uses.setdefault(name, []).append(f"{path}.{local}")
                self._refuse(f"{name} is complex" if parameter is not None and parameter.is_complex() else "")
                if layer is None or local not in layer.parameters:
                    self._refuse(f"{name} belongs to a {type(module).__name__}, which has no rule for it")
                else:
                    layer.columns[local] = self.names.index(name)
            if layer and layer.columns:
                self._layers.append(layer)
                self._refuse(layer.refusal(), layer)
        for name, paths in uses.items():
            if len(paths) > 1:
                number = self.names.index(name)
                self._tied[number] = [layer for layer in self._layers if number in layer.columns.values()]
                for layer in self._tied[number]:
                    layer.tied = True
                reason = f"{' and '.join(paths)} are tied"
                kinds = sorted(type(layer).__name__ for layer in self._tied[number])
                if kinds == ["Embedding", "Linear"]:
                    self._elsewhere[reason] = None
                else:
                    self._refuse(reason)
        self._folded: list[FoldedConvolution] = []
        for pair in pairs:
            self._fold(*map(model.get_submodule, pair))

    def _fold(self, module: nn.Module, norm: nn.Module) -> None:
        """Put both in the place of the first, where its gradients are asked for and nobody shares them."""
        layers = {id(layer.module): layer for layer in self._layers}
        first, second = layers.get(id(module)), layers.get(id(norm))
        if type(first) is not Convolution or first.tied or (second and second.tied):
            return
        folded = FoldedConvolution(first.title, module, norm)
        of_norm = second.columns if second else {}
        folded.columns = first.columns | {NORM + local: number for local, number in of_norm.items()}
        self._layers[self._layers.index(first)] = folded
        self._folded.append(folded)

    def _add_recurrent(self, path: str, module: Any, uses: dict[str, list[str]]) -> None:
        """A recurrent layer as the linear ones that it is made of, a product of its inputs or of its states each."""
        parts: dict[str, Layer] = {}
        for product in recurrent.products_of(module):
            names = {kind: f"{kind}_{product}" for kind in ("weight", "bias")}
            tensors = {kind: getattr(module, name, None) for kind, name in names.items()}
            layer = Linear(f"{path}.{product}", SimpleNamespace(**tensors))
            for kind, tensor in tensors.items():
                if tensor is not None and id(tensor) in self._parameters:
                    name = self._parameters[id(tensor)]
                    uses.setdefault(name, []).append(f"{path}.{names[kind]}")
                    layer.columns[kind] = self.names.index(name)
            parts[product] = layer
        if any(layer.columns for layer in parts.values()):
            self._recurrent.append((module, parts))
            self._layers += parts.values()
            first = next(self.names[k] for layer in parts.values() for k in layer.columns.values())
            self._elsewhere[f"{first} belongs to a {type(module).__name__}, which has no rule for it"] = None
            self._refuse(f"{path}: {why}" if (why := recurrent.refusal(module)) else "")

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Reasons known so far, from the modules and from what was recorded; with any, `of` raises InputError."""
        return (*self._elsewhere, *self._reasons)

    def _refuse(self, reason: str, layer: Layer | None = None) -> None:
        if reason:
            self._reasons[f"{layer.title}: {reason}" if layer else reason] = None

    @contextmanager
    def recording(self, samples: int | None = None) -> Iterator[None]:
        """Keep the layers' inputs of the forward pass inside, in place of those kept before.

        With `samples` an Embedding of the positions that all samples share, (1, L), is one of each sample.
        """
        self._samples = samples
        with ExitStack() as stack:
            for layer in self._layers:
                layer.calls.clear()
                # Before hooks of the user's, which may return another output.
                record = partial(self._record, layer)
                if isinstance(layer.module, nn.Module):
                    stack.callback(layer.module.register_forward_hook(record, prepend=True, with_kwargs=True).remove)
            for folded in self._folded:
                for one, forward in folded.forwards().items():
                    one.forward = forward
                    stack.callback(vars(one).pop, "forward")
            for module, parts in self._recurrent:
                if recurrent.refusal(module):  # its own forward pass is another
                    continue
                module.forward = partial(recurrent.unrolled, module, partial(self._record_product, parts))
                stack.callback(vars(module).pop, "forward")
            stack.enter_context(torch.enable_grad())
            yield

    def _record(self, layer: Layer, _module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        inputs: Tensor = args[0] if args else kwargs["input"]
        if any(folded.folds and folded.norm is layer.module for folded in self._folded):
            return output
        if self._samples is not None and isinstance(layer, Embedding) and inputs.ndim == 2 and len(inputs) == 1:
            inputs, output = inputs.expand(self._samples, -1), output.expand(self._samples, -1, -1).clone()
        self._refuse(layer.refusal(inputs), layer)
        if not output.requires_grad:
            self._refuse("it runs without derivatives (no_grad, reentrant checkpoints)", layer)
            return output
        if output._is_view():
            # Writing to a view replaces its place in the graph; the memory stays, as nobody else knows the whole.
            output = torch.ops.aten._unsafe_view(output, output.shape)
        before = get_gradient_edge(inputs).node if inputs.requires_grad else None
        edge = get_gradient_edge(output)
        layer.calls.append(Call(inputs.detach(), inputs._version, before, edge, output.shape))
        return output

    def _record_product(self, parts: Mapping[str, Layer], name: str, inputs: Tensor, output: Tensor) -> Tensor:
        layer = parts[name]
        return self._record(layer, layer.module, (inputs,), {}, output) if output.requires_grad else output

    def of(self, outputs: Tensor, seeds: Tensor) -> Tensor:
        """(B, len(names)) in float64, from the recorded outputs (B, ...) and seeds (S, B, ...).

        Raises InputError when `unsupported` names any reason.
        """
        self._check(outputs)
        total = torch.zeros((len(outputs), len(self.names)), dtype=torch.float64, device=outputs.device)
        layers = [layer for layer in self._layers if layer.calls]
        values = sum(call.shape.numel() for layer in layers for call in layer.calls if isinstance(layer, Product))
        slots = max(1, min(len(seeds), _HELD_BYTES[outputs.device.type] // (outputs.element_size() * max(1, values))))

        def add(layer: Layer, squares: Mapping[str, Tensor]) -> None:
            for local, values in squares.items():
                total[:, layer.columns[local]] += values

        with torch.no_grad():
            for layer in layers:
                layer.prepare()
            for group in seeds.split(slots) if layers and len(seeds) else ():  # type: ignore[no-untyped-call]
                for slot, seed in enumerate(group):
                    for layer, gradients in self._gradients(outputs, seed):
                        add(layer, layer.squares(gradients, slot, slots))
                for layer in layers:
                    add(layer, layer.held_squares(len(group)))
        return total

    def sums_and_squares(self, values: Tensor, samples: int) -> tuple[list[Tensor], Tensor]:
        """(sum_i g_i for each name in its shape, |g_i|^2 (samples, len(names)) in float64), g_i that of sample i.

        `values` (n,) are losses made of what was recorded, of n/samples parts of each sample in their order, and g_i is
        the gradient of sample i's sum. One backward pass, which frees the graph. Raises InputError as `of` does.
        """
        self._check(values, samples, but=self._elsewhere)
        total = torch.zeros((samples, len(self.names)), dtype=torch.float64, device=values.device)
        sums: list[Tensor | None] = [None] * len(self.names)
        layers = [layer for layer in self._layers if layer.calls]
        with torch.no_grad():
            for layer in layers:
                layer.prepare()
            made = {layer.columns[local] for layer in layers for local in layer.summed()} - set(self._tied)
            left = [k for k in range(len(self.names)) if k not in made]
            edges: list[Any] = [call.edge for layer in layers for call in layer.calls]
            roots = [*edges, *(self._tensors[k] for k in left)]
            with torch.enable_grad():
                total_loss = values.sum()
            found = torch.autograd.grad(total_loss, roots, allow_unused=True)
            for k, gradient in zip(left, found[len(edges) :], strict=True):
                sums[k] = None if gradient is None else gradient.to_dense()
            kept: dict[int, list[Tensor]] = {}
            for layer, gradients in self._filled(found[: len(edges)], values):
                own, squares = layer.sums_and_squares(gradients)
                if layer.tied:
                    kept[id(layer)] = gradients
                for local, one in own.items():
                    if layer.columns[local] in made:
                        sums[layer.columns[local]] = one
                for local, one in squares.items():
                    total[:, layer.columns[local]] += one
            for number, pair in self._tied.items():
                if all(layer.calls for layer in pair):
                    total[:, number] += 2 * cross(pair, [kept[id(layer)] for layer in pair])
        zeros = zip(sums, self._tensors, strict=True)
        return [torch.zeros_like(p) if one is None else one for one, p in zeros], total

    def rows(self, values: Tensor, size: int) -> Iterator[tuple[int, slice, Tensor]]:
        """(number of the name, which of its entries, their gradients (entries, B)) of losses `values` (B,), in blocks.

        A block has about `size` numbers, and a row of a matrix at least. Where no rule gives the gradients of single
        samples they are taken one sample after another, a backward pass each, and a block is a whole tensor at least.
        """
        left = set(range(len(self.names)))
        if self._holds(values):
            for layer in self._layers:
                if layer.calls:
                    layer.prepare()
            for layer, gradients in self._gradients(values, torch.ones_like(values)):
                for local, part, found in layer.rows(gradients, size):
                    left.discard(layer.columns[local])
                    yield layer.columns[local], part, found
        groups: list[list[int]] = [[]]
        for k in sorted(left):
            if groups[-1] and sum(self._tensors[j].numel() for j in (*groups[-1], k)) * len(values) > size:
                groups.append([])
            groups[-1].append(k)
        for group in groups:
            tensors = [self._tensors[k] for k in group]
            rows = [one.new_empty(one.numel(), len(values)) for one in tensors]
            for i, value in enumerate(values if group else ()):
                found_one = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
                for row, one in zip(rows, found_one, strict=True):
                    row[:, i] = 0.0 if one is None else one.to_dense().flatten()
            for k, row in zip(group, rows, strict=True):
                yield k, slice(0, len(row)), row

    def _holds(self, values: Tensor) -> bool:
        try:
            self._check(values)
        except InputError:
            return False
        return True

    def entries(self, outputs: Tensor, seeds: Tensor) -> list[Tensor]:
        """sum_i sum_s (gradient in p of <seed_s(i), outputs(i)>)^2 entry by entry, for each name in the shape of p.

        In float64, from the recorded outputs (B, ...) and seeds (S, B, ...). Raises InputError as `of` does.
        """
        self._check(outputs)
        total = [torch.zeros(shape, dtype=torch.float64, device=outputs.device) for shape in self._shapes]
        layers = [layer for layer in self._layers if layer.calls]
        with torch.no_grad():
            for layer in layers:
                layer.prepare()
            for seed in seeds if layers else ():
                for layer, gradients in self._gradients(outputs, seed):
                    for local, squares in layer.entries(gradients).items():
                        total[layer.columns[local]] += squares
        return total

    def factors(self, outputs: Tensor, seeds: Tensor, places: str) -> dict[str, Factors]:
        """{name: the factors of the weight's gradients}, from the recorded outputs (B, ...) and seeds (S, B, ...).

        The gradient of <seed_s(i), outputs(i)> in a weight (M, K) is sum_l g_sil a_il', a_il the layer's input (of a
        convolution the K values under its kernel) at place l and g_sil the gradient in its output there. With one place
        the factors are sum_is g_si g_si' and sum_i a_i a_i'. Of L places "reduce" takes g_si = sum_l g_sil and a_i =
        mean_l a_il, exact where all a_il are alike; "expand" takes sum_isl g_sil g_sil' / L and sum_il a_il a_il', as
        if places did not meet (KFAC-reduce and -expand, Eschenhagen et al. 2023, arXiv 2311.00636; the latter is KFC of
        Grosse & Martens 2016, arXiv 1602.01407). Raises InputError as `of` does, and where `factor_reasons` has any.
        """
        if reasons := self.factor_reasons:
            raise InputError(f"weights without factors: {'; '.join(reasons)}")
        self._check(outputs)
        layers = [layer for layer in self._layers if layer.calls and isinstance(layer, Product)]
        with torch.no_grad():
            inputs = {id(layer): layer.input_factor(places) for layer in layers}
            total = {id(layer): layer.output_zeros() for layer in layers}
            for seed in seeds if layers else ():
                for layer, gradients in self._gradients(outputs, seed):
                    assert isinstance(layer, Product)
                    total[id(layer)] += layer.output_factor(gradients, places)
        return {self.names[layer.columns["weight"]]: Factors(total[id(layer)], *inputs[id(layer)]) for layer in layers}

    @property
    def factor_reasons(self) -> tuple[str, ...]:
        """Why `factors` cannot be had of these names, as far as the modules tell."""
        found = dict.fromkeys(
            f"{layer.title}: {reason}" for layer in self._layers if (reason := layer.factor_refusal())
        )
        known = {number for layer in self._layers for local, number in layer.columns.items() if local == "weight"}
        return (*found, *(f"{name} is no weight of a layer" for k, name in enumerate(self.names) if k not in known))

    def _gradients(self, outputs: Tensor, seed: Tensor) -> Iterator[tuple[Layer, list[Tensor]]]:
        """(layer, gradients of <seed, outputs> in the outputs of its calls) of every layer that was called."""
        edges = [call.edge for layer in self._layers for call in layer.calls]
        with torch.enable_grad():  # a scalar: for gradients of outputs torch loads half a thousand modules
            product = (seed.to(outputs) * outputs).sum()
        found = torch.autograd.grad(product, edges, retain_graph=True, allow_unused=True)
        yield from self._filled(found, outputs)

    def _filled(self, found: Sequence[Tensor | None], like: Tensor) -> Iterator[tuple[Layer, list[Tensor]]]:
        """(layer, gradients of its calls) of every layer that was called, zeros where a call does not matter."""
        calls = [call for layer in self._layers for call in layer.calls]
        filled = iter([like.new_zeros(c.shape) if g is None else g for c, g in zip(calls, found, strict=True)])
        for layer in self._layers:
            if layer.calls:
                yield layer, [next(filled) for _ in layer.calls]

    def _check(self, outputs: Tensor, samples: int | None = None, but: Mapping[str, None] | None = None) -> None:
        """Raise InputError unless every rule holds for what was recorded, of so many samples (the outputs).

        Reasons `but` do not count.
        """
        samples = len(outputs) if samples is None else samples
        calls = [(layer, call) for layer in self._layers for call in layer.calls]
        for node in graph_nodes([outputs], {call.edge.node: [call.before] for _, call in calls}):
            leaf = self._parameters.get(id(getattr(node, "variable", None)))
            self._refuse(f"{leaf} is used outside the module it belongs to" if leaf else "")
        for layer, call in calls:
            if call.inputs._version != call.version:
                self._refuse("its input is written to after it has run", layer)
            if not call.inputs.ndim or not len(call.inputs) == call.shape[0] == samples:
                shape = tuple(call.inputs.shape)
                self._refuse(f"the first axis of its input {shape} does not run over {samples} samples", layer)
        if calls and not self._reasons and not self._samples_seen_apart and samples > 1:
            half = samples // 2
            seed = torch.ones_like(outputs)
            seed[half * len(outputs) // samples :] = 0
            for layer, gradients in self._gradients(outputs, seed):
                if any(bool((gradient[half:].abs() > 0).any()) for gradient in gradients):
                    self._refuse("samples meet behind it, or are not the first axis of its input", layer)
            self._samples_seen_apart = True
        if reasons := [reason for reason in self.unsupported if reason not in (but or ())]:
            raise InputError(
                f"per-sample gradients cannot be had layer by layer: {'; '.join(reasons)}. Use a route that "
                "needs none (probes), or leave these parameters out"
            )
