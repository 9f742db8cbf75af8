"""What is made of values: texts, stacks, readable forms; and what a format object's columns hold."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.archive.objects import FieldColumn, FormatObject
from collector.read.meaning import column_kinds, cut_stack, decode_text, format_bits, readable_form

BYTES = FieldColumn("f", "data_loc", 1, False, 1)


def form_of(kind: str, value: bytes) -> str | None:
    form = readable_form(kind, BYTES)  # type: ignore[arg-type]
    assert form is not None
    return form(value)


@pytest.mark.parametrize(
    ("value", "text", "escaped"),
    [
        (b"plain", "plain", False), (b"cut\0behind", "cut", False), (b"", "", False), ("ä\\".encode(), "ä\\", False),
        (b"a\xffb", "a\\xffb", True), (b"\\x41\xff", "\\\\x41\\xff", True), (b"\xed\xa0\x80", "\\xed\\xa0\\x80", True),
    ],
)  # fmt: skip
def test_text_ends_at_its_nul_and_is_escaped_where_it_is_no_utf_8(value: bytes, text: str, escaped: bool) -> None:
    assert decode_text(value) == (text, escaped)


@pytest.mark.parametrize(
    ("words", "frames"),
    [
        ([], []),
        ([0xFFFF0001, 0xFFFF0002], [0xFFFF0001, 0xFFFF0002]),
        ([2, 0xFFFF0001, 0xFFFF0002], [0xFFFF0001, 0xFFFF0002]),  # a synthetic event's
        ([2, 0xFFFF0001, 0xFFFF0002, 0], [0xFFFF0001, 0xFFFF0002]),
        ([1, 0xFFFF0001, 0xFFFF0002], [1, 0xFFFF0001, 0xFFFF0002]),  # not a number of frames
        ([2, 0xFFFF0001], [0xFFFF0001]),  # cut off by the kernel
        ([3, 0xFFFF0001], [3, 0xFFFF0001]),
        ([0], []),
    ],
)
def test_the_number_of_frames_is_no_frame(words: list[int], frames: list[int]) -> None:
    assert list(cut_stack(words)) == frames


@pytest.mark.parametrize(
    ("words", "width", "shown"),
    [
        ([], 64, ""),
        ([0], 64, ""),
        ([0xF0], 32, "4-7"),
        ([1 << 31, 1], 32, "31-32"),
        ([0b1011, 1 << 63], 64, "0-1,3,127"),
    ],
)
def test_bits_are_listed_as_the_kernel_lists_cpus(words: list[int], width: int, shown: str) -> None:
    assert format_bits(words, width) == shown


WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0x20A]), min_size=8, max_size=8)


@given(st.binary(min_size=16, max_size=16) | WORDS.map(lambda words: b"".join(w.to_bytes(2, "big") for w in words)))
def test_addresses_are_written_as_everybody_writes_them(value: bytes) -> None:
    shown = form_of("ipv6", value)
    assert shown is not None
    assert socket.inet_pton(socket.AF_INET6, shown) == value
    theirs = socket.inet_ntop(socket.AF_INET6, value)
    assert shown == theirs or "." in theirs  # of addresses that hold one of IPv4 there are two customs


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("ipv4", bytes((127, 0, 0, 1)), "127.0.0.1"), ("ipv4", b"123", None),
        ("ipv6", bytes(15) + b"\1", "::1"), ("ipv6", bytes(10) + b"\xff\xff\x0a\0\0\1", "::ffff:10.0.0.1"),
        ("mac", bytes.fromhex("0a000001fe80"), "0a:00:00:01:fe:80"),
        ("sockaddr", b"\2\0\0\x50\x7f\0\0\1" + bytes(20), "127.0.0.1:80"),
        ("sockaddr", b"\x0a\0\x1f\x90" + bytes(19) + b"\1" + bytes(4), "[::1]:8080"), ("sockaddr", bytes(28), None),
    ],
)  # fmt: skip
def test_readable_forms(kind: str, value: bytes, shown: str | None) -> None:
    assert form_of(kind, value) == shown


def object_of(*columns: tuple[str, int], kinds: tuple[str, ...] | None = None, text: str = "") -> FormatObject:
    fields = tuple(FieldColumn(f"f{at}", cls, size, False, 1) for at, (cls, size) in enumerate(columns))
    return FormatObject(bytes(8), 1, "s", "e", fields, text, kinds)


def test_kinds_are_what_the_segment_says() -> None:
    assert column_kinds(object_of(("chars", 4), ("int", 8), kinds=("ipv4", "address"))) == ("ipv4", "address")


def test_a_kind_that_the_column_cannot_hold_or_nobody_knows_is_not_believed() -> None:
    kinds = ("text", "stack", "of a later version", "mac", "flags")
    of = object_of(("int", 4), ("chars", 8), ("tail", 8), ("tail", 8), ("data_loc", 1), kinds=kinds)
    assert column_kinds(of) == ("plain", "bytes", "plain", "plain", "bytes")


def test_segments_that_do_not_say_it_are_asked_by_their_format_files() -> None:
    text = (
        "name: e\nID: 1\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:__u8 f0[4];\toffset:8;\tsize:4;\tsigned:0;\n\tfield:char f1[8];\toffset:12;\tsize:8;\tsigned:0;\n\n"
        'print fmt: "%pI4", REC->f0\n'
    )
    assert column_kinds(object_of(("chars", 4), ("chars", 8), text=text)) == ("ipv4", "text")


def test_without_a_format_file_what_has_a_fixed_length_is_most_likely_a_name() -> None:
    assert column_kinds(object_of(("chars", 4), ("data_loc", 1), ("int", 4))) == ("text", "bytes", "plain")
