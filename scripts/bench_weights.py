"""Speed of weight metrics, as ratios against WeightWatcher in one run; prints a Markdown table.

    python scripts/bench_weights.py [--only PART ...] [--peer FOLDER]

WeightWatcher 0.7.7 is no dependency: `--peer` is a folder that holds it, as `pip install --target FOLDER` makes one.
Networks are random weights of the shapes of ResNet-20, ResNet-50 and ViT-B. Every ratio is the peer's time over ours
(above 1: we are faster), of one run each, in processor seconds on one thread; numbers are compared to 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from landscape_kernels.powerlaw import fit_power_law
from landscape_kernels.spectra import gram_spectrum

import landscape as ls
from landscape.compat import WeightWatcher

PARTS = ("fit", "resnet20", "resnet50", "vit", "full20", "full50", "null")
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
    print(f"| {name}, {told} | {theirs / ours:.1f} | {theirs:.2f} | {ours:.2f} | {max(gaps):.0e} |", flush=True)


def fits(peer: Any) -> None:
    """The power law alone, of the eigenvalues of matrices with heavy-tailed entries, pooled beyond 1,000."""
    generator = np.random.default_rng(0)

    def fit(x: Any) -> Any:
        return fit_power_law(x, fewest=2, two_sided=False, near=0)

    for n in (100, 1000, 5000, 15_000):
        side = min(n, 1000)
        parts = [gram_spectrum(generator.standard_t(3, (2 * side, side))) for _ in range(n // side)]
        x = np.sort(np.concatenate(parts))
        repeats = max(1, 20_000 // n)
        ours, mine = cpu_seconds(lambda x=x, repeats=repeats: [fit(x) for _ in range(repeats)])
        ours, mine = ours / repeats, mine[0]
        theirs, its = cpu_seconds(lambda x=x: quiet(lambda: peer.WW_powerlaw.WWFit(x)))
        gap = max(abs(getattr(mine, name) / getattr(its, name) - 1) for name in ("alpha", "D", "xmin"))
        row = f"{theirs / ours:.0f} | {theirs:.4f} | {ours:.5f} | {gap:.0e}"
        print(f"| power law of {n:,} eigenvalues | {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peer", help="folder that holds weightwatcher 0.7.7")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: processor seconds of several threads are no measure of time")
    if asked.peer:
        sys.path.append(asked.peer)
    peer = quiet(lambda: __import__("weightwatcher"))
    print(f"{platform.processor() or platform.machine()}, weightwatcher {peer.__version__}, numpy {np.__version__}\n")
    print("| what | peer / ours | peer, s | ours, s | largest gap |\n|---|---|---|---|---|")
    networks = {"resnet20": resnet20, "resnet50": resnet50, "vit": vit_b}
    for part in asked.only:
        if part == "fit":
            fits(peer)
        elif part in networks:
            analyzed(part, networks[part](), peer)
        elif part == "null":
            state = resnet20()
            seconds, _ = cpu_seconds(lambda state=state: ls.measure_weights(state))
            print(f"| resnet20, measure_weights with 20 shuffles | | | {seconds:.2f} | |", flush=True)
        else:
            network = "resnet20" if part == "full20" else "resnet50"
            analyzed(network, networks[network](), peer, mp_fit=True, randomize=True, detX=True)


if __name__ == "__main__":
    main()
