"""Measured phases against dense Hessians, plain formulas and the functions of the library, and what cannot be measured.

Of the oracles of the metrics themselves these stand elsewhere: CKA of equal and of turned outputs and its two forms in
kernels/test_similarity.py, traces and eigenvalues of known matrices in studies/spectrum/test_oracles.py, mode
connectivity of the ring loss and of the published curves in studies/path/test_path.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import phases_cases as cases
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import landscape as ls
from landscape.checkpoints.trained import TrainedModels
from landscape.curvature.sampling import draw
from landscape.run.comm import SERIAL
from landscape.studies.phases import trial
from landscape.studies.phases.networks import Networks, mixed
from landscape.studies.phases.settings import PhasesSettings
from landscape.studies.phases.sources import mapped
from landscape.studies.phases.tasks import ModelsTask, PairsTask
from landscape.studies.training.sources import resolved

ENDS = ((0, 1), (0, 2), (1, 2))
TEST = tuple(part[30:] for part in cases.data(60))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> TrainedModels:
    """Two widths, a batch size, three seeds."""
    return cases.models(tmp_path_factory.mktemp("models"), batch_sizes=(8,))


@pytest.fixture(scope="module")
def phases(swept: TrainedModels) -> ls.Phases:
    """The phases of all of it."""
    return measured(swept)


def measured(models: Any, **asked: Any) -> ls.Phases:
    """The phases of models of `cases`."""
    given = {"factory": cases.net, "data": cases.data(), "test": TEST, **cases.ASKED}
    return ls.measure_phases(models, **{**given, **asked})


def cell_models(swept: TrainedModels, width: int) -> list[nn.Module]:
    """The networks of a cell, seed by seed."""
    found = []
    for row in range(len(swept)):
        if swept.key(row) == (width, 8):
            net = cases.net(width)
            net.load_state_dict(torch.load(swept.final[row], weights_only=True))
            found.append(net)
    return found


def error_of_mean(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def test_losses_and_errors_are_means_over_seeds(swept: TrainedModels, phases: ls.Phases) -> None:
    for i, width in enumerate((3, 5)):
        nets = cell_models(swept, width)
        for kind, (inputs, labels) in (("train", cases.data()), ("test", TEST)):
            losses = [nn.functional.cross_entropy(net(inputs), labels).item() for net in nets]
            wrong = [(net(inputs).argmax(1) != labels).double().mean().item() for net in nets]
            for name, values in ((f"{kind}_loss", losses), (f"{kind}_error", wrong)):
                np.testing.assert_allclose(phases.values[name][i, 0], np.mean(values), rtol=1e-12)
                np.testing.assert_allclose(phases.seed_stderr[name][i, 0], error_of_mean(values), rtol=1e-9)
    np.testing.assert_array_equal(
        phases.stderr["mc"], np.sqrt(phases.seed_stderr["mc"] ** 2 + phases.own_stderr["mc"] ** 2)
    )
    assert phases.axes == ("width", "batch_size")
    assert (phases.load.tolist(), phases.temperature.tolist()) == ([3, 5], [8])
    assert phases.complete
    np.testing.assert_allclose(phases.probability.sum(-1), 1, atol=1e-12)


def dense(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The Hessian of the mean loss, by differentiating twice."""
    names, values = zip(*net.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]

    def loss(theta: Tensor) -> Tensor:
        parts = [part.view_as(v) for part, v in zip(theta.split(sizes), values, strict=True)]
        outputs = functional_call(net, dict(zip(names, parts, strict=True)), (inputs,))
        return nn.functional.cross_entropy(outputs, labels)

    return torch.autograd.functional.hessian(loss, torch.cat([v.detach().flatten() for v in values]))


def test_curvature_is_that_of_dense_hessians(swept: TrainedModels, phases: ls.Phases) -> None:
    inputs, labels = cases.data()
    largest, traces, whole = [], [], []
    for net in cell_models(swept, 5):
        objective = ls.Objective(net, data=(inputs, labels))
        part, other = draw(objective, 24, "uniform", 0)[0].objective.data.first
        H = dense(net, part, other)
        largest.append(float(torch.linalg.eigvalsh(H)[-1]))
        traces.append(float(H.trace()))
        whole.append(float(dense(net, inputs, labels).trace()))
    place = (1, 0)
    np.testing.assert_allclose(phases.values["lambda_max"][place], np.mean(largest), rtol=1e-6)
    np.testing.assert_allclose(phases.seed_stderr["lambda_max"][place], error_of_mean(largest), rtol=1e-5)
    np.testing.assert_allclose(phases.values["trace"][place], np.mean(traces), rtol=1e-8)
    np.testing.assert_allclose(phases.values["trace_well"][place], np.mean(whole), rtol=1e-8)


