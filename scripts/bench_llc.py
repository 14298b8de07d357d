"""Speed of local learning coefficients, as ratios to devinterp in one run; prints a Markdown table.

    python scripts/bench_llc.py --peer PYTHON [--draws 1000] [--quick]

`--peer` is the Python of an environment with devinterp (2.0.1), which is no dependency: `python -m venv ENV` and
`ENV/bin/pip install devinterp==2.0.1`. It takes language models alone, so samples are given to it by their numbers.
Both run on all data at every step, with the same step size, inverse temperature and localisation, and one thread; times
are processor seconds for each chain and step, from the difference of a long and a short run, so without what either
needs to begin. The last column is the coefficient that each finds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

N = 1024
STEP = {"mlp": 2e-4, "crossing": 4e-4}
LOCALISATION = {"mlp": 100.0, "crossing": 1.0}
NBETA = N / math.log(N)
SHORT, LONG, THEIR_CHAINS = 20, 220, 2


class Crossing(nn.Module):
    """x w_1 w_2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1) outputs."""
        return x * self.w[0] * self.w[1]


def model_of(name: str) -> nn.Module:
    """An MLP of 910 parameters, or two parameters."""
    return Crossing() if name == "crossing" else nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def loss_of(name: str) -> Callable[..., Tensor]:
    """The loss, with its reduction as an argument."""
    return nn.functional.mse_loss if name == "crossing" else nn.functional.cross_entropy


def made(name: str, folder: Path) -> tuple[Tensor, Tensor, nn.Module]:
    """Data and a trained model, in `folder`, too."""
    torch.manual_seed(0)
    model = model_of(name)
    if name == "crossing":
        x, y = torch.randn(N, 1) * math.sqrt(2), torch.randn(N, 1) * 0.5
    else:
        from landscape_jobs.demo import digits

        images, labels = digits()
        x, y = images[:N].reshape(N, -1), labels[:N]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(500):
            optimizer.zero_grad()
            loss_of(name)(model(x), y).backward()
            optimizer.step()
    torch.save({"x": x, "y": y, "model": model.state_dict()}, folder / f"{name}.pt")
    return x, y, model


def theirs(name: str, folder: Path) -> None:
    """In the other environment: seconds for each chain and step, and the coefficient, as JSON."""
    from benchmarks import with_transformers

    _held = with_transformers()
    from datasets import Dataset
    from devinterp.slt.llc import llc

    torch.set_num_threads(1)
    held = torch.load(folder / f"{name}.pt", weights_only=True)
    model = model_of(name)
    model.load_state_dict(held["model"])
    rows = Dataset.from_dict({"input_ids": [[i, 0] for i in range(N)]}).with_format("torch")

    def loss(net: nn.Module, ids: Tensor) -> Tensor:
        found = loss_of(name)(net(held["x"][ids[:, 0]]), held["y"][ids[:, 0]], reduction="none")
        return found.reshape(-1, 1)

    def run(draws: int) -> tuple[float, float]:
        began = time.process_time()
        found = llc(
            model, rows, {}, lr=STEP[name], n_beta=NBETA, loss_fn=loss, num_chains=THEIR_CHAINS, num_draws=draws,
            batch_size=N, localization=LOCALISATION[name], num_init_loss_batches=1, device="cpu"
        )  # fmt: skip
        return time.process_time() - began, float(found.llc_mean)

    run(2)
    short, _ = run(SHORT)
    long, value = run(LONG)
    sys.stdout.write("\n" + json.dumps([(long - short) / (LONG - SHORT) / THEIR_CHAINS, value]))


def ours(
    name: str, data: tuple[Tensor, Tensor], model: nn.Module, chains: int, draws: int, **asked: Any
) -> list[float]:
    """Seconds for each chain and step, and the coefficient."""
    import landscape as ls

    objective = ls.Objective(model, "mse" if name == "crossing" else "cross_entropy", data, check=False)

    def run(count: int) -> tuple[float, float]:
        began = time.process_time()
        found = ls.measure_llc(objective, chains, count, NBETA, LOCALISATION[name], STEP[name], burn_in=0, **asked)
        return time.process_time() - began, float(found.value)

    short, _ = run(draws // 10)
    long, value = run(draws)
    return [(long - short) / chains / (draws - draws // 10), value]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--theirs", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="160 draws: to see that all runs")
    parser.add_argument("--shared", type=Path, help="not used here")
    given = parser.parse_args()
    if given.theirs:
        theirs(given.theirs[0], Path(given.theirs[1]))
        return
    from benchmarks import Ratios, print_heading, print_row

    torch.set_num_threads(1)
    draws = 160 if given.quick else given.draws
    print_heading()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, chains in (("mlp", (4,)), ("crossing", (4, 200))):
            x, y, model = made(name, folder)
            size = sum(p.numel() for p in model.parameters())
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            words = [str(given.peer), __file__, "--peer", "none", "--theirs", name, temporary]
            done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
            peer, value = json.loads(done.stdout.strip().splitlines()[-1])
            for count in chains:
                for method, asked in (
                    ("its steps", {"parity": "devinterp", "batch_size": N}),
                    ("MALA", {"method": "mala"}),
                ):
                    each, own = ours(name, (x, y), model, count, draws, **asked)
                    print_row(
                        f"a step of one of {count} chains, {size} parameters, {N} samples, {method}",
                        "devinterp 2.0.1",
                        Ratios((peer / each,), each, peer),
                        ">= 4" if name == "mlp" else ">= 500",
                        f"{each * 1e6:.3g} us against {peer * 1e3:.3g} ms; coefficients {own:.3g}, {value:.3g}",
                    )


if __name__ == "__main__":
    main()
