"""A measurement from its first task to its file: one ending for all studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from landscape.errors import RunInterrupted
from landscape.results.base import Result
from landscape.results.stages import Stage, read_stage, require_stages
from landscape.results.study import FromStages
from landscape.run.comm import world
from landscape.run.failures import Tolerance
from landscape.run.kept import discard
from landscape.run.loop import run_task
from landscape.run.progress import Progress
from landscape.run.store import RESULT
from landscape.run.task import Row, Task
from landscape.run.together import agree, on_rank_0, write_result

R = TypeVar("R", bound=Result)


class Measurement:
    """The tasks of one study, run one after another on all ranks, into a run folder or memory.

    A study of one task has the run folder for itself; of `stages` each has a folder in it. What ends the run early, a
    signal or the limit of items, ends it for all tasks; the result is then masked, and not written.
    """

    def __init__(
        self,
        out: str | Path | None,
        *,
        stages: tuple[str, ...] = (),
        ranks_per_item: int = 1,
        limit_items: int | None = None,
        tolerance: Tolerance | None = None,
        progress: Callable[[Progress], None] | None = None,
        job: str = "",
    ) -> None:
        self.folder = None if out is None else Path(out)
        self._stages, self._ranks, self._left, self._tolerance = stages, ranks_per_item, limit_items, tolerance
        self._progress, self._job = progress, job
        self.found: dict[str, Stage] = {}  # what the tasks run so far left
        self.going = True  # whether nothing has ended the run early
        self._stopped = ""
        self._read_only = True  # as far as it is known
        self._kept: list[Path] = []
        if self.folder is not None and stages:
            folder = self.folder
            agree(world(), lambda: require_stages(folder, stages))

    def _place(self, name: str) -> Path | None:
        """The folder of a task; None where the run is in memory."""
        return self.folder if self.folder is None or not self._stages else self.folder / name

    def run(
        self,
        task: Task,
        *,
        ranks_per_item: int | None = None,
        recheck: float | None = None,
        known: Mapping[int, Row] | None = None,
        tolerant: bool = True,
        kept: Path | None = None,
    ) -> Stage:
        """Compute the rows of a task that are not there yet; see `run_task`, also for what is raised.

        `tolerant` says whether the result can do without items of this task; `kept` is a file or folder of states of
        items, which is removed with the end of the run.
        """
        name = task.describe().name
        if self._stopped:
            raise RunInterrupted(f"stopped by {self._stopped} before its {name}; the same call goes on from there")
        outcome = run_task(
            task,
            self._place(name),
            ranks_per_item=self._ranks if ranks_per_item is None else ranks_per_item,
            limit=self._left,
            known=known,
            progress=self._progress,
            job=self._job,
            recheck=recheck,
            tolerance=self._tolerance if tolerant else None,
        )
        if self._left is not None:
            self._left -= outcome.computed
        self.going = self.going and outcome.ended
        self._stopped = outcome.stopped or ""
        self._read_only = self._read_only and outcome.read_only
        if kept is not None:
            self._kept.append(kept)
        self.found[name] = Stage(task.describe(), outcome.rows, outcome.history)
        return self.found[name]

    def _left_before(self, folder: Path) -> dict[str, Stage]:
        """What earlier calls left of tasks that this one did not run."""
        lacking = [name for name in self._stages if name not in self.found]
        return {name: read_stage(folder / name) for name in lacking if (folder / name / "run.json").is_file()}

    def result(self, of: FromStages[R]) -> R:
        """The result of all tasks, written into the run folder once every item is done or left out.

        It holds what an earlier call has left there, too.
        """
        folder = self.folder
        if folder is not None and self._stages:  # rank 0 looks for all: ranks may see a file at different times
            self.found |= on_rank_0(lambda: self._left_before(folder))
        result = of({name: self.found[name] for name in self._stages or self.found if name in self.found})
        if folder is not None and self.going and not (self._read_only and self.found):
            if world().rank == 0:
                for path in self._kept:
                    discard(path)
            write_result(result.save, folder / RESULT)
        return result
