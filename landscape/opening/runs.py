"""What a run folder holds: the stores of its tasks, whether they are finished, and what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape.errors import StoreError
from landscape.results.study import Study, studies
from landscape.run.store import RESULT, Store

_RECORD = "run.json"


def stage_study(folder: Path) -> Study[Any] | None:
    """The study of several tasks whose folders lie in a run folder; None where it is that of one task, or no run."""
    if (folder / _RECORD).is_file():
        return None
    staged = [study for study in studies() if len(study.tasks) > 1]
    there = {name for study in staged for name in study.tasks if (folder / name / _RECORD).is_file()}
    return next((study for study in staged if there and there <= set(study.tasks)), None)


def run_stages(folder: Path) -> list[str]:
    """Folders of tasks in a run folder; none where it is itself the folder of its task, or no run folder."""
    study = stage_study(folder)
    return [] if study is None else [name for name in study.tasks if (folder / name / _RECORD).is_file()]


def run_stores(folder: str | Path) -> list[Store]:
    """The stores of the tasks in a run folder, in the order of their computation.

    A surface has one task, whose store the run folder is; a spectrum has a folder in it for each of its tasks. Raises
    StoreError for what is no run folder.
    """
    folder = Path(folder)
    return [Store.open(folder / name) for name in run_stages(folder)] or [Store.open(folder)]


def run_record(folder: Path) -> Path | None:
    """The record of the run in a folder, of several tasks the first one's; None where there is none."""
    records = (folder / name / _RECORD for name in ("", *run_stages(folder)))
    return next((record for record in records if record.is_file()), None)


def finished(folder: Path) -> bool:
    """Whether a run folder holds a result and every item of its stores is done or given up."""
    try:
        return (folder / RESULT).is_file() and all(store.complete for store in run_stores(folder))
    except StoreError:
        return False


def failed_items(folder: Path) -> list[str]:
    """Why items of the run in a folder were given up, those of all its stores."""
    return [reason for store in run_stores(folder) for reason in store.failed().values()]
