"""For users of PyHessian and WeightWatcher: their classes with our algorithms behind them."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import dense_eigenpairs, eigenpairs, lanczos_quadrature
from landscape_kernels.probes import normal_vector, rademacher_vector
from torch import Tensor, nn

from landscape.arguments import Count, Seed, checked
from landscape.curvature.matrix import Matrix
from landscape.curvature.operator import CurvatureOperator
from landscape.curvature.pairs import check_tol
from landscape.curvature.sampling import Sample
from landscape.curvature.small import small, unit_products
from landscape.errors import InputError
from landscape.objective.batches import Batch
from landscape.objective.objective import Objective
from landscape.run.comm import SERIAL
from landscape.studies.weights.tool import WeightWatcher

__all__ = ["ProductComparison", "PyHessian", "WeightWatcher", "compare_with_pyhessian"]
logger = logging.getLogger(__name__)

_PROBES = 4  # share a pass over the data
_LEAST_PROBES = 8  # before their spread is believed
_MEAN = 1e-3  # relative gap allowed between a criterion's value and the mean over samples
_EPS = 1000  # roundings by which two right products of a deep network may differ


class PyHessian:
    """`pyhessian.hessian` with the same methods, arguments and return types, computed by this package.

    `model` and `criterion` as there: `criterion(model(inputs), targets)` is the mean loss of a batch; the network runs
    in eval mode and all parameters with requires_grad take part. Either `data` (inputs, targets) is one batch, or
    `dataloader` gives batches, which weigh as many samples as they hold. With `cuda` the work is done on the current
    GPU, and it is an error where there is none.

    What differs: the model is left as it is (there it stays in eval mode with gradients that hold the graph); its
    parameters are read here, once. Data are read once, so a shuffled or augmented loader is refused, and samples that a
    criterion ignores or weighs count as in its mean over all data (there every batch weighs its number of samples).
    Products are checked before use (`landscape.curvature.check.check_products`). `torch.manual_seed` fixes the random
    vectors.

    Raises InputError for both or none of data and dataloader, a criterion whose value is not the mean over samples, and
    whatever `Objective` refuses.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> hessian = PyHessian(net, torch.nn.functional.mse_loss, data=(x, torch.zeros(2, 1)), cuda=False)
    >>> values, vectors = hessian.eigenvalues(top_n=2)  # of 2 X'X / N
    >>> [round(value, 4) for value in values], vectors[0][0].shape
    ([4.0, 1.0], torch.Size([1, 2]))
    """

    @checked()
    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Any, Any], Any],
        data: Any = None,
        dataloader: Iterable[Any] | None = None,
        cuda: bool = True,
    ) -> None:
        if (data is None) == (dataloader is None):
            raise InputError("give either data=(inputs, targets), one batch, or dataloader=, an iterable of batches")
        if cuda and not torch.cuda.is_available():
            raise InputError("cuda=True, the default, and torch sees no CUDA device; give cuda=False")
        given: Any = dataloader if data is None else tuple(data)  # a loader's batch is a list, which means batches
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        self._objective = Objective(model, criterion, given, device=device)
        _check_mean(self._objective, criterion)
        self._check = CurvatureOperator(self._objective).check
        sample, point = Sample(self._objective, None, None), self._objective.theta
        self._matrix = Matrix(sample, "hessian", None, 0.0, point, None, self._check)

    @checked()
    def eigenvalues(
        self, maxIter: Count = 100, tol: float = 1e-3, top_n: Count = 1
    ) -> tuple[list[float], list[list[Tensor]]]:
        """The `top_n` eigenvalues of largest magnitude, with sign, and unit eigenvectors as one tensor per parameter.

        `tol` is a relative residual |Hv - lambda v| / |lambda| here (there: the change of the Rayleigh quotient in the
        last step, which left residuals of 2 to 3 % at the default of 1e-3). `maxIter` products are spent for each
        eigenvalue at most, by all of them together; pairs that did not make it are returned with a warning. Copies of
        an eigenvalue are looked for (see `landscape_kernels.krylov.eigenpairs`; there: one of each, or as rounding
        will have it). A matrix of up to 256 rows, and of no more than the products allowed, is computed whole, in
        float64.
        """
        if not 1 <= top_n <= self._objective.layout.size:
            raise InputError(f"top_n={top_n}; give 1 to {self._objective.layout.size}, the number of parameters")
        check_tol(tol, self._objective, self._check)
        seed = _drawn_seed()
        if small(self._matrix, 0) and self._matrix.size <= maxIter * top_n:
            with (self._matrix.double() or self._matrix).bind(SERIAL) as H:
                found = dense_eigenpairs(unit_products(H).matrix, top_n, by_magnitude=True)
        else:
            with self._operator() as H:
                found = eigenpairs(
                    H,
                    top_n,
                    tol=tol,
                    seed=seed,
                    max_products=maxIter * top_n,
                    basis_limit=4 * top_n + 42,  # for both ends: the share of each may change
                    by_magnitude=True,
                )
        values = np.concatenate([found.largest.values, found.smallest.values])
        order = np.argsort(-np.abs(values), kind="stable")
        vectors = torch.cat([found.largest.vectors, found.smallest.vectors])[torch.from_numpy(order)]
        vectors = vectors.to(self._objective.device, self._objective.dtype)
        converged = np.concatenate([found.largest.converged, found.smallest.converged])
        if not converged.all():
            logger.warning(
                "%d of %d eigenpairs did not reach a residual of tol=%g in %d products; raise maxIter=%d",
                int((~converged).sum()),
                top_n,
                tol,
                found.products,
                maxIter,
            )
        layout = self._objective.layout
        return values[order].tolist(), [list(layout.unflatten(vector).values()) for vector in vectors]

    @checked()
    def trace(self, maxIter: Count = 100, tol: float = 1e-3) -> list[float]:
        """z'Hz of random signs z, one number per probe; their mean estimates the trace.

        Stops when the standard error of the mean is at most `tol` of it, after `maxIter` probes at the latest: with
        the default of 100 probes that is the rule, for one probe is off by some 10 % in large networks (there: when one
        more probe changes the mean by less than `tol`, which says nothing of its error, and after two probes where it
        is negative). The standard error is numpy.std(found, ddof=1) / len(found) ** 0.5. `measure_spectrum` has the
        trace without probes where the network allows.
        """
        seed = _drawn_seed()
        found: list[float] = []
        with self._operator() as H:
            while len(found) < maxIter and not _settled(found, tol):
                numbers = range(len(found), min(len(found) + _PROBES, maxIter))
                probes = torch.stack([rademacher_vector(H.size, seed, "trace", n) for n in numbers])
                probes = probes.to(H.device, H.dtype)
                found += (probes * H.apply(probes)).sum(1, dtype=torch.float64).tolist()
        return found

    @checked()
    def density(self, iter: Count = 100, n_v: Count = 1) -> tuple[list[list[float]], list[list[float]]]:
        """(eigenvalues, weights) of the spectral density: `n_v` lists of `iter` nodes, and weights of sum 1.

        Stochastic Lanczos quadrature as there, reorthogonalised in full, with a solver that torch still has (there:
        torch.eig, gone since torch 1.13, so that density() crashes). A Krylov space that is exhausted before `iter`
        steps has fewer nodes; the list is then filled up with its largest node at weight 0.
        """
        seed = _drawn_seed()
        nodes_of: list[list[float]] = []
        weights_of: list[list[float]] = []
        with self._operator() as H:
            for n in range(n_v):
                start = rademacher_vector(H.size, seed, "density", n).to(H.device, H.dtype)
                nodes, weights = lanczos_quadrature(H, start, iter)
                missing = iter - len(nodes)
                nodes_of.append(list(np.pad(nodes, (0, missing), mode="edge")))
                weights_of.append(list(np.pad(weights, (0, missing))))
        return nodes_of, weights_of

    def _operator(self) -> CurvatureOperator:
        return CurvatureOperator(self._objective, check=self._check)


def _check_mean(objective: Objective, criterion: Callable[[Any, Any], Any]) -> None:
    """Raise InputError where the criterion's value on a batch is another multiple of the loss than its mean."""
    batch = objective.data.head(16).first
    with objective.differentiable() as (model, _):
        outputs, targets = objective.outputs(model, batch)
        given = torch.as_tensor(criterion(outputs, targets)).detach().double()
        units = objective.loss_units(outputs, targets)
    mean = float(units.numerators.detach().double().sum()) / units.total
    if given.ndim == 0 and abs(float(given) - mean) > _MEAN * abs(mean):
        raise InputError(
            f"criterion gives {float(given):.6g} on a batch whose mean over samples is {mean:.6g} (reduction='sum'?), "
            "so that eigenvalues would be another multiple than expected; give the mean"
        )


