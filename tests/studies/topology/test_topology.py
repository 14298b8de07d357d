"""Topology of surfaces against functions whose critical points are known, a naive twin and Euler's formula."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from landscape_jobs.commands.topology import topology as topology_command
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import brentq, minimize
from typer.testing import CliRunner

from landscape.errors import InputError
from landscape.results.html import table_html
from landscape.studies.surface.result import Surface
from landscape.studies.topology.find import find_topology
from landscape.studies.topology.pictures import KINDS
from landscape.studies.topology.result import Topology
from landscape.studies.topology.tables import topology_tables

pytest.importorskip("gudhi", reason="needs the extra topology")

Array = NDArray[np.float64]


def surface_of(values: Array, axes: list[Array] | None = None, stderr: Array | float | None = None) -> Surface:
    """A surface of values (..., ny, nx); points that are masked (NaN) count as not computed."""
    places = axes or [np.arange(float(size)) for size in reversed(values.shape)]
    errors = {} if stderr is None else {"loss": np.broadcast_to(stderr, values.shape).astype(float)}
    return Surface(dict(zip("xyz", places, strict=False)), {"loss": values}, errors, ~np.isnan(values))


def surface_on(function: Callable[..., Array], *axes: Array) -> Surface:
    """A function of x, y, ... without errors on the grid of these axes."""
    return surface_of(function(*np.meshgrid(*axes[::-1], indexing="ij")[::-1]), list(axes), 0.0)


def himmelblau(x: Array, y: Array) -> Array:
    """Himmelblau (1972): 4 minima of height 0, 4 saddles, 1 maximum."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def critical(start: tuple[float, float]) -> tuple[Array, float]:
    """The critical point of Himmelblau's function near `start`, and its height."""

    def squared_gradient(at: Array) -> float:
        x, y = at
        a, b = x**2 + y - 11, x + y**2 - 7
        return float((4 * x * a + 2 * b) ** 2 + (2 * a + 4 * y * b) ** 2)

    at = minimize(squared_gradient, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-20}).x
    return at, float(himmelblau(*at))


MINIMA = [critical(at)[0] for at in ((3, 2), (3.6, -1.8), (-2.8, 3.1), (-3.8, -3.3))]
SADDLES = [critical(at) for at in ((3.4, 0.1), (0.1, 2.9), (-3.1, -0.1), (-0.1, -2.0))]
MAXIMUM = critical((-0.3, -0.9))


def cosine(ends: float) -> tuple[Callable[[Array], Array], Array, Array, Array]:
    """Rastrigin's summand on [-ends, ends], an axis with points at all its extrema, its minima and its maxima."""

    def f(x: Array) -> Array:
        return 10 + x**2 - 10 * np.cos(2 * np.pi * x)

    def slope(x: float) -> float:
        return float(2 * x + 20 * np.pi * np.sin(2 * np.pi * x))

    middles = np.arange(-2 * int(ends), 2 * int(ends) + 1) / 2
    extrema = np.array([brentq(slope, at - 0.2, at + 0.2, xtol=1e-15) for at in middles])
    between = (extrema[1:] + extrema[:-1]) / 2
    axis = np.sort(np.concatenate([extrema, between, [-ends, -ends + 0.03, ends]]))
    return f, axis, extrema[::2], extrema[1::2]


def twin(values: Array) -> set[tuple[int, int]]:
    """(minimum, saddle or -1) by hand: points in ascending order join what lies around them, younger basins end."""
    order = sorted((i for i in range(values.size) if values.flat[i] < np.inf), key=lambda i: (values.flat[i], i))
    rank = {point: r for r, point in enumerate(order)}
    basin: dict[int, int] = {}
    pairs = set()
    for point in order:
        place = np.array(np.unravel_index(point, values.shape))
        around = [place + step for step in itertools.product((-1, 0, 1), repeat=values.ndim)]
        inside = [tuple(p) for p in around if (p >= 0).all() and (p < values.shape).all()]
        meeting = sorted(
            {basin[n] for n in (int(np.ravel_multi_index(p, values.shape)) for p in inside) if n in basin},
            key=rank.__getitem__,
        )
        deepest = meeting[0] if meeting else point
        basin[point] = deepest
        for ended in meeting[1:]:
            pairs.add((ended, point))
            basin = {p: deepest if b == ended else b for p, b in basin.items()}
    pairs |= {(minimum, -1) for minimum in set(basin.values())}
    return {(m, s) for m, s in pairs if s == -1 or values.flat[s] > values.flat[m]}


