"""The log's side of a network sink: brings what was put into the log, and from there into the window.

put ──> intake ──absorb──> log ──┬──────────────> window
        (leases held)       disk └──read back───> (queue_bytes)
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from collector.batch import Block
from sinks.contract.base import Item, Release
from sinks.contract.options import SinkCommon
from sinks.contract.untold import OF_LOG, Untold
from sinks.network.accounts import Accounts
from sinks.network.backlog import (
    DAMAGED,
    QUEUE_FULL,
    SHUTDOWN,
    SPOOL_FULL,
    START,
    SUSPENDED,
    Appended,
    Backlog,
    Lost,
    take_untold,
)
from sinks.network.intake import APPEND_BYTES, Intake
from sinks.network.window import Window

TICK_S = 1.0
# From one append to the next, unless there is much: each wakes the loop several times and a thread, and of a busy CPU a
# block comes a hundred times a second. Under the load of syscalls that was a tenth of what the daemon took in all.
GATHER_S = 0.05
GATHER_BYTES = 1 << 20
HANGS_S = 5.0  # a job of the log that takes so long is not the disk's usual pace

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Feeder:
    """See the module; the runner empties the window.

    Args:
      in_thread: runs a function in the log's thread and gives its result; cannot be cancelled.
      changed: called when the window has more, or all that there will be.
    """

    def __init__(
        self, log: Backlog, window: Window, accounts: Accounts, options: SinkCommon, in_thread: InThread,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self.intake = Intake()
        self.behind = False  # the log has entries that the window has not
        self.ended = False  # the log has all that there will be
        self._log, self._window, self._accounts, self._options = log, window, accounts, options
        self._in_thread, self._changed = in_thread, changed
        self._told = START  # of what is settled, what the log knows
        self._untold = Untold(OF_LOG)  # of what was given up here
        self._run = b""
        self._busy_since_s: float | None = None  # a job is in the log's thread
        self._closing = False
        self._appended_s = -math.inf  # when the last append began
        self._lock = trio.Lock()  # the order of the jobs is the order in which their results are taken
        self._more = trio.Event()  # for absorb(): items, room, or the end

    async def open(self) -> int:
        """Open the log; gives the entries that earlier runs have left there."""
        replayed: int = await self._in_thread(self._log.open)
        self._accounts.replay(replayed)
        self.behind = self._log.durable
        return replayed

    def put(self, item: Item, release: Release | None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._run = item.stream.run
        if isinstance(item, Block):
            self._accounts.offer(item)
        if self._untold and self._can_tell():
            self._tell_untold()
        self.intake.put(item, release)
        if self._hangs():
            self._shed()
        self._more.set()

    def close_intake(self) -> None:
        """No more items will be put."""
        self._closing = True
        self._more.set()

    def note_room(self) -> None:
        """There may be room where there was none."""
        self._more.set()

    async def absorb(self) -> None:
        """Bring items into the log until no more will be put, and then what ends the run."""
        while self.intake or self._untold or not self._closing:
            if self._closing:
                self._tell_untold()
            if self.intake.size_bytes < GATHER_BYTES and not self._closing:
                await trio.sleep_until(self._appended_s + GATHER_S)
            chunk = self._chunk()
            if not chunk:
                self._more = trio.Event()
                await self._more.wait()
                continue
            if await self._append(chunk) < len(chunk):
                self._more = trio.Event()
                await self._more.wait()  # a tick sets it too: room may have come about by itself
        async with self._lock:
            self._take_in(await self._ask(self._log.finish))
        self.ended = True
        self._changed()

    async def read_back(self, least_bytes: int) -> None:
        """Bring what the log has behind the window into it, as far as there is room, or so many bytes."""
        window = self._window
        size_bytes = max(1, min(window.room_bytes, least_bytes))
        async with self._lock:
            back = await self._ask(partial(self._log.read, window.handed, size_bytes))
            now_s = trio.current_time()
            for entry in back.entries:
                window.hold(entry, now_s)
            window.handed = back.position
            self.behind = not back.at_end
            self._accounts.spooled_events -= back.lost.total_events
            self._accounts.give_up(back.lost)
        if not window:
            window.pass_over()

    async def watch(self) -> None:
        """Keep what waits for a disk that hangs within bounds, until cancelled."""
        while True:
            await trio.sleep(TICK_S)
            if self._hangs():
                self._shed()

    async def tick(self) -> None:
        """Tell the log what is settled, and let it sync, about once a second until cancelled."""
        while True:
            await trio.sleep(TICK_S)
            async with self._lock:
                took_s = await self._ask(self._care())
            if took_s is not None:
                self._accounts.stats.fsync_duration.observe(took_s)
            self._more.set()

    async def leave(self) -> None:
        """The end: what is not delivered goes into the spool, or is counted."""
        accounts = self._accounts
        if not self.ended:
            self._tell_untold()
            while self.intake and self._log.durable:
                chunk = self.intake.front(math.inf, at_least_one=True)
                if await self._append(chunk) < len(chunk):
                    break
            async with self._lock:
                self._take_in(await self._ask(self._log.finish))
        accounts.give_up(self.intake.clear(SHUTDOWN))
        lost = self._window.clear(SHUTDOWN, gone_only=self._log.durable)
        if self._log.durable:
            accounts.spooled_events -= lost.total_events
        accounts.give_up(lost)
        await self._ask(self._care())

    async def close(self) -> None:
        """Close the log."""
        await self._in_thread(self._log.close)

    # ---- into the log

    async def _ask(self, job: Callable[[], Any]) -> Any:
        """Run a job in the log's thread; one at a time."""
        self._busy_since_s = trio.current_time()
        try:
            return await self._in_thread(job)
        finally:
            self._busy_since_s = None

    async def _append(self, chunk: Sequence[Item]) -> int:
        async with self._lock:
            self._appended_s = trio.current_time()
            done: Appended = await self._ask(partial(self._log.append, chunk, self._window.handed))
            self.intake.take(done.taken)
            self._take_in(done)
        return done.taken

    def _chunk(self) -> list[Item]:
        """The next items to go into the log, as far as the policy lets them."""
        window = self._window
        is_empty = not window.held_bytes  # what is larger than the whole window goes alone
        if self._log.durable or self._options.when_full == "drop_oldest":
            return self.intake.front(math.inf, at_least_one=True)
        if self._options.when_full == "drop_newest":
            self._accounts.give_up(
                self.intake.refuse(window.room_bytes, QUEUE_FULL, self._untold, at_least_one=is_empty)
            )
        return self.intake.front(window.room_bytes, at_least_one=is_empty)

    def _take_in(self, done: Appended) -> None:
        """Take over what the log made of items."""
        window, accounts = self._window, self._accounts
        accounts.give_up(done.refused)
        if self._log.durable:
            self._take_losses(done)
        now_s = trio.current_time()
        for entry in done.entries:
            if self.behind:
                break
            if self._log.durable and not window.has_room(entry):
                self.behind = True
                break
            window.hold(entry, now_s)
        if not self._log.durable and self._options.when_full == "drop_oldest":
            accounts.give_up(window.drop_oldest(self._untold))
        self._changed()

    def _take_losses(self, done: Appended) -> None:
        """Count what the spool has, and what it had to give up."""
        window, accounts = self._window, self._accounts
        if done.vanished:
            gone = Lost()
            gone.add(DAMAGED, accounts.spooled_events - window.held_events, 0)
            accounts.spooled_events = window.held_events
            accounts.give_up(gone)
            self.behind = False
        accounts.spooled_events += done.written_events - done.dropped.total_events
        accounts.give_up(done.dropped)
        window.oldest = done.oldest
        if done.made_room:
            lost = window.drop_gone(SPOOL_FULL, self._untold)
            accounts.spooled_events -= lost.total_events
            accounts.give_up(lost)

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

    # ---- a disk that hangs, and what was given up

    def _hangs(self) -> bool:
        """Whether the spool's disk does: what waits for it takes the memory that the archive needs."""
        since_s = self._busy_since_s
        return self._options.when_full != "block" and since_s is not None and trio.current_time() - since_s >= HANGS_S

    def _shed(self) -> None:
        """Give up what is too much to wait for a disk that hangs."""
        room_bytes = min(APPEND_BYTES, self._options.queue_bytes)
        self._accounts.give_up(self.intake.refuse(room_bytes, SUSPENDED, self._untold, at_least_one=True))

    def _can_tell(self) -> bool:
        """Whether what was given up came to an end: a gap for each block of a long outage would be as many again."""
        if self._log.durable:
            return not self._hangs()
        return self._window.room_bytes >= self._window.limit_bytes // 2

    def _tell_untold(self) -> None:
        """Queue gaps for what was given up here; of an earlier run nothing follows that could say it."""
        for note in take_untold(self._untold):
            if note.stream.run == self._run:
                self.intake.put(note, None)
