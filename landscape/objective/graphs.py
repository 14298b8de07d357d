"""A point as one CUDA graph: what a pass over resident data starts on a GPU, recorded once and then started as one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from landscape_kernels.arrays import FloatArray
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landscape.errors import InputError, raised_by
from landscape.objective.calls import Calls
from landscape.objective.data import Data
from landscape.objective.gpu import is_host
from landscape.objective.model import BoundModel
from landscape.objective.sums import Sums
from landscape.objective.trees import strided_parts
from landscape.objective.units import Quantity

logger = logging.getLogger(__name__)
_WARM = 3  # passes before one is recorded: what libraries set up at their first calls is no part of it
_SECOND = 0.75  # theta times this is another place, at which a recording that kept values of the first is found out
# Operations after which the processor knows a value of the device, or how many there are.
_LOOKS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")


class Recorder(Protocol):
    """Records what a function starts on a device."""

    def capture(self, function: Callable[[], None]) -> None:
        """Record it; what it computes meanwhile is not to be used."""

    def replay(self) -> None:
        """Start all of it again, on the values that are now where it read them."""


class CudaRecorder:
    """The recorder of torch: kernels with their addresses, none of Python."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], None]) -> None:
        """Recording asks for a stream of its own, on which all has run before."""
        here = torch.cuda.current_stream(self._device)
        beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            for _ in range(_WARM):
                function()
        here.wait_stream(beside)
        # Torch's own stream for recordings is one of the first device that recorded. Other threads of the program may
        # use the device meanwhile.
        with torch.cuda.graph(self._graph, stream=beside, capture_error_mode="thread_local"):
            function()

    def replay(self) -> None:
        self._graph.replay()


class PointGraph:
    """A recorded pass over one rank's chunks: theta goes in at a fixed place, the sums come out at another."""

    def __init__(
        self, theta: Tensor, model: BoundModel, given: Mapping[str, Tensor], sums: Sums, recorder: Recorder
    ) -> None:
        """Inside `model.at(theta, given)`."""
        self._theta, self._sums, self._recorder = theta, sums, recorder
        self._own, self._buffers, self._given = model.buffers, dict(model.working_buffers), set(given)
        self._kept = model.read_now()  # what else is read at its address
        self.per_sample: list[bool] = []  # of each quantity, whether it has values per sample

    def record(self, function: Callable[[], None]) -> None:
        """Record what it starts."""
        with Reads() as reads:
            function()
        self._kept += reads.found
        self._recorder.capture(function)

    def moments(self, theta: Tensor, buffers: Mapping[str, Tensor]) -> FloatArray:
        """The moments of all chunks (chunks, quantities, 6) at theta (size,), some of the `buffers` given."""
        self._theta.copy_(theta)
        changed = {**{name: self._own[name] for name in self._given}, **buffers}
        self._given = set(buffers)
        if changed:
            torch._foreach_copy_([self._buffers[name] for name in changed], list(changed.values()))
        self._recorder.replay()
        return self._sums.fetched()


def point_graph(
    model: BoundModel,
    calls: Calls,
    sums: Sums,
    compute: Callable[[Sums], list[bool]],
    theta: Tensor,
    buffers: Mapping[str, Tensor],
) -> PointGraph | None:
    """What `compute(sums)` does with the model at theta (size,) with some of its `buffers` given, as a graph.

    It is used where its sums are those of `compute` to the bit, at theta and at another place. Where they are not, or
    it cannot be recorded, that is told in the log, and None returned.
    """
    fixed = theta.clone()
    try:
        # all buffers are given, so that they are copies of its own
        with model.at(fixed, model.all_buffers(buffers)), calls.context(False):
            graph = PointGraph(fixed, model, buffers, sums, recorder_on(calls.device))

            def passed() -> None:
                torch.clear_autocast_cache()  # which holds weights in half precision
                model.refresh(fixed)
                graph.per_sample = compute(sums)

            places, right = (theta, _SECOND * theta), list[Tensor]()
            for place in places:
                fixed.copy_(place)
                passed()
                right.append(sums.table.clone())
            graph.record(passed)
            for place, expected in zip(places, right, strict=True):
                sums.table.zero_()
                graph.moments(place, buffers)
                if not _same_bits(sums.table, expected):
                    logger.warning(
                        "cuda_graphs: a recorded pass gives other values than the pass itself, so points are computed "
                        "without: the model or its loss keeps something from call to call, or chooses its operations "
                        "by what Python knows"
                    )
                    return None
            return graph
    except Exception as error:  # whatever cannot be recorded, of the user's code or of a library's
        logger.warning("cuda_graphs: the pass cannot be recorded, so points are computed without: %s", raised_by(error))
        return None


