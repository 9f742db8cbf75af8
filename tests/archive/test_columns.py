"""Columns: every form gives back what was put in, and no bytes at all make the decoder do more than refuse."""

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.archive.block import decode_block
from collector.archive.columns import (
    MAX_DECODED_BYTES,
    Budget,
    decode_array,
    decode_fixed,
    decode_integers,
    decode_variable,
)
from collector.archive.fields import pack
from collector.archive.objects import FormatObject, build_object, parse_format, parse_object
from collector.batch import Missed
from collector.errors import SegmentError
from tests.archive.encoder import (
    EVERY_ID,
    FORMATS,
    PLAIN_ID,
    UNKNOWN_ID,
    build_block,
    encode_array,
    encode_fixed,
    encode_integers,
    encode_variable,
    make_rows,
)

FOUND: dict[bytes, FormatObject] = {
    key: parse_format(parse_object(build_object("format", of)[1])) for key, of in FORMATS.items()
}


@st.composite
def integers(draw: st.DrawFn) -> tuple[list[int], int, bool, int]:
    size, signed = draw(st.sampled_from([1, 2, 4, 8])), draw(st.booleans())
    low = -(1 << 8 * size - 1) if signed else 0
    value = st.integers(low, low + (1 << 8 * size) - 1)
    form = draw(st.integers(0, 3))
    values = draw(st.lists(value, max_size=40))
    return (values[:1] * len(values) if form == 0 else values), size, signed, form


@given(integers())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_integers_round_trip_in_each_form(case: tuple[list[int], int, bool, int]) -> None:
    values, size, signed, form = case
    column = encode_integers(values, size, form)
    assert list(decode_integers(column, len(values), size, signed, Budget())) == values


@given(st.lists(st.binary(min_size=5, max_size=5), max_size=20), st.integers(0, 3))
@settings(derandomize=True, deadline=None)
def test_fixed_strings_round_trip_in_each_form(values: list[bytes], form: int) -> None:
    values = values[:1] * len(values) if form == 0 else values
    assert list(decode_fixed(encode_fixed(values, 5, form), len(values), 5, Budget())) == values


@given(st.lists(st.binary(max_size=9), max_size=20), st.sampled_from([0, 4, 5]))
@settings(derandomize=True, deadline=None)
def test_variable_strings_round_trip_in_each_form(values: list[bytes], form: int) -> None:
    values = values[:1] * len(values) if form == 0 else values
    assert list(decode_variable(encode_variable(values, form), len(values), Budget())) == values


@given(
    st.lists(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=3, max_size=3), max_size=20),
    st.sampled_from([0, 1, 2, 3, 6]),
)
@settings(derandomize=True, deadline=None)
def test_arrays_round_trip_in_each_form(values: list[list[int]], form: int) -> None:
    values = values[:1] * len(values) if form == 0 else values
    assert list(decode_array(encode_array(values, 2, 3, form), len(values), 2, True, 3, Budget())) == values


def test_widths_that_no_field_has_today_decode() -> None:
    values = [2**127 + 5, 3, 2**128 - 1]
    for form in (1, 2, 3):
        assert list(decode_integers(encode_integers(values, 16, form), 3, 16, False, Budget())) == values


@pytest.mark.parametrize("codec", ["zstd", "lz4", "none"])
def test_a_block_gives_back_its_entries(codec: str) -> None:
    rows = make_rows(0, 50, 1_000)
    gaps = [Missed(0, None, "page"), Missed(50, 7, "page")]
    block = decode_block(build_block(rows, gaps=gaps, codec=codec, number=4, ordinal=99).body, FOUND)
    assert block.head.gaps == tuple(gaps)
    found = [(e.ts, e.pid, e.flags, e.preempt_count, e.format.id, e.fields) for e in block.entries()]
    expected = [
        (*row[:5], {EVERY_ID: row[5], PLAIN_ID: {"value": row[5]}, UNKNOWN_ID: {"raw": row[5]}}[row[4]]) for row in rows
    ]
    assert found == expected


def test_time_may_step_back_and_be_large() -> None:
    times = [2**64 - 5, 3, 2, 2**63, 2**63, 1]
    block = build_block([(ts, 1, 0, 0, PLAIN_ID, 1) for ts in times])
    assert [e.ts for e in decode_block(block.body, FOUND).entries()] == times


