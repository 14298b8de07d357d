"""What holds for every study: files, tables, columns, pictures and views of whole, partial and odd results.

And defaults, and a job table with `check`, `run`, `resume`, `status` and `report`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
from landscape_jobs.cli import app
from landscape_jobs.report import write_report
from landscape_jobs.spec.job import TABLES
from torch import nn
from typer.testing import CliRunner

import landscape as ls
from landscape.opening.opening import Place
from landscape.results.kind import Asked, kind_of
from landscape.results.study import studies
from landscape.results.summary import result_tables
from landscape.studies.table import STUDIES

FILED = [(kind, case) for kind, case in made.EVERY if kind != "topology"]


def test_every_kind_has_a_sample_and_every_study_its_names() -> None:
    assert {study.kind.name for study in STUDIES} == set(made.KINDS)
    for study in STUDIES:
        assert getattr(ls, study.kind.result.__name__) is study.kind.result
        if study.measure is not None:
            assert getattr(ls, study.measure.__name__) is study.measure
            assert study.task is not None or study.trial is not None
            assert study.result is not None


@pytest.mark.parametrize(("kind", "case"), FILED)
def test_written_and_read_back_is_equal(kind: str, case: str, tmp_path: Path) -> None:
    result = made.KINDS[kind](case)
    read = Place(result.save(tmp_path / "file.h5")).open()
    assert type(read) is type(result)
    same(result, read)
    columns, again = (kind_of(one).columns(one) for one in (result, read))
    assert list(columns) == list(again)


def same(a: Any, b: Any) -> None:
    """Equal fields, arrays to the bit; what a file adds to attributes may be there."""
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if not field.compare:  # what is not filed: where a result lies, what it was made with
            continue
        if field.name == "attributes":
            for name, value in one.items():
                found = json.dumps(other[name], default=plain)
                assert found == json.dumps(value, default=plain), name
        else:
            same_value(one, other, field.name)


def plain(value: Any) -> Any:
    """An array or a number of numpy as plain values."""
    return value.tolist()


def same_value(one: Any, other: Any, where: str) -> None:
    if dataclasses.is_dataclass(one):
        same(one, other)
    elif isinstance(one, dict):
        assert set(one) <= set(other), where
        assert all(np.isnan(other[name]) for name in set(other) - set(one)), where  # an error that is not known
        for name in one:
            same_value(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, (np.ndarray, torch.Tensor)):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=where)
    else:
        np.testing.assert_equal(other, one, err_msg=where)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "case"), made.EVERY)
def test_told_and_drawn(kind: str, case: str) -> None:
    result = made.KINDS[kind](case)
    tables = list(result_tables(result, "title"))
    assert tables[0].title == "title"
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    columns = kind_of(result).columns(result)
    assert len({len(column) for column in columns.values()}) == 1
    frame = result.to_pandas()
    assert sorted([*filter(None, frame.index.names), *frame]) == sorted(columns)
    assert all(picture.alt for picture in kind_of(result).views()(result, 100))
    glance = kind_of(result).glance(result)
    assert glance is None or glance.values.shape == glance.computed.shape
    pictures = kind_of(result).pictures()
    try:
        drawn = list(pictures.asked(result, Asked()))
    except ls.InputError:  # which says why there is nothing to draw
        return
    assert all(name and figure.axes for name, figure in drawn)


@pytest.mark.parametrize("study", studies(), ids=lambda study: study.name)
def test_defaults_are_those_of_the_settings(study: Any) -> None:
    parameters = inspect.signature(study.measure).parameters
    for field in dataclasses.fields(study.settings):
        if field.default is dataclasses.MISSING:
            continue  # the range of an axis, which the function takes as None to say what is missing
        default = parameters[field.name].default
        assert default == field.default or tuple(np.ravel(default)) == tuple(np.ravel(field.default)), field.name
    for name in study.inputs:
        assert name in parameters
    for name in ("out", "ranks_per_item", "limit_items", "tolerance", "progress", "job"):
        assert name in parameters, name


# The least job of every study. Models of pairs are "a.pt" and "b.pt"; `made` of the folder below.
JOBS: dict[str, str] = {
    "surface": "x = [-1, 1, 3]\ny = [-1, 1, 2]",
    "profiles": "n = 2\nx = [-1, 1, 3]",
    "curvature_map": "x = [-1, 1, 2]\ny = [-1, 1, 3]\ntol = 0.1",
    "spectrum": 'k = 2\ndensity = false\ntrace = "hutchinson"\ntrace_tol = 0.9',
    "layers": "k = 1\ntrace = false",
    "diagonal": "",
    "layer_structure": 'k = 3\nother = "b.pt"',
    "curve": 'theta_a = "a.pt"\ntheta_b = "b.pt"\nepochs = 2\nbatch_size = 8',
    "path": 'curve = ["a.pt", "b.pt"]\nt = 5',
    "connectivity": 'models = ["a.pt", "b.pt"]\nt = 3\nepochs = 1\nbatch_size = 8',
    "agreement": 'models = ["a.pt", "b.pt"]',
    "phases": 'models = "models.csv"\nload = "width"\ntemperature = "lr"\ncurve_epochs = 1\nhessian_samples = 8',
    "train": "seeds = 2\nrecipe = { epochs = 2, batch_size = 8 }\ncells = { lr = [0.1, 0.5] }",
    "weights": "shuffles = 2\nroundings = 1",
    "corpus": 'table = "table.csv"\nmetrics = ["norm", "alpha"]\ndraws = 100',
    "corpus_table": 'models = "models.csv"\nmeasure = ["weights", "loss"]',
    "marginal_likelihood": 'kernel = "empirical"\nnets = 2',
    "complexity": 'measures = ["params", "param_norm"]',
    "audit": 'models = "arms.csv"\nmeasures = ["param_norm"]\nknobs = ["lr"]',
    "coherence": 'models = ["a.pt", "b.pt"]\nexamples = true',
    "llc": "chains = 2\ndraws = 16",
    "forgetting": 'models = "tasks.csv"\nsequence = "task"',
    "basin": "cutoff = 3.0\ndirections = 40",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, data and two models, and a job for every study."""
    home = tmp_path_factory.mktemp("contract")
    (home / "contract_nets.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()\n\n"
        "def data():\n    torch.manual_seed(1)\n"
        "    return torch.randn(24, 4, dtype=torch.float64), torch.arange(24) % 3\n"
    )
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        torch.save(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().state_dict(), home / name)
    (home / "models.csv").write_text("width,lr,seed,final\n5,0.1,0,a.pt\n5,0.1,1,b.pt\n")
    (home / "tasks.csv").write_text("task,seed,final\n0,0,a.pt\n1,0,b.pt\n2,0,a.pt\n")
    rows = (f"{k % 2},{k * k % 7},{k * 5 % 6},{k / 8}" for k in range(8))
    (home / "table.csv").write_text("\n".join(["depth,norm,alpha,test_accuracy", *rows]))
    (home / "arms.csv").write_text("lr,seed,final,test_error\n0.1,0,a.pt,0.3\n0.5,0,b.pt,0.305\n")
    for name, table in JOBS.items():
        (home / f"{name}.toml").write_text(
            f'[model]\nfactory = "contract_nets:net"\n[data]\nfactory = "contract_nets:data"\n'
            f'[{name}]\n{table}\n[run]\nout = "runs/{name}"\n'
        )
    return home


