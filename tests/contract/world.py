"""One run of what the daemon has behind its readers: the archive, and beside it the sink that is looked at."""

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from collector.batch import Block, StreamKey
from collector.monitor.state import SinkSnapshot
from sinks import registry
from sinks.assemble import assemble
from sinks.contract.base import SinkContext
from sinks.contract.options import SPOOL_FOLDER
from sinks.file.sink import FileSink
from sinks.runner import SinkRunner
from tests.archive.encoder import PLAIN_ID, UNKNOWN_ID, Maps, Row, build_block
from tests.contract.arrived import ENTRIES, Seen, numbers_of
from tests.contract.made import Context, InThread, gap, in_place
from tests.contract.ways import Way
from tests.crash.workload import make_policy

LIMIT_S = 60.0  # of any wait; the machine may be busy

# Short, for the tests wait for them; on a busy machine a server takes longer than a millisecond.
WAITS: dict[str, Any] = {"request_timeout_s": 2.0, "retry_first_s": 0.02, "retry_max_s": 0.2}
NO_LINGER: dict[str, Any] = {"linger_s": 0.0}

# A sync takes longer than all else that the archive does, and only who looks at the archive itself waits for it.
ARCHIVE: dict[str, Any] = {"sync_interval_s": 3600.0}


def make_block(number: int, *, run: bytes, cpu: int = 0, size_bytes: int = 0) -> Block:
    """A block that decodes.

    Args:
      size_bytes: its body has more, if this is not 0, and does not compress.
    """
    rows: list[Row] = [(1000 * number + at, 7, 0, 0, PLAIN_ID, at) for at in range(ENTRIES)]
    if size_bytes:
        rows[0] = (1000 * number, 7, 0, 0, UNKNOWN_ID, random.Random(number).randbytes(size_bytes))
    return build_block(
        rows, stream=("main", cpu), number=number, ordinal=number * ENTRIES, run=run,
        codec="none" if size_bytes else "zstd",
    )  # fmt: skip


@dataclass
class Served:
    """A receiver, and the way there."""

    way: Way
    settings: dict[str, Any]  # of the sink that sends there; empty: the archive itself is looked at
    look: Callable[[], Any]  # awaited, gives what is there
    sent: dict[tuple[bytes, int], bytes]  # what was put so far: {(run, number): body}
    in_thread: InThread = in_place  # of the archive
    archive: dict[str, Any] = field(default_factory=dict)  # how it differs from one without limits
    make_unwanted: Callable[[int, bytes], Block] | None = None  # (number, run) -> a block that it will never take
    arrives: Callable[[int], bool] = lambda number: True  # whether an acknowledged block has come

    async def numbers(self) -> list[int]:
        """Of the blocks that are there, in the order in which they came."""
        return numbers_of(await self.seen())

    async def seen(self) -> list[Seen]:
        found: list[Seen] = await self.look()
        return found


class World:
    """A run.

    Args:
      folder: of the archive and the spools; a later run finds what an earlier one left.
      run: counts the runs of a folder.
      archive: how its policy differs from the harness's.
      options: of the sink.
    """

    def __init__(
        self, served: Served, folder: Path, *, run: int = 0, archive: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self.served = served
        self.folder = folder / "archive"
        self.run = bytes([run]) * 16
        self.released = 0  # blocks that nobody holds in memory any more
        self._start = run
        self._put_events = 0
        self.options = None
        if settings := served.settings:
            self.options = registry.load_type(settings["type"]).options.model_validate(
                (NO_LINGER if settings["type"] != "objectstore" else {}) | WAITS | settings | options
            )
        self.sink = FileSink(
            make_policy(self.folder, **(ARCHIVE | served.archive | dict(archive or {}))), self._context(), Maps(),
            served.in_thread,
        )  # fmt: skip
        self._archive = SinkRunner(self.sink)
        self.fanout = assemble(
            [] if self.options is None else [self.options], self._archive, SinkContext("this-host", "1", self.folder),
            self._context, Maps(), lambda name: in_place,
        )  # fmt: skip

    @property
    def spool(self) -> Path:
        assert self.options is not None
        return self.folder / SPOOL_FOLDER / self.options.title

    def put(self, numbers: Iterable[int], **made: Any) -> None:
        for number in numbers:
            self.put_block(make_block(number, run=self.run, **made))

    def put_block(self, block: Block) -> None:
        self.served.sent[self.run, block.number] = block.body
        self._put_events += block.events
        self.fanout.put(block, self._release)

    def put_gap(self) -> None:
        self.fanout.put(gap(StreamKey(self.run, "main", 0)))

    @asynccontextmanager
    async def running(self, timeout_s: float = LIMIT_S) -> AsyncIterator["World"]:
        """From open to close.

        Args:
          timeout_s: at the end, for what is not delivered yet.
        """
        try:
            await self.sink.open()
            await self.fanout.open()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.fanout.run)
                with trio.fail_after(LIMIT_S):
                    await self.served.way.ready()
                self._scope = nursery.cancel_scope
                yield self
                self.fanout.finish(trio.current_time() + timeout_s)
            await self.fanout.close()
        finally:
            self.fanout.unlock()
            self.sink.unlock()
        assert self.ledger().residual == 0

    def cancel(self) -> None:
        """It ends, as by an error elsewhere in the daemon."""
        self._scope.cancel()

    def ledger(self) -> SinkSnapshot:
        """What became of the entries, of any sink."""
        for found in self.fanout.sinks():
            return found
        state, runner = self.sink.state, self._archive
        return SinkSnapshot(
            "archive",
            offered_events=self._put_events,
            discarded_events={"suspended": state.discarded_events},
            acked_events=state.durable_events,
            queued_events=runner.queued_events + runner.delivered_events - state.durable_events,
            request_failures={"suspended": int(state.suspended is not None)},
            connected=state.suspended is None,
            last_error=state.suspended,
        )

    @property
    def discarded_events(self) -> int:
        return sum(self.ledger().discarded_events.values())

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(LIMIT_S):
            while not condition():
                await trio.sleep(0.01)

    async def bring(self, blocks: int) -> None:
        """Put the first so many blocks of the run, and wait until they have come."""
        self.put(range(blocks))
        await self.all_acknowledged(blocks)

    async def all_offered(self, blocks: int) -> None:
        """Wait until the sink knows of so many blocks."""
        await self.until(lambda: self.ledger().offered_events == blocks * ENTRIES)

    async def all_acknowledged(self, blocks: int, last: int | None = None) -> None:
        """Wait until so many blocks have been acknowledged in this run, and have come.

        Args:
          last: number of the last of them; None: they are numbered from 0.
        """
        await self.until(lambda: self.ledger().acked_events >= blocks * ENTRIES)
        await self.until(lambda: self.served.arrives(blocks - 1 if last is None else last))

    async def failed(self) -> None:
        """Wait until the way is known to be broken."""
        await self.until(lambda: sum(self.ledger().request_failures.values()) > 0)

    def _release(self) -> None:
        self.released += 1

    def _context(self) -> Context:
        context = Context(StreamKey(self.run, "main", 0), StreamKey(self.run, "main", 1), run=self.run)
        context.created_ns += self._start * 10**12
        return context
