"""A disk that has no room for a step: what is counted, what goes on, and what the reserve is for."""

import os
from pathlib import Path

from collector.archive import disk
from collector.archive.lock import is_locked
from collector.archive.recover import recover_folder
from collector.batch import Delivery
from tests.capture.rig import NOISY_ENTRIES
from tests.faults import after, failing
from tests.sinks.file.rig import MakeArchive, fill, fill_to_the_last_byte

# ---- what it cannot take


async def test_full_disk_counts_what_it_cannot_take_and_goes_on_when_there_is_room(
    make_archive: MakeArchive, small_disk: Path
) -> None:
    async with make_archive(small_disk / "archive", segment_bytes=30_000).running() as archive:
        await archive.deliver_each(10)
        sealed = archive.sealed
        assert len(sealed) == 1
        filler = fill(small_disk)
        answers = [await archive.deliver() for _ in range(5)]
        assert answers[-1] is Delivery.REJECTED
        assert "No space left" in (archive.suspended or "")
        await archive.wait(10)
        assert sealed == archive.sealed
        filler.unlink()
        await archive.wait(3)
        assert archive.suspended is None
        await archive.deliver_each(3)
    ((cause, lost),) = archive.gaps()
    assert (cause, archive.events() + (lost or 0)) == ("discarded", 18 * NOISY_ENTRIES)


async def test_discarded_events_are_those_that_were_not_written(make_archive: MakeArchive) -> None:
    """The disk gets full in the middle of a delivery."""
    async with make_archive().running() as archive:
        await archive.deliver()
        with failing(os, "writev", when=after(2)):
            assert await archive.deliver(5) is Delivery.REJECTED
            assert archive.sink.state.discarded_events == 3 * NOISY_ENTRIES
        await archive.wait(3)
        await archive.sink.deliver([archive.sample()])
    assert archive.gaps() == [("discarded", 3 * NOISY_ENTRIES)]
    assert archive.events() == 3 * NOISY_ENTRIES


async def test_block_that_was_written_is_not_given_up_when_only_the_seal_finds_no_room(
    make_archive: MakeArchive,
) -> None:
    """Counted twice, the archive would not add up."""
    async with make_archive(segment_bytes=1).running() as archive:
        await archive.deliver()
        with failing(os, "fsync"):
            assert await archive.deliver() is Delivery.DELIVERED
            assert archive.suspended
            assert await archive.deliver() is Delivery.REJECTED
        await archive.wait(3)
        await archive.deliver()
    assert archive.gaps() == [("discarded", NOISY_ENTRIES)]
    assert archive.events() == 3 * NOISY_ENTRIES


async def test_note_that_finds_no_room_is_written_later(make_archive: MakeArchive) -> None:
    async with make_archive().running() as archive:
        await archive.deliver()
        with failing(os, "writev"):
            await archive.deliver_gap("dropped", 5)
        assert archive.suspended
        await archive.wait(3)
    assert archive.gaps() == [("dropped", 5)]


async def test_what_a_failed_beginning_leaves_is_not_in_the_way_of_the_next(make_archive: MakeArchive) -> None:
    """A disk that takes no header, and does not remove the empty file either."""
    async with make_archive().running(is_sound=False) as archive:
        with failing(disk, "write", "unlink"):
            assert await archive.deliver() is Delivery.REJECTED
        assert "cannot write to the segment: No space left" in (archive.suspended or "")
        left = archive.parts
        await archive.wait(3)
        assert archive.suspended is None
        assert await archive.deliver() is Delivery.DELIVERED
    assert archive.parts == left
    (found,) = recover_folder(archive.folder)
    assert found.reason.startswith("quarantined")
    found.path.unlink()
    assert archive.gaps() == [("discarded", NOISY_ENTRIES)]
    assert archive.problems() == []


# ---- at the end of a run


