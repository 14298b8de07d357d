"""Opening what was left: a run's folder, finished or not, or a file of one or several results, read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from landscape.errors import InputError, StoreError, nearest
from landscape.files import hdf5
from landscape.files.schema import check_version, reading
from landscape.opening.runs import run_record, run_stages, stage_study
from landscape.opening.sweeps import is_sweep, sweep_runs
from landscape.results.base import Result
from landscape.results.kind import kind_of, kinds
from landscape.results.stages import Stage, read_stage
from landscape.results.study import study_of
from landscape.run.records import reading_record
from landscape.run.store import Store
from landscape.studies.surface.exchange import is_loss_landscape, surface_of_loss_landscape

_SHOWN = 8  # names that a message lists


class Place:
    """What is at a path: a run folder, the folder of a sweep or an HDF5 file, which is read once.

    Raises StoreError for what is none of these or cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tree: hdf5.Group | None = None  # of a file
        self._begun: Mapping[str, Path] = {}  # run of a sweep's folder -> its own folder
        self.is_sweep = False
        if not self.path.exists():
            raise StoreError(f"{self.path} does not exist; give a run folder or an HDF5 file")
        if not self.path.is_dir():
            self.tree = hdf5.read(self.path)
        elif is_sweep(self.path):
            self.is_sweep = True
            self._begun = {name: folder for name, folder in sweep_runs(self.path)[0].items() if folder is not None}

    @property
    def run_names(self) -> list[str]:
        """Names of the runs in a merged file or in the folder of a sweep, in order; empty for what holds one run."""
        return list(self._begun) if self.tree is None else str(self.tree.attributes.get("runs", "")).split()

    @property
    def holds_several(self) -> bool:
        """Whether it is the folder of a sweep, or a file of several runs."""
        return self.is_sweep or (self.tree is not None and "runs" in self.tree.attributes and len(self.tree.groups) > 1)

    def group_names(self, run: str | None = None) -> list[str]:
        """Names of the results that a file, or one run of a merged file, holds side by side; none for a folder."""
        if self.tree is None:
            return []
        tree = self.tree.groups[run] if run is not None and run in self.tree.groups else self.tree
        return [kind.name for kind in kinds() if kind.name in tree.groups]

    def open(self, run: str | None = None, group: str | None = None) -> Result:
        """One result; see `open_result`."""
        if self.tree is None:
            return _of_kind(_open_folder(self._folder(run)), group, self.path)
        if is_loss_landscape(self.tree):
            _require_unnamed(run, self.path)
            return _of_kind(surface_of_loss_landscape(self.tree, self.path), group, self.path)
        check_version(self.tree, self.path)
        if "runs" in self.tree.attributes:
            return _read(self.tree.groups[self._one_of(self.run_names, run)], group, self.path)
        _require_unnamed(run, self.path)
        return _read(self.tree, group, self.path)

    def _folder(self, run: str | None) -> Path:
        """The folder of the run that is meant."""
        if self.is_sweep:
            return self._begun[self._one_of(self._begun, run)]
        _require_run(self.path)
        _require_unnamed(run, self.path)
        return self.path

    def _one_of(self, names: Iterable[str], run: str | None) -> str:
        """The name of the run that is meant."""
        names, path = list(names), self.path
        if not names:
            raise InputError(f"{path} holds no run that has begun; run the sweep first")
        if run is None and len(names) > 1:
            raise InputError(f"{path} holds {len(names)} runs; say which by run= or --run: {', '.join(names)}")
        if run is not None and run not in names:
            empty = sweep_runs(path)[1].get(run) if self.is_sweep else None
            if empty is not None:
                reason = f": {empty['reason']}" if empty["reason"] else ""
                raise InputError(f"{path} holds nothing of {run!r} yet, which is {empty['state']}{reason}")
            raise InputError(f"{path} holds no run {run!r}; {nearest(run, names)}")
        return run or names[0]


def open_result(path: str | Path, *, run: str | None = None, group: str | None = None) -> Result:
    """The one result at `path`: a run folder, masked where it is not finished, or an HDF5 file.

    `run` names one of the runs in a merged file or in the folder of a sweep. `group` names one of the results that a
    file holds side by side, such as "surface" or "spectrum"; by default the first in the order of the table of studies.
    Raises StoreError for what cannot be read, InputError for a run or a result that is not there.
    """
    return Place(path).open(run, group)


def is_result(path: str | Path) -> bool:
    """Whether a path is one to open, a folder or an HDF5 file, and not a table of another kind."""
    return Path(path).is_dir() or Path(path).suffix == ".h5"


def open_folder(folder: Path) -> Result:
    """The result in a run folder. Raises StoreError for another folder."""
    _require_run(folder)
    return _open_folder(folder)


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


def _open_folder(folder: Path) -> Result:
    """The result in a run folder."""
    names = run_stages(folder)
    study = stage_study(folder)
    if study is not None and names:
        stages = {name: read_stage(folder / name) for name in names}
    else:
        store = Store.open(folder)
        description = store.description()
        try:
            study = study_of(description.name)
        except StoreError as error:
            raise StoreError(f"{folder} holds {error}") from None
        if len(study.tasks) > 1:
            raise StoreError(f"{folder} holds one part of a run, its {description.name}; open {folder.parent}")
        stages = {description.name: Stage(description, store.rows(), store.history())}
    assert study.result is not None
    with reading_record(run_record(folder) or folder):
        result: Result = study.result(stages)
        kind = kind_of(result)
        hdf5.require_sizes(kind.group(result))
        return result if kind.located is None else kind.located(result, folder)


def _read(tree: hdf5.Group, group: str | None, path: Path) -> Result:
    found = [kind for kind in kinds() if kind.name in tree.groups]
    names = [kind.name for kind in found]
    if group is not None and group not in names:
        raise InputError(f"{path} holds no group {group!r}; {nearest(group, names) if found else 'it holds no result'}")
    chosen = next((kind for kind in found if group in (None, kind.name)), kinds()[0])
    result: Result = chosen.read(tree, path)
    with reading(tree, chosen.name, path):
        hdf5.require_sizes(chosen.group(result))
    return result


def _of_kind(result: Result, group: str | None, path: Path) -> Result:
    """The only result of its place, which must be the one that was asked for."""
    kind = kind_of(result).name
    if group not in (None, kind):
        raise InputError(f"{path} holds no group {group!r}; known: {kind}")
    return result
