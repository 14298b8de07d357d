"""What a user may ask of Slurm: options, checked one by one and together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, get_args, get_type_hints

from landscape.errors import InputError, nearest

LAUNCHERS = ("auto", "srun", "mpiexec")
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

# #SBATCH lines in their order: option and flag, and the variables of a user's shell that sbatch would rather obey.
FLAGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
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


def given(options: Options, field: str) -> bool:
    """Whether the option `field` is asked for; 0 asks for nothing."""
    return getattr(options, field) not in (None, 0)


def has_control(text: str) -> bool:
    """Whether `text` has a line break or another control character."""
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _require(value: Any, holds: bool, wanted: str, name: str, source: str) -> Any:
    if not holds:
        raise InputError(f"{source}: {name} = {value!r} is not {wanted}")
    return value


def _text(name: str, value: Any, source: str) -> str:
    """A text, checked as far as its form tells; names of partitions and the like are Slurm's to know."""
    _require(value, isinstance(value, str), "a text", name, source)
    text: str = value.strip()
    _require(value, not has_control(text), "free of line breaks and other control characters", name, source)
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
