"""The rows of marginal likelihoods."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study
from landscape.run.task import Description
from landscape.studies.marginal_likelihood.measure import (
    KERNEL,
    STAGES,
    marginal_likelihood_bound,
    marginal_likelihood_from_stages,
)
from landscape.studies.marginal_likelihood.result import MarginalLikelihood
from landscape.studies.marginal_likelihood.settings import MarginalLikelihoodSettings
from landscape.studies.marginal_likelihood.tables import (
    marginal_likelihood_columns,
    marginal_likelihood_glance,
    marginal_likelihood_group,
    marginal_likelihood_tables,
    read_marginal_likelihood,
)
from landscape.studies.marginal_likelihood.trial import marginal_likelihood_trial


def _pictures() -> Pictures[MarginalLikelihood]:
    from landscape.studies.marginal_likelihood.pictures import PICTURES

    return PICTURES


def _views() -> Views[MarginalLikelihood]:
    from landscape.studies.marginal_likelihood.views import marginal_likelihood_views

    return marginal_likelihood_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """Where an item is: the group of networks, or the class and the group that is left out."""
    if description.name == KERNEL:
        return {"group of networks": str(item)}
    classes = description.about["classes"]
    without, number = divmod(item, len(classes))
    return {"class": classes[number], **({"without group": str(without - 1)} if without else {})}


KIND = Kind(
    "marginal_likelihood",
    "marginal likelihood",
    MarginalLikelihood,
    marginal_likelihood_group,
    read_marginal_likelihood,
    marginal_likelihood_tables,
    marginal_likelihood_columns,
    _pictures,
    _views,
    marginal_likelihood_glance,
    unit="classes",
)
STUDY = Study(
    "marginal_likelihood",
    KIND,
    marginal_likelihood_bound,
    STAGES,
    marginal_likelihood_from_stages,
    settings=MarginalLikelihoodSettings,
    trial=marginal_likelihood_trial,
    place=place,
    unit="classes",
    subject="data",
    needs=("data",),
)
