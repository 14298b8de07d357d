#!/bin/bash
# A real Slurm on this machine alone, for tests: a controller and several virtual nodes, no systemd, loopback only.
#
#   tests/slurm_up.sh up DIR [NODES=2] [CPUS_PER_NODE=2]    prints what to export; DIR holds its state and logs
#   tests/slurm_up.sh down DIR                              cancels its jobs and ends its daemons
#   tests/slurm_up.sh install                               gets Debian's packages, where they are missing
#
# Needs root.
# SLURM_TEST_PORT (6900) is the first of the ports used: the controller's, then one for each node.
# Partitions: low (default), whose jobs are requeued to make room for those of high.
set -euo pipefail

say() { echo "slurm_up.sh: $*" >&2; }

# libpmix-dev: srun's plugin opens the library by the name without a version, which is in no other package
PACKAGES=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmix2 libpmix-dev)

install_packages() {
  dpkg-query -W "${PACKAGES[@]}" >/dev/null 2>&1 && return
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${PACKAGES[@]}" >&2
}

start_munge() {
  munge -n >/dev/null 2>&1 && return  # somebody else's, left alone
  if [ ! -e /etc/munge/munge.key ]; then
    install -m 600 /dev/null /etc/munge/munge.key
    head -c 1024 /dev/urandom >/etc/munge/munge.key
    chown munge:munge /etc/munge/munge.key
  fi
  install -d -o munge -g munge /run/munge
  runuser -u munge -- munged
  cp /run/munge/munged.pid "$1/munged.pid"
}

write_configuration() {
  local folder=$1 nodes=$2 cpus=$3 host port=${SLURM_TEST_PORT:-6900} memory
  host=$(hostname -s)
  memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  grep -qw -- "$host" /etc/hosts || echo "127.0.0.1 $host" >>/etc/hosts
  # TmpFS of its own for each virtual node: PMIx servers of two nodes on one host would meet in one path.
  cat >"$folder/slurm.conf" <<EOF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
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
SlurmctldTimeout=30
SlurmdTimeout=30
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] \
CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
}

up() {
  local folder nodes=${2:-2} cpus=${3:-2}
  folder=$(realpath -m -- "$1")
  mkdir -p "$folder/state"
  start_munge "$folder"
  write_configuration "$folder" "$nodes" "$cpus"
  export SLURM_CONF=$folder/slurm.conf
  slurmctld
  for node in $(seq "$nodes"); do
    mkdir -p "$folder/spool.n$node" "$folder/tmp.n$node"
    slurmd -N "n$node"
  done
  for _ in $(seq 300); do
    if [ "$(sinfo -h -p low -o '%t %D' 2>/dev/null)" = "idle $nodes" ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.1
  done
  say "the nodes are not idle after 30 s; see $folder/slurmctld.log"
  sinfo >&2 || true
  return 1
}

down() {
  local folder
  folder=$(realpath -- "$1")
  export SLURM_CONF=$folder/slurm.conf
  timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
  for _ in $(seq 50); do
    [ -z "$(timeout 10 squeue -h 2>/dev/null)" ] && break
    sleep 0.1
  done
  for file in "$folder"/slurmd.*.pid "$folder/slurmctld.pid" "$folder/munged.pid"; do
    [ -e "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
}

case ${1:-} in
  install) install_packages ;;
  up | down) "$@" ;;
  *) say "say install, up DIR [NODES] [CPUS_PER_NODE], or down DIR" && exit 2 ;;
esac
