"""fit_curve against a naive twin in plain torch; what it finds, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fit_job
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from landscape_kernels.curves import stratified
from landscape_kernels.probes import derive_seed
from scipy.optimize import minimize
from scipy.stats import kstest
from test_zoo import Entry, gpt2, resnet18
from torch import Tensor, nn

from landscape.errors import InputError, NumericalError, RunInterrupted
from landscape.objective.objective import Objective
from landscape.studies.curve.fit import FitSettings
from landscape.studies.curve.measure import fit_curve
from landscape.studies.curve.result import Curve

INPUTS, LABELS = fit_job.samples()


# -- a naive twin -----------------------------------------------------------------------------------------------------


def twin(
    model: nn.Module,
    points: list[Tensor],
    *,
    kind: str = "bezier",
    epochs: int,
    seed: int = 0,
    optimizer: str = "sgd",
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    decay: str = "point",
    places: str = "stratified",
    batch_size: int = 8,
    parts: int = 1,
    autocast: bool = False,
) -> tuple[Tensor, list[list[float]]]:
    """(control points, [[loss, lr] of each epoch]): autograd through the curve, the optimisers written out."""
    model.train()
    free = [point.clone().requires_grad_() for point in points[1:-1]]
    state = [[torch.zeros_like(point), torch.zeros_like(point)] for point in free]
    history: list[list[float]] = []
    step = 0
    for epoch in range(epochs):
        alpha = epoch / epochs
        rate = lr * (1.0 if alpha <= 0.5 else 1.0 - (alpha - 0.5) / 0.4 * 0.99 if alpha <= 0.9 else 0.01)
        seen = 0.0
        for rows in np.array_split(
            philox(seed, "order", epoch).permutation(len(INPUTS)), -(-len(INPUTS) // batch_size)
        ):
            theta = curve_point(kind, [points[0], *free, points[-1]], place(places, seed, step))
            total = torch.zeros((), dtype=theta.dtype)
            for part, chosen in enumerate(cut(rows, parts)):
                torch.manual_seed(derive_seed(seed, "forward", step, part) % 2**63)
                x, y = INPUTS[chosen].to(theta.dtype), LABELS[chosen]
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    scores = torch.func.functional_call(model, as_parameters(model, theta), (x,))
                total = total + F.cross_entropy(scores.to(theta.dtype), y, reduction="sum")
            loss = total / len(rows)
            seen += float(total.detach())
            if decay == "point":
                loss = loss + weight_decay / 2 * (theta**2).sum()
            gradients = torch.autograd.grad(loss, free, materialize_grads=True)
            step += 1
            with torch.no_grad():
                for point, gradient, (first, second) in zip(free, gradients, state, strict=True):
                    g = gradient + (weight_decay * point if decay == "control" else 0)
                    if optimizer == "sgd":
                        first.mul_(momentum).add_(g)
                        point -= rate * first
                    else:  # Kingma and Ba 2015, algorithm 1
                        first.mul_(0.9).add_(0.1 * g)
                        second.mul_(0.999).add_(0.001 * g**2)
                        scaled = (second / (1 - 0.999**step)).sqrt() + 1e-8
                        point -= rate * first / (1 - 0.9**step) / scaled
        history.append([seen / len(INPUTS), rate])
    return torch.stack([points[0], *(point.detach() for point in free), points[-1]]), history


def philox(seed: int, *keys: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *keys)))


def place(places: str, seed: int, step: int) -> float:
    if places == "uniform":
        return float(philox(seed, "place", step).random())
    stream = philox(seed, "strata", step // 16)
    return float((stream.permutation(16) + stream.random(16))[step % 16] / 16)


def curve_point(kind: str, points: list[Tensor], t: float) -> Tensor:
    """De Casteljau's construction, or the straight line between two neighbours."""
    if kind == "bezier":
        while len(points) > 1:
            points = [(1 - t) * a + t * b for a, b in itertools.pairwise(points)]
        return points[0]
    segment = math.floor(t * (len(points) - 1))
    rest = t * (len(points) - 1) - segment
    return (1 - rest) * points[segment] + rest * points[segment + 1]


