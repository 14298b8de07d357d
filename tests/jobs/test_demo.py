"""The demo: what it leaves, and that a second call uses it.

It is made on a small grid, or is the one that scripts/test made, whose folder LANDSCAPE_DEMO names.
"""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from landscape_jobs.demo import digits, digits_convnet, make_demo
from landscape_jobs.spec.job import load_job

import landscape as ls
from landscape.opening.opening import Place

MADE = os.environ.get("LANDSCAPE_DEMO")
SETTINGS = {"nx": 17, "ny": 13, "epochs": 20, "k": 5} if MADE else {"nx": 5, "ny": 4, "epochs": 3, "k": 2}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MADE:
        return Path(MADE)
    out = tmp_path_factory.mktemp("demo") / "a demo"
    make_demo(out, **SETTINGS)
    return out


def test_the_demo_leaves_one_file_with_surfaces_spectrum_and_curve(demo: Path) -> None:
    names = ["convnet", "mlp", "mlp_trajectory", "convnet_spectrum", "convnet_pair", "convnet_curve"]
    assert Place(demo / "demo.h5").run_names == names
    for name in ("convnet", "mlp", "mlp_trajectory"):
        surface = ls.open(demo / "demo.h5", run=name)
        assert isinstance(surface, ls.Surface)
        assert surface.complete
        assert surface.values["loss"].shape == surface.values["accuracy"].shape == (SETTINGS["ny"], SETTINGS["nx"])


def test_the_spectrum_is_that_of_the_net_in_its_job_file(demo: Path) -> None:
    spectrum = ls.open(demo / "demo.h5", run="convnet_spectrum")
    assert isinstance(spectrum, ls.Spectrum)
    assert spectrum.size == 12_058
    assert spectrum.converged.tolist() == [True] * SETTINGS["k"]
    net = digits_convnet()
    ls.load_checkpoint(net, demo / "digits_convnet.safetensors")
    assert spectrum.eigenvectors is not None
    vectors = torch.from_numpy(spectrum.eigenvectors).float()
    with ls.CurvatureOperator(ls.Objective(net, data=digits("train"), device="cpu")) as H:
        images = H.apply(vectors)
    gaps = torch.linalg.vector_norm(images - torch.from_numpy(spectrum.eigenvalues).float()[:, None] * vectors, dim=1)
    assert (gaps.numpy() < 1.1e-3 * spectrum.eigenvalues).all()
    assert spectrum.trace is not None
    assert spectrum.trace.method == "exact"
    assert spectrum.trace.value > spectrum.eigenvalues.sum()
    assert spectrum.density is not None
    assert len(spectrum.density.nodes) == 4
    job = load_job(demo / "convnet_spectrum.toml")
    assert (job.table.arguments()["k"], job.out) == (SETTINGS["k"], demo / "runs/convnet_spectrum")


def test_the_curve_between_two_trainings_lies_on_its_surface(demo: Path) -> None:
    table = ls.open(demo / "demo.h5", run="convnet_pair")
    surface = ls.open(demo / "demo.h5", run="convnet_curve")
    assert isinstance(table, ls.Connectivity)
    assert isinstance(surface, ls.Surface)
    assert table.numbers["curve_barrier"][0] < 0.5 * table.numbers["line_barrier"][0]
    assert surface.points is not None
    assert surface.points.kind == "curve"
    assert surface.points.true["loss"][[0, -1]] == pytest.approx(table.curve["loss"][0][[0, -1]], rel=1e-5)
    assert (demo / "convnet_pair_paths.png").is_file()
    assert (demo / "convnet_curve_contour.png").is_file()


def test_the_report_has_a_section_for_each_result(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    for name in Place(demo / "demo.h5").run_names:
        assert f">{name}</h2>" in page
    assert page.count('class="picture"') >= 9


def test_the_trajectory_lies_inside_its_picture_and_ends_at_the_centre(demo: Path) -> None:
    surface = ls.open(demo / "demo.h5", run="mlp_trajectory")
    assert isinstance(surface, ls.Surface)
    assert surface.points is not None
    assert surface.points.labels == tuple(f"epoch{i}" for i in range(2 * SETTINGS["epochs"] + 1))
    for values, coordinates in zip(surface.axes.values(), surface.points.coordinates.T, strict=True):
        assert values[0] < coordinates.min()
        assert coordinates.max() < values[-1]
    assert surface.points.distance[-1] == pytest.approx(0, abs=1e-5)
    assert surface.points.true["loss"][-1] < 0.5 * surface.points.true["loss"][0]


def test_a_second_call_computes_nothing_and_leaves_the_same(demo: Path) -> None:
    kept = [*demo.glob("*.safetensors"), *demo.glob("*.toml"), *demo.glob("runs/**/shards/*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    left = make_demo(demo, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert sorted(demo.glob("runs/**/shards/*")) == sorted(p for p in kept if p.suffix == ".npz")
    kinds = ("spectrum", "density", "layers", "vectors")
    assert {path.stem for path in left.pictures} >= {f"convnet_spectrum_{kind}" for kind in kinds}
    for path in (left.file, left.report, *left.pictures, *left.jobs):
        assert path.is_file()
        assert str(path) in left.text()
    assert left.accuracies["digits_mlp"] > 0.5  # after three epochs; about 96 % after the usual number


def test_the_digits_are_split_once_and_for_all() -> None:
    images, labels = digits("train")
    assert (images.shape, labels.shape) == ((1297, 64), (1297,))
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert len(digits("test")[1]) == 500
    with pytest.raises(ls.InputError, match="train, test"):
        digits("validation")
    assert digits_convnet()(images[:3]).shape == (3, 10)


def test_without_scikit_learn_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ls.InputError, match="pip install scikit-learn"):
        make_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
