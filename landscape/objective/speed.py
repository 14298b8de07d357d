"""How fast an objective is evaluated on this machine, and what would be faster."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch

from landscape.arguments import checked
from landscape.errors import InputError
from landscape.files.durable import write_durably
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.objective.slow_half import Timer, finished
from landscape.objective.trees import shapes_in
from landscape.results.tables import Table, pairs_table
from landscape.run.comm import processor_count

logger = logging.getLogger(__name__)
K = TypeVar("K")
_PAYS = 1.1  # times as fast as now, from which on a change is proposed
_BUDGET = 8.0  # seconds that a trial may take, about
_SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)  # chunks that are tried, in those of now


@dataclass(frozen=True)
class Speed:
    """Seconds that a sample takes, by how the objective is evaluated; the first of each is how it is now.

    What had no alternative is empty: chunks of batches that are the user's own, say.
    """

    chunk: Mapping[int, float]  # samples of a chunk
    memory_format: Mapping[str, float]  # "channels last", "contiguous": of images
    threads: Mapping[int, float]
    precision: Mapping[str, float]  # "float32", "bf16"
    cuda_graphs: Mapping[str, float]  # "off", "on"

    @property
    def proposal(self) -> dict[str, tuple[object, float]]:
        """{what to set: (value, how many times as fast as now)}, where that is 1.1 times or more."""
        found: dict[str, tuple[object, float]] = {}
        for name, seconds in asdict(self).items():
            if not seconds:
                continue
            now, (least, best) = next(iter(seconds.values())), min((time, key) for key, time in seconds.items())
            if least * _PAYS <= now:
                found[name] = best, now / least
        return found


@of_objective
@checked()
def speed_trial(objective: Objective, folder: Path | None = None, timer: Timer = time.perf_counter) -> Speed:
    """What pays on this machine: seconds a sample takes in other chunks, another memory format, threads, precision.

    On a GPU with CUDA graphs, too. Each is tried alone, for some seconds in all, on a few chunks at the centre. What
    was found is remembered by a hash of machine and model in `folder`, by default `$XDG_CACHE_HOME/landscape/speed`
    (`~/.cache` where that is not set), and not tried again. Nothing is changed: values depend on the chunk in their
    last bits, so that it never follows from a clock. To take a proposal, give `chunk=`, `channels_last=` or
    `cuda_graphs=` to the Objective, and set torch's threads.
    """
    path = (folder or _cache()) / f"{_hash(objective)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or not one of ours
        return _read(path)
    found = _measured(objective, timer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(asdict(found)).encode())
    except OSError as error:
        logger.info("the trial of what pays is not remembered: %s", error)
    return found


def speed_table(speed: Speed) -> Table:
    """What a trial found, in words."""
    said = {
        name.replace("_", " "): ", ".join(f"{key}: {_time(value)}" for key, value in seconds.items())
        for name, seconds in asdict(speed).items()
        if len(seconds) > 1
    }
    proposed = ", ".join(
        f"{_as_key(name, value)} ({times:.2g} times as fast)" for name, (value, times) in speed.proposal.items()
    )
    return pairs_table(
        "time of a sample on this machine: first as it is now",
        {**said, "would be faster": proposed or "nothing that was tried, by a tenth or more"},
    )


def _as_key(name: str, value: object) -> str:
    """The line of a job file that takes a proposal."""
    if name == "memory_format":
        return f"objective.channels_last = {'true' if value == 'channels last' else 'false'}"
    if name == "cuda_graphs":
        return f"objective.cuda_graphs = {'true' if value == 'on' else 'false'}"
    if name == "threads":
        return f"run.threads = {value}"
    return f'objective.{name} = "{value}"' if isinstance(value, str) else f"objective.{name} = {value}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "landscape" / "speed"


def _hash(objective: Objective) -> str:
    """Of what the times depend on: the machine, the model but not its values, and the shape of the data."""
    identity = objective.identity(centre=False)
    device = objective.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    machine = (_processor(), processor_count(), torch.get_num_threads(), torch.__version__, gpu)
    model = {key: identity[key] for key in ("model", "structure", "layout", "loss", "metrics", "forward")}
    graphs = ("cuda graphs",) if objective.cuda_graphs else ()
    data = (shapes_in(objective.batch(0)), objective.chunk, objective.channels_last, objective.precision, *graphs)
    return hashlib.blake2b(repr((machine, model, data)).encode(), digest_size=16).hexdigest()


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration, IndexError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _read(path: Path) -> Speed:
    held = json.loads(path.read_text(encoding="utf-8"))
    numbers = {name: {int(k): float(v) for k, v in held[name].items()} for name in ("chunk", "threads")}
    named = ("memory_format", "precision", "cuda_graphs")
    words = {name: {str(k): float(v) for k, v in held[name].items()} for name in named}
    return Speed(**numbers, **words)  # type: ignore[arg-type]


def _measured(objective: Objective, timer: Timer) -> Speed:
    """Each alone, in rounds of all, of which the shortest times count; on as many samples as there is time for."""
    chunk = objective.samples_of(0)
    one = objective.on(objective.data.head(chunk).converted(objective.formatted))
    _pass(one, timer)
    each = max(_pass(one, timer), 1e-9)
    divisible = objective.data.divisible
    sizes = [max(1, int(chunk * size)) for size in _SIZES] if divisible else [chunk]
    threads = _thread_counts(objective)
    tries = len(sizes) + len(threads) + 1
    few = one
    if divisible and 4 * each * tries <= _BUDGET:
        few = objective.on(objective.data.head(4 * chunk).converted(objective.formatted))
    sizes = [size for size in dict.fromkeys((chunk, *sizes)) if size <= few.samples]
    rounds = min(8, max(1, int(_BUDGET / (each * tries * few.samples / one.samples))))
    by_size = {size: few.on(few.data, chunk=size) for size in sizes} if divisible else {}
    formats = {"channels last": few, "contiguous": few.on(few.data, channels_last=False)} if few.channels_last else {}
    return Speed(
        _shortest({size: _passes(of, timer) for size, of in by_size.items()}, rounds),
        _shortest({name: _passes(of, timer) for name, of in formats.items()}, rounds),
        _shortest({count: _passes(few, timer, count) for count in threads}, rounds),
        _precisions(one, timer, rounds),
        _graphs(few, timer, rounds),
    )


def _graphs(objective: Objective, timer: Timer, rounds: int) -> dict[str, float]:
    """Without and with CUDA graphs, as now first; nothing where they cannot be used."""
    words = {"on": True, "off": False} if objective.cuda_graphs else {"off": False, "on": True}
    try:
        both = {word: objective.on(objective.data, cuda_graphs=used) for word, used in words.items()}
    except InputError as error:
        logger.info("%s", error)
        return {}
    return _shortest({word: _passes(of, timer) for word, of in both.items()}, rounds)


def _precisions(objective: Objective, timer: Timer, rounds: int) -> dict[str, float]:
    """float32 and bf16, the one of now first; on a chunk, as one of them may be far slower."""
    if objective.precision == "float64":
        return {}
    other = "float32" if objective.precision == "bf16" else "bf16"
    try:
        both = {name: objective.on(objective.data, precision=name) for name in (objective.precision, other)}
    except Exception as error:  # a model that does not run in it has no choice
        logger.info("%s is not tried: %s", other, error)
        return {}
    return _shortest({name: _passes(of, timer) for name, of in both.items()}, rounds)


def _shortest(tries: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, float]:
    """Each try's shortest time, all in turn so that what else the machine does meets all."""
    if len(tries) < 2:
        return {}
    found = dict.fromkeys(tries, float("inf"))
    for _ in range(rounds):
        for name, seconds in tries.items():
            found[name] = min(found[name], seconds())
    return found


def _passes(objective: Objective, timer: Timer, threads: int | None = None) -> Callable[[], float]:
    """Seconds a sample of a pass over the objective's data, after one that warms caches the first time."""
    warm = False

    def seconds() -> float:
        nonlocal warm
        with _threads(threads):
            if not warm:
                _pass(objective, timer)
                warm = True
            return _pass(objective, timer) / objective.samples

    return seconds


def _pass(objective: Objective, timer: Timer) -> float:
    finished(objective.device)
    began = timer()
    objective.estimates()
    finished(objective.device)
    return timer() - began


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _thread_counts(objective: Objective) -> list[int]:
    """As now, then powers of two up to the cores at hand; none where a GPU computes."""
    if objective.device.type != "cpu":
        return []
    cores = processor_count()
    powers = [2**k for k in range(cores.bit_length()) if 2**k < cores]
    return list(dict.fromkeys((torch.get_num_threads(), *powers, cores)))
