"""Tables of a plane."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from landscape_kernels.normalise import NORMALIZATIONS
from pydantic import Discriminator, Field, Tag

from landscape.results.settings import NameList
from landscape_jobs.spec.words import FilePath, JobTable, Natural, Strings, Truth, called, one_of


class RandomPlane(JobTable):
    """Random directions, see `landscape.random_plane`; as many as [surface] has ranges."""

    kind: Literal["random"] = "random"
    normalize: Annotated[str, one_of(NORMALIZATIONS)] = "filter"
    ignore: Strings = ("bias", "norm")
    seed: Natural = 0
    orthogonal: Truth = False
    params: Annotated[tuple[str, ...], called(NameList())] | None = None


class ThroughPlane(JobTable):
    """The line, plane, ... through checkpoints (files, or a glob pattern), see `landscape.plane_through`."""

    kind: Literal["through"]
    checkpoints: Strings = Field(min_length=1)


class PcaPlane(JobTable):
    """Principal axes of a trajectory: its folder, or files (a glob pattern, too), see `landscape.pca_plane`."""

    kind: Literal["pca"]
    checkpoints: Strings = Field(min_length=1)


class DirectionsPlane(JobTable):
    """Directions from a file that loss-landscape wrote, see `landscape.read_loss_landscape_directions`."""

    kind: Literal["directions"]
    file: FilePath


class CurvePlane(JobTable):
    """The plane of a fitted curve (a run folder or file of one), see `landscape.curve_plane`."""

    kind: Literal["curve"]
    curve: FilePath


PLANES: dict[str, type[JobTable]] = {
    "random": RandomPlane,
    "through": ThroughPlane,
    "pca": PcaPlane,
    "directions": DirectionsPlane,
    "curve": CurvePlane,
}


def plane_kind(value: Any) -> str:
    """The kind of plane that a table names."""
    return str(value.get("kind", "random") if isinstance(value, dict) else getattr(value, "kind", value))


PlaneTable = Annotated[
    Annotated[RandomPlane, Tag("random")]
    | Annotated[ThroughPlane, Tag("through")]
    | Annotated[PcaPlane, Tag("pca")]
    | Annotated[DirectionsPlane, Tag("directions")]
    | Annotated[CurvePlane, Tag("curve")],
    Discriminator(plane_kind),
]
