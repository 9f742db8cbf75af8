"""One sender at the receiver: its archive while that is open, and the connection that has it."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from collector.errors import ArchiveError, SegmentError
from sinks.contract.base import Parcel
from sinks.stream.host import HostArchive, MalformedError, Taken
from sinks.stream.memory import Memory
from sinks.stream.policy import HostPolicy
from sinks.stream.room import NoRoomError
from sinks.wire.messages import StreamError, WireRecord, parse_parcel

logger = logging.getLogger(__name__)


class ReplacedError(StreamError):
    """A connection ends because its host has opened another one."""


class CrowdedError(StreamError):
    """A connection ends because its host holds most of the receiver's memory, and there is none left."""


class Sender:
    """See the module.

    Args:
      folder: of the archive.
      limiter: of the threads that write.
      memory: where what it holds is counted.
    """

    def __init__(self, folder: Path, policy: HostPolicy, limiter: trio.CapacityLimiter, memory: Memory) -> None:
        self._folder = folder
        self._policy = policy
        self._limiter = limiter
        self._archive: HostArchive | None = None
        self._lock = trio.Lock()  # one call into the archive at a time
        self._claims: set[trio.CancelScope] = set()  # of the connection that has it, and of those that want it
        self._turn = trio.Lock()
        self._used_s = trio.current_time()
        self._share = memory.open_share(self._cut)
        self._archive_bytes = 0
        self._is_cut = False

    @property
    def is_claimed(self) -> bool:
        return bool(self._claims)

    @property
    def is_busy(self) -> bool:
        """Whether something is being written, or closed."""
        return self._lock.locked()

    @property
    def is_due(self) -> bool:
        """Whether a segment is to be ended; not to be asked while it is busy."""
        return self._archive is not None and self._archive.is_due

    def is_idle(self, idle_s: float) -> bool:
        """Whether nobody was connected for so long, or it has to give up its memory."""
        return not self._claims and (self._is_cut or trio.current_time() - self._used_s >= idle_s)

    @asynccontextmanager
    async def claimed(self) -> AsyncIterator[None]:
        """The folder is this connection's: all others of this sender end, and their last record is written first.

        Raises:
          ReplacedError: another one came.
          CrowdedError: it holds too much.
        """
        was_cut = False
        with trio.CancelScope() as scope:
            for other in self._claims:
                other.cancel()
            self._claims.add(scope)
            try:
                async with self._turn:
                    try:
                        yield
                    finally:
                        self.hold(0)
                        if self._is_cut:
                            was_cut = True
                            await self.close()
            finally:
                self._claims.discard(scope)
                self._used_s = trio.current_time()
        if scope.cancelled_caught:
            if was_cut:
                raise CrowdedError("the receiver has no memory left, and this host holds most of it",
                                  hint="it may need a larger --max-memory-bytes")  # fmt: skip
            raise ReplacedError("another connection of this host takes its place", hint="does each host have its name?")

    def hold(self, size_bytes: int, *, is_busy: bool = False) -> None:
        """Count what its connection holds.

        Args:
          is_busy: it is being written.
        """
        self._share.is_busy = is_busy
        self._share.resize(self._archive_bytes + size_bytes)

    async def take(self, records: Sequence[WireRecord]) -> Taken:
        """Write records, durably.

        Raises:
          MalformedError: one of them is no segment's; those before it are written.
          NoRoomError: the disk has no room; nothing was written.
          ArchiveError: they could not be written; the archive begins anew with the next.
        """
        batch = _Batch(records)
        async with self._lock:
            try:
                while batch.is_unfinished:  # other senders have their turn between the parts
                    await self._in_thread(partial(self._take_part, batch))
                return batch.taken
            except (MalformedError, NoRoomError):
                raise
            except ArchiveError:
                await self._close()
                raise
            except Exception as e:
                # A peer that finds a hole in our checks costs its own connection, and nobody else's.
                logger.error("cannot take what a sender brings", exc_info=e, extra={"fields": {"folder": self._folder}})
                await self._close()
                raise ArchiveError("the receiver failed; its log says why", got=type(e).__name__) from e
            finally:
                self._archive_bytes = self._archive.held_bytes if self._archive is not None else 0

    def _take_part(self, batch: "_Batch") -> None:
        """In a thread: one hop for all that a read has brought."""
        if self._archive is None:
            self._archive = HostArchive(self._folder, self._policy)
        batch.take_part(self._archive)

    async def tick(self) -> None:
        """Rotate by age; a segment that cannot be sealed now stays open and is recovered later."""
        async with self._lock:
            if self._archive is not None:
                try:
                    await self._in_thread(self._archive.tick)
                except Exception as e:
                    _log_seal(e)
                    await self._close()

    async def close(self) -> None:
        """Seal what is open and let go of the folder, until something comes again."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._close()

    def forget(self) -> None:
        """It will not be used any more."""
        self._share.close()

    async def _close(self) -> None:
        """Seal; in any case the folder's lock is free afterwards, also when the connection ends meanwhile."""
        archive, self._archive = self._archive, None
        if archive is not None:
            with trio.CancelScope(shield=True):
                try:
                    await self._in_thread(archive.close)
                except Exception as e:
                    _log_seal(e)
        held_bytes = self._share.size_bytes - self._archive_bytes
        self._archive_bytes = 0
        self._is_cut = False
        self._share.resize(held_bytes)

    def _cut(self) -> None:
        """Give up what it holds: its connection ends, and its archive is closed."""
        logger.warning("the receiver has no memory left", extra={"fields": {
            "folder": self._folder, "held_bytes": self._share.size_bytes, "hint": "raise --max-memory-bytes",
        }})  # fmt: skip
        self._is_cut = True
        for claim in self._claims:
            claim.cancel()

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await trio.to_thread.run_sync(function, limiter=self._limiter)


class _Batch:
    """Records that came at once, on their way into an archive."""

    def __init__(self, records: Sequence[WireRecord]) -> None:
        self.taken = Taken()
        self._records = records
        self._parcels: list[Parcel] | None = None  # None: not parsed yet
        self._fault: SegmentError | None = None  # of the record behind the last of them

    @property
    def is_unfinished(self) -> bool:
        return self.taken.records < len(self._records)

    def take_part(self, archive: HostArchive) -> None:
        """Take the next ones.

        Raises:
          MalformedError: with what became of all of them.
        """
        if self._parcels is None:
            self._parcels = self._parse()
        try:
            self.taken.add(archive.take_part(self._parcels, self.taken.records))
        except MalformedError as e:
            self.taken.add(e.taken)
            raise MalformedError(e, self.taken) from e
        if self._fault is not None and self.taken.records == len(self._parcels):
            raise MalformedError(self._fault, self.taken)

    def _parse(self) -> list[Parcel]:
        parcels: list[Parcel] = []
        try:
            for record in self._records:
                parcels.append(parse_parcel(record))
        except SegmentError as e:
            self._fault = e
        return parcels


def _log_seal(error: Exception) -> None:
    """It stays open and is recovered by the next start."""
    is_ours = isinstance(error, ArchiveError)
    logger.error("cannot seal a sender's segment", exc_info=None if is_ours else error,
                 extra={"fields": {"error": str(error)}})  # fmt: skip
