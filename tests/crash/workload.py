"""What is written while the crashes come, and what must be left of it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collector.archive.bodies import parse_block
from collector.archive.frame import Kind, Record
from collector.archive.pins import Pin, read_pins
from collector.archive.reader import Segment
from collector.archive.recover import recover_folder
from collector.archive.segment import build_header
from collector.archive.tally import RECOVERED
from collector.archive.totals import StreamId, Totals, build_totals
from collector.archive.verify import verify_archive
from collector.batch import Block, Note, NoteKind, StreamKey
from collector.errors import ArchiveError
from sinks.file.policy import FilePolicy
from sinks.file.retention import Limits
from sinks.file.rotation import Rotation
from sinks.file.shelf import Room
from sinks.file.sink import FileSink
from tests.archive.encoder import CREATED_NS, PLAIN_ID, Maps, build_block, ledger
from tests.contract.made import in_place

STREAM = ("main", 0)
RUN = bytes(range(16))
LATER_RUN = bytes(range(16, 32))
ONE_BLOCK = 64  # bytes of sub-buffers that a block says it is of

Say = Callable[[str, Any], None]  # what the daemon tells others: (what, value)


def unheard(what: str, value: Any) -> None:
    """Said to nobody."""


class Context:
    """One stream of one run; segments are a second apart."""

    def __init__(self, run: bytes) -> None:
        self.run = run

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        start_s = (1000 if self.run == LATER_RUN else 0) + number
        return build_header(
            run=self.run, segment=number, host="h", boot_id="b", kernel="k", created_ns=CREATED_NS + start_s * 10**9,
            tool="t", config_hash="c",
            instances={"main": {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}},
            opening={STREAM: (opening or {}).get(STREAM, Totals())},
        )  # fmt: skip

    def opening_notes(self) -> Sequence[Note]:
        return []

    def closing_notes(self) -> Sequence[Note]:
        return [Note(NoteKind.COVERAGE, StreamKey(self.run, *STREAM), {
            "from_ts": 1, "to_ts": 2, "state": "observed", "at_ns": 1,
        })]  # fmt: skip


def make_policy(
    folder: Path,
    *,
    segment_bytes: int = 1 << 30,
    segment_age_s: float = 1e9,
    period_s: int | None = None,
    max_bytes: int = 1 << 40,
    max_age_s: float | None = None,
    min_free_bytes: int = 0,
    reserve_bytes: int = 0,
    sync_interval_s: float = 0.0,
) -> FilePolicy:
    """A policy without limits, but for those given."""
    return FilePolicy(
        folder,
        Rotation(segment_bytes, segment_age_s, period_s),
        Limits(max_bytes, max_age_s),
        Room(min_free_bytes, reserve_bytes),
        sync_interval_s,
    )


class Writer:
    """A file sink, driven from one thread; it has one event in a block, so events and blocks have the same numbers."""

    def __init__(self, folder: Path, say: Say, run: bytes = RUN, **policy: Any) -> None:
        self.sink = FileSink(make_policy(folder, **policy), Context(run), Maps(), in_place)
        self._say = say
        self._run = run
        self._written = 0
        self._acked = 0
        self._told: Path | None = None

    def open(self) -> "Writer":
        self.sink._open()
        return self

    def deliver(self, blocks: int) -> None:
        made = [self._block(self._written + at) for at in range(blocks)]
        self._written += blocks
        totals = ledger(self._written, self._written, ONE_BLOCK * self._written)
        body = {"at_ns": 1, "totals": build_totals(totals)}
        self.sink._deliver([*made, Note(NoteKind.SAMPLE, StreamKey(self._run, *STREAM), body, keep=False)])
        self._tell()

    def tick(self) -> None:
        self.sink._tick()
        self._tell()

    def close(self) -> None:
        self.sink._close()
        self._tell()

    def _tell(self) -> None:
        """Says which blocks are durable, and which segment was sealed."""
        durable = self.sink.state.durable_events
        if durable > self._acked:
            self._say("durable", [(self._run, number) for number in range(self._acked, durable)])
            self._acked = durable
        if self.sink.last_path is not None and self.sink.last_path != self._told:
            self._told = self.sink.last_path
            self._say("sealed", self._told.name)

    def _block(self, number: int) -> Block:
        return build_block(
            [(100 + number, 7, 0, 0, PLAIN_ID, number)], stream=STREAM, number=number, ordinal=number,
            raw_bytes=ONE_BLOCK, run=self._run,
        )  # fmt: skip


def blocks_in(path: Path) -> list[tuple[bytes, int]]:
    """(run, number) of the blocks of a segment."""
    with Segment(path) as segment:
        heads = [parse_block(r.body) for r in segment.records() if isinstance(r, Record) and r.kind == Kind.BLOCK]
    return [(head.run, head.number) for head in heads]


def violations(folder: Path, said: Iterable[tuple[str, Any]]) -> list[str]:
    """Recovers what a crash left, and gives what is wrong with it then: nothing may be.

    Args:
      said: by the one that crashed, in order.
    """
    durable: dict[tuple[bytes, int], None] = {}
    sealed: dict[str, None] = {}
    pinned: list[Pin] = []
    for what, value in said:
        if what == "durable":
            durable.update(dict.fromkeys(value))
        elif what == "sealed":
            sealed[value] = None
        elif what == "pinned":
            pinned.append(value)
        elif what == "removed":
            name, blocks = value
            sealed.pop(name, None)
            for block in blocks:
                durable.pop(block, None)
    if not folder.is_dir():
        assert not pinned
        return [f"the folder is gone, with {len(durable)} durable blocks"] if durable or sealed else []
    found = []
    try:
        pins = read_pins(folder)
        found += [f"said to be pinned, and is not: {pin}" for pin in pinned if pin not in pins]
    except ArchiveError as e:
        found.append(f"a pin does not read: {e}")
    found += [f"said to be sealed, and gone: {name}" for name in sealed if not (folder / name).exists()]
    try:
        results = recover_folder(folder)
        again = recover_folder(folder)
    except Exception as e:
        return [f"no restart: {e!r}"]
    found += [f"not recovered: {r}" for r in results if r.reason.startswith("failed")]
    found += [f"recovered twice: {r}" for r in again]
    paths = sorted(folder.glob("*.ftseg"))
    present = [block for path in paths for block in blocks_in(path)]
    found += [f"durable, and gone: block {number}" for run, number in durable if (run, number) not in present]
    if present != sorted(set(present)):
        found.append(f"not in order, or twice: {[number for _, number in present]}")
    if paths:
        cut_off = {r.path for r in results if r.reason == RECOVERED}
        for problem in verify_archive([folder]).problems:
            # What was never said to be durable may have left a hole.
            if not (
                problem.path in cut_off and re.search(r"^\d+ bytes are damaged|format \w+ is not in", problem.what)
            ):
                found.append(f"verify: {problem}")
    return found


def restart(folder: Path) -> list[str]:
    """Writes on where a crash left off, and gives what is wrong then."""
    try:
        writer = Writer(folder, unheard, LATER_RUN).open()
        writer.deliver(1)
        writer.close()
    except Exception as e:
        return [f"no restart: {e!r}"]
    newest = max(folder.glob("*.ftseg"))
    return [] if blocks_in(newest) == [(LATER_RUN, 0)] else [f"the new run is not in {newest}"]
