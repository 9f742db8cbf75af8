"""How far a spool has been acknowledged: one small file, replaced as a whole.

    {"version": 1, "segment": "<name of a sealed segment>", "offset": <bytes>}

Segments before that one, and its bytes before the offset, are acknowledged. An older cursor than the truth costs
duplicates, never entries.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from collector.archive import disk
from collector.errors import ArchiveError

NAME = "cursor"
VERSION = 1
MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a spool."""

    segment: str  # the segment's final name
    offset: int


def build_cursor(cursor: Cursor) -> bytes:
    """The file's bytes."""
    return json.dumps({"version": VERSION, "segment": cursor.segment, "offset": cursor.offset}).encode() + b"\n"


def parse_cursor(data: bytes) -> Cursor:
    """Read the file's bytes.

    Raises:
      ArchiveError: damaged, or of another version.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ArchiveError("the cursor is damaged", expected="JSON", got=repr(data[:40])) from e
    if not isinstance(found, dict) or found.get("version") != VERSION:
        got = repr(found.get("version")) if isinstance(found, dict) else type(found).__name__
        raise ArchiveError("a cursor of another version", expected=str(VERSION), got=got)
    segment, offset = found.get("segment"), found.get("offset")
    if not isinstance(segment, str) or "/" in segment or type(offset) is not int or offset < 0:
        raise ArchiveError("the cursor is damaged", expected="a segment and an offset", got=repr(data[:80]))
    return Cursor(segment, offset)


def read_cursor(folder: Path) -> Cursor | None:
    """The folder's cursor; None when it has none.

    Raises:
      ArchiveError: it cannot be read.
    """
    try:
        with open(folder / NAME, "rb") as file:
            return parse_cursor(file.read(MAX_BYTES))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ArchiveError(f"the cursor cannot be read: {e.strerror}", where=str(folder / NAME)) from e


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Replace the folder's cursor, durably: after a crash there is the old one or the new one.

    Raises:
      OSError
    """
    disk.replace_file(folder / NAME, build_cursor(cursor))
