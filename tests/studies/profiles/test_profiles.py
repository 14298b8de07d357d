"""Profiles along many directions: exact on a quadratic, the surface's own bits, files, folders and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import landscape as ls
from landscape.opening.opening import open_result
from landscape.results.kind import Asked
from landscape.results.summary import result_tables
from landscape.studies.profiles.measure import measure_profiles
from landscape.studies.profiles.pictures import PICTURES, plot_profiles
from landscape.studies.profiles.result import Profiles


class Offset(nn.Module):
    """The parameters themselves, for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.flatten().expand(len(x), -1)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * ((outputs - targets) ** 2).sum(1)


def quadratic() -> ls.Objective:
    """1/2 |w - t|^2 over 5 samples t."""
    targets = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return ls.Objective(Offset(), half_square, (torch.zeros(5, 1, dtype=torch.float64), targets), precision="float64")


def network() -> ls.Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    data = (torch.randn(32, 4), torch.randint(0, 3, (32,)))
    return ls.Objective(model, "cross_entropy", data, metrics=("accuracy",))


def made(values: Any, computed: Any = None, x: Any = None) -> Profiles:
    array = np.asarray(values, dtype=float)
    known = np.ones(array.shape, dtype=bool) if computed is None else np.asarray(computed)
    x = np.linspace(-1, 1, array.shape[1]) if x is None else np.asarray(x, dtype=float)
    return Profiles(x, {"loss": array}, {"loss": np.full(array.shape, 0.125)}, known, {"normalize": "filter"})


