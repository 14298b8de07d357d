"""A corpus of models against oracles and published tables; tables in every form; bad input; the command."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from landscape_jobs.cli import app
from landscape_kernels.rank_statistics import (
    conditional_information,
    granulated_kendall,
    percentile_interval,
    redrawn,
)
from scipy.stats import kendalltau, spearmanr
from shared import shared
from typer.testing import CliRunner

import landscape as ls

SIMPSON = {
    "x": np.concatenate([np.arange(5.0) + 10 * g for g in range(3)]),
    "y": np.concatenate([-np.arange(5.0) + 20 * g for g in range(3)]),
    "depth": np.repeat([4, 8, 16], 5),
}


def value(corpus: ls.Corpus, metric: str, name: str, groups: str | None = None) -> float:
    return float(corpus.values[name][corpus.row(metric, groups)])


def test_simpsons_paradox_to_its_digits() -> None:
    corpus = ls.analyse_corpus(SIMPSON, "y")
    assert corpus.simpson == ("paradox",)
    assert corpus.paradoxes == ("x",)
    assert value(corpus, "x", "overall") == pytest.approx(3 / 7, abs=1e-15)
    assert round(value(corpus, "x", "slope_overall"), 6) == 1.912621
    assert value(corpus, "x", "slope_within") == pytest.approx(-1, abs=1e-14)
    assert value(corpus, "x", "within") == value(corpus, "x", "spearman_within") == -1
    assert value(corpus, "x", "spearman_overall") == pytest.approx(spearmanr(SIMPSON["x"], SIMPSON["y"]).statistic)
    assert value(corpus, "x", "overall_low") < 3 / 7 < value(corpus, "x", "overall_high")
    assert corpus.inside.group == ("4", "8", "16")
    assert corpus.inside.kendall.tolist() == [-1, -1, -1]
    frame = corpus.to_pandas()
    assert frame.loc[0, "simpson"] == "paradox"
    assert {"overall", "within", "overall_low", "within_high", "slope_overall", "slope_within_low"} <= set(frame)


# S0.6 and 1.8 of the facts: tau over all models, in each group, the flag; intervals of 500 draws where published.
PUBLISHED = {
    ("task1", "parameter_count"): (-0.315, (0.500, 0.224), "paradox", (-0.51, -0.16), (0.06, 0.65)),
    ("task1", "distance_from_initialization_l2"): (0.572, (0.818, 0.697), "none", None, None),
    ("task1", "spectral_sum_sq"): (0.580, (0.576, 0.727), "none", None, None),
    ("task1", "log_spectral"): (0.159, (0.515, 0.606), "undecided", None, None),
    ("task1", "log_frobenius"): (0.101, (0.152, 0.182), "undecided", None, None),
    ("task1", "relative_distance_from_initialization"): (0.406, (0.697, 0.576), "none", None, None),
    ("task2", "parameter_count"): (0.766, (None, None, None), "undecided", None, None),
    ("task2", "distance_from_initialization_l2"): (
        -0.145, (0.056, 0.733, 0.500), "undecided", (-0.39, 0.05), None,
    ),
    ("task2", "spectral_sum_sq"): (-0.348, (0.056, 0.733, 0.833), "paradox", (-0.56, -0.19), (0.22, 0.82)),
    ("task2", "log_spectral"): (-0.645, (-0.056, 0.333, -0.167), "undecided", None, (-0.41, 0.45)),
    ("task2", "log_frobenius"): (-0.674, (-0.278, -0.467, -0.889), "none", None, None),
    ("task2", "relative_distance_from_initialization"): (
        -0.355, (0.056, 0.733, 0.500), "paradox", (-0.60, -0.17), (0.04, 0.69),
    ),
}  # fmt: skip
GROUPS = {"task1": "hp.num_conv_blocks", "task2": "hp.depth"}


def models_of(task: str) -> pandas.DataFrame:
    """The 24 models of one task of the contest."""
    table = pandas.read_csv(shared("reference", "s0_pgdl_weight_metrics_48models.csv"))
    for name in ("spectral", "frobenius"):
        table[f"log_{name}"] = table[f"log_{name}_product_sq"] / table["kernel_count"] / np.log(10)
    return table[table["task"] == task]


@pytest.mark.parametrize("task", GROUPS)
def test_the_48_models(task: str) -> None:
    """Tau to the digits given; ends of intervals to what 500 draws leave, and the weights of pairs."""
    rows = {metric: row for (of, metric), row in PUBLISHED.items() if of == task}
    corpus = ls.analyse_corpus(models_of(task), "test_acc", GROUPS[task], list(rows))
    for metric, (overall, inside, flag, of_overall, of_within) in rows.items():
        assert round(value(corpus, metric, "overall"), 3) == overall
        found = [t for name, t in zip(corpus.inside.metric, corpus.inside.kendall, strict=True) if name == metric]
        assert [None if np.isnan(tau) else round(float(tau), 3) for tau in found] == list(inside)
        assert corpus.simpson[corpus.row(metric)] == flag, metric
        assert (value(corpus, metric, "p_paradox") == 1) == (
            flag == "none" or metric.startswith("log_")
        )  # 0 has no sign
        assert (value(corpus, metric, "p_paradox") < 0.025) == (flag == "paradox")
        for name, ends in (("overall", of_overall), ("within", of_within)):
            for end, published in zip(("low", "high"), ends or (), strict=False):
                assert value(corpus, metric, f"{name}_{end}") == pytest.approx(published, abs=0.05), (metric, name)
    if task == "task2":
        row = corpus.row("parameter_count")
        assert np.isnan(corpus.values["within"][row])
        assert "no variation in group 6, 9, 12" in corpus.note[row]
        assert 0.85 < value(corpus, "distance_from_initialization_l2", "opposed") < 0.95


def test_the_published_grid() -> None:
    names = {"mc_train_err_pct": (0.458, -0.129), "l2_dist": (0.395, -0.278), "hess_top": (-0.738, -0.249)}
    names |= {"cka_softmax": (0.725, 0.524)}
    table = pandas.read_csv(shared("reference", "s1_published_grid.csv"))
    corpus = ls.analyse_corpus(table, "test_acc", "width", list(names), draws=400)
    for name, (overall, within) in names.items():
        assert round(value(corpus, name, "overall"), 3) == overall
        digit = 5e-3 if name == "cka_softmax" else 5e-4  # 0.528 by group sizes
        assert value(corpus, name, "within") == pytest.approx(within, abs=digit)
    assert corpus.simpson[corpus.row("l2_dist")] == "paradox"
    assert corpus.simpson[corpus.row("hess_top")] == corpus.simpson[corpus.row("cka_softmax")] == "none"
    whole = ls.analyse_corpus(table, "test_acc", ["width", "batch"], "l2_dist", draws=400)
    assert whole.simpson == ("paradox", "none")  # by width, by batch size
    assert "28 models left out" in whole.note[0]


def written(path: Path, columns: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*(list(c) for c in columns.values()), strict=True))
    return path


def a_table(n: int = 12, seed: int = 0) -> dict[str, Any]:
    stream = np.random.default_rng(seed)
    return {
        "norm": stream.normal(size=n),
        "alpha": stream.normal(size=n).round(1),
        "test_accuracy": stream.normal(size=n),
        "depth": np.tile([2, 10, 3], n // 3),
        "width": np.repeat([8, 16], n // 2),
        "optimizer": ["sgd", "adam"] * (n // 2),
    }


def test_every_form_of_a_table_and_any_order_of_models(tmp_path: Path) -> None:
    table = a_table()
    settings = {"hyperparameters": ["depth", "width", "optimizer"], "draws": 200}
    corpus = ls.analyse_corpus(table, **settings)
    assert corpus.metric == ("norm", "alpha")
    assert corpus.inside.group[:3] == ("2", "3", "10")
    assert {"granulated", "cmi", "partial", "partial_low"} <= set(corpus.values)
    for other in (written(tmp_path / "t.csv", table), pandas.DataFrame(table, index=[f"m{k}" for k in range(12)])):
        again = ls.analyse_corpus(other, **settings)
        for name, values in corpus.values.items():
            np.testing.assert_array_equal(values, again.values[name], err_msg=name)
    order = np.random.default_rng(1).permutation(12)
    moved = ls.analyse_corpus({k: [v[i] for i in order] for k, v in table.items()}, **settings)
    for name in (
        "overall",
        "within",
        "spearman_within",
        "slope_overall",
        "slope_within",
        "granulated",
        "cmi",
        "partial",
    ):
        np.testing.assert_allclose(corpus.values[name], moved.values[name], atol=1e-12, err_msg=name)
    other = ls.analyse_corpus(table, seed=1, **settings)
    assert not np.array_equal(corpus.values["overall_low"], other.values["overall_low"])
    assert np.array_equal(corpus.values["overall"], other.values["overall"])


def test_intervals_of_what_rests_on_hyper_parameters() -> None:
    """Percentiles of draws; of conditional information, which draws have too large, the basic interval's ends, too."""
    table = a_table() | {"all": np.ones(12)}
    named = ["depth", "width"]
    corpus = ls.analyse_corpus(table, groups="all", metrics="norm", hyperparameters=named, draws=200, level=0.9)
    settings = [[str(v) for v in table[name]] for name in named]
    x, y, counts = table["norm"], table["test_accuracy"], redrawn([12], 200, 0)[0]
    low, high = percentile_interval(granulated_kendall(x, y, settings, counts), 0.9)
    assert (value(corpus, "norm", "granulated_low"), value(corpus, "norm", "granulated_high")) == (low, high)
    found = float(conditional_information(x, y, settings)[0])
    low, high = percentile_interval(conditional_information(x, y, settings, counts), 0.9)
    assert value(corpus, "norm", "cmi_low") == max(0, min(low, 2 * found - high)) < low
    assert value(corpus, "norm", "cmi_high") == max(high, 2 * found - low)


