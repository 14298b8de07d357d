"""Recording a training trajectory with transformers' Trainer; needs the extra `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from landscape.arguments import Count, checked
from landscape.checkpoints.recorder import TrajectoryRecorder

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "landscape.transformers_callback needs transformers: pip install 'loss-landscape-engine[transformers]'. A "
        "plain loop is recorded by landscape.TrajectoryRecorder."
    ) from error


class TrajectoryCallback(TrainerCallback):
    """`landscape.TrajectoryRecorder` as a callback: `Trainer(..., callbacks=[TrajectoryCallback("trajectory")])`.

    Records the model's state dict at the start, every `every` optimiser steps (the Trainer's `global_step`) and at the
    end, in a training that goes on from a checkpoint, too; never the best model that `load_best_model_at_end` puts in
    its place. Raises what `TrajectoryRecorder` raises.
    """

    @checked()
    def __init__(self, folder: str | Path, every: Count = 100) -> None:
        self._folder, self._every = folder, every
        self._recorder: TrajectoryRecorder | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Record the state before the first step."""
        self._recorder = TrajectoryRecorder(model, self._folder, self._every, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the state where a multiple of `every` steps has been reached."""
        if self._recorder is not None:
            self._recorder.step(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the state at which a step, or an evaluation after one, ended the training."""
        self._save_last(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the state at which an evaluation after an epoch ended the training."""
        self._save_last(control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the last state, while it is still in the model."""
        if self._recorder is not None and not args.load_best_model_at_end:
            self._recorder.save()

    def _save_last(self, control: Any) -> None:
        if self._recorder is not None and control.should_training_stop:
            self._recorder.save()
