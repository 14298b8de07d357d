"""For users of WeightWatcher: its class with the same methods, columns and numbers, computed by this package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.spectra import gram_spectrum
from landscape_kernels.weightwatcher import random_distance
from torch import Tensor

from landscape.checkpoints.tensors import TensorSource, open_tensors
from landscape.errors import InputError
from landscape.network.weights import WeightMatrix, weight_matrices
from landscape.studies.weights.metrics import FINE, Sides, bulk_columns, weightwatcher_metrics

if TYPE_CHECKING:
    import pandas

_SUMMARY = ("log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank", "mp_softrank")
_FIRST = ("layer_id", "name")
_FEW = 100  # eigenvalues below which the largest random one is of several shuffles
_REPLICAS = 5
_OVER, _UNDER = 2.0, 6.0
_WRONG = "it is wrong, or fails, in WeightWatcher 0.7.7"
_MISSING = "it is not part of this class"
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("conv2d_fft", "inverse", "glorot_fix", "fft", "channels", "peft", "stacked"), _WRONG),
    **dict.fromkeys(("fit", "pl_package", "xmax"), _WRONG),
    "fix_fingers": f"{_MISSING}; alpha_low and alpha_high of landscape.measure_weights show the same doubt",
    "plot": "draw landscape.measure_weights(model, convention='weightwatcher').plot('esd', layer=...)",
    "pool": f"{_MISSING}: matrices of a convolution are pooled",
    "vectors": _MISSING,
}


@dataclass(frozen=True)
class _Layer:
    """A layer that is kept."""

    number: int
    name: str
    longname: str
    matrix: WeightMatrix
    source: TensorSource

    @property
    def about(self) -> dict[str, Any]:
        """Its columns that need no spectrum."""
        matrix = self.matrix
        return {
            "layer_id": self.number,
            "name": self.name,
            "M": matrix.smaller,
            "N": matrix.larger,
            "Q": matrix.larger / matrix.smaller,
            "layer_type": {"convolution": "conv2d", "embedding": "embedding"}.get(matrix.kind, "dense"),
            "longname": self.longname,
            "num_evals": matrix.count,
            "rf": matrix.slices,
        }

    def matrices(self, base: TensorSource | None = None) -> list[FloatArray]:
        """Its matrices as the tool has them, with its factor; of the difference from a `base`."""
        found = self.plain()
        if base is not None:
            found = [a - b for a, b in zip(found, self.plain(base), strict=True)]
        return [w * math.sqrt(self.matrix.factor) for w in found]

    def plain(self, source: TensorSource | None = None) -> list[FloatArray]:
        """The same without the factor; a linear layer's as it lies."""
        found = list(self.matrix.matrices((source or self.source).read(self.matrix.tensor)))
        return found if self.flat else [w.T if w.shape[0] < w.shape[1] else w for w in found]

    @property
    def flat(self) -> bool:
        """Whether it is no convolution."""
        return self.matrix.form == "matrix"


