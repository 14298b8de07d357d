"""How far runs are: states from folders alone, Slurm's words, cheap reading, and a table that fits."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from landscape_jobs.cli import app
from landscape_jobs.cluster.queue import Answer, JobName, Queue, QueuedJob, squeue_jobs
from landscape_jobs.status import tables as status_tables
from landscape_jobs.status.document import document
from landscape_jobs.status.facts import RunsStatus, RunStatus, TaskStatus
from landscape_jobs.status.reasons import brief
from landscape_jobs.status.status import Reader, require_runs
from landscape_jobs.status.tables import StatusTable, span, watch_status
from landscape_jobs.sweeps.folder import note_failure, places, write_index
from landscape_jobs.sweeps.sweep_file import load_sweep
from rich.console import Console
from typer.testing import CliRunner, Result

import landscape as ls
from landscape.run import shards
from landscape.run.failures import Failure
from landscape.run.shards import write_shard
from landscape.run.store import Store
from landscape.run.task import Description

NOW = 1_800_000_000.0
NOWHERE: dict[str, str] = {"PATH": ""}  # no Slurm


def at(ago: float) -> str:
    return datetime.fromtimestamp(NOW - ago, UTC).isoformat(timespec="seconds")


def attempt(began: float = 300, **more: Any) -> dict[str, Any]:
    return {"started": at(began), "ranks": 8, "host": "n1", "nodes": ["n1", "n2"], "retries": 2, **more}


def beat(ago: float, *, done: int = 4, computed: int = 4, elapsed: float = 8.0, **more: Any) -> dict[str, Any]:
    content = {"done": done, "total": 10, "failed": 0, "computed": computed, "elapsed": elapsed, "ranks": 8, "note": ""}
    return {"ago": ago, "content": {**content, **more}}


def make(
    folder: Path,
    *attempts: Mapping[str, Any],
    rows: int = 4,
    items: int = 10,
    given_up: Mapping[int, str] | None = None,
    sign: Mapping[str, Any] | None = None,
    result: bool = False,
    task: str = "surface",
    job: str = "a job",
    identity: Mapping[str, Any] | None = None,
) -> Store:
    """A run folder as a run leaves it, with the last sign of life of its last attempt."""
    columns: dict[str, tuple[int, ...]] = {"loss": (), "vector": (3,)}
    store = Store.create(folder, Description(task, columns, identity or {"objective": {}}, {}), items, job)
    for record in attempts:
        number = store.attempts.begin(record)
    write(store, range(rows))
    for item, reason in (given_up or {}).items():
        for _ in range(3):
            store.failures.add(Failure(item, reason, 1, 0, "n1", at(5)))
    if sign is not None:
        signed(store, number, sign)
    if result:
        store.result.write_bytes(b"")
    return store


def signed(store: Store, number: int, sign: Mapping[str, Any]) -> None:
    path = store.attempts.beat_file(number)
    path.write_text(json.dumps(sign["content"]))
    os.utime(path, (NOW - sign["ago"],) * 2)


def write(store: Store, items: Sequence[int], rank: int = 0) -> None:
    if items:
        rows = [(item, {"loss": 0.0, "vector": np.zeros(3)}) for item in items]
        write_shard(store.folder / f"shards/0001-{rank:05d}-000001.npz", rows, {"loss": (), "vector": (3,)})


def submitted(folder: Path, number: int, job: str, text: str = "") -> None:
    (folder / "submitted").mkdir(parents=True, exist_ok=True)
    (folder / f"submitted/{number:03d}.toml").write_text(text)
    (folder / f"submitted/{number:03d}.json").write_text(json.dumps({"job_id": job, "cluster": None}))


class Said(Queue):
    """A Slurm that says what it is told to."""

    def __init__(self, squeue: str = "", problem: str = "") -> None:
        super().__init__(NOWHERE)
        self.asked: list[set[JobName]] = []
        self.answer = Answer(tuple(squeue_jobs(squeue)), problem)

    def ask(self, names: Any) -> Answer:
        self.asked.append(set(names))
        return self.answer


def read(*folders: Path, queue: Queue | None = None) -> RunsStatus:
    return Reader(folders, queue or Queue(NOWHERE), clock=lambda: NOW).read()


def one(folder: Path, queue: Queue | None = None) -> tuple[RunStatus, TaskStatus]:
    [run] = read(folder, queue=queue).runs
    return run, run.tasks[-1]


# -- states ------------------------------------------------------------------------------------------------------------

ENDED = {"ended": at(100), "computed": 4, "done": 4, "signal": None}
RAISED = "rank 3 failed:\nTraceback (most recent call last):\n  File x\nArithmeticError: no such luck"
CASES: dict[str, tuple[dict[str, Any], tuple[Mapping[str, Any], ...], str, str]] = {
    "running": ({"sign": beat(8)}, (attempt(),), "running", ""),
    "just begun": ({"rows": 0}, (attempt(20),), "running", ""),
    "begun, never heard": ({"rows": 0}, (attempt(61),), "silent", ""),
    "silent": ({"sign": beat(61)}, (attempt(),), "silent", ""),
    "stopped": ({}, (attempt(**{**ENDED, "signal": "SIGUSR1"}),), "stopped", "by SIGUSR1"),
    "limit": ({}, (attempt(**ENDED),), "stopped", "at a limit of items"),
    "failed": ({}, (attempt(ended=at(9), failure=RAISED),), "failed", "ArithmeticError: no such luck"),
    "again": ({"sign": beat(8)}, (attempt(900, ended=at(500), failure=RAISED), attempt()), "running", ""),
    "complete": ({"rows": 10, "result": True}, (attempt(**ENDED),), "complete", ""),
    "given up": (
        {"rows": 8, "given_up": {8: "a", 9: "b"}, "result": True}, (attempt(**ENDED),), "complete", ""
    ),
    "killed before its file": ({"rows": 10}, (attempt(**ENDED),), "stopped", "before its result was written"),
    "writing its file": (
        {"rows": 10}, (attempt(**{**ENDED, "ended": at(2)}),), "running", "its result is being written"
    ),
    "no attempt": ({"rows": 0}, (), "not begun", ""),
    "retried": ({"sign": beat(8), "given_up": {0: "in the end it went well"}}, (attempt(),), "running", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_state_follows_from_the_folder(tmp_path: Path, case: str) -> None:
    what, attempts, state, detail = CASES[case]
    make(tmp_path / "a", *attempts, **what)
    run, task = one(tmp_path / "a")
    assert (task.state, task.detail, run.state) == (state, detail, state)
    failed = 2 if case == "given up" else 0
    assert (task.items, task.done, task.failed) == (10, what.get("rows", 4), failed)
    assert task.left == 10 - task.done - failed
    assert run.result == (tmp_path / "a/landscape.h5" if state == "complete" else None)
    assert run.active == (state == "running")
    assert (task.rate is not None) == (state == "running" and "sign" in what)
    assert (task.heartbeat_age is not None) == (state in ("running", "silent") and what.get("rows") != 10)
    told = run.advice
    if state in ("stopped", "failed", "silent"):
        assert f"landscape resume {tmp_path / 'a'}" in told
        assert ("ArithmeticError" in told) == (state == "failed")
    elif state != "not begun":
        assert not told


def test_numbers_of_a_running_run(tmp_path: Path) -> None:
    make(tmp_path / "a", attempt(900, ended=at(500)), attempt(slurm={"job": "7", "restart": 2}), sign=beat(3))
    _, task = one(tmp_path / "a")
    assert task.rate == 0.5
    assert task.remaining == 6 / 0.5 - 3
    assert task.heartbeat_age == 3
    assert (task.ranks, task.nodes, task.attempts, task.restarts) == (8, ("n1", "n2"), 2, 2)
    assert (task.started, task.ended) == (at(300), None)


@pytest.mark.parametrize(
    "sign",
    [beat(-5), beat(-1e6), beat(3, elapsed=math.nan), beat(3, elapsed=-4.0), beat(3, elapsed=0.0), beat(3, computed=0),
     beat(3, elapsed=1e-320), beat(50, done=12), beat(3, computed=1, elapsed=1e300)],
)  # fmt: skip
def test_clocks_and_numbers_that_cannot_be_are_unknown(tmp_path: Path, sign: Mapping[str, Any]) -> None:
    make(tmp_path / "a", attempt(), sign=sign)
    report = read(tmp_path / "a")
    [run] = report.runs
    [task] = run.tasks
    assert task.state == "running"
    for number in (task.rate, task.remaining, task.heartbeat_age):
        assert number is None or (math.isfinite(number) and number >= 0)
    assert (task.heartbeat_age is None) == (sign["ago"] == -1e6)
    assert ("dated in the future" in run.advice) == (sign["ago"] == -1e6)
    json.dumps(document(report), allow_nan=False)
    assert text(report)


def test_a_sign_of_life_seen_to_come_counts_whatever_its_clock_says(tmp_path: Path) -> None:
    steady = iter([10.0, 10.0, 95.0])
    store = make(tmp_path / "a", attempt(4000), sign=beat(3600))
    reader = Reader([tmp_path / "a"], Queue(NOWHERE), clock=lambda: NOW, steady=lambda: next(steady))
    assert reader.read().runs[0].state == "silent"
    signed(store, 1, beat(3590))
    assert reader.read().runs[0].tasks[0].heartbeat_age == 0
    assert reader.read().runs[0].state == "silent"  # 85 s later none had come


def test_several_tasks_stand_for_one_run(tmp_path: Path) -> None:
    make(tmp_path / "a/eigenpairs", attempt(**ENDED), items=1, rows=1, task="eigenpairs")
    make(tmp_path / "a/trace", attempt(), sign=beat(2, note="21 products"), task="trace")
    run, task = one(tmp_path / "a")
    assert [(t.task, t.state) for t in run.tasks] == [("eigenpairs", "complete"), ("trace", "running")]
    assert (run.state, task.note) == ("running", "21 products")
    assert document(read(tmp_path / "a"))["total"]["items"] == 11


def test_a_run_made_by_a_program_is_not_resumed_by_name(tmp_path: Path) -> None:
    make(tmp_path / "a", attempt(**ENDED), job="")
    assert "the program that made it" in one(tmp_path / "a")[0].advice


# -- reading -----------------------------------------------------------------------------------------------------------


def test_shards_are_read_once_and_without_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", attempt(), sign=beat(1), rows=3)
    opened: list[str] = []
    load = np.load

    class Watched:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getitem__(self, name: str) -> Any:
            opened.append(name)
            return self.file[name]

    monkeypatch.setattr(shards.np, "load", lambda path, **how: Watched(load(path, **how)))
    reader = Reader([tmp_path / "a"], Queue(NOWHERE), clock=lambda: NOW)
    assert [reader.read().runs[0].tasks[0].done for _ in range(2)] == [3, 3]
    assert opened == ["items"]
    write(store, [3, 4, 2], rank=1)
    assert reader.read().runs[0].tasks[0].done == 5
    assert opened == ["items", "items"]
    next((tmp_path / "a/shards").glob("*-00000-*")).unlink()
    assert reader.read().runs[0].tasks[0].done == 3


def test_done_items_are_those_of_rows(tmp_path: Path) -> None:
    store = make(tmp_path / "a", attempt(), rows=0)
    write(store, [7, 2])
    store.add_round(12)
    write(store, [11], rank=1)
    known: dict[str, Any] = {}
    assert store.done_items(known).tolist() == store.rows().done.tolist()
    assert np.flatnonzero(store.done_items(known)).tolist() == [2, 7, 11]
    (tmp_path / "a/shards/0001-00002-000001.npz").write_bytes(b"cut")
    with pytest.raises(ls.StoreError, match="damaged"):
        store.done_items(known)


@pytest.mark.parametrize("damage", ["run.json", "attempts/0001.json", "shards/0001-00000-000001.npz"])
def test_one_damaged_run_hides_no_other(tmp_path: Path, damage: str) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, attempt(**ENDED))
    (tmp_path / "a" / damage).write_text('{"started": 3}')
    bad, good = read(tmp_path / "a", tmp_path / "b").runs
    assert (bad.state, good.state) == ("unreadable", "stopped")
    assert str(tmp_path / "a") in bad.advice


def test_what_is_no_run_is_left_out_but_not_what_is_misspelt(tmp_path: Path) -> None:
    make(tmp_path / "a", attempt(**ENDED))
    submitted(tmp_path / "queued", 1, "5")
    (tmp_path / "old").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    make(tmp_path / "s/trace", attempt(**ENDED), task="trace")
    found = [tmp_path / name for name in ("a", "a.png", "old", "queued", "s")]
    assert require_runs(found) == ([found[0], found[3], found[4]], [found[1], found[2]])
    with pytest.raises(ls.StoreError, match="nowhere does not exist"):
        require_runs([tmp_path / "a", tmp_path / "nowhere"])
    with pytest.raises(ls.StoreError, match="old is not a run folder"):
        require_runs([tmp_path / "old", tmp_path / "a.png"])
    with pytest.raises(ls.StoreError, match=r"holds some; name them, as in .*/\*"):
        require_runs([tmp_path])


# -- Slurm -------------------------------------------------------------------------------------------------------------

QUEUE = """\
1|1|N/A|RUNNING|None|0|
2|2|9|PENDING|JobArrayTaskLimit|0|
2|2|8|PENDING|JobArrayTaskLimit|0|
6|2|3|RUNNING|None|1|
5|5|N/A|PENDING|JobHeldUser|0|
"""


def test_a_submitted_run_and_what_becomes_of_its_job(tmp_path: Path) -> None:
    submitted(tmp_path / "a", 1, "1")
    submitted(tmp_path / "a", 2, "5")
    [run] = read(tmp_path / "a", queue=Said(QUEUE)).runs
    assert (run.state, run.tasks, run.active, run.advice) == ("not begun", (), True, "")
    assert [str(job.name) for job in run.jobs] == ["1", "5"]
    [gone] = read(tmp_path / "a", queue=Said("5|5|N/A|FAILED|NonZeroExitCode|0|")).runs
    assert not gone.active
    go_on = f"Go on with: landscape submit {tmp_path / 'a/submitted/002.toml'}"
    assert gone.advice == f"Its job 5 is FAILED, and nothing was computed. {go_on}"  # and it wrote no log
    (tmp_path / "a/submitted/002.log").write_text("")
    [gone] = read(tmp_path / "a", queue=Said("5|5|N/A|FAILED|NonZeroExitCode|0|")).runs
    assert f"and nothing was computed; see {tmp_path / 'a/submitted/002.log'}. Go on" in gone.advice
    unknown = read(tmp_path / "a").runs[0].advice
    assert "Slurm tells nothing of its job 5; see" in unknown
    assert "Where it is not queued, go on with: landscape submit" in unknown
    (tmp_path / "a/finished").write_text("")
    assert read(tmp_path / "a").runs[0].state == "complete"


def test_who_goes_on_with_a_run_that_ended_without_a_word(tmp_path: Path) -> None:
    make(tmp_path / "a", attempt(slurm={"job": "6", "array_task": "3"}), sign=beat(400))
    assert "Go on with: landscape resume" in one(tmp_path / "a")[0].advice
    submitted(tmp_path / "a", 1, "12")
    assert f"landscape submit {tmp_path / 'a/submitted/001.toml'}" in one(tmp_path / "a")[0].advice
    said = Said("12|12|N/A|PENDING|BeginTime|1|")
    run, _ = one(tmp_path / "a", said)
    assert said.asked == [{JobName("12"), JobName("6", "3")}]
    assert run.advice.endswith("Job 12 goes on with it")
    assert run.active
    hangs, _ = one(tmp_path / "a", Said(QUEUE))
    assert "Slurm still runs its job 2_3" in hangs.advice


def test_slurm_is_not_asked_of_complete_runs(tmp_path: Path) -> None:
    make(tmp_path / "a", attempt(**ENDED, slurm={"job": "1"}), rows=10, result=True)
    said = Said(QUEUE)
    [run] = read(tmp_path / "a", queue=said).runs
    assert said.asked == []
    assert not run.active


# -- sweeps ------------------------------------------------------------------------------------------------------------

JOB = '[model]\nfactory = "nets:mlp"\n[data]\nfactory = "nets:data"\n[surface]\nx = [-1, 1, 5]\n[run]\nout = "runs"\n'


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of four cells: complete, running, failed before it had a run, not begun."""
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "sweep.toml").write_text('job = "job.toml"\nout = "sweep"\n[product]\n"plane.seed" = [0, 1, 2, 3]\n')
    loaded = load_sweep(tmp_path / "sweep.toml")
    found = places(loaded)
    write_index(loaded, found)
    make(found[0].folder, attempt(**ENDED), rows=10, result=True)
    make(found[1].folder, attempt(slurm={"job": "6", "array_task": "1"}), sign=beat(2))
    note_failure(found[2].folder, "checkpoint b.pt cannot be read: it is cut. Perhaps its disk was full.", 2)
    submitted(tmp_path / "sweep", 1, "2", loaded.text())
    return tmp_path / "sweep"


