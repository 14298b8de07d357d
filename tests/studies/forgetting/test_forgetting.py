"""measure_forgetting: where it is exact, against dense second derivatives, above the bound, refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import forgetting_cases as cases
import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from landscape_jobs.build.run import run_job
from landscape_jobs.spec.job import load_job
from landscape_kernels.probes import derive_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.studies.forgetting.tables import forgetting_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forgetting")


@pytest.fixture(scope="module")
def measured(folder: Path) -> ls.Forgetting:
    return cases.measured(folder)


# -- a quadratic loss: nothing is beyond second order ------------------------------------------------------------------


def regression() -> nn.Module:
    return nn.Linear(3, 1).double()


def targets(task: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(task)
    return torch.randn(40, 3, generator=draw, dtype=torch.float64), torch.randn(40, 1, generator=draw).double()


def of_points(home: Path, points: list[np.ndarray], **options: Any) -> ls.Forgetting:
    """Of parameters (w, bias) that are given, as the weights after task after task."""
    lines = ["task,seed,final"]
    for task, point in enumerate(points):
        state = {"weight": torch.from_numpy(point[None, :3].copy()), "bias": torch.from_numpy(point[3:].copy())}
        save_file(state, home / f"{task}.safetensors")
        lines.append(f"{task},0,{task}.safetensors")
    (home / "models.csv").write_text("\n".join(lines))
    asked: dict[str, Any] = {"sequence": "task", "factory": regression, "data": targets, "loss": "mse", "tol": 1e-10}
    return ls.measure_forgetting(home / "models.csv", **(asked | options))


def normal_equations(task: int) -> tuple[np.ndarray, np.ndarray]:
    """Hessian of the mean squared error of a task and its minimum, in closed form."""
    x, y = (part.numpy() for part in targets(task))
    x = np.c_[x, np.ones(len(x))]
    return 2 * x.T @ x / len(x), np.linalg.lstsq(x, y[:, 0], rcond=None)[0]


def test_of_a_quadratic_loss_gradient_and_form_are_all(tmp_path: Path) -> None:
    points = [np.random.default_rng(k).normal(size=4) for k in range(3)]
    found = of_points(tmp_path, points)
    assert (found.task, found.later, found.last.tolist()) == ((0, 0, 1), (1, 2, 2), [False, True, True])
    np.testing.assert_allclose(found.forgetting, found.predicted, rtol=1e-12)
    for row, (task, later) in enumerate(((0, 1), (0, 2), (1, 2))):
        hessian, minimum = normal_equations(task)
        way, values = points[later] - points[task], np.linalg.eigvalsh(hessian)
        assert found.values["quadratic"][row] == pytest.approx(way @ hessian @ way / 2, rel=1e-12)
        assert found.values["gradient"][row] == pytest.approx(way @ hessian @ (points[task] - minimum), rel=1e-11)
        assert found.values["lambda_max"][row] == pytest.approx(values[-1], rel=1e-9)
        assert found.bound[row] == pytest.approx(values[-1] * way @ way / 2, rel=1e-9)
        for name, (parts, counts) in of_chunks(task, points[task], way).items():
            value = parts.sum() / counts.sum()
            spread = len(parts) / (len(parts) - 1) * np.square(parts - counts * value).sum()
            assert found.values[name][row] == pytest.approx(value, rel=1e-11)
            assert found.stderr[name][row] == pytest.approx(np.sqrt(spread) / counts.sum(), rel=1e-11)


def of_chunks(task: int, point: np.ndarray, way: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (sums over chunks of what samples have in g'd or in d'Hd / 2, samples of the chunks)}."""
    x, y = (part.numpy() for part in targets(task))
    x = np.c_[x, np.ones(len(x))]
    samples = {"gradient": 2 * (x @ point - y[:, 0]) * (x @ way), "quadratic": (x @ way) ** 2}
    order = np.random.Generator(np.random.Philox(key=derive_seed(0, "order"))).permutation(len(x))  # see `whole`
    samples, cuts = {name: parts[order] for name, parts in samples.items()}, range(0, len(x), 3)  # see `chunk_for`
    return {
        name: (np.add.reduceat(parts, cuts), np.add.reduceat(np.ones(len(x)), cuts)) for name, parts in samples.items()
    }


