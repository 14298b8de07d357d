"""Claims over messages, one side at a time, against a communicator whose messages the test writes and reads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from landscape.run.claims import BYE, FAILED, STOPPED, ManagedClaims, RequestedClaims
from landscape.run.comm import Serial
from landscape.run.failures import Ledger
from landscape.run.progress import Tally
from landscape.run.schedule import Claims

ASKING, BLOCK, HALT, GOODBYE = 0.0, 0.0, 1.0, 2.0
Message = tuple[int, npt.NDArray[np.float64]]


class Script(Serial):
    """Gives the prepared messages in turn and keeps what is sent: (rank, [numbers])."""

    concurrent = False

    def __init__(self, *incoming: tuple[int, list[float]]) -> None:
        self.incoming: list[Message] = [(sender, np.array(numbers)) for sender, numbers in incoming]
        self.sent: list[tuple[int, list[float]]] = []

    def send(self, value: npt.NDArray[np.float64], to: int, tag: int) -> None:
        self.sent.append((to, value.tolist()))

    def receive(self, tag: int, *, wait: bool) -> Message | None:
        assert self.incoming or not wait, "this would wait for ever"
        return self.incoming.pop(0) if self.incoming else None


class Rank0(Script):
    """Answers as rank 0 does: a block only to a request."""

    _given = 0

    def receive(self, tag: int, *, wait: bool) -> Message | None:
        requests = sum(numbers[0] == ASKING for _, numbers in self.sent)
        if self.incoming and self.incoming[0][1][0] == BLOCK:
            if requests == self._given:
                return None
            self._given += 1
        return super().receive(tag, wait=wait)


def manager(comm: Script, *, count: int = 100, others: int = 3, stop: bool = False) -> ManagedClaims:
    claims = Claims(range(count), others + 1)
    tally, ranks = Tally(None, 0, count), list(range(1, others + 1))
    return ManagedClaims(claims, Ledger((), 0), tally, comm, ranks, lambda: stop)


def test_without_a_thread_all_who_wait_are_answered_after_each_item() -> None:
    comm = Script(*((rank, [ASKING, 0.0, np.nan, 0.0]) for rank in (1, 2, 3)))
    items = iter(manager(comm))
    assert next(items) == 0
    assert comm.sent == []
    following = next(items)
    assert [(rank, numbers[0]) for rank, numbers in comm.sent] == [(1, BLOCK), (2, BLOCK), (3, BLOCK)]
    handed = [item for _, numbers in comm.sent for item in numbers[1:]]
    assert handed == list(range(1, following))  # rank 0's first block is item 0: how long one takes is not known yet
    assert len(handed) > 3


def test_stop_tells_those_with_items_in_hand() -> None:
    comm = Script(*((rank, [BYE, 0.0, np.nan, 0.0]) for rank in (1, 2, 3)))
    manager(comm).close(STOPPED)
    assert comm.sent == [(1, [HALT]), (2, [HALT]), (3, [HALT]), (1, [GOODBYE]), (2, [GOODBYE]), (3, [GOODBYE])]


def test_signal_while_rank_0_waits_for_the_others_stops_them() -> None:
    comm = Script(*((rank, [BYE, 0.0, np.nan, 0.0]) for rank in (1, 2, 3)))
    manager(comm, stop=True).close(BYE)
    assert comm.sent[:3] == [(1, [HALT]), (2, [HALT]), (3, [HALT])]


def test_one_rank_that_fails_stops_the_others_and_rank_0() -> None:
    comm = Script(
        (2, [FAILED, 1.0, 0.5, 0.1]),
        (1, [ASKING, 0.0, np.nan, 0.0]),
        (1, [BYE, 0.0, np.nan, 0.0]),
        (3, [BYE, 0.0, np.nan, 0.0]),
    )
    source = manager(comm)
    items = iter(source)
    assert next(items) == 0
    assert list(items) == []
    source.close(BYE)
    assert comm.sent == [
        (1, [HALT]), (2, [HALT]), (3, [HALT]), (2, [GOODBYE]), (1, [BLOCK]), (1, [GOODBYE]), (3, [GOODBYE])
    ]  # fmt: skip


def test_worker_asks_one_block_ahead_and_tells_what_it_did() -> None:
    comm = Rank0((0, [BLOCK, 4, 5]), (0, [BLOCK, 9]), (0, [BLOCK]), (0, [GOODBYE]))
    source, items = RequestedClaims(comm), []
    for item in source:
        if not items:
            assert len(comm.sent) == 2  # the next block is asked for before the first item is begun
        items.append(item)
        source.finished({4: 3.0, 5: np.nan, 9: -1.0}[item])
    source.close(BYE)
    assert items == [4, 5, 9]
    assert [numbers[:2] for _, numbers in comm.sent] == [[ASKING, 0], [ASKING, 0], [ASKING, 2], [BYE, 1]]
    assert [numbers[2] for _, numbers in comm.sent[2:]] == [3.0, -1.0]


def test_worker_stops_after_the_item_in_hand_and_drops_blocks_under_way() -> None:
    comm = Script((0, [BLOCK, 4, 5, 6]), (0, [HALT]), (0, [BLOCK, 7]), (0, [GOODBYE]))
    source = RequestedClaims(comm)
    assert list(source) == [4]
    source.close(BYE)
    assert comm.incoming == []  # nothing is left over for the next run


def test_worker_that_is_told_to_stop_before_its_first_block() -> None:
    comm = Script((0, [HALT]), (0, [BLOCK, 7]), (0, [GOODBYE]))
    source = RequestedClaims(comm)
    assert list(source) == []
    source.close(BYE)
    assert comm.incoming == []
