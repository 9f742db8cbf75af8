"""What many simulated hosts are fed with: blocks that a daemon has made, under the name of each."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.archive.bodies import parse_block
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind
from collector.archive.reader import list_segments, open_segment
from collector.archive.records import FormatMaps
from collector.archive.segment import build_header
from collector.archive.totals import StreamId, Totals
from collector.batch import Block, Note, StreamKey

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be simulated."""

    options: dict[str, Any]  # of a sink, as in [[sinks]]
    archive: str  # blocks are taken from there
    work: str  # spools and archives go there
    hosts: int
    blocks_per_s: float  # of each host
    seconds: float


class Recorded(FormatMaps):
    """The blocks of an archive, and the names they need."""

    def __init__(self, archive: Path) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._formats: dict[bytes, bytes] = {}
        for path in list_segments([archive]):
            with open_segment(path) as segment:
                for record in segment.good(segment.places):
                    if record.kind == Kind.BLOCK:
                        self.bodies.append(unpack(record.body, "block"))
                    elif record.kind == Kind.OBJECT:
                        body = bytes(record.body)
                        self._formats[unpack(body, "object")["id"]] = body

    def block(self, key: StreamKey, number: int, ordinal: int) -> Block:
        """The next block of a stream; which one of those recorded does not matter."""
        body = {
            **self.bodies[number % len(self.bodies)],
            "run": key.run,
            "inst": key.instance,
            "cpu": key.cpu,
            "no": number,
            "ord": ordinal,
        }
        packed = pack(body)
        head = parse_block(packed)
        return Block(
            key, number, ordinal, head.entries, head.first_ts, head.last_ts, head.raw_bytes, head.gaps, head.kinds,
            frozenset(), frozenset(), packed,
        )  # fmt: skip

    def format_object(self, format_id: bytes) -> bytes:
        return self._formats[format_id]


class Context:
    """What spools and archives say of the run."""

    def __init__(self, key: StreamKey, host: str) -> None:
        self._key, self._host = key, host

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        of = (self._key.instance, self._key.cpu)
        return build_header(
            run=self._key.run, segment=number, host=self._host, boot_id="bench", kernel="bench",
            created_ns=time.time_ns(), tool="bench", config_hash="",
            instances={of[0]: {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}},
            opening={of: (opening or {}).get(of, Totals())},
        )  # fmt: skip

    def opening_notes(self) -> Sequence[Note]:
        return []

    def closing_notes(self) -> Sequence[Note]:
        return []
