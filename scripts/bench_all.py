"""All benchmarks, each in a process of its own and beside its peer; one table, written into BENCHMARKS.md.

`scripts/bench` starts this in the project's environment. A peer gets an environment in the folder of peers, made once:
its own packages first, then the project's, so that torch is the same wherever the peer allows it. A peer that cannot be
installed is told in the table, and so is a part that fails or takes too long; the others run on.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EACH, ALL = 180.0, 1800.0  # seconds that a part, and all parts, may take
BEGIN, END = "<!-- scripts/bench begins -->", "<!-- scripts/bench ends -->"
COLUMNS = ("part", "what", "against", "ratio", "spread", "asked", "times")
INSTALLING = 900.0  # seconds


@dataclass(frozen=True)
class Part:
    """A script and its arguments, and what pip installs for it."""

    name: str
    script: str
    words: tuple[str, ...] = ()
    peer: tuple[str, ...] = ()  # requirements
    started: bool = False  # the script starts the peer's Python itself: --peer PYTHON


PARTS = (
    Part("points", "bench_surface", ("--only", "tool")),
    Part("loss-landscapes", "bench_surface", ("--only", "loss-landscapes"), ("loss-landscapes==3.0.6",)),
    Part("landscaper", "bench_surface", ("--only", "landscaper"), ("landscaper==1.3.1",)),
    Part("ranks", "bench_surface", ("--only", "ranks")),
    Part("engine", "bench_surface", ("--only", "rows", "memory")),
    Part("precision", "bench_precision", ("--part", "digits", "conv", "--points", "31", "--images", "4000")),
    Part("pyhessian", "bench_spectrum", ("--images", "64", "--patience", "0", "--only", "product", "eigen")),
    Part("trace", "bench_spectrum", ("--images", "64", "--only", "trace")),
    Part(
        "curvlinops",
        "bench_spectrum",
        ("--images", "64", "--only", "scipy"),
        ("curvlinops-for-pytorch==3.0.1",),
    ),
    Part(
        "eigenthings", "bench_spectrum", ("--images", "64", "--only", "eigenthings"), ("hessian-eigenthings==1.0.0a5",)
    ),
    Part("curve", "bench_curve", ("--only", "step", "align")),
    Part("path", "bench_curve", ("--only", "path")),
    Part("training", "bench_phases", ("--only", "step", "published", "cell")),
    Part("seeds", "bench_phases", ("--only", "together")),
    Part("weightwatcher", "bench_weights", ("--only", "fit", "resnet20", "resnet50", "vit"), ("weightwatcher==0.7.7",)),
    Part("shuffles", "bench_weights", ("--only", "full20"), ("weightwatcher==0.7.7",)),
    Part("powerlaw", "bench_weights", ("--only", "truncated"), ("powerlaw==1.5",)),
    Part("spectra", "bench_measures", ("--only", "spectra")),
    Part("evidence", "bench_evidence", ("--samples", "800"), ("GPy==1.15.0",), started=True),
    Part("opacus", "bench_coherence", ("--images", "500", "--only", "resnet20"), ("opacus==1.6.0",)),
    Part("coherence", "bench_coherence", ("--images", "1000", "--only", "gpt2", "lstm", "winsorised")),
    Part("basin", "bench_basin"),
    Part("devinterp", "bench_llc", ("--draws", "300"), ("devinterp==2.0.1",), started=True),
)

WITHOUT = {"NNGeom": "not on PyPI: the package of that name there is another one"}  # peers that pip does not find


def main() -> None:
    """Run the parts asked for, print the table, and write it where all ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that all runs")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART")
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    parser.add_argument("--peers", type=Path, default=cache() / "peers", help="folder of the peers' environments")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    given = parser.parse_args()
    chosen = [part for part in PARTS if given.only is None or part.name in given.only]
    if given.list:
        for part in PARTS:
            print(f"{part.name:16} {part.script} {' '.join(part.words)}  {' '.join(part.peer)}")
        return
    pythons = {part.peer: environment(part.peer, given.peers) for part in chosen}
    rows: list[list[str]] = []
    commit, began = revision(), time.perf_counter()
    for part in chosen:
        left = ALL - (time.perf_counter() - began)
        python = pythons[part.peer]
        note(f"{part.name}: {python if isinstance(python, Absent) else part.script}")
        if isinstance(python, Absent):
            rows.append([part.name, "", " ".join(part.peer), "", "", "", str(python)])
            continue
        rows += run(part, python, given.shared, min(EACH, left), quick=given.quick)
    if given.only is None:
        rows += [["", "", peer, "", "", "", reason] for peer, reason in WITHOUT.items()]
    text = table(rows, heading(commit, len(chosen), time.perf_counter() - began))
    print(text)
    if given.quick or given.only:
        return
    page = ROOT / "BENCHMARKS.md"
    page.write_text(put(page.read_text(encoding="utf-8"), text), encoding="utf-8")
    note(f"written to {page.name}")


