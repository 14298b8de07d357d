"""Volumes of the basins of well trained and of poisoned networks against their test accuracy.

    mpiexec -n 2 python scripts/studies/basins.py [--directions 300] [--out runs/basins]

MLPs of handwritten digits are trained to be right on some samples and wrong on others, a share of 0 to 30 %
(Huang et al. 2019). All basins are measured on the same clean samples, up to a loss of 0.3: along filter-normalised
directions, and along Gaussian ones, plain, with two preconditioners, and under a Gaussian prior with the root mean
square of the initial weights. Then two spirals: the boundary of a good and of a poisoned network, and where minima lie
(their principal plane).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

import landscape as ls
from landscape.run.comm import world
from landscape.studies.basin.pictures import plot_boundary, plot_minima, plot_volumes
from landscape.studies.training.data import poison_of

sys.path.insert(0, str(Path(__file__).resolve().parent))
import basins_nets as nets

SEEDS = 3
RECIPE = {"optimizer": "adam", "lr": 0.01, "schedule": "cosine", "batch_size": 50, "epochs": 200}
SPIRALS = {"optimizer": "adam", "lr": 0.003, "schedule": "cosine", "batch_size": 200, "epochs": 3000}
CUTOFF = 0.3


def main() -> None:
    """Train, measure, print tables and save pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directions", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/basins"))
    given = parser.parse_args()
    began = time.perf_counter()
    digits(given.directions, given.out)
    say(f"digits: {time.perf_counter() - began:.0f} s on {world().size} ranks")
    spirals(given.directions // 2, given.out)
    say(f"all: {time.perf_counter() - began:.0f} s on {world().size} ranks")


def say(text: str) -> None:
    """Print on one rank."""
    if world().rank == 0:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def kept(figure: Any, path: Path) -> None:
    """Save a picture on one rank."""
    if world().rank == 0:
        figure.savefig(path)


def digits(directions: int, out: Path) -> None:
    """Volumes of five poison levels, three seeds each."""
    # with these weights every sample counts alike, right or wrong
    arms = [{"poison": share, "poison_weight": share / (1 - share) if share else 1.0} for share in nets.POISONS]
    run = ls.train_models(
        nets.net, nets.data(), recipe=RECIPE, arms=arms, seeds=SEEDS, test=nets.held_out(), out=out / "train"
    )
    accuracy = 1 - run.final("test_error")
    initial = ls.read_state(run.checkpoints.initial[0])
    sigma = float(np.sqrt(np.concatenate([v.numpy().ravel() ** 2 for v in initial.values()]).mean()))
    ways: dict[str, dict[str, Any]] = {
        "filter": {},
        "plain": {"kind": "gaussian"},
        "prior": {"kind": "gaussian", "prior_sigma": sigma},
        "diagonal": {"kind": "gaussian", "precondition": "diagonal"},
        "krylov": {"kind": "gaussian", "precondition": "krylov"},
    }
    found: dict[str, dict[int, ls.Basin]] = {way: {} for way in ways}
    for row, path in enumerate(run.checkpoints.final):
        net = nets.net()
        ls.load_checkpoint(net, path)
        objective = ls.Objective(net, data=nets.clean(), device="cpu")
        for way, asked in ways.items():
            if run.seed[row] == 0 or "precondition" not in asked:  # preconditioners on one seed: they cost a spectrum
                place = out / f"{'plain' if way == 'prior' else way}-{row:02d}"  # a prior takes the same radii
                found[way][row] = ls.measure_basin(objective, CUTOFF, directions=directions, **asked, out=place)
    say(f"\nprior sigma {sigma:.4g}; {objective.samples} clean samples; nats, mean over {SEEDS} seeds\n")
    say("| poison | test accuracy | clean loss | " + " | ".join(f"{w}: estimate, bound, spread" for w in ways) + " |")
    say("|---|---|---|" + "---|" * len(ways))
    for poison in nets.POISONS:
        rows = [row for row in range(len(run.seed)) if run.keys["poison"][row] == poison]
        cells_ = [f"{poison:g}", f"{accuracy[rows].mean():.3f}", f"{run.final('loss')[rows].mean():.2g}"]
        for basins in found.values():
            volumes = [basins[row].log_volume for row in rows if row in basins]
            means = [np.mean([getattr(v, name) for v in volumes]) for name in ("log_mean_exp", "mean", "spread")]
            cells_.append(f"{means[0]:.1f}, {means[1]:.1f}, {means[2]:.3g}")
        say(f"| {' | '.join(cells_)} |")
    say("\nKendall's tau of test accuracy with the log volume over all networks\n")
    for way, basins in found.items():
        rows = list(basins)
        labels = [f"poison {run.keys['poison'][row]:g}" for row in rows]
        for which in ("log_mean_exp", "mean"):
            values = np.array([getattr(basin.log_volume, which) for basin in basins.values()])
            found_tau = kendalltau(values, accuracy[rows])
            say(f"  {way} {which}: tau {found_tau.statistic:+.3f}, p {found_tau.pvalue:.2g}, {len(rows)} networks")
            figure = plot_volumes(list(basins.values()), accuracy[rows].tolist(), labels=labels, which=which)
            kept(figure, out / f"volumes-{way}-{which}.png")
        believed = sum(basin.log_volume.believable for basin in basins.values())
        whole = ", ".join(
            f"{b.attributes['whole_prior']:.4g}" for b in basins.values() if "whole_prior" in b.attributes
        )
        say(f"  {way}: {believed} of {len(basins)} are to be believed; all of space: {whole or 'no prior'}")
    for what in ("radii", "profiles", "contributions"):
        kept(found["plain"][0].plot(what), out / f"{what}-good.png")
        kept(found["plain"][len(run.seed) - 1].plot(what), out / f"{what}-poisoned.png")


def spirals(directions: int, out: Path) -> None:
    """Boundaries, radii and the minefield of two spirals."""
    cells = {"poison": [0.0, 0.5]}
    run = ls.train_models(
        nets.spiral_net, nets.spirals(), recipe=SPIRALS, cells=cells, seeds=2, test=nets.spirals_held_out(),
        out=out / "spirals",
    )  # fmt: skip
    accuracy, train = 1 - run.final("test_error"), 1 - run.final("error")
    say(
        "\nspirals: poison, accuracy on what is clean, on the poison as it was told, on new points, median radius "
        "(filter), log volume (filter): bound, estimate"
    )
    basins = []
    for row, path in enumerate(run.checkpoints.final):
        poison = run.keys["poison"][row]
        net = nets.spiral_net()
        ls.load_checkpoint(net, path)
        clean = nets.trained_on(nets.spirals(), nets.Recipe(poison=0.5))
        objective = ls.Objective(net, data=clean, device="cpu")
        kept(plot_boundary(objective, title=f"poison {poison:g}, test accuracy {accuracy[row]:.1%}"),
             out / f"boundary-{row}.png")  # fmt: skip
        loss = float(objective.evaluate()["loss"])
        learnt = float("nan")
        if poison:
            told = poison_of(nets.spirals(), run.recipe(row))
            learnt = 1 - float(ls.Objective(net, data=told, metrics=("error",), device="cpu").evaluate()["error"])
        basin = ls.measure_basin(objective, max(CUTOFF, 2 * loss), directions=directions, out=out / f"spiral-{row}")
        volume = basin.log_volume
        trust = "" if volume.believable else "not "
        say(
            f"  {poison:g}, {train[row]:.3f}, {learnt:.3f}, {accuracy[row]:.3f}, {np.median(basin.radii):.4f}, "
            f"{volume.mean:.1f}, {float(volume):.1f} ({trust}to be believed); loss {loss:.2g}"
        )
        basins.append(basin)
    plane = ls.pca_plane(objective, [*run.checkpoints.initial, *run.checkpoints.final])
    at_first = 1 - run.values["test_error"][:, 0]
    labels = [f"{end}, poison {poison:g}" for end in ("initial", "final") for poison in run.keys["poison"]]
    kept(plot_minima(plane, [*at_first, *accuracy], labels=labels), out / "minefield.png")


if __name__ == "__main__":
    main()
