"""What one sender's records become: segments in a folder of its own, each of which decodes alone.

All methods block; one at a time is called, in a thread. What is taken is durable when `take` has returned.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.bodies import Header, parse_block, parse_gap, parse_header, parse_sample
from collector.archive.fields import unpack
from collector.archive.frame import Kind
from collector.archive.lock import ArchiveLock
from collector.archive.objects import END, open_object
from collector.archive.recover import FAILED, recover_folder
from collector.archive.segment import SUFFIX, SegmentWriter, disk_error, start_ns_of
from collector.archive.tally import RECOVERED
from collector.archive.totals import build_totals
from collector.batch import Block, StreamKey
from collector.errors import ArchiveFullError, SegmentError
from sinks.contract.base import Parcel
from sinks.stream.checks import check_block, check_counts, check_header, check_name, check_totals
from sinks.stream.names import Names
from sinks.stream.room import check_room
from sinks.stream.run import Run, parse_end

logger = logging.getLogger(__name__)

# Of objects that come at once, decompressed: what takes long for one sender keeps others waiting.
MAX_UNPACKED_BYTES = 256 << 20

# The index of a segment is in memory until it is sealed; records that are nearly empty make much of it.
MAX_SEGMENT_RECORDS = 1 << 18
MAX_INDEX_BYTES = 8 << 20  # in the footer, beside the totals of all streams
INDEX_ENTRY_BYTES = 45
RECORD_BYTES = 200  # that one takes in memory, about

MAX_RUNS = 4  # that are known without reading what the folder has of them


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """When a sender's segments end, and how much of the disk it may have."""

    segment_bytes: int = 128 << 20  # size that seals a segment
    segment_age_s: float = 3600.0  # age that seals a segment
    max_bytes: int = 10 << 30  # of all its segments; the oldest go
    min_free_bytes: int = 1 << 30  # left free on the filesystem: less, and nothing is taken
    max_segments: int = 8192  # likewise the oldest go: each is an inode, and is read at the start


@dataclass(slots=True)
class Taken:
    """What became of parcels, added up."""

    records: int = 0
    blocks: int = 0
    events: int = 0
    bytes: int = 0  # of the bodies of blocks
    duplicates: int = 0  # blocks that were here already

    def add(self, other: "Taken") -> None:
        """Add what became of others."""
        self.records += other.records
        self.blocks += other.blocks
        self.events += other.events
        self.bytes += other.bytes
        self.duplicates += other.duplicates


class MalformedError(SegmentError):
    """A record that no segment can hold; those before it are taken, and others can follow.

    Args:
      taken: what became of them.
    """

    def __init__(self, why: SegmentError, taken: Taken) -> None:
        super().__init__(str(why))
        self.taken = taken


