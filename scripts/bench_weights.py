"""Speed and memory of weight metrics, as ratios against WeightWatcher in one run; prints a Markdown table.

    python scripts/bench_weights.py [--only PART ...] [--quick]

WeightWatcher 0.7.7 and powerlaw 1.5 are no dependencies; `scripts/bench` makes environments for them, whose Python
this is started with. Networks are random weights of the shapes of ResNet-20, ResNet-50 and ViT-B.
Every ratio is the peer's time over ours (above 1: we are faster), of one run each, in processor seconds on one thread;
numbers are compared to 1e-9. `ranks` starts mpiexec, in seconds of a clock; `memory` writes 2 GB of a checkpoint of
Llama-2-7B's shapes into a temporary folder, where the rest of its 13 GB are holes, and takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import Ratios, mpi_environment, mpiexec, print_heading, print_row
from landscape_kernels.powerlaw import fit_power_law, fit_truncated
from landscape_kernels.spectra import gram_spectrum

import landscape as ls
from landscape.compat import WeightWatcher
from landscape.run.comm import world

PARTS = ("fit", "truncated", "resnet20", "resnet50", "vit", "full20", "full50", "null", "ranks", "memory")
_SLOW = ("ranks", "memory")  # only where they are asked for
COLUMNS = ("alpha", "D", "xmin", "log_norm", "stable_rank", "entropy", "log_alpha_norm")


def tensors(shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"l{k}.weight": torch.randn(*shape, generator=generator) / shape[1] ** 0.5 for k, shape in enumerate(shapes)
    }


def resnet20() -> dict[str, torch.Tensor]:
    widths = [(16, 16)] * 6 + [(32, 16)] + [(32, 32)] * 5 + [(64, 32)] + [(64, 64)] * 5
    return tensors([(16, 3, 3, 3), *((*w, 3, 3) for w in widths), (10, 64)])


def resnet50() -> dict[str, torch.Tensor]:
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    before = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            shapes += [(4 * width, before, 1, 1)] if block == 0 else []
            before = 4 * width
    return tensors([*shapes, (1000, 2048)])


def vit_b() -> dict[str, torch.Tensor]:
    block: list[tuple[int, ...]] = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
    return tensors([(768, 3, 16, 16), *(block * 12), (1000, 768)])


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = action()
    return time.process_time() - began, found


def quiet(action: Callable[[], Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return action()


def analyzed(name: str, state: dict[str, torch.Tensor], peer: Any, **options: Any) -> None:
    """The class of `landscape.compat` against the tool with the same options."""
    ours, mine = cpu_seconds(lambda: WeightWatcher(state).analyze(seed=0, **options))
    np.random.seed(0)
    theirs, its = cpu_seconds(lambda: quiet(lambda: peer.WeightWatcher(model=state).analyze(**options)))
    gaps = [np.abs(mine[c] / its[c] - 1).max() for c in COLUMNS]
    told = ", ".join(option for option, given in options.items() if given) or "defaults"
    least = {"resnet20": 5.0, "resnet50": 3.0, "vit": 3.0}[name]
    if options:
        least = {"resnet20": 100.0, "resnet50": 20.0}[name]
    row(f"analyze(), shapes of {name}, {told}", "weightwatcher", ours, theirs, f"largest gap {max(gaps):.0e}", least)


def row(what: str, against: str, ours: float, theirs: float, more: str, least: float | None = None) -> None:
    times = f"{ours:.3g} s against {theirs:.3g} s; {more}"
    print_row(what, against, Ratios((theirs / ours,), ours, theirs), f">= {least:g}" if least else "", times)


def fits(peer: Any, sizes: tuple[int, ...]) -> None:
    """The power law alone, of the eigenvalues of matrices with heavy-tailed entries, pooled beyond 1,000."""
    generator = np.random.default_rng(0)

    def fit(x: Any) -> Any:
        return fit_power_law(x, fewest=2, two_sided=False, near=0)

    for n in sizes:
        side = min(n, 1000)
        parts = [gram_spectrum(generator.standard_t(3, (2 * side, side))) for _ in range(n // side)]
        x = np.sort(np.concatenate(parts))
        repeats = max(1, 20_000 // n)
        ours, mine = cpu_seconds(lambda x=x, repeats=repeats: [fit(x) for _ in range(repeats)])
        ours, mine = ours / repeats, mine[0]
        theirs, its = cpu_seconds(lambda x=x: quiet(lambda: peer.WW_powerlaw.WWFit(x)))
        gap = max(abs(getattr(mine, name) / getattr(its, name) - 1) for name in ("alpha", "D", "xmin"))
        least = {1000: 25.0, 15_000: 200.0}.get(n)
        row(f"power law of {n:,} eigenvalues", "weightwatcher", ours, theirs, f"largest gap {gap:.0e}", least)


def truncated(step: int) -> None:
    """A truncated power law for every xmin with 10 eigenvalues or more behind it, beta of 1 or more as there."""
    powerlaw: Any = quiet(lambda: __import__("powerlaw"))
    x = gram_spectrum(np.random.default_rng(0).standard_t(3, (1000, 500)))
    starts = range(x.size - 9)
    ours, mine = cpu_seconds(lambda: [fit_truncated(x[i:], x[i], least_beta=1.0) for i in starts])
    some = starts[::step]  # the peer takes minutes for all
    theirs, its = cpu_seconds(
        lambda: quiet(lambda: [powerlaw.Fit(x, xmin=x[i], verbose=False).truncated_power_law for i in some])
    )
    theirs *= len(starts) / len(some)
    gains = [mine[i].loglik - float(law.loglikelihoods(x[i:]).sum()) for i, law in zip(some, its, strict=True)]
    what = f"truncated power law at {len(starts)} xmins of {x.size} eigenvalues, 1 in {step} there"
    row(what, "powerlaw 1.5", ours, theirs, f"log-likelihood {min(gains):+.0e} or more above", 50)


def ranks() -> None:
    """ViT-B on one rank and on two, one after the other, three times."""
    ratios = []
    for _ in range(3):
        one, two = (_ran("rank", *mpiexec(n)) for n in (1, 2))
        ratios.append(two["seconds"] / one["seconds"])
    found = Ratios(tuple(ratios), two["seconds"], one["seconds"])
    print_row("ViT-B on two ranks, on the clock", "one rank", found, "<= 0.55")


def rank() -> None:
    state, comm = vit_b(), world()
    comm.gather_all(0)
    began = time.perf_counter()
    ls.measure_weights(state, shuffles=0, roundings=0)
    comm.gather_all(0)
    if comm.rank == 0:
        print(json.dumps({"seconds": time.perf_counter() - began}))


def memory() -> None:
    """Peak of a process that measures the two largest matrices, with a shuffle and a rounding of each."""
    with tempfile.TemporaryDirectory() as folder:
        size, real = write_llama(Path(folder))
        found = _ran("peak", folder=folder)
    what = f"peak memory, {size / 1e9:.1f} GB of bfloat16 in files ({real / 1e9:.1f} GB of it no holes)"
    copies = f"{found['peak'] / found['matrix']:.2f} of the largest matrix in float64"
    print_row(what, "", copies, "<= 3", f"{found['seconds']:.0f} s")


def write_llama(folder: Path) -> tuple[int, int]:
    """A sharded checkpoint of Llama-2-7B's shapes: (bytes of all tensors, of those that are written)."""
    shapes = {"model.embed_tokens": (32_000, 4096), "lm_head": (32_000, 4096)}
    for k in range(32):
        shapes |= {f"model.layers.{k}.self_attn.{name}_proj": (4096, 4096) for name in "qkvo"}
        shapes |= {f"model.layers.{k}.mlp.{name}_proj": (11_008, 4096) for name in ("gate", "up")}
        shapes[f"model.layers.{k}.mlp.down_proj"] = (4096, 11_008)
    names, where, real = list(shapes), {}, 0
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        file, own, place = f"model-{number}.safetensors", names[number::3], 0
        header: dict[str, Any] = {}
        for name in own:
            end = place + 2 * math.prod(shapes[name])
            header[f"{name}.weight"] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [place, end]}
            where[f"{name}.weight"], place = file, end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)
            opened.truncate(8 + len(text) + place)
            for name in own:
                if real < 2e9 and (".layers." not in name or int(name.split(".")[2]) < 5):
                    values = torch.randn(shapes[name], generator=generator).to(torch.bfloat16)
                    opened.seek(8 + len(text) + header[f"{name}.weight"]["data_offsets"][0])
                    opened.write(values.view(torch.uint8).numpy().data)
                    real += 2 * values.numel()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return sum(2 * math.prod(shape) for shape in shapes.values()), real


