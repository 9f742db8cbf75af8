"""Event formats: which bytes of a record hold which field. Pure.

Grammar of events/SYSTEM/EVENT/format (tabs and newlines as in the file):

    format  = "name: " NAME NL "ID: " NUMBER NL "format:" NL common NL fields NL "print fmt: " TEXT
    common  = *line            ; the head that all records share, ends with an empty line
    fields  = *line            ; the event's own, ends with an empty line
    line    = TAB "field:" DECL ";" TAB "offset:" N ";" TAB "size:" N ";" [TAB "signed:" 0|1 ";"] NL
    DECL    = type words, name last, then optional "[dim]"; "__data_loc T[] name" and "__rel_loc T name[]" for data
              that lies elsewhere in the record; of a probe's array of strings the dimension stands in the type,
              "__data_loc char[][3] name"

TEXT runs to the end of the file, newlines included. Of a single number the C type is not to be believed: syscalls
say `int fd` for 8 bytes; offset, size and sign count. Of an array the type says how it divides, and the declared
dimension counts only where the type says nothing: kernels have printed `char name[32]` for 64 bytes, and of user
events `char name[136808104]` for 8. What a field's bytes mean, meaning.py says.

Source: kernel/trace/trace_events.c, f_show(); include/trace/stages/stage4_event_fields.h; trace_probe.c,
trace_events_synth.c and trace_events_user.c for the types of events that are made at run time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from collector.errors import TracefsFormatError
from collector.tracefs.layout import MOST_SUBBUF_BYTES

FieldClass = Literal["int", "chars", "data_loc", "rel_loc", "tail"]

INTERNAL_SYSTEM = "ftrace"  # records of tracers and markers: they have formats, but can't be enabled

INT_SIZES = (1, 2, 4, 8)

MOST_FIELDS = 4096  # of an event; a probe has at most 128 arguments, and a system call six
MOST_STRINGS = 1024  # of an array in a probe, which has 64 elements at most

# The head's fields that a batch keeps for every event; others of the head are columns of each event.
HEAD_FIELDS = ("common_type", "common_flags", "common_preempt_count", "common_pid")

# {C element type: bytes}; a long and a pointer are the machine's word.
_TYPE_SIZES = {
    "char": 1, "signed char": 1, "unsigned char": 1, "bool": 1, "_Bool": 1, "u8": 1, "s8": 1, "x8": 1, "__u8": 1,
    "__s8": 1, "uint8_t": 1, "int8_t": 1, "short": 2, "short int": 2, "unsigned short": 2, "short unsigned int": 2,
    "u16": 2, "s16": 2, "x16": 2, "__u16": 2, "__s16": 2, "__be16": 2, "__le16": 2, "uint16_t": 2, "int16_t": 2,
    "int": 4, "unsigned": 4, "unsigned int": 4, "u32": 4, "s32": 4, "x32": 4, "__u32": 4, "__s32": 4, "__be32": 4,
    "__le32": 4, "uint32_t": 4, "int32_t": 4, "gfp_t": 4, "pid_t": 4, "dev_t": 4, "long long": 8,
    "long long int": 8, "unsigned long long": 8, "long long unsigned int": 8, "u64": 8, "s64": 8, "x64": 8,
    "__u64": 8, "__s64": 8, "__be64": 8, "__le64": 8, "uint64_t": 8, "int64_t": 8, "loff_t": 8, "sector_t": 8,
}  # fmt: skip
_WORD_TYPES = frozenset(
    {"long", "unsigned long", "long unsigned int", "long int", "size_t", "ssize_t", "uintptr_t", "cpumask_t"}
)

_LINE = re.compile(
    r"\s*field:(?P<decl>[^;]*);\s*offset:(?P<offset>\d{1,10});\s*size:(?P<size>\d{1,10});(?:\s*signed:(?P<signed>[01]);)?\s*$"
)
_DECL = re.compile(r"^(?P<type>.*?)(?P<name>[A-Za-z_]\w*)\s*(?P<dims>(?:\[[^\]]*\])*)$")
# The second dimension of a probe's array of strings, in the type, or behind the name.
_STRING_ARRAY = re.compile(r"(?P<first>\[\]\s*)?\[(?P<count>\d{1,10})\]$")
_QUALIFIERS = re.compile(r"\b(?:const|volatile)\b")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record."""

    name: str
    type: str  # the C type as printed, dimension included: for people, not for decoding
    offset: int  # bytes from the start of the record
    size: int  # bytes as the format file says (0: to the record's end; 4 for a data_loc)
    signed: bool  # of the value, or of the element
    common: bool  # part of the head that all records share
    cls: FieldClass  # how to decode it
    element_size: int  # int: bytes per element; chars: size; data_loc, rel_loc, tail: bytes per element
    count: int  # int: elements; else 1
    doubt: str = ""  # how the declaration contradicts itself, and what was believed


