"""Renders the entries of a block as lines, in either format of `show`.

A line is two `%` formats, one for what all events have and one for an event's fields, made once a block: constant
columns become part of the format, and bytes are converted once per different value. Nothing else runs per entry.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..archive.block import DecodedBlock, KindColumns, decode_elements
from ..archive.columns import Repeat
from ..archive.objects import CHARS, INT, FieldColumn, FormatObject
from ..batch import MODE_RAW, Missed

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]|[^\x00-\U0010ffff]|[\ud800-\udfff]")

Line = tuple[int, int, str]  # (ts, number of the stream, text); merged by the first two


class Memo(dict[Any, str]):
    """Converts each different value once."""

    def __init__(self, convert: Callable[[Any], str]) -> None:
        self._convert = convert

    def __missing__(self, key: Any) -> str:
        found = self[key] = self._convert(key)
        return found


@dataclass(frozen=True, slots=True)
class Context:
    """What a block's lines need beside the block."""

    cpu: int
    instance: str | None  # None: not printed
    clock: str | None  # None: nanoseconds
    comm: Callable[[int], bytes | None]  # pid -> name


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are wanted; None: all."""

    since: int | None = None
    until: int | None = None  # included
    pids: Collection[int] | None = None
    event: Callable[[str], bool] | None = None  # "system:name" -> wanted


class Renderer(Protocol):
    """One output format."""

    shows_gaps: bool

    def head(self, of: FormatObject, context: Context) -> str:
        """A % format for (ts, pid, comm, flags, preempt count); ns clocks of `fields` take (s, ns) for ts."""
        ...

    def comm(self, pid: int, comm: bytes | None) -> str: ...

    def field(self, name: str, first: bool) -> str:
        """What stands before a field's value, percent signs doubled."""
        ...

    def text(self, value: bytes) -> str: ...

    def binary(self, value: bytes) -> str: ...

    def tail(self) -> str: ...


def _double(text: str) -> str:
    return text.replace("%", "%%")


class JsonRenderer:
    """One object a line, in ASCII; bytes that are not UTF-8 become U+FFFD."""

    shows_gaps = False

    def head(self, of: FormatObject, context: Context) -> str:
        event = json.dumps(_safe(of.full_name))
        instance = "" if context.instance is None else f'"instance": {json.dumps(_safe(context.instance))}, '
        clock = "" if context.clock is None else f'"clock": {json.dumps(_safe(context.clock))}, '
        return (
            f'{{"ts_ns": %d, "cpu": {context.cpu}, {_double(instance + clock)}"pid": %d, "comm": %s, '
            f'"event": {_double(event)}, "flags": %d, "preempt_count": %d, "fields": {{'
        )

    def comm(self, pid: int, comm: bytes | None) -> str:
        return "null" if comm is None else self.text(comm)

    def field(self, name: str, first: bool) -> str:
        return _double(f"{'' if first else ', '}{json.dumps(_safe(name))}: ")

    def text(self, value: bytes) -> str:
        return json.dumps(value.partition(b"\0")[0].decode("utf-8", "replace"))

    def binary(self, value: bytes) -> str:
        return f'"{value.hex()}"'

    def tail(self) -> str:
        return "}}\n"


class FieldsRenderer:
    """`comm-pid [cpu] seconds.nanoseconds: system:event: name=value ...` for people and grep."""

    shows_gaps = True

    def head(self, of: FormatObject, context: Context) -> str:
        instance = "" if context.instance is None else f" {_escape(context.instance)}"
        time = "%d.%09d" if context.clock is None else "%d"
        return f"%s-%d [{context.cpu:03d}]{_double(instance)} {time}: {_double(_escape(of.full_name))}:"

    def comm(self, pid: int, comm: bytes | None) -> str:
        return "<...>" if comm is None else self.text(comm)

    def field(self, name: str, first: bool) -> str:
        return _double(f" {_escape(name)}=")

    def text(self, value: bytes) -> str:
        return _escape(value.partition(b"\0")[0].decode("utf-8", "surrogateescape"))

    def binary(self, value: bytes) -> str:
        return value.hex()

    def tail(self) -> str:
        return "\n"

    @staticmethod
    def gap(cpu: int, lost: int | None, cause: str = "") -> str:
        count = "LOST EVENTS" if lost is None else f"LOST {lost} EVENTS"
        return f"CPU:{cpu} [{count}]{f' {_escape(cause)}' if cause else ''}\n"


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


