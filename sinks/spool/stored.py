"""What a spool knows of one of its segments without reading it. Pure."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from collector.batch import StreamKey
from sinks.contract.base import Parcel

# Latency of what was read back is known to that many bytes of the log.
MARK_BYTES = 256 << 10


class StoredBlock(NamedTuple):
    """A block in a segment."""

    offset: int  # of its record
    stream: StreamKey
    events: int
    first_ts: int
    last_ts: int


class BlockIndex:
    """The blocks of a segment in the order of their offsets, some 40 bytes for each.

    In memory, so that what is lost with a file can be counted when the file is gone or does not read.
    """

    def __init__(self) -> None:
        self._streams: list[StreamKey] = []
        self._positions: dict[StreamKey, int] = {}
        self._stream = array("H")  # position in _streams
        self._offsets = array("q")
        self._events = array("q", [0])  # of all blocks before this one
        self._first_ts, self._last_ts = array("Q"), array("Q")

    def add(self, block: StoredBlock) -> None:
        """Add a block behind the others."""
        position = self._positions.get(block.stream)
        if position is None:
            position = self._positions[block.stream] = len(self._streams)
            self._streams.append(block.stream)
        self._stream.append(position)
        self._offsets.append(block.offset)
        self._events.append(self._events[-1] + block.events)
        self._first_ts.append(block.first_ts)
        self._last_ts.append(block.last_ts)

    def count(self, start: int, end: int) -> int:
        """Entries of the blocks that begin at `start` or behind it, and before `end`."""
        return self._events[bisect_left(self._offsets, end)] - self._events[bisect_left(self._offsets, start)]

    def between(self, start: int, end: int) -> Iterator[StoredBlock]:
        """The same blocks."""
        for at in range(bisect_left(self._offsets, start), bisect_left(self._offsets, end)):
            yield StoredBlock(
                self._offsets[at], self._streams[self._stream[at]], self._events[at + 1] - self._events[at],
                self._first_ts[at], self._last_ts[at],
            )  # fmt: skip


@dataclass(slots=True)
class Stored:
    """A segment that is not acknowledged as a whole."""

    ident: int  # Position.segment
    path: Path
    run: bytes
    start: int = 0  # what is before was acknowledged in an earlier run
    end: int = 0  # of its last record before the footer
    size_bytes: int = 0  # on disk
    rejected: bool = False  # it holds blocks that the receiver will not have
    blocks: BlockIndex = field(default_factory=BlockIndex)
    gaps: list[tuple[int, Parcel]] = field(default_factory=list)  # [(offset, gap record)], of this run
    marks: list[tuple[int, float]] = field(default_factory=list)  # [(offset, time.monotonic())], of this run

    def mark(self, now_s: float) -> None:
        """Note when what comes behind `end` is written, unless the last note is near enough."""
        if not self.marks or self.marks[-1][0] + MARK_BYTES <= self.end:
            self.marks.append((self.end, now_s))

    def put_s(self, offset: int) -> float | None:
        """When what is at an offset came, by the mark before it; None: in an earlier run."""
        at = bisect_right(self.marks, (offset, float("inf")))
        return self.marks[at - 1][1] if at else None
