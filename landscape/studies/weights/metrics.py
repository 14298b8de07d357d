"""The metrics of one weight matrix, each with its formula, and why some have no value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from landscape_kernels import weightwatcher
from landscape_kernels.arrays import FloatArray
from landscape_kernels.marchenko_pastur import fit_bulk
from landscape_kernels.powerlaw import (
    PowerLaw,
    fit_exponential,
    fit_power_law,
    fit_truncated,
    power_law_loglik,
)
from landscape_kernels.spectra import density_distance, entropy, log_schatten, rounding_floor, stable_rank

from landscape.results.quantities import Meaning

FEWEST = 10  # eigenvalues of a tail, and of a matrix that is fitted
# Why a power law has no value; rows hold the number.
REASONS = (
    "",
    "all of its entries are 0",
    "it holds values that are NaN or infinite",
    f"it has fewer than {FEWEST} singular values",
    f"fewer than {FEWEST} of its eigenvalues are above the rounding of the precision that it is stored in",
    "its eigenvalues are all alike, and no tail of them has an exponent",
    "the fit failed, which the convention counts as alpha = -1",
    "its values, squared, leave the range of float64",
)
FINE, ZERO, NOT_FINITE, FEW, LOW_RANK, ALIKE, FAILED, OUTSIDE = range(len(REASONS))

_SCALE: Mapping[str, Meaning] = {
    "norm": Meaning("squared Frobenius norm", definition="sum lambda = |W|_F^2"),
    "log_norm": Meaning("log squared Frobenius norm", definition="log10 sum lambda"),
    "spectral_norm": Meaning("squared spectral norm", definition="lambda_max = |W|_2^2"),
    "log_spectral_norm": Meaning("log squared spectral norm", definition="log10 lambda_max"),
    "stable_rank": Meaning("stable rank", definition="sum lambda / lambda_max"),
}
_TAIL: Mapping[str, Meaning] = {
    "alpha": Meaning("power-law exponent", definition="exponent of p(lambda) ~ lambda^-alpha, lambda >= xmin"),
    "sigma": Meaning("nominal error of alpha", definition="(alpha - 1) / sqrt(num_pl_spikes), for independent values"),
    "D": Meaning("distance of the fit", definition="Kolmogorov-Smirnov distance of the tail from the power law"),
    "xmin": Meaning("start of the tail", definition="eigenvalue that the power law starts at"),
    "num_pl_spikes": Meaning("eigenvalues in the tail", definition="number of eigenvalues >= xmin"),
    "alpha_weighted": Meaning("weighted alpha", definition="alpha log10 lambda_max"),
    "log_alpha_norm": Meaning("log alpha norm", definition="log10 sum lambda^alpha, over all eigenvalues"),
}
_RANKS: Mapping[str, Meaning] = {
    "entropy": Meaning("entropy of the spectrum", definition="-sum p ln p / ln n, p = lambda / sum lambda"),
    "matrix_rank": Meaning("rank", definition="number of singular values above the rounding of entries"),
    "rank_loss": Meaning("rank loss", definition="number of singular values that are not"),
}
_BULK: Mapping[str, Meaning] = {
    "sigma_mp": Meaning(
        "noise",
        definition="standard deviation of entries by the law of Marchenko and Pastur, where the rank is above M / 2",
    ),
    "bulk_min": Meaning("lower edge of the bulk", definition="sigma_mp^2 (sqrt N - sqrt M)^2"),
    "bulk_max": Meaning("upper edge of the bulk", definition="sigma_mp^2 (sqrt N + sqrt M)^2"),
    "mp_softrank": Meaning("soft rank", definition="bulk_max / lambda_max"),
    "num_spikes": Meaning(
        "spikes", definition="number of eigenvalues above bulk_max and the 95 % quantile of Tracy and Widom's law"
    ),
}
_NEAR: Mapping[str, Meaning] = {
    "alpha_low": Meaning("least alpha nearly as good", definition="least alpha of fits with D within 5 % of the best"),
    "alpha_high": Meaning("greatest alpha nearly as good", definition="greatest alpha of those fits"),
    "alpha_rounded_low": Meaning(
        "least alpha under rounding", definition="least alpha where entries move by their rounding in storage"
    ),
    "alpha_rounded_high": Meaning("greatest alpha under rounding", definition="greatest alpha of these"),
    "alpha_null_low": Meaning("5 % of the null", definition="5 % quantile of alpha over shuffles of the entries"),
    "alpha_null": Meaning("null", definition="median of alpha over shuffles of the entries"),
    "alpha_null_high": Meaning("95 % of the null", definition="95 % quantile of alpha over shuffles of the entries"),
    "alpha_null_share": Meaning(
        "share of the null", definition="(1 + number of shuffles with alpha no larger) / (1 + number of shuffles)"
    ),
    "rand_distance": Meaning(
        "distance to randomised",
        "nat^0.5",
        "mean over shuffles of the Jensen-Shannon distance of the densities of log lambda",
    ),
    "rand_distance_sd": Meaning("its spread", "nat^0.5", "standard deviation of the same over shuffles"),
}
_OTHERS: Mapping[str, Meaning] = {
    "tpl_beta": Meaning("exponent of the truncated power law", definition="beta of lambda^-beta e^(-Lambda lambda)"),
    "tpl_lambda": Meaning("rate of the truncated power law", definition="Lambda of lambda^-beta e^(-Lambda lambda)"),
    "tpl_D": Meaning("distance of that fit", definition="Kolmogorov-Smirnov distance from the truncated power law"),
    "tpl_gain": Meaning("its gain", "nat", "log-likelihood of the tail over that of the power law"),
    "exp_lambda": Meaning("rate of the exponential", definition="Lambda = 1 / (mean of the tail - xmin)"),
    "exp_gain": Meaning("its gain", "nat", "log-likelihood of the tail over that of the power law"),
}
_DISTANCES: Mapping[str, Meaning] = {
    "distance": Meaning("distance from the initial weights", definition="|W - W0|_F"),
    "relative_distance": Meaning("relative distance", definition="|W - W0|_F / |W0|_F"),
    "spectral_distance": Meaning("spectral distance", definition="|W - W0|_2"),
}
_TOOL: Mapping[str, Meaning] = {
    "xmax": Meaning("largest eigenvalue of the fit", definition="lambda_max, -1 where the fit failed"),
    "lambda_max": Meaning("largest eigenvalue", definition="lambda_max"),
    "sv_max": Meaning("largest singular value", definition="sigma_max"),
    "sv_min": Meaning("smallest singular value", definition="largest over matrices of their smallest singular value"),
    "weak_rank_loss": Meaning("weak rank loss", definition="number of eigenvalues below 1e-6"),
    "W_scale": Meaning("scale", definition="sqrt(n / sum lambda)"),
    "detX_num": Meaning("determinant tail", definition="largest eigenvalues whose rescaled product is first below 1"),
    "detX_val": Meaning("start of the determinant tail", definition="least eigenvalue of that tail"),
    "detX_val_unrescaled": Meaning("the same rescaled", definition="n detX_val / sum lambda"),
    "ERG_gap": Meaning("gap of the tails", definition="detX_num - num_pl_spikes"),
}
METRICS: Mapping[str, Mapping[str, Meaning]] = {
    "matrix": {**_TAIL, **_NEAR, **_SCALE, **_RANKS, **_BULK, **_OTHERS},
    "weightwatcher": {**_TAIL, **_SCALE, **_RANKS, **_BULK, **_TOOL},
}
DISTANCES = _DISTANCES
EVERY: Mapping[str, Meaning] = {name: text for part in (*METRICS.values(), _DISTANCES) for name, text in part.items()}


@dataclass(frozen=True)
class Sides:
    """A matrix, or several of the same sides."""

    larger: int
    smaller: int
    slices: int
    eps: float  # unit of rounding of what its entries are stored in

    def above_rounding(self, spectrum: FloatArray) -> FloatArray:
        """The eigenvalues that are more than the rounding of entries."""
        floor = rounding_floor(spectrum, self.larger, self.smaller, self.slices, self.eps)
        kept: FloatArray = spectrum[spectrum > floor]
        return kept


def tail_of(spectrum: FloatArray, sides: Sides) -> tuple[PowerLaw | None, int]:
    """(the power law of a spectrum, number of the reason why there is none)."""
    if not spectrum[-1] > 0:
        return None, ZERO
    if spectrum.size < FEWEST:
        return None, FEW
    kept = sides.above_rounding(spectrum)
    if kept.size < FEWEST:
        return None, LOW_RANK
    law = fit_power_law(kept, fewest=FEWEST)
    return law, FINE if law else ALIKE


def scale_metrics(spectrum: FloatArray) -> dict[str, float]:
    """Norms and their ratio."""
    norm, top = float(spectrum.sum()), float(spectrum[-1])
    logs = {name: math.log10(value) if value > 0 else -math.inf for name, value in (("n", norm), ("t", top))}
    return {
        "norm": norm,
        "log_norm": logs["n"],
        "spectral_norm": top,
        "log_spectral_norm": logs["t"],
        "stable_rank": stable_rank(spectrum),
    }


def matrix_metrics(spectrum: FloatArray, sides: Sides) -> tuple[dict[str, float], int]:
    """(metrics by their definitions, those that need no second spectrum, number of the reason why no fit).

    `spectrum` (n,) are the eigenvalues of W'W, ascending, of all slices.
    """
    law, reason = tail_of(spectrum, sides)
    found = scale_metrics(spectrum)
    if reason == ZERO:
        return {**found, "matrix_rank": 0.0, "rank_loss": float(spectrum.size)}, reason
    full = sides.above_rounding(spectrum).size
    found |= {"matrix_rank": float(full), "rank_loss": float(spectrum.size - full)}
    found["entropy"] = entropy(spectrum)
    noisy = reason != LOW_RANK and 2 * full > spectrum.size  # whether the median is more than rounding
    bulk = fit_bulk(spectrum, sides.larger, sides.smaller, sides.slices) if noisy else None
    if bulk is not None and spectrum.size >= FEWEST:
        found |= {"sigma_mp": bulk.sigma, "bulk_min": bulk.low, "bulk_max": bulk.high, "num_spikes": bulk.spikes}
        found["mp_softrank"] = bulk.high / float(spectrum[-1])
    if law is None:
        return found, reason
    found |= {
        "alpha": law.alpha,
        "sigma": law.sigma,
        "D": law.D,
        "xmin": law.xmin,
        "num_pl_spikes": law.tail,
        "alpha_low": law.near[0],
        "alpha_high": law.near[1],
        "alpha_weighted": law.alpha * found["log_spectral_norm"],
        "log_alpha_norm": log_schatten(spectrum, law.alpha),
    }
    tail = spectrum[spectrum >= law.xmin]
    plain = power_law_loglik(tail, law.xmin, law.alpha)
    truncated, exponential = fit_truncated(tail, law.xmin), fit_exponential(tail, law.xmin)
    if truncated is not None:
        found |= {"tpl_beta": truncated.beta, "tpl_lambda": truncated.Lambda, "tpl_D": truncated.D}
        found["tpl_gain"] = truncated.loglik - plain
    if exponential is not None:
        found |= {"exp_lambda": exponential.Lambda, "exp_gain": exponential.loglik - plain}
    return found, reason


def null_metrics(
    alpha: float, spectrum: FloatArray, shuffled: list[FloatArray], rounded: list[FloatArray], sides: Sides
) -> tuple[dict[str, float], FloatArray]:
    """(how sure alpha is, alphas of the shuffled matrices)."""
    found: dict[str, float] = {}
    nulls = np.array([_alpha(one, sides) for one in shuffled])
    known = nulls[np.isfinite(nulls)]
    if known.size:
        low, middle, high = np.quantile(known, (0.05, 0.5, 0.95))
        found |= {"alpha_null_low": low, "alpha_null": middle, "alpha_null_high": high}
        if math.isfinite(alpha):
            found["alpha_null_share"] = (1 + int((known <= alpha).sum())) / (1 + known.size)
    if shuffled:
        distances = [density_distance(spectrum, one) for one in shuffled]
        found["rand_distance"] = float(np.mean(distances))
        if len(distances) > 1:
            found["rand_distance_sd"] = float(np.std(distances, ddof=1))
    moved = [value for one in rounded if math.isfinite(value := _alpha(one, sides))]
    if moved and math.isfinite(alpha):
        found |= {"alpha_rounded_low": min(*moved, alpha), "alpha_rounded_high": max(*moved, alpha)}
    return found, nulls


def _alpha(spectrum: FloatArray, sides: Sides) -> float:
    law, _ = tail_of(spectrum, sides)
    return law.alpha if law else math.nan


def weightwatcher_metrics(
    slices: list[FloatArray],
    sides: Sides,
    *,
    bulk: bool = True,
    determinant: bool = True,
    fit: weightwatcher.Fit | None = None,
    weak: float = weightwatcher.WEAK,
) -> tuple[dict[str, float], int]:
    """(the same as WeightWatcher 0.7.7 has them, number of the reason why no fit).

    `slices` are spectra, ascending; without `bulk` and `determinant` as it has them by default. `fit` takes the place
    of the fit to all eigenvalues; those below `weak` count as lost rank.
    """
    spectrum = np.sort(np.concatenate(slices))
    fit = weightwatcher.power_law(spectrum) if fit is None else fit
    found = scale_metrics(spectrum)
    with np.errstate(all="ignore"):
        found["log_alpha_norm"] = float(np.log10(np.sum(spectrum**fit.alpha)))
        found["alpha_weighted"] = fit.alpha * found["log_spectral_norm"]
    found |= {"alpha": fit.alpha, "sigma": fit.sigma, "D": fit.D, "xmin": fit.xmin, "num_pl_spikes": fit.tail}
    found["xmax"] = fit.largest
    found |= {"lambda_max": float(spectrum[-1]), "sv_max": math.sqrt(max(float(spectrum[-1]), 0.0))}
    found["sv_min"] = max(math.sqrt(max(float(one[0]), 0.0)) for one in slices)
    found["weak_rank_loss"] = float((spectrum < weak).sum())
    if spectrum[-1] > 0:
        found["entropy"] = weightwatcher.entropy(spectrum, sides.larger)
        found["matrix_rank"] = weightwatcher.rank(spectrum, sides.larger)
        found["rank_loss"] = float(sum(one.size - weightwatcher.rank(one, sides.larger) for one in slices))
    if bulk and spectrum[-1] > 0:
        found |= bulk_columns(spectrum, sides)
    if determinant and spectrum[-1] > 0:
        tail = weightwatcher.determinant_tail(spectrum)
        found |= {"detX_num": tail.count, "detX_val": tail.value, "detX_val_unrescaled": tail.rescaled}
        found["ERG_gap"] = float(tail.count - fit.tail)
    return found, FAILED if fit.tail < 0 else FINE


def bulk_columns(spectrum: FloatArray, sides: Sides) -> dict[str, float]:
    """The columns of WeightWatcher's fit of the law of Marchenko and Pastur."""
    bulk = weightwatcher.fit_bulk(spectrum, sides.larger, sides.smaller)
    return {
        "sigma_mp": bulk.sigma,
        "bulk_min": bulk.low,
        "bulk_max": bulk.high,
        "mp_softrank": bulk.softrank,
        "num_spikes": bulk.spikes,
        "W_scale": bulk.scale,
    }
