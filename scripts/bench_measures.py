"""Speed of generalisation measures, as ratios against a plain transcription of the reference's loop in one run.

    python scripts/bench_measures.py [--shared ../shared] [--images 2000] [--only PART ...] [--quick]

All measures of Jiang et al. on the shared ResNet-20: the peer fuses BatchNorm, computes every norm by a dense SVD,
those of convolutions at each frequency, and finds sigma by bisection of [0, 2] in 15 steps at most with ten fresh draws
each, every draw a full pass. Ours is `measure_complexity(measures="jiang")`. Every ratio is the peer's time over ours
(above 1: we are faster), of one run each, in processor seconds on one thread.

The part "sigma" has the errors of both at a twentieth of the cost: on all images, how the mean drop and its spread over
draws go with the size of the noise is measured with common draws at two sizes around the root. The peer's bisection is
then repeated 2,000 times with drops drawn from these, and ours as it is with other seeds. Errors are of the size of the
noise (the peer's standard deviation is sigma squared), relative, root mean squares.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import SHARED, Ratios, networks, print_heading, print_row
from landscape_kernels.circular import circular_norm
from safetensors.torch import load_file
from torch import Tensor, nn

import landscape as ls

PARTS = ("spectra", "jiang", "sigma")
DRAWS, SEEDS, REPEATED = 12, 4, 2_000


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = action()
    return time.process_time() - began, found


def fused(model: nn.Module) -> nn.Module:
    """A copy with every BatchNorm fused into the convolution before it: in ResNet-20 they are called alike."""
    model = copy.deepcopy(model).eval()
    modules = dict(model.named_modules())
    for name, norm in modules.items():
        if isinstance(norm, nn.BatchNorm2d):
            conv = modules[name.replace("bn", "conv")]
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            conv.weight.data = (conv.weight * scale[:, None, None, None]).detach()
            conv.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
    return model


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {n: p.detach().double().numpy() for n, p in model.named_parameters() if "bias" not in n}


def dense_norm(weight: np.ndarray, size: tuple[int, int] | None) -> float:
    if size is None or weight.ndim == 2:
        return float(np.linalg.svd(weight.reshape(len(weight), -1), compute_uv=False).max())
    transform = np.fft.fft2(weight, size, axes=(2, 3)).transpose(2, 3, 0, 1)
    return float(np.linalg.svd(transform, compute_uv=False).max())


@torch.no_grad()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part) for part in images.split(250)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((scores(model, images).argmax(1) == labels).double().mean())


class Noisy:
    """A network under the peer's noise of a size, its sigma squared; how much accuracy each draw costs."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, magnitude: bool) -> None:
        self.model, self.images, self.labels, self.magnitude = model, images, labels, magnitude
        self.clean, self.right = accuracy(model, images, labels), [p.data.clone() for p in model.parameters()]

    def drop(self, size: float, generator: torch.Generator) -> float:
        for p, value in zip(self.model.parameters(), self.right, strict=True):
            std = size * value**2 + 1e-6 if self.magnitude else torch.tensor(size)
            p.data = value + torch.randn(value.shape, generator=generator) * std
        found = self.clean - accuracy(self.model, self.images, self.labels)
        for p, value in zip(self.model.parameters(), self.right, strict=True):
            p.data = value
        return found

    def common(self, size: float, draws: int) -> np.ndarray:
        """Drops of draws that are the same for every size."""
        return np.array([self.drop(size, torch.Generator().manual_seed(1000 + k)) for k in range(draws)])


def bisected(ten_drops: Callable[[float], Any]) -> tuple[float, int]:
    """(sigma, steps) of the reference's bisection, whose steps ask for the drops of ten draws at sigma squared."""
    low, high, sigma, step = 0.0, 2.0, 2.0, 0
    while step < 15:
        step += 1
        sigma = (low + high) / 2
        gap = abs(np.mean(ten_drops(sigma**2))) - 0.1
        if abs(gap) < 0.01:
            break
        low, high = (sigma, high) if gap < 0 else (low, sigma)
    return sigma, step


