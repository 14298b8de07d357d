"""Norms, margins and sums over paths: closed forms, a transcription of the formulas, and paths counted one by one."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landscape as ls
from landscape.studies.complexity.catalogue import SETS
from landscape.studies.complexity.subject import tenth

PATHS = ("path_norm", "path_norm_l1")
CHEAP = [name for name in SETS["jiang"] if not name.startswith("pacbayes")]


def linear(*weights: Any, bias: bool = False) -> nn.Sequential:
    """A ReLU network of these matrices."""
    layers: list[nn.Module] = []
    for rows in weights:
        weight = torch.as_tensor(rows, dtype=torch.float64)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias).double()
        layer.weight.data = weight
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def objective(model: nn.Module, *shape: int, classes: int = 2, count: int = 40, **options: Any) -> ls.Objective:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return ls.Objective(model.double(), data=(inputs, torch.arange(count) % classes), **options)


def values(of: ls.Objective, *names: str, **options: Any) -> list[float]:
    found = ls.measure_complexity(of, measures=names, **options)
    return [float(found[name]) for name in names]


class Net(nn.Module):
    """A residual network with both kinds of pooling, and BatchNorm that can and that cannot be fused."""

    def __init__(self, pool: str = "avg") -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.norm2 = nn.Conv2d(3, 3, 2, bias=False), nn.BatchNorm2d(3)
        self.third, self.norm3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2, padding=1, count_include_pad=False)
        self.last = nn.Linear(3, 2)
        generator = torch.Generator().manual_seed(5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        for norm in (self.norm1, self.norm2, self.norm3):
            norm.running_mean = torch.randn(3, generator=generator)
            norm.running_var = torch.rand(3, generator=generator) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = self.norm2(F.relu(self.second(x)))  # behind ReLU: an affine layer of its own
        x = x + F.relu(self.norm3(self.third(x)))
        x = self.pool(x)
        return self.last(x.mean((2, 3)))


# -- closed forms ----------------------------------------------------------------------------------------------------


def test_path_norms_of_two_matrices() -> None:
    assert values(objective(linear([[1, 2], [3, 4]], [[1, -1], [0, 0]]), 2), *PATHS) == pytest.approx([30, 10])


def test_two_layers_with_known_norms() -> None:
    of = objective(linear(torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([3.0, 4.0]))), 2)
    found = values(
        of, "log_prod_of_spec", "fro_over_spec", "param_norm", "log_sum_of_spec", "log_prod_of_fro", "params"
    )
    expected = [2 * math.log(16), 3.125, 50, math.log(2) + math.log(16), 2 * math.log(25), 8]
    assert found == pytest.approx(expected, rel=1e-12)


def test_sizes_of_logarithms_are_those_of_what_they_are_of() -> None:
    of = objective(linear(torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([3.0, 4.0]))), 2)
    own = [
        ls.measure("size", lambda s: ls.Estimate(-50.0, stderr=5.0, n=2)),
        ls.measure("log_size", lambda s: ls.Estimate(math.log(0.5), stderr=0.1, n=2)),
        ls.measure("weights_log_norm", lambda s: -2.0),
    ]
    found = ls.measure_complexity(of, measures=["param_norm", "log_prod_of_fro", *own])
    sizes, errors = found.log10_sizes()
    np.testing.assert_allclose(10**sizes, [50, 625, 50, 0.5, 0.01], rtol=1e-12)
    np.testing.assert_allclose(errors, np.array([0, 0, 0.1, 0.1, math.nan]) / math.log(10), rtol=1e-12)


def test_margin_is_the_tenth_part_smallest() -> None:
    scores = torch.stack([torch.arange(1.0, 101), torch.zeros(100)], 1).double()
    of = ls.Objective(linear(torch.eye(2)), data=(scores, torch.zeros(100, dtype=torch.long)))
    assert values(of, "inverse_margin") == pytest.approx([0.01])
    found = ls.measure_complexity(of, measures="inverse_margin")["inverse_margin"]
    # three values either side of the tenth, half their distance: the error of gamma, and of 1 / gamma^2
    assert found.stderr == pytest.approx(2 * 3 / 10**3)


def test_error_of_the_margin_is_that_of_samples_drawn_again() -> None:
    generator = torch.Generator().manual_seed(0)
    found = [tenth(torch.randn(900, generator=generator)) for _ in range(300)]
    spread = float(np.std(found, ddof=1))
    told = math.sqrt(float(np.mean([one.stderr**2 for one in found])))
    assert told == pytest.approx(spread, rel=0.15)  # 3 standard errors of a spread over 300


def test_scaling_of_all_weights() -> None:
    c, k = 1.7, 3
    weights = [torch.randn(3, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(k)]
    names = ("path_norm", "path_norm_l1", "log_prod_of_spec", "inverse_margin", "log_prod_of_spec_over_margin")
    of, scaled = (objective(linear(*(f * w for w in weights)), 3, classes=3) for f in (1.0, c))
    before, after = values(of, *names), values(scaled, *names)
    assert after[0] / before[0] == pytest.approx(c ** (2 * k))
    assert after[1] / before[1] == pytest.approx(c**k)
    assert after[2] - before[2] == pytest.approx(2 * k * math.log(c))
    assert after[3] / before[3] == pytest.approx(c ** (-2 * k))
    assert after[4] == pytest.approx(before[4])


def test_weights_before_a_fused_batchnorm_may_have_any_size() -> None:
    def net(c: float) -> nn.Module:
        model = Net().double()
        model.first.weight.data *= c
        model.first.bias.data *= c
        model.norm1.running_mean *= c  # type: ignore[operator]
        model.norm1.running_var = c**2 * (model.norm1.running_var + model.norm1.eps) - model.norm1.eps
        return model

    measures = (*CHEAP, "path_norm_l1", ls.measure("unfused", lambda s: s.theta.square().sum()))
    of, scaled = (ls.measure_complexity(objective(net(c), 2, 4, 4), measures=measures) for c in (1.0, 10.0))
    for name in of.estimates:
        if name != "unfused":
            assert scaled[name] == pytest.approx(of[name], rel=1e-9), name
    first = Net().first
    grown = 99 * float((first.weight.square().sum() + first.bias.square().sum()).detach())
    assert scaled["unfused"] - of["unfused"] == pytest.approx(grown, rel=1e-6)


# -- a transcription of the formulas --------------------------------------------------------------------------------


def fused_by_hand(model: Net) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
    """Weights with BatchNorm fused, and the extents that the convolutions are used on (4 x 4 images)."""
    weights = []
    for layer, norm in ((model.first, model.norm1), (model.second, None), (model.third, model.norm3)):
        scale = torch.ones(3) if norm is None else norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights.append((layer.weight * scale[:, None, None, None]).detach().double().numpy())
    weights.append(model.last.weight.detach().double().numpy())
    return weights, [(4, 4), (4, 4), (3, 3)]


def test_formulas() -> None:
    model, start = Net().double(), Net()
    for parameter in start.parameters():
        parameter.data += 0.3
    of = objective(model, 2, 4, 4)
    found = ls.measure_complexity(of, measures=CHEAP, initial=start)
    assert not found.skipped
    w, sizes = fused_by_hand(model)
    w0, _ = fused_by_hand(start.double())
    d, m = len(w), 40
    with torch.no_grad():
        inputs, labels = of.data.first
        scores = model.eval()(inputs)
    margins = sorted(float(s[y] - s[1 - y]) for s, y in zip(scores, labels, strict=True))
    gamma = abs(margins[m // 10 - 1])
    matrices = [x.reshape(len(x), -1) for x in w]
    changes = [(x - y).reshape(len(x), -1) for x, y in zip(w, w0, strict=True)]
    fro = np.array([(x**2).sum() for x in matrices])
    dist = np.array([(x**2).sum() for x in changes])

    def operators(tensors: list[np.ndarray]) -> np.ndarray:
        norms = []
        for x, size in itertools.zip_longest(tensors, sizes):
            values = x if size is None else np.fft.fft2(x, size, axes=(2, 3)).transpose(2, 3, 0, 1)
            norms.append(np.linalg.svd(values, compute_uv=False).max() ** 2)
        return np.array(norms)

    expected = {
        "l2": math.sqrt(fro.sum()),
        "l2_dist": math.sqrt(dist.sum()),
        "params": sum(x.size for x in w),
        "inverse_margin": gamma**-2,
        "fro_dist": dist.sum(),
        "param_norm": fro.sum(),
        "log_prod_of_fro": np.log(fro).sum(),
        "log_prod_of_fro_over_margin": np.log(fro).sum() - 2 * np.log(gamma),
        "log_sum_of_fro": np.log(d * np.prod(fro) ** (1 / d)),
        "log_sum_of_fro_over_margin": np.log(d * (np.prod(fro) / gamma**2) ** (1 / d)),
    }
    for end, spec, far in (
        ("", np.array([np.linalg.norm(x, 2) ** 2 for x in matrices]), sum(np.linalg.norm(x, 2) ** 2 for x in changes)),
        ("_fft", operators(w), operators([x - y for x, y in zip(w, w0, strict=True)]).sum()),
    ):
        over = np.log(spec).sum() - 2 * np.log(gamma)
        expected |= {
            f"log_prod_of_spec{end}": np.log(spec).sum(),
            f"log_prod_of_spec_over_margin{end}": over,
            f"log_spec_init_main{end}": over + np.log((dist / spec).sum()),
            f"log_spec_orig_main{end}": over + np.log((fro / spec).sum()),
            f"fro_over_spec{end}": (fro / spec).sum(),
            f"log_sum_of_spec{end}": np.log(d * np.prod(spec) ** (1 / d)),
            f"log_sum_of_spec_over_margin{end}": np.log(d * (np.prod(spec) / gamma**2) ** (1 / d)),
            f"dist_spec_init{end}": far,
        }
    paths = ("path_norm", "path_norm_over_margin")
    assert set(found.names) == {*expected, *paths}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6), name  # weights of `start` in float32
        adjusted = (value - math.log(m)) / 2 if name.startswith("log") else math.sqrt(value / m)
        assert float(found.adjusted[name]) == pytest.approx(float(adjusted), rel=1e-5), name
    assert float(found[paths[1]]) == pytest.approx(float(found[paths[0]]) / gamma**2)


def test_frozen_weights_are_weights() -> None:
    model, start = Net().double(), Net().double()
    for parameter in [*start.first.parameters(), *start.last.parameters()]:
        parameter.data += 0.3
    free = ls.measure_complexity(objective(copy.deepcopy(model), 2, 4, 4), measures=CHEAP, initial=start)
    model.second.requires_grad_(False)  # no BatchNorm is fused into it
    of = objective(model, 2, 4, 4)
    found = ls.measure_complexity(of, measures=CHEAP, initial=start)
    assert found.value == pytest.approx(free.value, rel=1e-12)
    assert set(ls.Subject(of).weights) - set(ls.Subject(of).varying) == {"second.weight"}


# -- paths, one by one ----------------------------------------------------------------------------------------------


def as_matrix(function: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, offset) of an affine function of tensors of that shape, by unit vectors."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        zero = function(torch.zeros(1, *shape, dtype=torch.float64))
        return (function(units) - zero).flatten(1).T.numpy(), zero.flatten().numpy()


def counted(model: Net, power: int, *, rescaled: bool = True) -> float:
    """The sum over all paths, by two loops over the entries of the matrix of each layer."""

    def through(entries: np.ndarray, offset: np.ndarray, reached: np.ndarray) -> np.ndarray:
        found = np.abs(offset) ** power
        for out in range(len(entries)):
            for source in range(entries.shape[1]):
                found[out] += abs(entries[out, source]) ** power * reached[source]
        return found

    reached = np.ones(2 * 4 * 4)
    reached = through(*as_matrix(lambda x: model.norm1(model.first(x)), (2, 4, 4)), reached)
    reached = through(*as_matrix(model.second, (3, 4, 4)), reached)
    reached = through(*as_matrix(model.norm2, (3, 3, 3)), reached)
    reached = reached + through(*as_matrix(lambda x: model.norm3(model.third(x)), (3, 3, 3)), reached)
    if isinstance(model.pool, nn.MaxPool2d):
        pooled = np.zeros(3)
        for channel, place in itertools.product(range(3), range(4)):  # the largest path through the first 2 x 2 places
            at = channel * 9 + place // 2 * 3 + place % 2
            pooled[channel] = max(pooled[channel], reached[at])
        return float(through(*as_matrix(model.last, (3,)), pooled).sum())
    for layer, shape in ((model.pool, (3, 3, 3)), (lambda x: x.mean((2, 3)), (3, 2, 2))):
        entries, offset = as_matrix(layer, shape)
        entries = entries if rescaled else np.sign(entries) * np.abs(entries) ** (1 / power)
        reached = through(entries, offset, reached)
    return float(through(*as_matrix(model.last, (3,)), reached).sum())


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_paths_counted_one_by_one(pool: str) -> None:
    # A convolution with a bias before a fused BatchNorm: its matrix and offset are those of both together.
    model = Net(pool).double().eval()
    found = values(objective(copy.deepcopy(model), 2, 4, 4), *PATHS)
    assert found == pytest.approx([counted(model, 2), counted(model, 1)], rel=1e-10)
    if pool == "avg":  # the reference squares the weights alone
        (reference,) = values(objective(copy.deepcopy(model), 2, 4, 4), "path_norm", parity="jiang")
        assert reference == pytest.approx(counted(model, 2, rescaled=False), rel=1e-10)


def test_batchnorm_without_parameters_and_numbers_that_multiply() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)
            self.norm.running_mean, self.norm.running_var = torch.tensor([1.0, -2, 0]), torch.tensor([4.0, 0.25, 1])

        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * self.layer(self.norm(x))

    model = Plain().double()
    entries, offset = as_matrix(model.norm.eval(), (3,))
    found = values(objective(model, 3), *PATHS)
    for value, power in zip(found, (2, 1), strict=True):
        inner = np.abs(entries) ** power @ np.ones(3) + np.abs(offset) ** power
        weight, bias = (p.detach().abs().numpy() ** power for p in (model.layer.weight, model.layer.bias))
        assert value == pytest.approx(0.5**power * (weight @ inner + bias).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("layer", "word"),
    [(nn.Tanh(), "tanh"), (nn.LayerNorm(4), "layer_norm"), (nn.Sigmoid(), "sigmoid"), (nn.ReLU6(), "hardtanh")],
)
def test_what_is_no_sum_over_paths_says_so(layer: nn.Module, word: str) -> None:
    of = objective(nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)), 3)
    found = ls.measure_complexity(of, measures=("path_norm", "param_norm"))
    assert word in found.skipped["path_norm"]
    assert found["param_norm"] > 0


def test_products_of_activations_are_no_paths() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.b(x)

    assert "mul" in ls.measure_complexity(objective(Gate(), 3), measures="path_norm").skipped["path_norm"]


def test_a_dilated_convolution_is_an_operator_with_gaps() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=2, dilation=2, bias=False).double()
    signs = torch.tensor([1.0, -1, 1])
    layer.weight.data = layer.weight.data.abs() * torch.outer(signs, signs)  # largest where dilation leaves nothing
    ones = torch.eye(72, dtype=torch.float64).reshape(72, 2, 6, 6)
    around = F.pad(ones, (2, 2, 2, 2), mode="circular")
    operator = F.conv2d(around, layer.weight.detach(), dilation=2).flatten(1)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(108, 2))
    (found,) = values(objective(model, 2, 6, 6), "log_prod_of_spec_fft")
    last = torch.linalg.svdvals(model[2].weight.detach())[0]
    assert found == pytest.approx(2 * float((torch.linalg.svdvals(operator)[0] * last).log()), rel=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (5, 2), (1, 3)])
def test_windows_of_an_adaptive_average_may_overlap(inputs: int, outputs: int) -> None:
    pool = nn.AdaptiveAvgPool2d((outputs, outputs))
    model = nn.Sequential(pool, nn.Flatten(), nn.Linear(outputs**2, 2, bias=False)).double()
    means = F.adaptive_avg_pool1d(torch.eye(inputs, dtype=torch.float64)[:, None], outputs)[:, 0]  # (in, out)
    of = objective(model, 1, inputs, inputs)
    for value, power in zip(values(of, *PATHS), (2, 1), strict=True):
        reached = (means**power).sum(0)
        weight = model[2].weight.detach().abs() ** power
        assert value == pytest.approx(float((weight @ torch.outer(reached, reached).flatten()).sum()), rel=1e-12)


def test_numbers_and_buffers_are_weights_of_paths() -> None:
    class Scaled(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("scale", torch.tensor([2.0, -3.0]))

        def forward(self, x: Tensor) -> Tensor:
            x = -3 * (self.scale * x + self.scale) + 5
            return torch.add(self.layer(x), x, alpha=-2)

    model = Scaled().double()
    for value, power in zip(values(objective(model, 2), *PATHS), (2, 1), strict=True):
        reached = 3**power * 2 * model.scale.abs() ** power + 5**power
        weight, bias = (p.detach().abs() ** power for p in (model.layer.weight, model.layer.bias))
        assert value == pytest.approx(float((weight @ reached + bias + 2**power * reached).sum()), rel=1e-12)


def test_a_fused_batchnorm_without_biases_has_a_shift() -> None:
    layer, norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, affine=False)
    norm.running_mean, norm.running_var = torch.tensor([1.0, -2]), torch.tensor([4.0, 0.25])
    model = nn.Sequential(layer, norm).double()
    scale = (torch.tensor([4.0, 0.25], dtype=torch.float64) + norm.eps).rsqrt()
    entries, shift = scale[:, None] * layer.weight.detach(), scale * torch.tensor([1.0, 2])
    for value, power in zip(values(objective(model, 2), *PATHS), (2, 1), strict=True):
        assert value == pytest.approx(float((entries.abs() ** power).sum() + (shift**power).sum()), rel=1e-12)


@pytest.mark.parametrize("kept", [True, False])
def test_instance_norm_is_no_sum_over_paths(kept: bool) -> None:
    model = nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=kept), nn.Flatten(), nn.Linear(6, 2))
    assert "batch_norm" in ls.measure_complexity(objective(model, 2, 3), measures="path_norm").skipped["path_norm"]


def test_tensors_from_elsewhere_are_no_weights() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.shift = nn.Linear(2, 2), torch.ones(2, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x + self.shift)

    found = ls.measure_complexity(objective(Shifted(), 2), measures="path_norm")
    assert "register it as a buffer" in found.skipped["path_norm"]


def test_tokens_have_no_ones() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    of = ls.Objective(model, data=(torch.arange(20).reshape(10, 2) % 5, torch.arange(10) % 2))
    assert "whole numbers" in ls.measure_complexity(of, measures="path_norm").skipped["path_norm"]