def recorder_on(device: torch.device) -> Recorder:
    """The recorder of a device."""
    return CudaRecorder(device)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.view(torch.int64), second.view(torch.int64))


def require_gpu(device: torch.device) -> None:
    """Raise InputError where there is nothing to record."""
    if is_host(device):
        raise InputError(
            f"cuda_graphs=True records what a GPU computes at a point, and this objective is on {device}; leave it "
            "out, or give device='cuda' where there is a GPU"
        )


def require_recordable(
    model: BoundModel, calls: Calls, quantities: list[Quantity], data: Data, writes_buffers: bool
) -> None:
    """Raise InputError where a pass does more than start the same kernels on the same memory at every point."""
    require_gpu(calls.device)
    why = ""
    if model.own.live or model.placement is not None:
        why = (
            "the model is large, has checkpoint=, or is spread, offloaded or sharded: its parameters are not exchanged"
        )
    elif not data.held:
        why = "the data are streamed; memory_budget= says how many bytes of them may be held on the device"
    elif writes_buffers:
        why = "a forward pass writes to the model's buffers, which are put back between chunks"
    elif model.draws_elsewhere:
        why = "the model or its loss draws random numbers, and recorded ones would be the same at every point"
    elif calls.needs_grad:
        why = "the loss takes derivatives inside, which is not recorded"
    else:
        seen = _looks(model, calls, quantities, data)
        if seen:
            why = (
                "the model, its loss or a metric looks at values while it computes, which waits for the device "
                f"({', '.join(seen)}): .item(), a branch on a value, indexing by a mask"
            )
    if why:
        raise InputError(f"cuda_graphs=True cannot be used: {why}. Leave it out")


def _looks(model: BoundModel, calls: Calls, quantities: list[Quantity], data: Data) -> list[str]:
    """The operations of a pass over the first chunk after which the processor knows a value."""
    looks = Looks()
    with model.at(None) as bound, calls.context(False), looks:
        calls.units(quantities, bound, data.first)
    return [f"{name} {count} times" if count > 1 else name for name, count in looks.counted.items()]


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Holds the memory that is read inside and was there before, wherever the user's code keeps it.

    A model may make a mask at its first call, and lose it to a longer one, or when its buffers are put back.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._before: dict[int, UntypedStorage] = {}
        self._made: set[int] = set()

    @property
    def found(self) -> list[UntypedStorage]:
        """That memory."""
        return list(self._before.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _memory((args, kwargs))
        out = func(*args, **(kwargs or {}))
        self._before |= {key: held for key, held in given.items() if key not in self._made}
        self._made |= _memory(out).keys() - self._before.keys()
        return out


def _memory(tree: Any) -> dict[int, UntypedStorage]:
    """Where the tensors of arguments have their values."""
    leaves = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    held = (part.untyped_storage() for leaf in leaves for part in strided_parts(leaf))
    return {storage._cdata: storage for storage in held}


class Looks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what waits for a device, inside; values that the processor has may be looked at."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _LOOKS and not all(is_host(given.device) for given in args if isinstance(given, Tensor)):
            self.counted[name] += 1
        return func(*args, **(kwargs or {}))
