"""A visit to one ring: what becomes of its pages, its gaps, its damage and its budget."""

import errno
import os
import socket
import struct
from itertools import accumulate
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.archive.bodies import parse_block
from collector.archive.tally import OVERRUN
from collector.batch import MODE_RAW, MODE_TYPED, Missed
from collector.capture import stream as stream_module
from collector.capture.budget import ByteBudget
from collector.capture.sizing import BLOCK_HEAD_BYTES
from collector.capture.visit import Ask
from collector.ledger import MALFORMED as MALFORMED_CAUSE
from collector.ledger import KernelCounts
from collector.tracefs.formats import parse_event_format
from tests import pages as made
from tests.capture.rig import (
    FULL_ENTRIES,
    MALFORMED,
    Rig,
    as_ring,
    blocks_of,
    full_page,
    made_formats,
    make_stats,
    page,
    slow_rows,
)
from tests.pages import as_file

EMPTY = made.build_page(b"")

# An event that prints a field as a place in kernel code.
CALLED = parse_event_format(
    made.format_text("called", 510, ("unsigned long ip", 8, 8, 0)).replace('fmt: ""', 'fmt: "%pS", (void *)REC->ip'),
    "made",
    8,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The stream's clock, moved by hand: `now_s`."""
    time = SimpleNamespace(now_s=100.0, time_ns=lambda: 5)
    time.monotonic = lambda: time.now_s
    monkeypatch.setattr(stream_module, "time", time)
    return time


# ---- when a block closes


def test_entries_wait_for_a_full_block() -> None:
    with as_file(page(3)) as fd:
        rig = Rig(fd)
        visit = rig.visit(Ask.FLUSH)
    assert (visit.blocks, visit.at_end) == ([], True)
    assert (len(rig.batch), rig.stream.decoded) == (3, 3)


def test_block_closes_when_its_pages_are_full() -> None:
    with as_file(b"".join(full_page(ts) for ts in (1000, 20000, 40000, 60000, 80000))) as fd:
        rig = Rig(fd, room_pages=2)
        first, second = blocks_of(rig.visit())
    assert [b.events for b in (first, second)] == [2 * FULL_ENTRIES, 2 * FULL_ENTRIES]
    assert [(b.number, b.ordinal) for b in (first, second)] == [(0, 0), (1, 2 * FULL_ENTRIES)]
    assert (first.first_ts, first.last_ts) == (1010, 20000 + 10 * FULL_ENTRIES)
    assert first.raw_bytes == 2 * (16 + 12 * FULL_ENTRIES)
    assert len(rig.batch) == FULL_ENTRIES


def test_block_closes_at_its_age_and_only_at_a_flush(clock: SimpleNamespace) -> None:
    with as_ring() as (fd, feed):
        rig = Rig(fd, block_age_s=5.0)
        feed(page(2))
        assert blocks_of(rig.visit(Ask.FLUSH)) == []
        clock.now_s += 4.9
        feed(page(3, 2000))
        assert blocks_of(rig.visit(Ask.FLUSH)) == []
        clock.now_s += 0.2
        assert blocks_of(rig.visit(Ask.READ)) == []
        assert [b.events for b in blocks_of(rig.visit(Ask.FLUSH))] == [5]


def test_age_counts_from_the_first_page_of_a_block(clock: SimpleNamespace) -> None:
    with as_ring() as (fd, feed):
        rig = Rig(fd, block_age_s=5.0)
        rig.visit(Ask.FLUSH)
        clock.now_s += 60  # a quiet minute
        feed(page(2))
        assert blocks_of(rig.visit(Ask.FLUSH)) == []
        clock.now_s += 5
        assert [b.events for b in blocks_of(rig.visit(Ask.FLUSH))] == [2]


def test_block_closes_when_asked_to_whatever_its_age() -> None:
    with as_file(page(3)) as fd:
        rig = Rig(fd)
        (block,) = blocks_of(rig.visit(Ask.CLOSE))
    assert block.events == 3


def test_ring_without_an_entry_makes_no_block() -> None:
    with as_file(EMPTY * 40) as fd:
        rig = Rig(fd, room_pages=2)
        visits = [rig.visit(Ask.CLOSE) for _ in range(41)]
    assert blocks_of(*visits) == []
    assert visits[-1].at_end
    assert rig.stream.reader_pages == 40


def test_block_says_what_it_holds() -> None:
    """All that a reader must know, in the record and beside it."""
    data = b"".join((
        made.build_data(made.build_record(505, flags=1, preempt_count=2, pid=3)),
        made.build_data(made.build_record(510, (0xFFFFFFFF81000010).to_bytes(8, "little"), pid=4), 1),
        made.build_data(made.build_record(505, pid=3), 1),
        made.build_data(made.build_record(501, bytes(8), pid=0), 1),  # shorter than its format
    ))  # fmt: skip
    with as_file(made.build_page(data, 1000, lost=True, count=9)) as fd:
        rig = Rig(fd, formats=made_formats() | {510: CALLED})
        (block,) = blocks_of(rig.visit(Ask.CLOSE))
    ids = [rig.book.edition.object_id(event_id) for event_id in (505, 510, 501)]
    assert [tuple(kind) for kind in block.kinds] == [
        (ids[0], MODE_TYPED, 2), (ids[1], MODE_TYPED, 1), (ids[2], MODE_RAW, 1),
    ]  # fmt: skip
    assert block.pids == {3, 4}
    assert block.addresses == {0xFFFFFFFF81000010}
    assert block.gaps == (Missed(0, 9, "page"),)
    head = parse_block(block.body)
    assert (head.stream, head.number, head.ordinal, head.entries) == (("i", 0), 0, 0, 4)
    assert (head.first_ts, head.last_ts, head.raw_bytes) == (1000, 1003, 16 + len(data))
    assert (head.gaps, head.kinds, head.codec) == (block.gaps, block.kinds, "none")
    assert [row[:2] for row in rig.rows([block])] == [(1000, 505), (1001, 510), (1002, 505), (1003, 501)]


@pytest.mark.parametrize("word_size", [4, 8])
@pytest.mark.parametrize("repeated", [False, True], ids=["each", "dictionary"])
def test_addresses_of_stacks_have_the_size_of_the_kernels_long(word_size: int, repeated: bool) -> None:
    text = made.format_text("wk", 511, ("__data_loc unsigned long[] stack", 8, 8, 1))
    fmt = parse_event_format(text.replace('fmt: ""', 'fmt: "%s", __get_stacktrace(stack)'), "synthetic", word_size)
    frames = [[2, 0xC455C304 + at, 0xC455D344] for at in ((0,) * 40 if repeated else range(40))]
    records = [
        made.build_record(511, struct.pack("<II", 16 | len(of) * word_size << 16, 0)
                          + b"".join(word.to_bytes(word_size, "little") for word in of))
        for of in frames
    ]  # fmt: skip
    with as_file(made.build_page(b"".join(made.build_data(record, 1) for record in records))) as fd:
        rig = Rig(fd, formats=made_formats() | {511: fmt})
        (block,) = blocks_of(rig.visit(Ask.CLOSE))
    assert block.addresses == {word for of in frames for word in of}


def test_a_format_that_contradicts_itself_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fmt = parse_event_format(made.format_text("odd", 512, ("char name[32]", 8, 64, 0)), "made", 8)
    data = made.build_data(made.build_record(512, b"a" * 64), 1)
    with as_file(made.build_page(data * 2)) as fd:
        rig = Rig(fd, formats=made_formats() | {512: fmt})
        assert len(blocks_of(rig.visit(Ask.CLOSE))) == 1
    (told,) = [vars(record)["fields"]["doubts"] for record in caplog.records]
    assert told == ("name: 32 elements of 1 bytes are declared in 64 bytes; type and size are believed")


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_block_decodes_whatever_its_compression(codec: str) -> None:
    with as_file(full_page()) as fd:
        rig = Rig(fd, codec=codec)
        blocks = blocks_of(rig.visit(Ask.CLOSE))
    assert rig.rows(blocks) == slow_rows(full_page())[0]


# ---- gaps


def test_gaps_stand_before_the_entry_that_follows_them() -> None:
    pages = page(2) + page(3, 2000, lost=True, count=7) + page(1, 3000, lost=True)
    with as_file(pages) as fd:
        rig = Rig(fd)
        (block,) = blocks_of(*[rig.visit() for _ in range(3)], rig.visit(Ask.CLOSE))
    assert block.gaps == (Missed(2, 7, "page"), Missed(5, None, "page"))
    totals = rig.stream.totals()
    assert (totals.gaps, totals.gap_known_events, totals.unknown_gaps) == (2, 7, 1)


def test_gap_of_an_empty_page_waits_for_an_entry() -> None:
    with as_ring() as (fd, feed):
        rig = Rig(fd)
        feed(made.build_page(b"", lost=True, count=4))
        rig.visit(Ask.FLUSH)
        feed(page(2, 2000))
        (block,) = blocks_of(rig.visit(Ask.CLOSE))
    assert (block.events, block.gaps) == (2, (Missed(0, 4, "page"),))


@pytest.mark.timeout(20)
def test_gaps_of_many_empty_pages_do_not_stop_the_stream() -> None:
    """More pages than a batch has room for, and not one entry to close a block with."""
    with as_file(made.build_page(b"", lost=True, count=4) * 5 + page(2, 2000)) as fd:
        rig = Rig(fd, room_pages=2)
        visits = [rig.visit() for _ in range(8)]
        (block,) = blocks_of(*visits, rig.visit(Ask.CLOSE))
    assert (block.events, block.gaps) == (2, (Missed(0, 4, "page"),) * 5)
    assert rig.stream.totals().gap_known_events == 20


def test_gap_with_no_entry_after_it_is_told_when_the_stream_ends() -> None:
    with as_file(page(2) + made.build_page(b"", lost=True, count=4) + made.build_page(b"", lost=True)) as fd:
        rig = Rig(fd, stats=make_stats(read=2, overrun=9))
        blocks, loose = [], []
        for _ in range(3):
            visit = rig.visit(Ask.CLOSE | Ask.SAMPLE)
            blocks += blocks_of(visit)
            loose += [gap.lost for gap in visit.loose_gaps]
    assert [gap.lost for block in blocks for gap in block.gaps] + loose == [4, None]
    totals = rig.stream.totals()
    assert (totals.gaps, totals.gap_known_events, totals.unknown_gaps) == (2, 4, 1)
    assert (totals.residual, totals.settled) == (0, True)


def test_count_that_no_ring_can_have_lost_is_no_count() -> None:
    """A damaged page: the sums go into records of 64 bits."""
    most = (1 << 64) - 1
    pages = page(1, lost=True, count=most) + page(1, 2000, lost=True, count=most) + page(1, 3000, lost=True, count=5)
    with as_file(pages) as fd:
        rig = Rig(fd)
        (block,) = blocks_of(*[rig.visit() for _ in range(3)], rig.visit(Ask.CLOSE))
    assert [gap.lost for gap in block.gaps] == [None, None, 5]
    totals = rig.stream.totals()
    assert (totals.gaps, totals.gap_known_events, totals.unknown_gaps) == (3, 5, 2)


# ---- ids and damage


def test_each_id_is_learnt_once_when_it_first_occurs() -> None:
    data = b"".join(made.build_data(made.build_record(i, bytes(60))) for i in (505, 999, 505, 999, 998))
    with as_file(made.build_page(data) * 2) as fd:
        rig = Rig(fd)
        (block,) = blocks_of(rig.visit(), rig.visit(Ask.CLOSE))
    assert rig.asked_for == [505, 999, 998]
    assert block.events == 10


def test_records_of_an_unknown_id_stay_bytes() -> None:
    record = made.build_record(999, b"anything", pid=5)
    with as_file(made.build_page(made.build_data(record), 77)) as fd:
        rig = Rig(fd)
        blocks = blocks_of(rig.visit(Ask.CLOSE))
    assert rig.rows(blocks) == [(77, 999, 0, 0, 5, record)]


def test_malformed_page_is_counted_and_kept_and_is_a_gap_between_blocks() -> None:
    with as_file(page(2) + MALFORMED + page(3, 2000)) as fd:
        rig = Rig(fd)
        visits = [rig.visit(), rig.visit(), rig.visit(Ask.CLOSE)]
    assert [block.events for block in blocks_of(*visits)] == [2, 3]
    (gap,) = [gap for visit in visits for gap in visit.loose_gaps]
    assert gap == (None, "commit at byte 8 of a sub-buffer", "malformed", 1020, 1)
    assert rig.stream.decode_errors == {"commit": 1}
    assert rig.evidence == [(rig.stream.key, "commit", MALFORMED)]


def test_entries_before_a_fault_are_kept() -> None:
    """As real pages of 4.19 end: zeros where an entry should begin."""
    data = made.build_data(made.build_record(505), 1) * 5
    broken = made.build_page(data + bytes(20), 1000)
    with as_file(page(2) + broken + page(3, 2000)) as fd:
        rig = Rig(fd)
        visits = [rig.visit(), rig.visit(), rig.visit(Ask.CLOSE)]
    blocks = blocks_of(*visits)
    assert [block.events for block in blocks] == [7, 3]
    assert [row[0] for row in rig.rows(blocks)][2:7] == [1001, 1002, 1003, 1004, 1005]
    (gap,) = [gap for visit in visits for gap in visit.loose_gaps]
    assert (gap.detail, gap.from_ts, gap.lost) == (f"length at byte {16 + len(data)} of a sub-buffer", 1005, None)
    assert rig.evidence == [(rig.stream.key, "length", broken)]


def test_a_fault_waits_for_the_block_before_it(clock: SimpleNamespace) -> None:
    """Without memory for that block nothing is told out of turn, and nothing twice."""
    with as_file(page(2) + MALFORMED + page(3, 2000)) as fd:
        rig = Rig(fd, budget=ByteBudget(1))
        visit = rig.visit(Ask.FLUSH)
        assert (visit.blocks, visit.loose_gaps, visit.starved_bytes > 0) == ([], [], True)
        rig.stream.lease = ByteBudget(1 << 30).try_take(visit.starved_bytes)
        visit = rig.visit(Ask.FLUSH)
    assert ([block.events for block, _ in visit.blocks], len(visit.loose_gaps)) == ([2], 1)
    assert rig.stream.decoded == 5


def test_what_a_malformed_page_held_is_unexplained() -> None:
    with as_file(page(2) + MALFORMED + page(3, 2000)) as fd:
        rig = Rig(fd, stats=make_stats(read=9))
        visits = [rig.visit(Ask.CLOSE | Ask.SAMPLE) for _ in range(3)]
    assert visits[-1].at_end
    totals = rig.stream.totals()
    assert (totals.events, totals.skipped, totals.unexplained, totals.decode_errors) == (5, {}, 4, {"commit": 1})
    assert (totals.residual, totals.settled) == (4, True)


def test_gap_of_a_malformed_page_is_kept_without_its_count() -> None:
    broken = made.build_page(made.build_word(0, 0) + bytes(8), lost=True, count=6)
    with as_file(broken + page(1)) as fd:
        rig = Rig(fd)
        (block,) = blocks_of(rig.visit(Ask.CLOSE), rig.visit(Ask.CLOSE))
    assert rig.stream.decode_errors == {"length": 1}
    assert block.gaps == (Missed(0, None, "page"),)


def test_entry_without_room_for_its_head_is_skipped_and_counted() -> None:
    data = made.build_data(b"\1\0\0\0") + made.build_data(made.build_record(505), 5)
    with as_file(made.build_page(data, 1000)) as fd:
        rig = Rig(fd, stats=make_stats(read=2))
        visits = [rig.visit(Ask.CLOSE | Ask.SAMPLE) for _ in range(2)]
    assert [row[0] for row in rig.rows(blocks_of(*visits))] == [1005]
    assert rig.stream.totals().skipped == {"short": 1}
    assert rig.stream.totals().residual == 0


def test_recording_cut_inside_a_page_keeps_the_pages_before_it() -> None:
    with as_file(page(2) + page(3, 2000)[:100]) as fd:
        rig = Rig(fd)
        blocks = blocks_of(rig.visit(), rig.visit(Ask.CLOSE))
    assert [b.events for b in blocks] == [2]
    assert rig.stream.decode_errors == {"short_read": 1}
    assert rig.evidence == [(rig.stream.key, "short_read", page(3, 2000)[:100])]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(made.sound_pages(), st.builds(
    made.DamagedPage.build, made.damaged_pages, st.lists(made.sound_pages(), min_size=1, max_size=2))),
    min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 20000))  # fmt: skip
