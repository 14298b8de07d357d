"""`landscape submit`: a job, a sweep or stages, checked and kept as they are now, as batch jobs of Slurm.

The folder of a run, of a sweep or of a stage's command keeps what was submitted, so that a job in the queue is not
changed by later edits of its file:

    submitted/001.toml   the job or sweep, overrides applied and its folder stated; of a command 001.txt
    submitted/001.sh     the batch script
    submitted/001.json   the number sbatch gave it, the cluster where there are several, and the options that were given
    submitted/001.log    what it writes; with an array 001-INDEX.log
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from landscape.errors import InputError, StoreError
from landscape.files.durable import create_durably, write_durably
from landscape.results.trial import require_folder
from landscape.run.records import TABLE, TEXT, or_none, read_record
from landscape_jobs.cluster.options import TIME_VARIABLE, Options
from landscape_jobs.cluster.queue import JobName, Queue
from landscape_jobs.cluster.script import FINISHED, Places, batch_script, command_script
from landscape_jobs.cluster.site import anchored, options_for, profiles, read_profile
from landscape_jobs.cluster.slurm import array_of, job_id, refusal, sbatch_environment
from landscape_jobs.cluster.stages import StagedJob, command_finished, job_finished, load_stages
from landscape_jobs.spec.job import Job, load_job
from landscape_jobs.spec.toml import STAGES, SWEEP, TomlFile, read_toml
from landscape_jobs.sweeps.folder import Place, places, unfinished, write_index
from landscape_jobs.sweeps.sweep_file import Sweep, load_sweep

SUBMITTED = "submitted"
_COMMAND_LINE = "command line"
_AT_THAT_TIME = ("dependency",)  # options that a later submission of the same does not take over
_PROFILE = "site profile"
_SHELL = f"the variable {TIME_VARIABLE}"
_SHOWN = 8  # names that a note lists


@dataclass(frozen=True)
class Submission:
    """One batch job as it goes to sbatch. `sources` are the places its options come from, nearest first.

    `work` is a job, a sweep with the places of its cells, or a stage's command. `after` names submissions of the same
    call that have to end well before this one starts. `given` are the options that no profile gave.
    """

    name: str  # of the stage, else of the folder
    work: Job | tuple[Sweep, tuple[Place, ...]] | StagedJob
    folder: Path  # absolute
    options: Options
    sources: tuple[str, ...]
    number: int  # of the submissions of its folder
    after: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""  # name of the stage, where it is one

    @property
    def places(self) -> Places:
        """Where its files are, or are to be."""
        folder = self.folder / SUBMITTED
        endings = (".txt" if isinstance(self.work, StagedJob) else ".toml", ".sh", ".log")
        job, script, log = (folder / f"{self.number:03d}{ending}" for ending in endings)
        return Places(name=self.folder.name or "landscape", run=self.folder, job=job, script=script, log=log)

    @property
    def text(self) -> str:
        """What is kept of the work."""
        if isinstance(self.work, StagedJob):
            return f"{self.work.command}\n"
        return self.work.text() if isinstance(self.work, Job) else self.work[0].text()

    @property
    def script(self) -> str:
        """The batch script; it names those that it comes after where they have no number yet."""
        waiting = replace(self, after=()).after_jobs([f"<{name}>" for name in self.after]) if self.after else self
        if isinstance(self.work, StagedJob):
            command = self.work.command or ""
            return command_script(waiting.options, self.places, command, self.work.home, self.work.key)
        return batch_script(waiting.options, self.places, cells=not isinstance(self.work, Job))

    def after_jobs(self, numbers: Sequence[str]) -> Submission:
        """The same, to start when the jobs of those numbers have ended well."""
        if not numbers:
            return self
        asked = [self.options.dependency] if self.options.dependency else []
        dependency = ",".join([*asked, "afterok:" + ":".join(numbers)])
        # or it would wait for ever for a job that failed
        more = tuple(dict.fromkeys(("--kill-on-invalid-dep=yes", *self.options.sbatch)))
        return replace(self, options=replace(self.options, dependency=dependency, sbatch=more), after=())


@dataclass(frozen=True)
class Prepared:
    """Submissions, each behind those it comes after, and notes for the user."""

    submissions: tuple[Submission, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submitted:
    """What sbatch made of it."""

    job_id: str
    cluster: str | None
    places: Places
    array: str | None  # indices, where it is an array
    stage: str = ""  # name of the stage, where it is one

    @property
    def text(self) -> str:
        """What happened, in a line."""
        where = f" to {self.cluster}" if self.cluster else ""
        where += f" (stage {self.stage})" if self.stage else ""
        if self.array is None:
            return f"submitted job {self.job_id}{where}; its log: {self.places.log}"
        logs = self.places.log.with_name(f"{self.places.log.stem}-*.log")
        return f"submitted job {self.job_id}{where}, an array ({self.array}); its logs: {logs}"


def prepare(file: Path, overrides: Sequence[str], given: Mapping[str, Any], environment: Mapping[str, str]) -> Prepared:
    """What a file of a job, a sweep or stages, the command line's options and the site profiles describe.

    It writes nothing. Cells and stages that are finished are left out. `given` holds the options of the command line
    by their typed names, `environment` the shell's variables. Raises InputError for a file, a profile or an option
    that cannot be used.
    """
    sites = {f"{_PROFILE} {path}": read_profile(path) for path in profiles(file, environment)}
    if environment.get(TIME_VARIABLE):
        sites[_SHELL] = {"time": environment[TIME_VARIABLE]}
    found = read_toml(file)
    if found.kind != STAGES:
        work = _loaded(found, overrides)
        if isinstance(work, Job):
            _require_no_cells(file, given)
            if job_finished(work):
                return Prepared((), (f"{work.out} is complete; nothing to submit",))
        submission, notes = _submission(work, {_COMMAND_LINE: given, **_kept(file), **sites}, anew=False)
        return Prepared((submission,) if submission is not None else (), tuple(notes))
    if overrides:
        raise InputError(f"--set {overrides[0]!r}: {file} has several stages; set values in their own files")
    submissions: dict[str, Submission] = {}
    notes = []
    for stage in load_stages(found):
        layers = {_COMMAND_LINE: given, f"options of stage {stage.name}": stage.options, **sites}
        after = tuple(name for name in stage.after if name in submissions)
        what = stage if stage.job is None else _loaded(read_toml(stage.job), ())
        if isinstance(what, Job) and not after and job_finished(what):
            notes.append(f"stage {stage.name}: {what.out} is finished")
            continue
        submission, more = _submission(what, layers, anew=bool(after))
        notes += [f"stage {stage.name}: {note}" for note in more]
        if submission is not None:
            submissions[stage.name] = replace(submission, name=stage.name, stage=stage.name, after=after)
    _require_requeue(submissions)
    return Prepared(tuple(submissions.values()), tuple(notes))


def submit(prepared: Prepared, environment: Mapping[str, str]) -> Iterator[Submitted]:
    """Write the submissions' files and hand their scripts to sbatch, one after another.

    Where sbatch refuses one, no file of it stays. Raises InputError where an earlier submission of the same folder is
    queued or runs, where there is no sbatch, and, with sbatch's words, where it refuses; StoreError where files cannot
    be written. Of several stages the error tells which were submitted before.
    """
    if prepared.submissions and shutil.which("sbatch", path=environment.get("PATH")) is None:
        raise InputError(
            "there is no sbatch on the PATH; submit from a login node of the cluster (its Slurm module loaded), write "
            "the script with --dry-run, or start the job here with: landscape run"
        )
    _require_none_queued(prepared.submissions, environment)
    numbers: dict[str, str] = {}
    for submission in prepared.submissions:
        try:
            done = _submit(submission.after_jobs([numbers[name] for name in submission.after]), environment)
        except (InputError, StoreError) as error:
            if not numbers:
                raise
            raise type(error)(
                f"stage {submission.name}: {error}\nStages before it are queued ({', '.join(numbers)}); take them "
                f"back with scancel {' '.join(numbers.values())}, or submit again when they have ended"
            ) from error
        numbers[submission.name] = done.job_id
        yield done


def _submit(submission: Submission, environment: Mapping[str, str]) -> Submitted:
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
    kept = {name: value for name, value in submission.given.items() if name not in _AT_THAT_TIME}
    record = {"job_id": number, "cluster": cluster, "options": kept}
    write_durably(places.job.with_suffix(".json"), json.dumps(record).encode())
    if isinstance(submission.work, tuple):
        write_index(*submission.work)
    return Submitted(number, cluster, places, submission.options.array, submission.stage)


def _require_none_queued(submissions: Sequence[Submission], environment: Mapping[str, str]) -> None:
    """Raise InputError where an earlier submission of one of the folders is queued or runs, as far as Slurm tells."""
    names = {name: submission.folder for submission in submissions for name in _submitted_jobs(submission.folder)}
    answer = Queue(environment).ask(names)
    for name, folder in names.items():
        found = [job for job in answer.of([name]) if job.active]
        if found:
            tasks = f", {_count(len(found), 'task')} of its array" if any(job.name.array_task for job in found) else ""
            there = f" of {name.cluster}" if name.cluster else ""
            clusters = f" --clusters={name.cluster}" if name.cluster else ""
            raise InputError(
                f"job {name}{there} of {folder} is in the queue already ({found[0].state}{tasks}), and another would "
                f"compute the same again. It goes on by itself: wait for its end, or take it back with: "
                f"scancel{clusters} {name}"
            )


def _submitted_jobs(folder: Path) -> Iterator[JobName]:
    """The Slurm jobs that were submitted for a folder."""
    for path in sorted((folder / SUBMITTED).glob("*.json")):
        record = _record(path)
        if "job_id" in record:
            yield JobName(str(record["job_id"]), "", str(record.get("cluster") or ""))


def _kept(file: Path) -> dict[str, dict[str, Any]]:
    """Options of the submission that left a file, as a layer; none where it was not left by one."""
    options = _record(file.with_suffix(".json")).get("options") if file.absolute().parent.name == SUBMITTED else None
    return {f"submission {file.with_suffix('.json')}": options} if isinstance(options, dict) else {}


def _record(path: Path) -> dict[str, Any]:
    """What is noted of a submission; empty where there is nothing, or it is damaged."""
    known = {"job_id": TEXT, "cluster": or_none(TEXT), "options": TABLE}
    try:
        return read_record(path, {}, known, way="")
    except StoreError:
        return {}


def _require_no_cells(file: Path, given: Mapping[str, Any]) -> None:
    array = given.get("array")
    if isinstance(array, str) and array.startswith("%"):
        raise InputError(
            f"--array {array} says how many cells of a sweep run at once, and {file} is the file of a single job; "
            "leave it out"
        )


def _loaded(file: TomlFile, overrides: Sequence[str]) -> Job | Sweep:
    return load_sweep(file, overrides) if file.kind == SWEEP else load_job(file, overrides)


def _submission(
    work: Job | Sweep | StagedJob, layers: Mapping[str, Mapping[str, Any]], *, anew: bool
) -> tuple[Submission | None, list[str]]:
    """(submission, notes) of one job, sweep or command; None where it is finished.

    `anew` says that something it builds on will be made before, so that what it has now does not count.
    """
    if isinstance(work, StagedJob):
        if command_finished(work) and not anew:
            return None, [f"its command has succeeded before, as {work.folder / FINISHED} says"]
        return _numbered(work.name, work, work.folder, _options([], layers), layers), []
    require_folder(work.out)
    if isinstance(work, Job):
        options = _options([work], layers)
        return _numbered(work.out.name, work, work.out.absolute(), options, layers), []
    found = places(work)
    left = list(found) if anew else unfinished(found)
    notes = list(_notes(work, found, left, anew=anew))
    if not left:
        return None, notes
    options = _options([place.job for place in left], layers, cells=True)
    options = replace(options, array=array_of([place.cell.number for place in left], options.array))
    return _numbered(work.out.name, (work, found), work.out, options, layers), notes


def _options(jobs: Sequence[Job], layers: Mapping[str, Mapping[str, Any]], *, cells: bool = False) -> Options:
    """Options for the ranks of jobs (none: of a command), which differ in no key of [run]."""
    options = options_for(_implied(jobs), layers, Path.cwd())
    for job in jobs[:1]:
        _require_fit(job, options)
    if not cells and (options.array or "").startswith("%"):
        options = replace(options, array=None)  # how many cells of a sweep run at once: not of this job
    if not cells and options.array is not None:
        raise InputError(
            f"array = {options.array!r} is for sweeps, whose cells are its tasks; of a single job or a command each "
            "task would do all of it: leave it out, or write a sweep file"
        )
    if options.environment and not Path(options.environment).exists():
        raise InputError(
            f"environment = {options.environment!r} does not exist; give the folder of a virtual or conda environment, "
            "or a file to source"
        )
    return options


def _numbered(
    name: str,
    work: Job | tuple[Sweep, tuple[Place, ...]] | StagedJob,
    folder: Path,
    options: Options,
    layers: Mapping[str, Mapping[str, Any]],
) -> Submission:
    """The next submission of a folder. Raises InputError for paths that no script can name."""
    taken = [int(path.stem) for path in (folder / SUBMITTED).glob("*.*") if path.stem.isdecimal()]
    sources = tuple(source for source, layer in layers.items() if layer)
    given: dict[str, Any] = {}
    for source, layer in reversed(tuple(layers.items())):
        if not source.startswith((_PROFILE, _SHELL)):
            given |= layer
    given = anchored(given, Path.cwd())
    submission = Submission(name, work, folder, options, sources, 1 + max(taken, default=0), given=given)
    _ = submission.places
    return submission


def _notes(sweep: Sweep, found: Sequence[Place], left: Sequence[Place], *, anew: bool) -> Iterator[str]:
    """What a user should know of a sweep's cells before they are submitted."""
    folders: dict[Path, list[int]] = {}
    for place in found:
        folders.setdefault(place.folder, []).append(place.cell.number)
    same = [numbers for numbers in folders.values() if len(numbers) > 1]
    if same and not anew:
        listed = "; ".join(" and ".join(map(str, numbers)) for numbers in same[:_SHOWN])
        yield f"{_count(len(same), 'group')} of cells compute the same, which is done once: {listed}"
    ended = 0 if anew else len(folders) - len(left)
    if ended:
        yield f"{ended} of {len(folders)} runs in {sweep.out} are finished" + ("" if left else ": nothing to submit")
    missing = sorted({name for place in left for name in place.missing})
    if missing and not anew:
        listed = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        yield f"{_count(len(missing), 'file')} that cells name do not exist yet: {listed}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _require_requeue(submissions: Mapping[str, Submission]) -> None:
    for submission in submissions.values():
        for name in submission.after:
            if not submissions[name].options.requeue:
                raise InputError(
                    f"stage {name}: requeue = false, so work that is left goes on as a new job, which stage "
                    f"{submission.name} would not wait for; leave requeue out"
                )