@dataclass(frozen=True, slots=True)
class EventFormat:
    """One parsed format file."""

    id: int  # the record's common_type
    system: str
    name: str
    fields: tuple[Field, ...]  # by offset, the common ones included
    print_fmt: str  # without "print fmt: "
    text: str  # the whole file
    word_size: int  # bytes of the kernel's long

    @property
    def name_full(self) -> str:
        """`system:name`, as set_event takes it."""
        return f"{self.system}:{self.name}"

    @property
    def columns(self) -> tuple[Field, ...]:
        """The fields that entries of this event keep, by offset: all but the four that every entry has."""
        return tuple(field for field in self.fields if not (field.common and field.name in HEAD_FIELDS))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Where the file contradicts itself, and what of it was believed."""
        return tuple(f"{field.name}: {field.doubt}" for field in self.fields if field.doubt)


def parse_event_format(text: str, system: str, word_size: int) -> EventFormat:
    """Parse one format file.

    Args:
      text: the whole file.
      system: the folder above the event's, which the file doesn't name.
      word_size: bytes of the kernel's long, see `PageLayout.word_size`.
    Raises:
      TracefsFormatError: a line is not as documented above; it names the line.
    """
    name = ""
    event_id: int | None = None
    fields: list[Field] = []
    in_head = True
    print_fmt = ""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        where = f"format of {system}:{name or '?'}, line {number}"
        if line.startswith("print fmt:"):
            rest = "\n".join(lines[number - 1 :])
            print_fmt = rest.removeprefix("print fmt:").strip()
            break
        if line.startswith("name:"):
            name = line.removeprefix("name:").strip()
        elif line.startswith("ID:"):
            event_id = _parse_id(line, where)
        elif "field:" in line:
            fields.extend(_parse_field(line, where, common=in_head, word_size=word_size))
            if len(fields) > MOST_FIELDS:
                raise TracefsFormatError("too many fields", where=where, expected=f"at most {MOST_FIELDS}")
        elif not line.strip():
            # The first empty line that follows a field ends the common head.
            in_head = in_head and not fields
        elif line.strip() != "format:":
            raise TracefsFormatError("unknown line", where=where, expected="name, ID, format or field", got=repr(line))
    if not name or event_id is None or not fields:
        raise TracefsFormatError(
            "not a format file", where=f"format of {system}:{name or '?'}", expected="name, ID and fields",
            got=repr(text[:80]),
        )  # fmt: skip
    fields.sort(key=lambda field: field.offset)
    if system == INTERNAL_SYSTEM and name == "kernel_stack":
        fields = [_as_open_stack(field) for field in fields]
    _check_tail(fields, f"format of {system}:{name}")
    return EventFormat(event_id, system, name, tuple(fields), print_fmt, text, word_size)


def parse_format_id(text: str) -> int:
    """The number of the `ID:` line alone: an index of thousands of formats needs no more of them."""
    for line in text.split("\n", 4)[:4]:
        if line.startswith("ID:"):
            return _parse_id(line, "format")
    raise TracefsFormatError("no ID line", where="format", expected="ID: NUMBER", got=repr(text[:80]))


def element_type(field: Field) -> str:
    """The C type of a field's elements without qualifiers, arrays and locations: "char" of "const char [16]"."""
    words = _QUALIFIERS.sub(" ", re.sub(r"\[[^\]]*\]", " ", field.type)).replace("*", " * ").split()
    return " ".join(word for word in words if word not in _LOCATIONS)


def _parse_id(line: str, where: str) -> int:
    number = line.removeprefix("ID:").strip()
    if not number.isdecimal() or len(number) > 5 or int(number) > 0xFFFF:
        raise TracefsFormatError("wrong event id", where=where, expected="0 to 65535", got=repr(number))
    return int(number)