def euler(inside: NDArray[np.bool_]) -> int:
    """Euler's characteristic of a union of closed unit cubes: cells counted by dimension, with alternating signs."""
    cells = np.zeros([2 * size + 1 for size in inside.shape], dtype=bool)
    cells[(slice(1, None, 2),) * inside.ndim] = inside
    cells = ndimage.binary_dilation(cells, np.ones((3,) * inside.ndim))
    signs = np.indices(cells.shape).sum(axis=0)
    return int(((-1) ** signs)[cells].sum()) if inside.any() else 0


def fields(count: int) -> list[Array]:
    """Random fields of 1 to 3 axes with many ties, masks and infinities."""
    rng = np.random.default_rng(7)
    found = []
    for shape in [(23,), (1, 11), (9, 7), (6, 13), (4, 3, 5), (1, 4, 6)]:
        for k in range(count):
            values = rng.integers(0, (4, 12, 1000)[k % 3], shape).astype(float)
            values[rng.random(shape) < (0, 0.15)[k % 2]] = (np.nan, np.inf)[k // 2 % 2]
            values[rng.random(shape) < 0.02] = -np.inf
            found.append(values)
    return found


@pytest.mark.parametrize(("nx", "ny"), [(51, 51), (101, 81), (201, 161), (77, 300)])
def test_himmelblau_has_4_minima_4_saddles_and_1_maximum(nx: int, ny: int) -> None:
    x, y = np.linspace(-5, 5, nx), np.linspace(-5, 5, ny)
    found = find_topology(surface_on(himmelblau, x, y))
    step = np.array([10 / (nx - 1), 10 / (ny - 1)])
    assert (len(found.minima), len(found.saddles), len(found.maxima)) == (4, 4, 1)
    for known, points in ((MINIMA, found.minima), ([at for at, _ in SADDLES], found.saddles)):
        gaps = np.abs(np.array(known)[:, None] - points.coordinates[None])
        assert (gaps.max(axis=2) <= 1.6 * step.max()).any(axis=1).all()
    heights = np.array([height for _, height in SADDLES])
    tolerance = 60 * step.max() ** 2  # second derivatives are about 100
    assert np.allclose(found.saddles.value, heights, rtol=0, atol=tolerance)
    assert found.saddles.joins.tolist() == [True, True, True, False]
    assert found.maxima.value[0] == pytest.approx(MAXIMUM[1], abs=tolerance)
    assert (found.minima.value >= 0).all()
    assert found.minima.value.max() < tolerance
    assert not found.minima.on_border.any()
    loop = found.pairs.dimension == 1
    assert found.pairs.persistence[loop] == found.maxima.value - found.saddles.value[3]


def test_himmelblaus_merge_tree() -> None:
    x, y = np.linspace(-5, 5, 401), np.linspace(-5, 5, 401)
    found = find_topology(surface_on(himmelblau, x, y))
    assert found.minima.coordinates[0].tolist() == [3, 2]  # on the grid, so that it is the lowest
    name = [int(np.linalg.norm(np.array(MINIMA) - at, axis=1).argmin()) for at in found.minima.coordinates]
    place = {known: node for node, known in enumerate(name)}
    tree, joins = found.merge_tree, found.saddles.value[:3]
    assert tree.height[4:].tolist() == joins.tolist()
    above = tree.parent
    assert above[place[0]] == above[place[1]] == 4  # (3, 2) and (3.6, -1.8) meet first,
    assert above[place[2]] == above[4] == 5  # then (-2.8, 3.1), then (-3.8, -3.3)
    assert above[place[3]] == above[5] == 6
    assert above[6] == -1
    depth = found.minima.depth + found.minima.value
    assert depth[[place[k] for k in range(4)]] == pytest.approx(joins[[0, 0, 1, 2]], rel=1e-12)
    assert found.minima.saddle[[place[k] for k in range(4)]].tolist() == [-1, 0, 1, 2]
    assert np.isinf(found.minima.persistence).tolist() == [True, False, False, False]
    exact = np.array([height for _, height in SADDLES])[[0, 0, 1, 2]]
    assert found.smad == pytest.approx(exact.mean(), abs=0.05)


@pytest.mark.parametrize(("axes", "ends"), [(1, 4.1), (2, 2.1), (3, 1.1)])
def test_rastrigin_in_closed_form(axes: int, ends: float) -> None:
    f, axis, lows, highs = cosine(ends)
    found = find_topology(surface_on(lambda *at: np.sum([f(x) for x in at], axis=0), *[axis] * axes))

    def heights(index: int) -> Array:
        """Values at the points that are a maximum along `index` of the axes and a minimum along the others."""
        kinds = [k for k in itertools.product((0, 1), repeat=axes) if sum(k) == index]
        places = [place for k in kinds for place in itertools.product(*((lows, highs)[i] for i in k))]
        return np.sort([sum(float(f(np.array(c))) for c in place) for place in places])

    assert np.sort(found.minima.value) == pytest.approx(heights(0), abs=1e-12)
    assert len(found.minima) == len(lows) ** axes
    for index in range(1, max(axes, 2)):
        assert np.sort(found.saddles.value[found.saddles.index == index]) == pytest.approx(heights(index), abs=1e-12)
    assert found.saddles.joins.sum() == len(found.minima) - 1
    assert len(found.maxima) == (len(highs) ** axes if axes > 1 else 0)
    if axes > 1:
        assert found.maxima.value == pytest.approx(heights(axes), abs=1e-12)
    # Every minimum is as deep as its lowest way out, along the axis where the next maximum is lowest.
    over = {low: min(float(f(high)) for high in highs if abs(high - low) < 1) - float(f(low)) for low in lows.tolist()}
    first = [min(over[c] for c in at) for at in found.minima.coordinates.tolist()]
    assert found.minima.depth == pytest.approx(first, abs=1e-12)
    assert found.smad == pytest.approx(np.mean(first), abs=1e-12)


@pytest.mark.parametrize("values", fields(6))
def test_random_fields_against_the_naive_twin(values: Array) -> None:
    found = find_topology(surface_of(values), threshold=0)
    pairs = found.pairs
    basins = pairs.dimension == 0
    points = zip(pairs.birth_point[basins].tolist(), pairs.death_point[basins].tolist(), strict=True)
    assert set(points) == twin(np.where(np.isnan(values), np.inf, values))
    # Two minima are joined in the tree at the level from which on they are connected.
    tree, count = found.merge_tree, len(found.minima)
    assert (tree.parent[tree.parent >= 0] > np.flatnonzero(tree.parent >= 0)).all()
    whole = np.ones((3,) * values.ndim)
    for level in np.unique(values[values < np.inf]).tolist():
        parts = ndimage.label(values <= level, whole)[0].flat[found.minima.point]
        roots = [root(tree.parent, tree.height, node, level) for node in range(count)]
        there = found.minima.value <= level
        same = np.equal.outer(roots, roots)[there][:, there]
        assert np.array_equal(same, np.equal.outer(parts, parts)[there][:, there])
        # What is alive, by dimension, is Euler's characteristic of the part below the level.
        alive = (pairs.birth <= level) & (level < pairs.death)
        assert ((-1) ** pairs.dimension)[alive].sum() == euler(values <= level)


def root(parent: NDArray[np.int64], height: Array, node: int, level: float) -> int:
    """The highest node above `node` that is not above `level`."""
    while parent[node] >= 0 and height[parent[node]] <= level:
        node = int(parent[node])
    return node


@pytest.mark.parametrize("angle", np.linspace(0, np.pi / 2, 7))
def test_a_valley_at_an_angle_is_one_minimum(angle: float) -> None:
    c, s = np.cos(angle), np.sin(angle)
    axis = np.linspace(-1, 1, 51)
    bowl = surface_on(lambda x, y: (c * x + s * y - 0.013) ** 2 + 10 * (c * y - s * x + 0.007) ** 2, axis, axis)
    assert len(find_topology(bowl).minima) == 1


@pytest.mark.parametrize("seed", range(5))
def test_noise_makes_no_minimum_that_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 41)
    bowl = x**2 + 2 * x[:, None] ** 2
    noise = rng.uniform(0.01, 0.04, bowl.shape)
    noisy = bowl + noise * rng.standard_normal(bowl.shape)
    found = find_topology(surface_of(noisy, [x, x], noise))
    assert (len(found.minima), len(found.saddles), len(found.maxima)) == (1, 0, 0)
    everything = find_topology(surface_of(noisy, [x, x], noise), threshold=0)
    assert len(everything.minima) > 5
    assert len(everything.pairs.birth) == len(found.pairs.birth)
    two = noisy + np.where(np.abs(x) < 0.3, 0.6, 0.0)  # a wall across, 15 standard errors at least
    assert len(find_topology(surface_of(two, [x, x], noise)).minima) == 2


