"""Planes made: random, along given directions, through models, of principal axes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.layout import Block, Layout
from landscape_kernels.normalise import NORMALIZATIONS, normalise_, orthogonalise_
from landscape_kernels.perturb import wide
from landscape_kernels.probes import normal_vector
from landscape_kernels.projection import principal_axes, project
from torch import Tensor

from landscape.arguments import Count, Seed, checked
from landscape.checkpoints.states import ModelVectors, ThetaLike, in_order, model_labels, read_model, require_finite
from landscape.errors import InputError, nearest
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective, real_tensor
from landscape.objective.parameters import blocks_matching, select_blocks
from landscape.planes.plane import Plane, PlanePoints
from landscape.planes.seeded import Seeded, SeededPlane

logger = logging.getLogger(__name__)


def random_direction(
    theta: Tensor, layout: Layout, normalize: str, ignored: Sequence[Block], seed: int, axis: int
) -> Tensor:
    """Direction `axis` (size,) of `random_plane`, from (seed, axis) alone, scaled to theta (size,), 0 where ignored."""
    return normalise_(normal_vector(layout.size, seed, "direction", axis), theta, layout, normalize, ignored)


def random_directions(
    theta: Tensor, layout: Layout, normalize: str, ignored: Sequence[Block], seed: int, axes: Sequence[int]
) -> Tensor:
    """`random_direction` of each of `axes`, (n, size), to rounding, and scaled all at once."""
    drawn = torch.stack([normal_vector(layout.size, seed, "direction", axis) for axis in axes])
    return normalise_(drawn, theta, layout, normalize, ignored)


@of_objective
@checked()
def random_plane(
    objective: Objective,
    *,
    normalize: str = "filter",
    ignore: str | Sequence[str] = ("bias", "norm"),
    params: str | Sequence[str] | None = None,
    seed: Seed = 0,
    axes: Count = 2,
    orthogonal: bool = False,
) -> Plane:
    """Gaussian directions at the objective's centre, each from (seed, axis) alone, scaled to the parameters.

    `normalize` is "none", "filter" (Li et al. 2018), "layer", "weight" or "model"; see
    `landscape_kernels.normalise.normalise_` for the formulas. Which axes of a tensor number filters is known of torch's
    layers and seen from a forward pass of others; where it is not, axis 0 is taken, and the tensors are named in
    `about["along_axis_0"]` and in a warning. `ignore` names kinds ("bias", "norm", "embedding",
    "weight") or patterns of parameter names whose directions are zero. `params` names the parameters that vary at all:
    modules ("layer1"), parameters, or patterns ("*.lora_*"), as in `measure_spectrum`; by default every one.
    `orthogonal` makes the directions exactly orthogonal (cosine below 1e-13, before they are rounded to the objective's
    precision) while each keeps its norms; without it they are so only on average, about 1/sqrt(size). Of a large model
    the plane keeps its seeds and no vectors (`plane.streamed`), unless it is orthogonal. Raises InputError for unknown
    names, or when everything is ignored.
    """
    if normalize not in NORMALIZATIONS:
        raise InputError(f"normalize={normalize!r} is unknown; {nearest(normalize, NORMALIZATIONS)}")
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    layout = objective.layout
    ignored = blocks_matching(layout, ignore)
    varied = select_blocks(objective, params)
    if all(block in ignored for block in varied):
        what = "parameter tensors" if params is None else f"parameter tensors of params={params!r}"
        raise InputError(f"ignore={ignore} covers all {len(varied)} {what}; no direction is left")
    ignored += [block for block in layout.blocks if block not in varied and block not in ignored]
    seeded: Seeded | None = None
    directions: list[Tensor] = []
    if objective.centre.live and not orthogonal:
        seeded = Seeded(objective, normalize, ignored, seed, axes)
        zero, moved = sorted(seeded.zero), seeded.moved
    else:
        directions = _drawn(objective, normalize, ignored, seed, axes, orthogonal)
        zero = [axis for axis, direction in enumerate(directions) if not bool(direction.any())]
        moved = {b.name for b in varied if any(bool(d[b.slice].any()) for d in directions)}
    for axis in zero:
        raise InputError(
            f"direction {axis} is zero: with normalize={normalize!r} it is scaled by parameters that are all zero. "
            "Use normalize='none', or a trained model."
        )
    still = [b.name for b in varied if b.size and b not in ignored and b.name not in moved]
    if still:
        logger.warning(
            "no direction moves %s: with normalize=%r a direction is scaled by parameters that are all zero there, as "
            "those of a fresh adapter are. Use normalize='none' or 'model', or a trained model",
            ", ".join(still[:5]) + (f" and {len(still) - 5} more" if len(still) > 5 else ""),
            normalize,
        )
    about: dict[str, Any] = {
        "kind": "random",
        "normalize": normalize,
        "ignore": list(ignore),
        "seed": seed,
        "orthogonal": orthogonal,
    }
    if params is not None:
        about["params"] = [params] if isinstance(params, str) else list(params)
    if objective.complex_names:
        about["complex"] = list(objective.complex_names)  # real and imaginary parts vary, a filter holds both
    unclear = [name for name in objective.along_axis_0 if name not in {block.name for block in ignored}]
    if unclear and normalize == "filter":
        about["along_axis_0"] = unclear
        logger.warning(
            "normalize='filter' takes one filter per index of axis 0 in %s: how the model uses them does not tell "
            "which axes make outputs. normalize='layer' does not depend on it.",
            ", ".join(unclear[:5]) + (f" and {len(unclear) - 5} more" if len(unclear) > 5 else ""),
        )
    if seeded is not None:
        return SeededPlane(seeded, about)
    return Plane(objective.theta, placed_points(objective, directions), about)


def _drawn(
    objective: Objective, normalize: str, ignored: Sequence[Block], seed: int, axes: int, orthogonal: bool
) -> list[Tensor]:
    """The directions of `random_plane`, in float64."""
    theta, layout = objective.theta.double().cpu(), objective.layout
    directions: list[Tensor] = []
    for axis in range(axes):
        direction = random_direction(theta, layout, normalize, ignored, seed, axis)
        if orthogonal:
            try:
                orthogonalise_(direction, directions, theta, layout, normalize, ignored)
            except ValueError as error:
                raise InputError(
                    f"axis {axis} cannot be made orthogonal with normalize={normalize!r}: {error}. Use fewer axes, "
                    "normalize='model', or orthogonal=False."
                ) from error
        directions.append(direction)
    return directions


@of_objective
@checked()
def plane_from_directions(
    objective: Objective, directions: Sequence[Any], *, centre: ThetaLike = None, labels: Sequence[str] = ()
) -> Plane:
    """The plane along given directions, flat vectors or {parameter name: tensor} (names left out are zero), as given.

    `centre` is the objective's by default. Raises InputError for a wrong size, unknown names or a zero direction.
    """
    if len(directions) == 0:
        raise InputError("directions is empty; give at least one")
    vectors = [_direction(objective, d, i) for i, d in enumerate(directions)]
    middle = objective.theta
    if centre is not None:
        middle = read_model(objective, centre)[0]
        require_finite(middle, "centre")
    about: dict[str, Any] = {"kind": "given"}
    if labels:
        about["labels"] = list(labels)
    return Plane(middle, tuple(vectors), about)


@of_objective
@checked()
def plane_through(objective: Objective, thetas: Sequence[ThetaLike], *, labels: Sequence[str] = ()) -> Plane:
    """The line through two models, the plane through three, in general n - 1 axes through n.

    The first model is the centre and the second lies at x = 1. Further axes are orthogonal to those before and as long
    as the first, so that the picture is to scale; the exact coordinates of all models are kept in `points`. Where the
    models come with buffers (state dicts, modules, checkpoints) these vary with batchnorm="interpolated".
    Raises InputError for fewer than two models, equal ones, or ones that lie on a common line (or plane).
    """
    if len(thetas) < 2:
        raise InputError(f"{len(thetas)} models given; a line needs 2, a plane 3")
    states = [read_model(objective, theta) for theta in thetas]
    vectors = [vector for vector, _ in states]
    scale = torch.linalg.vector_norm(vectors[1].double() - vectors[0].double())
    if not bool(scale > 0):
        raise InputError("the first two models are equal, so no line goes through them")
    directions: list[Tensor] = []
    # change[i, j]: how much of (model j+1 - model 0) direction i holds; buffers follow the same combination.
    change = np.zeros((len(vectors) - 1, len(vectors) - 1))
    for i, vector in enumerate(vectors[1:]):
        weights = np.zeros(len(change))
        weights[i] = 1.0
        rest = vector.double() - vectors[0].double()
        offset = torch.linalg.vector_norm(rest)
        for _ in range(2):  # twice: the second pass removes the rounding of the first
            for j, earlier in enumerate(directions):
                share = float(rest @ earlier / (earlier @ earlier))
                rest -= share * earlier
                weights -= share * change[j]
        length = torch.linalg.vector_norm(rest)
        # The models themselves are rounded: three on a line leave a rest of eps |theta|.
        rounding = torch.finfo(objective.dtype).eps * torch.linalg.vector_norm(vectors[i + 1].double())
        if not bool(length > 1e-6 * offset + rounding):
            raise InputError(f"model {i + 1} lies in the span of those before it; no further axis leads to it")
        factor = float(scale / length) if i else 1.0
        directions.append(rest * factor)
        change[i] = weights * factor
    buffers, buffer_directions = _buffer_plane([b for _, b in states], change)
    placed = placed_points(objective, directions)
    names = model_labels(thetas, labels)
    points = points_of(vectors[0], placed, vectors, "points", names, [b for _, b in states])
    return Plane(vectors[0], placed, {"kind": "through"}, points, buffers, buffer_directions)


@of_objective
@checked()
def pca_plane(
    objective: Objective,
    thetas: str | Path | Sequence[ThetaLike],
    *,
    axes: Count = 2,
    labels: Sequence[str] = (),
) -> Plane:
    """The plane of the leading principal axes of a trajectory of checkpoints, through the objective's centre.

    `thetas` is a list of models, or a folder: of `TrajectoryRecorder`, of transformers' `checkpoint-*`, or any in which
    the names of checkpoints tell their step. Checkpoints whose names hold a step are taken in the order of steps, and
    labelled by them.

    The axes are unit vectors: coordinates are distances in parameter space. Each checkpoint has least-squares
    coordinates, its distance from the plane, and the axes the fraction of the trajectory's variance they explain
    (principal axes of the checkpoints about their mean; Li et al. 2018, section 7).

    Checkpoints in files are read several times and not kept: a quarter of them are in memory at once, and the plane
    reads each again where its loss is measured, so the files have to stay. Raises InputError when the checkpoints span
    too few directions, for NaN or infinity, and where a file was changed meanwhile.
    """
    thetas, names = in_order(thetas, labels)
    if len(thetas) <= axes:
        raise InputError(f"{len(thetas)} checkpoints for {axes} axes; give one more than there are axes, or more")
    vectors = ModelVectors(objective, thetas, names)
    try:
        # an eighth of them in float64 are a quarter of all in float32
        principal = principal_axes(vectors, axes, held=max(1, len(thetas) // 8))
    except InputError:  # of a checkpoint
        raise
    except ValueError as error:
        raise InputError(f"{error}; give more checkpoints, or fewer axes") from error
    explained, placed = principal.explained_variance, placed_points(objective, principal.axes)
    del principal
    centre = objective.theta
    points = points_of(centre, placed, vectors, "trajectory", names, vectors.buffers, explained)
    vectors.hold()
    return Plane(centre, placed, {"kind": "pca"}, points)


def points_of(
    centre: Tensor,
    directions: Sequence[Tensor],
    vectors: Sequence[Tensor],
    kind: str,
    labels: tuple[str, ...],
    buffers: Sequence[Mapping[str, Tensor]],
    explained: FloatArray | None = None,
) -> PlanePoints:
    """The models that a plane was made of, at their coordinates."""
    found = project(vectors, centre, directions)
    known = tuple(buffers) if buffers and all(buffers) else ()
    kept = vectors if isinstance(vectors, ModelVectors) else tuple(vectors)
    return PlanePoints(kind, labels, kept, found.coordinates, found.distance, explained, known)


def _buffer_plane(
    buffers: Sequence[Mapping[str, Tensor]], change: FloatArray
) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], ...]]:
    """Buffers at the first model and their change along each axis; nothing unless every model has them."""
    if not all(buffers):
        return {}, ()
    first = dict(buffers[0])
    floating = [name for name, value in first.items() if value.is_floating_point()]
    directions = tuple(
        {
            name: torch.stack([float(w) * (b[name] - first[name]) for w, b in zip(row, buffers[1:], strict=True)]).sum(
                0
            )
            for name in floating
        }
        for row in change
    )
    return first, directions


def _direction(objective: Objective, direction: Any, number: int) -> Tensor:
    if isinstance(direction, Mapping):
        known = dict(zip(objective.layout.names, objective.layout.shapes, strict=True))
        for name in direction:
            if name not in known:
                raise InputError(f"direction {number} names parameter {name!r}; {nearest(name, known)}")
        full = {name: direction.get(name, torch.zeros(shape)) for name, shape in known.items()}
        try:
            direction = objective.layout.flatten(
                {k: torch.as_tensor(v, dtype=torch.float64, device="cpu") for k, v in full.items()}
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"direction {number}: {error}; give a tensor for each name") from error
    way_out = f"give a flat vector ({objective.layout.size},), or {{parameter name: tensor}}"
    real = real_tensor(direction, f"direction {number}", way_out)
    vector = objective.vector(real, wide(objective.dtype)).clone()  # the caller's own may change
    if not bool(vector.isfinite().all()):
        raise InputError(f"direction {number} has {int((~vector.isfinite()).sum())} values that are NaN or infinite")
    if not bool(vector.any()):
        raise InputError(f"direction {number} is zero everywhere; it leads nowhere")
    return vector


def placed_points(objective: Objective, directions: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Directions on the objective's device, in its precision, or float32 where that is less."""
    dtype = wide(objective.dtype)
    return tuple(objective.vector(direction, dtype) for direction in directions)