def landscape(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    threads = torch.get_num_threads()
    yield lambda: None
    torch.set_num_threads(threads)


def test_there_is_a_job_for_every_study() -> None:
    assert set(JOBS) == set(TABLES) == {study.name for study in studies()}


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", TABLES)
def test_job(name: str, folder: Path) -> None:
    """check, a run that ends early, resume, status, show, plot, report; the result is that of an undisturbed run."""
    study = TABLES[name].study
    job, run = folder / f"{name}.toml", folder / "runs" / name
    assert "time on 1 rank" in landscape("check", job)
    assert not run.exists()
    begun = CliRunner().invoke(app, ["run", str(job), "--limit-items", "1"])
    assert begun.exit_code in (0, 3), begun.output  # 0 where there is one item
    landscape("resume", run)
    assert "complete" in landscape("status", run)
    result = ls.open(run)
    assert isinstance(result, study.kind.result)
    landscape("run", job, "--set", f"run.out=runs/{name}_whole")
    for ours, theirs in zip(
        kind_of(result).columns(result).values(),
        kind_of(result).columns(ls.open(folder / f"runs/{name}_whole")).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    landscape("show", run / "landscape.h5")
    landscape("plot", run)
    landscape("report", run, "-o", folder / f"{name}.html")
    page = (folder / f"{name}.html").read_text()
    assert f'<h2 id="result-1-name">{name}</h2>' in page
    assert re.search(study.kind.words, page, re.IGNORECASE)


def test_a_report_of_all_kinds_is_one_page(tmp_path: Path) -> None:
    page = write_report({kind: make("whole") for kind, make in made.KINDS.items()}, tmp_path / "all.html")
    text = page.read_text()
    assert all(f">{kind}</h2>" in text for kind in made.KINDS)


def test_advice_for_a_folder_made_from_python(folder: Path, tmp_path: Path) -> None:
    """`landscape resume` names the function that made the folder, whichever study it is of."""
    model, data = nn.Linear(4, 3), (torch.randn(8, 4), torch.arange(8) % 3)
    objective = ls.Objective(model, "cross_entropy", data)
    plane = ls.random_plane(objective, axes=1)
    ls.measure_profiles(objective, 1, (-1, 1, 3), out=tmp_path / "profiles", limit_items=1)
    ls.measure_curvature_map(objective, plane, (-1, 1, 3), out=tmp_path / "map", limit_items=0)
    ls.measure_layer_spectra(objective, trace=False, out=tmp_path / "layers", limit_items=0)
    said = {name: landscape("resume", tmp_path / name, code=2) for name in ("profiles", "map", "layers")}
    assert "landscape.measure_profiles(" in said["profiles"]
    assert "landscape.measure_curvature_map(" in said["map"]
    assert "landscape.measure_layer_spectra(" in said["layers"]
