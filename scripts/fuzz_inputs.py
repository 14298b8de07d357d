"""Broken inputs made at random: job files, checkpoints, result files and run folders, given to the command `landscape`.

    python scripts/fuzz_inputs.py [COUNT] [FIRST]

COUNT trials (500), the first with the seed FIRST (0). Each must end in time, with the exit code 0, 2, 3 or 4 and
without a traceback. What does not is told with its seed: COUNT 1 and FIRST that seed make it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import torch
from landscape_jobs.cli import app

LIMIT = 60  # seconds of a trial
GOOD = (0, 2, 3, 4)
NETS = """
import torch
from torch import nn


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def data():
    torch.manual_seed(1)
    return torch.randn(8, 3), torch.arange(8) % 2
"""
HEAD = '[model]\nfactory = "fuzz_nets:mlp"\ncheckpoint = "a.pt"\n[data]\nfactory = "fuzz_nets:data"\n'
JOBS = {
    "surface": HEAD
    + '[objective]\nmetrics = ["accuracy"]\n[plane]\nkind = "random"\nseed = 1\n[surface]\nx = [-1, 1, 3]\n'
    'y = [-1, 1, 2]\n[run]\nout = "surface"\nretries = 1\n',
    "through": HEAD + '[plane]\nkind = "through"\ncheckpoints = ["a.pt", "b.safetensors"]\n[surface]\nx = [0, 1, 2]\n'
    '[run]\nout = "through"\n',
    "spectrum": HEAD + '[spectrum]\nk = 1\nsmallest = 0\ndensity = false\n[run]\nout = "spectrum"\n',
    "agreement": HEAD + '[agreement]\nmodels = ["a.pt", "b.safetensors"]\n[run]\nout = "agreement"\n',
    "sweep": 'out = "sweep"\n[product]\n"plane.seed" = [0, 1]\n[job]\n'
    + "\n".join(
        f"[job.{line[1:]}" if line.startswith("[") else line
        for line in (HEAD + '[plane]\nkind = "random"\n[surface]\nx = [-1, 1, 2]\n[run]\nout = "cell"\n').splitlines()
    ),
}
ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 3, 2.5, 1e300, -1e-9, 10**18, "", "x", "nan", "größer\n", "../x", [], [1], ["a", 2], {},
    {"a": 1}, [[1, 2]], "0:0", "fuzz_nets:missing", "a.pt",
)  # fmt: skip


class HangError(BaseException):
    """A trial took too long."""


def command(*words: str) -> tuple[int | str, str]:
    """(exit code or "crash", what was written) of the command, run in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            app(list(words), prog_name="landscape")
            code: int | str = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except HangError:
            code = "hang"
        except BaseException:
            code = "crash"
            out.write(traceback.format_exc())
    return code, out.getvalue()


def prepare(folder: Path) -> None:
    """A folder with jobs, checkpoints, and the runs of the jobs."""
    (folder / "fuzz_nets.py").write_text(NETS)
    sys.path.insert(0, str(folder))
    with contextlib.chdir(folder):
        import fuzz_nets  # type: ignore[import-not-found]
        from safetensors.torch import save_file

        states = [{name: value + 0.1 * step for name, value in fuzz_nets.mlp().state_dict().items()} for step in (0, 1)]
        torch.save(states[0], "a.pt")
        save_file({name: value.contiguous() for name, value in states[1].items()}, "b.safetensors")
        for name, text in JOBS.items():
            Path(f"{name}.toml").write_text(text)
            code, said = command("run", f"{name}.toml")
            if code != 0:
                raise SystemExit(f"the job {name} itself ends with {code}:\n{said}")
    sys.path.remove(str(folder))


# -- what is broken --------------------------------------------------------------------------------------------------


def broken_bytes(draw: random.Random, content: bytes) -> bytes:
    """Cut off, turned, filled with zeros, doubled, or replaced."""
    data = bytearray(content)
    where, size = draw.randrange(len(data) + 1), draw.choice((1, 4, 64, 1000))
    how = draw.randrange(6)
    if how == 0:
        return bytes(data[:where])
    if how == 1:
        for _ in range(draw.choice((1, 1, 10, 200))):
            if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == 2:
        data[where : where + size] = bytes(len(data[where : where + size]))
    elif how == 3:
        data[where:where] = draw.randbytes(size)
    elif how == 4:
        del data[where : where + size]
    else:
        return draw.choice((b"", b"\0" * 100, draw.randbytes(50), b"{}", b"[]", b"null"))
    return bytes(data)


