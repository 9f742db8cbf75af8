"""A stream on pages made by hand, and what its blocks hold when they are decoded again."""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import lz4.block
import zstandard

from collector.archive.block import decode_block
from collector.archive.objects import FormatObject, build_object, parse_format, parse_object
from collector.batch import Block, StreamKey
from collector.capture.budget import ByteBudget
from collector.capture.formats import FormatBook, Renewal
from collector.capture.stream import Stream
from collector.capture.visit import Ask, Visit, Worker
from collector.decode import ring
from collector.decode.columns import Encoder
from collector.decode.plan import common_head
from collector.ledger import KernelCounts
from collector.tracefs.formats import EventFormat, parse_event_format
from collector.tracefs.layout import parse_header_page
from collector.tracefs.stats import CpuStats
from tests import pages as made
from tests import reference

RUN = bytes(range(16))
MIB = 1 << 20

# (ts, event id, flags, preempt count, pid, fields or the whole record)
Row = tuple[int, int, int, int, int, Any]


def make_worker(codec: str = "none") -> Worker:
    compress: dict[str, Callable[[Any], bytes]] = {
        "none": bytes,
        "zstd": zstandard.ZstdCompressor(level=1).compress,
        "lz4": lambda data: lz4.block.compress(data, store_size=False),
    }
    return Worker(Encoder(), compress[codec], codec)


def page(
    entries: int = 1, ts: int = 1000, *, size: int = 4096, pid: int = 7, lost: bool = False, count: int | None = None
) -> bytes:
    """A sub-buffer of entries without fields, 10 apart."""
    data = made.build_data(made.build_record(505, pid=pid), 10) * entries
    return made.build_page(data, ts, size=size, lost=lost, count=count)


