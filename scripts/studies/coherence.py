"""m-coherence along training with real and redrawn labels, and which descents fit the redrawn ones.

    mpiexec -n 2 python scripts/studies/coherence.py [--short] [--out runs/coherence]

An MLP and a small CNN learn 1,000 MNIST images by SGD without momentum at a constant rate, until those fit whose labels
are drawn anew: none, a quarter, a half, three quarters, or all (Chatterjee & Zielinski 2022, arXiv 2203.10036). Along
the training m-coherence is measured, of all parameters and by layer. f_p and f_c are the parts that examples with
their own and with other labels have in the gradient; i_p and i_c what these took off the loss so far, the sum of
lr <g, g_p> and lr <g, g_c> by the trapezoid rule. Overfit is the training accuracy above e/10 + (1 - e) a, what a
network of held-out accuracy a has by chance on redrawn labels. The bound is the theorem's with L the largest gradient
of an example met on the way, once with beta = 0, which makes it too small, and once with beta the largest eigenvalue of
the Hessian after 300 steps. Then the MLP learns half redrawn labels by SGD, winsorised SGD, and the medians of three.
`--short` takes a tenth of the steps, to try it. MNIST is taken from the shared data (LANDSCAPE_SHARED).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.coherence import coherence_bound
from matplotlib.figure import Figure
from safetensors.torch import load_file

import landscape as ls
from landscape.run.comm import world

sys.path.insert(0, str(Path(__file__).resolve().parent))
import coherence_nets as nets

NOISES = (0.0, 0.25, 0.5, 0.75, 1.0)
EPOCHS = 150
RECIPE = {"lr": 0.05, "momentum": 0.0, "batch_size": 50}
PER_EPOCH, EVERY = 20, 20  # steps of an epoch, and between the checkpoints
SHARP = 300  # the step whose Hessian gives beta
STEPS = (0, 20, 40, 60, 100, 140, 200, 300, 400, 500, 700, 1000, 1400, 2000, 3000)
HALF = {"momentum": 0.0, "label_noise": 0.5}
CLIPPED = (
    {"lr": 0.1, "batch_size": 100, "epochs": 100},
    ({}, {"winsorise": 2.0}, {"winsorise": 8.0}, {"winsorise": 16.0}),
)
MEDIANS = (
    {"lr": 0.01, "batch_size": 1, "epochs": 20},
    ({}, {"optimizer": "ra3"}, {"optimizer": "rm3"}, {"optimizer": "m3"}),
)


def main() -> None:
    """Train, measure, print tables and save pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/coherence"))
    given = parser.parse_args()
    began, share = (time.perf_counter(), time.process_time()), 10 if given.short else 1
    for name in ("mlp", "cnn"):
        along_training(name, EPOCHS // share, given.out)
    by_descents(share, given.out)
    spent = np.array([time.process_time() - began[1]])
    world().allreduce_(spent)
    say(f"\n{time.perf_counter() - began[0]:.0f} s on {world().size} ranks, {spent[0]:.0f} s of processor time")


def say(text: str) -> None:
    """Print on one rank."""
    if world().rank == 0:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def table(head: str, columns: Any, rows: dict[Any, Any], shape: str = ".3g") -> None:
    """Print rows of numbers under a line of names."""
    say(f"\n| {head} | {' | '.join(map(str, columns))} |\n|---|{'---|' * len(columns)}")
    for name, values in rows.items():
        say(f"| {name} | {' | '.join(format(float(value), shape) for value in values)} |")


def along_training(name: str, epochs: int, out: Path) -> None:
    """Everything of one network, for every share of redrawn labels."""
    net = getattr(nets, name)
    run = ls.train_models(
        net, nets.data(), recipe={**RECIPE, "epochs": epochs}, cells={"label_noise": list(NOISES)},
        test=nets.held_out(), trajectory=EVERY, out=out / name,
    )  # fmt: skip
    steps = np.array([step for step in STEPS if step <= epochs * PER_EPOCH])
    found = {}
    for number, noise in enumerate(NOISES):
        folder = out / name / "models" / f"{number:04d}" / "trajectory"
        found[noise] = ls.measure_coherence(
            ls.Objective(net(), "cross_entropy", nets.data(noise)),
            [folder / f"step-{step:08d}.safetensors" for step in steps],
            labels=[str(step) for step in steps],
            groups=nets.kinds(noise) if noise else None,
            examples=True,
            out=out / f"{name}-{noise}",
        )
    say(f"\n## {name}: {nets.TRAINED} images, {epochs * PER_EPOCH} steps")
    say("\nm-coherence of all parameters; a row for each share of redrawn labels, a column for each step")
    table("redrawn", steps, {noise: c.m_coherence for noise, c in found.items()})
    accuracy = {noise: 1 - run.values["error"][row] for row, noise in enumerate(NOISES)}
    tell_rise(steps, found, accuracy)
    tell_layers(found)
    tell_groups(steps, found)
    tell_overfit(run, steps)
    tell_bounds(net, out / name, run, steps, found)
    if world().rank == 0:
        draw(out / f"{name}.png", steps, found, accuracy)
        for noise, c in found.items():
            for quantity in ("m_coherence", "share"):
                c.plot(quantity).savefig(out / f"{name}-{noise}-{quantity}.png")


def tell_rise(steps: np.ndarray, found: dict[float, ls.Coherence], accuracy: dict[float, np.ndarray]) -> None:
    """Where m-coherence begins, how far it falls at first, to what it rises and when, and when labels are learned."""
    rows = {}
    for noise, c in found.items():
        m = c.m_coherence
        low = next((k for k in range(len(m) - 1) if m[k + 1] > m[k]), len(m) - 1)
        top = low + int(m[low:].argmax())
        rate = (m[top] - m[low]) / max(steps[top] - steps[low], 1) * 100
        fitted = [
            next((PER_EPOCH * e for e, a in enumerate(accuracy[noise]) if a >= part), np.nan) for part in (0.5, 0.99)
        ]
        rows[noise] = (m[0], m[low], steps[low], m[top], steps[top], rate, m[-1], *fitted)
    names = (
        "start",
        "first low",
        "at",
        "then highest",
        "at",
        "rise in 100 steps",
        "end",
        "half learned",
        "99 % learned",
    )
    table("redrawn", names, rows, ".4g")


def tell_layers(found: dict[float, ls.Coherence]) -> None:
    """The geometric mean over the run and the largest of m-coherence, by layer; weights and bias of each together."""
    layers = next(iter(found.values())).rows[1:]
    values = {noise: c.quantity("m_coherence")[:, 1:] for noise, c in found.items()}
    say("\nby layer, geometric mean over the checkpoints")
    table("redrawn", layers, {noise: np.exp(np.nanmean(np.log(v), 0)) for noise, v in values.items()})
    say("\nby layer, the largest after the first 100 steps")
    table("redrawn", layers, {noise: np.nanmax(v[4:] if len(v) > 4 else v, 0) for noise, v in values.items()})


def tell_groups(steps: np.ndarray, found: dict[float, ls.Coherence]) -> None:
    """f_p, f_c, and their integrals over the steps."""
    parts, integrals = {}, {}
    for noise, c in found.items():
        for kind, part in zip(c.groups, c.parts.T, strict=True):
            rate = RECIPE["lr"] * part * c.norms[:, 0]
            pieces = (rate[1:] + rate[:-1]) / 2 * np.diff(steps)
            parts[f"{noise} {kind}"], integrals[f"{noise} {kind}"] = part, np.r_[0.0, pieces.cumsum()]
    say("\nf_p and f_c")
    table("redrawn", steps, parts, ".2f")
    say("\ni_p and i_c")
    table("redrawn", steps, integrals, ".2f")


def tell_overfit(run: ls.Training, steps: np.ndarray) -> None:
    """Training accuracy above the proper one."""
    at = steps // PER_EPOCH
    rows = {}
    for row, noise in enumerate(NOISES):
        train, held = (1 - run.values[key][row][at] for key in ("error", "test_error"))
        rows |= {f"{noise} training": train, f"{noise} held out": held}
        rows[f"{noise} overfit"] = train - (noise / 10 + (1 - noise) * held)
    say("\naccuracies and overfit")
    table("redrawn", steps, rows, ".2f")


def tell_bounds(net: Any, out: Path, run: ls.Training, steps: np.ndarray, found: dict[float, ls.Coherence]) -> None:
    """The theorem's bound on the gap of losses along the run, and that gap."""
    rows, m = {}, nets.TRAINED
    for row, (noise, c) in enumerate(found.items()):
        population = (m * c.alpha - 1) / (m - 1)
        alpha = np.interp(np.arange(steps[-1]), steps, population)
        lr, longest = np.full(steps[-1], RECIPE["lr"]), float(np.sqrt(c.lengths.max()))
        bound = coherence_bound(alpha, lr, m, lipschitz=longest, smoothness=0.0)
        gap = (run.values["test_loss"][row] - run.values["loss"][row])[steps // PER_EPOCH]
        rows |= {f"{noise} gap": gap, f"{noise} bound, L {longest:.3g}, beta 0": np.r_[0.0, bound[steps[1:] - 1]]}
        beta = sharpness(net, noise, out / "models" / f"{row:04d}" / "trajectory" / f"step-{SHARP:08d}.safetensors")
        rows[f"{noise} factor of the first step by beta {beta:.3g}, log10"] = np.log10(1 + RECIPE["lr"] * beta) * steps
    say("\ngap of held-out and training loss, and the bound")
    table("redrawn", steps, rows)


def sharpness(net: Any, noise: float, path: Any) -> float:
    """The largest eigenvalue of the Hessian at the weights of a file."""
    model = net()
    model.load_state_dict(load_file(path))
    objective = ls.Objective(model, "cross_entropy", nets.data(noise))
    return float(ls.measure_spectrum(objective, k=1, tol=0.05, trace=False, density=False).eigenvalues[0])


def draw(path: Path, steps: np.ndarray, found: dict[float, ls.Coherence], accuracy: dict[float, np.ndarray]) -> None:
    """m-coherence and training accuracy over the steps, a line for each share of redrawn labels."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, (noise, c) in enumerate(found.items()):
        colour = f"C{k}"
        left.plot(steps, c.m_coherence, "o-", color=colour, markersize=3, label=f"{noise:g} redrawn")
        right.plot(PER_EPOCH * np.arange(len(accuracy[noise])), accuracy[noise], color=colour)
    left.axhline(1.0, color="0.5", linestyle=":", label="orthogonal gradients")
    left.set(yscale="log", xlabel="step", ylabel="m-coherence")
    left.set_xscale("symlog", linthresh=20)
    left.set_xlim(0, steps[-1])
    right.set(xlabel="step", ylabel="training accuracy", ylim=(0.0, 1.02))
    right.legend(*left.get_legend_handles_labels(), fontsize="small", loc="lower right")
    figure.savefig(path, dpi=120)


def by_descents(share: int, out: Path) -> None:
    """Accuracy on pristine, on corrupted and on held-out images by each descent, half of the labels drawn anew."""
    images, labels = nets.data(HALF["label_noise"])
    corrupt = torch.tensor([kind == "corrupt" for kind in nets.kinds(HALF["label_noise"])])
    runs = {}
    for name, (recipe, arms) in {"winsorised": CLIPPED, "medians": MEDIANS}.items():
        epochs = recipe["epochs"] // share
        longer = [{"epochs": 3 * epochs} if arm.get("optimizer") == "m3" else {} for arm in arms]  # a step for three
        run = runs[name] = ls.train_models(
            nets.narrow, nets.data(), recipe={**HALF, **recipe, "epochs": epochs}, test=nets.held_out(),
            arms=[{**arm, **more} for arm, more in zip(arms, longer, strict=True)], batched=False,
            out=out / name,
        )  # fmt: skip
        rows = {}
        for row, path in enumerate(run.checkpoints.final):
            model = nets.narrow()
            model.load_state_dict(load_file(path))
            right = (model(images).argmax(1) == labels).float()
            train, held, proper = (float(values[-1]) for values in accuracies(run, row))
            rows[called(arms[row])] = (
                train,
                right[~corrupt].mean(),
                right[corrupt].mean(),
                held,
                proper,
                train - proper,
            )
        size = recipe["batch_size"]
        say(f"\n## Descents: MLP, half of the labels redrawn, batches of {size}, {epochs * nets.TRAINED // size} steps")
        table("descent", ("training", "pristine", "corrupt", "held out", "proper", "overfit"), rows)
    if world().rank == 0:
        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        for ax, (name, run) in zip(figure.subplots(1, 2, sharey=True), runs.items(), strict=True):
            for row, arm in enumerate((CLIPPED if name == "winsorised" else MEDIANS)[1]):
                train, _, proper = accuracies(run, row)
                x = np.linspace(0.0, 1.0, len(train))
                ax.plot(x, train, color=f"C{row}", label=called(arm))
                ax.plot(x, proper, color=f"C{row}", linestyle=":")
            ax.set(xlabel="part of the steps", ylim=(0.0, 1.02))
            ax.legend(fontsize="small")
        figure.axes[0].set_ylabel("training accuracy; dotted the proper one")
        figure.savefig(out / "descents.png", dpi=120)


def called(arm: dict[str, Any]) -> str:
    """A descent's name."""
    return f"winsorised, {arm['winsorise']:g} %" if "winsorise" in arm else arm.get("optimizer", "sgd").upper()


def accuracies(run: ls.Training, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, held-out and proper accuracy of one model, epoch by epoch."""
    known = int(run.epochs[row]) + 1  # after them NaN
    train, held = (1 - run.values[key][row][:known] for key in ("error", "test_error"))
    return train, held, HALF["label_noise"] / 10 + (1 - HALF["label_noise"]) * held


if __name__ == "__main__":
    main()
