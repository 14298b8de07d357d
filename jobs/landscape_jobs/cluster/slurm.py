"""Slurm: options as an sbatch script, and sbatch's answers as values. Nothing here touches a file or starts a program.

The script, once Slurm runs it:

    SIGUSR1 ahead of the time limit or a preemption   goes on to the launcher, which hands it to every rank
    the run ends with 0, or fails by itself           so does the job; 0 counts where the result is there
    the run was told to stop, and left work           the job requeues itself, or a continuation waits for its end
    the run was told to stop, and nothing was done    the job ends with 3: the same time would bring no more;
                                                      of a preemption it is queued again
    a node of several does not answer any more        the job is queued again, where rows were finished

Of a sweep the script is that of a job array, whose index is the number of a cell; each of its tasks goes on by itself.

Everything a user gives is quoted, for the shell by `shlex` and for #SBATCH lines by their own rules.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from landscape.errors import InputError, nearest

LAUNCHERS = ("auto", "srun", "mpiexec")
FINISHED = "finished"  # file that says that a shell command has succeeded
_TRIED = ("pmix", "pmi2")  # process interfaces: Open MPI speaks the first, MPICH and its kin the second
_SHARE = 5  # a job is told to stop in the last fifth of its time, or later
# What the script depends on: a line for sbatch that says otherwise would change it without a word.
_NOT_BY_LINE: Mapping[str, str] = {
    "signal": "the ranks are told to stop ahead of the limit; give --signal-seconds",
    "array": "a sweep's cells that are not finished are its array; --array %N says how many run at once",
    "requeue": "give --requeue, an option of its own",
    "no-requeue": "give --no-requeue, an option of its own",
    "nodes": "give --nodes, an option of its own",
    "ntasks": "the ranks are --nodes times --ntasks-per-node; give those",
    "ntasks-per-node": "give --ntasks-per-node, an option of its own",
    "tasks-per-node": "give --ntasks-per-node, an option of its own",
    "cpus-per-task": "give --cpus-per-task, an option of its own",
    "dependency": "give --dependency, an option of its own",
    "output": "the log lies in the folder of the run, where `landscape status` finds it",
    "open-mode": "a job that is queued again goes on in its log",
}
_TIMES = ("time", "time-min")  # that are compared with what the engine does ahead of the limit
_LETTERS = {"a": "array", "c": "cpus-per-task", "d": "dependency", "n": "ntasks", "N": "nodes", "o": "output"}
_LETTERS |= {"t": "time"}
_SWITCHES = "HhkOQsuvVW"  # letters of options without a value, which others may follow in one word
_LONGEST_SIGNAL = 65535  # seconds, sbatch(1)
_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|INFINITE|UNLIMITED", re.IGNORECASE)
_MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)
_MPI_TYPE = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN = re.compile(r"[\w@%+=:,./-]+")  # what an #SBATCH line takes as it stands
_JOB_ID = re.compile(r"(\d+)(?:;(\S+))?")

# #SBATCH lines in their order: option and flag, and the variables of a user's shell that sbatch would rather obey.
_FLAGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "nodes": ("--nodes", ()),
    "ntasks_per_node": ("--ntasks-per-node", ()),
    "cpus_per_task": ("--cpus-per-task", ("SBATCH_CPUS_PER_TASK",)),
    "gpus_per_task": ("--gpus-per-task", ("SBATCH_GPUS_PER_TASK",)),
    "gres": ("--gres", ("SBATCH_GRES",)),
    "partition": ("--partition", ("SBATCH_PARTITION",)),
    "account": ("--account", ("SBATCH_ACCOUNT",)),
    "qos": ("--qos", ("SBATCH_QOS",)),
    "time": ("--time", ("SBATCH_TIMELIMIT",)),
    "mem": ("--mem", ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU")),
    "array": ("--array", ("SBATCH_ARRAY_INX",)),
    "dependency": ("--dependency", ()),
    "mail_type": ("--mail-type", ()),
    "mail_user": ("--mail-user", ()),
}
TIME_VARIABLE = "SBATCH_TIMELIMIT"  # of the shell: a layer of its own, for the lead is compared with it
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

# The traps come before all else, since a signal without one ends the shell.
_TRAPS = """\
trap 'told=yes; [ -z "$launcher" ] || kill -USR1 "$launcher"' USR1; told=; launcher=
trap : TERM  # Slurm tells the ranks by itself, and this shell waits for them
"""

_SAY = 'say() { echo "landscape: $*"; }'
_WHOLE = ("place=", 'work=(landscape run "$job")')
_CELL = (
    'place="$script.$SLURM_JOB_ID.place"  # where the run says which folder is its own',
    'work=(landscape run "$job" --cell "$SLURM_ARRAY_TASK_ID" --note-folder "$place")',
    'run="$run/cell $SLURM_ARRAY_TASK_ID"  # until it does',
)

_COMMAND = """\
say "job $SLURM_JOB_ID, restarted ${{SLURM_RESTART_COUNT:-0}} times, on $SLURM_JOB_NODELIST: $command"
rm -f -- "$run/{finished}"
( cd -- "$folder" || exit; set -e -o pipefail; eval "$command" ) </dev/null
code=$?
if [ "$code" = 0 ]; then
  echo {key} >"$run/.{finished}" && mv -- "$run/.{finished}" "$run/{finished}"
