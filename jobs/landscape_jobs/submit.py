"""`landscape submit`: a job file, checked and kept as it is now, as a batch job of Slurm.

A run folder keeps what was submitted, so that a job in the queue is not changed by later edits of its file:

    submitted/001.toml   the job, overrides applied and its folder stated
    submitted/001.sh     the batch script
    submitted/001.json   the number sbatch gave it, and the cluster where there are several
    submitted/001.log    what it writes; with an array 001-INDEX.log
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.errors import InputError, StoreError
from landscape.files import create_durably, write_durably
from landscape_jobs.site import options_for, profiles, read_profile
from landscape_jobs.slurm import Options, Places, batch_script, job_id, refusal, sbatch_environment
from landscape_jobs.spec import Job, load_job

SUBMITTED = "submitted"

_COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Submission:
    """A job as it goes to sbatch. `sources` are the places its options come from, nearest first."""

    job: Job
    options: Options
    sources: tuple[str, ...]
    number: int  # of the submissions of its run folder

    @property
    def places(self) -> Places:
        """Where its files are, or are to be."""
        folder = self.job.out.absolute() / SUBMITTED
        stem = f"{self.number:03d}"
        job, script, log = (folder / f"{stem}{ending}" for ending in (".toml", ".sh", ".log"))
        return Places(name=self.job.out.name or "landscape", run=folder.parent, job=job, script=script, log=log)

    @property
    def script(self) -> str:
        """The batch script."""
        return batch_script(self.options, self.places)


@dataclass(frozen=True)
class Submitted:
    """What sbatch made of it."""

    job_id: str
    cluster: str | None
    places: Places


def prepare(
    job_file: Path, overrides: Sequence[str], given: Mapping[str, Any], environment: Mapping[str, str]
) -> Submission:
    """The submission that a job file, the command line's options and the site profiles describe; writes nothing.

    `given` holds the options of the command line by their typed names, `environment` the shell's variables. Raises
    InputError for a job, a profile or an option that cannot be used.
    """
    job = load_job(job_file, overrides)
    files = profiles(job_file, environment)
    layers = {_COMMAND_LINE: given} | {f"site profile {file}": read_profile(file) for file in files}
    options = options_for(_implied(job), layers, Path.cwd())
    _require_fit(job, options)
    if options.environment and not Path(options.environment).exists():
        raise InputError(
            f"environment = {options.environment!r} does not exist; give the folder of a virtual or conda environment, "
            "or a file to source"
        )
    taken = [int(path.stem) for path in (job.out / SUBMITTED).glob("*.toml") if path.stem.isdecimal()]
    submission = Submission(
        job, options, tuple(source for source, layer in layers.items() if layer), 1 + max(taken, default=0)
    )
    _ = submission.places  # refuses paths that no script can name
    return submission


def submit(submission: Submission, environment: Mapping[str, str]) -> Submitted:
    """Write the submission's files and hand its script to sbatch; where sbatch refuses, no file stays.

    Raises InputError with sbatch's words where it refuses or is not there, StoreError where files cannot be written.
    """
    if shutil.which("sbatch", path=environment.get("PATH")) is None:
        raise InputError(
            "there is no sbatch on the PATH; submit from a login node of the cluster (its Slurm module loaded), write "
            "the script with --dry-run, or start the job here with: landscape run"
        )
    folder = submission.places.job.parent
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    submission = _written(submission)
    places = submission.places
    done = subprocess.run(
        ["sbatch", "--parsable", str(places.script)],
        env=sbatch_environment(environment, submission.options),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        _remove(places, new)
        raise InputError(refusal(done.stderr))
    number, cluster = job_id(done.stdout)
    record = {"job_id": number, "cluster": cluster}
    write_durably(places.job.with_suffix(".json"), json.dumps(record).encode())
    return Submitted(number, cluster, places)


def _written(submission: Submission) -> Submission:
    """The submission under the first number that nobody took meanwhile, its files written."""
    folder = submission.places.job.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not create_durably(submission.places.job, submission.job.text().encode()):
            submission = Submission(submission.job, submission.options, submission.sources, submission.number + 1)
        write_durably(submission.places.script, submission.script.encode())
        submission.places.script.chmod(0o755)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror}; free space there, or name another run folder with "
            "--set run.out=DIR"
        ) from error
    return submission


def _remove(places: Places, folders: Sequence[Path]) -> None:
    """Take back what was written for a submission, and the folders made for it, innermost first."""
    with contextlib.suppress(OSError):  # what somebody else has put there meanwhile stays
        places.script.unlink(missing_ok=True)
        places.job.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def _implied(job: Job) -> dict[str, Any]:
    """Options that follow from the job itself: its threads, a GPU for each rank, the environment that submits."""
    implied: dict[str, Any] = {}
    if job.run.threads is not None:
        implied["cpus-per-task"] = job.run.threads
    if (job.objective.device or "").startswith("cuda"):
        implied["gpus-per-task"] = 1
    if sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir():
        implied["environment"] = sys.prefix
    return implied


def _require_fit(job: Job, options: Options) -> None:
    if options.ranks % job.run.ranks_per_item:
        raise InputError(
            f"run.ranks_per_item = {job.run.ranks_per_item} does not divide the {options.ranks} ranks of nodes = "
            f"{options.nodes} times ntasks-per-node = {options.ntasks_per_node}; change one of the three"
        )
    if job.run.threads is not None and job.run.threads > options.cpus_per_task:
        raise InputError(
            f"run.threads = {job.run.threads} are more than cpus-per-task = {options.cpus_per_task}, so they "
            "would share cores; leave either out, and it follows the other"
        )
