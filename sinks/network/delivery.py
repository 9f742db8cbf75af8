"""What every network sink has before it: a log, a window of it in memory, retries, and the accounts.

    put ──> feeder (intake, log) ──> window ──send──> in flight ──acknowledged──> cursor of the log
                                                     (in order)

An entry stays in the window until it is acknowledged, so that sending again needs no disk. Batches are started in
order; the first one that fails stops the sending of others, those on their way are waited for, and all that is not
acknowledged from there on is sent again: at least once, in order. What the window has no room for is read back from
the log when there is some.
"""

import logging
import math
import random
from collections.abc import Callable, Mapping

import trio

from collector.batch import Delivery, StreamKey
from collector.monitor.state import SinkSnapshot
from sinks.contract.base import Item, Release, Transport
from sinks.contract.options import SinkCommon
from sinks.network.accounts import Accounts
from sinks.network.backlog import Backlog
from sinks.network.feeder import Feeder, InThread
from sinks.network.retry import Backoff
from sinks.network.stats import DEFECT, ERROR, REFUSED, TIMEOUT
from sinks.network.window import Batch, Window

logger = logging.getLogger(__name__)

JITTER = 0.5
READ_BYTES = 4 << 20

# Of request_timeout_s, without an acknowledgement of anything. A transport keeps its own deadlines; one that does not
# must not hold everything behind it for ever.
DEADLINE_FACTOR = 3.0


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
        log: Backlog,
        options: SinkCommon,
        in_thread: InThread,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = options.title
        self.transport = transport
        self._accounts = Accounts(log, transport, options)
        self._log = log
        self._options = options
        self._backoff = Backoff(options.retry_first_s, options.retry_max_s, JITTER, rng)
        self._window = Window(options.queue_bytes)
        self._feeder = Feeder(log, self._window, self._accounts, options, in_thread, self._take_notice)
        self._running = False  # transport.run() is
        self._scope = trio.CancelScope()
        self._deliveries: set[trio.CancelScope] = set()
        self._had_waiting = False  # when send() last looked
        self._changed = trio.Event()  # for send(): anything
        self._waiting_since_s: float | None = None  # the last acknowledgement, or when the first of the rest came

    # ---- from outside

    async def open(self) -> None:
        """Open the log; an error here ends the daemon's start."""
        if await self._feeder.open():
            self._note_waiting()

    def put(self, item: Item, release: Release | None = None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._feeder.put(item, release)
        self._note_waiting()

    def leave_out(self, events: int) -> None:
        """Count entries that the sink's filter has left out of what it is offered."""
        self._accounts.leave_out(events)

    def finish(self, deadline_s: float) -> None:
        """No more items will be put: run() ends when all is delivered, or at the deadline by trio's clock.

        Can be called again with an earlier deadline.
        """
        self._scope.deadline = min(self._scope.deadline, deadline_s)
        self._feeder.close_intake()
        self._changed.set()

    async def run(self) -> None:
        """Deliver until finish() was called and all is delivered or the deadline is over, or until cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_transport)
                    nursery.start_soon(self._feeder.absorb)
                    nursery.start_soon(self._feeder.tick)
                    nursery.start_soon(self._feeder.watch)
                    nursery.start_soon(self._prolong)
                    await self._send(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._feeder.leave()
                self._say_what_is_left()

    async def close(self) -> None:
        """Close the log, after run()."""
        await self._feeder.close()

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
        return self._waiting_since_s is None or self._accounts.has_settled(last_blocks)

    def snapshot(self) -> SinkSnapshot:
        """What the metrics say."""
        return self._accounts.snapshot(self._feeder.intake, self._window, self.stalled_s())

    # ---- out of the window

    async def _send(self, nursery: trio.Nursery) -> None:
        window, transport = self._window, self.transport
        while not self._is_done():
            self._changed = trio.Event()
            self._had_waiting = window.has_waiting
            ready_s = math.inf
            if window.has_failed:
                if not window.in_flight:
                    await self._start_again()
                    continue
            elif self._running and window.in_flight < transport.max_in_flight and window.has_waiting:
                ready_s = self._ready_s()
                if ready_s <= trio.current_time() and (batch := self._next_batch()):
                    began = trio.Event()
                    nursery.start_soon(self._deliver, batch, began)
                    await began.wait()  # so that the next one cannot overtake it
                    continue
            if not window.has_failed and self._feeder.behind and self._wants_more():
                await self._feeder.read_back(max(READ_BYTES, transport.batch_bytes))
                self._note_settled()
                continue
            with trio.move_on_at(ready_s):
                await self._changed.wait()

    def _next_batch(self) -> Batch | None:
        return self._window.next_batch(self.transport.batch_bytes, self.transport.batch_events)

    def _ready_s(self) -> float:
        """When the next batch goes: at once where it is full or nothing more comes, else after it has waited."""
        if self._feeder.ended or self._feeder.behind or self._window.waiting_bytes >= self.transport.batch_bytes:
            return -math.inf
        return self._window.waiting_since_s + self._options.linger_s

    def _is_done(self) -> bool:
        """Whether all is delivered, or what is not had better stay where it is."""
        if not self._feeder.ended:
            return False
        if self._log.durable and self._backoff.failures and not self.transport.state.connected:
            return True  # nobody there: the next run finds it all in the spool
        return not (self._window or self._feeder.behind)

    async def _deliver(self, batch: Batch, began: trio.Event) -> None:
        began.set()
        window = self._window
        if window.has_failed:  # one before it came back since it was taken from the window: it must not overtake that
            self._take_back(batch, Delivery.ERRORED)
            return
        parcels, stats = [entry.parcel for entry in batch.entries], self._accounts.stats
        stats.requests += 1
        started_s = trio.current_time()
        answer, reason = Delivery.ERRORED, TIMEOUT
        try:
            with trio.move_on_after(self._options.request_timeout_s * DEADLINE_FACTOR) as scope:
                self._deliveries.add(scope)
                answer = await self.transport.deliver(parcels)
                reason = REFUSED if answer is Delivery.REJECTED else ERROR
        except Exception as e:
            reason = DEFECT
            logger.error("a sink failed in a way that it should not", exc_info=e, extra={"fields": {"sink": self.name}})
        finally:
            self._deliveries.discard(scope)
        stats.request_duration.observe(trio.current_time() - started_s)
        if answer is not Delivery.DELIVERED:
            stats.failures[reason] += 1
        self._take_back(batch, answer)

    async def _prolong(self) -> None:
        """Give all batches on their way more time as long as the receiver acknowledges parts of them."""
        timeout_s = self._options.request_timeout_s
        while True:
            acknowledged = self.transport.state.acknowledged
            await trio.sleep(timeout_s)
            if self.transport.state.acknowledged != acknowledged:
                for scope in self._deliveries:
                    scope.deadline = trio.current_time() + timeout_s * DEADLINE_FACTOR

    def _take_back(self, batch: Batch, answer: Delivery) -> None:
        """A batch is not on its way any more: settle what can be."""
        self._window.answer(batch, answer)
        settled = self._window.settle()
        self._accounts.settle(settled)
        if settled:
            self._note_settled()
            self._feeder.note_room()
        if any(final is Delivery.DELIVERED for _, final in settled):
            if self._backoff.failures:
                logger.info("a sink delivers again", extra={"fields": {"sink": self.name}})
            self._backoff.reset()
        self._changed.set()

    async def _start_again(self) -> None:
        """All batches are back, one of them not delivered: send from there on again, after a while."""
        batches = self._window.send_again()
        stats = self._accounts.stats
        stats.retries += len(batches)
        stats.resent_events += sum(entry.parcel.events for batch in batches for entry in batch.entries)
        if batches[0].answer is not Delivery.REJECTED:
            if not self._backoff.failures:
                logger.warning("a sink does not deliver and is tried again", extra={"fields": {
                    "sink": self.name, "why": self.transport.state.last_error,
                }})  # fmt: skip
            with trio.move_on_after(self._backoff.next_s()):
                while not self._is_done():
                    self._changed = trio.Event()
                    await self._changed.wait()
        self._window.has_failed = False

    def _wants_more(self) -> bool:
        # A quarter: each reading is a hop to the log's thread.
        window = self._window
        return window.waiting_bytes < self.transport.batch_bytes and (
            not window.held_bytes or window.room_bytes >= window.limit_bytes // 4
        )

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

    def _say_what_is_left(self) -> None:
        if self._accounts.spooled_events:
            logger.warning("what a sink did not deliver stays in its spool, for the next run", extra={"fields": {
                "sink": self.name, "events": self._accounts.spooled_events, "why": self.transport.state.last_error,
            }})  # fmt: skip

    # ---- what waits

    def _take_notice(self) -> None:
        """The window has more: send() is told, unless what waits there waits for more still."""
        feeder, window = self._feeder, self._window
        if not self._something_waits():
            self._waiting_since_s = None
        if (
            not self._had_waiting or feeder.behind or feeder.ended
            or window.waiting_bytes >= self.transport.batch_bytes
        ):  # fmt: skip
            self._changed.set()

    def _something_waits(self) -> bool:
        return bool(self._feeder.intake or self._window or self._feeder.behind)

    def _note_waiting(self) -> None:
        if self._waiting_since_s is None:
            self._waiting_since_s = trio.current_time()

    def _note_settled(self) -> None:
        self._waiting_since_s = trio.current_time() if self._something_waits() else None
