"""The plane of a curve."""

from __future__ import annotations

import numpy as np
import torch
from landscape_kernels.curves import combine_
from landscape_kernels.projection import gram

from landscape.arguments import Count, checked
from landscape.errors import InputError
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.planes.directions import placed_points, points_of
from landscape.planes.plane import Plane
from landscape.studies.curve.result import Curve


@of_objective
@checked()
def curve_plane(objective: Objective, curve: Curve, *, places: Count = 21) -> Plane:
    """The plane of a curve: its first end at (0, 0), its last at x = 1, `places` of its points kept in `points`.

    y is the leading principal axis of the inner control points' offsets from the straight line, as long as the x axis
    so that the picture is to scale, and positive where the curve bends to. With one inner control point the whole curve
    lies in the plane; with more, `points.distance` says how far it is from it. Raises InputError for a straight line.
    """
    if places < 2:
        raise InputError(f"places={places}; a curve is drawn through 2 or more, its ends")
    curve = curve.placed(objective)
    first, *inner, last = curve.control_points.double().unbind()
    line = last - first
    scale = torch.linalg.vector_norm(line)
    if not bool(scale > 0):
        raise InputError("the curve ends where it begins, so no x axis leads from end to end")
    rests = [point - first for point in inner]
    for _ in range(2):  # twice: the second pass removes the rounding of the first
        rests = [rest - float(rest @ line / (line @ line)) * line for rest in rests]
    products = gram(rests)
    if not inner or products.diagonal().max() <= (torch.finfo(objective.dtype).eps * float(scale)) ** 2:
        raise InputError("the curve's control points lie on a straight line, which has no plane; use plane_through")
    leading = np.linalg.eigh(products)[1][:, -1]
    axis = combine_(torch.empty_like(line), rests, (leading * np.sign((products @ leading).sum() or 1.0)).tolist())
    placed = placed_points(objective, [line, axis * (scale / torch.linalg.vector_norm(axis))])
    t = np.linspace(0, 1, places).tolist()
    points = points_of(curve.point(0), placed, [curve.point(s) for s in t], "curve", tuple(f"t={s:.3g}" for s in t), ())
    return Plane(curve.point(0), placed, {"kind": "curve", "curve": curve.kind, "degree": len(inner) + 1}, points)