def test_a_sweep_has_a_line_for_each_cell_and_a_total(sweep: Path) -> None:
    assert require_runs([sweep]) == ([sweep], [])
    report = read(sweep, queue=Said("2|2|3|PENDING|Priority|0|\n6|2|1|RUNNING|None|0|\n2|2|2|FAILED|None|0|\n"))
    assert [(run.cell, run.label, run.state) for run in report.runs] == [
        (0, "seed=0", "complete"), (1, "seed=1", "running"), (2, "seed=2", "failed"), (3, "seed=3", "not begun"),
    ]  # fmt: skip
    assert [[str(job.name) for job in run.jobs] for run in report.runs] == [[], ["2_1"], ["2_2"], ["2_3"]]
    assert [run.active for run in report.runs] == [False, True, False, True]
    said = "checkpoint b.pt cannot be read: it is cut. Mend the cause first, then go on with: landscape submit "
    assert report.runs[2].advice == f"{said}{sweep / 'submitted/001.toml'}"
    assert f"Cell 2 (seed=2) of {sweep} failed: checkpoint b.pt" in text(report).replace("\n", "")
    assert report.runs[3].advice == ""
    sums = document(report)["total"]
    assert (sums["runs"], sums["items"], sums["done"], sums["left"], sums["failed"]) == (4, 20, 14, 6, 0)
    shown = text(report, 250)
    assert sums["not_begun"] == 2
    for words in ("seed=3", f"{sweep.name}, total", "14 of 20 rows", "of the 2 runs", "PENDING (Priority)"):
        assert words in shown


