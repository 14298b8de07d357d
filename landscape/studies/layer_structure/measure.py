"""The structure of layers' Hessian blocks: their factors, then the blocks beside what the factors make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.kronecker import eigenspace_overlaps, kronecker_order, leading, product_errors, rank_one_share
from landscape_kernels.moments import ratios
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.arguments import Count, Natural, Seed, checked
from landscape.checkpoints.states import ThetaLike, read_model
from landscape.curvature.matrix import Matrix, matrix_of
from landscape.curvature.pairs import check_tol, pair_columns
from landscape.curvature.small import small
from landscape.errors import InputError
from landscape.network.rules.layer import PLACES
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.results.attributes import result_attributes, whole_time
from landscape.results.measured import Measurement
from landscape.results.settings import name_tuple
from landscape.results.stages import Stage
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.layer_spectra.measure import block_pairs
from landscape.studies.layer_structure.factors import FactorsTask, Layer, LayerSums, find_layers, layer_sums
from landscape.studies.layer_structure.result import LayerStructure
from landscape.studies.layer_structure.settings import LayerStructureSettings

STAGES = ("factors", "structure")
_ENDS = ("output_eigenvalues", "output_stderr", "input_eigenvalues", "input_stderr")
_KRONECKER = ("kronecker", "kronecker_stderr")
_RANKED = (*_ENDS, *_KRONECKER, "overlap", "rank_one", "other_overlap")
_ERRORS = "standard errors are for the population the data were drawn from, of factors by differences between blocks"


class StructureTask:
    """Item i: the factors' eigenpairs of layer i, its block's, and how alike they are."""

    headline = "products"

    def __init__(
        self,
        matrix: Matrix,
        layers: Sequence[Layer],
        settings: LayerStructureSettings,
        factors: Callable[[int], LayerSums],
        other: Matrix | None,
        about: Mapping[str, Any],
    ) -> None:
        """`factors` gives the sums of the layer with a number, `about` is what the result tells beside them."""
        check_tol(settings.tol, matrix.sample.objective, matrix.check)
        self._matrix, self._layers, self._asked = matrix, list(layers), settings
        self._factors, self._other, self._about = factors, other, about
        self.count = len(layers)

    def describe(self) -> Description:
        """See `Task`."""
        k = self._asked.k
        columns = pair_columns(k, "") | dict.fromkeys(_RANKED, (k,))
        columns |= {"mean_alignment": (), "products": (), "passes": ()}
        identity = {
            **self._matrix.identity(),
            **{name: getattr(self._asked, name) for name in ("k", "places", "tol", "seed")},
            "layers": [layer.name for layer in self._layers],
            "other": None if self._other is None else self._other.identity(),
        }
        return Description("structure", columns, identity, {**self._matrix.about(), **self._about})

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        layer, k = self._layers[index], self._asked.k
        found, vectors = factor_structure(self._factors(index), k)
        row, true = self._pairs(self._matrix, layer, group)
        found["overlap"] = eigenspace_overlaps(true, vectors)
        found["rank_one"] = rank_one_share(true, layer.outputs)
        if self._other is not None:
            other_row, other = self._pairs(self._other, layer, group)
            found["other_overlap"] = eigenspace_overlaps(true, other)
            row |= {name: row[name] + other_row[name] for name in ("products", "passes")}
        row["mean_alignment"] = found.pop("mean_alignment")
        for name in _RANKED:
            row[name] = _padded(found.get(name, np.zeros(0)), k)
        return {name: row[name] for name in self.describe().columns}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    def _pairs(self, matrix: Matrix, layer: Layer, group: Communicator) -> tuple[dict[str, Any], Tensor]:
        """The columns of the block's eigenpairs, and orthonormal eigenvectors in float64."""
        row, vectors = block_pairs(
            replace(matrix, params=(layer.weight,)),
            self._asked.k,
            tol=self._asked.tol,
            seed=derive_seed(self._asked.seed, "layer", layer.name),
            whole=small(matrix, 0),
            group=group,
        )
        return row, torch.linalg.qr(vectors.double().cpu().T).Q.T  # rounded to the model's precision before


def factor_structure(sums: LayerSums, k: int) -> tuple[dict[str, FloatArray], Tensor]:
    """What the factors of a layer tell, and the leading eigenvectors (k', m p) of their Kronecker product."""
    first, second = (leading(matrix, k) for matrix in _matrices(sums))
    # rounding may leave a smallest eigenvalue of these squares below 0
    i, j = kronecker_order(np.maximum(first.values, 0.0), np.maximum(second.values, 0.0), k)
    forms = tuple(
        np.einsum("kn,bnm,km->bk", one.vectors, blocks, one.vectors, optimize=True)
        for one, blocks in ((first, sums.outputs), (second, sums.inputs))
    )
    weights = sums.denominators, sums.samples
    mean = sums.means.sum(0)
    length = float(np.linalg.norm(mean))
    vectors = np.einsum("km,kp->kmp", first.vectors[i], second.vectors[j]).reshape(len(i), -1)
    found: dict[str, Any] = {
        "output_eigenvalues": first.values,
        "output_stderr": ratios(forms[0], weights[0])[1],
        "input_eigenvalues": second.values,
        "input_stderr": ratios(forms[1], weights[1])[1],
        "kronecker": first.values[i] * second.values[j],
        "kronecker_stderr": product_errors((forms[0], forms[1]), weights, (i, j)),
        "mean_alignment": abs(float(second.vectors[0] @ mean)) / length if length > 0 else np.nan,
    }
    return found, torch.from_numpy(vectors)


