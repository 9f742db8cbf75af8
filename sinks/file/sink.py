"""The archive: a folder of segments, rotated by size and age, bounded in bytes and by the disk's free space.

The segment's format, its syncs and its sealing are the archive package's; the
policy is here: when a segment ends, which ones go, and what happens when the
disk is full. A full disk never ends the daemon: archiving is suspended, blocks
are counted as discarded, and once there is room again a gap record says what is
missing.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from collector.archive import disk
from collector.archive.frame import Kind
from collector.archive.lock import ArchiveLock
from collector.archive.records import MapSource
from collector.archive.recover import recover_folder
from collector.archive.segment import SUFFIX, SegmentWriter
from collector.batch import Block, Delivery, Note, NoteKind, SinkState, StreamKey
from collector.errors import ArchiveError, ArchiveFullError
from sinks.base import Item

logger = logging.getLogger(__name__)

# How often a suspended archive tries whether there is room again, and free space is looked at.
SPACE_CHECK_S = 2.0

RECORDS = {NoteKind.GAP: Kind.GAP, NoteKind.COVERAGE: Kind.COVERAGE, NoteKind.SAMPLE: Kind.SAMPLE}

StreamId = tuple[str, int]


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """When segments end and which may stay."""

    folder: Path
    segment_bytes: int  # size that seals a segment
    segment_age_s: float  # age that seals a segment
    max_bytes: int  # of all segments together; the oldest go
    min_free_bytes: int  # left free on the filesystem; the oldest go, then archiving is suspended
    sync_interval_s: float  # fdatasync at least this often; 0: after every delivery


class SegmentContext(Protocol):
    """What a segment says of where it comes from."""

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        """The header of the run's segment with this number; opening: None for the first."""
        ...

    def opening_notes(self) -> Sequence[Note]:
        """Clock pairs and coverage, as of now."""
        ...

    def closing_notes(self) -> Sequence[Note]:
        """Coverage up to now."""
        ...


@dataclass(slots=True)
class _Missing:
    """Blocks of a stream that a suspended archive did not take."""

    entries: int = 0
    blocks: int = 0
    first_ts: int = 0
    last_ts: int = 0


@dataclass(slots=True)
class _Sealed:
    """Sealed segments in the folder, oldest first."""

    sizes: dict[Path, int] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())