fi
exit "$code"
"""

_TRIAL = """\
# srun, where two ranks that it starts find each other; else the launcher of the MPI library
start=({mpiexec})
for mpi in {types}; do
  if timeout 300 srun --mpi="$mpi" --ntasks=2 {spread} --cpus-per-task=1 \\
    python3 -c 'from mpi4py import MPI; raise SystemExit(MPI.COMM_WORLD.size != 2)' </dev/null >/dev/null 2>&1
  then
    start=({srun})
    break
  fi
done
"""

_SURVIVORS = """\
# Open MPI 5 can let the other ranks go on when one dies: asked on this node alone, outside of the allocation
if [ "${start[0]}" = mpiexec ]; then
  for trial in 1 2 3; do
    if answer=$(env -u SLURM_JOBID -u SLURM_JOB_ID timeout 60 mpiexec --with-ft ulfm -n 1 true </dev/null 2>&1); then
      start=(mpiexec --with-ft ulfm "${start[@]:1}")
      break
    fi
  done
  [ "${start[1]}" = --with-ft ] || say "no rank outlives another, mpiexec --with-ft ulfm failed: ${answer:0:500}"
fi
"""

_RUN = """\
began="$script.$SLURM_JOB_ID.began"
touch -- "$began"
say "job $self, restarted ${SLURM_RESTART_COUNT:-0} times, on $SLURM_JOB_NODELIST: ${start[*]} ${work[*]::2}"
code=3
if [ -z "$told" ]; then
  "${start[@]}" "${work[@]}" </dev/null &
  launcher=$!
  [ -z "$told" ] || kill -USR1 "$launcher"  # it came between these lines
fi
running() { [ -n "$launcher" ] && kill -0 "$launcher" 2>/dev/null; }
while [ -z "$told" ] && running; do wait "$launcher"; done  # which a signal ends early
for ((second = 0; second < patience; second++)); do
  running || break
  sleep 1
done
if [ -n "$launcher" ] && ! running; then
  wait "$launcher"
  code=$?
fi
if [ -n "$place" ]; then
  [ ! -s "$place" ] || run=$(<"$place")
  rm -f -- "$place"
fi
if [ "$code" = 0 ] && [ ! -e "$run/landscape.h5" ]; then  # srun ends with 0 where it could not start a rank
  say "the launcher ended without an error, but there is no $run/landscape.h5"
  code=1
fi

