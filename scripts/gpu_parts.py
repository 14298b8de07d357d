"""The parts of `scripts/gpu_check`: each adds the rows that it found."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks import in_turn, told
from shared import ResNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import landscape as ls
from landscape.objective.gpu import exact_float32

if TYPE_CHECKING:
    from gpu_check import Check


# -- models and data ---------------------------------------------------------------------------------------------------


def resnet(check: Check, blocks: int, count: int) -> tuple[Any, tuple[Any, Any]]:
    """A CIFAR ResNet of 6 `blocks` + 2 layers with statistics of its random images, and their random labels."""
    torch.manual_seed(0)
    side, blocks, count = (8, 1, 8) if check.quick else (32, blocks, count)
    model, images = ResNet(blocks).train(), torch.randn(count, 3, side, side)
    with torch.no_grad():
        model(images[:256])
    return model.eval(), (images, torch.randint(0, 10, (count,)))


def mlp(check: Check, count: int = 512) -> tuple[Any, tuple[Any, Any]]:
    """An MLP, and random samples."""
    torch.manual_seed(0)
    inputs, width, count = (6, 5, 40) if check.quick else (64, 32, count)
    model = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 10))
    return model, (torch.randn(count, inputs), torch.randint(0, 10, (count,)))


def ways(check: Check, model: Any, data: Any, **options: Any) -> dict[str, Any]:
    """The same objective on the CPU in float64, which is what all are compared with, then on the device."""
    kinds = {"cpu": ("cpu", "float64"), "float64": (check.device, "float64"), "float32": (check.device, "float32")}
    return {
        name: ls.Objective(model, "cross_entropy", data, device=device, precision=precision, **options)
        for name, (device, precision) in kinds.items()
    }


def gap(found: Any, right: Any) -> float:
    """The largest difference over the largest value; NaN where one is."""
    found, right = np.asarray(found, dtype=float), np.asarray(right, dtype=float)
    return float(np.abs(found - right).max() / np.abs(right).max())


# -- values ------------------------------------------------------------------------------------------------------------

ASKED = {"float64": 1e-9, "float32": 1e-4}  # TensorFloat32 would be off by 1e-3
CPU = "CPU, float64"


def surface(check: Check) -> None:
    """Losses and accuracies on a grid, statistics re-estimated at every point, too."""
    found = ways(check, *resnet(check, 3, 32), metrics=("accuracy",))
    for mode in ("frozen", "reestimated"):
        measured = {
            name: ls.measure_surface(
                objective, ls.random_plane(objective, seed=0), x=(-0.5, 0.5, 3), y=(-0.5, 0.5, 2), batchnorm=mode
            )
            for name, objective in found.items()
        }
        for name, asked in ASKED.items():
            losses = (measured[name].values["loss"], measured["cpu"].values["loss"])
            check.agree(f"surface, {mode} statistics, {name}: losses", CPU, gap(*losses), asked)
    again = [float(found["float32"].evaluate()["loss"]) for _ in range(2)]
    check.agree("a loss in float32, computed twice", "itself", abs(again[0] - again[1]), 0.0)


def spectrum(check: Check) -> None:
    """Eigenvalues and traces."""
    found = ways(check, *mlp(check))
    measured = {
        name: ls.measure_spectrum(one, k=3, tol=1e-4, trace="exact", density=False) for name, one in found.items()
    }
    for name, asked in (("float64", 1e-6), ("float32", 1e-3)):
        values = [measured[which].largest.values for which in (name, "cpu")]
        check.agree(f"three largest eigenvalues, {name}", CPU, gap(*values), asked)
        traces = [measured[which].trace.value for which in (name, "cpu")]
        check.agree(f"trace, {name}", CPU, gap(*traces), asked)


def curve(check: Check) -> None:
    """A fitted curve."""
    model, data = mlp(check, 256)
    points: dict[str, Any] = {}
    for name, objective in ways(check, model, data).items():
        ends = [objective.theta, objective.theta * 0.5 + 0.1]
        fitted = ls.fit_curve(objective, *ends, epochs=2, train=data, batch_size=32, seed=0)
        points[name] = torch.as_tensor(fitted.control_points).double().cpu().numpy()
    for name, asked in (("float64", 1e-9), ("float32", 1e-4)):
        check.agree(f"control points of a fitted curve, {name}", CPU, gap(points[name], points["cpu"]), asked)


def settings(check: Check) -> None:
    """TensorFloat32 that the user has allowed stays out of values, and stays allowed; cuDNN stays on."""
    if check.device.type != "cuda":
        check.add("a loss and a gradient with TensorFloat32 allowed", "without", "not checked without a GPU")
        return
    model, data = resnet(check, 3, 64)
    objective = ls.Objective(model, "cross_entropy", data, device=check.device, precision="float32")

    def measured() -> float:
        with ls.CurvatureOperator(objective) as H:
            return float(objective.evaluate()["loss"]) + float(H.gradient().double().sum())

    exact = measured()
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        check.agree("a loss and a gradient with TensorFloat32 allowed", "without", abs(measured() - exact), 0.0)
        kept = torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
        check.agree("settings of torch that this has changed", "none", float(not kept), 0.0)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    with objective.at(None):
        check.agree("cuDNN is off while a model is bound", "on", float(not torch.backends.cudnn.enabled), 0.0)


def waits(check: Check) -> None:
    """How often the processor waits for the GPU at a point."""
    if check.device.type != "cuda":
        check.add("waits of the processor for the device at a point", "", "not counted without a GPU", asked="<= 1")
        return
    model, data = resnet(check, 3, 1024)
    objective = ls.Objective(model, "cross_entropy", data, device=check.device, metrics=("accuracy",), chunk=128)
    plane = ls.random_plane(objective, seed=0)
    theta = torch.empty_like(plane.centre)
    objective.estimates(plane.point((0.1, 0.1), theta))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            objective.estimates(plane.point((0.2, 0.1), theta))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    count = sum("synchroniz" in str(one.message) for one in seen)
    check.agree(f"waits of the processor at a point of {objective.chunks} chunks", "", count, 1)


# -- speeds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """What plain loops have of an objective and a plane: a model of their own, and tensors by parameter."""

    model: Any
    data: Any  # on the CPU
    here: Any  # on the device
    centre: list[Any]
    directions: list[list[Any]]

    def move(self, x: float, y: float) -> None:
        """Write the parameters of a point, as loss-landscape does."""
        for p, value, a, b in zip(self.model.parameters(), self.centre, *self.directions, strict=True):
            p.data = value + x * a + y * b

    def parts(self, size: int) -> Iterator[tuple[Any, Any]]:
        """Batches of the data on the device."""
        return zip(self.here[0].split(size), self.here[1].split(size), strict=True)


def peer_of(check: Check, model: Any, data: Any, vectors: Sequence[Any]) -> Peer:
    """A peer with directions, given as vectors (size,)."""
    own = copy.deepcopy(model).to(check.device)
    centre = [parameter.detach().clone() for parameter in own.parameters()]
    sizes = [value.numel() for value in centre]
    parts = [vector.to(check.device).split_with_sizes(sizes) for vector in vectors]
    directions = [[part.view_as(value) for part, value in zip(of, centre, strict=True)] for of in parts]
    return Peer(own, data, tuple(part.to(check.device) for part in data), centre, directions)


def points(check: Check) -> None:
    """A point of ResNet-56: against loss-landscape's loop, a loop over data on the device, and in half precision."""
    model, data = resnet(check, 9, 10_000)
    name = f"ResNet-{8 if check.quick else 56}, {len(data[1]):,} images"
    objective = ls.Objective(model, "cross_entropy", data, device=check.device)
    plane = ls.random_plane(objective, seed=0)
    theta, at = torch.empty_like(plane.centre), (0.1, -0.2)
    peer = peer_of(check, model, data, plane.directions)

    def ours(of: Any = objective) -> float:
        return float(of.estimates(plane.point(at, theta))["loss"])

    @torch.no_grad()
    def tool() -> float:
        """As loss-landscape: a loader with 2 workers, and a look at the loss of every batch."""
        peer.move(*at)
        total = 0.0
        for inputs, targets in DataLoader(TensorDataset(*peer.data), batch_size=128, num_workers=check.workers):
            inputs, targets = inputs.to(check.device), targets.to(check.device)
            total += F.cross_entropy(peer.model(inputs), targets).item() * len(targets)
        return total / len(peer.data[1])

    @torch.no_grad()
    def plain() -> float:
        peer.move(*at)
        losses = [F.cross_entropy(peer.model(x), y, reduction="sum") for x, y in peer.parts(1024)]
        return float(torch.stack(losses).sum()) / len(peer.data[1])

    with exact_float32():  # the peers, too, so that all compute the same
        values = [one() for one in (ours, tool, plain)]
        check.agree(f"{name}: loss at a point, float32", "loss-landscape's loop", gap(values[0], values[1]), 1e-4)
        found = in_turn(ours, tool, 1 if check.quick else 3)
        check.ratio(f"{name}: a point, float32", "loss-landscape's loop: loader of 2 workers, .item() by batch", found)
        found = in_turn(ours, plain, 1 if check.quick else 7)
        check.ratio("the same", "a plain loop over data on the device, batches of 1,024", found)
    rate = f"one point times 2,601; {1 / found.ours:.3g} losses a second"
    check.add("the same: a surface of 51 x 51, by brute force", "", told(2601 * found.ours), times=rate)
    low = ls.Objective(model, "cross_entropy", data, device=check.device, precision="bf16", check=False)
    known = ls.measure_surface(low, plane, x=(-0.5, 0.5, 2), y=(0, 0, 1)).attributes["precision_error_relative"]
    found = in_turn(lambda: ours(low), ours, 1 if check.quick else 5)
    check.ratio("the same in bf16", "ours in float32", found, f"its error, as stored: {known:.1e}")


