"""Sub-buffers made by hand, and hypothesis strategies of sound and of damaged ones.

Everything here is little-endian and laid out as kernel/trace/ring_buffer.c has it.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import strategies as st

U64 = (1 << 64) - 1
HEADER_SIZE = 16  # of a 64-bit kernel's page: u64 timestamp, s64 commit
COUNT_SIZE = 8  # of the stored number of lost events
LOST, COUNT_STORED = 1 << 31, 1 << 30  # flags in commit

HEADER_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:{data_size};\tsigned:0;
"""  # events/header_page of a 64-bit kernel

_COMMON = """\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""


def format_text(name: str, event_id: int, *fields: tuple[str, int, int, int]) -> str:
    """A format file; each field is (declaration, offset, size, signed)."""
    own = "".join(f"\tfield:{d};\toffset:{o};\tsize:{s};\tsigned:{g};\n" for d, o, s, g in fields)
    return f'name: {name}\nID: {event_id}\nformat:\n{_COMMON}\n{own}\nprint fmt: ""\n'


# {(system, event): format file}: one event for each way in which a record can be laid out
FORMATS = {
    ("made", "integers"): format_text(
        "integers", 501,
        ("u8 a", 8, 1, 0), ("s8 b", 9, 1, 1), ("u16 c", 10, 2, 0), ("s16 d", 12, 2, 1),
        ("u32 e", 16, 4, 0), ("int f", 20, 4, 1), ("u64 g", 24, 8, 0), ("long h", 32, 8, 1)),
    ("made", "arrays"): format_text(
        "arrays", 502,
        ("char comm[16]", 8, 16, 0), ("u8 mac[6]", 24, 6, 0), ("s16 pair[2]", 32, 4, 1), ("unsigned long args[3]", 40,
                                                                                          24, 0)),
    ("made", "located"): format_text(
        "located", 503,
        ("__data_loc char[] name", 8, 4, 0), ("int n", 12, 4, 1), ("__data_loc u32[] words", 16, 4, 0),
        ("__rel_loc char[] where", 20, 4, 0)),
    ("made", "tailed"): format_text("tailed", 504, ("unsigned long ip", 8, 8, 0), ("char buf[]", 16, 0, 0)),
    ("made", "bare"): format_text("bare", 505),
}  # fmt: skip
FIXED_SIZES = {501: 40, 502: 64, 503: 24, 504: 16, 505: 8}  # {event id: bytes up to the end of the last fixed field}
LOCATIONS = {503: ((8, 0), (16, 0), (20, 24))}  # {event id: (offset of the u32, what its offset counts from)}
UNKNOWN_ID = 999


# ---- one event at a time


def build_word(type_len: int, delta: int) -> bytes:
    """The first word of an event."""
    return struct.pack("<I", type_len | delta << 5)


def build_data(record: bytes, delta: int = 0, *, long: bool = False) -> bytes:
    """A data event; `long` stores the length in a word of its own also where type_len could hold it."""
    if not long and len(record) % 4 == 0 and 4 <= len(record) <= 28 * 4:
        return build_word(len(record) // 4, delta) + record
    return build_word(0, delta) + struct.pack("<I", len(record) + 4) + record


def build_dead_space(size: int, delta: int = 1) -> bytes:
    """`size` >= 8 bytes without an entry; a delta other than 1 is that of a discarded entry."""
    return build_word(29, delta) + struct.pack("<I", size - 4) + b"\xdd" * (size - 8)


def build_rest_is_void() -> bytes:
    """What ends a page early: nothing behind it is defined."""
    return build_word(29, 0)


def build_time_extend(delta: int) -> bytes:
    """Up to 59 bits to add to the time."""
    return build_word(30, delta & (1 << 27) - 1) + struct.pack("<I", delta >> 27)


def build_time_stamp(ts: int) -> bytes:
    """The low 59 bits of an absolute time."""
    return build_word(31, ts & (1 << 27) - 1) + struct.pack("<I", ts >> 27 & 0xFFFFFFFF)


def build_record(event_id: int, body: bytes = b"", *, flags: int = 0, preempt_count: int = 0, pid: int = 0) -> bytes:
    """A record: the common head and what follows it."""
    return struct.pack("<HBBi", event_id, flags, preempt_count, pid) + body


def build_page(
    data: bytes,
    ts: int = 0,
    *,
    size: int = 4096,
    lost: bool = False,
    count: int | None = None,
    sign_extend: bool = True,
    commit: int | None = None,
    stale: int = 0,
) -> bytes:
    """A sub-buffer of `size` bytes.

    Args:
      lost: events were lost before this page; `count` of them, stored if given and if there is room for it.
      sign_extend: as read() of 6.1 and 6.18 gives a flagged commit; 6.12 clears the upper half.
      commit: instead of the right one.
      stale: the byte that fills the rest, as a mapped page has old data there.
    """
    room = size - HEADER_SIZE - len(data)
    if room < 0:
        raise ValueError(f"{len(data)} bytes of data do not fit a sub-buffer of {size}")
    if commit is None:
        commit = len(data)
        if lost:
            commit |= LOST
            if count is not None and room >= COUNT_SIZE:
                commit |= COUNT_STORED
                data += struct.pack("<Q", count)
            if sign_extend:
                commit |= 0xFFFFFFFF << 32
    return (struct.pack("<QQ", ts & U64, commit & U64) + data).ljust(size, bytes([stale]))


@contextmanager
def as_file(data: bytes) -> Iterator[int]:
    """A file of recorded pages, at its beginning."""
    fd = os.memfd_create("pages")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


# ---- strategies

# Made once: hypothesis takes longer to make one of these than to draw from it, and an example draws hundreds.
_id = st.sampled_from([*FIXED_SIZES, UNKNOWN_ID])
_size_error = st.sampled_from([0, 0, 0, 4, 8, 40, 400, -4, -8])
_byte, _word16 = st.integers(0, 255), st.integers(0, 0xFFFF)
_pid = st.integers(-(1 << 31), (1 << 31) - 1)
_one_in_10, _one_in_20 = st.integers(0, 9), st.integers(0, 19)
_torn_size = st.sampled_from([4, 7])
_kind = st.sampled_from(["data"] * 6 + ["long", "dead", "discarded", "extend", "stamp"])
_dead_words = st.integers(2, 16)
_discarded_delta = st.integers(2, (1 << 27) - 1)
_stamp = st.integers(0, (1 << 59) - 1)
_delta = st.one_of(st.integers(0, 3), st.integers(0, (1 << 27) - 1))
_time = st.one_of(st.integers(0, 1 << 40), st.integers(0, U64), st.sampled_from([(1 << 59) - 1, 1 << 59, U64]))


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record, most often as its format says, sometimes with an unknown id, a wrong size or a location outside."""
    event_id = draw(_id)
    size = FIXED_SIZES.get(event_id, 8) + draw(_size_error)
    body = bytearray(draw(st.binary(min_size=max(size - 8, 0), max_size=max(size - 8, 0))))
    record = bytearray(
        build_record(event_id, bytes(body), flags=draw(_byte), preempt_count=draw(_byte), pid=draw(_pid))
    )
    place = FIXED_SIZES.get(event_id, 8)
    for offset, base in LOCATIONS.get(event_id, ()):
        length = draw(st.integers(0, max(len(record) - place, 0)))
        at = place - base
        if draw(_one_in_10) == 0:  # anywhere, any length
            at, length = draw(_word16), draw(_word16)
        if offset + 4 <= len(record):
            record[offset : offset + 4] = struct.pack("<I", at | length << 16)
        place += length
    return bytes(record[: draw(_torn_size)] if draw(_one_in_20) == 0 else record)


