"""The command `landscape topology`: minima, saddles and maxima of a surface, as tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape_jobs.commands.shared import exit_codes, on_rank_0, print_tables, write_columns


def topology(
    source: Annotated[
        Path, typer.Argument(metavar="FILE_OR_RUN", help="Result file or run folder of a surface.", show_default=False)
    ],
    quantity: Annotated[
        str, typer.Option("-q", "--quantity", metavar="NAME", help="Quantity of the surface.")
    ] = "loss",
    z: Annotated[
        float, typer.Option("--z", metavar="Z", help="Standard errors that the depth of what counts exceeds.")
    ] = 3.0,
    threshold: Annotated[
        float | None, typer.Option("--threshold", metavar="HEIGHT", help="Or the height it exceeds; 0 counts all.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="NAME", help="Picture of -o: barcode, tree or surface.")
    ] = "barcode",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Picture to write: .png, .pdf or .svg.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE.csv", help="Table to write: each minimum, saddle and maximum, with errors."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--run", metavar="NAME", help="Which run of a merged file.")] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="NAME", help="Which result of a file that holds several.")
    ] = None,
) -> None:
    """Find minima, saddles and maxima of a surface, and which of them stand out of the noise."""
    with exit_codes():
        import landscape as ls
        from landscape.errors import InputError
        from landscape.opening.opening import open_result
        from landscape.pictures.saving import save_figure
        from landscape.results.kind import kind_of
        from landscape.results.summary import result_tables
        from landscape.studies.topology.find import find_topology
        from landscape_jobs.terminal.tables import as_rich

        def find() -> None:
            result = open_result(source, run=name, group=group)
            if not isinstance(result, ls.Surface):
                raise InputError(f"{source} holds this: {kind_of(result).words}; topology is found on a surface")
            found = find_topology(result, quantity, z=z, threshold=threshold)
            print_tables(*(as_rich(table) for table in result_tables(found, str(source))))
            if table is not None:
                typer.echo(str(write_columns(table, kind_of(found).columns(found))))
            if out is not None:
                typer.echo(str(save_figure(found.plot(kind), out)))

        on_rank_0(find)
