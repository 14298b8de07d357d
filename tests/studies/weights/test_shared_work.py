"""Ranks share the digests of tensors, and the spectra of one matrix: each is computed once, on either."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.run.comm import SERIAL
from landscape.studies.weights.measure import weights_task


class Told:
    """A rank of `size` that is told what others have, and what it said itself."""

    def __init__(self, rank: int, size: int, others: dict[Any, Any]) -> None:
        self.rank, self.size, self._others = rank, size, others
        self.said: dict[Any, Any] = {}

    def gather_all(self, value: Any) -> list[Any]:
        if not isinstance(value, dict):
            return [value] * self.size
        self.said = value
        return [{**self._others, **value}]


def net(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "c.weight": torch.randn(12, 12, 3, generator=generator),
        "l.weight": torch.randn(20, 15, generator=generator),
    }


def halves(alone: Told, two: list[Told]) -> None:
    one, other = (told.said for told in two)
    assert one.keys() | other.keys() == alone.said.keys()
    assert not one.keys() & other.keys()
    assert abs(len(one) - len(other)) <= 1
    for key, value in {**one, **other}.items():
        np.testing.assert_array_equal(value, alone.said[key])


def test_the_spectra_of_an_item() -> None:
    for convention, pieces in (("matrix", 3 * (1 + 3 + 2)), ("weightwatcher", 9)):
        state = net() if convention == "matrix" else {"c.weight": torch.randn(12, 12, 3, 3)}
        task = weights_task(state, convention=convention, shuffles=3, roundings=2)
        alone = Told(0, 1, {})
        row = task.evaluate(0, alone)  # type: ignore[arg-type]
        assert len(alone.said) == pieces
        two = [Told(rank, 2, alone.said) for rank in (0, 1)]
        for told in two:
            again = task.evaluate(0, told)  # type: ignore[arg-type]
            assert all(np.array_equal(again[name], row[name], equal_nan=True) for name in row)
        halves(alone, two)


def test_the_digests_of_tensors() -> None:
    alone = Told(0, 1, {})
    whole = weights_task(net())
    whole.identify(alone)  # type: ignore[arg-type]
    two = [Told(rank, 2, alone.said) for rank in (0, 1)]
    for told in two:
        task = weights_task(net())
        task.identify(told)  # type: ignore[arg-type]
        assert task.describe().identity == whole.describe().identity == weights_task(net()).describe().identity
    halves(alone, two)
    other = weights_task(net(seed=1))
    other.identify(Told(0, 2, alone.said))  # type: ignore[arg-type]
    mine, its = other.describe().identity, whole.describe().identity
    assert mine["tensors"][1] == its["tensors"][1]  # as another rank told it
    assert mine["sampled"] != its["sampled"]
    assert whole.evaluate(1, SERIAL)["norm"] > 0
