"""Writes one segment: records appended to a `.part`, made durable, sealed and renamed.

    <UTC start YYYYmmddTHHMMSS.ffffffZ>-<run id, 8 hex>-<segment number, 6 digits>.ftseg[.part]

Sorting by name is sorting by time. The writer keeps the file whole at all times: a record that could not be written
to its end is cut off again, so that the next one follows the last good one.
"""

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.bodies import FORMAT, VERSION, Header, parse_header
from collector.archive.fields import pack
from collector.archive.frame import Kind, build_head_tail, build_trailer
from collector.archive.records import RecordWriter
from collector.archive.tally import SegmentTally
from collector.archive.totals import StreamId, Totals, build_totals, parse_totals
from collector.batch import Block
from collector.errors import ArchiveError, ArchiveFullError

SUFFIX = ".ftseg"
PART_SUFFIX = ".ftseg.part"

_DISK_HINTS = {
    errno.ENOSPC: "free space on the filesystem, or lower the archive's limits",
    errno.EDQUOT: "raise the quota, or lower the archive's limits",
    errno.ENOENT: "the folder is gone: create it again",
    errno.ESTALE: "the folder is gone: mount it again",
    errno.EROFS: "the filesystem is read-only: remount it, its device may be failing",
    errno.EIO: "the device reports errors: see the kernel's log",
    errno.ENODEV: "the device is gone",
    errno.ENXIO: "the device is gone",
    errno.EFBIG: "the filesystem takes no larger file: lower the segment size",
}


