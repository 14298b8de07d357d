"""Networks small enough for a dense Hessian, and the dense matrices themselves, by plain torch in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.curvature.operator import CurvatureOperator
from landscape.objective.objective import Objective

Array = np.ndarray


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 3, seed: int = 0) -> Tensor:
    """Random class numbers."""
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


class Mixed(nn.Module):
    """Convolution, BatchNorm, LayerNorm, GELU, attention and an embedding in one: 633 parameters."""

    def __init__(self, width: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width)
        self.embed = nn.Embedding(11, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        x = F.gelu(self.bn(self.conv(images))).flatten(2).transpose(1, 2)
        x = torch.cat([x, self.embed(tokens)], 1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class ReluNet(nn.Module):
    """Convolution, BatchNorm, ReLU, max-pool and a linear layer: piecewise linear in every parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(F.relu(self.bn(self.conv(x))), 2).flatten(1))


class SmoothNet(nn.Module):
    """Convolution, GroupNorm, GELU, LayerNorm and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group = nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(2, 6)
        self.up, self.norm, self.head = nn.Linear(24, 12), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.gelu(self.group(self.conv(x))), 2).flatten(1)
        return self.head(F.gelu(self.norm(self.up(x))))


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode and float64, with parameters and BatchNorm statistics that are not the trivial ones."""
    model = model.double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            scale = 0.25 if parameter.ndim < 2 else 0.8 / parameter[0].numel() ** 0.5
            start = 1.0 if parameter.ndim == 1 and i and "norm" in _owner(model, parameter) else 0.0
            parameter.copy_(start + scale * seeded(*parameter.shape, seed=1000 * seed + i))
        for i, (name, buffer) in enumerate(model.named_buffers()):
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * seeded(*buffer.shape, seed=1000 * seed + 500 + i))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + seeded(*buffer.shape, seed=1000 * seed + 500 + i).abs())
    return model


def _owner(model: nn.Module, parameter: Tensor) -> str:
    return next(
        f"{name} {type(m).__name__}".lower()
        for name, m in model.named_modules()
        for p in m.parameters(recurse=False)
        if p is parameter
    )


Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """A model, its data as batches, and how a batch becomes outputs and targets."""

    model: nn.Module
    batches: Sequence[Any]
    forward: Forward
    loss: str = "cross_entropy"
    whole: Any = None  # the data as the Objective takes them; the batches themselves by default
    at_once: int = 1  # rows of the dense Hessian that vmap can make together; its group_norm cannot

    def objective(self, **options: Any) -> Objective:
        """The objective of the case."""
        if self.whole is not None:
            return Objective(self.model, self.loss, self.whole, **options)
        return Objective(self.model, self.loss, self.batches, forward=self.forward, **options)


def ragged() -> Case:
    """`Mixed` on batches of 5, 5, 5 and 3 samples, whose texts have another length in each batch."""
    sizes, lengths = (5, 5, 5, 3), (5, 3, 7, 4)
    batches = [
        (seeded(n, 2, 3, 3, seed=i), labels(n, length, classes=11, seed=i), labels(n, classes=5, seed=50 + i))
        for i, (n, length) in enumerate(zip(sizes, lengths, strict=True))
    ]
    case = Case(settled(Mixed()), batches, lambda model, batch: (model(*batch[:2]), batch[2]), at_once=64)
    return fitted(case, steps=25)


def relu(samples: int = 20, seed: int = 3) -> Case:
    """`ReluNet` on random images."""
    x, y = seeded(samples, 2, 4, 4, seed=seed), labels(samples, classes=4, seed=seed)
    return Case(settled(ReluNet()), [(x, y)], lambda model, batch: (model(batch[0]), batch[1]), whole=(x, y))


def smooth(samples: int = 20) -> Case:
    """`SmoothNet` on random images: layers with known per-sample gradients, and not piecewise linear."""
    x, y = seeded(samples, 2, 4, 4, seed=5), labels(samples, classes=4, seed=5)
    case = Case(settled(SmoothNet()), [(x, y)], lambda model, batch: (model(batch[0]), batch[1]), whole=(x, y))
    return fitted(case, steps=15)


def fitted(case: Case, steps: int) -> Case:
    """The same case after some steps of Adam: the largest eigenvalues stand out, as they do in trained networks."""
    parameters = trainable(case.model)
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        mean_loss(case).backward()
        optimiser.step()
    for parameter in parameters:
        parameter.grad = None
    return case


