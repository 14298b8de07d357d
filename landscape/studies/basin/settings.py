"""What is asked of a basin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from landscape.arguments import Seed
from landscape.errors import InputError
from landscape.objective.stacked import OF
from landscape.results.settings import Accuracy, Names, OneOf, Settings

KINDS = ("filter", "gaussian")
PRECONDITIONERS = ("diagonal", "krylov", "adam")


@dataclass(frozen=True)
class BasinSettings(Settings):
    """Where the basin ends, and along which directions it is measured; see `measure_basin`."""

    cutoff: float = 0.1
    of: Annotated[str, OneOf(OF)] = "loss"
    directions: Annotated[int, Ge(1)] = 1000
    kind: Annotated[str, OneOf(KINDS)] = "filter"
    precondition: Annotated[str, OneOf(PRECONDITIONERS)] | None = None
    prior_sigma: Annotated[float, Gt(0)] | None = None
    ignore: Names | None = None
    rtol: Accuracy = 1e-6
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, word, known in (("of", self.of, OF), ("kind", self.kind, KINDS)):
            if word not in known:
                raise InputError(f"{name}={word!r} is not one of {', '.join(known)}")
        if self.precondition not in (None, *PRECONDITIONERS):
            raise InputError(f"precondition={self.precondition!r} is not one of {', '.join(PRECONDITIONERS)}")
        allowed = {"loss": "a finite number", "error": "a fraction above 0 and at most 1", "kl": "a positive number"}
        if (self.of != "loss" and not self.cutoff > 0) or (self.of == "error" and self.cutoff > 1):
            raise InputError(f"cutoff={self.cutoff}; with of={self.of!r} give {allowed[self.of]}")
        needing: dict[str, object] = {"precondition": self.precondition, "prior_sigma": self.prior_sigma}
        for name, value in needing.items():
            if value is not None and self.kind != "gaussian":
                raise InputError(
                    f"{name}={value!r} needs kind='gaussian', directions that are uniform on the sphere: volumes over "
                    "filter-normalised ones are in units of the filters"
                )

    @property
    def still(self) -> tuple[str, ...]:
        """Kinds and names of the parameters that do not move."""
        return self.ignore if self.ignore is not None else ("bias", "norm") if self.kind == "filter" else ()