class WeightWatcher:
    """`weightwatcher.WeightWatcher` 0.7.7 with the same methods, columns and numbers.

    `model` is a module, a state dict, or the path of a checkpoint. What differs: nothing is printed or plotted, no
    attribute is set on modules and numpy's random state is not used: `analyze(randomize=True, seed=s)` has the numbers
    that `numpy.random.seed(s)` gives there. `base_model` counts wherever it is given. Options that are wrong there are
    refused by name. Layers whose values are not finite are left out, in place of an exception.

    >>> watcher = WeightWatcher(model=torch.nn.Linear(20, 10))
    >>> list(watcher.describe()["num_evals"])
    [10]
    """

    def __init__(self, model: Any = None, base_model: Any = None) -> None:
        self.model, self.base_model = model, base_model
        self.details: pandas.DataFrame | None = None

    def describe(self, model: Any = None, layers: Sequence[Any] = (), **others: Any) -> pandas.DataFrame:
        """A row for each layer that is kept. Raises InputError for options that are not supported."""
        _refuse(others)
        return _table([layer.about for layer in self._layers(model, layers)])

    def analyze(
        self,
        model: Any = None,
        layers: Sequence[Any] = (),
        mp_fit: bool = False,
        randomize: bool = False,
        detX: bool = False,
        base_model: Any = None,
        seed: int | None = None,
        **others: Any,
    ) -> pandas.DataFrame:
        """The metrics of each layer that is kept, those of the difference from `base_model` where one is given.

        Raises InputError for options that are not supported, or are wrong in the tool.
        """
        _refuse(others)
        base_model = self.base_model if base_model is None else base_model
        base = None if base_model is None else open_tensors(base_model)
        random = np.random.RandomState(seed)  # whose shuffles the tool's are
        rows: list[dict[str, Any]] = []
        for layer in self._layers(model, layers):
            matrices = layer.matrices(base)
            if not all(np.isfinite(w).all() for w in matrices):
                continue
            rows.append(_analyzed(layer, matrices, mp_fit, detX, random if randomize else None))
        self.details = _table(rows)
        return self.details

    def get_details(self) -> pandas.DataFrame | None:
        """The table of the last `analyze`."""
        return self.details

    def get_summary(self, details: pandas.DataFrame | None = None) -> dict[str, float]:
        """{metric: mean over layers}, failed fits with alpha = -1 among them."""
        details = self.details if details is None else details
        return {} if details is None else {name: details[name].mean() for name in _SUMMARY if name in details}

    def distances(
        self, model_1: Any, model_2: Any, method: str = "raw", layers: Sequence[Any] = (), **others: Any
    ) -> tuple[float, float, pandas.DataFrame]:
        """(mean distance of weights, of biases, table by layer) of two models; `method` is raw, euclidean or cka.

        "raw" is the Frobenius norm of the whole difference, with biases of linear layers; "euclidean" the mean over the
        matrices of a convolution of theirs; "cka" the mean of |A'B| / sqrt(|A'A| |BB'|). Raises InputError for others.
        """
        _refuse(others)
        if method not in ("raw", "euclidean", "cka"):
            raise InputError(f"method={method!r}; give raw, euclidean or cka")
        one, other = open_tensors(model_1), open_tensors(model_2)
        rows = []
        for layer in self._layers(model_1, layers):
            sides = sorted(one.entries[layer.matrix.tensor].shape) if method == "raw" else None
            row: dict[str, Any] = {"method": method, "layer_id": layer.number, "name": layer.name}
            shape: Any = "unknown"
            row |= {"delta_W": _distance(layer, one, other, method), "delta_b": 0.0}
            bias = f"{layer.matrix.tensor.removesuffix('weight')}bias"
            if method == "raw" and layer.flat and bias in one.entries and bias in other.entries:
                row["delta_b"] = float((one.read(bias) - other.read(bias)).norm())
                shape = one.entries[bias].shape
            row |= {"M": sides[0] if sides else layer.matrix.smaller, "N": sides[-1] if sides else layer.matrix.larger}
            rows.append({**row, "b_shape": shape, "longname": layer.longname})
        table = _table(rows).set_index("layer_id")
        return float(table["delta_W"].mean()), float(table["delta_b"].mean()), table

    def _layers(self, model: Any, layers: Sequence[Any]) -> list[_Layer]:
        model = self.model if model is None else model
        if model is None:
            raise InputError("no model is given; give WeightWatcher(model=...), or the method one")
        source = open_tensors(model)
        kept = weight_matrices(source, model, "weightwatcher").kept
        numbers = _numbers(model, source)
        found = []
        for matrix in kept:
            longname = matrix.name
            name = longname.rpartition(".")[2] if hasattr(model, "named_modules") else longname
            layer = _Layer(numbers[longname], name, longname, matrix, source)
            if not layers or {layer.number, layer.name, layer.longname, layer.about["layer_type"]} & set(layers):
                found.append(layer)
        return found


