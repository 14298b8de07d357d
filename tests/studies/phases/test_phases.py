"""Phases against the published grid, probabilities against draws, and means over seeds against direct sums."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from shared import shared

import landscape as ls
from landscape.studies.phases.cells import mean_over_pairs, mean_over_seeds
from landscape.studies.phases.result import PHASES
from landscape.studies.phases.tables import phases_tables

COLUMNS = {
    "train_loss": "train_loss",
    "test_accuracy": "test_acc",
    "lambda_max": "hess_top",
    "trace": "hess_trace",
    "mc": "mc_train_err_pct",
    "cka": "cka_softmax",
}


@pytest.fixture(scope="module")
def published() -> ls.Phases:
    """The grid of the taxonomy paper's ResNet-18 sweep."""
    path = shared("reference", "s1_published_grid.csv")
    return ls.phases_from_table(path, load="width", temperature="batch", columns=COLUMNS)


def at(phases: ls.Phases, load: float, temperature: float) -> tuple[int, int]:
    """The place of a cell."""
    (i,), (j,) = np.flatnonzero(phases.load == load), np.flatnonzero(phases.temperature == temperature)
    return int(i), int(j)


def test_published_grid_has_the_published_phases(published: ls.Phases) -> None:
    counts = Counter(published.phase.ravel().tolist())
    assert counts == {"I": 67, "II": 33, "III": 20, "IV-A": 34, "IV-B": 26, "": 30}
    accuracy = published.values["test_accuracy"]
    assert published.complete
    for phase, *expected in (
        ("I", 49.1, 72.0, 84.8),
        ("II", 71.6, 82.4, 87.7),
        ("III", 77.9, 82.3, 86.1),
        ("IV-A", 80.6, 85.0, 88.5),
        ("IV-B", 86.6, 88.3, 89.9),
    ):
        found = accuracy[published.phase == phase]
        np.testing.assert_allclose([found.min(), found.mean(), found.max()], expected, atol=0.05)


@pytest.mark.parametrize(
    ("cell", "phase", "numbers"),
    [
        ((128, 44), "IV-B", (89.91, 2.84, 33.5, 0.00, 0.755)),
        ((128, 1024), "IV-A", (82.14, 16.88, None, -0.01, 0.63)),
        ((8, 1024), "III", (77.86, 17.68, None, -11.64, 0.43)),
        ((2, 16), "I", (65.02, 167, None, -6.22, 0.49)),
        ((2, 1024), "I", (68.03, 830, None, -18.7, 0.44)),
        ((128, 16), "II", (83.43, 45.2, None, 2.71, 0.57)),
    ],
)
def test_sample_cells(published: ls.Phases, cell: tuple[float, float], phase: str, numbers: tuple[Any, ...]) -> None:
    place = at(published, *cell)
    assert published.phase[place] == phase
    for name, number in zip(("test_accuracy", "lambda_max", "trace", "mc", "cka"), numbers, strict=True):
        if number is not None:
            digits = len(str(number).partition(".")[2])
            assert abs(published.values[name][place] - number) <= 0.5000001 * 10.0**-digits, name


def test_published_grid_without_errors_has_no_probability(published: ls.Phases) -> None:
    assert np.isnan(published.probability).all()
    assert published.reason[at(published, 1, 24)] == "the table has no cka_softmax here"
    assert published.reason[at(published, 1, 19)] == "the table has no test_acc, cka_softmax here"
    other = published.classified(sharp=1e9, connected=-1e9, alike=0.0)
    assert Counter(other.phase.ravel().tolist()) == {"IV-B": 180, "": 30}


HEADINGS = "width,batch,lambda_max,lambda_max_stderr,mc,mc_stderr,cka,cka_stderr\n"


def table(folder: Path, *lines: str, headings: str = HEADINGS) -> Path:
    path = folder / "cells.csv"
    path.write_text(headings + "\n".join(lines) + "\n")
    return path


