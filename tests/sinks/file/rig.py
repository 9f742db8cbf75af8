"""A file sink over a folder, fed by one stream, with the clock and the disk in the test's hands."""

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from collector.archive.bodies import parse_gap
from collector.archive.frame import Kind, Record
from collector.archive.info import summarise
from collector.archive.reader import open_segment
from collector.archive.totals import build_totals
from collector.archive.verify import verify_paths
from collector.batch import Block, Delivery, Note, NoteKind
from collector.capture.visit import Ask
from sinks.contract.base import Item
from sinks.file.sink import FileSink
from tests.capture.rig import NOISY_ENTRIES, Rig, as_ring, blocks_of, make_stats, noisy_page
from tests.contract.made import Context, in_place
from tests.crash.workload import make_policy
from tests.read.made import Maps

MIB = 1 << 20
THREE_BLOCKS = 12_000  # bytes of a segment that the third block of 4 KiB fills
CREATED_NS = 1_700_000_000 * 10**9  # of segment 0; the others are a second apart

# A policy whose limits nothing here reaches, but for those that a test gives.
WIDE: dict[str, Any] = {"segment_bytes": 64 * MIB, "segment_age_s": 3600.0, "sync_interval_s": 1.0}


class Clock:
    """Stands in for the sink's `time`, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1_700_000_000 + self.now_s

    def time_ns(self) -> int:
        return int(self.time() * 10**9)


class Names(Maps):
    """Knows the formats of a rig and no other name."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig

    def format_object(self, format_id: bytes) -> bytes:
        body = self._rig.book.object_body(format_id)
        assert body is not None
        return body


class Archive:
    """A file sink, the stream whose blocks go into it, and what is in its folder.

    Args:
      stack: closes what stands in for the ring.
      policy: how it differs from WIDE.
    """

    def __init__(self, stack: ExitStack, folder: Path, clock: Clock, policy: dict[str, Any]) -> None:
        fd, self._feed = stack.enter_context(as_ring())
        self.folder, self.clock = folder, clock
        self.rig = Rig(fd, stats=make_stats())
        self.context = Context(self.rig.stream.key)
        self.context.created_ns = CREATED_NS
        self.sink = FileSink(make_policy(folder, **(WIDE | policy)), self.context, Names(self.rig), in_place)
        self._read = 0

    @asynccontextmanager
    async def running(self, *, is_sound: bool = True) -> AsyncIterator["Archive"]:
        """Opened, and closed at the end; what is there then must verify.

        Args:
          is_sound: else it is the test that looks at what is left.
        """
        await self.sink.open()
        yield self
        await self.sink.close()
        if is_sound:
            assert self.problems() == []

    # ---- what goes into it

    def make_block(self) -> Block:
        """NOISY_ENTRIES in 4 KiB."""
        self._read += NOISY_ENTRIES
        self._feed(noisy_page(1000 + self._read * 10**9))
        (block,) = blocks_of(self.rig.visit(Ask.CLOSE))
        return block

    def sample(self, *, keep: bool = False) -> Note:
        """What the ledger says now: all that was read is in blocks."""
        self.rig.say(read=self._read)
        self.rig.visit(Ask.FLUSH | Ask.SAMPLE)
        totals = self.rig.stream.totals()
        assert totals.settled
        return Note(NoteKind.SAMPLE, self.rig.stream.key, {"at_ns": 1, "totals": build_totals(totals)}, keep=keep)

    async def deliver(self, blocks: int = 1) -> Delivery:
        """So many blocks, at once."""
        items: list[Item] = [self.make_block() for _ in range(blocks)]
        return await self.sink.deliver([*items, self.sample()])

    async def deliver_each(self, blocks: int) -> None:
        """So many blocks, one after the other, and each is taken."""
        for _ in range(blocks):
            assert await self.deliver() is Delivery.DELIVERED

    async def deliver_gap(self, cause: str = "dropped", count: int | None = 5) -> Delivery:
        body = {"cause": cause, "count": count, "from_ts": 1, "to_ts": 2, "detail": "d"}
        return await self.sink.deliver([Note(NoteKind.GAP, self.rig.stream.key, body)])

    async def deliver_sealed_at(self, at_ns: int) -> str:
        """A block whose segment is full with it, and as if it had been sealed then; gives the segment's name."""
        await self.deliver()
        name = self.sealed[-1]
        os.utime(self.folder / name, ns=(at_ns, at_ns))
        self.sink._shelf.fill()
        return name

    async def wait(self, seconds: float) -> None:
        """Time passes; the runner's ticks come once a second. Within 3 s the sink looks at the disk's room."""
        for _ in range(int(seconds)):
            self.clock.now_s += 1
            await self.sink.tick()

    # ---- what is there

    @property
    def suspended(self) -> str | None:
        return self.sink.state.suspended

    @property
    def sealed(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.ftseg"))

    @property
    def parts(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.part"))

    @property
    def reserve(self) -> Path:
        return self.folder / ".reserve"

    def size_of(self, names: Iterable[str]) -> int:
        """Bytes on the disk."""
        return sum((self.folder / name).stat().st_size for name in names)

    def gaps(self) -> list[tuple[str, int | None]]:
        """(cause, count) of the gap records in all segments."""
        found = []
        for path in sorted(self.folder.glob("*.ftseg*")):
            with open_segment(path) as segment:
                records = [r for r in segment.records() if isinstance(r, Record) and r.kind == Kind.GAP]
                found += [(gap.cause, gap.count) for gap in (parse_gap(record.body) for record in records)]
        return found

    def problems(self) -> list[str]:
        return [str(problem) for problem in verify_paths([self.folder])]

    def events(self) -> int:
        events: int = summarise([self.folder])["events"]
        return events


MakeArchive = Callable[..., Archive]


# ---- a disk in trouble


class FreeSpace:
    """What statvfs says is free, wherever it is asked."""

    bytes = 10_000


def fill(folder: Path) -> Path:
    """Leaves no byte free on a filesystem; gives the file that takes it all."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
    return filler


async def fill_to_the_last_byte(archive: Archive, folder: Path) -> Path:
    """Leaves no byte free, in the last page of the open segment neither."""
    filler = fill(folder)
    while archive.suspended is None:
        await archive.deliver_gap("unobserved", None)
    return filler