def as_parameters(model: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    values = theta.split([p.numel() for p in named.values()])
    return {name: value.view(p.shape) for (name, p), value in zip(named.items(), values, strict=True)}


def cut(rows: np.ndarray, parts: int) -> list[np.ndarray]:
    at = [round(len(rows) * i / parts) for i in range(parts + 1)]
    return [rows[a:b] for a, b in itertools.pairwise(at)]


def start(points: list[Tensor], degree: int) -> list[Tensor]:
    a, b = points
    return [a, *(a + (b - a) * i / degree for i in range(1, degree)), b]


CASES: dict[str, dict[str, Any]] = {
    "bezier": {},
    "bezier of degree 3, decay of the point": {"degree": 3, "weight_decay": 0.05},
    "polychain of 3 segments": {"kind": "polychain", "degree": 3, "weight_decay": 0.05, "decay": "control"},
    "polychain with a bend": {"kind": "polychain", "weight_decay": 0.05},
    "adam": {"optimizer": "adam", "lr": 0.01},
    "adam, decay of control points": {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.05, "decay": "control"},
    "uniform places, no momentum": {"places": "uniform", "momentum": 0.0, "seed": 11},
    "unequal batches": {"batch_size": 7, "seed": 12},
    "3 parts": {"parts": 3},
}


@pytest.mark.parametrize("name", list(CASES))
def test_equals_the_naive_twin(name: str) -> None:
    """Control points to 1e-10 and the history after 5 epochs of 6 steps, with batch statistics and dropout."""
    options = {"lr": 0.1, "batch_size": 8, **CASES[name]}
    objective = fit_job.objective()
    ends = fit_job.ends(objective)
    found = fit_curve(objective, *ends, epochs=5, train=(INPUTS, LABELS), **options)
    degree = options.pop("degree", 2)
    points, history = twin(fit_job.net(), start(list(ends), degree), epochs=5, **options)
    assert found.control_points.dtype == torch.float64
    assert float((found.control_points - points).abs().max()) < 1e-10
    assert float((points[1:-1] - torch.stack(start(list(ends), degree)[1:-1])).norm()) > 0.1  # it went somewhere
    np.testing.assert_allclose(found.history["loss"], [loss for loss, _ in history], rtol=1e-12)
    np.testing.assert_allclose(found.history["lr"], [rate for _, rate in history], rtol=1e-14)
    assert torch.equal(found.control_points[0], ends[0])
    assert torch.equal(found.control_points[-1], ends[1])


def test_half_precision_trains_on_the_point_of_each_step() -> None:
    """bf16 against the twin under autocast, which converts the weights anew each time: to float32's rounding."""
    model = fit_job.net(torch.float32)
    objective = Objective(model, "cross_entropy", (INPUTS.float(), LABELS), precision="bf16")
    ends = fit_job.ends(objective)
    options: dict[str, Any] = {"lr": 0.1, "batch_size": 8}
    found = fit_curve(objective, *ends, epochs=3, train=(INPUTS, LABELS), **options)
    points, history = twin(model, start(list(ends), 2), epochs=3, autocast=True, **options)
    plain, _ = twin(model, start(list(ends), 2), epochs=3, **options)
    assert found.control_points.dtype == torch.float32
    gap = float((found.control_points - points).norm())
    assert gap < 0.1 * float((plain - points).norm())
    np.testing.assert_allclose(found.history["loss"], [loss for loss, _ in history], rtol=1e-3)
    assert torch.equal(found.control_points[0], ends[0])


def test_default_data_are_the_objectives_own() -> None:
    objective = fit_job.objective()
    ends = fit_job.ends(objective)
    found = fit_curve(objective, *ends, epochs=1, batch_size=8)
    given = fit_curve(objective, *ends, epochs=1, batch_size=8, train=(INPUTS, LABELS))
    assert torch.equal(found.control_points, given.control_points)


def test_schedule() -> None:
    """Garipov et al.'s learning_rate_schedule(1, epoch, 10) for epochs 0 to 9."""
    settings = FitSettings(epochs=10, lr=1.0)
    found = [settings.lr_at(epoch) for epoch in range(10)]
    np.testing.assert_allclose(found, [1, 1, 1, 1, 1, 1, 0.7525, 0.505, 0.2575, 0.01], rtol=1e-12)
    assert FitSettings(epochs=1).lr_at(0) == 0.03
    assert FitSettings(epochs=1, optimizer="adam").lr_at(0) == 1e-3


def test_start_is_where_it_begins() -> None:
    objective = fit_job.objective()
    a, b = fit_job.ends(objective)
    model = fit_job.net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    begun = fit_curve(objective, a, b, epochs=1, lr=1e-12, start=[model])
    assert float((begun.control_points[1] - 1.25 * a).abs().max()) < 1e-10


# -- places -----------------------------------------------------------------------------------------------------------


def test_places_fill_sixteen_strata() -> None:
    """Each block of 16 has one in every sixteenth; each number is uniform over seeds, in place and within its stratum.

    The mean of a block has the variance 1 / (12 * 16^3) of stratified sampling.
    """
    blocks = np.stack([stratified(seed, 16 * seed, 16) for seed in range(3000)])
    assert np.array_equal(np.sort((blocks * 16).astype(int), axis=1), np.tile(np.arange(16), (3000, 1)))
    for number in (0, 7, 15):
        assert kstest(blocks[:, number], "uniform").pvalue > 0.003  # 3 standard errors
        assert kstest(blocks[:, number] * 16 % 1, "uniform").pvalue > 0.003
    assert abs(np.corrcoef(blocks[:, 0], blocks[:, 1])[0, 1] + 1 / 15 * (1 - 1 / 256)) < 3 / math.sqrt(3000)
    variance = blocks.mean(axis=1).var()
    assert abs(variance * 12 * 16**3 - 1) < 3 * math.sqrt(2 / 3000)


def test_places_follow_from_their_number() -> None:
    whole = stratified(4, 0, 200)
    for first, count in ((0, 1), (5, 3), (15, 2), (16, 16), (31, 100), (199, 1)):
        assert np.array_equal(stratified(4, first, count), whole[first : first + count])
    assert not np.array_equal(stratified(5, 0, 16), whole[:16])


# -- what it finds ----------------------------------------------------------------------------------------------------


class Point(nn.Module):
    """Two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.p


def on_the_plane(loss: Callable[[Tensor], Tensor]) -> Objective:
    """A loss of two numbers; its data say nothing."""
    return Objective(Point(), None, [torch.zeros(1)], forward=lambda model, batch: loss(model()))


def test_ring() -> None:
    """L = (|p|^2 - 1)^2 from (1, 0) to (0, 1): within 1 % of the best quadratic, the mean over t by Gauss-Legendre."""
    nodes, shares = np.polynomial.legendre.leggauss(8)  # exact for degree 15; the loss on the curve has 8
    t, shares = (nodes[:, None] + 1) / 2, shares / 2

    def mean_loss(middle: np.ndarray) -> float:
        points = (1 - t) ** 2 * np.array([1.0, 0.0]) + 2 * t * (1 - t) * middle + t**2 * np.array([0.0, 1.0])
        return float(shares @ ((points**2).sum(axis=1) - 1) ** 2)

    objective = on_the_plane(lambda p: (p @ p - 1) ** 2)
    train = [torch.zeros(1)] * 80
    curve = fit_curve(objective, [1.0, 0.0], [0.0, 1.0], epochs=8, lr=0.1, train=train)
    best = minimize(mean_loss, [0.8, 0.8], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14}).fun
    assert mean_loss(np.array([0.5, 0.5])) > 100 * best  # the straight line
    assert mean_loss(curve.control_points[1].numpy()) < 1.01 * best
    np.testing.assert_allclose(curve.point(0.5)[0], curve.point(0.5)[1], atol=0.01)


def digits_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(),
        nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


def trained(seed: int, x: Tensor, y: Tensor) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = digits_net().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(12):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval()


def test_digits_are_told_apart_all_along_the_curve() -> None:
    """Two nets with BatchNorm trained from different seeds: a barrier on the line, hardly one on the curve."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    images, digits = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images[:900]).float() / 16, torch.from_numpy(digits[:900])
    first, second = (trained(seed, x, y) for seed in (1, 2))
    objective = Objective(first, "cross_entropy", (x, y), metrics=["error"])
    curve = fit_curve(objective, first, second, epochs=15, lr=0.1, batch_size=64)

    def errors(points: Callable[[float], Tensor]) -> list[float]:
        found = []
        for t in np.linspace(0, 1, 9):
            theta = points(t)
            found.append(float(objective.evaluate(theta, buffers=objective.reestimate(theta))["error"]))
        return found

    a, b = curve.control_points[0], curve.control_points[-1]
    line, bent = errors(lambda t: torch.lerp(a, b, t)), errors(curve.point)
    worse = max(line[0], line[-1])
    assert worse < 0.05
    assert max(line) > worse + 0.2
    assert max(bent) < worse + 0.01
    assert curve.history["error"][-1] < 0.05
    assert curve.length > 1.01 * curve.distance


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "lr"), [(resnet18, 1e-3), (gpt2, 0.1)])
def test_any_architecture(make: Callable[[], Entry], lr: float) -> None:
    """Nothing here or in the engine knows torchvision's or transformers' models."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        entry = make()
    given = {name: value.clone() for name, value in entry.model.named_parameters()}
    objective = Objective(entry.model, "cross_entropy", entry.data, forward=entry.forward)
    # ends this near have one loss between them, and the step lowers it: short enough, and more than Dropout raises it
    end = 1.001 * objective.theta
    curve = fit_curve(objective, entry.model, end, epochs=2, lr=lr, train=[entry.data] * 2)
    assert torch.equal(curve.control_points[0], torch.cat([value.flatten() for value in given.values()]))
    assert torch.equal(curve.control_points[-1], end)
    middle = torch.lerp(curve.control_points[0], curve.control_points[-1], 0.5)
    assert not torch.equal(curve.control_points[1], middle)
    assert curve.history["loss"][-1] < curve.history["loss"][0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gpu(precision: str, tmp_path: Path) -> None:
    """The same bits twice, stopped or not; the GPU's random stream goes on as if nothing had been drawn."""
    model = fit_job.net(torch.float32)
    objective = Objective(model, "cross_entropy", (INPUTS.float(), LABELS), precision=precision, device="cuda")
    ends = fit_job.ends(objective)
    state = torch.cuda.get_rng_state()
    whole = fit_curve(objective, *ends, epochs=4, batch_size=8)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    with fit_job.Stopped(model, 15), pytest.raises(RunInterrupted):
        fit_curve(objective, *ends, epochs=4, batch_size=8, out=tmp_path / "run")
    resumed = fit_curve(objective, *ends, epochs=4, batch_size=8, out=tmp_path / "run")
    assert torch.equal(resumed.control_points, whole.control_points)
    assert torch.equal(whole.control_points[0], ends[0])
    assert whole.control_points.isfinite().all()


