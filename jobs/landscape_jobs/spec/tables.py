"""Tables of data, model, objective and run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from landscape.objective.losses import named_losses, named_metrics
from landscape.objective.objective import PRECISIONS
from landscape_jobs.spec.words import (
    CallableName,
    Count,
    FilePath,
    JobTable,
    Natural,
    Real,
    Truth,
    count_or_callable,
    named_or_callable,
    one_of,
    truth_or_names,
)

RETURNED = "returned"  # objective.loss: `forward` returns the loss itself
DATA = ("statistics", "train", "test")  # tables of data inside a table


class DataTable(JobTable):
    """Where data come from: a factory that returns anything `landscape.Objective` takes as data."""

    factory: CallableName
    args: dict[str, Any] = Field(default_factory=dict)


class ModelTable(JobTable):
    """The network: a factory that returns an nn.Module, and the trained parameters put into it.

    `checkpoint` is a file or a folder of transformers. Without it the network gets a model that the job names
    elsewhere: the last one of a plane of kind "pca", else the first one of the plane or of what is measured. Where
    the job names none the network stays as the factory made it.
    """

    factory: CallableName
    args: dict[str, Any] = Field(default_factory=dict)
    checkpoint: FilePath | None = None


class ObjectiveTable(JobTable):
    """What is measured, see `landscape.Objective`; loss "returned" means that `forward` returns the loss itself.

    `batch_size` is how many samples every batch holds, or a callable of a batch that says it; `chunk` how many samples
    are evaluated at a time, `channels_last` whether images may be laid out so, `cuda_graphs` whether a GPU records what
    it computes at a point, and `recompute` whether derivatives compute activations again, true or of the modules named.
    """

    loss: Annotated[str, named_or_callable((*named_losses(), RETURNED))] = "cross_entropy"
    metrics: tuple[Annotated[str, named_or_callable(named_metrics())], ...] = ()
    forward: CallableName | None = None
    precision: Annotated[str, one_of(PRECISIONS)] | None = None
    device: str | None = None
    batch_size: Annotated[int | str | None, BeforeValidator(count_or_callable)] = None
    chunk: Count | None = None
    channels_last: Truth = True
    cuda_graphs: Truth = False
    recompute: Annotated[bool | tuple[str, ...], BeforeValidator(truth_or_names)] = False


class RunTable(JobTable):
    """Where the run goes, how it is spread, and what is done about items that fail.

    The run folder; torch threads per rank; ranks that share one item; how often an item that fails is tried again
    before it is left out, and the seconds one may take; whether each rank reads the data and the model's checkpoint, or
    the first does once and sends them to the others.
    """

    out: FilePath
    threads: Count | None = None
    ranks_per_item: Count = 1
    retries: Natural = 2
    item_seconds: Annotated[Real, Field(gt=0)] | None = None
    read: Literal["each", "once"] = "each"
