"""Puts before a block what it needs and the receiver does not have: formats, symbols, names of threads.

The same for a segment on the disk and for a stream of records on a network.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import zstandard

from collector.archive.frame import Kind
from collector.archive.maps import WrittenMaps
from collector.archive.objects import build_object, parse_format, parse_object, recompress
from collector.batch import Block, Note, NoteKind

# Objects are written once a segment and read often; level 3 costs a few ms a segment.
_OBJECT_LEVEL = 3

# How long several writers are told the same of a thread.
_THREADS_AGE_S = 0.5

_OBJECTS = {NoteKind.CLOCK: "clock", NoteKind.REPORT: "report"}  # notes that are objects: {kind: their type}
_RECORDS = {NoteKind.GAP: Kind.GAP, NoteKind.COVERAGE: Kind.COVERAGE, NoteKind.SAMPLE: Kind.SAMPLE}


class MapSource(Protocol):
    """Where a segment gets the names from that its blocks refer to."""

    def format_object(self, format_id: bytes) -> bytes:
        """Gives the body of the format object with this id, as build_object makes it."""
        ...

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        """Gives {address: (name, offset, module or "")} of those that have a name."""
        ...

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        """Gives {address: text} of those that are the kernel's own strings."""
        ...

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        """Gives {pid: tgid} of those that are known."""
        ...

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        """Gives {pid: comm} of those that are known."""
        ...

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        """Gives {pid: (comm, tgid)} of those that live, from /proc as of now."""
        ...


class FormatMaps:
    """Names where only the formats are looked up: all other objects come as records of their own."""

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


class SharedMaps:
    """Names for several writers in threads of their own, from a source that is not safe to use from two at once.

    Threads are looked up in /proc for all of them together: the source looks up so many in a while and no more.
    """

    def __init__(self, source: MapSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._threads: dict[int, tuple[bytes, int] | None] = {}  # {pid: as just looked up}
        self._threads_s = float("-inf")

    def format_object(self, format_id: bytes) -> bytes:
        with self._lock:
            return self._source.format_object(format_id)

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        with self._lock:
            return self._source.symbols(addresses)

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        with self._lock:
            return self._source.printk(addresses)

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        with self._lock:
            return self._source.tgids(pids)

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        with self._lock:
            return self._source.comms(pids)

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._threads_s >= _THREADS_AGE_S:
                self._threads_s = now_s
                self._threads.clear()
            if new := [pid for pid in pids if pid not in self._threads]:
                found = self._source.proc_threads(new)
                self._threads.update((pid, found.get(pid)) for pid in new)
            return {pid: of for pid in pids if (of := self._threads[pid]) is not None}


class RecordWriter(ABC):
    """Writes blocks and, each once, the objects that they refer to; a subclass says where a record goes."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}  # {format object id: "system:name"} of the formats written here
        self._objects: set[bytes] = set()
        self._format_bodies: list[bytes] = []  # as they were written
        self._maps_written = WrittenMaps()
        self._compressor = zstandard.ZstdCompressor(level=_OBJECT_LEVEL)

    @abstractmethod
    def write_record(self, kind: int, body: Mapping[str, Any] | bytes) -> None:
        """Writes any record but a block.

        Args:
          body: a map as docs/segment-format.md has it, or one that is packed already.
        """

    @abstractmethod
    def _put_block(self, block: Block) -> None:
        """Writes the record of a block."""

    def write_object(self, kind: str, value: object) -> bytes:
        """Writes an object unless the segment has it, and gives its id."""
        key, body = build_object(kind, value, self._compressor)
        if key not in self._objects:
            self.write_record(Kind.OBJECT, body)
            self._objects.add(key)
        return key

    def write_note(self, note: Note) -> None:
        """Writes what a note says, unless it is one that only the closing totals need."""
        if (type_name := _OBJECTS.get(note.kind)) is not None:
            self.write_object(type_name, {"instance": note.stream.instance, **note.body})
        elif note.keep:
            of = note.stream
            self.write_record(_RECORDS[note.kind], {"run": of.run, "inst": of.instance, "cpu": of.cpu, **note.body})

    def write_block(self, block: Block, maps: MapSource) -> None:
        """Writes a block, and before it the objects that it needs and the segment does not have.

        Raises:
          ArchiveFullError: the block is not written; objects may be, and are not written twice.
        """
        for kind in block.kinds:
            if kind.format_id not in self._names:
                self._write_format(maps.format_object(kind.format_id))
        now_s = time.monotonic()
        if new := self._maps_written.addresses_to_ask(block.addresses, now_s):
            found = maps.symbols(new)
            if found:
                self.write_object("symbols", {address: list(of) for address, of in sorted(found.items())})
            texts = maps.printk(new)
            if texts:
                self.write_object("printk", dict(sorted(texts.items())))
            self._maps_written.note_addresses(new, found.keys() | texts.keys(), now_s)
        if pids := self._maps_written.pids_to_ask(block.pids, now_s):
            self._write_threads(pids, maps)
            self._maps_written.note_pids(pids, now_s)
        self._put_block(block)

    def _write_threads(self, pids: Collection[int], maps: MapSource) -> None:
        """Writes the names and processes of threads that the segment does not have, or not as they are now."""
        written = self._maps_written
        comms, tgids = maps.comms(pids), dict(maps.tgids(pids))
        known_tgids = written.tgids.keys() | tgids.keys()
        proc = maps.proc_threads([pid for pid in pids if pid not in comms or pid not in known_tgids])
        tgids |= {pid: tgid for pid, (_, tgid) in proc.items() if pid not in tgids}
        proc_comms = {pid: comm for pid, (comm, _) in proc.items() if pid not in comms}
        for kind, values, before in (
            ("comms", comms, written.comms),
            ("comms_proc", proc_comms, written.proc_comms),
            ("tgids", tgids, written.tgids),
        ):
            if new := {pid: value for pid, value in sorted(values.items()) if before.get(pid) != value}:
                # Also when the segment has such an object: a name may be changed back, and its place counts.
                self.write_record(Kind.OBJECT, build_object(kind, new, self._compressor)[1])
                before.update(new)

    def _write_format(self, body: bytes) -> None:
        found = parse_object(body)
        of = parse_format(found)
        if found.id not in self._objects:
            body = recompress(body, self._compressor)
            self.write_record(Kind.OBJECT, body)
            self._objects.add(found.id)
            self._format_bodies.append(body)
        self._names[found.id] = of.full_name
