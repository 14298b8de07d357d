"""Weight matrices as frozen results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import BoolArray, FloatArray, IntArray

from landscape.arguments import checked
from landscape.errors import InputError, nearest
from landscape.results.base import Result
from landscape.results.estimate import Estimate
from landscape.studies.weights.metrics import EVERY

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Weights(Result):
    """Metrics of every weight matrix of one model or of several, and the eigenvalues they are made of."""

    models: tuple[str, ...]  # labels
    model_of: IntArray  # (R,) number of the model of each row
    layers: tuple[str, ...]  # (R,) the layer, and which part of its tensor
    tensors: tuple[str, ...]  # (R,)
    kinds: tuple[str, ...]  # (R,) "linear", "convolution", ...
    larger: IntArray  # (R,) N, larger side
    smaller: IntArray  # (R,) M
    slices: IntArray  # (R,) matrices of these sides that are taken together
    values: Mapping[str, FloatArray]  # metric -> (R,), NaN where it has no value
    reasons: tuple[str, ...]  # (R,) why alpha has none; empty where it has
    notes: tuple[str, ...]  # (R,) what was supposed of the tensor
    spectra: FloatArray  # (R, n) eigenvalues of W'W, ascending, NaN behind the last
    nulls: FloatArray  # (R, K) alpha of K shuffles of the entries
    computed: BoolArray  # (R,)
    skipped: Mapping[str, str]  # tensor of any of the models -> why it is no matrix
    convention: str = "matrix"
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        several = f" of {len(self.models)} models" if len(self.models) > 1 else ""
        return (
            f"Weights({len(self.layers)} matrices{several}, {int(self.computed.sum())} computed, "
            f"{int(np.isfinite(self.values['alpha']).sum())} with a power law)"
        )

    @property
    def complete(self) -> bool:
        """Whether every matrix was computed."""
        return bool(self.computed.all())

    @property
    def model(self) -> Mapping[str, Estimate]:
        """{metric: mean over the matrices that have it, with its standard error over matrices}.

        Under the convention "weightwatcher" failed fits have alpha = -1 and are in the mean, as infinite values are.
        Raises InputError for several models; see `of`.
        """
        self._require_one()
        return {name: self._mean(values) for name, values in self.values.items()}

    def _mean(self, values: FloatArray) -> Estimate:
        known = values[np.isfinite(values) if self.convention == "matrix" else ~np.isnan(values)]
        spread = known.size > 1 and bool(np.isfinite(known).all())
        error = float(known.std(ddof=1) / math.sqrt(known.size)) if spread else math.nan
        return Estimate(float(known.mean()) if known.size else math.nan, stderr=error, n=known.size, unit="matrix")

    @property
    def median(self) -> Mapping[str, float]:
        """{metric: median over the matrices that have it}. Raises InputError for several models; see `of`."""
        self._require_one()
        found = {name: values[np.isfinite(values)] for name, values in self.values.items()}
        return {name: float(np.median(values)) if values.size else math.nan for name, values in found.items()}

    def _require_one(self) -> None:
        if len(self.models) > 1:
            raise InputError(
                f"there are {len(self.models)} models here; name one, as in of({self.models[-1]!r}).model, or take "
                "over_models"
            )

    def left_out(self) -> Mapping[str, str]:
        """{layer: why it has no alpha}, of layers that were computed; of several models {"model: layer": why}."""
        several = len(self.models) > 1
        rows = zip(self.layers, self.model_of, self.reasons, self.computed, strict=True)
        return {
            f"{self.models[k]}: {layer}" if several else layer: reason
            for layer, k, reason, done in rows
            if reason and done
        }

    @checked()
    def of(self, model: str) -> Weights:
        """One of several models. Raises InputError for one that is not here."""
        if model not in self.models:
            raise InputError(f"no model {model!r} is here; {nearest(model, self.models)}")
        rows = np.flatnonzero(self.model_of == self.models.index(model))
        picked: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in rows)
            for name in ("layers", "tensors", "kinds", "reasons", "notes")
        }
        arrays = ("larger", "smaller", "slices", "spectra", "nulls", "computed")
        picked |= {name: getattr(self, name)[rows] for name in arrays}
        values = {name: array[rows] for name, array in self.values.items()}
        return Weights(
            models=(model,),
            model_of=np.zeros(len(rows), dtype=np.int64),
            values=values,
            skipped=self.skipped,
            convention=self.convention,
            attributes=self.attributes,
            **picked,
        )

    @checked()
    def over_models(self, metric: str = "alpha") -> Mapping[str, Estimate]:
        """{model: mean of a metric over its matrices}, in order. Raises InputError for a metric that is not here."""
        self.require(metric)
        values = self.values[metric]
        return {label: self._mean(values[self.model_of == k]) for k, label in enumerate(self.models)}

    @checked()
    def spectrum(self, layer: str, model: str | None = None) -> FloatArray:
        """The eigenvalues of W'W of a layer, ascending. Raises InputError for a layer that is not here."""
        row = self.row(layer, model)
        found: FloatArray = self.spectra[row][np.isfinite(self.spectra[row])]
        return found

    @checked()
    def row(self, layer: str, model: str | None = None) -> int:
        """The number of a layer's row, of the last model where none is named. Raises InputError for an unknown one."""
        label = self.models[-1] if model is None else model
        if label not in self.models:
            raise InputError(f"no model {label!r} is here; {nearest(label, self.models)}")
        number = self.models.index(label)
        for k, name in enumerate(self.layers):
            if name == layer and self.model_of[k] == number:
                return k
        if layer in self.skipped or f"{layer}.weight" in self.skipped:
            reason = self.skipped.get(layer, self.skipped.get(f"{layer}.weight", ""))
            raise InputError(f"layer {layer!r} was left out: {reason}")
        raise InputError(f"no layer {layer!r} is here; {nearest(layer, dict.fromkeys(self.layers))}")

    @checked()
    def require(self, metric: str) -> None:
        """Raise InputError for a metric that is not here."""
        if metric not in self.values:
            raise InputError(f"no metric {metric!r} is here; {nearest(metric, self.values)}")

    @checked()
    def definition(self, metric: str) -> str:
        """The formula of a metric. Raises InputError for one that is not here."""
        self.require(metric)
        return EVERY[metric].long_name

    @checked()
    def sentence(self, layer: str, model: str | None = None) -> str:
        """What is to be said of a layer's alpha, and how sure it is. Raises InputError for a layer that is not here."""
        row = self.row(layer, model)
        v = {name: float(values[row]) for name, values in self.values.items()}
        if not self.computed[row]:
            return "It is not computed yet."
        if self.reasons[row]:
            return f"It has no power law: {self.reasons[row]}."
        total = int(np.isfinite(self.spectra[row]).sum())
        said = f"alpha is {v['alpha']:.3g} over the largest {v['num_pl_spikes']:,.0f} of {total:,} eigenvalues"
        low, high = v.get("alpha_low", math.nan), v.get("alpha_high", math.nan)
        if _apart(low, high):
            said += f"; fits that are nearly as good have {low:.3g} to {high:.3g}"
        low, high = v.get("alpha_rounded_low", math.nan), v.get("alpha_rounded_high", math.nan)
        if _apart(low, high):
            said += f"; rounding of its entries moves it from {low:.3g} to {high:.3g}"
        share = v.get("alpha_null_share", math.nan)
        if math.isfinite(share):
            known = int(np.isfinite(self.nulls[row]).sum())
            low, high = v["alpha_null_low"], v["alpha_null_high"]
            where = (
                f"below those of all {known} shuffles"
                if share <= 1 / (known + 1) + 1e-12
                else f"no larger than it in {round(share * (known + 1)) - 1} of {known}"
            )
            said += f"; shuffled, it has {low:.3g} to {high:.3g} ({where})"
        return said + "."

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each matrix, indexed by layer; of several models by model and layer."""
        table = super().to_pandas()
        return table.set_index("layer" if len(self.models) == 1 else ["model", "layer"])

    @checked()
    def plot(self, kind: str = "alpha", layer: str | None = None, **options: Any) -> Figure:
        """The "esd" of one layer with its fit, or "alpha" (or another `metric`) of all; see `plot_weights`."""
        return self._drawn(kind, layer=layer, **options)


def _apart(low: float, high: float) -> bool:
    """Whether two values read as different."""
    return high - low > 5e-3 * high
