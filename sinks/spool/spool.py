"""A log on disk: a folder of segments of its own, and a cursor.

    <start>-<run>-<number>.ftseg[.part]   not acknowledged, or not all of it
    cursor                                up to where it is
    rejected/                             segments with blocks that the receiver will never take
    *.bad                                 files that cannot be read; never deleted, counted

What is appended survives the death of the process at once (the page cache has it), and the loss of power once it was
synced. A segment goes when the receiver has acknowledged all of it. At the limit in bytes the oldest goes, or the
newest is refused, or the caller is made to wait, as the policy says; a gap record says what is missing.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.frame import Kind
from collector.archive.lock import ArchiveLock
from collector.archive.records import MapSource
from collector.archive.segment import SUFFIX
from collector.archive.totals import StreamId, parse_totals
from collector.batch import Block, Note, NoteKind
from collector.errors import ArchiveError, ArchiveFullError
from sinks.contract.base import Item, SegmentContext
from sinks.contract.options import WhenFull
from sinks.contract.untold import OF_LOG, Untold
from sinks.network.backlog import (
    SPOOL_FULL,
    START,
    SUSPENDED,
    Appended,
    Entry,
    LogState,
    Position,
    ReadBack,
    gap_of_parcel,
    take_untold,
    write_end,
)
from sinks.spool.cursor import Cursor, write_cursor
from sinks.spool.reader import SpoolReader
from sinks.spool.rejected import FOLDER as REJECTED
from sinks.spool.rejected import Rejected
from sinks.spool.start import look, remove
from sinks.spool.stored import Stored, StoredBlock
from sinks.spool.writer import SpoolWriter

logger = logging.getLogger(__name__)

MOST_SEGMENT_BYTES = 32 << 20
LEAST_SEGMENT_BYTES = 1 << 20
SEGMENTS_IN_LIMIT = 8  # dropping the oldest segment gives up an eighth of the limit at most

SPACE_CHECK_S = 2.0  # how often a disk that took nothing is tried again


@dataclass(frozen=True, slots=True)
class SpoolPolicy:
    """Where a spool is and how large it gets."""

    folder: Path
    max_bytes: int
    when_full: WhenFull
    segment_age_s: float  # header and objects are written again this often
    sync_interval_s: float  # 0: after every append

    @property
    def segment_bytes(self) -> int:
        """Size that seals a segment."""
        return max(LEAST_SEGMENT_BYTES, min(MOST_SEGMENT_BYTES, self.max_bytes // SEGMENTS_IN_LIMIT))


class Spool:
    """See the module, and Backlog in network/backlog.py."""

    durable = True

    def __init__(
        self,
        policy: SpoolPolicy,
        context: SegmentContext,
        maps: MapSource,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.state = LogState()
        self._context = context
        self._maps = maps
        self._clock = clock
        self._lock: ArchiveLock | None = None
        self._segments: deque[Stored] = deque()  # oldest first; the last one is open while there is a writer
        self._writer: SpoolWriter | None = None
        self._next_ident = 0
        self._number = 0  # of the run's next segment
        self._last_created_ns = 0
        self._opened_s = self._synced_s = 0.0
        self._opening: Mapping[StreamId, Any] | None = None
        self._samples: dict[StreamId, Note] = {}  # {stream: the last one}
        self._sealed_bytes = 0
        self._rejected = Rejected(policy.folder)
        self._acked = START
        self._cursor: Cursor | None = None  # as it is in the file
        self._run: bytes | None = None  # of what is written
        self._untold = Untold(OF_LOG)
        self._suspended: str | None = None
        self._checked_s = 0.0
        self._reader = SpoolReader()
        self._quarantined = self._corrupt_cursors = 0

    # ---- start and end

    def open(self) -> int:
        """Lock the folder, repair what a crash left, and find what is to be sent.

        Raises:
          ArchiveLockedError: another process has this spool.
          ArchiveFullError: the folder cannot be made or written.
        """
        folder = self.policy.folder
        try:
            disk.make_folder(folder)
            self._lock = ArchiveLock(folder)
        except OSError as e:
            raise ArchiveFullError(
                f"cannot use the spool's folder: {e.strerror}", where=str(folder), hint="choose another spool_folder"
            ) from e
        left = look(folder)
        self._rejected.adopt((folder / REJECTED).glob(f"*{SUFFIX}"))
        self._cursor = left.cursor
        self._segments.extend(left.segments)
        self._next_ident = len(left.segments)
        self._sealed_bytes = sum(of.size_bytes for of in left.segments)
        self._last_created_ns = left.last_created_ns
        self._quarantined, self._corrupt_cursors = left.quarantined, left.corrupt
        self._note_state()
        return left.events

    def finish(self) -> Appended:
        """Write what ends the run, for the receiver to have it too."""
        done = Appended()
        if self._suspended is None:
            try:
                if self._untold:
                    self._write_untold(self._ready(done))
                self._write_closing_notes(done)
                if self._writer is not None:
                    write_end(self._writer, self._samples, self._writer.header.run)
            except ArchiveError as e:
                self._suspend(str(e))
            finally:
                self._take(done)
        done.oldest = self._oldest
        return done

    def close(self) -> None:
        """Keep what is not acknowledged, sealed, and let go of the folder."""
        try:
            if self._writer is not None:
                stored = self._segments[-1]
                if self._is_acked(stored) and not stored.rejected:
                    self._discard_open()
                else:
                    self._seal("shutdown", last=True)
                    self.acknowledge(self._acked, ())
        except ArchiveError as e:
            logger.error("the spool's last segment is not sealed; the next start does it",
                         extra={"fields": {"why": str(e)}})  # fmt: skip
        finally:
            self._reader.close()
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None
            self._note_state()

    # ---- in

    def append(self, items: Sequence[Item], handed: Position) -> Appended:
        """Write items behind the others, within the limit."""
        done = Appended()
        if self._suspended is not None and self._clock() - self._checked_s >= SPACE_CHECK_S:
            self._try_again(done)
        for item in items:
            if isinstance(item, Note) and item.kind is NoteKind.SAMPLE:
                self._samples[(item.stream.instance, item.stream.cpu)] = item
            reason = SUSPENDED
            if self._suspended is None:
                reason = SPOOL_FULL
                if self._make_room(item, handed, done):
                    try:
                        self._write(item, done)
                        done.taken += 1
                        continue
                    except ArchiveError as e:
                        self._suspend(str(e))
                        reason = SUSPENDED
            if self.policy.when_full == "block":
                break
            done.taken += 1
            self._refuse(item, reason, done)
        if self.policy.sync_interval_s == 0:
            self._sync()
        done.oldest = self._oldest
        self._note_state()
        return done

    def _refuse(self, item: Item, reason: str, done: Appended) -> None:
        """An item is not written: a block is counted, a note comes later, of samples the last one."""
        if isinstance(item, Block):
            done.refused.add(reason, item.events, len(item.body))
            self._untold.miss(item.stream, item.events, item.first_ts, item.last_ts)
        elif item.kind is NoteKind.SAMPLE:
            self._samples[(item.stream.instance, item.stream.cpu)] = replace(item, keep=False)  # written at the end
        else:
            self._untold.keep(item)

    def _write(self, item: Item, done: Appended) -> None:
        try:
            writer = self._ready(done)
            if isinstance(item, Block):
                self._write_untold(writer)
                writer.write_block(item, self._maps)
            else:
                writer.write_note(item)
        finally:
            self._take(done)

    def _write_untold(self, writer: "SpoolWriter") -> None:
        """Say what was not written before."""
        notes = take_untold(self._untold)
        for at, note in enumerate(notes):
            try:
                writer.write_note(note)
            except ArchiveError:
                for left in notes[at:]:
                    self._untold.keep(left)
                raise

    def _take(self, done: Appended) -> None:
        """Hand over what was written."""
        writer = self._writer
        if writer is None:
            return
        stored, now_s = self._segments[-1], self._clock()
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

    def _ready(self, done: Appended) -> "SpoolWriter":
        """The open segment; a new one where there is none or it is at its end."""
        writer = self._writer
        if writer is not None and writer.is_ended:
            self._seal("size", last=False)  # again: it came as far as the rename
        elif writer is not None and (
            writer.size_bytes >= self.policy.segment_bytes
            or self._clock() - self._opened_s >= self.policy.segment_age_s
        ):
            self._write_closing_notes(done)
            self._seal("size", last=False)
        return self._writer or self._begin()

    def _write_closing_notes(self, done: Appended) -> None:
        if self._writer is not None:
            try:
                for note in self._context.closing_notes():
                    self._writer.write_note(note)
            finally:
                self._take(done)

    def _begin(self) -> "SpoolWriter":
        header = self._context.header(self._number, self._opening)
        # The order of the names is the order of the log, whatever the wall clock does.
        header["created_ns"] = max(header["created_ns"], self._last_created_ns + 1000)
        writer = SpoolWriter(self.policy.folder, header)
        self._last_created_ns = header["created_ns"]
        self._segments.append(Stored(self._next_ident, writer.path, writer.header.run))
        self._writer = writer
        self._run = writer.header.run
        self._next_ident += 1
        self._number += 1
        self._opened_s = self._synced_s = self._clock()
        for note in self._context.opening_notes():
            writer.write_note(note)
        return writer

    def _seal(self, reason: str, *, last: bool) -> None:
        writer, stored = self._writer, self._segments[-1]
        assert writer is not None
        closing = {key: sample.body["totals"] for key, sample in self._samples.items()}
        stored.path = writer.seal(closing, reason, last)
        stored.size_bytes = writer.size_bytes
        self._sealed_bytes += stored.size_bytes
        self._opening = writer.closing
        self._writer = None

    def _discard_open(self) -> None:
        """The open segment is acknowledged as a whole: nobody needs it sealed."""
        writer = self._writer
        assert writer is not None
        writer.abandon()
        remove(writer.path)
        self._opening = {
            key: of.closing(parse_totals(self._samples[key].body["totals"], "sample") if key in self._samples else None)
            for key, of in writer.tally.streams.items()
        }
        self._segments.pop()
        self._writer = None

    # ---- room

    @property
    def _total_bytes(self) -> int:
        open_bytes = self._writer.size_bytes if self._writer is not None else 0
        return self._sealed_bytes + open_bytes + self._rejected.size_bytes

    @property
    def _oldest(self) -> int:
        """Ident of the oldest segment that is here."""
        return self._segments[0].ident if self._segments else self._next_ident

    def _make_room(self, item: Item, handed: Position, done: Appended) -> bool:
        """Whether the item fits the limit, once what the policy gives up is gone.

        A note always does, but for samples: one comes each half a minute, and the last one is written at the end.
        """
        size_bytes = 0
        if isinstance(item, Block):
            size_bytes = len(item.body)
        elif item.kind is not NoteKind.SAMPLE:
            return True
        while self._total_bytes + size_bytes > self.policy.max_bytes:
            if self._rejected:
                remove(self._rejected.pop_oldest())
            elif self.policy.when_full in ("spool", "drop_oldest") and len(self._segments) > (self._writer is not None):
                self._drop_oldest(handed, done)
            else:
                return False
        return True

    def _drop_oldest(self, handed: Position, done: Appended) -> None:
        """Give up the oldest sealed segment; what was handed out of it is the caller's to count.

        The receiver is told of a gap, unless it is one in an earlier run: of that one nothing follows.
        """
        stored = self._segments.popleft()
        self._sealed_bytes -= stored.size_bytes
        done.made_room = True
        done.entries = [entry for entry in done.entries if entry.position.segment != stored.ident]
        start = _behind(stored, handed)
        done.dropped.add(SPOOL_FULL, stored.blocks.count(start, stored.end), stored.end - start)
        if stored.run == self._run:
            for block in stored.blocks.between(start, stored.end):
                self._untold.miss(block.stream, block.events, block.first_ts, block.last_ts)
            for offset, gap in stored.gaps:
                if offset >= start:
                    self._untold.keep(gap_of_parcel(gap))
        remove(stored.path)

    def _suspend(self, why: str) -> None:
        if self._suspended is None:
            logger.error(
                "a spool takes nothing until its disk does",
                extra={"fields": {"why": why, "folder": str(self.policy.folder)}},
            )
        self._suspended = why
        self._checked_s = self._clock()

    def _try_again(self, done: Appended) -> None:
        """Whether the disk takes something again."""
        self._checked_s = self._clock()
        try:
            self._hold_folder(done)
            if self._writer is not None and self._writer.is_ended:
                self._ready(done)
            else:
                (self._writer or self._begin()).sync()
        except (ArchiveError, OSError) as e:
            self._suspended = str(e)
            return
        finally:
            self._take(done)
        logger.warning("a spool's disk takes data again", extra={"fields": {"folder": str(self.policy.folder)}})
        self._suspended = None

    def _hold_folder(self, done: Appended) -> None:
        """Make the folder again where it was removed, with all that was in it.

        Raises:
          ArchiveError, OSError: it cannot be made, or another process has it now.
        """
        if self._writer is not None and not self._writer.path.exists():
            self._writer.abandon()
            self._writer, self._opening = None, None
            self._segments.clear()
            self._sealed_bytes = 0
            self._reader.close()
            done.vanished = True
        if self._lock is not None and not self._lock.path.exists():
            disk.make_folder(self.policy.folder)
            lock = ArchiveLock(self.policy.folder)
            self._lock.close()
            self._lock = lock

    # ---- out

    def read(self, after: Position, max_bytes: int) -> ReadBack:
        """Give what lies behind a position."""
        back = self._reader.read(self._segments, after, max_bytes)
        self._note_state()
        return back

    # ---- acknowledged

    def acknowledge(self, position: Position, rejected: Sequence[Position]) -> None:
        """Keep what was rejected, write the cursor, and remove the segments before it."""
        refused = {place.segment for place in rejected}
        for stored in self._segments:
            stored.rejected |= stored.ident in refused
        self._acked = max(self._acked, position)
        at = next((stored for stored in self._segments if stored.ident == self._acked.segment), None)
        gone = []  # acknowledged as a whole
        while self._segments and self._is_acked(self._segments[0]):
            if self._writer is not None and len(self._segments) == 1:
                break
            gone.append(self._segments.popleft())
        for stored in gone:
            self._sealed_bytes -= stored.size_bytes
            if stored.rejected:  # first of all: what is before the cursor is removed by the next start
                self._rejected.keep(stored.path, stored.size_bytes)
        if at is not None:
            name = at.path.name.removesuffix(".part")
            cursor = Cursor(name, self._acked.offset)
            if cursor != self._cursor:
                try:
                    write_cursor(self.policy.folder, cursor)
                    self._cursor = cursor
                except OSError as e:
                    # The next one may succeed; until then a restart would send more again than it need.
                    logger.warning("cannot write a spool's cursor", extra={"fields": {"error": str(e)}})
        for stored in gone:
            if not stored.rejected:
                remove(stored.path)
        self._note_state()

    def _is_acked(self, stored: Stored) -> bool:
        return self._acked >= (stored.ident, stored.end)

    def tick(self) -> float | None:
        """Sync when that is due."""
        took_s = None
        writer = self._writer
        is_due = self._clock() - self._synced_s >= self.policy.sync_interval_s
        if is_due and writer is not None and self._suspended is None and writer.unsynced_bytes:
            took_s = self._sync()
        self._note_state()
        return took_s

    def _sync(self) -> float | None:
        if self._writer is None or self._suspended is not None:
            return None
        before_s = time.monotonic()
        try:
            self._writer.sync()
        except ArchiveFullError as e:
            self._suspend(str(e))
        self._synced_s = self._clock()
        return time.monotonic() - before_s

    def _note_state(self) -> None:
        self.state = LogState(
            bytes=self._total_bytes,
            segments=len(self._segments),
            quarantined_segments=self._quarantined,
            corrupt_records=self._corrupt_cursors + self._reader.corrupt_records,
            corrupt_bytes=self._reader.corrupt_bytes,
            suspended=self._suspended,
        )


def _behind(stored: Stored, position: Position) -> int:
    """From where on a segment lies behind a position."""
    if position.segment < stored.ident:
        return stored.start
    return max(stored.start, position.offset) if position.segment == stored.ident else stored.end