if [ -z "$told" ] && [[ $code != [0234] ]] && ((SLURM_NNODES > 1)) && ! timeout 120 srun --ntasks-per-node=1 true; then
  say "a node does not answer any more"
  told=lost
fi

# of a job that is cancelled or fails by itself this shell is not told: it stays ended
new=
if [ -n "$told" ] && [[ $code != [024] ]]; then
  code=3
  known=  # is there before anything is finished
  for name in attempts hands submitted run.json cell.json failure.json; do known+="${known:+ -o }-name $name"; done
  new=$(cd -- "$run" 2>/dev/null && find . \\( $known \\) -prune -o -newer "$began" -type f -print)
  if [ -z "$new" ] && scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'; then
    new=preempted  # it had no chance
  fi
  [ -n "$new" ] || say "stopped before anything was finished: the same time again brings no more; give a longer --time"
fi
rm -f -- "$began"
[ -n "$new" ] || exit "$code"

if [ -n "$requeue" ] && scontrol requeue "$self"; then
  say "work is left: job $self is queued again"
elif next=$(
  sbatch --parsable --dependency=afterany:"$self" ${SLURM_ARRAY_TASK_ID:+--array="$SLURM_ARRAY_TASK_ID"} "$script"
); then
  say "work is left: job ${next%%;*} goes on when this one has ended"
  if [ -z "$SLURM_ARRAY_TASK_ID" ]; then  # for `landscape status`
    printf '{"job_id": "%s", "cluster": null}\n' "${next%%;*}" >"${script%.sh}.${next%%;*}.json"
  fi
else
  say "work is left, and nothing goes on with it; do so with: landscape submit $job"
fi
exit "$code"
"""


@dataclass(frozen=True)
class Options:
    """What is asked of Slurm, and how the ranks are started; names are those of the command line, `-` for `_`.

    Raises InputError where values cannot stand together.
    """

    nodes: int = 1
    ntasks_per_node: int = 1  # ranks
    cpus_per_task: int = 1  # threads of a rank
    gpus_per_task: int | None = None  # 0 or None: none asked for this way
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # minutes, or [days-]hours:minutes:seconds
    mem: str | None = None  # of a node
    array: str | None = None
    dependency: str | None = None
    requeue: bool = True
    mail_type: str | None = None
    mail_user: str | None = None
    module: tuple[str, ...] = ()  # loaded in this order
    environment: str | None = None  # folder of a virtual or conda environment, or a file to source
    sbatch: tuple[str, ...] = ()  # more #SBATCH lines, which win over the others
    launcher: str = "auto"
    mpi: str | None = None  # process interface of srun; by default found out
    survivors: bool = True  # the other ranks go on when one dies, where mpiexec starts them and can
    signal_seconds: int | None = None  # from SIGUSR1 to the time limit; by default 120, at most a fifth of the limit

    def __post_init__(self) -> None:
        for name, _ in _told_by_line(self.sbatch):
            if name in _NOT_BY_LINE:
                raise InputError(
                    f"sbatch = {list(self.sbatch)} gives --{name}, which the script of a job relies on: "
                    f"{_NOT_BY_LINE[name]}"
                )
        limit = self.time_limit
        if limit is not None and self.signal_seconds is not None and self.signal_seconds > limit / _SHARE:
            raise InputError(
                f"signal-seconds = {self.signal_seconds} are more than a fifth of the time limit of {limit} s, and a "
                "job that is told to stop so early computes little or nothing; give at most "
                f"{max(1, limit // _SHARE)}, leave it out, or ask for a longer time"
            )
        if self.launcher == "mpiexec" and self.mpi is not None:
            raise InputError(
                f"mpi = {self.mpi!r} is for srun, and launcher = 'mpiexec' does without srun; leave one of the two out"
            )

    @property
    def time_limit(self) -> int | None:
        """Seconds that the job may take, None where nothing says: the last of `sbatch`, which wins, else `time`.

        Where a line for sbatch says --time-min, down to which Slurm may lower the limit, that is what counts.
        """
        lines = dict(_told_by_line(self.sbatch))
        limit, least = _seconds(lines.get("time", self.time or "")), _seconds(lines.get("time-min", ""))
        return limit if least is None else least if limit is None else min(limit, least)

    @property
    def lead(self) -> int:
        """Seconds between SIGUSR1 and the time limit."""
        if self.signal_seconds is not None:
            return self.signal_seconds
        return 120 if self.time_limit is None else min(120, max(1, self.time_limit // _SHARE))

    @property
    def ranks(self) -> int:
        """Ranks of all nodes together."""
        return self.nodes * self.ntasks_per_node


@dataclass(frozen=True)
class Places:
    """Absolute paths of a submission, and the job's name in the queue. Raises InputError for what Slurm cannot name."""

    name: str
    run: Path  # the run folder
    job: Path  # the job file as it was when submitted
    script: Path
    log: Path

    def __post_init__(self) -> None:
        for path in (self.run, self.job, self.script, self.log):
            if _has_control(str(path)) or "\\" in str(path):
                raise InputError(
                    f"run.out leads to {str(path)!r}: a path with a backslash, a line break or another control "
                    "character cannot stand in a batch script; name another run folder"
                )


