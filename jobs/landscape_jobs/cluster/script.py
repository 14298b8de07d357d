"""The batch script of a job, as text. Nothing here touches a file or starts a program.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from landscape.errors import InputError
from landscape_jobs.cluster.options import FLAGS, Options, given, has_control

FINISHED = "finished"  # file that says that a shell command has succeeded
_TRIED = ("pmix", "pmi2")  # process interfaces: Open MPI speaks the first, MPICH and its kin the second
_PLAIN = re.compile(r"[\w@%+=:,./-]+")  # what an #SBATCH line takes as it stands

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

_SESSIONS = """\
# Open MPI does not start where one of the same process number left its folder, as it does when it is killed
if [ "${start[0]}" = mpiexec ] && [ -z "$PRTE_MCA_prte_tmpdir_base" ]; then
  export PRTE_MCA_prte_tmpdir_base="${TMPDIR:-/tmp}/landscape.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
  trap 'rm -rf -- "$PRTE_MCA_prte_tmpdir_base"' EXIT
fi
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
class Places:
    """Absolute paths of a submission, and the job's name in the queue. Raises InputError for what Slurm cannot name."""

    name: str
    run: Path  # the run folder
    job: Path  # the job file as it was when submitted
    script: Path
    log: Path

    def __post_init__(self) -> None:
        for path in (self.run, self.job, self.script, self.log):
            if has_control(str(path)) or "\\" in str(path):
                raise InputError(
                    f"run.out leads to {str(path)!r}: a path with a backslash, a line break or another control "
                    "character cannot stand in a batch script; name another run folder"
                )


def batch_script(options: Options, places: Places, *, cells: bool = False) -> str:
    """The text that sbatch takes: #SBATCH lines, then bash.

    With `cells` the job file is a sweep, and the script is for a task of an array, which runs the cell of its index.

    The launcher is chosen when the job starts, with its modules and environment in place: `srun --mpi=TYPE` is taken
    where two ranks that it starts find each other through the MPI library that mpi4py finds, else mpiexec. What `srun
    --mpi=list` says is not asked: it lists plugins that cannot be loaded, and knows nothing of the MPI library.

    Source: sbatch(1), srun(1), scontrol(1) of Slurm 22.05.
    """
    signal = f"#SBATCH --signal=B:USR1@{options.lead}"
    mpiexec = options.ranks > 1 and options.launcher != "srun"  # may be what starts the ranks
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
            *((_SESSIONS,) if mpiexec else ()),
            *((_SURVIVORS,) if mpiexec and options.survivors else ()),
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


def sbatch_quoted(value: str) -> str:
    """`value` as one word of an #SBATCH line, where spaces need quotes, and quotes and backslashes a backslash.

    >>> print(sbatch_quoted("02:00:00"), sbatch_quoted("Ada's \\"runs\\" #1"))
    02:00:00 "Ada's \\"runs\\" #1"
    """
    return value if _PLAIN.fullmatch(value) else '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))


def _directives(options: Options, places: Places, *more: str) -> Iterator[str]:
    # `%` stands for a job's numbers in a log's name, and is doubled to mean itself; a requeued job goes on in its log
    log = str(places.log).replace("%", "%%")
    if options.array:
        log = f"{log.removesuffix('.log')}-%a.log"
    yield f"#SBATCH --job-name={sbatch_quoted(places.name)}"
    yield f"#SBATCH --output={sbatch_quoted(log)}"
    yield "#SBATCH --open-mode=append"
    for field, (flag, _) in FLAGS.items():
        if given(options, field):
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
