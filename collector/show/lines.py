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
from collector.archive.objects import CHARS, INT, FieldColumn, FormatObject
from collector.batch import MODE_RAW, Missed
from collector.show.renderers import Context, FieldsRenderer, Renderer

Line = tuple[int, int, str]  # (ts, number of the stream, text); merged by the first two

_WORD = (1 << 64) - 1


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


def _payload(kind: KindColumns, renderer: Renderer, context: Context) -> Iterator[str]:
    """Gives the text of the fields of each entry of one event, lazily."""
    form: list[str] = []
    columns: list[Iterable[Any]] = []
    pairs: Iterator[tuple[FieldColumn | None, Sequence[Any]]]
    if kind.mode == MODE_RAW:
        pairs = iter([(None, kind.columns[0])])
    else:
        pairs = zip(kind.format.columns, kind.columns, strict=True)
    addresses = context.symbols.fields(kind.format)
    named: dict[str, Sequence[Any]] = {}
    for at, (field, values) in enumerate(pairs):
        form.append(renderer.field("raw" if field is None else field.name, at == 0))
        convert = renderer.binary if field is None else _converter(field, kind.format, renderer)
        if field is not None and (field.name in addresses.code or field.name in addresses.strings):
            named[field.name] = values = _unsigned(field, values)
            is_code = field.name in addresses.code
            names = context.symbols.code if is_code else context.symbols.strings
            convert = renderer.addresses(names, is_code=is_code, is_one=_is_number(field))
        if isinstance(values, Repeat):
            form.append(_double(str(values.value) if convert is None else convert(values.value)))
        elif convert is None and field is not None and _is_number(field):
            form.append("%d")
            columns.append(values)
        else:
            form.append("%s")
            columns.append(values if convert is None else map(Memo(convert).__getitem__, values))
    form.append(renderer.fields_end())
    if named and renderer.names_apart and (context.symbols.code or context.symbols.strings):
        name_all = Memo(lambda values: renderer.names(dict(zip(named, values, strict=True)), context.symbols))
        form.append("%s")
        columns.append(map(name_all.__getitem__, zip(*named.values(), strict=True)))
    text = "".join(form) + renderer.tail()
    if not columns:
        return iter(Repeat(text % (), kind.entries))
    return map(text.__mod__, zip(*columns, strict=True))


def _is_number(field: FieldColumn) -> bool:
    return field.cls == INT and field.count == 1


def _unsigned(field: FieldColumn, values: Sequence[Any]) -> Sequence[Any]:
    """Gives addresses as 64-bit numbers, and several of them as tuples."""
    if _is_number(field) and not field.signed:
        return values
    convert = Memo(lambda value: _split(field, value)).__getitem__ if field.cls != INT else _to_addresses
    return Repeat(convert(values.value), len(values)) if isinstance(values, Repeat) else list(map(convert, values))


def _split(field: FieldColumn, value: bytes) -> Any:
    """Gives the addresses in a variable field; bytes that are no whole number of them stay bytes."""
    found = decode_elements(field, value)
    return found if isinstance(found, bytes) else _to_addresses(found)


def _to_addresses(value: int | list[int]) -> int | tuple[int, ...]:
    return _WORD & value if isinstance(value, int) else tuple(_WORD & v for v in value)


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


def _threads(block: DecodedBlock, renderer: Renderer, context: Context) -> Iterable[str]:
    """Gives the thread of each entry as text."""
    threads, texts = context.threads, {}
    low, high = (min(block.ts), max(block.ts)) if block.ts else (0, 0)  # times may step back
    changing = set()
    for pid in set(block.pid):
        found = threads.over(pid, low, high)
        if found is None:
            changing.add(pid)
        else:
            texts[pid] = renderer.thread(pid, found)
    if not changing:
        return map(texts.__getitem__, block.pid)
    column = [texts.get(pid, "") for pid in block.pid]
    steps = {
        pid: [(ts, renderer.thread(pid, thread)) for ts, thread in threads.steps(pid, low, high)] for pid in changing
    }
    for at, pid in enumerate(block.pid):
        if pid in changing:
            column[at] = steps[pid][bisect_right(steps[pid], block.ts[at], key=itemgetter(0)) - 1][1]
    return column


def _json_lines(
    block: DecodedBlock, stream: int, heads: list[str], payloads: list[Iterator[str] | None], renderer: Renderer,
    context: Context, selection: Selection,
) -> Iterator[Line]:  # fmt: skip
    pids = selection.pids
    low, high = _bounds(selection)
    threads, times = _threads(block, renderer, context), renderer.times(block.ts, context)
    columns = zip(block.kind, block.ts, times, block.pid, threads, block.flags, block.preempt_count, strict=True)
    for kind, ts, time, pid, thread, flags, preempt_count in columns:
        payload = payloads[kind]
        if payload is None:
            continue
        fields = next(payload)
        if low <= ts <= high and (pids is None or pid in pids):
            yield ts, stream, heads[kind] % (time, thread, flags, preempt_count) + fields


def _fields_lines(
    block: DecodedBlock, stream: int, heads: list[str], payloads: list[Iterator[str] | None], renderer: Renderer,
    context: Context, selection: Selection,
) -> Iterator[Line]:  # fmt: skip
    pids = selection.pids
    low, high = _bounds(selection)
    gaps: list[Missed] = sorted(block.head.gaps, key=lambda gap: gap.at, reverse=True)
    threads, times = _threads(block, renderer, context), renderer.times(block.ts, context)
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