async def test_run_that_ends_without_any_room_leaves_its_part_for_recovery(make_archive: MakeArchive) -> None:
    archive = make_archive()
    await archive.sink.open()
    await archive.deliver()
    with failing(os, "writev"):
        await archive.deliver()
        await archive.sink.close()
    assert not is_locked(archive.folder)
    assert (archive.sealed, len(archive.parts)) == ([], 1)
    assert [found.events for found in recover_folder(archive.folder)] == [NOISY_ENTRIES]
    assert archive.problems() == []


async def test_a_run_that_cannot_be_sealed_ends_all_the_same(make_archive: MakeArchive) -> None:
    archive = make_archive(reserve_bytes=4096)
    await archive.sink.open()
    await archive.deliver()
    with failing(os, "writev"):
        await archive.sink.close()
    assert "No space left" in (archive.suspended or "")
    assert not is_locked(archive.folder)
    assert [found.events for found in recover_folder(archive.folder)] == [NOISY_ENTRIES]


# ---- with the reserve's room


async def test_a_run_that_finds_a_full_disk_at_its_end_is_sealed_with_the_reserves_room(
    make_archive: MakeArchive,
) -> None:
    archive = make_archive(segment_bytes=1, reserve_bytes=4096)
    await archive.sink.open()
    block = archive.make_block()
    await archive.sink.deliver([archive.sample(), block])
    await archive.wait(3)
    assert (len(archive.sealed), archive.parts) == (1, [])  # the next segment is begun at the end
    assert archive.reserve.exists()
    with failing(disk, "create", when=lambda path: archive.reserve.exists()):
        await archive.sink.close()
    assert (len(archive.sealed), archive.reserve.exists()) == (2, False)
    assert archive.problems() == []


async def test_full_disk_does_not_stop_sealing(make_archive: MakeArchive, small_disk: Path) -> None:
    async with make_archive(small_disk / "archive", reserve_bytes=64 << 10, segment_age_s=60.0).running() as archive:
        await archive.deliver_each(4)
        await archive.wait(3)
        assert archive.reserve.stat().st_size == 64 << 10
        filler = await fill_to_the_last_byte(archive, small_disk)
        assert await archive.deliver() is Delivery.REJECTED
        await archive.wait(40)
        assert archive.suspended
        assert (archive.sealed, archive.reserve.exists()) == ([], True)
        await archive.wait(20)
        assert (len(archive.sealed), archive.reserve.exists()) == (1, False)
        filler.unlink()
        await archive.wait(3)
        assert archive.suspended is None
        await archive.deliver()
        await archive.wait(3)
        assert archive.reserve.exists()
    assert [gap for gap in archive.gaps() if gap[0] == "discarded"] == [("discarded", NOISY_ENTRIES)]
    assert archive.events() == 5 * NOISY_ENTRIES


async def test_full_disk_does_not_stop_removing(make_archive: MakeArchive) -> None:
    """Some filesystems need room to remove a file."""
    async with make_archive(segment_bytes=1, max_bytes=1, reserve_bytes=4096).running() as archive:
        await archive.wait(3)
        reserve = archive.reserve
        assert reserve.exists()
        with failing(os, "unlink", when=lambda path: path != reserve and reserve.exists()):
            await archive.deliver_each(2)
            assert len(archive.sealed) == 1
            assert archive.sink.state.removed_segments == 1


async def test_full_disk_does_not_stop_the_repair_at_the_start(make_archive: MakeArchive, small_disk: Path) -> None:
    archive = make_archive(small_disk / "archive", reserve_bytes=64 << 10)
    await archive.sink.open()
    await archive.deliver()
    await archive.wait(3)
    await fill_to_the_last_byte(archive, small_disk)
    archive.sink.unlock()  # it died
    (found,) = recover_folder(archive.folder)
    assert (found.reason, found.events) == ("recovered", NOISY_ENTRIES)
    assert not archive.reserve.exists()
    assert archive.problems() == []


async def test_an_archive_that_nobody_writes_has_no_reserve(make_archive: MakeArchive) -> None:
    async with make_archive(reserve_bytes=4096).running() as archive:
        await archive.deliver()
        await archive.wait(3)
        assert archive.reserve.exists()
    assert not archive.reserve.exists()
