"""What has been uploaded of an archive: a small file in its folder, replaced whole.

    .uploaded-NAME.jsonl    {"version": 1, "url": ..., "days": [folders whose manifest is to be written]}
                            {"file": ..., "folder": ..., "entry": {...}} of each segment that is in the store
                            {"crc": CRC-32 of all lines before}

A segment's line goes when the segment has been removed from the archive and its day's manifest is written. A file that
does not read is set aside: the store is asked of each segment again, and nothing is sent twice.
"""

import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from collector.archive import disk
from collector.errors import ArchiveError
from sinks.objectstore.manifest import Entry, build_line, parse_line

VERSION = 1


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A segment that is in the store, whole."""

    file: str  # its name in the archive
    folder: str  # in the store
    entry: Entry


@dataclass(slots=True)
class Progress:
    """What has been done, by one sink, to one place."""

    url: str
    uploaded: dict[str, Uploaded] = field(default_factory=dict)  # {file name: ...}
    days: set[str] = field(default_factory=set)  # folders whose manifest lacks something

    def prune(self, present: Collection[str]) -> None:
        """Forget segments that are gone from the archive, and whose manifest is written."""
        for name in [n for n, of in self.uploaded.items() if n not in present and of.folder not in self.days]:
            del self.uploaded[name]


def path_of(archive: Path, sink: str) -> Path:
    return archive / f".uploaded-{sink}.jsonl"


def build_progress(progress: Progress) -> bytes:
    lines = [json.dumps({"version": VERSION, "url": progress.url, "days": sorted(progress.days)})]
    for of in progress.uploaded.values():
        lines.append(json.dumps({"file": of.file, "folder": of.folder, "entry": json.loads(build_line(of.entry))}))
    data = "".join(line + "\n" for line in lines).encode()
    return data + b'{"crc": %d}\n' % zlib.crc32(data)


def parse_progress(data: bytes) -> Progress:
    """Raises ArchiveError when it is damaged, or of another version."""
    try:
        at = data.rindex(b"\n", 0, -1) + 1
        if json.loads(data[at:])["crc"] != zlib.crc32(data[:at]):
            raise ArchiveError("its checksum does not hold")
        head, *lines = [json.loads(line) for line in data[:at].decode().splitlines()]
        if head["version"] != VERSION:
            raise ArchiveError("of another version", expected=str(VERSION), got=str(head["version"]))
        progress = Progress(str(head["url"]), days={str(day) for day in head["days"]})
        for line in lines:
            entry = parse_line(json.dumps(line["entry"]))
            progress.uploaded[line["file"]] = Uploaded(str(line["file"]), str(line["folder"]), entry)
    except (ValueError, KeyError, TypeError) as e:
        raise ArchiveError(f"does not read: {e}") from e
    return progress


def read_progress(path: Path, url: str) -> tuple[Progress, str | None]:
    """Gives what was done so far, and why the file was not believed, if so.

    Raises:
      OSError: it cannot be read, or set aside.
    """
    try:
        progress = parse_progress(path.read_bytes())
    except FileNotFoundError:
        return Progress(url), None
    except ArchiveError as e:
        aside = path.with_name(path.name + ".bad")
        disk.rename(path, aside)
        return Progress(url), f"{e}; set aside as {aside.name}"
    if progress.url != url:
        return Progress(url), None  # another place has none of it
    return progress, None


def write_progress(path: Path, progress: Progress) -> None:
    """Raises OSError."""
    disk.replace_file(path, build_progress(progress))