def cache() -> Path:
    """Where what can be made again lies."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "landscape"


def note(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


# -- environments ------------------------------------------------------------------------------------------------------


class Absent(str):
    """Why a peer is not there."""


def environment(peer: Sequence[str], folder: Path, python: str = sys.executable) -> str:
    """The Python of an environment with these requirements, made where it is missing; Absent where pip refuses."""
    if not peer:
        return python
    home = folder.resolve() / re.sub(r"[^\w.-]+", "_", "_".join(peer))
    made, stamp = home / "bin" / "python", home / "installed"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    # Behind its own packages those of this environment: what the peer does not pin is the same, and torch is there.
    behind = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    if stamp.exists():
        (own / "behind.pth").write_text(behind)  # it may have been made by another checkout
        return str(made)
    note(f"installing {' '.join(peer)}")
    try:
        venv.create(home, clear=True, with_pip=True)
        (own / "behind.pth").write_text(behind)
        words = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer]
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALLING, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Absent(f"no environment: {one_line(str(error))}")
    if done.returncode:
        return Absent(f"not installed: {why(done.stderr)}")
    stamp.write_text("\n".join(peer))
    return str(made)


def why(text: str) -> str:
    """The line of pip or Python that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return one_line(telling[-1] if telling else "no word why")


def one_line(text: str, length: int = 160) -> str:
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= length else f"{text[:length]}..."


# -- parts -------------------------------------------------------------------------------------------------------------


def run(part: Part, python: str, shared: Path, limit: float, *, quick: bool) -> list[list[str]]:
    """The rows that a part prints, and one more where it fails or is ended after `limit` seconds."""
    if limit <= 0:
        return [[part.name, "", "", "", "", "", f"not run: all parts had {ALL:.0f} s"]]
    starter = sys.executable if part.started else python
    words = [starter, str(ROOT / "scripts" / f"{part.script}.py"), *part.words]
    words += ["--shared", str(shared), *(["--quick"] if quick else []), *(["--peer", python] if part.started else [])]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels", "jobs"))
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **one, "PYTHONPATH": paths},
        start_new_session=True,  # so that its ranks and workers end with it
    )
    ended = ""
    try:
        out, error = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        ended = f"ended after {limit:.0f} s"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, error = process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    note(f"{part.name}: {time.perf_counter() - began:.0f} s, of a processor {used:.0f} s")
    found = [[part.name, *cells] for cells in rows_in(out)]
    if not ended and process.returncode:
        ended = f"failed: {why(error)}"
    if not ended and not found:
        ended = "printed no row"
    return [*found, [part.name, "", "", "", "", "", ended]] if ended else found


def rows_in(text: str) -> list[list[str]]:
    """The cells of the rows of a table with a heading, and nothing else that was printed."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and line.endswith(" |")]
    cells = [re.split(r" \| ", line[2:-2]) for line in lines]
    wide = len(COLUMNS) - 1
    return [[cell.strip() for cell in row] for row in cells if len(row) == wide and row[0] != COLUMNS[1]]


# -- the table ---------------------------------------------------------------------------------------------------------


def revision() -> str:
    """The commit, as it is when the first part begins."""
    words = ("git", "describe", "--always", "--dirty=+changes", "--exclude=*")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def heading(commit: str, parts: int, took: float) -> str:
    from benchmarks import machine

    about = re.sub(r", \d+ thread\(s\)$", "", machine())
    counted = f"{parts} part{'s' * (parts != 1)}"
    return f"`scripts/bench` at commit {commit}: {counted} in {took / 60:.1f} minutes. {about}, one thread."


def table(rows: Sequence[Sequence[str]], about: str) -> str:
    """All rows below each other."""
    lines = [about, "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def put(page: str, text: str) -> str:
    """The page with this text between its marks. Raises ValueError where it does not have them once each, in order."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs the lines {BEGIN} and {END} once each, in this order")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    return f"{before}{BEGIN}\n\n{text}\n\n{after}"


if __name__ == "__main__":
    main()
