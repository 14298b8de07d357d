"""Many runs as one tree or file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from landscape.arguments import checked
from landscape.errors import InputError, StoreError, UnfinishedError
from landscape.files import hdf5
from landscape.files.schema import check_version, file_tree, merged_group, to_datatree
from landscape.opening.opening import Place
from landscape.opening.sweeps import UNREADABLE, sweep_runs
from landscape.results.base import Result
from landscape.results.kind import kind_of

if TYPE_CHECKING:
    import xarray


@checked()
def open_anything(path: str | Path, *, run: str | None = None, group: str | None = None) -> Result | xarray.DataTree:
    """What is at `path`: one result, or all runs of a sweep's folder or of a merged file as an `xarray.DataTree`.

    The tree is what `xarray.open_datatree` reads from the merged file: a node for each run, empty where there is
    nothing of it yet, and for a sweep a table of its cells and their states at the root. `run` picks one of them. For
    everything else, and what is raised, see `landscape.opening.opening.open_result`.
    """
    place = Place(path)
    if run is not None or group is not None or not place.holds_several:
        return place.open(run, group)
    if place.tree is None:
        return to_datatree(_merged(*sweep_runs(place.path)))
    check_version(place.tree, place.path)
    return to_datatree(place.tree)


@checked()
def merge_runs(
    folders: Sequence[str | Path] | Mapping[str, str | Path | None],
    path: str | Path,
    *,
    about: Mapping[str, Mapping[str, str | float]] | None = None,
) -> Path:
    """Write several runs, finished or not, as one file with a group each, named by folder or by the mapping's keys.

    None in the place of a folder makes an empty group, for a run there is nothing of. `about` says more of each run,
    by its name: texts and numbers, which become attributes of its group and, in the file's root, variables over the
    dimension "run". Raises InputError for names that cannot be, StoreError for what cannot be read or written.
    """
    named = folders if isinstance(folders, Mapping) else {Path(f).resolve().name.replace(" ", "_"): f for f in folders}
    if len(named) != len(folders):
        raise InputError("two run folders have the same name; give names: {'a': folder, 'b': folder}")
    return hdf5.write(path, _merged(named, about or {}))


def _merged(folders: Mapping[str, str | Path | None], about: Mapping[str, Mapping[str, str | float]]) -> hdf5.Group:
    """The tree of a file with a group for each run; where it has a state, that of a damaged one says so."""
    known = {name: dict(about.get(name, {})) for name in folders}
    groups: dict[str, hdf5.Group] = {}
    for name, folder in folders.items():
        try:
            tree = _run_tree(folder)
        except StoreError as error:
            if "state" not in known[name]:
                raise
            tree, known[name] = hdf5.Group(), {**known[name], "state": UNREADABLE, "reason": str(error)}
        groups[name] = hdf5.Group(tree.variables, {**tree.attributes, **known[name]}, tree.groups)
    merged = merged_group(groups)
    runs = " ".join(name for name, folder in folders.items() if folder is not None)
    table = _run_table(known, list(folders)) if about else {}
    return hdf5.Group(table, {**merged.attributes, "runs": runs}, merged.groups)


def _run_tree(folder: str | Path | None) -> hdf5.Group:
    """The tree of a run, empty where there is nothing of it yet."""
    if folder is None:
        return hdf5.Group()
    try:
        return _tree([Place(folder).open()])
    except UnfinishedError:
        return hdf5.Group()


def _run_table(about: Mapping[str, Mapping[str, str | float]], names: Sequence[str]) -> dict[str, hdf5.Variable]:
    """What is known of runs, as variables over them: numbers where all are, else texts; missing is NaN or ""."""
    table = {"name": hdf5.Variable(("run",), np.array(names, dtype=object), {"long_name": "group of the run"})}
    for key in dict.fromkeys(key for name in names for key in about.get(name, {})):
        values = [about.get(name, {}).get(key) for name in names]
        if all(value is None or isinstance(value, (int, float)) for value in values):
            column = np.array([np.nan if value is None else value for value in values])
        else:
            column = np.array(["" if value is None else str(value) for value in values], dtype=object)
        table[key] = hdf5.Variable(("run",), column, {"long_name": key})
    if taken := next((name for name in (*table, "run") if name in names), None):
        raise InputError(f"a run cannot have the name {taken!r} beside a variable of that name; name it otherwise")
    return table


def save_together(path: str | Path, *results: Result) -> Path:
    """Write results of different kinds side by side into one file (a surface and a spectrum, say), atomically."""
    kinds = [kind_of(result).name for result in results]
    if not results or len(set(kinds)) < len(kinds):
        given = ", ".join(kinds) or "nothing"
        raise InputError(f"a file holds one result of each kind, given: {given}; write several runs with merge_runs")
    return hdf5.write(path, _tree(results))


def _tree(results: Iterable[Result]) -> hdf5.Group:
    named = ((kind_of(result), result) for result in results)
    return file_tree({kind.name: (kind.group(result), result.attributes) for kind, result in named})
