"""The archive's policy: when segments end, which ones stay, and what a full or missing disk does."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from collector.archive import disk
from collector.archive.bodies import parse_gap
from collector.archive.frame import Kind, Record
from collector.archive.info import summarise
from collector.archive.lock import is_locked
from collector.archive.pins import Pin, add_pin, remove_pin, write_removed_up_to
from collector.archive.reader import open_segment
from collector.archive.recover import recover_folder
from collector.archive.segment import build_header, start_ns_of
from collector.archive.totals import StreamId, Totals, build_totals
from collector.archive.verify import verify_paths
from collector.batch import Block, Delivery, Note, NoteKind
from collector.capture.visit import Ask
from collector.errors import ArchiveFullError, ArchiveLockedError
from sinks.contract.base import Follower, Item
from sinks.file import sink as sink_module
from sinks.file.policy import FilePolicy
from sinks.file.retention import Limits, Sealed
from sinks.file.shelf import Room, Shelf
from sinks.file.sink import FileSink
from tests.capture.rig import NOISY_ENTRIES, RUN, Rig, as_ring, blocks_of, make_stats, noisy_page
from tests.crash.workload import make_policy

MIB = 1 << 20


async def in_place(job: Callable[[], Any]) -> Any:
    return job()


class Names:
    """Knows the formats of the rig and no other name."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def format_object(self, format_id: bytes) -> bytes:
        body = self.rig.book.object_body(format_id)
        assert body is not None
        return body

    def symbols(self, addresses: object) -> dict[int, tuple[str, int, str]]:
        return {}

    def printk(self, addresses: object) -> dict[int, str]:
        return {}

    def tgids(self, pids: object) -> dict[int, int]:
        return {}

    def comms(self, pids: object) -> dict[int, bytes]:
        return {}

    def proc_threads(self, pids: object) -> dict[int, tuple[bytes, int]]:
        return {}