def _written(submission: Submission) -> Submission:
    """The submission under the first number that nobody took meanwhile, its files written."""
    folder = submission.places.job.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not create_durably(submission.places.job, submission.text.encode()):
            submission = replace(submission, number=submission.number + 1)
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


def _implied(jobs: Sequence[Job]) -> dict[str, Any]:
    """Options that follow from jobs: their threads, a GPU for each rank, the environment that submits."""
    implied: dict[str, Any] = {}
    if jobs and jobs[0].run.threads is not None:
        implied["cpus-per-task"] = jobs[0].run.threads
    if any((job.objective.device or "").startswith("cuda") for job in jobs):
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
    seconds, limit = job.run.item_seconds, options.time_limit
    if seconds is not None and limit is not None and seconds > limit - options.lead:
        raise InputError(
            f"run.item_seconds = {seconds:g} are more than the {limit - options.lead} s that a job has under a time "
            f"limit of {limit} s before it is told to stop, {options.lead} s ahead: an item that takes so long would "
            "be begun again in every job. Ask for a longer time, or give items less"
        )
    if job.run.threads is not None and job.run.threads > options.cpus_per_task:
        raise InputError(
            f"run.threads = {job.run.threads} are more than cpus-per-task = {options.cpus_per_task}, so they "
            "would share cores; leave either out, and it follows the other"
        )
