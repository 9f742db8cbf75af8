"""Event formats: which bytes of a record hold which field. Pure.

Grammar of events/SYSTEM/EVENT/format (tabs and newlines as in the file):

    format  = "name: " NAME NL "ID: " NUMBER NL "format:" NL common NL fields NL "print fmt: " TEXT
    common  = *line            ; the head that all records share, ends with an empty line
    fields  = *line            ; the event's own, ends with an empty line
    line    = TAB "field:" DECL ";" TAB "offset:" N ";" TAB "size:" N ";" [TAB "signed:" 0|1 ";"] NL
    DECL    = type words, name last, then optional "[dim]"; "__data_loc T[] name" and "__rel_loc T[] name"
              for data that lies elsewhere in the record

TEXT runs to the end of the file, newlines included. The C type is not to be believed: syscalls
say `int fd` for 8 bytes. Offset, size and sign count; the type only tells how arrays divide.

Source: kernel/trace/trace_events.c, f_show(); include/trace/stages/stage4_event_fields.h.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from collector.errors import TracefsFormatError

FieldClass = Literal["int", "chars", "data_loc", "rel_loc", "tail"]

INTERNAL_SYSTEM = "ftrace"  # records of tracers and markers: they have formats, but can't be enabled

INT_SIZES = (1, 2, 4, 8)

# {C element type: bytes}; a long and a pointer are the machine's word.
_TYPE_SIZES = {
    "char": 1, "signed char": 1, "unsigned char": 1, "bool": 1, "_Bool": 1, "u8": 1, "s8": 1, "__u8": 1, "__s8": 1,
    "uint8_t": 1, "int8_t": 1, "short": 2, "short int": 2, "unsigned short": 2, "short unsigned int": 2, "u16": 2,
    "s16": 2, "__u16": 2, "__s16": 2, "__be16": 2, "__le16": 2, "uint16_t": 2, "int16_t": 2, "int": 4, "unsigned": 4,
    "unsigned int": 4, "u32": 4, "s32": 4, "__u32": 4, "__s32": 4, "__be32": 4, "__le32": 4, "uint32_t": 4,
    "int32_t": 4, "gfp_t": 4, "pid_t": 4, "dev_t": 4, "long long": 8, "unsigned long long": 8, "u64": 8, "s64": 8,
    "__u64": 8, "__s64": 8, "__be64": 8, "__le64": 8, "uint64_t": 8, "int64_t": 8, "loff_t": 8, "sector_t": 8,
}  # fmt: skip
_WORD_TYPES = frozenset(
    {"long", "unsigned long", "long unsigned int", "long int", "size_t", "ssize_t", "uintptr_t", "cpumask_t"}
)

# Names under which the tracers' own records keep code addresses. user_stack has `caller` too, but of user space.
_INTERNAL_CODE_FIELDS = frozenset({"ip", "parent_ip", "func", "caller"})
_USER_STACK = "user_stack"

# Of kprobes, and of uprobes, where they lie in a process; printed as %lx, which the kernel does not follow.
_PROBE_CODE_FIELDS = frozenset({"__probe_ip", "__probe_func", "__probe_ret_ip"})

_LINE = re.compile(
    r"\s*field:(?P<decl>[^;]*);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);(?:\s*signed:(?P<signed>[01]);)?\s*$"
)
_DECL = re.compile(r"^(?P<type>.*?)(?P<name>[A-Za-z_]\w*)\s*(?P<dims>(?:\[[^\]]*\])*)$")
_QUALIFIERS = re.compile(r"\b(?:const|volatile)\b")
_LITERAL = re.compile(r'\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)
_CONVERSION = re.compile(
    r"%(?:%|[-+ #0]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?"
    r"(?:hh|h|ll|l|z|t|j|L|q)?(?P<kind>[a-zA-Z])(?P<ext>\w*))"
)
_MEMBER = re.compile(r"REC\s*\)?\s*->\s*(\w+)")


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


@dataclass(frozen=True, slots=True)
class EventFormat:
    """One parsed format file."""

    id: int  # the record's common_type
    system: str
    name: str
    fields: tuple[Field, ...]  # by offset, the common ones included
    print_fmt: str  # without "print fmt: "
    text: str  # the whole file

    @property
    def name_full(self) -> str:
        """`system:name`, as set_event takes it."""
        return f"{self.system}:{self.name}"


def parse_event_format(text: str, system: str, *, word_size: int = 8) -> EventFormat:
    """Parse one format file.

    Args:
      text: the whole file.
      system: the folder above the event's, which the file doesn't name.
      word_size: bytes of the kernel's long, see `PageLayout.commit_size`.
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
    return EventFormat(event_id, system, name, tuple(fields), print_fmt, text)


def parse_format_id(text: str) -> int:
    """The number of the `ID:` line alone: an index of thousands of formats needs no more of them."""
    for line in text.split("\n", 4)[:4]:
        if line.startswith("ID:"):
            return _parse_id(line, "format")
    raise TracefsFormatError("no ID line", where="format", expected="ID: NUMBER", got=repr(text[:80]))


def common_fields(fmt: EventFormat) -> tuple[Field, ...]:
    """The fields of the head that all records share, by offset."""
    return tuple(field for field in fmt.fields if field.common)


_STRING_POINTER = re.compile(r"(const )?char \*\s*")


