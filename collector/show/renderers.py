"""The output formats of `show`: what each makes of a thread, a time, a field, an address; json.py has the other one."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any, Literal, Protocol

from collector.archive.block import decode_elements
from collector.archive.objects import INT, FieldColumn, FormatObject
from collector.read.comms import Thread, Threads
from collector.read.meaning import UNSIGNED, has_bytes, is_missing, readable_form
from collector.read.symbols import Symbols
from collector.read.walltime import WallClock
from collector.tracefs.meaning import ADDRESSES, FieldKind

TimeMode = Literal["trace", "wall", "both"]

_NS_PER_S = 1_000_000_000

_BRACKET = "\\x5b"

FAULT = "(fault)"  # the kernel's words for a text that it could not read

# Controls of terminals, of lines, and of the direction of text; what is no text; and the escape itself.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\\]|[^\x00-\U0010ffff]|[\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a block's lines need beside the block."""

    cpu: int
    instance: str | None  # None: not printed
    clock: str | None  # None: nanoseconds
    threads: Threads
    symbols: Symbols
    time: TimeMode = "trace"
    wall: WallClock | None = None  # None: not asked for, or the segment does not tell it


class Renderer(Protocol):
    """One output format. Percent signs in what goes into a % format are doubled."""

    shows_gaps: bool
    names_apart: bool  # names of addresses stand behind the fields

    def head(self, of: FormatObject, context: Context) -> str:
        """A % format; JSON: (time, thread, flags, preempt count), fields: (thread, *time)."""
        ...

    def times(self, ts: Sequence[int], context: Context) -> Iterable[Any]:
        """What `head` takes for each time."""
        ...

    def thread(self, pid: int, thread: Thread) -> str: ...

    def field(self, name: str, first: bool) -> str:
        """What stands before a field's value, for a % format."""
        ...

    def value(self, field: FieldColumn, kind: FieldKind, symbols: Symbols) -> Callable[[Any], str] | None:
        """What makes a field's value text; None: Python's own form of a number or a list does.

        Words without a sign come as such, several of them as a tuple, or as bytes when they are no whole number of it.
        """
        ...

    def binary(self, value: bytes) -> str:
        """Bytes that are no values of their column's type."""
        ...

    def readable(self, field: FieldColumn, kind: FieldKind) -> Callable[[Any], str] | None:
        """What makes a value's readable form, where that stands behind the fields; None: it has none."""
        ...

    def readable_field(self, name: str, first: bool) -> str:
        """What stands before a readable form, for a % format."""
        ...

    def fields_end(self) -> str:
        """What stands behind the last field, and behind the last readable form."""
        ...

    def apart(self, named: Mapping[str, Any], escaped: Mapping[str, bytes], symbols: Symbols) -> str:
        """What names the addresses of an entry's fields, and says which of its texts are escaped.

        Args:
          named: {field: address or addresses}
          escaped: {field: text}, of fields that have escaped texts in some entry.
        """
        ...

    def mark_escaped(self, fields: str, name: str) -> str:
        """An entry's fields, with the mark that a text beside them is escaped."""
        ...

    def tail(self) -> str: ...


def _double(text: str) -> str:
    return text.replace("%", "%%")