def test_a_cell_that_runs_again_is_not_failed(sweep: Path) -> None:
    note_failure(read(sweep).runs[1].folder, "an older reason", 1)
    note_failure(read(sweep).runs[0].folder, "an older reason", 1)
    assert [run.state for run in read(sweep).runs] == ["complete", "running", "failed", "not begun"]


# -- what is shown -----------------------------------------------------------------------------------------------------


def text(report: RunsStatus, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(StatusTable(report))
    return console.export_text()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs in many states, in the working directory."""
    monkeypatch.chdir(tmp_path)
    make(
        Path("a_rather_long_name_of_a_run[red]"),
        attempt(),
        sign=beat(7, done=1200, total=2601, computed=400, elapsed=77.0),
        items=2601,
        rows=1200,
        given_up={2000 + i: f"failed\nsecond line {i}" for i in range(12)},
    )
    submitted(Path("a_rather_long_name_of_a_run[red]"), 1, "6")
    make(Path("broken"), attempt(ended=at(50), failure=RAISED))
    make(Path("silent"), attempt(4000), sign=beat(900))
    make(Path("done"), attempt(**ENDED), rows=10, result=True)
    submitted(Path("queued"), 1, "5")
    return [Path(name) for name in ("a_rather_long_name_of_a_run[red]", "broken", "silent", "done", "queued")]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_table_tells_everything_at_any_width(runs: list[Path], width: int) -> None:
    shown = text(read(*runs, queue=Said(QUEUE)), width)
    assert max(map(len, shown.splitlines())) <= width
    in_order = "".join(line.strip("│ ").replace(" ", "") for line in shown.splitlines())
    for words in ("1,200 of 2,601", "1,389", "12", "5.19/s", "0:04:23", "7 s ago", "2 nodes", "running", "silent"):
        assert words in shown, words
    for words in ("RUNNING", "PENDING", "(JobHeldUser)", "not begun", "complete", "restart 1", "0:15:00 ago"):
        assert words in shown, words
    for words in ("ArithmeticError: no such luck", "go on with: landscape resume broken", "and 2 more items", "[red]"):
        assert words.replace(" ", "") in in_order, words
    assert "second line" not in shown
    assert in_order.count("wasgivenup") == 10
    if width > 100:
        assert "1st, " in shown


def test_columns_with_nothing_in_them_are_left_out(runs: list[Path]) -> None:
    shown = text(read(Path("done")))
    assert "landscape.h5" in shown
    for heading in ("Slurm", "failed", "left", "rate", "heard"):
        assert heading not in shown
    assert "not yet" in text(read(Path("silent")))


def test_document_is_strict_json_with_stable_keys(runs: list[Path]) -> None:
    content = json.loads(json.dumps(document(read(*runs, queue=Said(QUEUE))), allow_nan=False))
    assert set(content) == {"format", "time", "slurm_problem", "runs", "total"}
    first, _, _, complete, queued = content["runs"]
    assert set(first) == {
        "run", "sweep", "cell", "label", "state", "detail", "result", "active", "advice", "go_on", "tasks", "given_up",
        "jobs",
    }  # fmt: skip
    assert set(first["tasks"][0]) == {
        "task", "state", "detail", "items", "done", "left", "failed", "rate", "remaining", "note", "heartbeat_age",
        "ranks", "nodes", "attempts", "started", "ended", "restarts",
    }  # fmt: skip
    assert all(f"{key}" in (document.__doc__ or "") for key in (*first, *first["tasks"][0], *first["jobs"][0]))
    assert first["tasks"][0]["left"] == 1389
    assert first["tasks"][0]["nodes"] == ["n1", "n2"]
    assert len(first["given_up"]) == 12
    assert first["jobs"] == [
        {"job": "2", "array_task": 3, "cluster": None, "state": "RUNNING", "reason": None, "restarts": 1}
    ]
    assert complete["tasks"][0]["rate"] is None
    assert (complete["jobs"], complete["result"]) == ([], "done/landscape.h5")
    assert (queued["tasks"], queued["jobs"][0]["reason"]) == ([], "JobHeldUser")
    assert content["total"]["states"] == {"running": 1, "failed": 1, "silent": 1, "complete": 1, "not begun": 1}
    [unknown] = document(read(Path("queued")))["runs"][0]["jobs"]
    assert (unknown["job"], unknown["state"], unknown["restarts"]) == ("5", None, None)


def test_a_slurm_that_does_not_answer_is_told(runs: list[Path]) -> None:
    report = read(*runs, queue=Said("", "squeue did not answer in 5 s"))
    assert "squeue did not answer in 5 s" in text(report)
    waiting = read(Path("queued"), queue=Said("", "squeue did not answer in 5 s"))
    assert waiting.active  # it may well be in the queue
    assert not read(Path("queued")).active
    assert document(report)["slurm_problem"] == "squeue did not answer in 5 s"


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_ends_when_nothing_runs_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    store = make(tmp_path / "a", attempt(), sign=beat(1))
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            store.attempts.end(1, attempt(**ENDED))

    monkeypatch.setattr(status_tables.time, "sleep", wait)
    with (tmp_path / "out").open("w+") as file:
        console = Console(file=file, width=100, force_terminal=terminal)
        watch_status(Reader([tmp_path / "a"], Queue(NOWHERE), clock=lambda: NOW), console, 3)
        file.seek(0)
        shown = file.read()
    assert waited == [3, 3]
    assert shown.count("running") == 2
    assert shown.count("at a limit") == (2 if terminal else 1)  # a live display draws its last state once more
    assert ("\x1b" in shown) == terminal


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "0 s"), (59.4, "59 s"), (60.0, "0:01:00"), (90_000, "1 day, 1:00:00"), (1e12, "years")],
)
def test_spans(seconds: float, expected: str) -> None:
    assert span(seconds) == expected


def test_reasons_in_one_line() -> None:
    assert brief(RAISED) == "ArithmeticError: no such luck"
    assert brief("too slow\nmore") == "too slow"
    assert brief("") == ""


def test_queued_jobs_are_counted_where_they_are_alike(tmp_path: Path) -> None:
    submitted(tmp_path / "a", 1, "2")
    report = read(tmp_path / "a", queue=Said(QUEUE))
    assert "2 PENDING (JobArrayTaskLimit), 2 tasks" in text(report)
    assert "2 RUNNING, restart 1" in text(report)
    assert isinstance(report.runs[0].jobs[0], QueuedJob)


# -- the command -------------------------------------------------------------------------------------------------------


def status(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["status", *(str(word) for word in words)])


def test_command_for_programs(tmp_path: Path) -> None:
    make(tmp_path / "part", attempt(**ENDED))
    (tmp_path / "part.png").write_bytes(b"")
    result = status("--json", tmp_path / "part", tmp_path / "part.png")
    assert result.exit_code == 0
    assert f"left out: {tmp_path / 'part.png'} is no run folder" in result.stderr
    [run] = json.loads(result.stdout)["runs"]
    assert (run["run"], run["state"], run["tasks"][0]["done"]) == (str(tmp_path / "part"), "stopped", 4)
    for words, expected in (
        (("--json", "--watch", tmp_path / "part"), "leave one of them out"),
        ((tmp_path / "part", tmp_path / "prat"), f"{tmp_path / 'prat'} does not exist"),
        ((tmp_path / "part.png",), "is not a run folder"),
        (("--watch", "0", tmp_path / "part"), "--watch"),
        (("--", "--watch"), "--watch does not exist"),
    ):
        result = status(*words)
        assert result.exit_code == 2
        assert expected in result.stderr


def test_command_watches_until_nothing_runs_or_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.chdir(tmp_path)
    make(Path("done"), attempt(**ENDED), rows=10, result=True)
    assert "10 of 10" in status("done", "--watch").stdout
    assert waited == []
    make(Path("7"), attempt(NOW - time.time()))  # begun now
    for words in (
        ("--watch", "./7"),
        ("./7", "--watch"),
        ("--watch", "--", "7"),
        ("--watch", "9", "7"),
        ("7", "--watch=9"),
    ):
        result = status(*words)
        assert result.exit_code == 0
        assert result.stdout.count("running") == 1
    assert waited == [5, 5, 5, 9, 9]
