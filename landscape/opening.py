"""Opening what a run left: a run folder (finished or not), a result file, or a surface file of loss-landscape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from landscape import hdf5
from landscape.errors import InputError, StoreError, nearest
from landscape.exchange import read_loss_landscape_surface
from landscape.results import Surface
from landscape.schema import check_version, merged_group, read_surface
from landscape.store import Store
from landscape.surface import surface_from_rows


def open_result(path: str | Path, *, run: str | None = None) -> Surface:
    """The surface at `path`: a run folder, masked where it is not finished, or an HDF5 file.

    `run` names one of the runs in a merged file. Raises StoreError for what cannot be read, InputError for a run that
    is not there.
    """
    path = Path(path)
    if path.is_dir():
        store = Store.open(path)
        return surface_from_rows(store.description(), store.rows(), store.history())
    if not path.exists():
        raise StoreError(f"{path} does not exist; give a run folder or an HDF5 file")
    tree = hdf5.read(path)
    if "xcoordinates" in tree.variables:
        return read_loss_landscape_surface(path)
    check_version(tree, path)
    names = str(tree.attributes["runs"]).split(" ") if "runs" in tree.attributes else []
    if not names:
        return read_surface(tree, path)
    if run is None and len(names) > 1:
        raise InputError(f"{path} holds {len(names)} runs; say which: run= one of {', '.join(names)}")
    chosen = run or names[0]
    if chosen not in tree.groups:
        raise InputError(f"{path} holds no run {chosen!r}; {nearest(chosen, names)}")
    return read_surface(tree.groups[chosen], path)


def run_names(path: str | Path) -> list[str]:
    """Names of the runs in a merged file, in order; empty for a file of one run."""
    attributes = hdf5.read(path).attributes
    return str(attributes["runs"]).split(" ") if "runs" in attributes else []


def merge_runs(folders: Sequence[str | Path] | Mapping[str, str | Path], path: str | Path) -> Path:
    """Write several runs, finished or not, as one file with a group each, named by folder or by the mapping's keys."""
    named = folders if isinstance(folders, Mapping) else {Path(f).resolve().name.replace(" ", "_"): f for f in folders}
    if len(named) != len(folders):
        raise InputError("two run folders have the same name; give names: {'a': folder, 'b': folder}")
    return hdf5.write(path, merged_group({name: open_result(folder) for name, folder in named.items()}))