def test_within_is_the_mean_of_groups_by_size() -> None:
    table = a_table()
    table["depth"] = [1] * 3 + [2] * 9
    corpus = ls.analyse_corpus(table, metrics="norm", draws=100)
    taus = [kendalltau(table["norm"][p], table["test_accuracy"][p]).statistic for p in (slice(3), slice(3, 12))]
    assert value(corpus, "norm", "within") == pytest.approx((3 * taus[0] + 9 * taus[1]) / 12, abs=1e-15)


def test_the_flag_is_not_decided_by_a_few_models() -> None:
    """Three models and two in a group have tau -1 in every draw that orders them, and 1 or -1 once in 6 by chance."""
    depth = np.array([1, 1, 1, 2, 2, *range(3, 10)])
    falling = np.array([0, 1, 2, 0, 1] + [0] * 7)
    corpus = ls.analyse_corpus({"depth": depth, "x": 10 * depth + falling, "y": 10 * depth - falling}, "y")
    assert value(corpus, "x", "within") == value(corpus, "x", "within_high") == -1
    assert value(corpus, "x", "overall_low") > 0.5
    assert value(corpus, "x", "p_within") == pytest.approx(0.0710, abs=1e-3)
    assert corpus.simpson == ("undecided",)


def test_no_order_inside_groups_is_seldom_called_a_paradox() -> None:
    """The chance is to be at most 2.5 %; more than 4 of 40 is seen once in 500 such tests."""
    stream, found, ordered = np.random.default_rng(3), 0, 0
    depth = np.repeat([0, 1, 2], 6)
    for _ in range(40):
        x, y = stream.normal(size=(2, 18)) + 3 * depth
        corpus = ls.analyse_corpus({"x": x, "y": y, "depth": depth}, "y", draws=100)
        found += corpus.simpson == ("paradox",)
        ordered += value(corpus, "x", "overall_low") > 0
    assert ordered == 40
    assert found <= 4


