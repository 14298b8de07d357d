"""Norms of weights, distances from the initial ones, margins, and sums over paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from landscape_kernels.circular import circular_norm
from landscape_kernels.spectra import gram_spectrum
from torch import Tensor

from landscape.errors import InputError
from landscape.network.paths import path_sum
from landscape.objective.trees import map_tensors, tensors_in
from landscape.results.estimate import Estimate
from landscape.studies.complexity.entry import Measure
from landscape.studies.complexity.subject import Subject

JIANG = "Jiang et al., arXiv 1912.02178"


def exact(value: float, subject: Subject) -> Estimate:
    """A value that follows from the weights alone."""
    return Estimate(value, stderr=0.0, n=subject.objective.layout.size, unit="weight")


class Norms:
    """S_l = |W_l|_2^2, F_l = |W_l|_F^2 and the same of W_l - W0_l, of the weights of a subject, computed once."""

    def __init__(self, subject: Subject, operators: bool) -> None:
        """With `operators` those of convolutions are the spectral norms of the operators that they are."""
        self._subject, self._operators = subject, operators
        if not subject.weights:
            raise InputError("the network has no weights of two axes or more")

    def spectral(self) -> list[float]:
        """S_l, of each weight."""
        return self._subject.once(f"S {self._operators}", lambda: self._squares(self._subject.weights))

    def frobenius(self) -> list[float]:
        """F_l, of each weight."""
        weights = self._subject.weights
        return self._subject.once("F", lambda: [float(w.square().sum()) for w in weights.values()])

    def spectral_distance(self) -> list[float]:
        """|W_l - W0_l|_2^2."""
        return self._squares(self._differences())

    def distance(self) -> list[float]:
        """|W_l - W0_l|_F^2."""
        return [float(w.square().sum()) for w in self._differences().values()]

    def _differences(self) -> dict[str, Tensor]:
        then = self._subject.initial_weights
        return {name: w - then[name] for name, w in self._subject.weights.items()}

    def _squares(self, weights: Mapping[str, Tensor]) -> list[float]:
        used = self._subject.convolutions if self._operators else {}
        found = []
        for name, w in weights.items():
            if name in used:
                extent, groups, dilation = used[name]
                found.append(circular_norm(_dilated(w.cpu(), dilation), extent, groups) ** 2)
            else:
                found.append(float(gram_spectrum(w.flatten(1).cpu().numpy())[-1]))
        return found


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """A kernel (O, I, *kernel) with zeros between its entries, `dilation` apart along each axis."""
    extents = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    spread = weight.new_zeros(*weight.shape[:2], *extents)
    steps = [slice(None, None, d) for d in (1, 1, *dilation)]
    spread[tuple(steps)] = weight
    return spread


def _logs(values: list[float]) -> float:
    with np.errstate(divide="ignore"):
        return float(np.log(np.array(values)).sum())


def _mean_log(values: list[float]) -> float:
    """ln d + (1/d) sum ln v: the logarithm of d times the geometric mean."""
    return math.log(len(values)) + _logs(values) / len(values)


def _less_margin(value: float, subject: Subject, share: float = 1.0) -> Estimate:
    """value - share ln gamma^2, with the error of gamma."""
    gamma = subject.gamma
    if not float(gamma):
        return Estimate(math.inf, stderr=math.nan, n=gamma.n, unit=gamma.unit)
    return Estimate(
        value - 2 * share * math.log(gamma), stderr=2 * share * gamma.stderr / gamma, n=gamma.n, unit=gamma.unit
    )


def _l2(subject: Subject) -> Estimate:
    return exact(math.sqrt(sum(Norms(subject, False).frobenius())), subject)


def _l2_dist(subject: Subject) -> Estimate:
    return exact(math.sqrt(sum(Norms(subject, False).distance())), subject)


def _params(subject: Subject) -> Estimate:
    return exact(float(sum(w.numel() for w in subject.weights.values())), subject)


def _over_margin(value: float, subject: Subject) -> Estimate:
    gamma = subject.gamma
    if not float(gamma):
        return Estimate(math.inf, stderr=math.nan, n=gamma.n, unit=gamma.unit)
    found = value / gamma**2
    return Estimate(found, stderr=2 * found * gamma.stderr / gamma, n=gamma.n, unit=gamma.unit)


def _inverse_margin(subject: Subject) -> Estimate:
    return _over_margin(1.0, subject)


# -- sums over paths ------------------------------------------------------------------------------------------------


def _path_norm(subject: Subject, power: int) -> float:
    """sum over paths of prod |w|^power: the sum of the outputs on ones at weights |w|^power, in float64.

    A BatchNorm that is not fused is the affine layer s x + t, and has the weights |s|^power and |t|^power.
    """
    objective = subject.objective
    if objective.complex_names:
        raise InputError(f"{objective.complex_names[0]} is complex, and so are the products along its paths")
    few = objective.on(objective.data.head(1), precision="float64")
    fused, blocks = subject.fused, {block.name: block for block in few.layout.blocks}
    theta, buffers = few.vector(fused.theta).abs() ** power, dict(fused.buffers)
    for name, eps in objective.batchnorm_eps.items():
        mean, variance = f"{name}.running_mean", f"{name}.running_var"
        if mean not in buffers:
            continue
        if name not in fused.affine:  # its scale is 1; it has a shift where neither it nor its layer has a bias
            buffers[mean] = -(buffers[mean].double().abs() ** power)
            continue
        scale = (buffers[variance].double() + eps).rsqrt()
        gamma, beta = f"{name}.weight", f"{name}.bias"
        if gamma in few.frozen or beta in few.frozen:
            raise InputError(f"BatchNorm {name} is neither fused nor trained; let its weight and bias vary")
        if gamma in blocks:
            scale = scale * fused.theta[blocks[gamma].slice]
        shift = -buffers[mean].double() * scale
        shift = shift + fused.theta[blocks[beta].slice] if beta in blocks else shift
        scale, shift = scale.abs() ** power, shift.abs() ** power
        if gamma in blocks and beta in blocks:
            theta[blocks[gamma].slice], theta[blocks[beta].slice] = scale, shift
            buffers[mean], buffers[variance] = torch.zeros_like(scale), torch.full_like(scale, 1 - eps)
        else:
            buffers[mean], buffers[variance] = -shift / scale, scale**-2 - eps
    normalised = tuple(f"{name}." for name in objective.batchnorm_names)
    for name, value in buffers.items():
        if value.is_floating_point() and not name.startswith(normalised):
            buffers[name] = value.double().abs() ** power  # a weight that is not trained
    batch = few.batch(0)
    ones = map_tensors(batch, lambda t: torch.ones_like(t) if t.is_floating_point() else t)
    inputs = ones[:-1] if isinstance(ones, tuple) else ones
    if not _has_floats(inputs):
        raise InputError("its inputs are whole numbers (tokens, say), of which there are no ones to sum paths from")
    with few.differentiable(theta, buffers) as (model, _), torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in few.frozen:
                parameter.data = parameter.data.abs() ** power  # put back on the way out
        constants = [*model.parameters(), *model.buffers()]
        given = tensors_in(ones)
        averages = subject.parity is None
        return path_sum(lambda: few.outputs(model, ones)[0], constants, power, inputs=given, averages=averages)


def _has_floats(tree: object) -> bool:
    found: list[bool] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor.is_floating_point())
        return tensor

    map_tensors(tree, note)
    return any(found)


def _paths(power: int) -> Callable[[Subject], Estimate]:
    return lambda subject: exact(_path_norm(subject, power), subject)


# -- the table ------------------------------------------------------------------------------------------------------


def _spectral_measures(operators: bool) -> list[Measure]:
    """Those with spectral norms, of matrices (O, I k^2) or of the operators that convolutions are."""
    end, more = ("_fft", 100) if operators else ("", 0)
    of = "of the convolution as an operator" if operators else "of W_l as a matrix (out, in k^2)"

    def norms(subject: Subject) -> Norms:
        return Norms(subject, operators)

    def init_main(subject: Subject) -> Estimate:
        n = norms(subject)
        spectral = n.spectral()
        ratio = sum(f / s for f, s in zip(n.distance(), spectral, strict=True))
        return _less_margin(_logs(spectral) + _log(ratio), subject)

    def ratio(subject: Subject) -> float:
        n = norms(subject)
        return sum(f / s for f, s in zip(n.frobenius(), n.spectral(), strict=True))

    def orig_main(subject: Subject) -> Estimate:
        return _less_margin(_logs(norms(subject).spectral()) + _log(ratio(subject)), subject)

    def entry(
        name: str, number: int, function: Callable[[Subject], Estimate], needs: tuple[str, ...], formula: str
    ) -> Measure:
        source = f"{JIANG}, {number + more}"
        adjustment = "log" if name.startswith("log") else "root"
        return Measure(f"{name}{end}", function, needs, formula, source, adjustment, "norms")

    return [
        entry(
            "log_prod_of_spec_over_margin",
            31,
            lambda s: _less_margin(_logs(norms(s).spectral()), s),
            ("margins",),
            f"sum_l ln S_l - 2 ln gamma, S_l = |W_l|_2^2 {of}",
        ),
        entry("log_prod_of_spec", 32, lambda s: exact(_logs(norms(s).spectral()), s), (), f"sum_l ln S_l, S_l {of}"),
        entry(
            "log_spec_init_main",
            29,
            init_main,
            ("initial", "margins"),
            f"sum_l ln S_l - 2 ln gamma + ln sum_l |W_l - W0_l|_F^2 / S_l, S_l {of}",
        ),
        entry(
            "log_spec_orig_main",
            30,
            orig_main,
            ("margins",),
            f"sum_l ln S_l - 2 ln gamma + ln sum_l F_l / S_l, F_l = |W_l|_F^2, S_l {of}",
        ),
        entry("fro_over_spec", 33, lambda s: exact(ratio(s), s), (), f"sum_l F_l / S_l, S_l {of}"),
        entry(
            "log_sum_of_spec_over_margin",
            34,
            lambda s: _less_margin(_mean_log(norms(s).spectral()), s, 1 / len(s.weights)),
            ("margins",),
            f"ln d + (sum_l ln S_l - 2 ln gamma) / d, d weights, S_l {of}",
        ),
        entry(
            "log_sum_of_spec",
            35,
            lambda s: exact(_mean_log(norms(s).spectral()), s),
            (),
            f"ln d + sum_l ln S_l / d, S_l {of}",
        ),
        entry(
            "dist_spec_init",
            41,
            lambda s: exact(sum(norms(s).spectral_distance()), s),
            ("initial",),
            f"sum_l |W_l - W0_l|_2^2, {of}",
        ),
    ]


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _fro(name: str, number: int, formula: str, value: Callable[[list[float]], float], share: bool = False) -> Measure:
    """Of Frobenius norms; with the margin where the name says so."""

    def function(subject: Subject) -> Estimate:
        norms = Norms(subject, False).frobenius()
        if not name.endswith("_over_margin"):
            return exact(value(norms), subject)
        return _less_margin(value(norms), subject, 1 / len(norms) if share else 1.0)

    needs = ("margins",) if name.endswith("_over_margin") else ()
    return Measure(name, function, needs, formula, f"{JIANG}, {number}", "log", "norms")


_WEIGHTS = "norms"
MEASURES = (
    Measure("l2", _l2, (), "|w|, w the weights without biases", f"{JIANG}, code", "root", _WEIGHTS),
    Measure("l2_dist", _l2_dist, ("initial",), "|w - w0|", f"{JIANG}, code", "root", _WEIGHTS),
    Measure("params", _params, (), "number of weights", f"{JIANG}, 20", "root", _WEIGHTS),
    Measure(
        "inverse_margin",
        _inverse_margin,
        ("margins",),
        "1 / gamma^2, gamma the m/10-th smallest margin",
        f"{JIANG}, 22",
        "root",
        _WEIGHTS,
    ),
    *_spectral_measures(False),
    _fro("log_prod_of_fro_over_margin", 36, "sum_l ln F_l - 2 ln gamma", _logs),
    _fro("log_prod_of_fro", 37, "sum_l ln F_l", _logs),
    _fro("log_sum_of_fro_over_margin", 38, "ln d + (sum_l ln F_l - 2 ln gamma) / d", _mean_log, share=True),
    _fro("log_sum_of_fro", 39, "ln d + sum_l ln F_l / d", _mean_log),
    Measure(
        "fro_dist",
        lambda s: exact(sum(Norms(s, False).distance()), s),
        ("initial",),
        "sum_l |W_l - W0_l|_F^2",
        f"{JIANG}, 40",
        "root",
        _WEIGHTS,
    ),
    Measure(
        "param_norm",
        lambda s: exact(sum(Norms(s, False).frobenius()), s),
        (),
        "sum_l |W_l|_F^2",
        f"{JIANG}, 42",
        "root",
        _WEIGHTS,
    ),
    Measure(
        "path_norm",
        _paths(2),
        (),
        "sum over paths of prod w^2, from inputs and biases to all outputs",
        f"{JIANG}, 44",
        "root",
        "norms",
    ),
    Measure(
        "path_norm_over_margin",
        lambda s: _over_margin(_path_norm(s, 2), s),
        ("margins",),
        "path_norm / gamma^2",
        f"{JIANG}, 43",
        "root",
        "norms",
    ),
    *_spectral_measures(True),
)
OTHERS = (
    Measure(
        "path_norm_l1",
        _paths(1),
        (),
        "sum over paths of prod |w|",
        "Neyshabur et al., COLT 2015; Zhang and Louis, arXiv 2510.18934",
        "root",
        "norms",
    ),
)
