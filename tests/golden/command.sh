#!/bin/bash
#SBATCH --job-name=resnet20
#SBATCH --output=/home/ada/runs/resnet20/submitted/001.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-task=1
#SBATCH --requeue
say() { echo "landscape: $*"; }
run=/home/ada/runs/resnet20
folder='/home/it'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é'
command='python train.py --note '"'"'it'"'"'"'"'"'"'"'"'s a "run" %j #1 $(touch injected) `touch injected` ; & é'"'"'
cp a.pt b.pt'

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
say "job $SLURM_JOB_ID, restarted ${SLURM_RESTART_COUNT:-0} times, on $SLURM_JOB_NODELIST: $command"
rm -f -- "$run/finished"
( cd -- "$folder" || exit; set -e -o pipefail; eval "$command" ) </dev/null
code=$?
if [ "$code" = 0 ]; then
  echo 0123abcd >"$run/.finished" && mv -- "$run/.finished" "$run/finished"
fi
exit "$code"