def _numbers(model: Any, source: TensorSource) -> dict[str, int]:
    """The tool's numbers: of modules in their order, the whole being 0; of a dict, of weights from 1."""
    if hasattr(model, "named_modules"):
        return {name: number for number, (name, _) in enumerate(model.named_modules())} | {"weight": 0}
    weights = [name for name in source.entries if name.endswith(".weight")]
    return {name.removesuffix(".weight"): number for number, name in enumerate(weights, 1)}


def _analyzed(
    layer: _Layer, matrices: list[FloatArray], mp_fit: bool, determinant: bool, random: Any
) -> dict[str, Any]:
    matrix = layer.matrix
    sides = Sides(matrix.larger, matrix.smaller, matrix.slices, float(torch.finfo(torch.float64).eps))
    parts = [gram_spectrum(w) for w in matrices]
    found, reason = weightwatcher_metrics(parts, sides, bulk=mp_fit, determinant=determinant)
    row = {**layer.about, "has_esd": True, **found}
    row["status"] = "success" if reason == FINE else "failed"
    row["warning"] = _warning(found["alpha"])
    if determinant:
        row["num_ERG_spikes"] = row.get("detX_num")
    if random is None:
        return row
    spectrum, count = np.sort(np.concatenate(parts)), matrix.count
    several = np.concatenate([_shuffled(matrices, random) for _ in range(_REPLICAS if count < _FEW else 1)])
    last = _shuffled(matrices, random)
    row |= {"max_rand_eval": float(several.max()), "rand_distance": random_distance(spectrum, last)}
    row |= {"ww_softrank": last[-1] / spectrum[-1], "ww_maxdist": spectrum[-1] - last[-1]}
    bulk = bulk_columns(np.sort(several), sides)
    row |= {f"rand_{name}": value for name, value in bulk.items()} | {"num_traps": bulk["num_spikes"]}
    return row


def _shuffled(matrices: list[FloatArray], random: Any) -> FloatArray:
    parts = []
    for w in matrices:
        entries = w.flatten()
        random.shuffle(entries)
        parts.append(gram_spectrum(entries.reshape(w.shape)))
    return np.sort(np.concatenate(parts))


def _warning(alpha: float) -> str:
    return "over-trained" if alpha < _OVER else "under-trained" if alpha > _UNDER else ""


def _distance(layer: _Layer, one: TensorSource, other: TensorSource, method: str) -> float:
    tensor = layer.matrix.tensor
    if tensor not in other.entries or other.entries[tensor].shape != one.entries[tensor].shape:
        raise InputError(f"the second model has no {tensor!r} of shape {one.entries[tensor].shape}")
    if method == "raw":
        change: Tensor = one.read(tensor).double() - other.read(tensor).double()
        return float(change.norm())
    pairs = zip(layer.plain(one), layer.plain(other), strict=True)
    if method == "euclidean":
        return float(np.mean([np.linalg.norm(a - b) for a, b in pairs]))
    return float(np.mean([_cka(a, b) for a, b in pairs]))


def _cka(a: FloatArray, b: FloatArray) -> float:
    norm = math.sqrt(float(np.linalg.norm(a.T @ a)) * float(np.linalg.norm(b.T @ b)))  # |BB'| = |B'B|
    return float(np.linalg.norm(a.T @ b)) / (norm + (1e-6 if norm < 1e-6 else 0.0))


def _table(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Rows as a DataFrame with the tool's order of columns."""
    from landscape.results.frames import frame

    names = sorted(
        {name for row in rows for name in row}, key=lambda name: (_FIRST.index(name) if name in _FIRST else 2, name)
    )
    if rows and "delta_W" in rows[0]:
        names = list(rows[0])
    return frame({name: [row.get(name, math.nan) for row in rows] for name in names})


def _refuse(others: Mapping[str, Any]) -> None:
    """Raise InputError for an option that is not supported, unless it says what is so anyway."""
    for name, value in others.items():
        if value in (False, None, "", [], ()) or (name == "pool" and value is True) or (name, value) == ("fit", "PL"):
            continue
        raise InputError(f"{name}={value!r} is not supported: {_REFUSED.get(name, _MISSING)}; leave it out")
