"""Flat vectors: layout, normalisation, orthogonality, perturbation, projection, principal axes, ratio estimates."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels.layout import Filters, Layout
from landscape_kernels.moments import MOMENTS, moments, moments_, ratio
from landscape_kernels.normalise import NORMALIZATIONS, block_norms, normalise_, orthogonalise_
from landscape_kernels.perturb import perturb_
from landscape_kernels.probes import derive_seed, normal_vector
from landscape_kernels.projection import gram, principal_axes, project
from torch import Tensor

EPS = float(np.finfo(np.float64).eps)

SHAPES: dict[str, tuple[int, ...]] = {
    "conv": (4, 3, 2, 2),
    "bias": (4,),
    "up": (4, 3, 2, 2),
    "head": (5, 8),
    "gain": (),
}
FILTERS = {"up": Filters((2, 2, 3, 4), (1, 3))}  # a transposed convolution of 2 groups
LAYOUT = Layout.of(SHAPES, {"gain": "weight"}, FILTERS)


def random(seed: int, size: int = LAYOUT.size) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size))


def groups(layout: Layout, how: str) -> list[tuple[str, list[int]]]:
    """Naive twin: (block name, flat indices) of every group of the cases above."""
    result = []
    for block in layout.blocks:
        places = np.arange(block.size).reshape(block.shape or (1,)) + block.offset
        if how == "filter" and block.name == "up":  # output channel o of group g: inputs 2g and 2g+1
            for g in range(2):
                result += [(block.name, places[2 * g : 2 * g + 2, o].ravel().tolist()) for o in range(3)]
        elif how == "filter" and len(block.shape) > 1:
            result += [(block.name, row.ravel().tolist()) for row in places]
        else:
            result.append((block.name, places.ravel().tolist()))
    return result


def test_layout_keeps_order_and_places() -> None:
    tensors = {name: random(i, math.prod(shape)).reshape(shape) for i, (name, shape) in enumerate(SHAPES.items())}
    flat = LAYOUT.flatten(tensors)
    assert torch.equal(flat, torch.cat([t.reshape(-1) for t in tensors.values()]))
    back = LAYOUT.unflatten(flat)
    assert all(torch.equal(back[name], tensors[name]) for name in SHAPES)
    assert back["conv"].data_ptr() == flat.data_ptr()  # a view
    assert LAYOUT.select([LAYOUT.blocks[0], LAYOUT.blocks[1], LAYOUT.blocks[3]]) == [slice(0, 52), slice(100, 140)]
    with pytest.raises(KeyError, match="head"):
        LAYOUT.flatten({k: v for k, v in tensors.items() if k != "head"})
    with pytest.raises(ValueError, match="head"):
        LAYOUT.flatten({**tensors, "head": tensors["head"].T})


@pytest.mark.parametrize("how", ["filter", "layer"])
def test_groups_get_the_norm_of_the_weights(how: str) -> None:
    theta, raw = random(0), random(1)
    direction = normalise_(raw.clone(), theta, LAYOUT, how)
    for name, places in groups(LAYOUT, how):
        expected = raw[places] * theta[places].norm() / raw[places].norm()
        assert torch.allclose(direction[places], expected, rtol=8 * EPS, atol=0), name


def test_weight_and_model_and_none() -> None:
    theta, raw = random(0), random(1)
    assert torch.equal(normalise_(raw.clone(), theta, LAYOUT, "none"), raw)
    assert torch.equal(normalise_(raw.clone(), theta, LAYOUT, "weight"), raw * theta.abs())
    ignored = [LAYOUT.blocks[1]]
    kept = torch.ones(LAYOUT.size, dtype=torch.bool)
    kept[ignored[0].slice] = False
    model = normalise_(raw.clone(), theta, LAYOUT, "model", ignored)
    assert torch.allclose(model[kept], raw[kept] * theta[kept].norm() / raw[kept].norm(), rtol=8 * EPS, atol=0)
    with pytest.raises(ValueError, match="filtre"):
        normalise_(raw.clone(), theta, LAYOUT, "filtre")


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_ignored_blocks_are_zero_and_others_are_not(how: str) -> None:
    ignored = [LAYOUT.blocks[0], LAYOUT.blocks[1]]
    first = normalise_(random(1), random(0), LAYOUT, how, ignored)
    second = normalise_(random(2), random(0), LAYOUT, how, ignored)
    if how != "weight" and how != "none":
        orthogonalise_(second, [first], random(0), LAYOUT, how, ignored)
    for direction in (first, second):
        for block in LAYOUT.blocks:
            assert bool(direction[block.slice].any()) == (block not in ignored), block.name


def test_one_dimensional_tensors_get_a_random_direction_of_the_layers_norm() -> None:
    theta = random(0)
    direction = normalise_(random(1), theta, LAYOUT, "filter")
    bias = LAYOUT.blocks[1].slice
    assert direction[bias].norm() == pytest.approx(float(theta[bias].norm()), rel=8 * EPS)
    assert abs(torch.nn.functional.cosine_similarity(direction[bias], theta[bias], 0)) < 0.99  # no copy of the weights


def test_filters_of_zeros_stay_zero_and_zero_directions_too() -> None:
    theta, raw = random(0), random(1)
    theta[LAYOUT.blocks[0].slice].view(4, 12)[2] = 0
    raw[LAYOUT.blocks[3].slice].view(5, 8)[1] = 0
    direction = normalise_(raw, theta, LAYOUT, "filter")
    assert not direction[LAYOUT.blocks[0].slice].view(4, 12)[2].any()
    assert not direction[LAYOUT.blocks[3].slice].view(5, 8)[1].any()
    assert bool(direction.isfinite().all())


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_many_directions_are_scaled_as_each(how: str) -> None:
    layout = Layout.of({"w": (3, 2, 2), "b": (3,), "still": (2,), "zero": (2,)})
    theta, drawn = normal_vector(layout.size, 1), normal_vector(2 * layout.size, 2).reshape(2, -1)
    theta[layout.blocks[3].slice] = 0
    drawn[1, layout.blocks[0].slice] = 0
    expected = [normalise_(one.clone(), theta, layout, how, [layout.blocks[2]]) for one in drawn]
    found = normalise_(drawn.clone(), theta, layout, how, [layout.blocks[2]])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_three_axes_are_orthogonal_and_keep_their_norms(how: str) -> None:
    theta, ignored = random(0), [LAYOUT.blocks[0]]  # the first entry is ignored: QR leaves rounding there
    axes: list[Tensor] = []
    for seed in (1, 2, 3):
        axis = normalise_(random(seed), theta, LAYOUT, how, ignored)
        axes.append(orthogonalise_(axis, axes, theta, LAYOUT, how, ignored))
    products = gram(axes)
    cosines = products / np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    assert np.abs(cosines - np.eye(3)).max() < 1e-12
    for axis in axes:
        assert not axis[ignored[0].slice].any()
        if how in ("filter", "layer"):
            for block in LAYOUT.blocks[1:]:
                wanted = block_norms(theta, block, how)
                assert torch.allclose(block_norms(axis, block, how), wanted, rtol=1e-12, atol=0), block.name


def test_orthogonality_that_cannot_be_is_refused() -> None:
    signs = Layout.of({"w": (3, 1)})  # filters of one weight: only signs are free
    theta = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    first = normalise_(random(1, 3), theta, signs, "filter")
    with pytest.raises(ValueError, match="no direction"):
        orthogonalise_(normalise_(random(2, 3), theta, signs, "filter"), [first], theta, signs, "filter")
    span = [torch.eye(3, dtype=torch.float64)[i] for i in range(3)]
    with pytest.raises(ValueError, match="no direction"):
        orthogonalise_(random(2, 3), span, theta, signs, "none")


def test_perturbation_is_the_plain_sum_and_meets_the_centre() -> None:
    centre, a, b = random(0), random(1), random(2)
    out = torch.empty_like(centre)
    assert perturb_(out, centre, (a, b), (0.25, -3.0)) is out
    assert torch.allclose(out, centre + 0.25 * a - 3.0 * b, rtol=4 * EPS, atol=4 * EPS)
    nowhere = torch.full_like(a, math.nan)  # a zero coefficient leaves its direction out altogether
    assert torch.equal(perturb_(out, centre, (nowhere, nowhere), (0.0, -0.0)), centre)
    assert torch.equal(perturb_(out, centre, (nowhere, b), (0, 0.5)), centre + 0.5 * b)
    with pytest.raises(ValueError, match="argument"):
        perturb_(out, centre, (a, b), (1.0,))


def test_projection_on_oblique_axes() -> None:
    axes = [3.0 * random(1, 40), random(1, 40) + 0.1 * random(2, 40), 1e-3 * random(3, 40)]
    centre, vectors = random(4, 40), [random(5, 40), random(6, 40)]
    found = project(vectors, centre, axes)
    matrix = torch.stack(axes, 1).numpy()
    for vector, coordinates, distance in zip(vectors, found.coordinates, found.distance, strict=True):
        offset = (vector - centre).numpy()
        expected = np.linalg.lstsq(matrix, offset, rcond=None)[0]
        np.testing.assert_allclose(coordinates, expected, rtol=1e-9)
        assert distance == pytest.approx(float(np.linalg.norm(offset - matrix @ expected)), rel=1e-12)
    inside = project([centre + 2 * axes[0] - 0.5 * axes[1] + 7 * axes[2]], centre, axes)
    np.testing.assert_allclose(inside.coordinates, [[2, -0.5, 7]], rtol=1e-9)
    assert inside.distance[0] < 1e-13
    with pytest.raises(ValueError, match="dependent"):
        project(vectors, centre, [axes[0], 2 * axes[0]])


def test_projection_divides_by_the_squared_length() -> None:
    axis = torch.tensor([0.0, 5.0], dtype=torch.float64)
    found = project([torch.tensor([3.0, 10.0], dtype=torch.float64)], torch.zeros(2, dtype=torch.float64), [axis])
    assert found.coordinates == pytest.approx(2.0, rel=4 * EPS)  # 10 with |d| in place of |d|^2
    assert found.distance == pytest.approx(3.0, rel=4 * EPS)


def test_principal_axes_are_those_of_numpys_svd() -> None:
    scales = torch.from_numpy(np.geomspace(1, 100, 6))
    vectors = [scales[i] * random(i, 50) + 1000 for i in range(6)]
    found = principal_axes(vectors, 3)
    matrix = torch.stack(vectors).numpy()
    _, values, axes = np.linalg.svd(matrix - matrix.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.explained_variance, values[:3] ** 2 / (values**2).sum(), rtol=1e-10)
    for ours, theirs in zip(found.axes, axes, strict=False):
        assert abs(float(ours.numpy() @ theirs)) == pytest.approx(1, abs=1e-10)
        assert ours[ours.abs().argmax()] > 0
    np.testing.assert_allclose(gram(found.axes), np.eye(3), atol=1e-13)
    with pytest.raises(ValueError, match="span 1 directions"):
        principal_axes([vectors[0] + t * vectors[1] for t in range(4)], 2)


class Alive(Sequence[Tensor]):
    """Vectors made when they are asked for, which counts how many there are at once."""

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        self.vectors, self.alive, self.most = vectors, 0, 0

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: Any) -> Any:
        vector = self.vectors[index].clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(vector, self.gone)
        return vector

    def gone(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize(("count", "size"), [(5, 70_000), (17, 300), (40, 90), (260, 9)])
def test_principal_axes_are_those_of_all_vectors_at_once_to_the_bit(count: int, size: int) -> None:
    """However many are held, and with few vectors in memory; the directions of a plane are in a run's identity."""
    vectors = [(random(t, size) + 0.1 * t * random(999, size)).float() for t in range(count)]
    mean = torch.stack([v.double() for v in vectors]).mean(dim=0)
    centred = [v.double() - mean for v in vectors]
    weights = np.linalg.eigh(gram(centred))[1][:, ::-1]
    first = sum((float(w) * v for w, v in zip(weights[:, 0], centred, strict=True)), torch.zeros(size).double())
    first = first / torch.linalg.vector_norm(first)
    first = first * torch.sign(first[first.abs().argmax()])
    for held in (1, 3, count) if count < 100 else (count,):
        given = Alive(vectors)
        found = principal_axes(given, 2, held=held)
        assert torch.equal(found.axes[0], first)
        assert given.most <= 2  # the one in hand, and the one before it
    given = Alive(vectors)
    axes = [axis.float() for axis in found.axes]
    placed = project(given, vectors[0], axes)
    assert given.most <= 2
    matrix, offsets = torch.stack(axes, 1).double(), torch.stack(vectors).double() - vectors[0].double()
    expected = torch.linalg.lstsq(matrix, offsets.T).solution.T
    np.testing.assert_allclose(placed.coordinates, expected, atol=1e-12 * float(expected.abs().max()))
    rest = torch.linalg.vector_norm(offsets - expected @ matrix.T, dim=1)
    np.testing.assert_allclose(placed.distance, rest, atol=1e-12 * float(rest.max()))


