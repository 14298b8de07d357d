"""What sbatch is started with, and its answers as values. Nothing here touches a file or starts a program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from landscape.errors import InputError
from landscape_jobs.cluster.options import FLAGS, TIME_VARIABLE, Options, given

_JOB_ID = re.compile(r"(\d+)(?:;(\S+))?")
_ALWAYS_STATED = (
    "SBATCH_JOB_NAME",
    "SBATCH_OUTPUT",
    "SBATCH_OPEN_MODE",
    "SBATCH_SIGNAL",
    "SBATCH_REQUEUE",
    "SBATCH_NO_REQUEUE",
    "SBATCH_ARRAY_INX",
    TIME_VARIABLE,
)

# What sbatch refuses, and where the names it would take are found.
_WAYS_OUT = (
    ("invalid partition", "`sinfo -s` lists the partitions there are"),
    ("invalid account", "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours"),
    ("invalid qos", "`sacctmgr show associations user=$USER format=account,partition,qos` lists yours"),
    ("time limit", "`sinfo -o '%P %l'` lists the partitions' limits"),
    ("node configuration is not available", "`sinfo -N -o '%N %c %m %G'` lists the nodes' cores, memory and GPUs"),
    ("job array", "`scontrol show config | grep MaxArraySize` shows the first index that is too large"),
    ("node count", "`sinfo -o '%P %D'` lists how many nodes the partitions have"),
    ("dependency", "`squeue --me` lists your jobs; a dependency reads afterok:JOB or afterany:JOB"),
    ("unable to contact", "Slurm's controller does not answer; try again, or ask the site"),
)


def array_of(numbers: Sequence[int], at_once: str | None) -> str:
    """Indices of a job array, with neighbours drawn together; `at_once` is None or "%N", how many run at a time.

    Raises InputError for any other `at_once`.

    >>> array_of([0, 1, 2, 5, 7, 8], "%4")
    '0-2,5,7-8%4'
    """
    if at_once is not None and not re.fullmatch(r"%[1-9]\d*", at_once):
        raise InputError(
            f"array = {at_once!r}: of a sweep the cells that are not finished are the array; say only how many may run "
            "at once, as in --array %4"
        )
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)
    return shown + (at_once or "")


def sbatch_environment(environment: Mapping[str, str], options: Options) -> dict[str, str]:
    """The environment to start sbatch in: without the variables it would obey before the script's own lines.

    sbatch(1): "Environment variables will override any options set in a batch script". A variable stays where nobody
    gave its option, so that an account set in a shell's start-up file still counts.
    """
    stated = {name for field, (_, names) in FLAGS.items() if given(options, field) for name in names}
    return {name: value for name, value in environment.items() if name not in stated.union(_ALWAYS_STATED)}


def job_id(answer: str) -> tuple[str, str | None]:
    """(job number, cluster or None) from what `sbatch --parsable` prints; raises InputError where it is none.

    >>> job_id("1234\\n"), job_id("1234;alps\\n")
    (('1234', None), ('1234', 'alps'))
    """
    lines = answer.split("\n")
    found = [match for line in lines if (match := _JOB_ID.fullmatch(line.strip()))]
    if not found:
        raise InputError(
            f"sbatch answered {answer.strip()!r}, where the number of a job was expected; see whether `squeue --me` "
            "lists it, and that `sbatch` is Slurm's own"
        )
    return found[-1][1], found[-1][2]


def refusal(message: str) -> str:
    """What sbatch wrote on standard error, and a way out of it."""
    text = message.strip() or "(it gave no reason)"
    known = [way for cause, way in _WAYS_OUT if cause in text.lower()]
    return f"sbatch refused the job:\n  {text.replace(chr(10), chr(10) + '  ')}\n" + "; ".join(
        [*known, "`--dry-run` shows the script"]
    )
