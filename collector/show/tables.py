"""Rows as an aligned table on a terminal, as plain lines in a pipe, or as JSON objects, one a line. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, TextIO

Style = Literal["table", "lines", "json"]

# The widths of a table are those of its first rows, so that a list of any length flows.
_ROWS_MEASURED = 5000
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    key: str  # of the rows
    title: str
    right: bool = False  # numbers


def columns_of(what: str) -> tuple[Column, ...]:
    """The columns of a kind of `list`."""
    return _COLUMNS[what]


def write_rows(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], out: TextIO, style: Style) -> int:
    """Write all rows; returns how many there were.

    table: a head line and aligned columns. lines: values separated by tabs, without a head. json: an object a line.
    """
    count = 0
    lines = _json_lines(rows) if style == "json" else _cells_lines(columns, rows, style)
    for line, is_row in lines:
        out.write(line + "\n")
        count += is_row
    return count


def cell(value: object) -> str:
    """A value as it is printed: "-" for none, words separated by commas for lists."""
    match value:
        case None:
            return "-"
        case True:
            return "yes"
        case False:
            return "no"
        case list() | tuple():
            return ", ".join(cell(item) for item in value) or "-"
        case _:
            # Names come from other programs: nothing of them may steer a terminal, or make a line of its own.
            return "".join(c if c.isprintable() else "?" for c in str(value)) or "-"


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    for row in rows:
        yield json.dumps(row), True


def _cells_lines(
    columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], style: Style
) -> Iterator[tuple[str, bool]]:
    cells = ([cell(row.get(column.key)) for column in columns] for row in rows)
    if style == "lines":
        for texts in cells:
            yield "\t".join(texts), True
        return
    first = list(islice(cells, _ROWS_MEASURED))
    if not first:
        return
    titles = [column.title for column in columns]
    widths = [max(map(len, values)) for values in zip(titles, *first, strict=True)]
    yield _align(columns, titles, widths), False
    for texts in chain(first, cells):
        yield _align(columns, texts, widths), True


def _align(columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        text.rjust(width) if column.right else text.ljust(width)
        for column, text, width in zip(columns, texts, widths, strict=True)
    ]
    return _GAP.join(parts).rstrip()


# {what is listed: columns}
_COLUMNS = {
    "tracers": (Column("tracer", "tracer"), Column("in_instances", "in instances"), Column("used_in", "used in"),
                Column("configs", "needs")),
    "events": (Column("event", "event"), Column("id", "id", right=True), Column("enabled_in", "enabled in")),
    "functions": (Column("function", "function"), Column("module", "module")),
    "options": (Column("option", "option"), Column("value", "on"), Column("tracer", "of tracer"),
                Column("in_effect", "in effect")),
    "clocks": (Column("clock", "clock"), Column("unit", "unit"), Column("comparable", "CPUs comparable"),
               Column("wall_time", "wall time"), Column("used_in", "used in")),
    "instances": (Column("instance", "instance"), Column("tracer", "tracer"), Column("clock", "clock"),
                  Column("recording", "on"), Column("events_on", "events on", right=True),
                  Column("buffer_kb", "KiB a CPU", right=True), Column("subbuf_kb", "sub-buffer KiB", right=True),
                  Column("unread", "unread", right=True), Column("held_by", "held by")),
}  # fmt: skip