def mean_loss(case: Case) -> Tensor:
    """The loss over all samples."""
    pairs = [case.forward(case.model, batch) for batch in case.batches]
    return sum(_LOSSES[case.loss](*pair) for pair in pairs) / sum(len(o) for o, _ in pairs)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": functools.partial(F.cross_entropy, reduction="sum"),
    "mse": lambda o, t: F.mse_loss(o, t, reduction="sum") / o[0].numel(),
}


def trainable(model: nn.Module) -> list[Tensor]:
    """Parameters that vary, in order."""
    return [p for p in model.parameters() if p.requires_grad]


def flat(parts: Sequence[Tensor]) -> Tensor:
    """The parts as one vector."""
    return torch.cat([part.reshape(-1) for part in parts])


def tanh_net() -> nn.Module:
    """43 parameters, 4 inputs, 3 classes."""
    return settled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))


def entries(operator: CurvatureOperator, step: int = 1) -> Array:
    """Every `step`-th row of an operator's matrix."""
    rows = torch.eye(operator.size, dtype=operator.dtype)[::step]
    return torch.cat([operator.apply(part) for part in rows.split(64)]).double().numpy()


def matrix_of(objective: Objective, **options: Any) -> Array:
    """The matrix of an objective's products."""
    with CurvatureOperator(objective, **options) as operator:
        return entries(operator)


def close(found: Array, true: Array, rtol: float = 1e-12) -> None:
    """Assert that both are equal to rounding of the largest entry."""
    np.testing.assert_allclose(found, true, rtol=0, atol=rtol * np.abs(true).max())


def rows_of(values: Tensor, parameters: Sequence[Tensor], at_once: int = 1) -> Tensor:
    """(n, size) derivatives of n values, `at_once` of them in one backward pass under vmap."""
    found = []
    for units in torch.eye(len(values), dtype=values.dtype).split(at_once):
        parts = torch.autograd.grad(
            values,
            parameters,
            units if at_once > 1 else units[0],
            retain_graph=True,
            is_grads_batched=at_once > 1,
            allow_unused=True,
        )
        zeros = [units.new_zeros(len(units), p.numel()) for p in parameters]
        found.append(torch.cat([z if g is None else g.reshape(z.shape) for g, z in zip(parts, zeros, strict=True)], 1))
    return torch.cat(found)


def dense_hessian(case: Case) -> Array:
    """Second derivatives of the mean loss over all samples."""
    parameters = trainable(case.model)
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(mean_loss(case), parameters, create_graph=True, allow_unused=True)
        gradient = flat([torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)])
        return rows_of(gradient, parameters, case.at_once).numpy()


def hessian_on(model: nn.Module, x: Tensor, y: Tensor) -> Array:
    """Second derivatives of the mean cross entropy of model(x)."""
    return dense_hessian(Case(model, [(x, y)], lambda m, batch: (m(batch[0]), batch[1])))


def dense_ggn(case: Case) -> Array:
    """J'H_L J of the mean loss over all samples, from the Jacobian of the outputs."""
    parameters = trainable(case.model)
    size = sum(p.numel() for p in parameters)
    total, samples = torch.zeros(size, size, dtype=torch.float64), 0
    for batch in case.batches:
        with sdpa_kernel(SDPBackend.MATH):
            outputs, _ = case.forward(case.model, batch)
            jacobian = rows_of(outputs.reshape(-1), parameters).view(*outputs.shape, -1)
        if case.loss == "mse":
            bend = 2 * torch.eye(outputs.shape[1], dtype=torch.float64).expand(len(outputs), -1, -1) / outputs.shape[1]
        else:
            p = outputs.detach().softmax(1)
            bend = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        total += torch.einsum("bip,bij,bjq->pq", jacobian, bend, jacobian)
        samples += len(outputs)
    return (total / samples).numpy()


CASES: dict[str, Callable[[], Case]] = {"mixed": ragged, "relu": relu, "smooth": smooth}


@functools.cache
def case(name: str) -> Case:
    """One of the cases, made once."""
    return CASES[name]()


@functools.cache
def dense(name: str, operator: str = "hessian") -> Array:
    """Its dense matrix, made once."""
    return dense_hessian(case(name)) if operator == "hessian" else dense_ggn(case(name))