def test_probabilities_are_those_of_draws(tmp_path: Path) -> None:
    """Each phase as often as normal draws of the metrics, of lambda_max in its logarithm, fall into it."""
    cells = {(4, 16): (30, 12, -0.5, 0.7, 0.65, 0.1), (4, 32): (18, 4, -1.6, 1.0, 0.75, 0.05)}
    lines = (",".join(map(str, (*place, *numbers))) for place, numbers in cells.items())
    phases = ls.phases_from_table(table(tmp_path, *lines), "width", "batch")
    rng, draws = np.random.default_rng(0), 200_000
    for place, (value, error, mc, mc_error, cka, cka_error) in cells.items():
        sharp = value * np.exp(rng.normal(0, error / value, draws)) > 20
        connected, alike = rng.normal(mc, mc_error, draws) > -1, rng.normal(cka, cka_error, draws) >= 0.7
        flat = ~sharp & connected
        drawn = [sharp & ~connected, sharp & connected, ~sharp & ~connected, flat & ~alike, flat & alike]
        shares = np.array([where.mean() for where in drawn])
        found = phases.probability[at(phases, *place)]
        np.testing.assert_allclose(found.sum(), 1, rtol=0, atol=1e-12)
        np.testing.assert_array_less(np.abs(found - shares), 4 * np.sqrt(shares * (1 - shares) / draws) + 1e-6)
        name = phases.phase[at(phases, *place)]
        assert phases.confidence[at(phases, *place)] == found[list(PHASES).index(name)]


def test_a_metric_at_its_threshold_is_even_odds_and_one_without_error_is_certain(tmp_path: Path) -> None:
    lines = ("4,16,20,5,3,0,0.9,0", "4,32,0,0,-1,0.5,0.9,0", "8,16,-3,1,3,0,0.5,0", "8,32,50,0,-9,0,0.5,0")
    phases = ls.phases_from_table(table(tmp_path, *lines), "width", "batch")
    expected = {
        (4, 16): (0, 0.5, 0, 0, 0.5),
        (4, 32): (0, 0, 0.5, 0, 0.5),
        (8, 16): (0, 0, 0, 1, 0),  # a largest eigenvalue below 0 is flat
        (8, 32): (1, 0, 0, 0, 0),
    }
    for place, chances in expected.items():
        np.testing.assert_allclose(phases.probability[at(phases, *place)], chances, atol=1e-12)


def test_a_metric_without_error_at_its_threshold_is_on_the_side_of_the_phase(tmp_path: Path) -> None:
    lines = ("4,16,5,0,-1,0,0.9,0", "4,32,5,0,0,0,0.7,0", "8,16,20,0,0,0,0.7,0")
    phases = ls.phases_from_table(table(tmp_path, *lines), "width", "batch")
    for place, phase in {(4, 16): "III", (4, 32): "IV-B", (8, 16): "IV-B"}.items():
        assert phases.phase[at(phases, *place)] == phase
        assert phases.confidence[at(phases, *place)] == 1


def test_a_metric_at_its_threshold_whose_error_is_not_known_has_no_probability(tmp_path: Path) -> None:
    phases = ls.phases_from_table(table(tmp_path, "4,16,5,0,0,0.1,0.7,"), "width", "batch")
    assert phases.phase.item() == "IV-B"
    assert np.isnan(phases.confidence).all()


def test_a_training_loss_makes_cells_sharp_where_it_is_asked_to(tmp_path: Path) -> None:
    headings = HEADINGS.replace("\n", ",train_loss,train_loss_stderr\n")
    path = table(tmp_path, "4,16,5,1,0,0.1,0.9,0.01,0.3,0.1", "4,32,5,1,0,0.1,0.9,0.01,0.05,0.01", headings=headings)
    assert ls.phases_from_table(path, "width", "batch").phase.tolist() == [["IV-B", "IV-B"]]
    fitted = ls.phases_from_table(path, "width", "batch", fitted=0.2)
    assert fitted.phase.tolist() == [["II", "IV-B"]]
    z = math.log(0.3 / 0.2) / (0.1 / 0.3)
    np.testing.assert_allclose(fitted.probability[0, 0, 1], 0.5 * math.erfc(-z / math.sqrt(2)), atol=1e-6)
    assert fitted.classified(fitted=None).phase.tolist() == [["IV-B", "IV-B"]]


def test_lines_of_one_cell_are_its_seeds(tmp_path: Path) -> None:
    path = table(tmp_path, "4,16,10,1,0,,0.9,", "4,16,14,3,-1,,0.7,", "8,16,5,2,0,,0.9,")
    phases = ls.phases_from_table(path, "width", "batch")
    place = at(phases, 4, 16)
    assert phases.values["lambda_max"][place] == 12
    assert phases.seed_stderr["lambda_max"][place] == 2  # sqrt(8) / sqrt(2)
    assert phases.own_stderr["lambda_max"][place] == 2
    np.testing.assert_allclose(phases.stderr["lambda_max"][place], math.sqrt(8))
    assert phases.notes[place] == "2 lines"
    assert phases.stderr["lambda_max"][at(phases, 8, 16)] == 2  # of one line its own