def test_the_bracket_is_that_of_a_spectrum_by_importance(swept: TrainedModels, phases: ls.Phases) -> None:
    found = []
    for net in cell_models(swept, 3):
        objective = ls.Objective(net, data=cases.data(), metrics=("error",))
        options: dict[str, Any] = {"samples": 32, "sampling": "importance", "trace": False, "density": False}
        found.append(ls.measure_spectrum(objective, k=1, **options).largest)
    upper, lower = (np.mean([float(getattr(one, name)[0]) for one in found]) for name in ("values", "independent"))
    place = (0, 0)
    np.testing.assert_allclose(phases.values["lambda_max_upper"][place], upper, rtol=1e-6)
    np.testing.assert_allclose(phases.values["lambda_max_lower"][place], lower, rtol=1e-4)
    np.testing.assert_allclose(phases.values["lambda_max_well"][place], (upper + lower) / 2, rtol=1e-4)
    assert phases.own_stderr["lambda_max_well"][place] >= abs(upper - lower) / 2 * (1 - 1e-6)


def plain_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def test_likeness_is_cka_of_softmax_outputs_on_mixed_inputs_and_on_all(swept: TrainedModels, phases: ls.Phases) -> None:
    nets = cell_models(swept, 5)
    inputs, _ = mixed(ls.Objective(nets[0], data=cases.data()), 40, 0).data.first
    for name, given in (("cka", inputs), ("cka_well", cases.data()[0])):
        outputs = [net(given).softmax(1).detach() for net in nets]
        values = np.array([plain_cka(outputs[i], outputs[j]) for i, j in ENDS])
        np.testing.assert_allclose(phases.values[name][1, 0], values.mean(), rtol=1e-9)
        # without each seed one pair is left
        error = math.sqrt(2 / 3 * ((values - values.mean()) ** 2).sum())
        np.testing.assert_allclose(phases.seed_stderr[name][1, 0], error, rtol=1e-9)


def test_inputs_are_mixed_in_pairs_by_weights_around_a_half() -> None:
    inputs = torch.eye(64, dtype=torch.float64)
    objective = ls.Objective(nn.Linear(64, 3).double(), data=(inputs, torch.arange(64) % 3))
    found, labels = mixed(objective, 50, 0).data.first
    assert found.shape == (50, 64)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-15)
    both = (found > 0).sum(1) == 2  # but for samples mixed with themselves
    assert int(both.sum()) >= 45
    weights = found[both][found[both] > 0]
    assert abs(float(weights.var()) - 0.25 / 33) < 3 * 0.25 / 33 * math.sqrt(2 / 45)  # of Beta(16, 16)
    named = labels == 0  # labels are those of the first of the two
    assert set(found[named].nonzero()[:, 1].remainder(3).tolist()) >= {0}
    again, _ = mixed(objective, 50, 0).data.first
    np.testing.assert_array_equal(found, again)


def test_inputs_that_cannot_be_mixed_are_told_before_anything_is_measured() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
    objective = ls.Objective(net, data=(torch.randint(9, (16, 2)), torch.arange(16) % 3))
    with pytest.raises(ls.InputError, match=r"inputs of torch\.int64 cannot be mixed.*cka_inputs='data'"):
        mixed(objective, 8, 0)


def test_connectivity_is_of_the_curve_that_fit_curve_fits(swept: TrainedModels, phases: ls.Phases) -> None:
    nets = cell_models(swept, 3)
    objective = ls.Objective(nets[0], data=cases.data(), metrics=("error",))
    inputs, labels = cases.data()
    values = []
    for i, j in ENDS:
        curve = ls.fit_curve(objective, nets[i], nets[j], epochs=2, batch_size=16)
        errors = []
        for t in (0, 0.25, 0.5, 0.75, 1):
            weights = torch.tensor([(1 - t) ** 2, 2 * t * (1 - t), t**2], dtype=torch.float64)
            net = cases.net(3)
            torch.nn.utils.vector_to_parameters(weights @ curve.control_points, net.parameters())
            errors.append(100 * float((net(inputs).argmax(1) != labels).double().mean()))
        middle = (errors[0] + errors[-1]) / 2
        values.append(middle - max(errors, key=lambda error: abs(error - middle)))
    np.testing.assert_allclose(phases.values["mc"][0, 0], np.mean(values), rtol=0, atol=1e-9)
    distance = [float((vector(nets[i]) - vector(nets[j])).norm()) for i, j in ENDS]
    np.testing.assert_allclose(phases.values["l2"][0, 0], np.mean(distance), rtol=1e-12)


