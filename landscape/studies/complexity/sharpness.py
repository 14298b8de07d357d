"""Measures of flatness: eigenvalue and trace, perturbed losses, Fisher-Rao norm, relative flatness, weight metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.moments import jackknife, ratios
from landscape_kernels.probes import normal_vector
from torch import Tensor

from landscape.errors import InputError
from landscape.network.paths import LastProduct
from landscape.results.estimate import Estimate
from landscape.results.inside import run_inside
from landscape.results.stages import Stage
from landscape.run.store import History
from landscape.studies.complexity.critical import loss_and_gradient, search
from landscape.studies.complexity.entry import Measure
from landscape.studies.complexity.subject import Subject
from landscape.studies.spectrum.measure import spectrum_from_stages
from landscape.studies.spectrum.result import Spectrum
from landscape.studies.weights.measure import weights_from_rows, weights_task

_RHO, _ADAPTIVE_RHO = 0.05, 0.5  # of SAM and of ASAM
_ASCENTS = 8  # steps of the worst case
_FEWEST, _MOST = 8, 128  # random directions of the average case
_H = 1e-5  # relative step of a derivative along theta, in float64
_METRICS = ("alpha", "alpha_weighted", "log_alpha_norm", "log_norm", "log_spectral_norm", "stable_rank", "mp_softrank")


# -- the loss around theta ------------------------------------------------------------------------------------------


def _rise(subject: Subject, displacements: list[Tensor]) -> tuple[FloatArray, FloatArray]:
    """(n,) L(theta + d) - L(theta), and (n, groups) the same without each group of samples."""
    objective = subject.objective

    def at(theta: Tensor) -> tuple[float, FloatArray]:
        subject.passes += 1
        values, replicates = objective.estimates_and_replicates(theta, group=subject.group)
        return float(values["loss"]), replicates["loss"]

    theta = objective.theta.double()
    start, without = subject.once("loss", lambda: at(theta))
    found = [at(theta + d.double()) for d in displacements]
    return np.array([loss - start for loss, _ in found]), np.stack([r - without for _, r in found])


def _over_groups(replicates: FloatArray) -> tuple[float, int]:
    return jackknife(replicates[np.isfinite(replicates)])


def _worst(subject: Subject, rho: float, scale: Tensor) -> Estimate:
    """max L(theta + d) - L(theta) over |d / scale| <= rho, by steps to the best point of the ball for the slope met."""
    objective, theta = subject.objective, subject.theta.double()
    displacement = torch.zeros_like(theta)
    best, best_loss = displacement, -math.inf
    for step in range(_ASCENTS + 1):
        loss, gradient = loss_and_gradient(objective, (theta + displacement).to(objective.dtype))
        subject.passes += 3
        if step and loss > best_loss:
            best, best_loss = displacement, loss
        if step == _ASCENTS:
            break
        inside = scale * gradient.double()
        length = float(inside.norm())
        if not step and length <= 1e-8 * max(abs(loss), 1e-30):  # at a minimum every direction is as good
            inside = normal_vector(len(theta), subject.seed, "ascent").to(theta)
            length = float(inside.norm())
        if not 0 < length < math.inf:
            break
        displacement = rho * scale * inside / length
    values, replicates = _rise(subject, [best])
    error, groups = _over_groups(replicates[0])
    subject.note(f"a lower bound: the highest of {_ASCENTS} ascents")
    return Estimate(float(values[0]), stderr=error, n=groups, unit="group")


def _sam(subject: Subject) -> Estimate:
    return _worst(subject, _RHO, torch.ones_like(subject.theta, dtype=torch.float64))


def _adaptive(subject: Subject) -> Estimate:
    return _worst(subject, _ADAPTIVE_RHO, subject.theta.double().abs())


def _average(subject: Subject) -> Estimate:
    """Over random directions and their opposites, whose slopes cancel."""
    size, draws = subject.objective.layout.size, _FEWEST
    means: list[float] = []
    replicates: list[FloatArray] = []
    while True:
        for draw in range(len(means), draws):
            direction = normal_vector(size, subject.seed, "average", draw)
            direction = (_RHO / direction.norm() * direction).to(subject.theta.device)
            values, without = _rise(subject, [direction, -direction])
            means.append(float(values.mean()))
            replicates.append(without.mean(0))
        value = float(np.mean(means))
        error = float(np.std(means, ddof=1)) / math.sqrt(draws)
        if error <= subject.tol * abs(value) or draws >= _MOST:
            break
        draws *= 2
    of_data, _ = _over_groups(np.mean(replicates, axis=0))
    subject.note(f"over {draws} directions and their opposites")
    return Estimate(value, stderr=math.hypot(error, 0.0 if math.isnan(of_data) else of_data), n=draws, unit="draw")


def _critical(subject: Subject) -> Estimate:
    found = search(subject.objective, None, subject.group)
    subject.passes += found.passes
    subject.note("along the gradient")
    return found.value


# -- per-sample losses and outputs ----------------------------------------------------------------------------------


def _fisher_rao(subject: Subject) -> Estimate:
    """sqrt(E <theta, grad l_i>^2), the derivative along theta by central differences in float64."""
    objective = subject.objective.on(subject.objective.data, precision="float64")
    theta = objective.theta
    parts: list[list[Tensor]] = []
    weights: list[Tensor] = []
    for factor in (1 + _H, 1 - _H):
        parts.append([])
        with objective.differentiable(factor * theta) as (_, _parameters), torch.no_grad():
            for _, batch in objective.batches():
                units = objective.loss_units(*objective.outputs(objective.folded(), batch))
                if not units.per_sample:
                    raise InputError("the loss gives one value for a batch, and not one for each sample")
                parts[-1].append(units.numerators.double())
                if len(parts) == 1:
                    ones = torch.ones_like(units.numerators) if units.denominators is None else units.denominators
                    weights.append(ones.double())
        subject.passes += 1
    d = torch.cat(weights).cpu().numpy()
    slopes = ((torch.cat(parts[0]) - torch.cat(parts[1])) / (2 * _H)).cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(d > 0, slopes**2 / d, 0.0)  # the sample's loss is numerator / d, and counts d times
    value, error = (float(v[0]) for v in ratios(squares[:, None], d))
    root = math.sqrt(max(value, 0.0))
    return Estimate(root, stderr=error / (2 * root) if root else math.nan, n=len(d), unit="sample")


def _relative_flatness(subject: Subject) -> Estimate:
    """sum_ss' <w_s, w_s'> Tr H_ss' of the last linear layer z = W x + b, whose H_ss' is E (d2l/dz_s dz_s') x x'."""
    objective = subject.objective
    numerators: list[Tensor] = []
    denominators: list[Tensor] = []
    with objective.differentiable() as (_, parameters):
        for _, batch in objective.batches():
            listening = LastProduct(dict(zip(objective.layout.names, parameters, strict=True)))
            with listening, torch.no_grad():
                outputs, targets = objective.outputs(objective.folded(), batch)
            inputs, weight = listening.last_layer(outputs)
            z = outputs.detach().requires_grad_()
            units = objective.loss_units(z, targets)
            if not units.per_sample:
                raise InputError("the loss gives one value for a batch, and not one for each sample")
            (slope,) = torch.autograd.grad(units.numerators.sum(), z, create_graph=True)
            gram = (weight @ weight.T).double()
            total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
            for s in range(z.shape[1]):
                if slope.requires_grad:
                    (row,) = torch.autograd.grad(slope[:, s].sum(), z, retain_graph=True)
                    total += row.double() @ gram[s]
            numerators.append(total * inputs.double().square().sum(1))
            ones = torch.ones_like(total) if units.denominators is None else units.denominators.double()
            denominators.append(ones)
    subject.passes += 1
    subject.note(f"of {listening.name}")
    values, d = torch.cat(numerators).cpu().numpy(), torch.cat(denominators).cpu().numpy()
    value, error = (float(v[0]) for v in ratios(values[:, None], d))
    return Estimate(value, stderr=error, n=len(d), unit="sample")


# -- from other studies ---------------------------------------------------------------------------------------------


def _spectrum(subject: Subject) -> Spectrum:
    def run() -> Spectrum:
        plan = subject.plan
        if isinstance(plan, str):
            raise InputError(plan)
        stages: dict[str, Stage] = {}
        stages["eigenpairs"] = run_inside(plan.eigenpairs(None), subject.group)
        stages["trace"] = run_inside(plan.trace(stages), subject.group)
        found = spectrum_from_stages(stages)
        assert found.trace is not None
        subject.passes += 4 * (found.products + found.trace.products)  # a product is a forward and three backward
        return found

    return subject.once("spectrum", run)


def _largest(subject: Subject) -> Estimate:
    pairs = _spectrum(subject).largest
    value, error = float(pairs.values[0]), float(pairs.stderr[0])
    return Estimate(
        value, stderr=math.hypot(error, float(pairs.residuals[0]) * value), n=subject.samples, unit="sample"
    )


def _trace(subject: Subject) -> Estimate:
    found = _spectrum(subject).trace
    assert found is not None
    return Estimate(found.value, stderr=found.stderr, n=subject.samples, unit="sample")


def _weights(subject: Subject) -> Mapping[str, Estimate]:
    def run() -> Mapping[str, Estimate]:
        task = weights_task(subject.objective, shuffles=0, roundings=0)
        stage = run_inside(task, subject.group)
        return weights_from_rows(stage.description, stage.rows, History()).model

    return subject.once("weights", run)


def _metric(name: str) -> Callable[[Subject], Estimate]:
    def function(subject: Subject) -> Estimate:
        found = _weights(subject)[name]
        if not found.n:
            raise InputError(f"none of the network's matrices has {name}: measure_weights says why of each")
        subject.note(f"mean over {found.n} matrices")
        return found

    return function


def _entry(name: str, function: Any, formula: str, source: str, family: str = "") -> Measure:
    return Measure(name, function, (), formula, source, "", family or name)


CURVATURE = ("largest_eigenvalue", "hessian_trace")
MEASURES = (
    _entry(
        "fisher_rao",
        _fisher_rao,
        "sqrt(E <theta, grad l>^2), l the loss of a sample",
        "Liang et al., arXiv 1711.01530",
    ),
    _entry(
        "relative_flatness",
        _relative_flatness,
        "sum_ss' <w_s, w_s'> Tr H_ss', w_s the rows of the last linear layer",
        "Petzka et al., arXiv 2001.00939",
    ),
    _entry(
        "sam_worst_case",
        _sam,
        f"max L(theta + d) - L(theta) over |d| <= {_RHO}",
        "Foret et al., arXiv 2010.01412; Andriushchenko et al., arXiv 2302.07011",
        "around",
    ),
    _entry(
        "sam_average_case",
        _average,
        f"E L(theta + d) - L(theta) over directions d of length {_RHO}",
        "Wen et al., arXiv 2211.05729",
        "around",
    ),
    _entry(
        "adaptive_sharpness",
        _adaptive,
        f"max L(theta + d) - L(theta) over |d / theta| <= {_ADAPTIVE_RHO}, elementwise",
        "Kwon et al., arXiv 2102.11600",
        "around",
    ),
    _entry(
        "critical_sharpness",
        _critical,
        "2 / eta_c, L(theta - eta_c g) = L(theta) with the gradient g",
        "Kalra et al., 2026",
    ),
    _entry(CURVATURE[0], _largest, "largest eigenvalue of the Hessian", "measure_spectrum", "curvature"),
    _entry(CURVATURE[1], _trace, "trace of the Hessian", "measure_spectrum", "curvature"),
    *(
        _entry(f"weights_{name}", _metric(name), f"mean over weight matrices of their {name}", "measure_weights", "ww")
        for name in _METRICS
    ),
)
