"""Kronecker eigenvalues of layers against those of their Hessian blocks, of nets of digits with BatchNorm and without.

    python scripts/studies/layer_structure.py [--epochs 20] [--samples 500] [--k 10]

Trains an MLP and two convolutional nets (one that flattens its last images, one that averages them), each with
BatchNorm and without, on the first 1,297 of the handwritten digits, and measures the structure of every layer on
training digits: the largest eigenvalue of the block, that of E[M] (x) E[x x'] as a share of it with "reduce" and with
"expand", the overlaps of the one and the k leading eigenvectors with those of the product, the overlap of k with those
of a net trained from another seed, its value by chance, and sigma_1^2 / |V|_F^2 of the first eigenvector.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from landscape_jobs.demo import digits
from torch import Tensor, nn

import landscape as ls

_BATCH = 64


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images, labels = digits("train")
    images, count, k = images.reshape(-1, 1, 8, 8), given.samples, given.k
    began = time.monotonic()
    print(
        f"| net, accuracy | layer | largest | reduce | expand | overlap 1 | {k} | other net, {k} | by chance |", end=""
    )
    print(" rank one |\n|" + "---|" * 10)
    for name in ("MLP", "conv, flattened", "conv, averaged"):
        for norm in (False, True):
            one, other = (trained(network(name, norm, seed), images, labels, given.epochs, seed) for seed in (0, 1))
            objective = ls.Objective(one, data=(images[:count], labels[:count]), metrics=("accuracy",))
            accuracy = objective.evaluate()["accuracy"]
            reduced = ls.measure_layer_structure(objective, k=k, other=other)
            expanded = ls.measure_layer_structure(objective, k=k, places="expand") if "conv" in name else reduced
            title = f"{name}{', BatchNorm' if norm else ''}, {100 * float(accuracy):.1f} %"
            for i, layer in enumerate(reduced.layers):
                print(
                    f"| {title if i == 0 else ''} | {layer} | {row(reduced, expanded, i, 'conv' in name)} |", flush=True
                )
    print(f"\n{count} training digits, {given.epochs} epochs of Adam; {time.monotonic() - began:.0f} s")


def row(reduced: ls.LayerStructure, expanded: ls.LayerStructure, i: int, places: bool) -> str:
    """The cells of a layer."""
    assert reduced.other_overlap is not None
    largest = reduced.eigenvalues[i, 0]
    last = reduced.eigenvalues.shape[1] - 1
    several = places and reduced.places[i] > 1
    cells = [
        f"{largest:.3g} ± {reduced.stderr[i, 0]:.1g}",
        f"{reduced.kronecker[i, 0] / largest:.2f}",
        f"{expanded.kronecker[i, 0] / largest:.2f}" if several else "the same",
        f"{reduced.overlap[i, 0]:.2f}",
        f"{reduced.overlap[i, last]:.2f}",
        f"{reduced.other_overlap[i, last]:.2f}",
        f"{reduced.chance[i, last]:.3f}",
        f"{reduced.rank_one[i, 0]:.2f}",
    ]
    return " | ".join(cells)


def network(name: str, norm: bool, seed: int) -> nn.Module:
    """A net of digits, in its initial state."""
    torch.manual_seed(seed)
    if name == "MLP":
        between = [nn.BatchNorm1d(32)] if norm else []
        second = [nn.BatchNorm1d(32)] if norm else []
        middle = (nn.Linear(64, 32), *between, nn.ReLU(), nn.Linear(32, 32), *second, nn.ReLU())
        return nn.Sequential(nn.Flatten(), *middle, nn.Linear(32, 10))
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 8, 1), (8, 16, 2), (16, 16, 1)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride, 1))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [nn.ReLU()]
    if name == "conv, averaged":
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 16, 10))


def trained(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> nn.Module:
    """The net after so many epochs of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(_BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net.eval()


if __name__ == "__main__":
    main()