def _drawn_seed() -> int:
    """A seed from torch's random stream: calls differ, and torch.manual_seed repeats them."""
    return int(torch.randint(2**62, ()).item())


def _settled(values: list[float], tol: float) -> bool:
    """Whether the standard error of the mean is at most `tol` of it."""
    if len(values) < _LEAST_PROBES:
        return False
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) <= tol * abs(float(np.mean(values)))


# -- beside PyHessian itself --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProductComparison:
    """Hessian products of this package beside those of pyhessian, for n random vectors."""

    gaps: FloatArray  # (n,), |a - b| / |b|, b pyhessian's product
    elementwise: FloatArray  # (n,), largest |a_j - b_j| over largest |b_j|
    allowed: float  # gap that rounding in this precision explains
    route: str  # how our products are computed
    samples: int
    batches: int  # that pyhessian's dataloader gave
    precision: str

    @property
    def worst(self) -> float:
        """The largest gap of all; NaN where a product is not finite."""
        return float(np.max(np.concatenate([self.gaps, self.elementwise])))

    @property
    def agrees(self) -> bool:
        """Whether all gaps are at most `allowed`."""
        return self.worst <= self.allowed


@checked()
def compare_with_pyhessian(
    objective: Objective,
    *,
    vectors: Count = 3,
    samples: Count | None = 128,
    precision: str | None = "float64",
    seed: Seed = 0,
) -> ProductComparison:
    """Hessian products by `CurvatureOperator` and by pyhessian's `dataloader_hv_product`, on the same data.

    `vectors` standard normal vectors; the first `samples` of the data, or all with None. pyhessian calls the model as
    it is (without folding BatchNorm) and differentiates twice by torch.autograd, chunk by chunk. In float64 by default,
    where both are right to rounding; with `precision=None` in that of the objective. In float32 a ReLU whose input is
    zero to rounding falls on one side here and on the other there: one such value in one of 256 images changed the
    product of a ResNet-20 by 2e-3.

    Raises InputError where pyhessian has no answer: forward= or loss=None (it calls model(inputs) and a criterion), and
    batches other than (inputs, targets) of one tensor each.
    """
    if objective.identity()["forward"]:
        raise InputError(
            "pyhessian calls criterion(model(inputs), targets) itself, so an Objective with forward= or loss=None "
            "cannot be compared with it; build one with a model(inputs), a loss and (inputs, targets)"
        )
    if samples is not None:
        objective = objective.on(objective.data.head(samples))
    if precision is not None:
        objective = objective.on(objective.data, precision=precision)
    _check_pairs(objective.batch(0))
    size = objective.layout.size
    directions = torch.stack([normal_vector(size, seed, "compare", n) for n in range(vectors)])
    directions = directions.to(objective.device, objective.dtype)
    with CurvatureOperator(objective) as H:
        ours = H.apply(directions).double()
    theirs = _pyhessian_products(objective, directions).double()
    gap = (ours - theirs).abs()
    # products of zero have no relative gap
    norm, largest = (torch.where(x > 0, x, 1.0) for x in (theirs.norm(dim=1), theirs.abs().amax(1)))
    eps = torch.finfo(objective.dtype).eps
    return ProductComparison(
        (gap.norm(dim=1) / norm).cpu().numpy(),
        (gap.amax(1) / largest).cpu().numpy(),
        max(_EPS * eps, 10 * H.check.rounding),
        H.check.route,
        objective.samples,
        objective.chunks,
        objective.precision,
    )


