"""Segments again from messages: for consumers, and an example for those in other languages. Pure.

A segment file is made of records, and the value of each message is the body of one. So what a consumer writes is: one
file per run, the run's header, its objects, then all that has a stream; duplicates are known by their block number.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from collector.archive.bodies import Header, parse_header
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind, build_record
from collector.archive.objects import parse_object
from collector.errors import SegmentError

FORMAT = "ftrace-segment/1"

_RUN = re.compile("[0-9a-f]{32}")

# Objects that hold from their place on: the same one may come twice.
_OF_A_PLACE = frozenset(("comms", "comms_proc", "tgids"))


@dataclass(slots=True)
class _Run:
    """What has come of one run."""

    header: Header | None = None
    objects: set[bytes] = field(default_factory=set)  # written; without formats
    blocks: set[tuple[str, int, int]] = field(default_factory=set)  # (instance, CPU, number) written


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to append to the file of a run."""

    run: str  # hex
    header: Header | None  # None: it has not come; the bytes are to be kept, and go behind the first piece that has one
    data: bytes


class Rebuilder:
    """Puts messages together to segments; a run's file holds its objects in the order in which they came.

    Attributes:
      duplicates: blocks that came again, left out.
      foreign: messages that are not of this format, left out.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.foreign = 0
        self._runs: dict[str, _Run] = {}
        self._formats: dict[bytes, bytes] = {}  # {id: record}: they are shared by all runs

    @property
    def headless(self) -> list[str]:
        """Runs whose header has not come, in hex: without one there is no segment."""
        return [name for name, run in self._runs.items() if run.header is None]

    def add(self, headers: Iterable[tuple[str, bytes]], value: bytes) -> Iterator[Piece]:
        """Take a message; gives what its run's file grows by, nothing for a duplicate.

        Raises:
          SegmentError: the value is not what its headers say.
        """
        of = {name: text.decode(errors="surrogateescape") for name, text in headers}
        if of.get("format") != FORMAT or of.get("kind", "").upper() not in Kind.__members__ or "run" not in of:
            self.foreign += 1
            return
        kind = Kind[of["kind"].upper()]
        name = of["run"]
        if not _RUN.fullmatch(name):
            raise SegmentError("no id of a run", expected="32 hex digits", got=name[:80])
        run = self._runs.setdefault(name, _Run())
        if kind is Kind.HEADER:
            if run.header is None:
                yield self._begin(name, run, value)
        elif kind is Kind.OBJECT:
            yield from self._add_object(name, run, value)
        elif kind is not Kind.BLOCK or self._is_new(run, of):
            yield Piece(name, run.header, build_record(kind, value))

    def _begin(self, name: str, run: _Run, body: bytes) -> Piece:
        # Which of the run's headers came first is chance, so its totals are left out: streams open at zero.
        header = pack({**unpack(body, "header"), "segment": 0, "streams": [], "opening": []})
        parsed = parse_header(header)
        if parsed.run.hex() != name:
            raise SegmentError("a header of another run", expected=name, got=parsed.run.hex())
        run.header = parsed
        return Piece(name, run.header, b"".join((build_record(Kind.HEADER, header), *self._formats.values())))

    def _add_object(self, name: str, run: _Run, body: bytes) -> Iterator[Piece]:
        found = parse_object(body)
        record = build_record(Kind.OBJECT, body)
        if found.type == "format":
            if found.id in self._formats:
                return
            self._formats[found.id] = record
            for other, its in self._runs.items():
                if its.header is not None:
                    yield Piece(other, its.header, record)
        elif found.id not in run.objects or found.type in _OF_A_PLACE:
            run.objects.add(found.id)
            yield Piece(name, run.header, record)

    def _is_new(self, run: _Run, of: dict[str, str]) -> bool:
        try:
            key = (of["instance"], int(of["cpu"]), int(of["number"]))
        except (KeyError, ValueError) as e:
            raise SegmentError("a block without instance, cpu and number in its headers", got=repr(of)[:200]) from e
        if key in run.blocks:
            self.duplicates += 1
            return False
        run.blocks.add(key)
        return True
