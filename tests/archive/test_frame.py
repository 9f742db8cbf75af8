"""Framing: exact bytes, resynchronisation, bounds."""

import zlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.archive.frame import (
    MARK,
    MAX_BODY_BYTES,
    TRAILER_BYTES,
    Damage,
    Record,
    build_head_tail,
    build_record,
    build_trailer,
    parse_trailer,
    scan,
    scan_bytes,
)


def test_a_record_has_the_documented_bytes() -> None:
    head = bytes.fromhex("94 c404 f71ace5e 03 c6 00000002")
    body = b"\x91\x05"
    assert build_record(3, body) == head + body + b"\xce" + zlib.crc32(head + body).to_bytes(4, "big")


def test_a_file_is_a_stream_of_msgpack_objects() -> None:
    unpacker = msgpack.Unpacker()
    unpacker.feed(build_record(1, b"\x80") + build_record(3, b"\x91\x05"))
    assert [(sync, kind, body) for sync, kind, body, _ in unpacker] == [
        (b"\xf7\x1a\xce\x5e", 1, b"\x80"),
        (b"\xf7\x1a\xce\x5e", 3, b"\x91\x05"),
    ]


def test_a_trailer_has_a_fixed_size_and_points_back() -> None:
    trailer = build_trailer(1234, 99)
    assert len(trailer) == TRAILER_BYTES == 36
    (record,) = scan_bytes(trailer)
    assert isinstance(record, Record)
    assert parse_trailer(record.body) == (1234, 99)
    assert parse_trailer(b"\x00") is None


@given(st.lists(st.tuples(st.integers(1, 8), st.binary(max_size=60)), max_size=8), st.binary(max_size=30))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_records_come_back_and_noise_between_them_is_damage(records: list[tuple[int, bytes]], noise: bytes) -> None:
    data = b"".join(build_record(kind, body) + noise for kind, body in records)
    found = list(scan_bytes(data))
    assert [(r.kind, bytes(r.body)) for r in found if isinstance(r, Record)] == records
    damage = [r for r in found if isinstance(r, Damage)]
    assert len(damage) == (len(records) if noise else 0)
    assert all(d.length == len(noise) for d in damage)


@given(st.binary(max_size=300))
@settings(derandomize=True, deadline=None)
def test_any_bytes_are_scanned_to_the_end(data: bytes) -> None:
    at = 0
    for found in scan_bytes(data):
        assert found.offset == at
        at = found.end
    assert at == len(data)


def test_a_mark_across_two_search_windows_is_found() -> None:
    record = build_record(2, b"\x80")
    for before in range(1024 * 1024 - 9, 1024 * 1024 + 3):
        found = list(scan_bytes(b"\0" * before + record))
        assert [type(f) for f in found] == [Damage, Record]


def test_a_hostile_length_reads_nothing() -> None:
    asked = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return (MARK + b"\x03\xc6\xff\xff\xff\xff" + bytes(100))[offset : offset + size]

    (damage,) = scan(read, 2**40)
    assert isinstance(damage, Damage)
    assert "at most" in damage.reason
    assert max(asked) <= 1024 * 1024


def test_bodies_above_the_limit_are_not_built() -> None:
    with pytest.raises(ValueError, match="at most"):
        build_head_tail(3, bytes(MAX_BODY_BYTES + 1))
