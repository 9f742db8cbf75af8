"""What a sender's folder has of one run: what comes again is known by it, and what comes next goes on from it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collector.archive.fields import Fields, unpack
from collector.archive.frame import Kind
from collector.archive.reader import open_segment
from collector.archive.totals import StreamId, Totals
from collector.batch import StreamKey
from collector.errors import SegmentError
from sinks.stream.seen import Seen

MAX_STREAMS = 1 << 14  # what no machine has
MAX_GAPS = 1 << 16  # gap records by which one that comes again is known

# What they take in memory, about.
STREAM_BYTES = 3000  # with its totals, of the last sample and of the next segment's opening
GAP_BYTES = 150
RANGE_BYTES = 80


class Run:
    """One run, as far as it is in the folder or on its way there."""

    def __init__(self, run: bytes) -> None:
        self.id = run
        self.number = 0  # of its next segment
        self.opening: dict[StreamId, Totals] | None = None  # of that; None: as the sender says
        self.samples: dict[StreamId, Mapping[str, Any]] = {}  # {stream: totals} of the last sample
        self.has_ended = False  # nothing but what was here already has come since its end
        self._seen: dict[StreamId, Seen] = {}
        self._gaps: dict[bytes, None] = {}  # bodies of gap records, hashed; the oldest first
        self._streams: set[StreamId] = set()

    @property
    def held_bytes(self) -> int:
        """About what this takes in memory."""
        ranges = sum(len(seen) for seen in self._seen.values())
        return STREAM_BYTES * len(self._streams) + GAP_BYTES * len(self._gaps) + RANGE_BYTES * ranges

    def read_earlier(self, paths: Sequence[Path]) -> None:
        """Take over what segments say of it.

        Args:
          paths: in the order of their names; those of other runs are passed over.
        """
        removed: dict[StreamId, Totals] = {}  # what was here before the first segment, and went to make room
        for path in paths:
            try:
                with open_segment(path) as segment:
                    if segment.run != self.id or segment.footer is None:
                        continue
                    if path == paths[0] and segment.footer.segment:
                        removed = {of.stream: of.opening for of in segment.footer.streams if of.opening.blocks}
                    self.number = max(self.number, segment.footer.segment + 1)
                    self.opening = {of.stream: of.closing for of in segment.footer.streams}
                    self.has_ended = segment.footer.last
                    for place in segment.places:
                        if place.kind == Kind.BLOCK and place.stream is not None:
                            self.note_block(place.stream, place.number)
                        elif place.kind == Kind.GAP and not isinstance(found := segment.record_at(place.offset), str):
                            self.note_gap(bytes(found.body))
            except (SegmentError, OSError):
                continue  # for `verify` to tell; its blocks are taken again
        for stream, totals in removed.items():
            self._seen.setdefault(stream, Seen()).fill_before(totals.blocks)

    def has_block(self, stream: StreamId, number: int) -> bool:
        """Whether a block is here."""
        return stream in self._seen and number in self._seen[stream]

    def note_block(self, stream: StreamId, number: int) -> None:
        """A block is here from now on."""
        self._seen.setdefault(stream, Seen()).add(number)

    def has_gap(self, body: bytes) -> bool:
        """Whether a gap record is here: it would count the loss twice."""
        return _hash(body) in self._gaps

    def note_gap(self, body: bytes) -> None:
        """A gap record is here from now on."""
        self._gaps[_hash(body)] = None
        if len(self._gaps) > MAX_GAPS:
            del self._gaps[next(iter(self._gaps))]

    def note_stream(self, stream: StreamKey) -> None:
        """Count a stream.

        Raises:
          SegmentError: it is one too many.
        """
        key = (stream.instance, stream.cpu)
        if key not in self._streams and len(self._streams) >= MAX_STREAMS:
            raise SegmentError("too many streams", expected=f"at most {MAX_STREAMS} a run")
        self._streams.add(key)


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def parse_end(data: bytes) -> bytes:
    """Gives the run that an object of type `end` ends.

    Raises:
      SegmentError: it says none.
    """
    return Fields(unpack(data, "end", 1), "end").binary("run", 16)