def peak(folder: str) -> None:
    ls.measure_weights({"w": torch.randn(50, 40)}, shuffles=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, found = cpu_seconds(lambda: ls.measure_weights(folder, shuffles=1, roundings=1, limit_items=2))
    assert int(found.computed.sum()) == 2
    above = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(json.dumps({"peak": above, "matrix": 8 * 32_000 * 4096, "seconds": seconds}))


def _ran(part: str, *before: str, folder: str = "") -> dict[str, float]:
    command = [*before, sys.executable, __file__, "--inner", part, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=mpi_environment())
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part not in _SLOW])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: to see that all runs")
    parser.add_argument("--shared", type=Path, help="not used here")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.inner:
        peak(asked.folder) if asked.inner == "peak" else rank()
        return
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: processor seconds of several threads are no measure of time")
    print_heading(f"numpy {np.__version__}")
    networks = {"resnet20": resnet20, "resnet50": resnet50, "vit": vit_b}
    for part in asked.only:
        if asked.quick and part in ("resnet50", "vit", "full50"):
            continue
        needed = "powerlaw" if part == "truncated" else "" if part in ("null", *_SLOW) else "weightwatcher"
        if needed and importlib.util.find_spec(needed) is None:
            print_row(part, needed, "not installed")
            continue
        peer = quiet(lambda name=needed: __import__(name)) if needed else None
        if part == "fit":
            fits(peer, (100, 1000) if asked.quick else (100, 1000, 5000, 15_000))
        elif part == "truncated":
            truncated(100 if asked.quick else 10)
        elif part in _SLOW:
            ranks() if part == "ranks" else memory()
        elif part in networks:
            analyzed(part, networks[part](), peer)
        elif part == "null":
            state = resnet20()
            seconds, _ = cpu_seconds(lambda state=state: ls.measure_weights(state))
            print_row("measure_weights with 20 shuffles, shapes of ResNet-20", "", "", "", f"{seconds:.2f} s")
        else:
            network = "resnet20" if part == "full20" else "resnet50"
            analyzed(network, networks[network](), peer, mp_fit=True, randomize=not asked.quick, detX=True)


if __name__ == "__main__":
    main()
