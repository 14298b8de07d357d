"""What a run folder holds: the stores of its tasks, whether they are finished, and what failed."""

from __future__ import annotations

from pathlib import Path

from landscape.errors import StoreError
from landscape.run.store import RESULT, Store
from landscape.studies.layer_spectra.measure import STAGES as LAYER_STAGES
from landscape.studies.spectrum.measure import STAGES as SPECTRUM_STAGES


def run_stores(folder: str | Path) -> list[Store]:
    """The stores of the tasks in a run folder, in the order of their computation.

    A surface has one task, whose store the run folder is; a spectrum has a folder in it for each of its tasks. Raises
    StoreError for what is no run folder.
    """
    folder = Path(folder)
    return [Store.open(folder / name) for name in run_stages(folder)] or [Store.open(folder)]


def run_stages(folder: Path) -> list[str]:
    """Folders of tasks in a run folder; none where it is itself the folder of its task, or no run folder."""
    if (folder / "run.json").is_file():
        return []
    names = LAYER_STAGES if (folder / LAYER_STAGES[0] / "run.json").is_file() else SPECTRUM_STAGES
    return [name for name in names if (folder / name / "run.json").is_file()]


def finished(folder: Path) -> bool:
    """Whether a run folder holds a result and every item of its stores is done or given up."""
    try:
        return (folder / RESULT).is_file() and all(store.complete for store in run_stores(folder))
    except StoreError:
        return False


def failed_items(folder: Path) -> list[str]:
    """Why items of the run in a folder were given up, those of all its stores."""
    return [reason for store in run_stores(folder) for reason in store.failed().values()]


def run_record(folder: Path) -> Path | None:
    """The record of the run in a folder, of several tasks the first one's; None where there is none."""
    records = (folder / name / "run.json" for name in ("", *SPECTRUM_STAGES, *LAYER_STAGES))
    return next((record for record in records if record.is_file()), None)