def test_quadratic_in_closed_form() -> None:
    """L(w + x d) = L(w) + x g.d + x^2/2 d.d, with the directions of a random plane."""
    objective = quadratic()
    profiles = measure_profiles(objective, 4, (-2, 1, 7), "layer", (), seed=5)
    directions = [
        d.numpy() for d in ls.random_plane(objective, normalize="layer", ignore=(), seed=5, axes=4).directions
    ]
    w = objective.theta.numpy()
    targets = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).numpy()
    start, slope = 0.5 * ((w - targets) ** 2).sum(1).mean(), (w - targets).mean(0)
    x = np.linspace(-2, 1, 7)
    expected = np.array([start + x * (slope @ d) + 0.5 * x**2 * (d @ d) for d in directions])
    np.testing.assert_allclose(profiles.values["loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(profiles.mean["loss"], expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(profiles.spread["loss"], expected.std(0, ddof=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(profiles.quantile("loss", 0.1), np.quantile(expected, 0.1, axis=0), rtol=1e-12)
    losses = np.array([0.5 * ((w + x[0] * directions[2] - t) ** 2).sum() for t in targets])
    assert profiles.stderr["loss"][2, 0] == pytest.approx(losses.std(ddof=1) / np.sqrt(5))


@pytest.mark.parametrize("batchnorm", ["frozen", "reestimated"])
def test_each_is_the_surface_on_its_line_bit_for_bit(batchnorm: str) -> None:
    objective = network()
    profiles = measure_profiles(objective, 3, (-1, 1, 5), seed=7, batchnorm=batchnorm)
    directions = ls.random_plane(objective, seed=7, axes=3).directions
    for k, direction in enumerate(directions):
        line = ls.plane_from_directions(objective, [direction])
        surface = ls.measure_surface(objective, line, x=(-1, 1, 5), batchnorm=batchnorm)
        for name in ("loss", "accuracy"):
            np.testing.assert_array_equal(profiles.values[name][k], surface.values[name])
            np.testing.assert_array_equal(profiles.stderr[name][k], surface.stderr[name])
    assert not np.array_equal(profiles.values["loss"][0], profiles.values["loss"][1])
    assert (profiles.values["loss"][:, 2] == profiles.values["loss"][0, 2]).all()  # all meet at the centre


def test_directions_of_a_model_in_half_precision_are_not_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20, 4, generator=generator), torch.randint(3, (20,), generator=generator)
    objective = ls.Objective(torch.nn.Linear(4, 3).bfloat16(), data=data, precision="own")
    profiles = measure_profiles(objective, 3, (-1, 1, 5), seed=7)
    plane = ls.random_plane(objective, seed=7, axes=3)
    for k in range(3):
        losses = [objective.evaluate(plane.point([x * (axis == k) for axis in range(3)]))["loss"] for x in profiles.x]
        np.testing.assert_array_equal(profiles.values["loss"][k], losses)


def test_items_in_any_order_and_one_direction_in_hand() -> None:
    from landscape.run.comm import SERIAL
    from landscape.studies.profiles.measure import ProfilesTask
    from landscape.studies.profiles.settings import ProfilesSettings

    task = ProfilesTask(network(), ProfilesSettings(3, (-1, 1, 3)))
    forward = [task.evaluate(i, SERIAL)["loss"] for i in range(task.count)]
    backward = [task.evaluate(i, SERIAL)["loss"] for i in reversed(range(task.count))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 7  # 9 points, of which 3 are the centre


def test_interrupted_folder_opens_masked_and_resumes(tmp_path: Path) -> None:
    objective, folder = network(), tmp_path / "run"
    whole = measure_profiles(objective, 2, (-1, 1, 4))
    part = measure_profiles(objective, 2, (-1, 1, 4), out=folder, limit_items=5)
    assert int(part.computed.sum()) == 5
    opened = open_result(folder)
    assert isinstance(opened, Profiles)
    np.testing.assert_array_equal(opened.computed, part.computed)
    assert not opened.complete
    resumed = measure_profiles(objective, 2, (-1, 1, 4), out=folder)
    np.testing.assert_array_equal(resumed.values["loss"], whole.values["loss"])
    with pytest.raises(ls.InputError, match="seed"):
        measure_profiles(objective, 2, (-1, 1, 4), seed=1, out=folder)
    read = open_result(folder / "landscape.h5")
    assert isinstance(read, Profiles)
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(read.values[name], whole.values[name])
        np.testing.assert_array_equal(read.stderr[name], whole.stderr[name])
    np.testing.assert_array_equal(read.x, whole.x)
    assert read.attributes["normalize"] == "filter"
    assert read.attributes["seed"] == 0
    assert read.complete


def test_xarray_and_pandas_have_every_value(tmp_path: Path) -> None:
    import xarray

    profiles = made([[1.0, 2.0, 4.0], [5.0, np.nan, 7.0]], [[True] * 3, [True, True, False]])
    dataset = profiles.to_xarray()
    assert dataset["loss"].dims == ("direction", "x")
    with xarray.open_dataset(profiles.save(tmp_path / "p.h5"), group="profiles") as stored:
        np.testing.assert_array_equal(stored["loss"], profiles.values["loss"])
        np.testing.assert_array_equal(stored["computed"], profiles.computed)
    table = profiles.to_pandas()
    assert list(table.columns) == ["direction", "x", "loss", "loss_stderr", "computed"]
    assert table[["direction", "x", "loss"]].iloc[3].tolist() == [1, -1.0, 5.0]
    assert table["computed"].sum() == 5


def test_numbers_over_directions_leave_out_what_is_missing_and_keep_nan_and_inf() -> None:
    nan, inf = np.nan, np.inf
    profiles = made(
        [[1, 1, nan, inf, 1], [2, nan, 2, inf, 2], [6, nan, 6, 3, 3], [9, nan, 9, 2, 4]],
        [[True, True, True, True, True], [True, False, True, True, True], [True, False, True, True, True],
         [False, False, True, True, True]],
    )  # fmt: skip
    np.testing.assert_array_equal(profiles.mean["loss"], [3, 1, nan, inf, 2.5])
    assert profiles.spread["loss"][0] == pytest.approx(np.sqrt(7))
    assert np.isnan(profiles.spread["loss"][1])
    np.testing.assert_array_equal(profiles.quantile("loss", 0.5), [2, 1, nan, inf, 2.5])
    np.testing.assert_array_equal(profiles.quantile("loss", 1.0), [6, 1, nan, inf, 4])
    nothing = made([[nan, nan]], [[False, False]])
    assert np.isnan(nothing.mean["loss"]).all()
    assert np.isnan(nothing.quantile("loss", 0.5)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0; give a whole number of 1 or more"),
        ({"x": (1, -1, 5)}, "smaller end first"),
        ({"normalize": "filters"}, "give one of none, filter, layer"),
        ({"ignore": ("weight", "bias", "norm")}, "no direction is left"),
        ({"batchnorm": "interpolated"}, "give one of frozen, reestimated"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ls.InputError, match=message):
        measure_profiles(network(), **arguments)


def test_unknown_quantities_and_shares_are_refused() -> None:
    profiles = made([[1.0, 2.0]])
    with pytest.raises(ls.InputError, match="did you mean 'loss'"):
        profiles.quantile("los", 0.5)
    with pytest.raises(ls.InputError, match="not between 0 and 1"):
        profiles.quantile("loss", 1.5)
    for options, message in (({"quantity": "los"}, "did you mean"), ({"levels": "step"}, "levels 'step'")):
        with pytest.raises(ls.InputError, match=message):
            plot_profiles(profiles, **options)


def note(figure: Figure) -> str:
    return figure.get_supxlabel()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_picture_has_every_direction_median_and_band() -> None:
    values = np.array([[3.0, 1, 3], [4, 1, 5], [5, 1, 9], [8, 1, 10], [9, 1, 20]])
    figure = made(values).plot(levels="linear")
    ax = figure.axes[0]
    band_label = "10 % to 90 % of directions"
    assert set(legend(figure)) == {"each direction", "±2 standard errors", band_label, "median", "centre"}
    lines = [line for line in ax.lines if line.get_linewidth() == 0.7 and len(line.get_xdata()) == 3]
    np.testing.assert_array_equal([line.get_ydata() for line in lines[:5]], values)
    (median,) = (line for line in ax.lines if line.get_label() == "median")
    np.testing.assert_array_equal(median.get_ydata(), [5, 1, 9])
    (band,) = (c for c in ax.collections if c.get_label() == band_label)
    ends = band.get_paths()[0].vertices
    found = sorted(set(ends[np.isclose(ends[:, 0], 1.0), 1].tolist()))
    np.testing.assert_allclose(found, np.quantile(values[:, 2], [0.1, 0.9]))
    assert ax.get_xlabel() == "x (filter-normalised direction)"
    assert note(figure) == "5 directions"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "computed", "words"),
    [
        ([[1.0]], None, "1 direction; constant"),
        ([[1.0, 1.0], [1.0, 1.0]], None, "constant: every value is 1"),
        ([[1.0, 2.0, 3.0]], [[False] * 3], "3 not computed of 3 points; no finite value"),
        ([[np.nan] * 3] * 2, None, "6 NaN of 6 points"),
        ([[1e-300, 1.0, 1e300], [1e-200, np.inf, -np.inf]], [[True] * 3, [True, True, True]], "1 +Inf, 1 -Inf"),
        ([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]], [[True] * 3, [True, False, True]], "1 NaN, 1 not computed of 6"),
    ],
)
def test_awkward_profiles_give_a_picture_that_says_so(values: Any, computed: Any, words: str) -> None:
    figure = plot_profiles(made(values, computed))
    figure.draw_without_rendering()
    assert words in note(figure)


def test_a_spread_below_rounding_is_shown_as_none() -> None:
    profiles = made([[0.3, 0.1, 2.0], [0.3 * (1 + 4e-16), 0.1, 3.0]])
    assert profiles.spread["loss"][0] > 0
    first, middle, last = list(result_tables(profiles, "t"))[1].rows
    assert [(row[4].stderr, row[5].value) for row in (first, middle)] == [(0.0, 0.0)] * 2
    assert first[4].text == "0.3 +- 0"
    assert last[5].value == pytest.approx(np.sqrt(0.5))


def test_tables_and_pictures_of_the_command_line_know_profiles() -> None:
    profiles = made([[3.0, 1, 3], [5, 1, 9]])
    tables = list(result_tables(profiles, "a.h5"))
    assert [table.title for table in tables] == ["a.h5", "loss over directions"]
    assert [row[0].value for row in tables[1].rows] == [-1.0, 0.0, 1.0]
    mean = tables[1].rows[2][4]
    assert (mean.value, mean.stderr) == (6.0, pytest.approx(3.0))
    ((name, figure),) = PICTURES.asked(profiles, Asked())
    assert name == "loss_profiles"
    assert figure.axes
    assert "<table>" in profiles._repr_html_()