def plain(model: nn.Module, start: nn.Module, images: Tensor, labels: Tensor, sizes: dict[str, Any]) -> dict[str, Any]:
    """All measures by the formulas, one after the other."""
    model, start, m = fused(model), fused(start), len(images)
    w, w0 = weights_of(model), weights_of(start)
    out = scores(model, images)
    right = out.gather(1, labels[:, None])[:, 0]
    gamma = abs(float((right - out.scatter(1, labels[:, None], -math.inf).amax(1)).kthvalue(m // 10).values))
    fro = np.array([(x**2).sum() for x in w.values()])
    dist = np.array([((w[n] - w0[n]) ** 2).sum() for n in w])
    d, found = len(w), dict[str, Any]()
    for end in ("", "_fft"):
        used = {n: sizes.get(n) if end else None for n in w}
        spec = np.array([dense_norm(w[n], used[n]) ** 2 for n in w])
        far = sum(dense_norm(w[n] - w0[n], used[n]) ** 2 for n in w)
        found |= {f"log_prod_of_spec{end}": np.log(spec).sum(), f"dist_spec_init{end}": far}
        found |= {f"fro_over_spec{end}": (fro / spec).sum()}
        found[f"log_prod_of_spec_over_margin{end}"] = np.log(spec).sum() - 2 * math.log(gamma)
        found[f"log_spec_init_main{end}"] = np.log(spec).sum() - 2 * math.log(gamma) + math.log((dist / spec).sum())
        found[f"log_sum_of_spec{end}"] = math.log(d) + np.log(spec).mean()
    found |= {"param_norm": fro.sum(), "fro_dist": dist.sum(), "inverse_margin": gamma**-2}
    squared = copy.deepcopy(model)
    for p in squared.parameters():
        p.data = p.data**2
    found["path_norm"] = float(scores(squared, torch.ones_like(images[:1])).sum())
    for name, magnitude in (("sigma", False), ("mag_sigma", True)):
        noisy, generator = Noisy(model, images, labels, magnitude), torch.Generator().manual_seed(0)
        found[name], _ = bisected(lambda size, n=noisy, g=generator: [n.drop(size, g) for _ in range(10)])
    return found


def spectra(repeats: int) -> None:
    """Spectral norms of the convolutions of a ResNet-20, and of wider ones, on the images that they see."""
    for what, shapes in (
        ("of ResNet-20", [(16, 16, 32)] * 6 + [(32, 32, 16)] * 6 + [(64, 64, 8)] * 6),
        ("of 64 channels on 32 x 32", [(64, 64, 32)]),
        ("of 256 x 128 channels on 16 x 16", [(256, 128, 16)]),
    ):
        generator = torch.Generator().manual_seed(0)
        kernels = [(torch.randn(o, i, 3, 3, generator=generator).double(), (n, n)) for o, i, n in shapes]
        times = []
        for _ in range(repeats):
            theirs, its = cpu_seconds(lambda kernels=kernels: [dense_norm(w.numpy(), size) for w, size in kernels])
            ours, mine = cpu_seconds(lambda kernels=kernels: [circular_norm(w, size) for w, size in kernels])
            times.append((ours, theirs))
        gap = float(np.abs(np.array(mine) / np.array(its) - 1).max())
        ours, theirs = (min(pair[k] for pair in times) for k in (0, 1))
        found = Ratios(tuple(b / a for a, b in times), ours, theirs)
        told = f"{ours:.3f} s against {theirs:.3f} s; gap {gap:.0e}"
        print_row(f"spectral norms {what}", "FFT and dense SVD of every frequency", found, ">= 3", told)


def root(drop: Callable[[float], float], size: float) -> float:
    """About where a drop of 0.1 is, by factors of 2 and then by halves of the logarithm."""
    up = drop(size) < 0.1
    while (drop(size) < 0.1) == up:
        size = 2 * size if up else size / 2
    low, high = (size / 2, size) if up else (size, 2 * size)
    for _ in range(3):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if drop(middle) < 0.1 else (low, middle)
    return math.sqrt(low * high)


def repeated(ends: list[float], drops: np.ndarray) -> tuple[float, float, str]:
    """(error of the peer's size of the noise, its steps, what both follow from), by drops (2, draws) at two sizes."""
    slope = float(np.diff(drops.mean(1))[0]) / math.log(ends[1] / ends[0])
    spread, middle = float(drops.std(1, ddof=1).mean()), math.log(ends[0]) + (0.1 - float(drops[0].mean())) / slope
    stream = np.random.default_rng(0)

    def ten(size: float) -> np.ndarray:
        return min(max(0.1 + slope * (math.log(size) - middle), 0.0), 0.8) + spread * stream.normal(size=10)

    found = [bisected(ten) for _ in range(REPEATED)]
    error = math.sqrt(np.mean([(2 * math.log(one) - middle) ** 2 for one, _ in found]))
    told = f"root at {math.exp(middle):.4g}, slope {slope:.3f}, spread of a draw {spread:.4f}"
    return error, float(np.mean([steps for _, steps in found])), told


def sigma(count: int) -> None:
    """The errors of both sigmas."""
    from shared import ResNet20, cifar10_test, resnet20_checkpoint

    images, labels = cifar10_test(count)
    model = ResNet20().eval()
    model.load_state_dict(load_file(resnet20_checkpoint()))
    objective, plain_model = ls.Objective(model, data=(images, labels)), fused(model)
    for name, magnitude in (("pacbayes_flatness", False), ("pacbayes_mag_flatness", True)):
        found = [ls.measure_complexity(objective, measures=name, seed=seed) for seed in range(SEEDS)]
        sizes = np.array([float(one[name]) ** -0.5 for one in found])
        told = math.sqrt(np.mean([(one[name].stderr / float(one[name]) / 2) ** 2 for one in found]))
        few = Noisy(plain_model, images[: count // 10], labels[: count // 10], magnitude)
        near = root(lambda size, few=few: float(few.common(size, 6).mean()), float(sizes.mean()))
        noisy, ends = Noisy(plain_model, images, labels, magnitude), [near / 1.25, near * 1.25]
        error, steps, follows = repeated(ends, np.array([noisy.common(size, DRAWS) for size in ends]))
        seen, passes = float(np.log(sizes).std(ddof=1)), float(np.mean([one.passes.sum() for one in found]))
        print_row(
            f"{name}: error of the size of the noise, as told; as seen over seeds",
            f"the peer's bisection, {error:.1%}",
            f"{told:.1%}; {seen:.1%}",
            f"<= {error:.1%}",
            f"{passes:.1f} passes against {10 * steps:.0f}; {follows}",
        )


def jiang(count: int) -> None:
    from shared import ResNet20, cifar10_test, resnet20_checkpoint

    images, labels = cifar10_test(count)
    torch.manual_seed(0)
    start, model = ResNet20().eval(), ResNet20().eval()
    model.load_state_dict(load_file(resnet20_checkpoint()))
    objective = ls.Objective(model, data=(images, labels))
    ours, mine = cpu_seconds(lambda: ls.measure_complexity(objective, measures="jiang", initial=start))
    sizes = {name: size for name, (size, _) in ls.Subject(objective).convolutions.items()}
    print_row("all measures of Jiang et al., ours alone", "", "", "", f"{ours:.1f} s, {mine.passes.sum():.1f} passes")
    theirs, its = cpu_seconds(lambda: plain(model, start, images, labels, sizes))
    gaps = [
        abs(float(mine[name]) / float(value) - 1)
        for name, value in its.items()
        if name in mine.names and name != "path_norm"
    ]
    found = Ratios((theirs / ours,), ours, theirs)
    told = f"{ours:.1f} s against {theirs:.1f} s; largest gap {max(gaps):.0e}"
    print_row(f"all measures of Jiang et al. on {count:,} images", "a plain loop", found, ">= 10", told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--quick", action="store_true", help="once, on 100 images: to see that all runs")
    asked = parser.parse_args()
    asked.images = 100 if asked.quick else asked.images
    networks.ROOT = asked.shared
    torch.set_num_threads(1)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: processor seconds of several threads are no measure of time")
    print_heading(f"numpy {np.__version__}")
    if "spectra" in asked.only:
        spectra(1 if asked.quick else 5)
    if "jiang" in asked.only:
        jiang(asked.images)
    if "sigma" in asked.only:
        sigma(asked.images)


if __name__ == "__main__":
    main()
