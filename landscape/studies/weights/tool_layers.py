"""The layers that WeightWatcher keeps, and its columns of one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from landscape_kernels import weightwatcher
from landscape_kernels.arrays import FloatArray
from landscape_kernels.spectra import gram_spectrum

from landscape.checkpoints.tensors import TensorSource, open_tensors
from landscape.errors import InputError
from landscape.network.weights import ToolLimits, WeightMatrix, weight_matrices
from landscape.studies.weights.metrics import FINE, Sides, bulk_columns, weightwatcher_metrics

_FEW = 100  # eigenvalues below which the largest random one is of several shuffles
_REPLICAS = 5
_OVER, _UNDER = 2.0, 6.0
_SAME = 1e-9  # gap of an eigenvalue that is computed in two ways
_NAMED = 6  # layers or tensors that a message names
_TYPES = {"convolution": "conv2d", "embedding": "embedding"}


@dataclass(frozen=True)
class Layer:
    """A layer that is kept."""

    number: int
    name: str
    longname: str
    matrix: WeightMatrix
    source: TensorSource

    @property
    def kind(self) -> str:
        """The tool's name of its type."""
        return _TYPES.get(self.matrix.kind, "dense")

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
            "layer_type": self.kind,
            "longname": self.longname,
            "num_evals": matrix.count,
            "rf": matrix.slices,
        }

    @property
    def flat(self) -> bool:
        """Whether it is no convolution."""
        return self.matrix.form == "matrix"

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


@dataclass(frozen=True)
class Asked:
    """Which columns."""

    mp_fit: bool = False
    randomize: bool = False
    determinant: bool = False
    vectors: bool = False
    fingers: bool = False
    finger_thresh: float = 1.0
    tolerance: float = weightwatcher.WEAK