def broken_value(draw: random.Random, value: Any) -> Any:
    """The value with something in it replaced, taken out or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        changed = dict(value)
        how = draw.random()
        if how < 0.2:
            del changed[key]
        elif how < 0.25:
            changed[draw.choice(("x", "", "größer"))] = draw.choice(ODD)
        else:
            changed[key] = broken_value(draw, value[key])
        return changed
    if isinstance(value, list) and value and draw.random() < 0.6:
        place = draw.randrange(len(value))
        how = draw.random()
        more = [broken_value(draw, value[place])] if how < 0.7 else [] if how < 0.85 else [value[place]] * 2
        return [*value[:place], *more, *value[place + 1 :]]
    return draw.choice(ODD)


def as_toml(value: Any) -> str:
    """A value as TOML has it, as far as it can."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return "nan" if value is None else json.dumps(value)


def break_job(draw: random.Random) -> list[str]:
    """A job file, and a command that reads it."""
    import tomllib

    name = draw.choice(sorted(JOBS))
    text = JOBS[name]
    if draw.random() < 0.3:
        Path("job.toml").write_bytes(broken_bytes(draw, text.encode()))
    else:
        content = tomllib.loads(text)
        for _ in range(draw.choice((1, 1, 2, 3))):
            content = broken_value(draw, content)
            content = content if isinstance(content, dict) else {"x": content}
        Path("job.toml").write_text("".join(f"{json.dumps(str(k))} = {as_toml(v)}\n" for k, v in content.items()))
    return draw.choice(
        (["run", "job.toml"], ["run", "job.toml"], ["check", "job.toml"], ["submit", "job.toml", "--dry-run"])
    )


def break_checkpoint(draw: random.Random) -> list[str]:
    """A checkpoint, and a job that reads it."""
    path = Path(draw.choice(("a.pt", "b.safetensors")))
    if draw.random() < 0.5:
        path.write_bytes(broken_bytes(draw, path.read_bytes()))
    else:
        state: Any = torch.load("a.pt", weights_only=True)
        name = draw.choice(sorted(state))
        value = state[name]
        changes: tuple[Callable[[], Any], ...] = (
            lambda: value.flatten()[:-1],
            lambda: value[None],
            lambda: value * float("nan"),
            lambda: value.to(torch.complex64),
            lambda: value.double(),
            lambda: value.to(torch.int32),
            lambda: value.to_sparse() if value.dim() else value,
            lambda: torch.empty(0),
            lambda: draw.choice(ODD),
            lambda: value.to("meta"),
        )
        how = draw.random()
        if how < 0.6:
            state[name] = draw.choice(changes)()
        elif how < 0.75:
            del state[name]
        else:
            state = draw.choice([[state], {"model": state, "state_dict": 3}, {"a": {"b": state}}, *ODD, {1: value}])
        path = Path("a.pt")
        torch.save(state, path)
    shutil.rmtree(draw.choice(("surface", "through", "agreement")))
    return ["run", draw.choice(("surface.toml", "through.toml", "agreement.toml"))]


def reading(draw: random.Random, what: str, run: bool) -> list[str]:
    """A command that reads a file or a run folder."""
    commands = [
        ["show", what], ["plot", what, "-o", "picture.png"], ["plot", what], ["report", what, "-o", "page.html"],
        ["merge", what, "-o", "merged.h5"], ["topology", what],
    ]  # fmt: skip
    going_on = [["status", what], ["status", "--json", what], ["resume", what], ["run", f"{what}.toml"]]
    return draw.choice(commands + (going_on if run else []))