def test_any_pages_give_what_the_slow_decoder_gives(pages: list[bytes], room_pages: int, max_bytes: int) -> None:
    """Pages -> stream -> blocks -> decoded blocks, in visits of any size."""
    raw = b"".join(pages)
    rows, slow = slow_rows(raw)
    with as_file(raw) as fd:
        rig = Rig(fd, room_pages=room_pages)
        visits = [rig.visit(Ask.READ, max_bytes)]
        while not visits[-1].at_end:
            visits.append(rig.visit(Ask.READ, max_bytes))
        visits.append(rig.visit(Ask.CLOSE, max_bytes))
    blocks = blocks_of(*visits)
    assert rig.rows(blocks) == rows
    gaps = [(b.ordinal + gap.at, gap.lost) for b in blocks for gap in b.gaps]
    gaps += [(len(rows), gap.lost) for gap in visits[-1].loose_gaps if gap.cause == OVERRUN]
    faults, entries = [], 0
    for visit in visits:
        ends = [entries, *accumulate((block.events for block, _ in visit.blocks), initial=entries)][1:]
        faults += [ends[gap.after] for gap in visit.loose_gaps if gap.cause == MALFORMED_CAUSE]
        entries = ends[-1]
    assert faults == slow.behind
    assert gaps == [(at, lost if lost is None or lost < 1 << 48 else None) for at, lost in slow.gaps]
    assert [reason for _, reason, _ in rig.evidence] == [reason for _, reason in slow.malformed]
    assert dict(rig.stream.skipped) == dict(slow.skipped)


