"""What every network sink has before it: a log, a window of it in memory, retries, and the accounts.

    put ──> items ──absorb──> log ──┬─────────────> window ──send──> in flight ──acknowledged──> cursor
            (leases held)      disk └──read back──> (queue_bytes)    (in order)

A parcel stays in the window until it is acknowledged, so that sending again needs no disk. Batches are started in
order; the first one that fails stops the sending of others, those on their way are waited for, and all that is not
acknowledged from there on is sent again: at least once, in order. What the window has no room for is read back from
the log when there is some.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from collector.archive.frame import Kind
from collector.batch import Block, Delivery, StreamKey
from collector.snapshot import SinkSnapshot
from sinks.base import Item, Parcel, Transport
from sinks.log import DAMAGED, QUEUE_FULL, REJECTED, SHUTDOWN, START, Appended, Entry, Log, Lost, Position
from sinks.options import SinkCommon
from sinks.retry import Backoff
from sinks.stats import DEFECT, ERROR, REFUSED, TIMEOUT, Stats

logger = logging.getLogger(__name__)

TICK_S = 1.0
JITTER = 0.5
APPEND_BYTES = 8 << 20  # that one hop to the log's thread takes
READ_BYTES = 4 << 20

# A transport keeps its own deadlines; one that does not must not hold everything behind it for ever.
DEADLINE_FACTOR = 3.0

Release = Callable[[], None]
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(slots=True, eq=False)
class _Batch:
    """Entries on their way."""

    entries: list[Entry]
    answer: Delivery | None = None  # None: none yet


class NetworkRunner:
    """Feeds one network sink.

    Args:
      transport: to the receiver.
      log: before it.
      options: of the sink.
      in_thread: runs a function in the log's thread and gives its result; cannot be cancelled.
      rng: for the jitter.
    """

    def __init__(
        self,
        transport: Transport,
        log: Log,
        options: SinkCommon,
        in_thread: InThread,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = options.title
        self.transport = transport
        self.stats = Stats()
        self._log = log
        self._options = options
        self._in_thread = in_thread
        self._backoff = Backoff(options.retry_first_s, options.retry_max_s, JITTER, rng)
        self._items: deque[tuple[Item, Release | None]] = deque()  # put, not in the log yet
        self._item_events = self._item_bytes = 0
        self._window: deque[Entry] = deque()  # in memory, to be sent
        self._unacked: deque[_Batch] = deque()  # sent, not acknowledged; in order
        self._held_events = self._held_bytes = 0  # of both
        self._in_flight = 0
        self._spooled_events = 0
        self._handed = START  # the log up to here is, or was, in the window
        self._acked = START
        self._told = START  # of _acked, what the log knows
        self._rejected: list[Position] = []  # not told to the log yet
        self._behind = False  # the log has entries behind _handed
        self._failed = False  # a batch came back: nothing is sent until all are
        self._one_by_one = 0  # entries that are sent in batches of one, to find those that are rejected
        self._running = False  # transport.run() is
        self._ended = False  # the log has all that there will be
        self._last_put: dict[StreamKey, int] = {}  # {stream: number of its last block that was put}
        self._settled: dict[StreamKey, int] = {}  # {stream: number of the last block that was acknowledged or rejected}
        self._closing = False
        self._scope = trio.CancelScope()
        self._log_lock = trio.Lock()  # the order of the jobs is the order in which their results are taken
        self._more = trio.Event()  # for absorb: items, room, or the end
        self._changed = trio.Event()  # for send: anything
        self._waiting_since_s: float | None = None  # the last acknowledgement, or when the first of the rest came

    # ---- from outside

    async def open(self) -> None:
        """Open the log; an error here ends the daemon's start."""
        replayed = await self._in_thread(self._log.open)
        self.stats.replayed_events = self._spooled_events = replayed
        self._behind = self._log.durable
        if replayed:
            self._note_waiting()

    def put(self, item: Item, release: Release | None = None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._items.append((item, release))
        if isinstance(item, Block):
            self._last_put[item.stream] = item.number
            self.stats.offered_events += item.events
            self._item_events += item.events
            self._item_bytes += len(item.body)
        self._note_waiting()
        self._more.set()

    def leave_out(self, events: int) -> None:
        """Count entries that the sink's filter has left out of what it is offered."""
        self.stats.offered_events += events
        self.stats.filtered_events += events

    def finish(self, deadline_s: float) -> None:
        """No more items will be put: run() ends when all is delivered, or at the deadline by trio's clock.

        Can be called again with an earlier deadline.
        """
        self._closing = True
        self._scope.deadline = min(self._scope.deadline, deadline_s)
        self._more.set()
        self._changed.set()

    async def run(self) -> None:
        """Deliver until finish() was called and all is delivered or the deadline is over, or until cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_transport)
                    nursery.start_soon(self._absorb)
                    nursery.start_soon(self._tick)
                    await self._send(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._leave()

    async def close(self) -> None:
        """Close the log, after run()."""
        await self._in_thread(self._log.close)

    def unlock(self) -> None:
        """Let go of the log without waiting; for a start that failed, and the last step of closing."""
        self._log.close()

    def stalled_s(self) -> float:
        """Seconds without an acknowledgement while something waits; 0 when nothing does."""
        return trio.current_time() - self._waiting_since_s if self._waiting_since_s is not None else 0.0

    def has_settled(self, last_blocks: Mapping[StreamKey, int] | None) -> bool:
        """Whether nothing is to be sent any more of blocks up to these; from any thread.

        What the sink gave up by its policy is not to be sent.

        Args:
          last_blocks: {stream: block number}; None: those of earlier runs.
        """
        if self._waiting_since_s is None:
            return True
        if last_blocks is None:
            return bool(self._settled)  # a block of this run was: those of earlier runs went before it
        return all(
            self._settled.get(stream, -1) >= min(number, self._last_put.get(stream, -1))
            for stream, number in last_blocks.items()
        )

    def snapshot(self) -> SinkSnapshot:
        """What the metrics say."""
        stats, state, log = self.stats, self.transport.state, self._log.state
        durable = self._log.durable
        return SinkSnapshot(
            name=self.name,
            offered_events=stats.offered_events,
            replayed_events=stats.replayed_events,
            filtered_events=stats.filtered_events,
            discarded_events=dict(stats.discarded_events),
            discarded_bytes=dict(stats.discarded_bytes),
            acked_events=stats.acked_events,
            acked_bytes=stats.acked_bytes,
            queued_events=self._item_events + (0 if durable else self._held_events),
            queued_bytes=self._item_bytes + (0 if durable else self._held_bytes),
            spooled_events=self._spooled_events,
            held_bytes=self._held_bytes,
            held_limit_bytes=self._options.queue_bytes,
            resent_events=stats.resent_events,
            requests=stats.requests,
            retries=stats.retries,
            request_failures=dict(stats.failures),
            in_flight=self._in_flight,
            connected=state.connected,
            last_error=state.last_error,
            last_ack_s=stats.last_ack_s,
            certificate_not_after_s=state.certificate_not_after_s,
            slow_subscribers=state.slow_subscribers,
            request_duration=stats.request_duration.snapshot(),
            delivery_latency=stats.latency.snapshot(),
            stalled_s=self.stalled_s(),
            stall_limit_s=self._options.stall_limit_s,
            durable=durable,
            spool_bytes=log.bytes,
            spool_limit_bytes=self._options.spool_bytes,
            spool_segments=log.segments,
            spool_quarantined_segments=log.quarantined_segments,
            spool_corrupt_records=log.corrupt_records,
            spool_corrupt_bytes=log.corrupt_bytes,
            spool_suspended=log.suspended is not None,
            spool_fsync_duration=stats.fsync_duration.snapshot(),
        )

    # ---- into the log

    async def _absorb(self) -> None:
        while self._items or not self._closing:
            chunk = self._chunk()
            if not chunk:
                self._more = trio.Event()
                await self._more.wait()
                continue
            if await self._append(chunk) < len(chunk):
                self._more = trio.Event()
                await self._more.wait()  # a tick sets it too: room may have come about by itself
        async with self._log_lock:
            self._take_in(await self._in_thread(self._log.finish))
        self._ended = True
        self._changed.set()

    async def _append(self, chunk: Sequence[Item]) -> int:
        async with self._log_lock:
            done: Appended = await self._in_thread(partial(self._log.append, chunk, self._handed))
            self._take_in(done)
        return done.taken

    def _chunk(self) -> list[Item]:
        """The next items to go into the log, as far as the policy lets them."""
        if not self._log.durable and self._options.when_full == "drop_newest":
            self._refuse_newest()
        chunk: list[Item] = []
        size_bytes = 0
        room_bytes = APPEND_BYTES
        if not self._log.durable and self._options.when_full == "block":
            room_bytes = min(APPEND_BYTES, self._options.queue_bytes - self._held_bytes)
        for item, _ in self._items:
            size_bytes += len(item.body) if isinstance(item, Block) else 0
            # What is larger than the whole window goes alone.
            if size_bytes > room_bytes and (chunk or self._held_bytes):
                break
            chunk.append(item)
        return chunk

    def _refuse_newest(self) -> None:
        """Give up the items that a window without a spool has no room for."""
        kept: deque[tuple[Item, Release | None]] = deque()
        size_bytes = self._held_bytes
        lost = Lost()
        while self._items:
            item, release = self._items.popleft()
            if isinstance(item, Block):
                if size_bytes and size_bytes + len(item.body) > self._options.queue_bytes:
                    self._forget(item, release)
                    lost.add(QUEUE_FULL, item.events, len(item.body))
                    continue
                size_bytes += len(item.body)
            kept.append((item, release))
        self._items = kept
        self._give_up(lost)

    def _take_in(self, done: Appended) -> None:
        """Take over what the log made of items."""
        for _ in range(done.taken):
            self._forget(*self._items.popleft())
        self._give_up(done.refused)
        if self._log.durable:
            if done.vanished:
                gone = Lost()
                gone.add(DAMAGED, self._spooled_events - self._held_events, 0)
                self._spooled_events = self._held_events
                self._give_up(gone)
                self._behind = False
            self._spooled_events += sum(entry.parcel.events for entry in done.entries) - done.dropped.total_events
            self._give_up(done.dropped)
        for entry in done.entries:
            if self._behind:
                break
            if self._log.durable and not self._has_room(entry):
                self._behind = True
                break
            self._hold(entry)
        if not self._log.durable:
            self._drop_oldest()
        self._changed.set()

    def _forget(self, item: Item, release: Release | None) -> None:
        """An item is off our hands."""
        if isinstance(item, Block):
            self._item_events -= item.events
            self._item_bytes -= len(item.body)
        if release is not None:
            release()

    def _has_room(self, entry: Entry) -> bool:
        return not self._held_bytes or self._held_bytes + len(entry.parcel.body) <= self._options.queue_bytes

    def _hold(self, entry: Entry) -> None:
        self._window.append(entry)
        self._held_events += entry.parcel.events
        self._held_bytes += len(entry.parcel.body)
        self._handed = entry.position

    def _drop_oldest(self) -> None:
        """Make room in a window without a spool: the oldest blocks that are not on their way go.

        Headers and objects stay for the blocks behind them, unless the next header makes them useless.
        """
        if self._options.when_full != "drop_oldest" or self._held_bytes <= self._options.queue_bytes:
            return
        lost = Lost()
        kept: deque[Entry] = deque()
        epoch: list[Entry] = []  # kept of the front epoch, no block among them
        while self._window and self._held_bytes > self._options.queue_bytes:
            entry = self._window.popleft()
            parcel = entry.parcel
            if parcel.events or parcel.number >= 0:
                self._let_go(entry)
                lost.add(QUEUE_FULL, parcel.events, len(parcel.body))
                continue
            if parcel.kind == Kind.HEADER:
                for useless in epoch:
                    self._let_go(useless)
                epoch = []
            epoch.append(entry)
        kept.extend(epoch)
        kept.extend(self._window)
        self._window = kept
        self._give_up(lost)

    def _let_go(self, entry: Entry) -> None:
        self._held_events -= entry.parcel.events
        self._held_bytes -= len(entry.parcel.body)

    def _give_up(self, lost: Lost) -> None:
        self.stats.discard(lost)
        if lost.total_events:
            logger.error("entries are lost to a sink", extra={"fields": {
                "sink": self.name, **lost.events, "why": self._log.state.suspended or self.transport.state.last_error,
            }})  # fmt: skip

    # ---- out of the log

    async def _send(self, nursery: trio.Nursery) -> None:
        while not self._is_done():
            self._changed = trio.Event()
            if self._failed:
                if not self._in_flight:
                    await self._start_again()
                    continue
            elif self._running and self._in_flight < self.transport.max_in_flight and (batch := self._next_batch()):
                began = trio.Event()
                nursery.start_soon(self._deliver, batch, began)
                await began.wait()  # so that the next one cannot overtake it
                continue
            elif self._behind and self._wants_more():
                await self._read_back()
                continue
            await self._changed.wait()

    def _is_done(self) -> bool:
        """Whether all is delivered, or what is not had better stay where it is."""
        if not self._ended:
            return False
        if self._log.durable and self._backoff.failures and not self.transport.state.connected:
            return True  # nobody there: the next run finds it all in the spool
        return not (self._window or self._unacked or self._behind)

    def _next_batch(self) -> _Batch | None:
        if not self._window:
            return None
        entries = [self._window.popleft()]
        if not self._one_by_one:
            size_bytes = len(entries[0].parcel.body)
            while self._window:
                size_bytes += len(self._window[0].parcel.body)
                if size_bytes > self.transport.batch_bytes:
                    break
                entries.append(self._window.popleft())
        batch = _Batch(entries)
        self._unacked.append(batch)
        self._in_flight += 1
        return batch

    async def _deliver(self, batch: _Batch, began: trio.Event) -> None:
        began.set()
        if self._failed:  # one before it came back since it was taken from the window: it must not overtake that
            self._take_back(batch, Delivery.ERRORED)
            return
        parcels: list[Parcel] = [entry.parcel for entry in batch.entries]
        self.stats.requests += 1
        started_s = trio.current_time()
        answer, reason = Delivery.ERRORED, TIMEOUT
        try:
            with trio.move_on_after(self._options.request_timeout_s * DEADLINE_FACTOR):
                answer = await self.transport.deliver(parcels)
                reason = REFUSED if answer is Delivery.REJECTED else ERROR
        except Exception as e:
            reason = DEFECT
            logger.error("a sink failed in a way that it should not", exc_info=e, extra={"fields": {"sink": self.name}})
        self.stats.request_duration.observe(trio.current_time() - started_s)
        if answer is not Delivery.DELIVERED:
            self.stats.failures[reason] += 1
            self._failed = answer is Delivery.ERRORED or len(parcels) > 1 or self._failed
        self._take_back(batch, answer)

    def _take_back(self, batch: _Batch, answer: Delivery) -> None:
        """A batch is not on its way any more."""
        batch.answer = answer
        self._in_flight -= 1
        self._settle()
        self._changed.set()

    def _settle(self) -> None:
        """Take the answers, in order, up to the first that is missing or bad."""
        while self._unacked:
            batch = self._unacked[0]
            if batch.answer is Delivery.DELIVERED:
                self._acknowledge(batch.entries)
            elif batch.answer is Delivery.REJECTED and len(batch.entries) == 1:
                self._reject(batch.entries[0])
            else:
                return
            self._unacked.popleft()
            self._one_by_one = max(0, self._one_by_one - len(batch.entries))
            self._acked = batch.entries[-1].position
            self._waiting_since_s = trio.current_time() if self._something_waits() else None
        if not self._window:
            self._acked = self._handed  # with what could not be read

    def _acknowledge(self, entries: Sequence[Entry]) -> None:
        if self._backoff.failures:
            logger.info("a sink delivers again", extra={"fields": {"sink": self.name}})
        self._backoff.reset()
        stats, now_s = self.stats, time.monotonic()
        stats.last_ack_s = time.time()
        for entry in entries:
            self._settle_entry(entry)
            stats.acked_events += entry.parcel.events
            stats.acked_bytes += len(entry.parcel.body)
            if entry.parcel.number >= 0 and entry.put_s is not None:
                stats.latency.observe(max(0.0, now_s - entry.put_s))
        self._more.set()

    def _reject(self, entry: Entry) -> None:
        parcel = entry.parcel
        self._settle_entry(entry)
        lost = Lost()
        lost.add(REJECTED, parcel.events, len(parcel.body))
        self.stats.discard(lost)
        self._rejected.append(entry.position)
        logger.error("a receiver will not take a record", extra={"fields": {
            "sink": self.name, "kind": parcel.kind.name, "bytes": len(parcel.body), "events": parcel.events,
            "stream": f"{parcel.stream.instance}/{parcel.stream.cpu}" if parcel.stream is not None else None,
            "number": parcel.number, "why": self.transport.state.last_error,
        }})  # fmt: skip

    def _settle_entry(self, entry: Entry) -> None:
        self._let_go(entry)
        parcel = entry.parcel
        if parcel.stream is not None and parcel.number >= 0:
            self._settled[parcel.stream] = parcel.number
        if self._log.durable:
            self._spooled_events -= parcel.events

    async def _start_again(self) -> None:
        """All batches are back, one of them not delivered: send from there on again, after a while."""
        first = self._unacked[0]
        for batch in reversed(self._unacked):
            self._window.extendleft(reversed(batch.entries))
            self.stats.retries += 1
            self.stats.resent_events += sum(entry.parcel.events for entry in batch.entries)
        self._unacked.clear()
        if first.answer is Delivery.REJECTED:
            self._one_by_one = len(first.entries)
        else:
            if not self._backoff.failures:
                logger.warning("a sink does not deliver and is tried again", extra={"fields": {
                    "sink": self.name, "why": self.transport.state.last_error,
                }})  # fmt: skip
            with trio.move_on_after(self._backoff.next_s()):
                while not self._is_done():
                    self._changed = trio.Event()
                    await self._changed.wait()
        self._failed = False

    def _wants_more(self) -> bool:
        waiting_bytes = sum(len(entry.parcel.body) for entry in self._window)
        # A quarter: each reading is a hop to the log's thread.
        room_bytes = self._options.queue_bytes - self._held_bytes
        return waiting_bytes < self.transport.batch_bytes and (
            not self._held_bytes or room_bytes >= self._options.queue_bytes // 4
        )

    async def _read_back(self) -> None:
        room_bytes = self._options.queue_bytes - self._held_bytes
        size_bytes = max(1, min(room_bytes, max(READ_BYTES, self.transport.batch_bytes)))
        async with self._log_lock:
            back = await self._in_thread(partial(self._log.read, self._handed, size_bytes))
            for entry in back.entries:
                self._hold(entry)
            self._handed = back.position
            self._behind = not back.at_end
            self._spooled_events -= back.lost.total_events
            self._give_up(back.lost)
        if not self._window and not self._unacked:
            self._acked = self._handed
            self._waiting_since_s = trio.current_time() if self._something_waits() else None

    async def _run_transport(self) -> None:
        """Keep the transport running, whatever happens in it."""
        backoff = Backoff(self._options.retry_first_s, self._options.retry_max_s, JITTER, random.random)
        while True:
            why: Exception | None = None
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.transport.run)
                    self._running = True
                    self._changed.set()
            except Exception as e:
                why = e
            self._running = False
            logger.error("a sink ended in a way that it should not", exc_info=why,
                         extra={"fields": {"sink": self.name}})  # fmt: skip
            await trio.sleep(backoff.next_s())

    # ---- the log's care

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            async with self._log_lock:
                took_s = await self._in_thread(self._care())
            if took_s is not None:
                self.stats.fsync_duration.observe(took_s)
            self._more.set()

    def _care(self) -> Callable[[], float | None]:
        """What the log is told once in a while, as one job."""
        acked, rejected = self._acked, self._rejected
        tell = acked != self._told
        self._told, self._rejected = acked, []

        def job() -> float | None:
            if tell or rejected:
                self._log.acknowledge(acked, rejected)
            return self._log.tick()

        return job

    async def _leave(self) -> None:
        """The end: what is not delivered goes into the spool, or is counted."""
        if not self._ended:
            chunk = [item for item, _ in self._items]
            if chunk and self._log.durable:
                await self._append(chunk)
            async with self._log_lock:
                self._take_in(await self._in_thread(self._log.finish))
        lost = Lost()
        for item, release in self._items:
            if isinstance(item, Block):
                lost.add(SHUTDOWN, item.events, len(item.body))
            self._forget(item, release)
        self._items.clear()
        if not self._log.durable:
            for entry in (*(e for batch in self._unacked for e in batch.entries), *self._window):
                self._let_go(entry)
                if entry.parcel.number >= 0:
                    lost.add(SHUTDOWN, entry.parcel.events, len(entry.parcel.body))
            self._window.clear()
            self._unacked.clear()
        self._give_up(lost)
        await self._in_thread(self._care())
        if self._spooled_events:
            logger.warning("what a sink did not deliver stays in its spool, for the next run", extra={"fields": {
                "sink": self.name, "events": self._spooled_events, "why": self.transport.state.last_error,
            }})  # fmt: skip

    def _something_waits(self) -> bool:
        return bool(self._items or self._window or self._unacked or self._behind)

    def _note_waiting(self) -> None:
        if self._waiting_since_s is None:
            self._waiting_since_s = trio.current_time()
