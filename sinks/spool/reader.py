"""Reads a spool back, and counts what does not read."""

import logging
import os
from collections.abc import Iterable, Iterator

from collector.archive.frame import Damage, Kind, ReadAt, Record, scan
from collector.errors import SegmentError
from sinks.contract.base import Parcel
from sinks.network.backlog import DAMAGED, Entry, Lost, Position, ReadBack, parse_parcel
from sinks.spool.stored import Stored

logger = logging.getLogger(__name__)


class SpoolReader:
    """Holds the descriptor of the segment that it reads."""

    def __init__(self) -> None:
        self.corrupt_records = self.corrupt_bytes = 0
        self._open: tuple[int, int] | None = None  # (ident, file descriptor)

    def read(self, segments: Iterable[Stored], after: Position, max_bytes: int) -> ReadBack:
        """Give what lies behind a position.

        Args:
          max_bytes: of bodies; at least one entry is given, and what a segment needs from its beginning on.
        """
        back = ReadBack([], after, False, Lost())
        size_bytes = 0
        for stored in list(segments):
            if stored.ident < after.segment:
                continue
            offset = after.offset if stored.ident == after.segment else 0
            for entry in self._entries(stored, offset, back):
                size_bytes += len(entry.parcel.body)
                # Those of one position belong together: reading goes on behind all of them.
                if back.entries and size_bytes > max_bytes and entry.position != back.position:
                    return back
                back.entries.append(entry)
                back.position = entry.position
            back.position = Position(stored.ident, stored.end)
        back.at_end = True
        return back

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _entries(self, stored: Stored, offset: int, back: ReadBack) -> Iterator[Entry]:
        """The entries of a segment from an offset on."""
        read = self._read_at(stored)
        if offset < stored.start:
            # Its beginning was acknowledged in an earlier run; what comes needs the header and the names in it.
            for found in scan(read, stored.start):
                if isinstance(found, Record) and found.kind in (Kind.HEADER, Kind.OBJECT):
                    parcel = Parcel(Kind(found.kind), bytes(found.body), stored.run)
                    yield Entry(Position(stored.ident, stored.start), parcel, None)
            offset = stored.start
        for found in scan(read, stored.end, offset):
            if isinstance(found, Record):
                try:
                    parcel = parse_parcel(found.kind, found.body, stored.run)
                except SegmentError as e:
                    found = Damage(found.offset, found.length, str(e))
                else:
                    yield Entry(Position(stored.ident, found.end), parcel, stored.put_s(found.offset))
                    continue
            self._note_damage(stored, found, back)

    def _read_at(self, stored: Stored) -> ReadAt:
        if self._open is None or self._open[0] != stored.ident:
            self.close()
            try:
                self._open = stored.ident, _open_segment(stored)
            except OSError as e:
                logger.error("a spool's segment cannot be opened",
                             extra={"fields": {"path": str(stored.path), "error": str(e)}})  # fmt: skip
                return lambda offset, size: b""
        fd = self._open[1]

        def read(offset: int, size: int) -> bytes:
            try:
                return os.pread(fd, size, offset)
            except OSError:
                return b""  # counted as damage

        return read

    def _note_damage(self, stored: Stored, damage: Damage, back: ReadBack) -> None:
        events = stored.blocks.count(damage.offset, damage.end)
        back.lost.add(DAMAGED, events, damage.length)
        self.corrupt_records += 1
        self.corrupt_bytes += damage.length
        logger.error("a spool is damaged, and what is there is lost to this sink", extra={"fields": {
            "path": str(stored.path), "offset": damage.offset, "bytes": damage.length, "events": events,
            "why": damage.reason,
        }})  # fmt: skip


def _open_segment(stored: Stored) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(stored.path, flags)
    except FileNotFoundError:  # renamed, and what was to follow has failed
        return os.open(stored.path.with_name(stored.path.name.removesuffix(".part")), flags)
