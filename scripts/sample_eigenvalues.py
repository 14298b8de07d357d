"""Eigenvalues of a few images against those of all: uniform and importance sampling, own and independent sample.

    python scripts/sample_eigenvalues.py [--images 2048] [--sizes 128 256 512] [--seeds 2]

The ResNet-20 checkpoint and the CIFAR-10 test images are taken from the shared data (LANDSCAPE_SHARED). For every
sample: the mean over the ten largest eigenvalues of (sample's eigenvalue) / (that of all images), and of v'Hv on an
independent sample of the same size with the sample's own eigenvectors.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

import landscape as ls

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from shared import ResNet20, cifar10_test, resnet20_checkpoint


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    net = ResNet20()
    ls.load_checkpoint(net, resnet20_checkpoint())
    objective = ls.Objective(net, data=cifar10_test(given.images))
    began = time.monotonic()
    full = ls.measure_spectrum(objective, trace=False, density=False)
    print(f"all {given.images} images ({time.monotonic() - began:.0f} s): " + _row(full.eigenvalues))
    print(f"  stderr for the population: {_row(full.eigenvalue_stderr)}\n")
    print(f"{'images':>6}  {'sampling':<10} {'seed':>4}  {'own / all':>9}  {'independent / all':>17}  own eigenvalues")
    for size in given.sizes:
        for sampling in ("uniform", "importance"):
            ratios = []
            for seed in range(given.seeds):
                found = ls.measure_spectrum(
                    objective, trace=False, density=False, samples=size, sampling=sampling, seed=seed
                )
                assert found.largest.independent is not None
                own = float(np.mean(found.eigenvalues / full.eigenvalues))
                other = float(np.mean(found.largest.independent / full.eigenvalues))
                ratios.append((own, other))
                print(f"{size:6d}  {sampling:<10} {seed:4d}  {own:9.2f}  {other:17.2f}  {_row(found.eigenvalues)}")
            own, other = np.mean(ratios, axis=0)
            print(f"{size:6d}  {sampling:<10} mean  {own:9.2f}  {other:17.2f}")


def _row(values: np.ndarray) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
