"""What is asked of a marginal likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from landscape.arguments import Seed
from landscape.errors import InputError
from landscape.results.settings import OneOf, Settings

KERNELS = ("nngp", "empirical")
METHODS = ("ep", "laplace", "exact", "orthant", "regression")
LINKS = ("heaviside", "probit")


@dataclass(frozen=True)
class MarginalLikelihoodSettings(Settings):
    """Which kernel, and how the probability is found; see `marginal_likelihood_bound`."""

    kernel: Annotated[str, OneOf(KERNELS)] = "nngp"
    depth: Annotated[int, Ge(0)] = 2
    method: Annotated[str, OneOf(METHODS)] = "ep"
    link: Annotated[str, OneOf(LINKS)] = "heaviside"
    weight_variance: Annotated[float, Gt(0)] = 2.0
    bias_variance: Annotated[float, Ge(0)] = 0.01
    nets: Annotated[int, Ge(2)] = 64
    noise: Annotated[float, Gt(0)] = 1.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be, or do not go together."""
        super().__post_init__()
        for name, names in (("kernel", KERNELS), ("method", METHODS), ("link", LINKS)):
            if getattr(self, name) not in names:
                raise InputError(f"{name}={getattr(self, name)!r} is not one of {', '.join(names)}")
        if self.method == "laplace" and self.link != "probit":
            raise InputError(
                "method='laplace' needs link='probit': the mode under the Heaviside lies on its edge, where Laplace's "
                "method says nothing; say link='probit', or method='ep'"
            )
