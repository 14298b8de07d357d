"""m-coherence along training with real and redrawn labels, and which descents fit the redrawn ones.

    mpiexec -n 2 python scripts/studies/coherence.py [--epochs 60] [--out runs/coherence]

An MLP and a small CNN learn 1,000 MNIST images, a share of 0 to 1 of whose labels is drawn anew (Chatterjee & Zielinski
2022, arXiv 2203.10036). At checkpoints m-coherence is measured by layer; f_p and f_c are the parts that examples with
their own and with other labels have in the gradient, i_p and i_c what they took off the loss so far, sum of lr
<g, g_p> and lr <g, g_c> by the trapezoid rule; overfit is the training accuracy above what a network of that held-out
accuracy would have by chance on redrawn labels, e/10 + (1 - e) a. The bound is the theorem's, with L the largest
gradient of a sample met and beta = 0, which makes it too small. Then the MLP is trained by SGD, by winsorised SGD and
by the medians of three, on half redrawn labels. MNIST is taken from the shared data (LANDSCAPE_SHARED).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from landscape_kernels.coherence import coherence_bound

import landscape as ls
from landscape.run.comm import world

sys.path.insert(0, str(Path(__file__).resolve().parent))
import coherence_nets as nets

NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = (0, 5, 10, 15, 25, 50, 75, 100, 150, 200, 300, 400, 500, 600)
LR = 0.05


def main() -> None:
    """Train, measure, print tables and save pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/coherence"))
    given = parser.parse_args()
    began = time.perf_counter()
    for name in ("mlp", "cnn"):
        along_training(name, given.epochs, given.out)
    by_descents(given.out)
    say(f"{time.perf_counter() - began:.0f} s on {world().size} ranks")


def say(text: str) -> None:
    """Print on one rank."""
    if world().rank == 0:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def along_training(name: str, epochs: int, out: Path) -> None:
    """m-coherence, parts and bounds of one network, for every share of redrawn labels."""
    net = getattr(nets, name)
    recipe = {"lr": LR, "momentum": 0.9, "batch_size": 100, "epochs": epochs}
    cells = {"label_noise": list(NOISES)}
    options = {"test": nets.held_out(), "trajectory": 5}
    run = ls.train_models(net, nets.data(), recipe=recipe, cells=cells, out=out / name, **options)
    say(f"\n{name}: m-coherence of {nets.TRAINED} samples, all parameters\n")
    found = {}
    for number, noise in enumerate(NOISES):
        folder = out / name / "models" / f"{number:04d}" / "trajectory"
        files = [folder / f"step-{step:08d}.safetensors" for step in STEPS if step <= epochs * 10]
        data = nets.data(noise)
        objective = ls.Objective(net(), "cross_entropy", data)
        groups = nets.kinds(noise) if noise else None
        labels = [str(step) for step in STEPS[: len(files)]]
        found[noise] = ls.measure_coherence(
            objective, files, groups=groups, examples=True, labels=labels, out=out / f"{name}-{noise}"
        )
    labels = next(iter(found.values())).labels
    say(f"| redrawn | {' | '.join(labels)} |\n|---|{'---|' * len(labels)}")
    for noise, c in found.items():
        say(f"| {noise} | {' | '.join(f'{value:.3g}' for value in c.m_coherence)} |")
    layers = next(iter(found.values())).rows
    say(f"\nby layer, the largest after step 25 ({', '.join(layers[1:])}), and the mean over the run")
    late = next((k for k, label in enumerate(labels) if int(label) > 25), 0)
    for noise, c in found.items():
        values = c.quantity("m_coherence")
        top, mean = values[late:].max(0), values.mean(0)
        say(f"  {noise}: {', '.join(f'{v:.3g}' for v in top[1:])}; mean {', '.join(f'{v:.3g}' for v in mean[1:])}")
    say("\nparts of pristine and corrupt examples: f_p, f_c at the steps; i_p, i_c at the end")
    for noise, c in found.items():
        if c.groups:
            tell_parts(noise, c)
    say("\noverfit and the bound at the end")
    for number, (noise, c) in enumerate(found.items()):
        train, held = (1 - run.final(key)[number] for key in ("error", "test_error"))
        redrawn = noise / 10 + (1 - noise) * held
        steps = np.array([int(label) for label in c.labels])
        alpha = np.interp(np.arange(steps[-1]), steps, c.alpha)
        longest = float(np.sqrt(c.lengths.max()))
        bound = coherence_bound(alpha, np.full(steps[-1], LR), nets.TRAINED, lipschitz=longest, smoothness=0.0)[-1]
        gap = run.final("test_loss")[number] - run.final("loss")[number]
        say(
            f"  {noise}: train {train:.3f}, held out {held:.3f}, overfit {train - redrawn:+.3f}; "
            f"L {longest:.3g}, bound {bound:.3g}, gap of losses {gap:.3g}"
        )
    if world().rank == 0:
        for noise, c in found.items():
            c.plot().savefig(out / f"{name}-{noise}.png")


def tell_parts(noise: float, c: ls.Coherence) -> None:
    """f_p, f_c along the run, and their integrals."""
    steps = np.array([int(label) for label in c.labels], dtype=float)
    parts = dict(zip(c.groups, c.parts.T, strict=True))
    told = {
        kind: (", ".join(f"{v:.2f}" for v in part), LR * np.trapezoid(part * c.norms[:, 0], steps))
        for kind, part in parts.items()
    }
    for kind, (values, integral) in told.items():
        say(f"  {noise} {kind}: f {values}; i {integral:.3g}")


def by_descents(out: Path) -> None:
    """Training and held-out accuracy of the MLP by each descent, half of the labels drawn anew."""
    noise, shared = 0.5, {"lr": 0.1, "momentum": 0.0, "batch_size": 100, "epochs": 150, "label_noise": 0.5}
    runs = {
        "winsorised": ls.train_models(
            nets.mlp, nets.data(), recipe=shared, cells={"winsorise": [0.0, 1.0, 2.0, 4.0, 8.0]},
            test=nets.held_out(), out=out / "winsorised",
        ),
        "of three": ls.train_models(
            nets.mlp, nets.data(), recipe=shared, cells={"optimizer": ["m3", "rm3", "ra3"]},
            test=nets.held_out(), out=out / "of-three",
        ),
    }  # fmt: skip
    say("\nMLP, half of the labels redrawn, 150 epochs without momentum\n")
    say("| descent | training accuracy | held out | proper |\n|---|---|---|---|")
    for run in runs.values():
        for row in range(len(run.seed)):
            train, held = (1 - run.final(key)[row] for key in ("error", "test_error"))
            say(f"| {run.label(row)} | {train:.3f} | {held:.3f} | {noise / 10 + (1 - noise) * held:.3f} |")


if __name__ == "__main__":
    main()
