"""Opening what was left: folders of runs, finished or not, and of sweeps; files of one run, of several, of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape import paths
from landscape.agreement import Agreement, agreement_from_rows
from landscape.agreement_schema import agreement_group, read_agreement
from landscape.connections import Connectivity
from landscape.connectivity import connectivity_from_rows
from landscape.connectivity_schema import connectivity_group, read_connectivity
from landscape.curvature_map import map_from_rows
from landscape.curve_schema import curve_group, read_curve
from landscape.curves import Curve
from landscape.errors import InputError, StoreError, nearest
from landscape.exchange import read_loss_landscape_surface
from landscape.files import hdf5
from landscape.files.schema import check_version, file_tree, merged_group, read_surface, surface_group, to_datatree
from landscape.fit import curve_from_rows
from landscape.layer_spectra import STAGES as LAYER_STAGES
from landscape.layer_spectra import layers_from_folder
from landscape.path import path_from_rows
from landscape.path_schema import path_group, read_path
from landscape.profiles import Profiles, profiles_from_rows
from landscape.profiles_schema import profiles_group, read_profiles
from landscape.results import Surface
from landscape.run.store import History, Store
from landscape.run.task import Description, Rows
from landscape.runs import run_stages
from landscape.spectra import LayerSpectra, Spectrum
from landscape.spectral_schema import layers_group, read_layers, read_spectrum, spectrum_group
from landscape.spectrum import STAGES as SPECTRUM_STAGES
from landscape.spectrum import spectrum_from_folder
from landscape.surface import surface_from_rows
from landscape.sweeps import is_sweep, sweep_runs

if TYPE_CHECKING:
    import xarray

Result = Surface | Spectrum | LayerSpectra | Curve | paths.Path | Connectivity | Agreement | Profiles

_SHOWN = 8  # names that a message lists

# Group of a file -> its reader; the first that a file holds is what it opens as.
_READERS: dict[str, Callable[[hdf5.Group, str | Path], Result]] = {
    "surface": read_surface,
    "spectrum": read_spectrum,
    "layer_spectra": read_layers,
    "curve": read_curve,
    "path": read_path,
    "connectivity": read_connectivity,
    "agreement": read_agreement,
    "profiles": read_profiles,
}
_WRITERS: dict[type[Result], tuple[str, Callable[[Any], hdf5.Group]]] = {
    Surface: ("surface", surface_group),
    Spectrum: ("spectrum", spectrum_group),
    LayerSpectra: ("layer_spectra", layers_group),
    Curve: ("curve", curve_group),
    paths.Path: ("path", path_group),
    Connectivity: ("connectivity", connectivity_group),
    Agreement: ("agreement", agreement_group),
    Profiles: ("profiles", profiles_group),
}
# Name of a run folder's task -> the result of its rows, masked where it is not finished.
_FROM_ROWS: dict[str, Callable[[Description, Rows, History], Result]] = {
    "surface": surface_from_rows,
    "curvature_map": map_from_rows,
    "curve": curve_from_rows,
    "path": path_from_rows,
    "connectivity": connectivity_from_rows,
    "agreement": agreement_from_rows,
    "profiles": profiles_from_rows,
}


def open_anything(path: str | Path, *, run: str | None = None, group: str | None = None) -> Result | xarray.DataTree:
    """What is at `path`: one result, or all runs of a sweep's folder or of a merged file as an `xarray.DataTree`.

    The tree is what `xarray.open_datatree` reads from the merged file: a node for each run, empty where there is
    nothing of it yet, and for a sweep a table of its cells and their states at the root. `run` picks one of them. For
    everything else, and what is raised, see `open_result`.
    """
    path = Path(path)
    several = run is None and group is None and _several(path)
    return to_datatree(several) if several else open_result(path, run=run, group=group)


def open_result(path: str | Path, *, run: str | None = None, group: str | None = None) -> Result:
    """The one result at `path`: a run folder, masked where it is not finished, or an HDF5 file.

    `run` names one of the runs in a merged file or in the folder of a sweep. `group` names one of the results a file
    holds side by side, "surface", "spectrum", "layer_spectra", "curve", "path", "connectivity", "agreement" or
    "profiles"; by default the first of them in this order. Raises StoreError for what cannot be read, InputError for a
    run or a result that is not there.
    """
    path = Path(path)
    _require_path(path)
    if path.is_dir():
        if is_sweep(path):
            begun = {name: folder for name, folder in sweep_runs(path)[0].items() if folder is not None}
            return _of_kind(_open_folder(begun[_one_of(begun, run, path)]), group, path)
        _require_run(path)
        _require_unnamed(run, path)
        return _of_kind(_open_folder(path), group, path)
    tree = hdf5.read(path)
    if "xcoordinates" in tree.variables:
        _require_unnamed(run, path)
        return _of_kind(read_loss_landscape_surface(path), group, path)
    check_version(tree, path)
    if "runs" in tree.attributes:
        return _read(tree.groups[_one_of(_names(tree), run, path)], group, path)
    _require_unnamed(run, path)
    return _read(tree, group, path)


def run_names(path: str | Path) -> list[str]:
    """Names of the runs in a merged file or in the folder of a sweep, in order; empty for what holds one run."""
    path = Path(path)
    if path.is_dir():
        return [name for name, folder in sweep_runs(path)[0].items() if folder is not None] if is_sweep(path) else []
    return _names(hdf5.read(path))


def _names(tree: hdf5.Group) -> list[str]:
    """Names of the runs in the tree of a merged file, but for those there is nothing of."""
    return str(tree.attributes.get("runs", "")).split()


def _several(path: Path) -> hdf5.Group | None:
    """The tree of a sweep's folder, or of a file of several runs; None for anything else."""
    if path.is_dir():
        return _merged(*sweep_runs(path)) if is_sweep(path) else None
    _require_path(path)
    tree = hdf5.read(path)
    if "runs" not in tree.attributes or len(tree.groups) == 1:
        return None
    check_version(tree, path)
    return tree


