"""Watching a run in a terminal: what the picture says of the values, and when it ends."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from landscape_jobs.cli import app
from landscape_jobs.cluster.queue import Queue
from landscape_jobs.status.status import Reader
from landscape_jobs.status.watch import watch_run
from landscape_jobs.terminal.pictures import picture
from rich.console import Console
from test_report import BAD, KINDS, bowl, path, spectrum, surface, with_holes
from typer.testing import CliRunner

import landscape as ls


def plain(width: int = 90) -> Console:
    """A console without colours, whose text is kept."""
    return Console(file=io.StringIO(), width=width, height=40)


def drawn(result: Any, console: Console | None = None) -> list[str]:
    """The lines of a picture without colours."""
    console = console or plain()
    shown = picture(result, console)
    assert shown is not None
    return shown.plain.splitlines()


def test_contours_stand_where_their_values_are() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    title, *rows, axes, scale = drawn(surface(values))
    assert title == "loss, 6 of 6 points known"
    cells = [row[11:] for row in rows]
    assert rows[0].startswith("         1 ")
    assert rows[-1].startswith("        -1 ")
    assert cells[0][-1] == "@"  # the largest value, at the largest x and y
    assert cells[-1][0] == "."
    assert {row[0] for row in cells} == set(".-+")
    assert [cells[0][0], cells[len(cells) // 2][0], cells[-1][0]] == ["+", "-", "."]
    assert len({len(row) for row in cells}) == 1
    assert axes.strip() == "x from -1 to 1, y upwards"
    assert scale.endswith("1 to 9")


def test_what_has_no_value_is_told_apart() -> None:
    lines = drawn(with_holes())
    cells = [line[11:] for line in lines[1:-2]]
    assert cells[-1].startswith("!")
    assert re.search(r"[.:]/+$", cells[len(cells) // 2])
    assert "'/' not computed 10" in lines[-1]
    assert "'!' NaN or Inf 3" in lines[-1]


def test_colours_of_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=90, height=40, force_terminal=True, color_system="truecolor")
    shown = picture(with_holes(), console)
    assert shown is not None
    colours = {str(span.style) for span in shown.spans}
    for known in ("#fde725", "#4e4e54", "#d55e00"):  # the highest value, not computed, NaN or Inf
        assert any(f"on {known}" in colour for colour in colours), known
    assert max(map(len, shown.plain.splitlines())) <= 90


def test_a_profile_is_as_high_as_its_values() -> None:
    lines = drawn(surface(np.array([0.0, 8.0, 3.0])))
    columns = [[line[11:].ljust(72)[k] for line in lines[1:-1]] for k in (0, 30, 60)]
    heights = [sum(letter != " " for letter in column) for column in columns]
    assert heights == [1, 10, 4]
    assert lines[1].strip().startswith("8")
    log = drawn(surface(10.0 ** np.arange(4)))
    assert "log scale" in log[-1]
    heights = [sum(line[11:].ljust(72)[k] != " " for line in log[1:-1]) for k in (0, 25, 40, 60)]
    assert heights == [1, 4, 7, 10]
    gaps = drawn(replace(path(), values={"loss": np.where(np.arange(9) == 4, np.nan, 1.0)}))
    assert "·" in gaps[-2]
    assert "!" in gaps[-2]
    assert gaps[-1].strip() == "t from 0 to 1, · not computed 1, ! NaN or Inf 1"


@pytest.mark.parametrize("system", ["standard", "windows"])
def test_a_terminal_of_few_colours_has_letters(system: Literal["standard", "windows"]) -> None:
    console = Console(file=io.StringIO(), width=90, height=40, force_terminal=True, color_system=system)
    cells = "".join(line[11:] for line in drawn(with_holes(), console)[1:-2])
    assert set(".:-+*#@/!") <= set(cells)


@pytest.mark.parametrize("name", [*KINDS, *BAD])
def test_everything_is_drawn_within_the_terminal(name: str) -> None:
    for console in (plain(40), Console(file=io.StringIO(), width=40, height=10, force_terminal=True)):
        shown = picture({**KINDS, **BAD}[name](), console)
        assert (shown is None) == (name in TABLES)
        if shown is not None:
            assert max(map(len, shown.plain.splitlines()[1:-2]), default=0) <= 40
            assert ("no finite value" in shown.plain) == (name in EMPTY)


TABLES = {"spectrum", "layers", "curve", "connectivity", "agreement"} | {
    f"nothing of {kind}" for kind in ("a sweep", "layers", "a spectrum")
}
EMPTY = {"all masked", "all NaN", "path of NaN", "nothing of a path"}


def test_a_large_surface_is_thinned_to_the_screen() -> None:
    lines = drawn(surface(bowl(500, 400)))
    assert len(lines) < 26
    assert max(map(len, lines)) < 90


@pytest.fixture
def objective() -> ls.Objective:
    """A linear model on twenty points."""
    torch.manual_seed(0)
    return ls.Objective(torch.nn.Linear(3, 2), data=(torch.randn(20, 3), torch.arange(20) % 2), device="cpu")


@pytest.fixture
def half(objective: ls.Objective, tmp_path: Path) -> Path:
    """A run of 12 points, of which 5 are computed."""
    plane = ls.random_plane(objective, seed=0)
    ls.measure_surface(objective, plane, (-1, 1, 4), (-1, 1, 3), out=tmp_path / "run", limit_items=5)
    return tmp_path / "run"


def test_without_a_terminal_it_is_told_once(half: Path) -> None:
    done = CliRunner().invoke(app, ["watch", str(half)])
    assert done.exit_code == 0
    assert done.output.count("loss, 5 of 12 points known") == 1
    assert "stopped" in done.output
    assert "5 of 12" in done.output.partition("rows")[2]


def test_it_goes_on_until_the_run_is_complete(half: Path, objective: ls.Objective) -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, height=50, force_terminal=True)
    waited: list[float] = []
    reader = Reader([half], Queue({}))
    real = reader.read
    states = iter([True, True])

    def read() -> Any:
        """As if it ran, twice."""
        report = real()
        running = next(states, False)
        state = "running" if running else report.runs[0].state
        return replace(report, runs=(replace(report.runs[0], state=state),))

    reader.read = read  # type: ignore[method-assign]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) < 5, "it does not end"
        plane = ls.random_plane(objective, seed=0)
        limit = None if len(waited) == 2 else 3
        ls.measure_surface(objective, plane, (-1, 1, 4), (-1, 1, 3), out=half, limit_items=limit)

    watch_run(half, reader, console, 2.5, sleep=sleep)
    assert waited == [2.5, 2.5]
    known = [int(n) for n in re.findall(r"(\d+) of 12 points known", text.getvalue())]
    assert list(dict.fromkeys(known)) == [5, 8, 12]
    assert "complete" in text.getvalue()


def test_eigenvalues_so_far_stand_in_a_table(objective: ls.Objective, tmp_path: Path) -> None:
    found = ls.measure_spectrum(objective, k=2, trace=True, out=tmp_path / "run")
    done = CliRunner().invoke(app, ["watch", str(tmp_path / "run")])
    assert done.exit_code == 0
    assert f"{found.eigenvalues[0]:.6g}" in done.output
    assert "trace" in done.output
    assert "complete" in done.output
    assert picture(spectrum(), plain()) is None


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    def said(*arguments: object) -> Iterator[str]:
        done = CliRunner().invoke(app, ["watch", *map(str, arguments)])
        assert done.exit_code == 2
        yield done.output

    assert "does not exist" in next(said(tmp_path / "nowhere"))
    assert "is not a run folder" in next(said(tmp_path)) or "holds no" in next(said(tmp_path))


def test_the_folder_of_a_sweep_shows_the_table_of_its_runs(tmp_path: Path) -> None:
    cell = {"number": 0, "label": "seed=0", "folder": "seed=0-00", "text": "0", "changes": {"plane.seed": 0}}
    index = {"format": 1, "sweep": "", "cells": [cell], "written": 0.0}
    (tmp_path / "sweep.json").write_text(json.dumps(index))
    done = CliRunner().invoke(app, ["watch", str(tmp_path)])
    assert done.exit_code == 0
    assert "seed=0" in done.output
    assert "not begun" in done.output
