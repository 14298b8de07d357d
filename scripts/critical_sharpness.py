"""Critical sharpness beside the largest Hessian eigenvalue at the edge of stability, and its cost in passes.

The network of edge_of_stability.py at one step size: python scripts/critical_sharpness.py [PICTURE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from edge_of_stability import squared_error
from sklearn.datasets import load_digits
from torch import nn

import landscape as ls

STEP, STEPS, EVERY = 0.07, 3000, 150
MEASURES = ("critical_sharpness", "largest_eigenvalue")


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, default=Path("critical_sharpness.png"))
    picture = parser.parse_args().picture
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    digits = load_digits()
    inputs = torch.from_numpy(digits.data[:300] / 16.0).float()
    targets = F.one_hot(torch.from_numpy(digits.target[:300]), 10).float()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimiser = torch.optim.SGD(net.parameters(), lr=STEP)
    rows = []
    for i in range(STEPS + 1):
        if i % EVERY == 0:
            objective = ls.Objective(net, squared_error, (inputs, targets), check=False)
            sharp = ls.measure_complexity(objective, measures=MEASURES[0])
            eigen = ls.measure_spectrum(objective, k=1, trace=False, density=False)
            found = sharp[MEASURES[0]]
            rows.append((i, float(found), found.stderr, eigen.eigenvalues[0], sharp.passes[0], 4 * eigen.products))
            print("{:5d}  lambda_c {:7.3f} +- {:.3f}  lambda_1 {:7.3f}  passes {:4.0f} and {:4.0f}".format(*rows[-1]))
        optimiser.zero_grad()
        squared_error(net(inputs), targets).mean().backward()
        optimiser.step()
    at, critical, error, largest, passes, products = np.array(rows).T
    late = at >= STEPS / 2
    print(
        f"2 / step = {2 / STEP:.2f}; over the later half lambda_c {critical[late].mean():.2f}, lambda_1 "
        f"{largest[late].mean():.2f}; passes {passes.mean():.1f} (3 of them for the gradient), {products.mean():.0f}"
    )
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(at, largest, color="C0", marker=".", label="largest eigenvalue")
    axes.errorbar(at, critical, 2 * error, color="C1", marker=".", capsize=2, label="critical sharpness, 2 stderr")
    axes.axhline(2 / STEP, color="0.4", linestyle="--", linewidth=1, label="2 / step")
    axes.set(xlabel="iteration of full-batch gradient descent", ylabel="sharpness")
    axes.set_title(f"Critical sharpness on 300 digits, step {STEP:g}")
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=150)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
