"""A sender's folder: what comes again after a crash, and what a start makes of what was left."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.archive import disk
from collector.archive.bodies import parse_block
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind, Record
from collector.archive.reader import list_segments, open_segment
from collector.archive.verify import verify_archive
from collector.errors import ArchiveFullError, SegmentError
from sinks.contract.base import Parcel
from sinks.stream.host import HostArchive
from sinks.stream.policy import HostPolicy
from sinks.stream.seen import Seen
from tests.crash.receive import PARCELS, abandon, place_of, prefix_of
from tests.faults import failing

POLICY = HostPolicy(segment_bytes=1, min_free_bytes=0)


def take(folder: Path, *batches: Sequence[Parcel], policy: HostPolicy = POLICY) -> None:
    with closing(HostArchive(folder, policy)) as archive:
        for batch in batches:
            archive.take(batch)


def numbers_in(folder: Path) -> list[list[int]]:
    """The numbers of the blocks in each segment that has some, in the order of names."""
    found = []
    for path in list_segments([folder]):
        with open_segment(path) as segment:
            found.append([
                parse_block(record.body).number for record in segment.records()
                if isinstance(record, Record) and record.kind == Kind.BLOCK
            ])  # fmt: skip
    return [numbers for numbers in found if numbers]


def test_an_older_header_that_comes_again_gives_no_older_name(tmp_path: Path) -> None:
    """The sender's second segment has begun a second after its first one."""
    second = place_of(2)
    take(tmp_path, PARCELS[: place_of(3)])
    take(tmp_path, [*prefix_of(place_of(0)), *PARCELS[place_of(0) : second]], PARCELS[second : place_of(3) + 1])
    assert numbers_in(tmp_path) == [[0, 1, 2], [3]]
    assert verify_archive([tmp_path]).problems == []


def test_blocks_that_went_to_make_room_are_not_taken_again(tmp_path: Path) -> None:
    policy = HostPolicy(segment_bytes=1, max_bytes=3000, min_free_bytes=0)  # of two segments
    places = [place_of(number) for number in range(4)]
    take(tmp_path, [*prefix_of(places[0]), PARCELS[places[0]]], *([PARCELS[at]] for at in places[1:3]), policy=policy)
    assert numbers_in(tmp_path) == [[2]]
    take(tmp_path, [*prefix_of(places[0]), *(PARCELS[at] for at in places)])
    assert numbers_in(tmp_path) == [[2], [3]]
    assert verify_archive([tmp_path]).problems == []


def test_what_cannot_be_repaired_is_not_taken_twice(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, HostPolicy(min_free_bytes=0))
    archive.take(PARCELS[: place_of(1)])
    abandon(archive)
    with failing(disk, "fsync"), pytest.raises(ArchiveFullError, match="cannot be sealed"):
        HostArchive(tmp_path, POLICY)
    take(tmp_path, PARCELS[: place_of(2)])
    assert numbers_in(tmp_path) == [[0], [1]]


def test_what_stands_behind_damage_in_a_torn_segment_comes_again_in_order(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, HostPolicy(min_free_bytes=0))
    archive.take(PARCELS[: place_of(3)])
    abandon(archive)
    (part,) = tmp_path.glob("*.part")
    with open_segment(part) as segment:
        second = [place for place in segment.places if place.kind == Kind.BLOCK][1]
    data = bytearray(part.read_bytes())
    data[second.offset + 30 : second.offset + 40] = bytes(10)
    part.write_bytes(data)
    take(tmp_path, PARCELS[: place_of(3) + 1])
    assert numbers_in(tmp_path) == [[0], [1, 2, 3]]
    assert verify_archive([tmp_path]).problems == []


def test_a_receiver_that_stops_between_two_segments_says_where_it_knows_no_more(tmp_path: Path) -> None:
    take(tmp_path, PARCELS[: place_of(1)])
    assert verify_archive([tmp_path]).problems == []
    with open_segment(list_segments([tmp_path])[-1]) as segment:
        assert (segment.footer.reason, segment.footer.last) == ("recovered", False)


def test_a_header_from_the_far_future_is_refused(tmp_path: Path) -> None:
    """No segment could come after it."""

    def at(created_ns: int) -> list[Any]:
        return [
            Parcel(Kind.HEADER, pack({**unpack(PARCELS[0].body, "header"), "created_ns": created_ns}), PARCELS[0].run)
        ]

    with pytest.raises(SegmentError, match="no clock"):
        take(tmp_path, at(2**64 - 1))
    take(tmp_path, at(2**63), PARCELS[1:4])
    assert numbers_in(tmp_path) == [[0]]


@pytest.mark.parametrize(
    ("numbers", "before", "expected"),
    [
        ([], 0, []),
        ([], 3, [0, 1, 2]),
        ([5, 6, 9], 3, [0, 1, 2, 3, 4, 5, 6, 9]),  # 3 and 4 were filtered out
        ([2, 6], 6, [0, 1, 2, 3, 4, 5, 6]),
        ([0, 1], 1, [0, 1]),
    ],
)
def test_seen_numbers_are_filled_from_below(numbers: list[int], before: int, expected: list[int]) -> None:
    seen = Seen()
    for number in numbers:
        seen.add(number)
    seen.fill_before(before)
    assert [number for number in range(12) if number in seen] == expected
