"""The command `landscape`.

Exit codes: 0 all done (of `submit`: submitted), 1 a crash, 2 input that cannot be used, 3 work is left (stopped by a
signal or a limit), 4 all done but items that failed and were left out.
What takes long to import is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from landscape_jobs.command import (
    COMPLETE,
    CRASHED,
    SOME_FAILED,
    WORK_LEFT,
    JobFile,
    Overrides,
    exit_codes,
    on_rank_0,
    print_tables,
    quoted,
    tell,
)
from landscape_jobs.submit_command import submit
from landscape_jobs.topology_command import topology

if TYPE_CHECKING:
    from landscape_jobs.spec import Job
    from landscape_jobs.sweep_file import Sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Source = Annotated[Path, typer.Argument(metavar="FILE_OR_RUN", help="Result file or run folder.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", metavar="NAME", help="Which run of a merged file.")]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", help="Which result of a file that holds several, as surface or spectrum."),
]


def main() -> None:
    """Entry point of the command `landscape`."""
    try:
        app(prog_name="landscape")
    except SystemExit as end:
        comm = sys.modules.get("landscape.run.comm")  # of what needs no ranks it is not loaded
        if comm is not None:
            comm.end_process(end.code if isinstance(end.code, int) else CRASHED if end.code else COMPLETE)
        raise


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"landscape {importlib.metadata.version('loss-landscape-engine')}")
        raise typer.Exit(COMPLETE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Loss landscapes of neural networks, on one process or under mpiexec."""


def run(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006  (typer reads it once and copies)
    limit_items: Annotated[
        int | None,
        typer.Option(
            "--limit-items", min=0, metavar="N", help="End after N new points of a surface, or pairs of models."
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
    with exit_codes():
        from landscape.errors import InputError
        from landscape_jobs.spec import load_job
        from landscape_jobs.stages import is_stages_file
        from landscape_jobs.sweep_file import is_sweep_file, load_sweep

        if is_stages_file(job):
            raise InputError(f"{job} is a file of stages, which landscape submit takes; here run its jobs one by one")
        if not is_sweep_file(job):
            if cell is not None:
                raise InputError(f"--cell {cell} is for a sweep, and {job} is the file of a single job; leave it out")
            _run(lambda: load_job(job, overrides), limit_items)
        else:
            _run_sweep(lambda: load_sweep(job, overrides), cell, limit_items, note_folder)


def resume(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, or folder of a sweep.", show_default=False)
    ],
) -> None:
    """Go on with the run in a folder, from the job text it keeps; of a sweep with all cells that are not finished."""
    with exit_codes():
        from landscape.errors import InputError
        from landscape.opening.sweeps import is_sweep
        from landscape_jobs.build import stored_job
        from landscape_jobs.sweep import stored_sweep
        from landscape_jobs.sweep_file import top_level

        if not folder.exists():
            raise InputError(f"{folder} does not exist; give a run folder, or the folder of a sweep")
        if not folder.is_dir():
            way = f"a job or sweep is begun, or gone on with, by: landscape run {quoted(folder)}"
            raise InputError(
                f"{folder} is a file, not a run folder; "
                + (way if top_level(folder) else "give the folder that the run was made in")
            )
        if is_sweep(folder):
            _run_sweep(lambda: stored_sweep(folder))
        else:
            _run(lambda: stored_job(folder), None)


def check(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="pyhessian", help="Compare Hessian products with those of that package."),
    ] = None,
) -> None:
    """Validate all of a job and estimate its time and memory from a small part of it; writes nothing.

    Of a sweep every cell's job is validated as far as its text tells, and the estimate is for the first cell that is
    not finished.
    """
    with exit_codes():
        from landscape.errors import InputError
        from landscape.run.comm import world
        from landscape.run.together import agree
        from landscape_jobs.check import check_job
        from landscape_jobs.pair_check import check_pairs
        from landscape_jobs.shown import as_rich
        from landscape_jobs.spec import load_job
        from landscape_jobs.spectral_check import check_curvature
        from landscape_jobs.stages import is_stages_file
        from landscape_jobs.sweep import places, unfinished
        from landscape_jobs.sweep_file import is_sweep_file, load_sweep
        from landscape_jobs.tables import curvature_trial_table, pairs_trial_table, trial_table

        def first_cell() -> tuple[Job, str]:
            sweep = load_sweep(job, overrides)
            found = places(sweep)
            left = unfinished(found)
            place = (left or found)[0]
            runs = len({one.folder for one in found})
            which = "an estimate for the first of these" if left else "an estimate for the first cell"
            return place.job, (
                f"{len(sweep.cells)} cells, whose jobs are valid as far as their text tells; {len(left)} of {runs} "
                f"runs in {sweep.out} are not finished; {which}, cell {place.cell.number}: {place.cell.label}"
            )

        if is_stages_file(job):
            raise InputError(
                f"{job} is a file of stages; check the jobs and sweeps that it names one by one, and see the batch "
                f"scripts of all with: landscape submit --dry-run {quoted(job)}"
            )
        if against not in (None, "pyhessian"):
            raise InputError(f"--against {against!r} is not known; products can be compared with those of pyhessian")
        if is_sweep_file(job):
            loaded, told = on_rank_0(first_cell)
            tell(told)
        else:
            loaded = agree(world(), lambda: load_job(job, overrides))
        curvature = loaded.spectrum or loaded.layers
        if loaded.connectivity is not None:
            estimate = pairs_trial_table(check_pairs(loaded))
        elif curvature is None:
            estimate = trial_table(check_job(loaded))
        else:
            estimate = curvature_trial_table(check_curvature(loaded, curvature))
        on_rank_0(lambda: print_tables(as_rich(estimate)))
        if against is not None and not _agrees_with_pyhessian(loaded):
            raise typer.Exit(CRASHED)


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to work in.")] = Path("landscape-demo"),
) -> None:
    """Train small nets on handwritten digits, measure surfaces, a spectrum and a curve; leave one file and pictures."""
    with exit_codes():
        from landscape_jobs.demo import make_demo

        left = make_demo(out)
        on_rank_0(lambda: typer.echo(left.text()))


