"""Renders the entries of a block as lines.

A line is two `%` formats, one for what all events have and one for an event's fields, made once a block: constant
columns become part of the format, and bytes, addresses and threads are converted once per different value. Nothing
else runs per entry.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from collector.archive.block import DecodedBlock, KindColumns, decode_elements
from collector.archive.columns import Repeat
from collector.archive.objects import INT, FieldColumn
from collector.batch import MODE_RAW, Missed
from collector.read.comms import Thread
from collector.read.meaning import UNSIGNED, column_kinds, cut_stack, decode_text
from collector.read.symbols import Symbols
from collector.show.renderers import Context, FieldsRenderer, Renderer
from collector.tracefs.meaning import ADDRESSES, FieldKind

Line = tuple[int, int, str]  # (ts, number of the stream, text); merged by the first two


class Memo(dict[Any, Any]):
    """Converts each different value once."""

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self._convert = convert

    def __missing__(self, key: Any) -> Any:
        found = self[key] = self._convert(key)
        return found


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are wanted; None: all."""

    since: int | None = None
    until: int | None = None  # included
    pids: Collection[int] | None = None
    event: Callable[[str], bool] | None = None  # "system:name" -> wanted


def _double(text: str) -> str:
    return text.replace("%", "%%")


@dataclass(frozen=True, slots=True)
class _Shown:
    """A column, and what is to be made of it."""

    field: FieldColumn
    kind: FieldKind
    values: Sequence[Any]  # of words without a sign where the kind has none; several are tuples


def _payload(kind: KindColumns, renderer: Renderer, context: Context) -> Iterator[str]:
    """Gives the text of the fields of each entry of one event, lazily."""
    line = _Line()
    if kind.mode == MODE_RAW:
        line.add(renderer.field("raw", True))
        line.add_column(kind.columns[0], renderer.binary)
        line.add(renderer.fields_end())
        return line.render(renderer.tail(), kind.entries)
    columns = [
        _Shown(field, of, _without_sign(field, of, values))
        for field, of, values in zip(kind.format.columns, column_kinds(kind.format), kind.columns, strict=True)
    ]
    for at, column in enumerate(columns):
        line.add(renderer.field(column.field.name, at == 0))
        convert = renderer.value(column.field, column.kind, context.symbols)
        line.add_column(column.values, convert, "%d" if column.field.cls == INT and column.field.count == 1 else "%s")
    line.add(renderer.fields_end())
    if renderer.names_apart:
        _add_apart(line, columns, renderer, context.symbols)
    return line.render(renderer.tail(), kind.entries)


def _add_apart(line: "_Line", columns: Sequence[_Shown], renderer: Renderer, symbols: Symbols) -> None:
    """What stands behind the fields: readable forms, names of addresses, which texts are escaped."""
    readable = [(of, form) for of in columns if (form := renderer.readable(of.field, of.kind)) is not None]
    for at, (of, form) in enumerate(readable):
        line.add(renderer.readable_field(of.field.name, at == 0))
        line.add_column(of.values, form)
    if readable:
        line.add(renderer.fields_end())
    named = {of.field.name: of.values for of in columns if of.kind in ADDRESSES} if symbols.any else {}
    escaped = {of.field.name: of.values for of in columns if of.kind == "text" and _has_escapes(of.values)}
    if named or escaped:
        count = len(named)

        def tell(values: tuple[Any, ...]) -> str:
            return renderer.apart(
                dict(zip(named, values[:count], strict=True)), dict(zip(escaped, values[count:], strict=True)), symbols
            )

        line.add_columns((*named.values(), *escaped.values()), tell)


class _Line:
    """A `%` format under construction, and the columns that fill it."""

    def __init__(self) -> None:
        self._form: list[str] = []
        self._columns: list[Iterable[Any]] = []

    def add(self, form: str) -> None:
        self._form.append(form)

    def add_column(self, values: Sequence[Any], convert: Callable[[Any], str] | None, plain: str = "%s") -> None:
        """A column's values: what `convert` makes of them, else as `plain` prints them."""
        if isinstance(values, Repeat):
            self._form.append(_double(str(values.value) if convert is None else convert(values.value)))
        else:
            self._form.append(plain if convert is None else "%s")
            self._columns.append(values if convert is None else map(Memo(convert).__getitem__, values))

    def add_columns(self, columns: Sequence[Sequence[Any]], convert: Callable[[tuple[Any, ...]], str]) -> None:
        """What is made of an entry's values in several columns."""
        self._form.append("%s")
        self._columns.append(map(Memo(convert).__getitem__, zip(*columns, strict=True)))

    def render(self, tail: str, entries: int) -> Iterator[str]:
        text = "".join(self._form) + tail
        if not self._columns:
            return iter(Repeat(text % (), entries))
        return map(text.__mod__, zip(*self._columns, strict=True))