# -- bad input --------------------------------------------------------------------------------------------------------


def attempt(**options: Any) -> Curve:
    objective = fit_job.objective()
    a, b = fit_job.ends(objective)
    options = {"theta_a": a, "theta_b": b, "epochs": 1, **options}
    return fit_curve(objective, options.pop("theta_a"), options.pop("theta_b"), **options)


def spoilt(value: float, count: int) -> Tensor:
    theta = fit_job.objective().theta
    theta[:count] = value
    return theta


THETA = fit_job.objective().theta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"theta_b": torch.zeros(7)},
            r"theta has 7 values, the model 75 trainable ones \(5 tensors",
        ),
        ({"theta_b": nn.Linear(4, 3)}, "Linear.*weight"),
        ({"theta_b": {**fit_job.net().state_dict(), "4.bias": torch.zeros(9)}}, r"4\.bias.*9"),
        ({"theta_b": THETA}, "theta_a and theta_b are equal, so there is no curve to fit; give two different models"),
        ({"theta_b": fit_job.net()}, "theta_a and theta_b are equal"),
        ({"theta_a": spoilt(math.nan, 3)}, "theta_a holds 3 values that are NaN or infinite; it is of a diverged run"),
        ({"theta_b": spoilt(math.inf, 1)}, "theta_b holds 1 values that are NaN or infinite"),
        ({"start": []}, r"start holds 0 control points; degree=2 has 1 between the ends"),
        ({"start": [THETA], "degree": 3}, r"start holds 1 control points; degree=3 has 2 between the ends"),
        ({"start": [spoilt(math.nan, 2)]}, r"start\[0\] holds 2 values that are NaN"),
        ({"start": [torch.zeros(3)]}, "theta has 3 values"),
        ({"kind": "bezzier"}, "kind='bezzier'; give one of bezier, polychain"),
        ({"optimizer": "sdg"}, "optimizer='sdg'; give one of sgd, adam"),
        ({"decay": "controls"}, "decay='controls'; give one of point, control"),
        ({"places": "grid"}, "places='grid'; give one of stratified, uniform"),
        ({"degree": 1}, "degree=1; give a whole number of 2 or more"),
        ({"epochs": 0}, "epochs=0; give a whole number of 1 or more"),
        ({"parts": 0}, "parts=0; give a whole number of 1 or more"),
        ({"lr": -0.1}, "lr=-0.1; give a finite number above 0"),
        ({"lr": math.nan}, "lr=nan; give a finite number above 0"),
        ({"momentum": -0.1}, "momentum=-0.1; give a finite number of 0 or more and below 1"),
        ({"momentum": 1.0}, "momentum=1.0; give a finite number of 0 or more and below 1"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001; give a finite number of 0 or more"),
        ({"batch_size": 0}, "batch_size=0; give a whole number of 1 or more"),
        ({"train": []}, "is empty"),
        ({"train": (batch for batch in [1])}, "generator can be read only once"),
        (
            {"train": fit_job.augmented(num_workers=1, persistent_workers=True)},
            "build it with persistent_workers=False",
        ),
        ({"batch_size": 3, "parts": 4}, r"a batch of 3 samples cannot be cut into parts=4; use fewer parts"),
    ],
)
def test_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        attempt(**options)
    if "parts=4" not in message:  # which only the batches tell
        with pytest.raises(InputError):
            attempt(**options, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_data_that_end_after_an_epoch_are_refused() -> None:
    class Once:
        def __init__(self) -> None:
            self._batches = iter([(INPUTS, LABELS)])

        def __iter__(self) -> Iterator[Any]:
            return self._batches

    with pytest.raises(InputError, match=r"no batch in epoch [12]; give data that can be read anew in every epoch"):
        attempt(epochs=3, train=Once())


def test_streamed_data_need_a_loader() -> None:
    objective = fit_job.objective(memory_budget=100)
    with pytest.raises(InputError, match="does not fit in memory_budget and is streamed; give train= a DataLoader"):
        fit_curve(objective, *fit_job.ends(objective))


def test_a_diverged_fit_is_told() -> None:
    objective = on_the_plane(lambda p: (p @ p - 1) ** 2)
    with pytest.raises(
        NumericalError,
        match=r"the loss became (nan|inf) in epoch 1 of 20.*: the fit diverged with lr=100\. Give a smaller lr",
    ):
        fit_curve(objective, [1.0, 0.0], [0.0, 1.0], epochs=20, lr=100.0, train=[torch.zeros(1)] * 20)


def test_a_gradient_that_is_nan_is_told() -> None:
    """The loss is finite all the while, and its last step is the first to spoil the curve."""
    objective = on_the_plane(lambda p: p.square().sum() + (p - p.detach()).abs().sqrt().sum())
    with pytest.raises(NumericalError, match="a control point became NaN or infinite in epoch 1 of 1"):
        fit_curve(objective, [1.0, 0.0], [0.0, 1.0], epochs=1, train=[torch.zeros(1)])