def test_the_rule_is_z_standard_errors_of_minimum_and_saddle() -> None:
    values, stderr = np.array([0.0, 5.0, 1.0, 6.0]), np.array([9.0, 0.8, 0.6, 9.0])  # 5 - 1 = 4 x sqrt(0.64 + 0.36)
    assert len(find_topology(surface_of(values, stderr=stderr), z=3.99).minima) == 2
    assert len(find_topology(surface_of(values, stderr=stderr), z=4.01).minima) == 1
    assert len(find_topology(surface_of(values, stderr=stderr), threshold=3.99).minima) == 2
    assert len(find_topology(surface_of(values, stderr=stderr), threshold=4.0).minima) == 1
    found = find_topology(surface_of(values, stderr=stderr), z=1)
    assert found.pairs.stderr[found.minima.saddle >= 0].tolist() == [1.0]
    assert found.rule == "persistence above 1 standard errors"
    for unknown in (None, np.nan):
        found = find_topology(surface_of(values, stderr=unknown))
        assert len(found.minima) == 2
        assert "not known" in found.rule


def test_a_minimum_that_does_not_count_hands_its_basins_down() -> None:
    # The basin of 1 ends at 8, where the error is large; the one of 2 ends at 5, in the basin of 1.
    values, stderr = np.array([0.0, 8.0, 1.0, 5.0, 2.0, 9.0]), np.array([0.1, 90.0, 0.1, 0.1, 0.1, 0.1])
    found = find_topology(surface_of(values, stderr=stderr))
    assert found.minima.value.tolist() == [0, 2]
    assert found.merge_tree.height.tolist() == [0, 2, 5]
    assert found.merge_tree.parent.tolist() == [2, 2, -1]


