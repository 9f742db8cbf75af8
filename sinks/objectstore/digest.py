"""What is known of a segment file before it is sent: its checksums, and what its footer says."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from collector.archive.reader import open_segment
from collector.errors import SegmentError
from sinks.objectstore.manifest import Entry, InstancePart


@dataclass(frozen=True, slots=True)
class Digest:
    """Checksums of one file."""

    size_bytes: int
    sha256: str  # hex
    e_tags: frozenset[str]  # what an S3 server says of it: MD5, or that of its parts' MD5s

    def matches(self, e_tag: str | None) -> bool:
        """Whether a server's etag proves that it has these bytes; one that does not proves nothing."""
        return e_tag is not None and e_tag.strip('"').lower() in self.e_tags


def read_parts(file: BinaryIO, part_bytes: int) -> Iterator[bytes]:
    """Gives the file in parts, the last one shorter."""
    while part := file.read(part_bytes):
        yield part


def read_digest(file: BinaryIO, part_bytes: int) -> Digest:
    """Reads a file to its end.

    Raises:
      OSError
    """
    sha256, whole = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    of_parts = hashlib.md5(usedforsecurity=False)
    size_bytes = parts = 0
    for part in read_parts(file, part_bytes):
        sha256.update(part)
        whole.update(part)
        of_parts.update(hashlib.md5(part, usedforsecurity=False).digest())
        size_bytes += len(part)
        parts += 1
    return Digest(
        size_bytes, sha256.hexdigest(), frozenset((whole.hexdigest(), f"{of_parts.hexdigest()}-{max(parts, 1)}"))
    )


def read_entry(path: Path, digest: Digest, host: str) -> Entry:
    """Gives the line of a segment's manifest; of a damaged one, what it still says.

    Args:
      host: when the segment does not say it.
    Raises:
      OSError
    """
    unknown = Entry(path.name, digest.size_bytes, digest.sha256, "", None, host, None, None, None)
    try:
        with open_segment(path) as segment:
            header, footer = segment.header, segment.footer
            if header is None or footer is None:
                return unknown
    except SegmentError:
        return unknown
    instances = {}
    for name, clock in header.clocks.items():
        streams = [of for of in footer.streams if of.stream[0] == name]
        instances[name] = InstancePart(
            clock.name,
            sum(of.closing.events - of.opening.events for of in streams),
            min((of.first_ts for of in streams if of.first_ts is not None), default=None),
            max((of.last_ts for of in streams if of.last_ts is not None), default=None),
        )
    return Entry(
        path.name, digest.size_bytes, digest.sha256, header.run.hex(), header.segment, header.host or host,
        header.created_ns, footer.sealed_ns, sum(of.events for of in instances.values()), instances,
    )  # fmt: skip


def count_events(path: Path) -> int:
    """Gives the entries of a sealed segment; 0 where its footer does not say.

    Raises:
      OSError
    """
    try:
        with open_segment(path) as segment:
            streams = segment.footer.streams if segment.footer is not None else ()
            return sum(of.closing.events - of.opening.events for of in streams)
    except SegmentError:
        return 0
