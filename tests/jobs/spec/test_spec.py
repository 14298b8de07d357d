"""The job file: what is accepted, and how each mistake is answered."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from landscape_jobs.spec.job import Job, LayersTable, SpectrumTable, load_job, parse_job
from landscape_jobs.spec.planes import PcaPlane, RandomPlane

import landscape as ls
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
SPECTRUM = TEXT.replace("[surface]\nx = [-1, 1, 5]\ny = [0, 2.5, 3]\n", "[spectrum]\nk = 4\n")
LAYERS = SPECTRUM.replace("[spectrum]", "[layers]")


def refused(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(InputError) as caught:
        parse_job(text, "job.toml", overrides)
    return str(caught.value)


def test_a_job_has_the_documented_defaults() -> None:
    job = parse_job(TEXT, "/somewhere/job.toml")
    assert job.plane == RandomPlane(kind="random", normalize="filter", ignore=("bias", "norm"), seed=0)
    assert job.objective.loss == "cross_entropy"
    assert job.surface is not None
    assert job.surface.ranges == ((-1, 1, 5), (0, 2.5, 3))
    assert job.surface.batchnorm is None
    assert (job.run.threads, job.run.ranks_per_item) == (None, 1)


def test_relative_paths_start_from_the_job_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "größe и путь"
    folder.mkdir()
    (folder / "job.toml").write_text(TEXT, encoding="utf-8")
    job = load_job(folder / "job.toml")
    assert job.out == folder / "runs" / "a"
    assert job.absolute("/data/x") == Path("/data/x")
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
        (
            'surface={x=[0, 1, 2], batchnorm="frozen", statistics={factory="a:b"}}',
            "surface: statistics are not used with batchnorm = 'frozen'",
        ),
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


@pytest.mark.parametrize(
    ("table", "function"), [(SpectrumTable, ls.measure_spectrum), (LayersTable, ls.measure_layer_spectra)]
)
def test_tables_of_curvature_are_the_arguments_of_their_function(
    table: type[SpectrumTable | LayersTable], function: object
) -> None:
    """With the same defaults; what only a program can give is left out."""
    assert callable(function)
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name
        not in ("objective", "out", "theta", "buffers", "start", "ranks_per_item", "tolerance", "progress", "job")
    }
    assert {name: field.default for name, field in table.model_fields.items()} == parameters


def test_a_job_of_a_spectrum_reads_back_and_takes_overrides() -> None:
    given = ("spectrum.trace=deflated", "spectrum.params=0", "spectrum.tol=0.01", "spectrum.samples=20")
    job = parse_job(SPECTRUM, "/a/job.toml", given)
    assert job.spectrum is not None
    expected = {"k": 4, "trace": "deflated", "params": ("0",), "tol": 0.01, "samples": 20}
    assert job.spectrum.arguments() == expected
    assert parse_job(job.text(), "/elsewhere/run.json") == job
    layers = parse_job(LAYERS, "/a/job.toml", ["layers.trace=false", 'layers.params=["0.weight", "*.bias"]']).layers
    assert layers is not None
    assert layers.arguments() == {"k": 4, "trace": False, "params": ("0.weight", "*.bias")}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("spectrun.k=1", "spectrun: unknown; did you mean 'spectrum'?"),
        ("spectrum=3", "spectrum = 3: a table is needed here, [spectrum]"),
        ("spectrum.max_product=9", "spectrum.max_product: unknown; did you mean 'max_products'?"),
        ("spectrum.batchnorm=frozen", "spectrum.batchnorm: does not belong to [spectrum], but to [surface]"),
        ("spectrum.k=-1", "spectrum.k = -1: Input should be greater than or equal to 0"),
        ("spectrum.k=2.5", "spectrum.k = 2.5: Input should be a valid integer"),
        ("spectrum.k=true", "spectrum.k = True: Input should be a valid integer"),
        ("spectrum.smallest=-1", "spectrum.smallest = -1: Input should be greater than or equal to 0"),
        ("spectrum.tol=0", "spectrum.tol = 0: a relative accuracy, so a number between 0 and 1"),
        ("spectrum.tol=nan", "spectrum.tol = nan: a relative accuracy, so a number between 0 and 1"),
        ("spectrum.trace_tol=1", "spectrum.trace_tol = 1: a relative accuracy, so a number between 0 and 1"),
        (
            "spectrum.trace=exakt",
            "spectrum.trace = 'exakt': not true, false or a way to the trace; did you mean 'exact'",
        ),
        ("spectrum.trace=1", "spectrum.trace = 1: not true, false or a way to the trace; known: deflated, exact"),
        ("spectrum.density=1", "spectrum.density = 1: Input should be a valid boolean"),
        ("spectrum.params=[]", "spectrum.params = []: Value should have at least 1 item"),
        ("spectrum.params=1.5", "spectrum.params.0 = 1.5: Input should be a valid string"),
        ("spectrum.operator=gnn", "spectrum.operator = 'gnn': not one of hessian, ggn"),
        ("spectrum.weight_decay=-1", "spectrum.weight_decay = -1: Input should be greater than or equal to 0"),
        ("spectrum.weight_decay=inf", "spectrum.weight_decay = inf: Input should be a finite number"),
        ("spectrum.samples=1", "spectrum.samples = 1: Input should be greater than or equal to 2"),
        ("spectrum.sampling=importence", "spectrum.sampling = 'importence': not one of uniform, importance"),
        ("spectrum.sampling=importance", "spectrum: sampling = 'importance' needs samples"),
        ("spectrum.density_probes=0", "spectrum.density_probes = 0: Input should be greater than or equal to 1"),
        ("spectrum.density_steps=0", "spectrum.density_steps = 0: Input should be greater than or equal to 1"),
        ("spectrum.block=0", "spectrum.block = 0: Input should be greater than or equal to 1"),
        ("spectrum.max_products=0", "spectrum.max_products = 0: Input should be greater than or equal to 1"),
        ("spectrum.seed=x", "spectrum.seed = 'x': Input should be a valid integer"),
        ("plane.seed=1", "[plane] belongs to [surface], and this job measures [spectrum]; leave it out"),
        (
            "surface.x=[0,1,2]",
            "one of the tables [surface], [spectrum], [layers], [connectivity]; this one holds [surface], [spectrum]",
        ),
        ("layers.k=1", "this one holds [spectrum], [layers]"),
    ],
)
def test_a_mistake_in_a_job_of_curvature_is_answered_alike(override: str, expected: str) -> None:
    assert expected in refused(override, text=SPECTRUM)


def test_tables_that_ask_for_nothing_or_for_what_cannot_be_are_refused() -> None:
    off = ("spectrum.k=0", "spectrum.trace=false", "spectrum.density=false")
    assert "nothing is asked for" in refused(*off, text=SPECTRUM)
    assert "k = 0 asks for none" in refused("spectrum.k=0", "spectrum.trace=deflated", text=SPECTRUM)
    assert "layers.k = 0" in refused("layers.k=0", text=LAYERS)
    assert "layers.density: does not belong to [layers], but to [spectrum]" in refused(
        "layers.density=true", text=LAYERS
    )
    assert "[layers] computes none" in refused("layers.trace=deflated", text=LAYERS)
    assert "this one holds none of them" in refused(text=SPECTRUM.replace("[spectrum]\nk = 4\n", ""))


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
