"""One sender's segments: what each begins with, when it ends, and which go."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.frame import Kind
from collector.archive.segment import SUFFIX, SegmentWriter, disk_error, start_ns_of
from collector.archive.tally import RECOVERED
from collector.archive.totals import build_totals
from collector.batch import Block
from sinks.stream.names import Names
from sinks.stream.policy import HostPolicy
from sinks.stream.run import Run

# The index of a segment is in memory until it is sealed; records that are nearly empty make much of it.
MAX_SEGMENT_RECORDS = 1 << 18
MAX_INDEX_BYTES = 8 << 20  # in the footer, beside the totals of all streams
INDEX_ENTRY_BYTES = 45
RECORD_BYTES = 200  # that one takes in memory, about


class HostSegments:
    """Those in a folder that is locked and recovered, and the one that is open.

    Args:
      names: each segment begins with all of them.
    Raises:
      OSError: the folder cannot be read.
    """

    def __init__(self, folder: Path, policy: HostPolicy, names: Names) -> None:
        self.writer: SegmentWriter | None = None  # of the open one
        self.goes_on = False  # the run, behind its last sealed segment
        self._folder = folder
        self._policy = policy
        self._names = names
        self._sizes = {path: path.stat().st_size for path in sorted(folder.glob(f"*{SUFFIX}"))}
        self._newest_ns = max((start_ns_of(path) or 0 for path in self._sizes), default=0)  # by the names
        self._opened_s = 0.0
        self._written: set[bytes] = set()  # ids of the objects that the open one has
        self._records = 0  # of the open one
        self._index_bytes = 0  # in its footer, about

    @property
    def held_bytes(self) -> int:
        """About what they take in memory."""
        return RECORD_BYTES * (self._records + len(self._sizes))

    def sealed_of(self, run: bytes) -> list[Path]:
        """Those that are a run's by their names, in their order."""
        return [path for path in self._sizes if f"Z-{run.hex()[:8]}-" in path.name]

    def why_due(self) -> str | None:
        """The reason for which the open one is to end; None: there is none, or not yet."""
        if self.writer is None:
            return None
        if (
            self.writer.size_bytes >= self._policy.segment_bytes
            or self._records >= MAX_SEGMENT_RECORDS
            or self._index_bytes >= MAX_INDEX_BYTES
        ):
            return "size"
        return "time" if time.monotonic() - self._opened_s >= self._policy.segment_age_s else None

    def ready(self, run: Run, header_map: Mapping[str, Any]) -> SegmentWriter:
        """The open one; a new one where there is none.

        Args:
          header_map: the sender's, of this run.
        """
        if self.writer is None:
            header = {**header_map, "segment": run.number}
            # A sender begins with an older header again; names sort in the order of writing all the same.
            header["created_ns"] = max(header["created_ns"], self._newest_ns + 1000)
            if run.opening is not None:
                header["streams"] = [list(key) for key in run.opening]
                header["opening"] = [build_totals(totals) for totals in run.opening.values()]
            self.writer = SegmentWriter.create(self._folder, header)
            self._newest_ns = header["created_ns"]
            run.number += 1
            self._opened_s = time.monotonic()
            self._records = self._index_bytes = 0
            self._written.clear()
            for key, body in self._names.objects.items():
                self._write_object(self.writer, key, body)
        return self.writer

    def write_record(self, writer: SegmentWriter, kind: Kind, body: Mapping[str, Any]) -> None:
        """Write a record about a stream."""
        writer.write_record(kind, body)
        self._note_record()

    def write_block(self, writer: SegmentWriter, block: Block, events: Collection[str]) -> None:
        """Write a block.

        Args:
          events: names of those in it.
        """
        new = set(events).difference(writer.tally.stream((block.stream.instance, block.stream.cpu)).by_event)
        writer.write_block(block, self._names)
        self._note_record()
        # Each name stands in the footer, and its format has two records.
        self._index_bytes += sum(2 * len(name) + 2 * INDEX_ENTRY_BYTES for name in new)

    def write_object(self, key: bytes, kind: str, body: bytes) -> None:
        """Write an object, where a segment is open that needs it now."""
        if self.writer is not None and (key not in self._written or kind not in ("symbols", "printk")):
            self._write_object(self.writer, key, body)

    def seal(self, run: Run, reason: str, *, last: bool = False) -> bool:
        """End the open one, and remove the oldest until the limits hold; False: none is open."""
        if self.writer is None:
            return False
        self.writer.write_formats_again()
        path = self.writer.seal(run.samples, reason, last)
        size_bytes = self.writer.size_bytes
        run.opening = self.writer.closing
        self.writer = None
        self.goes_on = not last and reason != RECOVERED
        self._records = 0
        self._sizes[path] = size_bytes
        self._retain()
        return True

    def abandon(self) -> None:
        """Leave the open one to the next start, which recovers it."""
        if self.writer is not None:
            self.writer.abandon()
            self.writer = None

    def _write_object(self, writer: SegmentWriter, key: bytes, body: bytes) -> None:
        writer.write_record(Kind.OBJECT, body)
        self._note_record()
        self._written.add(key)

    def _note_record(self) -> None:
        self._records += 1
        self._index_bytes += INDEX_ENTRY_BYTES

    def _retain(self) -> None:
        """Remove the oldest segments until the limits hold; the newest one stays."""
        size_bytes = sum(self._sizes.values())
        while len(self._sizes) > 1 and (
            size_bytes > self._policy.max_bytes or len(self._sizes) > self._policy.max_segments
        ):
            path = next(iter(self._sizes))
            try:
                disk.unlink(path)
                disk.fsync_folder(self._folder)  # else a crash could bring it back without the one that goes next
            except OSError as e:
                raise disk_error(path, e, "remove the oldest segment") from e
            size_bytes -= self._sizes.pop(path)
