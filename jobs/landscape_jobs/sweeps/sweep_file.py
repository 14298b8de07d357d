"""Sweeps: one job, and changes of its keys that make many, as TOML.

    job = "job.toml"                        # the base job, from the sweep file's folder
    out = "runs/sweep"

    [product]                               # every combination; keys as with --set
    "plane.seed" = [0, 1, 2]
    "plane.normalize" = ["filter", "layer"]

    [zip]                                   # in step
    "model.checkpoint" = ["a.safetensors", "b.safetensors"]
    "model.args.width" = [16, 32]

    [[cell]]                                # each with keys of its own
    "surface.x" = [-1, 1, 5]

At least one of product, zip and cells is given; of several every combination is a cell. Cells are numbered in this
order, the last one's keys changing fastest. The base job may also stand in this file, as [job.model] and so on.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape_jobs.spec.job import Job, job_of, put_in
from landscape_jobs.spec.toml import SWEEP, TomlFile, parse_toml, read_toml, to_toml, toml_key

_KEYS = ("job", "out", "product", "zip", "cell")
_SHOWN = 8  # problems and cells that a message lists
_CHANGED = re.compile(r"[^\s.=]+(\.[^\s.=]+)*")


@dataclass(frozen=True)
class JobCell:
    """One job of a sweep. `changes` are its values of the keys that the sweep changes, `label` shows them."""

    number: int  # from 0
    label: str
    changes: Mapping[str, Any]
    job: Job  # its run folder is the sweep's until it has a place of its own


@dataclass(frozen=True)
class Sweep:
    """Jobs that differ in some keys. `base` is the content of the base job, its folder stated."""

    source: Path  # the sweep file
    out: Path  # absolute
    base: Mapping[str, Any]
    cells: tuple[JobCell, ...]

    def text(self) -> str:
        """The sweep as TOML that means the same wherever it is read, its cells listed in order."""
        lines = [f"out = {to_toml(self.out)}", "", "[job]"]
        tables = {name: value for name, value in self.base.items() if isinstance(value, dict)}
        lines += [f"{toml_key(name)} = {to_toml(value)}" for name, value in self.base.items() if name not in tables]
        for name, table in [(f"job.{toml_key(name)}", table) for name, table in tables.items()]:
            lines += ["", f"[{name}]", *(f"{toml_key(key)} = {to_toml(value)}" for key, value in table.items())]
        for cell in self.cells:
            lines += [
                "",
                "[[cell]]",
                *(f"{toml_key(key)} = {to_toml(value)}" for key, value in cell.changes.items()),
            ]
        return "\n".join(lines) + "\n"

    def cell(self, number: int) -> JobCell:
        """The cell of that number. Raises InputError where there is none."""
        if not 0 <= number < len(self.cells):
            raise InputError(
                f"--cell {number}: {self.source} has {len(self.cells)} cells, numbered from 0 to {len(self.cells) - 1}"
            )
        return self.cells[number]


@checked()
def load_sweep(path: str | Path | TomlFile, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a TOML file, with `overrides` of the form "table.key=value" put into its base job.

    Every cell is checked as a job is. Raises InputError listing every problem: the cell, the key, its value and what
    is allowed.
    """
    file = path if isinstance(path, TomlFile) else read_toml(path, "sweep file")
    content, source = file.content, file.path
    problems = [f"{key!r} is unknown; {nearest(key, _KEYS)}" for key in content if key not in _KEYS]
    out = content.get("out")
    if out is None:
        problems.append("out is missing; give the folder for the sweep's run folders")
    elif not isinstance(out, str) or not out:
        problems.append(f"out = {out!r} is not a folder; give the one for the sweep's run folders")
    base: dict[str, Any] = {}
    try:
        base = _base(content.get("job"), source)
    except InputError as error:
        problems.append(str(error).removeprefix(f"sweep file {source}: "))
    changes = _changes(content, problems)
    if len(problems) == 1:
        raise InputError(f"sweep file {source}: {problems[0]}")
    _require_none(problems, source)
    folder = (source.resolve().parent / Path(str(out)).expanduser()).absolute()
    _apply(overrides, base, {key for cell in changes for key in cell})
    return Sweep(source, folder, base, _cells(base, changes, folder, source))


