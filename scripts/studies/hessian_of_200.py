"""The largest eigenvalue of 200 training images beside a bracket by importance sampling and all images.

    python scripts/studies/hessian_of_200.py [--images 4096] [--draws 5] [--size 200] [--larger 800]

A common reading of sharpness is power iteration on the Hessian of 200 training samples: at most 100 steps, until the
value changes by less than 1e-3 (Yang et al. 2021, arXiv 2107.11228). Here it is computed for several draws of 200
images, beside the eigenvalue that converged, v'Hv of the same vector on 200 other images, and the same two of a sample
drawn by importance, of 200 and of more images: the sample's own largest eigenvalue is too large on average, the value
on an independent sample too small, so the two are a bracket. The last line has the Hessian of all images. The ResNet-20
checkpoint and the CIFAR-10 training images are taken from the shared data (LANDSCAPE_SHARED).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from landscape_kernels.probes import normal_vector

import landscape as ls

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from shared import ResNet20, resnet20_checkpoint, shared

_STEPS, _TOL = 100, 1e-3
_MEAN, _STD = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--larger", type=int, default=800)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    net = ResNet20()
    ls.load_checkpoint(net, resnet20_checkpoint())
    images, labels = training_images(given.images)
    objective = ls.Objective(net, data=(images, labels), metrics=("accuracy",))
    print(f"ResNet-20, loss {objective.evaluate()['loss']:.4f} on {given.images:,} training images\n")
    print("| draw | power iteration, steps | converged | on 200 others | by importance: own | independent | ", end="")
    print(f"{given.larger}: own | independent |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for draw in range(given.draws):
        generator = torch.Generator().manual_seed(draw)
        chosen = torch.randperm(given.images, generator=generator)[: 2 * given.size]
        first, second = chosen[: given.size], chosen[given.size :]
        power, steps = power_iteration(ls.Objective(net, data=(images[first], labels[first])), draw)
        few = ls.Objective(net, data=(images[first], labels[first]))
        found = ls.measure_spectrum(few, k=1, trace=False, density=False)
        own = float(found.eigenvalues[0])
        assert found.largest.vectors is not None
        other = form(ls.Objective(net, data=(images[second], labels[second])), found.largest.vectors)
        brackets = [bracket(objective, size, draw) for size in (given.size, given.larger)]
        rows.append([power, own, other, *brackets[0], *brackets[1]])
        values = " | ".join(f"{value:.3g}" for value in rows[-1][1:])
        print(f"| {draw} | {power:.3g}, {steps} | {values} |", flush=True)
    mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
    print("| mean ± spread | " + " | ".join(f"{m:.3g} ± {s:.2g}" for m, s in zip(mean, spread, strict=True)) + " |")
    began = time.monotonic()
    whole = ls.measure_spectrum(objective, k=1, trace=False, density=False)
    value, error = float(whole.eigenvalues[0]), float(whole.eigenvalue_stderr[0])
    took = time.monotonic() - began
    print(f"\nall {given.images:,} images: {value:.3g}, standard error for the population {error:.2g} ({took:.0f} s)")


def training_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first CIFAR-10 training images, normalised as the checkpoint was trained, and labels."""
    with np.load(shared("data", "cifar10", "cifar10_train_first10k.npz")) as file:
        images, labels = (file[name][:count] for name in file.files[:2])
    return torch.from_numpy((images.astype(np.float32) / 255 - _MEAN) / _STD), torch.from_numpy(labels.astype(np.int64))


def power_iteration(objective: ls.Objective, seed: int) -> tuple[float, int]:
    """(v'Hv when it changes by less than 1e-3 or after 100 steps, steps)."""
    with ls.CurvatureOperator(objective) as H:
        v = normal_vector(H.size, seed, "power").to(H.device, H.dtype)[None]
        value = 0.0
        for step in range(1, _STEPS + 1):
            v = v / v.norm()
            image = H.apply(v)
            last, value = value, float((v * image).sum())
            v = image
            if step > 1 and abs(value - last) < _TOL * (abs(last) + 1e-6):
                break
        return value, step


def form(objective: ls.Objective, vectors: object) -> float:
    """v'Hv of the first vector."""
    v = torch.as_tensor(vectors)[:1]
    with ls.CurvatureOperator(objective) as H:
        v = v.to(H.device, H.dtype)
        return float((v * H.apply(v)).sum() / (v * v).sum())


def bracket(objective: ls.Objective, size: int, seed: int) -> tuple[float, float]:
    """(largest eigenvalue of a sample by importance, v'Hv of its vector on an independent one)."""
    options = {"trace": False, "density": False, "samples": size, "sampling": "importance", "seed": seed}
    found = ls.measure_spectrum(objective, k=1, **options)
    assert found.largest.independent is not None
    return float(found.eigenvalues[0]), float(found.largest.independent[0])


if __name__ == "__main__":
    main()