_records = records()


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One event of a page, of any type but the one that makes the rest void."""
    kind = draw(_kind)
    if kind in ("data", "long"):
        return build_data(draw(_records), draw(_delta), long=kind == "long")
    if kind == "dead":
        return build_dead_space(draw(_dead_words) * 4)
    if kind == "discarded":
        return build_dead_space(draw(_dead_words) * 4, draw(_discarded_delta))
    if kind == "extend":
        return build_time_extend(draw(_stamp))
    return build_time_stamp(draw(_stamp))


_events = st.lists(events(), max_size=30)
_ending = st.sampled_from(["none", "void", "fill"])
_count = st.none() | st.integers(0, U64)
_flag = st.booleans()
_stale = st.sampled_from([0, 0xFF, 0x21])


@st.composite
def sound_pages(draw: st.DrawFn, size: int = 4096) -> bytes:
    """A sub-buffer that can be walked to its end, with random records."""
    data = b""
    for event in draw(_events):
        if len(data) + len(event) <= size - HEADER_SIZE:
            data += event
    room = size - HEADER_SIZE - len(data)
    ending = draw(_ending)
    if ending == "void" and room >= 4:
        data += build_rest_is_void() + draw(st.sampled_from([b"", b"\xff" * min(64, room - 4)]))
    elif ending == "fill" and room >= 8:
        data += build_dead_space(room)
    return build_page(
        data,
        draw(_time),
        size=size,
        lost=draw(_flag),
        count=draw(_count),
        sign_extend=draw(_flag),
        stale=draw(_stale),
    )


@dataclass(frozen=True)
class Mutation:
    """One damage to a page: `how` at the word `at`, with `value`."""

    how: str  # flip, word, commit or copy
    at: int  # counted in words, modulo the page's
    value: int

    def apply(self, page: bytearray) -> None:
        words = len(page) // 4
        at = self.at % words * 4
        (old,) = struct.unpack_from("<I", page, at)
        if self.how == "flip":
            struct.pack_into("<I", page, at, old ^ 1 << self.value % 32)
        elif self.how == "word":
            struct.pack_into("<I", page, at, self.value)
        elif self.how == "commit":  # the low half of the commit field
            struct.pack_into("<I", page, 8, self.value)
        else:  # a word from elsewhere in the page: events begin where none should
            struct.pack_into("<I", page, at, struct.unpack_from("<I", page, self.value % words * 4)[0])


_nasty = st.sampled_from([0, 1, 3, 4, 5, 7, 8, 28, 29, 30, 31, 61, 4080, 4084, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                          0xFFFFFFFC, 0xC0000FF0, 0x40000FF0, 0xC0000FE8, 0x80000FF1])  # fmt: skip
_word = st.one_of(_nasty, st.integers(0, 0xFFFFFFFF), st.integers(0, 4200))
# Most events are near the page's beginning, and a damage near it does most.
_where = st.one_of(st.integers(0, 40), st.integers(0, 1 << 17))
mutations = st.builds(Mutation, st.sampled_from(["flip", "flip", "word", "commit", "copy"]), _where, _word)


@dataclass(frozen=True)
class DamagedPage:
    """Which page, and what is done to it: short to print, where the bytes would fill the screen."""

    page: int
    mutations: tuple[Mutation, ...]

    def build(self, pages: Sequence[bytes]) -> bytes:
        """The damaged bytes."""
        page = bytearray(pages[self.page % len(pages)])
        for mutation in self.mutations:
            mutation.apply(page)
        return bytes(page)


# Pages are counted modulo those that there are; one to eight damages each.
damaged_pages = st.builds(DamagedPage, st.integers(0, 1000), st.lists(mutations, min_size=1, max_size=8).map(tuple))