def test_smad_by_hand() -> None:
    # 0 and 1 meet at 3, that basin and 2 at 5: (3 - 0) + (3 - 1) + (5 - 2) over three minima.
    values, stderr = np.array([4.0, 0, 3, 1, 5, 2, 7]), np.array([0, 3.0, 4, 3, 8, 6, 0])
    found = find_topology(surface_of(values, stderr=stderr), threshold=0)
    assert found.smad == pytest.approx(8 / 3, rel=1e-15)
    assert found.smad_stderr == pytest.approx((5 + 5 + 10) / 3, rel=1e-15)
    assert find_topology(surface_of(values), threshold=0).smad == found.smad
    bowl = find_topology(surface_of(np.array([1.0, 0.0, 1.0])))
    assert np.isnan(bowl.smad)
    assert np.isnan(bowl.smad_stderr)
    told = {row[0].text: row[1].text for row in next(topology_tables(bowl, "here")).rows}
    assert told["SMAD"] == "none: no basins meet"


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (1, 6), (4, 5), (3, 2, 4)])
def test_a_constant_surface_has_one_minimum(shape: tuple[int, ...]) -> None:
    found = find_topology(surface_of(np.full(shape, 2.5)))
    assert (len(found.minima), len(found.saddles), len(found.maxima)) == (1, 0, 0)
    assert found.minima.coordinates.shape == (1, len(shape))
    assert found.minima.value.tolist() == [2.5]
    assert found.merge_tree.parent.tolist() == [-1]
    assert len(found.to_pandas()) == 1


def test_plateaus_are_one_critical_point() -> None:
    values = np.array([[9.0, 9, 9, 9, 9, 9], [9, 1, 1, 5, 2, 9], [9, 1, 1, 5, 2, 9], [9, 9, 9, 9, 9, 9]])
    found = find_topology(surface_of(values))
    assert found.minima.value.tolist() == [1, 2]
    assert found.saddles.value.tolist() == [5]
    assert found.minima.coordinates[0].tolist() == [1, 1]


