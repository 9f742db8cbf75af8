"""What one sender's records become: segments in a folder of its own, each of which decodes alone.

All methods block; one at a time is called, in a thread. What is taken is durable when `take` has returned.
"""

import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.bodies import Header, parse_block, parse_gap, parse_header, parse_sample
from collector.archive.fields import unpack
from collector.archive.frame import Kind
from collector.archive.lock import ArchiveLock
from collector.archive.objects import END, open_object, parse_format, parse_object
from collector.archive.reader import open_segment
from collector.archive.recover import FAILED, recover_folder
from collector.archive.segment import SUFFIX, SegmentWriter, disk_error, start_ns_of
from collector.archive.tally import RECOVERED
from collector.archive.totals import StreamId, Totals, build_totals
from collector.batch import Block, StreamKey
from collector.errors import ArchiveFullError, SegmentError
from sinks.base import Parcel
from sinks.stream.checks import check_counts, check_time, check_totals
from sinks.stream.seen import Seen

logger = logging.getLogger(__name__)

# Every segment has them again; a sender whose names fill more than this is not sane.
MAX_NAMES_BYTES = 128 << 20

# Of objects that come at once, decompressed: what takes long for one sender keeps others waiting.
MAX_UNPACKED_BYTES = 256 << 20
MAX_FORMAT_BYTES = 1 << 20  # of one, decompressed; the kernel's are a page at most

MAX_STREAMS = 1 << 15  # of a run; no machine has more
# The index of a segment is in memory until it is sealed; records that are nearly empty make much of it.
MAX_SEGMENT_RECORDS = 1 << 18

MAX_GAPS = 1 << 16  # of a run, by which one that comes again is known


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """When a sender's segments end, and how much of the disk it may have."""

    segment_bytes: int = 128 << 20  # size that seals a segment
    segment_age_s: float = 3600.0  # age that seals a segment
    max_bytes: int = 10 << 30  # of all its segments; the oldest go
    min_free_bytes: int = 1 << 30  # left free on the filesystem: less, and nothing is taken


@dataclass(slots=True)
class Taken:
    """What became of parcels, added up."""

    blocks: int = 0
    events: int = 0
    bytes: int = 0  # of the bodies of blocks
    duplicates: int = 0  # blocks that were here already

    def add(self, other: "Taken") -> None:
        """Add what became of others."""
        self.blocks += other.blocks
        self.events += other.events
        self.bytes += other.bytes
        self.duplicates += other.duplicates