def vector(net: nn.Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach()


def test_permuted_units_are_the_same_network_elsewhere(tmp_path: Path) -> None:
    """Outputs, largest eigenvalue and trace stay, the distance is not 0, and a curve between them has to be found."""
    swept = cases.models(tmp_path, (4,), (8,), 2)
    state = torch.load(swept.final[0], weights_only=True)
    order = [2, 0, 3, 1]
    turned = {"0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order]}
    torch.save({**state, **turned, "2.weight": state["2.weight"][:, order]}, swept.final[1])
    found = measured(swept, test=None)
    for name, zero in (("cka", 1.0), ("cka_well", 1.0)):
        np.testing.assert_allclose(found.values[name], zero, atol=1e-12)
    for name in ("train_loss", "lambda_max", "trace"):
        np.testing.assert_allclose(found.seed_stderr[name], 0, atol=1e-6)
    assert found.values["l2"].item() > 0.1
    assert np.isnan(found.seed_stderr["mc"]).all()  # one pair does not tell how pairs differ
    assert np.isnan(found.probability).all()
    assert found.complete


def test_a_stopped_run_goes_on_to_the_same_bits(swept: TrainedModels, phases: ls.Phases, tmp_path: Path) -> None:
    """Of one of the two cells, whose values are the same without the other."""
    run, last = tmp_path / "run", slice(3, 6)
    keys = {name: column[last] for name, column in swept.keys.items()}
    swept = TrainedModels(keys, swept.seed[last], swept.initial[last], swept.final[last])
    partial = measured(swept, out=run, limit_items=4)
    assert not partial.complete
    assert partial.notes.item() == "1 of 3 pairs so far"
    assert ls.open(run).phase.tolist() == partial.phase.tolist()
    whole = measured(swept, out=run)
    read = ls.open(run)
    assert isinstance(read, ls.Phases)
    for one in (whole, read):
        for name, values in phases.values.items():
            np.testing.assert_array_equal(one.values[name], values[1:])
            np.testing.assert_array_equal(one.stderr[name], phases.stderr[name][1:])
    assert read.attributes["mc_of"] == "error in per cent"
    assert not list(run.rglob("*.npz*")) or all(path.parent.name == "shards" for path in run.rglob("*.npz"))
    with pytest.raises(ls.InputError, match=r"landscape\.open\(.*\)\.classified\(sharp=1e-06\)"):
        measured(swept, out=run, sharp=1e-6)
    assert set(read.classified(sharp=1e-6).phase.ravel()) <= {"I", "II"}
    with pytest.raises(ls.InputError, match="curve_tol"):
        measured(swept, out=run, curve_tol=0.25)


class OneOfTwo:
    """A rank that is told what the other one has seen."""

    size = 2

    def __init__(self, rank: int, other: Any) -> None:
        self.rank, self._other = rank, other

    def gather_all(self, value: Any) -> list[Any]:
        other = self._other if isinstance(value, dict) else None
        return [value, other] if self.rank == 0 else [other, value]


def test_what_a_run_is_does_not_depend_on_who_looked_at_its_cells(tmp_path: Path) -> None:
    swept = cases.models(tmp_path, (3, 4, 5), (8,), 2)
    settings = PhasesSettings(**{**cases.ASKED, "cka_inputs": "data"})

    def networks() -> Networks:
        return Networks(
            resolved(swept, cases.net, cases.data(), None, None), mapped(swept, "width", "batch_size"), settings
        )

    alone = networks().prepare(SERIAL)
    second = networks().prepare(OneOfTwo(1, alone.looked))
    shared = networks().prepare(OneOfTwo(0, {place: second.looked[place] for place in list(alone.looked)[1::2]}))
    for task in (ModelsTask, PairsTask):
        one, other = (task(found, None).describe() for found in (alone, shared))
        assert json.dumps(one.identity) == json.dumps(other.identity)
        assert json.dumps(one.about) == json.dumps(other.about)


def test_without_the_metrics_done_well(swept: TrainedModels, phases: ls.Phases) -> None:
    short = measured(swept, well=False, limit_items=2)
    assert not [name for name in short.values if name.endswith("_well") or "lower" in name]
    assert short.values["lambda_max"][0, 0] != phases.values["lambda_max"][0, 0]  # of two seeds of three
    with pytest.raises(ls.InputError, match="no metric 'lambda_max_well'"):
        short.done_well()
    assert phases.done_well().used["sharp"] == "lambda_max_well"


# -- holes -----------------------------------------------------------------------------------------------------------


def test_models_that_were_left_out_are_holes_that_say_why(tmp_path: Path) -> None:
    """One of three seeds: two are measured. All seeds: nothing. Two of three: losses, and no phase."""
    swept = cases.models(tmp_path)
    lost = {0: "its loss became NaN in epoch 3", 4: "out", 5: "out", 6: "out", 7: "out", 8: "out"}
    models = replace(
        swept, final=tuple(None if row in lost else path for row, path in enumerate(swept.final)), left_out=lost
    )
    found = measured(models, well=False, curve_epochs=1)
    assert found.phase[0, 0] != ""
    assert found.notes[0, 0] == "seed 0: its loss became NaN in epoch 3"
    assert found.reason.tolist() == [
        ["", "one seed only, and mc and CKA are of pairs of seeds"],
        ["no trained model", ""],
    ]
    assert found.phase[0, 1] == found.phase[1, 0] == ""
    assert np.isfinite(found.values["lambda_max"][0, 1])
    assert np.isnan(found.values["lambda_max"][1, 0])
    assert found.complete


class Failing(nn.Module):
    """A network of two inputs that raises at one of its checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if bool((self.weight[0, 0] > 5).item()):
            raise RuntimeError("this network fails")
        return x @ self.weight.T


def test_an_item_that_fails_leaves_a_hole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    paths = []
    for row in range(4):
        weight = torch.randn(3, 2, dtype=torch.float64)
        weight[0, 0] = 9.0 if row == 3 else 0.1
        paths.append(tmp_path / f"{row}.pt")
        torch.save({"weight": weight}, paths[-1])
    models = TrainedModels({"width": (1, 1, 2, 2), "batch_size": (8,) * 4}, (0, 1, 0, 1), (None,) * 4, tuple(paths))
    data = (torch.randn(32, 2, dtype=torch.float64), torch.arange(32) % 3)
    found = ls.measure_phases(
        models, factory=lambda width: Failing(), data=data, tolerance=ls.Tolerance(0), **{**cases.ASKED, "well": False}
    )
    assert found.phase[0, 0] != ""
    assert found.reason.ravel().tolist() == ["", "all of its pairs failed"]
    assert "this network fails" in found.notes[1, 0]
    assert found.complete


def test_a_model_that_diverged_to_a_finite_loss_is_left_out_and_not_the_end(tmp_path: Path) -> None:
    """Units saturate: the gradient is 0 by rounding, which says nothing of how products are to be computed."""

    def saturating(width: int, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()

    paths = []
    for row in range(4):
        model, scale = saturating(3, row), 1e200 if row == 0 else 1.0
        paths.append(tmp_path / f"{row}.pt")
        torch.save({name: scale * value for name, value in model.state_dict().items()}, paths[-1])
    models = TrainedModels({"width": (3,) * 4, "batch_size": (8, 8, 16, 16)}, (0, 1, 0, 1), (None,) * 4, tuple(paths))
    asked = {"factory": saturating, "data": cases.data(), "well": False, "curve_epochs": 1}
    with pytest.raises(ls.InputError, match=r"^width=3,batch_size=8,seed=0: "):
        measured(models, **asked)
    found = measured(models, tolerance=ls.Tolerance(0), **asked)
    assert np.isfinite(found.values["lambda_max"]).all()  # that of the other seed
    assert found.notes[0, 0].startswith("width=3,batch_size=8,seed=0 failed: ")
    assert found.notes[0, 1] == ""


# -- bad input -------------------------------------------------------------------------------------------------------


def third_key(models: TrainedModels) -> TrainedModels:
    return replace(models, keys={**models.keys, "lr": tuple(0.1 + row % 2 for row in range(len(models)))})


def one_seed(models: TrainedModels) -> TrainedModels:
    return replace(
        models, final=tuple(path if models.seed[row] == 0 else None for row, path in enumerate(models.final))
    )


def other_shape(models: TrainedModels) -> TrainedModels:
    return replace(models, final=(models.final[0], models.final[-1], *models.final[2:]))


def twins(models: TrainedModels) -> TrainedModels:
    return replace(models, final=(models.final[1], *models.final[1:]))


def words_as_key(models: TrainedModels) -> TrainedModels:
    return replace(models, keys={**models.keys, "width": ("small",) * len(models)})


@pytest.mark.parametrize(
    ("words", "change", "asked"),
    [
        ("load='widht' is no key of the models; did you mean 'width'", None, {"load": "widht"}),
        ("load and temperature are both 'width'", None, {"temperature": "width"}),
        ("differ in 'lr', too", third_key, {}),
        ("no cell .* has two trained models", one_seed, {}),
        (r"model width=3,batch_size=8,seed=1: .*shape", other_shape, {}),
        ("are equal", twins, {}),
        ("an axis of a map has finite numbers", words_as_key, {}),
        ("factory= is not given", None, {"factory": None}),
        ("data= is not given", None, {"data": None}),
        ("models is a int", lambda models: 3, {}),
        ("models.txt is not there; give a table of models", lambda models: "models.txt", {}),
        ("pairs", None, {"pairs": "some"}),
        ("places=2", None, {"places": 2}),
        ("alike=2; give a finite number of 0 or more and of at most 1", None, {"alike": 2}),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    swept: TrainedModels,
    tmp_path: Path,
    words: str,
    change: Callable[[TrainedModels], Any] | None,
    asked: dict[str, Any],
) -> None:
    with pytest.raises(ls.InputError, match=words):
        measured(swept if change is None else change(swept), out=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_batchnorm_statistics_of_another_seed_are_not_taken(tmp_path: Path) -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)).double()

    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.pt")
        model = net(3)
        torch.save(dict(model.named_parameters()) if seed else model.state_dict(), paths[-1])
    models = TrainedModels({"width": (3, 3), "batch_size": (8, 8)}, (0, 1), (None, None), tuple(paths))
    with pytest.raises(ls.InputError, match="seed=1 comes without BatchNorm statistics"):
        measured(models, factory=net)


def test_a_training_with_a_forward_of_its_own_is_refused(tmp_path: Path) -> None:
    def halved(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch[0]) / 2, batch[1]

    asked: dict[str, Any] = {"recipe": {"epochs": 1}, "cells": {"width": [2], "lr": [0.1]}, "seeds": 2}
    run = ls.train_models(cases.net, cases.data(), forward=halved, out=tmp_path, **asked)
    for models in (run, tmp_path):
        with pytest.raises(ls.InputError, match=r"forward=.*halved.*give its checkpoints"):
            resolved(models, cases.net, cases.data(), None, None)
    assert resolved(run.checkpoints, cases.net, cases.data(), None, None).models.final == run.checkpoints.final


def test_the_loss_of_a_training_is_its_own(tmp_path: Path) -> None:
    def net(width: int) -> nn.Module:
        return nn.Linear(4, width).double()

    def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    data = (cases.data()[0], torch.randn(48, 2, dtype=torch.float64))
    for loss, name in (("mse", "mse"), (absolute, "absolute")):
        asked: dict[str, Any] = {"recipe": {"epochs": 1}, "cells": {"width": [2], "lr": [0.1]}, "seeds": 2}
        run = ls.train_models(net, data, loss=loss, out=tmp_path / name, **asked)
        assert resolved(run, None, None, None, None).loss is loss
        if loss == "mse":
            assert resolved(tmp_path / name, net, data, None, None).loss == "mse"
        else:
            with pytest.raises(ls.InputError, match=r"absolute.*give it as loss="):
                resolved(tmp_path / name, net, data, None, None)


def test_networks_that_say_the_same_of_all_inputs_are_no_phase(tmp_path: Path) -> None:
    """Their CKA would be that of rounding errors, and 1."""
    models = cases.models(tmp_path, (3,), (8,), 2)
    for path in models.final:
        state = torch.load(path, weights_only=True)
        torch.save({**state, "2.weight": torch.zeros_like(state["2.weight"])}, path)
    found = measured(models, well=False, curve_epochs=1)
    assert np.isnan(found.values["cka"]).all()
    assert found.reason.item() == "cka is NaN"
    assert found.phase.item() == ""


def test_the_estimate_of_an_epoch_leaves_out_what_the_first_fit_takes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pair takes 9 s to warm up; each fit then 1 s and 2 s for every epoch."""
    fits = []

    def seconds(task: Any) -> float:
        if isinstance(task, ModelsTask):
            return 1.0
        epochs: int = task._networks.settings.curve_epochs
        fits.append(epochs)
        return 1.0 + 2.0 * epochs + (9.0 if len(fits) == 1 else 0.0)

    monkeypatch.setattr(trial, "_seconds", seconds)
    asked = {"factory": cases.net, "data": cases.data(), "test": TEST, **cases.ASKED, "curve_epochs": 5}
    told = trial.phases_trial(cases.models(tmp_path), asked, tmp_path / "out", 1).said
    assert told["time per pair"] == "11 s, of which 2 s for each epoch of its curve"
