"""Full-batch gradient descent on handwritten digits sharpens until lambda_1 is near 2 / step (Cohen et al. 2021).

Trains a small tanh network on squared error with a few step sizes, measures the largest Hessian eigenvalue along the
way, and draws it over the line 2 / step: python scripts/edge_of_stability.py [PICTURE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import landscape as ls

STEPS, EVERY = 3000, 100


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """(B,) squared distances."""
    return ((outputs - targets) ** 2).sum(1)


def sharpness_along(step: float, inputs: Tensor, targets: Tensor) -> tuple[list[int], list[float]]:
    """(iterations, largest eigenvalue at each) of gradient descent with a fixed step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimiser = torch.optim.SGD(net.parameters(), lr=step)
    places: list[int] = []
    values: list[float] = []
    start = None
    for i in range(STEPS + 1):
        if i % EVERY == 0:
            objective = ls.Objective(net, squared_error, (inputs, targets), check=False)
            found = ls.measure_spectrum(objective, k=1, trace=False, density=False, start=start)
            start = found.eigenvectors
            places.append(i)
            values.append(float(found.eigenvalues[0]))
        optimiser.zero_grad()
        squared_error(net(inputs), targets).mean().backward()
        optimiser.step()
    return places, values


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, default=Path("edge_of_stability.png"))
    picture = parser.parse_args().picture
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    digits = load_digits()
    inputs = torch.from_numpy(digits.data[:300] / 16.0).float()
    targets = F.one_hot(torch.from_numpy(digits.target[:300]), 10).float()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, step in enumerate((0.05, 0.07, 0.1)):
        places, values = sharpness_along(step, inputs, targets)
        axes.plot(places, values, color=f"C{number}", marker=".", label=f"step {step:g}")
        axes.axhline(2 / step, color=f"C{number}", linestyle="--", linewidth=1)
        print(f"step {step:g}: lambda_1 ends at {values[-1]:.2f}, 2 / step = {2 / step:.2f}")
    axes.set(xlabel="iteration of full-batch gradient descent", ylabel="largest Hessian eigenvalue")
    axes.set_title("Edge of stability on 300 digits (dashed: 2 / step)")
    axes.legend(loc="center right")
    figure.savefig(picture, dpi=150)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
