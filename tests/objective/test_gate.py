"""All that takes an objective says what to give where it gets something else."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from torch import nn

import landscape as ls


def asks_for_one(name: str) -> bool:
    """Whether a public name is called with `objective`, an Objective."""
    thing = getattr(ls, name)
    if not callable(thing) or (isinstance(thing, type) and issubclass(thing, BaseException)):
        return False
    asked = inspect.signature(thing).parameters.get("objective")
    return asked is not None and str(asked.annotation).startswith("Objective")


NAMES = [name for name in ls.__all__ if asks_for_one(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_no_objective(name: str) -> None:
    thing = getattr(ls, name)
    needed = [p.name for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
    given: dict[str, Any] = {p: "a.h5" if p == "path" else [] for p in needed if p not in ("args", "kwargs")}
    message = r"objective(=| is of type )Linear.*; give ls\.Objective\(model, loss, data\)"
    with pytest.raises(ls.InputError, match=message):
        thing(**{**given, "objective": nn.Linear(2, 1)})
    if needed[0] == "objective":
        with pytest.raises(ls.InputError, match=r"objective(=None| is of type NoneType); give ls\.Objective"):
            thing(None, **{name: value for name, value in given.items() if name != "objective"})


def test_most_of_the_studies_ask_for_one() -> None:
    assert len(NAMES) >= 25
    assert {"measure_surface", "measure_complexity", "fit_curve", "random_plane", "Subject"} <= set(NAMES)


def test_an_objective_that_is_missing_is_what_python_says() -> None:
    with pytest.raises(TypeError, match="objective"):
        ls.measure_spectrum()  # type: ignore[call-arg]
