"""Every front door looks at its arguments: a value of another kind is refused by name, before any work is begun.

A door is called with one wrong argument alone. One that looks refuses it; one that does not finds that others are
missing (a TypeError of Python), or begins.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from landscape_jobs import build, report, spec, toy_data
from landscape_jobs.sweeps import sweep_file

import landscape as ls
from landscape import compat, descents
from landscape.arguments import Count, Natural, checked
from landscape.errors import InputError
from landscape.results.base import Result
from landscape.results.study import studies

NAN = float("nan")


class Stranger:
    """Of a kind that no door takes."""


NO_NUMBERS = ("1", NAN, float("inf"), True, [1], torch.tensor([1.0]), Stranger())
# What stands in a signature -> values that it does not allow
WRONG: dict[str, tuple[Any, ...]] = {
    "bool": ("no", 1, 0.0, [True], Stranger()),
    "int": (*NO_NUMBERS, 1.5),
    "Count": (*NO_NUMBERS, 1.5, 0, -1),
    "Natural": (*NO_NUMBERS, 1.5, -1),
    "Seed": (*NO_NUMBERS, 1.5, -1),
    "float": NO_NUMBERS,
    "Positive": (*NO_NUMBERS, 0, -1.0),
    "str": (1, True, ["a"], b"a", Path("a"), Stranger()),
    "str | Path": (1, True, ["a"], b"a", "", Stranger()),
    "Callable": (1, "a", Stranger()),
    "Sequence[str]": (1, "ab", [1], Stranger()),
    "str | Sequence[str]": (1, [1], Stranger()),
}
# Classes whose methods the engine calls itself, often; their front doors are these
OWN_DOORS = {
    ls.Objective: ("__init__", "evaluate"),
    ls.CurvatureOperator: ("__init__",),
    ls.Subject: ("__init__",),
    ls.TrajectoryRecorder: ("__init__", "step"),
    compat.PyHessian: ("__init__", "eigenvalues", "trace", "density"),
    compat.WeightWatcher: ("describe", "analyze", "get_ESD", "SVDSmoothing", "distances"),
    descents.WinsorisedSGD: ("__init__",),
    descents.M3: ("__init__",),
}
FUNCTIONS = (
    compat.compare_with_pyhessian,
    spec.load_job,
    build.run_job,
    sweep_file.load_sweep,
    report.write_report,
    toy_data.swiss_roll,
    toy_data.concentric_circles,
)
RECORDS = (ls.Tolerance, ls.Recipe)


def doors() -> Iterator[tuple[str, Callable[..., Any]]]:
    """(name, what is called with keyword arguments alone) of everything that a user calls."""
    public = {name: getattr(ls, name) for name in ls.__all__}
    yield from ((name, one) for name, one in public.items() if inspect.isfunction(one))
    yield from ((one.__name__, one) for one in (*FUNCTIONS, *RECORDS))
    for cls, names in OWN_DOORS.items():
        yield from ((f"{cls.__name__}.{name}", method(cls, name)) for name in names)
    for cls in public.values():
        if inspect.isclass(cls) and issubclass(cls, Result):
            own = [name for name, one in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"]
            yield from ((f"{cls.__name__}.{name}", method(cls, name)) for name in own)
    for kind in {study.kind.name: study.kind for study in studies()}.values():
        yield f"plot of {kind.name}", of_options(kind.pictures().plot)


def method(cls: type, name: str) -> Callable[..., Any]:
    """A method as a function of its arguments alone, on an object of nothing."""
    found = getattr(cls, name)

    def called(**given: Any) -> Any:
        return found(object.__new__(cls), **given)

    called.__signature__ = inspect.signature(found).replace(  # type: ignore[attr-defined]
        parameters=[one for one in inspect.signature(found).parameters.values() if one.name != "self"]
    )
    return called


def of_options(plot: Callable[..., Any]) -> Callable[..., Any]:
    """A function that draws, as one of its options: the result is looked at where it is drawn."""

    def called(**given: Any) -> Any:
        return plot(**given)

    called.__signature__ = inspect.signature(
        plot
    ).replace(  # type: ignore[attr-defined]
        parameters=list(inspect.signature(plot).parameters.values())[1:]
    )
    return called


def wrong_values(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """What may not be given for a parameter, by what stands in its annotation."""
    said = str(parameter.annotation).replace("FilePath", "Path")
    said = re.sub(r"^Annotated\[(\w+),.*?\](?= \||$)", r"\1", said)
    plain = said.removesuffix(" | None")
    if parameter.kind is parameter.VAR_KEYWORD or {"Any", "Figure"} & set(re.split(r"\W+", plain)) or "Like" in plain:
        return ()
    absent = () if said != plain or parameter.default in (None, (), "") else (None,)
    if plain.startswith("Callable["):
        return (*WRONG["Callable"], *absent)
    return (*WRONG.get(plain, (Stranger(),)), *absent)


def slips(door: Callable[..., Any]) -> list[str]:
    """What a door let in, or refused without saying which argument it was."""
    found = []
    for name, parameter in inspect.signature(door).parameters.items():
        for value in wrong_values(parameter):
            try:
                door(**{name: value})
            except InputError as error:
                if not re.match(rf"{name}(=.*; give | is of type )", str(error)):
                    found.append(f"{name}={value!r}: {error}")
            except Exception as error:
                found.append(f"{name}={value!r}: {type(error).__name__}: {error}")
            else:
                found.append(f"{name}={value!r} is taken")
    return found


@pytest.mark.parametrize("name", [name for name, _ in doors()])
def test_a_wrong_argument_is_refused_by_name_and_at_once(name: str) -> None:
    assert slips(dict(doors())[name]) == []


def test_a_door_that_does_not_look_is_found() -> None:
    """The same check of a function with and without the decorator."""

    def door(objective: Any, seed: int = 0, out: str | Path | None = None, *, labels: Count = 1) -> None:
        raise TypeError("an objective is missing")

    assert len(slips(door)) == len(WRONG["int"]) + len(WRONG["str | Path"]) + len(WRONG["Count"]) + 2
    assert slips(checked()(door)) == []


@dataclasses.dataclass(frozen=True)
class Asked:
    count: Natural = 1


@checked(Asked)
def given(
    count: int = 1,
    share: float = 0.5,
    out: str | Path | None = None,
    names: str | list[str] | tuple[str, ...] = (),
    *,
    loud: bool = False,
    **others: Any,
) -> tuple[Any, ...]:
    return count, share, out, names, loud, others


class Folder:
    def __fspath__(self) -> str:
        return "runs/a"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"count": np.int64(2)}, 2),
        ({"count": torch.tensor(2)}, 2),
        ({"share": np.float32(0.25)}, 0.25),
        ({"share": torch.tensor(0.25, requires_grad=True)}, 0.25),
        ({"share": np.array(0.25)}, 0.25),
        ({"share": 1}, 1),
        ({"loud": np.True_}, True),
        ({"out": "runs/a"}, "runs/a"),
        ({"out": Path("runs/a")}, Path("runs/a")),
        ({"out": Folder()}, Path("runs/a")),
        ({"out": None}, None),
        ({"colour": "red"}, {"colour": "red"}),
    ],
)
def test_what_is_taken_comes_as_it_is_meant(arguments: dict[str, Any], meant: Any) -> None:
    found = [one for one, usual in zip(given(**arguments), given(), strict=True) if one != usual or meant is None]
    assert meant in found
    assert type(meant) in map(type, found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count=-1; give a whole number of 0 or more, or leave it out for 1"),
        ({"share": "a"}, "share='a'; give a finite number, or leave it out for 0.5"),
        ({"out": 3}, "out=3; give a path, or leave it out"),
        ({"loud": "no"}, "loud='no'; give True or False, or leave it out for False"),
    ],
)
def test_what_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as found:
        given(**arguments)
    assert str(found.value) == message


class Few:
    """A sequence of a user's own, without `__iter__`."""

    def __init__(self, *kept: Any) -> None:
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, place: int) -> Any:
        return self.kept[place]


