"""The command `landscape corpus`: which metrics of a table of models follow a target, overall and inside groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape_jobs.commands.shared import exit_codes, on_rank_0, print_tables, write_columns


def corpus(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="CSV file with a line for each model, or the run of a table.", show_default=False
        ),
    ],
    target: Annotated[
        str, typer.Option("--target", metavar="COLUMN", help="What the metrics are to follow.")
    ] = "test_accuracy",
    groups: Annotated[
        list[str] | None,
        typer.Option("--groups", metavar="COLUMN", help="Column that groups the models; may be repeated.  [depth]"),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="COLUMN", help="A metric; may be repeated. By default all columns of numbers."
        ),
    ] = None,
    hyperparameters: Annotated[
        list[str] | None,
        typer.Option("--hyperparameter", metavar="COLUMN", help="What a model was trained with; may be repeated."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", metavar="N", help="Draws of models behind the intervals.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the draws.")] = 0,
    kind: Annotated[str, typer.Option("--kind", metavar="NAME", help="Picture of -o: chart or scatter.")] = "chart",
    quantity: Annotated[
        str | None, typer.Option("-q", "--quantity", metavar="METRIC", help="Metric of a scatter.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Picture to write: .png, .pdf or .svg.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", metavar="FILE.csv", help="Table to write: each metric, with intervals.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE.h5", help="Result file to write, for show, plot and report.")
    ] = None,
) -> None:
    """Find out which metrics follow a target over all models and inside groups, and Simpson's paradox."""
    with exit_codes():
        from landscape.opening.opening import is_result, open_result
        from landscape.pictures.saving import save_figure
        from landscape.results.kind import kind_of
        from landscape.results.summary import result_tables
        from landscape.studies.corpus.measure import analyse_corpus
        from landscape_jobs.terminal.tables import as_rich

        by, settings = groups or "depth", hyperparameters or ()
        table_of = open_result(source) if is_result(source) else source
        found = analyse_corpus(table_of, target, by, metrics or None, hyperparameters=settings, draws=draws, seed=seed)

        def show() -> None:
            print_tables(*(as_rich(one) for one in result_tables(found, str(source))))
            if table is not None:
                typer.echo(str(write_columns(table, kind_of(found).columns(found))))
            if save is not None:
                typer.echo(str(found.save(save)))
            if out is not None:
                typer.echo(str(save_figure(found.plot(kind, **({"metric": quantity} if quantity else {})), out)))

        on_rank_0(show)
