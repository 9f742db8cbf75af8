"""The slow, obvious decoder of sub-buffers: the oracle of the fast one.

Written from the kernel's ABI alone, one step after the other, with nothing in common with
`collector.decode` or `collector.tracefs`: not even the parsers of format files. Where the two
disagree, one of them is wrong, and this one can be read in five minutes.

Sources: kernel/trace/ring_buffer.c, include/linux/ring_buffer.h, kernel/trace/trace_events.c.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

U64 = (1 << 64) - 1
STAMP_BITS = 59  # an absolute stamp holds 27 + 32 bits
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31

ByteOrder = Literal["little", "big"]

# Element sizes of the C types, for arrays whose dimension doesn't tell; of a long and a pointer, the word's.
TYPE_SIZES = {1: "char u8 s8 x8 __u8 __s8 uint8_t int8_t bool",
              2: "u16 s16 x16 __u16 __s16 __be16 __le16 uint16_t",
              4: "u32 s32 x32 __u32 __s32 __be32 __le32 int unsigned uint32_t int32_t",
              8: "u64 s64 x64 __u64 __s64 __be64 uint64_t int64_t"}  # fmt: skip
WORD_TYPES = ("size_t", "ssize_t", "uintptr_t", "cpumask_t")
HEAD = ("common_type", "common_flags", "common_preempt_count", "common_pid")  # others are fields as an event's own


@dataclass(frozen=True)
class Layout:
    """What `events/header_page` says; offsets and sizes in bytes."""

    timestamp_offset: int
    commit_offset: int
    commit_size: int  # the kernel's word, 8 or 4: also the size of the stored count of lost events
    data_offset: int
    data_size: int
    byte_order: ByteOrder = "little"  # no file says it

    @property
    def subbuf_size(self) -> int:
        return self.data_offset + self.data_size


@dataclass(frozen=True)
class Field:
    """One field of a format; `kind` is int, chars, data_loc, rel_loc or tail."""

    name: str
    kind: str
    offset: int
    size: int  # what the format file says: all elements together, 0 for a tail
    signed: bool
    count: int  # elements: > 1 for an array of integers
    element_size: int

    @property
    def fixed_end(self) -> int:
        """The end of the field's part that every record has; of a location, the u32 that is read of it."""
        return self.offset + (0 if self.kind == "tail" else 4 if self.kind.endswith("_loc") else self.size)


@dataclass(frozen=True)
class Format:
    """One event: its name and its fields, in the order of their offsets."""

    id: int
    system: str
    name: str
    common: tuple[Field, ...]
    fields: tuple[Field, ...]  # those of the head that not every kernel has come first

    @cached_property
    def common_end(self) -> int:
        return max(f.fixed_end for f in self.common)

    @cached_property
    def fixed_end(self) -> int:
        """What a record has at least."""
        return max((f.fixed_end for f in self.fields), default=0)


@dataclass(frozen=True)
class Entry:
    """One entry; `fields` is None in raw mode: nothing but the bytes of the record is to be relied on."""

    ts: int
    id: int
    flags: int
    preempt_count: int
    pid: int
    fields: dict[str, Any] | None
    record: bytes  # all of it, from the common head on


@dataclass
class Decoded:
    """What a run of pages held."""

    entries: list[Entry] = field(default_factory=list)
    gaps: list[tuple[int, int | None]] = field(default_factory=list)  # (index of the next entry, count or None)
    malformed: list[tuple[int, str]] = field(default_factory=list)  # (index of the page, reason)
    behind: list[int] = field(default_factory=list)  # of each malformed page, the index of the first entry behind it
    skipped: Counter[str] = field(default_factory=Counter)  # {reason: entries before any fault that gave none}


# ---- events/header_page and events/*/*/format

FIELD_LINE = re.compile(r"^\s*field:(?P<decl>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
                        r"(?:\s*signed:(?P<signed>\d+);)?", re.M)  # fmt: skip


def read_layout(text: str, byte_order: ByteOrder = "little") -> Layout:
    """The layout of a sub-buffer from the text of `events/header_page`."""
    found = {m["decl"].split()[-1]: (int(m["offset"]), int(m["size"])) for m in FIELD_LINE.finditer(text)}
    return Layout(found["timestamp"][0], *found["commit"], *found["data"], byte_order)


def type_size(types: list[str], word: int) -> int | None:
    """Bytes of a C type, by its words; None when unknown."""
    if any("*" in t for t in types):
        return word
    plain = [t for t in types if t not in ("const", "volatile", "signed", "__data_loc", "__rel_loc")] or ["int"]
    if "long" in plain or "short" in plain:  # with or without an "int" behind it
        return 2 if "short" in plain else 8 if plain.count("long") == 2 else word
    if plain[-1] in WORD_TYPES:
        return word
    return next((size for size, names in TYPE_SIZES.items() if plain[-1] in names.split()), None)


