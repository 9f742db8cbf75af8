"""When the sink seals a segment and under which name, and when what it wrote is durable."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from collector.archive import disk
from collector.archive.pins import write_removed_up_to
from collector.archive.reader import open_segment
from collector.archive.segment import start_ns_of
from collector.batch import Delivery
from sinks.file.retention import Limits
from sinks.file.shelf import Room, Shelf
from tests.capture.rig import NOISY_ENTRIES
from tests.faults import failing
from tests.sinks.file.rig import THREE_BLOCKS, MakeArchive

# ---- when it ends


async def test_segment_is_sealed_at_its_size(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=THREE_BLOCKS).running() as archive:
        await archive.deliver_each(7)
        assert [len(archive.sealed), len(archive.parts)] == [2, 1]
    assert (len(archive.sealed), archive.parts) == (3, [])
    assert archive.events() == 7 * NOISY_ENTRIES


async def test_segment_is_sealed_at_its_age(make_archive: MakeArchive) -> None:
    async with make_archive(segment_age_s=10.0).running() as archive:
        await archive.deliver()
        await archive.wait(9)
        assert archive.sealed == []
        await archive.wait(1)
        assert (len(archive.sealed), archive.parts) == (1, [])
        await archive.wait(60)  # no empty segments
        assert (len(archive.sealed), archive.parts) == (1, [])


async def test_segment_is_sealed_where_an_hour_begins(make_archive: MakeArchive) -> None:
    async with make_archive(period_s=3600, segment_age_s=1e9).running() as archive:
        await archive.deliver()
        begun_s = archive.clock.time()
        await archive.wait(3600 - begun_s % 3600 - 1)
        assert archive.sealed == []
        await archive.wait(2)
        assert (len(archive.sealed), archive.parts) == (1, [])


async def test_segment_is_sealed_when_asked(make_archive: MakeArchive) -> None:
    async with make_archive().running() as archive:
        archive.sink.rotate()
        await archive.wait(1)  # there is none
        assert archive.sealed == []
        await archive.deliver()
        await archive.wait(1)
        assert archive.sealed == []
        archive.sink.rotate()
        await archive.wait(1)
        with open_segment(archive.folder / archive.sealed[0]) as segment:
            assert segment.footer is not None
            assert (segment.footer.reason, segment.footer.last) == ("signal", False)
        await archive.deliver()


async def test_run_without_an_entry_leaves_a_segment_that_says_so(make_archive: MakeArchive) -> None:
    async with make_archive().running() as archive:
        await archive.sink.deliver([archive.sample()])
    assert len(archive.sealed) == 1
    assert archive.events() == 0


# ---- its name


async def test_names_sort_in_the_order_of_writing_when_the_clock_was_set_back(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=1).running() as archive:
        names = []
        for seconds_back in (0, 3600, 7200):
            archive.context.created_ns -= seconds_back * 10**9
            await archive.deliver()
            names.append(archive.sealed[-1])
        assert names == sorted(names) == archive.sealed


def test_a_clock_that_was_set_back_gives_no_name_of_what_is_to_be_removed(tmp_path: Path) -> None:
    """A removed segment was pinned around: the names up to its own are removed as soon as nothing pins them."""
    removed = "20400101T000000.000001Z-00000000-000007.ftseg"
    write_removed_up_to(tmp_path, removed)
    shelf = Shelf(tmp_path, Limits(1 << 30, None), Room(0), [])
    shelf.fill()
    assert shelf.newest_ns == start_ns_of(Path(removed))


async def test_a_segment_whose_name_is_taken_is_written_on_until_it_is_free(
    make_archive: MakeArchive, caplog: pytest.LogCaptureFixture
) -> None:
    """As somebody does who wants to read the open segment: `cp NAME.ftseg.part NAME.ftseg`."""
    async with make_archive(segment_bytes=THREE_BLOCKS).running() as archive:
        await archive.deliver(2)
        (part,) = archive.parts
        copy = archive.folder / part.removesuffix(".part")
        shutil.copy(archive.folder / part, copy)
        for _ in range(4):
            assert await archive.deliver() is Delivery.DELIVERED
            await archive.wait(1)
        assert (archive.parts, archive.suspended) == ([part], None)
        told = [record for record in caplog.records if "cannot be sealed" in record.message]
        assert len(told) == 1
        copy.unlink()
        await archive.wait(1)
        assert ([copy.name], []) == (archive.sealed, archive.parts)
        await archive.deliver()
    assert archive.events() == 7 * NOISY_ENTRIES


async def test_a_segment_whose_name_is_not_durable_yet_gets_nothing_behind_its_footer(
    make_archive: MakeArchive,
) -> None:
    async with make_archive(segment_bytes=THREE_BLOCKS).running() as archive:
        await archive.deliver(2)
        await archive.sink.tick()
        with failing(disk, "fsync_folder"):
            assert await archive.deliver() is Delivery.DELIVERED
            assert (len(archive.sealed), archive.parts) == (1, [])
            assert archive.suspended
            assert await archive.deliver() is Delivery.REJECTED
        await archive.wait(3)
        assert archive.suspended is None
        await archive.deliver()
    assert len(archive.sealed) == 2
    assert archive.gaps() == [("discarded", NOISY_ENTRIES)]
    assert archive.events() == 4 * NOISY_ENTRIES


async def test_a_last_segment_whose_name_is_not_durable_is_the_last(make_archive: MakeArchive) -> None:
    archive = make_archive()
    await archive.sink.open()
    await archive.deliver()
    await archive.wait(1)
    with failing(disk, "fsync_folder"):
        await archive.sink.close()
    assert (len(archive.sealed), archive.parts) == (1, [])
    assert archive.problems() == []


# ---- when it becomes durable


async def test_blocks_are_synced_within_the_interval(
    make_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_archive(sync_interval_s=3.0).running() as archive:
        synced: list[float] = []
        monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(archive.clock.now_s))
        await archive.deliver()
        await archive.wait(10)  # nothing new after the first sync
        assert synced == [103.0]
        await archive.deliver()
        await archive.wait(10)
        assert synced == [103.0, 111.0]


async def test_every_delivery_is_synced_when_so_configured(
    make_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_archive(sync_interval_s=0.0).running() as archive:
        synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        for count in (1, 2, 3):
            await archive.deliver(2)
            assert len(synced) == count


async def test_file_is_durable_before_it_gets_its_name_and_the_name_before_it_is_told(
    make_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watch(name: str) -> None:
        original = getattr(os, name)

        def call(what: Any, *rest: Any) -> Any:
            is_file = isinstance(what, int) and Path(f"/proc/self/fd/{what}").resolve().is_file()
            calls.append(f"{name} {'file' if is_file else 'folder'}" if name == "fsync" else name)
            return original(what, *rest)

        monkeypatch.setattr(os, name, call)

    async with make_archive().running() as archive:
        await archive.deliver()
        for name in ("writev", "fsync", "rename"):
            watch(name)
    assert calls[-4:] == ["writev", "fsync file", "rename", "fsync folder"]


# ---- what is told of it


async def test_state_tells_what_is_on_the_disk(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=THREE_BLOCKS).running() as archive:
        await archive.deliver_each(5)
        state = archive.sink.state
        on_disk = archive.size_of([*archive.sealed, *archive.parts])
        assert (state.bytes, state.segments, state.suspended) == (on_disk, 2, None)
        assert state.oldest_s == 1700000000.0
        assert state.raw_bytes == archive.rig.stream.reader_bytes - 5 * (4096 - 16 - 4020)


async def test_state_tells_what_is_durable(make_archive: MakeArchive) -> None:
    async with make_archive(sync_interval_s=2.0, segment_bytes=THREE_BLOCKS).running() as archive:

        def counts() -> tuple[int, int]:
            state = archive.sink.state
            return state.written_events // NOISY_ENTRIES, state.durable_events // NOISY_ENTRIES

        await archive.deliver()
        assert counts() == (1, 0)
        await archive.wait(2)
        assert counts() == (1, 1)
        await archive.deliver()
        assert counts() == (2, 1)
        await archive.deliver()  # sealed
        assert counts() == (3, 3)