def graphs(check: Check) -> None:
    """Points of a small network by a recorded pass, against the same points without."""
    name = "points of a small MLP by a CUDA graph"
    if check.device.type != "cuda":
        check.add(name, "the same without", "not recorded without a GPU")
        return
    model, data = mlp(check)
    plain = ls.Objective(model, "cross_entropy", data, device=check.device, metrics=("accuracy",))
    graphed = plain.on(plain.data, cuda_graphs=True)
    plane = ls.random_plane(plain, seed=0)
    theta, places = torch.empty_like(plane.centre), np.linspace(-1, 1, 10 if check.quick else 100)

    def losses(of: Any) -> list[float]:
        return [float(of.estimates(plane.point((x, -x / 2), theta))["loss"]) for x in places.tolist()]

    both = losses(graphed), losses(plain)
    check.agree(f"{name}: not recorded", "recorded", float(not graphed.cuda_graphs), 0.0)
    check.agree(f"{name}: losses", "the same without", gap(*both), 0.0)
    found = in_turn(lambda: losses(graphed), lambda: losses(plain), 1 if check.quick else 7)
    check.ratio(f"{len(places)} {name}, {len(data[1])} samples", "the same without", found)


def products(check: Check) -> None:
    """A Hessian product."""
    model, data = resnet(check, 3, 1024)
    objective = ls.Objective(model, "cross_entropy", data, device=check.device)
    vectors = torch.randn(1, objective.layout.size, device=check.device)
    peer = peer_of(check, model, data, vectors)
    parameters, repeats = list(peer.model.parameters()), 1 if check.quick else 5

    def plain() -> Any:
        total = torch.zeros_like(vectors[0], dtype=torch.float64)
        for x, y in peer.parts(128):
            loss = F.cross_entropy(peer.model(x), y, reduction="sum")
            slopes = torch.autograd.grad(loss, parameters, create_graph=True)
            product = torch.autograd.grad(slopes, parameters, peer.directions[0])
            total += torch.cat([part.reshape(-1) for part in product])
        return (total / len(peer.data[1])).cpu()

    name = f"{type(model).__name__} of {objective.layout.size:,} parameters, {len(data[1]):,} images"
    with ls.CurvatureOperator(objective) as H, exact_float32():
        check.agree(f"{name}: a Hessian product", "double backward", gap(H.apply(vectors)[0].cpu(), plain()), 1e-3)
        found = in_turn(lambda: H.apply(vectors).cpu(), plain, repeats)
        check.ratio("the same", "double backward, its graph made anew", found)
        found = in_turn(lambda: H.gradient().cpu(), lambda: H.apply(vectors).cpu(), repeats)
        check.ratio("a product", "a gradient of ours, whose time is the first", found)


