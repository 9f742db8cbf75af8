"""Follows an archive's folder: what is sealed there is brought to the store, oldest first, and noted as done."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from collector.errors import ArchiveError
from collector.monitor.state import SinkSnapshot
from sinks.contract.base import SealedSegment, TransportState
from sinks.network.retry import Backoff
from sinks.objectstore.bring import bring
from sinks.objectstore.names import MANIFEST, PROBE, quote_part
from sinks.objectstore.progress import Progress, path_of, read_progress, write_progress
from sinks.objectstore.store import StoppedError, Store, StoreError
from sinks.objectstore.waiting import Content, Waiting

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A manifest is written once for so many segments at most, when there are many to catch up with.
SEGMENTS_A_MANIFEST = 16


# A reason of `discarded`; the others are those of the spool.
REMOVED = "removed"
ERROR = "error"


@dataclass(slots=True)
class Counts:
    """Of this run of the daemon."""

    tries: int = 0
    failures: int = 0
    uploaded_segments: int = 0  # with those that were found to be there
    uploaded_bytes: int = 0
    uploaded_events: int = 0
    lost_segments: int = 0  # removed from the archive before they were uploaded
    lost_bytes: int = 0
    lost_events: int = 0
    conflicts: int = 0  # uploaded under another name, their own being taken
    last_upload_s: float | None = None  # wall time


@dataclass(frozen=True, slots=True)
class Place:
    """What is uploaded where."""

    name: str  # of the sink
    archive: Path
    host: str
    url: str  # with what else tells one place from another, such as the endpoint


class Uploader:
    """The object store sink.

    Args:
      make_store: gives the store; its argument says whether to give up.
      scan_interval_s: how often the folder is looked at.
      backoff: between tries.
    """

    def __init__(
        self,
        place: Place,
        make_store: Callable[[Callable[[], bool]], Store],
        scan_interval_s: float,
        backoff: Backoff,
        stall_limit_s: float,
    ) -> None:
        self.name = place.name
        self.state = TransportState()
        self.counts = Counts()
        self._stall_limit_s = stall_limit_s
        self.create_only: bool | None = None  # whether the server honours it; None: not known yet
        self._place = place
        self._store = make_store(lambda: self._stopped)
        self._scan_interval_s = scan_interval_s
        self._backoff = backoff
        self._progress_path = path_of(place.archive, place.name)
        self._progress = Progress(place.url)
        self._loaded = False  # the progress of earlier runs is
        self._noted = True  # the progress is durable
        self._waiting = Waiting(place.archive)
        self._waiting_since_s: float | None = None
        self._unreadable: set[str] = set()  # file names that were told
        self._foreign: set[str] = set()  # folders of manifests that were told
        self._stopped = False
        self._limiter = trio.CapacityLimiter(1)

    def is_acknowledged(self, segment: SealedSegment) -> bool:
        """Whether a segment is in the store, whole and for certain; from any thread."""
        return segment.name in self._waiting.done

    def note_removal(self, segment: SealedSegment) -> None:
        """Retention is about to remove a segment; what is not uploaded by then is counted. From any thread."""
        self._waiting.note_removal(segment.name)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Upload each segment once it is sealed, until cancelled."""
        task_status.started()
        while True:
            try:
                more = await self._pass()
            except (StoreError, ArchiveError) as e:
                self._fail(str(e))
                await trio.sleep(self._backoff.next_s())
            else:
                if self._backoff.failures:
                    logger.info("the object store takes segments again", extra={"fields": {"sink": self.name}})
                self._backoff.reset()
                if not more:
                    await trio.sleep(self._scan_interval_s)

    async def drain(self) -> None:
        """Upload what has been sealed since run() was cancelled, until the store fails once."""
        try:
            while await self._pass():
                pass
        except (StoreError, ArchiveError) as e:
            self._fail(str(e))
        finally:
            self._stopped = True
            if self._loaded:
                self._count_lost(self._waiting.lose_going((), self._progress.uploaded))
            if self._waiting.segments:
                logger.warning("segments are not uploaded yet; the next run goes on", extra={"fields": {
                    "sink": self.name, "segments": len(self._waiting.segments), "why": self.state.last_error,
                }})  # fmt: skip

    def snapshot(self) -> SinkSnapshot:
        """What the metrics say; the archive is this sink's spool."""
        counts = self.counts
        waiting = self._waiting.total
        return SinkSnapshot(
            name=self.name,
            offered_events=counts.uploaded_events + counts.lost_events + waiting.events,
            discarded_events={REMOVED: counts.lost_events},
            discarded_bytes={REMOVED: counts.lost_bytes},
            acked_events=counts.uploaded_events,
            acked_bytes=counts.uploaded_bytes,
            spooled_events=waiting.events,
            requests=counts.tries,
            retries=counts.failures,
            request_failures={ERROR: counts.failures},
            in_flight=int(self._limiter.borrowed_tokens),
            connected=self.state.connected,
            last_error=self.state.last_error,
            last_ack_s=counts.last_upload_s,
            stalled_s=trio.current_time() - self._waiting_since_s if self._waiting_since_s is not None else 0.0,
            stall_limit_s=self._stall_limit_s,
            durable=True,
            spool_bytes=waiting.size_bytes,
            spool_segments=len(self._waiting.segments),
        )

    async def _load(self) -> None:
        """Read what was done so far.

        Raises:
          ArchiveError
        """
        try:
            progress, doubt = await trio.to_thread.run_sync(read_progress, self._progress_path, self._place.url)
        except OSError as e:
            raise ArchiveError(
                f"cannot read what was uploaded: {e.strerror}", where=str(self._progress_path),
                hint="the daemon's user must be able to read and write it",
            ) from e  # fmt: skip
        if doubt is not None:
            logger.warning("what was uploaded is asked of the store again", extra={"fields": {
                "sink": self.name, "file": str(self._progress_path), "why": doubt,
            }})  # fmt: skip
        self._progress, self._waiting.done = progress, frozenset(progress.uploaded)

    async def _pass(self) -> bool:
        """Upload some of what is sealed, and write the manifests; whether there is more.

        Raises:
          StoreError, ArchiveError
        """
        if not self._loaded:
            await self._load()
            self._loaded = True
        if not self._noted:
            await self._note()
        present = await trio.to_thread.run_sync(self._waiting.list_sealed)
        self._count_lost(self._waiting.look(present, self._progress.uploaded))
        if not self._waiting.segments:
            self._waiting_since_s = None
        elif self._waiting_since_s is None:
            self._waiting_since_s = trio.current_time()
        if self.create_only is None and self._waiting.segments:
            await self._probe()
        tried: set[str] = set()
        for name in sorted(self._waiting.segments)[:SEGMENTS_A_MANIFEST]:
            tried.add(name)
            try:
                await self._upload(name)
            except OSError as e:  # of this file; the others don't wait for it
                self._pass_over(name, e)
        for day in sorted(self._progress.days):
            await self._write_manifest(day)
        before = len(self._progress.uploaded)
        self._progress.prune(present)
        if len(self._progress.uploaded) != before:
            await self._note()
        return bool(self._waiting.segments.keys() - tried)

    def _count_lost(self, lost: Mapping[str, Content]) -> None:
        """Count segments that are gone."""
        for name, of in lost.items():
            self.counts.lost_segments += 1
            self.counts.lost_events += of.events
            self.counts.lost_bytes += of.size_bytes
            logger.error("a segment was removed before it was uploaded", extra={"fields": {
                "sink": self.name, "segment": name, "events": of.events, "why": self.state.last_error,
            }})  # fmt: skip

    async def _probe(self) -> None:
        """Try the server's honesty, once."""
        key = f"{quote_part(self._place.host)}/{PROBE}"
        self.create_only = await self._ask(partial(self._store.honours_create, key))
        if not self.create_only:
            logger.warning(
                "the server overwrites although it is told to create only: each object is looked for before it is "
                "written, but two writers of one name are not kept apart",
                extra={"fields": {"sink": self.name, "url": self._place.url}},
            )

    async def _upload(self, name: str) -> None:
        self.counts.tries += 1
        try:
            done, conflict = await self._ask(partial(bring, self._place.archive / name, self._place.host, self._store))
        except FileNotFoundError:
            self._count_lost({name: self._waiting.lose(name)})
            return
        self._progress.uploaded[name] = done
        self._progress.days.add(done.folder)
        await self._note()
        counts = self.counts
        counts.uploaded_segments += 1
        counts.uploaded_bytes += done.entry.size_bytes
        counts.uploaded_events += self._waiting.segments.pop(name).events
        counts.conflicts += conflict
        counts.last_upload_s = time.time()
        self._waiting_since_s = trio.current_time() if self._waiting.segments else None
        if conflict:
            logger.error("the name of a segment was taken in the store; it has another one there", extra={"fields": {
                "sink": self.name, "segment": name, "object": f"{done.folder}/{done.entry.name}",
            }})  # fmt: skip

    async def _write_manifest(self, day: str) -> None:
        entries = [of.entry for of in self._progress.uploaded.values() if of.folder == day]
        foreign = await self._ask(partial(self._store.merge_manifest, f"{day}/{MANIFEST}", entries))
        if foreign and day not in self._foreign:
            self._foreign.add(day)
            logger.warning("lines of a manifest do not read, and are left as they are", extra={"fields": {
                "sink": self.name, "manifest": f"{day}/{MANIFEST}", "lines": foreign,
            }})  # fmt: skip
        self._progress.days.discard(day)
        await self._note()

    async def _note(self) -> None:
        """Make what was done durable."""
        self._noted = False
        try:
            await trio.to_thread.run_sync(write_progress, self._progress_path, self._progress)
        except OSError as e:
            raise ArchiveError(
                f"cannot note what was uploaded: {e.strerror}", where=str(self._progress_path),
                hint="the archive keeps segments that are not noted",
            ) from e  # fmt: skip
        self._noted = True
        self._waiting.done = frozenset(self._progress.uploaded)

    def _pass_over(self, name: str, error: OSError) -> None:
        """A segment cannot be read; it is tried again at the next look."""
        self.counts.failures += 1
        self.state = TransportState(self.state.connected, f"{name}: {error.strerror}")
        if name not in self._unreadable:
            self._unreadable.add(name)
            logger.error("a segment cannot be read, and is not uploaded", extra={"fields": {
                "sink": self.name, "segment": name, "error": str(error),
            }})  # fmt: skip

    def _fail(self, why: str) -> None:
        self.counts.failures += 1
        if not self._backoff.failures:
            logger.warning("the object store does not take segments, it is tried again", extra={"fields": {
                "sink": self.name, "why": why,
            }})  # fmt: skip
        self.state = TransportState(connected=False, last_error=why)

    async def _ask(self, job: Callable[[], T]) -> T:
        """Ask the store; what it answers shows that it is there."""
        try:
            answer = await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=self._limiter)
        except StoppedError as e:
            raise StoreError(str(e)) from e
        self.state = TransportState(connected=True)
        return answer
