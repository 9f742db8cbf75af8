"""What every network sink has before it: a log, a window of it in memory, retries, and the accounts.

    put ──> intake ──absorb──> log ──┬─────────────> window ──send──> in flight ──acknowledged──> cursor
            (leases held)       disk └──read back──> (queue_bytes)    (in order)

An entry stays in the window until it is acknowledged, so that sending again needs no disk. Batches are started in
order; the first one that fails stops the sending of others, those on their way are waited for, and all that is not
acknowledged from there on is sent again: at least once, in order. What the window has no room for is read back from
the log when there is some.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import trio

from collector.batch import Block, Delivery, StreamKey
from collector.snapshot import SinkSnapshot
from sinks.accounts import Accounts
from sinks.base import Item, Transport
from sinks.intake import APPEND_BYTES, Intake, Release
from sinks.log import DAMAGED, QUEUE_FULL, SHUTDOWN, SPOOL_FULL, START, SUSPENDED, Appended, Entry, Log, Lost
from sinks.options import SinkCommon
from sinks.retry import Backoff
from sinks.stats import DEFECT, ERROR, REFUSED, TIMEOUT
from sinks.untold import Untold
from sinks.window import Batch, Window

logger = logging.getLogger(__name__)

TICK_S = 1.0
JITTER = 0.5
HANGS_S = 5.0  # a job of the log that takes so long is not the disk's usual pace
READ_BYTES = 4 << 20

# Of request_timeout_s, without an acknowledgement of anything. A transport keeps its own deadlines; one that does not
# must not hold everything behind it for ever.
DEADLINE_FACTOR = 3.0

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


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
        self._accounts = Accounts(log, transport, options)
        self._log = log
        self._options = options
        self._in_thread = in_thread
        self._backoff = Backoff(options.retry_first_s, options.retry_max_s, JITTER, rng)
        self._intake = Intake()
        self._window = Window(options.queue_bytes)
        self._behind = False  # the log has entries that the window has not
        self._told = START  # of what is settled, what the log knows
        self._send_at_s = -math.inf  # a batch that is not full waits until then
        self._untold = Untold()  # of what was given up here
        self._run_id = b""
        self._log_busy_since_s: float | None = None  # a job is in the log's thread
        self._running = False  # transport.run() is
        self._ended = False  # the log has all that there will be
        self._closing = False
        self._scope = trio.CancelScope()
        self._deliveries: set[trio.CancelScope] = set()
        self._log_lock = trio.Lock()  # the order of the jobs is the order in which their results are taken
        self._more = trio.Event()  # for absorb: items, room, or the end
        self._changed = trio.Event()  # for send: anything
        self._waiting_since_s: float | None = None  # the last acknowledgement, or when the first of the rest came

    # ---- from outside

    async def open(self) -> None:
        """Open the log; an error here ends the daemon's start."""
        replayed = await self._in_thread(self._log.open)
        self._accounts.replay(replayed)
        self._behind = self._log.durable
        if replayed:
            self._note_waiting()

    def put(self, item: Item, release: Release | None = None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._run_id = item.stream.run
        if isinstance(item, Block):
            self._accounts.offer(item)
        if self._untold and self._can_tell():
            self._tell_untold()
        self._intake.put(item, release)
        if self._hangs():
            self._shed()
        self._note_waiting()
        self._more.set()

    def _hangs(self) -> bool:
        """Whether the spool's disk does: what waits for it takes the memory that the archive needs."""
        since_s = self._log_busy_since_s
        return (
            self._options.when_full != "block" and since_s is not None and trio.current_time() - since_s >= HANGS_S
        )

    def _shed(self) -> None:
        """Give up what is too much to wait for a disk that hangs."""
        room_bytes = min(APPEND_BYTES, self._options.queue_bytes)
        self._accounts.give_up(self._intake.refuse(room_bytes, SUSPENDED, self._untold, at_least_one=True))

    def _can_tell(self) -> bool:
        """Whether what was given up came to an end: a gap for each block of a long outage would be as many again."""
        if self._log.durable:
            return not self._hangs()
        return self._window.room_bytes >= self._window.limit_bytes // 2

    def _tell_untold(self) -> None:
        """Queue gaps for what was given up here; of an earlier run nothing follows that could say it."""
        while self._untold:
            note = self._untold.pop()
            if note.stream.run == self._run_id:
                self._intake.put(note, None)

    def leave_out(self, events: int) -> None:
        """Count entries that the sink's filter has left out of what it is offered."""
        self._accounts.leave_out(events)

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
                    nursery.start_soon(self._watch_log)
                    nursery.start_soon(self._prolong)
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
        return self._waiting_since_s is None or self._accounts.has_settled(last_blocks)

    def snapshot(self) -> SinkSnapshot:
        """What the metrics say."""
        return self._accounts.snapshot(self._intake, self._window, self.stalled_s())

    # ---- into the log

    async def _ask_log(self, job: Callable[[], Any]) -> Any:
        """Run a job in the log's thread; one at a time."""
        self._log_busy_since_s = trio.current_time()
        try:
            return await self._in_thread(job)
        finally:
            self._log_busy_since_s = None

    async def _absorb(self) -> None:
        while self._intake or self._untold or not self._closing:
            if self._closing:
                self._tell_untold()
            chunk = self._chunk()
            if not chunk:
                self._more = trio.Event()
                await self._more.wait()
                continue
            if await self._append(chunk) < len(chunk):
                self._more = trio.Event()
                await self._more.wait()  # a tick sets it too: room may have come about by itself
        async with self._log_lock:
            self._take_in(await self._ask_log(self._log.finish))
        self._ended = True
        self._changed.set()

    async def _append(self, chunk: Sequence[Item]) -> int:
        # Without the checkpoint of acquire(): this is once for each block, and a turn of the loop costs as much again.
        try:
            self._log_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._log_lock.acquire()
        try:
            done: Appended = await self._ask_log(partial(self._log.append, chunk, self._window.handed))
            self._intake.take(done.taken)
            self._take_in(done)
        finally:
            self._log_lock.release()
        return done.taken

    def _chunk(self) -> list[Item]:
        """The next items to go into the log, as far as the policy lets them."""
        window = self._window
        is_empty = not window.held_bytes  # what is larger than the whole window goes alone
        if self._log.durable or self._options.when_full == "drop_oldest":
            return self._intake.front(math.inf, at_least_one=True)
        if self._options.when_full == "drop_newest":
            self._accounts.give_up(
                self._intake.refuse(window.room_bytes, QUEUE_FULL, self._untold, at_least_one=is_empty)
            )
        return self._intake.front(window.room_bytes, at_least_one=is_empty)

    def _take_in(self, done: Appended) -> None:
        """Take over what the log made of items."""
        window, accounts = self._window, self._accounts
        waited = window.has_waiting
        accounts.give_up(done.refused)
        if self._log.durable:
            if done.vanished:
                gone = Lost()
                gone.add(DAMAGED, accounts.spooled_events - window.held_events, 0)
                accounts.spooled_events = window.held_events
                accounts.give_up(gone)
                self._behind = False
            accounts.spooled_events += done.written_events - done.dropped.total_events
            accounts.give_up(done.dropped)
            window.oldest = done.oldest
            if done.made_room:
                lost = window.drop_gone(SPOOL_FULL, self._untold)
                accounts.spooled_events -= lost.total_events
                accounts.give_up(lost)
        for entry in done.entries:
            if self._behind:
                break
            if self._log.durable and not window.has_room(entry):
                self._behind = True
                break
            self._hold(entry)
        if not self._log.durable and self._options.when_full == "drop_oldest":
            accounts.give_up(window.drop_oldest(self._untold))
        if not self._something_waits():
            self._waiting_since_s = None
        if not waited or self._behind or window.waiting_bytes >= self.transport.batch_bytes:
            self._changed.set()  # else what waits for more goes on waiting

    def _hold(self, entry: Entry) -> None:
        if not self._window.has_waiting:
            self._send_at_s = trio.current_time() + self._options.linger_s
        self._window.hold(entry)

    # ---- out of the log

    async def _send(self, nursery: trio.Nursery) -> None:
        window, transport = self._window, self.transport
        while not self._is_done():
            self._changed = trio.Event()
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
            if not window.has_failed and self._behind and self._wants_more():
                await self._read_back()
                continue
            with trio.move_on_at(ready_s):
                await self._changed.wait()

    def _next_batch(self) -> Batch | None:
        return self._window.next_batch(self.transport.batch_bytes, self.transport.batch_events)

    def _ready_s(self) -> float:
        """When the next batch goes: at once where it is full or nothing more comes, else after it has waited."""
        if self._ended or self._behind or self._window.waiting_bytes >= self.transport.batch_bytes:
            return -math.inf
        return self._send_at_s

    def _is_done(self) -> bool:
        """Whether all is delivered, or what is not had better stay where it is."""
        if not self._ended:
            return False
        if self._log.durable and self._backoff.failures and not self.transport.state.connected:
            return True  # nobody there: the next run finds it all in the spool
        return not (self._window or self._behind)

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
            self._waiting_since_s = trio.current_time() if self._something_waits() else None
            self._more.set()
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

    async def _read_back(self) -> None:
        window = self._window
        size_bytes = max(1, min(window.room_bytes, max(READ_BYTES, self.transport.batch_bytes)))
        async with self._log_lock:
            back = await self._ask_log(partial(self._log.read, window.handed, size_bytes))
            for entry in back.entries:
                self._hold(entry)
            window.handed = back.position
            self._behind = not back.at_end
            self._accounts.spooled_events -= back.lost.total_events
            self._accounts.give_up(back.lost)
        if not window:
            window.pass_over()
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

    async def _watch_log(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            if self._hangs():
                self._shed()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            async with self._log_lock:
                took_s = await self._ask_log(self._care())
            if took_s is not None:
                self._accounts.stats.fsync_duration.observe(took_s)
            self._more.set()

    def _care(self) -> Callable[[], float | None]:
        """What the log is told once in a while, as one job."""
        settled, rejected = self._window.settled, self._accounts.take_rejected()
        tell = settled != self._told
        self._told = settled

        def job() -> float | None:
            if tell or rejected:
                self._log.acknowledge(settled, rejected)
            return self._log.tick()

        return job

    async def _leave(self) -> None:
        """The end: what is not delivered goes into the spool, or is counted."""
        accounts = self._accounts
        if not self._ended:
            self._tell_untold()
            while self._intake and self._log.durable:
                chunk = self._intake.front(math.inf, at_least_one=True)
                if await self._append(chunk) < len(chunk):
                    break
            async with self._log_lock:
                self._take_in(await self._ask_log(self._log.finish))
        accounts.give_up(self._intake.clear(SHUTDOWN))
        lost = self._window.clear(SHUTDOWN, gone_only=self._log.durable)
        if self._log.durable:
            accounts.spooled_events -= lost.total_events
        accounts.give_up(lost)
        await self._ask_log(self._care())
        if accounts.spooled_events:
            logger.warning("what a sink did not deliver stays in its spool, for the next run", extra={"fields": {
                "sink": self.name, "events": accounts.spooled_events, "why": self.transport.state.last_error,
            }})  # fmt: skip

    def _something_waits(self) -> bool:
        return bool(self._intake or self._window or self._behind)

    def _note_waiting(self) -> None:
        if self._waiting_since_s is None:
            self._waiting_since_s = trio.current_time()