def test_cells_that_are_not_there_and_axes_in_any_order(tmp_path: Path) -> None:
    path = table(tmp_path, "8,64,30,1,0,1,0.9,0.1", "4,16,5,1,-5,1,0.9,0.1", "4,64,5,1,0,1,,0.1")
    phases = ls.phases_from_table(path, "width", "batch")
    assert phases.phase.tolist() == [["III", ""], ["", "II"]]
    assert phases.reason.tolist() == [["", "the table has no cka here"], ["not in the table", ""]]


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("did you mean 'batch'", {"temperature": "batsh"}),
        ("both 'width'", {"temperature": "width"}),
        ("did you mean 'lambda_max'", {"columns": {"lambda_max": "lamda_max", "mc": "mc", "cka": "cka"}}),
        ("where 'mc' stands", {"columns": {"lambda_max": "lambda_max", "cka": "cka"}}),
        ("'lambda' is no metric", {"columns": {"lambda": "lambda_max", "mc": "mc", "cka": "cka"}}),
        ("is an axis", {"columns": {"lambda_max": "width", "mc": "mc", "cka": "cka"}}),
        ("no metric 'trace'", {"columns": {"lambda_max": "cka", "mc": "mc", "cka": "cka", "trace_stderr": "mc"}}),
        ("above 0", {"sharp": 0.0}),
        ("alike=70.0; give a finite number of 0 or more and of at most 1", {"alike": 70.0}),
        ("connected=nan; give a finite number", {"connected": math.nan}),
        ("'train_loss' stands", {"fitted": 0.1}),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, words: str, change: dict[str, Any]) -> None:
    path = table(tmp_path, "4,16,5,1,0,1,0.9,0.1")
    with pytest.raises(ls.InputError, match=words):
        ls.phases_from_table(path, **{"load": "width", "temperature": "batch", **change})


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("line 2: lambda_max = 'high'", HEADINGS + "4,16,high,1,0,1,0.9,0.1\n"),
        ("line 2: width = '' and", HEADINGS + ",16,5,1,0,1,0.9,0.1\n"),
        ("line 2: it has not the 8 entries", HEADINGS + "4,16,5\n"),
        ("no cells", HEADINGS),
        ("no cells", ""),
        ("several columns 'mc'", HEADINGS.replace("cka,", "mc,") + "4,16,5,1,0,1,0.9,0.1\n"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, words: str, text: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with pytest.raises(ls.InputError, match=words):
        ls.phases_from_table(path, "width", "batch")
    with pytest.raises(ls.InputError, match=r"nowhere\.csv cannot be read"):
        ls.phases_from_table(tmp_path / "nowhere.csv", "width", "batch")


def test_a_frame_written_as_a_table_is_read_as_the_same_phases(tmp_path: Path) -> None:
    path = table(
        tmp_path, "4,16,30,9,-5,1,0.9,0.1", "8,64,5,1,0,1,0.9,0.1", "8,16,5,1,0,1,0.2,0.1", "4,64,25,1,0,1,0,0.1"
    )
    phases = ls.phases_from_table(path, "width", "batch")
    phases.to_pandas().to_csv(tmp_path / "again.csv", index=False)
    again = ls.phases_from_table(tmp_path / "again.csv", "width", "batch")
    np.testing.assert_array_equal(again.phase, phases.phase)
    np.testing.assert_array_equal(again.probability, phases.probability)


def test_unknown_names(tmp_path: Path) -> None:
    phases = ls.phases_from_table(table(tmp_path, "4,16,5,1,0,1,0.9,0.1"), "width", "batch")
    with pytest.raises(ls.InputError, match="did you mean 'sharp'"):
        phases.classified(shap=3.0)
    with pytest.raises(ls.InputError, match="no metric 'lambda_max_well'"):
        phases.done_well()
    with pytest.raises(ls.InputError, match="did you mean 'panels'"):
        phases.plot("panel")
    with pytest.raises(ls.InputError, match="no metric 'trace'"):
        phases.plot(metrics="trace")


# -- means over seeds ------------------------------------------------------------------------------------------------


def test_error_of_a_mean_over_seeds() -> None:
    values = np.array([1.0, 2.0, 4.5])
    mean, error, own = mean_over_seeds(values, np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose((mean, error, own), (2.5, np.sqrt(6.5 / 2 / 3), 0.2))
    assert math.isnan(mean_over_seeds(values[:1], values[:1])[1])
    assert all(map(math.isnan, mean_over_seeds(values[:0], values[:0])))


def test_error_of_a_mean_over_pairs_covers_what_new_seeds_give() -> None:
    """Pairs share seeds: value(i, j) = a_i + a_j has the variance 4 var(a) / n, which s / sqrt(pairs) would miss."""
    rng, n = np.random.default_rng(1), 5
    pairs = list(itertools.combinations(range(n), 2))
    means, variances = [], []
    for _ in range(2000):
        a = rng.normal(size=n)
        values = np.array([a[i] + a[j] for i, j in pairs])
        mean, error, _ = mean_over_pairs(values, np.zeros(len(pairs)), pairs)
        means.append(mean)
        variances.append(error**2)
    np.testing.assert_allclose(np.mean(variances), 4 / n, rtol=3 * math.sqrt(2 / (n - 1) / 2000))
    np.testing.assert_allclose(np.var(means), 4 / n, rtol=3 * math.sqrt(2 / 2000))


@pytest.mark.parametrize("pairs", [[(0, 1)], [(0, 1), (0, 2)]])
def test_error_over_pairs_that_cannot_be_known(pairs: list[tuple[int, int]]) -> None:
    values = np.arange(1.0, len(pairs) + 1)
    mean, error, _ = mean_over_pairs(values, values, pairs)
    assert mean == values.mean()
    assert math.isnan(error)


# -- pictures --------------------------------------------------------------------------------------------------------


def lines_of(axes: Any) -> set[tuple[float, ...]]:
    """The ends of the lines that are drawn along cells, as (x, y, x, y) in numbers of cells."""
    from matplotlib.collections import LineCollection

    found = set()
    for one in axes.collections:
        if isinstance(one, LineCollection):
            found |= {tuple(np.round(np.log2(np.ravel(part)), 9)) for part in one.get_segments()}
    return found


def test_transitions_run_where_thresholds_are_crossed(tmp_path: Path) -> None:
    """Widths 2, 4 and batch sizes 4, 8: cells have borders half way between by logarithms. One cell alone is sharp."""
    path = table(tmp_path, "2,4,30,1,5,1,0.9,0", "2,8,5,1,5,1,0.9,0", "4,4,5,1,5,1,0.9,0", "4,8,5,1,5,1,0.2,0")
    phases = ls.phases_from_table(path, "width", "batch")
    figure = phases.plot()
    sharp, connected, alike, diagram = (axes for axes in figure.axes if axes.get_title())
    assert lines_of(sharp) == {(2.5, 0.5, 2.5, 1.5), (1.5, 1.5, 2.5, 1.5)}
    assert lines_of(connected) == set()
    assert lines_of(alike) == {(2.5, 1.5, 2.5, 2.5), (2.5, 1.5, 3.5, 1.5)}
    assert lines_of(diagram) == lines_of(sharp) | lines_of(alike)
    assert (diagram.get_xscale(), diagram.get_yscale()) == ("log", "log")
    assert [text.get_text().partition("\n")[0] for text in diagram.texts] == ["II", "IV-B", "IV-B", "IV-A"]
    assert "batch (temperature)" in diagram.get_xlabel()


def test_a_view_has_load_upwards_and_tells_the_phase(published: ls.Phases) -> None:
    from made import pictures_of

    phases, metrics = pictures_of(published, 1000)
    trace = phases.views["phases"]["data"][0]
    i, j = at(published, 128, 44)
    assert len(trace["z"]) == len(published.load)
    assert trace["text"][len(published.load) - 1 - i][j] == "IV-B"
    assert "26 in IV-B" in phases.alt
    assert set(metrics.views) == set(published.values)


def test_tables_are_narrow_and_hold_every_metric() -> None:
    phases = made.phases()
    found = [table for table in phases_tables(phases, "t") if table.title.startswith("cells")]
    assert max(len(table.columns) for table in found) <= 7
    told = [column for table in found for column in table.columns[2:]]
    assert told == ["phase", "its probability", *phases.values]
