"""The text of a configuration: overlaid, with the line of each key, and what is said when it is wrong. Pure."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collector.errors import EXIT_USAGE, ConfigError


@dataclass(frozen=True, slots=True)
class Layer:
    """One TOML text."""

    where: str  # the file's name, for messages
    text: str


@dataclass(frozen=True, slots=True)
class Override:
    """One value from the command line."""

    key: tuple[str, ...]  # ("trace", "events")
    value: object
    option: str  # "--event", for messages


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value comes from."""

    where: str  # file, or option
    line: int | None  # counted from 1; None: not from a file

    def __str__(self) -> str:
        return self.where if self.line is None else f"{self.where}:{self.line}"


Places = Mapping[tuple[str, ...], Place]  # {key path: where it was set last}


def find_place(places: Places, path: tuple[str, ...]) -> Place | None:
    """Give the place of a key, or of the nearest table around it that stands in a text; None: nowhere."""
    return next((places[path[:length]] for length in range(len(path), 0, -1) if path[:length] in places), None)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration."""

    where: str  # file, or option
    line: int | None  # counted from 1; None: not from a file
    key: str  # "trace.buffer_percent"; "" for a text that is not TOML
    expected: str
    got: str
    hint: str = ""

    def __str__(self) -> str:
        place = Place(self.where, self.line)
        text = ": ".join(part for part in (str(place), self.key, f"expected {self.expected}, got {self.got}") if part)
        return f"{text}; {self.hint}" if self.hint else text


class InvalidConfigError(ConfigError):
    """Everything that is wrong with the configuration, at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        if all(p.where.startswith("-") for p in self.problems):
            self.exit_code = EXIT_USAGE  # only options are wrong, no file is
        number = "1 error" if len(self.problems) == 1 else f"{len(self.problems)} errors"
        super().__init__(f"{number} in the configuration\n" + "\n".join(f"  {p}" for p in self.problems))


def split_listen(listen: str) -> tuple[str, int]:
    """Split HOST:PORT or [IPV6]:PORT; port 0 lets the system choose.

    Raises:
      ValueError: not such an address.
    """
    host, colon, port = listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    number_ok = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not bare or not number_ok or (":" in bare and bare == host):
        raise ValueError('HOST:PORT such as "127.0.0.1:9464" or "[::1]:9464", or "" for none')
    return bare, int(port)


def format_size(size_bytes: int) -> str:
    """`512 B`, `1.5 KiB`, `128.0 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1023.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def inherit_keys(merged: dict[str, Any], overrides: Sequence[Override]) -> bool:
    """Give each of [[instances]] the keys of [trace] that it doesn't have itself; the command line goes before both.

    Gives whether there are instances that now have all of [trace].
    """
    tables = merged.get("instances")
    shared = merged.get("trace", {})
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in [shared, *tables]) or not tables:
        return False
    given = {override.key[1] for override in overrides if override.key[:1] == ("trace",)} - {"instance"}
    merged["instances"] = [
        {**shared, **{key: value for key, value in table.items() if key not in given}} for table in tables
    ]
    merged["trace"] = merged["instances"][0]
    return True


def find_lines(text: str) -> dict[tuple[str, ...], int]:
    """{key path: line, from 1} of the tables and keys of a TOML text, for messages only.

    Looks at how lines begin, not at TOML's whole grammar: a key inside an inline table has its
    table's line, and `key =` inside a multi-line string may be taken for a key. The first of
    [[instances]] is ("instances", "0").
    """
    lines: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}  # {array of tables: how many so far}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.fullmatch(r"\s*\[\[([^\[\]]+)\]\]\s*(#.*)?", line):
            *outer, name = _split_key(header[1])
            array = (*_with_positions(outer, counts), name)
            table = (*array, str(counts.get(array, 0)))
            counts[array] = counts.get(array, 0) + 1
            lines.setdefault(array, number)
            lines.setdefault(table, number)
        elif header := re.fullmatch(r"\s*\[([^\[\]]+)\]\s*(#.*)?", line):
            table = _with_positions(_split_key(header[1]), counts)
            lines.setdefault(table, number)
        elif key := re.match(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[^\s=.]+)*)\s*=""", line):
            lines.setdefault(table + _split_key(key[1]), number)
    return lines


def _with_positions(names: Sequence[str], counts: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """The path of a table, with the position of the last table so far behind each array of tables."""
    path: tuple[str, ...] = ()
    for name in names:
        path += (name,)
        if path in counts:
            path += (str(counts[path] - 1),)
    return path


def _split_key(text: str) -> tuple[str, ...]:
    parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[^.]+)""", text)
    return tuple(part.strip().strip("\"'") for part in parts)


def overlay(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    """Put what `top` has into `base`, key by key; arrays are replaced."""
    for name, value in top.items():
        if isinstance(value, dict):
            if not isinstance(base.get(name), dict):
                base[name] = {}
            overlay(base[name], value)
        else:
            base[name] = value


def parse_layer(layer: Layer) -> dict[str, Any] | Problem:
    """Parse a text; gives what is wrong where it is not TOML."""
    try:
        table = tomllib.loads(layer.text)
        if _fits(table):
            return table
        got = "a whole number of more than 64 bits"
    except tomllib.TOMLDecodeError as e:
        return _syntax_problem(layer, e)
    except ValueError:  # from int(), which takes so many digits and no more
        got = "a number of too many digits"
    except RecursionError:
        got = "too many tables or arrays in one another"
    return Problem(layer.where, None, "", "TOML", got)


def _fits(value: object) -> bool:
    """Whether all whole numbers are such as TOML promises: others can be neither printed nor stored everywhere."""
    if isinstance(value, dict):
        return all(map(_fits, value.values()))
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 63


def _syntax_problem(layer: Layer, error: tomllib.TOMLDecodeError) -> Problem:
    """Word what the TOML parser says."""
    message = str(error)
    at = re.search(r"\(at line (\d+), column \d+\)|\(at end of document\)", message)
    line = int(at[1]) if at and at[1] else layer.text.count("\n") + 1
    got = re.sub(r"\s*\(at .*\)$", "", message)
    return Problem(layer.where, line, "", "TOML", got[:1].lower() + got[1:])
