"""The page that adds a study: in a copy of the engine its files and its few new lines give all that a study has."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import test_order
from test_manual import DOCS, ROOT, Block, blocks

PAGE = DOCS / "adding-a-study.md"
FOLDER = "landscape/studies/scaling/"
COPIED = {
    "landscape": "landscape",
    "kernels/landscape_kernels": "landscape_kernels",
    "jobs/landscape_jobs": "landscape_jobs",
}

# What runs in the copy: the Python of the page, each of its commands, and what must hold afterwards.
PROGRAM = """
import json, runpy, sys, warnings
import numpy as np
import torch
from typer.testing import CliRunner

warnings.simplefilter("error")
used = runpy.run_path("use.py")
from landscape_jobs.cli import app
import landscape as ls

for code, *words in json.loads(sys.argv[1]):
    torch.manual_seed(0)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code, (words, done.exit_code, done.output, done.exception)
    print(" ".join(words), done.output, sep="\\n")

scaling, job = used["scaling"], ls.open("runs/job")
assert isinstance(scaling, ls.Scaling) and scaling.complete and job.complete
assert job.attributes["attempts"][1]["ended"]
for name, values in scaling.values.items():
    assert np.array_equal(values, job.values[name]) and np.array_equal(values, ls.open("runs/scaling").values[name])
objective = used["objective"]
at = objective.evaluate(float(scaling.scale[3]) * objective.theta)["loss"]
assert float(at) == scaling.values["loss"][3] and at.stderr == scaling.stderr["loss"][3]
assert 0.5 < scaling.best() <= 2 and scaling.best() == scaling.scale[scaling.values["loss"].argmin()]
assert list(scaling.to_pandas()) == ["scale", "loss", "loss_stderr", "accuracy", "accuracy_stderr", "computed"]
assert scaling.to_xarray()["loss"].dims == ("scale",)
assert "lowest loss" in scaling._repr_html_()
ls.measure_scaling(objective, (0.5, 2, 4), limit_items=2).plot()
print("all of it")
"""


def test_one_folder_one_row_and_the_names(tmp_path: Path) -> None:
    engine, work = tmp_path / "engine", tmp_path / "work"
    for source, target in COPIED.items():
        # Compiled files come along, but for those that another process is writing.
        shutil.copytree(ROOT / source, engine / target, ignore=shutil.ignore_patterns("*.pyc.*"))
    before = {path: path.read_bytes() for path in engine.rglob("*") if path.is_file()}
    page = [block for block in blocks(PAGE) if block.caption]
    for block in page:
        put(block, (engine if block.caption.startswith("landscape/") else work) / block.caption)
    ours = engine / FOLDER
    changed = {path for path in engine.rglob("*") if path.is_file() and before.get(path) != path.read_bytes()}
    edited = {path.relative_to(engine).as_posix() for path in changed if ours not in path.parents}
    assert edited == {"landscape/__init__.py", "landscape/studies/table.py"}

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, commands()],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(engine), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all of it\n")
    assert (work / "job.png").is_file()
    assert "scale of the parameters" in (work / "scaling.html").read_text(encoding="utf-8")


def put(block: Block, path: Path) -> None:
    """Write a file of the page, or add the new lines of a diff to the file that is there."""
    if block.language != "diff":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text + "\n", encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    for hunk in block.text.split("\n@@\n"):
        lines = hunk.splitlines()
        there = "".join(f"{line[1:]}\n" for line in lines if line.startswith(" "))
        assert text.count(there) == 1, f"{block.caption} has no {there!r}, or more than one"
        text = text.replace(there, "".join(f"{line[1:]}\n" for line in lines))
    path.write_text(text, encoding="utf-8")


def commands() -> str:
    """[[exit code, word, ...], ...] of the command lines of the page, as JSON."""
    found = []
    for block in blocks(PAGE):
        for line in block.text.splitlines() if block.language == "sh" else ():
            code = re.search(r"# exit code (\d)", line)
            found.append([int(code[1]) if code else 0, *shlex.split(line, comments=True)[1:]])
    return json.dumps(found)


def test_its_files_keep_the_order_of_the_house() -> None:
    new = {
        test_order.name_of(block.caption): ast.parse(block.text)
        for block in blocks(PAGE)
        if block.caption.startswith(FOLDER)
    }
    assert len(new) == 7
    for check in (test_order.upward, test_order.between_studies):
        assert check({**test_order.MODULES, **new}) == []
