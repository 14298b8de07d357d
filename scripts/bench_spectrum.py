"""Speed and accuracy of curvature, as ratios against named peers in one run; prints a Markdown table.

    python scripts/bench_spectrum.py [--shared ../shared] [--only PART ...] [--patience SECONDS] [--images N] [--quick]

Network: ResNet-20 in eval mode on 512 CIFAR-10 images. Peers: PyHessian (a dependency), and, where they are installed
(`scripts/bench` makes environments for them), scipy's eigsh over curvlinops' HessianLinearOperator and Lanczos' method
of hessian-eigenthings, with as many steps as ours took. Ratios are peer time over
ours (above 1: we are faster). A peer reads the data in the way that is fastest for it here, and residuals are measured
with our products. A run of PyHessian that would take longer than `--patience` is extrapolated, and its row says so: its
own code on a diagonal matrix of the same spectrum counts the products (power iteration from a normal vector depends on
the spectrum alone), and each costs what one was measured to cost.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks import SHARED, Ratios, digits, mlp, print_heading, print_row, ratios_of, resnet20
from landscape_kernels.krylov import KrylovState, eigenpairs
from torch import Tensor, nn

import landscape as ls
from landscape.results.stages import read_stage

PAIRS, TOL = 10, 1e-3
REFERENCE = 512  # images that the reference values are of
TOP_TEN = (95.85, 84.70, 64.94, 61.81, 47.74, 43.01, 33.53, 29.75, 26.14, 24.98)
TRACE = 1013.1
COMMON, SEED = 4, 1  # probes of a deflated trace that all chunks share
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Row = Callable[..., None]


def seconds(action: Callable[[], object]) -> float:
    """Time of one call, to the end of what it left running on a GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def note(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


@dataclass(frozen=True)
class OurPairs:
    """Our eigenpairs, and the projected matrix of the Krylov space they came from."""

    values: np.ndarray  # (k,)
    vectors: Tensor  # (k, size)
    residuals: np.ndarray  # (k,), relative
    products: int
    basis: Tensor  # (m, size), orthonormal
    projected: np.ndarray  # (m, m)
    seconds: float


class Problem:
    """The network and its data."""

    def __init__(self, shared: Path, images: int, *, quick: bool = False) -> None:
        self.shared, self.images, self.quick = shared, images, quick
        model, (inputs, targets), self.about = (mlp(), digits(), "an MLP on digits") if quick else resnet20(shared)
        self.model = model.to(DEVICE)
        self.inputs, self.targets = inputs[:images].to(DEVICE), targets[:images].to(DEVICE)
        self.trained = "trained" in self.about
        self.known = self.trained and images == REFERENCE

    @cached_property
    def objective(self) -> ls.Objective:
        return ls.Objective(self.model, "cross_entropy", (self.inputs, self.targets), device=DEVICE)

    def gradient_seconds(self) -> float:
        with ls.CurvatureOperator(self.objective) as H:
            H.gradient()
            return seconds(H.gradient)

    @cached_property
    def pairs(self) -> OurPairs:
        """Check, products, residuals recomputed: the work of measure_spectrum, whose Krylov space is wanted here."""
        states: list[KrylovState] = []
        result: list[OurPairs] = []

        def run() -> None:
            with ls.CurvatureOperator(self.objective) as H:
                found = eigenpairs(
                    H, PAIRS, tol=TOL, seed=0, save=lambda state: states.__setitem__(slice(None), [state])
                ).largest
                gaps = relative_residuals(H, found.values, found.vectors)
                C = states[0].coefficients
                m = C.shape[1]
                result.append(OurPairs(found.values, found.vectors, gaps, H.products, states[0].basis[:m], C[:m], 0.0))

        elapsed = seconds(run)
        return OurPairs(**{**vars(result[0]), "seconds": elapsed})

    def loader(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.inputs.split(batch), self.targets.split(batch), strict=True))


def relative_residuals(H: ls.CurvatureOperator, values: np.ndarray, vectors: Tensor) -> np.ndarray:
    """|Hv - value v| / |value| of unit vectors, by our products."""
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    gaps = H.apply(vectors).double() - torch.from_numpy(values).to(DEVICE)[:, None] * vectors.double()
    return gaps.norm(dim=1).cpu().numpy() / np.abs(values)


