"""Sub-buffer layouts, and the numbers that the decoder is built for."""

import pytest

from collector.errors import TracefsFormatError
from collector.tracefs.layout import PageLayout, parse_header_event, parse_header_page

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


def test_the_known_event_header() -> None:
    parse_header_event(EVENT)


@pytest.mark.parametrize(
    ("old", "new"),
    [("5 bits", "4 bits"), ("type == 29", "type == 28"), ("== 28", "== 27"), ("time_stamp", "stamp"), ("27 b", "2 b")],
)
def test_another_event_header_is_refused(old: str, new: str) -> None:
    with pytest.raises(TracefsFormatError, match="header_event"):
        parse_header_event(EVENT.replace(old, new))