@checked()
def listed(names: Sequence[str] = (), thetas: Sequence[Any] = (), job: str = "", most: Sequence[str] = ("a",)) -> Any:
    return names or thetas or job


@pytest.mark.parametrize("make", [tuple, iter, Few, set, np.array, pd.Index, dict.fromkeys])
def test_what_has_entries_is_a_list(make: Callable[..., Any]) -> None:
    made = make("a") if make is Few else make(["a"])
    assert list(listed(names=made.keys() if isinstance(made, dict) else made)) == ["a"]


def test_entries_of_any_kind_have_places() -> None:
    assert listed(thetas={"one": 1, "two": 2}.values()) == (1, 2)
    assert listed(thetas=Few(1, 2)) == (1, 2)


def test_none_is_nothing() -> None:
    nothing: Any = None
    assert listed(names=nothing, thetas=nothing, job=nothing) == ""
    with pytest.raises(InputError, match=r"^most=None; give a list, each a text, or leave it out$"):
        listed(most=nothing)


def test_objects_of_torch_and_floats_that_were_always_taken() -> None:
    """Names of metrics under names of one's own, memory as 1e9, a torch.device for everything with a device."""
    net, data = torch.nn.Linear(3, 2), (torch.randn(8, 3), torch.tensor([0, 1] * 4))
    objective = ls.Objective(net, data=data, metrics={"right": "accuracy"}, memory_budget=1e9)
    assert objective.quantities == ("loss", "right")
    for name, function in vars(ls).items():
        parameters = inspect.signature(function).parameters if inspect.isfunction(function) else {}
        assert "device" not in parameters or "torch.device" in str(parameters["device"].annotation), name


def test_what_is_missing_or_unknown_is_told_by_python() -> None:
    with pytest.raises(TypeError, match=r"random_plane\(\) missing 1 required positional argument: 'objective'"):
        ls.random_plane()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'folder'"):
        ls.read_state(folder="a")  # type: ignore[call-arg]


def test_what_is_given_by_position_is_looked_at_too() -> None:
    with pytest.raises(InputError, match=r"^share='a'; give a finite number"):
        given(1, "a")  # type: ignore[arg-type]
