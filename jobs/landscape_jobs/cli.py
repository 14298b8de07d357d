"""The command `landscape`.

Exit codes: 0 all done (of `submit`: submitted), 1 a crash, 2 input that cannot be used, 3 work is left (stopped by a
signal or a limit).
What takes long to import is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from landscape_jobs.spec import Job

T = TypeVar("T")

COMPLETE, CRASHED, BAD_INPUT, WORK_LEFT = 0, 1, 2, 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (TOML).", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the job, as in --set surface.x=[-1,1,5]."),
]
Source = Annotated[Path, typer.Argument(metavar="FILE_OR_RUN", help="Result file or run folder.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", metavar="NAME", help="Which run of a merged file.")]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", help="Which result of a file that holds several, as surface or spectrum."),
]


def main() -> None:
    """Entry point of the command `landscape`."""
    app(prog_name="landscape")


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


@app.command(no_args_is_help=True)
def run(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006  (typer reads it once and copies)
    limit_items: Annotated[
        int | None,
        typer.Option(
            "--limit-items", min=0, metavar="N", help="End after N new points of a surface, or pairs of models."
        ),
    ] = None,
) -> None:
    """Run a job, or go on with it: rows its folder holds already are not computed again."""
    with _exit_codes():
        from landscape_jobs.spec import load_job

        _run(lambda: load_job(job, overrides), limit_items)


@app.command(no_args_is_help=True)
def resume(folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)]) -> None:
    """Go on with the run in a folder, from the job text it keeps."""
    with _exit_codes():
        from landscape_jobs.build import stored_job

        _run(lambda: stored_job(folder), None)


@app.command(
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},  # answered here, with the valid ones
)
def submit(
    context: typer.Context,
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    nodes: Annotated[int | None, typer.Option("--nodes", metavar="N", help="Nodes.  [default: 1]")] = None,
    ntasks_per_node: Annotated[
        int | None, typer.Option("--ntasks-per-node", metavar="N", help="Ranks on each node.  [default: 1]")
    ] = None,
    cpus_per_task: Annotated[
        int | None,
        typer.Option("--cpus-per-task", metavar="N", help="Threads of a rank.  [default: run.threads, or 1]"),
    ] = None,
    gpus_per_task: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-task", metavar="N", help="GPUs of a rank.  [default: 1 where objective.device is cuda]"
        ),
    ] = None,
    gres: Annotated[
        str | None, typer.Option("--gres", metavar="LIST", help="GPUs of a node in the site's words, as gpu:a100:4.")
    ] = None,
    partition: Annotated[str | None, typer.Option("--partition", metavar="NAME", help="Partition.")] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="NAME", help="Account that pays.")] = None,
    qos: Annotated[str | None, typer.Option("--qos", metavar="NAME", help="Quality of service.")] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="D-HH:MM:SS", help="Time limit; work left at its end is queued again."),
    ] = None,
    mem: Annotated[str | None, typer.Option("--mem", metavar="SIZE", help="Memory of a node, as 16G.")] = None,
    array: Annotated[str | None, typer.Option("--array", metavar="RANGE", help="Indices of a job array.")] = None,
    dependency: Annotated[
        str | None, typer.Option("--dependency", metavar="LIST", help="Jobs to wait for, as afterok:1234.")
    ] = None,
    requeue: Annotated[
        bool | None,
        typer.Option(
            "--requeue/--no-requeue", help="Go on as the same job, or as a new one that follows.  [default: requeue]"
        ),
    ] = None,
    mail_type: Annotated[
        str | None, typer.Option("--mail-type", metavar="LIST", help="When to mail, as END,FAIL.")
    ] = None,
    mail_user: Annotated[str | None, typer.Option("--mail-user", metavar="ADDRESS", help="Whom to mail.")] = None,
    module: Annotated[
        list[str] | None, typer.Option("--module", metavar="NAME", help="Module to load; may be repeated.")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            metavar="PATH",
            help="Virtual or conda environment, or a file to source.  [default: the environment that submits]",
        ),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="LINE", help="Any other option of sbatch, as --exclusive; may be repeated."),
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher", metavar="auto|srun|mpiexec", help="What starts the ranks.  [default: auto, by trial]"
        ),
    ] = None,
    mpi: Annotated[
        str | None, typer.Option("--mpi", metavar="TYPE", help="srun's --mpi.  [default: pmix or pmi2, by trial]")
    ] = None,
    signal_seconds: Annotated[
        int | None,
        typer.Option(
            "--signal-seconds", metavar="N", help="How long before the end ranks are told to stop.  [default: 120]"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the batch script, and write and submit nothing.")
    ] = False,
) -> None:
    """Submit a job to Slurm, as it is now: later edits of its file do not change what is queued.

    What is nearer wins, option by option: this command line, then landscape-site.toml beside the job file or in a
    folder above it, then ~/.config/landscape/site.toml, then the defaults. Profiles hold these options without the
    dashes, as in: ntasks-per-node = 4

    Exit codes: 0 submitted, 2 refused.
    """
    with _exit_codes():
        import os

        from landscape.errors import InputError
        from landscape_jobs import submit as submitting
        from landscape_jobs.slurm import option_names, unknown_option

        unknown = next((word for word in (str(job), *context.args) if word.startswith("-")), None)
        if unknown is not None:
            raise InputError(unknown_option(unknown.lstrip("-").partition("=")[0]))
        if context.args:
            raise InputError(f"{context.args[0]!r} is one word too many: one job file is submitted at a time")
        values = {name: context.params[name.replace("-", "_")] for name in option_names()}
        given = {name: value for name, value in values.items() if value is not None}

        def go() -> None:
            submission = submitting.prepare(job, overrides, given, os.environ)
            if dry_run:
                typer.echo(submission.script, nl=False)
                return
            done = submitting.submit(submission, os.environ)
            where = f" to {done.cluster}" if done.cluster else ""
            typer.echo(f"submitted job {done.job_id}{where}; its log: {done.places.log}")
            if submission.sources:
                typer.echo(f"options from: {', '.join(submission.sources)}", err=True)

        _on_rank_0(go)


@app.command(no_args_is_help=True)
def check(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="pyhessian", help="Compare Hessian products with those of that package."),
    ] = None,
) -> None:
    """Validate all of a job and estimate its time and memory from a small part of it; writes nothing."""
    with _exit_codes():
        from landscape.comm import world
        from landscape.errors import InputError
        from landscape.loop import agree
        from landscape_jobs.check import check_job
        from landscape_jobs.pair_check import check_pairs
        from landscape_jobs.pair_tables import pairs_trial_table
        from landscape_jobs.spec import load_job
        from landscape_jobs.spectral_check import check_curvature
        from landscape_jobs.tables import curvature_trial_table, trial_table

        if against not in (None, "pyhessian"):
            raise InputError(f"--against {against!r} is not known; products can be compared with those of pyhessian")
        loaded = agree(world(), lambda: load_job(job, overrides))
        curvature = loaded.spectrum or loaded.layers
        if loaded.connectivity is not None:
            shown = pairs_trial_table(check_pairs(loaded))
        elif curvature is None:
            shown = trial_table(check_job(loaded))
        else:
            shown = curvature_trial_table(check_curvature(loaded, curvature))
        _on_rank_0(lambda: _show(shown))
        if against is not None and not _agrees_with_pyhessian(loaded):
            raise typer.Exit(CRASHED)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to work in.")] = Path("landscape-demo"),
) -> None:
    """Train small nets on handwritten digits, measure surfaces, a spectrum and a curve; leave one file and pictures."""
    with _exit_codes():
        from landscape_jobs.demo import make_demo

        left = make_demo(out)
        _on_rank_0(lambda: typer.echo(left.text()))


@app.command(no_args_is_help=True)
def status(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
) -> None:
    """How far runs are."""
    with _exit_codes():
        from landscape_jobs.tables import status_table

        _on_rank_0(lambda: _show(status_table(folders)))


@app.command(no_args_is_help=True)
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="HDF5 file to write.", show_default=False)],
) -> None:
    """Write runs, finished or not, as one HDF5 file: a group for each, or for a single run its result."""
    with _exit_codes():
        import landscape as ls

        def write() -> None:
            path = ls.open(folders[0]).save(out) if len(folders) == 1 else ls.merge_runs(folders, out)
            typer.echo(str(path))

        _on_rank_0(write)


@app.command(no_args_is_help=True)
def show(source: Source, name: RunName = None) -> None:
    """What was measured, on what, and how exact it is."""
    with _exit_codes():
        import landscape as ls
        from landscape.opening import group_names, run_names
        from landscape_jobs.shown import result_tables

        def tell() -> None:
            runs: list[str | None] = [name]
            if name is None and source.is_file():
                runs = [*run_names(source)] or runs
            for run_name in runs:
                title = f"{source}, run {run_name}" if run_name else str(source)
                groups: list[str | None] = [None]
                if source.is_file():
                    groups = [*group_names(source, run=run_name)] or groups
                for group in groups:
                    _show(*result_tables(ls.open(source, run=run_name, group=group), title))

        _on_rank_0(tell)


@app.command(no_args_is_help=True)
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
            help="Of a surface contour (the default), 3d or profile (where there is one axis). Of a spectrum spectrum, "
            "density, layers or vectors, of a sweep table, graph or paths; by default all there is something for.",
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option("--levels", metavar="auto|linear|log", help="Spacing of a surface's levels; by default auto."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Picture to write: .png, .pdf or .svg; by default beside."),
    ] = None,
    name: RunName = None,
    group: Group = None,
) -> None:
    """Draw a quantity of a surface, or the pictures of another result."""
    with _exit_codes():
        import landscape as ls
        from landscape.errors import InputError
        from landscape.plotting import save_figure
        from landscape_jobs.pictures import pictures

        def draw() -> None:
            drawn = list(pictures(ls.open(source, run=name, group=group), kind, quantity, levels))
            if out is not None and len(drawn) > 1:
                raise InputError(
                    f"-o {out} names one file for {len(drawn)} pictures; say which with --kind: "
                    + ", ".join(picture for picture, _ in drawn)
                )
            for picture, figure in drawn:
                typer.echo(str(save_figure(figure, out or _beside(source, name, f"{picture}.png"))))

        _on_rank_0(draw)


def _run(load: Callable[[], Job], limit_items: int | None) -> None:
    from landscape.comm import world
    from landscape.loop import agree
    from landscape.opening import run_stores
    from landscape.store import RESULT
    from landscape_jobs.build import run_job
    from landscape_jobs.progress import ProgressDisplay

    job = agree(world(), load)
    with ProgressDisplay() as display:
        run_job(job, limit_items=limit_items, progress=display)
    rows = _on_rank_0(lambda: [done for store in run_stores(job.out) for done in store.rows().done])
    if not all(rows):
        _tell(f"{sum(rows)} of {len(rows)} rows are done; go on with: landscape resume {_quoted(job.out)}")
        raise typer.Exit(WORK_LEFT)
    _on_rank_0(lambda: typer.echo(str(job.out / RESULT)))


def _agrees_with_pyhessian(job: Job) -> bool:
    from landscape.compat import compare_with_pyhessian
    from landscape_jobs.build import build_objective
    from landscape_jobs.tables import comparison_table

    objective = build_objective(job)

    def compare() -> bool:
        comparison = compare_with_pyhessian(objective)
        _show(comparison_table(comparison))
        return comparison.agrees

    return _on_rank_0(compare)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End with the code that belongs to an error, which rank 0 tells without a traceback."""
    from landscape.errors import LandscapeError, RunFailedError, RunInterrupted

    try:
        yield
    except RunInterrupted as stop:
        _tell(f"landscape: {stop}")
        raise typer.Exit(WORK_LEFT) from None
    except LandscapeError as error:
        _tell(f"landscape: {error}")
        raise typer.Exit(CRASHED if isinstance(error, RunFailedError) else BAD_INPUT) from None


def _on_rank_0(action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, on every rank; raises on all where it raises there."""
    from landscape.comm import world
    from landscape.loop import agree

    result: T = world().broadcast(agree(world(), lambda: action() if world().rank == 0 else None))
    return result


def _tell(message: str) -> None:
    """A message on rank 0's standard error; where the ranks do not find together, on the first of each machine."""
    from landscape.comm import local_rank, world
    from landscape.errors import InputError

    try:
        rank = world().rank
    except InputError:
        rank = local_rank()
    if rank == 0:
        typer.echo(message, err=True)


def _show(*tables: RenderableType) -> None:
    from rich.console import Console

    from landscape.comm import launch

    console = Console(force_terminal=False if launch() else None)  # mpiexec hands its ranks a terminal in any case
    for table in tables:
        console.print(table)


def _beside(source: Path, name: str | None, ending: str) -> Path:
    """Where a picture goes by default: into the run folder, or beside the file under its name."""
    prefix = f"{name}_" if name else ""
    return source / f"{prefix}{ending}" if source.is_dir() else source.with_name(f"{source.stem}_{prefix}{ending}")


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


if __name__ == "__main__":
    main()
