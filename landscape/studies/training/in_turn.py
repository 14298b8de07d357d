"""Models of a sequence trained one after another: each begins with the weights that the one before ended with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from landscape.studies.training.one import DIVERGED, NOT_BEGUN, ModelTraining, Trained

_NOTHING = Trained({}, 0, 0, -1, NOT_BEGUN)


def train_in_turn(
    rows: Sequence[int],
    training: Callable[[int], ModelTraining],
    *,
    state: Path | None = None,
    report: Callable[[int, str], None],
    stopping: Callable[[], bool] | None = None,
) -> list[Trained]:
    """Train the models of `rows` in their order, `training(row)` being made at its turn.

    BatchNorm statistics and frozen weights pass on as well. The optimiser begins anew with each. `state` is the path
    of the whole item: each model has its own beside it, so that a killed run goes on with the model in hand. Those
    behind a model whose loss became NaN or infinite are not begun. `report(row, text)` is told how far a model is; see
    `ModelTraining.run` for what is raised.
    """
    found: list[Trained] = []
    before: ModelTraining | None = None
    for place, row in enumerate(rows):
        if found and found[-1].end in (*DIVERGED, NOT_BEGUN):
            found.append(_NOTHING)
            continue
        model = training(row)
        if before is not None:
            model.start(before)
        own = None if state is None else state.with_name(f"{state.stem}-{place:04d}{state.suffix}")

        def tell(text: str, row: int = row) -> None:
            report(row, text)

        found.append(model.run(state=own, report=tell, stopping=stopping, whole=True))
        before = model
    return found
