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

import copy
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.results.study import Study
from landscape_jobs.spec.planes import PlaneTable, RandomPlane
from landscape_jobs.spec.problems import bracketed, problem
from landscape_jobs.spec.studies import StudyTable, study_tables
from landscape_jobs.spec.tables import RETURNED, DataTable, ModelTable, ObjectiveTable, RunTable
from landscape_jobs.spec.toml import TomlFile, parse_toml, read_toml, to_toml, toml_key
from landscape_jobs.spec.words import JobTable

TABLES = study_tables()  # those that say what is measured; a job holds one of them


class Job(JobTable):
    """One job, valid as far as its text tells. `folder` is where relative paths and imports start from."""

    folder: Path
    model: ModelTable | None = None
    data: DataTable | None = None
    objective: ObjectiveTable = ObjectiveTable()
    plane: PlaneTable = RandomPlane()
    run: RunTable

    @property
    def table(self) -> StudyTable:
        """What is measured."""
        table: StudyTable = next(found for name in TABLES if (found := getattr(self, name)) is not None)
        return table

    @property
    def study(self) -> Study[Any]:
        """How it is measured."""
        return self.table.study

    def located(self, given: str | Path) -> Path:
        """A path of the job as an absolute one."""
        return self.folder / Path(given).expanduser()

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.located(self.run.out)

    def text(self) -> str:
        """The job as TOML, overrides applied and `folder` stated, so that it means the same wherever it is read."""
        tables = self.model_dump(exclude_unset=True)
        tables["run"] = tables.pop("run")  # last, as people write it
        lines = [f"folder = {to_toml(tables.pop('folder'))}"]
        for name, table in tables.items():
            lines += ["", f"[{name}]", *(f"{toml_key(key)} = {to_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[str, str]]:
        """A job goes to other ranks as its text, since the classes of its tables are made and have no place."""
        return parse_job, (self.text(), str(self.folder / "job.toml"))


_JOB = create_model("Job", __base__=Job, **{name: (table | None, None) for name, table in TABLES.items()})  # type: ignore[call-overload]


@checked()
def load_job(path: str | Path | TomlFile, overrides: Sequence[str] = ()) -> Job:
    """The job in a TOML file, with `overrides` of the form "table.key=value" put in before it is checked.

    The value is read as TOML, and as a plain string where it is none. Raises InputError listing every problem: the
    dotted key, its value and what is allowed.
    """
    file = path if isinstance(path, TomlFile) else read_toml(path)
    return job_of(file.content, file.path, overrides)


def parse_job(text: str, source: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job in a TOML text that stands (or stood) in the file `source`; see `load_job`."""
    return load_job(parse_toml(text, source), overrides)


def job_of(said: Mapping[str, Any], source: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job that the content of the file `source` says, which stays as it is; see `load_job`."""
    content = copy.deepcopy(dict(said))
    for override in overrides:
        put_in(content, override)
    home = Path(source).resolve().parent
    folder = content.get("folder", "")
    content["folder"] = home / folder if isinstance(folder, str) else folder
    problems = _of_tables(content)
    try:
        found: Job = _JOB.model_validate(content)
    except ValidationError as error:
        problems += [problem(dict(e), content, _JOB, TABLES) for e in error.errors(include_url=False)]
    if problems:
        raise InputError(f"job file {source} cannot be used:\n  " + "\n  ".join(problems))
    return found


def _of_tables(content: Mapping[str, Any]) -> list[str]:
    """What is wrong with the tables that are there and those that are not, whatever else stands in them."""
    given = [name for name in TABLES if name in content]
    tables = {name: table if isinstance(table, Mapping) else {} for name, table in content.items()}
    found = []
    if len(given) != 1:
        found.append(
            f"a job measures one thing, so it holds one of the tables {bracketed(list(TABLES))}; this one holds "
            f"{bracketed(given) or 'none of them'}"
        )
    for name in given[:1]:
        study = TABLES[name].study
        lacking = [table for table in study.needs if table not in content]
        found += [f"{table} is missing; [{name}] is not measured without [{table}]" for table in lacking]
        subject = study.inputs.get(study.subject)
        key = (subject and subject.key) or study.subject
        if subject is not None and subject.form == "models" and key not in tables[name] and "model" not in content:
            found.append(
                f"[{name}] has nothing to be measured on; name checkpoints or the run of a training by {name}.{key}, "
                "or a network by [model]"
            )
        if "plane" not in study.inputs and "plane" in content:
            planar = [other for other, table in TABLES.items() if "plane" in table.study.inputs]
            found.append(f"[plane] belongs to {bracketed(planar)}, and this job measures [{name}]; leave it out")
        if not study.leaves_out and (useless := {"retries", "item_seconds"} & tables.get("run", {}).keys()):
            found.append(
                f"run.{min(useless)} is for items that can be left out, and a {study.kind.words} is made of all of its "
                "own; leave it out"
            )
    objective = tables.get("objective", {})
    if objective.get("loss") == RETURNED and "forward" not in objective:
        found.append(f"objective.loss = {RETURNED!r} needs objective.forward, the function that returns it")
    return found


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
