"""Sub-buffer layouts, and the numbers that the decoder is built for."""

import pytest

from collector.errors import TracefsFormatError
from collector.tracefs.layout import (
    PAGE_HEAD_BYTES,
    ByteOrder,
    PageLayout,
    find_byte_order,
    parse_header_event,
    parse_header_page,
)

PAGE_64 = """\
	field: u64 timestamp;	offset:0;	size:8;	signed:0;
	field: local_t commit;	offset:8;	size:8;	signed:1;
	field: int overwrite;	offset:8;	size:1;	signed:1;
	field: char data;	offset:16;	size:4080;	signed:0;
"""
PAGE_32 = """\
	field: u64 timestamp;	offset:0;	size:8;	signed:0;
	field: local_t commit;	offset:8;	size:4;	signed:1;
	field: int overwrite;	offset:8;	size:1;	signed:1;
	field: char data;	offset:12;	size:4084;	signed:1;
"""
EVENT = """\
# compressed entry header
	type_len    :    5 bits
	time_delta  :   27 bits
	array       :   32 bits

	padding     : type == 29
	time_extend : type == 30
	time_stamp : type == 31
	data max type_len  == 28
"""


def test_64_bit() -> None:
    layout = parse_header_page(PAGE_64)
    assert layout == PageLayout(0, 8, 8, 8, 16, 4080)
    assert layout.subbuf_size == 4096


def test_32_bit() -> None:
    layout = parse_header_page(PAGE_32)
    assert (layout.commit_size, layout.data_offset, layout.subbuf_size) == (4, 12, 4096)


def test_large_sub_buffers() -> None:
    assert parse_header_page(PAGE_64.replace("4080", "65520")).subbuf_size == 65536


@pytest.mark.parametrize(
    "text",
    [
        "",
        PAGE_64.replace("commit", "comit"),
        PAGE_64.replace("offset:16", "offset:12"),
        PAGE_64.replace("size:8;\tsigned:1", "size:2;\tsigned:1"),
        PAGE_64.replace("4080", "0"),
    ],
)
def test_a_layout_that_can_not_be(text: str) -> None:
    with pytest.raises(TracefsFormatError, match="header_page"):
        parse_header_page(text)


@pytest.mark.parametrize("left_out", ["time_stamp", "type_len", "padding", "data max", "compressed"])
def test_a_line_that_is_not_there_is_no_other_event_header(left_out: str) -> None:
    parse_header_event(EVENT)
    parse_header_event("".join(line for line in EVENT.splitlines(True) if left_out not in line))


def head(layout: PageLayout, length: int, order: ByteOrder, *, flags: int = 0, event_id: int = 300) -> bytes:
    """What a sub-buffer begins with: a stamp before its first entry."""
    commit = (length | flags).to_bytes(layout.commit_size, order)
    page = (10**12).to_bytes(8, order) + commit.ljust(layout.data_offset - 8, b"\0")
    for type_len in (31, 3):
        page += (type_len if order == "little" else type_len << 27).to_bytes(4, order)
        page += bytes(4) if type_len == 31 else b""
    return (page + event_id.to_bytes(2, order)).ljust(PAGE_HEAD_BYTES, b"\0")


@pytest.mark.parametrize("layout", [parse_header_page(PAGE_64), parse_header_page(PAGE_32)], ids=["64", "32"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("flags", [0, 1 << 31, 3 << 30])
def test_byte_order_shows_in_any_page(layout: PageLayout, order: ByteOrder, flags: int) -> None:
    for length in range(4, layout.data_size + 1, 4):
        assert find_byte_order([head(layout, length, order, flags=flags)], layout, {300}) == order


def test_byte_order_of_nothing_is_not_known_and_damage_is_outvoted() -> None:
    layout = parse_header_page(PAGE_64)
    assert find_byte_order([], layout, {300}) is None
    assert find_byte_order([head(layout, 0, "little")] * 9, layout, {300}) is None
    good, bad = head(layout, 400, "little"), head(layout, 40, "big")
    assert find_byte_order([bad, good, good], layout, {300}) == "little"


def test_byte_order_of_events_without_a_format_takes_several_pages() -> None:
    layout = parse_header_page(PAGE_64)
    assert find_byte_order([head(layout, 40, "big")], layout, {7}) is None
    assert find_byte_order([head(layout, 40, "big")] * 3, layout, {7}) == "big"


@pytest.mark.parametrize(
    ("old", "new"),
    [("5 bits", "4 bits"), ("type == 29", "type == 28"), ("== 28", "== 27"), ("== 31", "== 30"), ("27 b", "2 b")],
)
def test_another_event_header_is_refused(old: str, new: str) -> None:
    with pytest.raises(TracefsFormatError, match="header_event"):
        parse_header_event(EVENT.replace(old, new))
