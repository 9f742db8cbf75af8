"""Follows an archive's folder: what is sealed there is brought to the store, oldest first, and noted as done."""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import trio

from collector.archive.segment import SUFFIX
from collector.errors import ArchiveError
from collector.monitor.state import SinkSnapshot
from sinks.contract.base import SealedSegment, TransportState
from sinks.network.retry import Backoff
from sinks.objectstore.digest import Digest, count_events, read_digest, read_entry
from sinks.objectstore.names import MANIFEST, PROBE, build_folder, date_of, other_name, quote_part
from sinks.objectstore.progress import Progress, Uploaded, path_of, read_progress, write_progress
from sinks.objectstore.store import StoppedError, Store, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A manifest is written once for so many segments at most, when there are many to catch up with.
SEGMENTS_A_MANIFEST = 16


# A reason of `discarded`; the others are those of the spool.
REMOVED = "removed"
ERROR = "error"


class _Pending(NamedTuple):
    """A sealed segment that is not in the store."""

    size_bytes: int
    events: int


NOTHING = _Pending(0, 0)


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
        self._pending: dict[str, _Pending] = {}  # {file name: ...} sealed, not uploaded
        self._done: frozenset[str] = frozenset()  # file names; replaced whole, other threads read it
        self._going: dict[str, _Pending] = {}  # {file name: ...} removed by retention, not uploaded by then
        self._waiting_since_s: float | None = None
        self._unreadable: set[str] = set()  # file names that were told
        self._foreign: set[str] = set()  # folders of manifests that were told
        self._stopped = False
        self._limiter = trio.CapacityLimiter(1)

    def is_acknowledged(self, segment: SealedSegment) -> bool:
        """Whether a segment is in the store, whole and for certain; from any thread."""
        return segment.name in self._done

    def note_removal(self, segment: SealedSegment) -> None:
        """Retention is about to remove a segment; what is not uploaded by then is counted at the next look.

        Else one that is sealed and removed between two looks would be lost in silence. From any thread.
        """
        if segment.name in self._done:
            return
        path = self._place.archive / segment.name
        try:
            self._going[segment.name] = _Pending(path.stat().st_size, count_events(path))
        except FileNotFoundError:
            pass  # somebody else removed it before, and where a look had seen it, the next one missed and counted it
        except OSError:
            self._going[segment.name] = NOTHING  # nobody knows what is in it

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
                self._lose_going(())
            if self._pending:
                logger.warning("segments are not uploaded yet; the next run goes on", extra={"fields": {
                    "sink": self.name, "segments": len(self._pending), "why": self.state.last_error,
                }})  # fmt: skip

    def snapshot(self) -> SinkSnapshot:
        """What the metrics say; the archive is this sink's spool."""
        counts = self.counts
        pending_events = sum(of.events for of in self._pending.values())
        return SinkSnapshot(
            name=self.name,
            offered_events=counts.uploaded_events + counts.lost_events + pending_events,
            discarded_events={REMOVED: counts.lost_events},
            discarded_bytes={REMOVED: counts.lost_bytes},
            acked_events=counts.uploaded_events,
            acked_bytes=counts.uploaded_bytes,
            spooled_events=pending_events,
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
            spool_bytes=sum(of.size_bytes for of in self._pending.values()),
            spool_segments=len(self._pending),
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
        self._progress, self._done = progress, frozenset(progress.uploaded)

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
        present = await trio.to_thread.run_sync(self._list)
        self._look(present)
        if self.create_only is None and self._pending:
            await self._probe()
        tried: set[str] = set()
        for name in sorted(self._pending)[:SEGMENTS_A_MANIFEST]:
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
        return bool(self._pending.keys() - tried)

    def _list(self) -> dict[str, _Pending]:
        """{name: what is in it} of the sealed segments."""
        found = {}
        for path in self._place.archive.glob(f"*{SUFFIX}"):
            try:
                if path.name in self._done:
                    found[path.name] = NOTHING  # nobody asks what is in it; reading that of a whole archive takes long
                    continue
                known = self._pending.get(path.name)
                found[path.name] = _Pending(path.stat().st_size, count_events(path) if known is None else known.events)
            except OSError:
                continue  # retention took it just now; or it cannot be read, which the upload will say
        return found

    def _look(self, present: dict[str, _Pending]) -> None:
        for name in [name for name in self._pending if name not in present]:
            self._lose(name)
        self._lose_going(present)
        self._pending = {name: of for name, of in present.items() if name not in self._progress.uploaded}
        if not self._pending:
            self._waiting_since_s = None
        elif self._waiting_since_s is None:
            self._waiting_since_s = trio.current_time()

    def _lose_going(self, present: Collection[str]) -> None:
        """Count what retention has removed since the last look; what is present still waits for that."""
        for name in [name for name in list(self._going) if name not in present]:
            if name in self._progress.uploaded:  # it was on its way
                del self._going[name]
            else:
                self._lose(name)

    def _lose(self, name: str) -> None:
        """Count a segment that is gone: once, whoever finds it out."""
        going = self._going.pop(name, NOTHING)
        of = self._pending.pop(name, going)
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
            done, conflict = await self._ask(partial(self._upload_file, name))
        except FileNotFoundError:
            self._lose(name)
            return
        self._progress.uploaded[name] = done
        self._progress.days.add(done.folder)
        await self._note()
        counts = self.counts
        counts.uploaded_segments += 1
        counts.uploaded_bytes += done.entry.size_bytes
        counts.uploaded_events += self._pending.pop(name).events
        counts.conflicts += conflict
        counts.last_upload_s = time.time()
        self._waiting_since_s = trio.current_time() if self._pending else None
        if conflict:
            logger.error("the name of a segment was taken in the store; it has another one there", extra={"fields": {
                "sink": self.name, "segment": name, "object": f"{done.folder}/{done.entry.name}",
            }})  # fmt: skip

    def _upload_file(self, name: str) -> tuple[Uploaded, bool]:
        """In the thread: bring one file to the store; whether its name was taken.

        Raises:
          FileNotFoundError: the file is gone.
          StoreError, OSError
        """
        path = self._place.archive / name
        with open(path, "rb") as file:
            digest = read_digest(file, self._store.part_bytes)
            entry = read_entry(path, digest, self._place.host)
            date = date_of(name) or time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
            folder = build_folder(entry.host, entry.instances, date)
            if self._bring(f"{folder}/{name}", file, digest):
                return Uploaded(name, folder, entry), False
            taken = other_name(name, digest.sha256)
            if not self._bring(f"{folder}/{taken}", file, digest):
                raise StoreError("both names of a segment are taken by other content", where=f"{folder}/{taken}")
        return Uploaded(name, folder, replace(entry, name=taken)), True

    def _bring(self, key: str, file: BinaryIO, digest: Digest) -> bool:
        """False when there is something else at the key."""
        same = self._store.is_same(key, digest)
        if same is not None:
            return same
        file.seek(0)
        return self._store.put(key, file, digest)

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
        self._done = frozenset(self._progress.uploaded)

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
