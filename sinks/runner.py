"""The queue before a sink: bounded by the leases of what is in it, emptied in batches."""

import logging
from collections import deque

import trio

from collector.batch import Block, Delivery, SinkState
from sinks.contract.base import Item, Release, Sink

logger = logging.getLogger(__name__)

TICK_S = 1.0
RETRY_S = 1.0

# A delivery takes the event loop and a thread once: large enough to make that cheap, small enough that
# blocks at its front are not held long.
DELIVERY_BYTES = 8 << 20


class SinkRunner:
    """Feeds one sink.

    The queue itself has no limit: each block in it holds a lease of the memory
    budget, and `put` is called with the lease taken.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.delivered_events = 0
        self.queued_events = 0
        self.queued_bytes = 0
        self._items: deque[tuple[Item, Release | None]] = deque()
        self._more = trio.Event()
        self._closing = False

    @property
    def discarded_events(self) -> int:
        """Entries that the sink did not take, of those that it was given."""
        return self.sink.state.discarded_events

    @property
    def state(self) -> SinkState:
        """What the sink keeps."""
        return self.sink.state

    async def close(self) -> None:
        """End the sink, after run(): it seals what is open."""
        await self.sink.close()

    def put(self, item: Item, release: Release | None = None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._items.append((item, release))
        if isinstance(item, Block):
            self.queued_events += item.events
            self.queued_bytes += len(item.body)
        self._more.set()

    async def begin(self) -> None:
        """Leave evidence that the run is there, with what was put so far; before run()."""
        await self.sink.begin([item for item, _ in self._items])
        self._items.clear()

    async def run(self) -> None:
        """Deliver until finish() was called and the queue is empty, or until cancelled."""
        next_tick_s = trio.current_time() + TICK_S
        while self._items or not self._closing:
            if not self._items:
                self._more = trio.Event()
                with trio.move_on_at(next_tick_s):
                    await self._more.wait()
            batch = self._take()
            if batch:
                await self._deliver(batch)
            if trio.current_time() >= next_tick_s:
                await self.sink.tick()
                next_tick_s = trio.current_time() + TICK_S

    def finish(self) -> None:
        """No more items will be put: run() ends when the queue is empty."""
        self._closing = True
        self._more.set()

    def _take(self) -> list[tuple[Item, Release | None]]:
        batch: list[tuple[Item, Release | None]] = []
        size_bytes = 0
        while self._items and size_bytes < DELIVERY_BYTES:
            entry = self._items.popleft()
            batch.append(entry)
            if isinstance(entry[0], Block):
                size_bytes += len(entry[0].body)
        return batch

    async def _deliver(self, batch: list[tuple[Item, Release | None]]) -> None:
        items = [item for item, _ in batch]
        discarded = self.discarded_events
        while await self.sink.deliver(items) is Delivery.ERRORED:
            await trio.sleep(RETRY_S)
        for item, release in batch:
            if isinstance(item, Block):
                self.queued_events -= item.events
                self.queued_bytes -= len(item.body)
                self.delivered_events += item.events
            if release is not None:
                release()
        self.delivered_events -= self.discarded_events - discarded