def test_a_block_without_entries_decodes() -> None:
    block = decode_block(build_block([], gaps=[Missed(0, 3, "page")]).body, FOUND)
    assert list(block.entries()) == []
    assert block.head.gaps == (Missed(0, 3, "page"),)


def test_more_than_256_kinds_use_two_bytes() -> None:
    n = 300
    formats = {bytes([at // 256, at % 256, 0, 0, 0, 0, 0, 0]): FOUND[PLAIN_ID] for at in range(n)}
    cols = pack([encode_integers(range(n), 2, 1), [0, bytes(8)], [0, b"\0"], [0, b"\0"], [0, b"\7\0\0\0"],
                 [[[0, at.to_bytes(4, "little")]] for at in range(n)]])  # fmt: skip
    body = pack({
        "run": bytes(16), "inst": "main", "cpu": 0, "no": 0, "ord": 0, "n": n, "t0": 5, "t1": 5, "raw": 0, "gaps": [],
        "kinds": [[key, 0, 1] for key in formats], "codec": "none", "size": len(cols), "cols": cols,
    })  # fmt: skip
    assert [e.fields["value"] for e in decode_block(body, formats).entries()] == list(range(n))


def mutate(value: Any, rng: random.Random) -> Any:
    """Changes one thing somewhere in a decoded object, keeping its structure otherwise."""
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], mutate(value[at], rng), *value[at + 1 :]]
    junk = [0, 1, 2, 3, 4, 5, 6, 255, 256, -1, 2**32, 2**63, b"", b"\xff", bytes(7), [], None, "x", 1.5, True, {}]
    if isinstance(value, bytes) and value and rng.random() < 0.5:
        return value[:-1] if rng.random() < 0.5 else value + b"\xff"
    return rng.choice(junk)


def test_hostile_columns_are_refused_and_nothing_else_happens() -> None:
    import msgpack

    rng = random.Random(5)
    block = msgpack.unpackb(build_block(make_rows(0, 9, 1_000), codec="none").body)
    cols = msgpack.unpackb(block["cols"])
    refused = 0
    for _ in range(3000):
        changed = pack(mutate(cols, rng))
        body = pack({**block, "cols": changed, "size": len(changed)})
        try:
            entries = list(decode_block(body, FOUND).entries())
            [e.fields for e in entries]
            assert len(entries) == 9
        except SegmentError:
            refused += 1
    assert refused > 1000


def test_hostile_heads_are_refused_and_nothing_else_happens() -> None:
    import msgpack

    rng = random.Random(6)
    block = msgpack.unpackb(build_block(make_rows(0, 9, 1_000)).body)
    for _ in range(2000):
        key = rng.choice(list(block))
        body = pack({**block, key: mutate(block[key], rng)})
        with contextlib.suppress(SegmentError):
            list(decode_block(body, FOUND).entries())


@pytest.mark.parametrize("n", [2**22 + 1, 2**40, 2**64 - 1])
def test_a_count_of_entries_beyond_any_block_allocates_nothing(n: int) -> None:
    import msgpack

    block = msgpack.unpackb(build_block(make_rows(0, 9, 1_000)).body)
    kinds = [[PLAIN_ID, 0, n]]
    with pytest.raises(SegmentError):
        decode_block(pack({**block, "n": n, "kinds": kinds}), FOUND)


def test_a_few_bytes_cannot_become_gigabytes() -> None:
    wide = [[0, bytes(8)]] * 60000
    with pytest.raises(SegmentError, match="more than any block"):
        decode_array([6, wide], 10**6, 8, False, 60000, Budget())
    with pytest.raises(SegmentError, match="more than any block"):
        decode_fixed([1, [0] * 65535 + [b"x" * 10**4]], 10**4, 65536, Budget())
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_DECODED_BYTES + 1))
    import msgpack

    block = msgpack.unpackb(build_block(make_rows(0, 9, 1_000)).body)
    for size in (9, MAX_DECODED_BYTES + 1, 2**63):
        with pytest.raises(SegmentError):
            decode_block(pack({**block, "cols": bomb, "size": size}), FOUND)
