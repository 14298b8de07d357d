"""Which rank computes which items: pure bookkeeping, without messages or clocks."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST_BLOCK = 256
_REQUESTS_PER_SECOND = 10_000  # of all ranks together: a fifth of what rank 0 can answer
_SHORTEST_BLOCK = 0.05  # seconds: long against a round trip to rank 0
_SHARE = 4  # a claim is at most 1/4 of an equal share of what is left: early blocks are large, the last ones single


class Claims:
    """Hands out the pending items in order, in blocks that shrink towards the end.

    Guided self-scheduling (Polychronopoulos & Kuck, IEEE Trans. Computers 1987): the block is
    max(1, remaining / (4 workers)), so that ranks of unequal speed finish within about one item of each other.

    >>> claims = Claims([0, 1, 2, 3, 4, 5, 6, 7, 8], workers=2)
    >>> claims.take(), claims.take(), claims.remaining
    ([0], [1], 7)
    """

    def __init__(self, pending: Sequence[int], workers: int, limit: int | None = None) -> None:
        self._pending = list(pending if limit is None else pending[:limit])
        self._workers = workers
        self._next = 0

    @property
    def remaining(self) -> int:
        """Items not handed out."""
        return len(self._pending) - self._next

    def take(self, seconds: float = 0.0) -> list[int]:
        """The next block, for a rank that takes `seconds` for an item; empty when nothing is left.

        A block lasts no longer than rank 0 takes to answer every rank once, unhurried, so that a slow rank holds few
        items. A rank that has finished none gives infinity, and gets a single item.
        """
        longest = max(_SHORTEST_BLOCK, self._workers / _REQUESTS_PER_SECOND)
        share = min(max(1, self.remaining // (_SHARE * self._workers)), LARGEST_BLOCK)
        size = share if share * seconds <= longest else max(1, int(longest / seconds))
        block = list(self._pending[self._next : self._next + size])
        self._next += len(block)
        return block

    def put_back(self, item: int) -> None:
        """Hand out an item again, after all others: what disturbed it may be over then."""
        self._pending.append(item)

    def stop(self) -> None:
        """Hand out no more."""
        self._next = len(self._pending)