def _without_sign(field: FieldColumn, kind: FieldKind, values: Sequence[Any]) -> Sequence[Any]:
    """Gives words that have no sign as such, and several of them as tuples, which can be looked up."""
    if kind not in UNSIGNED or (field.cls == INT and field.count == 1 and not field.signed):
        return values
    mask = (1 << 8 * field.size) - 1

    def convert(value: Any) -> Any:
        if isinstance(value, int):
            return value & mask
        found = decode_elements(field, value)
        if isinstance(found, bytes):  # no whole number of words
            return found
        words = tuple(word & mask for word in found)
        return tuple(cut_stack(words)) if kind == "stack" and field.cls != INT else words

    if isinstance(values, Repeat):
        return Repeat(convert(values.value), len(values))
    return list(map(Memo(convert).__getitem__ if field.cls != INT else convert, values))


def _has_escapes(values: Sequence[bytes]) -> bool:
    if isinstance(values, Repeat):
        return decode_text(values.value)[1]
    return any(decode_text(value)[1] for value in set(values))


def render_block(
    block: DecodedBlock, stream: int, renderer: Renderer, context: Context, selection: Selection
) -> Iterator[Line]:
    """Gives the wanted entries of a block as lines, gaps before the entry that follows them.

    Args:
      stream: its number, for merging.
    """
    wanted = selection.event or (lambda name: True)
    heads: list[str] = []
    payloads: list[Iterator[str] | None] = []
    for kind in block.kinds:
        if wanted(kind.format.full_name):
            heads.append(renderer.head(kind.format, context))
            payloads.append(_payload(kind, renderer, context))
        else:
            heads.append("")
            payloads.append(None)
    if renderer.shows_gaps:
        return _fields_lines(block, stream, heads, payloads, renderer, context, selection)
    return _json_lines(block, stream, heads, payloads, renderer, context, selection)


def _threads(block: DecodedBlock, renderer: Renderer, context: Context) -> tuple[Iterable[str], frozenset[str]]:
    """Gives the thread of each entry as text, and which of these texts have an escaped name."""
    threads, texts = context.threads, {}
    escaped: set[str] = set()

    def tell(pid: int, thread: Thread) -> str:
        text = renderer.thread(pid, thread)
        if thread.comm is not None and decode_text(thread.comm)[1]:
            escaped.add(text)
        return text

    low, high = (min(block.ts), max(block.ts)) if block.ts else (0, 0)  # times may step back
    changing = set()
    for pid in set(block.pid):
        found = threads.over(pid, low, high)
        if found is None:
            changing.add(pid)
        else:
            texts[pid] = tell(pid, found)
    if not changing:
        return map(texts.__getitem__, block.pid), frozenset(escaped)
    column = [texts.get(pid, "") for pid in block.pid]
    steps = {pid: [(ts, tell(pid, thread)) for ts, thread in threads.steps(pid, low, high)] for pid in changing}
    for at, pid in enumerate(block.pid):
        if pid in changing:
            column[at] = steps[pid][bisect_right(steps[pid], block.ts[at], key=itemgetter(0)) - 1][1]
    return column, frozenset(escaped)


def _json_lines(
    block: DecodedBlock, stream: int, heads: list[str], payloads: list[Iterator[str] | None], renderer: Renderer,
    context: Context, selection: Selection,
) -> Iterator[Line]:  # fmt: skip
    pids = selection.pids
    low, high = _bounds(selection)
    (threads, escaped), times = _threads(block, renderer, context), renderer.times(block.ts, context)
    columns = zip(block.kind, block.ts, times, block.pid, threads, block.flags, block.preempt_count, strict=True)
    for kind, ts, time, pid, thread, flags, preempt_count in columns:
        payload = payloads[kind]
        if payload is None:
            continue
        fields = next(payload)
        if low <= ts <= high and (pids is None or pid in pids):
            if thread in escaped:
                fields = renderer.mark_escaped(fields, "common_comm")
            yield ts, stream, heads[kind] % (time, thread, flags, preempt_count) + fields


def _fields_lines(
    block: DecodedBlock, stream: int, heads: list[str], payloads: list[Iterator[str] | None], renderer: Renderer,
    context: Context, selection: Selection,
) -> Iterator[Line]:  # fmt: skip
    pids = selection.pids
    low, high = _bounds(selection)
    gaps: list[Missed] = sorted(block.head.gaps, key=lambda gap: gap.at, reverse=True)
    (threads, _), times = _threads(block, renderer, context), renderer.times(block.ts, context)
    columns = zip(block.kind, block.ts, times, block.pid, threads, strict=True)
    ts = block.head.first_ts
    for at, (kind, ts, time, pid, thread) in enumerate(columns):
        while gaps and gaps[-1].at <= at:
            gap = gaps.pop()
            if low <= ts <= high:
                yield ts, stream, FieldsRenderer.gap(context.cpu, gap.lost)
        payload = payloads[kind]
        if payload is None:
            continue
        fields = next(payload)
        if low <= ts <= high and (pids is None or pid in pids):
            yield ts, stream, heads[kind] % (thread, *time) + fields
    if low <= ts <= high:
        for gap in reversed(gaps):
            yield ts, stream, FieldsRenderer.gap(context.cpu, gap.lost)


def _bounds(selection: Selection) -> tuple[int, int]:
    return selection.since or 0, (1 << 64) if selection.until is None else selection.until
