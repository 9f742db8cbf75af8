"""The log before a network sink: what was put into it, in order, until the receiver has acknowledged it.

    items ──append──> records (header, objects, blocks, notes) ──> entries ──> batches ──> receiver
                            └── on disk: spool.py            the runner's window, in memory

All methods of a log run in one thread, one at a time.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from collector.archive.bodies import parse_block
from collector.archive.fields import Fields, pack, unpack
from collector.archive.frame import Kind
from collector.archive.objects import END
from collector.archive.records import MapSource, RecordWriter
from collector.archive.totals import StreamId
from collector.batch import Block, Note, NoteKind, StreamKey
from collector.errors import SegmentError
from sinks.contract.base import Item, Parcel, SegmentContext
from sinks.contract.untold import Untold

# Reasons of entries that were given up.
SPOOL_FULL = "spool_full"  # the limit on disk
QUEUE_FULL = "queue_full"  # the limit in memory, without a spool
SUSPENDED = "suspended"  # the disk took nothing
DAMAGED = "damaged"  # it does not read back
REJECTED = "rejected"  # by the receiver
SHUTDOWN = "shutdown"  # it was in memory alone when the daemon ended
REASONS = (SPOOL_FULL, QUEUE_FULL, SUSPENDED, DAMAGED, REJECTED, SHUTDOWN)

# A consumer finds a header and all names at least once in so many bytes.
MEMORY_EPOCH_BYTES = 32 << 20


class Position(NamedTuple):
    """Where an entry ends in the log; positions grow."""

    segment: int  # counted since the log was opened
    offset: int  # bytes in it


START = Position(-1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A parcel in its place."""

    position: Position
    parcel: Parcel
    put_s: float | None  # time.monotonic() when it came; None: before this run


@dataclass(slots=True)
class Lost:
    """What a log gave up: {reason: amount}."""

    events: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, events: int, size_bytes: int) -> None:
        """Count a block, or several."""
        self.events[reason] = self.events.get(reason, 0) + events
        self.bytes[reason] = self.bytes.get(reason, 0) + size_bytes

    @property
    def total_events(self) -> int:
        return sum(self.events.values())


@dataclass(slots=True)
class Appended:
    """What became of items."""

    taken: int = 0  # items that are off the caller's hands; the others must wait for room
    entries: list[Entry] = field(default_factory=list)  # that are in the log now
    written_events: int = 0  # into the log; some may have had to go again
    refused: Lost = field(default_factory=Lost)  # items that were not put into the log
    dropped: Lost = field(default_factory=Lost)  # from the log, to make room; none of it was handed out
    made_room: bool = False  # segments were dropped
    oldest: int = -1  # Position.segment of what is here still: entries before are in the caller's memory alone
    vanished: bool = False  # all that was not handed out is gone: somebody has removed it


@dataclass(slots=True)
class ReadBack:
    """A piece of the log."""

    entries: list[Entry]
    position: Position  # behind the last of them, and behind what could not be read there
    at_end: bool  # nothing follows now
    lost: Lost  # what could not be read


@dataclass(frozen=True, slots=True)
class LogState:
    """What a log holds, for metrics."""

    bytes: int = 0
    segments: int = 0
    quarantined_segments: int = 0
    corrupt_records: int = 0
    corrupt_bytes: int = 0
    suspended: str | None = None  # why nothing is written now


class Backlog(Protocol):
    """See the module; `Spool` and `MemoryBacklog` are two."""

    durable: bool  # it survives this process, and reads back
    state: LogState

    def open(self) -> int:
        """Get ready; gives the entries (events) that earlier runs left here, unacknowledged.

        Raises:
          CollectorError: it cannot be used at all.
        """
        ...

    def append(self, items: Sequence[Item], handed: Position) -> Appended:
        """Put items into the log.

        Args:
          handed: the last position that the caller has an entry of; what lies behind it may have to make room.
        """
        ...

    def read(self, after: Position, max_bytes: int) -> ReadBack:
        """Give entries behind a position: at least one, where there is one."""
        ...

    def acknowledge(self, position: Position, rejected: Sequence[Position]) -> None:
        """Everything up to here is off our hands; of `rejected`, because the receiver will not have it."""
        ...

    def tick(self) -> float | None:
        """Once in a while: makes durable what is due; gives the seconds that a sync took, None where none was due."""
        ...

    def finish(self) -> Appended:
        """Put what ends the run behind the rest; no item follows."""
        ...

    def close(self) -> None:
        """Leave everything so that the next run finds it; also after a failure half-way, and twice."""
        ...


