"""What a day's manifest says: a line of JSON for each segment, sorted by name. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from collector.errors import ArchiveError


@dataclass(frozen=True, slots=True)
class InstancePart:
    """What a segment has of one instance."""

    clock: str
    events: int
    first_ts: int | None  # of all its CPUs, in the unit of the clock; None: no entry
    last_ts: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A segment in the store."""

    name: str  # of the object in its folder, and of the file in the archive unless that was taken
    size_bytes: int
    sha256: str  # hex
    run: str  # hex; "" when nothing of the segment says it
    segment: int | None  # its number in the run
    host: str
    from_ns: int | None  # wall time, begun
    to_ns: int | None  # wall time, sealed
    events: int | None
    instances: Mapping[str, InstancePart] = field(default_factory=dict)


def build_line(entry: Entry) -> str:
    """Gives one line, without its end."""
    return json.dumps(asdict(entry), separators=(",", ":"))


def parse_line(line: str) -> Entry:
    """Reads what `build_line` wrote; keys of later versions are passed over.

    Raises:
      ArchiveError: it is something else.
    """
    try:
        value: Any = json.loads(line)
        known = {key: value[key] for key in Entry.__dataclass_fields__}
        known["instances"] = {
            name: InstancePart(**{key: of[key] for key in InstancePart.__dataclass_fields__})
            for name, of in known["instances"].items()
        }
        if not (isinstance(known["name"], str) and isinstance(known["size_bytes"], int)):
            raise TypeError("name and size")
        return Entry(**known)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ArchiveError(f"not a line of a manifest: {e}", got=line[:80]) from e


def build_manifest(entries: Iterable[Entry]) -> bytes:
    """Gives the bytes of a manifest; the same entries give the same bytes."""
    return merge(b"", entries)[0]


def merge(stored: bytes, entries: Iterable[Entry]) -> tuple[bytes, int]:
    """Gives the manifest with these entries in it, and how many lines of the stored one are no entries.

    What somebody else has written stays as it is: a line of a later version has what this one does not know, and what
    does not read stands at the end.
    """
    merged: dict[str, bytes] = {}  # {name: line}
    foreign: dict[bytes, None] = {}  # a set that keeps the order
    for line in stored.split(b"\n"):
        try:
            merged[parse_line(line.decode()).name] = line
        except (ArchiveError, UnicodeDecodeError):
            if line.strip():
                foreign[line] = None
    merged.update((entry.name, build_line(entry).encode()) for entry in entries)
    return b"".join(line + b"\n" for line in (*(merged[name] for name in sorted(merged)), *foreign)), len(foreign)