class FieldsRenderer:
    """`comm-pid [cpu] seconds.nanoseconds: system:event: name=value ...` for people and grep."""

    shows_gaps = True
    names_apart = False

    def head(self, of: FormatObject, context: Context) -> str:
        instance = "" if context.instance is None else f" {_escape(context.instance)}"
        trace = "%d.%09d" if context.clock is None else "%d"
        time = {"trace": trace, "wall": "%s", "both": f"{trace} %s"}[context.time]
        return f"%s [{context.cpu:03d}]{_double(instance)} {time}: {_double(_escape(of.full_name))}:"

    def times(self, ts: Sequence[int], context: Context) -> Iterable[Any]:
        trace = zip(ts) if context.clock is not None else map(divmod, ts, repeat(_NS_PER_S))
        if context.time == "trace":
            return trace
        wall = ["?"] * len(ts) if context.wall is None else [_format_wall(at) for at, _ in context.wall.over(ts)]
        if context.time == "wall":
            return zip(wall)
        return ((*at, text) for at, text in zip(trace, wall, strict=True))

    def thread(self, pid: int, thread: Thread) -> str:
        # The first " [" of a line is the CPU's, whatever a thread calls itself.
        return f"{'<...>' if thread.comm is None else self.text(thread.comm).replace('[', _BRACKET)}-{pid}"

    def field(self, name: str, first: bool) -> str:
        return _double(f" {_escape(name)}=")

    def text(self, value: bytes) -> str:
        return _escape(value.partition(b"\0")[0].decode("utf-8", "surrogateescape"))

    def value(self, field: FieldColumn, kind: FieldKind, symbols: Symbols) -> Callable[[Any], str] | None:
        value = self._value(field, kind, symbols)
        form = readable_form(kind, field)
        if form is None:
            return value

        def with_form(of: Any) -> str:
            shown = form(of)
            return f"{str(of) if value is None else value(of)}{'' if shown is None else f' {shown}'}"

        return with_form

    def _value(self, field: FieldColumn, kind: FieldKind, symbols: Symbols) -> Callable[[Any], str] | None:
        if kind == "text":
            return lambda value: FAULT if is_missing(field, value) else self.text(value)
        if kind in ADDRESSES:
            return self._addresses(symbols.strings if kind == "string" else symbols.code, is_code=kind != "string")
        if has_bytes(field):
            return self.binary if kind != "plain" else lambda value: str(one_byte_numbers(field, value))
        return plain_words(field, kind, self.binary)

    def binary(self, value: bytes) -> str:
        return value.hex()

    def _addresses(self, names: Mapping[int, str], *, is_code: bool) -> Callable[[Any], str]:
        def one(address: int) -> str:
            name = names.get(address)
            if name is None:
                return f"{address:#x}"
            return f"{address:#x} {_escape(name)}" if is_code else f"{address:#x} {_quote(name)}"

        def any_of(value: Any) -> str:
            if isinstance(value, int):
                return one(value)
            return self.binary(value) if isinstance(value, bytes) else f"[{', '.join(map(one, value))}]"

        return any_of

    def readable(self, field: FieldColumn, kind: FieldKind) -> Callable[[Any], str] | None:
        return None

    def readable_field(self, name: str, first: bool) -> str:
        return ""

    def fields_end(self) -> str:
        return ""

    def apart(self, named: Mapping[str, Any], escaped: Mapping[str, bytes], symbols: Symbols) -> str:
        return ""

    def mark_escaped(self, fields: str, name: str) -> str:
        return fields

    def tail(self) -> str:
        return "\n"

    @staticmethod
    def gap(cpu: int, lost: int | None, cause: str = "") -> str:
        count = "LOST EVENTS" if lost is None else f"LOST {lost} EVENTS"
        return f"CPU:{cpu} [{count}]{f' {_escape(cause)}' if cause else ''}\n"


def one_byte_numbers(field: FieldColumn, value: bytes) -> list[int]:
    """The numbers of one byte each that a string of bytes holds."""
    return [byte - 256 if field.signed and byte > 127 else byte for byte in value]


def plain_words(field: FieldColumn, kind: FieldKind, binary: Callable[[bytes], str]) -> Callable[[Any], str] | None:
    """What prints numbers; None: as Python does."""
    if field.cls == INT:
        return None if field.count == 1 or kind not in UNSIGNED else lambda words: str(list(words))

    def words(value: Any) -> str:
        found = decode_elements(field, value) if isinstance(value, bytes) else value
        return binary(found) if isinstance(found, bytes) else str(list(found))

    return words


def _format_wall(wall_ns: int) -> str:
    seconds, ns = divmod(wall_ns, _NS_PER_S)
    return f"{format_second(seconds)}.{ns:09d}Z"


@lru_cache(maxsize=1024)
def format_second(seconds: int) -> str:
    """Gives a moment since 1970 in UTC, without the zone; in words where no calendar goes that far."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s since 1970"


def _quote(text: str) -> str:
    return '"' + _escape(text).replace('"', '\\"') + '"'


def _escape(text: str) -> str:
    """Nothing that a traced program chose may steer the terminal, or look like another line."""
    return _CONTROL.sub(_escape_one, text)


def _escape_one(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0x5C:
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
