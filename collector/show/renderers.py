"""The output formats of `show`: what each makes of a thread, a time, a field, an address."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any, Literal, Protocol

from collector.archive.objects import FormatObject
from collector.read.comms import Thread, Threads
from collector.read.symbols import Symbols
from collector.read.walltime import WallClock

TimeMode = Literal["trace", "wall", "both"]

_NS_PER_S = 1_000_000_000

_BRACKET = "\\x5b"

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

    def text(self, value: bytes) -> str: ...

    def binary(self, value: bytes) -> str: ...

    def addresses(self, names: Mapping[int, str], *, is_code: bool, is_one: bool) -> Callable[[Any], str] | None:
        """What makes an address, else a tuple of them or bytes that are none, text; None: as any other number."""
        ...

    def fields_end(self) -> str:
        """What stands behind the last field."""
        ...

    def names(self, values: Mapping[str, Any], symbols: Symbols) -> str:
        """What names the addresses of these fields, behind them."""
        ...

    def tail(self) -> str: ...


def _double(text: str) -> str:
    return text.replace("%", "%%")


class JsonRenderer:
    """One object a line, in ASCII; bytes that are not UTF-8 become U+FFFD."""

    shows_gaps = False
    names_apart = True

    def head(self, of: FormatObject, context: Context) -> str:
        event = json.dumps(_safe(of.full_name))
        instance = "" if context.instance is None else f'"instance": {json.dumps(_safe(context.instance))}, '
        clock = "" if context.clock is None else f'"clock": {json.dumps(_safe(context.clock))}, '
        return (
            f'{{"ts_ns": %s, "cpu": {context.cpu}, {_double(instance + clock)}%s, '
            f'"event": {_double(event)}, "flags": %d, "preempt_count": %d, "fields": {{'
        )

    def times(self, ts: Sequence[int], context: Context) -> Iterable[Any]:
        if context.time == "trace":
            return ts
        walls = [("null", "null")] * len(ts) if context.wall is None else context.wall.over(ts)
        both = zip(ts, walls, strict=True)
        return [f'{at}, "wall_ns": {wall}, "wall_error_ns": {error}' for at, (wall, error) in both]

    def thread(self, pid: int, thread: Thread) -> str:
        comm = "null" if thread.comm is None else self.text(thread.comm)
        about = f'"comm_source": {json.dumps(thread.source)}, "tgid": {json.dumps(thread.tgid)}'
        return f'"pid": {pid}, "comm": {comm}, {about}'

    def field(self, name: str, first: bool) -> str:
        return _double(f"{'' if first else ', '}{json.dumps(_safe(name))}: ")

    def text(self, value: bytes) -> str:
        return json.dumps(value.partition(b"\0")[0].decode("utf-8", "replace"))

    def binary(self, value: bytes) -> str:
        return f'"{value.hex()}"'

    def addresses(self, names: Mapping[int, str], *, is_code: bool, is_one: bool) -> Callable[[Any], str] | None:
        return None if is_one else self._several

    def _several(self, value: Any) -> str:
        return self.binary(value) if isinstance(value, bytes) else str(list(value))

    def fields_end(self) -> str:
        return "}"

    def names(self, values: Mapping[str, Any], symbols: Symbols) -> str:
        out = ""
        for key, names in (("symbols", symbols.code), ("strings", symbols.strings)):
            found = {_safe(field): _lookup(value, names) for field, value in values.items()}
            found = {field: value for field, value in found.items() if value is not None}
            if found:
                out += f', "{key}": {json.dumps(found)}'
        return out

    def tail(self) -> str:
        return "}\n"


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

    def binary(self, value: bytes) -> str:
        return value.hex()

    def addresses(self, names: Mapping[int, str], *, is_code: bool, is_one: bool) -> Callable[[Any], str] | None:
        def one(address: int) -> str:
            name = names.get(address)
            if name is None:
                return f"{address:#x}"
            return f"{address:#x} {_escape(name)}" if is_code else f"{address:#x} {_quote(name)}"

        def several(value: Any) -> str:
            return self.binary(value) if isinstance(value, bytes) else f"[{', '.join(map(one, value))}]"

        return one if is_one else several

    def fields_end(self) -> str:
        return ""

    def names(self, values: Mapping[str, Any], symbols: Symbols) -> str:
        return ""

    def tail(self) -> str:
        return "\n"

    @staticmethod
    def gap(cpu: int, lost: int | None, cause: str = "") -> str:
        count = "LOST EVENTS" if lost is None else f"LOST {lost} EVENTS"
        return f"CPU:{cpu} [{count}]{f' {_escape(cause)}' if cause else ''}\n"


def _lookup(value: Any, names: Mapping[int, str]) -> Any:
    """Gives the name of an address, of each of several, or None where none has one."""
    if isinstance(value, int):
        return _named(value, names)
    if isinstance(value, bytes):
        return None
    found = [_named(address, names) for address in value]
    return found if any(name is not None for name in found) else None


def _named(address: int, names: Mapping[int, str]) -> str | None:
    name = names.get(address)
    return None if name is None else _safe(name)


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


def _safe(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
