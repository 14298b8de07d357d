"""Every study, one row each: the only list of them. Files that hold several results open in this order."""

from __future__ import annotations

from landscape.results.study import adopt
from landscape.studies.agreement import study as agreement
from landscape.studies.audit import study as audit
from landscape.studies.basin import study as basin
from landscape.studies.coherence import study as coherence
from landscape.studies.complexity import study as complexity
from landscape.studies.connectivity import study as connectivity
from landscape.studies.corpus import study as corpus
from landscape.studies.corpus_table import study as corpus_table
from landscape.studies.curvature_map import study as curvature_map
from landscape.studies.curve import study as curve
from landscape.studies.diagonal import study as diagonal
from landscape.studies.forgetting import study as forgetting
from landscape.studies.layer_spectra import study as layer_spectra
from landscape.studies.layer_structure import study as layer_structure
from landscape.studies.llc import study as llc
from landscape.studies.marginal_likelihood import study as marginal_likelihood
from landscape.studies.path import study as path
from landscape.studies.phases import study as phases
from landscape.studies.profiles import study as profiles
from landscape.studies.spectrum import study as spectrum
from landscape.studies.surface import study as surface
from landscape.studies.topology import study as topology
from landscape.studies.training import study as training
from landscape.studies.weights import study as weights

STUDIES = adopt(
    surface.STUDY,
    spectrum.STUDY,
    layer_spectra.STUDY,
    curve.STUDY,
    path.STUDY,
    connectivity.STUDY,
    agreement.STUDY,
    profiles.STUDY,
    topology.STUDY,
    curvature_map.STUDY,
    diagonal.STUDY,
    layer_structure.STUDY,
    training.STUDY,
    phases.STUDY,
    corpus.STUDY,
    weights.STUDY,
    corpus_table.STUDY,
    marginal_likelihood.STUDY,
    complexity.STUDY,
    audit.STUDY,
    coherence.STUDY,
    llc.STUDY,
    forgetting.STUDY,
    basin.STUDY,
)