def parse_sweep(text: str, source: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a TOML text that stands (or stood) in the file `source`; see `load_sweep`."""
    return load_sweep(parse_toml(text, source, "sweep file"), overrides)


def _base(given: Any, source: Path) -> dict[str, Any]:
    """Content of the base job, with the folder that its relative paths start from."""
    home = source.resolve().parent
    if isinstance(given, dict):
        content = copy.deepcopy(given)
    elif isinstance(given, str) and given:
        path = home / Path(given).expanduser()
        file, home = read_toml(path, f"job of the sweep {source}:"), path.resolve().parent
        content = dict(file.content)
        if file.kind == SWEEP:
            raise InputError(f"sweep file {source}: job = {given!r} is a sweep itself; name the job file of its cells")
    else:
        raise InputError(f"sweep file {source}: job = {given!r} is neither the path of a job file nor a table")
    folder = content.get("folder", "")
    return content | {"folder": str(home / folder) if isinstance(folder, str) else folder}


def _require_none(problems: Sequence[str], source: Path) -> None:
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(f"sweep file {source} cannot be used:\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _changes(content: Mapping[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """What each cell changes, in order; nothing where something was added to `problems`."""
    before = len(problems)
    lists = {name: _lists(content.get(name, {}), name, problems) for name in ("product", "zip")}
    listed = content.get("cell", [])
    if not isinstance(listed, list) or not all(isinstance(cell, dict) and cell for cell in listed):
        problems.append("cells are tables, each with a key or more; begin one with [[cell]]")
        listed = []
    owners: dict[str, str] = {}
    changed = {name: list(table) for name, table in lists.items()}
    changed["cell"] = list(dict.fromkeys(key for cell in listed for key in cell))
    for name, keys in changed.items():
        for key in keys:
            problems += _unchangeable(key, name)
            if key in owners:
                problems.append(f"{key} is changed in [{owners[key]}] and in [{name}]; change it in one of them")
            owners[key] = name
    for key in owners:
        inner = next((other for other in owners if other.startswith(f"{key}.")), None)
        if inner is not None:
            problems.append(f"{key} holds {inner}, and both are changed; change one of them")
    lengths = {key: len(values) for key, values in lists["zip"].items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        problems.append(f"lists in [zip] go in step, so they are of one length, but {found} values")
    if not owners and len(problems) == before:
        problems.append("it changes nothing; give [product], [zip] or [[cell]]")
    if len(problems) > before:
        return []
    combined = [dict(zip(lists["product"], row, strict=True)) for row in itertools.product(*lists["product"].values())]
    in_step = [dict(zip(lengths, row, strict=True)) for row in zip(*lists["zip"].values(), strict=True)] or [{}]
    return [{**a, **b, **c} for a, b, c in itertools.product(combined, in_step, listed or [{}])]


def _lists(table: Any, name: str, problems: list[str]) -> dict[str, list[Any]]:
    """The lists of values in a table; what is none is added to `problems`."""
    if not isinstance(table, dict):
        problems.append(f"{name} = {table!r} is no table; begin it with [{name}]")
        return {}
    found: dict[str, list[Any]] = {}
    for key, values in table.items():
        if isinstance(values, dict):
            problems.append(f'write keys of [{name}] in quotes, as in "{key}.{next(iter(values), "key")}"')
        elif not isinstance(values, list) or not values:
            problems.append(f"{name}: {key} = {values!r} is not a list of one value or more")
        else:
            found[key] = values
    return found


def _unchangeable(key: str, name: str) -> Iterator[str]:
    """Why no cell can change a key."""
    if not _CHANGED.fullmatch(key):
        yield f'{name}: {key!r} is no key of a job, such as "plane.seed"'
    if key.split(".")[0] in ("run", "folder"):
        yield (
            f"{name}: {key} does not change what is computed, and so makes no other cell; give it in the base job, or "
            "with --set"
        )


def _apply(overrides: Sequence[str], base: dict[str, Any], changed: set[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if (first := key.partition(".")[0]) in _KEYS:
            raise InputError(
                f"--set {override!r}: values are put into the base job, and `{first}` is the sweep's; "
                f"edit `{first}` in the sweep file"
            )
        clash = next((c for c in changed if c == key or c.startswith(f"{key}.") or key.startswith(f"{c}.")), None)
        if clash is not None:
            raise InputError(f"--set {override!r}: the sweep itself changes {clash}; edit the sweep file")
        if key == "run.out":
            raise InputError(f"--set {override!r}: cells have run folders of their own; give `out` in the sweep file")
        put_in(base, override)


def _cells(
    base: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], out: Path, source: Path
) -> tuple[JobCell, ...]:
    labels = _labels(changes)
    cells: list[JobCell] = []
    problems: dict[str, list[int]] = {}
    for number, (label, changed) in enumerate(zip(labels, changes, strict=True)):
        overrides = [f"{key}={to_toml(value)}" for key, value in {**changed, "run.out": out}.items()]
        try:
            cells.append(JobCell(number, label, dict(changed), job_of(base, source, overrides)))
        except InputError as error:
            for problem in (str(error).partition(":\n  ")[2] or str(error)).split("\n  "):
                problems.setdefault(problem, []).append(number)
    _require_none([f"{_named(numbers, labels)}: {problem}" for problem, numbers in problems.items()], source)
    first: dict[str, int] = {}
    for cell in cells:
        same = first.setdefault(to_toml(dict(sorted(cell.changes.items()))), cell.number)
        if same != cell.number:
            raise InputError(
                f"sweep file {source}: cells {same} and {cell.number} are equal ({cell.label}); remove one"
            )
    return tuple(cells)


def _named(numbers: Sequence[int], labels: Sequence[str]) -> str:
    if len(numbers) == len(labels):
        return "every cell"
    if len(numbers) == 1:
        return f"cell {numbers[0]} ({labels[numbers[0]]})"
    return f"cells {', '.join(map(str, numbers[:_SHOWN]))}{', ...' if len(numbers) > _SHOWN else ''}"


def _labels(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells cells apart, for people: keys by their last name where it is clear which is meant."""
    keys = list(dict.fromkeys(key for changed in changes for key in changed))
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
    return [
        ", ".join(
            f"{short[key]}={value if isinstance(value, str) else to_toml(value)}" for key, value in changed.items()
        )
        for changed in changes
    ]
