"""A curvature map to a stated error: both ends of the spectrum at each point, from samples of the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.planes.grid import Grid
from landscape.planes.plane import Plane
from landscape.precise.told import FOUND, NOT_COMPUTED
from landscape.results.inside import run_inside
from landscape.run.comm import Communicator
from landscape.run.task import Description, Rows
from landscape.studies.curvature_map.low_end import lowest
from landscape.studies.curvature_map.settings import CurvatureMapSettings
from landscape.studies.curvature_map.task import ENDS, CurvatureMapTask
from landscape.studies.spectrum.precise import PreciseTask, fewest_samples, settled
from landscape.studies.surface.result import Surface

EXPLAINED = (
    "error is one standard error over draws and half the width of a bracket, of eigenvalue_max relative to itself and "
    "of eigenvalue_min to the larger of the two sizes; 0 where all data were measured"
)


class SampledMapTask(CurvatureMapTask):
    """Item j: the grid's line j along x, each point from the eigenvectors of the one before, on draws of its own."""

    def __init__(self, matrix: Matrix, plane: Plane, grid: Grid, settings: CurvatureMapSettings, error: float) -> None:
        super().__init__(matrix, plane, grid, settings)
        self._error = error

    def columns(self) -> dict[str, tuple[int, ...]]:
        """See `CurvatureMapTask`; what was measured on all data, what was spent, and what all data take, about."""
        names = [f"{end}{part}" for end in ENDS for part in ("", "_error", "_whole")]
        return {"products": (), **dict.fromkeys((*names, "sample_products", "products_of_all"), (self.length,))}

    def point(
        self, theta: Tensor, place: int, start: Tensor | None, group: Communicator
    ) -> tuple[dict[str, float], Tensor, int]:
        """See `CurvatureMapTask`."""
        asked, objective = self.asked, self.matrix.sample.objective
        matrix = self.matrix.moved(theta, self.statistics.at(objective, theta))
        seed = derive_seed(asked.seed, "map", place)
        guesses = (None, None) if start is None else (start[:1], start[1:])
        task = PreciseTask(matrix, 1, error=self._error, tol=asked.tol, seed=seed, state=None, start=guesses[0])
        stage = run_inside(task, group)
        rows, about = settled(stage.description, stage.rows)
        high = {name: values[0] for name, values in rows.columns.items()}
        top, error = float(high["values"][0]), float(high["error"][0])
        low = lowest(
            matrix,
            task.balanced(),
            top,
            self._error,
            tol=asked.tol,
            max_products=asked.max_products,
            seed=seed,
            start=guesses[1],
            group=group,
        )
        of_top = int(stage.rows.columns["products"][0])
        found = {
            "eigenvalue_max": top,
            "eigenvalue_max_error": error,
            "eigenvalue_max_whole": float(error == 0),
            "eigenvalue_min": low.value,
            "eigenvalue_min_error": low.error,
            "eigenvalue_min_whole": float(low.whole),
            "sample_products": float(about["work"]["sample_products"] + low.sample_products),
            # each end alone; together they share some, which a measurement of all data makes use of
            "products_of_all": float(max(of_top, low.products) + 2),
        }
        vectors = torch.cat([torch.from_numpy(high["vectors"][:1]).to(theta), low.vector.to(theta)])
        return found, vectors, int(np.asarray(high["products"]))


def sampled_task(matrix: Matrix, plane: Plane, grid: Grid, settings: CurvatureMapSettings) -> CurvatureMapTask:
    """The task of a map, of samples where an error is asked for and the data are not small."""
    objective = matrix.sample.objective
    if settings.error is None or objective.samples < fewest_samples(1) or not objective.data.divisible:
        return CurvatureMapTask(matrix, plane, grid, settings)
    return SampledMapTask(matrix, plane, grid, settings, settings.error)


def with_errors(surface: Surface, description: Description, rows: Rows) -> Surface:
    """The map with what is known of its errors, how each point was found, and the work."""
    asked, samples = float(description.identity["error"]), int(description.identity["objective"]["samples"])
    shape, values = surface.computed.shape, surface.values
    high, low = (np.abs(values[end]) for end in ENDS)
    zero = np.where(surface.computed, 0.0, np.nan)
    error: dict[str, FloatArray] = dict.fromkeys(values, zero)
    whole, spent, full = surface.computed, rows.columns["products"][rows.done] * samples, None
    if "sample_products" in rows.columns:
        tops, lows = (rows.columns[f"{end}_error"].reshape(shape) for end in ENDS)
        with np.errstate(divide="ignore", invalid="ignore"):
            convexity = np.hypot(lows, low / high * tops) / high
        error |= {ENDS[0]: tops, ENDS[1]: lows, "convexity": convexity}
        whole = np.all([rows.columns[f"{end}_whole"].reshape(shape) == 1 for end in ENDS], axis=0)
        spent, full = (rows.columns[name][rows.done] for name in ("sample_products", "products_of_all"))
    with np.errstate(invalid="ignore"):
        within = error[ENDS[0]] <= asked * high, error[ENDS[1]] <= asked * np.maximum(high, low)
    products = float(spent.sum()) / samples
    about = {
        "error_asked": asked,
        "error_scale": "relative",
        "error_share": 1.0,
        "error_reached": float(np.all(within, axis=0).mean()),
        "work": {
            "sample_products": int(spent.sum()),
            "products_of_all_data": products,
            "share_of_brute_force": 1.0 if full is None or not full.size else products / float(full.sum()),
        },
        "error": EXPLAINED,
    }
    found = np.where(surface.computed, np.where(whole, FOUND[0], FOUND[1]), NOT_COMPUTED)
    return replace(surface, error=error, found=found, attributes={**surface.attributes, **about})
