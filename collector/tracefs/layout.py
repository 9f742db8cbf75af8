"""The layout of a sub-buffer, from events/header_page and events/header_event. Pure."""

import re
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

from collector.errors import TracefsFormatError

ByteOrder = Literal["little", "big"]

# The upper two bits say that entries were lost, and that their number is stored.
_COMMIT_MASK = 0x3FFFFFFF

MOST_SUBBUF_BYTES = 1 << 24  # the kernel has at most 512 KiB
_LONGEST = 4096  # characters of these files; the kernel's have some hundreds

TYPE_LEN_DATA_MAX = 28
TYPE_LEN_PADDING = 29
TYPE_LEN_TIME_EXTEND = 30
TYPE_LEN_TIME_STAMP = 31

_FIELD = re.compile(r"\s*field:[^;]*?(?P<name>\w+);\s*offset:(?P<offset>\d{1,10});\s*size:(?P<size>\d{1,10});")

# {key of header_event: the number that the decoder is built for}
_TYPE_LENS = {
    "padding": TYPE_LEN_PADDING,
    "time_extend": TYPE_LEN_TIME_EXTEND,
    "time_stamp": TYPE_LEN_TIME_STAMP,
    "data max type_len": TYPE_LEN_DATA_MAX,
}
_BITS = {"type_len": 5, "time_delta": 27, "array": 32}
_EVENT_LINE = re.compile(
    r"\s*(?P<key>[a-z_]+(?: [a-z_]+)*)\s*(?::(?P<bits>\s*\d{1,9}) bits|:?\s*(?:type )?==\s*(?P<is>\d{1,9}))"
)


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Where the parts of a sub-buffer's head are; all in bytes from its start."""

    timestamp_offset: int
    timestamp_size: int
    commit_offset: int
    commit_size: int  # 4 or 8: the kernel's long
    data_offset: int  # the head's length
    data_size: int  # capacity for events

    @property
    def word_size(self) -> int:
        """Bytes of the kernel's long, and of its pointers."""
        return self.commit_size

    @property
    def subbuf_size(self) -> int:
        """Bytes of a whole sub-buffer: what one read gives at most."""
        return self.data_offset + self.data_size


def parse_header_page(text: str) -> PageLayout:
    """Parse events/header_page of the instance that is read: its sub-buffer size is the instance's.

    The `overwrite` line is a relic that overlaps `commit` and is ignored.

    Raises:
      TracefsFormatError: a line is missing, or a number can't be.
    Source: kernel/trace/ring_buffer.c, ring_buffer_print_page_header().
    """
    found = {match["name"]: (int(match["offset"]), int(match["size"])) for match in _FIELD.finditer(text[:_LONGEST])}
    missing = [name for name in ("timestamp", "commit", "data") if name not in found]
    if missing:
        raise TracefsFormatError(
            f"no line for {', '.join(missing)}", where="events/header_page", expected="timestamp, commit and data",
            got=repr(text[:120]),
        )  # fmt: skip
    layout = PageLayout(*found["timestamp"], *found["commit"], *found["data"])
    head_end = max(layout.timestamp_offset + layout.timestamp_size, layout.commit_offset + layout.commit_size)
    if (
        layout.timestamp_size != 8
        or layout.commit_size not in (4, 8)
        or layout.data_offset < head_end
        or not 0 < layout.data_size <= MOST_SUBBUF_BYTES
    ):
        raise TracefsFormatError(
            "a layout that this program can't read", where="events/header_page",
            expected=f"a timestamp of 8 bytes, a commit of 4 or 8, and behind both at most {MOST_SUBBUF_BYTES} of data",
            got=repr(layout),
        )  # fmt: skip
    return layout


def parse_header_event(text: str) -> None:
    """Check that events/header_event says nothing else than what the decoder is built for.

    A line that is not there is no reason to refuse: before 4.17 there is none for time_stamp, and no such entries.

    Raises:
      TracefsFormatError: a known key has another number.
    Source: kernel/trace/ring_buffer.c, ring_buffer_print_entry_header().
    """
    said: dict[str, int] = {}
    for match in _EVENT_LINE.finditer(text[:_LONGEST]):
        said[match["key"]] = int(match["bits"] or match["is"])
    for key, number in (_BITS | _TYPE_LENS).items():
        if said.get(key, number) != number:
            raise TracefsFormatError(
                f"an event header that this program can't read: {key}", where="events/header_event",
                expected=str(number), got=str(said[key]),
            )  # fmt: skip


def find_byte_order(pages: Iterable[bytes], layout: PageLayout, event_ids: Container[int]) -> ByteOrder | None:
    """The byte order of the machine that wrote these sub-buffers; None when they do not tell.

    The kernel's files print the same on all machines, so the pages alone tell: each says in its head how many bytes of
    entries it has, and in its first entry which event that is. Damaged pages are outvoted.

    Args:
      pages: the beginnings of sub-buffers, PAGE_HEAD_BYTES of each.
      event_ids: that the formats have.
    """
    lengths: Counter[ByteOrder] = Counter()
    votes: Counter[ByteOrder] = Counter()
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for page in pages:
        commit = page[layout.commit_offset : layout.commit_offset + layout.commit_size]
        for order in orders:
            if 0 < int.from_bytes(commit, order) & _COMMIT_MASK <= layout.data_size:
                lengths[order] += 1
                votes[order] += _first_event_id(page[layout.data_offset :], order) in event_ids
    if not votes.total():
        # Events without a format: several pages that have a length in one order alone are no damage.
        return "big" if lengths["big"] >= _PAGES_TO_BELIEVE and not lengths["little"] else None
    return "big" if votes["big"] > votes["little"] else "little"


PAGE_HEAD_BYTES = 64  # of a sub-buffer, its head and the first entry's
_PAGES_TO_BELIEVE = 3


def _first_event_id(data: bytes, order: ByteOrder) -> int:
    """The event of the first entry, behind the times before it; -1 for none."""
    for at in range(0, len(data) - 10, 8):
        word = int.from_bytes(data[at : at + 4], order)
        type_len = word & 0x1F if order == "little" else word >> 27
        if type_len not in (TYPE_LEN_TIME_EXTEND, TYPE_LEN_TIME_STAMP):
            at += 8 if type_len == 0 else 4
            return -1 if type_len == TYPE_LEN_PADDING else int.from_bytes(data[at : at + 2], order)
    return -1
