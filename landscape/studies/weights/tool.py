"""For users of WeightWatcher: its class with the same methods, columns and numbers, computed by this package."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.spectra import gram_spectrum
from torch import Tensor

from landscape.arguments import checked
from landscape.checkpoints.tensors import TensorSource, open_tensors
from landscape.errors import InputError, nearest
from landscape.network.weights import ToolLimits
from landscape.studies.weights.drawn import pooled
from landscape.studies.weights.metrics import METRICS
from landscape.studies.weights.result import Weights
from landscape.studies.weights.smoothing import keep_largest
from landscape.studies.weights.tool_layers import Asked, Layer, analyzed, kept_layers, shuffled

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_SUMMARY = ("log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank", "mp_softrank")
_FIRST = ("layer_id", "name")
_SMOOTHING = {"svd": "", "detX": "detX_num", "alpha_min": "num_pl_spikes", "rmt": "num_spikes"}  # by which column
_WRONG = "it is wrong, or fails, in WeightWatcher 0.7.7"
_MISSING = "it is not part of this class"
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("conv2d_fft", "inverse", "glorot_fix", "fft", "channels", "peft", "stacked"), _WRONG),
    **dict.fromkeys(("pl_package", "xmax", "xmin_max"), _WRONG),
    "fit": f"{_WRONG}; tpl_beta and tpl_lambda of landscape.measure_weights are a truncated power law",
    "max_fingers": "WeightWatcher 0.7.7 takes 10 in its place, but for layers with few eigenvalues",
    "conv2d_norm": "eigenvalues of convolutions have the factor 0.5; landscape.measure_weights has them as they are",
    "ww2x": "pool=False is its name since 0.5",
    "min_size": "min_evals is its name",
    "max_size": "max_evals is its name",
    "framework": "models are torch's",
    "log_level": "nothing is printed",
}
_SO = [("fit", "PL"), ("max_fingers", 10), ("conv2d_norm", True), ("framework", "pytorch")]  # what is so anyway
_NOTHING = {"svd_method", "sparsify", "savefig"}  # change no number here
_METHODS = {
    "SVDSharpness": "it takes the largest singular values out of the original matrix in 0.7.7, what was learnt",
    "get_Weights": "landscape.network.weights.weight_matrices has the matrices of a model",
    "analyze_vectors": "analyze(vectors=True) has its columns",
    "analyze_traps": "num_traps of analyze(randomize=True) counts them",
    "remove_traps": "landscape.truncate_weights keeps a share of the singular values",
}


class WeightWatcher:
    """`weightwatcher.WeightWatcher` 0.7.7 with the same methods, columns and numbers.

    `model` is a module, a state dict, or the path of a checkpoint. What differs: nothing is printed, no attribute is
    set on modules, no model is changed and numpy's random state is not used: `analyze(randomize=True, seed=s)` has the
    numbers that `numpy.random.seed(s)` gives there. `base_model` counts wherever it is given. Options and methods that
    are wrong there are refused by name. Layers whose values are not finite are left out, in place of an exception.

    >>> import torch
    >>> watcher = WeightWatcher(model=torch.nn.Linear(20, 10))
    >>> list(watcher.describe()["num_evals"])
    [10]
    """

    def __init__(self, model: Any = None, base_model: Any = None, **others: Any) -> None:
        _refuse(others)
        self.model, self.base_model = model, base_model
        self.details: pandas.DataFrame | None = None
        self.figures: dict[str, Figure] = {}  # of the last analyze(plot=True), by longname

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            raise AttributeError(f"WeightWatcher.{name} is not part of this class: {_METHODS[name]}")
        raise AttributeError(
            f"WeightWatcher has no {name!r}; {nearest(name, [own for own in dir(type(self)) if own[0] != '_'])}"
        )

    @checked()
    def describe(
        self,
        model: Any = None,
        layers: Any = (),
        min_evals: int = 8,
        max_evals: int = 15_000,
        *,
        max_N: int = 50_000,
        pool: bool = True,
        start_ids: int = 0,
        **others: Any,
    ) -> pandas.DataFrame:
        """A row for each layer that is kept. Raises InputError for options that are not supported."""
        _refuse(others)
        limits = _limits(min_evals, max_evals, max_N, pool)
        found = kept_layers(self._model(model), layers, limits, start_ids)
        return _table([{**layer.about, **({} if pool else {"num_evals": layer.matrix.smaller})} for layer in found])

    @checked()
    def analyze(
        self,
        model: Any = None,
        layers: Any = (),
        min_evals: int = 8,
        max_evals: int = 15_000,
        *,
        max_N: int = 50_000,
        mp_fit: bool = False,
        randomize: bool = False,
        detX: bool = False,
        ERG: bool = False,
        vectors: bool = False,
        fix_fingers: str | bool | None = None,
        finger_thresh: float = 1.0,
        tolerance: float = 1e-6,
        pool: bool = True,
        start_ids: int = 0,
        plot: bool = False,
        savefig: str | Path | bool = False,
        base_model: Any = None,
        seed: int | None = None,
        **others: Any,
    ) -> pandas.DataFrame:
        """The metrics of each layer that is kept, those of the difference from `base_model` where one is given.

        `layers` are numbers, names or types; with a minus sign before a number or name that layer is left out. With
        `plot` the spectrum of each layer is drawn into `figures`, and into the folder `savefig` where one is named.
        Without `pool` each tap of a convolution is a row. Raises InputError for options that are not supported, or are
        wrong in the tool.
        """
        if fix_fingers not in (None, False, "clip_xmax"):
            raise InputError(
                f"fix_fingers={fix_fingers!r} is not supported: it fails in WeightWatcher 0.7.7 but for 'clip_xmax'; "
                "alpha_low and alpha_high of landscape.measure_weights show the same doubt"
            )
        _refuse(others)
        base_model = self.base_model if base_model is None else base_model
        base = None if base_model is None else open_tensors(base_model)
        random = np.random.RandomState(seed)  # whose shuffles the tool's are
        asked = Asked(mp_fit, randomize, detX or ERG, vectors, bool(fix_fingers), finger_thresh, tolerance)
        rows: list[dict[str, Any]] = []
        spectra: list[FloatArray] = []
        for layer in kept_layers(self._model(model), layers, _limits(min_evals, max_evals, max_N, pool), start_ids):
            matrices = layer.matrices(base)
            if not all(np.isfinite(w).all() for w in matrices):
                continue
            for row, spectrum in _rows(layer, matrices, asked, random, pool):
                rows.append(row)
                spectra.append(spectrum)
        self.figures = _drawn(rows, spectra, savefig) if plot else {}
        self.details = _table(rows)
        return self.details

    def get_details(self) -> pandas.DataFrame | None:
        """The table of the last `analyze`."""
        return self.details

    def get_summary(self, details: pandas.DataFrame | None = None) -> dict[str, float]:
        """{metric: mean over layers}, failed fits with alpha = -1 among them."""
        details = self.details if details is None else details
        return {} if details is None else {name: details[name].mean() for name in _SUMMARY if name in details}

    @checked()
    def get_ESD(  # noqa: N802  (the tool's names)
        self, model: Any = None, layer: int | str | None = None, random: bool = False, seed: int | None = None
    ) -> FloatArray:
        """The eigenvalues of a layer, named by its number or name, ascending: those that `analyze` is of.

        There they lack the factor of convolutions. With `random` its entries are in another order, drawn by `seed`.
        Raises InputError for a layer that is not kept.
        """
        kept = kept_layers(self._model(model), limits=ToolLimits())
        found = next((one for one in kept if layer in (one.number, one.name, one.longname)), None)
        if found is None:
            known = ", ".join(f"{one.number} ({one.longname})" for one in kept)
            raise InputError(f"layer={layer!r} is none that is kept; those are {known or 'none'}")
        if random:
            return shuffled(found.matrices(), np.random.RandomState(seed))
        return pooled([gram_spectrum(w) for w in found.matrices()])

    @checked()
    def SVDSmoothing(  # noqa: N802
        self, model: Any = None, percent: float = 0.8, *, layers: Any = (), method: str = "detX", **others: Any
    ) -> Any:
        """A copy of the model whose layers keep their largest singular values: a module, or {name: tensor}.

        How many of all eigenvalues, by `method`: "svd", the share `percent`; "detX", detX_num; "alpha_min",
        num_pl_spikes; "rmt", num_spikes. A convolution keeps the same number, rounded up, of each tap. The truncation
        is exact, there 6 to 10 % off. Raises InputError for a method or share that cannot be.
        """
        _refuse(others)
        if method not in _SMOOTHING:
            raise InputError(f"method={method!r}; give one of {', '.join(_SMOOTHING)}")
        if method == "svd" and not 0 < percent <= 1:
            raise InputError(f"percent={percent}; give a share of singular values, above 0 and at most 1")
        model = self._model(model)
        source = open_tensors(model)
        state = {name: source.read(name).detach().clone().contiguous() for name in source.entries}
        asked = Asked(mp_fit=method == "rmt", determinant=method == "detX")
        for layer in kept_layers(model, layers):
            number = int(percent * layer.matrix.count)
            if method != "svd":
                row, _ = analyzed(layer, layer.matrices(), asked, np.random.RandomState(0))
                number = max(int(row[_SMOOTHING[method]]), 0)
            if number:
                keep_largest(layer.matrix, state[layer.matrix.tensor], math.ceil(number / layer.matrix.slices))
        if not hasattr(model, "named_modules"):
            return state
        smoothed = copy.deepcopy(model)
        smoothed.load_state_dict(state)
        return smoothed

    @checked()
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
        for layer in kept_layers(model_1, layers):
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

    def _model(self, model: Any) -> Any:
        return self.model if model is None else model


def _limits(fewest: int, most: int, longest: int, pooled: bool) -> ToolLimits:
    if fewest < 0 or most < 0 or longest < 1 or (most and fewest >= most):
        raise InputError(
            f"min_evals={fewest}, max_evals={most}, max_N={longest}; give min_evals below max_evals (0 for no limit), "
            "and max_N of 1 or more"
        )
    return ToolLimits(fewest, most, longest, pooled)


def _rows(
    layer: Layer, matrices: list[FloatArray], asked: Asked, random: np.random.RandomState, pool: bool
) -> list[tuple[dict[str, Any], FloatArray]]:
    """(columns, eigenvalues) of a layer, or without pooling of each of its taps, whose factor is another there."""
    if pool:
        return [analyzed(layer, matrices, asked, random)]
    factor = 1.0 if layer.flat else math.sqrt(layer.matrix.slices)
    one = replace(layer, matrix=replace(layer.matrix, slices=1))
    found = []
    for number, w in enumerate(matrices):
        row, spectrum = analyzed(one, [w * factor], asked, random)
        found.append(({**row, "rf": layer.matrix.slices, "slice_id": number}, spectrum))
    return found


def _drawn(rows: list[dict[str, Any]], spectra: list[FloatArray], savefig: str | Path | bool) -> dict[str, Figure]:
    """The spectrum of every row with its fit; also as files, where a folder is named."""
    longest = max((spectrum.size for spectrum in spectra), default=0)
    names = tuple(f"{row['longname']}:{row['slice_id']}" if "slice_id" in row else row["longname"] for row in rows)
    weights = Weights(
        models=("model",),
        model_of=np.zeros(len(rows), dtype=np.int64),
        layers=names,
        tensors=names,
        kinds=tuple(row["layer_type"] for row in rows),
        larger=np.array([row["N"] for row in rows], dtype=np.int64),
        smaller=np.array([row["M"] for row in rows], dtype=np.int64),
        slices=np.array([row["rf"] for row in rows], dtype=np.int64),
        values={name: np.array([float(row.get(name, math.nan)) for row in rows]) for name in METRICS["weightwatcher"]},
        reasons=tuple("" if row["status"] == "success" else "the fit failed" for row in rows),
        notes=("",) * len(rows),
        spectra=np.array([np.pad(one, (0, longest - one.size), constant_values=np.nan) for one in spectra]),
        nulls=np.zeros((len(rows), 0)),
        computed=np.ones(len(rows), dtype=bool),
        skipped={},
        convention="weightwatcher",
    )
    figures = {name: weights.plot("esd", layer=name) for name in names}
    if isinstance(savefig, (str, Path)):
        Path(savefig).mkdir(parents=True, exist_ok=True)
        for row, figure in zip(rows, figures.values(), strict=True):
            part = f".{row['slice_id']}" if "slice_id" in row else ""
            figure.savefig(Path(savefig) / f"ww.layer{row['layer_id']}{part}.esd.png")
    return figures


def _distance(layer: Layer, one: TensorSource, other: TensorSource, method: str) -> float:
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
        nothing = name in _NOTHING or (value in (False, None, "", [], ()) and name != "conv2d_norm")
        if not nothing and (name, value) not in _SO:
            raise InputError(f"{name}={value!r} is not supported: {_REFUSED.get(name, _MISSING)}; leave it out")
