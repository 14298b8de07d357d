"""The warning of half precision that is slower here than float32."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch

from landscape.objective.batches import Batch
from landscape.objective.calls import Calls
from landscape.objective.trees import shapes_in
from landscape.objective.units import Quantity
from landscape.run.comm import local_rank

logger = logging.getLogger(__name__)
Timer = Callable[[], float]
_SLOWER = 1.2  # times as long as in float32, from which on half precision is warned of: less is noise
_LONG = 1.0  # seconds of a chunk after which one look at it has to do


def tell_slow_half(
    calls: Calls, quantities: Sequence[Quantity], batch: Batch, timer: Timer = time.perf_counter
) -> float | None:
    """Warn where bf16 is slower than float32 on a batch; how many times as long it takes, on the first local rank.

    Both are timed in turn, three times or for about a second, and the shortest times are compared.
    """
    if local_rank():
        return None
    low, full = float("inf"), float("inf")
    for _ in range(3):
        low = min(low, _seconds(calls, quantities, batch, timer, full_precision=False))
        full = min(full, _seconds(calls, quantities, batch, timer, full_precision=True))
        if low + full > _LONG:
            break
    ratio = low / full if full else 1.0
    if ratio >= _SLOWER:
        logger.warning(
            "precision='bf16' takes %.1f times as long as 'float32' here (%.3g s against %.3g s for one chunk, %s, on "
            "%s): a processor without bf16 instructions converts every number, and small models gain nothing. Leave "
            "precision out: float32 is faster here, and exact to 1e-7; or run on a machine that has them",
            *(ratio, low, full, shapes_in(batch), calls.device.type),
        )
    return ratio


def _seconds(
    calls: Calls, quantities: Sequence[Quantity], batch: Batch, timer: Timer, *, full_precision: bool
) -> float:
    with calls.model.at(calls.model.centre) as model, calls.context(full_precision):
        finished(calls.device)
        began = timer()
        calls.units(quantities, model, batch)
        finished(calls.device)
        return timer() - began


def finished(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