def test_axes_of_blocks_that_are_dependent_are_refused() -> None:
    axis = random(1, 70_000)
    with pytest.raises(ValueError, match="dependent"):
        project([axis], axis, [axis, 3 * axis])
    with pytest.raises(ValueError, match="dependent"):
        project([axis[:1]], axis[:1], [axis[:1], axis[1:2]])


def six(n: np.ndarray, d: np.ndarray | None, chunks: int = 3) -> np.ndarray:
    out = torch.zeros(chunks, MOMENTS, dtype=torch.float64)
    for k, rows in enumerate(np.array_split(np.arange(len(n)), chunks)):
        moments_(out[k], torch.tensor(n[rows]), None if d is None else torch.tensor(d[rows]))
    return out.sum(0).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_as_numbers_are_those_that_are_written(dtype: torch.dtype, weighted: bool) -> None:
    random = torch.Generator().manual_seed(0)
    n, d = (torch.randn(1797, generator=random).to(dtype).requires_grad_(dtype.is_floating_point) for _ in range(2))
    out = torch.empty(MOMENTS, dtype=torch.float64)
    moments_(out, n, d if weighted else None)
    assert moments(n, d if weighted else None) == tuple(out.tolist())


def test_ratio_of_ones_is_a_mean_with_its_standard_error() -> None:
    n = np.random.default_rng(0).exponential(size=101)
    value, stderr, units = ratio(six(n, None))
    assert value == pytest.approx(n.mean(), rel=1e-14)
    assert stderr == pytest.approx(n.std(ddof=1) / math.sqrt(101), rel=1e-12)
    assert units == 101
    assert ratio(six(n, np.ones(101)))[1] == pytest.approx(stderr, rel=1e-12)


