"""Claims: every item once, whoever asks and in whatever order; blocks that shrink; a limit; a stop."""

from __future__ import annotations

import math
import random

import pytest

from landscape.run.schedule import LARGEST_BLOCK, Claims


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 63, 1000])
def test_every_item_once_in_any_interleaving(workers: int, count: int) -> None:
    pending = random.Random(count).sample(range(10 * count + 1), count)
    claims, order = Claims(pending, workers), random.Random(workers)
    taken: dict[int, list[int]] = {worker: [] for worker in range(workers)}
    active = list(taken)
    while active:
        worker = order.choice(active)
        block = claims.take()
        taken[worker] += block
        if not block:
            active.remove(worker)
    assert sorted(item for items in taken.values() for item in items) == sorted(pending)
    assert claims.remaining == 0


@pytest.mark.parametrize("workers", [1, 2, 4, 100])
def test_blocks_shrink_to_one_item(workers: int) -> None:
    claims, sizes = Claims(range(100_000), workers), []
    while block := claims.take():
        # A quarter of an equal share of what was left, at most: nobody holds more than the others can make up for.
        assert len(block) <= max(1, (claims.remaining + len(block)) / (4 * workers))
        sizes.append(len(block))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == min(LARGEST_BLOCK, 100_000 // (4 * workers))
    assert sizes[-workers:] == [1] * workers
    assert sum(sizes) == 100_000


@pytest.mark.parametrize(
    ("seconds", "workers", "size"),
    [(0.0, 4, 256), (math.inf, 4, 1), (1e-3, 4, 50), (0.02, 4, 2), (0.1, 4, 1), (0.1, 4000, 4), (0.1, 40_000, 40)],
)
def test_blocks_last_no_longer_than_rank_0_needs_to_answer_all(seconds: float, workers: int, size: int) -> None:
    assert len(Claims(range(4 * workers * (size + 1)), workers).take(seconds)) == size


def test_items_come_in_the_order_given() -> None:
    claims = Claims([9, 3, 7, 1, 5], workers=1)
    assert [item for _ in range(5) for item in claims.take()] == [9, 3, 7, 1, 5]


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (1, 1), (7, 7), (10, 10), (11, 10), (None, 10)])
def test_limit(limit: int | None, expected: int) -> None:
    claims, items = Claims(range(10), 2, limit), []
    assert claims.remaining == expected
    while block := claims.take():
        items += block
    assert items == list(range(expected))


def test_stop_hands_out_no_more() -> None:
    claims = Claims(range(100), 2)
    assert claims.take()
    claims.stop()
    assert (claims.take(), claims.remaining) == ([], 0)
