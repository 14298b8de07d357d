"""Where a result comes from: versions, machine, command, revision."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "numpy", "scipy", "h5py", "mpi4py")


@functools.cache
def engine_version() -> str:
    """Version of this distribution, "unknown" when it runs from sources that were never installed."""
    try:
        return importlib.metadata.version("loss-landscape-engine")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def time_now() -> str:
    """UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def attempt_record(ranks: int) -> dict[str, Any]:
    """Who runs, where and with what, in plain values."""
    torch = sys.modules.get("torch")  # a task that does without it need not wait for it to load
    return {
        "started": time_now(),
        "ranks": ranks,
        "threads": torch.get_num_threads() if torch else 1,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "command": shlex.join(sys.argv),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "engine": engine_version(),
        "git": git_revision(Path.cwd()),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        **_slurm(os.environ),
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "",
    }


def _slurm(variables: Mapping[str, str]) -> dict[str, Any]:
    """The job of Slurm that this is part of, under the name `slurm`; nothing outside any."""
    if "SLURM_JOB_ID" not in variables:
        return {}
    job: dict[str, Any] = {
        "job": variables.get("SLURM_ARRAY_JOB_ID", variables["SLURM_JOB_ID"]),
        "restart": int(variables.get("SLURM_RESTART_COUNT", 0)),
    }
    if "SLURM_ARRAY_TASK_ID" in variables:
        job["array_task"] = variables["SLURM_ARRAY_TASK_ID"]
    return {"slurm": job}


@functools.cache
def git_revision(folder: Path) -> str:
    """Commit of the checkout around `folder`, with "+changes" when files differ from it; "" outside any checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


@functools.cache  # a look through the installed files, milliseconds each
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