def read_field(system: str, event: str, match: re.Match[str], word: int) -> list[Field]:
    """One field line; `kind` follows from the declaration, place and width never do.

    Usually one field; of an array of strings (`__data_loc char[][2] name`, only probes have it) each one.
    """
    decl = match["decl"].strip()
    offset, size, signed = int(match["offset"]), int(match["size"]), match["signed"] == "1"
    dim = re.search(r"\[([^\]]*)\]$", decl)
    words = re.sub(r"\[[^\]]*\]", " ", decl).split()
    name, types = words[-1], words[:-1]
    if types[0] in ("__data_loc", "__rel_loc"):
        strings = re.search(r"\[\]\[(\d+)\]", decl)
        if strings:
            return [Field(f"{name}[{i}]", types[0][2:], offset + 4 * i, 4, signed, 1, 1)
                    for i in range(int(strings[1]))]  # fmt: skip
        # A synthetic event says size 8 for its u64 slot: the location is the first half, the other is old memory.
        return [Field(name, types[0][2:], offset, size, signed, 1, 1)]
    # The format says caller[8], the record holds as many as its `size` field says.
    if size == 0 or (system, event, name) == ("ftrace", "kernel_stack", "caller"):
        return [Field(name, "tail", offset, size, signed, 1, 1)]
    known = type_size(types, word)
    if (dim and known == 1) or ({"struct", "union"} & {*types[:2]} and "*" not in decl):
        return [Field(name, "chars", offset, size, signed, 1, size)]
    count = 1
    if dim and known and size % known == 0:  # the type is believed where it and the dimension disagree
        count = size // known
    elif dim:
        count = int(dim[1]) if dim[1].isdigit() else 1
    if count < 1 or size % count or size // count not in (1, 2, 4, 8) or (dim and size == count):
        return [Field(name, "chars", offset, size, signed, 1, size)]  # a struct, or an array of bytes: all in one
    return [Field(name, "int", offset, size, signed, count, size // count)]


def read_format(system: str, text: str, word: int) -> Format:
    """One `format` file; the first block of fields is the head that all records share. `word`: bytes of a long."""
    name = re.search(r"^name: (.*)$", text, re.M)[1]
    number = int(re.search(r"^ID: (\d+)$", text, re.M)[1])
    blocks = text.split("\nprint fmt:")[0].split("\n\n")
    common, own = ([f for m in FIELD_LINE.finditer(block) for f in read_field(system, name, m, word)]
                   for block in (blocks[0], "".join(blocks[1:])))  # fmt: skip
    extra = [f for f in common if f.name not in HEAD]
    return Format(number, system, name, tuple(common), tuple(sorted([*extra, *own], key=lambda f: f.offset)))


# ---- one record


def integer(record: bytes, at: int, size: int, signed: bool, order: ByteOrder) -> int:
    return int.from_bytes(record[at : at + size], order, signed=signed)


def located(record: bytes, f: Field, order: ByteOrder) -> tuple[int, int]:
    """(offset, length) of the content of a `__data_loc` or `__rel_loc` field."""
    word = integer(record, f.offset, 4, False, order)
    base = f.offset + 4 if f.kind == "rel_loc" else 0
    return base + (word & 0xFFFF), word >> 16


def field_values(record: bytes, fmt: Format, order: ByteOrder) -> dict[str, Any] | None:
    """{name: value} of a record, or None when the record isn't what its format says."""
    if fmt.fixed_end > len(record):
        return None
    variable = 0
    values: dict[str, Any] = {}
    for f in fmt.fields:
        if f.kind in ("data_loc", "rel_loc"):
            start, length = located(record, f, order)
            if start + length > len(record):
                return None
            variable += length
            values[f.name] = record[start : start + length]
        elif f.kind == "tail":
            values[f.name] = record[f.offset :]
        elif f.kind == "chars":
            values[f.name] = record[f.offset : f.offset + f.size]
        elif f.count == 1:
            values[f.name] = integer(record, f.offset, f.size, f.signed, order)
        else:
            values[f.name] = [integer(record, f.offset + i * f.element_size, f.element_size, f.signed, order)
                              for i in range(f.count)]  # fmt: skip
    if variable > len(record):
        return None
    return values  # bytes behind the last field are alignment, or what the ring held before: no field


def decode_record(ts: int, record: bytes, formats: dict[int, Format], order: ByteOrder) -> Entry | None:
    """One entry, or None when the record cannot even hold the common head."""
    any_format = next(iter(formats.values()))
    if len(record) < any_format.common_end:
        return None
    head = {f.name: integer(record, f.offset, f.size, f.signed, order) for f in any_format.common}
    fmt = formats.get(head["common_type"])
    fields = field_values(record, fmt, order) if fmt else None
    return Entry(ts, head["common_type"], head["common_flags"], head["common_preempt_count"], head["common_pid"],
                 fields, record)  # fmt: skip


# ---- one page


def page_head(page: bytes, layout: Layout) -> tuple[int, int, bool, int | None]:
    """(timestamp, length of the data, events were lost before it, how many or None)."""
    order = layout.byte_order
    ts = integer(page, layout.timestamp_offset, 8, False, order)
    commit = integer(page, layout.commit_offset, layout.commit_size, False, order) & 0xFFFFFFFF  # sign-extended, or not
    length = commit & ~(3 << 30)
    lost, stored = bool(commit & 1 << 31), bool(commit & 1 << 30)
    count = None
    if lost and stored and length + layout.commit_size <= layout.data_size:
        count = integer(page, layout.data_offset + length, layout.commit_size, False, order)
    return ts, length, lost, count


def walk(data: bytes, ts: int, order: ByteOrder) -> tuple[list[tuple[int, bytes]], str]:
    """([(ts, record)], fault) of a page's data, cut to its length.

    The records are those before the fault: "truncated", "length", "overrun_entry", or "" for none.
    """
    records = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            return records, "truncated"
        word = integer(data, at, 4, False, order)
        type_len, delta = (word & 31, word >> 5) if order == "little" else (word >> 27, word & (1 << 27) - 1)
        if type_len == PADDING and delta == 0:
            break
        if 1 <= type_len <= 28:
            start, end = at + 4, at + 4 + 4 * type_len
        else:
            if len(data) - at < 8:
                return records, "truncated"
            more = integer(data, at + 4, 4, False, order)
            if type_len in (TIME_EXTEND, TIME_STAMP):
                value = delta | more << 27
                if type_len == TIME_EXTEND:
                    ts = (ts + value) & U64
                else:
                    stamp = ts >> STAMP_BITS << STAMP_BITS | value
                    ts = (stamp if stamp >= ts else stamp + (1 << STAMP_BITS)) & U64
                at += 8
                continue
            if type_len == 0 and more < 4:
                return records, "length"
            start, end = at + 8, at + 4 + more
        if end > len(data):
            return records, "overrun_entry"
        if type_len != PADDING:
            ts = (ts + delta) & U64
            records.append((ts, data[start:end]))
        elif delta != 1:  # a discarded entry: the next one's delta counts from its time
            ts = (ts + delta) & U64
        at = end
    return records, ""


def decode_pages(pages: bytes, layout: Layout, formats: dict[int, Format]) -> Decoded:
    """Decode whole sub-buffers of one CPU, one after the other.

    Args:
      pages: sub-buffers of `layout.subbuf_size` bytes each.
      formats: {event id: Format}; not empty, for they also tell where the common fields are.
    """
    if len(pages) % layout.subbuf_size:
        raise ValueError(f"{len(pages)} bytes are not whole sub-buffers of {layout.subbuf_size}")
    out = Decoded()
    for number, at in enumerate(range(0, len(pages), layout.subbuf_size)):
        page = pages[at : at + layout.subbuf_size]
        ts, length, lost, count = page_head(page, layout)
        if length > layout.data_size:
            records, fault = [], "commit"
        else:
            records, fault = walk(page[layout.data_offset : layout.data_offset + length], ts, layout.byte_order)
        if lost:  # where the data are said to end the count stands; of a malformed page neither is to be trusted
            out.gaps.append((len(out.entries), None if fault else count))
        for ts, record in records:
            entry = decode_record(ts, record, formats, layout.byte_order)
            if entry is None:
                out.skipped["short"] += 1
            else:
                out.entries.append(entry)
        if fault:
            out.malformed.append((number, fault))
            out.behind.append(len(out.entries))
    return out


# ---- a recorded tree


def read_formats(tracefs: Path) -> dict[int, Format]:
    """{event id: Format} of all format files below `events`."""
    word = read_layout((tracefs / "events/header_page").read_text()).commit_size
    found = (read_format(p.parent.parent.name, p.read_text(), word) for p in sorted(tracefs.glob("events/*/*/format")))
    return {f.id: f for f in found}


def read_case(case: Path) -> tuple[Layout, dict[int, Format], dict[int, bytes]]:
    """(layout, formats, {cpu: pages}) of a recorded kernel."""
    tracefs = case / "tracefs"
    pages = {int(p.name[3:]): (p / "trace_pipe_raw").read_bytes() for p in sorted(tracefs.glob("per_cpu/cpu*"))}
    return read_layout((tracefs / "events/header_page").read_text()), read_formats(tracefs), pages
