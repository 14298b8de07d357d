"""What needs a GPU, checked on one: values against the CPU's, then speeds as ratios; `scripts/gpu_check` starts it.

    scripts/gpu_check [--device cuda|cpu] [--quick] [--only PART ...] [--out FILE]

Values: surfaces, spectra and curves in float64 and float32 against the same in float64 on the CPU. Speeds: medians of
repeats in turn, the other's time over ours (above 1: ours is faster). A part that fails or takes too long does not stop
the others. The table is printed, and written to FILE after every part.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ALL, EACH = 330.0, 100.0  # seconds for everything, and for one part
NEEDED = ("torch", "numpy", "scipy")
BESIDE = ("h5py", "safetensors", "annotated_types")  # imported with the engine, and not used by what is checked here
NAMES = ("surface", "spectrum", "curve", "settings", "waits", "points", "graphs", "products", "steps")
COLUMNS = ("part", "what", "against", "measured", "spread", "asked", "times")


@dataclass
class Check:
    """The rows that the parts have found."""

    device: Any
    quick: bool
    rows: list[list[str]] = field(default_factory=list)
    workers: int = 2  # of the peer's loader
    part: str = ""
    failed: list[str] = field(default_factory=list)

    def agree(self, what: str, against: str, gap: float, asked: float) -> None:
        """A row of values that are to be the same; the part fails where they are further apart, or NaN."""
        good = gap <= asked
        if not good:
            self.failed.append(self.part)
        self.add(what, against, f"{gap:.2g}" if good else f"**{gap:.2g}: FAILED**", asked=f"<= {asked:g}")

    def ratio(self, what: str, against: str, found: Any, note: str = "") -> None:
        """A row of a `benchmarks.Ratios`."""
        from benchmarks import told

        low, high = min(found.values), max(found.values)
        times = f"{told(found.ours)} against {told(found.theirs)}{note and f'; {note}'}"
        self.add(what, against, f"{found.median:.3g}", f"{low:.3g} to {high:.3g}", times=times)

    def add(self, what: str, against: str, measured: str, spread: str = "", asked: str = "", times: str = "") -> None:
        """A row in words."""
        cells = [self.part, what, against, measured, spread, asked, times]
        self.rows.append([" ".join(cell.replace("|", "/").split()) for cell in cells])

    def run(self, name: str, action: Callable[[Check], None], limit: float) -> None:
        """One part; what it raises, or that it took too long, is a row."""
        self.part = name
        try:
            if limit <= 0:
                raise TimeoutError(f"not begun: all parts have {ALL:.0f} s")
            with ended_after(limit):
                action(self)
        except Exception as error:  # the other parts go on
            self.failed.append(name)
            self.add("", "", f"**FAILED**: {type(error).__name__}: {str(error)[:300]}")


@contextmanager
def ended_after(limit: float) -> Iterator[None]:
    """Inside, TimeoutError once so many seconds are over."""

    def end(*_: object) -> None:
        raise TimeoutError(f"ended after {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- packages ----------------------------------------------------------------------------------------------------------


class StandIn(Exception):  # noqa: N818  (it stands where an error is caught as well as where a function is called)
    """Whatever is asked of a package that is missing, and not used here."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


def stand_in(name: str) -> None:
    """Let a package be imported that is not there."""

    def found(attribute: str) -> type[StandIn]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return StandIn

    whole, part = types.ModuleType(name), types.ModuleType(f"{name}.torch")
    for module in (whole, part):
        vars(module).update(__getattr__=found, __path__=[])
        sys.modules[module.__name__] = module
    vars(whole)["torch"] = part


def missing(names: Sequence[str]) -> list[str]:
    """Those that cannot be imported."""
    importlib.invalidate_caches()
    return [name for name in names if importlib.util.find_spec(name) is None]


def note(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def provide(folder: Path) -> list[str]:
    """Install what is missing into a folder behind all others; the packages without which nothing can be done."""
    absent = missing((*NEEDED[1:], *BESIDE))
    if absent:
        note(f"missing: {', '.join(absent)}; asking pip")
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        words += ["--retries", "0", "--timeout", "10", "--target", str(folder)]
        for name in absent:  # one by one: one that is not found does not keep the others away
            done = subprocess.run([*words, name.replace("_", "-")], capture_output=True, text=True, check=False)
            if done.returncode:
                note(f"pip does not install {name}: {(done.stderr.strip().splitlines() or ['no word why'])[-1][:160]}")
        sys.path.append(str(folder))
    for name in missing(BESIDE):
        note(f"{name} is missing, and not used here: something stands in for it")
        stand_in(name)
    return missing(NEEDED)


# -- the table ---------------------------------------------------------------------------------------------------------


def heading(device: Any, took: float) -> str:
    """Where and when: device, driver, versions."""
    import platform

    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU: on the CPU"
    return (
        f"`scripts/gpu_check` in {took:.0f} s: {name}, driver {driver()}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores."
    )


def driver() -> str:
    """The version of the GPU's driver."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.strip().splitlines()[0] if told.strip() else "unknown"


def table(rows: Sequence[Sequence[str]], about: str) -> str:
    """All rows below each other."""
    lines = [about, "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts, print the table, and write it after every part; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, once: to see that all runs")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="PART")
    parser.add_argument("--out", type=Path, help="file for the table; by default $OUT/gpu_check.md where OUT is set")
    given = parser.parse_args(words)
    began = time.monotonic()
    if missing(NEEDED[:1]):
        note("torch is missing: this needs a Python that has it; say which by PYTHON=")
        return 2
    import torch

    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        note(f"no GPU: torch {torch.__version__} sees none; --device cpu --quick runs all parts on the CPU")
        return 3
    out = given.out or (Path(os.environ["OUT"]) / "gpu_check.md" if os.environ.get("OUT") else None)
    with tempfile.TemporaryDirectory() as folder:
        if lacking := provide(Path(folder)):
            note(f"missing: {', '.join(lacking)}; install them for {sys.executable}")
            return 2
        from gpu_parts import PARTS  # which loads the engine

        check = Check(device, given.quick, workers=0 if given.quick else 2)
        for name in given.only:
            note(name)
            check.run(name, PARTS[name], min(EACH, ALL - (time.monotonic() - began)))
            text = table(check.rows, heading(device, time.monotonic() - began))
            if out is not None:
                out.write_text(f"{text}\n", encoding="utf-8")
    print(text)
    if check.failed:
        note(f"failed: {', '.join(dict.fromkeys(check.failed))}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
