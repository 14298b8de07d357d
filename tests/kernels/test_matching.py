"""Axes as products and sums of units; assignments against every permutation there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from landscape_kernels.axes import (
    ONE,
    Axis,
    boxes,
    fresh,
    length,
    pin,
    product,
    products,
    resolved,
    split,
    stretch,
    unite,
)
from landscape_kernels.matching import Action, Group, assign, composed, match_weights, permuted

Array = np.ndarray


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def plain(tensor: str, axis: int, size: int) -> Action:
    return Action(tensor, axis, np.arange(size).reshape(1, size, 1))


def sizes(axis: Axis) -> list[list[int]]:
    return [[atom.size for atom in segment] for segment in resolved(axis)]


# -- axes -------------------------------------------------------------------------------------------------------------


def test_a_product_that_is_united_divides_the_other_axis() -> None:
    x, channels, places = fresh(12), fresh(3), fresh(4)
    unite(x, product(channels, places))
    assert resolved(x) == product(channels, places)
    pin(places, "positions")
    assert [atom.reason for atom in resolved(x)[0]] == ["", "positions"]


def test_a_concatenation_that_is_united_cuts_the_other_axis() -> None:
    a, b, whole, later = fresh(3), fresh(5), fresh(8), fresh(8)
    unite(whole, later)
    unite(a + b, whole)
    assert resolved(later) == resolved(a + b)
    assert stretch(whole, 0, 3) == resolved(a)
    assert sizes(stretch(whole, 3, 5) or ()) == [[2]]
    assert sizes(b) == [[2], [3]]


def test_a_product_of_a_concatenation_divides_again() -> None:
    a, b, rows = fresh(2), fresh(3), fresh(4)
    flat = product(rows, a + b)  # an inner sum
    assert sizes(flat) == [[4, 5]]
    for whole, outer, inner in ((flat, rows, a + b), (product(a + b, rows), a + b, rows)):
        halves = split(whole, length(inner))
        assert halves is not None
        assert [resolved(half) for half in halves] == [outer, inner]


def test_what_does_not_fit_is_fixed() -> None:
    x, y = product(fresh(6), fresh(4)), product(fresh(4), fresh(6))
    unite(x, y)
    assert all(atom.reason for axis in (x, y) for segment in resolved(axis) for atom in segment)
    assert split(fresh(6), 4) is None
    assert split(fresh(6), 6) is not None
    assert fresh(1) == ONE
    assert length(fresh(0)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_boxes_cover_every_position_once(seed: int) -> None:
    """Whatever an axis is made of; and a product of products has its positions in row-major order."""
    generator = np.random.default_rng(seed)
    axis = fresh(int(generator.integers(2, 5)))
    for _ in range(4):
        other = fresh(int(generator.integers(2, 4)))
        axis = [axis + other, product(axis, other), product(other, axis)][generator.integers(3)]
    found = list(boxes(axis))
    assert sorted(np.concatenate([positions.ravel() for _, positions in found])) == list(range(length(axis)))
    assert [segment for segment, _ in found] == list(products(axis))
    assert all(positions.shape == tuple(atom.size for atom in segment) for segment, positions in found)
    for _, positions in found:
        for k in range(positions.ndim):
            assert (np.diff(positions, axis=k) > 0).all()


# -- matching ---------------------------------------------------------------------------------------------------------


def heads(size: int) -> tuple[Group, Group]:
    """Two heads of `size` dimensions along axis 0 of x and y."""
    places = np.arange(2 * size).reshape(2, size)
    covered = tuple(Action(name, 0, places.reshape(1, 2, size), counted=False) for name in "xy")
    base = Group("heads", 2, (*covered, plain("z", 0, 2)))
    return base, Group("dims", size, tuple(Action(n, 0, places[:, :, None]) for n in "xy"), 2, "heads")


def test_assignment_is_the_best_of_all_permutations() -> None:
    cost = normal(5, 5)
    found = assign(Group("g", 5, ()), (), lambda _: cost)["g"]
    best = max(itertools.permutations(range(5)), key=lambda p: sum(cost[u, v] for u, v in enumerate(p)))
    assert found.tolist() == [list(best)]


def test_assignment_of_blocks_and_what_is_in_them_is_the_best_of_all() -> None:
    base, fibre = heads(3)
    costs = {"heads": normal(2, 2), "dims": normal(6, 6, seed=1)}
    found = assign(base, [fibre], lambda group: costs[group.name])
    inner = costs["dims"].reshape(2, 3, 2, 3)
    every = itertools.product(itertools.permutations(range(2)), *[list(itertools.permutations(range(3)))] * 2)

    def value(order: tuple[int, ...], *dims: tuple[int, ...]) -> float:
        direct = sum(costs["heads"][h, k] for h, k in enumerate(order))
        return direct + sum(inner[h, u, order[h], dims[h][u]] for h in range(2) for u in range(3))

    best = max(every, key=lambda choice: value(*choice))
    assert found["heads"].tolist() == [list(best[0])]
    assert found["dims"].tolist() == [list(best[1]), list(best[2])]


def test_permuting_is_indexing() -> None:
    x = normal(4, 6)
    p = np.array([[2, 0, 3, 1]])
    group = Group("g", 4, (plain("x", 0, 4), plain("b", 0, 4)))
    assert np.array_equal(permuted({"x": x}, [group], {"g": p})["x"], x[p[0]])
    base, fibre = heads(3)
    tensors = {"x": normal(6, 2), "y": normal(6), "z": normal(2)}
    order, dims = np.array([[1, 0]]), np.array([[2, 0, 1], [0, 2, 1]])
    found = permuted(tensors, [fibre, base], {"heads": order, "dims": dims})
    assert np.array_equal(found["y"].reshape(2, 3)[1], tensors["y"].reshape(2, 3)[0, [0, 2, 1]])
    assert np.array_equal(found["x"].reshape(2, 3, 2)[0], tensors["x"].reshape(2, 3, 2)[1, [2, 0, 1]])
    assert np.array_equal(found["z"], tensors["z"][::-1])


def test_units_on_another_axis_than_their_blocks() -> None:
    """A grouped convolution: rows in groups, and within each group the inputs in their own order."""
    x = normal(4, 3)
    action = Action("x", 1, np.arange(3).reshape(1, 3, 1), 0, np.arange(4).reshape(2, 2))
    p = np.array([[1, 2, 0], [0, 2, 1]])
    found = action.moved(x, p)
    assert np.array_equal(found, np.concatenate([x[:2][:, p[0]], x[2:][:, p[1]]]))
    assert np.array_equal(action.rows(x)[1], x[2:].T)


def test_one_permutation_after_another() -> None:
    base, fibre = heads(3)
    x = {"x": normal(6, 2)}
    generator = np.random.default_rng(1)

    def draw() -> dict[str, Array]:
        return {"heads": generator.permutation(2)[None], "dims": np.stack([generator.permutation(3) for _ in "ab"])}

    first, then = draw(), draw()
    twice = permuted(permuted(x, [base, fibre], first), [base, fibre], then)
    once = permuted(x, [base, fibre], composed(first, base, [fibre], then))
    assert np.array_equal(once["x"], twice["x"])


def two_layers(n: int) -> tuple[list[Group], dict[str, Array]]:
    groups = [
        Group("one", n, (plain("w1", 0, n), plain("w2", 1, n))),
        Group("two", n, (plain("w2", 0, n), plain("w3", 1, n))),
    ]
    return groups, {"w1": normal(n, 3), "w2": normal(n, n, seed=1), "w3": normal(2, n, seed=2)}


def test_weight_matching_finds_the_best_of_all_pairs_of_permutations() -> None:
    """Of 36 pairs, for two networks that have nothing to do with each other; coordinate descent from ten orders."""
    groups, a = two_layers(3)
    b = {name: normal(*value.shape, seed=10 + i) for i, (name, value) in enumerate(a.items())}

    def similarity(p: tuple[int, ...], q: tuple[int, ...]) -> float:
        moved = permuted(b, groups, {"one": np.array([p]), "two": np.array([q])})
        return float(sum((a[name] * moved[name]).sum() for name in a))

    every = list(itertools.product(itertools.permutations(range(3)), repeat=2))
    found, value, sweeps = match_weights(groups, a, b, restarts=10)
    assert value == pytest.approx(max(itertools.starmap(similarity, every)), rel=1e-12)
    assert value == pytest.approx(similarity(tuple(found["one"][0]), tuple(found["two"][0])), rel=1e-12)
    assert value > similarity((0, 1, 2), (0, 1, 2))
    assert sweeps >= 2


def test_weight_matching_depends_on_the_seed_alone_and_never_loses() -> None:
    groups, a = two_layers(12)
    b = {name: normal(*value.shape, seed=20 + i) for i, (name, value) in enumerate(a.items())}
    before = float(sum((a[name] * b[name]).sum() for name in a))
    values = set()
    for seed in range(4):
        first, value, _ = match_weights(groups, a, b, seed=seed, restarts=1)
        again, _, _ = match_weights(groups, a, b, seed=seed, restarts=1)
        assert all(np.array_equal(first[name], again[name]) for name in first)
        moved = permuted(b, groups, first)
        assert value == pytest.approx(float(sum((a[name] * moved[name]).sum() for name in a)), rel=1e-12)
        assert value > before
        values.add(round(value, 9))
    assert len(values) > 1  # orders matter, or the seed does nothing
    assert match_weights(groups, a, b, seed=0, restarts=8)[1] >= max(values) - 1e-9


def test_a_group_on_both_axes_of_a_tensor_never_makes_it_worse() -> None:
    """There the step is not the best one: it is taken only where it gains."""
    group = Group("g", 6, (plain("x", 0, 6), plain("x", 1, 6)))
    for seed in range(20):
        a, b = {"x": normal(6, 6, seed=seed)}, {"x": normal(6, 6, seed=100 + seed)}
        _, value, _ = match_weights([group], a, b, seed=seed)
        assert value >= float((a["x"] * b["x"]).sum()) - 1e-12
