"""The command check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landscape_jobs.codes import CRASHED
from landscape_jobs.commands.shared import JobFile, Overrides, exit_codes, on_rank_0, print_tables, quoted, tell

if TYPE_CHECKING:
    from landscape.compat import ProductComparison
    from landscape.objective.objective import Objective
    from landscape.results.tables import Table
    from landscape.results.trial import Trial
    from landscape_jobs.build.objects import Built
    from landscape_jobs.spec.job import Job
    from landscape_jobs.spec.toml import TomlFile


def check(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="pyhessian", help="Compare Hessian products with those of that package."),
    ] = None,
) -> None:
    """Validate all of a job and estimate its time and memory from a small part of it; writes nothing of the run.

    Of an objective it also says what would be faster on this machine, and remembers that in the user's cache folder.
    Of a sweep every cell's job is validated as far as its text tells, and the estimate is for the first cell that is
    not finished.
    """
    with exit_codes():
        from landscape.errors import InputError
        from landscape.objective.speed import speed_table, speed_trial
        from landscape.results.trial import trial_table
        from landscape_jobs.build.objects import build
        from landscape_jobs.terminal.tables import as_rich

        if against not in (None, "pyhessian"):
            raise InputError(f"--against {against!r} is not known; products can be compared with those of pyhessian")
        loaded = _loaded(job, overrides)
        built = build(loaded)
        estimate = trial_table(_trial(loaded, built))
        on_rank_0(lambda: print_tables(as_rich(estimate)))
        if loaded.study.subject == "objective":
            objective = built.subject
            on_rank_0(lambda: print_tables(as_rich(speed_table(speed_trial(objective)))))
        if against is not None and loaded.study.subject != "objective":
            raise InputError(f"--against {against}: [{loaded.study.name}] has no Hessian products to compare")
        if against is not None and not _agrees_with_pyhessian(built.subject):
            raise typer.Exit(CRASHED)


def _loaded(file: Path, overrides: list[str]) -> Job:
    """The job in a file; of a sweep that of its first cell that is not finished."""
    from landscape.errors import InputError
    from landscape.run.comm import world
    from landscape.run.together import agree
    from landscape_jobs.spec.job import load_job
    from landscape_jobs.spec.toml import STAGES, SWEEP, read_toml

    found = on_rank_0(lambda: read_toml(file))
    if found.kind == STAGES:
        raise InputError(
            f"{file} is a file of stages; check the jobs and sweeps that it names one by one, and see the batch "
            f"scripts of all with: landscape submit --dry-run {quoted(file)}"
        )
    if found.kind == SWEEP:
        job, told = on_rank_0(lambda: _first_cell(found, overrides))
        tell(told)
        return job
    return agree(world(), lambda: load_job(found, overrides))


def _first_cell(file: TomlFile, overrides: list[str]) -> tuple[Job, str]:
    """(the job of a sweep's first cell that is not finished, what there is to say of the sweep)."""
    from landscape_jobs.sweeps.folder import places, unfinished
    from landscape_jobs.sweeps.sweep_file import load_sweep

    sweep = load_sweep(file, overrides)
    found = places(sweep)
    left = unfinished(found)
    place = (left or found)[0]
    runs = len({one.folder for one in found})
    which = "an estimate for the first of these" if left else "an estimate for the first cell"
    return place.job, (
        f"{len(sweep.cells)} cells, whose jobs are valid as far as their text tells; {len(left)} of {runs} "
        f"runs in {sweep.out} are not finished; {which}, cell {place.cell.number}: {place.cell.label}"
    )


def _trial(job: Job, built: Built) -> Trial:
    """What the run would take: by the study's own trial, else by two items of its task."""
    from landscape.results.trial import timed
    from landscape.run.comm import world
    from landscape.run.together import agree

    study, ranks = job.study, job.run.ranks_per_item
    if study.trial is not None:
        return study.trial(built.subject, built.arguments, job.out, ranks)
    make = study.task
    assert make is not None, "a study without a trial has a task"
    task = agree(world(), lambda: make(built.subject, **built.arguments))
    return timed(task, job.out, ranks, study.unit)


def _agrees_with_pyhessian(objective: Objective) -> bool:
    from landscape.compat import compare_with_pyhessian
    from landscape_jobs.terminal.tables import as_rich

    def compare() -> bool:
        comparison = compare_with_pyhessian(objective)
        print_tables(as_rich(_comparison_table(comparison)))
        return comparison.agrees

    return on_rank_0(compare)


def _comparison_table(comparison: ProductComparison) -> Table:
    """Our products beside those of pyhessian."""
    from landscape.results.tables import pairs_table

    verdict = "they agree" if comparison.agrees else "they DIFFER by more than rounding explains"
    return pairs_table(
        "products beside pyhessian's",
        {
            "verdict": verdict,
            "gap of each, relative": ", ".join(f"{gap:.1e}" for gap in comparison.gaps),
            "largest gap of an entry": ", ".join(f"{gap:.1e}" for gap in comparison.elementwise),
            "explained by rounding": f"{comparison.allowed:.1e} in {comparison.precision}",
            "our route": comparison.route,
            "data": f"{comparison.samples:,} samples in {comparison.batches} batches",
        },
    )