class FileSink:
    """Writes the archive.

    Args:
      policy: limits.
      context: for headers and coverage.
      maps: names that the blocks refer to.
      in_thread: runs a function in the sink's thread and gives its result.
    """

    name = "archive"

    def __init__(
        self,
        policy: FilePolicy,
        context: SegmentContext,
        maps: MapSource,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self.policy = policy
        self.state = SinkState()
        self.last_path: Path | None = None  # of the last segment sealed
        self._context = context
        self._maps = maps
        self._in_thread = in_thread
        self._lock: ArchiveLock | None = None
        self._writer: SegmentWriter | None = None
        self._number = 0
        self._opening: Mapping[StreamId, Any] | None = None
        self._closing: dict[StreamId, Any] = {}  # {stream: totals map} of the last sample
        self._newest_ns = 0  # wall time in the name of the newest segment
        self._opened_s = 0.0
        self._synced_s = 0.0
        self._checked_s = 0.0
        self._raw_bytes = 0
        self._removed = 0
        self._discarded = 0
        self._written_events = 0
        self._durable_events = 0
        self._suspended: str | None = None
        self._missing: dict[StreamKey, _Missing] = {}
        self._sealed = _Sealed()

    async def open(self) -> None:
        """Lock the folder and repair what a crash left in it.

        Raises:
          ArchiveLockedError: another daemon writes here.
          ArchiveFullError: the folder cannot be made or written.
        """
        await self._in_thread(self._open)

    async def deliver(self, items: Sequence[Item]) -> Delivery:
        """Write the items; REJECTED while the disk has no room."""
        result: Delivery = await self._in_thread(partial(self._deliver, items))
        return result

    async def tick(self) -> None:
        """Sync, rotate by age, look at the disk."""
        await self._in_thread(self._tick)

    async def close(self) -> None:
        """Seal the open segment as the run's last, and unlock the folder."""
        await self._in_thread(self._close)

    # ---- in the sink's thread

    def _open(self) -> None:
        folder = self.policy.folder
        try:
            disk.make_folder(folder)
            self._lock = ArchiveLock(folder)
        except OSError as e:
            raise ArchiveFullError(
                f"cannot use the archive folder: {e.strerror}", where=str(folder), hint="choose another with --output"
            ) from e
        for found in recover_folder(folder, holds_lock=True):
            logger.warning("repaired a segment that was not sealed", extra={"fields": {"what": str(found)}})
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            self._sealed.sizes[path] = path.stat().st_size
            self._newest_ns = max(self._newest_ns, _start_ns(path) or 0)
        self._note_state()

    def _deliver(self, items: Sequence[Item]) -> Delivery:
        now_s = time.monotonic()
        if self._suspended is not None and now_s - self._checked_s >= SPACE_CHECK_S:
            self._try_to_resume(now_s)
        delivery = Delivery.DELIVERED
        for item in items:
            if isinstance(item, Note) and item.kind is NoteKind.SAMPLE:
                self._closing[(item.stream.instance, item.stream.cpu)] = item.body["totals"]
            if self._suspended is None:
                try:
                    self._write(item)
                except ArchiveFullError as e:
                    self._suspend(str(e))
                else:
                    if isinstance(item, Block):
                        self._seal_if_full()
                    continue
            if isinstance(item, Block):
                self._miss(item)
                delivery = Delivery.REJECTED
        if self.policy.sync_interval_s == 0:
            self._sync()
        self._note_state()
        return delivery

    def _tick(self) -> None:
        now_s = time.monotonic()
        if self._suspended is not None:
            if now_s - self._checked_s >= SPACE_CHECK_S:
                self._try_to_resume(now_s)
        elif self._writer is not None:
            try:
                if now_s - self._opened_s >= self.policy.segment_age_s:
                    self._seal("time", last=False)
                elif self._writer.unsynced_bytes and now_s - self._synced_s >= self.policy.sync_interval_s:
                    self._sync()
                if now_s - self._checked_s >= SPACE_CHECK_S:
                    self._check_space(now_s)
            except ArchiveFullError as e:
                self._suspend(str(e))
        self._note_state()

    def _close(self) -> None:
        if self._suspended is not None:
            self._try_to_resume(time.monotonic())
        try:
            if self._suspended is None:
                self._ready()  # a run without an entry leaves a segment too: it was there and saw nothing
                self._seal("shutdown", last=True)
        finally:
            self._note_state()
            self.unlock()

    def unlock(self) -> None:
        """Let go of the folder; for a start that failed, and the last step of closing."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write(self, item: Item) -> None:
        writer = self._ready()
        if isinstance(item, Block):
            writer.write_block(item, self._maps)
            self._raw_bytes += item.raw_bytes
            self._written_events += item.events
        else:
            self._write_note(writer, item)

    def _ready(self) -> SegmentWriter:
        """The open segment; a new one where there is none."""
        if self._writer is None:
            self._hold_folder()
            header = self._context.header(self._number, self._opening)
            # The wall clock may have been set back; names go on sorting in the order of writing.
            header["created_ns"] = max(header["created_ns"], self._newest_ns + 1000)
            writer = SegmentWriter.create(self.policy.folder, header)
            self._writer = writer
            self._newest_ns = writer.header.created_ns
            self._number += 1
            self._opened_s = self._synced_s = time.monotonic()
            for note in self._context.opening_notes():
                self._write_note(writer, note)
        return self._writer

    @staticmethod
    def _write_note(writer: SegmentWriter, note: Note) -> None:
        if note.kind is NoteKind.CLOCK:
            writer.write_object("clock", {"instance": note.stream.instance, **note.body})
        elif note.keep:
            stream = note.stream
            writer.write_record(
                RECORDS[note.kind], {"run": stream.run, "inst": stream.instance, "cpu": stream.cpu, **note.body}
            )

    def _sync(self) -> None:
        if self._writer is not None and self._suspended is None:
            try:
                self._writer.sync()
            except ArchiveFullError as e:
                self._suspend(str(e))
            else:
                self._durable_events = self._written_events
            self._synced_s = time.monotonic()

    def _seal_if_full(self) -> None:
        """Rotate by size; a disk without room for the footer has the blocks all the same."""
        if self._writer is not None and self._writer.size_bytes >= self.policy.segment_bytes:
            try:
                self._seal("size", last=False)
            except ArchiveFullError as e:
                self._suspend(str(e))

    def _seal(self, reason: str, *, last: bool) -> None:
        writer = self._writer
        if writer is None:
            return
        for note in self._context.closing_notes():
            self._write_note(writer, note)
        self.last_path = writer.seal(self._closing, reason, last)
        self._durable_events = self._written_events
        self._opening = writer.closing
        self._writer = None
        self._sealed.sizes[self.last_path] = self.last_path.stat().st_size
        self._retain()

    # ---- room

    def _retain(self, free_wanted_bytes: int = 0) -> None:
        """Remove the oldest sealed segments until the limits hold; the newest one stays."""
        while len(self._sealed.sizes) > 1 and (
            self._sealed.total_bytes + self._open_bytes() > self.policy.max_bytes
            or (free_wanted_bytes and disk.free_bytes(self.policy.folder) < free_wanted_bytes)
        ):
            path = next(iter(self._sealed.sizes))
            try:
                disk.unlink(path)
                disk.fsync_folder(path.parent)  # else a crash could bring it back without the one that goes next
            except OSError as e:
                logger.error("cannot remove the oldest segment", extra={"fields": {"path": str(path), "error": str(e)}})
                return
            del self._sealed.sizes[path]
            self._removed += 1

    def _open_bytes(self) -> int:
        return self._writer.size_bytes if self._writer is not None else 0

    def _check_space(self, now_s: float) -> None:
        """Suspend when the disk is too full, after giving up what retention may.

        Raises:
          ArchiveFullError: the folder is gone.
        """
        self._checked_s = now_s
        try:
            if disk.free_bytes(self.policy.folder) < self.policy.min_free_bytes:
                self._retain(self.policy.min_free_bytes)
                if disk.free_bytes(self.policy.folder) < self.policy.min_free_bytes:
                    self._sync()  # a suspended archive is not synced again before it goes on
                    self._suspend(f"less than {self.policy.min_free_bytes} bytes are free")
            elif self._sealed.total_bytes + self._open_bytes() > self.policy.max_bytes:
                self._retain()
        except OSError as e:
            raise ArchiveFullError(
                f"cannot look at the archive folder: {e.strerror}",
                where=str(self.policy.folder),
                hint="create or mount it again",
            ) from e

    def _suspend(self, why: str) -> None:
        if self._suspended is None:
            logger.error(
                "archiving is suspended, entries are counted and discarded until there is room",
                extra={"fields": {"why": why, "folder": str(self.policy.folder)}},
            )
        self._suspended = why
        self._checked_s = time.monotonic()

    def _try_to_resume(self, now_s: float) -> None:
        self._checked_s = now_s
        try:
            self._free_now()
            if self._writer is not None and not self._writer.path.exists():
                # Its folder or the file was removed: what was in it is lost, as the next run of verify says.
                self._writer.abandon()
                self._opening = {key: of.closing(None) for key, of in self._writer.tally.streams.items()}
                self._writer = None
            writer = self._ready()
            for stream, missing in list(self._missing.items()):
                body = {
                    "cause": "discarded", "count": missing.entries, "from_ts": missing.first_ts,
                    "to_ts": missing.last_ts, "detail": f"{missing.blocks} blocks: {self._suspended}",
                }  # fmt: skip
                self._write_note(writer, Note(NoteKind.GAP, stream, body))
                del self._missing[stream]  # told, whatever comes now
            writer.sync()
            self._durable_events = self._written_events
        except (ArchiveError, OSError) as e:
            self._suspended = str(e)
            return
        logger.warning("archiving goes on", extra={"fields": {"discarded_events": self._discarded}})
        self._suspended = None

    def _free_now(self) -> None:
        """Make room, and the folder where it is gone.

        Raises:
          ArchiveFullError: there is not enough.
        """
        self._hold_folder()
        self._retain(self.policy.min_free_bytes)
        if disk.free_bytes(self.policy.folder) < self.policy.min_free_bytes:
            raise ArchiveFullError(f"less than {self.policy.min_free_bytes} bytes are free")

    def _hold_folder(self) -> None:
        """Make the folder again where it was removed, and lock it again.

        Without the lock `recover` would seal what is being written, and a second daemon would start.

        Raises:
          ArchiveFullError: it cannot be made, or another daemon has it now.
        """
        if self._lock is None or self._lock.path.exists():
            return
        folder = self.policy.folder
        try:
            disk.make_folder(folder)
            lock = ArchiveLock(folder)
        except (OSError, ArchiveError) as e:
            raise ArchiveFullError(f"the archive folder was removed, and cannot be used again: {e}") from e
        self._lock.close()
        self._lock = lock
        self._sealed.sizes = {path: size for path, size in self._sealed.sizes.items() if path.exists()}

    def _miss(self, block: Block) -> None:
        missing = self._missing.setdefault(block.stream, _Missing(first_ts=block.first_ts))
        self._discarded += block.events
        missing.entries += block.events
        missing.blocks += 1
        missing.last_ts = block.last_ts

    def _note_state(self) -> None:
        oldest = next(iter(self._sealed.sizes), None) or (self._writer.path if self._writer is not None else None)
        start_ns = _start_ns(oldest) if oldest is not None else None
        self.state = SinkState(
            bytes=self._sealed.total_bytes + self._open_bytes(),
            segments=len(self._sealed.sizes) + (self._writer is not None),
            oldest_s=start_ns / 1e9 if start_ns is not None else None,
            raw_bytes=self._raw_bytes,
            suspended=self._suspended,
            removed_segments=self._removed,
            discarded_events=self._discarded,
            written_events=self._written_events,
            durable_events=self._durable_events,
        )


def _start_ns(path: Path) -> int | None:
    """Wall time at which a segment began, from its name; None for a file that got another name."""
    try:
        start = datetime.strptime(path.name.split("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
