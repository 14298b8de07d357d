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

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from landscape_kernels.curves import CURVES
from landscape_kernels.normalise import NORMALIZATIONS
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from landscape.checkpoints.states import PAIRS
from landscape.curvature.operator import OPERATORS
from landscape.curvature.sampling import SAMPLINGS
from landscape.errors import InputError, nearest
from landscape.network.alignment import METHODS as ALIGNMENTS
from landscape.objective.losses import named_losses, named_metrics
from landscape.objective.objective import BATCHNORM_MODES, PRECISIONS
from landscape.planes.grid import axis_values
from landscape.studies.curve.fit import DECAYS, OPTIMIZERS
from landscape.studies.spectrum.ways import METHODS

RETURNED = "returned"  # objective.loss: `forward` returns the loss itself
MEASURED = (
    "surface",
    "spectrum",
    "layers",
    "connectivity",
)  # tables that say what is measured; a job holds one of them

_DATA = ("statistics", "train", "test")  # tables of data inside a table

_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _callable_name(value: str) -> str:
    if not _CALLABLE.fullmatch(value):
        raise InputError("is not of the form 'package.module:callable'")
    return value


def _named_or_callable(names: Sequence[str]) -> AfterValidator:
    def check(value: str) -> str:
        if ":" in value:
            return _callable_name(value)
        if value not in names:
            raise InputError(f"unknown; {nearest(value, names)} A callable is given as 'package.module:callable'.")
        return value

    return AfterValidator(check)


