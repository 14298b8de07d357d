"""Sign errors against loops over all pairs, the published means, and what is refused."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from landscape_kernels.rank_statistics import weighted_mean
from landscape_kernels.sign_errors import environments, noise_weight, over_axes, sign_errors
from shared import shared

import landscape as ls


def table(seed: int = 0, seeds: int = 4) -> dict[str, Any]:
    """Two learning rates, three depths, four models each; "good" follows the gap, "noise" does not."""
    stream = np.random.default_rng(seed)
    cells = np.array(list(itertools.product((0.1, 0.2), (2, 3, 4), range(seeds))))
    lr, depth = cells[:, 0], cells[:, 1]
    gap = 0.1 * depth + 0.3 * lr + 0.02 * stream.normal(size=len(lr))
    return {"lr": lr, "depth": depth, "gap": gap, "good": gap**3, "noise": stream.normal(size=len(lr))}


def test_weight_of_a_difference() -> None:
    found = noise_weight(np.array([0.05, 0.0, 1.0]), 10_000)
    assert found[0] == pytest.approx(0.9999850934, abs=5e-11)
    assert found[1] == 0
    assert found[2] == 1


def test_equals_loops_over_all_pairs() -> None:
    data = table()
    x, gap = data["noise"], data["gap"]
    combos = sorted(set(zip(data["lr"], data["depth"], strict=True)))
    errors: dict[str, list[float]] = {"lr": [], "depth": []}
    for one, other in itertools.combinations(combos, 2):
        if sum(a != b for a, b in zip(one, other, strict=True)) != 1:
            continue
        whole = squares = wrong = 0.0
        for i, j in itertools.product(range(len(x)), repeat=2):
            if (data["lr"][i], data["depth"][i]) != one or (data["lr"][j], data["depth"][j]) != other:
                continue
            w = max(0.0, 1 - 2 * math.exp(-2 * 400 * ((gap[i] - gap[j]) / 2) ** 2)) ** 2
            w = max(w - 0.5, 0.0)
            whole, squares = whole + w, squares + w * w
            wrong += w * (1 - np.sign(x[i] - x[j]) * np.sign(gap[i] - gap[j])) / 2
        if squares and whole**2 / squares >= 5:
            errors["lr" if one[0] != other[0] else "depth"].append(wrong / whole)
    assert 0 < len(errors["lr"]) + len(errors["depth"]) < 9  # some are left out
    found = ls.sign_errors(data, hyperparameters=["lr", "depth"], samples=400, least=5, draws=100)
    row = found.rows.index("noise")
    every = errors["lr"] + errors["depth"]
    assert found.values["environments"][row] == len(every)
    for name, expected in (("mean", np.mean(every)), ("mean_depth", np.mean(errors["depth"])), ("max", max(every))):
        assert found.values[name][row] == pytest.approx(expected, rel=1e-12), name
    assert found.values["p90"][row] == pytest.approx(np.percentile(every, 90), rel=1e-12)
    assert found.values["mean"][found.rows.index("good")] == 0


def test_draws_are_the_models_written_out() -> None:
    data = table(1)
    found = ls.sign_errors(data, hyperparameters=["lr", "depth"], metrics="noise", samples=None, draws=200, level=0.9)
    again = ls.sign_errors(data, hyperparameters=["lr", "depth"], metrics="noise", samples=None, draws=200, level=0.9)
    low, mean, high = (float(found.values[f"mean{end}"][0]) for end in ("_low", "", "_high"))
    assert 0 < low < mean < high < 1
    assert again.values["mean_low"][0] == low
    assert found.stderr["mean"][0] == pytest.approx((high - low) / 3.29, rel=0.25)
    among = environments(data["gap"], [data["lr"].tolist(), data["depth"].tolist()], None)
    counts = np.random.default_rng(0).integers(0, 3, (3, len(data["gap"]))).astype(float)
    drawn = sign_errors(data["noise"], data["gap"], among, counts)
    for draw, errors in zip(counts.astype(int), drawn, strict=True):
        models = np.repeat(np.arange(len(draw)), draw)
        labels = [data["lr"][models].tolist(), data["depth"][models].tolist()]
        written = environments(data["gap"][models], labels, None)
        expected = sign_errors(data["noise"][models], data["gap"][models], written)[0]
        assert sorted(errors[np.isfinite(errors)].tolist()) == pytest.approx(sorted(expected.tolist()))


def test_an_error_covers_what_other_models_give() -> None:
    means = [
        float(ls.sign_errors(table(k), hyperparameters=["lr", "depth"], metrics="noise", draws=100).values["mean"][0])
        for k in range(10, 40)
    ]
    found = ls.sign_errors(table(9), hyperparameters=["lr", "depth"], metrics="noise")
    assert found.stderr["mean"][0] == pytest.approx(np.std(means), rel=0.5)


def test_published_means() -> None:
    """24 measures of Dziugaite et al.: the mean over all environments is that of the five hyper-parameters' own."""
    with shared("reference", "s2_dziugaite_sign_error_summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = sorted({row["metric"] for row in rows})
    assert len(metrics) == 24
    for metric in metrics:
        mine = [row for row in rows if row["metric"] == metric]
        (whole,) = (row for row in mine if row["hyperparameter"] == "all")
        parts = [row for row in mine if row["hyperparameter"] != "all"]
        sizes = np.array([float(row["environments"]) for row in parts])
        means = np.array([[float(row["mean_sign_error"]) for row in parts]])
        assert weighted_mean(means, sizes)[0] == pytest.approx(float(whole["mean_sign_error"]), rel=1e-12)
        assert sizes.sum() == float(whole["environments"])


def test_means_over_axes_make_the_mean() -> None:
    errors, axis = np.array([[0.0, 1.0, np.nan, 0.5]]), np.array([0, 0, 1, 2])
    means, numbers = over_axes(errors, axis, 4)
    np.testing.assert_array_equal(means, [[0.5, np.nan, 0.5, np.nan]])
    np.testing.assert_array_equal(numbers, [[2, 0, 1, 0]])
    assert weighted_mean(means, numbers[0])[0] == pytest.approx(0.5)


def test_missing_cells_and_names_with_spaces(tmp_path: Path) -> None:
    data = table()
    data["batch size"] = data.pop("depth")
    data["noise"] = np.where(np.arange(24) < 5, np.nan, data["noise"])
    data["empty"] = np.full(24, np.nan)
    found = ls.sign_errors(data, hyperparameters=["lr", "batch size"], draws=100)
    assert found.computed.tolist() == [True, True, False]
    assert np.isfinite(found.values["mean_batch_size"][:2]).all()
    again = ls.open(found.save(tmp_path / "found.h5"))
    np.testing.assert_array_equal(again.values["mean_batch_size_low"], found.values["mean_batch_size_low"])
    assert "where batch size differs" in again.words["mean_batch_size"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hyperparameters": ()}, "hyperparameters is empty"),
        ({"hyperparameters": ["lr", "width"]}, "'width' is no column"),
        ({"gap": "error"}, "gap 'error' is no column"),
        ({"metrics": "gap"}, "'gap' is the gap or a hyper-parameter"),
        ({"least": 17}, r"none of 9 environments has 17 pairs .* at most 16"),
        ({"hyperparameters": "lr", "table": {"lr": [1], "gap": [0.1], "c": [2.0]}}, "no two models"),
        ({"samples": 0}, "samples=0"),
        ({"draws": 10}, "draws=10"),
        ({"level": 1.0}, "level=1.0"),
    ],
)
def test_sign_errors_refused(change: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"table": table(), "hyperparameters": ["lr", "depth"], "samples": None, **change}
    with pytest.raises(ls.InputError, match=said):
        ls.sign_errors(**asked)
