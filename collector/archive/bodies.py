"""What the bodies of a segment's records say, checked and typed; docs/segment-format.md has every key. Pure."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from collector.archive.fields import Fields, unpack
from collector.archive.totals import StreamId, Totals, parse_totals
from collector.batch import MODE_RAW, MODE_TYPED, KindCount, Missed
from collector.errors import SegmentError

FORMAT = "ftrace-segment"
VERSION = 1

Bytes = bytes | memoryview

# Maps and arrays in a body at most: an empty one has a byte there and 60 in memory. A footer has one for each record.
_PARTS = {"header": 1 << 18, "block": 1 << 20, "gap": 256, "coverage": 256, "sample": 256, "footer": 1 << 22}


@dataclass(frozen=True, slots=True)
class Clock:
    """The trace clock of an instance."""

    name: str
    unit: str  # ns, ticks10ms, count, cycles

    @property
    def is_ns(self) -> bool:
        return self.unit == "ns"


class KernelBase(NamedTuple):
    """A stream's counters in per_cpu/cpuN/stats as the run found them; entries since the ring's last reset."""

    read: int
    overrun: int
    dropped: int
    commit_overrun: int


@dataclass(frozen=True, slots=True)
class Header:
    """A segment's first record."""

    run: bytes
    segment: int  # number of the segment in its run
    host: str
    boot_id: str
    kernel: str
    created_ns: int  # wall time
    tool: str
    clocks: dict[str, Clock]  # {instance: clock}
    streams: tuple[StreamId, ...]
    bases: dict[StreamId, KernelBase]  # the kernel's counters when the run began, where they are stored
    opening: dict[StreamId, Totals]
    recorders: frozenset[str] = frozenset()  # instances whose kernel's counts are known at the end alone, or never


@dataclass(frozen=True, slots=True)
class BlockHead:
    """A block's body but for its columns."""

    run: bytes
    stream: StreamId
    number: int
    ordinal: int
    entries: int
    first_ts: int
    last_ts: int
    raw_bytes: int
    gaps: tuple[Missed, ...]
    kinds: tuple[KindCount, ...]
    codec: str
    size_bytes: int  # of the columns, uncompressed
    cols: bytes


@dataclass(frozen=True, slots=True)
class GapBody:
    """Loss that no page shows."""

    run: bytes
    stream: StreamId
    cause: str
    count: int | None
    from_ts: int | None
    to_ts: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class CoverageBody:
    """From when to when a stream was observed."""

    run: bytes
    stream: StreamId
    from_ts: int
    to_ts: int | None
    state: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class SampleBody:
    """The ledger of a stream at one moment."""

    run: bytes
    stream: StreamId
    at_ns: int
    totals: Totals


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Where a record stands; the numbers are 0 where the kind of record has none."""

    offset: int
    kind: int
    stream: int  # position in the footer's streams; -1: of no stream
    number: int
    entries: int
    first_ts: int
    last_ts: int


@dataclass(frozen=True, slots=True)
class StreamFooter:
    """What one segment holds of one stream."""

    stream: StreamId
    opening: Totals
    closing: Totals
    by_event: dict[str, int]  # {"system:name": entries}
    first_ts: int | None
    last_ts: int | None


@dataclass(frozen=True, slots=True)
class Footer:
    """The record before the trailer."""

    run: bytes
    segment: int
    index: tuple[IndexEntry, ...]
    streams: tuple[StreamFooter, ...]
    sealed_ns: int
    reason: str
    last: bool
    records_crc: int


def _stream(top: Fields) -> StreamId:
    return top.text("inst"), top.integer("cpu", 0, 65535)


def parse_header(body: Bytes) -> Header:
    """Raises SegmentError when the body is not the header of a version 1 segment."""
    top = Fields(unpack(body, "header", _PARTS["header"]), "header")
    if top.text("format") != FORMAT:
        raise SegmentError("not a segment", expected=FORMAT, got=repr(top.text("format")))
    version = top.integer("version")
    if version != VERSION:
        raise SegmentError(
            "a segment of another version", expected=str(VERSION), got=str(version), hint="read it with a newer version"
        )
    clocks: dict[str, Clock] = {}
    bases: dict[StreamId, KernelBase] = {}
    recorders: set[str] = set()
    for name in top.map("instances"):
        of = top.fields("instances").fields(name)
        for cpu, *counts in of.rows("base", int, int, int, int, int) if of.has("base") else ():
            bases[(str(name), cpu)] = KernelBase(*counts)
        if of.has("kernel_counts") or (of.has("read") and of.text("read") == "snapshot"):
            recorders.add(str(name))
        clocks[str(name)] = Clock(of.text("clock"), of.text("clock_unit"))
    streams = tuple((str(name), int(cpu)) for name, cpu in top.rows("streams", str, int))
    opening = [parse_totals(value, "header: opening") for value in top.array("opening")]
    if len(opening) != len(streams) or len(set(streams)) != len(streams):
        expected = f"totals of {len(streams)} different streams"
        raise SegmentError("header: opening", expected=expected, got=str(len(opening)))
    return Header(
        top.binary("run", 16), top.integer("segment"), top.text("host"), top.text("boot_id"), top.text("kernel"),
        top.integer("created_ns"), top.text("tool"), clocks, streams, bases, dict(zip(streams, opening, strict=True)),
        frozenset(recorders),
    )  # fmt: skip


def parse_block(body: Bytes) -> BlockHead:
    """Raises SegmentError when the body is not a block's; the columns are not looked at."""
    top = Fields(unpack(body, "block", _PARTS["block"]), "block")
    entries = top.integer("n")
    gaps = []
    for at, lost, source in top.rows("gaps", int, (int, type(None)), str):
        if not 0 <= at <= entries or (lost is not None and lost < 0):
            raise SegmentError("block: gaps", expected=f"a place from 0 to {entries}", got=f"{at}, {lost}")
        gaps.append(Missed(at, lost, source))
    kinds = [KindCount(*row) for row in top.rows("kinds", bytes, int, int)]
    if any(k.mode not in (MODE_TYPED, MODE_RAW) or k.entries < 0 for k in kinds):
        raise SegmentError("block: kinds", expected="mode 0 or 1 and a count", got=repr(kinds)[:60])
    if sum(k.entries for k in kinds) != entries:
        raise SegmentError("block: kinds", expected=f"{entries} entries in all", got=str(sum(k.entries for k in kinds)))
    return BlockHead(
        top.binary("run", 16), _stream(top), top.integer("no"), top.integer("ord"), entries, top.integer("t0"),
        top.integer("t1"), top.integer("raw"), tuple(gaps), tuple(kinds), top.text("codec"), top.integer("size"),
        top.binary("cols"),
    )  # fmt: skip


