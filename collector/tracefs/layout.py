"""The layout of a sub-buffer, from events/header_page and events/header_event. Pure."""

import re
from dataclasses import dataclass

from collector.errors import TracefsFormatError

TYPE_LEN_DATA_MAX = 28
TYPE_LEN_PADDING = 29
TYPE_LEN_TIME_EXTEND = 30
TYPE_LEN_TIME_STAMP = 31

_FIELD = re.compile(r"\s*field:[^;]*?(?P<name>\w+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);")

# {key of header_event: the number that the decoder is built for}
_TYPE_LENS = {
    "padding": TYPE_LEN_PADDING,
    "time_extend": TYPE_LEN_TIME_EXTEND,
    "time_stamp": TYPE_LEN_TIME_STAMP,
    "data max type_len": TYPE_LEN_DATA_MAX,
}
_BITS = {"type_len": 5, "time_delta": 27, "array": 32}
_EVENT_LINE = re.compile(
    r"\s*(?P<key>[a-z_]+(?: [a-z_]+)*)\s*(?::(?P<bits>\s*\d+) bits|:?\s*(?:type )?==\s*(?P<is>\d+))"
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
    found = {match["name"]: (int(match["offset"]), int(match["size"])) for match in _FIELD.finditer(text)}
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
        or layout.data_size <= 0
    ):
        raise TracefsFormatError(
            "a layout that this program can't read", where="events/header_page",
            expected="a timestamp of 8 bytes, a commit of 4 or 8, and data behind both", got=repr(layout),
        )  # fmt: skip
    return layout


def parse_header_event(text: str) -> None:
    """Check that events/header_event says what the decoder is built for.

    Raises:
      TracefsFormatError: a known key has another number, or is missing.
    Source: kernel/trace/ring_buffer.c, ring_buffer_print_entry_header().
    """
    said: dict[str, int] = {}
    for match in _EVENT_LINE.finditer(text):
        said[match["key"]] = int(match["bits"] or match["is"])
    for key, number in (_BITS | _TYPE_LENS).items():
        if said.get(key) != number:
            raise TracefsFormatError(
                f"an event header that this program can't read: {key}", where="events/header_event",
                expected=str(number), got=str(said.get(key, "no such line")),
            )  # fmt: skip
