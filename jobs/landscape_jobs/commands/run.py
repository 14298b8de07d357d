"""The commands run and resume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landscape_jobs.codes import COMPLETE, SOME_FAILED, WORK_LEFT
from landscape_jobs.commands.shared import JobFile, Overrides, exit_codes, on_rank_0, quoted, stopped_at_once, tell

if TYPE_CHECKING:
    from landscape_jobs.spec.job import Job
    from landscape_jobs.sweeps.sweep_file import Sweep


def run(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006  (typer reads it once and copies)
    limit_items: Annotated[
        int | None,
        typer.Option(
            "--limit-items", min=0, metavar="N", help="End after N new items, where what is measured has several."
        ),
    ] = None,
    cell: Annotated[int | None, typer.Option("--cell", metavar="N", help="Of a sweep, the one cell to run.")] = None,
    note_folder: Annotated[
        Path | None, typer.Option("--note-folder", hidden=True, help="With --cell, a file for the path of its folder.")
    ] = None,
) -> None:
    """Run a job or a sweep, or go on with it: rows its folder holds already are not computed again.

    The cells of a sweep are run one after another, those left that are not finished; one that fails is noted, and the
    others go on.
    """
    with stopped_at_once(), exit_codes():
        from landscape.errors import InputError
        from landscape_jobs.spec.job import load_job
        from landscape_jobs.spec.toml import STAGES, SWEEP, read_toml
        from landscape_jobs.sweeps.sweep_file import load_sweep

        found = on_rank_0(lambda: read_toml(job))
        if found.kind == STAGES:
            raise InputError(f"{job} is a file of stages, which landscape submit takes; here run its jobs one by one")
        if found.kind == SWEEP:
            _run_sweep(lambda: load_sweep(found, overrides), cell, limit_items, note_folder)
            return
        if cell is not None:
            raise InputError(f"--cell {cell} is for a sweep, and {job} is the file of a single job; leave it out")
        _run(lambda: load_job(found, overrides), limit_items)


def resume(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, or folder of a sweep.", show_default=False)
    ],
) -> None:
    """Go on with the run in a folder, from the job text it keeps; of a sweep with all cells that are not finished."""
    with stopped_at_once(), exit_codes():
        from landscape.errors import InputError
        from landscape.opening.sweeps import is_sweep
        from landscape_jobs.build.run import stored_job
        from landscape_jobs.spec.toml import read_toml
        from landscape_jobs.sweeps.folder import stored_sweep

        if not folder.exists():
            raise InputError(f"{folder} does not exist; give a run folder, or the folder of a sweep")
        if not folder.is_dir():
            way = "give the folder that the run was made in"
            with suppress(InputError):
                if on_rank_0(lambda: read_toml(folder)).content:
                    way = f"a job or sweep is begun, or gone on with, by: landscape run {quoted(folder)}"
            raise InputError(f"{folder} is a file, not a run folder; {way}")
        if is_sweep(folder):
            _run_sweep(lambda: stored_sweep(folder))
        else:
            _run(lambda: stored_job(folder), None)


def _run(load: Callable[[], Job], limit_items: int | None) -> None:
    from landscape.opening.runs import run_stores
    from landscape.run.comm import world
    from landscape.run.store import FAILURES, RESULT
    from landscape.run.together import agree
    from landscape_jobs.build.run import run_job
    from landscape_jobs.terminal.progress import ProgressDisplay

    job = agree(world(), load)
    with ProgressDisplay() as display:
        run_job(job, limit_items=limit_items, progress=display)
    stores = run_stores(job.out)
    rows = on_rank_0(lambda: [done for store in stores for done in store.done_items({})])
    failed = on_rank_0(lambda: [reason for store in stores for reason in store.failed().values()])
    if sum(rows) + len(failed) < len(rows):
        tell(f"{sum(rows)} of {len(rows)} rows are done; go on with: landscape resume {quoted(job.out)}")
        raise typer.Exit(WORK_LEFT)
    on_rank_0(lambda: typer.echo(str(job.out / RESULT)))
    if failed:
        tell(
            f"{len(failed)} of {len(rows)} items failed and are left out, the first because it {_brief(failed[0])}\n"
            f"All reasons: landscape status {quoted(job.out)}; to have them tried again, delete the folder "
            f"{quoted(stores[0].folder / FAILURES)} and go on with: landscape resume {quoted(job.out)}"
        )
        raise typer.Exit(SOME_FAILED)


def _brief(reason: str) -> str:
    """A reason without its traceback."""
    first, last = reason.strip().splitlines()[0], reason.strip().splitlines()[-1]
    return last if first == last else f"{first.partition(' Traceback')[0]} {last}"


def _run_sweep(
    load: Callable[[], Sweep],
    cell: int | None = None,
    limit_items: int | None = None,
    note_folder: Path | None = None,
) -> None:
    from landscape_jobs.sweeps.cells import run_cell, run_sweep
    from landscape_jobs.sweeps.folder import index_alone

    def run_job(job: Job) -> int:
        try:
            _run(lambda: job, limit_items)
        except typer.Exit as end:
            return end.exit_code
        return COMPLETE

    sweep = on_rank_0(load)
    if cell is not None:
        on_rank_0(lambda: index_alone(sweep, sweep.cell(cell)))
        ended = run_cell(sweep, cell, run_job, tell, note_folder)
        if ended.error is not None:
            raise ended.error
        raise typer.Exit(ended.code)
    codes = [ended.code for ended in run_sweep(sweep, run_job, tell)]
    complete, left = codes.count(COMPLETE), codes.count(WORK_LEFT)
    failed = len(codes) - complete - left
    tell(f"{complete} of {len(codes)} runs are complete, {left} have work left, and {failed} failed, or items of them")
    raise typer.Exit(WORK_LEFT if left else SOME_FAILED if failed else COMPLETE)
