"""What earlier runs have left in a spool's folder: repaired, and what cannot be read set aside."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from collector.archive import disk
from collector.archive.frame import Kind
from collector.archive.reader import Segment
from collector.archive.recover import recover_folder
from collector.archive.segment import SUFFIX, start_ns_of
from collector.batch import StreamKey
from collector.errors import ArchiveError, SegmentError
from sinks.spool.cursor import Cursor, read_cursor
from sinks.spool.stored import Stored, StoredBlock

logger = logging.getLogger(__name__)

BAD_SUFFIX = ".bad"


@dataclass(slots=True)
class Left:
    """What is there; the segments are those of which something is not acknowledged."""

    cursor: Cursor | None = None
    segments: list[Stored] = field(default_factory=list)  # oldest first, numbered from 0
    last_created_ns: int = 0  # by the names: what is written now comes behind it, also when the wall clock was set back
    quarantined: int = 0
    corrupt: int = 0  # cursors

    @property
    def events(self) -> int:
        """That are not acknowledged."""
        return sum(of.blocks.count(of.start, of.end) for of in self.segments)


def look(folder: Path) -> Left:
    """Repair a locked folder, and look what is to be sent; what is acknowledged is removed."""
    for found in recover_folder(folder, holds_lock=True):
        logger.warning("repaired a spool's segment that was not sealed", extra={"fields": {"what": str(found)}})
    left = Left(quarantined=sum(1 for path in folder.iterdir() if path.name.endswith(BAD_SUFFIX)))
    try:
        left.cursor = _read_cursor(folder, left)
    except ArchiveError as e:
        left.corrupt += 1
        logger.error("a spool is sent again from its start", extra={"fields": {"why": str(e)}})
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        _adopt(path, left)
    return left


def _read_cursor(folder: Path, left: Left) -> Cursor | None:
    cursor = read_cursor(folder)
    if cursor is not None:
        start_ns = start_ns_of(Path(cursor.segment))
        if start_ns is None:
            raise ArchiveError("the cursor is damaged", expected="the name of a segment", got=repr(cursor.segment))
        left.last_created_ns = start_ns
    return cursor


def _adopt(path: Path, left: Left) -> None:
    """Take a segment of an earlier run."""
    cursor = left.cursor
    if cursor is not None and path.name < cursor.segment:
        remove(path)
        return
    try:
        stored, created_ns = _open(path, len(left.segments), cursor)
    except (SegmentError, OSError) as e:
        _quarantine(path, e, left)
        return
    left.last_created_ns = max(left.last_created_ns, created_ns)
    if stored.start >= stored.end:
        remove(path)
        return
    left.segments.append(stored)


def _open(path: Path, ident: int, cursor: Cursor | None) -> tuple[Stored, int]:
    """(segment, wall time in ns at which it was begun).

    Raises:
      SegmentError, OSError
    """
    with Segment(path) as segment:
        if segment.header is None:
            raise SegmentError(segment.header_fault)
        start = cursor.offset if cursor is not None and path.name == cursor.segment else 0
        end = segment.footer_offset or segment.size_bytes
        stored = Stored(ident, path, segment.run, start, end, segment.size_bytes)
        for place in segment.places:
            if place.kind == Kind.BLOCK and place.stream is not None:
                stored.blocks.add(StoredBlock(
                    place.offset, StreamKey(segment.run, *place.stream), place.entries, place.first_ts, place.last_ts
                ))  # fmt: skip
        return stored, segment.header.created_ns


def _quarantine(path: Path, why: Exception, left: Left) -> None:
    target, number = path.with_name(path.name + BAD_SUFFIX), 0
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{number}{BAD_SUFFIX}")
    logger.error(
        "a spool's segment cannot be read and is set aside", extra={"fields": {"as": str(target), "why": str(why)}}
    )
    left.quarantined += 1
    try:
        disk.rename(path, target)
    except OSError as e:
        logger.error("cannot set it aside", extra={"fields": {"path": str(path), "error": str(e)}})


def remove(path: Path) -> None:
    """Remove a file of the spool; one that stays is told and found by the next start."""
    try:
        disk.unlink(path)
    except OSError as e:
        logger.error("cannot remove a spool's segment", extra={"fields": {"path": str(path), "error": str(e)}})