def _parse_field(line: str, where: str, *, common: bool, word_size: int) -> Iterator[Field]:
    """One field line; an array of __data_loc gives a field per element."""
    match = _LINE.match(line)
    decl = match and _DECL.match(match["decl"].strip())
    if not match or not decl or not decl["type"].strip():
        raise TracefsFormatError(
            "not a field line", where=where, expected="field:TYPE NAME; offset:N; size:N; signed:N;", got=repr(line)
        )
    ctype, name, dims = decl["type"].strip(), decl["name"], decl["dims"]
    offset, size, signed = int(match["offset"]), int(match["size"]), match["signed"] == "1"
    if offset + size > MOST_SUBBUF_BYTES:
        raise TracefsFormatError(
            "a field behind the end of any record", where=where, expected=f"at most {MOST_SUBBUF_BYTES} bytes",
            got=f"{offset + size} bytes",
        )  # fmt: skip
    shown = ctype + dims

    def field(cls: FieldClass, element_size: int, count: int = 1, doubt: str = "") -> Field:
        return Field(name, shown, offset, size, signed, common, cls, element_size, count, doubt)

    located = next((cls for word, cls in _LOCATIONS.items() if ctype.split()[0] == word), None)
    if located is not None:
        yield from _located_fields(field(located, _type_size(ctype, word_size) or 1), where)
        return
    known = _type_size(ctype, word_size)
    if size == 0:
        yield field("tail", known or 1)
        return
    if _is_struct(ctype) or not (dims or size in INT_SIZES):
        yield field("chars", size)
        return
    if not dims:
        yield field("int", size)
        return
    declared = _declared_count(dims)
    each, doubt = _element_of_array(known, declared, size)
    # Bytes stay together: a MAC address or a name as a column per byte would be slower and larger.
    if each in (2, 4, 8):
        yield field("int", each, size // each, doubt)
    else:
        yield field("chars", size, 1, doubt)


_LOCATIONS: dict[str, FieldClass] = {"__data_loc": "data_loc", "__rel_loc": "rel_loc"}


def _located_fields(field: Field, where: str) -> Iterator[Field]:
    """The locations of one declaration: an array of strings, which a probe can have, has one per string."""
    if field.size < 4:
        raise TracefsFormatError("wrong size of a location", where=where, expected="4 bytes", got=str(field.size))
    match = _STRING_ARRAY.search(field.type)
    count, doubt = int(match["count"]) if match else 0, ""
    # What user events print behind the name is what was in the kernel's memory, so it must agree with the size. A
    # synthetic event keeps a location in the first 4 of 8 bytes.
    if match is None or (match["first"] is None and field.size != 4 * count):
        yield field
        return
    if max(count, field.size // 4) > MOST_STRINGS:
        raise TracefsFormatError(
            "an array of more strings than a probe can have", where=where, expected=f"at most {MOST_STRINGS}",
            got=str(max(count, field.size // 4)),
        )  # fmt: skip
    if field.size != 4 * count:
        doubt = f"{count} locations of 4 bytes are declared in {field.size} bytes; the size is believed"
        count = field.size // 4
    for index in range(count):
        yield replace(field, name=f"{field.name}[{index}]", offset=field.offset + 4 * index, size=4, doubt=doubt)


def _declared_count(dims: str) -> int | None:
    """Elements of `T name[N]` as declared; None where N is no number."""
    count = 1
    for dim in re.findall(r"\[([^\]]*)\]", dims):
        if count > MOST_SUBBUF_BYTES or not dim.strip().isdecimal() or len(dim) > 10:
            return None
        count *= int(dim)
    return count


def _element_of_array(known: int | None, declared: int | None, size: int) -> tuple[int | None, str]:
    """Bytes of an element, None when nothing tells, and how the declaration contradicts itself.

    Args:
      known: bytes of the C type, None when it is not known.
      declared: elements, None when the declaration has no number.
      size: bytes of all elements.
    """
    by_count = size // declared if declared and size % declared == 0 else None
    if known is None or size % known:
        if known is None:
            return by_count, ""
        return by_count, f"elements of {known} bytes do not fill {size} bytes; the declared number is believed"
    if declared is None or declared * known == size:
        return known, ""
    return known, f"{declared} elements of {known} bytes are declared in {size} bytes; type and size are believed"


def _is_struct(ctype: str) -> bool:
    words = _QUALIFIERS.sub(" ", ctype).split()
    return "*" not in ctype and words[:1] in (["struct"], ["union"])


def _type_size(ctype: str, word_size: int) -> int | None:
    """Bytes of a C type; None when unknown. An array, and what lies elsewhere, count as their element."""
    if "*" in ctype:
        return word_size
    words = _QUALIFIERS.sub(" ", re.sub(r"\[[^\]]*\]", " ", ctype)).split()
    plain = " ".join(word for word in words if word not in _LOCATIONS)
    if plain in _WORD_TYPES:
        return word_size
    if plain.startswith("enum "):
        return 4
    return _TYPE_SIZES.get(plain)


def _as_open_stack(field: Field) -> Field:
    """kernel_stack says caller[8], but the record holds `size` entries up to its end."""
    if field.name != "caller" or field.cls != "int":
        return field
    return replace(field, cls="tail", count=1, doubt="")


def _check_tail(fields: list[Field], where: str) -> None:
    for field in fields[:-1]:
        if field.cls == "tail":
            raise TracefsFormatError(
                "a field without a size is not the last one", where=where, expected=f"{fields[-1].name} before it",
                got=field.name,
            )  # fmt: skip