class HostArchive:
    """The folder of one sender.

    Raises:
      NoRoomError: the disk has no room; nothing was read.
      ArchiveLockedError: another process writes there.
      ArchiveFullError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, policy: HostPolicy) -> None:
        self.folder = folder
        self.policy = policy
        self._taken = Taken()
        self._header: Header | None = None  # of what the sender sends now
        self._header_map: dict[str, Any] = {}
        self._run = Run(b"")  # of the header
        self._runs: dict[bytes, Run] = {}  # {id: run}, the last ones; the current one is the last
        self._names = Names()
        self._unpacked_bytes = 0  # of the objects that came at once
        self._writer: SegmentWriter | None = None
        self._written: set[bytes] = set()  # ids of the objects that the open segment has
        self._opened_s = 0.0
        self._newest_ns = 0  # wall time in the name of the newest segment
        self._goes_on = False  # the run, behind its last sealed segment
        self._records = 0  # of the open segment
        self._index_bytes = 0  # in its footer, about
        self._is_turn_over = False  # what takes long was done
        check_room(self.folder, self.policy.min_free_bytes)
        try:
            disk.make_folder(folder)
            self._lock = ArchiveLock(folder)
        except OSError as e:
            raise disk_error(folder, e, "use the folder") from e
        try:
            self._recover()
            self._sizes = {path: path.stat().st_size for path in sorted(folder.glob(f"*{SUFFIX}"))}
            self._newest_ns = max((start_ns_of(path) or 0 for path in self._sizes), default=0)
        except BaseException:
            self._lock.close()
            raise

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        of_runs = sum(run.held_bytes for run in self._runs.values())
        return self._names.held_bytes + RECORD_BYTES * (self._records + len(self._sizes)) + of_runs

    @property
    def is_due(self) -> bool:
        """Whether tick() would end a segment; can be asked in any thread while no method runs."""
        return self._why_due() is not None

    def take(self, parcels: Sequence[Parcel]) -> Taken:
        """Write what is new of the parcels and make it durable.

        Raises:
          NoRoomError: the disk has no room; nothing was taken.
          ArchiveFullError: the disk refuses. Nobody knows what is durable: close it, and let the sender bring all again
            to a new one.
          MalformedError: the sender sends what no segment can hold.
        """
        total = Taken()
        while total.records < len(parcels):
            try:
                total.add(self.take_part(parcels, total.records))
            except MalformedError as e:
                total.add(e.taken)
                raise MalformedError(e, total) from e
        return total

    def take_part(self, parcels: Sequence[Parcel], start: int) -> Taken:
        """As take(), but of the parcels from `start` on the first ones: what takes long is done once, and ends it."""
        check_room(self.folder, self.policy.min_free_bytes)
        self._taken = taken = Taken()
        self._unpacked_bytes = 0
        self._is_turn_over = False
        fault: SegmentError | None = None
        for at in range(start, len(parcels)):
            try:
                self._take(parcels[at])
            except SegmentError as e:
                fault = e
                break
            taken.records += 1
            if self._is_turn_over:
                break
        if self._writer is not None:
            self._writer.sync()
        self.tick()
        if fault is not None:
            raise MalformedError(fault, taken) from fault
        return taken

    def tick(self) -> None:
        """End a segment that is large or old enough."""
        if (reason := self._why_due()) is not None:
            self._seal(reason)

    def _why_due(self) -> str | None:
        if self._writer is None:
            return None
        if (
            self._writer.size_bytes >= self.policy.segment_bytes
            or self._records >= MAX_SEGMENT_RECORDS
            or self._index_bytes >= MAX_INDEX_BYTES
        ):
            return "size"
        return "time" if time.monotonic() - self._opened_s >= self.policy.segment_age_s else None

    def close(self) -> None:
        """Seal what is open and let go of the folder; a run that goes on at its sender is cut here."""
        try:
            self._cut_run()
        finally:
            if self._writer is not None:
                self._writer.abandon()  # the next start recovers it
                self._writer = None
            self._lock.close()

    def _recover(self) -> None:
        """Seal what a crash left open.

        Up to the first damage: the sender has what comes behind it, and sends it again, in order.

        Raises:
          ArchiveFullError: it cannot be sealed; what it has would be taken twice.
        """
        for found in recover_folder(self.folder, holds_lock=True, up_to_damage=True):
            if found.reason.startswith(FAILED):
                raise ArchiveFullError("a segment that a crash left open cannot be sealed", where=str(found.path),
                                       got=found.reason, hint="see to the filesystem")  # fmt: skip
            logger.warning("repaired a sender's segment that was not sealed", extra={"fields": {"what": str(found)}})

    def _take(self, parcel: Parcel) -> None:
        if parcel.kind == Kind.HEADER:
            self._begin(parcel)
            return
        if self._header is None:
            raise SegmentError("a record before the first header", expected="HEADER", got=parcel.kind.name)
        if parcel.kind == Kind.OBJECT:
            self._take_object(parcel.body)
            return
        if parcel.run != self._header.run or parcel.stream is None:
            raise SegmentError("a record of another run than the header's", got=parcel.run.hex())
        if parcel.kind == Kind.BLOCK:
            self._take_block(parcel, parcel.stream)
            return
        self._note_stream(parcel.stream)
        run, body = self._run, unpack(parcel.body, parcel.kind.name.lower())
        if parcel.kind == Kind.GAP:
            check_counts(parse_gap(parcel.body).count or 0)
            if run.has_gap(parcel.body):
                return
            run.has_ended = False
            self._write_record(parcel.kind, body)
            run.note_gap(parcel.body)
            return
        if parcel.kind == Kind.SAMPLE:
            check_totals(parse_sample(parcel.body).totals)
        if run.has_ended:
            return  # it came before the end already
        if parcel.kind == Kind.SAMPLE:
            run.samples[(parcel.stream.instance, parcel.stream.cpu)] = body["totals"]
        self._write_record(parcel.kind, body)

    def _write_record(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self._ready().write_record(kind, body)
        self._note_record()

    def _note_record(self) -> None:
        self._records += 1
        self._index_bytes += INDEX_ENTRY_BYTES

    def _note_stream(self, stream: StreamKey) -> None:
        check_name(stream.instance)
        self._run.note_stream(stream)

    def _begin(self, parcel: Parcel) -> None:
        """A header: the same run goes on, with all names again, or another run begins."""
        header = parse_header(parcel.body)
        check_header(header)
        if self._header is None or header.run != self._header.run:
            self._cut_run()
            self._run.samples.clear()
            self._run = self._remember_run(header.run)
        self._header = header
        self._header_map = unpack(parcel.body, "header")
        self._names.clear()

    def _remember_run(self, ident: bytes) -> Run:
        run = self._runs.pop(ident, None)
        if run is None:
            run = Run(ident)
            if earlier := [path for path in self._sizes if f"Z-{ident.hex()[:8]}-" in path.name]:
                run.read_earlier(earlier)
                self._is_turn_over = True
        self._runs[ident] = run
        if len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        return run

    def _take_object(self, body: bytes) -> None:
        key, kind, data = open_object(body)
        self._unpacked_bytes += len(data)
        if self._unpacked_bytes > MAX_UNPACKED_BYTES:
            raise SegmentError("objects that are too large when they are decompressed",
                               expected=f"at most {MAX_UNPACKED_BYTES} bytes of those that come at once")  # fmt: skip
        if kind == END:
            self._end_run(parse_end(data))
            return
        self._names.add(key, kind, data, body)
        if kind == "format":
            return
        if self._writer is not None and (key not in self._written or kind not in ("symbols", "printk")):
            self._write_object(self._writer, key, body)

    def _end_run(self, ident: bytes) -> None:
        if ident != self._run.id:
            raise SegmentError("the end of another run than the header's", got=ident.hex())
        if self._run.has_ended:
            return
        self._ready()
        self._seal("shutdown", last=True)
        self._run.has_ended = True

    def _write_object(self, writer: SegmentWriter, key: bytes, body: bytes) -> None:
        writer.write_record(Kind.OBJECT, body)
        self._note_record()
        self._written.add(key)

    def _take_block(self, parcel: Parcel, stream: StreamKey) -> None:
        self._note_stream(stream)
        run, ident = self._run, (stream.instance, stream.cpu)
        if run.has_block(ident, parcel.number):
            self._taken.duplicates += 1
            return
        head = parse_block(parcel.body)
        check_block(head)
        names = {self._names.event_name(kind.format_id) for kind in head.kinds}
        run.has_ended = False
        writer = self._ready()
        new = names.difference(writer.tally.stream(ident).by_event)
        writer.write_block(
            Block(
                stream, head.number, head.ordinal, head.entries, head.first_ts, head.last_ts, head.raw_bytes,
                head.gaps, head.kinds, frozenset(), frozenset(), parcel.body,
            ),
            self._names,
        )  # fmt: skip
        self._note_record()
        # Each name stands in the footer, and its format has two records.
        self._index_bytes += sum(2 * len(name) + 2 * INDEX_ENTRY_BYTES for name in new)
        run.note_block(ident, parcel.number)
        self._taken.blocks += 1
        self._taken.events += head.entries
        self._taken.bytes += len(parcel.body)

    def _ready(self) -> SegmentWriter:
        if self._writer is None:
            run = self._run
            header = {**self._header_map, "segment": run.number}
            # A sender begins with an older header again; names sort in the order of writing all the same.
            header["created_ns"] = max(header["created_ns"], self._newest_ns + 1000)
            if run.opening is not None:
                header["streams"] = [list(key) for key in run.opening]
                header["opening"] = [build_totals(totals) for totals in run.opening.values()]
            writer = SegmentWriter.create(self.folder, header)
            self._writer = writer
            self._newest_ns = header["created_ns"]
            run.number += 1
            self._opened_s = time.monotonic()
            self._records = self._index_bytes = 0
            self._written.clear()
            for key, body in self._names.objects.items():
                self._write_object(writer, key, body)
        return self._writer

    def _cut_run(self) -> None:
        """End the run's segments so that they say that the rest is not known."""
        if self._goes_on:
            self._ready()
        self._seal(RECOVERED)

    def _seal(self, reason: str, *, last: bool = False) -> None:
        if self._writer is None:
            return
        self._writer.write_formats_again()
        path = self._writer.seal(self._run.samples, reason, last)
        size_bytes = self._writer.size_bytes
        self._run.opening = self._writer.closing
        self._writer = None
        self._goes_on = not last and reason != RECOVERED
        self._records = 0
        self._is_turn_over = True
        self._sizes[path] = size_bytes
        self._retain()

    def _retain(self) -> None:
        """Remove the oldest segments until the limits hold; the newest one stays."""
        size_bytes = sum(self._sizes.values())
        while len(self._sizes) > 1 and (
            size_bytes > self.policy.max_bytes or len(self._sizes) > self.policy.max_segments
        ):
            path = next(iter(self._sizes))
            try:
                disk.unlink(path)
                disk.fsync_folder(self.folder)  # else a crash could bring it back without the one that goes next
            except OSError as e:
                raise disk_error(path, e, "remove the oldest segment") from e
            size_bytes -= self._sizes.pop(path)