def test_ratio_error_is_that_of_the_linearised_residuals() -> None:
    rng = np.random.default_rng(1)
    d = rng.integers(0, 9, size=60).astype(float)
    n = d * rng.normal(2, 0.1, size=60)
    value, stderr, _ = ratio(six(n, d))
    assert value == pytest.approx(n.sum() / d.sum(), rel=1e-14)
    residual = n - value * d
    assert stderr == pytest.approx(math.sqrt(60 / 59 * (residual**2).sum()) / d.sum(), rel=1e-10)


def test_one_standard_error_covers_the_truth_as_often_as_it_says() -> None:
    rng, trials, covered = np.random.default_rng(2), 2000, 0
    for _ in range(trials):
        d = rng.integers(1, 20, size=200).astype(float)
        n = d * 0.7 + np.sqrt(d) * rng.normal(size=200)
        value, stderr, _ = ratio(six(n, d, 1))
        covered += abs(value - 0.7) < 1.96 * stderr
    assert abs(covered / trials - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials)


def test_estimates_without_an_error_say_so() -> None:
    assert math.isnan(ratio(six(np.array([2.0]), None, 1))[1])
    assert math.isnan(ratio(np.zeros(6))[0])
    value, stderr, _ = ratio(six(np.array([1.0, math.inf]), None, 1))
    assert value == math.inf
    assert math.isnan(stderr)
    assert math.isnan(ratio(six(np.array([1.0, math.nan]), None, 1))[0])
    value, stderr, units = ratio(six(np.full(7, 0.1), None, 1))  # equal losses: no spread, and no root of a negative
    assert (value, units) == (pytest.approx(0.1), 7)
    assert stderr < 1e-8


def test_random_vectors_depend_on_seed_and_keys_alone() -> None:
    vector = normal_vector(20_000, 3, "direction", 0)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(vector, normal_vector(20_000, 3, "direction", 0))
    others = [normal_vector(20_000, 4, "direction", 0), normal_vector(20_000, 3, "direction", 1)]
    for other in others:
        assert abs(float(vector @ other)) / 20_000 < 3 / math.sqrt(20_000)
    assert derive_seed(1, "a", 23) != derive_seed(1, "a2", 3)
    assert derive_seed(1, "1") != derive_seed(1, 1)


def test_random_vectors_are_gaussian() -> None:
    x, n = normal_vector(200_000, 0, "direction", 0).numpy(), 200_000
    # mean, variance, skewness and kurtosis with their standard errors; uniform values have kurtosis 1.8
    for power, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 3 * math.sqrt(spread / n), power