def test_a_domain_in_pieces_has_a_tree_each() -> None:
    values = np.array([3.0, 1, 2, np.nan, 4, 0, 5, 2, 6, np.inf, 7])
    found = find_topology(surface_of(values))
    assert found.outside == 2
    assert found.minima.value.tolist() == [0, 1, 2, 7]
    assert found.merge_tree.parent.tolist() == [4, -1, 4, -1, -1]
    assert found.minima.saddle.tolist() == [-1, -1, 0, -1]
    assert found.minima.depth.tolist() == [5, np.inf, 3, np.inf]
    assert found.minima.on_border.tolist() == [False, False, False, True]
    ring = np.array([[1.0, 2, 1], [2, np.nan, 2], [1, 2, 1]])
    found = find_topology(surface_of(ring))
    loop = found.pairs.dimension == 1
    assert found.pairs.death[loop].tolist() == [np.inf]  # around a hole, which nothing fills
    assert (len(found.saddles), len(found.maxima)) == (4, 0)


def test_values_of_any_size() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_topology(surface_of(np.array([-np.inf, 0, -1e308, 1e308, -np.inf, 1e308]), stderr=1.0))
        assert found.minima.value.tolist() == [-np.inf, -np.inf, -1e308]
        assert found.minima.depth.tolist() == [np.inf, np.inf, 1e308]
        assert find_topology(surface_of(np.array([-1e308, 1e308, -9e307]))).minima.depth.tolist() == [np.inf, np.inf]
        for kind in KINDS:
            assert found.plot(kind).axes


def test_minima_on_the_border_are_flagged() -> None:
    x, y = np.linspace(0, 1, 5), np.array([0.0, 0.1, 1.0, 3.0])
    slope = find_topology(surface_on(lambda x, y: x - y, x, y))
    assert slope.minima.on_border.tolist() == [True]
    assert slope.minima.coordinates.tolist() == [[0, 3]]
    bowl = find_topology(surface_on(lambda x, y: (x - 0.5) ** 2 + (y - 0.1) ** 2, x, y))
    assert bowl.minima.on_border.tolist() == [False]
    assert bowl.minima.coordinates.tolist() == [[0.5, 0.1]]
    row = find_topology(surface_on(lambda x, y: (x - 0.5) ** 2 + y, x, np.array([7.0])))
    assert row.minima.on_border.tolist() == [False]
    assert row.minima.coordinates.tolist() == [[0.5, 7]]


