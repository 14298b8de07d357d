"""Trials as tables: what a job will take, before it runs."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from landscape.planes.grid import AXIS_NAMES
from landscape.results.tables import Table, pairs_table
from landscape_jobs.check import Trial

if TYPE_CHECKING:
    from landscape.compat import ProductComparison
    from landscape_jobs.pair_check import PairsTrial
    from landscape_jobs.spectral_check import CurvatureTrial


def trial_table(trial: Trial) -> Table:
    """The estimate of `landscape check`."""
    return pairs_table(
        "estimate",
        {
            "rows": f"{trial.rows}, of which {trial.done} are there already",
            "loss at two trial points": ", ".join(f"{loss:.6g}" for loss in trial.losses),
            **_models(trial),
            "time per row": f"{trial.seconds:.3g} s",
            **_times(trial),
            "memory per rank": _bytes_text(trial.memory),
            **({"GPU memory per rank": _bytes_text(trial.device_memory)} if trial.device_memory else {}),
            "size of the result": f"about {_bytes_text(trial.result)}",
        },
    )


def _models(trial: Trial) -> dict[str, str]:
    """Where the models on the plane are, and whether the grid holds them."""
    if not trial.extent:
        return {}
    named = zip(AXIS_NAMES, trial.extent, strict=False)
    places = ", ".join(f"{name} from {low:.4g} to {high:.4g}" for name, (low, high) in named)
    off = f"; {trial.outside} lie OFF THE GRID: widen [surface]" if trial.outside else ""
    return {"models on the plane": places + off}


def curvature_trial_table(trial: CurvatureTrial) -> Table:
    """The estimate of `landscape check` for a job that measures curvature."""
    matrix, check = trial.matrix, trial.matrix.check
    products = [f"{name} about {count}" for name, count in trial.products.items()]
    whole = "all" if matrix.size == trial.parameters else f"of {trial.parameters:,}"
    in_gradients = trial.product_seconds / trial.gradient_seconds
    return pairs_table(
        "estimate",
        {
            "matrix": f"{matrix.operator} of size {matrix.size:,} ({whole} parameters, {trial.layers} layers)",
            "data": f"{matrix.sample.objective.samples:,} samples in {trial.chunks} chunks",
            "route of products": check.route,
            "seen on a few samples": f"off from central differences by {check.difference:.1e}, from symmetry by "
            f"{check.symmetry:.1e}, from float64 by {check.rounding:.1e}",
            **{f"not by {route}": reason for route, reason in check.refused.items()},
            "trace": _trace_way(trial),
            "products": ", ".join(products) or "none",
            "time per product": f"{trial.product_seconds:.3g} s, {in_gradients:.2g} gradients of the loss",
            **_times(trial),
            "memory per rank": f"{_bytes_text(trial.memory)}, and {_bytes_text(trial.basis)} for vectors",
            **({"GPU memory per rank": _bytes_text(trial.device_memory)} if trial.device_memory else {}),
            "size of the result": f"about {_bytes_text(trial.result)}",
            "there already": trial.done or "nothing",
        },
    )


def pairs_trial_table(trial: PairsTrial) -> Table:
    """The estimate of `landscape check` for a job of pairs of models."""
    training = {
        "training": f"{trial.steps:,} steps of {trial.step_seconds:.3g} s for each pair",
    }
    return pairs_table(
        "estimate",
        {
            "pairs": f"{trial.pairs}, of which {trial.done} are there already",
            "loss at the ends of the first": ", ".join(f"{loss:.6g}" for loss in trial.losses),
            "places": f"{trial.places} on each line and curve, {trial.place_seconds:.3g} s each",
            **(training if trial.steps else {}),
            "time per pair": f"{trial.pair_seconds:.3g} s",
            **_times(trial),
            "memory per rank": _bytes_text(trial.memory),
            **({"GPU memory per rank": _bytes_text(trial.device_memory)} if trial.device_memory else {}),
        },
    )


def comparison_table(comparison: ProductComparison) -> Table:
    """Our products beside those of pyhessian."""
    verdict = "they agree" if comparison.agrees else "they DIFFER by more than rounding explains"
    return pairs_table(
        "products beside pyhessian's",
        {
            "verdict": verdict,
            "gap of each, relative": ", ".join(f"{gap:.1e}" for gap in comparison.gaps),
            "largest gap of an entry": ", ".join(f"{gap:.1e}" for gap in comparison.elementwise),
            "explained by rounding": f"{comparison.allowed:.1e} in {comparison.precision}",
            "our route": comparison.route,
            "data": f"{comparison.samples:,} samples in {comparison.batches} batches",
        },
    )


def _trace_way(trial: CurvatureTrial) -> str:
    if not trial.method:
        return "not asked for"
    gradients = f", {trial.gradients:.3g} backward passes per sample" if trial.gradients else ""
    more = "; more products until its error is small enough" if trial.products.get("trace") else ""
    return trial.method + gradients + (more if trial.method != "xtrace" else "")


def _times(trial: Trial | CurvatureTrial | PairsTrial) -> dict[str, str]:
    """{on so many ranks: estimated time}."""
    many = (trial.ranks,) if trial.ranks > 1 else (8, 64)
    per_rank = f"{trial.threads} thread{'s' if trial.threads > 1 else ''} each"
    return {
        f"time on {ranks} rank{'s' if ranks > 1 else ''}, {per_rank}": str(
            timedelta(seconds=math.ceil(trial.duration(ranks)))
        )
        for ranks in (1, *many)
    }


def _bytes_text(count: int) -> str:
    """A size in MB or GB."""
    return f"{count / 2**20:.3g} MB" if count < 2**30 else f"{count / 2**30:.3g} GB"
