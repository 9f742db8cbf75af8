"""The contract between capture and the sinks: what a block is, and what a sink says of it. Pure."""

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class StreamKey:
    """One instance and one CPU of one run."""

    run: bytes  # random id of one start of the daemon, 16 bytes
    instance: str
    cpu: int


class Missed(NamedTuple):
    """A gap inside a batch: entries the kernel overwrote before the reader came."""

    at: int  # the batch's entry before which they are missing; = entries when at the end
    lost: int | None  # None: the kernel flagged the loss without a number
    source: str  # "page": the flag of a sub-buffer


class KindCount(NamedTuple):
    """How many entries of one event a block holds."""

    format_id: bytes  # id of the format object, 8 bytes
    mode: int  # MODE_TYPED or MODE_RAW
    entries: int


MODE_TYPED = 0  # a column per field
MODE_RAW = 1  # the record's bytes: its format is unknown, or it does not fit its format


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A batch of one stream, encoded once; every sink passes the same bytes on.

    (stream, number) names it everywhere. The body is the msgpack map that
    docs/segment-format.md specifies.
    """

    stream: StreamKey
    number: int
    ordinal: int  # of the first entry: entries of the stream before it
    events: int
    first_ts: int  # in the unit of the stream's clock
    last_ts: int
    raw_bytes: int  # of the sub-buffers it was decoded from, header included
    gaps: tuple[Missed, ...]
    kinds: tuple[KindCount, ...]
    pids: frozenset[int]  # that occur; what a segment must be able to name
    addresses: frozenset[int]  # that occur in fields which hold kernel code or the kernel's strings
    body: bytes
    # What filters by event leave of it, by the position of the filter; None: nothing.
    variants: "tuple[Block | None, ...]" = ()


class NoteKind(enum.Enum):
    """What a note is about."""

    GAP = "gap"  # loss that no page shows
    COVERAGE = "coverage"  # from when to when a stream was observed
    SAMPLE = "sample"  # a look at the ledger
    CLOCK = "clock"  # the trace clock beside the wall clock
    REPORT = "report"  # the kernel's text of a new maximum


@dataclass(frozen=True, slots=True, eq=False)
class Note:
    """What a sink that keeps an archive must know beside the blocks, in its place among them."""

    kind: NoteKind
    stream: StreamKey
    body: dict[str, Any]  # as docs/segment-format.md has it, without run, inst and cpu
    keep: bool = True  # False: a sample that only the closing totals need, not a record of its own


class Delivery(enum.IntEnum):
    """What became of a block at a sink; the worst of several is the largest."""

    DELIVERED = 0
    ERRORED = 1  # try again
    REJECTED = 2  # will never work


@dataclass(frozen=True, slots=True)
class SinkState:
    """What a sink keeps, for metrics and messages."""

    bytes: int = 0
    segments: int = 0
    oldest_s: float | None = None  # wall time of the oldest segment's start
    raw_bytes: int = 0  # sub-buffers that this run's blocks were made from
    suspended: str | None = None  # why nothing is written now
    removed_segments: int = 0  # by retention, in this run
    discarded_events: int = 0  # entries of blocks that were rejected, in this run
    written_events: int = 0  # entries of blocks that were taken, in this run
    durable_events: int = 0  # of these, those that a crash of the machine leaves
    pinned_bytes: int = 0  # of segments that retention leaves alone
    waiting_bytes: int = 0  # of segments that would be removed, but are not acknowledged by every other sink
    free_bytes: int | None = None  # on the disk
