"""What settings say of a value that is no number, or none of its range: of every study, as a record and as called."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from annotated_types import Ge, Lt

from landscape.errors import InputError
from landscape.results.settings import Accuracy, Settings, require_plain
from landscape.results.study import Study, studies

NO_NUMBERS: tuple[Any, ...] = ("a", torch.tensor([0.5]), np.array([0.5]), float("nan"), float("inf"), [1])
# What has to be there for a call to come to its numbers, none of which is looked at before them
GIVEN: dict[str, Any] = {"x": (-1, 1, 3), "y": (-1, 1, 3), "out": "runs/never", "measures": ("param_norm",)}
REQUIRED: dict[str, Any] = {"load": "width", "temperature": "lr", "measures": ("param_norm",), "knobs": ("width",)}


@dataclass(frozen=True)
class Asked(Settings):
    count: Annotated[int, Ge(2)] = 3
    share: Annotated[float, Ge(0), Lt(1)] | None = None
    tol: Accuracy = 0.1
    loud: bool = False
    name: str = "any"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1}, "count=1; give a whole number of 2 or more, or leave it out for 3"),
        ({"count": 2.0}, "count=2.0; give a whole number of 2 or more, or leave it out for 3"),
        ({"count": True}, "count=True; give a whole number of 2 or more, or leave it out for 3"),
        ({"count": None}, "count=None; give a whole number of 2 or more, or leave it out for 3"),
        ({"share": 1}, "share=1; give a finite number of 0 or more and below 1, or leave it out"),
        ({"share": "a"}, "share='a'; give a finite number of 0 or more and below 1, or leave it out"),
        ({"tol": 1.0}, "tol=1.0; give a finite number between 0 and 1, or leave it out for 0.1"),
        ({"loud": 1}, "loud=1; give True or False, or leave it out for False"),
    ],
)
def test_what_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as found:
        Asked(**given)
    assert str(found.value) == message


def test_numbers_of_numpy_are_those_of_python() -> None:
    asked = Asked(np.int64(4), np.float32(0.5), np.float64(0.25), np.bool_(True))
    assert dataclasses.astuple(asked) == (4, 0.5, 0.25, True, "any")
    assert [type(value) for value in dataclasses.astuple(asked)] == [int, float, float, bool, str]
    assert require_plain(Asked, share=None) == {"share": None}


def plain_fields(study: Study[Any]) -> dict[str, tuple[str, Any]]:
    """{field: (its annotation, its default)} of those that are numbers, or True or False."""
    assert study.settings is not None
    words = ("Annotated[int", "Annotated[float", "Accuracy")
    return {
        field.name: (str(field.type), field.default)
        for field in dataclasses.fields(study.settings)
        if str(field.type).removesuffix(" | None") in ("int", "float", "bool", "Accuracy")
        or (str(field.type).startswith(words) and "_Places" not in str(field.type))
    }


@pytest.mark.parametrize("study", [study for study in studies() if study.settings is not None], ids=lambda s: s.name)
def test_bare_values_of_every_study_are_refused_before_any_work(study: Study[Any]) -> None:
    """By its record and by its function, with the argument's name, and what to give."""
    assert study.measure is not None
    assert study.settings is not None
    required = {
        field.name: REQUIRED.get(field.name, GIVEN.get(field.name))
        for field in dataclasses.fields(study.settings)
        if field.default is MISSING
    }
    for name, (annotation, default) in plain_fields(study).items():
        bare = [*NO_NUMBERS, *(() if annotation == "bool" else (True,)), *(() if default is None else (None,))]
        for value in bare if annotation != "bool | None" else bare[:3]:
            with pytest.raises(InputError, match=rf"^{name}=.*; give (a|True) "):
                study.settings(**{**required, name: value})
        with pytest.raises(InputError, match=rf"^{name}='a'; give (a|True) "):
            study.measure(**{name: "a"})
