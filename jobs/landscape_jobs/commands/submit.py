"""The command `landscape submit`: its options, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from landscape_jobs.commands.shared import JobFile, Overrides, exit_codes, on_rank_0

_Nodes = Annotated[int | None, typer.Option("--nodes", metavar="N", help="Nodes.  [default: 1]")]
_NtasksPerNode = Annotated[
    int | None, typer.Option("--ntasks-per-node", metavar="N", help="Ranks on each node.  [default: 1]")
]
_CpusPerTask = Annotated[
    int | None,
    typer.Option("--cpus-per-task", metavar="N", help="Threads of a rank.  [default: run.threads, or 1]"),
]
_GpusPerTask = Annotated[
    int | None,
    typer.Option("--gpus-per-task", metavar="N", help="GPUs of a rank.  [default: 1 where objective.device is cuda]"),
]
_Gres = Annotated[
    str | None, typer.Option("--gres", metavar="LIST", help="GPUs of a node in the site's words, as gpu:a100:4.")
]
_Partition = Annotated[str | None, typer.Option("--partition", metavar="NAME", help="Partition.")]
_Account = Annotated[str | None, typer.Option("--account", metavar="NAME", help="Account that pays.")]
_Qos = Annotated[str | None, typer.Option("--qos", metavar="NAME", help="Quality of service.")]
_Time = Annotated[
    str | None,
    typer.Option("--time", metavar="D-HH:MM:SS", help="Time limit; work left at its end is queued again."),
]
_Mem = Annotated[str | None, typer.Option("--mem", metavar="SIZE", help="Memory of a node, as 16G.")]
_Array = Annotated[str | None, typer.Option("--array", metavar="RANGE", help="Indices of a job array.")]
_Dependency = Annotated[
    str | None, typer.Option("--dependency", metavar="LIST", help="Jobs to wait for, as afterok:1234.")
]
_Requeue = Annotated[
    bool | None,
    typer.Option(
        "--requeue/--no-requeue", help="Go on as the same job, or as a new one that follows.  [default: requeue]"
    ),
]
_MailType = Annotated[str | None, typer.Option("--mail-type", metavar="LIST", help="When to mail, as END,FAIL.")]
_MailUser = Annotated[str | None, typer.Option("--mail-user", metavar="ADDRESS", help="Whom to mail.")]
_Module = Annotated[list[str] | None, typer.Option("--module", metavar="NAME", help="Module to load; may be repeated.")]
_Environment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        metavar="PATH",
        help="Virtual or conda environment, or a file to source.  [default: the environment that submits]",
    ),
]
_Sbatch = Annotated[
    list[str] | None,
    typer.Option("--sbatch", metavar="LINE", help="Any other option of sbatch, as --exclusive; may be repeated."),
]
_Launcher = Annotated[
    str | None,
    typer.Option("--launcher", metavar="auto|srun|mpiexec", help="What starts the ranks.  [default: auto, by trial]"),
]
_Mpi = Annotated[
    str | None, typer.Option("--mpi", metavar="TYPE", help="srun's --mpi.  [default: pmix or pmi2, by trial]")
]
_Survivors = Annotated[
    bool | None,
    typer.Option(
        "--survivors/--no-survivors",
        help="Where mpiexec is Open MPI 5's, have the other ranks go on when one dies.  [default: survivors]",
    ),
]
_SignalSeconds = Annotated[
    int | None,
    typer.Option(
        "--signal-seconds",
        metavar="N",
        help="How long before the end ranks are told to stop.  [default: 120, at most a fifth of --time]",
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the batch script, and write and submit nothing.")]


def submit(
    context: typer.Context,
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    nodes: _Nodes = None,
    ntasks_per_node: _NtasksPerNode = None,
    cpus_per_task: _CpusPerTask = None,
    gpus_per_task: _GpusPerTask = None,
    gres: _Gres = None,
    partition: _Partition = None,
    account: _Account = None,
    qos: _Qos = None,
    time: _Time = None,
    mem: _Mem = None,
    array: _Array = None,
    dependency: _Dependency = None,
    requeue: _Requeue = None,
    mail_type: _MailType = None,
    mail_user: _MailUser = None,
    module: _Module = None,
    environment: _Environment = None,
    sbatch: _Sbatch = None,
    launcher: _Launcher = None,
    mpi: _Mpi = None,
    survivors: _Survivors = None,
    signal_seconds: _SignalSeconds = None,
    dry_run: _DryRun = False,
) -> None:
    """Submit a job, a sweep or stages to Slurm, as they are now: later edits of the file do not change what is queued.

    A sweep is a job array, a task for each cell that is not finished, and --array %N says how many run at once. Of
    stages each waits for those it comes after, and those that are finished are left out.

    What is nearer wins, option by option: this command line, then landscape-site.toml beside the job file or in a
    folder above it, then ~/.config/landscape/site.toml, then the defaults. Profiles hold these options without the
    dashes, as in: ntasks-per-node = 4

    Exit codes: 0 submitted, 2 refused.
    """
    with exit_codes():
        given = _given(context, job)
        on_rank_0(lambda: _submit(job, overrides, given, dry_run))


def _given(context: typer.Context, job: Path) -> dict[str, Any]:
    """The options of sbatch that were given, by their typed names. Raises InputError for a word too many."""
    from landscape.errors import InputError
    from landscape_jobs.cluster.options import option_names, unknown_option

    unknown = next((word for word in (str(job), *context.args) if word.startswith("-")), None)
    if unknown is not None:
        raise InputError(unknown_option(unknown.lstrip("-").partition("=")[0]))
    if context.args:
        raise InputError(f"{context.args[0]!r} is one word too many: one file is submitted at a time")
    values = {name: context.params[name.replace("-", "_")] for name in option_names()}
    return {name: value for name, value in values.items() if value not in (None, (), [])}  # a list not given is ()


def _submit(job: Path, overrides: Sequence[str], given: Mapping[str, Any], dry_run: bool) -> None:
    import os

    from landscape_jobs.cluster import submit as submitting

    prepared = submitting.prepare(job, overrides, given, os.environ)
    for note in prepared.notes:
        typer.echo(note, err=True)
    if dry_run:
        typer.echo("\n".join(submission.script for submission in prepared.submissions), nl=False)
        return
    for done in submitting.submit(prepared, os.environ):
        typer.echo(done.text)
    sources = dict.fromkeys(source for submission in prepared.submissions for source in submission.sources)
    if sources:
        typer.echo(f"options from: {', '.join(sources)}", err=True)
