"""The check that a machine with a GPU runs, here on the CPU at its smallest: all parts run, and faults are told."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import gpu_check  # noqa: E402
import gpu_parts  # noqa: E402


def check() -> gpu_check.Check:
    return gpu_check.Check(torch.device("cpu"), quick=True)


def test_all_parts_run_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the device is the CPU float64 agrees to the bit; the table is printed and written."""
    out = tmp_path / "table.md"
    assert gpu_check.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert tuple(dict.fromkeys(row[0].removeprefix("| ") for row in rows)) == gpu_check.NAMES == tuple(gpu_parts.PARTS)
    exact = [row[3] for row in rows if "float64" in row[1]]
    assert len(exact) == 5
    assert set(exact) == {"0"}
    assert "losses a second" in text
    assert "FAILED" not in text


def test_a_part_that_fails_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(found: gpu_check.Check) -> None:
        raise RuntimeError("CUDA error:\nout of | memory")

    def slow(found: gpu_check.Check) -> None:
        found.agree("a value", "another", math.nan, 1e-3)
        time.sleep(60)

    def good(found: gpu_check.Check) -> None:
        found.agree("a value", "another", 0.0, 1e-3)

    monkeypatch.setattr(gpu_parts, "PARTS", {"surface": broken, "spectrum": slow, "curve": good})
    monkeypatch.setattr(gpu_check, "EACH", 1.0)
    out = tmp_path / "table.md"
    given = ["--device", "cpu", "--quick", "--only", "surface", "spectrum", "curve", "--out", str(out)]
    assert gpu_check.main(given) == 1
    text = out.read_text(encoding="utf-8")
    assert "**FAILED**: RuntimeError: CUDA error: out of / memory" in text
    assert "**nan: FAILED**" in text
    assert "TimeoutError: ended after 1 s" in text
    assert "| curve | a value | another | 0 |" in text


def test_gaps_are_of_the_largest_value_and_nothing_is_lost_in_them() -> None:
    assert gpu_parts.gap([1.0, 4.2], [1.0, 4.0]) == pytest.approx(0.05)
    assert math.isnan(gpu_parts.gap([1.0, math.nan], [1.0, 4.0]))
    found = check()
    found.agree("what", "against", 0.002, 0.001)
    found.agree("what", "against", 0.001, 0.001)
    assert ["FAILED" in row[3] for row in found.rows] == [True, False]


def test_what_is_missing_and_not_used_is_stood_in_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pip is asked for all of it; without what is used the check does not begin."""
    asked: list[str] = []

    def run(words: list[str], **_: Any) -> Any:
        asked.append(words[-1])
        return subprocess.CompletedProcess(words, 1, "", "ERROR: no network")

    lacking = {"scipy", "annotated_types"}
    monkeypatch.setattr(gpu_check, "missing", lambda names: [name for name in names if name in lacking])
    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    stood_in: list[str] = []
    monkeypatch.setattr(gpu_check, "stand_in", stood_in.append)
    assert gpu_check.provide(tmp_path) == ["scipy"]
    assert asked == ["scipy", "annotated-types"]
    assert stood_in == ["annotated_types"]


def test_a_stand_in_is_imported_called_and_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nowhere", "nowhere.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    gpu_check.stand_in("nowhere")
    import nowhere.torch  # type: ignore[import-not-found]
    from nowhere import SomeError  # type: ignore[import-not-found]

    assert nowhere.torch.load_file(1, two=2) is not None
    with pytest.raises(SomeError):
        raise SomeError("text")


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_check"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "no GPU" in done.stderr
    assert "--device cpu --quick" in done.stderr
