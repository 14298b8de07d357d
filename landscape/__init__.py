"""The geometry of neural-network loss.

>>> import landscape as ls
>>> import torch
>>> net = torch.nn.Linear(2, 2)
>>> objective = ls.Objective(net, loss="cross_entropy", data=(torch.randn(8, 2), torch.zeros(8, dtype=torch.long)))
>>> plane = ls.random_plane(objective, normalize="filter", ignore=("bias", "norm"), seed=0)
>>> ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 3)).values["loss"].shape
(3, 5)
"""

from landscape.agreement import Agreement, measure_agreement
from landscape.checkpoints.reading import load_checkpoint, read_state
from landscape.checkpoints.recorder import TrajectoryRecorder
from landscape.connections import Connectivity
from landscape.connectivity import measure_connectivity
from landscape.curvature.operator import CurvatureOperator
from landscape.curvature_map import eigenvector_plane, measure_curvature_map
from landscape.curves import Curve, curve_from_points
from landscape.errors import InputError, LandscapeError, NumericalError, RunFailedError, RunInterrupted, StoreError
from landscape.exchange import (
    read_loss_landscape_directions,
    read_loss_landscape_surface,
    write_loss_landscape_directions,
    write_loss_landscape_surface,
)
from landscape.fit import fit_curve
from landscape.layer_spectra import measure_layer_spectra
from landscape.network.alignment import Alignment, align, find_alignment
from landscape.objective.objective import Objective
from landscape.opening import merge_runs
from landscape.opening import open_anything as open  # the notebook's ls.open(path)
from landscape.path import measure_path
from landscape.paths import Path
from landscape.planes.directions import (
    Plane,
    curve_plane,
    pca_plane,
    plane_from_directions,
    plane_through,
    random_plane,
)
from landscape.profiles import Profiles, measure_profiles
from landscape.results import Estimate, Points, Surface
from landscape.run.failures import Tolerance
from landscape.run.loop import run_task
from landscape.run.progress import Progress
from landscape.spectra import Density, Eigenpairs, LayerSpectra, Spectrum, Trace
from landscape.spectrum import measure_spectrum
from landscape.surface import measure_surface
from landscape.topology import Topology, find_topology
from landscape.vtk import write_vtk

__all__ = [
    "Agreement",
    "Alignment",
    "Connectivity",
    "CurvatureOperator",
    "Curve",
    "Density",
    "Eigenpairs",
    "Estimate",
    "InputError",
    "LandscapeError",
    "LayerSpectra",
    "NumericalError",
    "Objective",
    "Path",
    "Plane",
    "Points",
    "Profiles",
    "Progress",
    "RunFailedError",
    "RunInterrupted",
    "Spectrum",
    "StoreError",
    "Surface",
    "Tolerance",
    "Topology",
    "Trace",
    "TrajectoryRecorder",
    "align",
    "curve_from_points",
    "curve_plane",
    "eigenvector_plane",
    "find_alignment",
    "find_topology",
    "fit_curve",
    "load_checkpoint",
    "measure_agreement",
    "measure_connectivity",
    "measure_curvature_map",
    "measure_layer_spectra",
    "measure_path",
    "measure_profiles",
    "measure_spectrum",
    "measure_surface",
    "merge_runs",
    "open",
    "pca_plane",
    "plane_from_directions",
    "plane_through",
    "random_plane",
    "read_loss_landscape_directions",
    "read_loss_landscape_surface",
    "read_state",
    "run_task",
    "write_loss_landscape_directions",
    "write_loss_landscape_surface",
    "write_vtk",
]