def build_header(
    *,
    run: bytes,
    segment: int,
    host: str,
    boot_id: str,
    kernel: str,
    created_ns: int,
    tool: str,
    config_hash: str,
    instances: Mapping[str, Mapping[str, Any]],
    opening: Mapping[StreamId, Totals],
) -> dict[str, Any]:
    """Gives the map of a header record.

    Args:
      instances: {name: {"clock", "clock_unit", "header_page", "subbuf_size"}}.
      opening: each stream's totals at the segment's start; its keys are the segment's streams.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "run": run,
        "segment": segment,
        "host": host,
        "boot_id": boot_id,
        "kernel": kernel,
        "created_ns": created_ns,
        "tool": tool,
        "config_hash": config_hash,
        "instances": {name: dict(of) for name, of in instances.items()},
        "streams": [list(key) for key in opening],
        "opening": [build_totals(totals) for totals in opening.values()],
    }


def build_name(header: Header) -> str:
    """Gives the file name of a sealed segment."""
    start = datetime.fromtimestamp(header.created_ns // 10**9, UTC).strftime("%Y%m%dT%H%M%S")
    micros = header.created_ns % 10**9 // 1000
    return f"{start}.{micros:06d}Z-{header.run.hex()[:8]}-{header.segment:06d}{SUFFIX}"


def start_ns_of(path: Path) -> int | None:
    """Gives the wall time at which a segment began, from its name; None for a file that got another name."""
    try:
        start = datetime.strptime(path.name.split("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def disk_error(path: Path, error: OSError, doing: str) -> ArchiveFullError:
    """Gives the error for a failed disk operation: where, what the system said and what to do."""
    return ArchiveFullError(
        f"cannot {doing}: {error.strerror}",
        where=str(path),
        hint=_DISK_HINTS.get(error.errno or 0, "see to the filesystem"),
    )


def rename_segment(part: Path, final: Path) -> None:
    """Gives a sealed file its final name.

    The archive's lock is held, so nobody else makes files of this run: looking first is enough.

    Raises:
      ArchiveError: there is such a file already.
      OSError
    """
    if final.exists():
        raise ArchiveError(
            "a segment of this name exists already", where=str(final), hint=f"move one away; {part.name} is whole"
        )
    disk.rename(part, final)


class SegmentWriter(RecordWriter):
    """One open segment; not safe to use from two threads at once.

    After an ArchiveFullError the file is whole up to the last good record, and the call can be tried again.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        """See create()."""
        super().__init__()
        body = pack(header)
        self.header = parse_header(body)
        self.final_path = folder / build_name(self.header)
        self.path = self.final_path.with_name(self.final_path.name + ".part")
        self.size_bytes = 0  # of the good records
        self.synced_bytes = 0  # of these, what is durable
        self.tally = SegmentTally(self.header.opening)
        self.closing: dict[StreamId, Totals] = {}  # set by seal(): the next segment's opening
        self._formats_again = 0  # how many of the formats have a second copy
        self._torn = False
        self._named = False  # the file's name is durable
        self._doubtful = False  # a sync failed: what was not synced before it may be on the disk, or not
        self._fd = -1
        try:
            if not folder.is_dir():
                disk.make_folder(folder)
            self._fd = disk.create(self.path)
        except FileExistsError as e:
            raise ArchiveError("a segment of this name is open already", where=str(self.path), hint="recover it") from e
        except OSError as e:
            raise disk_error(self.path, e, "create the segment") from e
        try:
            self.write_record(Kind.HEADER, body)
        except BaseException:
            # Without its header the file is nothing; a retry must be able to create it again.
            self.abandon()
            with contextlib.suppress(OSError):  # the error that led here is the one to report
                disk.unlink(self.path)
            raise

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> "SegmentWriter":
        """Begins a segment.

        Args:
          folder: of the archive; made where it is missing.
          header: see build_header.
        Raises:
          ArchiveFullError: the disk refuses.
          ArchiveError: there is such a segment already.
        """
        return cls(folder, header)

    def write_record(self, kind: int, body: Mapping[str, Any] | bytes) -> None:
        """Writes a gap, coverage or sample record; its stream and times go into the index.

        Args:
          body: a map as docs/segment-format.md has it, or one that is packed already (then of no stream).
        """
        offset = self.size_bytes
        crc = self._append(kind, body if isinstance(body, bytes) else pack(body))
        key: StreamId | None = None
        first_ts, last_ts = 0, 0
        if not isinstance(body, bytes) and "inst" in body:
            key = (body["inst"], body["cpu"])
            first_ts, last_ts = body.get("from_ts") or 0, body.get("to_ts") or 0
            if kind == Kind.GAP:
                self.tally.add_gap(key, body["cause"], body["count"])
        self.tally.add_record(offset, kind, crc, key, first_ts, last_ts)

    @property
    def is_ended(self) -> bool:
        """Whether it has its footer and final name: nothing may be written to it, seal() alone is to be tried again."""
        return self.path == self.final_path

    @property
    def unsynced_bytes(self) -> int:
        """What a crash of the machine may take."""
        return self.size_bytes - self.synced_bytes

    def sync(self) -> None:
        """Makes everything written so far durable.

        Raises:
          ArchiveFullError: the disk refuses, or the file was removed under the writer.
        """
        try:
            self._write_again_if_doubtful()
            self._doubtful = True
            disk.fdatasync(self._fd)
            self._doubtful = False
            if not self._named:
                disk.fsync_folder(self.path.parent)
                self._named = True
            self._check_linked()
        except OSError as e:
            raise disk_error(self.path, e, "sync the segment") from e
        self.synced_bytes = self.size_bytes

    def write_formats_again(self) -> None:
        """Writes a second copy of each format that has none; to be called before seal().

        Damage of the only copy would cost all blocks that need it.
        """
        while self._formats_again < len(self._format_bodies):
            self.write_record(Kind.OBJECT, self._format_bodies[self._formats_again])
            self._formats_again += 1

    def seal(
        self,
        closing: Mapping[StreamId, Totals | Mapping[str, Any]],
        reason: str,
        last: bool,
        sealed_ns: int | None = None,
    ) -> Path:
        """Ends the segment and gives its final path; `closing` then has what the next one opens with.

        Args:
          closing: each stream's totals by the ledger, see StreamTally.closing.
          reason: size, time, signal, shutdown, recovered.
          last: no segment of this run follows, the final drain is over.
          sealed_ns: wall time; now by default.
        Raises:
          ArchiveFullError: the disk refuses; the `.part` is whole without its footer, and seal() can be tried again.
          ArchiveError: a file of the final name exists.
        """
        totals = {
            key: of if isinstance(of, Totals) else parse_totals(of, f"closing totals of {key[0]}, CPU {key[1]}")
            for key, of in closing.items()
        }
        try:
            if not self.is_ended:  # else an earlier try came as far as the rename: what that one was given holds
                sealed_ns = time.time_ns() if sealed_ns is None else sealed_ns
                self._end(pack(self.tally.build_footer(
                    self.header.run, self.header.segment, totals, reason, last, sealed_ns
                )))  # fmt: skip
                self.closing = {key: of.closing(totals.get(key)) for key, of in self.tally.streams.items()}
            disk.fsync_folder(self.final_path.parent)
        except OSError as e:
            raise disk_error(self.path, e, "seal the segment") from e
        self.synced_bytes = self.size_bytes
        self.abandon()
        return self.final_path

    def _end(self, footer: bytes) -> None:
        offset = self.size_bytes
        head, tail = build_head_tail(Kind.FOOTER, footer)
        self._write([head, footer, tail, build_trailer(offset, len(head) + len(footer) + len(tail))])
        try:
            self._write_again_if_doubtful()
            self._doubtful = True
            disk.fsync(self._fd)
            self._doubtful = False
            self._check_linked()
            rename_segment(self.path, self.final_path)
        except BaseException:
            self._cut(offset)
            raise
        self.path = self.final_path

    def abandon(self) -> None:
        """Closes the file as it is; recovery seals it later."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put_block(self, block: Block) -> None:
        offset = self.size_bytes
        crc = self._append(Kind.BLOCK, block.body)
        key = (block.stream.instance, block.stream.cpu)
        self.tally.add_block(
            offset, crc, key, block.number, block.events, block.first_ts, block.last_ts, block.raw_bytes, block.gaps,
            block.kinds, self._names,
        )  # fmt: skip

    def _append(self, kind: int, body: bytes) -> int:
        """Writes one record and gives its checksum."""
        head, tail = build_head_tail(kind, body)
        try:
            self._write([head, body, tail])
        except OSError as e:
            raise disk_error(self.path, e, "write to the segment") from e
        return int.from_bytes(tail[1:], "big")

    def _write(self, parts: list[bytes]) -> None:
        if self._torn:
            self._cut_to(self.size_bytes)
        left = [memoryview(part) for part in parts]
        total = sum(map(len, left))
        try:
            while left:
                done = disk.write(self._fd, left)
                while left and done >= len(left[0]):
                    done -= len(left.pop(0))
                if left:
                    left[0] = left[0][done:]
        except BaseException:
            self._cut(self.size_bytes)
            raise
        self.size_bytes += total

    def _cut(self, size_bytes: int) -> None:
        """Takes the file back to its last good record; when even that fails, the next write tries it first."""
        self._torn = True
        self.size_bytes = size_bytes
        with contextlib.suppress(OSError):  # the error that led here is the one to report
            self._cut_to(size_bytes)

    def _cut_to(self, size_bytes: int) -> None:
        disk.truncate(self._fd, size_bytes)
        os.lseek(self._fd, size_bytes, os.SEEK_SET)
        self._torn = False

    def _write_again_if_doubtful(self) -> None:
        """Writes what a failed sync left in doubt once more.

        The kernel tells of a page that it could not write once, and takes it for written from then on: the next sync
        would succeed without it.
        """
        at = self.synced_bytes
        while self._doubtful and at < self.size_bytes:
            data = os.pread(self._fd, min(self.size_bytes - at, 1 << 20), at)
            if not data:
                raise OSError(errno.EIO, "what was written cannot be read back")
            disk.write_whole(self._fd, data, at)
            at += len(data)

    def _check_linked(self) -> None:
        if os.fstat(self._fd).st_nlink == 0:  # writing goes on without an error, into nothing
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