def test_holm_runs_over_all_rows() -> None:
    corpus = ls.analyse_corpus(a_table(), groups=["depth", "optimizer"], metrics=["norm", "alpha"], draws=100)
    p = np.sort(corpus.values["p_within"])
    assert corpus.values["p_within_holm"].min() == pytest.approx(min(1, 4 * p[0]))


def test_what_is_missing_or_does_not_vary_is_said() -> None:
    table = a_table()
    table["norm"][[0, 3]] = np.nan, np.inf
    table["flat"] = [7.0] * 12
    table["empty"] = [None] * 12
    table["depth"] = [1] * 5 + [2] * 6 + [3]
    table["width"] = [8.0] * 6 + [16.0] * 5 + [np.nan]
    corpus = ls.analyse_corpus(pandas.DataFrame(table), draws=100)
    row, flat, empty = (corpus.row(name) for name in ("norm", "flat", "empty"))
    assert corpus.models.tolist() == [10, 12, 11, 12, 0]  # width, too, is a column of numbers
    assert corpus.note[row] == "2 models left out: a cell is missing; one model in group 3"
    assert corpus.note[flat] == "the metric is constant"
    assert corpus.note[empty] == "12 models left out: a cell is missing; fewer than two models"
    for k in (flat, empty):
        assert corpus.simpson[k] == "undecided"
        assert all(np.isnan(corpus.values[name][k]) for name in ("overall", "within", "overall_low", "p_within_holm"))
    assert np.isfinite(corpus.values["within"][row])
    assert np.isnan(corpus.columns["norm"][[0, 3]]).all()
    by_width = ls.analyse_corpus(pandas.DataFrame(table), groups="width", metrics="alpha", draws=100)
    assert by_width.models.tolist() == [11]
    assert by_width.inside.group == ("8", "16")