def option_names() -> tuple[str, ...]:
    """Names of the options as they are typed, without the leading dashes."""
    return tuple(field.name.replace("_", "-") for field in fields(Options))


def checked(name: str, value: Any, source: str) -> Any:
    """The value of the option `name` (as it is typed) in the form `Options` holds it.

    `source` is where it was given, for the message. An empty text, as in `--gres ""`, is None: it takes back what a
    site profile gives. Raises InputError for an unknown name, with the nearest ones and all of them, and for a value
    of the wrong kind or out of range.
    """
    kinds = get_type_hints(Options)
    field = name.replace("-", "_")
    if field not in kinds or "_" in name:
        raise InputError(f"{source}: {unknown_option(name)}")
    kind = kinds[field]
    allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if bool in allowed:
        return _require(value, type(value) is bool, "true or false", name, source)
    if int in allowed:
        low = 0 if name == "gpus-per-task" else 1
        high = _LONGEST_SIGNAL if name == "signal-seconds" else None
        _require(value, type(value) is int, "a whole number", name, source)
        in_range = low <= value and (high is None or value <= high)
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        return _require(value, in_range, wanted, name, source)
    if str not in allowed:
        listed = [value] if isinstance(value, str) else value
        _require(value, isinstance(listed, (list, tuple)), "a text or a list of texts", name, source)
        return tuple(_text(name, entry, source) for entry in listed)
    return _text(name, value, source) or None


def unknown_option(name: str) -> str:
    """Advice on the option `name`, which there is not: the nearest that there are, and all of them."""
    advice = nearest(name, option_names())
    valid = "" if advice.startswith("known") else f" Known: {', '.join(sorted(option_names()))}"
    return f"there is no option {name!r}; {advice}{valid}"


def batch_script(options: Options, places: Places, *, cells: bool = False) -> str:
    """The text that sbatch takes: #SBATCH lines, then bash.

    With `cells` the job file is a sweep, and the script is for a task of an array, which runs the cell of its index.

    The launcher is chosen when the job starts, with its modules and environment in place: `srun --mpi=TYPE` is taken
    where two ranks that it starts find each other through the MPI library that mpi4py finds, else mpiexec. What `srun
    --mpi=list` says is not asked: it lists plugins that cannot be loaded, and knows nothing of the MPI library.

    Source: sbatch(1), srun(1), scontrol(1) of Slurm 22.05.
    """
    signal = f"#SBATCH --signal=B:USR1@{options.lead}"
    return "\n".join(
        (
            "#!/bin/bash",
            *_directives(options, places, signal),
            _TRAPS,
            *_paths(options, places),
            "",
            *_environment(options),
            *(_CELL if cells else _WHOLE),
            "",
            _launcher(options),
            *((_SURVIVORS,) if options.survivors and options.ranks > 1 and options.launcher != "srun" else ()),
            _RUN,
        )
    )


