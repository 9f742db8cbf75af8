"""A disk with less room than is to be left to others: archiving is suspended, goes on, and says what is missing."""

import errno
import os
from types import SimpleNamespace

import pytest

from collector.archive.lock import is_locked
from collector.batch import Delivery
from tests.capture.rig import NOISY_ENTRIES
from tests.faults import failing
from tests.sinks.file.rig import FreeSpace, MakeArchive


async def test_too_little_free_space_suspends_and_a_gap_tells_what_was_given_up(
    make_archive: MakeArchive, free: FreeSpace
) -> None:
    async with make_archive(min_free_bytes=10_000).running() as archive:
        await archive.deliver()
        await archive.wait(3)
        assert archive.suspended is None
        free.bytes = 9_999
        await archive.wait(3)
        assert archive.suspended == "less than 10000 bytes are free"
        assert await archive.deliver(3) is Delivery.REJECTED
        await archive.wait(10)
        assert await archive.deliver() is Delivery.REJECTED
        free.bytes = 10_000
        await archive.wait(3)
        assert archive.suspended is None
        assert await archive.deliver(2) is Delivery.DELIVERED
    assert archive.gaps() == [("discarded", 4 * NOISY_ENTRIES)]
    assert archive.events() == 3 * NOISY_ENTRIES


async def test_what_was_written_before_a_suspension_is_synced(
    make_archive: MakeArchive, free: FreeSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_archive(min_free_bytes=10_000, sync_interval_s=60.0).running() as archive:
        await archive.deliver()
        synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        free.bytes = 0
        await archive.wait(3)
        assert archive.suspended
        assert len(synced) == 1


async def test_old_segments_make_room_before_archiving_is_suspended(
    make_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(segment_bytes=1, min_free_bytes=10_000)

    def statvfs(_: object) -> SimpleNamespace:
        """The archive's segments have 30,000 bytes between them and a full disk."""
        return SimpleNamespace(f_bavail=30_000 - archive.size_of([*archive.sealed, *archive.parts]), f_frsize=1)

    monkeypatch.setattr(os, "statvfs", statvfs)
    async with archive.running():
        for _ in range(10):
            assert await archive.deliver() is Delivery.DELIVERED
            await archive.wait(3)
        assert archive.suspended is None
        assert 1 < len(archive.sealed) < 5


async def test_run_that_ends_suspended_is_sealed_and_says_what_is_missing(
    make_archive: MakeArchive, free: FreeSpace
) -> None:
    """The footer and the gap are small: the room that is left to others is not left to them."""
    async with make_archive(min_free_bytes=10_000).running() as archive:
        await archive.deliver()
        free.bytes = 0
        await archive.wait(3)
        await archive.deliver()
    assert not is_locked(archive.folder)
    assert (len(archive.sealed), archive.parts) == (1, [])
    assert archive.gaps() == [("discarded", NOISY_ENTRIES)]


async def test_suspended_archive_looks_for_room_at_once_when_asked(make_archive: MakeArchive, free: FreeSpace) -> None:
    free.bytes = 0
    async with make_archive(min_free_bytes=10_000).running() as archive:
        await archive.wait(1)
        assert archive.suspended
        free.bytes = 10_000
        await archive.sink.tick()
        assert archive.suspended
        archive.sink.resume()
        await archive.sink.tick()
        assert archive.suspended is None
        assert (archive.sealed, archive.parts) == ([], [])  # nothing to tell: no segment


async def test_notes_of_a_suspended_time_are_written_when_it_ends(make_archive: MakeArchive, free: FreeSpace) -> None:
    async with make_archive(min_free_bytes=10_000).running() as archive:
        await archive.deliver()
        free.bytes = 0
        await archive.wait(3)
        assert await archive.deliver_gap("dropped", 5) is Delivery.DELIVERED
        free.bytes = 10_000
        await archive.wait(3)
        await archive.deliver()
    assert archive.gaps() == [("dropped", 5)]


async def test_gap_that_was_written_is_not_written_again_when_resuming_fails_after_it(
    make_archive: MakeArchive, free: FreeSpace
) -> None:
    async with make_archive(min_free_bytes=10_000).running() as archive:
        await archive.deliver()
        free.bytes = 0
        await archive.wait(3)
        await archive.deliver()
        with failing(os, "fdatasync", code=errno.EIO):
            free.bytes = 10_000
            await archive.wait(6)
            assert archive.suspended
        await archive.wait(3)
        assert archive.suspended is None
        await archive.deliver()
    assert archive.gaps() == [("discarded", NOISY_ENTRIES)]


async def test_an_open_segment_removed_from_a_full_disk_does_not_keep_the_archive_suspended(
    make_archive: MakeArchive, free: FreeSpace
) -> None:
    async with make_archive(segment_age_s=100.0, min_free_bytes=10_000).running() as archive:
        await archive.deliver()
        free.bytes = 0
        await archive.wait(3)
        assert archive.suspended
        (archive.folder / archive.parts[0]).unlink()
        await archive.wait(110)  # it is due, and cannot be sealed
        assert archive.suspended
        free.bytes = 10_000
        await archive.wait(3)
        assert archive.suspended is None
        assert await archive.deliver() is Delivery.DELIVERED