class MemoryBacklog:
    """A log that holds nothing itself: its entries are in the runner's window alone."""

    durable = False
    state = LogState()

    def __init__(self, context: SegmentContext, maps: MapSource, repeat_interval_s: float) -> None:
        """Args:
        repeat_interval_s: header and objects are put into the log again this often.
        """
        self._context = context
        self._maps = maps
        self._repeat_interval_s = repeat_interval_s
        self._writer: ParcelWriter | None = None
        self._number = 0
        self._samples: dict[StreamId, Note] = {}  # {stream: the last one}
        self._opened_s = 0.0

    def open(self) -> int:
        return 0

    def append(self, items: Sequence[Item], handed: Position) -> Appended:
        """Turn items into entries; there is always room, the caller sees to the memory."""
        done = Appended()
        now_s = time.monotonic()
        for item in items:
            if isinstance(item, Note) and item.kind is NoteKind.SAMPLE:
                self._samples[(item.stream.instance, item.stream.cpu)] = item
            writer = self._ready(done, now_s)
            if isinstance(item, Block):
                writer.write_block(item, self._maps)
            else:
                writer.write_note(item)
            done.taken += 1
            self._take(writer, done, now_s)
        return done

    def read(self, after: Position, max_bytes: int) -> ReadBack:
        return ReadBack([], after, True, Lost())

    def acknowledge(self, position: Position, rejected: Sequence[Position]) -> None: ...

    def tick(self) -> float | None:
        return None

    def finish(self) -> Appended:
        done = Appended()
        if self._writer is not None:
            for note in self._context.closing_notes():
                self._writer.write_note(note)
            write_end(self._writer, self._samples, self._writer.run)
            self._take(self._writer, done, time.monotonic())
        return done

    def close(self) -> None: ...

    def _ready(self, done: Appended, now_s: float) -> "ParcelWriter":
        old = self._writer
        if old is not None and (
            old.size_bytes >= MEMORY_EPOCH_BYTES or now_s - self._opened_s >= self._repeat_interval_s
        ):
            for note in self._context.closing_notes():
                old.write_note(note)
            self._take(old, done, now_s)
            self._writer = None
        if self._writer is None:
            self._writer = ParcelWriter(self._context.header(self._number, None))
            self._number += 1
            self._opened_s = now_s
            for note in self._context.opening_notes():
                self._writer.write_note(note)
        return self._writer

    def _take(self, writer: "ParcelWriter", done: Appended, now_s: float) -> None:
        number = self._number - 1
        done.entries += (Entry(Position(number, end), parcel, now_s) for end, parcel in writer.written)
        writer.written.clear()


class ParcelWriter(RecordWriter):
    """Makes parcels where a SegmentWriter makes a file."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        super().__init__()
        self.written: list[tuple[int, Parcel]] = []  # (size_bytes behind it, parcel), to be taken away
        self.size_bytes = 0
        self.run: bytes = header["run"]
        self.write_record(Kind.HEADER, header)

    def write_record(self, kind: int, body: Mapping[str, Any] | bytes) -> None:
        self._add(parcel_of_record(kind, body, self.run))

    def _put_block(self, block: Block) -> None:
        self._add(parcel_of_block(block))

    def _add(self, parcel: Parcel) -> None:
        self.size_bytes += len(parcel.body)
        self.written.append((self.size_bytes, parcel))


def write_end(writer: RecordWriter, samples: Mapping[StreamId, Note], run: bytes) -> None:
    """End a run for a receiver: what the ledger came to, and that nothing follows."""
    for sample in samples.values():
        if not sample.keep:  # else it is there already
            writer.write_note(replace(sample, keep=True))
    writer.write_object(END, {"run": run})


def parcel_of_block(block: Block) -> Parcel:
    """A block on its way; its body is shared."""
    return Parcel(
        Kind.BLOCK, block.body, block.stream.run, block.stream, block.number, block.events, block.first_ts,
        block.last_ts,
    )  # fmt: skip


def parcel_of_record(kind: int, body: Mapping[str, Any] | bytes, run: bytes) -> Parcel:
    """Any record but a block on its way.

    Args:
      body: a map, or packed already (then it is of no stream).
      run: of the segment; a record that names its own run has that.
    """
    if isinstance(body, bytes):
        return Parcel(Kind(kind), body, run)
    stream = StreamKey(body["run"], body["inst"], body["cpu"]) if "inst" in body else None
    return Parcel(Kind(kind), pack(body), stream.run if stream is not None else run, stream)


def gap_of_parcel(parcel: Parcel) -> Note:
    """The note that a gap record was made of."""
    assert parcel.stream is not None
    body = unpack(parcel.body, "gap")
    return Note(NoteKind.GAP, parcel.stream, {key: body[key] for key in body if key not in ("run", "inst", "cpu")})


def take_untold(untold: Untold) -> list[Note]:
    """The notes that a receiver has still to be told; gaps for blocks come last."""
    return [*untold.take_notes(), *untold.take_gaps(lambda blocks: "no room before this sink")]


def parse_parcel(kind: int, body: memoryview, run: bytes) -> Parcel:
    """A record that was read back.

    Raises:
      SegmentError: the body is not what the kind says, or no kind that is sent.
    """
    data = bytes(body)
    if kind == Kind.BLOCK:
        of = parse_block(data)
        return Parcel(
            Kind.BLOCK, data, of.run, StreamKey(of.run, *of.stream), of.number, of.entries, of.first_ts, of.last_ts
        )
    if kind in (Kind.GAP, Kind.COVERAGE, Kind.SAMPLE):
        top = Fields(unpack(data, "record"), "record")
        key = StreamKey(top.binary("run", 16), top.text("inst"), top.integer("cpu", 0, 65535))
        return Parcel(Kind(kind), data, key.run, key)
    if kind in (Kind.HEADER, Kind.OBJECT):
        return Parcel(Kind(kind), data, run)
    raise SegmentError("no record that is sent", got=f"kind {kind}")