# -- PyHessian ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """A list that grows by one for every Hessian product of pyhessian."""
    import pyhessian.hessian  # noqa: F401  (the package hides the module behind the class of that name)

    module = sys.modules["pyhessian.hessian"]
    products: list[int] = []

    def counting(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            products.append(1)
            return function(*args)

        return call

    with (
        mock.patch.object(module, "hessian_vector_product", counting(module.hessian_vector_product)),
        mock.patch.object(module.hessian, "dataloader_hv_product", counting(module.hessian.dataloader_hv_product)),
    ):
        yield products


class Peer:
    """PyHessian on the problem, with the data given in the way that is fastest for it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        times = {way: self._product_seconds(way) for way in ("one batch", "batches of 32", "batches of 128")}
        self.way = min(times, key=lambda way: times[way])
        self.product_seconds = times[self.way]
        self.free()
        note(f"PyHessian: {self.product_seconds:.2f} s a product, {self.way}")

    def make(self, way: str) -> Any:
        from pyhessian import hessian

        self.free()
        given: dict[str, object] = {"data": (self.problem.inputs, self.problem.targets)}
        if way != "one batch":
            given = {"dataloader": self.problem.loader(int(way.split()[-1]))}
        return hessian(self.problem.model, nn.CrossEntropyLoss(), cuda=DEVICE.type == "cuda", **given)

    def run(self, method: str, **given: object) -> tuple[Any, float, int]:
        """(what a method returns, its seconds, its products)."""
        torch.manual_seed(0)
        action, results = getattr(self.make(self.way), method), []
        with counted() as count:
            elapsed = seconds(lambda: results.append(action(**given)))
        return results[0], elapsed, len(count)

    def free(self) -> None:
        """The gradients it leaves hold the graph."""
        self.problem.model.zero_grad()
        gc.collect()

    def _product_seconds(self, way: str) -> float:
        from pyhessian.utils import hessian_vector_product

        peer = self.make(way)
        vector = [torch.randn_like(p) for p in peer.params]

        def product() -> None:
            if way == "one batch":
                hessian_vector_product(peer.gradsH, peer.params, vector)
            else:
                peer.dataloader_hv_product(vector)

        product()
        return statistics.median(seconds(product) for _ in range(2))


class Quadratic(nn.Module):
    """curvature'p^2 / 2, whose Hessian is diag(curvature)."""

    def __init__(self, curvature: np.ndarray) -> None:
        super().__init__()
        self.curvature = torch.from_numpy(curvature).to(DEVICE)
        self.p = nn.Parameter(torch.zeros_like(self.curvature))

    def forward(self, _: Tensor) -> Tensor:
        return (self.curvature * self.p**2).sum() / 2


def diagonal(pairs: OurPairs, size: int) -> np.ndarray:
    """(size,) eigenvalues like those of the network: our pairs, and for the rest the Gauss quadrature of our space.

    Its m nodes and weights reproduce what 2m - 1 steps of power iteration from a random vector see.
    """
    nodes, vectors = np.linalg.eigh((pairs.projected + pairs.projected.T) / 2)
    copies = np.maximum(1, np.rint(vectors[0] ** 2 * size)).astype(int)
    copies[-PAIRS:] = 1
    copies[np.argmax(copies)] += size - copies.sum()
    return np.repeat(nodes, copies)


def on_diagonal(curvature: np.ndarray, tol: float, most: int, seed: int) -> tuple[int, np.ndarray, np.ndarray]:
    """(products, values, relative residuals) of PyHessian's eigenvalues on a diagonal matrix."""
    from pyhessian import hessian

    model = Quadratic(curvature)
    one = torch.zeros(1, device=DEVICE)
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        with counted() as products:
            peer = hessian(model, lambda outputs, _: outputs, data=(one, one), cuda=DEVICE.type == "cuda")
            values, vectors = peer.eigenvalues(maxIter=most, tol=tol, top_n=PAIRS)
    finally:
        torch.set_default_dtype(torch.float32)
    V, theta = torch.stack([v[0].detach() for v in vectors]), torch.tensor(values, dtype=torch.float64, device=DEVICE)
    residuals = (V * model.curvature - theta[:, None] * V).norm(dim=1) / theta.abs()
    return len(products), np.array(values), residuals.cpu().numpy()


def order_of(values: np.ndarray) -> str:
    """Which of our numbers each value of a list is nearest to, where that is not 1, 2, 3, ..."""
    out = [f"{i + 1} and {i + 2}" for i in range(len(values) - 1) if values[i] < values[i + 1]]
    return f"out of order: {', '.join(out)}" if out else "in order"


def eigen(problem: Problem, patience: float) -> None:
    ours = problem.pairs
    note(f"our pairs: {ours.seconds:.0f} s")
    peer = Peer(problem)
    size = problem.objective.layout.size
    curvature = diagonal(ours, size)
    runs = [on_diagonal(curvature, 1e-3, 100, seed) for seed in range(1 if problem.quick else 9)]
    predicted, values, residuals = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
    expected = predicted * peer.product_seconds
    if expected <= patience:
        note(f"PyHessian, {PAIRS} pairs at its default: about {expected:.0f} s")
        (values, vectors), theirs, products = peer.run("eigenvalues", top_n=PAIRS)
        peer.free()
        values = np.array(values)
        vectors = torch.stack([torch.cat([part.detach().reshape(-1) for part in v]) for v in vectors])
        with ls.CurvatureOperator(problem.objective) as H:
            residuals = relative_residuals(H, values, vectors)
        how = f"{peer.way}; its code on a diagonal matrix of the spectrum takes {predicted} in the median"
    else:
        theirs, products = expected, predicted
        how = f"**extrapolated**: products and residuals by its code on a diagonal matrix of the spectrum, {peer.way}"
    begin = time.perf_counter()
    spectrum = ls.measure_spectrum(problem.objective, k=PAIRS, tol=TOL, trace=False, density=False)
    again = time.perf_counter() - begin
    mine = (ours.seconds + again) / 2
    name = f"ten largest eigenpairs, ResNet-20, {problem.images} images ({problem.about})"
    print_row(
        f"{name}: largest relative residual",
        "",
        f"{max(ours.residuals.max(), spectrum.residuals.max()):.1e}",
        "<= 1e-3",
        f"{ours.products - PAIRS} products, {PAIRS} more for the residuals; {ours.seconds:.1f} s, and {again:.1f} s by "
        "measure_spectrum",
    )
    if problem.known:
        gap = np.abs(ours.values - TOP_TEN).max()
        print_row("their largest distance from the reference values", "", f"{gap:.4f}", "<= 0.02")
    print_row(
        "the same, at PyHessian's default tol",
        f"PyHessian top_n={PAIRS}",
        Ratios((theirs / mine,), mine, theirs),
        ">= 7",
        f"{mine:.1f} s against {theirs:.0f} s, {products} products ({how})",
    )
    print_row(
        "residuals PyHessian leaves there",
        "",
        f"{100 * residuals.min():.1f} to {100 * residuals.max():.1f} %",
        "",
        f"{order_of(values)}: {' '.join(f'{v:.2f}' for v in values)}",
    )
    print_row("PyHessian's density()", "", density_fault())
    if problem.quick:
        return
    each = theirs / products
    for tol in 10.0 ** -np.arange(4, 12, 0.25):  # the loosest that does it
        products, _, driven = on_diagonal(curvature, tol, 100_000, 0)
        if driven.max() <= TOL:
            break
    theirs = products * each
    print_row(
        "the same, all residuals at most 1e-3",
        f"PyHessian, tol={tol:.1g}, maxIter large",
        Ratios((theirs / mine,), mine, theirs),
        ">= 25",
        f"{mine:.1f} s against {theirs:.0f} s: **extrapolated**, {products} products by its code on a diagonal matrix "
        f"of the spectrum (residuals up to {driven.max():.1e}), {each:.2f} s each as in the row above",
    )


def density_fault() -> str:
    """What PyHessian's density does on this torch."""
    from pyhessian import hessian

    x, y = torch.randn(8, 4, device=DEVICE), torch.randint(0, 3, (8,), device=DEVICE)
    net = nn.Linear(4, 3).to(DEVICE)
    try:
        hessian(net, nn.CrossEntropyLoss(), data=(x, y), cuda=DEVICE.type == "cuda").density(iter=4)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition('. ')[0]}"
    return "runs"


