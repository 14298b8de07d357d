"""The commands that show, draw and merge results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape_jobs.codes import BAD_INPUT
from landscape_jobs.commands.shared import exit_codes, on_rank_0, print_tables

Source = Annotated[Path, typer.Argument(metavar="FILE_OR_RUN", help="Result file or run folder.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", metavar="NAME", help="Which run of a merged file.")]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", help="Which result of a file that holds several; a wrong name lists them."),
]


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
        from landscape_jobs.sweeps.folder import merge_sweep

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
        from landscape.errors import StoreError, UnfinishedError
        from landscape.opening.opening import Place
        from landscape.results.summary import result_tables
        from landscape_jobs.terminal.tables import as_rich

        def tell() -> bool:
            """Show what can be read; whether something is damaged."""
            place = Place(source)
            damaged = False
            runs: list[str | None] = [name] if name is not None else [*place.run_names] or [None]
            for run_name in runs:
                title = f"{source}, run {run_name}" if run_name else str(source)
                groups: list[str | None] = [*place.group_names(run_name)] or [None]
                for group in groups:
                    try:
                        result = place.open(run_name, group)
                    except StoreError as error:
                        if len(runs) == 1:
                            raise
                        damaged |= not isinstance(error, UnfinishedError)
                        typer.echo(f"{title}: {error}", err=True)
                        continue
                    print_tables(*map(as_rich, result_tables(result, title)))
            return damaged

        if on_rank_0(tell):
            raise typer.Exit(BAD_INPUT)


def plot(
    source: Source,
    quantity: Annotated[
        str | None,
        typer.Option(
            "-q", "--quantity", metavar="NAME", help="What to draw, where there is a choice; a wrong name lists it."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="NAME",
            help="Which picture, by default those that tell most; a wrong name lists what there is.",
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            "--levels",
            metavar="auto|linear|log|step|A,B,...",
            help="How heights are spread over colours or an axis, or the heights themselves; by default auto.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Picture to write: .png, .pdf or .svg; by default beside."),
    ] = None,
    name: RunName = None,
    group: Group = None,
) -> None:
    """Draw the pictures of a result."""
    with exit_codes():
        from landscape.errors import InputError
        from landscape.opening.opening import open_result
        from landscape.pictures.saving import save_figure
        from landscape.results.kind import Asked, kind_of

        def draw() -> None:
            result = open_result(source, run=name, group=group)
            drawn = list(kind_of(result).pictures().asked(result, Asked(kind, quantity, _levels(levels))))
            if out is not None and len(drawn) > 1:
                raise InputError(
                    f"-o {out} names one file for {len(drawn)} pictures; say which with --kind or -q: "
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
        from landscape_jobs.report.sources import report_run

        on_rank_0(lambda: typer.echo(str(report_run(source, out or _beside(source, name, "report.html"), name, group))))


def _levels(given: str | None) -> str | tuple[float, ...] | None:
    """Heights separated by commas as numbers; a name as it is, which the picture knows or refuses."""
    try:
        return given if given is None else tuple(float(part) for part in given.strip("[] ").split(","))
    except ValueError:
        return given


def _beside(source: Path, name: str | None, ending: str) -> Path:
    """Where a picture goes by default: into the run folder, or beside the file under its name."""
    prefix = f"{name}_" if name else ""
    return source / f"{prefix}{ending}" if source.is_dir() else source.with_name(f"{source.stem}_{prefix}{ending}")