def test_along_the_top_eigenvector_from_a_minimum_the_bound_is_met(tmp_path: Path) -> None:
    """And is not on any other way."""
    hessian, minimum = normal_equations(0)
    _, vectors = np.linalg.eigh(hessian)
    found = of_points(tmp_path, [minimum, minimum + 0.7 * vectors[:, -1], minimum + 0.7 * vectors[:, 0]])
    np.testing.assert_allclose(found.values["gradient"][:2], 0.0, atol=1e-13)
    assert found.forgetting[0] == pytest.approx(found.bound[0], rel=1e-10)
    assert found.quadratic[0] == pytest.approx(found.bound[0], rel=1e-10)
    assert found.forgetting[1] < 0.9 * found.bound[1]
    assert found.verdict[1] == "holds"


def test_what_exceeds_the_bound_is_listed(tmp_path: Path) -> None:
    """At a point that is no minimum, on a short way up the slope: the gradient's part alone is above the bound."""
    hessian, minimum = normal_equations(0)
    start = minimum + 5 * np.ones(4)
    up = hessian @ (start - minimum)
    found = of_points(tmp_path, [start, start + 1e-3 * up, start - 1e-3 * up])
    assert found.verdict[:2] == ("exceeded", "holds")
    tables = {table.title: table for table in forgetting_tables(found, "title")}
    listed = tables["pairs above the bound"]
    assert [row[0].text for row in listed.rows] == [found.label(0)]
    assert listed.rows[0][4].value == pytest.approx(0.0, abs=1e-10)  # nothing beyond second order
    assert "exceeded in 1" in tables["title"].rows[2][1].text


# -- against dense second derivatives ----------------------------------------------------------------------------------


def dense(path: Path, task: int) -> tuple[Tensor, Any]:
    """The parameters of a checkpoint as one vector, and the losses of the samples of a task as a function of it."""
    net = cases.net()
    shapes = {name: value.shape for name, value in net.named_parameters()}
    state = load_file(path)
    inputs, labels = cases.data(task)

    def losses(theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes.values()])
        values = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        outputs = torch.func.functional_call(net.eval(), values, (inputs,))
        return F.cross_entropy(outputs, labels, reduction="none")

    return torch.cat([state[name].flatten() for name in shapes]), losses


def test_equals_a_naive_twin(folder: Path, measured: ls.Forgetting) -> None:
    """Value, gradient, Hessian and its largest eigenvalue by torch's autograd, of every pair and each layer."""
    run = ls.open(folder / "run")
    assert isinstance(run, ls.Training)
    table, layers = run.checkpoints, {"0": slice(0, 15), "3": slice(15, 27)}
    assert measured.layers == tuple(layers)
    assert len(measured.seed) == 2 * 3
    for row in range(len(measured.seed)):
        key = measured.keys["lr"][row], measured.seed[row]
        of = {t: k for k, t in enumerate(table.keys["task"]) if (table.keys["lr"][k], table.seed[k]) == key}
        theta, losses = dense(table.final[of[measured.task[row]]], measured.task[row])
        later, _ = dense(table.final[of[measured.later[row]]], measured.task[row])
        way = later - theta
        rise = losses(later) - losses(theta)
        gradient = torch.autograd.functional.jacobian(lambda v, losses=losses: losses(v).mean(), theta)
        hessian = torch.autograd.functional.hessian(lambda v, losses=losses: losses(v).mean(), theta)
        values, errors = measured.values, measured.stderr
        assert values["forgetting"][row] == pytest.approx(float(rise.mean()), rel=1e-9)
        assert errors["forgetting"][row] == pytest.approx(float(rise.std() / len(rise) ** 0.5), rel=1e-9)
        assert values["gradient"][row] == pytest.approx(float(gradient @ way), rel=1e-9)
        assert values["quadratic"][row] == pytest.approx(float(way @ hessian @ way) / 2, rel=1e-9)
        assert values["distance"][row] == pytest.approx(float(way.norm()), rel=1e-12)
        assert values["lambda_max"][row] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-7)
        for k, part in enumerate(layers.values()):
            shares = gradient[part] @ way[part], way[part] @ (hessian @ way)[part] / 2, way[part].norm()
            for name, share in zip(("gradient", "quadratic", "distance"), shares, strict=True):
                assert measured.layer_values[name][row, k] == pytest.approx(float(share), rel=1e-9)
        assert values["loss_before"][row] == pytest.approx(float(losses(theta).mean()), rel=1e-9)
        assert values["loss_before"][row] == pytest.approx(run.final("loss")[of[measured.task[row]]], rel=1e-9)
        assert values["test_error_before"][row] == pytest.approx(run.final("test_error")[of[measured.task[row]]])
    assert set(measured.verdict) <= {"holds", "within errors", "exceeded"}