# -- scipy over curvlinops ----------------------------------------------------------------------------------------


def scipy(problem: Problem, patience: float) -> None:
    name = f"ten largest eigenpairs at residual {TOL:g}"
    if importlib.util.find_spec("curvlinops") is None:
        print_row(name, "scipy eigsh over curvlinops", "not installed", ">= 1")
        return
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = list(problem.model.parameters())
    best: tuple[float, object, int] | None = None
    for batch in sorted({min(32, problem.images), min(128, problem.images), problem.images}):
        given = (problem.model, nn.CrossEntropyLoss(), parameters, problem.loader(batch))
        operator = HessianLinearOperator(*given, check_deterministic=False).to_scipy()
        vector = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
        operator @ vector
        elapsed = seconds(lambda o=operator, v=vector: o @ v)
        best = min(best or (math.inf, None, 0), (elapsed, operator, batch), key=lambda found: found[0])
    each, operator, batch = best
    note(f"curvlinops: {each:.2f} s a product in batches of {batch}")
    count: list[int] = []

    def product(vector: np.ndarray) -> np.ndarray:
        count.append(1)
        return operator @ vector

    linear = LinearOperator(operator.shape, matvec=product, dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
    results: list[tuple[np.ndarray, np.ndarray]] = []
    theirs = seconds(lambda: results.append(eigsh(linear, k=PAIRS, which="LA", tol=TOL, v0=start)))
    values, vectors = results[0][0][::-1].astype(np.float64), torch.from_numpy(results[0][1].T[::-1].copy()).to(DEVICE)
    with ls.CurvatureOperator(problem.objective) as H:
        residuals = relative_residuals(H, values, vectors)
    ours = problem.pairs
    print_row(
        name,
        "scipy eigsh over curvlinops",
        Ratios((theirs / ours.seconds,), ours.seconds, theirs),
        ">= 1",
        f"{ours.seconds:.1f} s, {ours.products - PAIRS} products against {theirs:.1f} s, {len(count)} products, "
        f"residuals up to {residuals.max():.1e}, batches of {batch}",
    )


# -- hessian-eigenthings ------------------------------------------------------------------------------------------


def eigenthings(problem: Problem, patience: float) -> None:
    name = f"ten largest eigenpairs, {problem.images} images"
    if importlib.util.find_spec("hessian_eigenthings") is None:
        print_row(name, "hessian-eigenthings", "not installed")
        return
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    H = HessianOperator(problem.model, problem.loader(problem.images), supervised_loss(nn.functional.cross_entropy))
    ours, found = problem.pairs, list[tuple[np.ndarray, Tensor]]()
    steps = ours.products - PAIRS

    def run() -> None:
        pairs = lanczos(H, k=PAIRS, max_iter=steps, tol=TOL, reorthogonalize=True, which="LA", seed=0)
        order = pairs.eigenvalues.argsort(descending=True)
        found.append((pairs.eigenvalues[order].double().cpu().numpy(), pairs.eigenvectors[order]))

    theirs = seconds(run)
    with ls.CurvatureOperator(problem.objective) as operator:
        residuals = relative_residuals(operator, *found[0])
    gap = float(np.abs(found[0][0] / ours.values - 1).max())
    told = f"{ours.seconds:.1f} s against {theirs:.1f} s, {steps} steps each; residuals up to "
    print_row(
        name,
        "hessian-eigenthings lanczos",
        Ratios((theirs / ours.seconds,), ours.seconds, theirs),
        times=f"{told}{ours.residuals.max():.1e} and {residuals.max():.1e}, largest gap of the values {gap:.1e}",
    )


# -- trace --------------------------------------------------------------------------------------------------------


def trace(problem: Problem, patience: float) -> None:
    def exact(objective: ls.Objective) -> ls.Trace:
        return ls.measure_spectrum(objective, k=0, trace="exact", density=False).trace

    found: list[ls.Trace] = []
    few = problem.objective.on(problem.objective.data.head(8))
    exact(few)  # imports what it needs
    rows = []
    for _ in range(1 if problem.quick else 3):
        gradient = problem.gradient_seconds()
        mine = seconds(lambda: found.append(exact(problem.objective)))
        rows.append((mine, gradient, mine / gradient, (mine - seconds(lambda: exact(few))) / gradient))
    mine, gradient, _, alone = np.median(rows, axis=0)
    value = float(found[0])
    if problem.known:
        gap = abs(value / TRACE - 1)
        told = f"{TRACE} to 1e-3", f"off by {gap:.1e}"
        print_row(f"trace, {problem.images} images, exact route", "", f"{value:.2f}", *told)
    print_row("the same in gradients, the pass over the data", "", f"{alone:.1f}", "", f"{gradient:.2f} s each")
    found_in = Ratios(tuple(row[2] for row in rows), mine, gradient)
    print_row("the same in gradients, checks before it included", "one gradient pass of ours", found_in, "<= 12")
    peer = Peer(problem)
    values, theirs, products = peer.run("trace")
    peer.free()
    off = abs(np.mean(values) / value - 1)
    print_row(
        f"trace, {problem.images} images, exact route with its checks",
        "PyHessian trace() at its default",
        Ratios((theirs / mine,), mine, theirs),
        "",
        f"{mine:.2f} s against {theirs:.1f} s = {theirs / gradient:.0f} gradients, {len(values)} probes, {off:.1%} off",
    )
    sampled(problem, theirs / products, products)


def sampled(problem: Problem, product: float, products: int) -> None:
    """The population of all test images, where PyHessian's products are priced by those on a part."""
    data = (problem.inputs, problem.targets)
    if problem.trained and not problem.quick:
        from shared import cifar10_test

        data = cifar10_test()
    objective = ls.Objective(problem.model, "cross_entropy", data, device=DEVICE)
    found: list[ls.Trace] = []

    def ours() -> None:
        spectrum = ls.measure_spectrum(objective, k=0, trace="sampled", trace_tol=0.01, density=False)
        found.append(spectrum.trace)

    times = [seconds(ours) for _ in range(3 if problem.known else 1)]
    mine, theirs = statistics.median(times), product * products * objective.samples / problem.images
    print_row(
        f"trace of all {objective.samples:,} test images within 1 % standard error, sampled route",
        "PyHessian trace() at its default",
        Ratios((theirs / mine,), mine, theirs),
        ">= 30",
        f"{mine:.1f} s ({found[0].value:.2f} +- {found[0].stderr_probes:.2f}) against {theirs:.0f} s: "
        f"**extrapolated** from {products} products and {product:.2f} s a product on {problem.images} images",
    )


def probes(problem: Problem, patience: float) -> None:
    """Deflated and plain Hutchinson, each by what its probes were seen to be off: a mean's error falls as 1 / sqrt."""
    truth = float(ls.measure_spectrum(problem.objective, k=0, trace="exact", density=False).trace)

    def values(method: str) -> tuple[np.ndarray, ls.Spectrum]:
        """(the trace that each probe alone gives, the result)."""
        note(f"{method} probes")
        with tempfile.TemporaryDirectory() as folder:
            options = {"trace": method, "trace_tol": 1e-9, "density": False, "seed": SEED, "out": folder}
            pairs = PAIRS if method == "deflated" else 0
            spectrum = ls.measure_spectrum(problem.objective, pairs, TOL, **options)
            columns = read_stage(folder, "trace").rows.columns
            fixed = read_stage(folder, "eigenpairs").rows.columns["space_chunks"][0].sum() if pairs else 0.0
        return (columns["forms"].sum(2).reshape(-1) + fixed) / columns["denominators"][0].sum(), spectrum

    def rms(found: np.ndarray) -> float:
        return float(np.sqrt(np.mean((found / truth - 1) ** 2)))

    plain, _ = values("hutchinson")
    deflated, spectrum = values("deflated")
    common, own = rms(deflated[:COMMON]), rms(deflated[COMMON:])
    ours = math.sqrt(COMMON * common**2 + (30 - COMMON) * own**2) / 30
    theirs = rms(plain) / math.sqrt(60)
    # random signs: 2 (|H|_F^2 - sum of squares of the diagonal), which are 0.1 % of it on ResNet-20
    expected = math.sqrt(2 / 60) * spectrum.trace.frobenius / truth
    print_row(
        f"rms error of the trace: 30 products after the {PAIRS} eigenpairs, trace='deflated'",
        "plain Hutchinson, 60 products",
        f"{ours / theirs:.2f}",
        "<= 0.4",
        f"{ours:.2%} against {theirs:.2%} of {truth:.1f} ({expected:.2%} by |H|_F); one probe: {rms(plain):.1%} plain, "
        f"{common:.1%} common to all chunks, {own:.1%} of each chunk's own ({len(plain)}, {COMMON} and "
        f"{len(deflated) - COMMON} seen); the eigenpairs took {spectrum.products} products",
    )
    generator = np.random.default_rng(0)
    stops = [pyhessian_stop(generator.choice(plain, 100)) for _ in range(2000)]
    spread = math.sqrt(np.mean([(mean / truth - 1) ** 2 for _, mean in stops]))
    print_row(
        "rms error of PyHessian's trace() at its default tol of 1e-3",
        "",
        f"{spread:.1%}",
        "",
        f"its stopping rule on 2,000 draws from these probes: {statistics.median(n for n, _ in stops):.0f} probes",
    )


def pyhessian_stop(values: np.ndarray) -> tuple[int, float]:
    """(probes, mean) at which PyHessian's trace() stops: one more probe changes the mean by less than tol."""
    before = 0.0
    for n in range(1, len(values) + 1):
        mean = float(values[:n].mean())
        if abs(mean - before) / (before + 1e-6) < 1e-3:
            return n, mean
        before = mean
    return len(values), before


# -- one product --------------------------------------------------------------------------------------------------


def product(problem: Problem, patience: float) -> None:
    with ls.CurvatureOperator(problem.objective) as H:
        one, four = (torch.randn(b, H.size, device=DEVICE) for b in (1, 4))
        first = seconds(lambda: H.apply(one))
        H.gradient(), H.apply(four)
        times = np.array(
            [[seconds(a) for a in (H.gradient, lambda: H.apply(one), lambda: H.apply(four))] for _ in range(5)]
        )
    gradient, single, block = np.median(times, axis=0)
    print_row(
        f"one Hessian product in steady state, {problem.images} images",
        "one gradient pass of ours",
        Ratios(ratios_of(times[:, 1].tolist(), times[:, 0].tolist(), "theirs"), single, gradient),
        "<= 2.6",
        f"{single:.2f} s against {gradient:.2f} s; the first, which makes the graph, {first:.2f} s",
    )
    print_row(
        "four vectors in one pass, each",
        "one gradient pass of ours",
        f"{np.median(times[:, 2] / times[:, 0]) / 4:.2f}",
        "",
        f"{block:.2f} s for the four",
    )


def memory(problem: Problem, patience: float) -> None:
    for name, warm, products in (("mlp", 10, 500), ("resnet20", 3, 20)):
        command = [
            sys.executable,
            __file__,
            "--shared",
            str(problem.shared),
            "--images",
            str(problem.images),
            "--memory",
            name,
            str(warm),
            str(products),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, after = (float(word) for word in done.stdout.split())
        network = "MLP, 1,797 digits" if name == "mlp" else f"ResNet-20, {problem.images} images"
        print_row(
            f"peak memory, {products} products more ({network}), MiB",
            f"after {warm} products",
            f"{after - before:.1f}",
            "0",
            f"{after:.0f} against {before:.0f}",
        )


def memory_job(shared: Path, images: int, name: str, warm: int, products: int) -> None:
    def peak() -> float:
        if DEVICE.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        # ru_maxrss of a process starts at what its parent held
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    known = Problem(shared, images).objective if name == "resnet20" else None
    objective = known or ls.Objective(mlp(), "cross_entropy", digits())
    with ls.CurvatureOperator(objective) as H:
        vector = torch.randn(1, H.size, device=DEVICE)
        for count in (warm, products):
            for _ in range(count):
                vector = H.apply(vector)
                vector /= vector.norm()
            sys.stdout.write(f"{peak()}\n")


PARTS = {part.__name__: part for part in (eigen, scipy, eigenthings, trace, probes, product, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--images", type=int, default=REFERENCE)
    parser.add_argument("--quick", action="store_true", help="an MLP on 64 digits: to see that all runs")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--patience", type=float, default=1200.0)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", message=".*create_graph=True")  # PyHessian's
    if given.memory:
        name, warm, products = given.memory
        memory_job(given.shared, given.images, name, int(warm), int(products))
        return
    print_heading(*([torch.cuda.get_device_name()] if DEVICE.type == "cuda" else []))
    problem = Problem(given.shared, 64 if given.quick else given.images, quick=given.quick)
    for name in given.only or PARTS:
        note(name)
        PARTS[name](problem, given.patience)


if __name__ == "__main__":
    main()