class Context:
    """One stream of one run; segments are a second apart."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        return build_header(
            run=RUN, segment=number, host="h", boot_id="b", kernel="k", created_ns=(1700000000 + number) * 10**9,
            tool="t", config_hash="c",
            instances={"i": {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}},
            opening={("i", 0): (opening or {}).get(("i", 0), Totals())},
        )  # fmt: skip

    def opening_notes(self) -> Sequence[Note]:
        return [self.coverage(None)]

    def closing_notes(self) -> Sequence[Note]:
        return [self.coverage(5)]

    def coverage(self, to_ts: int | None) -> Note:
        body = {"from_ts": 1, "to_ts": to_ts, "state": "observed", "at_ns": 1}
        return Note(NoteKind.COVERAGE, self.rig.stream.key, body)


class World:
    """A stream whose blocks go into an archive, and the clocks and disks around it."""

    def __init__(self, stack: ExitStack, folder: Path, time: SimpleNamespace, policy: dict[str, Any]) -> None:
        fd, self._feed = stack.enter_context(as_ring())
        self.folder, self.time = folder, time
        self.rig = Rig(fd, stats=make_stats())
        defaults = {"segment_bytes": 64 * MIB, "segment_age_s": 3600.0, "sync_interval_s": 1.0}
        self.sink = self.make_sink(make_policy(folder, **(defaults | policy)))
        self.read = 0

    def make_sink(self, policy: FilePolicy) -> FileSink:
        return FileSink(policy, Context(self.rig), Names(self.rig), in_place)

    def make_block(self) -> Block:
        self.read += NOISY_ENTRIES
        self._feed(noisy_page(1000 + self.read * 10**9))
        (block,) = blocks_of(self.rig.visit(Ask.CLOSE))
        return block

    def sample(self) -> Note:
        """What the ledger says now: all that was read is in blocks."""
        self.rig.say(read=self.read)
        self.rig.visit(Ask.FLUSH | Ask.SAMPLE)
        totals = self.rig.stream.totals()
        assert totals.settled
        return Note(NoteKind.SAMPLE, self.rig.stream.key, {"at_ns": 1, "totals": build_totals(totals)}, keep=False)

    async def deliver(self, blocks: int = 1) -> Delivery:
        items: list[Item] = [self.make_block() for _ in range(blocks)]
        return await self.sink.deliver([*items, self.sample()])

    async def wait(self, seconds: float) -> None:
        """Time passes; the runner's ticks come once a second."""
        for _ in range(int(seconds)):
            self.time.now_s += 1
            await self.sink.tick()

    @property
    def sealed(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.ftseg"))

    @property
    def parts(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.part"))

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


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The sink's clock, moved by hand."""
    time = SimpleNamespace(now_s=100.0)
    time.monotonic = lambda: time.now_s
    time.time = lambda: 1_700_000_000 + time.now_s
    time.time_ns = lambda: int(time.time() * 10**9)
    monkeypatch.setattr(sink_module, "time", time)
    return time


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path, time: SimpleNamespace) -> Iterator[MakeWorld]:
    with ExitStack() as stack:

        def make(folder: Path = tmp_path / "archive", **policy: Any) -> World:
            return World(stack, folder, time, policy)

        yield make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("needs root and the right to mount a tmpfs; run as root outside of a container")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


# ---- rotation and retention


async def test_segment_is_sealed_at_its_size(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=12_000)  # three blocks of 4 KiB
    await world.sink.open()
    for _ in range(7):
        assert await world.deliver() is Delivery.DELIVERED
    assert [len(world.sealed), len(world.parts)] == [2, 1]
    await world.sink.close()
    assert (len(world.sealed), world.parts) == (3, [])
    assert world.problems() == []
    assert world.events() == 7 * NOISY_ENTRIES


async def test_segment_is_sealed_at_its_age(make_world: MakeWorld) -> None:
    world = make_world(segment_age_s=10.0)
    await world.sink.open()
    await world.deliver()
    await world.wait(9)
    assert world.sealed == []
    await world.wait(1)
    assert (len(world.sealed), world.parts) == (1, [])
    await world.wait(60)  # no empty segments
    assert (len(world.sealed), world.parts) == (1, [])
    await world.sink.close()
    assert world.problems() == []


async def test_run_without_an_entry_leaves_a_segment_that_says_so(make_world: MakeWorld) -> None:
    world = make_world()
    await world.sink.open()
    await world.sink.deliver([world.sample()])
    await world.sink.close()
    assert len(world.sealed) == 1
    assert world.problems() == []
    assert world.events() == 0


async def test_oldest_segments_go_when_the_archive_is_too_large_and_the_newest_stays(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=1, max_bytes=20_000)  # segments of 5 to 6 KB
    await world.sink.open()
    names: list[str] = []
    for _ in range(8):
        await world.deliver()
        names = sorted({*names, *world.sealed})
        assert world.sink.state.bytes <= 20_000
    assert len(names) == 8
    assert world.sealed == names[-len(world.sealed) :]
    assert 2 <= len(world.sealed) <= 4
    assert world.sink.state.removed_segments == 8 - len(world.sealed)
    await world.sink.close()
    assert world.problems() == []


async def test_newest_segment_stays_however_small_the_limit(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=1, max_bytes=1)
    await world.sink.open()
    for _ in range(3):
        await world.deliver()
        assert len(world.sealed) == 1
    await world.sink.close()
    assert len(world.sealed) == 1


async def test_segments_of_earlier_runs_count_and_go_first(make_world: MakeWorld, tmp_path: Path) -> None:
    old = make_world(segment_bytes=1)
    await old.sink.open()
    for _ in range(4):
        await old.deliver()
    await old.sink.close()
    before = old.sealed
    world = make_world(max_bytes=1)
    await world.sink.open()
    assert world.sink.state.segments == len(before)
    world.sink._number = 100  # names behind the others
    await world.deliver()
    await world.sink.close()
    assert len(world.sealed) == 1
    assert world.sealed[0] not in before


async def test_state_tells_what_is_on_the_disk(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=12_000)
    await world.sink.open()
    for _ in range(5):
        await world.deliver()
    state = world.sink.state
    on_disk = sum(path.stat().st_size for path in world.folder.glob("*.ftseg*"))
    assert (state.bytes, state.segments, state.suspended) == (on_disk, 2, None)
    assert state.oldest_s == 1700000000.0
    assert state.raw_bytes == world.rig.stream.reader_bytes - 5 * (4096 - 16 - 4020)


# ---- when it becomes durable


async def test_blocks_are_synced_within_the_interval(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(sync_interval_s=3.0)
    synced: list[float] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(world.time.now_s))
    await world.sink.open()
    await world.deliver()
    await world.wait(10)  # nothing new after the first sync
    assert synced == [103.0]
    await world.deliver()
    await world.wait(10)
    assert synced == [103.0, 111.0]


async def test_every_delivery_is_synced_when_so_configured(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(sync_interval_s=0.0)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    await world.sink.open()
    for count in (1, 2, 3):
        await world.deliver(2)
        assert len(synced) == count


async def test_file_is_durable_before_it_gets_its_name_and_the_name_before_it_is_told(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    await world.sink.open()
    await world.deliver()
    calls: list[str] = []

    def watch(name: str) -> None:
        original = getattr(os, name)

        def call(what: Any, *rest: Any) -> Any:
            what_it_is = (
                "file" if isinstance(what, int) and Path(f"/proc/self/fd/{what}").resolve().is_file() else "folder"
            )
            calls.append(f"{name} {what_it_is}" if name == "fsync" else name)
            return original(what, *rest)

        monkeypatch.setattr(os, name, call)

    for name in ("writev", "fsync", "rename"):
        watch(name)
    await world.sink.close()
    assert calls[-4:] == ["writev", "fsync file", "rename", "fsync folder"]


# ---- a disk that gets full


async def test_too_little_free_space_suspends_and_a_gap_tells_what_was_given_up(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(min_free_bytes=10_000)
    free = SimpleNamespace(bytes=10_000)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    await world.sink.open()
    await world.deliver()
    await world.wait(3)
    assert world.sink.state.suspended is None
    free.bytes = 9_999
    await world.wait(3)
    assert world.sink.state.suspended == "less than 10000 bytes are free"
    assert await world.deliver(3) is Delivery.REJECTED
    await world.wait(10)
    assert await world.deliver() is Delivery.REJECTED
    free.bytes = 10_000
    await world.wait(3)
    assert world.sink.state.suspended is None
    assert await world.deliver(2) is Delivery.DELIVERED
    await world.sink.close()
    assert world.gaps() == [("discarded", 4 * NOISY_ENTRIES)]
    assert world.events() == 3 * NOISY_ENTRIES
    assert world.problems() == []


async def test_what_was_written_before_a_suspension_is_synced(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(min_free_bytes=10_000, sync_interval_s=60.0)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=20_000, f_frsize=1))
    await world.sink.open()
    await world.deliver()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=1))
    await world.wait(3)
    assert world.sink.state.suspended
    assert len(synced) == 1


async def test_old_segments_make_room_before_archiving_is_suspended(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=1, min_free_bytes=10_000)
    left = 30_000

    def free(_: object) -> SimpleNamespace:
        used = sum(path.stat().st_size for path in world.folder.glob("*.ftseg*"))
        return SimpleNamespace(f_bavail=left - used, f_frsize=1)

    monkeypatch.setattr(os, "statvfs", free)
    await world.sink.open()
    for _ in range(10):
        assert await world.deliver() is Delivery.DELIVERED
        await world.wait(3)
    assert world.sink.state.suspended is None
    assert 1 < len(world.sealed) < 5
    await world.sink.close()
    assert world.problems() == []


async def test_run_that_ends_suspended_is_sealed_and_says_what_is_missing(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The footer and the gap are small: the room that is left to others is not left to them."""
    world = make_world(min_free_bytes=10_000)
    free = SimpleNamespace(bytes=10_000)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    await world.sink.open()
    await world.deliver()
    free.bytes = 0
    await world.wait(3)
    await world.deliver()
    await world.sink.close()
    assert not is_locked(world.folder)
    assert (len(world.sealed), world.parts) == (1, [])
    assert world.gaps() == [("discarded", NOISY_ENTRIES)]
    assert world.problems() == []


async def test_run_that_ends_without_any_room_leaves_its_part_for_recovery(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    await world.sink.open()
    await world.deliver()
    with monkeypatch.context() as full:
        full.setattr(os, "writev", no_room)
        await world.deliver()
        await world.sink.close()
    assert not is_locked(world.folder)
    assert (world.sealed, len(world.parts)) == ([], 1)
    assert [found.events for found in recover_folder(world.folder)] == [NOISY_ENTRIES]
    assert world.problems() == []


def no_room(*_: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill(disk: Path) -> Path:
    """Leaves no byte free."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return path


async def test_full_disk_counts_what_it_cannot_take_and_goes_on_when_there_is_room(
    make_world: MakeWorld, small_disk: Path
) -> None:
    world = make_world(small_disk / "archive", segment_bytes=30_000)
    await world.sink.open()
    for _ in range(10):
        await world.deliver()
    sealed = world.sealed
    assert len(sealed) == 1
    filler = fill(small_disk)
    answers = [await world.deliver() for _ in range(5)]
    assert answers[-1] is Delivery.REJECTED
    assert "No space left" in (world.sink.state.suspended or "")
    await world.wait(10)
    assert sealed == world.sealed
    filler.unlink()
    await world.wait(3)
    assert world.sink.state.suspended is None
    for _ in range(3):
        assert await world.deliver() is Delivery.DELIVERED
    await world.sink.close()
    assert world.problems() == []
    ((cause, lost),) = world.gaps()
    assert (cause, world.events() + (lost or 0)) == ("discarded", 18 * NOISY_ENTRIES)


async def test_block_that_was_written_is_not_given_up_when_only_the_seal_finds_no_room(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted twice, the archive would not add up."""
    world = make_world(segment_bytes=1)
    await world.sink.open()
    await world.deliver()
    real, full = os.fsync, True

    def fsync(fd: int) -> None:
        if full:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert await world.deliver() is Delivery.DELIVERED
    assert world.sink.state.suspended
    assert await world.deliver() is Delivery.REJECTED
    full = False
    await world.wait(3)
    await world.deliver()
    await world.sink.close()
    assert world.gaps() == [("discarded", NOISY_ENTRIES)]
    assert world.events() == 3 * NOISY_ENTRIES
    assert world.problems() == []


async def test_gap_that_was_written_is_not_written_again_when_resuming_fails_after_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(min_free_bytes=10_000)
    free = SimpleNamespace(bytes=10_000)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    real, fails = os.fdatasync, True

    def fdatasync(fd: int) -> None:
        if fails:
            raise OSError(5, "Input/output error")
        real(fd)

    await world.sink.open()
    await world.deliver()
    free.bytes = 0
    await world.wait(3)
    await world.deliver()
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    free.bytes = 10_000
    await world.wait(6)
    assert world.sink.state.suspended
    fails = False
    await world.wait(3)
    assert world.sink.state.suspended is None
    await world.deliver()
    await world.sink.close()
    assert world.gaps() == [("discarded", NOISY_ENTRIES)]
    assert world.problems() == []


async def test_discarded_events_are_those_that_were_not_written(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gets full in the middle of a delivery."""
    world = make_world()
    await world.sink.open()
    await world.deliver()
    real, left = os.writev, 2

    def writev(fd: int, parts: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return real(fd, parts)

    monkeypatch.setattr(os, "writev", writev)
    assert await world.deliver(5) is Delivery.REJECTED
    assert world.sink.state.discarded_events == 3 * NOISY_ENTRIES
    monkeypatch.setattr(os, "writev", real)
    await world.wait(3)
    await world.sink.deliver([world.sample()])
    await world.sink.close()
    assert world.gaps() == [("discarded", 3 * NOISY_ENTRIES)]
    assert world.events() == 3 * NOISY_ENTRIES
    assert world.problems() == []


async def test_a_run_that_finds_a_full_disk_at_its_end_is_sealed_with_the_reserves_room(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=1, reserve_bytes=4096)
    await world.sink.open()
    block = world.make_block()
    await world.sink.deliver([world.sample(), block])
    await world.wait(3)
    assert (len(world.sealed), world.parts) == (1, [])  # the next segment is begun at the end
    reserve, real = world.folder / ".reserve", disk.create
    assert reserve.exists()
    monkeypatch.setattr(disk, "create", lambda path: no_room() if reserve.exists() else real(path))
    await world.sink.close()
    assert (len(world.sealed), reserve.exists()) == (2, False)
    assert world.problems() == []


async def test_a_run_that_cannot_be_sealed_ends_all_the_same(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(reserve_bytes=4096)
    await world.sink.open()
    await world.deliver()
    with monkeypatch.context() as full:
        full.setattr(os, "writev", no_room)
        await world.sink.close()
    assert "No space left" in (world.sink.state.suspended or "")
    assert not is_locked(world.folder)
    assert [found.events for found in recover_folder(world.folder)] == [NOISY_ENTRIES]


async def test_a_segment_whose_name_is_not_durable_yet_gets_nothing_behind_its_footer(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=12_000)  # three blocks
    await world.sink.open()
    await world.deliver(2)
    await world.sink.tick()
    with monkeypatch.context() as broken:
        broken.setattr(disk, "fsync_folder", no_room)
        assert await world.deliver() is Delivery.DELIVERED
        assert (len(world.sealed), world.parts) == (1, [])
        assert world.sink.state.suspended
        assert await world.deliver() is Delivery.REJECTED
    await world.wait(3)
    assert world.sink.state.suspended is None
    await world.deliver()
    await world.sink.close()
    assert len(world.sealed) == 2
    assert world.gaps() == [("discarded", NOISY_ENTRIES)]
    assert world.events() == 4 * NOISY_ENTRIES
    assert world.problems() == []


async def test_a_last_segment_whose_name_is_not_durable_is_the_last(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    await world.sink.open()
    await world.deliver()
    await world.wait(1)
    with monkeypatch.context() as broken:
        broken.setattr(disk, "fsync_folder", no_room)
        await world.sink.close()
    assert (len(world.sealed), world.parts) == (1, [])
    assert world.problems() == []


async def test_what_a_failed_beginning_leaves_is_not_in_the_way_of_the_next(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes no header, and does not remove the empty file either."""
    world = make_world()
    await world.sink.open()
    with monkeypatch.context() as broken:
        broken.setattr(disk, "write", no_room)
        broken.setattr(disk, "unlink", no_room)
        assert await world.deliver() is Delivery.REJECTED
    assert "cannot write to the segment: No space left" in (world.sink.state.suspended or "")
    left = world.parts
    await world.wait(3)
    assert world.sink.state.suspended is None
    assert await world.deliver() is Delivery.DELIVERED
    await world.sink.close()
    assert world.parts == left
    (found,) = recover_folder(world.folder)
    assert found.reason.startswith("quarantined")
    found.path.unlink()
    assert world.gaps() == [("discarded", NOISY_ENTRIES)]
    assert world.problems() == []


async def test_a_segment_whose_name_is_taken_is_written_on_until_it_is_free(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """As somebody does who wants to read the open segment: `cp NAME.ftseg.part NAME.ftseg`."""
    world = make_world(segment_bytes=12_000)  # three blocks
    await world.sink.open()
    await world.deliver(2)
    (part,) = world.parts
    copy = world.folder / part.removesuffix(".part")
    shutil.copy(world.folder / part, copy)
    for _ in range(4):
        assert await world.deliver() is Delivery.DELIVERED
        await world.wait(1)
    assert (world.parts, world.sink.state.suspended) == ([part], None)
    told = [record for record in caplog.records if "cannot be sealed" in record.message]
    assert len(told) == 1
    copy.unlink()
    await world.wait(1)
    assert ([copy.name], []) == (world.sealed, world.parts)
    await world.deliver()
    await world.sink.close()
    assert world.events() == 7 * NOISY_ENTRIES
    assert world.problems() == []


# ---- a folder that goes away, or is somebody else's


async def test_folder_removed_while_running_is_made_again_and_the_loss_is_told(make_world: MakeWorld) -> None:
    world = make_world()
    await world.sink.open()
    await world.deliver()
    shutil.rmtree(world.folder)
    await world.wait(1)
    assert "the folder is gone: create it again" in (world.sink.state.suspended or "")
    assert await world.deliver() is Delivery.REJECTED
    await world.wait(3)
    assert world.sink.state.suspended is None
    await world.deliver()
    await world.wait(3)
    await world.sink.close()
    assert len(world.sealed) == 1
    assert world.gaps() == [("discarded", NOISY_ENTRIES)]
    assert world.events() == NOISY_ENTRIES
    assert world.problems() == []


async def test_a_folder_removed_while_a_segment_is_due_is_made_again(make_world: MakeWorld) -> None:
    world = make_world(segment_age_s=100.0)
    await world.sink.open()
    await world.deliver()
    await world.wait(98)
    shutil.rmtree(world.folder)
    await world.deliver()
    await world.wait(5)  # due at the second one: it cannot be sealed
    assert world.sink.state.suspended is None
    assert await world.deliver() is Delivery.DELIVERED
    await world.sink.close()
    assert world.problems() == []


async def test_an_open_segment_removed_from_a_full_disk_does_not_keep_the_archive_suspended(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_age_s=100.0, min_free_bytes=10_000)
    free = SimpleNamespace(bytes=10_000)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    await world.sink.open()
    await world.deliver()
    free.bytes = 0
    await world.wait(3)
    assert world.sink.state.suspended
    (world.folder / world.parts[0]).unlink()
    await world.wait(110)  # it is due, and cannot be sealed
    assert world.sink.state.suspended
    free.bytes = 10_000
    await world.wait(3)
    assert world.sink.state.suspended is None
    assert await world.deliver() is Delivery.DELIVERED
    await world.sink.close()
    assert world.problems() == []


async def test_a_segment_that_somebody_removes_at_once_ends_nothing(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=1, max_bytes=1)
    await world.sink.open()
    real = disk.fsync_folder

    def remove_sealed(folder: Path) -> None:
        real(folder)
        for path in folder.glob("*.ftseg"):
            path.unlink()

    with monkeypatch.context() as somebody:
        somebody.setattr(disk, "fsync_folder", remove_sealed)
        assert await world.deliver() is Delivery.DELIVERED
    assert world.sealed == []
    for _ in range(2):
        assert await world.deliver() is Delivery.DELIVERED
    assert (len(world.sealed), len(world.parts), world.sink.state.segments) == (1, 1, 2)
    await world.sink.close()


async def test_folder_that_was_made_again_is_locked(make_world: MakeWorld) -> None:
    """Else `recover` would seal a segment that is being written."""
    world = make_world()
    await world.sink.open()
    await world.deliver()
    shutil.rmtree(world.folder)
    await world.wait(6)
    await world.deliver()
    assert len(world.parts) == 1
    assert is_locked(world.folder)
    await world.sink.close()
    assert not is_locked(world.folder)


async def test_folder_that_cannot_be_made_says_where_and_what_to_do(make_world: MakeWorld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveFullError, match=r"file/archive: cannot use the archive folder: .*--output"):
        await make_world(tmp_path / "file" / "archive").sink.open()


async def test_second_process_on_an_archive_is_refused_and_told_who_has_it(make_world: MakeWorld) -> None:
    world = make_world()
    world.folder.mkdir()
    hold = """if True:
        import sys; from pathlib import Path; from collector.archive.lock import ArchiveLock
        lock = ArchiveLock(Path(sys.argv[1]))
        print("held", flush=True)
        sys.stdin.read()"""
    holder = subprocess.Popen([sys.executable, "-c", hold, world.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ArchiveLockedError, match=rf"archive: .*process {holder.pid} .*another --output"):
            await world.sink.open()
        holder.stdin.close()
    await world.sink.open()  # the kernel let go of it
    await world.sink.close()


async def test_crash_loses_nothing_that_was_synced(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=12_000)
    items: list[Item] = [world.make_block() for _ in range(5)]
    child = os.fork()
    if child == 0:  # the daemon, which dies without a word
        try:
            world.sink._open()
            world.sink._deliver([*items, replace(world.sample(), keep=True)])
            world.sink._sync()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (len(world.sealed), len(world.parts)) == (1, 1)
    assert world.problems() != []
    after = make_world()
    await after.sink.open()
    assert (len(world.sealed), world.parts) == (2, [])
    assert world.events() == 5 * NOISY_ENTRIES
    after.sink.unlock()
    assert world.problems() == []


async def test_names_sort_in_the_order_of_writing_when_the_clock_was_set_back(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=1)
    await world.sink.open()
    names = []
    for seconds_back in (0, 3600, 7200):
        header = Context.header
        monkeypatch.setattr(
            Context,
            "header",
            lambda self, number, opening, back=seconds_back, header=header: (
                of := header(self, number, opening), of.update(created_ns=of["created_ns"] - back * 10**9)
            )[0],
        )  # fmt: skip
        await world.deliver()
        names.append(world.sealed[-1])
    assert names == sorted(names) == world.sealed
    await world.sink.close()
    assert world.problems() == []


def test_a_clock_that_was_set_back_gives_no_name_of_what_is_to_be_removed(tmp_path: Path) -> None:
    """A removed segment was pinned around: the names up to its own are removed as soon as nothing pins them."""
    removed = "20400101T000000.000001Z-00000000-000007.ftseg"
    write_removed_up_to(tmp_path, removed)
    shelf = Shelf(tmp_path, Limits(1 << 30, None), Room(0), [])
    shelf.fill()
    assert shelf.newest_ns == start_ns_of(Path(removed))


# ---- round times, signals, age, other sinks, pins, the reserve


async def test_segment_is_sealed_where_an_hour_begins(make_world: MakeWorld) -> None:
    world = make_world(period_s=3600, segment_age_s=1e9)
    await world.sink.open()
    await world.deliver()
    begun_s = world.time.time()
    await world.wait(3600 - begun_s % 3600 - 1)
    assert world.sealed == []
    await world.wait(2)
    assert (len(world.sealed), world.parts) == (1, [])
    await world.sink.close()
    assert world.problems() == []


async def test_segment_is_sealed_when_asked(make_world: MakeWorld) -> None:
    world = make_world()
    await world.sink.open()
    world.sink.rotate()
    await world.wait(1)  # there is none
    assert world.sealed == []
    await world.deliver()
    await world.wait(1)
    assert world.sealed == []
    world.sink.rotate()
    await world.wait(1)
    with open_segment(world.folder / world.sealed[0]) as segment:
        assert segment.footer is not None
        assert (segment.footer.reason, segment.footer.last) == ("signal", False)
    await world.deliver()
    await world.sink.close()
    assert world.problems() == []


async def test_suspended_archive_looks_for_room_at_once_when_asked(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(min_free_bytes=10_000)
    free = SimpleNamespace(bytes=0)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    await world.sink.open()
    await world.wait(1)
    assert world.sink.state.suspended
    free.bytes = 10_000
    await world.sink.tick()
    assert world.sink.state.suspended
    world.sink.resume()
    await world.sink.tick()
    assert world.sink.state.suspended is None
    assert (world.sealed, world.parts) == ([], [])  # nothing to tell: no segment
    await world.sink.close()
    assert world.problems() == []


async def test_segments_go_when_they_are_too_old(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=1, max_age_s=100.0)
    await world.sink.open()
    for _ in range(3):
        await world.deliver()
        path = world.folder / world.sealed[-1]
        os.utime(path, ns=(world.time.time_ns(),) * 2)
        world.sink._shelf.fill()
        await world.wait(40)
    assert len(world.sealed) == 2
    await world.wait(100)
    assert world.sealed == []
    await world.sink.close()
    assert world.problems() == []


class Elsewhere:
    """A sink that has the segments whose blocks it acknowledged."""

    def __init__(self) -> None:
        self.last_block = -1

    def is_acknowledged(self, segment: Sealed) -> bool:
        assert segment.last_blocks is not None
        return all(number <= self.last_block for number in segment.last_blocks.values())


async def test_segments_wait_for_other_sinks_beyond_their_limit_until_the_disk_is_full(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=1, max_bytes=1, min_free_bytes=10_000)
    free = SimpleNamespace(bytes=20_000)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    elsewhere = Elsewhere()
    world.sink.acknowledgements.append(elsewhere)
    await world.sink.open()
    for _ in range(4):
        await world.deliver()
    assert len(world.sealed) == 4
    assert world.sink.state.waiting_bytes == sum((world.folder / name).stat().st_size for name in world.sealed[:3])
    free.bytes = 0
    await world.wait(3)
    assert world.sink.state.suspended
    assert await world.deliver() is Delivery.REJECTED
    assert len(world.sealed) == 4
    elsewhere.last_block = 1
    free.bytes = 20_000
    await world.wait(3)
    assert world.sink.state.suspended is None
    elsewhere.last_block = 100
    await world.deliver()
    await world.sink.close()
    assert len(world.sealed) == 1
    assert world.sink.state.discarded_events == NOISY_ENTRIES
    assert world.problems() == []


class Listener:
    """Notes what it is told: (name, whether it is there)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def note_removal(self, segment: Sealed) -> None:
        self.told.append((segment.name, segment.path.exists()))


async def test_followers_are_told_of_a_removal_before_it(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(segment_bytes=1, max_bytes=1)
    listener = Listener()
    world.sink.followers.append(cast(Follower, listener))
    await world.sink.open()
    await world.deliver()
    first = world.sealed[0]
    with monkeypatch.context() as broken:
        broken.setattr(disk, "unlink", no_room)
        await world.deliver()
    assert listener.told == [(first, True)]
    await world.wait(3)
    assert listener.told == [(first, True), (first, True)]  # the disk had refused
    await world.sink.close()


async def test_pinned_segments_stay_and_the_hole_behind_them_is_no_problem(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=1, max_bytes=1)
    await world.sink.open()
    start_ns = 1_700_000_000 * 10**9
    add_pin(world.folder, Pin("incident", start_ns + 2 * 10**9, start_ns + 3 * 10**9, 1))
    names = []
    for number in range(7):
        await world.deliver()
        names.append(world.sealed[-1])
        os.utime(world.folder / names[-1], ns=(start_ns + number * 10**9,) * 2)
        world.sink._shelf.fill()
    assert world.sealed == [names[2], names[3], names[6]]
    assert world.sink.state.pinned_bytes == sum((world.folder / name).stat().st_size for name in names[2:4])
    remove_pin(world.folder, "incident")
    await world.wait(3)
    assert world.sealed == names[6:]
    await world.sink.close()
    assert world.problems() == []


async def test_pins_that_go_one_after_the_other_leave_holes_that_are_no_problem(make_world: MakeWorld) -> None:
    """The hole behind the later pin is older than the removal that unpinning the earlier one brings."""
    world = make_world(segment_bytes=1, max_bytes=1)
    await world.sink.open()
    start_ns = 1_700_000_000 * 10**9
    for number in (0, 2, 4):
        add_pin(world.folder, Pin(f"n{number}", start_ns + number * 10**9, start_ns + number * 10**9, 1))
    names = []
    for number in range(8):
        await world.deliver()
        names.append(world.sealed[-1])
        os.utime(world.folder / names[-1], ns=(start_ns + number * 10**9 + 1000,) * 2)
        world.sink._shelf.fill()
    assert world.sealed == [names[at] for at in (0, 2, 4, 7)]
    remove_pin(world.folder, "n2")
    await world.wait(3)
    assert world.sealed == [names[at] for at in (0, 4, 7)]
    assert world.problems() == []
    await world.sink.close()


async def test_nothing_goes_while_a_pin_cannot_be_read(make_world: MakeWorld) -> None:
    world = make_world(segment_bytes=1, max_bytes=1)
    await world.sink.open()
    (world.folder / "pins").mkdir()
    (world.folder / "pins/broken.json").write_text("?")
    for _ in range(3):
        await world.deliver()
    assert len(world.sealed) == 3
    (world.folder / "pins/broken.json").unlink()
    await world.wait(3)
    assert len(world.sealed) == 1
    await world.sink.close()


async def fill_to_the_last_byte(world: World, disk: Path) -> Path:
    """Leaves no byte free, in the last page of the open segment neither."""
    filler = fill(disk)
    while world.sink.state.suspended is None:
        body = {"cause": "unobserved", "count": None, "from_ts": 1, "to_ts": 2, "detail": ""}
        await world.sink.deliver([Note(NoteKind.GAP, world.rig.stream.key, body)])
    return filler


async def test_full_disk_does_not_stop_sealing(make_world: MakeWorld, small_disk: Path) -> None:
    world = make_world(small_disk / "archive", reserve_bytes=64 << 10, segment_age_s=60.0)
    await world.sink.open()
    for _ in range(4):
        await world.deliver()
    await world.wait(3)
    reserve = world.folder / ".reserve"
    assert reserve.stat().st_size == 64 << 10
    filler = await fill_to_the_last_byte(world, small_disk)
    assert await world.deliver() is Delivery.REJECTED
    await world.wait(40)
    assert world.sink.state.suspended
    assert (world.sealed, reserve.exists()) == ([], True)
    await world.wait(20)
    assert (len(world.sealed), reserve.exists()) == (1, False)
    filler.unlink()
    await world.wait(3)
    assert world.sink.state.suspended is None
    await world.deliver()
    await world.wait(3)
    assert reserve.exists()
    await world.sink.close()
    assert [gap for gap in world.gaps() if gap[0] == "discarded"] == [("discarded", NOISY_ENTRIES)]
    assert world.events() == 5 * NOISY_ENTRIES
    assert world.problems() == []


async def test_full_disk_does_not_stop_removing(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some filesystems need room to remove a file."""
    world = make_world(segment_bytes=1, max_bytes=1, reserve_bytes=4096)
    await world.sink.open()
    await world.wait(3)
    reserve, real = world.folder / ".reserve", os.unlink
    assert reserve.exists()

    def unlink(path: Path) -> None:
        if path != reserve and reserve.exists():
            no_room()
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    for _ in range(2):
        await world.deliver()
    assert len(world.sealed) == 1
    assert world.sink.state.removed_segments == 1
    await world.sink.close()
    assert world.problems() == []


async def test_an_archive_that_nobody_writes_has_no_reserve(make_world: MakeWorld) -> None:
    world = make_world(reserve_bytes=4096)
    await world.sink.open()
    await world.deliver()
    await world.wait(3)
    assert (world.folder / ".reserve").exists()
    await world.sink.close()
    assert not (world.folder / ".reserve").exists()


async def test_full_disk_does_not_stop_the_repair_at_the_start(make_world: MakeWorld, small_disk: Path) -> None:
    world = make_world(small_disk / "archive", reserve_bytes=64 << 10)
    await world.sink.open()
    await world.deliver()
    await world.wait(3)
    await fill_to_the_last_byte(world, small_disk)
    world.sink.unlock()  # it died
    (found,) = recover_folder(world.folder)
    assert (found.reason, found.events) == ("recovered", NOISY_ENTRIES)
    assert not (world.folder / ".reserve").exists()
    assert world.problems() == []


async def test_notes_of_a_suspended_time_are_written_when_it_ends(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(min_free_bytes=10_000)
    free = SimpleNamespace(bytes=10_000)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    await world.sink.open()
    await world.deliver()
    free.bytes = 0
    await world.wait(3)
    body = {"cause": "dropped", "count": 5, "from_ts": 1, "to_ts": 2, "detail": "d"}
    assert await world.sink.deliver([Note(NoteKind.GAP, world.rig.stream.key, body)]) is Delivery.DELIVERED
    free.bytes = 10_000
    await world.wait(3)
    await world.deliver()
    await world.sink.close()
    assert world.gaps() == [("dropped", 5)]


async def test_note_that_finds_no_room_is_written_later(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    await world.sink.open()
    await world.deliver()
    body = {"cause": "dropped", "count": 5, "from_ts": 1, "to_ts": 2, "detail": "d"}
    with monkeypatch.context() as full:
        full.setattr(os, "writev", no_room)
        await world.sink.deliver([Note(NoteKind.GAP, world.rig.stream.key, body)])
    assert world.sink.state.suspended
    await world.wait(3)
    await world.sink.close()
    assert world.gaps() == [("dropped", 5)]


async def test_state_tells_what_is_durable(make_world: MakeWorld) -> None:
    world = make_world(sync_interval_s=2.0, segment_bytes=12_000)
    await world.sink.open()

    def counts() -> tuple[int, int]:
        state = world.sink.state
        return state.written_events // NOISY_ENTRIES, state.durable_events // NOISY_ENTRIES

    await world.deliver()
    assert counts() == (1, 0)
    await world.wait(2)
    assert counts() == (1, 1)
    await world.deliver()
    assert counts() == (2, 1)
    await world.deliver()  # sealed
    assert counts() == (3, 3)
    await world.sink.close()
