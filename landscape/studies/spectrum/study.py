"""The rows of spectra."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study
from landscape.studies.spectrum.measure import STAGES, measure_spectrum, spectrum_from_stages
from landscape.studies.spectrum.result import Spectrum
from landscape.studies.spectrum.schema import read_spectrum, spectrum_group
from landscape.studies.spectrum.settings import SpectrumSettings
from landscape.studies.spectrum.tables import spectrum_columns, spectrum_tables
from landscape.studies.spectrum.trial import spectrum_trial


def _pictures() -> Pictures[Spectrum]:
    from landscape.studies.spectrum.pictures import PICTURES

    return PICTURES


def _views() -> Views[Spectrum]:
    from landscape.studies.spectrum.views import spectrum_views

    return spectrum_views


KIND = Kind(
    "spectrum",
    "spectrum",
    Spectrum,
    spectrum_group,
    read_spectrum,
    spectrum_tables,
    spectrum_columns,
    _pictures,
    _views,
)
STUDY = Study(
    "spectrum",
    KIND,
    measure_spectrum,
    STAGES,
    spectrum_from_stages,
    settings=SpectrumSettings,
    trial=spectrum_trial,
    leaves_out=False,
    unit="tasks",
)