def symbol_fields(fmt: EventFormat) -> tuple[str, ...]:
    """Names of the fields that hold addresses of kernel code, by offset.

    Found from the conversions %ps %pS %pB %pF %pf of the print fmt, and from the names that probes and the
    tracers' own records use. An archive stores the symbols of just these.
    """
    if fmt.system == INTERNAL_SYSTEM and fmt.name == _USER_STACK:
        return ()
    names = _PROBE_CODE_FIELDS.union(_printed_as_symbols(fmt.print_fmt))
    if fmt.system == INTERNAL_SYSTEM:
        names |= _INTERNAL_CODE_FIELDS
    return tuple(
        field.name
        for field in fmt.fields
        if field.name in names and not field.common and field.cls in ("int", "tail") and field.element_size >= 4
    )


def string_fields(fmt: EventFormat) -> tuple[str, ...]:
    """Names of the fields that hold addresses of the kernel's own strings, by offset: those of printk_formats.

    The `const char *` of a system call points into a process instead.
    """
    if fmt.system == "syscalls":
        return ()
    return tuple(
        field.name
        for field in fmt.fields
        if not field.common and field.cls == "int" and field.count == 1 and _STRING_POINTER.fullmatch(field.type)
    )


def _parse_id(line: str, where: str) -> int:
    number = line.removeprefix("ID:").strip()
    if not number.isdecimal() or int(number) > 0xFFFF:
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
    shown = ctype + dims

    def field(cls: FieldClass, element_size: int, count: int = 1) -> Field:
        return Field(name, shown, offset, size, signed, common, cls, element_size, count)

    for word, cls in _DYNAMIC:
        if ctype.startswith(word):
            element_size = _type_size(ctype.removeprefix(word), word_size) or 1
            if size < 4 or (dims and size % 4):
                raise TracefsFormatError(f"wrong size of a {word} field", where=where, expected="4", got=str(size))
            # A synthetic event keeps each field in 8 bytes, a location in the first 4 of them.
            if not dims or size == 4:
                yield field(cls, element_size)
                return
            # Probes can declare an array of strings: each element is a location of its own.
            for index in range(size // 4):
                at = offset + 4 * index
                yield Field(f"{name}[{index}]", shown, at, 4, signed, common, cls, element_size, 1)
            return
    if size == 0:
        yield field("tail", _type_size(ctype, word_size) or 1)
        return
    if dims:
        each = _array_element_size(ctype, dims, size, word_size)
        # Bytes stay together: a MAC address or a name as a column per byte would be slower and larger.
        if each in (2, 4, 8):
            yield field("int", each, size // each)
        else:
            yield field("chars", size)
        return
    yield field("int", size) if size in INT_SIZES else field("chars", size)


_DYNAMIC: tuple[tuple[str, FieldClass], ...] = (("__data_loc", "data_loc"), ("__rel_loc", "rel_loc"))


def _array_element_size(ctype: str, dims: str, size: int, word_size: int) -> int | None:
    """Bytes of an element of `T name[N]`; None when neither N nor T tells."""
    count = 1
    for dim in re.findall(r"\[([^\]]*)\]", dims):
        if not dim.strip().isdecimal():
            known = _type_size(ctype, word_size)
            return known if known and size % known == 0 else None
        count *= int(dim)
    return size // count if count and size % count == 0 else None


def _type_size(ctype: str, word_size: int) -> int | None:
    """Bytes of a C type; None when unknown. `char[]` counts as its element."""
    if "*" in ctype:
        return word_size
    plain = " ".join(_QUALIFIERS.sub(" ", ctype.replace("[]", " ")).split())
    if plain in _WORD_TYPES:
        return word_size
    if plain.startswith("enum "):
        return 4
    return _TYPE_SIZES.get(plain)


def _as_open_stack(field: Field) -> Field:
    """kernel_stack says caller[8], but the record holds `size` entries up to its end."""
    if field.name != "caller" or field.cls != "int":
        return field
    return Field(field.name, field.type, field.offset, field.size, field.signed, False, "tail", field.element_size, 1)


def _check_tail(fields: list[Field], where: str) -> None:
    for field in fields[:-1]:
        if field.cls == "tail":
            raise TracefsFormatError(
                "a field without a size is not the last one", where=where, expected=f"{fields[-1].name} before it",
                got=field.name,
            )  # fmt: skip


def _printed_as_symbols(print_fmt: str) -> Iterator[str]:
    """Names of the record's members that a print fmt prints as a symbol."""
    template, rest = _split_template(print_fmt)
    arguments = list(_split_arguments(rest))
    position = 0
    for match in _CONVERSION.finditer(template):
        kind = match["kind"]
        if kind is None:  # "%%"
            continue
        position += (match["width"] == "*") + (match["precision"] == "*")
        if kind == "p" and match["ext"][:1] in tuple("sSBFf") and position < len(arguments):
            yield from _MEMBER.findall(arguments[position])
        position += 1


def _split_template(print_fmt: str) -> tuple[str, str]:
    """The adjacent string literals at the start, joined, and what follows them."""
    parts: list[str] = []
    at = 0
    while match := _LITERAL.match(print_fmt, at):
        parts.append(match[1])
        at = match.end()
    return "".join(parts), print_fmt[at:]


def _split_arguments(rest: str) -> Iterator[str]:
    """The arguments behind the template: split at the commas outside of brackets and literals."""
    depth = 0
    start: int | None = None
    at = 0
    while at < len(rest):
        char = rest[at]
        if char == '"' and (literal := _LITERAL.match(rest, at)):
            at = literal.end()
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            if start is not None:
                yield rest[start:at]
            start = at + 1
        at += 1
    if start is not None:
        yield rest[start:]
