"""The job file: what `landscape run` computes, as TOML.

    [model]
    factory = "my_nets:resnet20"            # package.module:callable, found beside the job file or installed
    args = { width = 16 }
    checkpoint = "resnet20.safetensors"

    [data]
    factory = "my_data:test_set"            # returns anything landscape.Objective takes as data

    [objective]
    metrics = ["accuracy"]

    [plane]
    kind = "random"
    normalize = "filter"

    [surface]
    x = [-1.0, 1.0, 51]                     # start, stop, number of points
    y = [-1.0, 1.0, 41]

    [run]
    out = "runs/resnet20"

In the place of [plane] and [surface], one of these measures curvature:

    [spectrum]                              # eigenpairs, trace and density of the Hessian
    k = 10
    trace = true                            # or a way to it: exact, sampled, split, deflated, hutchinson, xtrace
    density = true

    [layers]                                # eigenvalues and trace of every layer's diagonal block
    k = 1

and this one measures pairs of models, on straight lines and on fitted curves:

    [connectivity]
    models = "trained/*.safetensors"
    pairs = "all"                           # or ring, star, or a list such as [[0, 1], [2, 3]]
    epochs = 50                             # of each fit, 0 for straight lines alone

Relative paths start from the job file's folder, and so do those given with `--set`. `args` are handed to the factory
as they stand.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from landscape_kernels.curves import CURVES
from pydantic import BeforeValidator, Field, FiniteFloat, ValidationError, model_validator

from landscape.checkpoints.states import PAIRS
from landscape.curvature.operator import OPERATORS
from landscape.curvature.sampling import SAMPLINGS
from landscape.errors import InputError, nearest
from landscape.network.alignment import METHODS as ALIGNMENTS
from landscape.objective.objective import BATCHNORM_MODES
from landscape.studies.curve.fit import DECAYS, OPTIMIZERS
from landscape.studies.spectrum.ways import METHODS
from landscape_jobs.spec.planes import PlaneTable, RandomPlane
from landscape_jobs.spec.problems import bracketed, problem
from landscape_jobs.spec.tables import RETURNED, DataTable, ModelTable, ObjectiveTable, RunTable
from landscape_jobs.spec.toml import to_toml, toml_key
from landscape_jobs.spec.words import Accuracy, Count, Flag, JobTable, Names, Positive, Range, Strings, Whole, one_of

MEASURED = (
    "surface",
    "spectrum",
    "layers",
    "connectivity",
)  # tables that say what is measured; a job holds one of them


def _pairs(value: Any) -> Any:
    listed = value if isinstance(value, (list, tuple)) else []
    if all(isinstance(p, (list, tuple)) and len(p) == 2 and all(type(i) is int for i in p) for p in listed) and listed:
        return tuple((i, j) for i, j in listed)
    if not isinstance(value, str) or value not in PAIRS:
        raise InputError(f"not one of {', '.join(PAIRS)}, or a list of pairs of model numbers such as [[0, 1], [2, 3]]")
    return value


def _trace_way(value: Any) -> Any:
    if not isinstance(value, bool) and value not in METHODS:
        raise InputError(f"not true, false or a way to the trace; {nearest(str(value), METHODS)}")
    return value


Pairs = Annotated[Any, BeforeValidator(_pairs)]
TraceWay = Annotated[bool | str, BeforeValidator(_trace_way)]


class SurfaceTable(JobTable):
    """The grid, (start, stop, n) for each axis, and how it is measured, see `landscape.measure_surface`."""

    x: Range
    y: Range | None = None
    z: Range | None = None
    batchnorm: Annotated[str, one_of(BATCHNORM_MODES)] | None = None
    statistics: DataTable | None = None
    known: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SurfaceTable:
        if self.z is not None and self.y is None:
            raise InputError("z is given without y; name the axes in the order x, y, z")
        if self.statistics is not None and self.batchnorm not in (None, "reestimated"):
            raise InputError(f"statistics are not used with batchnorm = {self.batchnorm!r}; say 'reestimated'")
        return self

    @property
    def ranges(self) -> tuple[tuple[float, float, int], ...]:
        """The ranges given, x first."""
        return tuple(r for r in (self.x, self.y, self.z) if r is not None)


class _CurvatureTable(JobTable):
    """What [spectrum] and [layers] share."""

    tol: Accuracy = 1e-3
    trace: TraceWay = True
    params: Names | None = Field(default=None, min_length=1)
    operator: Annotated[str, one_of(OPERATORS)] = "hessian"
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    trace_tol: Accuracy = 0.02
    seed: Whole = 0

    def arguments(self) -> dict[str, Any]:
        """The arguments of the function that measures it, those given."""
        return self.model_dump(exclude_unset=True)


class SpectrumTable(_CurvatureTable):
    """Eigenpairs, trace and density of the Hessian, see `landscape.measure_spectrum`."""

    k: Count = 10
    density: Flag = True
    smallest: Count = 0
    samples: Annotated[int, Field(strict=True, ge=2)] | None = None
    sampling: Annotated[str, one_of(SAMPLINGS)] = "uniform"
    density_probes: Positive = 4
    density_steps: Positive = 32
    block: Positive | None = None
    max_products: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SpectrumTable:
        if not (self.k or self.smallest or self.trace or self.density):
            raise InputError("k = 0, smallest = 0, trace = false and density = false: nothing is asked for")
        if self.samples is None and self.sampling != "uniform":
            raise InputError(f"sampling = {self.sampling!r} needs samples, the number of samples to draw")
        if self.trace == "deflated" and not self.k:
            raise InputError("trace = 'deflated' takes out the largest eigenpairs, and k = 0 asks for none")
        return self


class LayersTable(_CurvatureTable):
    """Eigenvalues and trace of every layer's diagonal block, see `landscape.measure_layer_spectra`."""

    k: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> LayersTable:
        if self.trace == "deflated":
            raise InputError("trace = 'deflated' takes out eigenpairs of the whole matrix, and [layers] computes none")
        return self


