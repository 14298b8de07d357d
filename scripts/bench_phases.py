"""Speed of training and of maps of phases, as ratios against plain peers in one run; prints a Markdown table.

    python scripts/bench_phases.py [--threads 1] [--shared ../shared] [--only PART ...] [--quick]

Peers: a plain PyTorch loop with the same recipe, loss and error measured on the same data after each epoch; two
separate processes that train one model each, started together; the seeds of a cell one after another. Every ratio but
the last is our time over the peer's (below 1: we are faster), the median of interleaved repeats, so that a slow machine
slows both sides.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from benchmarks import (
    SHARED,
    Ratios,
    digits,
    in_turn,
    mpi_environment,
    mpiexec,
    print_heading,
    print_row,
    ratios_of,
    resnet20,
    seconds,
)
from shared import ResNet20
from torch import Tensor, nn

import landscape as ls
from landscape.studies.phases.networks import mixed
from landscape.studies.training.one import ModelTraining
from landscape.studies.training.plan import Plan
from landscape.studies.training.settings import TrainingSettings
from landscape.studies.training.together import MOST_OPERATIONS

RECIPE = ls.Recipe(lr=0.05, momentum=0.9, batch_size=32, epochs=1000)
SEEDS = 5


def mlp(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def trained(factory: Callable[..., nn.Module], data: object, recipe: ls.Recipe, **options: object) -> ls.Training:
    with tempfile.TemporaryDirectory() as folder:
        return ls.train_models(factory, data, recipe=recipe, out=Path(folder) / "run", **options)  # type: ignore[arg-type]


# -- a training step --------------------------------------------------------------------------------------------------


def plain_epoch(
    model: nn.Module, data: tuple[Tensor, Tensor], recipe: ls.Recipe, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """What one writes: batches in an order drawn anew, then loss and error on all data in eval mode."""
    inputs, labels = data
    model.train()
    for rows in torch.randperm(len(inputs)).split(recipe.batch_size):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        total = wrong = 0.0
        for rows in torch.arange(len(inputs)).split(128):
            outputs = model(inputs[rows])
            total += float(F.cross_entropy(outputs, labels[rows], reduction="sum"))
            wrong += int((outputs.argmax(1) != labels[rows]).sum())
    return total / len(inputs), wrong / len(inputs)


def one_model(factory: Callable[..., nn.Module], data: object, recipe: ls.Recipe) -> ModelTraining:
    plan = Plan(factory, data, TrainingSettings(recipe=recipe))
    plan.look_at_data()
    return plan.training(0)


def step(given: argparse.Namespace) -> None:
    _, (images, labels), note = resnet20(given.shared)
    count = 128 if given.quick else 256
    few, large = (images[:count], labels[:count]), RECIPE.with_keys(batch_size=128)
    cases: list[tuple[str, Callable[..., nn.Module], tuple[Tensor, Tensor], ls.Recipe, int]] = [
        ("MLP 64-64-64-10, digits, batch 32", mlp, digits(), RECIPE, 9),
        ("MLP 64-8-8-10, digits, batch 32", lambda: mlp(8), digits(), RECIPE, 9),
        (f"ResNet-20, {note}, batch 128", ResNet20, few, large, 3),
    ]
    for name, factory, data, recipe, repeats in cases:
        training, model = one_model(factory, data, recipe), factory()
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
        epochs = 10 if repeats > 3 and not given.quick else 1

        def ours(t: ModelTraining = training, n: int = epochs) -> None:
            for _ in range(n):
                t.trial()

        def peer(
            m: nn.Module = model,
            d: tuple[Tensor, Tensor] = data,
            r: ls.Recipe = recipe,
            o: torch.optim.Optimizer = optimizer,
            n: int = epochs,
        ) -> None:
            for _ in range(n):
                plain_epoch(m, d, r, o)

        ours(), peer()
        found = in_turn(ours, peer, 1 if given.quick else repeats, over="theirs")
        steps = epochs * -(-len(data[1]) // recipe.batch_size)
        print_row(
            f"an epoch of training with its evaluation, {name}",
            "a plain loop with the same evaluation",
            found,
            "<= 1.05",
            f"{found.ours / steps * 1e3:.2f} ms against {found.theirs / steps * 1e3:.2f} ms a step",
        )


# -- ranks ------------------------------------------------------------------------------------------------------------
# One rank: `bench_phases.py --rank SEED OUT` trains the model of a seed, or both ("all").


def rank_job(seed: str, out: str) -> None:
    torch.set_num_threads(1)
    seeds = 2 if seed == "all" else [int(seed)]
    ls.train_models(mlp, digits(), recipe=RECIPE.with_keys(epochs=300), seeds=seeds, batched=False, out=out)


def ranks(given: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--rank"]
    environment = {**mpi_environment(), "OMP_NUM_THREADS": "1"}
    times = []
    for _ in range(1 if given.quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            alone = [subprocess.Popen([*command, seed, f"{folder}/{seed}"], env=environment) for seed in "01"]
            assert [process.wait() for process in alone] == [0, 0]
            apart = time.perf_counter() - start
            start = time.perf_counter()
            subprocess.run([*mpiexec(2), *command, "all", f"{folder}/all"], env=environment, check=True)
            times.append((time.perf_counter() - start, apart))
    together, apart = ([pair[k] for pair in times] for k in (0, 1))
    print_row(
        "two MLPs (64-64-64-10, digits, 300 epochs) on 2 ranks, start-up included",
        "two processes of one model each, started together",
        Ratios(ratios_of(together, apart, "theirs"), statistics.median(together), statistics.median(apart)),
        "<= 1.05",
    )


# -- all seeds as one -------------------------------------------------------------------------------------------------


def together(given: argparse.Namespace) -> None:
    data, whole = digits(), 2 if given.quick else 40
    for width, batch in ((8, 32), (64, 32), (64, 128), (128, 128)):
        recipe = RECIPE.with_keys(batch_size=batch, epochs=whole)
        run(width, data, recipe.with_keys(epochs=1), batched=True)  # tracing loads what it needs
        alone, one = (partial(run, width, data, recipe, batched=batched) for batched in (False, True))
        found = in_turn(one, alone, 1 if given.quick else 2)
        parameters = sum(p.numel() for p in mlp(width).parameters())
        pays = "on by default" if 6 * parameters * batch <= MOST_OPERATIONS else "off by default"
        print_row(
            f"{SEEDS} seeds of a MLP 64-{width}-{width}-10 as one, digits, batch {batch}, {whole} epochs ({pays})",
            "one after another",
            found,
            ">= 2" if pays.startswith("on") else "",
        )
    for precision, epochs in (("float64", whole), ("float32", 1), ("float32", whole)):
        recipe = RECIPE.with_keys(precision=precision, epochs=epochs)
        losses = [run(64, data, recipe, batched=batched).values["loss"][:, -1] for batched in (False, True)]
        print_row(
            f"the same, batch 32: losses after {epochs} epoch{'s' if epochs > 1 else ''} in {precision}",
            "one after another",
            f"{np.abs(losses[1] / losses[0] - 1).max():.1e}",
            "<= 1e-5",
            "largest relative gap",
        )


def run(width: int, data: object, recipe: ls.Recipe, *, batched: bool) -> ls.Training:
    return trained(lambda: mlp(width), data, recipe, seeds=SEEDS, batched=batched)


COLUMNS = {"lambda_max": "hess_top", "mc": "mc_train_err_pct", "cka": "cka_softmax", "test_accuracy": "test_acc"}


def published(given: argparse.Namespace) -> None:
    """The map of the published grid, or of a table of as many cells, from its file; and its picture."""
    path = given.shared / "reference" / "s1_published_grid.csv"
    with tempfile.TemporaryDirectory() as folder:
        if not path.exists():
            random = np.random.default_rng(0)
            rows = [(2**i, 16 * 2**j, *random.random(4)) for i in range(14) for j in range(13)]
            path = Path(folder) / "cells.csv"
            pd.DataFrame(rows, columns=["width", "batch", *COLUMNS.values()]).to_csv(path, index=False)

        def phases() -> ls.Phases:
            return ls.phases_from_table(path, load="width", temperature="batch", columns=COLUMNS)

        found = phases()
        read, peer = (
            statistics.median(seconds(call) for _ in range(5)) for call in (phases, lambda: pd.read_csv(path))
        )
        drawn = seconds(lambda: found.plot().savefig(Path(folder) / "map.png"))
    cells = int((found.phase != "").sum())
    print_row(
        f"map of {cells} cells from their table", "", f"{read:.3f} s", "<= 2 s", f"pandas reads it in {peer:.4f} s"
    )
    print_row("its picture, four metrics and the phases", "", f"{drawn:.2f} s", "", "")


def cell(given: argparse.Namespace, width: int = 32, epochs: int = 10) -> None:
    """One cell of three seeds by `measure_phases`, and by hand with the calls that it is made of."""
    images, labels = (part[:600] for part in digits())

    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    with tempfile.TemporaryDirectory() as folder:
        run = ls.train_models(
            net,
            (images, labels),
            recipe=ls.Recipe(lr=0.1, epochs=10),
            cells={"width": [width], "batch_size": [32]},
            seeds=3,
            out=Path(folder) / "train",
        )
        models = run.checkpoints.final

        def together() -> None:
            fit = {"curve_epochs": epochs, "curve_lr": 0.05}
            ls.measure_phases(run, load="width", temperature="batch_size", well=False, **fit)

        def by_hand() -> None:
            objective = ls.Objective(net(width), data=(images, labels), metrics=("error",))
            for path in models:
                theta = torch.cat([value.flatten() for value in ls.read_state(path).values()])
                objective.evaluate(theta)
                ls.measure_spectrum(objective, k=1, theta=theta, samples=200, density=False, block=1)
            ls.measure_connectivity(objective, models, t=5, epochs=epochs, lr=0.05)
            ls.measure_agreement(mixed(objective, 768, 0), models)

        found = in_turn(together, by_hand, 1 if given.quick else 3, over="theirs")
    print_row(
        "a cell of three seeds of a map",
        "the same calls by hand",
        found,
    )


PARTS = {part.__name__: part for part in (step, ranks, together, published, cell)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--quick", action="store_true", help="smallest sizes, once: to see that all runs")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.rank:
        rank_job(*given.rank)
        return
    print_heading()
    for name in given.only or PARTS:
        PARTS[name](given)


if __name__ == "__main__":
    main()
