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
import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.frame import Damage, Kind, ReadAt, Record, scan
from collector.archive.lock import ArchiveLock
from collector.archive.reader import Place, Segment, open_segment
from collector.archive.records import MapSource
from collector.archive.recover import recover_folder
from collector.archive.segment import SUFFIX, SegmentWriter, start_ns_of
from collector.archive.tally import DISCARDED
from collector.archive.totals import StreamId, parse_totals
from collector.batch import Block, Note, NoteKind, StreamKey
from collector.errors import ArchiveError, ArchiveFullError, SegmentError
from sinks.base import Item, Parcel, SegmentContext
from sinks.cursor import Cursor, read_cursor, write_cursor
from sinks.log import (
    DAMAGED,
    SPOOL_FULL,
    START,
    SUSPENDED,
    Appended,
    Entry,
    LogState,
    Lost,
    Position,
    ReadBack,
    parcel_of_block,
    parcel_of_record,
    parse_parcel,
    write_end,
)
from sinks.options import WhenFull

logger = logging.getLogger(__name__)

MOST_SEGMENT_BYTES = 32 << 20
LEAST_SEGMENT_BYTES = 1 << 20
SEGMENTS_IN_LIMIT = 8  # dropping the oldest segment gives up an eighth of the limit at most

SPACE_CHECK_S = 2.0  # how often a disk that took nothing is tried again

# Latency of what was read back is known to that many bytes of the log.
MARK_BYTES = 256 << 10

REJECTED_FOLDER = "rejected"
BAD_SUFFIX = ".bad"


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


@dataclass(slots=True)
class _Stored:
    """A segment that is not acknowledged as a whole."""

    ident: int  # Position.segment
    path: Path
    run: bytes
    start: int = 0  # what is before was acknowledged in an earlier run
    end: int = 0  # of its last record before the footer
    size_bytes: int = 0  # on disk
    events: int = 0  # in blocks behind `start`
    rejected: bool = False  # it holds blocks that the receiver will not have
    marks: list[tuple[int, float]] = field(default_factory=list)  # [(offset, time.monotonic())], of this run


@dataclass(slots=True)
class _Missing:
    """Blocks of a stream that went to make room, or were refused, since the last gap record."""

    events: int = 0
    blocks: int = 0
    first_ts: int = 0
    last_ts: int = 0


