"""Opening what was left: folders of runs, finished or not, and of sweeps; files of one run, of several, of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from landscape.errors import InputError, StoreError, nearest
from landscape.files import hdf5
from landscape.files.schema import check_version
from landscape.opening.runs import run_stages
from landscape.opening.sweeps import is_sweep, sweep_runs
from landscape.run.store import History, Store
from landscape.run.task import Description, Rows
from landscape.studies.agreement.measure import agreement_from_rows
from landscape.studies.agreement.result import Agreement
from landscape.studies.agreement.schema import agreement_group, read_agreement
from landscape.studies.connectivity.measure import connectivity_from_rows
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.connectivity.schema import connectivity_group, read_connectivity
from landscape.studies.curvature_map.measure import map_from_rows
from landscape.studies.curve.measure import curve_from_rows
from landscape.studies.curve.result import Curve
from landscape.studies.curve.schema import curve_group, read_curve
from landscape.studies.layer_spectra.measure import STAGES as LAYER_STAGES
from landscape.studies.layer_spectra.measure import layers_from_folder
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_spectra.schema import layers_group, read_layers
from landscape.studies.path import result as paths
from landscape.studies.path.measure import path_from_rows
from landscape.studies.path.schema import path_group, read_path
from landscape.studies.profiles.measure import profiles_from_rows
from landscape.studies.profiles.result import Profiles
from landscape.studies.profiles.schema import profiles_group, read_profiles
from landscape.studies.spectrum.measure import STAGES as SPECTRUM_STAGES
from landscape.studies.spectrum.measure import spectrum_from_folder
from landscape.studies.spectrum.result import Spectrum
from landscape.studies.spectrum.schema import read_spectrum, spectrum_group
from landscape.studies.surface.exchange import read_loss_landscape_surface
from landscape.studies.surface.measure import surface_from_rows
from landscape.studies.surface.result import Surface
from landscape.studies.surface.schema import read_surface, surface_group

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
WRITERS: dict[type[Result], tuple[str, Callable[[Any], hdf5.Group]]] = {
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


def open_result(path: str | Path, *, run: str | None = None, group: str | None = None) -> Result:
    """The one result at `path`: a run folder, masked where it is not finished, or an HDF5 file.

    `run` names one of the runs in a merged file or in the folder of a sweep. `group` names one of the results a file
    holds side by side, "surface", "spectrum", "layer_spectra", "curve", "path", "connectivity", "agreement" or
    "profiles"; by default the first of them in this order. Raises StoreError for what cannot be read, InputError for a
    run or a result that is not there.
    """
    path = Path(path)
    require_path(path)
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


def require_path(path: Path) -> None:
    """Raise StoreError where there is nothing at a path."""
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
    kind = WRITERS[type(result)][0]
    if group not in (None, kind):
        raise InputError(f"{path} holds no group {group!r}; known: {kind}")
    return result