# -- jobs, what cannot be ---------------------------------------------------------------------------------------


def test_a_run_that_lost_a_task_is_measured_as_far_as_it_goes(
    folder: Path, measured: ls.Forgetting, tmp_path: Path
) -> None:
    frame = ls.open(folder / "run").checkpoints.to_pandas()  # type: ignore[attr-defined]
    frame = frame[frame["lr"] == 0.1]
    frame = pandas.concat([frame, frame[frame["task"] == 0].assign(seed=1)])
    frame[["task", "dropout", "seed", "final"]].to_csv(tmp_path / "models.csv", index=False)
    asked: dict[str, Any] = {"sequence": "task", "factory": cases.net, "data": cases.data, "tol": 1e-8}
    found = ls.measure_forgetting(tmp_path / "models.csv", **asked)
    assert (found.task, found.later, found.seed) == ((0, 0, 1), (1, 2, 2), (0, 0, 0))
    rows = [k for k, lr in enumerate(measured.keys["lr"]) if lr == 0.1]
    np.testing.assert_array_equal(found.forgetting, measured.forgetting[rows])


def test_a_job_trains_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    head = '[model]\nfactory = "forgetting_cases:net"\n[data]\nfactory = "forgetting_cases:all_data"\n'
    (tmp_path / "train.toml").write_text(
        f"{head}[train]\nrecipe = {{ epochs = 1 }}\ncells = {{ task = [0, 1] }}\nsequence = 'task'\n"
        "[run]\nout = 'train'\n"
    )
    (tmp_path / "measure.toml").write_text(f"{head}[forgetting]\nmodels = 'train'\ntol = 0.1\n[run]\nout = 'out'\n")
    run_job(load_job(tmp_path / "train.toml"))
    found = run_job(load_job(tmp_path / "measure.toml"))
    assert isinstance(found, ls.Forgetting)
    assert found.complete
    assert (found.sequence, found.task, found.later) == ("task", (0,), (1,))
    trained = ls.open(tmp_path / "train")
    assert isinstance(trained, ls.Training)
    assert found.values["loss_before"][0] == pytest.approx(trained.final("loss")[0], rel=1e-9)
    assert found.values["loss_after"][0] != pytest.approx(trained.final("loss")[1], rel=1e-2)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("sequence='tusk' is no key of the models; .*task", {"sequence": "tusk"}),
        ("sequence= is not given.*task", {"sequence": None}),
        ("no two models follow each other in 'dropout'", {"sequence": "dropout"}),
        ("a relative accuracy|tol=1e-17", {"tol": 1e-17}),
        ("is a function of 'task'|which is no key", {"data": lambda turn: cases.data(turn)}),
    ],
)
@pytest.mark.usefixtures("measured")
def test_what_cannot_be_measured(words: str, changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    rows = [f"{task},0.0,0,{folder}/run/models/{task:04d}/final.safetensors" for task in range(2)]
    (tmp_path / "models.csv").write_text("\n".join(["task,dropout,seed,final", *rows]))
    asked: dict[str, Any] = {"sequence": "task", "factory": cases.net, "data": cases.data}
    with pytest.raises(InputError, match=words):
        ls.measure_forgetting(tmp_path / "models.csv", out=tmp_path / "out", **(asked | changes))
    assert not (tmp_path / "out").exists()


def test_models_that_did_not_follow_each_other_are_refused(
    folder: Path, measured: ls.Forgetting, tmp_path: Path
) -> None:
    apart = cases.trained(tmp_path / "run", sequence=None, recipe={"epochs": 1}, seeds=1, cells={"task": [0, 1]})
    with pytest.raises(InputError, match="not trained one after another"):
        ls.measure_forgetting(apart, sequence="task")
    with pytest.raises(InputError, match="in the sequence of 'task'; leave it out"):
        ls.measure_forgetting(cases.trained(folder / "run"), sequence="lr")
    assert measured.complete


def test_tasks_of_the_same_data_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        of_points(tmp_path, [np.ones(4), np.zeros(4), np.ones(4)], data=targets(0))
    assert "all tasks have the same data" in caplog.text


def test_data_that_a_training_did_not_have_are_told(
    folder: Path, measured: ls.Forgetting, caplog: pytest.LogCaptureFixture
) -> None:
    """Of one task of two, by the hash that the training recorded; not where they are the same."""
    asked: dict[str, Any] = {"factory": cases.net, "tol": 0.1, "limit_items": 1}
    with caplog.at_level(logging.WARNING):
        same = ls.measure_forgetting(folder / "run", data=cases.data, **asked)
    assert not caplog.text
    assert same.forgetting[0] == measured.forgetting[0]
    others = ls.measure_forgetting(folder / "run", data=lambda task: cases.data(task, seed=task), **asked)
    assert "2 of 4 models, task=1,lr=0.1" in caplog.text
    told = {str(row[0].text): row[1].text for table in forgetting_tables(others, "title") for row in table.rows}
    assert told["trained on other data"].startswith("2 of 4 models, task=1,lr=0.1")
    assert "trained on other data" not in str([table.rows for table in forgetting_tables(same, "title")])


# -- networks that differ ----------------------------------------------------------------------------------------------


def deeper(depth: int) -> nn.Module:
    hidden = [part for k in range(depth) for part in (nn.Linear(3, 3 + k), nn.Linear(3 + k, 3))]
    return nn.Sequential(*hidden, nn.Linear(3, 1)).double()


def test_networks_of_other_shapes_have_layers_of_their_own(tmp_path: Path) -> None:
    run = ls.train_models(
        deeper,
        targets,
        loss="mse",
        recipe={"epochs": 1, "lr": 0.01},
        cells={"depth": [1, 2], "task": [0, 1]},
        sequence="task",
        seeds=1,
        out=tmp_path / "train",
    )
    found = ls.measure_forgetting(run)
    assert found.layers == ("0", "1", "2", "3", "4")
    assert np.isnan(found.layer_values["quadratic"]).tolist() == [[False] * 3 + [True] * 2, [False] * 5]
    np.testing.assert_allclose(np.nansum(found.layer_values["quadratic"], 1), found.quadratic, rtol=1e-9)
    for row, depth in enumerate((1, 2)):
        model = deeper(depth)
        pair = [load_file(run.checkpoints.final[k]) for k in (2 * row, 2 * row + 1)]
        losses = []
        for weights in pair:
            model.load_state_dict(weights)
            inputs, outputs = targets(0)
            losses.append(float(F.mse_loss(model(inputs), outputs).detach()))
        assert found.forgetting[row] == pytest.approx(losses[1] - losses[0], rel=1e-9, abs=1e-12)
    found.plot("layers")
    forgetting_tables(found, "title")


def test_a_run_of_other_data_is_refused_where_the_first_task_is_the_same(tmp_path: Path) -> None:
    points = [np.ones(4), np.zeros(4), np.ones(4)]
    of_points(tmp_path, points, out=tmp_path / "out")
    with pytest.raises(InputError, match=r"(?s)holds a different run.*items\[1\].objective.data"):
        of_points(tmp_path, points, out=tmp_path / "out", data=lambda task: targets(10 * task))


def test_decades_of_the_picture_lie_apart(tmp_path: Path) -> None:
    """Of a scale that is linear about 0 none lies within the linear part but 0."""
    found = of_points(tmp_path, [np.ones(4), np.zeros(4), np.ones(4)])
    for ax in found.plot().axes:
        if ax.get_xscale() == "symlog":
            ticks = ax.get_xticks()
            assert (np.abs(ticks[ticks != 0]) >= ax.xaxis.get_transform().linthresh).all()
    assert found.plot().axes[0].get_xscale() == "symlog"


def test_ticks_within_decades_are_few_and_plain(tmp_path: Path) -> None:
    """Names of all nine parts of a decade, as powers, lie on one another."""
    found = of_points(tmp_path, [np.ones(4), np.zeros(4), np.ones(4)])
    spread = np.geomspace(0.17, 2.2, len(found.forgetting))
    values = {**found.values, "forgetting": spread, "quadratic": spread, "gradient": 0 * spread, "distance": spread}
    values["lambda_max"] = np.ones(len(spread))
    figure = dataclasses.replace(found, values=values).plot()
    figure.canvas.draw()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        assert axis.get_scale() == "log"
        assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))
        assert all("$" not in label.get_text() for label in axis.get_ticklabels())