def _payload(kind: KindColumns, renderer: Renderer) -> Iterator[str]:
    """Gives the text of the fields of each entry of one event, lazily."""
    form: list[str] = []
    columns: list[Iterable[Any]] = []
    pairs: Iterator[tuple[FieldColumn | None, Sequence[Any]]]
    if kind.mode == MODE_RAW:
        pairs = iter([(None, kind.columns[0])])
    else:
        pairs = zip(kind.format.columns, kind.columns, strict=True)
    for at, (field, values) in enumerate(pairs):
        form.append(renderer.field("raw" if field is None else field.name, at == 0))
        convert = renderer.binary if field is None else _converter(field, kind.format, renderer)
        if isinstance(values, Repeat):
            form.append(_double(str(values.value) if convert is None else convert(values.value)))
        elif convert is None and field is not None and field.count == 1:
            form.append("%d")
            columns.append(values)
        else:
            form.append("%s")
            columns.append(values if convert is None else map(Memo(convert).__getitem__, values))
    text = "".join(form) + renderer.tail()
    if not columns:
        return iter(Repeat(text % (), kind.entries))
    return map(text.__mod__, zip(*columns, strict=True))


def _converter(field: FieldColumn, of: FormatObject, renderer: Renderer) -> Callable[[Any], str] | None:
    """Gives what makes a field's value text; None where Python's own form of a number or a list does."""
    if field.cls == CHARS:
        return renderer.text
    if field.cls == INT:
        return None
    if field.size == 1:
        return renderer.text if field.name in of.text_fields else renderer.binary

    def elements(value: bytes) -> str:
        found = decode_elements(field, value)
        return renderer.binary(found) if isinstance(found, bytes) else str(found)

    return elements


def render_block(
    block: DecodedBlock, stream: int, renderer: Renderer, context: Context, selection: Selection
) -> Iterator[Line]:
    """Gives the wanted entries of a block as lines, gaps before the entry that follows them.

    Args:
      stream: its number, for merging.
    """
    wanted = selection.event or (lambda name: True)
    comms = Memo(lambda pid: renderer.comm(pid, context.comm(pid)))
    heads: list[str] = []
    payloads: list[Iterator[str] | None] = []
    for kind in block.kinds:
        if wanted(kind.format.full_name):
            heads.append(renderer.head(kind.format, context))
            payloads.append(_payload(kind, renderer))
        else:
            heads.append("")
            payloads.append(None)
    if renderer.shows_gaps:
        return _fields_lines(block, stream, heads, payloads, comms, context, selection)
    return _json_lines(block, stream, heads, payloads, comms, selection)


def _json_lines(
    block: DecodedBlock, stream: int, heads: list[str], payloads: list[Iterator[str] | None], comms: Memo,
    selection: Selection,
) -> Iterator[Line]:  # fmt: skip
    pids = selection.pids
    low, high = _bounds(selection)
    columns = zip(block.kind, block.ts, block.pid, block.flags, block.preempt_count, strict=True)
    for kind, ts, pid, flags, preempt_count in columns:
        payload = payloads[kind]
        if payload is None:
            continue
        fields = next(payload)
        if low <= ts <= high and (pids is None or pid in pids):
            yield ts, stream, heads[kind] % (ts, pid, comms[pid], flags, preempt_count) + fields


def _fields_lines(
    block: DecodedBlock, stream: int, heads: list[str], payloads: list[Iterator[str] | None], comms: Memo,
    context: Context, selection: Selection,
) -> Iterator[Line]:  # fmt: skip
    pids = selection.pids
    low, high = _bounds(selection)
    gaps: list[Missed] = sorted(block.head.gaps, key=lambda gap: gap.at, reverse=True)
    in_ns = context.clock is None
    columns = zip(block.kind, block.ts, block.pid, strict=True)
    ts = block.head.first_ts
    for at, (kind, ts, pid) in enumerate(columns):
        while gaps and gaps[-1].at <= at:
            gap = gaps.pop()
            if low <= ts <= high:
                yield ts, stream, FieldsRenderer.gap(context.cpu, gap.lost)
        payload = payloads[kind]
        if payload is None:
            continue
        fields = next(payload)
        if low <= ts <= high and (pids is None or pid in pids):
            time = divmod(ts, 1_000_000_000) if in_ns else (ts,)
            yield ts, stream, heads[kind] % (comms[pid], pid, *time) + fields
    if low <= ts <= high:
        for gap in reversed(gaps):
            yield ts, stream, FieldsRenderer.gap(context.cpu, gap.lost)


def _bounds(selection: Selection) -> tuple[int, int]:
    return selection.since or 0, (1 << 64) if selection.until is None else selection.until
