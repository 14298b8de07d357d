"""Ways to train that differ in some keys, and cells that differ in their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_job import RECIPE, data, mlp

import landscape as ls
from landscape.studies.training.settings import TrainingSettings

ARMS = [{}, {"optimizer": "adam", "lr": 0.01}, {"batch_size": 4}]


def test_cells_are_all_combinations_for_every_arm() -> None:
    asked = TrainingSettings({"lr": 0.3, "batch_size": 16}, {"width": [4, 6], "batch_size": [16]}, ARMS)
    assert asked.all_cells() == [
        {"width": width, "batch_size": batch, "optimizer": optimizer, "lr": lr}
        for optimizer, lr, batch in (("sgd", 0.3, 16), ("adam", 0.01, 16), ("sgd", 0.3, 4))
        for width in (4, 6)
    ]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([{}, {"stop_loss": 0.1}], "arms: 'stop_loss' has no value where an arm does not say it"),
        ([{}, {"depth": 2}], "arms: 'depth' has no value"),
        ([{}, {"lr": 0.3}], "arms: the cell width=4,lr=0.3 is there twice"),
        ([{}, {"width": 6}], "arms: the cell width=6 is there twice"),
        ({"lr": 0.1}, "arms: dict; give a list of changes"),
        (["adam"], "arms: an arm is 'adam'"),
        ([{"lr": [0.1]}], r"key 'lr' has \[0.1\]"),
        ([{"seed": 1}], "key 'seed' is a column"),
    ],
)
def test_arms_that_cannot_be(arms: Any, message: str) -> None:
    with pytest.raises(ls.InputError, match=message):
        TrainingSettings({"lr": 0.3}, {"width": [4, 6]}, arms).all_cells()


def of_set(dataset: str, flipped: bool = False) -> tuple[Tensor, Tensor]:
    """Two data sets, one of them with its inputs turned about."""
    inputs, labels = data(samples=44 if dataset == "plain" else 36)
    return (-inputs if flipped else inputs), labels


def test_cells_may_differ_in_their_data(tmp_path: Path) -> None:
    """The models are those of a training on each data set alone, whether or not the factory knows the key."""
    asked: dict[str, Any] = {"recipe": RECIPE.with_keys(epochs=2), "seeds": 2}
    cells = {"dataset": ["plain", "other"], "width": [4]}
    both = ls.train_models(
        mlp, of_set, test=lambda dataset: of_set(dataset, True), cells=cells, out=tmp_path / "both", **asked
    )
    for row, dataset in enumerate(("plain", "plain", "other", "other")):
        assert torch.equal(both.training_data(row)[0], of_set(dataset)[0])
        assert torch.equal(both.test_data(row)[0], -of_set(dataset)[0])

    def knowing(width: int, dataset: str) -> Any:
        return mlp(width)

    for dataset in ("plain", "other"):
        alone = ls.train_models(
            knowing, of_set(dataset), test=of_set(dataset, True), cells={"dataset": [dataset], "width": [4]},
            out=tmp_path / dataset, **asked
        )  # fmt: skip
        for name, values in alone.values.items():
            rows = [row for row, one in enumerate(both.keys["dataset"]) if one == dataset]
            np.testing.assert_array_equal(both.values[name][rows], values)
    with pytest.raises(ls.InputError, match="differ in knob 'dataset' and were trained on as many samples"):
        ls.audit_fragility(both, "param_norm", "dataset", within=1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda dataset: None, "data= is a function of 'dataset', which is no key of cells"),
        (lambda **keys: None, "data= is a function of any keys"),
    ],
)
def test_data_of_keys_that_are_not_there(function: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ls.InputError, match=message):
        ls.train_models(mlp, function, cells={"width": [4]}, out=tmp_path / "run")