def _matrices(sums: LayerSums) -> tuple[FloatArray, FloatArray]:
    """(E[M], E[x x']), summed in the order of the blocks."""
    outputs, inputs = sums.outputs.sum(0) / sums.denominators.sum(), sums.inputs.sum(0) / sums.samples.sum()
    return (outputs + outputs.T) / 2, (inputs + inputs.T) / 2


def _padded(values: FloatArray, k: int) -> FloatArray:
    return np.concatenate([values, np.full(k - len(values), np.nan)])


@of_objective
@checked(LayerStructureSettings)
def measure_layer_structure(
    objective: Objective,
    k: int = 10,
    params: str | Sequence[str] | None = None,
    operator: str = "hessian",
    out: str | Path | None = None,
    *,
    other: Objective | ThetaLike | None = None,
    theta: Any = None,
    buffers: Mapping[str, Tensor] | None = None,
    places: str = "reduce",
    tol: float = 1e-3,
    seed: Seed = 0,
    memory_budget: int = 2 << 30,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> LayerStructure:
    """What the Hessian block of each layer's weight is made of, layer by layer (Wu et al. 2020, arXiv 2010.04261).

    With x (p,) the input of a layer, z = W x (m,) its output and M = J' A J (m, m) the Gauss-Newton Hessian of the loss
    in z (A that in the network's outputs; diag(p) - p p' for softmax cross entropy), the Gauss-Newton block of W (m, p)
    is E[M (x) x x'], (x) the Kronecker product. Measured are E[M], E[x x'] with their k largest eigenvalues, the k
    largest of E[M] (x) E[x x'] beside those of the block itself (`operator`: the Hessian, which is the same where the
    network is piecewise linear behind the layer, or "ggn"), the overlap |U'V|_F^2 / j of the j leading eigenvectors of
    the two, and sigma_1^2 / |V|_F^2 of the block's eigenvectors reshaped as W. Eigenvalues that coincide have no
    eigenvectors of their own, so look at overlaps where a gap follows.

    Layers are nn.Linear and convolutions without groups; others are left out, with a reason. The block is that of the
    weight, without the bias. Inputs of convolutions are unfolded: x are the p values under the kernel at one place, and
    a layer at L places (a token is one, too) has the gradient sum_l g_l x_l'. `places` says how these join: "reduce"
    adds up g_l and averages x_l, exact where inputs are alike at all places and near where outputs are pooled; "expand"
    takes E[sum_l g_l g_l'] / L and E[sum_l x_l x_l'], as if places did not meet (KFAC-reduce and KFAC-expand of
    Eschenhagen et al. 2023, arXiv 2311.00636). Of one place the two are the same.

    `other` is a second model in any of the accepted forms, on the same data, or an Objective: `other_overlap` is that
    of the two blocks' leading eigenvectors, and `chance` what it is if one of them is random. `params` takes some
    layers, `theta`, `buffers`, `tol` and `seed` are those of `measure_layer_spectra`.

    Factors take one pass over the data, and C - 1 backward passes for C classes; ranks share the data, then the layers.
    Each rank keeps them for up to 16 blocks of data, from whose differences standard errors come (for the population);
    there are fewer blocks where `memory_budget` bytes hold no more. Raises InputError before computing for what cannot
    be measured as asked, and where not even one block fits; NumericalError for NaN or Inf in a layer.
    """
    settings = LayerStructureSettings(k, name_tuple(params), operator, places, tol, seed, memory_budget)
    plan = agree(world(), lambda: StructurePlan(objective, settings, other=other, theta=theta, buffers=buffers))
    run = Measurement(
        out,
        stages=STAGES,
        ranks_per_item=ranks_per_item,
        limit_items=limit_items,
        tolerance=tolerance,
        progress=progress,
        job=job,
    )
    factors = run.run(plan.factors, ranks_per_item=1, tolerant=False)
    if run.going:
        run.run(plan.structure(factors))
    return run.result(structure_from_stages)


class StructurePlan:
    """The two tasks of a structure of layers. Raises InputError for what cannot be measured as asked."""

    def __init__(
        self,
        objective: Objective,
        settings: LayerStructureSettings,
        *,
        other: Any = None,
        theta: Any = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        for name, value in (("k", settings.k), ("memory_budget", settings.memory_budget)):
            if value < 1:
                raise InputError(f"{name}={value}; give 1 or more")
        if settings.places not in PLACES:
            raise InputError(f"places={settings.places!r} is not one of {', '.join(PLACES)}")
        asked: dict[str, Any] = {"operator": settings.operator, "weight_decay": 0.0, "seed": settings.seed}
        self.settings = settings
        self.matrix, _ = matrix_of(objective, params=settings.params, theta=theta, buffers=buffers, **asked)
        self.layers, self.left_out = find_layers(self.matrix, settings.places)
        weights = [layer.weight for layer in self.layers]
        self.matrix = replace(self.matrix, params=tuple(weights))
        self._other = None if other is None else _other_matrix(objective, self.matrix, other, asked)
        self._about = {
            "k": settings.k,
            "params": None if settings.params is None else list(settings.params),
            "places": settings.places,
            "tol": settings.tol,
            "seed": settings.seed,
            "left_out": self.left_out,
            "other": other is not None,
        }
        budget = settings.memory_budget
        self.factors = FactorsTask(self.matrix, self.layers, settings.places, budget, self._about)

    def structure(self, factors: Stage | None) -> StructureTask:
        """The second task, of what the first left; None to ask how much there is to do."""

        def sums(number: int) -> LayerSums:
            assert factors is not None
            return layer_sums(factors.description, factors.rows, number)

        return StructureTask(self.matrix, self.layers, self.settings, sums, self._other, self._about)


def _other_matrix(objective: Objective, matrix: Matrix, other: Any, asked: Mapping[str, Any]) -> Matrix:
    """The matrix of the second model, of the same layers."""
    names = list(matrix.names)
    if isinstance(other, Objective):
        shapes = {block.name: tuple(block.shape) for block in other.layout.blocks}
        for block in objective.layout.blocks:
            if block.name in names and shapes.get(block.name) != tuple(block.shape):
                found = f"of shape {shapes[block.name]}" if block.name in shapes else "not there"
                raise InputError(
                    f"other: {block.name} has shape {tuple(block.shape)}, and is {found} in the other model; "
                    "eigenvectors are compared entry by entry: give a model whose layers have the same names and "
                    "shapes, or name those that do in params="
                )
        return matrix_of(other, params=names, **asked)[0]
    try:
        point, buffers = read_model(objective, other)
    except InputError as error:
        raise InputError(f"other: {error}") from error
    if objective.batchnorm_names and not buffers and not torch.equal(point, objective.theta):
        raise InputError(
            "other comes without BatchNorm statistics, and those of the objective's model belong to other parameters; "
            "give a module, a whole state dict or a checkpoint, or an Objective"
        )
    if not bool(point.isfinite().all()):
        raise InputError(f"other holds {int((~point.isfinite()).sum())} values that are NaN or infinite")
    return matrix.moved(point.to(matrix.theta), buffers or None)


def structure_from_stages(stages: Mapping[str, Stage]) -> LayerStructure:
    """The result of what its tasks left."""
    factors = stages["factors"]
    last = stages.get("structure", factors)
    about, identity = last.description.about, last.description.identity
    layers = [Layer(**one) for one in factors.description.identity["layers"]]
    count, k = len(layers), int(about["k"])
    done = last.rows.done if last is not factors else np.zeros(count, dtype=bool)
    columns = last.rows.columns if last is not factors else {}
    pairs: dict[str, tuple[FloatArray, FloatArray]] = {}
    if factors.rows.done.all():
        for number, layer in enumerate(layers):
            pairs[layer.name] = _matrices(layer_sums(factors.description, factors.rows, number))

    def column(name: str) -> FloatArray:
        return columns[name] if name in columns else np.full((count, k), np.nan)

    return LayerStructure(
        layers=tuple(layer.name for layer in layers),
        outputs=np.array([layer.outputs for layer in layers]),
        inputs=np.array([layer.inputs for layer in layers]),
        places=np.array([layer.places for layer in layers]),
        **{name: column(name) for name in (*_ENDS, *_KRONECKER)},
        mean_alignment=columns.get("mean_alignment", np.full(count, np.nan)),
        eigenvalues=column("values"),
        **{name: column(name) for name in ("stderr", "residuals", "rounding", "overlap", "rank_one")},
        converged=column("converged") == 1,
        computed=done,
        products=int(columns["products"][done].sum()) if columns else 0,
        passes=int(columns["passes"][done].sum()) if columns else 0,
        other_overlap=column("other_overlap") if about["other"] else None,
        output_factors={name: pair[0] for name, pair in pairs.items()},
        input_factors={name: pair[1] for name, pair in pairs.items()},
        attributes=result_attributes(last.description, last.history)
        | {
            "task": "layer_structure",
            "operator": identity["operator"],
            **{name: about[name] for name in ("params", "places", "tol", "seed", "left_out")},
            "blocks": factors.description.identity["blocks"],
            "error": _ERRORS,
            "route": about["check"]["route"],
            "check": about["check"],
            **({"complex": about["complex"]} if "complex" in about else {}),
            "tensors": about["tensors"],
            **whole_time(one.history for one in stages.values()),
        },
    )
