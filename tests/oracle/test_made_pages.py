"""The reference decoder on sub-buffers made by hand: each rule of the page walk beside its expected outcome."""

import struct

import pytest
from hypothesis import given, settings

from tests import pages as p
from tests import reference

LAYOUT = reference.read_layout(p.HEADER_PAGE.format(data_size=4080))
FORMATS = {f.id: f for f in (reference.read_format(system, text, 8) for (system, _), text in p.FORMATS.items())}
BARE = p.build_record(505, pid=7)  # the smallest record: only the common head


def decode(*pages: bytes) -> reference.Decoded:
    return reference.decode_pages(b"".join(pages), LAYOUT, FORMATS)


def times(*data: bytes, ts: int = 1000) -> list[int]:
    return [e.ts for e in decode(p.build_page(b"".join(data), ts)).entries]


def test_times_add_up() -> None:
    assert times(p.build_data(BARE), p.build_data(BARE, 5), p.build_data(BARE, 7, long=True)) == [1000, 1005, 1012]


def test_time_extend_adds_59_bits() -> None:
    assert times(p.build_time_extend(1 << 58 | 9), p.build_data(BARE, 1)) == [1000 + (1 << 58) + 9 + 1]


def test_stamp_takes_its_top_bits_from_the_running_time() -> None:
    now = 5 << 59 | 400
    assert times(p.build_time_stamp(500), p.build_data(BARE, 1), ts=now) == [(5 << 59) + 501]


def test_stamp_below_the_running_time_has_wrapped() -> None:
    now = 5 << 59 | 400
    assert times(p.build_time_stamp(300), p.build_data(BARE), ts=now) == [(6 << 59) + 300]


def test_discarded_entry_gives_its_delta_and_dead_space_does_not() -> None:
    assert times(p.build_dead_space(20, 50), p.build_data(BARE, 2)) == [1052]
    assert times(p.build_dead_space(20, 1), p.build_data(BARE, 2)) == [1002]


def test_nothing_behind_the_mark_of_a_void_rest_is_looked_at() -> None:
    assert times(p.build_data(BARE), p.build_rest_is_void(), b"\xff" * 40) == [1000]


def test_page_without_entries_is_sound() -> None:
    got = decode(p.build_page(p.build_dead_space(4080)), p.build_page(b""))
    assert (got.entries, got.malformed) == ([], [])


@pytest.mark.parametrize("sign_extend", [True, False])
def test_gap_stands_before_the_first_entry_of_its_page(sign_extend: bool) -> None:
    page = p.build_page(p.build_data(BARE) * 3, lost=True, count=12, sign_extend=sign_extend)
    assert decode(p.build_page(p.build_data(BARE) * 2), page, page).gaps == [(2, 12), (5, 12)]


def test_gap_of_a_full_page_has_no_count() -> None:
    full = p.build_data(p.build_record(505)) * (4080 // 12)
    assert decode(p.build_page(full, lost=True, count=12)).gaps == [(0, None)]
    # the kernel says that it stored one, but no room is left for it
    claims = p.LOST | p.COUNT_STORED | 4076
    assert decode(p.build_page(p.build_dead_space(4076), commit=claims)).gaps == [(0, None)]


def test_stale_data_behind_the_commit_is_not_looked_at() -> None:
    assert len(decode(p.build_page(p.build_data(BARE), stale=0x21)).entries) == 1


@pytest.mark.parametrize(
    ("data", "commit", "reason"),
    [
        (p.build_data(BARE), 4081, "commit"),
        (p.build_data(BARE), 0x3FFFFFFF, "commit"),
        (p.build_data(BARE), 11, "overrun_entry"),
        (p.build_data(BARE) * 2, 14, "truncated"),
        (p.build_data(BARE, long=True), 4, "truncated"),
        (p.build_time_extend(5), 4, "truncated"),
        (p.build_dead_space(40), 20, "overrun_entry"),
        (p.build_word(0, 0) + struct.pack("<I", 3), 8, "length"),
        (p.build_word(0, 0) + struct.pack("<I", 0xFFFFFFFF), 8, "overrun_entry"),
    ],
)
def test_malformed_page_gives_what_is_before_its_fault_and_its_gap(data: bytes, commit: int, reason: str) -> None:
    whole = int(reason == "truncated" and len(data) == 24)
    bad = p.build_page(data, commit=commit | p.LOST)
    good = p.build_page(p.build_data(BARE))
    got = decode(good, bad, good)
    assert got.malformed == [(1, reason)]
    assert got.gaps == [(1, None)]
    assert got.behind == [1 + whole]
    assert len(got.entries) == 2 + whole


def test_record_without_a_whole_head_is_skipped_and_its_time_counts() -> None:
    data = p.build_data(BARE[:4], 10) + p.build_data(BARE, 1)
    got = decode(p.build_page(data, 1000))
    assert (got.skipped, [e.ts for e in got.entries]) == ({"short": 1}, [1011])


@pytest.mark.parametrize(
    ("record", "why_raw"),
    [
        (p.build_record(p.UNKNOWN_ID, b"12345678"), "no format"),
        (p.build_record(501, bytes(28)), "shorter than its fields"),
        (p.build_record(503, struct.pack("<IiII", 25 | 4 << 16, 0, 0, 0) + bytes(4)), "location outside"),
        (p.build_record(503, struct.pack("<IiII", 0, 0, 0, 5 << 16) + bytes(4)), "relative location outside"),
        (p.build_record(503, struct.pack("<IiII", 28 << 16, 0, 28 << 16, 0) + bytes(4)), "more content than record"),
    ],
)
def test_record_that_is_not_what_its_format_says_stays_raw(record: bytes, why_raw: str) -> None:
    (entry,) = decode(p.build_page(p.build_data(record))).entries
    assert (entry.fields, entry.record) == (None, record), why_raw


def test_bytes_behind_the_last_field_are_no_field() -> None:
    """6.12's funcgraph_exit has 16 of them, with what the ring held before."""
    (entry,) = decode(p.build_page(p.build_data(p.build_record(501, bytes(32) + b"old junk")))).entries
    assert entry.fields == dict.fromkeys("abcdefgh", 0)


def test_typed_values() -> None:
    body = struct.pack("<BbHhxxIiQq", 255, -1, 65535, -2, 1 << 31, -3, 1 << 63, -4)
    record = p.build_record(501, body, flags=0x81, preempt_count=0x12, pid=-5)
    (entry,) = decode(p.build_page(p.build_data(record))).entries
    assert (entry.flags, entry.preempt_count, entry.pid) == (0x81, 0x12, -5)
    assert entry.fields == {
        "a": 255, "b": -1, "c": 65535, "d": -2, "e": 1 << 31, "f": -3, "g": 1 << 63, "h": -4}  # fmt: skip
    located = p.build_record(503, struct.pack("<IiII", 24 | 3 << 16, 9, 27 | 1 << 16, 4 | 4 << 16) + b"abcdefgh")
    (entry,) = decode(p.build_page(p.build_data(located))).entries
    assert entry.fields == {"name": b"abc", "n": 9, "words": b"d", "where": b"efgh"}


@settings(max_examples=100, deadline=None)
@given(p.sound_pages())
def test_random_sound_pages_are_never_called_malformed(page: bytes) -> None:
    assert decode(page).malformed == []