class ConnectivityTable(JobTable):
    """Pairs of models, on straight lines and on fitted curves, see `landscape.measure_connectivity`."""

    models: Strings = Field(min_length=1)
    pairs: Pairs = "all"
    t: Annotated[int, Field(strict=True, ge=2)] = 25
    epochs: Count = 50
    kind: Annotated[str, one_of(CURVES)] = "bezier"
    degree: Annotated[int, Field(strict=True, ge=2)] = 2
    optimizer: Annotated[str, one_of(tuple(OPTIMIZERS))] = "sgd"
    lr: Annotated[FiniteFloat, Field(gt=0)] | None = None
    momentum: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    decay: Annotated[str, one_of(DECAYS)] = "point"
    batch_size: Positive = 128
    parts: Positive = 1
    align: Annotated[str, one_of(ALIGNMENTS)] | None = None
    batchnorm: Annotated[str, one_of(("frozen", "reestimated"))] | None = None
    seed: Whole = 0
    train: DataTable | None = None
    statistics: DataTable | None = None
    test: DataTable | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of the function that measures it, those given, without models and data."""
        return self.model_dump(exclude_unset=True, exclude={"models", "train", "statistics", "test"})


class Job(JobTable):
    """One job, valid as far as its text tells. `folder` is where relative paths and imports start from."""

    folder: Path
    model: ModelTable
    data: DataTable
    objective: ObjectiveTable = ObjectiveTable()
    plane: PlaneTable = RandomPlane()
    surface: SurfaceTable | None = None
    spectrum: SpectrumTable | None = None
    layers: LayersTable | None = None
    connectivity: ConnectivityTable | None = None
    run: RunTable

    @model_validator(mode="after")
    def _consistent(self) -> Job:
        given = [name for name in MEASURED if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"a job measures one thing, so it holds one of the tables {bracketed(MEASURED)}; this one holds "
                f"{bracketed(given) or 'none of them'}"
            )
        if self.surface is None and "plane" in self.model_fields_set:
            raise InputError(f"[plane] belongs to [surface], and this job measures [{given[0]}]; leave it out")
        if self.spectrum is not None and (useless := {"retries", "item_seconds"} & self.run.model_fields_set):
            raise InputError(
                f"run.{min(useless)} is for items that can be left out, and a spectrum is made of all of its own; "
                "leave it out"
            )
        if self.objective.loss == RETURNED and self.objective.forward is None:
            raise InputError(f"objective.loss = {RETURNED!r} needs objective.forward, the function that returns it")
        return self

    def path(self, given: str | Path) -> Path:
        """A path of the job as an absolute one."""
        return self.folder / Path(given).expanduser()

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.path(self.run.out)

    def text(self) -> str:
        """The job as TOML, overrides applied and `folder` stated, so that it means the same wherever it is read."""
        tables = self.model_dump(exclude_unset=True)
        lines = [f"folder = {to_toml(tables.pop('folder'))}"]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{toml_key(key)} = {to_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job in a TOML file, with `overrides` of the form "table.key=value" put in before it is checked.

    The value is read as TOML, and as a plain string where it is none. Raises InputError listing every problem: the
    dotted key, its value and what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"job file {path} is not UTF-8 text ({error}); a job file is TOML") from error
    except OSError as error:
        raise InputError(f"job file {path} cannot be read: {error.strerror}; give the path of a TOML file") from error
    return parse_job(text, path, overrides)


def parse_job(text: str, source: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job in a TOML text that stands (or stood) in the file `source`; see `load_job`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"job file {source} is not valid TOML: {error}") from error
    for override in overrides:
        put_in(content, override)
    home = Path(source).resolve().parent
    folder = content.get("folder", "")
    content["folder"] = home / folder if isinstance(folder, str) else folder
    try:
        return Job.model_validate(content)
    except ValidationError as error:
        problems = [problem(dict(e), content) for e in error.errors(include_url=False)]
        raise InputError(f"job file {source} cannot be used:\n  " + "\n  ".join(problems)) from error


def put_in(content: dict[str, Any], override: str) -> None:
    """Replace a value of a job that was read, by a text of the form "table.key=value"; see `load_job`."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise InputError(f"--set {override!r} is not of the form table.key=value, as in --set surface.x=[-1,1,51]")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = content
    for depth, name in enumerate(names[:-1], start=1):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override!r}: {'.'.join(names[:depth])} is a value, not a table")
    table[names[-1]] = value
