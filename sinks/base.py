"""What a sink is."""

from collections.abc import Sequence
from typing import Protocol

from collector.batch import Block, Delivery, Note, SinkState

Item = Block | Note


class Sink(Protocol):
    """Takes blocks to where they are kept.

    The runner calls one method at a time; what a sink does on a disk or a
    socket of its own it does in threads or tasks of its own.
    """

    name: str  # as metrics and messages call it
    state: SinkState

    async def open(self) -> None:
        """Get ready to take blocks; an error here ends the daemon's start."""

    async def deliver(self, items: Sequence[Item]) -> Delivery:
        """Take the items, in this order.

        DELIVERED: they need not be held in memory any more. ERRORED: none of
        them was taken, try again. REJECTED: not all of them, `state.discarded_events` says how many entries.
        """
        ...

    async def tick(self) -> None:
        """About once a second, also when there is nothing to deliver: syncs, rotation by age."""

    async def close(self) -> None:
        """No more items will come."""
