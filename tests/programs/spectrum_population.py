"""A population of samples whose Hessians are all known, and curvature tasks on draws from it in place of networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from spectrum_nets import flat, seeded, settled
from torch import Tensor, nn

from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import ChunkProducts, chunk_for
from landscape.curvature.sampling import Sample
from landscape.run.comm import SERIAL
from landscape.run.task import Rows, Task
from landscape.studies.spectrum.eigen import EigenTask

Array = np.ndarray


@dataclass(frozen=True)
class Population:
    """Hessians of the loss of every sample at one theta, and how the objective would draw them by importance."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    hessians: Array  # (P, n, n)
    importance: Array  # (P,), 0.8 of 1 - sum_c p_c^2 normalised, and 0.2 uniform

    @property
    def mean(self) -> Array:
        """The Hessian of the population's mean loss."""
        return self.hessians.mean(0)


def population(size: int = 4096, steps: int = 30) -> Population:
    """A fitted tanh network of 43 parameters on noisy labels; its three largest eigenvalues lie apart."""
    x = seeded(size, 4) * torch.tensor([2.5, 1.5, 1.0, 0.6], dtype=torch.float64)
    model = settled(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    with torch.no_grad():
        noise = -torch.log(-torch.log(torch.rand(size, 3, generator=torch.Generator().manual_seed(1)).double()))
        y = (2 * model(x) + noise).argmax(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.zero_grad()
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    theta = flat(list(model.parameters())).detach()

    def loss(at: Tensor, one: Tensor, label: Tensor) -> Tensor:
        parts = torch.split(at, [shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, values, (one[None],)), label[None])

    second = torch.vmap(torch.func.hessian(loss), (None, 0, 0))
    hessians = torch.cat([second(theta, x[i : i + 512], y[i : i + 512]) for i in range(0, size, 512)])
    with torch.no_grad():
        flatness = 1 - model(x).softmax(1).square().sum(1)
    q = 0.8 * flatness / flatness.sum() + 0.2 / size
    return Population(model, x, y, hessians.numpy(), q.numpy())


class Dense:
    """A curvature operator from the Hessians of chunks, in place of a network's."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, chunks: Array, denominators: Array) -> None:
        self._chunks, self._denominators = chunks, denominators
        self.size, self.chunks = chunks.shape[1], len(chunks)
        self.products = self.passes = 0
        self.keeps_graphs = True

    def __enter__(self) -> Dense:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def apply(self, vectors: Tensor) -> Tensor:
        self.products, self.passes = self.products + len(vectors), self.passes + 1
        return torch.from_numpy(vectors.numpy() @ self._chunks.sum(0) / self._denominators.sum())

    def by_chunk(self, vectors: Tensor, others: Tensor | None = None) -> ChunkProducts:
        images = vectors.numpy() @ self._chunks  # (C, b, n)
        weighted = np.tensordot(self._denominators, images, 1) / self._denominators.sum()
        return ChunkProducts(
            self.apply(vectors),
            images @ (vectors if others is None else torch.cat([vectors, others])).numpy().T,
            (images**2).sum(2),
            torch.from_numpy(weighted),
            self._denominators.copy(),
            0.0,
        )


class DenseMatrix:
    """What tasks ask of `landscape.curvature.matrix.Matrix`, of samples given by their Hessians."""

    weight_decay = 0.0
    params = None
    check = ProductCheck("double backward", 0.0, 0.0, 0.0, 0.0, {})

    def __init__(self, hessians: Array, weights: Array | None = None) -> None:
        n = len(hessians)
        size = chunk_for(n)
        weighted = hessians if weights is None else hessians * weights[:, None, None] * n
        cuts = range(0, n, size)
        self._chunks = np.stack([weighted[i : i + size].sum(0) for i in cuts])
        self._denominators = np.array([len(weighted[i : i + size]) for i in cuts], np.float64)
        self.size = hessians.shape[1]
        self.sizes, self.names = {"all": self.size}, ("all",)
        self.theta = torch.zeros(self.size, dtype=torch.float64)
        objective = SimpleNamespace(
            dtype=torch.float64,
            precision="float64",
            chunk=size,
            samples=n,
            data=SimpleNamespace(divisible=True),
            chunks=len(cuts),
        )
        objective.on = lambda data, chunk: objective
        self.sample = Sample(objective, None, None)  # type: ignore[arg-type]

    def bind(self, group: Any, params: Any = None, sample: Any = None) -> Dense:
        """The operator, of another sample if one is given."""
        matrix = self if sample is None else sample.objective
        return Dense(matrix._chunks, matrix._denominators)

    def identity(self) -> dict[str, Any]:
        return {}

    def about(self) -> dict[str, Any]:
        return {}


def finished(task: Task) -> Rows:
    """All rows of a task, round after round, on one rank."""
    description = task.describe()
    found: list[Any] = []
    rows = Rows({}, np.zeros(0, bool))
    while True:
        count = task.extend(rows) if found else task.count
        if count <= len(found):
            return rows
        found += [task.evaluate(i, SERIAL) for i in range(len(found), count)]
        columns = {name: np.stack([np.asarray(row[name], np.float64) for row in found]) for name in description.columns}
        rows = Rows(columns, np.ones(len(found), bool))


def draws(people: Population, samples: int, sampling: str, runs: int) -> Iterator[tuple[DenseMatrix, DenseMatrix]]:
    """(the matrix of a sample, of another) for each run, as `landscape.curvature.sampling.draw` makes them."""
    generator = np.random.default_rng(7)
    size = len(people.hessians)
    for _ in range(runs):
        if sampling == "uniform":
            order = generator.permutation(size)
            rows = order[:samples], order[samples : 2 * samples]
            yield DenseMatrix(people.hessians[rows[0]]), DenseMatrix(people.hessians[rows[1]])
        else:
            pair = [generator.choice(size, samples, p=people.importance) for _ in range(2)]
            one, two = (DenseMatrix(people.hessians[i], 1 / (samples * people.importance[i] * size)) for i in pair)
            yield one, two


def eigen_task(matrix: DenseMatrix, k: int, independent: DenseMatrix | None = None, **options: Any) -> EigenTask:
    """The task of the k largest eigenpairs of a matrix."""
    settings = {"smallest": 0, "tol": 1e-6, "block": None, "start": None, "seed": 0, "max_products": None} | options
    other = None if independent is None else Sample(independent, None, None)  # type: ignore[arg-type]
    return EigenTask(matrix, k, independent=other, **settings)  # type: ignore[arg-type]