def break_result(draw: random.Random) -> list[str]:
    """A result file, and a command that reads it."""
    path = Path(draw.choice(("surface", "through", "spectrum", "agreement")), "landscape.h5")
    if draw.random() < 0.5:
        path.write_bytes(broken_bytes(draw, path.read_bytes()))
    else:
        with h5py.File(path, "a") as file:
            for _ in range(draw.choice((1, 1, 3))):
                items: list[Any] = [file]
                file.visititems(lambda _, item, found=items: found.append(item))
                item = draw.choice(items)
                names = [*item.attrs] if draw.random() < 0.4 or not isinstance(item, h5py.Group) else []
                with contextlib.suppress(RuntimeError, OSError, KeyError, TypeError, ValueError):
                    change_hdf5(draw, item, names)
    return reading(draw, str(path), run=False)


def change_hdf5(draw: random.Random, item: Any, names: list[str]) -> None:
    """Change an attribute of those named, or a member of a group, in place."""
    if names:
        name = draw.choice(names)
        del item.attrs[name]
        if draw.random() < 0.7:
            item.attrs[name] = draw.choice(("", "x", "{}", 0, -1, 2.5, 10**18, [1, 2], True))
    elif isinstance(item, h5py.Group) and len(item):
        name = draw.choice([*item])
        shape = item[name].shape if isinstance(item[name], h5py.Dataset) else (2,)
        del item[name]
        if draw.random() < 0.7:
            others = np.full(shape, np.nan), np.arange(5), np.array("x", dtype="S1"), 3.0
            item[name] = draw.choice((np.zeros(shape), *others))


def break_run(draw: random.Random) -> list[str]:
    """A run folder, and a command that reads it or goes on with it."""
    name = draw.choice(("surface", "through", "spectrum", "agreement", "sweep"))
    for _ in range(draw.choice((1, 1, 1, 2))):
        files = sorted(path for path in Path(name).rglob("*") if path.is_file())
        records = [path for path in files if path.suffix == ".json"]
        how = draw.random()
        path = draw.choice(records if how < 0.6 and records else files)
        if how < 0.55 and path.suffix == ".json":
            with contextlib.suppress(ValueError):
                path.write_text(json.dumps(broken_value(draw, json.loads(path.read_text(errors="replace")))))
        elif how < 0.75:
            path.write_bytes(broken_bytes(draw, path.read_bytes()))
        elif how < 0.85:
            path.unlink()
        elif how < 0.95:
            path.write_bytes(draw.choice(files).read_bytes())
        else:
            path.unlink()
            path.mkdir()
    if draw.random() < 0.4:
        for path in Path(name).rglob("landscape.h5"):
            if path.is_file():
                path.unlink()
    return reading(draw, name, run=True)


BROKEN = (break_job, break_checkpoint, break_result, break_run)


# -- trials ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def guard(seconds: int) -> Iterator[None]:
    """Raise HangError after so many seconds."""

    def late(number: int, frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def trial(base: Path, seed: int) -> tuple[str, int | str, str]:
    """(command, how it ended, what it wrote) of one broken input in a copy of the folder `base`."""
    draw = random.Random(seed)
    make = BROKEN[seed % len(BROKEN)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        shutil.copytree(base, folder)
        with contextlib.chdir(folder), guard(LIMIT):
            words = make(draw)
            code, said = command(*words)
    return f"{make.__name__}: landscape {' '.join(words)}", code, said


def bad(code: int | str, said: str) -> bool:
    """Whether a trial ended as none may."""
    return code not in GOOD or "Traceback (most recent call last)" in said


def main(count: int = 500, first: int = 0) -> int:
    """Run the trials; 1 where any of them ended as none may."""
    logging.disable(logging.CRITICAL)
    os.environ["COLUMNS"] = "200"
    found, codes, began = 0, Counter[int | str](), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        base.mkdir()
        prepare(base)
        for seed in range(first, first + count):
            if os.environ.get("FUZZ_SEEDS"):
                print(f"seed {seed} ...", file=sys.__stderr__, flush=True)
            what, code, said = trial(base, seed)
            codes[code] += 1
            if bad(code, said):
                found += 1
                print(f"seed {seed}: {what}: {code}\n{said[-1500:]}", flush=True)
    print(f"seeds {first} to {first + count - 1}: {dict(codes)}, {found} bad, {time.monotonic() - began:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=500, metavar="COUNT", help="number of trials")
    parser.add_argument("first", nargs="?", type=int, default=0, metavar="FIRST", help="seed of the first")
    given = parser.parse_args()
    raise SystemExit(main(given.count, given.first))