WATCH_EVERY = 5  # seconds


class _StatusCommand(typer.core.TyperCommand):
    """A command whose option --watch may go without its number, which the parser of options knows nothing of."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for i in range(end):
            if args[i] == "--watch" and not (i + 1 < end and args[i + 1].isdecimal()):
                args[i] = f"--watch={WATCH_EVERY}"
        return super().parse_args(ctx, args)


def status(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, and folders of sweeps.", show_default=False)
    ],
    watch: Annotated[
        int | None,
        typer.Option(
            "--watch",
            min=1,
            metavar="[SECONDS]",
            help=f"Show it again every so often ({WATCH_EVERY}), until nothing runs or is queued; Ctrl-C ends it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
) -> None:
    """How far runs are: rows, pace, signs of life, what Slurm says of their jobs, and what there is to do.

    States: complete; running; stopped (by a signal or a limit; rows are left); failed; silent (no sign of life for a
    minute and no end recorded: killed, or its node is lost); not begun; unreadable.

    Exit codes: 0 whatever the states are, which programs find in --json; 2 where there is no run folder.
    """
    with exit_codes():
        import json
        import os

        from landscape.errors import InputError
        from landscape.run.comm import launch
        from landscape_jobs.queue import Queue
        from landscape_jobs.status import Reader, document, require_runs

        if as_json and watch is not None:
            raise InputError("--json is one document, and --watch a table that is shown again; leave one of them out")

        def tell() -> None:
            from rich.console import Console

            from landscape_jobs.status_tables import StatusTable, watch_status

            runs, others = require_runs(folders)
            if others:
                more = f" and {len(others) - 1} more are no run folders" if len(others) > 1 else " is no run folder"
                typer.echo(f"left out: {others[0]}{more}", err=True)
            reader = Reader(runs, Queue(os.environ))
            if as_json:
                typer.echo(json.dumps(document(reader.read()), indent=1, allow_nan=False))
            elif watch is None:
                print_tables(StatusTable(reader.read()))
            else:
                with suppress(KeyboardInterrupt):
                    watch_status(reader, Console(force_terminal=False if launch() else None), watch)

        on_rank_0(tell)


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or the folder of a sweep.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="HDF5 file to write.", show_default=False)],
) -> None:
    """Write runs, finished or not, as one HDF5 file: a group for each run or cell, or for a single run its result."""
    with exit_codes():
        from landscape.errors import InputError
        from landscape.opening.opening import open_result
        from landscape.opening.several import merge_runs
        from landscape.opening.sweeps import is_sweep
        from landscape_jobs.sweep import merge_sweep

        def write() -> None:
            sweep = next((folder for folder in folders if is_sweep(folder)), None)
            if sweep is not None and len(folders) > 1:
                raise InputError(f"{sweep} is the folder of a sweep, which makes a file of its own; merge it alone")
            if sweep is not None:
                path = merge_sweep(sweep, out)
            else:
                path = open_result(folders[0]).save(out) if len(folders) == 1 else merge_runs(folders, out)
            typer.echo(str(path))

        on_rank_0(write)


def show(source: Source, name: RunName = None) -> None:
    """What was measured, on what, and how exact it is."""
    with exit_codes():
        from landscape.opening.opening import group_names, open_result, run_names
        from landscape.results.summary import result_tables
        from landscape_jobs.shown import as_rich

        def tell() -> None:
            runs: list[str | None] = [name]
            if name is None and source.exists():
                runs = [*run_names(source)] or runs
            for run_name in runs:
                title = f"{source}, run {run_name}" if run_name else str(source)
                groups: list[str | None] = [None]
                if source.is_file():
                    groups = [*group_names(source, run=run_name)] or groups
                for group in groups:
                    result = open_result(source, run=run_name, group=group)
                    print_tables(*map(as_rich, result_tables(result, title)))

        on_rank_0(tell)


def plot(
    source: Source,
    quantity: Annotated[
        str | None,
        typer.Option(
            "-q", "--quantity", metavar="NAME", help="What to draw of a surface (loss) or of agreement (cka)."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="NAME",
            help="Of a surface contour (the default), 3d, profile (where there is one axis) or, of curvature, ratio. "
            "Of a spectrum spectrum, density, layers or vectors, of a sweep table, graph or paths; by default all "
            "there is something for.",
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option("--levels", metavar="auto|linear|log|step", help="Of a surface or of profiles; by default auto."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Picture to write: .png, .pdf or .svg; by default beside."),
    ] = None,
    name: RunName = None,
    group: Group = None,
) -> None:
    """Draw a quantity of a surface, or the pictures of another result."""
    with exit_codes():
        from landscape.errors import InputError
        from landscape.opening.opening import open_result
        from landscape.pictures.style import save_figure
        from landscape_jobs.pictures import pictures

        def draw() -> None:
            drawn = list(pictures(open_result(source, run=name, group=group), kind, quantity, levels))
            if out is not None and len(drawn) > 1:
                raise InputError(
                    f"-o {out} names one file for {len(drawn)} pictures; say which with --kind: "
                    + ", ".join(picture for picture, _ in drawn)
                )
            for picture, figure in drawn:
                typer.echo(str(save_figure(figure, out or _beside(source, name, f"{picture}.png"))))

        on_rank_0(draw)


def report(
    source: Source,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.html", help="Page to write; by default beside.")
    ] = None,
    name: RunName = None,
    group: Group = None,
) -> None:
    """Write one HTML page of a run, finished or not, of a sweep or of a file; it needs no network to be read.

    Tables of what was measured and how exact it is, interactive pictures, and where it comes from; at most 8 MB.
    """
    with exit_codes():
        from landscape_jobs.report_sources import report_run

        on_rank_0(lambda: typer.echo(str(report_run(source, out or _beside(source, name, "report.html"), name, group))))


def watch(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
    every: Annotated[
        float, typer.Option("--every", min=0.2, metavar="SECONDS", help="How often it is drawn again.")
    ] = WATCH_EVERY,
) -> None:
    """See a run go on: its picture or numbers so far, progress and time left, until it ends; Ctrl-C ends it earlier."""
    with exit_codes():
        from landscape_jobs.watch import watch_folder

        def show() -> None:
            with suppress(KeyboardInterrupt):
                watch_folder(folder, every)

        on_rank_0(show)


def _run(load: Callable[[], Job], limit_items: int | None) -> None:
    from landscape.opening.runs import run_stores
    from landscape.run.comm import world
    from landscape.run.store import FAILURES, RESULT
    from landscape.run.together import agree
    from landscape_jobs.build import run_job
    from landscape_jobs.progress import ProgressDisplay

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
    from landscape_jobs.cells import run_cell, run_sweep
    from landscape_jobs.sweep import index_alone

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


def _agrees_with_pyhessian(job: Job) -> bool:
    from landscape.compat import compare_with_pyhessian
    from landscape_jobs.build import build_objective
    from landscape_jobs.shown import as_rich
    from landscape_jobs.tables import comparison_table

    objective = build_objective(job)

    def compare() -> bool:
        comparison = compare_with_pyhessian(objective)
        print_tables(as_rich(comparison_table(comparison)))
        return comparison.agrees

    return on_rank_0(compare)


def _beside(source: Path, name: str | None, ending: str) -> Path:
    """Where a picture goes by default: into the run folder, or beside the file under its name."""
    prefix = f"{name}_" if name else ""
    return source / f"{prefix}{ending}" if source.is_dir() else source.with_name(f"{source.stem}_{prefix}{ending}")


app.command(no_args_is_help=True)(run)
app.command(no_args_is_help=True)(resume)
app.command(
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},  # answered there, with the valid ones
)(submit)
app.command(no_args_is_help=True)(check)
app.command()(demo)
app.command(no_args_is_help=True, cls=_StatusCommand)(status)
for command in (merge, show, plot, report, watch, topology):
    app.command(no_args_is_help=True)(command)


if __name__ == "__main__":
    main()
