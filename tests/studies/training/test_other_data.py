"""Studies of trained models that are given other data than a training recorded: told, and kept in the result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phases_cases as cases
import pytest

import landscape as ls
from landscape.results.attributes import what


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four models, two seeds of each width."""
    folder = tmp_path_factory.mktemp("other") / "run"
    recipe = ls.Recipe(epochs=1, batch_size=24)
    ls.train_models(
        cases.net,
        cases.data(),
        recipe=recipe,
        cells={"width": [3, 4], "lr": [0.1]},
        seeds=2,
        out=folder,
        test=cases.data(),
    )
    return folder


def phases(folder: Path, **given: Any) -> Any:
    return ls.measure_phases(folder, **given, **{**cases.ASKED, "load": "width", "temperature": "lr"})


def corpus(folder: Path, **given: Any) -> Any:
    return ls.measure_corpus(folder, "loss", **given)


def audit(folder: Path, **given: Any) -> Any:
    return ls.audit_fragility(folder, ["param_norm"], knobs=["width"], within=1.0, **given)


@pytest.mark.parametrize("study", [corpus, audit, phases])
def test_other_data_are_told(study: Callable[..., Any], folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        same = study(folder, factory=cases.net, data=cases.data(), limit_items=1)
    assert "other data" not in caplog.text + str(what(same.attributes))
    inputs, labels = cases.data()
    with caplog.at_level(logging.WARNING):
        found = study(folder, factory=cases.net, data=(inputs + 1, labels), limit_items=1)
    assert "4 of 4 models, width=3,lr=0.1,seed=0 first: trained on other data than those given" in caplog.text
    assert what(found.attributes)["trained on other data"] == "4 of 4 models, width=3,lr=0.1,seed=0 first"
