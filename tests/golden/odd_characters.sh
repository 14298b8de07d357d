#!/bin/bash
#SBATCH --job-name="it's a \"run\" %j #1 $(touch injected) `touch injected` ; & é"
#SBATCH --output="/home/ada/it's a \"run\" %%j #1 $(touch injected) `touch injected` ; & é/submitted/001.log"
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --account="it's a \"run\" %j #1 $(touch injected) `touch injected` ; & é"
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
trap 'told=yes; [ -z "$launcher" ] || kill -USR1 "$launcher"' USR1; told=; launcher=
trap : TERM  # Slurm tells the ranks by itself, and this shell waits for them

say() { echo "landscape: $*"; }

script='/home/ada/it'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é/submitted/001.sh'
job='/home/ada/it'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é/submitted/001.toml'
run='/home/ada/it'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é'
patience=90  # seconds to finish items in, once told to stop
requeue=yes

type module >/dev/null 2>&1 || . /etc/profile
for module in 'it'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é'; do
  module load "$module" || { say "module $module cannot be loaded"; exit 2; }
done
environment='/home/it'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é'
if [ -d "$environment" ]; then export PATH="$environment/bin:$PATH"; else . "$environment" || exit 2; fi
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

start=()

began="$script.$SLURM_JOB_ID.began"
touch -- "$began"
say "job $SLURM_JOB_ID, restarted ${SLURM_RESTART_COUNT:-0} times, on $SLURM_JOB_NODELIST: ${start[*]} landscape run"
code=3
if [ -z "$told" ]; then
  "${start[@]}" landscape run "$job" </dev/null &
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
if [ "$code" = 0 ] && [ ! -e "$run/landscape.h5" ]; then  # srun ends with 0 where it could not start a rank
  say "the launcher ended without an error, but there is no $run/landscape.h5"
  code=1
fi

# of a job that is cancelled or fails by itself this shell is not told: it stays ended
new=
if [ -n "$told" ] && [ "$code" != 0 ] && [ "$code" != 2 ]; then
  code=3
  known='-name attempts -o -name submitted -o -name run.json'  # which are there before anything is finished
  new=$(cd -- "$run" && find . \( $known \) -prune -o -newer "$began" -type f -print)
  [ -n "$new" ] || say "stopped before anything was finished: the same time again brings no more; give a longer --time"
fi
rm -f -- "$began"
[ -n "$new" ] || exit "$code"

if [ -n "$requeue" ] && scontrol requeue "$SLURM_JOB_ID"; then
  say "work is left: job $SLURM_JOB_ID is queued again"
elif sbatch --dependency=afterany:"$SLURM_JOB_ID" ${SLURM_ARRAY_TASK_ID:+--array="$SLURM_ARRAY_TASK_ID"} "$script"; then
  say "work is left: the job above goes on when this one has ended"
else
  say "work is left, and nothing goes on with it; do so with: landscape submit $job"
fi
exit "$code"
