"""The slow, obvious decoder of sub-buffers: the oracle of the fast one.

Written from the kernel's ABI alone, one step after the other, with nothing in common with
`collector.decode` or `collector.tracefs`: not even the parsers of format files. Where the two
disagree, one of them is wrong, and this one can be read in five minutes.

Sources: kernel/trace/ring_buffer.c, include/linux/ring_buffer.h, kernel/trace/trace_events.c.
"""

import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

U64 = (1 << 64) - 1
STAMP_BITS = 59  # an absolute stamp holds 27 + 32 bits
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31

# Element sizes of the C types for which a format gives `[]` and the total size, so that no dimension tells.
TYPE_SIZES = {"char": 1, "u8": 1, "s8": 1, "x8": 1, "__u8": 1, "u16": 2, "s16": 2, "x16": 2, "short": 2,
              "u32": 4, "s32": 4, "x32": 4, "int": 4, "u64": 8, "s64": 8, "x64": 8, "long": 8}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What `events/header_page` says; offsets and sizes in bytes."""

    timestamp_offset: int
    commit_offset: int
    commit_size: int  # 8, or 4 on 32-bit kernels: also the size of the stored count of lost events
    data_offset: int
    data_size: int

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
    fields: tuple[Field, ...]

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


def read_layout(text: str) -> Layout:
    """The layout of a sub-buffer from the text of `events/header_page`."""
    found = {m["decl"].split()[-1]: (int(m["offset"]), int(m["size"])) for m in FIELD_LINE.finditer(text)}
    return Layout(found["timestamp"][0], *found["commit"], *found["data"])


def read_field(system: str, event: str, match: re.Match[str]) -> list[Field]:
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
    if types == ["char"] and dim:
        return [Field(name, "chars", offset, size, signed, 1, size)]
    count = 1
    if dim:
        count = int(dim[1]) if dim[1].isdigit() else size // TYPE_SIZES.get(types[-1], size)
    if count < 1 or size % count or size // count not in (1, 2, 4, 8) or (dim and size == count):
        return [Field(name, "chars", offset, size, signed, 1, size)]  # a struct, or an array of bytes: all in one
    return [Field(name, "int", offset, size, signed, count, size // count)]


def read_format(system: str, text: str) -> Format:
    """One `format` file; the first block of fields is the head that all records share."""
    name = re.search(r"^name: (.*)$", text, re.M)[1]
    number = int(re.search(r"^ID: (\d+)$", text, re.M)[1])
    fields = [f for m in FIELD_LINE.finditer(text.split("\nprint fmt:")[0]) for f in read_field(system, name, m)]
    common = tuple(f for f in fields if f.name.startswith("common_"))
    own = sorted((f for f in fields if not f.name.startswith("common_")), key=lambda f: f.offset)
    return Format(number, system, name, common, tuple(own))


# ---- one record


def integer(record: bytes, at: int, size: int, signed: bool) -> int:
    return int.from_bytes(record[at : at + size], "little", signed=signed)


def located(record: bytes, f: Field) -> tuple[int, int]:
    """(offset, length) of the content of a `__data_loc` or `__rel_loc` field."""
    word = integer(record, f.offset, 4, False)
    base = f.offset + 4 if f.kind == "rel_loc" else 0
    return base + (word & 0xFFFF), word >> 16


def field_values(record: bytes, fmt: Format) -> dict[str, Any] | None:
    """{name: value} of a record, or None when the record isn't what its format says."""
    if fmt.fixed_end > len(record):
        return None
    variable = 0
    values: dict[str, Any] = {}
    for f in fmt.fields:
        if f.kind in ("data_loc", "rel_loc"):
            start, length = located(record, f)
            if start + length > len(record):
                return None
            variable += length
            values[f.name] = record[start : start + length]
        elif f.kind == "tail":
            values[f.name] = record[f.offset :]
        elif f.kind == "chars":
            values[f.name] = record[f.offset : f.offset + f.size]
        elif f.count == 1:
            values[f.name] = integer(record, f.offset, f.size, f.signed)
        else:
            values[f.name] = [integer(record, f.offset + i * f.element_size, f.element_size, f.signed)
                              for i in range(f.count)]  # fmt: skip
    if variable > len(record):
        return None
    return values  # bytes behind the last field are alignment, or what the ring held before: no field


def decode_record(ts: int, record: bytes, formats: dict[int, Format]) -> Entry | None:
    """One entry, or None when the record cannot even hold the common head."""
    any_format = next(iter(formats.values()))
    if len(record) < any_format.common_end:
        return None
    head = {f.name: integer(record, f.offset, f.size, f.signed) for f in any_format.common}
    fmt = formats.get(head["common_type"])
    fields = field_values(record, fmt) if fmt else None
    return Entry(ts, head["common_type"], head["common_flags"], head["common_preempt_count"], head["common_pid"],
                 fields, record)  # fmt: skip


# ---- one page


def page_head(page: bytes, layout: Layout) -> tuple[int, int, bool, int | None]:
    """(timestamp, length of the data, events were lost before it, how many or None)."""
    ts = integer(page, layout.timestamp_offset, 8, False)
    commit = integer(page, layout.commit_offset, layout.commit_size, False) & 0xFFFFFFFF  # sign-extended, or not
    length = commit & ~(3 << 30)
    lost, stored = bool(commit & 1 << 31), bool(commit & 1 << 30)
    count = None
    if lost and stored and length + layout.commit_size <= layout.data_size:
        count = integer(page, layout.data_offset + length, layout.commit_size, False)
    return ts, length, lost, count


def walk(data: bytes, ts: int) -> tuple[list[tuple[int, bytes]], str]:
    """([(ts, record)], fault) of a page's data, cut to its length.

    The records are those before the fault: "truncated", "length", "overrun_entry", or "" for none.
    """
    records = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            return records, "truncated"
        (word,) = struct.unpack_from("<I", data, at)
        type_len, delta = word & 31, word >> 5
        if type_len == PADDING and delta == 0:
            break
        if 1 <= type_len <= 28:
            start, end = at + 4, at + 4 + 4 * type_len
        else:
            if len(data) - at < 8:
                return records, "truncated"
            (more,) = struct.unpack_from("<I", data, at + 4)
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
            records, fault = walk(page[layout.data_offset : layout.data_offset + length], ts)
        if lost:  # where the data are said to end the count stands; of a malformed page neither is to be trusted
            out.gaps.append((len(out.entries), None if fault else count))
        for ts, record in records:
            entry = decode_record(ts, record, formats)
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
    found = (read_format(p.parent.parent.name, p.read_text()) for p in sorted(tracefs.glob("events/*/*/format")))
    return {f.id: f for f in found}


def read_case(case: Path) -> tuple[Layout, dict[int, Format], dict[int, bytes]]:
    """(layout, formats, {cpu: pages}) of a recorded kernel."""
    tracefs = case / "tracefs"
    pages = {int(p.name[3:]): (p / "trace_pipe_raw").read_bytes() for p in sorted(tracefs.glob("per_cpu/cpu*"))}
    return read_layout((tracefs / "events/header_page").read_text()), read_formats(tracefs), pages
