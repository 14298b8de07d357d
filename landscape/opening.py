"""Opening what runs left: a run folder (finished or not), a result file, or a surface file of loss-landscape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landscape import hdf5, paths
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
from landscape.fit import curve_from_rows
from landscape.layer_spectra import STAGES as LAYER_STAGES
from landscape.layer_spectra import layers_from_folder
from landscape.path import path_from_rows
from landscape.path_schema import path_group, read_path
from landscape.results import Surface
from landscape.schema import check_version, file_tree, merged_group, read_surface, surface_group
from landscape.spectra import LayerSpectra, Spectrum
from landscape.spectral_schema import layers_group, read_layers, read_spectrum, spectrum_group
from landscape.spectrum import STAGES as SPECTRUM_STAGES
from landscape.spectrum import spectrum_from_folder
from landscape.store import History, Store
from landscape.surface import surface_from_rows
from landscape.task import Description, Rows

Result = Surface | Spectrum | LayerSpectra | Curve | paths.Path | Connectivity | Agreement

# Group of a file -> its reader; the first that a file holds is what it opens as.
_READERS: dict[str, Callable[[hdf5.Group, str | Path], Result]] = {
    "surface": read_surface,
    "spectrum": read_spectrum,
    "layer_spectra": read_layers,
    "curve": read_curve,
    "path": read_path,
    "connectivity": read_connectivity,
    "agreement": read_agreement,
}
_WRITERS: dict[type[Result], tuple[str, Callable[[Any], hdf5.Group]]] = {
    Surface: ("surface", surface_group),
    Spectrum: ("spectrum", spectrum_group),
    LayerSpectra: ("layer_spectra", layers_group),
    Curve: ("curve", curve_group),
    paths.Path: ("path", path_group),
    Connectivity: ("connectivity", connectivity_group),
    Agreement: ("agreement", agreement_group),
}
# Name of a run folder's task -> the result of its rows, masked where it is not finished.
_FROM_ROWS: dict[str, Callable[[Description, Rows, History], Result]] = {
    "surface": surface_from_rows,
    "curvature_map": map_from_rows,
    "curve": curve_from_rows,
    "path": path_from_rows,
    "connectivity": connectivity_from_rows,
    "agreement": agreement_from_rows,
}


def open_result(path: str | Path, *, run: str | None = None, group: str | None = None) -> Result:
    """The result at `path`: a run folder, masked where it is not finished, or an HDF5 file.

    `run` names one of the runs in a merged file. `group` names one of the results a file holds side by side,
    "surface", "spectrum", "layer_spectra", "curve", "path", "connectivity" or "agreement"; by default the first of
    them in this order. Raises StoreError for what cannot be read, InputError for a run or a result that is not there.
    """
    path = Path(path)
    if path.is_dir():
        return _of_kind(_open_folder(path), group, path)
    if not path.exists():
        raise StoreError(f"{path} does not exist; give a run folder or an HDF5 file")
    tree = hdf5.read(path)
    if "xcoordinates" in tree.variables:
        return _of_kind(read_loss_landscape_surface(path), group, path)
    check_version(tree, path)
    names = str(tree.attributes["runs"]).split(" ") if "runs" in tree.attributes else []
    if not names:
        return _read(tree, group, path)
    if run is None and len(names) > 1:
        raise InputError(f"{path} holds {len(names)} runs; say which: run= one of {', '.join(names)}")
    chosen = run or names[0]
    if chosen not in tree.groups:
        raise InputError(f"{path} holds no run {chosen!r}; {nearest(chosen, names)}")
    return _read(tree.groups[chosen], group, path)


def run_names(path: str | Path) -> list[str]:
    """Names of the runs in a merged file, in order; empty for a file of one run."""
    attributes = hdf5.read(path).attributes
    return str(attributes["runs"]).split(" ") if "runs" in attributes else []


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
    about = about or {}
    groups = {
        name: hdf5.Group(tree.variables, {**tree.attributes, **about.get(name, {})}, tree.groups)
        for name, folder in named.items()
        for tree in [hdf5.Group() if folder is None else _tree([open_result(folder)])]
    }
    merged = merged_group(groups)
    runs = " ".join(name for name, folder in named.items() if folder is not None)
    table = _run_table(about, list(named)) if about else {}
    return hdf5.write(path, hdf5.Group(table, {**merged.attributes, "runs": runs}, merged.groups))


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


def run_stores(folder: str | Path) -> list[Store]:
    """The stores of the tasks in a run folder, in the order of their computation.

    A surface has one task, whose store the run folder is; a spectrum has a folder in it for each of its tasks. Raises
    StoreError for what is no run folder.
    """
    folder = Path(folder)
    return [Store.open(folder / name) for name in _stages(folder)] or [Store.open(folder)]


def _stages(folder: Path) -> list[str]:
    """Folders of tasks in a run folder; none where it is itself the folder of its task, or no run folder."""
    if (folder / "run.json").is_file():
        return []
    names = LAYER_STAGES if (folder / LAYER_STAGES[0] / "run.json").is_file() else SPECTRUM_STAGES
    return [name for name in names if (folder / name / "run.json").is_file()]


def _open_folder(folder: Path) -> Result:
    """The result in a run folder."""
    stages = _stages(folder)
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
