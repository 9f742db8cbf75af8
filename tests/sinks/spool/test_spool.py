"""The log on disk: what survives which end of the daemon, and what damage costs."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.archive import disk
from collector.archive.bodies import parse_gap, parse_sample
from collector.archive.frame import Kind
from collector.archive.reader import open_segment
from collector.batch import Note, NoteKind, StreamKey
from collector.errors import ArchiveError, ArchiveLockedError
from sinks.contract.options import WhenFull
from sinks.network.backlog import DAMAGED, SPOOL_FULL, START, SUSPENDED, Appended, Entry, Position
from sinks.spool.cursor import NAME, Cursor, build_cursor, parse_cursor, read_cursor, write_cursor
from sinks.spool.policy import SpoolPolicy
from sinks.spool.spool import Spool
from tests.archive.encoder import Maps
from tests.contract.made import KEY, MIB, RUN, Context, block, gap, sample
from tests.faults import failing


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_spool(
    folder: Path,
    *,
    max_bytes: int = 64 * MIB,
    when_full: WhenFull = "spool",
    context: Context | None = None,
    clock: Clock | None = None,
) -> Spool:
    return Spool(SpoolPolicy(folder, max_bytes, when_full, 300.0, 1.0), context or Context(), Maps(), clock or Clock())


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = make_spool(tmp_path)
    made.open()
    yield made
    made.close()


def numbers_of(entries: list[Entry]) -> list[int]:
    return [entry.parcel.number for entry in entries if entry.parcel.kind == Kind.BLOCK]


def read_all(spool: Spool, after: Position = START, max_bytes: int = 1 << 40) -> list[Entry]:
    entries: list[Entry] = []
    while True:
        back = spool.read(after, max_bytes)
        entries += back.entries
        after = back.position
        if back.at_end:
            return entries


def fill(spool: Spool, *numbers: int, size_bytes: int = 1000, handed: Position = START) -> list[Entry]:
    done = spool.append([block(number, size_bytes=size_bytes) for number in numbers], handed)
    assert done.taken == len(numbers)
    return done.entries


def stop_like_a_kill(spool: Spool) -> None:
    """What kill -9 leaves: the file as it is, the lock free."""
    assert spool._tail.writer is not None
    spool._tail.writer.abandon()
    assert spool._lock is not None
    spool._lock.close()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ftseg"))


def test_what_is_appended_reads_back_as_it_was_handed_out(spool: Spool) -> None:
    done = spool.append([block(0), gap(), block(1)], START)
    back = read_all(spool)
    assert [e.position for e in back] == [e.position for e in done.entries]
    assert [(e.parcel.kind, e.parcel.body, e.parcel.stream) for e in back] == [
        (e.parcel.kind, e.parcel.body, e.parcel.stream) for e in done.entries
    ]
    blocks = [e.parcel for e in back if e.parcel.kind == Kind.BLOCK]
    assert [(p.run, p.number, p.events, p.first_ts, p.last_ts) for p in blocks] == [
        (RUN, 0, 10, 0, 9), (RUN, 1, 10, 1000, 1009),
    ]  # fmt: skip
    assert {p.stream for p in blocks} == {KEY}
    assert [e.put_s for e in back] == [1000.0] * len(back)


def test_reading_goes_on_where_it_stopped_over_segments(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    for number in range(12):
        fill(spool, number, size_bytes=300_000)
    assert len(segments(tmp_path)) > 1
    assert numbers_of(read_all(spool, max_bytes=700_000)) == list(range(12))
    piece = spool.read(START, 700_000)
    assert sum(len(e.parcel.body) for e in piece.entries) <= 700_000
    fill(spool, 12, size_bytes=300_000)
    assert numbers_of(read_all(spool, piece.position)) == list(range(len(numbers_of(piece.entries)), 13))
    spool.close()


def test_acknowledged_segments_go_and_the_cursor_says_how_far(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    entries = [entry for number in range(12) for entry in fill(spool, number, size_bytes=300_000)]
    before = len(segments(tmp_path))
    (seventh,) = [e for e in entries if e.parcel.number == 6]
    spool.acknowledge(seventh.position, [])
    assert len(segments(tmp_path)) < before
    spool.close()
    again = make_spool(tmp_path, max_bytes=8 * MIB)
    assert again.open() == 50
    assert numbers_of(read_all(again)) == [7, 8, 9, 10, 11]
    again.close()


def test_a_restart_in_the_middle_of_a_segment_begins_with_its_header_and_objects(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    entries = fill(spool, 0, 1, 2)
    spool.acknowledge(entries[-2].position, [])  # block 1
    spool.close()
    again = make_spool(tmp_path, context=Context(run=bytes(16)))
    assert again.open() == 10
    back = read_all(again)
    kinds = [entry.parcel.kind for entry in back]
    assert kinds[:2] == [Kind.HEADER, Kind.OBJECT]
    assert numbers_of(back) == [2]
    assert back[0].position == back[1].position < back[2].position
    assert [entry.put_s for entry in back] == [None] * len(back)
    again.acknowledge(back[-1].position, [])
    assert segments(tmp_path) == []
    again.close()
    assert make_spool(tmp_path).open() == 0


def test_a_kill_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    fill(spool, 0, 1, 2)
    stop_like_a_kill(spool)
    again = make_spool(tmp_path, context=Context(run=bytes(16)))
    assert again.open() == 30
    assert numbers_of(read_all(again)) == [0, 1, 2]
    fill(again, 3)
    assert numbers_of(read_all(again)) == [0, 1, 2, 3]
    again.close()


def test_a_torn_tail_is_cut_and_the_rest_is_sent(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    entries = fill(spool, 0, 1, 2)
    stop_like_a_kill(spool)
    (part,) = tmp_path.glob("*.part")
    os.truncate(part, entries[-1].position.offset - 7)
    again = make_spool(tmp_path)
    assert again.open() == 20
    assert numbers_of(read_all(again)) == [0, 1]
    again.close()


def test_a_killed_process_leaves_a_spool_that_the_next_one_takes_over(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tests.sinks.spool.test_spool import fill, make_spool
spool = make_spool(Path(sys.argv[1]))
spool.open()
entries = fill(spool, *range(20))
spool.acknowledge([e for e in entries if e.parcel.number == 4][0].position, [])
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"ready\n")
    spool = make_spool(tmp_path)
    assert spool.open() == 150
    assert numbers_of(read_all(spool)) == list(range(5, 20))
    spool.close()


def test_one_process_has_it(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ArchiveLockedError):
        make_spool(tmp_path).open()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b'{"version": 2}',
        b'{"version": 1, "segment": "../x"}',
        b'{"version": 1, "segment": "zzz.ftseg", "offset": 1}',
        b"\xff",
    ],
)
def test_a_damaged_cursor_costs_duplicates_only(tmp_path: Path, content: bytes) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    entries = fill(spool, 0, 1)
    spool.acknowledge(entries[-2].position, [])
    spool.close()
    (tmp_path / NAME).write_bytes(content)
    again = make_spool(tmp_path)
    assert again.open() == 20
    assert again.state.corrupt_records == 1
    assert numbers_of(read_all(again)) == [0, 1]
    again.close()


def test_the_cursor_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    assert read_cursor(tmp_path) is None
    for offset in (5, 700):
        write_cursor(tmp_path, Cursor("a.ftseg", offset))
        assert read_cursor(tmp_path) == Cursor("a.ftseg", offset)
    assert json.loads((tmp_path / NAME).read_text()) == {"version": 1, "segment": "a.ftseg", "offset": 700}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    whole = build_cursor(Cursor("a.ftseg", 5))
    for cut in range(len(whole) - 2):
        with pytest.raises(ArchiveError):
            parse_cursor(whole[:cut])


def test_a_damaged_block_costs_itself_and_is_counted(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    entries = fill(spool, 0, 1, 2)
    spool.close()
    (path,) = segments(tmp_path)
    with open(path, "r+b") as file:
        file.seek(entries[-2].position.offset - 50)
        file.write(b"\xaa" * 10)
    again = make_spool(tmp_path)
    assert again.open() == 30
    back = again.read(START, 1 << 30)
    assert numbers_of(back.entries) == [0, 2]
    assert (back.lost.events, back.at_end) == ({DAMAGED: 10}, True)
    assert again.state.corrupt_records == 1
    assert again.state.corrupt_bytes > 1000
    again.close()


@pytest.mark.parametrize("damage", ["empty", "noise", "version"])
def test_a_file_that_is_no_segment_of_ours_is_set_aside(tmp_path: Path, damage: str) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    fill(spool, 0)
    spool.close()
    (path,) = segments(tmp_path)
    if damage == "version":
        from collector.archive.fields import pack, unpack
        from collector.archive.frame import build_record

        with open_segment(path) as segment:
            head = segment.record_at(0)
            assert not isinstance(head, str)
            body = unpack(head.body, "header") | {"version": 99}
            rest = segment.read_at(head.end, segment.size_bytes)
        path.write_bytes(build_record(Kind.HEADER, pack(body)) + rest)
    else:
        path.write_bytes(b"" if damage == "empty" else os.urandom(5000))
    again = make_spool(tmp_path, context=Context(run=bytes(16)))
    assert again.open() == 0
    assert again.state.quarantined_segments == 1
    assert [p.name for p in tmp_path.glob("*.bad")] == [path.name + ".bad"]
    fill(again, 1)
    assert numbers_of(read_all(again)) == [1]
    again.close()
    later = make_spool(tmp_path)
    later.open()
    assert later.state.quarantined_segments == 1  # it is still there
    later.close()


def test_the_order_is_that_of_appending_whatever_the_wall_clock_does(tmp_path: Path) -> None:
    context = Context()
    spool = make_spool(tmp_path, max_bytes=8 * MIB, context=context)
    spool.open()
    for number in range(10):
        fill(spool, number, size_bytes=600_000)
        context.created_ns -= 3600 * 10**9
    spool.close()
    again = make_spool(tmp_path, max_bytes=8 * MIB, context=Context(run=bytes(16)))
    again.open()
    fill(again, 10)
    assert numbers_of(read_all(again)) == list(range(11))
    again.close()


def test_a_clock_that_is_set_back_between_two_runs_loses_nothing(tmp_path: Path) -> None:
    """All of the first run is acknowledged and gone; its cursor is later than the names that the clock gives now."""
    context = Context()
    spool = make_spool(tmp_path, context=context)
    spool.open()
    entries = fill(spool, 0)
    spool.acknowledge(entries[-1].position, [])
    spool.close()
    assert segments(tmp_path) == []
    context = Context(run=bytes(16))
    context.created_ns -= 365 * 86400 * 10**9
    for _ in range(2):  # the receiver is away all the time
        again = make_spool(tmp_path, context=context)
        left = again.open()
        fill(again, 1)
        again.close()
    assert left == 10
    assert len(segments(tmp_path)) == 2


def test_names_before_the_cursor_come_whole_however_little_is_read_at_once(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    reports = [
        Note(NoteKind.REPORT, KEY, {"kind": "latency", "value": at, "text": os.urandom(300).hex()}) for at in range(30)
    ]
    (first,) = [e for e in spool.append([*reports, block(0)], START).entries if e.parcel.number == 0]
    fill(spool, 1)
    spool.acknowledge(first.position, [])
    spool.close()
    again = make_spool(tmp_path, context=Context(run=bytes(16)))
    again.open()
    back = read_all(again, max_bytes=1000)
    assert [entry.parcel.kind for entry in back].count(Kind.OBJECT) == 31  # a format and the reports
    assert numbers_of(back) == [1]
    again.close()


def test_a_gap_in_an_earlier_run_is_no_gap_of_this_one(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    fill(spool, *range(20), size_bytes=300_000)
    spool.close()
    context = Context(run=bytes(16))
    context.created_ns += 10**12
    key = StreamKey(bytes(16), KEY.instance, KEY.cpu)
    again = make_spool(tmp_path, max_bytes=8 * MIB, context=context)
    again.open()
    dropped = 0
    for number in range(20):
        done = again.append([block(number, size_bytes=300_000, key=key)], START)
        dropped += done.dropped.total_events
    assert dropped >= 100
    for entry in read_all(again):
        if entry.parcel.kind == Kind.GAP:
            assert entry.parcel.run == bytes(16)
            assert parse_gap(entry.parcel.body).count == 0
    again.close()


def test_what_was_refused_last_is_told_at_the_end(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB, when_full="drop_newest")
    spool.open()
    refused = sum(spool.append([block(number, size_bytes=900_000)], START).refused.total_events for number in range(20))
    gaps = [e.parcel.body for e in spool.finish().entries if e.parcel.kind == Kind.GAP]
    assert [parse_gap(body).count for body in gaps] == [refused]
    spool.close()


def test_samples_take_no_room_that_is_not_there(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB, when_full="drop_newest")
    spool.open()
    for number in range(20):
        spool.append([block(number, size_bytes=900_000)], START)
    for at in range(20_000):
        assert spool.append([sample(at)], START).taken == 1
    assert spool.state.bytes <= 8 * MIB + 1000
    last = [e.parcel.body for e in spool.finish().entries if e.parcel.kind == Kind.SAMPLE][-1]
    assert parse_sample(last).totals.events == 19_999
    spool.close()


def test_a_segment_whose_seal_failed_behind_the_rename_reads_back(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    fill(spool, 0, 1, 2, 3, size_bytes=300_000)
    spool.tick()
    with failing(disk, "fsync_folder", code=errno.EIO):
        assert spool.append([block(4)], START).refused.events == {SUSPENDED: 10}
    back = spool.read(START, 1 << 30)
    assert numbers_of(back.entries) == [0, 1, 2, 3]
    assert back.lost.events == {}
    spool.close()


def test_notes_that_came_while_the_disk_took_nothing_are_written_later(tmp_path: Path) -> None:
    clock = Clock()
    spool = make_spool(tmp_path, clock=clock)
    spool.open()
    fill(spool, 0)
    with failing(disk, "write"):
        assert spool.append([gap(), sample(1)], START).taken == 2
    clock.now_s += 5
    assert [e.parcel.kind for e in spool.append([block(1)], START).entries] == [Kind.GAP, Kind.BLOCK]
    spool.close()


def test_a_new_segment_begins_after_the_interval_with_all_that_it_needs(tmp_path: Path) -> None:
    clock, context = Clock(), Context()
    spool = make_spool(tmp_path, clock=clock, context=context)
    spool.open()
    fill(spool, 0)
    clock.now_s += 301
    kinds = [entry.parcel.kind for entry in fill(spool, 1)]
    assert kinds == [Kind.COVERAGE, Kind.HEADER, Kind.COVERAGE, Kind.OBJECT, Kind.BLOCK]
    assert context.closed == 1
    assert len(segments(tmp_path)) == 1
    spool.close()


def test_drop_oldest_counts_only_what_was_not_handed_out(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    first = fill(spool, 0, 1, size_bytes=400_000)
    done = Appended()
    for number in range(2, 24):
        done = spool.append([block(number, size_bytes=400_000)], first[-1].position)
        if done.dropped.events:
            break
    assert done.dropped.events == {SPOOL_FULL: 10}  # of the three blocks in it two are in the caller's hands
    gaps = [e.parcel for e in done.entries if e.parcel.kind == Kind.GAP]
    assert [parcel.stream for parcel in gaps] == [KEY]
    assert b"discarded" in gaps[0].body
    assert numbers_of(read_all(spool))[0] == 3
    spool.close()


def test_a_sample_that_is_not_kept_is_no_record(spool: Spool) -> None:
    from collector.archive.totals import Totals, build_totals

    body = {"at_ns": 1, "totals": build_totals(Totals(events=10))}
    done = spool.append([block(0), Note(NoteKind.SAMPLE, KEY, body, keep=False)], START)
    assert done.taken == 2
    assert done.entries[-1].parcel.kind == Kind.BLOCK


def test_a_disk_that_takes_nothing_suspends_the_spool_and_no_more(tmp_path: Path) -> None:
    clock = Clock()
    spool = make_spool(tmp_path, clock=clock)
    spool.open()
    entries = fill(spool, 0)
    with failing(disk, "write"):
        done = spool.append([block(1), block(2)], START)
        assert (done.taken, done.refused.events, done.entries) == (2, {SUSPENDED: 20}, [])
        assert "No space left" in str(spool.state.suspended)
        clock.now_s += 5
        assert spool.append([block(3)], START).refused.events == {SUSPENDED: 10}
    clock.now_s += 5
    done = spool.append([block(4)], START)
    assert spool.state.suspended is None
    kinds = [entry.parcel.kind for entry in done.entries]
    assert kinds == [Kind.GAP, Kind.BLOCK]
    assert numbers_of(read_all(spool, entries[-1].position)) == [4]
    spool.close()


def test_a_disk_that_takes_nothing_makes_a_blocking_sink_wait(tmp_path: Path) -> None:
    clock = Clock()
    spool = make_spool(tmp_path, clock=clock, when_full="block")
    spool.open()
    with failing(disk, "write"):
        assert spool.append([block(0)], START).taken == 0
    clock.now_s += 5
    assert spool.append([block(0)], START).taken == 1
    spool.close()


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    import shutil

    clock, folder = Clock(), tmp_path / "spool"
    spool = make_spool(folder, clock=clock)
    spool.open()
    fill(spool, 0)
    shutil.rmtree(folder)
    clock.now_s += 2
    spool.tick()
    assert spool.state.suspended is not None
    clock.now_s += 5
    done = spool.append([block(1)], START)
    assert done.vanished
    assert numbers_of(done.entries) == [1]
    assert numbers_of(read_all(spool)) == [1]
    spool.close()


def test_segments_with_rejected_blocks_are_kept_until_room_is_needed(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, max_bytes=8 * MIB)
    spool.open()
    for number in range(6):
        entries = fill(spool, number, size_bytes=400_000)
        spool.acknowledge(entries[-1].position, [entries[-1].position] if number == 1 else [])
    kept = list((tmp_path / "rejected").iterdir())
    assert len(kept) == 1
    with open_segment(kept[0]) as segment:
        assert [place.number for place in segment.places if place.kind == Kind.BLOCK][:2] == [0, 1]
    for number in range(6, 30):
        fill(spool, number, size_bytes=400_000)
    assert list((tmp_path / "rejected").iterdir()) == []
    spool.close()
