"""`measure_profiles` to a stated error, against full passes at every point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_cases

import landscape as ls
from landscape.errors import InputError
from landscape.results.summary import result_tables
from landscape.studies.profiles.study import STUDY
from landscape.studies.profiles.tables import profiles_columns
from landscape.studies.profiles.views import profiles_views

LINES: dict[str, Any] = {"n": 3, "x": (-8, 8, 13), "seed": 3}
ASKED: dict[str, Any] = {"error": 0.015, "share": 0.8}  # several rounds


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return surface_cases.many_samples()


@pytest.fixture(scope="module")
def brute(objective: ls.Objective) -> ls.Profiles:
    return ls.measure_profiles(objective, **LINES)


@pytest.fixture(scope="module")
def precise(objective: ls.Objective) -> ls.Profiles:
    return ls.measure_profiles(objective, **LINES, **ASKED)


def arrays(profiles: ls.Profiles) -> bytes:
    assert profiles.error is not None
    assert profiles.found is not None
    parts = [p for q in profiles.values for p in (profiles.values[q], profiles.stderr[q], profiles.error[q])]
    return b"".join(part.tobytes() for part in [*parts, profiles.found, profiles.computed])


def test_values_are_those_of_full_passes_within_their_error(precise: ls.Profiles, brute: ls.Profiles) -> None:
    assert precise.error is not None
    assert precise.found is not None
    assert precise.complete
    anchors = precise.found == "anchor"
    assert anchors[:, [0, 3, 6, 9, 12]].all()
    assert (precise.found[~anchors] == "sampled").all()
    assert (~anchors).sum() > 10
    for name in ("loss", "accuracy"):
        gap, error = np.abs(precise.values[name] - brute.values[name]), precise.error[name]
        assert not gap[anchors].any()
        assert not error[anchors].any()
        assert (gap[~anchors] <= 5 * error[~anchors]).all()
        assert (gap[~anchors] <= 1.96 * error[~anchors]).mean() > 0.8
        np.testing.assert_array_equal(precise.stderr[name][anchors], brute.stderr[name][anchors])
        assert np.median(np.abs(precise.stderr[name] / brute.stderr[name] - 1)) < 0.1
    about = precise.attributes
    close = precise.error["loss"] <= 0.015 * precise.values["loss"]
    assert about["error_reached"] == close.mean() >= 0.8
    work = about["work"]
    assert work["share_of_brute_force"] == pytest.approx(work["sample_passes"] / 1200 / 39)
    assert work["sample_passes"] < 0.75 * 1200 * 39
    assert about["seed"] == 3


def test_file_tables_columns_and_words_tell_it(precise: ls.Profiles, brute: ls.Profiles, tmp_path: Path) -> None:
    back = ls.open(precise.save(tmp_path / "p.h5"))
    assert isinstance(back, ls.Profiles)
    assert arrays(back) == arrays(precise)
    assert precise.error is not None
    assert precise.error_sampling is not None
    assert precise.error_interpolation is not None
    assert back.error_sampling is not None
    for name, error in precise.error.items():
        assert back.error_sampling[name].tobytes() == precise.error_sampling[name].tobytes()
        np.testing.assert_allclose(precise.error_sampling[name], error, rtol=1e-12)
        assert not precise.error_interpolation[name].any()
    assert back.attributes["work"] == precise.attributes["work"]
    columns = profiles_columns(precise)
    assert list(columns)[2:7] == [
        "loss",
        "loss_stderr",
        "loss_error",
        "loss_error_sampling",
        "loss_error_interpolation",
    ]
    assert columns["found"] == precise.found.ravel().tolist()  # type: ignore[union-attr]
    told = str(next(result_tables(precise, "p")))
    assert "0.015 relative" in told
    assert "of brute force" in told
    assert "error 0.015 relative asked at 80% of the points" in str(precise)
    without = ls.open(brute.save(tmp_path / "b.h5"))
    assert isinstance(without, ls.Profiles)
    assert without.error is None
    assert without.found is None
    assert "found" not in profiles_columns(brute)


def test_errors_are_drawn_as_bands_and_as_quantities(precise: ls.Profiles, brute: ls.Profiles) -> None:
    band = "±2 errors of what was not measured"
    for profiles, drawn in ((precise, True), (brute, False)):
        named = [text.get_text() for box in profiles.plot("loss").legends for text in box.get_texts()]
        assert named.count(band) == drawn
        view = next(profiles_views(profiles, 1000)).views["loss"]
        assert (band in str(view)) == drawn
    assert "standard error of loss" in precise.plot("loss_error").axes[0].get_ylabel()
    assert {"loss_error", "accuracy_error_sampling"} <= set(next(profiles_views(precise, 1000)).views)
    with pytest.raises(InputError, match="loss_error"):
        brute.plot("loss_error")


def test_stopped_at_any_row_and_resumed_is_the_same_to_the_byte(
    objective: ls.Objective, precise: ls.Profiles, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for _ in range(20):
        part = ls.measure_profiles(objective, **LINES, **ASKED, out=out, limit_items=29)
        if part.complete:
            break
        assert part.found is not None
        assert not (out / "landscape.h5").exists()
        assert (part.computed == (part.found != "")).all()
    assert arrays(part) == arrays(precise)
    back = ls.open(out)
    assert isinstance(back, ls.Profiles)
    assert arrays(back) == arrays(precise)
    with pytest.raises(InputError, match="error"):
        ls.measure_profiles(objective, **LINES, error=0.02, out=out)


def test_small_data_get_full_passes_and_say_so() -> None:
    objective = ls.Objective(surface_cases.network(), "cross_entropy", surface_cases.data())
    brute, precise = (ls.measure_profiles(objective, 2, (-1, 1, 3), **e) for e in ({}, ASKED))
    assert precise.found is not None
    assert (precise.found == "anchor").all()
    assert precise.values["loss"].tobytes() == brute.values["loss"].tobytes()
    assert precise.attributes["work"]["full_passes"] == 5  # the centre is one point


@pytest.mark.parametrize("how", ["reestimated", "bf16"])
def test_what_else_goes_with_an_error(how: str, objective: ls.Objective) -> None:
    options: dict[str, Any] = {"n": 2, "x": (-0.2, 0.2, 7)}
    if how == "bf16":
        objective = objective.on(objective.data, chunk=256, precision="bf16")
    else:
        options["batchnorm"] = how
    brute = ls.measure_profiles(objective, **options)
    precise = ls.measure_profiles(objective, **options, error=0.05)
    assert precise.error is not None
    assert (precise.found == "sampled").any()
    gap, room = np.abs(precise.values["loss"] - brute.values["loss"]), 1e-6 * np.abs(brute.values["loss"])
    assert (gap <= 5 * precise.error["loss"] + room).all()
    work = precise.attributes["work"]
    if how == "bf16":
        assert precise.attributes["precision_error_relative"] == brute.attributes["precision_error_relative"]
    else:
        assert work["sample_passes"] == 9 * 2400 + (work["rounds_items"] - 9) * 1328


def test_a_check_foretells_the_work(objective: ls.Objective, precise: ls.Profiles, tmp_path: Path) -> None:
    assert STUDY.trial is not None
    trial = STUDY.trial(objective, {**LINES, **ASKED}, tmp_path / "out", 1)
    assert "of brute force, for an error of 0.015 relative at 80% of the points" in trial.said["work"]
    told = float(trial.said["work"].split()[1])
    assert 0.4 < told / precise.attributes["work"]["full_passes"] < 2
    plain = STUDY.trial(objective, LINES, tmp_path / "out", 1)
    assert plain.said["points"].startswith("39,")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"error": 0.0}, "above 0"),
        ({"error": 2.0}, "1 or more"),
        ({"error": 0.1, "scale": "relativ"}, "relative, absolute"),
        ({"error": 0.1, "share": 1.5}, "share=1.5"),
        ({"scale": "range"}, "give an error"),
    ],
)
def test_an_error_that_cannot_be_asked_is_refused(wrong: dict[str, Any], said: str, objective: ls.Objective) -> None:
    with pytest.raises(InputError, match=said):
        ls.measure_profiles(objective, **LINES, **wrong)
