"""A simulated host whose sink follows its archive: short segments, and the uploader that brings them away."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from collector.archive.segment import SegmentWriter
from collector.archive.totals import StreamId, Totals
from collector.batch import Block, StreamKey
from collector.monitor.state import SinkSnapshot
from sinks import registry
from sinks.contract.base import SinkContext
from sinks.objectstore.uploader import Uploader

from .recorded import Context, InThread, Job, Recorded

SEGMENT_S = 2.0  # a daemon's are longer; what counts here is the upload behind them
LOOK_S = 0.02  # how often the uploader is asked what it has done: nobody tells


class Sealed(NamedTuple):
    """A segment, as the uploader is asked for it."""

    name: str
    last_blocks: Mapping[StreamKey, int] | None = None


class ArchiveHost:
    """One whose sink is an uploader; see hosts.Host."""

    def __init__(self, job: Job, number: int, recorded: Recorded, in_thread: InThread) -> None:
        name = f"host-{number}"
        self.latencies_s: list[float] = []
        self._key = StreamKey(number.to_bytes(16, "big"), "ftrace-collector", 0)
        self._folder = Path(job.work) / name
        kind = registry.load_type(job.options["type"])
        uploader = kind.build(kind.options.model_validate(job.options), SinkContext(name, "bench", self._folder))
        assert isinstance(uploader, Uploader)
        self._uploader = uploader
        self._context = Context(self._key, name)
        self._recorded, self._in_thread = recorded, in_thread
        self._interval_s = 1 / job.blocks_per_s
        self._offset_s = self._interval_s * (number % 16) / 16  # hosts do not beat together
        self._segment_s = SEGMENT_S * (1 + number % 8 / 16)
        self._writer: SegmentWriter | None = None
        self._segments = 0  # begun
        self._closing: Mapping[StreamId, Totals] | None = None  # of the last one
        self._waiting: dict[Path, list[float]] = {}  # {sealed segment: when each of its blocks was written}
        self._finished = trio.Event()
        self._deadline_s = 0.0

    async def open(self) -> None:
        self._folder.mkdir(parents=True)

    async def run(self) -> None:
        async with trio.open_nursery() as looking:
            looking.start_soon(self._look)
            async with trio.open_nursery() as nursery:
                await nursery.start(self._uploader.run)
                await self._finished.wait()
                nursery.cancel_scope.cancel()
            with trio.move_on_at(self._deadline_s):
                await self._uploader.drain()
            self._note_done()
            looking.cancel_scope.cancel()

    async def feed(self, start_s: float, seconds: float) -> int:
        number = ordinal = 0
        written_s: list[float] = []
        seal_at_s = self._segment_s
        while (due_s := self._offset_s + number * self._interval_s) < seconds:
            if due_s >= seal_at_s:
                await self._seal(written_s, last=False)
                written_s, seal_at_s = [], due_s + self._segment_s
            await trio.sleep_until(start_s + due_s)
            block = self._recorded.block(self._key, number, ordinal)
            written_s.append(time.monotonic())
            await self._in_thread(partial(self._write, block))
            number += 1
            ordinal += block.events
        await self._seal(written_s, last=True)
        return ordinal

    def finish(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._finished.set()

    async def close(self) -> None:
        """Nothing is open: what was not uploaded is in the folder."""

    def snapshot(self) -> SinkSnapshot:
        return self._uploader.snapshot()

    async def _seal(self, written_s: list[float], last: bool) -> None:
        if written_s:
            self._waiting[await self._in_thread(partial(self._end, last))] = written_s

    async def _look(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            self._note_done()

    def _note_done(self) -> None:
        now_s = time.monotonic()
        for path in [of for of in self._waiting if self._uploader.is_acknowledged(Sealed(of.name))]:
            self.latencies_s += [now_s - written_s for written_s in self._waiting.pop(path)]

    # ---- in the archives' thread

    def _write(self, block: Block) -> None:
        if self._writer is None:
            self._writer = SegmentWriter.create(self._folder, self._context.header(self._segments, self._closing))
            self._segments += 1
        self._writer.write_block(block, self._recorded)
        self._writer.sync()

    def _end(self, last: bool) -> Path:
        assert self._writer is not None
        writer, self._writer = self._writer, None
        path = writer.seal({}, "time", last)
        self._closing = writer.closing
        return path
