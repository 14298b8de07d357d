"""Paths that are not what a command takes: one plain line, the exit code of bad input, and nothing made."""

from __future__ import annotations

from pathlib import Path

import h5py
import made
import pytest
from landscape_jobs.cli import app
from landscape_jobs.codes import BAD_INPUT
from typer.testing import CliRunner

# What is there under a name -> how it is made
MADE = {
    "missing": None,
    "missing.h5": None,
    "n" * 300: None,
    "file/inside.h5": None,
    "folder": "folder",
    "folder.h5": "folder",
    "folder.toml": "folder",
    "file": b"x",
    "empty.h5": b"",
    "empty.toml": b"",
    "text.h5": b"no HDF5\n",
    "text.toml": b"no TOML here\n",
    "binary.toml": b"\xff\xfe\x00",
    "binary.csv": b"\xff\xfe\x00",
    "other.h5": "hdf5",
    "nowhere.h5": "link",
}
COMMANDS = {
    "run": (),
    "resume": (),
    "check": (),
    "submit": ("--dry-run",),
    "status": (),
    "watch": ("--every", "0.2"),
    "show": (),
    "plot": (),
    "report": (),
    "merge": ("-o", "merged.h5"),
    "topology": (),
    "corpus": (),
}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name, what in MADE.items():
        if isinstance(what, bytes):
            Path(name).write_bytes(what)
        elif what == "folder":
            Path(name).mkdir()
        elif what == "hdf5":
            with h5py.File(name, "w") as file:
                file["x"] = [1.0, 2.0]
        elif what == "link":
            Path(name).symlink_to("nothing")
    return [*MADE, ""]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_something_else_is_told_in_a_line(command: str, paths: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for path in paths:
        done = CliRunner().invoke(app, [command, path, *COMMANDS[command]])
        assert done.exit_code == BAD_INPUT, (path, done.output, done.exception)
        assert isinstance(done.exception, SystemExit), (path, done.exception)
        lines = done.output.strip().splitlines()
        assert len(lines) == 1, (path, done.output)
        assert lines[0].startswith("landscape: "), (path, done.output)
    assert sorted(tmp_path.rglob("*")) == before


JOB = """
[model]
factory = "no_nets:mlp"
[data]
factory = "no_nets:data"
[surface]
x = [-1, 1, 2]
[run]
out = "{out}"
"""


@pytest.mark.parametrize("out", ["file", "file/inside", "text.h5", "n" * 300])
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_run_folder_that_is_a_file_is_told_before_anything_is_made(command: str, out: str, paths: list[str]) -> None:
    Path("job.toml").write_text(JOB.format(out=out))
    done = CliRunner().invoke(app, [command, "job.toml", *COMMANDS[command]])
    assert done.exit_code == BAD_INPUT, done.output
    assert "no_nets" not in done.output  # it is not imported
    assert ("is not a folder" if len(out) < 300 else "File name too long") in done.output


@pytest.mark.parametrize("out", ["", "folder.h5", "file/inside.h5", "n" * 300 + ".h5"])
@pytest.mark.parametrize("command", ["plot", "report", "merge"])
def test_a_file_that_cannot_be_written_is_told_in_a_line(command: str, out: str, paths: list[str]) -> None:
    made.surface().save("good.h5")
    done = CliRunner().invoke(app, [command, "good.h5", "-o", out])
    assert done.exit_code == BAD_INPUT, (done.output, done.exception)
    assert done.output.startswith("landscape: "), done.output
    assert len(done.output.strip().splitlines()) == 1
