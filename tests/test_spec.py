"""The job file: what is accepted, and how each mistake is answered."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from landscape_jobs.spec import Job, PcaPlane, RandomPlane, load_job, parse_job

from landscape.errors import InputError

TEXT = """
[model]
factory = "nets:mlp"
args = { width = 3, "odd key" = [1.5, inf, "a\\"b\\\\c\\u007f"] }
[data]
factory = "nets:data"
[surface]
x = [-1, 1, 5]
y = [0, 2.5, 3]
[run]
out = "runs/a"
"""


def refused(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(InputError) as caught:
        parse_job(text, "job.toml", overrides)
    return str(caught.value)


def test_a_job_has_the_documented_defaults() -> None:
    job = parse_job(TEXT, "/somewhere/job.toml")
    assert job.plane == RandomPlane(kind="random", normalize="filter", ignore=("bias", "norm"), seed=0)
    assert job.objective.loss == "cross_entropy"
    assert job.surface.ranges == ((-1, 1, 5), (0, 2.5, 3))
    assert job.surface.batchnorm == "frozen"
    assert (job.run.threads, job.run.ranks_per_item) == (None, 1)


def test_relative_paths_start_from_the_job_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "größe и путь"
    folder.mkdir()
    (folder / "job.toml").write_text(TEXT, encoding="utf-8")
    job = load_job(folder / "job.toml")
    assert job.out == folder / "runs" / "a"
    assert job.path("/data/x") == Path("/data/x")
    assert load_job(folder / "job.toml", ["run.out=other place"]).out == folder / "other place"


def test_the_text_of_a_job_reads_back_as_the_same_job_from_anywhere() -> None:
    job = parse_job(TEXT, "/a b/ü/job.toml", ["plane.kind=pca", 'plane.checkpoints="e*.pt"', "model.args.deep.er=true"])
    again = parse_job(job.text(), "/elsewhere/run.json")
    assert again == job
    assert again.folder == Path("/a b/ü")
    assert isinstance(again.plane, PcaPlane)
    assert again.model.args == {"width": 3, "odd key": [1.5, float("inf"), 'a"b\\c\x7f'], "deep": {"er": True}}


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("surface.x=[-2, 2, 9]", ("surface", "x"), (-2.0, 2.0, 9)),
        ("plane.seed=7", ("plane", "seed"), 7),
        ("plane.orthogonal=true", ("plane", "orthogonal"), True),
        ("plane.ignore=bias", ("plane", "ignore"), ("bias",)),
        ("objective.loss=mse", ("objective", "loss"), "mse"),
        ('objective.device="cpu"', ("objective", "device"), "cpu"),
        ("objective.loss=my.losses:huber", ("objective", "loss"), "my.losses:huber"),
    ],
)
def test_set_replaces_a_value_read_as_toml_or_else_as_a_word(
    override: str, where: tuple[str, str], value: object
) -> None:
    job: Job = parse_job(TEXT, "job.toml", [override])
    assert getattr(getattr(job, where[0]), where[1]) == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("modle.factory=a:b", "modle: unknown; did you mean 'model'?"),
        ("model.factroy=a:b", "model.factroy: unknown; did you mean 'factory'?"),
        ("plane.sed=1", "plane.sed: unknown; did you mean 'seed'?"),
        ("surface.statistics.arg=1", "surface.statistics.arg: unknown; did you mean 'args'?"),
        (
            "plane.checkpoints=[]",
            "plane.checkpoints: does not belong to a plane of kind 'random', but to 'through' and",
        ),
        ("plane.kind=randon", "plane.kind = 'randon': not known; did you mean 'random'?"),
        ("plane.kind=pca", "plane.checkpoints is missing"),
        ("plane.kind=directions", "plane.file is missing"),
        ("plane=3", "plane = 3: a table is needed here"),
        ("model=3", "model = 3: a table is needed here"),
        ("plane.normalize=filtre", "plane.normalize = 'filtre': not one of none, filter, layer, weight, model"),
        ("surface.x=[-1,1,0]", "surface.x = [-1, 1, 0]: x has n=0 points; n is a whole number of at least 1"),
        ("surface.x=[1,-1,5]", "surface.x = [1, -1, 5]: x runs from 1.0 down to -1.0; give the smaller end first"),
        ("surface.y=[nan,1,5]", "surface.y = [nan, 1, 5]: y runs from nan to 1.0; both ends must be finite"),
        ("surface.y=[0,1,nan]", "n=nan is not a whole number"),
        ("surface.y=[0,1,2.5]", "n=2.5 is not a whole number"),
        ("surface.y=[0,1]", "surface.y = [0, 1]: a range is three numbers"),
        ("surface.batchnorm=off", "surface.batchnorm = 'off': not one of frozen, reestimated, interpolated"),
        ("surface.statistics.factory=a:b", "surface: statistics are not used with batchnorm = 'frozen'"),
        ("objective.loss=crossentropy", "objective.loss = 'crossentropy': unknown; did you mean 'cross_entropy'?"),
        ("objective.loss=returned", "objective.loss = 'returned' needs objective.forward"),
        ('objective.metrics=["acuracy"]', "objective.metrics.0 = 'acuracy': unknown; did you mean 'accuracy'?"),
        ("objective.precision=half", "objective.precision = 'half': not one of float32, float64, bf16"),
        ("objective.forward=f", "objective.forward = 'f': is not of the form 'package.module:callable'"),
        ("run.threads=0", "run.threads = 0:"),
        ("run.ranks_per_item=0", "run.ranks_per_item = 0:"),
        ("surface.x", "--set 'surface.x' is not of the form table.key=value"),
        ("run.out.deeper=1", "run.out is a value, not a table"),
    ],
)
def test_a_mistake_names_the_key_its_value_and_what_is_allowed(override: str, expected: str) -> None:
    assert expected in refused(override)


def test_all_mistakes_are_listed_at_once() -> None:
    message = refused("surface.x=[1,-1,5]", "run.threads=-1", "modle.x=1", "plane.sed=1")
    for key in ("surface.x", "run.threads", "modle", "plane.sed"):
        assert f"\n  {key}" in message


def test_what_is_required_and_missing_is_named() -> None:
    message = refused(text="[model]\nfactory = 'a:b'\n[surface]\ny = [0, 1, 2]\n")
    for key in ("data", "surface.x", "run"):
        assert f"{key} is missing" in message


def test_z_without_y_is_refused() -> None:
    assert "z is given without y" in refused("surface.z=[0,1,2]", text=TEXT.replace("y = [0, 2.5, 3]\n", ""))


def test_files_that_are_no_job_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.toml cannot be read"):
        load_job(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    with pytest.raises(InputError, match=r"broken\.toml is not valid TOML.*line 1"):
        load_job(broken)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml is not UTF-8"):
        load_job(binary)


def test_reading_a_job_imports_none_of_its_modules() -> None:
    parse_job(TEXT, "job.toml")
    assert "nets" not in sys.modules