class _Batches:
    """The chunks of an objective, cut from its data anew for whoever may write to them."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _, (inputs, targets) in self._objective.batches():
            yield inputs.clone(), targets.clone()


def _check_pairs(batch: Batch) -> None:
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        kind = f"a {type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(
            f"pyhessian reads batches (inputs, targets) of one tensor each, and the data has {kind}; wrap the model so "
            "that it takes one tensor"
        )


def _pyhessian_products(objective: Objective, directions: Tensor) -> Tensor:
    """pyhessian's products with the rows of `directions` (b, size)."""
    from pyhessian import hessian

    def criterion(outputs: Any, targets: Any) -> Tensor:
        # pyhessian weighs a batch by its samples; the mean of the loss weighs it by its denominators
        return objective.loss_units(outputs, targets).numerators.sum() / len(targets)

    denominators = 0.0
    with objective.differentiable() as (model, _), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*create_graph=True")
        for batch in _Batches(objective):
            with torch.no_grad():
                denominators += objective.loss_units(*objective.outputs(model, batch)).total
        peer = hessian(model, criterion, dataloader=_Batches(objective), cuda=objective.device.type == "cuda")
        products = []
        for direction in directions:
            try:
                _, product = peer.dataloader_hv_product(list(objective.layout.unflatten(direction).values()))
            except (RuntimeError, TypeError, AssertionError) as error:  # an unused parameter, a loss linear in one
                raise InputError(f"pyhessian has no product here: {str(error).partition(chr(10))[0]}") from error
            products.append(torch.cat([part.detach().reshape(-1) for part in product]))
    return torch.stack(products) * (objective.samples / denominators)
