"""A task of another study, whole, inside one item."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from landscape.results.stages import Stage
from landscape.run.comm import Communicator
from landscape.run.store import History
from landscape.run.task import Description, ItemStopped, Planned, Row, Rows, Task, checked_row


def run_inside(
    task: Task,
    group: Communicator,
    report: Callable[[str], None] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> Stage:
    """All items of a task, and its further rounds, one after the other on the ranks of `group`.

    `report` gets how far it is. Raises ItemStopped when `stopping` says so on any rank.
    """
    description = task.describe()
    found: list[Row] = []
    count = task.count
    while True:
        if isinstance(task, Planned):
            task.plan(rows_of(found, description, count))
        for item in range(len(found), count):
            if stopping is not None and any(group.gather_all(stopping())):
                raise ItemStopped
            if report is not None:
                report(f"{description.name} {item + 1}")
            found.append(checked_row(task.evaluate(item, group), description.columns))
        rows = rows_of(found, description, count)
        more = task.extend(rows)
        if more <= count:
            return Stage(description, rows, History())
        count = more


def rows_of(found: Sequence[Row], description: Description, count: int) -> Rows:
    """Rows of `count` items: those found, and the others empty."""
    rows = Rows.empty(description.columns, count)
    for item, row in enumerate(found):
        rows.done[item] = True
        for name, value in row.items():
            rows.columns[name][item] = value
    return rows
