"""What an audit says of tables of models whose answers are known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import landscape as ls
from landscape.studies.audit.statistics import log10_of, slope_of
from landscape.studies.audit.tables import audit_tables

SIZES = (100, 300, 1000, 3000, 10000)


def table(
    ratio: float = 1.0,
    slopes: tuple[float, float] = (0.4, 0.4),
    scatter: float = 0.0,
    gap: float = 0.0,
    seeds: int = 3,
    stream: np.random.Generator | None = None,
) -> dict[str, list[Any]]:
    """Two optimisers at five sizes: C = m^slope, of adam times `ratio` at the middle of log m; `gap` of test error."""
    stream = stream or np.random.default_rng(0)
    middle = np.mean(np.log10(SIZES))
    rows: dict[str, list[Any]] = {
        name: [] for name in ("optimizer", "samples", "seed", "test_error", "norm", "log_norm2")
    }
    for optimizer, m, seed in itertools.product(("sgd", "adam"), SIZES, range(seeds)):
        adam = optimizer == "adam"
        log = slopes[adam] * (np.log10(m) - middle) + adam * np.log10(ratio) + scatter * stream.normal()
        values = (optimizer, m, seed, 0.3 - 0.02 * np.log10(m) + adam * gap, 10**log, 2 * np.log(10) * log)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
    return rows


def audited(found: dict[str, list[Any]], **asked: Any) -> ls.Audit:
    return ls.audit_table(found, ["norm", "log_norm2"], "optimizer", **asked)


def test_ratio_and_slopes_are_those_that_were_put_in() -> None:
    found = audited(table(3.0, (0.4, -0.1)))
    values = found.comparisons.values
    assert (found.comparisons.first, found.comparisons.second) == (("sgd",) * 2, ("adam",) * 2)
    np.testing.assert_allclose(values["ratio"], [3, 9], rtol=1e-12)  # log_norm2 is the logarithm of a square
    for name, expected in (("slope_first", 0.4), ("slope_second", -0.1), ("slope_change", -0.5)):
        np.testing.assert_allclose(values[name], [expected, 2 * expected], rtol=1e-12)
        np.testing.assert_allclose(values[f"{name}_low"], values[f"{name}_high"], rtol=1e-12)
    assert found.comparisons.verdict == ("fragile", "fragile")
    assert found.verdict("norm", "optimizer") == "fragile"
    assert found.fold("norm", "optimizer") == pytest.approx(3)


@pytest.mark.parametrize(
    ("ratio", "slopes", "verdict", "p_ratio", "p_flip"),
    [
        (1.9, (0.4, 0.1), "robust", 0, 0),
        (1 / 1.9, (0.4, 0.1), "robust", 0, 0),
        (2.1, (0.4, 0.1), "fragile", 1, 0),
        (1 / 2.1, (0.4, 0.1), "fragile", 1, 0),
        (1.0, (0.4, -0.1), "fragile", 0, 1),
        (1.0, (0.0, 0.0), "robust", 0, 0),  # slopes of 0 have no sign, whatever rounding leaves
        (1.0, (0.0, 0.3), "robust", 0, 0),
    ],
)
def test_fragile_is_a_factor_of_two_or_another_sign(
    ratio: float, slopes: tuple[float, float], verdict: str, p_ratio: float, p_flip: float
) -> None:
    found = audited(table(ratio, slopes)).comparisons
    assert found.verdict[0] == verdict
    assert (found.values["p_ratio"][0], found.values["p_flip"][0]) == (p_ratio, p_flip)
    assert found.values["probability"][0] == max(p_ratio, p_flip)


def test_only_pairs_that_do_equally_well_are_compared() -> None:
    rows = table(3.0, gap=0.004)
    for k, (optimizer, m) in enumerate(zip(rows["optimizer"], rows["samples"], strict=True)):
        if optimizer == "adam" and m == 100:
            rows["test_error"][k] += 0.5
            rows["norm"][k] *= 1e6
    found = audited(rows)
    assert (found.comparisons.pairs[0], found.comparisons.matched[0]) == (5, 4)
    middle = np.log10(SIZES[1:]).mean() - np.log10(SIZES).mean()
    logs = [0.4 * middle] * 2  # equal slopes: the ratio stays
    np.testing.assert_allclose(found.comparisons.values["ratio"][0], 3 * 10 ** (logs[1] - logs[0]), rtol=1e-12)


def test_too_few_pairs_say_how_many_and_which_within_would_match_more() -> None:
    gaps = iter((0.2, 0.03, 0.0312, 0.001, 0.09))
    rows = table(3.0)
    for m in SIZES:
        gap = next(gaps)
        for k, (optimizer, size) in enumerate(zip(rows["optimizer"], rows["samples"], strict=True)):
            rows["test_error"][k] = (
                0.1 + gap * (optimizer == "adam" and size == m) if size == m else rows["test_error"][k]
            )
    found = audited(rows).comparisons
    assert found.note[0] == "1 of 5 pairs agree within 0.01; within=0.032 would match 3; no slopes"
    rows["norm"] = [1.0 + 0.01 * seed for seed in rows["seed"]]  # alike in both arms, but their slopes were not seen
    alike = audited(rows).comparisons
    assert alike.values["probability"][0] == 0
    assert alike.verdict[0] == "undecided"
    assert found.verdict[0] == "fragile"  # by the ratio of the one pair
    again = audited(rows, within=0.032).comparisons
    assert (again.matched[0], again.note[0]) == (3, "")
    none = audited(rows, within=0.0005).comparisons
    assert none.verdict[0] == "undecided"
    assert np.isnan(none.values["ratio"][0])
    assert none.note[0] == "0 of 5 pairs agree within 0.0005; within=0.032 would match 3"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Over 150 tables of 3 seeds: of 95 % intervals as many hold it as are 0.95 less 3 standard errors and t's tail."""
    stream = np.random.default_rng(5)
    held = {"ratio": 0, "slope_first": 0, "slope_change": 0}
    truth = {"ratio": 1.5, "slope_first": 0.4, "slope_change": -0.2}
    fragile = 0
    for _ in range(150):
        found = ls.audit_table(table(1.5, (0.4, 0.2), 0.2, stream=stream), "norm", "optimizer", draws=400).comparisons
        for name, value in truth.items():
            held[name] += bool(found.values[f"{name}_low"][0] <= value <= found.values[f"{name}_high"][0])
        fragile += found.verdict[0] == "fragile"
    for name, count in held.items():
        assert 0.87 < count / 150 < 1.0, (name, count)  # 20 degrees of freedom: 0.94 of a normal quantile; 3 x 0.019
    assert fragile == 0