# ---- reading


def test_read_of_nothing_is_not_the_end() -> None:
    """The kernel gives 0 when an entry comes between its two looks; the next read has it."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernels:
        ours.setblocking(False)
        rig = Rig(ours.fileno())
        for message in (page(2), b"", page(3, 2000)):
            kernels.send(message)
        visits = [rig.visit(Ask.FLUSH), rig.visit(Ask.FLUSH | Ask.CLOSE)]
    assert visits[0].at_end
    assert [b.events for b in blocks_of(*visits)] == [5]


def test_empty_ring_is_at_its_end_without_an_error() -> None:
    with as_ring() as (fd, _):
        visit = Rig(fd).visit(Ask.FLUSH)
    assert (visit.at_end, visit.errno) == (True, None)


def test_visit_stops_behind_the_page_that_is_being_written() -> None:
    """Whoever follows the writer page by page pays a whole read for a crumb."""
    with as_file(full_page() + page(1, 50000) + page(1, 60000)) as fd:
        rig = Rig(fd)
        visit = rig.visit(Ask.READ)
    assert rig.stream.reader_pages == 2
    assert not visit.at_end


@pytest.mark.parametrize("ask", [Ask.FLUSH, Ask.SAMPLE])
def test_flush_and_sample_look_once_more_whether_the_ring_is_empty(ask: Ask) -> None:
    with as_file(page(1)) as fd:
        assert Rig(fd).visit(ask).at_end


def test_visit_takes_no_more_than_it_may() -> None:
    with as_file(full_page() * 10) as fd:
        rig = Rig(fd)
        assert not rig.visit(Ask.READ, max_bytes=3 * 4096).at_end
        assert rig.stream.reader_pages == 3


def test_visit_may_be_cut_anywhere() -> None:
    with as_file(page(1) * 3) as fd:
        rig = Rig(fd)
        rig.visit(Ask.FLUSH, max_bytes=1)
        assert rig.stream.reader_pages == 1


def test_cpu_that_never_was_there_gives_its_errno_and_no_sample() -> None:
    with as_ring() as (fd, feed):
        rig = Rig(fd, stats=make_stats())
        rig.batch.errno = errno.ENODEV
        visit = rig.visit(Ask.FLUSH | Ask.SAMPLE)
        assert (visit.errno, visit.at_end, visit.sample) == (errno.ENODEV, False, None)
        rig.batch.errno = None  # it came up
        feed(page(2))
        assert [b.events for b in blocks_of(rig.visit(Ask.CLOSE))] == [2]


def test_what_was_read_before_an_error_can_be_closed() -> None:
    with as_file(page(2)) as fd:
        rig = Rig(fd)
        rig.visit()
        rig.batch.errno = errno.EIO
        visit = rig.visit(Ask.CLOSE)
    assert (visit.errno, [b.events for b in blocks_of(visit)]) == (errno.EIO, [2])


def test_closed_descriptor_is_an_error_not_an_end() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    try:
        visit = Rig(fd).visit(Ask.FLUSH)
    finally:
        os.close(fd)
    assert (visit.errno, visit.at_end) == (errno.EBADF, False)


# ---- the budget


def test_block_holds_what_it_needs_of_the_budget() -> None:
    budget = ByteBudget(64 << 20)
    with as_file(page(3)) as fd:
        rig = Rig(fd, budget=budget)
        ((block, lease),) = rig.visit(Ask.CLOSE).blocks
    assert lease.size_bytes == len(block.body) == budget.used_bytes
    lease.release()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("ask", [Ask.READ, Ask.FLUSH, Ask.CLOSE])
def test_starving_stream_reads_no_further_and_loses_nothing(ask: Ask) -> None:
    pages = b"".join(full_page(ts) for ts in (1000, 20000, 40000, 60000, 80000))
    budget = ByteBudget(64 << 20)
    all_of_it = budget.try_take(64 << 20)
    assert all_of_it is not None
    with as_file(pages) as fd:
        rig = Rig(fd, room_pages=2, budget=budget)
        starved = rig.visit(ask)
        assert starved.blocks == []
        assert starved.starved_bytes > 2 * 4096
        assert rig.stream.reader_pages == 2
        assert rig.visit(ask).starved_bytes == starved.starved_bytes  # still
        assert rig.stream.reader_pages == 2
        all_of_it.release()
        rig.stream.lease = budget.try_take(starved.starved_bytes)
        blocks = blocks_of(rig.visit(ask), rig.visit(Ask.CLOSE))
    assert rig.rows(blocks) == slow_rows(pages)[0]
    assert rig.stream.lease is None
    assert budget.used_bytes == sum(len(block.body) for block in blocks)


def test_lease_that_was_waited_for_covers_the_block_it_is_used_for(clock: SimpleNamespace) -> None:
    """Entries that came while a young block waited for its lease go into the next one."""
    budget = ByteBudget(64 << 20)
    all_of_it = budget.try_take(64 << 20)
    assert all_of_it is not None
    with as_ring() as (fd, feed):
        rig = Rig(fd, block_age_s=5.0, budget=budget)
        feed(page(1))
        rig.visit(Ask.FLUSH)
        clock.now_s += 6
        starved = rig.visit(Ask.FLUSH)
        assert 0 < starved.starved_bytes < BLOCK_HEAD_BYTES + 100
        feed(b"".join(made.build_page(b"".join(
            made.build_data(made.build_record(504, os.urandom(12), pid=i)) for i in range(100)), 2000 + at)
            for at in range(8)))  # fmt: skip
        all_of_it.release()
        rig.stream.lease = budget.try_take(starved.starved_bytes)
        visits = [rig.visit(Ask.FLUSH), *[rig.visit() for _ in range(8)], rig.visit(Ask.CLOSE)]
    assert [b.events for b in blocks_of(*visits)] == [1, 800]
    assert [lease.size_bytes for v in visits for _, lease in v.blocks] == [len(b.body) for b in blocks_of(*visits)]
    assert budget.used_bytes == sum(len(b.body) for b in blocks_of(*visits))


# ---- samples and totals


def test_sample_balances_the_kernel_and_the_reader() -> None:
    with as_file(page(2, lost=True, count=3)) as fd:
        rig = Rig(fd, stats=make_stats(read=102, overrun=13), base=KernelCounts(read=100, overrun=10))
        sample = rig.visit(Ask.FLUSH | Ask.SAMPLE).sample
    assert sample is not None
    assert sample is rig.stream.account.last_sample
    assert (sample.kernel.read, sample.kernel.overrun, sample.reader.decoded, sample.settled) == (2, 3, 2, True)
    assert sample.balance.residual == {"read": 0, "overrun": 0}


def test_sample_is_open_while_entries_wait_in_the_ring() -> None:
    with as_file(page(2)) as fd:
        rig = Rig(fd, stats=make_stats(read=2, entries=4))
        sample = rig.visit(Ask.FLUSH | Ask.SAMPLE).sample
    assert sample is not None
    assert (sample.settled, sample.balance.total) == (False, None)


def test_totals_are_settled_once_every_entry_is_in_a_block() -> None:
    with as_ring() as (fd, feed):
        rig = Rig(fd, stats=make_stats(read=2))
        feed(page(2))
        rig.visit(Ask.FLUSH | Ask.SAMPLE)
        totals = rig.stream.totals()
        assert (totals.events, totals.read, totals.residual, totals.settled) == (0, 2, None, False)
        rig.visit(Ask.CLOSE | Ask.SAMPLE)
        totals = rig.stream.totals()
        assert (totals.blocks, totals.events, totals.residual, totals.settled) == (1, 2, 0, True)
        feed(page(1, 5000))
        rig.visit(Ask.CLOSE)  # in a block, but the sample is older
        totals = rig.stream.totals()
        assert (totals.events, totals.read, totals.residual, totals.settled) == (3, 2, None, False)


def test_totals_without_stats_are_never_settled() -> None:
    with as_file(page(2)) as fd:
        rig = Rig(fd)
        visit = rig.visit(Ask.CLOSE | Ask.SAMPLE)
    assert visit.sample is None
    totals = rig.stream.totals()
    assert (totals.events, totals.read, totals.residual, totals.settled) == (2, 0, None, False)


def test_missing_entry_is_a_residual_and_stays_one() -> None:
    with as_file(page(2)) as fd:
        rig = Rig(fd, stats=make_stats(read=3))
        rig.visit(Ask.CLOSE | Ask.SAMPLE)
    assert rig.stream.totals().residual == 1


def test_reset_by_somebody_else_is_counted_and_adds_up() -> None:
    with as_ring() as (fd, feed):
        rig = Rig(fd, stats=make_stats(read=2))
        feed(page(2))
        rig.visit(Ask.FLUSH | Ask.SAMPLE)
        rig.say(read=1)
        feed(page(1, 5000))
        sample = rig.visit(Ask.CLOSE | Ask.SAMPLE).sample
    assert sample is not None
    assert (sample.resets, sample.kernel.read, sample.balance.total) == (1, 3, 0)
