"""Which measures are computed, skipped and refused; a user's own; runs that stop and go on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape as ls
from landscape.studies.complexity.catalogue import MEASURES
from landscape.studies.complexity.subject import Subject


@pytest.fixture(scope="module")
def of() -> ls.Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return ls.Objective(model, data=(torch.randn(30, 3), torch.arange(30) % 2))


def norm(subject: Subject) -> torch.Tensor:
    """For a job: "test_complexity:norm"."""
    return subject.theta.norm()


own = ls.measure("named", norm)


def test_own_measures(of: ls.Objective) -> None:
    def raises(subject: Subject) -> float:
        raise KeyError("gone")

    def moved(subject: Subject) -> float:
        return float((subject.theta - subject.initial).norm())

    mine = [
        ls.measure("estimate", lambda s: ls.Estimate(1.5, stderr=0.5, n=7)),
        ls.measure("nan", lambda s: float("nan")),
        ls.measure("vector", lambda s: s.theta),
        ls.measure("text", lambda s: "large"),
        ls.measure("forgets", lambda s: None),
        ls.measure("says_no_need", moved),
        ls.measure("raises", raises),
        ls.measure("moved", moved, "initial"),
        ls.measure("margin", lambda s: s.margins.mean(), needs=("margins",)),
    ]
    found = ls.measure_complexity(of, measures=[*mine, "param_norm", "test_complexity:norm", "test_complexity:own"])
    assert found["estimate"].stderr == 0.5
    assert np.isnan(found["nan"])
    assert "returned NaN" in found.notes[found.names.index("nan")]
    assert set(found.skipped) == {"vector", "text", "forgets", "says_no_need", "raises", "moved"}
    assert "(22,)" in found.skipped["vector"] or "shape" in found.skipped["vector"]
    assert "str" in found.skipped["text"]
    assert "KeyError" in found.skipped["raises"]
    assert "returned None" in found.skipped["forgets"]
    assert found.skipped["moved"] == found.skipped["says_no_need"]
    assert "initial=" in found.skipped["moved"]
    assert found["norm"] == found["named"] == pytest.approx(float(of.theta.norm()))
    assert found["param_norm"] > 0
    assert "margin" in found.estimates
    with_initial = ls.measure_complexity(of, measures=mine[7], initial=torch.zeros_like(of.theta))
    assert with_initial["moved"] == pytest.approx(float(of.theta.norm()))
    frame = found.to_pandas()
    assert {"measure", "value", "stderr", "adjusted", "source", "passes"} <= set(frame.columns)
    assert "nan" not in found.adjusted


def test_what_a_call_does_not_have_is_said(of: ls.Objective) -> None:
    cheap = [name for name, one in MEASURES.items() if one.family == "norms"]
    found = ls.measure_complexity(of, measures=cheap)
    assert set(found.skipped) == {name for name in cheap if "initial" in MEASURES[name].needs}
    model = nn.Linear(3, 2)
    regression = ls.Objective(model, "mse", (torch.randn(20, 3), torch.randn(20, 2)))
    found = ls.measure_complexity(regression, measures=[*cheap, "pacbayes_flatness"], initial=copy.deepcopy(model))
    assert set(found.skipped) == {
        "pacbayes_flatness",
        *(name for name in cheap if "margins" in MEASURES[name].needs),
    }
    assert "no class scores" in found.skipped["inverse_margin"]
    with pytest.raises(ls.InputError, match="skipped: there are no margins"):
        found["inverse_margin"]
    with pytest.raises(ls.InputError, match="param_norm"):
        found["parm_norm"]


def test_batchnorm_that_is_not_fused_is_named() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    of = ls.Objective(model, data=(torch.randn(20, 3), torch.arange(20) % 2))
    found = ls.measure_complexity(of, measures="param_norm")
    assert found.attributes["batchnorm"] == "1 fused into the layers before, affine: 0"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"measures": "pathnorm"}, "path_norm"),
        ({"measures": []}, "names none"),
        ({"measures": 3}, "measures=3; give a text or a Measure"),
        ({"measures": "no_such_module:f"}, "cannot be imported"),
        ({"measures": "test_complexity:nrm"}, "norm"),
        ({"measures": "test_complexity:MEASURES"}, "dict"),
        ({"measures": ["params", ls.measure("params", norm)]}, "two measures"),
        ({"parity": "jian"}, "jiang"),
        ({"tol": 0}, "between 0 and 1"),
        ({"initial": torch.zeros(5)}, "5 values"),
    ],
)
def test_refused(of: ls.Objective, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ls.InputError, match=word.replace("(", "\\(")):
        ls.measure_complexity(of, **options)


def test_no_measure() -> None:
    with pytest.raises(ls.InputError, match="letter"):
        ls.measure("2 norm", norm)
    with pytest.raises(ls.InputError, match="function"):
        ls.measure("mine", 3)  # type: ignore[arg-type]
    with pytest.raises(ls.InputError, match="initial"):
        ls.measure("mine", norm, needs="inital")


def test_stopped_and_resumed_equals_whole(of: ls.Objective, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"measures": ["param_norm", "path_norm", "pacbayes_flatness", "fisher_rao"], "tol": 0.4}
    of = trained(of)
    whole = ls.measure_complexity(of, **asked)
    part = ls.measure_complexity(of, tmp_path / "run", limit_items=2, **asked)
    assert not part.complete
    with pytest.raises(ls.InputError, match="not computed yet"):
        part["fisher_rao"]
    done = ls.measure_complexity(of, tmp_path / "run", **asked)
    read = ls.open(tmp_path / "run")
    assert isinstance(read, ls.Complexity)
    for one in (done, read):
        for name in ("value", "stderr", "adjusted_value", "adjusted_stderr", "passes", "n"):
            np.testing.assert_array_equal(getattr(one, name), getattr(whole, name))
        assert (one.names, one.notes, one.units) == (whole.names, whole.notes, whole.units)


def trained(of: ls.Objective) -> ls.Objective:
    """The same network, its labels those that it gives."""
    with of.differentiable() as (model, _), torch.no_grad():
        inputs = of.data.first[0]
        labels = model(inputs).argmax(1)
        labels[0] = 1 - labels[0]
        return ls.Objective(copy.deepcopy(model), data=(inputs.clone(), labels))