def test_probability_of_a_ratio_that_is_known_poorly_is_a_half() -> None:
    """At the threshold itself both are as likely: the mean of the probability over tables is 1/2."""
    stream = np.random.default_rng(7)
    found = [
        ls.audit_table(table(2.0, scatter=0.3, stream=stream), "norm", "optimizer", draws=200).comparisons
        for _ in range(100)
    ]
    for one in found:
        sure = one.values["probability"][0]
        assert one.verdict[0] == ("fragile" if sure >= 0.95 else "robust" if sure <= 1 - 0.95 else "undecided")
    assert {one.verdict[0] for one in found} == {"fragile", "undecided", "robust"}
    mean = np.mean([one.values["p_ratio"][0] for one in found])
    assert abs(mean - 0.5) < 3 * 0.29 / 10  # of a number that is uniform between 0 and 1


def test_one_seed_tells_no_error() -> None:
    found = audited(table(5.0, seeds=1)).comparisons
    assert found.values["ratio"][0] == pytest.approx(5)
    assert np.isnan(found.values["probability"][0])
    assert found.verdict[0] == "undecided"
    assert "one seed" in found.note[0]


def test_draws_follow_from_the_cell_and_the_seed_alone() -> None:
    rows = table(1.5, scatter=0.2)
    whole = audited(rows).comparisons.values["ratio_low"][0]
    turned = {name: column[::-1] for name, column in rows.items()}  # the order of the models, so of the two arms
    again = audited(turned).comparisons.values["ratio_high"][0]
    assert abs(np.log10(whole * again)) < 0.01
    assert audited(rows).comparisons.values["ratio_low"][0] == whole
    assert audited(rows, seed=1).comparisons.values["ratio_low"][0] != whole


def test_values_that_are_no_positive_numbers_are_left_out_and_said() -> None:
    rows = table(3.0)
    rows["norm"][0] = rows["norm"][1] = rows["norm"][2] = -1.0  # the whole first cell
    rows["norm"][3] = float("nan")  # one seed of the second
    found = audited(rows).comparisons
    assert found.matched[0] == 4
    assert found.matched[1] == 5
    left_out = "no positive value in 1 of 24 models, which are left out"
    assert found.note[0] == f"no positive value in 1 matched pairs; {left_out}"
    np.testing.assert_allclose(found.values["ratio"][0], 3, rtol=1e-12)


# -- knobs -----------------------------------------------------------------------------------------------------------


def test_order_tells_of_models_without_a_value() -> None:
    harder = noisy((0, 1, 2, 3, 4))
    harder["norm"][0] = float("nan")
    orders = ls.audit_table(harder, "norm", (), complexity="label_noise").orders
    assert orders.note == ("no positive value in 1 of 75 models, which are left out",)


