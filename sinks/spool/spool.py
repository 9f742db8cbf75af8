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
from collections.abc import Callable, Sequence
from dataclasses import replace

from collector.archive import disk
from collector.archive.lock import ArchiveLock
from collector.archive.records import MapSource
from collector.batch import Block, Note, NoteKind
from collector.errors import ArchiveError, ArchiveFullError
from sinks.contract.base import Item, SegmentContext
from sinks.contract.untold import OF_LOG, Untold
from sinks.network.backlog import (
    SPOOL_FULL,
    START,
    SUSPENDED,
    Appended,
    LogState,
    Position,
    ReadBack,
    gap_of_parcel,
    take_untold,
)
from sinks.spool.policy import SpoolPolicy
from sinks.spool.reader import SpoolReader
from sinks.spool.segments import Segments
from sinks.spool.start import look, remove
from sinks.spool.stored import Stored
from sinks.spool.tail import Tail

logger = logging.getLogger(__name__)

SPACE_CHECK_S = 2.0  # how often a disk that took nothing is tried again


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
        self._maps = maps
        self._clock = clock
        self._lock: ArchiveLock | None = None
        self._segments = Segments(policy.folder)
        self._tail = Tail(policy, context, self._segments, clock)
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
        self._segments.adopt(left)
        self._tail.follow(left.last_created_ns)
        self._quarantined, self._corrupt_cursors = left.quarantined, left.corrupt
        self._note_state()
        return left.events

    def finish(self) -> Appended:
        """Write what ends the run, for the receiver to have it too."""
        done = Appended()
        if self._suspended is None:
            try:
                if self._untold:
                    writer = self._tail.ready(done)
                    self._untold.tell(take_untold(self._untold), writer.write_note)
                self._tail.end_run(done)
            except ArchiveError as e:
                self._suspend(str(e))
            finally:
                self._tail.take(done)
        done.oldest = self._segments.oldest
        return done

    def close(self) -> None:
        """Keep what is not acknowledged, sealed, and let go of the folder."""
        try:
            stored = self._segments.open
            if stored is not None and self._segments.is_acknowledged(stored) and not stored.rejected:
                self._tail.discard()
            elif stored is not None:
                self._tail.seal("shutdown", last=True)
                self.acknowledge(START, ())  # it is sealed, and may go with those that were acknowledged before
        except ArchiveError as e:
            logger.error("the spool's last segment is not sealed; the next start does it",
                         extra={"fields": {"why": str(e)}})  # fmt: skip
        finally:
            self._reader.close()
            self._tail.abandon()
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
                self._tail.note_sample(item)
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
        done.oldest = self._segments.oldest
        self._note_state()
        return done

    def _refuse(self, item: Item, reason: str, done: Appended) -> None:
        """An item is not written: a block is counted, a note comes later, of samples the last one."""
        if isinstance(item, Block):
            done.refused.add(reason, item.events, len(item.body))
            self._untold.miss(item.stream, item.events, item.first_ts, item.last_ts)
        elif item.kind is NoteKind.SAMPLE:
            self._tail.note_sample(replace(item, keep=False))  # written at the end
        else:
            self._untold.keep(item)

    def _write(self, item: Item, done: Appended) -> None:
        try:
            writer = self._tail.ready(done)
            if isinstance(item, Block):
                self._untold.tell(take_untold(self._untold), writer.write_note)
                writer.write_block(item, self._maps)
            else:
                writer.write_note(item)
        finally:
            self._tail.take(done)

    # ---- room

    @property
    def _total_bytes(self) -> int:
        return self._segments.closed_bytes + self._tail.size_bytes

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
            if self._segments.remove_rejected():
                continue
            if self.policy.when_full in ("spool", "drop_oldest") and self._segments.has_sealed:
                self._drop_oldest(handed, done)
            else:
                return False
        return True

    def _drop_oldest(self, handed: Position, done: Appended) -> None:
        """Give up the oldest sealed segment; what was handed out of it is the caller's to count.

        The receiver is told of a gap, unless it is one in an earlier run: of that one nothing follows.
        """
        stored = self._segments.pop_oldest()
        done.made_room = True
        done.entries = [entry for entry in done.entries if entry.position.segment != stored.ident]
        start = _behind(stored, handed)
        done.dropped.add(SPOOL_FULL, stored.blocks.count(start, stored.end), stored.end - start)
        if stored.run == self._tail.run:
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
            writer = self._tail.writer
            if writer is not None and writer.is_ended:
                self._tail.ready(done)
            else:
                (writer or self._tail.begin()).sync()
        except (ArchiveError, OSError) as e:
            self._suspended = str(e)
            return
        finally:
            self._tail.take(done)
        logger.warning("a spool's disk takes data again", extra={"fields": {"folder": str(self.policy.folder)}})
        self._suspended = None

    def _hold_folder(self, done: Appended) -> None:
        """Make the folder again where it was removed, with all that was in it.

        Raises:
          ArchiveError, OSError: it cannot be made, or another process has it now.
        """
        if self._tail.writer is not None and not self._tail.writer.path.exists():
            self._tail.lose()
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
        self._segments.acknowledge(position, rejected)
        self._note_state()

    def tick(self) -> float | None:
        """Sync when that is due."""
        took_s = None
        writer = self._tail.writer
        is_due = self._clock() - self._tail.synced_s >= self.policy.sync_interval_s
        if is_due and writer is not None and self._suspended is None and writer.unsynced_bytes:
            took_s = self._sync()
        self._note_state()
        return took_s

    def _sync(self) -> float | None:
        writer = self._tail.writer
        if writer is None or self._suspended is not None:
            return None
        before_s = time.monotonic()
        try:
            writer.sync()
        except ArchiveFullError as e:
            self._suspend(str(e))
        self._tail.synced_s = self._clock()
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