def test_numbers_of_models_join_whatever_their_type(tmp_path: Path) -> None:
    first = 20_261_130_000_000
    table = {**a_table(), "model": list(range(first, first + 12))}
    mine = pandas.DataFrame({"model": [float(first + k) for k in range(12)], "mine": np.arange(12.0) % 5})
    corpus = ls.analyse_corpus([written(tmp_path / "t.csv", table), mine], metrics=["norm", "mine"], draws=100)
    assert corpus.models.tolist() == [12, 12]
    mine["model"] = [f"net-{k}" for k in range(12)]
    with pytest.raises(
        ls.InputError, match=r"none of the models before it: its first is 'net-0', theirs '20261130000000'"
    ):
        ls.analyse_corpus([table, mine])


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "<NA>", "#N/A", "NULL", "nan", "inf"])
def test_a_cell_that_is_not_known_leaves_a_column_its_numbers(tmp_path: Path, cell: str) -> None:
    table = a_table()
    table["norm"] = [cell, *map(str, table["norm"][1:])]
    corpus = ls.analyse_corpus(written(tmp_path / "t.csv", table), draws=100)
    assert corpus.models[corpus.row("norm")] == 11


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "target": ({}, {"target": "test_acc"}, "did you mean 'test_accuracy'"),
    "group": ({}, {"groups": "dept"}, "did you mean 'depth'"),
    "metric": ({}, {"metrics": ["norms"]}, "did you mean 'norm'"),
    "hyper-parameter": ({}, {"hyperparameters": "widht"}, "did you mean 'width'"),
    "texts for a metric": ({}, {"metrics": "optimizer"}, "model 1 of the table has 'sgd'"),
    "texts for the target": ({"test_accuracy": ["0.9"] * 11 + ["high"]}, {}, "model 12 of the table has 'high'"),
    "constant target": ({"test_accuracy": [0.5] * 12}, {}, "0.5 of every model"),
    "unknown target": ({"test_accuracy": [0.5, 0.6] + [None] * 10}, {}, "known of 2 of 12"),
    "one model in every group": ({"depth": list(range(12))}, {}, "no group holds two"),
    "ragged": ({"depth": [1, 2]}, {}, "different numbers of models"),
    "group twice": ({}, {"groups": ["depth", "depth"]}, "each once"),
    "target as group": ({}, {"groups": "test_accuracy"}, "the target itself"),
    "group as metric": ({}, {"metrics": "depth"}, "says the groups"),
    "no metric": ({}, {"metrics": []}, "metrics is empty"),
    "level": ({}, {"level": 95}, "level=95; give a finite number between 0 and 1"),
    "draws": ({}, {"draws": 10}, "draws=10; give a whole number of 100 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_cause(case: str) -> None:
    change, asked, said = BAD[case]
    with pytest.raises(ls.InputError, match=said):
        ls.analyse_corpus({**a_table(), **change}, **asked)


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    cases = {"a,a\n1,2\n": "more than one column 'a'", "a,b\n1\n": "model 1 .* has 1 cells", "": "is empty"}
    for text, said in cases.items():
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(ls.InputError, match=said):
            ls.analyse_corpus(tmp_path / "t.csv")
    with pytest.raises(ls.InputError, match="cannot read"):
        ls.analyse_corpus(tmp_path / "none.csv")
    with pytest.raises(ls.InputError, match="not a int"):
        ls.analyse_corpus(3)


def test_a_table_that_went_through_a_file(tmp_path: Path) -> None:
    """Errors and what was computed are no metrics; a missing cell has many names."""
    table = a_table()
    names, n = ("norm", "alpha", "test_accuracy", "depth"), 12
    values = {name: np.asarray(table[name], dtype=float) for name in names}
    rows = tuple(f"model {k}" for k in range(n))
    measures = ls.Measures(rows, "model", values, {"norm": np.ones(n)}, {}, np.ones(n, dtype=bool))
    frame = measures.to_pandas()
    frame.to_csv(tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text().splitlines()
    for other in (frame, tmp_path / "t.csv"):
        assert ls.analyse_corpus(other, draws=100).metric == ("norm", "alpha")
    cells = text[1].split(",")
    cells[text[0].split(",").index("norm")] = "n/a"
    (tmp_path / "t.csv").write_text("\n".join([text[0], ",".join(cells), *text[2:]]))
    assert ls.analyse_corpus(tmp_path / "t.csv", draws=100).models[0] == n - 1


def test_a_result_is_a_table() -> None:
    table, n = a_table(), 12
    names = ("norm", "alpha", "test_accuracy", "depth")
    rows = tuple(f"model {k}" for k in range(n))
    values = {name: np.asarray(table[name], dtype=float) for name in names}
    measures = ls.Measures(rows, "model", values, {}, {}, np.ones(n, dtype=bool))
    corpus = ls.analyse_corpus(measures, metrics=["norm", "alpha"], draws=100)
    plain = ls.analyse_corpus(table, metrics=["norm", "alpha"], draws=100)
    np.testing.assert_array_equal(corpus.values["within"], plain.values["within"])


def test_tables_are_joined_by_model(tmp_path: Path) -> None:
    table, names = a_table(), [f"m{k}" for k in range(12)]
    first = {"model": names, **{key: table[key] for key in ("test_accuracy", "depth")}}
    measures = ls.Measures(
        tuple(names[::-1]), "model", {"norm": table["norm"][::-1].copy()}, {}, {}, np.ones(12, dtype=bool)
    )
    third = {"model": ["m3", "new"], "extra": [1.0, 2.0]}
    joined = ls.analyse_corpus([written(tmp_path / "a.csv", first), measures, third], metrics="norm", draws=100)
    plain = ls.analyse_corpus(table, metrics="norm", draws=100)
    np.testing.assert_array_equal(joined.values["within"], plain.values["within"])
    assert joined.note == ("1 model left out: a cell is missing",)
    for tables, said in (
        ([first, {"x": [1]}], "no column 'model'"),
        ([first, first], "both have a column 'depth'"),
        ([{"model": ["a", "a"]}], "model 'a' more than once"),
        ([], "empty"),
    ):
        with pytest.raises(ls.InputError, match=said):
            ls.analyse_corpus(tables)


def test_pictures_say_what_is_not_there() -> None:
    corpus = ls.analyse_corpus(SIMPSON, "y", draws=100)
    figure = corpus.plot("scatter", metric="x")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    ends = lines["all models"].get_xydata()
    assert (ends[1, 1] - ends[0, 1]) / (ends[1, 0] - ends[0, 0]) == pytest.approx(1.912621, abs=1e-6)
    assert "Simpson's paradox" in [text.get_text() for text in corpus.plot().legends[0].texts]
    for options, said in (
        ({"kind": "bars"}, "known: chart, scatter"),
        ({"kind": "scatter", "metric": "z"}, "known: x"),
        ({"metric": "x"}, "belongs to kind='scatter'"),
        ({"groups": "width"}, "did you mean 'depth'"),
    ):
        with pytest.raises(ls.InputError, match=said):
            corpus.plot(**options)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "table.csv", {**SIMPSON, "test_accuracy": SIMPSON["y"]})
    words = ["corpus", "table.csv", "--target", "test_accuracy", "--groups", "depth", "--metric", "x", "--draws", "100"]
    done = CliRunner().invoke(app, [*words, "-o", "a.png", "--table", "out.csv", "--save", "a.h5"])
    assert done.exit_code == 0, done.output
    assert "1 paradox" in done.output
    assert "0.429" in done.output
    assert (tmp_path / "a.png").exists()
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    opened = ls.open("a.h5")
    assert isinstance(opened, ls.Corpus)
    assert float(row["overall"]) == float(opened.values["overall"][0])
    wrong = CliRunner().invoke(app, ["corpus", "table.csv", "--target", "accuracy"])
    assert wrong.exit_code == 2
    assert "did you mean 'test_accuracy'" in wrong.output