BAD = {
    "quantity": (lambda: find_topology(surface_of(np.zeros(3)), "los"), "did you mean 'loss'"),
    "axes": (
        lambda: find_topology(
            Surface({n: np.zeros(1) for n in "xyzu"}, {"loss": np.zeros((1,) * 4)}, {}, np.ones((1,) * 4, bool))
        ),
        "4 axes",
    ),
    "all masked": (lambda: find_topology(surface_of(np.full((2, 3), np.nan))), "0 are computed"),
    "all NaN": (
        lambda: find_topology(Surface({"x": np.zeros(1)}, {"loss": np.array([np.nan])}, {}, np.ones(1, bool))),
        "1 are computed",
    ),
    "all infinite": (lambda: find_topology(surface_of(np.full(4, np.inf))), "no value below"),
    "z": (lambda: find_topology(surface_of(np.zeros(3)), z=-1), "z=-1"),
    "threshold": (lambda: find_topology(surface_of(np.zeros(3)), threshold=np.nan), "threshold=nan"),
    "kind": (lambda: find_topology(surface_of(np.zeros(3))).plot("barcodes"), "did you mean 'barcode'"),
    "three axes": (lambda: find_topology(surface_of(np.zeros((2, 2, 2)))).plot("surface"), "one axis or two"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    attempt, words = BAD[what]
    with pytest.raises(InputError, match=words):
        attempt()


def test_without_gudhi_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(InputError, match=r"loss-landscape-engine\[topology\]"):
        find_topology(surface_of(np.zeros(3)))


@pytest.fixture(scope="module")
def found() -> Topology:
    x = np.linspace(-5, 5, 51)
    surface = surface_on(himmelblau, x, x)
    return find_topology(surface_of(surface.values["loss"], [x, x], 0.5))


def test_tables(found: Topology) -> None:
    first, minima, saddles, maxima = list(topology_tables(found, "here"))
    told = {row[0].text: row[1] for row in first.rows}
    assert told["found"].text == "4 minima, 4 saddles, 1 maximum"
    assert (told["SMAD"].value, told["SMAD"].stderr) == (found.smad, pytest.approx(np.sqrt(0.5)))
    assert [table.title for table in (first, minima, saddles, maxima)] == ["here", "minima", "saddles", "maxima"]
    for points, table in ((found.minima, minima), (found.saddles, saddles), (found.maxima, maxima)):
        cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        assert [cell["loss"].value for cell in cells] == points.value.tolist()
        assert [[cell["x"].value, cell["y"].value] for cell in cells] == points.coordinates.tolist()
        assert {cell["loss"].stderr for cell in cells} == {0.5}
        assert table_html(table).count("<tr>") == len(points) + 1
    frame = found.to_pandas()
    assert frame["kind"].tolist() == ["minimum"] * 4 + ["saddle"] * 4 + ["maximum"]
    assert frame["depth"][:4].tolist() == found.minima.depth.tolist()
    assert "4 minima, 4 saddles, 1 maximum" in repr(found)
    html = found._repr_html_()
    assert "4 minima" in html
    assert "data:image/png" in html


def test_long_tables_keep_the_most_persistent() -> None:
    walls = np.tile([0.0, 1.0], 30)
    walls[1::2] += np.arange(30)
    _, minima, *_ = topology_tables(find_topology(surface_of(walls)), "t")
    assert minima.title == "minima, the 20 most persistent of 30"
    assert [row[0].value for row in minima.rows] == [0, *range(11, 30)]


def test_pictures_show_what_was_found(found: Topology) -> None:
    bars = found.plot("barcode").axes[0]
    drawn = [line.get_xdata() for line in bars.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 5]
    assert len(drawn) == 5
    assert {tuple(ends) for ends in drawn[1:]} == {
        (birth, death) for birth, death in zip(found.pairs.birth, found.pairs.death, strict=True) if death < np.inf
    }
    assert [label.get_text() for label in bars.get_yticklabels()] == ["0", "1", "2", "3"]
    tree = found.plot("tree").axes[0]
    marks = {line.get_label(): line for line in tree.lines}
    assert marks["minimum"].get_ydata().tolist() == found.minima.value.tolist()
    assert marks["saddle where basins meet"].get_ydata().tolist() == found.saddles.value[:3].tolist()
    plane = found.plot("surface")
    marks = {line.get_label(): line for line in plane.axes[0].lines}
    for name, points in (("minimum", found.minima), ("saddle", found.saddles), ("maximum", found.maxima)):
        assert np.array_equal(np.array(marks[name].get_data()).T, points.coordinates)
    assert len(plane.legends) == 1
    x = np.linspace(-4.4, 4.4, 89)
    line = find_topology(surface_on(lambda x: 10 + x**2 - 10 * np.cos(2 * np.pi * x), x)).plot("surface").axes[0]
    assert next(mark for mark in line.lines if mark.get_label() == "minimum").get_ydata().max() == pytest.approx(16)


def test_a_grid_without_the_centre_is_drawn_too() -> None:
    x = np.linspace(1, 2, 9)
    bowl = find_topology(surface_on(lambda x, y: (x - 1.5) ** 2 + (y - 1.25) ** 2, x, x)).plot("surface").axes[0]
    assert [line.get_data() for line in bowl.lines if line.get_label() == "minimum"] == [([1.5], [1.25])]


def test_command(found: Topology, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(topology_command)
    file = found.surface.save(tmp_path / "surface.h5")
    done = CliRunner().invoke(app, [str(file), "-o", str(tmp_path / "tree.svg"), "--kind", "tree"])
    assert done.exit_code == 0, done.output
    assert "4 minima, 4 saddles, 1 maximum" in done.output
    assert (tmp_path / "tree.svg").read_text().startswith("<?xml")
    done = CliRunner().invoke(app, [str(file), "-q", "lass"])
    assert done.exit_code == 2
    assert "did you mean 'loss'" in done.output
