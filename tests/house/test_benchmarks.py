"""The command that runs all benchmarks: its table, and what becomes of parts and peers that fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GUARD

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import bench_all  # noqa: E402
import benchmarks  # noqa: E402


def test_rows_are_read_as_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    benchmarks.print_heading()
    faster = benchmarks.in_turn(lambda: None, lambda: None, 2, clock=iter((0, 1, 1, 5, 5, 7, 7, 11)).__next__)
    benchmarks.print_row("a | b", "peer", faster, ">= 1")
    print("2 | 3 is no row")  # noqa: T201
    benchmarks.print_row("bytes", "", "3", "", "")
    assert bench_all.rows_in(capsys.readouterr().out) == [
        ["a / b", "peer", "3", "2 to 4", ">= 1", "1.5 s against 4 s"],
        ["bytes", "", "3", "", "", ""],
    ]


def test_ratios_are_over_either_time() -> None:
    assert benchmarks.ratios_of([2.0], [6.0]) == (3.0,)
    assert benchmarks.ratios_of([6.0], [2.0], "theirs") == (3.0,)


def test_the_page_keeps_what_is_around_the_table() -> None:
    page = f"before\n{bench_all.BEGIN}\nold\n{bench_all.END}\nafter\n"
    once = bench_all.put(page, "new")
    assert once == f"before\n{bench_all.BEGIN}\n\nnew\n\n{bench_all.END}\nafter\n"
    assert bench_all.put(once, "new") == once
    for wrong in ("", page + page, f"{bench_all.END}{bench_all.BEGIN}"):
        with pytest.raises(ValueError, match="once each, in this order"):
            bench_all.put(wrong, "new")
    assert bench_all.put((ROOT / "BENCHMARKS.md").read_text(encoding="utf-8"), "new")


def test_the_heading_counts_parts_and_minutes() -> None:
    assert "commit abc: 1 part in 0.3 minutes. " in bench_all.heading("abc", 1, 19.0)
    assert "commit abc: 23 parts in 25.5 minutes. " in bench_all.heading("abc", 23, 1530.0)


def test_parts_that_fail_or_hang_are_told_and_keep_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts").mkdir()
    row = "print('| a | b | 2 | | | |', flush=True)\n"
    for name, more in (
        ("good", ""),
        ("fails", "raise ValueError('no such thing | here')"),
        ("hangs", "import time; time.sleep(60)"),
    ):
        (tmp_path / "scripts" / f"{name}.py").write_text(row.replace(" | | | |", " |  |  |  |") + more)
    monkeypatch.setattr(bench_all, "ROOT", tmp_path)
    found = {
        name: bench_all.run(bench_all.Part(name, name), sys.executable, tmp_path, limit, quick=False)
        for name, limit in (("good", GUARD), ("fails", GUARD), ("hangs", 3.0))
    }
    good = ["a", "b", "2", "", "", ""]
    assert found["good"] == [["good", *good]]
    assert found["fails"] == [
        ["fails", *good],
        ["fails", "", "", "", "", "", "failed: ValueError: no such thing / here"],
    ]
    assert found["hangs"] == [["hangs", *good], ["hangs", "", "", "", "", "", "ended after 3 s"]]
    assert "not run" in bench_all.run(bench_all.Part("good", "good"), sys.executable, tmp_path, 0.0, quick=False)[0][-1]


def test_a_peer_that_pip_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made_folder(home: Path, **_: object) -> None:
        (home / "own").mkdir(parents=True, exist_ok=True)

    def path(*_: object, vars: dict[str, str] | None = None) -> str:
        return f"{vars['base']}/own" if vars else "ours"

    monkeypatch.setattr("venv.create", made_folder)
    monkeypatch.setattr("sysconfig.get_path", path)
    said = (1, "x\nERROR: none | found\ny"), (0, "")
    answers = [subprocess.CompletedProcess([], code, "", error) for code, error in said]
    monkeypatch.setattr("subprocess.run", lambda *_, **__: answers.pop(0))
    refused = bench_all.environment(("peer==1",), tmp_path)
    assert isinstance(refused, bench_all.Absent)
    assert refused == "not installed: ERROR: none / found"
    made = bench_all.environment(("peer==1",), tmp_path)  # asked again, as it was not there
    assert made == str(tmp_path / "peer_1" / "bin" / "python")
    assert bench_all.environment(("peer==1",), tmp_path) == made  # and made once
    assert bench_all.environment((), tmp_path, "ours") == "ours"


def test_parts_are_those_of_the_scripts() -> None:
    names = [part.name for part in bench_all.PARTS]
    assert len(set(names)) == len(names)
    for part in bench_all.PARTS:
        script = (ROOT / "scripts" / f"{part.script}.py").read_text(encoding="utf-8")
        asked = [word for word in part.words if word[0].islower()]
        for word in asked:
            assert f'"{word}"' in script or f"def {word}(" in script or f"part_{word}(" in script, (part.name, word)
        assert '"--quick"' in script
        assert all("==" in requirement for requirement in part.peer)