def steps(check: Check) -> None:
    """Steps of a curve's fit."""
    model, data = resnet(check, 3, 2048)
    objective = ls.Objective(model, "cross_entropy", data, device=check.device, check=False)
    ends = [objective.theta, 0.9 * objective.theta]
    peer = peer_of(check, model, data, [])
    parameters, velocity = list(peer.model.parameters()), [torch.zeros_like(value) for value in peer.centre]

    def plain() -> None:
        """The arithmetic of torch.optim.SGD, whose first step would load torch's compiler."""
        peer.model.train()
        for _ in range(2):
            for x, y in peer.parts(128):
                slopes = torch.autograd.grad(F.cross_entropy(peer.model(x), y), parameters)
                with torch.no_grad():
                    torch._foreach_mul_(velocity, 0.9)
                    torch._foreach_add_(velocity, slopes)
                    torch._foreach_add_(parameters, velocity, alpha=-0.03)
        float(velocity[0].sum())  # waits for it

    def ours() -> None:
        ls.fit_curve(objective, *ends, epochs=2, train=data, batch_size=128, seed=0)

    if not check.quick:
        ours(), plain()  # warm
    note = "two epochs; ours with its checks, TensorFloat32 off"
    found = in_turn(ours, plain, 1 if check.quick else 3)
    check.ratio("steps of a curve's fit, batch 128", "steps of plain training", found, note)


PARTS: dict[str, Callable[[Check], None]] = {
    "surface": surface,
    "spectrum": spectrum,
    "curve": curve,
    "settings": settings,
    "waits": waits,
    "points": points,
    "graphs": graphs,
    "products": products,
    "steps": steps,
}