def command_script(options: Options, places: Places, command: str, folder: Path, key: str) -> str:
    """The text that sbatch takes for a shell command, which is started once, in `folder`, and ends at its first error.

    Once it has succeeded, the file "finished" in its run folder holds `key`.
    """
    return "\n".join(
        (
            "#!/bin/bash",
            *_directives(options, places),
            _SAY,
            f"run={shlex.quote(str(places.run))}",
            f"folder={shlex.quote(str(folder))}",
            f"command={shlex.quote(command)}",
            "",
            *_environment(options),
            _COMMAND.format(finished=FINISHED, key=shlex.quote(key)),
        )
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
    stated = {name for field, (_, names) in _FLAGS.items() if _given(options, field) for name in names}
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


def sbatch_quoted(value: str) -> str:
    """`value` as one word of an #SBATCH line, where spaces need quotes, and quotes and backslashes a backslash.

    >>> print(sbatch_quoted("02:00:00"), sbatch_quoted("Ada's \\"runs\\" #1"))
    02:00:00 "Ada's \\"runs\\" #1"
    """
    return value if _PLAIN.fullmatch(value) else '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))


def _require(value: Any, holds: bool, wanted: str, name: str, source: str) -> Any:
    if not holds:
        raise InputError(f"{source}: {name} = {value!r} is not {wanted}")
    return value


def _text(name: str, value: Any, source: str) -> str:
    """A text, checked as far as its form tells; names of partitions and the like are Slurm's to know."""
    _require(value, isinstance(value, str), "a text", name, source)
    text: str = value.strip()
    _require(value, not _has_control(text), "free of line breaks and other control characters", name, source)
    if not text:
        return ""
    if name == "time":
        _require(value, bool(_TIME.fullmatch(text)), "minutes, or [days-]hours:minutes:seconds", name, source)
    if name == "mem":
        _require(value, bool(_MEMORY.fullmatch(text)), "a number with K, M, G or T, as in 16G", name, source)
    if name == "mpi":
        _require(value, bool(_MPI_TYPE.fullmatch(text)), "the name of an MPI type, as pmix or pmi2", name, source)
    if name == "launcher":
        _require(value, text in LAUNCHERS, f"one of {', '.join(LAUNCHERS)}", name, source)
    if name == "sbatch":
        text = re.sub(r"^#SBATCH\s+", "", text)
        _require(value, text.startswith("-"), "an option of sbatch, as in --exclusive", name, source)
    return text


def _seconds(time: str) -> int | None:
    """Seconds of a time limit as sbatch reads it; None for none, and for what is no such limit.

    >>> [_seconds(text) for text in ("1", "1:30", "2:00:00", "1-0", "1-0:30", "UNLIMITED", "0")]
    [60, 90, 7200, 86400, 88200, None, None]
    """
    days, dash, rest = time.partition("-") if "-" in time else ("0", "", time)
    parts = rest.split(":")
    if not days.isdecimal() or len(parts) > 3 or not all(part.isdecimal() for part in parts):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, *(*numbers, 0)[:2]
    return (86400 * int(days) + 3600 * hours + 60 * minutes + seconds) or None


def _told_by_line(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, value) of lines for sbatch, as far as known here; each may hold several, or the beginnings of names.

    >>> list(_told_by_line(["--exclusive -t 5 --sig=USR1@9", "-Ha1-3 --time-min '1:00' # --array=3"]))
    [('time', '5'), ('signal', 'USR1@9'), ('array', '1-3'), ('time-min', '1:00')]
    """
    known = (*_NOT_BY_LINE, *_TIMES)
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InputError(f"sbatch = {line!r} is no line that sbatch can read: {error}") from error
        for word, after in zip(words, [*words[1:], ""], strict=True):
            if word.startswith("--"):
                given, stated, value = word[2:].partition("=")
                found = [given] if given in known else [name for name in known if given and name.startswith(given)]
                if len(found) == 1:
                    yield found[0], value if stated else after
            elif word.startswith("-"):
                letters = word[1:].lstrip(_SWITCHES)
                if letters[:1] in _LETTERS:
                    yield _LETTERS[letters[0]], letters[1:].removeprefix("=") or after


def _has_control(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _given(options: Options, field: str) -> bool:
    return getattr(options, field) not in (None, 0)


def _directives(options: Options, places: Places, *more: str) -> Iterator[str]:
    # `%` stands for a job's numbers in a log's name, and is doubled to mean itself; a requeued job goes on in its log
    log = str(places.log).replace("%", "%%")
    if options.array:
        log = f"{log.removesuffix('.log')}-%a.log"
    yield f"#SBATCH --job-name={sbatch_quoted(places.name)}"
    yield f"#SBATCH --output={sbatch_quoted(log)}"
    yield "#SBATCH --open-mode=append"
    for field, (flag, _) in _FLAGS.items():
        if _given(options, field):
            yield f"#SBATCH {flag}={sbatch_quoted(str(getattr(options, field)))}"
    yield from more
    yield "#SBATCH --requeue" if options.requeue else "#SBATCH --no-requeue"
    for line in options.sbatch:
        yield f"#SBATCH {line}"


def _paths(options: Options, places: Places) -> Iterator[str]:
    yield _SAY
    yield ""
    yield f"script={shlex.quote(str(places.script))}"
    yield f"job={shlex.quote(str(places.job))}"
    yield f"run={shlex.quote(str(places.run))}"
    yield f"patience={max(1, 3 * options.lead // 4)}  # seconds to finish items in, once told to stop"
    yield f"requeue={'yes' if options.requeue else ''}"
    # the number of the array with the index: the number of one of its tasks alone is also that of the whole array
    yield "self=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"


def _environment(options: Options) -> Iterator[str]:
    if options.module:
        yield "type module >/dev/null 2>&1 || . /etc/profile"
        yield f"for module in {shlex.join(options.module)}; do"
        yield '  module load "$module" || { say "module $module cannot be loaded"; exit 2; }'
        yield "done"
    if options.environment:
        yield f"environment={shlex.quote(options.environment)}"
        yield 'if [ -d "$environment" ]; then export PATH="$environment/bin:$PATH"; else . "$environment" || exit 2; fi'
    yield 'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"'


def _launcher(options: Options) -> str:
    """The array `start`: the words before the run's own."""
    # --wait ends the survivors of a rank that died; ranks that end together keep their exit codes, which
    # --kill-on-bad-exit would replace by its own. Since 22.05 srun does not take --cpus-per-task from sbatch.
    srun = 'srun {mpi}--kill-on-bad-exit=0 --wait=30 --cpus-per-task="$OMP_NUM_THREADS"'
    # mpiexec by itself would bind all threads of a rank to one core
    mpiexec = f"mpiexec -n {options.ranks} --bind-to none"
    if options.ranks == 1:
        return "start=()\n"
    if options.launcher == "mpiexec":
        return f"start=({mpiexec})\n"
    if options.launcher == "srun":
        return f"start=({srun.format(mpi=f'--mpi={options.mpi} ' if options.mpi else '')})\n"
    return _TRIAL.format(
        mpiexec=mpiexec,
        srun=srun.format(mpi='--mpi="$mpi" '),
        types=options.mpi or " ".join(_TRIED),
        spread="--nodes=2 --ntasks-per-node=1" if options.nodes > 1 else "--nodes=1 --ntasks-per-node=2",
    )
