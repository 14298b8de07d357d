"""Models in every place that takes them: as modules, state dicts, paths and vectors; what else is given is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import landscape as ls

X, Y = torch.linspace(-1, 1, 24).reshape(12, 2), torch.arange(12) % 2


def net(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def vector(seed: int) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net(seed).parameters()])


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    return ls.Objective(net(0), data=(X, Y))


def swept(objective: ls.Objective, models: list[Any]) -> ls.Connectivity:
    return ls.measure_connectivity(objective, models, epochs=0, t=2)


# Where a model stands -> the call with it there
PLACES: dict[str, Callable[[ls.Objective, Any], Any]] = {
    "plane_through": lambda objective, m: ls.plane_through(objective, [m, net(2)]).centre,
    "pca_plane": lambda objective, m: ls.pca_plane(objective, [m, net(2), net(3)], axes=1).points.vectors[0],  # type: ignore[union-attr]
    "centre": lambda objective, m: ls.plane_from_directions(objective, [vector(2)], centre=m).centre,
    "curve": lambda objective, m: ls.curve_from_points(objective, [m, net(2)]).control_points[0],
    "fit_curve a": lambda objective, m: ls.fit_curve(objective, m, net(2), epochs=1).control_points[0],
    "fit_curve b": lambda objective, m: ls.fit_curve(objective, net(2), m, epochs=1).control_points[-1],
    "path": lambda objective, m: ls.measure_path(objective, [m, net(2)], t=2).values["loss"][:1],
    "agreement": lambda objective, m: ls.measure_agreement(objective, [m, net(2)]).values["cka"],
    "align": lambda objective, m: ls.find_alignment(objective, m, net(2)).similarity,
    "connectivity": lambda objective, m: swept(objective, [m, net(2)]).line_path(0, 1).values["loss"],
}
# What is no model -> what the error says of it
OTHERS: dict[str, tuple[Any, str]] = {
    "a number": (3, "theta has 1 values"),
    "no file": ("missing.pt", "does not exist"),
    "texts": (("a", "b"), "not a vector of numbers"),
    "an object": (object(), "of type object is not a vector of numbers"),
    "a class": (nn.Linear, "of type type is not a vector of numbers"),
    "a function": (net, "of type function is not a vector of numbers"),
    "another module": (nn.Linear(2, 2), "Linear, its names .*, does not fit the model"),
    "another state": ({"a": torch.zeros(2)}, "the given state does not fit the model"),
    "a state of texts": ({"0.weight": "x"}, "the given state does not fit the model"),
    "another size": (torch.zeros(3), "theta has 3 values"),
    "complex numbers": (torch.zeros(17, dtype=torch.complex64), "torch.complex64, not of real numbers"),
    "truths": (torch.ones(17, dtype=torch.bool), "torch.bool, not of real numbers"),
    "bytes": (b"a.pt", "not a vector of numbers"),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_form_of_a_model_is_the_same_model(place: str, objective: ls.Objective, tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "a.pt")
    arrays = {name: value.numpy() for name, value in net(1).state_dict().items()}
    paths = str(tmp_path / "a.pt"), tmp_path / "a.pt"
    forms = (net(1), net(1).state_dict(), arrays, *paths, vector(1), vector(1).numpy())
    found = [torch.as_tensor(PLACES[place](objective, form)) for form in forms]
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_model_is_refused_with_what_it_is(place: str, objective: ls.Objective) -> None:
    for given, says in OTHERS.values():
        with pytest.raises(ls.InputError, match=says):
            PLACES[place](objective, given)


def test_directions_are_vectors_or_tensors_by_name(objective: ls.Objective) -> None:
    for given in (net(1), "a.pt", Path("a.pt"), object(), nn.Linear):
        with pytest.raises(ls.InputError, match=r"direction 0 of type .*; give a flat vector \(17,\), or \{parameter"):
            ls.plane_from_directions(objective, [given])
    with pytest.raises(ls.InputError, match=r"direction 0: .*give a tensor for each name"):
        ls.plane_from_directions(objective, [{"0.weight": "x"}])
    with pytest.raises(ls.InputError, match="centre holds 17 values that are NaN"):
        ls.plane_from_directions(objective, [vector(1)], centre=torch.full((17,), torch.nan))


def test_points_and_guesses_are_vectors(objective: ls.Objective) -> None:
    for given in (net(1), net(1).state_dict(), "a.pt", object()):
        with pytest.raises(ls.InputError, match=r"theta of type .*; from a module, a state dict or a checkpoint"):
            objective.evaluate(given)
        with pytest.raises(ls.InputError, match=r"start of type .*; give guesses of eigenvectors, a tensor \(j, 17\)"):
            ls.measure_spectrum(objective, k=1, start=given)
    with pytest.raises(ls.InputError, match=r"start has shape \(\); give guesses"):
        ls.measure_spectrum(objective, k=1, start=3)


@pytest.mark.parametrize("given", [3, "a.pt", {"a": torch.zeros(1)}, nn.Linear, object()])
def test_modules_are_asked_for_where_they_are_written_to(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ls.InputError, match=r"^model is .*; give a torch\.nn\.Module"):
        ls.load_checkpoint(given, "a.pt")
    with pytest.raises(ls.InputError, match=r"^model is .*; give a torch\.nn\.Module"):
        ls.TrajectoryRecorder(given, tmp_path)
    with pytest.raises(ls.InputError, match=r"^model=.*; give a torch\.nn\.Module"):
        ls.Objective(given, data=(X, Y))