class HostArchive:
    """The folder of one sender.

    Raises:
      ArchiveLockedError: another process writes there.
      ArchiveFullError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, policy: HostPolicy) -> None:
        self.folder = folder
        self.policy = policy
        self._taken = Taken()
        self._header: Header | None = None  # of what the sender sends now
        self._header_map: dict[str, Any] = {}
        self._formats: dict[bytes, bytes] = {}  # {id: body of the object}
        self._objects: dict[bytes, bytes] = {}  # {id: body} of all others since the sender's last header, in order
        self._names_bytes = 0
        self._unpacked_bytes = 0  # of the objects that came at once
        self._writer: SegmentWriter | None = None
        self._written: set[bytes] = set()  # ids of the objects that the open segment has
        self._opened_s = 0.0
        self._goes_on = False  # the run, behind its last sealed segment
        self._number = 0
        self._newest_ns = 0  # wall time in the name of the newest segment
        self._opening: dict[StreamId, Totals] | None = None  # None: as the sender says
        self._samples: dict[StreamId, Mapping[str, Any]] = {}  # {stream: totals} of the last sample
        self._seen: dict[StreamKey, Seen] = {}
        self._gaps: dict[bytes, None] = {}  # bodies of the run's gap records that are here, hashed; the oldest first
        self._streams: set[StreamId] = set()  # of the run
        self._records = 0  # of the open segment
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

    def take(self, parcels: Sequence[Parcel]) -> Taken:
        """Write what is new of the parcels and make it durable.

        After an error nobody knows what is durable: close it, and let the sender bring all again to a new one.

        Raises:
          ArchiveFullError: the disk has no room.
          SegmentError: the sender sends what no segment can hold.
        """
        self._check_room()
        self._taken = Taken()
        self._unpacked_bytes = 0
        for parcel in parcels:
            self._take(parcel)
        if self._writer is not None:
            self._writer.sync()
        self.tick()
        return self._taken

    def tick(self) -> None:
        """End a segment that is large or old enough."""
        writer = self._writer
        if writer is not None and (
            (is_full := writer.size_bytes >= self.policy.segment_bytes or self._records >= MAX_SEGMENT_RECORDS)
            or time.monotonic() - self._opened_s >= self.policy.segment_age_s
        ):
            self._seal("size" if is_full else "time")

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
        body = unpack(parcel.body, parcel.kind.name.lower())
        if parcel.kind == Kind.SAMPLE:
            check_totals(parse_sample(parcel.body).totals)
            self._samples[(parcel.stream.instance, parcel.stream.cpu)] = body["totals"]
        if parcel.kind == Kind.GAP:
            check_counts(parse_gap(parcel.body).count or 0)
            key = _hash(parcel.body)
            if key in self._gaps:
                return  # it would count the loss twice
            self._note_gap(key)
        self._write_record(parcel.kind, body)

    def _write_record(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self._ready().write_record(kind, body)
        self._records += 1

    def _note_gap(self, key: bytes) -> None:
        self._gaps[key] = None
        if len(self._gaps) > MAX_GAPS:
            del self._gaps[next(iter(self._gaps))]

    def _note_stream(self, stream: StreamKey) -> None:
        self._streams.add((stream.instance, stream.cpu))
        if len(self._streams) > MAX_STREAMS:
            raise SegmentError("too many streams", expected=f"at most {MAX_STREAMS} a run")

    def _begin(self, parcel: Parcel) -> None:
        """A header: the same run goes on, with all names again, or another run begins."""
        header = parse_header(parcel.body)
        check_time(header.created_ns)
        for totals in header.opening.values():
            check_totals(totals)
        if len(header.streams) > MAX_STREAMS:
            raise SegmentError(
                "too many streams", expected=f"at most {MAX_STREAMS} a run", got=str(len(header.streams))
            )
        if self._header is None or header.run != self._header.run:
            self._cut_run()
            self._number, self._opening = 0, None
            self._samples.clear()
            self._seen.clear()
            self._gaps.clear()
            self._streams.clear()
            self._read_earlier(header.run)
        self._header = header
        self._header_map = unpack(parcel.body, "header")
        self._formats.clear()
        self._objects.clear()
        self._names_bytes = 0

    def _read_earlier(self, run: bytes) -> None:
        """What the folder has of a run already: block numbers, and the totals to go on from."""
        removed: dict[StreamId, Totals] = {}  # what was here before the first segment, and went to make room
        paths = [path for path in self._sizes if f"Z-{run.hex()[:8]}-" in path.name]
        for path in paths:
            try:
                with open_segment(path) as segment:
                    if segment.run != run or segment.footer is None:
                        continue
                    if path == paths[0] and segment.footer.segment:
                        removed = {of.stream: of.opening for of in segment.footer.streams if of.opening.blocks}
                    self._number = max(self._number, segment.footer.segment + 1)
                    self._opening = {of.stream: of.closing for of in segment.footer.streams}
                    for place in segment.places:
                        if place.kind == Kind.BLOCK and place.stream is not None:
                            self._seen.setdefault(StreamKey(run, *place.stream), Seen()).add(place.number)
                        elif place.kind == Kind.GAP and not isinstance(found := segment.record_at(place.offset), str):
                            self._note_gap(_hash(bytes(found.body)))
            except (SegmentError, OSError):
                continue  # for `verify` to tell; its blocks are taken again
        for stream, totals in removed.items():
            self._seen.setdefault(StreamKey(run, *stream), Seen()).fill_before(totals.blocks)

    def _take_object(self, body: bytes) -> None:
        key, kind, data = open_object(body)
        self._unpacked_bytes += len(data)
        if self._unpacked_bytes > MAX_UNPACKED_BYTES:
            raise SegmentError("objects that are too large when they are decompressed",
                               expected=f"at most {MAX_UNPACKED_BYTES} bytes of those that come at once")  # fmt: skip
        if kind == END:
            self._ready()
            self._seal("shutdown", last=True)
            return
        known = self._formats if kind == "format" else self._objects
        if key not in known:
            self._names_bytes += len(body)
        if self._names_bytes > MAX_NAMES_BYTES:
            raise SegmentError("too many names", expected=f"at most {MAX_NAMES_BYTES} bytes of objects a header")
        if kind == "format":
            if len(data) > MAX_FORMAT_BYTES:
                raise SegmentError("a format that no kernel has", expected=f"at most {MAX_FORMAT_BYTES} bytes",
                                   got=str(len(data)))  # fmt: skip
            parse_format(parse_object(body))
            known[key] = body
            return
        known.pop(key, None)  # a name that is changed back counts from its new place
        known[key] = body
        if self._writer is not None and (key not in self._written or kind not in ("symbols", "printk")):
            self._write_object(self._writer, key, body)

    def _write_object(self, writer: SegmentWriter, key: bytes, body: bytes) -> None:
        writer.write_record(Kind.OBJECT, body)
        self._records += 1
        self._written.add(key)

    def _take_block(self, parcel: Parcel, stream: StreamKey) -> None:
        seen = self._seen.setdefault(stream, Seen())
        if parcel.number in seen:
            self._taken.duplicates += 1
            return
        self._note_stream(stream)
        head = parse_block(parcel.body)
        check_counts(head.entries, head.raw_bytes, *(gap.lost or 0 for gap in head.gaps))
        self._ready().write_block(
            Block(
                stream, head.number, head.ordinal, head.entries, head.first_ts, head.last_ts, head.raw_bytes,
                head.gaps, head.kinds, frozenset(), frozenset(), parcel.body,
            ),
            _Names(self._formats),
        )  # fmt: skip
        self._records += 1
        seen.add(parcel.number)
        self._taken.blocks += 1
        self._taken.events += head.entries
        self._taken.bytes += len(parcel.body)

    def _ready(self) -> SegmentWriter:
        if self._writer is None:
            header = {**self._header_map, "segment": self._number}
            # A sender begins with an older header again; names sort in the order of writing all the same.
            header["created_ns"] = max(header["created_ns"], self._newest_ns + 1000)
            if self._opening is not None:
                header["streams"] = [list(key) for key in self._opening]
                header["opening"] = [build_totals(totals) for totals in self._opening.values()]
            writer = SegmentWriter.create(self.folder, header)
            self._writer = writer
            self._newest_ns = header["created_ns"]
            self._number += 1
            self._opened_s = time.monotonic()
            self._records = 0
            self._written.clear()
            for key, body in self._objects.items():
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
        path = self._writer.seal(self._samples, reason, last)
        size_bytes = self._writer.size_bytes
        self._opening = self._writer.closing
        self._writer = None
        self._goes_on = not last and reason != RECOVERED
        self._sizes[path] = size_bytes
        self._retain()

    def _retain(self) -> None:
        """Remove the oldest segments until the limit holds; the newest one stays."""
        while len(self._sizes) > 1 and sum(self._sizes.values()) > self.policy.max_bytes:
            path = next(iter(self._sizes))
            try:
                disk.unlink(path)
                disk.fsync_folder(self.folder)  # else a crash could bring it back without the one that goes next
            except OSError as e:
                raise disk_error(path, e, "remove the oldest segment") from e
            del self._sizes[path]

    def _check_room(self) -> None:
        try:
            stat = os.statvfs(self.folder)
        except OSError as e:
            raise disk_error(self.folder, e, "look at the folder") from e
        if stat.f_bavail * stat.f_frsize < self.policy.min_free_bytes:
            raise ArchiveFullError(
                "the disk has no room", where=str(self.folder), expected=f"{self.policy.min_free_bytes} bytes free",
                got=f"{stat.f_bavail * stat.f_frsize}", hint="free space; the sender keeps what it has and tries again",
            )  # fmt: skip


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


class _Names:
    """The names that a sender has sent; all but formats are written as they come."""

    def __init__(self, formats: Mapping[bytes, bytes]) -> None:
        self._formats = formats

    def format_object(self, format_id: bytes) -> bytes:
        found = self._formats.get(format_id)
        if found is None:
            raise SegmentError("a block before the format that it needs", got=format_id.hex())
        return found

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        return {}

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        return {}

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        return {}

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        return {}

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        return {}
