"""The geometry of neural-network loss.

>>> import landscape as ls
>>> import torch
>>> net = torch.nn.Linear(2, 2)
>>> objective = ls.Objective(net, loss="cross_entropy", data=(torch.randn(8, 2), torch.zeros(8, dtype=torch.long)))
>>> plane = ls.random_plane(objective, normalize="filter", ignore=("bias", "norm"), seed=0)
>>> ls.measure_surface(objective, plane, x=(-1, 1, 5), y=(-1, 1, 3)).values["loss"].shape
(3, 5)
"""

from landscape.checkpoints.reading import load_checkpoint, read_state
from landscape.checkpoints.recorder import TrajectoryRecorder
from landscape.checkpoints.trained import TrainedModels
from landscape.curvature.operator import CurvatureOperator
from landscape.errors import InputError, LandscapeError, NumericalError, RunFailedError, RunInterrupted, StoreError
from landscape.network.alignment import Alignment, align, find_alignment
from landscape.objective.losses import named_losses, named_metrics
from landscape.objective.objective import Objective
from landscape.objective.speed import Speed, speed_trial
from landscape.opening.several import merge_runs
from landscape.opening.several import open_anything as open  # the notebook's ls.open(path)
from landscape.pictures.saving import save_figure
from landscape.planes.directions import pca_plane, plane_from_directions, plane_through, random_plane
from landscape.planes.plane import Plane
from landscape.results.estimate import Estimate
from landscape.run.failures import Tolerance
from landscape.run.loop import run_task
from landscape.run.progress import Progress
from landscape.studies.agreement.measure import measure_agreement
from landscape.studies.agreement.result import Agreement
from landscape.studies.audit.from_table import audit_table
from landscape.studies.audit.measure import audit_fragility
from landscape.studies.audit.result import Audit, Comparisons, Orders
from landscape.studies.basin.measure import measure_basin
from landscape.studies.basin.result import Basin, LogVolume
from landscape.studies.coherence.measure import measure_coherence
from landscape.studies.coherence.result import Coherence
from landscape.studies.complexity.critical import critical_sharpness
from landscape.studies.complexity.entry import Measure, measure
from landscape.studies.complexity.measure import measure_complexity
from landscape.studies.complexity.result import Complexity
from landscape.studies.complexity.subject import Subject
from landscape.studies.connectivity.measure import measure_connectivity
from landscape.studies.connectivity.result import Connectivity
from landscape.studies.corpus.measure import analyse_corpus
from landscape.studies.corpus.result import Corpus, Inside
from landscape.studies.corpus.sign_errors import sign_errors
from landscape.studies.corpus_table.measure import measure_corpus
from landscape.studies.curvature_map.measure import measure_curvature_map
from landscape.studies.curve.measure import fit_curve
from landscape.studies.curve.plane import curve_plane
from landscape.studies.curve.result import Curve, curve_from_points
from landscape.studies.diagonal.measure import measure_diagonal
from landscape.studies.forgetting.measure import measure_forgetting
from landscape.studies.forgetting.result import Forgetting
from landscape.studies.forgetting.tasks import permuted_task, rotated_task, split_task
from landscape.studies.layer_spectra.measure import measure_layer_spectra
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.layer_structure.measure import measure_layer_structure
from landscape.studies.layer_structure.result import LayerStructure
from landscape.studies.llc.measure import measure_llc
from landscape.studies.llc.result import LLC
from landscape.studies.marginal_likelihood.measure import marginal_likelihood_bound
from landscape.studies.marginal_likelihood.result import MarginalLikelihood
from landscape.studies.measures.result import Measures
from landscape.studies.path.measure import measure_path
from landscape.studies.path.result import Path
from landscape.studies.phases.from_table import phases_from_table
from landscape.studies.phases.measure import measure_phases
from landscape.studies.phases.result import Phases
from landscape.studies.profiles.measure import measure_profiles
from landscape.studies.profiles.result import Profiles
from landscape.studies.spectrum.measure import measure_spectrum
from landscape.studies.spectrum.plane import eigenvector_plane
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace
from landscape.studies.surface.exchange import (
    read_loss_landscape_directions,
    read_loss_landscape_surface,
    write_loss_landscape_directions,
    write_loss_landscape_surface,
)
from landscape.studies.surface.measure import measure_surface
from landscape.studies.surface.result import Points, Surface
from landscape.studies.surface.vtk import write_vtk
from landscape.studies.table import STUDIES  # noqa: F401  (which makes all kinds known)
from landscape.studies.topology.find import find_topology
from landscape.studies.topology.result import CriticalPoints, MergeTree, Minima, Pairs, Saddles, Topology
from landscape.studies.training.measure import train_models
from landscape.studies.training.recipe import Recipe
from landscape.studies.training.result import Training
from landscape.studies.weights.measure import measure_weights
from landscape.studies.weights.result import Weights
from landscape.studies.weights.smoothing import measure_smoothing, truncate_weights

__all__ = [
    "LLC",
    "Agreement",
    "Alignment",
    "Audit",
    "Basin",
    "Coherence",
    "Comparisons",
    "Complexity",
    "Connectivity",
    "Corpus",
    "CriticalPoints",
    "CurvatureOperator",
    "Curve",
    "Density",
    "Eigenpairs",
    "Estimate",
    "Forgetting",
    "InputError",
    "Inside",
    "LandscapeError",
    "LayerSpectra",
    "LayerStructure",
    "LogVolume",
    "MarginalLikelihood",
    "Measure",
    "Measures",
    "MergeTree",
    "Minima",
    "NumericalError",
    "Objective",
    "Orders",
    "Pairs",
    "Path",
    "Phases",
    "Plane",
    "Points",
    "Profiles",
    "Progress",
    "Recipe",
    "RunFailedError",
    "RunInterrupted",
    "Saddles",
    "Spectrum",
    "Speed",
    "StoreError",
    "Subject",
    "Surface",
    "Tolerance",
    "Topology",
    "Trace",
    "TrainedModels",
    "Training",
    "TrajectoryRecorder",
    "Weights",
    "align",
    "analyse_corpus",
    "audit_fragility",
    "audit_table",
    "critical_sharpness",
    "curve_from_points",
    "curve_plane",
    "eigenvector_plane",
    "find_alignment",
    "find_topology",
    "fit_curve",
    "load_checkpoint",
    "marginal_likelihood_bound",
    "measure",
    "measure_agreement",
    "measure_basin",
    "measure_coherence",
    "measure_complexity",
    "measure_connectivity",
    "measure_corpus",
    "measure_curvature_map",
    "measure_diagonal",
    "measure_forgetting",
    "measure_layer_spectra",
    "measure_layer_structure",
    "measure_llc",
    "measure_path",
    "measure_phases",
    "measure_profiles",
    "measure_smoothing",
    "measure_spectrum",
    "measure_surface",
    "measure_weights",
    "merge_runs",
    "named_losses",
    "named_metrics",
    "open",
    "pca_plane",
    "permuted_task",
    "phases_from_table",
    "plane_from_directions",
    "plane_through",
    "random_plane",
    "read_loss_landscape_directions",
    "read_loss_landscape_surface",
    "read_state",
    "rotated_task",
    "run_task",
    "save_figure",
    "sign_errors",
    "speed_trial",
    "split_task",
    "train_models",
    "truncate_weights",
    "write_loss_landscape_directions",
    "write_loss_landscape_surface",
    "write_vtk",
]
