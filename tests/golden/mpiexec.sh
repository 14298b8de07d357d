#!/bin/bash
#SBATCH --job-name=resnet20
#SBATCH --output=/home/ada/runs/resnet20/submitted/001.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=16
#SBATCH --cpus-per-task=2
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
trap 'told=yes; [ -z "$launcher" ] || kill -USR1 "$launcher"' USR1; told=; launcher=
trap : TERM  # Slurm tells the ranks by itself, and this shell waits for them

say() { echo "landscape: $*"; }

script=/home/ada/runs/resnet20/submitted/001.sh
job=/home/ada/runs/resnet20/submitted/001.toml
run=/home/ada/runs/resnet20
patience=90  # seconds to finish items in, once told to stop
requeue=yes
self=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
place=
work=(landscape run "$job")

start=(mpiexec -n 16 --bind-to none)

# Open MPI does not start where one of the same process number left its folder, as it does when it is killed
if [ "${start[0]}" = mpiexec ] && [ -z "$PRTE_MCA_prte_tmpdir_base" ]; then
  export PRTE_MCA_prte_tmpdir_base="${TMPDIR:-/tmp}/landscape.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
  trap 'rm -rf -- "$PRTE_MCA_prte_tmpdir_base"' EXIT
fi

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
  new=$(cd -- "$run" 2>/dev/null && find . \( $known \) -prune -o -newer "$began" -type f -print)
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
    printf '{"job_id": "%s", "cluster": null}
' "${next%%;*}" >"${script%.sh}.${next%%;*}.json"
  fi
else
  say "work is left, and nothing goes on with it; do so with: landscape submit $job"
fi
exit "$code"
