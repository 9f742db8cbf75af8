"""The scheduler: waits for all rings cheaply, and visits in one hop every stream that is ready.

    watch (one task a ring)     wait_readable at the kernel's watermark ─┐
    tick  (one task)            flush interval, ledger samples           ├─> ready slots ─> hop ─> blocks
    feed  (while starving)      budget for the next block               ─┘

A stream is in one hop at a time. Nothing is read while the budget has no room
for the next block: the kernel's ring absorbs, and what it overwrites then is in
the ledger.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import trio

from collector.capture.budget import ByteBudget
from collector.capture.stream import Stream
from collector.capture.visit import Ask, Visit, Worker
from collector.capture.worker import Workers

logger = logging.getLogger(__name__)

# A hop costs about 0.3 ms however much it does, so it should do much; but another CPU waits for its end.
# 16 MiB are some 6 ms of decoding and encoding.
VISIT_BYTES = 16 << 20

# How often the final drain looks at a ring that is not empty yet.
DRAIN_PAUSE_S = 0.01

# read() on a CPU that was never online says ENODEV; its poll is always ready. Everything else is a surprise.
QUIET_ERRNOS = frozenset({errno.ENODEV})

Emit = Callable[[Stream, Visit], None]


class _Slot:
    """A stream and where it is on its way."""

    __slots__ = ("again", "ask", "busy", "done", "errno", "retry", "starving", "stream", "visited_s")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.ask: Ask | None = None  # queued with this
        self.again: Ask | None = None  # asked for while in a hop
        self.busy = False  # in a hop
        self.starving = False  # waits for the budget; then it is neither queued nor busy
        self.done = trio.Event()  # the visit that was asked for has ended
        self.errno: int | None = None  # of the last visit; until the next tick the stream is left alone
        self.retry = trio.Event()  # the next tick
        self.visited_s = time.monotonic()  # end of the last visit


class Capture:
    """Reads all streams until cancelled.

    Args:
      streams: of all instances.
      workers: threads that do the visits.
      budget: blocks wait for it in turn.
      emit: called in the event loop with what each visit brought.
      flush_interval_s, stats_interval_s: see the configuration.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        workers: Workers[Worker],
        budget: ByteBudget,
        emit: Emit,
        flush_interval_s: float,
        stats_interval_s: float,
    ) -> None:
        self.blocked_s = 0.0  # time that streams waited for the budget, added up
        self._slots = [_Slot(stream) for stream in streams]
        self._workers = workers
        self._budget = budget
        self._emit = emit
        self._flush_interval_s = flush_interval_s
        self._stats_interval_s = stats_interval_s
        self._ready: dict[_Slot, None] = {}  # in the order of asking
        self._work = trio.Event()
        self._idle = 0  # servers without work

    @property
    def starving(self) -> int:
        """Streams that wait for the budget: the sink is slower than the rings fill."""
        return sum(slot.starving for slot in self._slots)

    def stalled_s(self) -> float:
        """For how long the slowest stream that is not starving was not visited."""
        now_s = time.monotonic()
        return max((now_s - slot.visited_s for slot in self._slots if not slot.starving), default=0.0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once every stream was visited."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._workers.count):
                nursery.start_soon(self._serve, nursery)
            first = [self._submit(slot, Ask.FLUSH | Ask.SAMPLE) for slot in self._slots]
            for done in first:
                await done.wait()
            for slot in self._slots:
                if slot.stream.is_live:
                    nursery.start_soon(self._watch, slot)
            nursery.start_soon(self._tick)
            task_status.started()

    async def drain(self, stream: Stream) -> bool:
        """Read a stream to its end and close its block; True when nothing is left in the kernel.

        For a stream whose tracing has stopped, when run() has ended; under the caller's deadline.
        """
        ask = Ask.FLUSH | Ask.SAMPLE
        while True:
            visit = await self._visit_one(stream, ask)
            empty = visit.at_end and (visit.sample is None or visit.sample.kernel.entries == 0)
            if visit.starved_bytes:
                stream.lease = await self._budget.take(visit.starved_bytes)
            elif ask & Ask.CLOSE:
                return empty or visit.errno in QUIET_ERRNOS
            elif empty or visit.errno is not None:
                ask |= Ask.CLOSE
            elif visit.at_end:
                await trio.sleep(DRAIN_PAUSE_S)
            else:  # a visit cannot be cancelled, and a ring of many visits must not outlast the deadline
                await trio.lowlevel.checkpoint_if_cancelled()

    async def close_block(self, stream: Stream) -> None:
        """Close the block of a stream that could not be drained in time, and sample it as it is."""
        visit = await self._visit_one(stream, Ask.CLOSE | Ask.SAMPLE, max_bytes=0)
        if visit.starved_bytes:
            stream.lease = await self._budget.take(visit.starved_bytes)
            await self._visit_one(stream, Ask.CLOSE | Ask.SAMPLE, max_bytes=0)

    async def _visit_one(self, stream: Stream, ask: Ask, max_bytes: int = VISIT_BYTES) -> Visit:
        visit = await self._workers.run(partial(stream.visit, ask=ask, max_bytes=max_bytes))
        self._emit(stream, visit)
        return visit

    def _submit(self, slot: _Slot, ask: Ask) -> trio.Event:
        """Ask for a visit; the event tells when it has been made."""
        if slot.busy or slot.starving:
            slot.again = ask | (slot.again or Ask.READ)
        elif slot.ask is not None:
            slot.ask |= ask
        else:
            slot.ask = ask
            slot.done = trio.Event()
            self._ready[slot] = None
            self._work.set()
        return slot.done

    async def _watch(self, slot: _Slot) -> None:
        while True:
            await trio.lowlevel.wait_readable(slot.stream.fd)
            await self._submit(slot, Ask.READ).wait()
            if slot.errno is not None:
                await slot.retry.wait()

    async def _tick(self) -> None:
        next_sample_s = time.monotonic() + self._stats_interval_s
        while True:
            await trio.sleep(self._flush_interval_s)
            ask = Ask.FLUSH
            if time.monotonic() >= next_sample_s:
                ask |= Ask.SAMPLE
                next_sample_s = time.monotonic() + self._stats_interval_s
            for slot in self._slots:
                slot.errno = None
                slot.retry.set()
                slot.retry = trio.Event()
                self._submit(slot, ask)

    async def _serve(self, nursery: trio.Nursery) -> None:
        while True:
            self._idle += 1
            while not self._ready:
                if self._work.is_set():
                    self._work = trio.Event()
                await self._work.wait()
            # Quiet streams go together, a hop each would cost more than the work; busy ones are shared out.
            share = -(-len(self._ready) // self._idle) if self._is_busy() else len(self._ready)
            self._idle -= 1
            slots = self._take(share)
            visits = await self._workers.run(partial(_visit_all, slots))
            for slot, visit in zip(slots, visits, strict=True):
                self._finish(slot, visit, nursery)

    def _is_busy(self) -> bool:
        """Whether a stream is ready for its watermark, not only for the flush."""
        return any(slot.ask == Ask.READ for slot in self._ready)

    def _take(self, share: int) -> list[_Slot]:
        slots = list(self._ready)[:share]
        for slot in slots:
            del self._ready[slot]
            slot.busy = True
        return slots

    def _finish(self, slot: _Slot, visit: Visit, nursery: trio.Nursery) -> None:
        ask, slot.ask = slot.ask, None
        slot.busy = False
        slot.visited_s = time.monotonic()
        self._emit(slot.stream, visit)
        if visit.errno is not None and slot.errno != visit.errno:
            self._note_errno(slot, visit.errno)
        if visit.starved_bytes:
            slot.starving = True
            slot.again = (ask or Ask.READ) | (slot.again or Ask.READ)
            nursery.start_soon(self._feed, slot, visit.starved_bytes)
            return
        slot.done.set()
        if not slot.stream.is_live and not visit.at_end and visit.errno is None:
            slot.again = slot.again or Ask.READ  # no watermark will ask for the rest
        if slot.again is not None:
            ask, slot.again = slot.again, None
            self._submit(slot, ask)

    async def _feed(self, slot: _Slot, size_bytes: int) -> None:
        """Wait for the budget of a starving stream's block, then let it go on."""
        began_s = time.monotonic()
        slot.stream.lease = await self._budget.take(size_bytes)
        self.blocked_s += time.monotonic() - began_s
        slot.starving = False
        slot.visited_s = time.monotonic()
        done, ask = slot.done, slot.again or Ask.READ
        slot.again = None
        self._submit(slot, ask)
        slot.done = done  # whoever waits goes on waiting for the visit that was asked for

    def _note_errno(self, slot: _Slot, number: int) -> None:
        slot.errno = number
        if number not in QUIET_ERRNOS:
            logger.warning(
                "cannot read a ring; trying again at each flush",
                extra={
                    "fields": {
                        "instance": slot.stream.key.instance,
                        "cpu": slot.stream.key.cpu,
                        "error": os.strerror(number),
                    }
                },
            )


def _visit_all(slots: Sequence[_Slot], worker: Worker) -> list[Visit]:
    return [slot.stream.visit(worker, slot.ask or Ask.READ, VISIT_BYTES) for slot in slots]
