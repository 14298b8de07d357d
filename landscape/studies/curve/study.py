"""The rows of curves."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import DATA, Input, Study, of_rows
from landscape.studies.curve.measure import curve_from_rows, fit_curve
from landscape.studies.curve.result import Curve
from landscape.studies.curve.schema import curve_group, read_curve
from landscape.studies.curve.settings import CurveSettings
from landscape.studies.curve.tables import curve_columns, curve_tables
from landscape.studies.curve.trial import curve_trial


def _pictures() -> Pictures[Curve]:
    from landscape.studies.curve.pictures import PICTURES

    return PICTURES


def _views() -> Views[Curve]:
    from landscape.studies.curve.views import curve_views

    return curve_views


KIND = Kind(
    "curve",
    "curve",
    Curve,
    curve_group,
    read_curve,
    curve_tables,
    curve_columns,
    _pictures,
    _views,
)
ENDS = {"theta_a": Input("model", required=True), "theta_b": Input("model", required=True)}
STUDY = Study(
    "curve",
    KIND,
    fit_curve,
    ("curve",),
    of_rows(curve_from_rows),
    settings=CurveSettings,
    inputs={**ENDS, "start": Input("models"), "train": DATA},
    trial=curve_trial,
    leaves_out=False,
    unit="curves",
)