def kept_layers(model: Any, layers: Any = (), limits: ToolLimits | None = None, first: int = 0) -> list[Layer]:
    """The layers that are kept, of those asked for by number, name or type; -number and "-name" leave one out.

    Raises InputError where no model is given, none of its layers is kept, or layers are both named and left out.
    """
    if model is None:
        raise InputError("no model is given; give WeightWatcher(model=...), or the method one")
    source = open_tensors(model)
    numbers = _numbers(model, source, first)
    found = []
    matrices = weight_matrices(source, model, "weightwatcher", limits)
    if not matrices.kept:
        told = [f"{name}: {why}" for name, why in matrices.skipped.items() if len(source.entries[name].shape) > 1]
        raise InputError(
            f"no layer of the model is kept ({'; '.join(told[:_NAMED]) or 'it has no matrices'}); "
            "landscape.measure_weights has matrices of every kind"
        )
    for matrix in matrices.kept:
        longname = matrix.name
        name = longname.rpartition(".")[2] if hasattr(model, "named_modules") else longname
        found.append(Layer(numbers[longname], name, longname, matrix, source))
    asked = [layers] if isinstance(layers, (str, int, np.integer)) else list(layers)
    without = {one[1:] if isinstance(one, str) else -one for one in asked if _negative(one)}
    if without and len(without) < len(set(asked)):
        raise InputError(f"layers={asked}; give layers to take, or layers to leave out, not both")
    if without:
        return [layer for layer in found if not without & {layer.number, layer.name, layer.longname}]
    taken = [layer for layer in found if not asked or _is_asked(layer, asked)]
    if not taken:
        known = ", ".join(f"{layer.number} ({layer.longname}, {layer.kind})" for layer in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise InputError(f"layers={asked} are none that are kept; those are {known}{more}")
    return taken


def _negative(one: Any) -> bool:
    return one.startswith("-") if isinstance(one, str) else one < 0


def _is_asked(layer: Layer, asked: Sequence[Any]) -> bool:
    return bool({layer.number, layer.name, layer.longname, layer.kind} & set(asked))


def _numbers(model: Any, source: TensorSource, first: int) -> dict[str, int]:
    """The tool's numbers: of modules in their order, the whole being 0; of a dict, of weights from 1."""
    if hasattr(model, "named_modules"):
        named = {name: number for number, (name, _) in enumerate(model.named_modules(), first)}
        return named | {"weight": first}
    weights = [name for name in source.entries if name.endswith(".weight")]
    return {name.removesuffix(".weight"): number for number, name in enumerate(weights, 1 + first)}


def analyzed(
    layer: Layer, matrices: list[FloatArray], asked: Asked, random: np.random.RandomState
) -> tuple[dict[str, Any], FloatArray]:
    """(the tool's columns of a layer, its eigenvalues ascending)."""
    matrix = layer.matrix
    sides = Sides(matrix.larger, matrix.smaller, matrix.slices, float(torch.finfo(torch.float64).eps))
    parts = [gram_spectrum(w) for w in matrices]
    spectrum = np.sort(np.concatenate(parts))
    clipped = None
    if asked.fingers:
        clipped = weightwatcher.clipped_power_law(spectrum, asked.finger_thresh)
    found, reason = weightwatcher_metrics(
        parts,
        sides,
        bulk=asked.mp_fit,
        determinant=asked.determinant,
        fit=clipped.fit if clipped else None,
        weak=asked.tolerance,
    )
    row = {**layer.about, "num_evals": spectrum.size, "has_esd": True, **found}
    row["status"] = "success" if reason == FINE else "failed"
    row["warning"] = "over-trained" if found["alpha"] < _OVER else "under-trained" if found["alpha"] > _UNDER else ""
    if clipped:
        row |= {"num_fingers": clipped.fingers, "raw_alpha": clipped.whole.alpha}
    if asked.determinant:
        row["num_ERG_spikes"] = row.get("detX_num")
    if asked.vectors:
        row |= _vector_columns(matrices, found["xmin"])
    if asked.randomize:
        row |= _random_columns(matrices, spectrum, sides, random)
    return row, spectrum


def _vector_columns(matrices: list[FloatArray], xmin: float) -> dict[str, float]:
    parts = [weightwatcher.vectors(w) for w in matrices]
    # xmin is one of the eigenvalues; there it falls on either side, as rounding has it
    tail = np.concatenate([part.values for part in parts]) >= xmin * (1 - _SAME)
    row: dict[str, float] = {}
    for name, kept in (("entropy", "vec_entropy"), ("localization", "loc_ratio"), ("participation", "part_ratio")):
        values = np.concatenate([getattr(part, name) for part in parts])
        for end, those in (("bulk", values[~tail]), ("tail", values[tail])):
            row[f"{end}_mean_{kept}"] = float(those.mean()) if those.size else math.nan
            row[f"{end}_var_{kept}"] = float(those.var()) if those.size else math.nan
    return row


def _random_columns(
    matrices: list[FloatArray], spectrum: FloatArray, sides: Sides, random: np.random.RandomState
) -> Mapping[str, float]:
    several = np.concatenate([shuffled(matrices, random) for _ in range(_REPLICAS if spectrum.size < _FEW else 1)])
    last = shuffled(matrices, random)
    bulk = bulk_columns(np.sort(several), sides)
    return {
        "max_rand_eval": float(several.max()),
        "rand_distance": weightwatcher.random_distance(spectrum, last),
        "ww_softrank": float(last[-1] / spectrum[-1]),
        "ww_maxdist": float(spectrum[-1] - last[-1]),
        **{f"rand_{name}": value for name, value in bulk.items()},
        "num_traps": bulk["num_spikes"],
    }


def shuffled(matrices: list[FloatArray], random: np.random.RandomState) -> FloatArray:
    """The eigenvalues of all matrices with their entries in another order, ascending."""
    parts = []
    for w in matrices:
        entries = w.flatten()
        random.shuffle(entries)
        parts.append(gram_spectrum(entries.reshape(w.shape)))
    return np.sort(np.concatenate(parts))
