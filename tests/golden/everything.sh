#!/bin/bash
#SBATCH --job-name=resnet20
#SBATCH --output=/home/ada/runs/resnet20/submitted/001-%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gpus-per-task=1
#SBATCH --gres=gpu:a100:8
#SBATCH --partition=gpu
#SBATCH --account="deep thought"
#SBATCH --qos=long
#SBATCH --time=1-12:00:00
#SBATCH --mem=200G
#SBATCH --array=0-9%2
#SBATCH --dependency=afterok:17
#SBATCH --mail-type=END,FAIL
#SBATCH --mail-user=ada@example.org
#SBATCH --signal=B:USR1@300
#SBATCH --no-requeue
#SBATCH --exclusive
#SBATCH --comment="to be read"
trap 'told=yes; [ -z "$launcher" ] || kill -USR1 "$launcher"' USR1; told=; launcher=
trap : TERM  # Slurm tells the ranks by itself, and this shell waits for them

say() { echo "landscape: $*"; }

script=/home/ada/runs/resnet20/submitted/001.sh
job=/home/ada/runs/resnet20/submitted/001.toml
run=/home/ada/runs/resnet20
patience=225  # seconds to finish items in, once told to stop
requeue=
self=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

type module >/dev/null 2>&1 || . /etc/profile
for module in gcc/13 'openmpi/5.0 (site'"'"'s)'; do
  module load "$module" || { say "module $module cannot be loaded"; exit 2; }
done
environment='/home/ada/my env'
if [ -d "$environment" ]; then export PATH="$environment/bin:$PATH"; else . "$environment" || exit 2; fi
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
place=
work=(landscape run "$job")

start=(srun --mpi=pmix_v5 --kill-on-bad-exit=0 --wait=30 --cpus-per-task="$OMP_NUM_THREADS")

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
