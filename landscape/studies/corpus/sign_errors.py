"""How often each measure of a corpus orders models that differ in one hyper-parameter the wrong way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.rank_statistics import percentile_interval, redrawn, weighted_mean
from landscape_kernels.sign_errors import Environments, environments, over_axes
from landscape_kernels.sign_errors import sign_errors as errors_of

from landscape.arguments import Seed, checked
from landscape.errors import InputError
from landscape.files.provenance import engine_version
from landscape.results.settings import name_tuple
from landscape.studies.corpus.reading import MODEL, ModelTable, read_table
from landscape.studies.measures.result import Measures

_LEAST_DRAWS = 100


@checked()
def sign_errors(
    table: Any,
    gap: str = "gap",
    hyperparameters: str | Sequence[str] = (),
    metrics: str | Sequence[str] | None = None,
    *,
    samples: int | None = 10_000,
    least: float = 12.0,
    level: float = 0.95,
    draws: int = 1000,
    seed: Seed = 0,
) -> Measures:
    """The sign error of each measure: how often it orders two models otherwise than their generalisation gap does.

    `table` is that of `analyse_corpus`, with a row for each model; `gap`, `metrics` (by default every other column of
    numbers) and `hyperparameters` name its columns. An environment is a pair of combinations of hyper-parameters that
    differ in one of them, and its error the weighted mean of (1 - sgn(dC) sgn(dgap)) / 2 over the pairs of models in
    it, as those of several seeds. A pair counts (w - 1/2)_+ with w = max(0, 1 - 2 exp(-2 n (dgap / 2)^2))^2 and
    n = `samples` of the test set, so that differences that are noise do not count; samples=None counts all alike.
    Environments with an effective number of pairs (sum w)^2 / sum w^2 below `least` are left out.

    The result has a row for each measure: "mean", "p90" and "max" over environments, and "mean_NAME" over those where
    the hyper-parameter NAME differs (spaces become "_"), each mean with the ends of its interval, "_low" and "_high":
    percentiles of `draws` draws of the models with replacement, the environments held. `stderr` are deviations over
    draws. "environments" counts each pair once, where published numbers count it in both orders.

    Raises InputError for a table or columns that cannot be used, and where no environment has pairs enough.
    Source: Dziugaite et al., In search of robust measures of generalization, NeurIPS 2020.
    """
    found, settings = read_table(table), name_tuple(hyperparameters) or ()
    names = _columns(found, gap, settings, name_tuple(metrics))
    if not 0 < level < 1:
        raise InputError(f"level={level} is not between 0 and 1; 0.95 asks for intervals of 95 %")
    if draws < _LEAST_DRAWS:
        raise InputError(f"draws={draws} are too few for the ends of an interval; give {_LEAST_DRAWS} or more")
    if samples is not None and samples < 1:
        raise InputError(f"samples={samples}; give the number of samples of the test set, or None to count all pairs")
    rows = [_row(found, name, gap, settings, samples, least, level, draws, seed) for name in names]
    if not any(row["environments"] for row in rows):
        raise InputError(_none(found, names[0], gap, settings, samples, least))
    values = {key: np.array([row[key] for row in rows]) for key in rows[0] if not key.endswith("_stderr")}
    stderr = {key: np.array([row[f"{key}_stderr"] for row in rows]) for key in values if f"{key}_stderr" in rows[0]}
    share = f"{100 * level:.4g} %"
    return Measures(
        rows=names,
        row_kind="measure",
        values=values,
        stderr=stderr,
        words={key: _words(key, settings, share) for key in values},
        computed=np.array([bool(row["environments"]) for row in rows]),
        attributes={
            "engine_version": engine_version(),
            "table": found.source,
            "gap": gap,
            "hyperparameters": list(settings),
            "samples": samples or "all pairs count alike",
            "least": least,
            "level": level,
            "draws": draws,
            "seed": seed,
            "error": f"over {draws:,} draws of the models with replacement, the environments held",
        },
    )


def _columns(table: ModelTable, gap: str, settings: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    """The measures to look at."""
    table.require("gap", gap, numeric=True)
    if not settings:
        raise InputError("hyperparameters is empty; name the columns that say how the models were trained")
    for name in settings:
        table.require("hyper-parameter", name)
    roles = {gap, *settings}
    found = asked or tuple(n for n in table.order if n in table.numbers and n not in roles and n != MODEL)
    if not found:
        raise InputError(f"{table.source} has no column of numbers beside gap and hyper-parameters; add one")
    for name in found:
        table.require("metric", name, numeric=True)
        if name in roles:
            raise InputError(f"metric {name!r} is the gap or a hyper-parameter; name another column")
    return tuple(dict.fromkeys(found))


def _known(
    table: ModelTable, name: str, gap: str, settings: Sequence[str]
) -> tuple[FloatArray, FloatArray, list[list[object]]]:
    """(measure, gap, labels) of the models that have all of them."""
    labels = [table.labels(one) for one in settings]
    whole = np.isfinite(table.numbers[name]) & np.isfinite(table.numbers[gap])
    kept = [k for k in np.flatnonzero(whole).tolist() if all(part[k] is not None for part in labels)]
    return table.numbers[name][kept], table.numbers[gap][kept], [[part[k] for k in kept] for part in labels]


def _row(
    table: ModelTable,
    name: str,
    gap: str,
    settings: Sequence[str],
    samples: int | None,
    least: float,
    level: float,
    draws: int,
    seed: int,
) -> dict[str, float]:
    x, y, labels = _known(table, name, gap, settings)
    among = environments(y, labels, samples).kept(least)
    (errors,) = errors_of(x, y, among)
    found: dict[str, float] = {}
    counts = redrawn([len(x)], draws, seed)[0] if len(errors) else np.zeros((draws, len(x)))
    many = _means(errors_of(x, y, among, counts), among, settings)
    for key, value in _means(errors[None], among, settings).items():
        found[key] = float(value[0])
        low, high = percentile_interval(many[key], level)
        found |= {f"{key}_low": low, f"{key}_high": high}
        known = many[key][np.isfinite(many[key])]
        found[f"{key}_stderr"] = float(known.std(ddof=1)) if known.size > 1 and not math.isnan(low) else math.nan
    there = errors[np.isfinite(errors)]
    return found | {
        "p90": float(np.percentile(there, 90)) if there.size else math.nan,
        "max": float(there.max()) if there.size else math.nan,
        "environments": float(there.size),
    }


def _means(errors: FloatArray, among: Environments, settings: Sequence[str]) -> dict[str, FloatArray]:
    """{quantity: (d,)} of errors (d, e)."""
    means, numbers = over_axes(errors, among.axis, len(settings))
    whole = np.concatenate([weighted_mean(m[None], n) for m, n in zip(means, numbers, strict=True)])
    return {"mean": whole, **{_key(name): means[:, k] for k, name in enumerate(settings)}}


def _key(name: str) -> str:
    return f"mean_{'_'.join(name.split())}"


def _words(key: str, settings: Sequence[str], share: str) -> str:
    ends = {"_low": f"lower end of {share}: ", "_high": f"upper end of {share}: "}
    stem = next((key.removesuffix(end) for end in ends if key.endswith(end) and key.startswith("mean")), key)
    what = {
        "mean": "mean sign error over environments",
        "p90": "sign error that one environment in ten exceeds",
        "max": "largest sign error of an environment",
        "environments": "environments with pairs enough",
        **{_key(name): f"mean sign error where {name} differs" for name in settings},
    }
    return ends.get(key.removeprefix(stem), "") + what[stem]


def _none(table: ModelTable, name: str, gap: str, settings: Sequence[str], samples: int | None, least: float) -> str:
    """Why there is no environment."""
    _, y, labels = _known(table, name, gap, settings)
    sizes = environments(y, labels, samples).sizes
    if not sizes.size:
        told = f"no two models of {table.source} differ in one of {', '.join(settings)} alone"
        return f"{told}; name other hyper-parameters"
    return (
        f"none of {sizes.size} environments has {least:g} pairs of models or more whose gaps differ beyond noise, at "
        f"most {sizes.max():.3g}; give more models of each combination, a smaller least=, or samples=None"
    )
