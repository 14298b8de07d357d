"""Tables of runs on 1 to 65,536 ranks, simulated with the scheduler's own code; prints Markdown.

    python scripts/simulate_scheduler.py [--ranks 1 16 256 4096] [--service 2e-5]

Every number follows from the seed and the arguments: nothing is timed here. The service time of a request (rank 0's
processor seconds for one) and the time to write a shard are measurements to be given, with defaults as BENCHMARKS.md
states them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from landscape_jobs.cluster.simulation import Machine, Simulated, item_times, listed, rank_factors, simulate, traffic

from landscape.run.shards import flush_interval

SEED = 1
MEAN = 0.1  # seconds of an item
PER_RANK, FEW = 100, 25  # items; the latter where there are more than
MANY = 16384  # ranks
CASES = (
    ("constant", "equal"),
    ("log-normal 0.3", "equal"),
    ("log-normal 1", "equal"),
    ("constant", "two speeds"),
    ("constant", "straggler"),
)
HOUR = 3600.0


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, row by row as they come."""
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---:|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def each(ranks: int) -> int:
    """Items a rank."""
    return PER_RANK if ranks <= MANY else FEW


def per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


@functools.cache
def run(
    items: int, ranks: int, machine: Machine, times: str = "constant", speeds: str = "equal", mean: float = MEAN
) -> tuple[Simulated, float]:
    """(what a run took, its makespan over that of list scheduling)."""
    seconds, factors = item_times(times, items, mean, SEED), rank_factors(speeds, ranks)
    done = simulate(seconds, factors, machine)
    return done, done.makespan / listed(seconds, factors)


def by_ranks(sizes: Sequence[int], machine: Machine) -> Iterator[list[str]]:
    for ranks in sizes:
        cells = [f"{ranks:,} ({each(ranks)})"]
        for case in CASES:
            done, ratio = run(each(ranks) * ranks, ranks, machine, *case)
            cells.append(f"{per_cent(done.efficiency)} ({ratio:.2f})")
        yield cells


def by_items(sizes: Sequence[int], machine: Machine) -> Iterator[list[str]]:
    for ranks in sizes:
        grids = {"51 x 51": 2601, "1,000 x 1,000": 10**6, f"{FEW} a rank": FEW * ranks}
        if each(ranks) != FEW:
            grids[f"{PER_RANK} a rank"] = PER_RANK * ranks
        for name, items in grids.items():
            done, ratio = run(items, ranks, machine, "log-normal 0.3")
            shares = (done.start, done.waiting, done.writing, done.tail, done.busy)
            messages = f"{2 * done.requests / done.makespan:,.0f}"
            yield [f"{ranks:,}", name, per_cent(done.efficiency), f"{ratio:.2f}", *map(per_cent, shares), messages]


def by_length(sizes: Sequence[int], machine: Machine) -> Iterator[list[str]]:
    for ranks in sizes:
        done = [run(each(ranks) * ranks, ranks, machine, mean=mean)[0] for mean in (0.01, 0.1, 1.0, 10.0)]
        yield [f"{ranks:,}", *(f"{per_cent(one.efficiency)} ({per_cent(one.busy)})" for one in done)]


def by_latency(ranks: int, machine: Machine) -> Iterator[list[str]]:
    for latency in (2e-6, 1e-5, 1e-4, 1e-3):
        on = dataclasses.replace(machine, latency=latency)
        done = [run(PER_RANK * ranks, ranks, on, "log-normal 0.3", mean=mean)[0] for mean in (0.1, 1.0)]
        yield [f"{1e6 * latency:,.0f} us", *(per_cent(one.efficiency) for one in done)]


def shard_bytes(rows: float, columns: int = 4) -> float:
    """Size of a shard of that many rows of numbers, as numpy writes it."""
    sizes = []
    for count in (1, 101):
        content = io.BytesIO()
        np.savez(content, items=np.zeros(count, np.int64), **{f"column{k}": np.zeros(count) for k in range(columns)})
        sizes.append(len(content.getvalue()))
    return sizes[0] + (rows - 1) * (sizes[1] - sizes[0]) / 100


def by_file(sizes: Sequence[int], reading: float) -> Iterator[list[str]]:
    for ranks in sizes:
        seen = traffic(ranks, HOUR, MEAN)
        rate, files = seen.shards / HOUR, seen.shards + ranks
        megabytes = shard_bytes(HOUR / MEAN * ranks / files) * files / 1e6
        yield [
            f"{ranks:,}", f"{files:,}", f"{rate:.1f}", f"{seen.peak:,}", f"{2 * rate:.1f}", f"{megabytes:,.0f}",
            f"{seen.unsaved:,.0f} s", f"{flush_interval(HOUR, ranks):,.0f} s", f"{reading * files:,.0f} s",
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 16, 256, 1024, 4096, 16384, 65536])
    parser.add_argument("--latency", type=float, default=Machine.latency, help="seconds of a message")
    parser.add_argument("--service", type=float, default=Machine.service, help="seconds of rank 0 for a request")
    parser.add_argument("--shard", type=float, default=Machine.shard, help="seconds of a rank for writing a shard")
    parser.add_argument("--reading", type=float, default=5e-4, help="seconds of rank 0 for reading a shard back")
    options = parser.parse_args()
    machine = Machine(latency=options.latency, service=options.service, shard=options.shard)
    sizes: list[int] = options.ranks
    many = [ranks for ranks in sizes if ranks >= 256] or sizes[-1:]
    print(
        f"A message takes {1e6 * machine.latency:g} us, a request {1e6 * machine.service:g} us of rank 0, a shard "
        f"{1e3 * machine.shard:g} ms. Items take {MEAN:g} s on average unless said. Shares in per cent."
    )
    table(
        "Efficiency (and the makespan over that of list scheduling at no cost)",
        [
            "ranks (items each)",
            "constant",
            "log-normal 0.3",
            "log-normal 1",
            "half the ranks 2x slower",
            "a node 10x slower",
        ],
        by_ranks(sizes, machine),
    )
    table(
        "Where the time goes, log-normal 0.3",
        [
            "ranks",
            "items",
            "efficiency",
            "over list",
            "start",
            "waiting",
            "writing",
            "tail",
            "rank 0 busy",
            "messages/s",
        ],
        by_items([ranks for ranks in many if ranks != 1024], machine),
    )
    table(
        "Efficiency (and rank 0 busy) by the length of an item, all equal",
        ["ranks", "0.01 s", "0.1 s", "1 s", "10 s"],
        by_length([ranks for ranks in many if ranks != 1024], machine),
    )
    table(
        f"Efficiency by latency, {min(4096, sizes[-1]):,} ranks, {PER_RANK} items each, log-normal 0.3",
        ["latency", "0.1 s", "1 s"],
        by_latency(min(4096, sizes[-1]), machine),
    )
    table(
        f"What a shared file system sees of an hour, a row of 4 numbers every {MEAN:g} s on each rank",
        ["ranks", "files", "creates = renames/s", "busiest second", "fsyncs/s", "MB", "in no shard: mean", "at most",
         "read back"],
        by_file(sizes, options.reading),
    )  # fmt: skip


if __name__ == "__main__":
    main()