def test_errors_that_differ_by_just_what_is_allowed_agree() -> None:
    rows = table()
    rows["test_error"] = [0.31 if optimizer == "adam" else 0.3 for optimizer in rows["optimizer"]]
    assert 0.31 - 0.3 > 0.01  # by rounding
    found = audited(rows, within=0.01).comparisons
    assert found.matched.tolist() == [5, 5]
    assert found.note == ("", "")


def arms() -> dict[str, list[Any]]:
    """A star: a base, one with another optimiser and step size, one with another batch size; of two widths."""
    rows: dict[str, list[Any]] = {
        name: [] for name in ("optimizer", "lr", "batch", "width", "samples", "seed", "test_error", "norm")
    }
    recipes = (("sgd", 0.1, 128), ("adam", 0.001, 128), ("sgd", 0.1, 32))
    for (optimizer, lr, batch), width, m, seed in itertools.product(recipes, (8, 16), SIZES, range(2)):
        norm = (
            m**0.5 * (7 if optimizer == "adam" and width == 16 else 1) * (1.5 if batch == 32 else 1) * (1 + seed / 50)
        )
        for name, value in zip(rows, (optimizer, lr, batch, width, m, seed, 0.2, norm), strict=True):
            rows[name].append(value)
    return rows


def test_settings_are_compared_apart_and_a_knob_may_be_of_several_keys() -> None:
    found = ls.audit_table(arms(), "norm", ["optimizer+lr", "batch"], keys="width")
    one = found.comparisons
    assert one.knob == ("optimizer+lr",) * 2 + ("batch",) * 2
    assert (one.first[0], one.second[0]) == ("sgd+0.1", "adam+0.001")
    assert one.setting[:2] == ("batch=128,width=8", "batch=128,width=16")
    np.testing.assert_allclose(one.values["ratio"], [1, 7, 1.5, 1.5], rtol=1e-12)
    assert one.verdict == ("robust", "fragile", "robust", "robust")
    assert (found.verdict("norm", "optimizer+lr"), found.verdict("norm", "batch")) == ("fragile", "robust")


def test_tables_are_narrow_and_name_each_comparison_once() -> None:
    rows = arms()
    rows["norm2"] = [value**2 for value in rows["norm"]]
    found = ls.audit_table(rows, ["norm", "norm2"], ["optimizer+lr", "batch"], keys="width")
    tables = {one.title: one for one in audit_tables(found, "audit")}
    compared = [[cell.text for cell in row] for row in tables["what is compared"].rows]
    assert compared[1] == ["2", "optimizer+lr", "sgd+0.1 to adam+0.001", "batch=128, width=16"]
    values = tables["value [interval]"]
    assert len(compared) == 4
    assert [row[1].text for row in values.rows] == [row[0] for row in compared] * 2
    assert max(len(one.columns) for one in tables.values()) <= 8  # of a terminal's 80 characters


def test_values_of_a_knob_of_several_keys_differ_in_all_of_them() -> None:
    rows = arms()
    for k, optimizer in enumerate(rows["optimizer"]):
        if optimizer == "adam" and rows["width"][k] == 16:
            rows["lr"][k], rows["width"][k] = 0.01, 8
    found = ls.audit_table(rows, "norm", "optimizer+lr", keys=("batch", "width")).comparisons
    assert set(zip(found.first, found.second, strict=True)) == {("sgd+0.1", "adam+0.001"), ("sgd+0.1", "adam+0.01")}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"knobs": "optimizer", "keys": ("lr", "batch", "width")},
            "lr changes with it; name them as one knob, 'optimizer",
        ),
        ({"knobs": "optimiser"}, "did you mean 'optimizer'"),
        ({"knobs": "batch", "keys": "lr"}, "two models agree in batch=128, lr=0.1, samples=100 and seed 0"),
        ({"knobs": "batch", "measures": "norms"}, "did you mean 'norm'"),
        ({"knobs": "batch", "measures": "optimizer"}, "is to be numbers"),
        ({"knobs": "batch", "within": -0.1}, "within=-0.1"),
        ({"knobs": "batch", "level": 1.0}, "level=1.0"),
        ({"knobs": "batch", "draws": 5}, "draws=5"),
        ({"knobs": "batch", "samples": "lr"}, "number of training samples"),
        ({"knobs": ()}, "nothing to audit"),
        ({"knobs": "batch", "keys": ("lr", "optimizer", "width"), "complexity": "noise"}, "'noise' is no column"),
    ],
)
def test_what_cannot_be_audited_says_why(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ls.InputError, match=r".") as told:
        ls.audit_table(**{"table": arms(), "measures": "norm", **asked})
    assert said in str(told.value)


