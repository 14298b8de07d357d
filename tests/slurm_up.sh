#!/bin/bash
# A real Slurm on this machine alone, for tests: a controller and several virtual nodes, no systemd, loopback only.
#
#   tests/slurm_up.sh install [PACKAGE...]                  gets Debian's packages, and others named, where missing
#   tests/slurm_up.sh up DIR [NODES=2] [CPUS_PER_NODE=2]    brings it up, and says what to export
#   tests/slurm_up.sh down DIR                              cancels its jobs and ends its processes
#   tests/slurm_up.sh hold DIR [NODES=2] [CPUS_PER_NODE=2]  up, and down when standard input ends, as it does however
#                                                           the caller ends
#   tests/slurm_up.sh node DIR NAME                         starts a node's daemon again
#
# DIR is new, and holds the state, the logs and the munge of this Slurm, so that several can run at once. Needs root.
# SLURM_TEST_PORT (6900) is the first of the ports used: the controller's, then one for each node.
# Partitions: low (default), whose jobs are requeued to make room for those of high.
set -euo pipefail

say() { echo "slurm_up.sh: $*" >&2; }

# libpmix-dev: srun's plugin opens the library by the name without a version, which is in no other package
PACKAGES=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmix2 libpmix-dev)

install_packages() {
  PACKAGES+=("$@")
  exec 9<"$0" && flock 9  # one at a time
  dpkg-query -W "${PACKAGES[@]}" >/dev/null 2>&1 && return
  get_packages || { apt-get update >&2 && get_packages; }  # lists of packages may be missing or old
}

get_packages() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends \
    "${PACKAGES[@]}" >&2
}

start_munge() {
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  # --force: a folder that only root may enter is no place for a socket, says munge; here only root needs it
  munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>>"$folder/munged.log"
}

write_configuration() {
  local nodes=$1 cpus=$2 host port=${SLURM_TEST_PORT:-6900} memory
  host=$(hostname -s)
  memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  grep -qw -- "$host" /etc/hosts || echo "127.0.0.1 $host" >>/etc/hosts
  # TmpFS of its own for each virtual node: PMIx servers of two nodes on one host would meet in one path.
  # Times are such that a daemon which waits for a processor on a crowded machine is not taken for one that is gone.
  cat >"$folder/slurm.conf" <<EOF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
TmpFS=$folder/tmp.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.txt
JobRequeue=1
KillWait=5
ReturnToService=2
SlurmctldTimeout=120
SlurmdTimeout=120
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=120
UnkillableStepTimeout=240
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] \
CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
}

up() {
  local nodes=${2:-2} cpus=${3:-2} node
  name_folder "$1"
  mkdir -p "$folder/state"
  write_configuration "$nodes" "$cpus"
  start_munge
  slurmctld
  for node in $(seq "$nodes"); do
    mkdir -p "$folder/spool.n$node" "$folder/tmp.n$node"
    slurmd -N "n$node"
  done
  for _ in $(seq 1200); do
    if [ "$(sinfo -h -p low -o '%t %D' 2>/dev/null)" = "idle $nodes" ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.1
  done
  say "the nodes are not idle after two minutes; see $folder/slurmctld.log"
  sinfo >&2 || true
  return 1
}

# The processes of this Slurm: its daemons, the steps of its jobs, and what these started.
ours() {
  local file
  for file in $(env -u SLURM_CONF grep -lsFxz "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ); do
    file=${file%/environ}
    case $(cat "$file/comm" 2>/dev/null) in
      slurmctld | slurmd | slurmstepd | munged) ;;
      *) grep -qsz '^SLURM_JOB_ID=' "$file/environ" || continue ;;  # a shell that was told of this Slurm, and its like
    esac
    echo "${file#/proc/}"
  done
}

down() {
  local patience
  name_folder "$1"
  timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
  for ((patience = 50; patience; patience--)); do
    [ -z "$(timeout 10 squeue -h 2>/dev/null)" ] && break
    sleep 0.1
  done
  kill $(cat "$folder"/slurmd.*.pid "$folder/slurmctld.pid" "$folder/munged.pid" 2>/dev/null) 2>/dev/null || true
  for ((patience = 30; patience; patience--)); do
    [ -n "$(ours)" ] || return 0
    sleep 0.1
  done
  kill -9 $(ours) 2>/dev/null || true
}

hold() {
  trap '' INT  # the end of the caller is the end of its standard input
  trap "down ${1@Q}" EXIT
  up "$@"
  cat >/dev/null
}

node() {
  name_folder "$1"
  slurmd -N "$2"
}

name_folder() {
  folder=$(realpath -m -- "$1")
  export SLURM_CONF=$folder/slurm.conf
}

case ${1:-} in
  install) install_packages "${@:2}" ;;
  up | down | hold | node) "$@" ;;
  *) say "say install [PACKAGE...], up or hold DIR [NODES] [CPUS_PER_NODE], down DIR, or node DIR NAME" && exit 2 ;;
esac
