"""Which segments go from the disk, and whom they wait for."""

from pathlib import Path
from typing import cast

import pytest

from collector.archive import disk
from collector.archive.pins import Pin, add_pin, remove_pin
from collector.batch import Delivery
from sinks.contract.base import Follower
from sinks.file.retention import Sealed
from tests.capture.rig import NOISY_ENTRIES
from tests.faults import failing
from tests.sinks.file.rig import CREATED_NS, FreeSpace, MakeArchive

# ---- limits


async def test_oldest_segments_go_when_the_archive_is_too_large_and_the_newest_stays(
    make_archive: MakeArchive,
) -> None:
    async with make_archive(segment_bytes=1, max_bytes=20_000).running() as archive:  # segments of 5 to 6 KB
        names: list[str] = []
        for _ in range(8):
            await archive.deliver()
            names = sorted({*names, *archive.sealed})
            assert archive.sink.state.bytes <= 20_000
        assert len(names) == 8
        assert archive.sealed == names[-len(archive.sealed) :]
        assert 2 <= len(archive.sealed) <= 4
        assert archive.sink.state.removed_segments == 8 - len(archive.sealed)


async def test_newest_segment_stays_however_small_the_limit(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=1, max_bytes=1).running() as archive:
        for _ in range(3):
            await archive.deliver()
            assert len(archive.sealed) == 1
    assert len(archive.sealed) == 1


async def test_segments_of_earlier_runs_count_and_go_first(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=1).running() as old:
        await old.deliver_each(4)
    before = old.sealed
    async with make_archive(max_bytes=1).running() as archive:
        assert archive.sink.state.segments == len(before)
        archive.sink._number = 100  # names behind the others
        await archive.deliver()
    assert len(archive.sealed) == 1
    assert archive.sealed[0] not in before


async def test_segments_go_when_they_are_too_old(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=1, max_age_s=100.0).running() as archive:
        for _ in range(3):
            await archive.deliver_sealed_at(archive.clock.time_ns())
            await archive.wait(40)
        assert len(archive.sealed) == 2
        await archive.wait(100)
        assert archive.sealed == []


async def test_a_segment_that_somebody_removes_at_once_ends_nothing(
    make_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = disk.fsync_folder

    def remove_sealed(folder: Path) -> None:
        real(folder)
        for path in folder.glob("*.ftseg"):
            path.unlink()

    async with make_archive(segment_bytes=1, max_bytes=1).running() as archive:
        with monkeypatch.context() as somebody:
            somebody.setattr(disk, "fsync_folder", remove_sealed)
            await archive.deliver_each(1)
        assert archive.sealed == []
        await archive.deliver_each(2)
        assert (len(archive.sealed), len(archive.parts), archive.sink.state.segments) == (1, 1, 2)


# ---- other sinks


class Elsewhere:
    """A sink that has the segments whose blocks it acknowledged."""

    def __init__(self) -> None:
        self.last_block = -1

    def is_acknowledged(self, segment: Sealed) -> bool:
        assert segment.last_blocks is not None
        return all(number <= self.last_block for number in segment.last_blocks.values())


async def test_segments_wait_for_other_sinks_beyond_their_limit_until_the_disk_is_full(
    make_archive: MakeArchive, free: FreeSpace
) -> None:
    archive = make_archive(segment_bytes=1, max_bytes=1, min_free_bytes=10_000)
    elsewhere = Elsewhere()
    archive.sink.acknowledgements.append(elsewhere)
    free.bytes = 20_000
    async with archive.running():
        await archive.deliver_each(4)
        assert len(archive.sealed) == 4
        assert archive.sink.state.waiting_bytes == archive.size_of(archive.sealed[:3])
        free.bytes = 0
        await archive.wait(3)
        assert archive.suspended
        assert await archive.deliver() is Delivery.REJECTED
        assert len(archive.sealed) == 4
        elsewhere.last_block = 1
        free.bytes = 20_000
        await archive.wait(3)
        assert archive.suspended is None
        elsewhere.last_block = 100
        await archive.deliver()
    assert len(archive.sealed) == 1
    assert archive.sink.state.discarded_events == NOISY_ENTRIES


class Listener:
    """Notes what it is told: (name, whether it is there)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def note_removal(self, segment: Sealed) -> None:
        self.told.append((segment.name, segment.path.exists()))


async def test_followers_are_told_of_a_removal_before_it(make_archive: MakeArchive) -> None:
    archive = make_archive(segment_bytes=1, max_bytes=1)
    listener = Listener()
    archive.sink.followers.append(cast(Follower, listener))
    async with archive.running():
        await archive.deliver()
        first = archive.sealed[0]
        with failing(disk, "unlink"):
            await archive.deliver()
        assert listener.told == [(first, True)]
        await archive.wait(3)
        assert listener.told == [(first, True), (first, True)]  # the disk had refused


# ---- pins


async def test_pinned_segments_stay_and_the_hole_behind_them_is_no_problem(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=1, max_bytes=1).running() as archive:
        add_pin(archive.folder, Pin("incident", CREATED_NS + 2 * 10**9, CREATED_NS + 3 * 10**9, 1))
        names = [await archive.deliver_sealed_at(CREATED_NS + number * 10**9) for number in range(7)]
        assert archive.sealed == [names[2], names[3], names[6]]
        assert archive.sink.state.pinned_bytes == archive.size_of(names[2:4])
        remove_pin(archive.folder, "incident")
        await archive.wait(3)
        assert archive.sealed == names[6:]


async def test_pins_that_go_one_after_the_other_leave_holes_that_are_no_problem(make_archive: MakeArchive) -> None:
    """The hole behind the later pin is older than the removal that unpinning the earlier one brings."""
    async with make_archive(segment_bytes=1, max_bytes=1).running() as archive:
        for number in (0, 2, 4):
            at_ns = CREATED_NS + number * 10**9
            add_pin(archive.folder, Pin(f"n{number}", at_ns, at_ns, 1))
        names = [await archive.deliver_sealed_at(CREATED_NS + number * 10**9 + 1000) for number in range(8)]
        assert archive.sealed == [names[at] for at in (0, 2, 4, 7)]
        remove_pin(archive.folder, "n2")
        await archive.wait(3)
        assert archive.sealed == [names[at] for at in (0, 4, 7)]
        assert archive.problems() == []


async def test_nothing_goes_while_a_pin_cannot_be_read(make_archive: MakeArchive) -> None:
    async with make_archive(segment_bytes=1, max_bytes=1).running() as archive:
        (archive.folder / "pins").mkdir()
        (archive.folder / "pins/broken.json").write_text("?")
        await archive.deliver_each(3)
        assert len(archive.sealed) == 3
        (archive.folder / "pins/broken.json").unlink()
        await archive.wait(3)
        assert len(archive.sealed) == 1