# -- data complexity -------------------------------------------------------------------------------------------------


def noisy(order: tuple[int, ...], scatter: float = 0.0) -> dict[str, list[Any]]:
    """Five levels of label noise of growing test error, and a measure in the given order of these."""
    stream = np.random.default_rng(3)
    rows: dict[str, list[Any]] = {name: [] for name in ("label_noise", "samples", "seed", "test_error", "norm")}
    for level, m, seed in itertools.product(range(5), SIZES, range(3)):
        norm = 10.0 ** (order[level] + scatter * stream.normal())
        for name, value in zip(rows, (level / 4, m, seed, 0.1 + level / 10, norm), strict=True):
            rows[name].append(value)
    return rows


@pytest.mark.parametrize(
    ("order", "value", "verdict"),
    [
        ((0, 1, 2, 3, 4), 1.0, "follows"),
        ((4, 3, 2, 1, 0), -1.0, "against"),
        ((1, 1, 1, 1, 1), 0.0, "undecided"),
        ((0, 2, 1, 3, 4), 0.8, "follows"),  # one pair of ten is in the wrong order: 9/10 - 1/10
    ],
)
def test_order_over_the_data_is_that_of_kendall(order: tuple[int, ...], value: float, verdict: str) -> None:
    found = ls.audit_table(noisy(order), "norm", (), complexity="label_noise").orders
    assert (found.pairs[0], found.apart[0]) == (50, 50)
    np.testing.assert_allclose(
        [found.values[name][0] for name in ("order", "order_low", "order_high")], value, rtol=1e-12
    )
    assert found.verdict == (verdict,)


def test_data_that_are_as_hard_have_no_order() -> None:
    found = ls.audit_table(noisy((0, 1, 2, 3, 4)), "norm", (), complexity="label_noise", within=0.25).orders
    assert (found.pairs[0], found.apart[0]) == (50, 15)  # levels 3 or 4 apart: 3 of 10 pairs at each of 5 sizes
    nothing = ls.audit_table(noisy((0, 1, 2, 3, 4)), "norm", (), complexity="label_noise", within=0.9).orders
    assert nothing.verdict == ("undecided",)
    assert "no two test errors" in nothing.note[0]
    unsure = ls.audit_table(noisy((0, 0, 0, 0, 0), 1.0), "norm", (), complexity="label_noise").orders
    assert unsure.values["order_low"][0] < 0 < unsure.values["order_high"][0]


# -- parts -----------------------------------------------------------------------------------------------------------


def test_slopes_are_those_of_numpy() -> None:
    stream = np.random.default_rng(1)
    logs = stream.normal(size=(7, len(SIZES)))
    expected = [np.polyfit(np.log10(SIZES), row, 1)[0] for row in logs]
    np.testing.assert_allclose(slope_of(np.array(SIZES, dtype=float), logs), expected, rtol=1e-12)


def test_logarithms_by_their_bases() -> None:
    values = np.array([2.0, -2.0, np.inf, np.nan, 0.0])
    np.testing.assert_allclose(log10_of("norm", values), [np.log10(2), np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(
        log10_of("log_prod_of_spec", values), [2 / np.log(10), -2 / np.log(10), *[np.nan] * 2, 0]
    )
    for name in ("log_spectral_norm", "weights_log_norm"):
        np.testing.assert_allclose(log10_of(name, values), [2, -2, np.nan, np.nan, 0])


def test_pictures_name_what_settings_do_not_share_and_slopes_that_flip() -> None:
    parts = [table(1.0, (0.4, -0.1)), table(), table(), table(3.0)]
    settings = [(2, 0), (3, 0), (4, 0), (2, 1)]  # decay=0 is what most have; no depth is
    rows: dict[str, list[Any]] = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    for k, name in enumerate(("depth", "decay")):
        rows[name] = [setting[k] for setting, part in zip(settings, parts, strict=True) for _ in part["seed"]]
    found = audited(rows, keys=("depth", "decay"))
    names = [text.get_text() for text in found.plot("ratios", measure="norm").axes[0].get_yticklabels()]
    assert [name.split("adam, ")[1] for name in names] == ["depth=2", "depth=3", "depth=4", "depth=2, decay=1"]
    titles = [ax.get_title() for ax in found.plot("curves").axes]
    assert titles == [f"optimizer\n{end}" for end in ("depth=2", "depth=3", "depth=4", "depth=2, decay=1")]
    (ax,) = found.plot("matrix").axes
    assert "×3 ⇅" in [text.get_text() for text in ax.texts]
    (ax,) = audited(table(3.0)).plot("matrix").axes
    assert "×3" in [text.get_text() for text in ax.texts]