def parse_gap(body: Bytes) -> GapBody:
    """Raises SegmentError when the body is not a gap's."""
    top = Fields(unpack(body, "gap", _PARTS["gap"]), "gap")
    return GapBody(
        top.binary("run", 16), _stream(top), top.text("cause"), top.maybe_integer("count"),
        top.maybe_integer("from_ts"), top.maybe_integer("to_ts"), top.text("detail"),
    )  # fmt: skip


def parse_coverage(body: Bytes) -> CoverageBody:
    """Raises SegmentError when the body is not a coverage record's."""
    top = Fields(unpack(body, "coverage", _PARTS["coverage"]), "coverage")
    return CoverageBody(
        top.binary("run", 16), _stream(top), top.integer("from_ts"), top.maybe_integer("to_ts"), top.text("state"),
        top.integer("at_ns"),
    )  # fmt: skip


def parse_sample(body: Bytes) -> SampleBody:
    """Raises SegmentError when the body is not a sample's."""
    top = Fields(unpack(body, "sample", _PARTS["sample"]), "sample")
    totals: Any = top.map("totals")
    return SampleBody(top.binary("run", 16), _stream(top), top.integer("at_ns"), parse_totals(totals, "sample: totals"))


def parse_footer(body: Bytes) -> Footer:
    """Raises SegmentError when the body is not a footer's."""
    top = Fields(unpack(body, "footer", _PARTS["footer"]), "footer")
    streams = []
    for value in top.array("streams"):
        of = Fields(value, "footer: stream")
        opening = parse_totals(of.map("opening"), "footer: opening")
        closing = parse_totals(of.map("closing"), "footer: closing")
        streams.append(
            StreamFooter(
                _stream(of), opening, closing, of.counts("by_event"), of.maybe_integer("t0"), of.maybe_integer("t1")
            )
        )
    index = [IndexEntry(*row) for row in top.rows("index", int, int, int, int, int, int, int)]
    if any(not -1 <= e.stream < len(streams) or min(e.offset, e.entries) < 0 for e in index):
        raise SegmentError("footer: index", expected=f"a stream below {len(streams)}", got="another")
    return Footer(
        top.binary("run", 16), top.integer("segment"), tuple(index), tuple(streams), top.integer("sealed_ns"),
        top.text("reason"), top.boolean("last"), top.integer("records_crc", 0, 2**32 - 1),
    )  # fmt: skip
