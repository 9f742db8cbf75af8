"""The end of a spool: the segment that is open, and when the next one begins.

What is written to it is handed over as entries. Each segment decodes alone, and says in its header what the totals were
before it; the last samples, those that were not written too, say what they are at its end.
"""

from collections.abc import Callable, Mapping
from typing import Any

from collector.archive.frame import Kind
from collector.archive.totals import StreamId
from collector.batch import Note
from sinks.contract.base import SegmentContext
from sinks.network.backlog import Appended, Entry, Position, write_end
from sinks.spool.policy import SpoolPolicy
from sinks.spool.segments import Segments
from sinks.spool.start import remove
from sinks.spool.stored import StoredBlock
from sinks.spool.writer import SpoolWriter


class Tail:
    """See the module.

    Args:
      segments: is told of what begins and ends here.
      clock: gives seconds that grow.
    """

    def __init__(
        self, policy: SpoolPolicy, context: SegmentContext, segments: Segments, clock: Callable[[], float]
    ) -> None:
        self.writer: SpoolWriter | None = None  # of the segment that is open
        self.run: bytes | None = None  # of what is written
        self.synced_s = 0.0  # when the open segment was, or was to be
        self._policy = policy
        self._context = context
        self._segments = segments
        self._clock = clock
        self._number = 0  # of the run's next segment
        self._created_ns = 0  # wall time in the name of the newest segment
        self._opened_s = 0.0
        self._opening: Mapping[StreamId, Any] | None = None
        self._samples: dict[StreamId, Note] = {}  # {stream: the last one}

    @property
    def size_bytes(self) -> int:
        """Of the open segment."""
        return self.writer.size_bytes if self.writer is not None else 0

    def follow(self, created_ns: int) -> None:
        """Let the names come behind one that says this wall time."""
        self._created_ns = created_ns

    def note_sample(self, sample: Note) -> None:
        """Have a stream's last sample, for what segments and the run close with."""
        self._samples[(sample.stream.instance, sample.stream.cpu)] = sample

    def ready(self, done: Appended) -> SpoolWriter:
        """The open segment; a new one where there is none or it is at its end."""
        writer = self.writer
        if writer is not None and writer.is_ended:
            self.seal("size", last=False)  # again: it came as far as the rename
        elif writer is not None and (
            writer.size_bytes >= self._policy.segment_bytes
            or self._clock() - self._opened_s >= self._policy.segment_age_s
        ):
            self._write_closing_notes(done)
            self.seal("size", last=False)
        return self.writer or self.begin()

    def begin(self) -> SpoolWriter:
        """Open a segment."""
        header = self._context.header(self._number, self._opening)
        # The order of the names is the order of the log, whatever the wall clock does.
        header["created_ns"] = max(header["created_ns"], self._created_ns + 1000)
        writer = SpoolWriter(self._policy.folder, header)
        self._created_ns = header["created_ns"]
        self._segments.begin(writer.path, writer.header.run)
        self.writer = writer
        self.run = writer.header.run
        self._number += 1
        self._opened_s = self.synced_s = self._clock()
        for note in self._context.opening_notes():
            writer.write_note(note)
        return writer

    def take(self, done: Appended) -> None:
        """Hand over what was written."""
        writer, stored, now_s = self.writer, self._segments.open, self._clock()
        if writer is None or stored is None:
            return
        if writer.written:
            stored.mark(now_s)
        for end, parcel in writer.written:
            if parcel.kind == Kind.BLOCK and parcel.stream is not None:
                stored.blocks.add(
                    StoredBlock(stored.end, parcel.stream, parcel.events, parcel.first_ts, parcel.last_ts)
                )
            elif parcel.kind == Kind.GAP:
                stored.gaps.append((stored.end, parcel))
            done.entries.append(Entry(Position(stored.ident, end), parcel, now_s))
            done.written_events += parcel.events
            stored.end = end
        writer.written.clear()
        stored.size_bytes = writer.size_bytes

    def end_run(self, done: Appended) -> None:
        """Write what the run closes with, where a segment is open."""
        self._write_closing_notes(done)
        if self.writer is not None:
            write_end(self.writer, self._samples, self.writer.header.run)

    def seal(self, reason: str, *, last: bool) -> None:
        """End the open segment."""
        writer = self.writer
        assert writer is not None
        closing = {key: sample.body["totals"] for key, sample in self._samples.items()}
        self._segments.seal(writer.seal(closing, reason, last), writer.size_bytes)
        self._opening = writer.closing
        self.writer = None

    def discard(self) -> None:
        """Remove the open segment: it is acknowledged as a whole, and nobody needs it sealed."""
        writer = self.writer
        assert writer is not None
        writer.abandon()
        remove(writer.path)
        self._segments.forget_open()
        self.writer = None

    def lose(self) -> None:
        """The open segment was removed, with all before it."""
        self.abandon()
        self._opening = None
        self._segments.clear()

    def abandon(self) -> None:
        """Let go of the open segment's file as it is."""
        if self.writer is not None:
            self.writer.abandon()
            self.writer = self._segments.open = None

    def _write_closing_notes(self, done: Appended) -> None:
        if self.writer is not None:
            try:
                for note in self._context.closing_notes():
                    self.writer.write_note(note)
            finally:
                self.take(done)
