"""`show --format json`: an object a line, in ASCII, from which every byte can be had again."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from collector.archive.objects import FieldColumn, FormatObject
from collector.read.comms import Thread
from collector.read.meaning import decode_text, has_bytes, is_missing, readable_form
from collector.read.symbols import Symbols
from collector.show.renderers import Context, one_byte_numbers, plain_words
from collector.tracefs.meaning import FieldKind

# Behind all else; no text can look like it, for quotes in texts are escaped.
_ESCAPED = ', "escaped": ['
_END = "}\n"


class JsonRenderer:
    """One object a line. Texts that are no UTF-8 are escaped, and stand in the list `escaped` by their names."""

    shows_gaps = False
    names_apart = True

    def head(self, of: FormatObject, context: Context) -> str:
        event = _dump_name(of.full_name)
        instance = "" if context.instance is None else f'"instance": {_dump_name(context.instance)}, '
        clock = "" if context.clock is None else f'"clock": {_dump_name(context.clock)}, '
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
        comm = "null" if thread.comm is None else _dump_text(thread.comm)
        about = f'"comm_source": {json.dumps(thread.source)}, "tgid": {json.dumps(thread.tgid)}'
        return f'"pid": {pid}, "comm": {comm}, {about}'

    def field(self, name: str, first: bool) -> str:
        return _double(f"{'' if first else ', '}{_dump_name(name)}: ")

    def value(self, field: FieldColumn, kind: FieldKind, symbols: Symbols) -> Callable[[Any], str] | None:
        if kind == "text":
            return lambda value: "null" if is_missing(field, value) else _dump_text(value)
        if has_bytes(field):
            return lambda value: str(one_byte_numbers(field, value) if kind == "plain" else list(value))
        return plain_words(field, kind, self.binary)

    def binary(self, value: bytes) -> str:
        return f'"{value.hex()}"'

    def readable(self, field: FieldColumn, kind: FieldKind) -> Callable[[Any], str] | None:
        form = readable_form(kind, field)
        return None if form is None else lambda value: json.dumps(form(value))

    def readable_field(self, name: str, first: bool) -> str:
        before = ', "readable": {' if first else ", "
        return _double(f"{before}{_dump_name(name)}: ")

    def fields_end(self) -> str:
        return "}"

    def apart(self, named: Mapping[str, Any], escaped: Mapping[str, bytes], symbols: Symbols) -> str:
        out = ""
        odd = [name for name, value in escaped.items() if decode_text(value)[1]]
        for key, names in (("symbols", symbols.code), ("strings", symbols.strings)):
            looked_up = ((field, _lookup(value, names)) for field, value in named.items())
            found = {field: value for field, value in looked_up if value is not None}
            if found:
                pairs = ", ".join(f"{_dump_name(field)}: {_dump_names(value)}" for field, value in found.items())
                out += f', "{key}": {{{pairs}}}'
                if any(_is_odd(value) for value in found.values()):
                    odd.append(key)
        return f"{out}{_ESCAPED}{', '.join(map(_dump_name, odd))}]" if odd else out

    def mark_escaped(self, fields: str, name: str) -> str:
        at = fields.rfind(_ESCAPED)
        if at < 0:
            return f"{fields.removesuffix(_END)}{_ESCAPED}{json.dumps(name)}]{_END}"
        at += len(_ESCAPED)
        return f"{fields[:at]}{json.dumps(name)}, {fields[at:]}"

    def tail(self) -> str:
        return _END


def _double(text: str) -> str:
    return text.replace("%", "%%")


def _dump_text(value: bytes) -> str:
    return json.dumps(decode_text(value)[0])


def _dump_name(name: str) -> str:
    """A name that came as text with surrogates for what is no UTF-8."""
    return _dump_text(name.encode("utf-8", "surrogateescape"))


def _dump_names(found: str | Sequence[str | None]) -> str:
    if isinstance(found, str):
        return _dump_name(found)
    return f"[{', '.join('null' if name is None else _dump_name(name) for name in found)}]"


def _is_odd(found: str | Sequence[str | None]) -> bool:
    """Whether a name is no UTF-8."""
    names = (found,) if isinstance(found, str) else found
    return any(0xDC80 <= ord(char) <= 0xDCFF for name in names if name is not None for char in name)


def _lookup(value: Any, names: Mapping[int, str]) -> str | list[str | None] | None:
    """Gives the name of an address, of each of several, or None where none has one."""
    if isinstance(value, int):
        return names.get(value)
    if isinstance(value, bytes):
        return None
    found = [names.get(address) for address in value]
    return found if any(name is not None for name in found) else None
