"""A file is read once, whatever is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import made
import pytest
from landscape_jobs.cli import app
from landscape_jobs.report.sources import report_run
from typer.testing import CliRunner

import landscape as ls
from landscape.files import hdf5
from landscape.opening.several import save_together


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the files that are read, one entry for each time."""
    found: list[Path] = []
    read = hdf5.read

    def counted(path: str | Path) -> hdf5.Group:
        found.append(Path(path))
        return read(path)

    monkeypatch.setattr(hdf5, "read", counted)
    return found


def single(folder: Path) -> Path:
    return made.surface().save(folder / "one.h5")


def together(folder: Path) -> Path:
    return save_together(folder / "several.h5", made.surface(), made.spectrum(), made.layers())


def merged(folder: Path) -> Path:
    return Path(__file__).resolve().parents[1] / "golden" / "version_d8328f9" / "sweep.h5"


FILES = (single, together, merged)


@pytest.mark.parametrize("make", FILES)
def test_opened_and_reported(make: Callable[[Path], Path], reads: list[Path], tmp_path: Path) -> None:
    file = make(tmp_path)
    ls.open(file)
    assert reads == [file]
    reads.clear()
    report_run(file, tmp_path / "page.html")
    assert reads == [file]


@pytest.mark.parametrize("make", FILES)
@pytest.mark.parametrize("words", [("show",), ("plot", "-q", "loss")])
def test_commands(words: tuple[str, ...], make: Callable[[Path], Path], reads: list[Path], tmp_path: Path) -> None:
    file = make(tmp_path)
    name = ["--run", "plane.seed_0_model.args.seed_0"] if make is merged and words[0] == "plot" else []
    if name:
        name[1] = hdf5.read(file).attributes["runs"].split()[0]
        reads.clear()
    picture = ["-o", str(tmp_path / "a.png")] if words[0] == "plot" else []
    done = CliRunner().invoke(app, [words[0], str(file), *words[1:], *name, *picture])
    assert done.exit_code == 0, done.output
    assert reads == [file]
