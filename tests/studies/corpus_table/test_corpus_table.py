"""The table of a corpus against the measurements of each model, naive twins, and what cannot be measured."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import corpus_cases
import numpy as np
import phases_cases
import pytest
import torch
from landscape_jobs.cli import app
from landscape_kernels.arrays import FloatArray
from torch import nn
from typer.testing import CliRunner

import landscape as ls
from landscape.checkpoints.trained import TrainedModels
from landscape.planes.directions import random_plane
from landscape.studies.corpus_table.metric_sets import METRIC_SETS

WIDTHS = (3, 3, 3, 5, 5, 5)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of the corpus lie."""
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def table(home: Path) -> ls.Measures:
    return corpus_cases.table(home)


def network(home: Path, row: int) -> nn.Module:
    model = phases_cases.net(WIDTHS[row])
    model.load_state_dict(torch.load(home / f"{WIDTHS[row]}-8-{row % 3}.pt", weights_only=True))
    return model


def test_what_models_are_and_weights(home: Path, table: ls.Measures) -> None:
    assert table.rows[4] == "width=5,batch_size=8,seed=1"
    assert table.keys == {"width": WIDTHS, "batch_size": (8,) * 6, "seed": (0, 1, 2) * 2}
    assert table.complete
    assert table.attributes["of_models"] == [
        *table.keys,
        "loss",
        "error",
        "test_loss",
        "test_error",
        "test_accuracy",
        "gap",
    ]
    assert list(table.values["entries"]) == [7 * width for width in WIDTHS]
    for row in range(6):
        found = ls.measure_weights(home / f"{WIDTHS[row]}-8-{row % 3}.pt", shuffles=0, roundings=0).model
        for name in ("log_norm", "stable_rank", "entropy", "alpha"):
            assert table.values[name][row] == pytest.approx(float(found[name]), rel=1e-13, nan_ok=True), name
    assert set(table.words) == set(table.values)


def test_losses_and_curvature_by_naive_twins(home: Path, table: ls.Measures) -> None:
    inputs, labels = phases_cases.data()
    for row in (0, 5):
        model = network(home, row)
        wrong = [float((model(x).argmax(1) != y).double().mean()) for x, y in ((inputs, labels), phases_cases.data(20))]
        assert [table.values[name][row] for name in ("error", "test_error")] == pytest.approx(wrong, rel=1e-12)
        assert table.values["test_accuracy"][row] == pytest.approx(1 - wrong[1], rel=1e-12)
        assert table.values["gap"][row] == pytest.approx(wrong[1] - wrong[0], abs=1e-12)
        loss = float(nn.functional.cross_entropy(model(inputs), labels).detach())
        assert table.values["loss"][row] == pytest.approx(loss, rel=1e-12)


@pytest.fixture(scope="module")
def whole(home: Path, table: ls.Measures) -> ls.Measures:
    """Curvature and the rise of the loss of all samples; the checkpoints lie there already."""
    del table
    paths = [home / f"{width}-8-{k % 3}.pt" for k, width in enumerate(WIDTHS)][3:]
    options: dict[str, Any] = {
        "factory": lambda: phases_cases.net(5),
        "data": phases_cases.data(),
        "loss": "cross_entropy",
    }
    return ls.measure_corpus(paths, ["profiles", "spectrum"], **options)


def test_curvature_and_rise_are_those_of_a_dense_hessian_and_a_loop(home: Path, whole: ls.Measures) -> None:
    assert whole.rows == ("5-8-0", "5-8-1", "5-8-2")
    inputs, labels = phases_cases.data()
    for row in range(3):
        model = network(home, 3 + row)
        names = [name for name, _ in model.named_parameters()]
        shapes = [p.shape for p in model.parameters()]

        def loss(
            theta: torch.Tensor, model: nn.Module = model, names: Any = names, shapes: Any = shapes
        ) -> torch.Tensor:
            parts = theta.split([math.prod(shape) for shape in shapes])
            state = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
            return nn.functional.cross_entropy(torch.func.functional_call(model, state, (inputs,)), labels)

        theta = torch.cat([p.detach().flatten() for p in model.parameters()])
        hessian = torch.autograd.functional.hessian(loss, theta)
        assert whole.values["lambda_max"][row] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=2e-3)
        assert whole.values["trace"][row] == pytest.approx(float(hessian.trace()), rel=1e-9)
        objective = ls.Objective(model, "cross_entropy", (inputs, labels))
        directions = random_plane(objective, axes=3).directions  # of ten, whose numbers say which
        first = [float(loss(theta + s * d) - loss(theta)) for d in directions for s in (-0.5, 0.5)]
        profiles = ls.measure_profiles(objective, 10, (-0.5, 0.5, 3)).values["loss"]
        sides: FloatArray = profiles[:, [0, 2]] - profiles[:, [1]]
        np.testing.assert_allclose(sides[:3].ravel(), first, rtol=1e-9)
        assert whole.values["rise"][row] == pytest.approx(sides.mean(), rel=1e-12)
        error = sides.mean(1).std(ddof=1) / math.sqrt(10)
        assert whole.stderr["rise"][row] == pytest.approx(error, rel=1e-9)


