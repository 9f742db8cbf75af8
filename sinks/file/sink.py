"""The archive: a folder of segments.

Here is what is done when: a segment begins and ends, what is written becomes durable, and the archive is suspended
and goes on. A full disk never ends the daemon: archiving is suspended, blocks are counted as discarded, notes are
kept, and once there is room again a gap record says what is missing. Which segment ends is rotation.py's, which ones
go is retention.py's; the format, its syncs and its sealing are the archive package's.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from collector.archive.records import MapSource
from collector.archive.recover import recover_folder
from collector.archive.segment import SegmentWriter, start_ns_of
from collector.archive.totals import StreamId
from collector.batch import Block, Delivery, Note, NoteKind, SinkState, StreamKey
from collector.errors import ArchiveError, ArchiveFullError
from sinks.contract.base import Acknowledgements, Follower, Item, SegmentContext
from sinks.contract.untold import OF_ARCHIVE, Untold
from sinks.file.folder import HeldFolder
from sinks.file.policy import FilePolicy
from sinks.file.retention import Sealed
from sinks.file.shelf import Shelf

logger = logging.getLogger(__name__)

# How often a suspended archive tries whether there is room again, and free space is looked at.
SPACE_CHECK_S = 2.0


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
        self.acknowledgements: list[Acknowledgements] = []  # those that must have a segment before it goes
        self.followers: list[Follower] = []  # those that are told when one goes
        self._shelf = Shelf(policy.folder, policy.limits, policy.room, self.acknowledgements, self.followers)
        self._held = HeldFolder(policy.folder)
        self._writer: SegmentWriter | None = None
        self._number = 0
        self._newest_ns = 0  # wall time in the name of the newest segment, or of the last try to begin one
        self._opening: Mapping[StreamId, Any] | None = None
        self._closing: dict[StreamId, Any] = {}  # {stream: totals map} of the last sample
        self._last_blocks: dict[StreamKey, int] = {}  # {stream: number of its last block} in the open segment
        self._closing_noted = -1  # size of the open segment behind the closing notes of a seal that failed
        self._overdue: str | None = None  # why the open segment ends, its final name being taken
        self._opened_s = 0.0
        self._opened_wall_s = 0.0
        self._synced_s = 0.0
        self._checked_s = 0.0
        self._raw_bytes = 0
        self._discarded = 0
        self._written_events = 0
        self._durable_events = 0
        self._suspended: str | None = None
        self._untold = Untold(OF_ARCHIVE)
        self._rotation_asked = False
        self._resumption_asked = False

    async def open(self) -> None:
        """Lock the folder and repair what a crash left in it.

        Raises:
          ArchiveLockedError: another daemon writes here.
          ArchiveFullError: the folder cannot be made or written.
        """
        await self._in_thread(self._open)

    async def begin(self, items: Sequence[Item]) -> None:
        """Open the run's first segment, with these notes.

        The header has the kernel's counters as they were before the run read anything: after a kill the next run sees
        from them what this one took. It need not be synced: a power cut takes the rings and their counters too.
        """
        await self._in_thread(partial(self._begin, items))

    async def deliver(self, items: Sequence[Item]) -> Delivery:
        """Write the items; REJECTED while the disk has no room.

        They are durable within `sync_interval_s`: `state.durable_events` says how far.
        """
        result: Delivery = await self._in_thread(partial(self._deliver, items))
        return result

    async def tick(self) -> None:
        """Sync, rotate by time, look at the disk."""
        await self._in_thread(self._tick)

    async def close(self) -> None:
        """Seal the open segment as the run's last, and unlock the folder."""
        await self._in_thread(self._close)

    def rotate(self) -> None:
        """Have the open segment sealed at the next tick; from any thread."""
        self._rotation_asked = True

    def resume(self) -> None:
        """Have a suspended archive tried again at the next tick; from any thread."""
        self._resumption_asked = True

    def unlock(self) -> None:
        """Let go of the folder; for a start that failed, and the last step of closing."""
        self._held.let_go()

    # ---- in the sink's thread

    def _open(self) -> None:
        self._held.hold()
        for found in recover_folder(self.policy.folder, holds_lock=True):
            logger.warning("repaired a segment that was not sealed", extra={"fields": {"what": str(found)}})
        self._shelf.fill()
        self._newest_ns = self._shelf.newest_ns
        self._note_state()

    def _begin(self, items: Sequence[Item]) -> None:
        try:
            self._ready()
        except ArchiveError as e:
            self._suspend(str(e))
        self._deliver(items)

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
                except ArchiveError as e:
                    self._suspend(str(e))
                else:
                    if isinstance(item, Block):
                        self._seal_if_full()
                    continue
            if isinstance(item, Note):
                self._untold.keep(item)
                continue
            self._untold.miss(item.stream, item.events, item.first_ts, item.last_ts)
            self._discarded += item.events
            delivery = Delivery.REJECTED
        if self.policy.sync_interval_s == 0:
            self._sync()
        self._note_state()
        return delivery

    def _tick(self) -> None:
        now_s = time.monotonic()
        resume_now, self._resumption_asked = self._resumption_asked, False
        if self._suspended is not None and (resume_now or now_s - self._checked_s >= SPACE_CHECK_S):
            self._try_to_resume(now_s)  # before sealing, which fails for ever where the file or the folder is gone
        self._seal_if_due(now_s)
        if self._suspended is None:
            writer = self._writer
            if writer is not None and writer.unsynced_bytes and now_s - self._synced_s >= self.policy.sync_interval_s:
                self._sync()
            if now_s - self._checked_s >= SPACE_CHECK_S:
                self._look_at_the_disk(now_s)
        self._note_state()

    def _close(self) -> None:
        try:
            if self._suspended is not None or not self._try_to_seal("shutdown", last=True):
                self._try_to_resume(time.monotonic(), at_the_end=True)
                if self._suspended is None:
                    self._try_to_seal("shutdown", last=True)
            self._shelf.let_go()
        finally:
            self._note_state()
            self.unlock()

    # ---- writing

    def _write(self, item: Item) -> None:
        writer = self._ready()
        if isinstance(item, Block):
            writer.write_block(item, self._maps)
            self._raw_bytes += item.raw_bytes
            self._written_events += item.events
            self._last_blocks[item.stream] = item.number
        else:
            writer.write_note(item)

    def _ready(self) -> SegmentWriter:
        """The open segment; a new one where there is none."""
        if self._writer is None:
            self._hold_folder()
            header = self._context.header(self._number, self._opening)
            # The wall clock may have been set back; names go on sorting in the order of writing. Each try has a name
            # of its own: what a failed one leaves, where the disk does not even remove it, is not in its way.
            self._newest_ns = header["created_ns"] = max(header["created_ns"], self._newest_ns + 1000)
            self._writer = SegmentWriter.create(self.policy.folder, header)
            self._number += 1
            self._opened_s = self._synced_s = time.monotonic()
            self._opened_wall_s = time.time()
            self._last_blocks, self._closing_noted, self._overdue = {}, -1, None
            self._untold.tell(self._context.opening_notes(), self._writer.write_note)
        return self._writer

    def _sync(self) -> None:
        if self._writer is not None and self._suspended is None:
            try:
                self._writer.sync()
            except ArchiveFullError as e:
                self._suspend(str(e))
            else:
                self._durable_events = self._written_events
            self._synced_s = time.monotonic()

    # ---- sealing

    def _seal_if_full(self) -> None:
        """Rotate by size; a disk without room for the footer has the blocks all the same."""
        writer = self._writer
        if writer is not None and self._overdue is None and self.policy.rotation.is_full(writer.size_bytes):
            self._try_to_seal("size")

    def _seal_if_due(self, now_s: float) -> None:
        """Rotate by time and on request, also while nothing else is written: the reserve has the room for that."""
        asked, self._rotation_asked = self._rotation_asked, False
        if self._writer is None:
            return
        if asked or self._overdue is not None:
            self._try_to_seal(self._overdue or "signal")
        elif self.policy.rotation.is_due(now_s - self._opened_s, self._opened_wall_s, time.time()):
            self._try_to_seal("time")

    def _try_to_seal(self, reason: str, *, last: bool = False) -> bool:
        """Ends the open segment; as the run's last one also where none is open. False when the disk refuses."""
        try:
            if last:
                self._ready()  # a run without an entry leaves a segment too: it was there and saw nothing
            self._seal(reason, last=last)
        except ArchiveFullError as e:
            self._suspend(str(e))
            return self._writer is not None and self._writer.is_ended
        except ArchiveError as e:  # its name is taken; the disk has room, so nothing need be given up
            if self._overdue is None:
                logger.error("a segment cannot be sealed, it is written on and tried again", extra={"fields": {
                    "why": str(e),
                }})  # fmt: skip
            self._overdue = reason
        return True

    def _seal(self, reason: str, *, last: bool) -> None:
        writer = self._writer
        if writer is None:
            return
        try:
            path = self._end(writer, reason, last)
        except ArchiveFullError:
            if not self._shelf.give_up_reserve():
                raise
            path = self._end(writer, reason, last)
        self.last_path = path
        self._opening = writer.closing
        self._writer = None
        self._durable_events = self._written_events
        created_ns = writer.header.created_ns
        sealed_ns = max(created_ns, time.time_ns())
        self._shelf.add(Sealed(path, writer.size_bytes, created_ns, sealed_ns, self._last_blocks))
        self._look_at_the_disk(time.monotonic())

    def _end(self, writer: SegmentWriter, reason: str, last: bool) -> Path:
        if not writer.is_ended and self._closing_noted != writer.size_bytes:  # else an earlier try failed behind them
            for note in self._context.closing_notes():
                writer.write_note(note)
            writer.write_formats_again()
            self._closing_noted = writer.size_bytes
        path = writer.seal(self._closing, reason, last)
        self._closing_noted = -1
        return path

    # ---- room

    def _open_bytes(self) -> int:
        return self._writer.size_bytes if self._writer is not None else 0

    def _look_at_the_disk(self, now_s: float) -> None:
        """Removes what retention may; suspends when the disk is too full even then."""
        if self._suspended is not None:
            return
        self._checked_s = now_s
        try:
            if self._shelf.retain(self._open_bytes(), time.time_ns()):
                self._shelf.hold_reserve()
            else:
                self._sync()  # a suspended archive is not synced again before it goes on
                self._suspend(f"less than {self.policy.room.min_free_bytes} bytes are free")
        except OSError as e:
            self._suspend(str(ArchiveFullError(
                f"cannot look at the archive folder: {e.strerror}", where=str(self.policy.folder),
                hint="create or mount it again",
            )))  # fmt: skip

    def _suspend(self, why: str) -> None:
        if self._suspended is None:
            logger.error(
                "archiving is suspended, entries are counted and discarded until there is room",
                extra={"fields": {"why": why, "folder": str(self.policy.folder)}},
            )
            self._checked_s = time.monotonic()
        self._suspended = why

    def _try_to_resume(self, now_s: float, *, at_the_end: bool = False) -> None:
        """Goes on where there is room.

        Args:
          at_the_end: of the run: what is missing is told even where less is free than is to be left.
        """
        self._checked_s = now_s
        why = self._suspended or ""
        try:
            self._free_now(at_the_end)
            self._leave_removed_file()
            if self._writer is not None and self._writer.is_ended:
                self._seal("", last=False)  # it has its footer: nothing may follow that
            if self._untold or self._writer is not None:
                writer = self._ready()
                gaps = self._untold.take_gaps(lambda blocks: f"{blocks} blocks: {why}")
                self._untold.tell([*gaps, *self._untold.take_notes()], writer.write_note)
                writer.sync()
                self._durable_events = self._written_events
        except (ArchiveError, OSError) as e:
            self._suspended = str(e)
            return
        logger.warning("archiving goes on", extra={"fields": {"discarded_events": self._discarded}})
        self._suspended = None

    def _free_now(self, at_the_end: bool) -> None:
        """Make room, and the folder where it is gone.

        Raises:
          ArchiveFullError: there is not enough.
        """
        self._hold_folder()
        has_room = self._shelf.retain(self._open_bytes(), time.time_ns())
        if at_the_end:
            self._shelf.give_up_reserve()
        elif not has_room:
            raise ArchiveFullError(f"less than {self.policy.room.min_free_bytes} bytes are free")

    def _leave_removed_file(self) -> None:
        """The folder or the file was removed: what was in it is lost, as the next run of verify says."""
        if self._writer is not None and not self._writer.path.exists():
            self._writer.abandon()
            self._opening = {key: of.closing(None) for key, of in self._writer.tally.streams.items()}
            self._writer = None

    def _hold_folder(self) -> None:
        if self._held.hold_again():
            self._shelf.forget_gone()

    def _note_state(self) -> None:
        shelf, writer = self._shelf, self._writer
        oldest_ns = shelf.oldest_ns if shelf.segments or writer is None else start_ns_of(writer.path)
        self.state = SinkState(
            bytes=shelf.total_bytes + self._open_bytes(),
            segments=len(shelf.segments) + (writer is not None),
            oldest_s=oldest_ns / 1e9 if oldest_ns is not None else None,
            raw_bytes=self._raw_bytes,
            suspended=self._suspended,
            removed_segments=shelf.removed,
            discarded_events=self._discarded,
            written_events=self._written_events,
            durable_events=self._durable_events,
            pinned_bytes=shelf.pinned_bytes,
            waiting_bytes=shelf.waiting_bytes,
            free_bytes=shelf.free_bytes,
        )
