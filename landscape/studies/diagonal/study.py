"""The row of the diagonal of a curvature matrix, whose results are measures of layers."""

from __future__ import annotations

from landscape.results.study import Study, of_rows
from landscape.studies.diagonal.measure import diagonal_from_rows, diagonal_task, measure_diagonal
from landscape.studies.diagonal.settings import DiagonalSettings
from landscape.studies.measures.study import KIND

STUDY = Study(
    "diagonal",
    KIND,
    measure_diagonal,
    ("diagonal",),
    of_rows(diagonal_from_rows),
    settings=DiagonalSettings,
    task=lambda objective, **asked: diagonal_task(objective, DiagonalSettings(**asked)),
    leaves_out=False,
)