def test_an_ended_run_goes_on_to_the_same_bits_and_is_a_table(home: Path, table: ls.Measures, tmp_path: Path) -> None:
    part = corpus_cases.table(home, out=tmp_path / "run", limit_items=2)
    assert part.computed.sum() == 2
    again = corpus_cases.table(home, out=tmp_path / "run")
    for name, values in table.values.items():
        np.testing.assert_array_equal(again.values[name], values, err_msg=name)
    opened = ls.open(tmp_path / "run")
    assert isinstance(opened, ls.Measures)
    assert opened.keys == table.keys
    corpus = ls.analyse_corpus(opened, "test_loss", "width", draws=100)
    assert "seed" not in corpus.metric
    assert "log_norm" in corpus.metric
    assert not any("stderr" in name for name in corpus.metric)
    partly = ls.analyse_corpus([part, {"model": list(table.rows), "acc": [1, 2, 3, 4, 5, 6]}], "acc", "width", "norm")
    assert partly.note == ("4 models left out: a cell is missing; no variation in group 3",) or partly.models[0] == 2


def test_a_training_brings_what_is_needed(tmp_path: Path) -> None:
    """And a model that the metrics do not fit has none, and says why, while the others have theirs."""
    data = phases_cases.data()
    recipe = ls.Recipe(epochs=1, batch_size=24)
    trained = ls.train_models(
        phases_cases.net, data, recipe=recipe, cells={"width": [3, 4]}, seeds=2, out=tmp_path / "t", test=data
    )
    found = ls.measure_corpus(trained, ["weights", "spectrum"])
    np.testing.assert_allclose(found.values["test_accuracy"], 1 - trained.final("test_error"))
    distance = [
        sum(float((a - b).norm()) for a, b in zip(end, start, strict=True)) / 2
        for end, start in (
            ([m["0.weight"], m["2.weight"]] for m in (ls.read_state(p) for p in pair))  # type: ignore[arg-type]
            for pair in zip(trained.checkpoints.final, trained.checkpoints.initial, strict=True)
        )
    ]
    np.testing.assert_allclose(found.values["distance"], distance, rtol=1e-9)
    assert {"lambda_max", "trace"} <= set(found.stderr)
    state = ls.read_state(trained.checkpoints.final[2])  # type: ignore[arg-type]
    torch.save({name: value * math.nan for name, value in state.items()}, tmp_path / "bad.pt")
    table = TrainedModels({"width": (3, 4)}, (0, 0), (None, None), (trained.checkpoints.final[0], tmp_path / "bad.pt"))
    broken = ls.measure_corpus(table, ["weights", "spectrum"], factory=phases_cases.net, data=data)
    assert np.isnan(broken.values["trace"]).tolist() == [False, True]
    assert list(broken.attributes["reasons"]) == ["width=4,seed=0"]
    assert broken.values["trace"][0] == found.values["trace"][0]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "set": ({"measure": "wieghts"}, "'wieghts' is no set of metrics; did you mean 'weights'"),
    "no set": ({"measure": []}, "no set of metrics is named; give one or more of weights, loss"),
    "set twice": ({"measure": ["loss", "loss"]}, "named twice"),
    "no network": ({"measure": ["weights", "spectrum"]}, "factory= is not given"),
    "no data": ({"measure": "loss", "factory": phases_cases.net}, "data= is not given"),
    "too many samples": (
        {"measure": "spectrum", "factory": phases_cases.net, "data": phases_cases.data(), "samples": 99},
        "samples=99, and the training data are 48",
    ),
    "another network": (
        {"measure": "loss", "factory": lambda width: nn.Linear(width, 2).double(), "data": phases_cases.data()},
        "model width=3,batch_size=8,seed=0",
    ),
    "no folder": ({"models": "none"}, "none"),
    "empty folder": ({"models": "."}, "neither the run of a training nor a folder of checkpoints"),
    "no paths": ({"models": [3]}, "a list of models is of paths"),
}