def _one_of(names: Sequence[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in names:
            raise InputError(f"not one of {', '.join(names)}")
        return value

    return AfterValidator(check)


def _range(value: Any, info: ValidationInfo) -> Any:
    if not (isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)):
        raise InputError("a range is three numbers, [start, stop, n]")
    if not isinstance(value[2], int):
        raise InputError(f"n={value[2]} is not a whole number; give [start, stop, n] with n of at least 1")
    axis_values(str(info.field_name), value)
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    # modules of a Sequential are named by numbers
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [str(name) if type(name) is int else name for name in listed]


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


def _accuracy(value: float) -> float:
    if not 0 < value < 1:
        raise InputError("a relative accuracy, so a number between 0 and 1")
    return value


CallableName = Annotated[str, AfterValidator(_callable_name)]
Range = Annotated[tuple[float, float, int], BeforeValidator(_range)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Pairs = Annotated[Any, BeforeValidator(_pairs)]
TraceWay = Annotated[bool | str, BeforeValidator(_trace_way)]
Accuracy = Annotated[float, AfterValidator(_accuracy)]
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataTable(_Table):
    """Where data come from: a factory that returns anything `landscape.Objective` takes as data."""

    factory: CallableName
    args: dict[str, Any] = {}


class ModelTable(_Table):
    """The network: a factory that returns an nn.Module, and the trained parameters put into it.

    `checkpoint` is a file or a folder of transformers. Without it the network stays as the factory made it, except that
    planes of checkpoints and [connectivity] bring their own: the last of a plane of kind "pca" and the first of the
    others is then loaded.
    """

    factory: CallableName
    args: dict[str, Any] = {}
    checkpoint: Path | None = None


class ObjectiveTable(_Table):
    """What is measured, see `landscape.Objective`; loss "returned" means that `forward` returns the loss itself."""

    loss: Annotated[str, _named_or_callable((*named_losses(), RETURNED))] = "cross_entropy"
    metrics: tuple[Annotated[str, _named_or_callable(named_metrics())], ...] = ()
    forward: CallableName | None = None
    precision: Annotated[str, _one_of(PRECISIONS)] | None = None
    device: str | None = None


class RandomPlane(_Table):
    """Random directions, see `landscape.random_plane`; as many as [surface] has ranges."""

    kind: Literal["random"] = "random"
    normalize: Annotated[str, _one_of(NORMALIZATIONS)] = "filter"
    ignore: Strings = ("bias", "norm")
    seed: int = 0
    orthogonal: bool = False
    params: Names | None = Field(default=None, min_length=1)


class ThroughPlane(_Table):
    """The line, plane, ... through checkpoints (files, or a glob pattern), see `landscape.plane_through`."""

    kind: Literal["through"]
    checkpoints: Strings = Field(min_length=1)


class PcaPlane(_Table):
    """Principal axes of a trajectory: its folder, or files (a glob pattern, too), see `landscape.pca_plane`."""

    kind: Literal["pca"]
    checkpoints: Strings = Field(min_length=1)


class DirectionsPlane(_Table):
    """Directions from a file that loss-landscape wrote, see `landscape.read_loss_landscape_directions`."""

    kind: Literal["directions"]
    file: Path


class CurvePlane(_Table):
    """The plane of a fitted curve (a run folder or file of one), see `landscape.curve_plane`."""

    kind: Literal["curve"]
    curve: Path


_PLANES: dict[str, type[_Table]] = {
    "random": RandomPlane,
    "through": ThroughPlane,
    "pca": PcaPlane,
    "directions": DirectionsPlane,
    "curve": CurvePlane,
}


def _plane_kind(value: Any) -> str:
    return str(value.get("kind", "random") if isinstance(value, dict) else getattr(value, "kind", value))


PlaneTable = Annotated[
    Annotated[RandomPlane, Tag("random")]
    | Annotated[ThroughPlane, Tag("through")]
    | Annotated[PcaPlane, Tag("pca")]
    | Annotated[DirectionsPlane, Tag("directions")]
    | Annotated[CurvePlane, Tag("curve")],
    Discriminator(_plane_kind),
]


class SurfaceTable(_Table):
    """The grid, (start, stop, n) for each axis, and how it is measured, see `landscape.measure_surface`."""

    x: Range
    y: Range | None = None
    z: Range | None = None
    batchnorm: Annotated[str, _one_of(BATCHNORM_MODES)] | None = None
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


class _CurvatureTable(_Table):
    """What [spectrum] and [layers] share."""

    tol: Accuracy = 1e-3
    trace: TraceWay = True
    params: Names | None = Field(default=None, min_length=1)
    operator: Annotated[str, _one_of(OPERATORS)] = "hessian"
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
    sampling: Annotated[str, _one_of(SAMPLINGS)] = "uniform"
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


class ConnectivityTable(_Table):
    """Pairs of models, on straight lines and on fitted curves, see `landscape.measure_connectivity`."""

    models: Strings = Field(min_length=1)
    pairs: Pairs = "all"
    t: Annotated[int, Field(strict=True, ge=2)] = 25
    epochs: Count = 50
    kind: Annotated[str, _one_of(CURVES)] = "bezier"
    degree: Annotated[int, Field(strict=True, ge=2)] = 2
    optimizer: Annotated[str, _one_of(tuple(OPTIMIZERS))] = "sgd"
    lr: Annotated[FiniteFloat, Field(gt=0)] | None = None
    momentum: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    decay: Annotated[str, _one_of(DECAYS)] = "point"
    batch_size: Positive = 128
    parts: Positive = 1
    align: Annotated[str, _one_of(ALIGNMENTS)] | None = None
    batchnorm: Annotated[str, _one_of(("frozen", "reestimated"))] | None = None
    seed: Whole = 0
    train: DataTable | None = None
    statistics: DataTable | None = None
    test: DataTable | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of the function that measures it, those given, without models and data."""
        return self.model_dump(exclude_unset=True, exclude={"models", "train", "statistics", "test"})


class RunTable(_Table):
    """Where the run goes, how it is spread, and what is done about items that fail.

    The run folder; torch threads per rank; ranks that share one item; how often an item that fails is tried again
    before it is left out (a surface's point, a layer, a pair of models), and the seconds one may take; whether each
    rank reads the data and the model's checkpoint, or the first does once and sends them to the others.
    """

    out: Path
    threads: PositiveInt | None = None
    ranks_per_item: PositiveInt = 1
    retries: NonNegativeInt = 2
    item_seconds: PositiveFloat | None = None
    read: Literal["each", "once"] = "each"


class Job(_Table):
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
                f"a job measures one thing, so it holds one of the tables {_bracketed(MEASURED)}; this one holds "
                f"{_bracketed(given) or 'none of them'}"
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
        problems = [_problem(dict(e), content) for e in error.errors(include_url=False)]
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


def _problem(error: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """One validation error in the words of the job file."""
    where = [part for i, part in enumerate(error["loc"]) if not (i == 1 and error["loc"][0] == "plane")]
    key = ".".join(str(part) for part in where)
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{key}: {_unknown_key(where, content)}"
    if kind == "missing":
        return f"{key} is missing; it has no default"
    if kind == "model_type":
        return f"{key} = {_short(error['input'])}: a table is needed here, [{key}]"
    if kind == "union_tag_invalid" and isinstance(content["plane"], dict):
        return f"plane.kind = {_plane_kind(content['plane'])!r}: not known; {nearest(error['ctx']['tag'], _PLANES)}"
    cause = error.get("ctx", {}).get("error")
    text = str(cause) if isinstance(cause, InputError) else str(error["msg"])
    if kind == "union_tag_invalid":
        text = "a table is needed here, [plane]"
    if kind == "value_error" and isinstance(error["input"], dict):  # about several keys of one table
        return f"{key}: {text}" if key else text
    return f"{key} = {_short(error['input'])}: {text}"


def _unknown_key(where: Sequence[str | int], content: Mapping[str, Any]) -> str:
    name = str(where[-1])
    if len(where) == 1:
        return f"unknown; {nearest(name, Job.model_fields)}"
    table: type[BaseModel]
    if where[0] == "plane":
        kind = _plane_kind(content["plane"])
        table = _PLANES[kind]
        owners = [other for other, model in _PLANES.items() if name in model.model_fields]
        if owners:
            return f"does not belong to a plane of kind {kind!r}, but to {' and '.join(map(repr, owners))}"
    elif len(where) > 2 and where[1] in _DATA:
        table = DataTable
    else:
        table = _table(str(where[0]))
        owners = [f"[{other}]" for other in MEASURED if name in _table(other).model_fields]
        if where[0] in MEASURED and owners:
            return f"does not belong to [{where[0]}], but to {' and '.join(owners)}"
    return f"unknown; {nearest(name, table.model_fields)}"


def _table(key: str) -> type[BaseModel]:
    """The model of one of the job's tables, also where the table may be left out."""
    annotation = Job.model_fields[key].annotation
    found = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
    return found[0]


def _bracketed(names: Sequence[str]) -> str:
    return ", ".join(f"[{name}]" for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text)} characters)"


def toml_key(key: str) -> str:
    """A key as TOML."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else to_toml(key)


def to_toml(value: Any) -> str:
    """A value as TOML; JSON's strings are TOML's basic strings, but for the one control character it leaves alone."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(to_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml_key(k)} = {to_toml(v)}" for k, v in value.items()) + " }"
    return str(value.isoformat())  # the dates and times of TOML are all that is left
