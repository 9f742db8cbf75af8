"""What goes into a network sink in its tests: blocks of any size, and a run that they are of."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from collector.archive.fields import pack
from collector.archive.segment import build_header
from collector.archive.totals import StreamId, Totals, build_totals
from collector.batch import Block, KindCount, Note, NoteKind, StreamKey
from tests.archive.encoder import CREATED_NS, PLAIN_ID, Maps

RUN = bytes(range(16))
KEY = StreamKey(RUN, "main", 0)

MIB = 1 << 20

__all__ = ["KEY", "MIB", "RUN", "Context", "InThread", "Maps", "block", "gap", "in_place", "sample"]

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


async def in_place(job: Callable[[], Any]) -> Any:
    """A thread of the log's own without a thread: for tests under a virtual clock."""
    return job()


def block(number: int, *, events: int = 10, size_bytes: int = 1000, key: StreamKey = KEY) -> Block:
    """A block whose body is what a reader expects, but for its columns, which are filling."""
    kinds = (KindCount(PLAIN_ID, 0, events),)
    first_ts = 1000 * number
    body = pack({
        "run": key.run, "inst": key.instance, "cpu": key.cpu, "no": number, "ord": number * events, "n": events,
        "t0": first_ts, "t1": first_ts + 9, "raw": 4096, "gaps": (), "kinds": kinds, "codec": "none",
        "size": size_bytes,
        "cols": number.to_bytes(4, "big") * (size_bytes // 4),
    })  # fmt: skip
    return Block(
        key, number, number * events, events, first_ts, first_ts + 9, 4096, (), kinds, frozenset(), frozenset(), body
    )


def gap(key: StreamKey = KEY) -> Note:
    """A record that is no block."""
    body = {"cause": "dropped", "count": 3, "from_ts": 1, "to_ts": 2, "detail": "d"}
    return Note(NoteKind.GAP, key, body)


def sample(events: int, *, key: StreamKey = KEY, keep: bool = True) -> Note:
    """A look at the ledger."""
    body = {"at_ns": 1, "totals": build_totals(Totals(events=events))}
    return Note(NoteKind.SAMPLE, key, body, keep)


class Context:
    """A run of one stream or several; its segments are a second apart."""

    def __init__(self, *keys: StreamKey, run: bytes = RUN) -> None:
        self.run = run
        self.keys = keys or (StreamKey(run, "main", 0),)
        self.created_ns = CREATED_NS
        self.closed = 0  # how often something ended

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        ids = [(key.instance, key.cpu) for key in self.keys]
        return build_header(
            run=self.run, segment=number, host="h", boot_id="b", kernel="k",
            created_ns=self.created_ns + number * 10**9, tool="t", config_hash="c",
            instances={
                name: {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}
                for name in dict.fromkeys(name for name, _ in ids)
            },
            opening={of: (opening or {}).get(of, Totals()) for of in ids},
        )  # fmt: skip

    def opening_notes(self) -> Sequence[Note]:
        return [_coverage(key, None) for key in self.keys]

    def closing_notes(self) -> Sequence[Note]:
        self.closed += 1
        return [_coverage(key, 5) for key in self.keys]


def _coverage(key: StreamKey, to_ts: int | None) -> Note:
    return Note(NoteKind.COVERAGE, key, {"from_ts": 1, "to_ts": to_ts, "state": "observed", "at_ns": 1})