def full_page(ts: int = 1000, *, size: int = 4096, lost: bool = False, count: int | None = None) -> bytes:
    """A sub-buffer that the writer has left; with room for the count of lost entries."""
    return page((size - 16 - 8) // 12, ts, size=size, lost=lost, count=count)


def noisy_page(ts: int = 1000, entries: int = 67) -> bytes:
    """A sub-buffer of random bytes, which no column makes smaller; full with 67 entries."""
    dice = random.Random(ts)
    records = (made.build_record(504, dice.randbytes(48), pid=dice.randrange(1 << 31)) for _ in range(entries))
    return made.build_page(b"".join(made.build_data(record, dice.randrange(1 << 27)) for record in records), ts)


FULL_ENTRIES = (4096 - 16 - 8) // 12  # of full_page()
NOISY_ENTRIES = 67  # of noisy_page()
MALFORMED = made.build_page(b"", commit=5000)


@cache
def made_formats() -> dict[int, EventFormat]:
    return {f.id: f for f in (parse_event_format(text, system, 8) for (system, _), text in made.FORMATS.items())}


@contextmanager
def as_ring(*, blocking: bool = False) -> Iterator[tuple[int, Callable[[bytes], None]]]:
    """(fd, feed): a pipe that stands in for a ring: empty it says EAGAIN."""
    reader, writer = os.pipe2(os.O_CLOEXEC | (0 if blocking else os.O_NONBLOCK))
    try:
        yield reader, lambda data: _write_all(writer, data)
    finally:
        os.close(reader)
        os.close(writer)


def _write_all(fd: int, data: bytes) -> None:
    assert os.write(fd, data) == len(data), "a pipe holds 64 KiB"


class FailingBatch(ring.Batch):
    """A batch whose read() fails with an errno as long as one is set."""

    errno: int | None = None

    def fill(self, fd: int, max_bytes: int) -> tuple[int, int | None]:
        return (ring.FAILED, self.errno) if self.errno is not None else super().fill(fd, max_bytes)


@dataclass
class Rig:
    """A stream and everything around it."""

    fd: int
    subbuf_size: int = 4096
    room_pages: int = 16
    budget: ByteBudget = field(default_factory=lambda: ByteBudget(64 * MIB))
    block_age_s: float = float("inf")
    stats: CpuStats | None = None  # what the kernel says; None: it says nothing
    base: KernelCounts = KernelCounts()  # noqa: RUF009  (frozen)
    codec: str = "none"
    cpu: int = 0
    formats: dict[int, EventFormat] = field(default_factory=made_formats)
    renewable: bool = False  # the formats may change while it runs

    def __post_init__(self) -> None:
        layout = parse_header_page(made.HEADER_PAGE.format(data_size=self.subbuf_size - made.HEADER_SIZE))
        make_plan = partial(ring.Plan, layout, common_head(made_formats()[505]))
        self.plan = make_plan()
        self.asked_for: list[int] = []  # ids whose format was looked up
        renewal = Renewal(make_plan, self._reread, lambda system, name: system == "probes") if self.renewable else None
        self.book = FormatBook(self.plan, self._format, lambda value: build_object("format", value), renewal)
        self.evidence: list[tuple[StreamKey, str, bytes]] = []
        self.batch = FailingBatch(
            self.plan, self.subbuf_size * self.room_pages, self.plan.entries_per_page * self.room_pages
        )
        self.worker = make_worker(self.codec)
        self.stream = Stream(
            StreamKey(RUN, "i", self.cpu),
            self.fd,
            self.batch,
            self.book,
            None if self.stats is None else self._read_stats,
            self.base,
            self.budget,
            lambda *kept: self.evidence.append(kept),
            self.block_age_s,
        )

    def visit(self, ask: Ask = Ask.READ, max_bytes: int = 16 * MIB) -> Visit:
        return self.stream.visit(self.worker, ask, max_bytes)

    def say(self, *, entries: int = 0, overrun: int = 0, read: int = 0, dropped: int = 0) -> None:
        """What the stats file says from now on."""
        self.stats = make_stats(entries=entries, overrun=overrun, read=read, dropped=dropped)

    def rows(self, blocks: Iterable[Block]) -> list[Row]:
        """The entries of blocks, with the fields as the archive's reader gives them."""
        return [row for block in blocks for row in decode_rows(block, self.objects(block))]

    def objects(self, block: Block) -> dict[bytes, FormatObject]:
        """The format objects that a block needs."""
        bodies = {kind.format_id: self.book.object_body(kind.format_id) for kind in block.kinds}
        return {key: parse_format(parse_object(body)) for key, body in bodies.items() if body is not None}

    def _format(self, event_id: int) -> EventFormat | None:
        self.asked_for.append(event_id)
        return self.formats.get(event_id)

    def _reread(self, event_id: int, system: str, name: str) -> EventFormat | None:
        found = self.formats.get(event_id)
        return found if found is not None and (found.system, found.name) == (system, name) else None

    def _read_stats(self) -> CpuStats:
        assert self.stats is not None
        return self.stats


def make_stats(*, entries: int = 0, overrun: int = 0, read: int = 0, dropped: int = 0) -> CpuStats:
    return CpuStats(entries, overrun, 0, 0, None, None, dropped, read, True)


def decode_rows(block: Block, objects: dict[bytes, FormatObject]) -> Iterator[Row]:
    for e in decode_block(block.body, objects).entries():
        values = [column[e.row] for column in e.kind.columns]
        names = [f.name for f in e.format.columns]
        fields = values[0] if e.mode else dict(zip(names, values, strict=True))
        yield e.ts, e.format.event_id, e.flags, e.preempt_count, e.pid, fields


def blocks_of(*visits: Visit) -> list[Block]:
    return [block for visit in visits for block, _ in visit.blocks]


def slow_rows(pages: bytes, subbuf_size: int = 4096) -> tuple[list[Row], reference.Decoded]:
    """The entries of pages by the slow decoder."""
    layout, formats = slow_side(subbuf_size)
    got = reference.decode_pages(pages, layout, formats)
    return [
        (e.ts, e.id, e.flags, e.preempt_count, e.pid, e.record if e.fields is None else e.fields) for e in got.entries
    ], got


@cache
def slow_side(subbuf_size: int) -> tuple[reference.Layout, dict[int, reference.Format]]:
    formats = [reference.read_format(system, text, 8) for (system, _), text in made.FORMATS.items()]
    header = made.HEADER_PAGE.format(data_size=subbuf_size - made.HEADER_SIZE)
    return reference.read_layout(header), {f.id: f for f in formats}
