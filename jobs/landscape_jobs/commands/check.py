"""The command check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from landscape_jobs.codes import CRASHED
from landscape_jobs.commands.shared import JobFile, Overrides, exit_codes, on_rank_0, print_tables, quoted, tell

if TYPE_CHECKING:
    from landscape_jobs.spec.job import Job


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
        from landscape_jobs.cluster.stages import is_stages_file
        from landscape_jobs.pair_check import check_pairs
        from landscape_jobs.spec.job import load_job
        from landscape_jobs.spectral_check import check_curvature
        from landscape_jobs.sweeps.folder import places, unfinished
        from landscape_jobs.sweeps.sweep_file import is_sweep_file, load_sweep
        from landscape_jobs.tables import curvature_trial_table, pairs_trial_table, trial_table
        from landscape_jobs.terminal.tables import as_rich

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


def _agrees_with_pyhessian(job: Job) -> bool:
    from landscape.compat import compare_with_pyhessian
    from landscape_jobs.build.objects import build_objective
    from landscape_jobs.tables import comparison_table
    from landscape_jobs.terminal.tables import as_rich

    objective = build_objective(job)

    def compare() -> bool:
        comparison = compare_with_pyhessian(objective)
        print_tables(as_rich(comparison_table(comparison)))
        return comparison.agrees

    return on_rank_0(compare)