def test_a_model_with_one_spoilt_layer_has_no_means_over_the_others(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(14, 12), nn.Linear(12, 3)).state_dict()
    spoilt = {name: value.clone() for name, value in state.items()}
    spoilt["0.weight"][2, 3] = math.nan
    for name, weights in (("a", state), ("b", spoilt)):
        (tmp_path / name).mkdir()
        torch.save(weights, tmp_path / name / "model.pt")
    paths = [tmp_path / name / "model.pt" for name in "ab"]
    found = ls.measure_corpus(paths, measure="weights")
    assert found.rows == ("a/model.pt", "b/model.pt")  # files of one name are told apart by their folders
    assert np.isnan(found.values["norm"]).tolist() == [False, True]
    assert found.attributes["reasons"] == {
        "b/model.pt": {"weights": "layer '0' has no values: it holds values that are NaN or infinite"}
    }
    with pytest.raises(ls.InputError, match="more than once"):
        ls.measure_corpus([*paths, paths[0]], measure="weights")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_work(
    case: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = BAD[case]
    monkeypatch.chdir(tmp_path)
    models = asked.get("models", phases_cases.models(home, batch_sizes=(8,)))
    with pytest.raises(ls.InputError, match=said):
        ls.measure_corpus(models, **{"out": "run", **{k: v for k, v in asked.items() if k != "models"}})
    assert not (tmp_path / "run").exists()


NETS = """
from phases_cases import data, net
"""
JOB = """
[corpus_table]
models = "models.csv"
[run]
out = "table"
"""


def test_from_a_table_of_checkpoints_to_the_flag_by_jobs(home: Path, table: ls.Measures, tmp_path: Path) -> None:
    """Weights alone need no network; a group of one model, a constant metric and a missing cell are told, not zero."""

    def landscape(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == code, done.output
        return done.output

    with (tmp_path / "models.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["width", "seed", "final"])
        rows.writerows([width, k, home / f"{width}-8-{k % 3}.pt"] for k, width in enumerate(WIDTHS))
    (tmp_path / "table.toml").write_text(JOB)
    assert "models" in landscape("check", str(tmp_path / "table.toml"))
    landscape("run", str(tmp_path / "table.toml"))
    network = landscape("run", str(tmp_path / "table.toml"), "--set", "corpus_table.measure=loss", code=2)
    assert "[model]" in network
    names = [f"width={width},seed={k}" for k, width in enumerate(WIDTHS)]
    with (tmp_path / "more.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["model", "accuracy", "kind", "flat", "other"])
        rows.writerows([name, k / 7, "ab"[k > 4], 1, k % 4 or ""] for k, name in enumerate(names))
    (tmp_path / "corpus.toml").write_text(
        '[corpus]\ntable = ["table", "more.csv"]\ntarget = "accuracy"\ngroups = ["width", "kind"]\n'
        'metrics = ["log_norm", "flat", "other"]\ndraws = 100\n[run]\nout = "corpus"\n'
    )
    assert "6, of which 0 are there already" in landscape("check", str(tmp_path / "corpus.toml"))
    landscape("run", str(tmp_path / "corpus.toml"), "--limit-items", "2", code=3)
    landscape("resume", str(tmp_path / "corpus"))
    corpus = ls.open(tmp_path / "corpus")
    assert isinstance(corpus, ls.Corpus)
    notes = dict(zip(zip(corpus.metric, corpus.grouping, strict=True), corpus.note, strict=True))
    assert notes["log_norm", "kind"] == "one model in group b"
    assert notes["flat", "width"] == "the metric is constant"
    assert notes["other", "width"] == "2 models left out: a cell is missing"
    assert math.isnan(corpus.values["within"][corpus.row("flat")])
    assert corpus.simpson[corpus.row("flat")] == "undecided"
    direct = ls.analyse_corpus(
        [ls.open(tmp_path / "table"), tmp_path / "more.csv"], "accuracy", ["width", "kind"],
        ["log_norm", "flat", "other"], draws=100,
    )  # fmt: skip
    for name, values in direct.values.items():
        np.testing.assert_array_equal(corpus.values[name], values, err_msg=name)
    assert corpus.simpson == direct.simpson
    assert corpus.inside.group == direct.inside.group
    wrong = landscape("check", str(tmp_path / "corpus.toml"), "--set", "corpus.target=acuracy", code=2)
    assert "did you mean 'accuracy'" in wrong


def test_no_metric_is_of_two_sets() -> None:
    names = [name for one in METRIC_SETS.values() for name in one.metrics]
    assert len(set(names)) == len(names)


def test_a_run_is_of_its_checkpoints_not_of_their_names(table: ls.Measures, home: Path, tmp_path: Path) -> None:
    del table  # whose checkpoints these are
    for name in "ab":
        torch.save(torch.load(home / f"3-8-{'ab'.index(name)}.pt", weights_only=True), tmp_path / f"{name}.pt")
    ls.measure_corpus(tmp_path, out=tmp_path / "run")
    assert ls.measure_corpus(tmp_path, out=tmp_path / "run").rows == ("a", "b")
    torch.save(torch.load(home / "3-8-2.pt", weights_only=True), tmp_path / "b.pt")
    with pytest.raises(ls.LandscapeError, match="models"):
        ls.measure_corpus(tmp_path, out=tmp_path / "run")
