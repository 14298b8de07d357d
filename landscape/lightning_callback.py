"""Recording a training trajectory with Lightning; needs the extra `lightning`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from landscape.arguments import Count, checked
from landscape.checkpoints.recorder import TrajectoryRecorder

_PACKAGES = ("lightning", "pytorch_lightning")


def _base() -> Any:
    """`Callback` of the package that is in use, else of the one that is installed."""
    installed = [name for name in _PACKAGES if importlib.util.find_spec(name) is not None]
    package = next((name for name in installed if name in sys.modules), installed[0] if installed else None)
    if package is None:
        raise ImportError(
            "landscape.lightning_callback needs Lightning: pip install 'loss-landscape-engine[lightning]'. A plain "
            "loop is recorded by landscape.TrajectoryRecorder."
        )
    return importlib.import_module(f"{package}.pytorch" if package == "lightning" else package).Callback


class TrajectoryCallback(_base()):  # type: ignore[misc]
    """`landscape.TrajectoryRecorder` as a callback: `Trainer(callbacks=[TrajectoryCallback("trajectory", every=100)])`.

    Records the LightningModule's state dict at the start, every `every` optimiser steps (the Trainer's `global_step`)
    and at the end, in a training that goes on from a checkpoint, too. Raises what `TrajectoryRecorder` raises.
    """

    @checked()
    def __init__(self, folder: str | Path, every: Count = 100) -> None:
        super().__init__()
        self._folder, self._every = folder, every
        self._recorder: TrajectoryRecorder | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the state before the first step."""
        self._recorder = TrajectoryRecorder(pl_module, self._folder, self._every, trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the state where a multiple of `every` steps has been reached."""
        if self._recorder is not None:
            self._recorder.step(trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the last state."""
        if self._recorder is not None:
            self._recorder.save()