def _require_path(path: Path) -> None:
    if not path.exists():
        raise StoreError(f"{path} does not exist; give a run folder or an HDF5 file")


def _require_run(folder: Path) -> None:
    """Raise StoreError for a folder without a run of its own, which says what there is to open instead."""
    if run_stages(folder) or (folder / "run.json").is_file():
        return
    inside = [place.name for place in sorted(folder.iterdir()) if _openable(place)]
    way = f"Open one of what it holds: {', '.join(inside[:_SHOWN])}" + (", ..." if len(inside) > _SHOWN else "")
    raise StoreError(
        f"{folder} is not a run folder: it holds no run.json, nor the sweep.json of a sweep. "
        + (way if inside else "Give the folder a run was told to use.")
    )


def _openable(path: Path) -> bool:
    """Whether `open_anything` may find something at a path, by its name or by the folder's records."""
    return path.suffix == ".h5" or (path / "run.json").is_file() or bool(run_stages(path)) or is_sweep(path)


def _require_unnamed(run: str | None, path: Path) -> None:
    """Raise InputError for a run that was asked for by name where there is one without."""
    if run is not None:
        raise InputError(f"{path} holds one run, which has no name; leave out run= or --run {run}")


def _one_of(names: Iterable[str], run: str | None, path: Path) -> str:
    """The name of the run that is meant."""
    names = list(names)
    if not names:
        raise InputError(f"{path} holds no run that has begun; run the sweep first")
    if run is None and len(names) > 1:
        raise InputError(f"{path} holds {len(names)} runs; say which by run= or --run: {', '.join(names)}")
    if run is not None and run not in names:
        empty = sweep_runs(path)[1].get(run) if path.is_dir() else None
        if empty is not None:
            reason = f": {empty['reason']}" if empty["reason"] else ""
            raise InputError(f"{path} holds nothing of {run!r} yet, which is {empty['state']}{reason}")
        raise InputError(f"{path} holds no run {run!r}; {nearest(run, names)}")
    return run or names[0]


def group_names(path: str | Path, *, run: str | None = None) -> list[str]:
    """Names of the results that a file, or one run of a merged file, holds side by side."""
    tree = hdf5.read(path)
    if run is not None and run in tree.groups:
        tree = tree.groups[run]
    return [name for name in _READERS if name in tree.groups]


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
    """The tree of a file with a group for each run."""
    groups = {
        name: hdf5.Group(tree.variables, {**tree.attributes, **about.get(name, {})}, tree.groups)
        for name, folder in folders.items()
        for tree in [hdf5.Group() if folder is None else _tree([open_result(folder)])]
    }
    merged = merged_group(groups)
    runs = " ".join(name for name, folder in folders.items() if folder is not None)
    table = _run_table(about, list(folders)) if about else {}
    return hdf5.Group(table, {**merged.attributes, "runs": runs}, merged.groups)


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
    kinds = [_WRITERS[type(result)][0] for result in results]
    if not results or len(set(kinds)) < len(kinds):
        given = ", ".join(kinds) or "nothing"
        raise InputError(f"a file holds one result of each kind, given: {given}; write several runs with merge_runs")
    return hdf5.write(path, _tree(results))


def _tree(results: Iterable[Result]) -> hdf5.Group:
    contents: dict[str, tuple[hdf5.Group, Mapping[str, Any]]] = {}
    for result in results:
        name, build = _WRITERS[type(result)]
        contents[name] = (build(result), result.attributes)
    return file_tree(contents)


def _open_folder(folder: Path) -> Result:
    """The result in a run folder."""
    stages = run_stages(folder)
    if stages:
        return layers_from_folder(folder) if stages[0] == LAYER_STAGES[0] else spectrum_from_folder(folder)
    store = Store.open(folder)
    description = store.description()
    if description.name in (*SPECTRUM_STAGES, *LAYER_STAGES):
        raise StoreError(f"{folder} holds one part of a run, its {description.name}; open {folder.parent}")
    if description.name not in _FROM_ROWS:
        raise StoreError(
            f"{folder} holds a run of the task {description.name!r}, whose rows this version cannot open (known: "
            f"{', '.join(_FROM_ROWS)}); update loss-landscape-engine, or open the file it wrote"
        )
    return _FROM_ROWS[description.name](description, store.rows(), store.history())


def _read(tree: hdf5.Group, group: str | None, path: Path) -> Result:
    found = [name for name in _READERS if name in tree.groups]
    chosen = group or (found[0] if found else "surface")
    if group is not None and group not in found:
        raise InputError(f"{path} holds no group {group!r}; {nearest(group, found) if found else 'it holds no result'}")
    return _READERS[chosen](tree, path)


def _of_kind(result: Result, group: str | None, path: Path) -> Result:
    """The only result of its place, which must be the one that was asked for."""
    kind = _WRITERS[type(result)][0]
    if group not in (None, kind):
        raise InputError(f"{path} holds no group {group!r}; known: {kind}")
    return result