class Spool:
    """See the module, and Log in log.py."""

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
        self._segments: deque[_Stored] = deque()  # oldest first; the last one is open while there is a writer
        self._writer: _Writer | None = None
        self._next_ident = 0
        self._number = 0  # of the run's next segment
        self._last_created_ns = 0
        self._opened_s = self._synced_s = 0.0
        self._opening: Mapping[StreamId, Any] | None = None
        self._samples: dict[StreamId, Note] = {}  # {stream: the last one}
        self._sealed_bytes = 0
        self._rejected: deque[tuple[Path, int]] = deque()  # (file, size) in rejected/, oldest first
        self._acked = START
        self._cursor: Cursor | None = None  # as it is in the file
        self._missing: dict[StreamKey, _Missing] = {}
        self._suspended: str | None = None
        self._checked_s = 0.0
        self._reader: tuple[int, int] | None = None  # (ident, file descriptor)
        self._quarantined = 0
        self._corrupt_records = self._corrupt_bytes = 0

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
        for found in recover_folder(folder, holds_lock=True):
            logger.warning("repaired a spool's segment that was not sealed", extra={"fields": {"what": str(found)}})
        self._quarantined = sum(1 for path in folder.iterdir() if path.name.endswith(BAD_SUFFIX))
        try:
            self._cursor = self._read_cursor()
        except ArchiveError as e:
            self._corrupt_records += 1
            logger.error("a spool is sent again from its start", extra={"fields": {"why": str(e)}})
        events = sum(self._adopt(path) for path in sorted(folder.glob(f"*{SUFFIX}")))
        for path in sorted((folder / REJECTED_FOLDER).glob(f"*{SUFFIX}")):
            self._rejected.append((path, path.stat().st_size))
        self._note_state()
        return events

    def _read_cursor(self) -> Cursor | None:
        """The folder's cursor; what this run writes comes behind it, also when the wall clock was set back since."""
        cursor = read_cursor(self.policy.folder)
        if cursor is not None:
            start_ns = start_ns_of(Path(cursor.segment))
            if start_ns is None:
                raise ArchiveError("the cursor is damaged", expected="the name of a segment", got=repr(cursor.segment))
            self._last_created_ns = start_ns
        return cursor

    def _adopt(self, path: Path) -> int:
        """Take a segment of an earlier run; gives its entries that are not acknowledged."""
        cursor = self._cursor
        if cursor is not None and path.name < cursor.segment:
            _remove(path)
            return 0
        try:
            with Segment(path) as segment:
                if segment.header is None:
                    raise SegmentError(segment.header_fault)
                start = cursor.offset if cursor is not None and path.name == cursor.segment else 0
                end = segment.footer_offset or segment.size_bytes
                blocks = [p for p in segment.places if p.kind == Kind.BLOCK and p.offset >= start]
                stored = _Stored(
                    self._next_ident, path, segment.run, start, end, segment.size_bytes, sum(p.entries for p in blocks)
                )
                self._last_created_ns = max(self._last_created_ns, segment.header.created_ns)
        except (SegmentError, OSError) as e:
            self._quarantine(path, e)
            return 0
        if start >= end:
            _remove(path)
            return 0
        self._next_ident += 1
        self._segments.append(stored)
        self._sealed_bytes += stored.size_bytes
        return stored.events

    def _quarantine(self, path: Path, why: Exception) -> None:
        target, number = path.with_name(path.name + BAD_SUFFIX), 0
        while target.exists():
            number += 1
            target = path.with_name(f"{path.name}.{number}{BAD_SUFFIX}")
        logger.error(
            "a spool's segment cannot be read and is set aside", extra={"fields": {"as": str(target), "why": str(why)}}
        )
        self._quarantined += 1
        try:
            disk.rename(path, target)
        except OSError as e:
            logger.error("cannot set it aside", extra={"fields": {"path": str(path), "error": str(e)}})

    def finish(self) -> Appended:
        """Write what ends the run, for the receiver to have it too."""
        done = Appended()
        if self._suspended is None:
            try:
                self._write_closing_notes(done)
                if self._writer is not None:
                    write_end(self._writer, self._samples, self._writer.header.run)
            except ArchiveError as e:
                self._suspend(str(e))
            finally:
                self._take(done)
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
            self._close_reader()
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
        waits = self.policy.when_full == "block"
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
            if waits:
                break
            done.taken += 1
            if isinstance(item, Block):
                done.refused.add(reason, item.events, len(item.body))
                self._miss(item.stream, item.events, 1, item.first_ts, item.last_ts)
        if self.policy.sync_interval_s == 0:
            self._sync()
        self._note_state()
        return done

    def _write(self, item: Item, done: Appended) -> None:
        try:
            writer = self._ready(done)
            for stream, missing in list(self._missing.items()):
                writer.write_note(Note(NoteKind.GAP, stream, {
                    "cause": DISCARDED, "count": missing.events, "from_ts": missing.first_ts,
                    "to_ts": missing.last_ts, "detail": f"{missing.blocks} blocks: no room before this sink",
                }))  # fmt: skip
                del self._missing[stream]
            if isinstance(item, Block):
                writer.write_block(item, self._maps)
                self._segments[-1].events += item.events
            else:
                writer.write_note(item)
        finally:
            self._take(done)

    def _take(self, done: Appended) -> None:
        """Hand over what was written."""
        writer = self._writer
        if writer is None:
            return
        stored, now_s = self._segments[-1], self._clock()
        if writer.written and (not stored.marks or stored.marks[-1][0] + MARK_BYTES <= writer.size_bytes):
            stored.marks.append((stored.end, now_s))
        done.entries += (Entry(Position(stored.ident, end), parcel, now_s) for end, parcel in writer.written)
        writer.written.clear()
        stored.end = stored.size_bytes = writer.size_bytes

    def _ready(self, done: Appended) -> "_Writer":
        """The open segment; a new one where there is none or it is at its end."""
        writer = self._writer
        if writer is not None and (
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

    def _begin(self) -> "_Writer":
        header = self._context.header(self._number, self._opening)
        # The order of the names is the order of the log, whatever the wall clock does.
        header["created_ns"] = max(header["created_ns"], self._last_created_ns + 1000)
        writer = _Writer(self.policy.folder, header)
        self._last_created_ns = header["created_ns"]
        self._segments.append(_Stored(self._next_ident, writer.path, header["run"]))
        self._writer = writer
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
        _remove(writer.path)
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
        return self._sealed_bytes + open_bytes + sum(size for _, size in self._rejected)

    def _make_room(self, item: Item, handed: Position, done: Appended) -> bool:
        """Whether the item fits the limit, once what the policy gives up is gone; a note always does."""
        if not isinstance(item, Block):
            return True
        while self._total_bytes + len(item.body) > self.policy.max_bytes:
            if self._rejected:
                path, _ = self._rejected.popleft()
                _remove(path)
            elif self.policy.when_full in ("spool", "drop_oldest") and len(self._segments) > (self._writer is not None):
                self._drop_oldest(handed, done)
            else:
                return False
        return True

    def _drop_oldest(self, handed: Position, done: Appended) -> None:
        """Give up the oldest sealed segment; what the caller has of it in memory it may still send."""
        stored = self._segments.popleft()
        self._sealed_bytes -= stored.size_bytes
        if stored.ident >= handed.segment:
            offset = max(stored.start, handed.offset if stored.ident == handed.segment else 0)
            events = 0
            for place, stream in self._blocks_of(stored, offset, stored.end):
                events += place.entries
                self._miss(stream, place.entries, 1, place.first_ts, place.last_ts)
            done.dropped.add(SPOOL_FULL, events, stored.end - offset)
        _remove(stored.path)

    def _blocks_of(self, stored: _Stored, start: int, end: int) -> list[tuple[Place, StreamKey]]:
        """Which blocks lie, or lay, there, by the segment's index."""
        try:
            with open_segment(stored.path) as segment:
                return [
                    (place, StreamKey(stored.run, *place.stream))
                    for place in segment.places
                    if place.kind == Kind.BLOCK and place.stream is not None and start <= place.offset < end
                ]
        except (ArchiveError, OSError) as e:
            logger.error("a spool's segment cannot be read, so its entries are not counted",
                         extra={"fields": {"path": str(stored.path), "why": str(e)}})  # fmt: skip
            return []

    def _miss(self, stream: StreamKey, events: int, blocks: int, first_ts: int, last_ts: int) -> None:
        missing = self._missing.setdefault(stream, _Missing(first_ts=first_ts))
        missing.events += events
        missing.blocks += blocks
        missing.last_ts = last_ts

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
            self._close_reader()
            done.vanished = True
        if self._lock is not None and not self._lock.path.exists():
            disk.make_folder(self.policy.folder)
            lock = ArchiveLock(self.policy.folder)
            self._lock.close()
            self._lock = lock

    # ---- out

    def read(self, after: Position, max_bytes: int) -> ReadBack:
        """Give what lies behind a position."""
        back = ReadBack([], after, False, Lost())
        size_bytes = 0
        for stored in list(self._segments):
            if stored.ident < after.segment:
                continue
            offset = after.offset if stored.ident == after.segment else 0
            for entry in self._entries(stored, offset, back):
                size_bytes += len(entry.parcel.body)
                if back.entries and size_bytes > max_bytes:
                    return back
                back.entries.append(entry)
                back.position = entry.position
            back.position = Position(stored.ident, stored.end)
        back.at_end = True
        self._note_state()
        return back

    def _entries(self, stored: _Stored, offset: int, back: ReadBack) -> Iterator[Entry]:
        """The entries of a segment from an offset on."""
        read = self._read_at(stored)
        if offset < stored.start:
            # Its beginning was acknowledged in an earlier run; what comes needs the header and the names in it.
            for found in scan(read, stored.start):
                if isinstance(found, Record) and found.kind in (Kind.HEADER, Kind.OBJECT):
                    parcel = Parcel(Kind(found.kind), bytes(found.body), stored.run)
                    yield Entry(Position(stored.ident, stored.start), parcel, None)
            offset = stored.start
        for found in scan(read, stored.end, offset):
            if isinstance(found, Record):
                try:
                    parcel = parse_parcel(found.kind, found.body, stored.run)
                except SegmentError as e:
                    found = Damage(found.offset, found.length, str(e))
                else:
                    yield Entry(Position(stored.ident, found.end), parcel, self._put_s(stored, found.offset))
                    continue
            self._note_damage(stored, found, back)

    def _read_at(self, stored: _Stored) -> ReadAt:
        if self._reader is None or self._reader[0] != stored.ident:
            self._close_reader()
            try:
                self._reader = stored.ident, os.open(stored.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as e:
                logger.error("a spool's segment cannot be opened",
                             extra={"fields": {"path": str(stored.path), "error": str(e)}})  # fmt: skip
                return lambda offset, size: b""
        fd = self._reader[1]

        def read(offset: int, size: int) -> bytes:
            try:
                return os.pread(fd, size, offset)
            except OSError:
                return b""  # counted as damage

        return read

    def _close_reader(self) -> None:
        if self._reader is not None:
            os.close(self._reader[1])
            self._reader = None

    def _note_damage(self, stored: _Stored, damage: Damage, back: ReadBack) -> None:
        events = sum(place.entries for place, _ in self._blocks_of(stored, damage.offset, damage.end))
        back.lost.add(DAMAGED, events, damage.length)
        self._corrupt_records += 1
        self._corrupt_bytes += damage.length
        logger.error("a spool is damaged, and what is there is lost to this sink", extra={"fields": {
            "path": str(stored.path), "offset": damage.offset, "bytes": damage.length, "events": events,
            "why": damage.reason,
        }})  # fmt: skip

    @staticmethod
    def _put_s(stored: _Stored, offset: int) -> float | None:
        """When what is at an offset came, by the mark before it."""
        at = bisect_right(stored.marks, (offset, float("inf")))
        return stored.marks[at - 1][1] if at else None

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
            if stored.rejected:
                self._keep_rejected(stored)  # first: what is before the cursor is removed by the next start
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
                _remove(stored.path)
        self._note_state()

    def _is_acked(self, stored: _Stored) -> bool:
        return self._acked >= (stored.ident, stored.end)

    def _keep_rejected(self, stored: _Stored) -> None:
        folder = self.policy.folder / REJECTED_FOLDER
        try:
            disk.make_folder(folder)
            disk.rename(stored.path, folder / stored.path.name)
            disk.fsync_folder(folder)
        except OSError as e:
            logger.error("cannot keep a segment with rejected blocks",
                         extra={"fields": {"path": str(stored.path), "error": str(e)}})  # fmt: skip
            return
        self._rejected.append((folder / stored.path.name, stored.size_bytes))

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
            corrupt_records=self._corrupt_records,
            corrupt_bytes=self._corrupt_bytes,
            suspended=self._suspended,
        )


class _Writer(SegmentWriter):
    """A segment whose records are kept as parcels too, until they are taken away."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.written: list[tuple[int, Parcel]] = []  # (size of the file behind it, parcel)
        self._run: bytes = header["run"]
        super().__init__(folder, header)

    def write_record(self, kind: int, body: Mapping[str, Any] | bytes) -> None:
        super().write_record(kind, body)
        self.written.append((self.size_bytes, parcel_of_record(kind, body, self._run)))

    def _put_block(self, block: Block) -> None:
        super()._put_block(block)
        self.written.append((self.size_bytes, parcel_of_block(block)))


def _remove(path: Path) -> None:
    try:
        disk.unlink(path)
    except OSError as e:
        logger.error("cannot remove a spool's segment", extra={"fields": {"path": str(path), "error": str(e)}})
