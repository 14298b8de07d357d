"""Models in the forms users have them: their names, and pairs of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import landscape as ls
from landscape.checkpoints.states import model_labels, model_pairs, read_models
from landscape.errors import InputError
from landscape.pictures.heat_map import short_names


@pytest.mark.parametrize(
    ("thetas", "expected"),
    [
        (["runs/a.pt", "runs/b.pt"], ("a", "b")),
        (["s0/best.pt", "s1/best.pt", "s1/last.pt"], ("s0/best", "s1/best", "s1/last")),
        (["x/s/best.pt", "y/s/best.pt"], ("x/s/best", "y/s/best")),
        (["net.epoch1.pt", "net.epoch2.pt"], ("net.epoch1", "net.epoch2")),
        (["a.pt", "a.pt"], ("a#0", "a#1")),
        ([torch.zeros(2), torch.ones(2)], ("0", "1")),
    ],
)
def test_names_tell_models_apart(thetas: list[Any], expected: tuple[str, ...]) -> None:
    assert model_labels(thetas, ()) == expected


def test_names_that_are_refused() -> None:
    with pytest.raises(InputError, match="label 'a' is given twice"):
        model_labels([torch.zeros(1), torch.ones(1)], ["a", "a"])
    with pytest.raises(InputError, match=r"one path, 'a\.pt' is given where a list of models is meant"):
        model_labels("a.pt", ())
    with pytest.raises(InputError, match="one model is given where a list"):
        model_labels(nn.Linear(1, 1), ())  # type: ignore[arg-type]


def test_pairs_may_be_arrays() -> None:
    assert model_pairs(3, np.array([[0, 1], [2, 1]])) == [(0, 1), (2, 1)]
    assert model_pairs(2, "ring") == [(0, 1)]
    with pytest.raises(InputError, match=r"two different numbers of models from 0 to 2"):
        model_pairs(3, [(0, 1.5)])  # type: ignore[list-item]


def test_the_model_that_does_not_fit_is_named() -> None:
    objective = ls.Objective(nn.Linear(2, 2), data=(torch.randn(4, 2), torch.zeros(4, dtype=torch.long)))
    good = objective.theta
    with pytest.raises(InputError, match="model b: Linear does not fit"):
        read_models(objective, [good, nn.Linear(2, 3)], ["a", "b"])


def test_short_names_keep_what_differs() -> None:
    long = [f"resnet20-lr0.1-wd5e-4-seed{i}" for i in (1, 22)]
    assert short_names(long) == ["…1", "…22"]
    assert short_names(["a", "b"]) == ["a", "b"]
    odd = ["x" + "y" * 30, "z" * 31]
    assert len(set(short_names(odd))) == 2
    assert all(len(name) <= 18 for name in short_names(odd))
