"""What one sender's records become: segments in a folder of its own, each of which decodes alone.

All methods block; one at a time is called, in a thread. What is taken is durable when `take` has returned.
"""

import logging
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
from collector.archive.segment import SegmentWriter, disk_error
from collector.archive.tally import RECOVERED
from collector.batch import Block, StreamKey
from collector.errors import ArchiveFullError, SegmentError
from sinks.contract.base import Parcel
from sinks.stream.checks import check_block, check_counts, check_header, check_name, check_totals
from sinks.stream.names import Names
from sinks.stream.policy import HostPolicy
from sinks.stream.room import check_room
from sinks.stream.run import Run, parse_end
from sinks.stream.segments import HostSegments

logger = logging.getLogger(__name__)

# Of objects that come at once, decompressed: what takes long for one sender keeps others waiting.
MAX_UNPACKED_BYTES = 256 << 20

MAX_RUNS = 4  # that are known without reading what the folder has of them


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
        self._is_turn_over = False  # what takes long was done
        check_room(self.folder, self.policy.min_free_bytes)
        try:
            disk.make_folder(folder)
            self._lock = ArchiveLock(folder)
        except OSError as e:
            raise disk_error(folder, e, "use the folder") from e
        try:
            self._recover()
            self._segments = HostSegments(folder, policy, self._names)
        except BaseException:
            self._lock.close()
            raise

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        of_runs = sum(run.held_bytes for run in self._runs.values())
        return self._names.held_bytes + self._segments.held_bytes + of_runs

    @property
    def is_due(self) -> bool:
        """Whether tick() would end a segment; can be asked in any thread while no method runs."""
        return self._segments.why_due() is not None

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
        if self._segments.writer is not None:
            self._segments.writer.sync()
        self.tick()
        if fault is not None:
            raise MalformedError(fault, taken) from fault
        return taken

    def tick(self) -> None:
        """End a segment that is large or old enough."""
        if (reason := self._segments.why_due()) is not None:
            self._seal(reason)

    def close(self) -> None:
        """Seal what is open and let go of the folder; a run that goes on at its sender is cut here."""
        try:
            self._cut_run()
        finally:
            self._segments.abandon()
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
        self._segments.write_record(self._ready(), kind, body)

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
            if earlier := self._segments.sealed_of(ident):
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
        if kind != "format":
            self._segments.write_object(key, kind, body)

    def _end_run(self, ident: bytes) -> None:
        if ident != self._run.id:
            raise SegmentError("the end of another run than the header's", got=ident.hex())
        if self._run.has_ended:
            return
        self._ready()
        self._seal("shutdown", last=True)
        self._run.has_ended = True

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
        block = Block(
            stream, head.number, head.ordinal, head.entries, head.first_ts, head.last_ts, head.raw_bytes,
            head.gaps, head.kinds, frozenset(), frozenset(), parcel.body,
        )  # fmt: skip
        self._segments.write_block(self._ready(), block, names)
        run.note_block(ident, parcel.number)
        self._taken.blocks += 1
        self._taken.events += head.entries
        self._taken.bytes += len(parcel.body)

    def _ready(self) -> SegmentWriter:
        return self._segments.ready(self._run, self._header_map)

    def _cut_run(self) -> None:
        """End the run's segments so that they say that the rest is not known."""
        if self._segments.goes_on:
            self._ready()
        self._seal(RECOVERED)

    def _seal(self, reason: str, *, last: bool = False) -> None:
        if self._segments.seal(self._run, reason, last=last):
            self._is_turn_over = True
