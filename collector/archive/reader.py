"""Opens a segment, sealed or still growing, whole or damaged, and gives what is good in it.

A file is read in pieces, never mapped: cutting a mapped file (recovery, a full disk) kills the reader.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from collector.archive.bodies import (
    Footer,
    GapBody,
    Header,
    IndexEntry,
    parse_block,
    parse_footer,
    parse_gap,
    parse_header,
)
from collector.archive.fields import Fields, unpack
from collector.archive.frame import TRAILER_BYTES, Damage, Kind, Record, parse_trailer, read_record, scan
from collector.archive.objects import FormatObject, StoredObject, parse_format, parse_object
from collector.archive.segment import PART_SUFFIX, SUFFIX
from collector.archive.totals import StreamId
from collector.errors import ArchiveError, SegmentError, UsageError


class Place(NamedTuple):
    """A record of one stream that a reader may want, found without decoding it."""

    offset: int
    kind: int
    stream: StreamId | None
    number: int
    entries: int
    first_ts: int
    last_ts: int


class Segment:
    """One segment file; see open_segment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size_bytes = os.fstat(self._fd).st_size
            self._open()
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self) -> None:
        self.header: Header | None = None  # None: damaged
        self.header_fault = ""
        first = self.record_at(0)
        if isinstance(first, str):
            self.header_fault = first
        elif first.kind != Kind.HEADER:
            self.header_fault = f"the first record is of kind {first.kind}"
        else:
            try:
                self.header = parse_header(first.body)
            except SegmentError as e:
                self.header_fault = str(e)
        self.footer: Footer | None = None  # None: not sealed, cut, or damaged
        self.footer_offset = 0
        self.footer_fault = self._read_footer()
        if self.header is None and next((r for r in self.records() if isinstance(r, Record)), None) is None:
            raise SegmentError(
                "no record in this file can be read",
                where=str(self.path),
                expected="a segment",
                got=f"{self.size_bytes} bytes; {self.header_fault}",
                hint="it is empty, cut, or no segment at all",
            )

    def _read_footer(self) -> str:
        """Reads the footer where there is a good one; gives why not."""
        found = self.record_at(max(self.size_bytes - TRAILER_BYTES, 0))
        if isinstance(found, str) or found.kind != Kind.TRAILER:
            return "no trailer at the end: the segment was not sealed, or is cut or damaged there"
        place = parse_trailer(found.body)
        if place is None or sum(place) != found.offset:
            return "the trailer does not point at the record before it"
        record = self.record_at(place[0])
        if isinstance(record, str) or record.kind != Kind.FOOTER or record.length != place[1]:
            return "no footer where the trailer points"
        try:
            self.footer = parse_footer(record.body)
        except SegmentError as e:
            return str(e)
        self.footer_offset = record.offset
        return ""

    @property
    def is_part(self) -> bool:
        return self.path.name.endswith(PART_SUFFIX)

    @cached_property
    def run(self) -> bytes:
        """The run's id; of the first block where header and footer are damaged; empty when nothing says it."""
        if self.header is not None:
            return self.header.run
        if self.footer is not None:
            return self.footer.run
        for record in self.records():
            if isinstance(record, Record) and record.kind == Kind.BLOCK:
                try:
                    return parse_block(record.body).run
                except SegmentError:
                    continue
        return b""

    @property
    def number(self) -> int | None:
        """The segment's number in its run; None when nothing says it."""
        if self.header is not None:
            return self.header.segment
        return None if self.footer is None else self.footer.segment

    def read_at(self, offset: int, size: int) -> bytes:
        """Gives bytes of the file, fewer at its end.

        Raises:
          SegmentError: the device cannot read them.
        """
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size and (more := os.pread(self._fd, size - len(data), offset + len(data))):
                data += more
        except OSError as e:
            raise SegmentError(f"cannot read at {offset}: {e.strerror}", where=str(self.path)) from e
        return data

    def record_at(self, offset: int) -> Record | str:
        """Gives the record that begins there, or why there is none."""
        return read_record(self.read_at, self.size_bytes, offset)

    def records(self, offset: int = 0) -> Iterator[Record | Damage]:
        """Gives every record in order, and the damage between them."""
        return scan(self.read_at, self.size_bytes, offset)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Objects, blocks and the other records in the order of the file, by the footer or else by reading all."""
        if self.footer is not None:
            streams = [s.stream for s in self.footer.streams]
            return tuple(_from_index(entry, streams) for entry in self.footer.index)
        return tuple(_from_records(self.records()))

    def good(self, places: Iterable[Place], on_damage: Callable[[Damage], None] | None = None) -> Iterator[Record]:
        """Gives the records at these places; those that do not hold go to on_damage."""
        for place in places:
            found = self.record_at(place.offset)
            if isinstance(found, Record) and found.kind == place.kind:
                yield found
            elif on_damage is not None:
                on_damage(Damage(place.offset, 0, found if isinstance(found, str) else "another kind of record"))

    def objects(self, on_damage: Callable[[Damage], None] | None = None) -> Iterator[tuple[int, StoredObject]]:
        """Gives (offset, object) of each that is good, in the order of the file; the others go to on_damage."""
        for record in self.good((p for p in self.places if p.kind == Kind.OBJECT), on_damage):
            try:
                yield record.offset, parse_object(record.body)
            except SegmentError as e:
                if on_damage is not None:
                    on_damage(Damage(record.offset, record.length, str(e)))

    def object_types(self) -> Iterator[str]:
        """Gives the type of each object that is good; what is in them is not looked at."""
        for record in self.good(p for p in self.places if p.kind == Kind.OBJECT):
            try:
                yield Fields(unpack(record.body, "object"), "object").text("type")
            except SegmentError:
                continue  # `verify` tells

    @cached_property
    def formats(self) -> dict[bytes, FormatObject]:
        """{object id: format} of the segment."""
        found = {}
        for _, stored in self.objects():
            if stored.type == "format":
                try:
                    found[stored.id] = parse_format(stored)
                except SegmentError:
                    continue
        return found

    def blocks(self, on_damage: Callable[[Damage], None] | None = None) -> Iterator[Record]:
        """Gives the block records in the order of the file."""
        return self.good((p for p in self.places if p.kind == Kind.BLOCK), on_damage)

    def gap_at(self, place: Place) -> GapBody | None:
        """Gives the stand-alone gap at a place; None when it is damaged."""
        found = self.record_at(place.offset)
        try:
            return parse_gap(found.body) if isinstance(found, Record) and found.kind == Kind.GAP else None
        except SegmentError:
            return None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Segment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _from_index(entry: IndexEntry, streams: list[StreamId]) -> Place:
    stream = streams[entry.stream] if entry.stream >= 0 else None
    return Place(entry.offset, entry.kind, stream, entry.number, entry.entries, entry.first_ts, entry.last_ts)


def _from_records(records: Iterable[Record | Damage]) -> Iterator[Place]:
    for record in records:
        if isinstance(record, Damage) or record.kind in (Kind.HEADER, Kind.FOOTER, Kind.TRAILER):
            continue
        try:
            if record.kind == Kind.BLOCK:
                head = parse_block(record.body)
                yield Place(
                    record.offset, record.kind, head.stream, head.number, head.entries, head.first_ts, head.last_ts
                )
            elif record.kind == Kind.GAP:
                gap = parse_gap(record.body)
                yield Place(record.offset, record.kind, gap.stream, 0, 0, gap.from_ts or 0, gap.to_ts or 0)
            else:
                yield Place(record.offset, record.kind, None, 0, 0, 0, 0)
        except SegmentError:
            continue


def open_segment(path: Path) -> Segment:
    """Opens a segment, or what is left of one.

    A `.part` that was sealed since it was listed is opened under its final name.

    Raises:
      SegmentError: nothing in the file can be read.
      OSError: the file cannot be opened.
    """
    try:
        return Segment(path)
    except FileNotFoundError:
        if not path.name.endswith(PART_SUFFIX):
            raise
        return Segment(path.with_name(path.name.removesuffix(".part")))


def list_segments(paths: Iterable[Path]) -> list[Path]:
    """Gives the segment files of folders and those named themselves, in the order of their names, each once.

    Raises:
      UsageError: a path does not exist, or a folder holds no segment.
    """
    found: dict[Path, Any] = {}
    for path in paths:
        try:
            inside = [e for e in path.iterdir() if e.name.endswith((SUFFIX, PART_SUFFIX))] if path.is_dir() else [path]
        except OSError as e:
            raise ArchiveError(f"cannot list the folder: {e.strerror}", where=str(path)) from e
        if not path.exists():
            raise UsageError("no such file or folder", where=str(path), expected="an archive's folder or its segments")
        if not inside:
            raise ArchiveError(
                "no segment in this folder", where=str(path), expected=f"*{SUFFIX} or *{PART_SUFFIX}",
                got="none", hint="name the folder that `run --output` wrote",
            )  # fmt: skip
        found.update(dict.fromkeys(inside))
    return sorted(found, key=lambda p: (p.name, str(p)))
