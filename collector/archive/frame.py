"""How records stand in a segment file: pure framing, no knowledge of what a body means. Pure.

    record  = 0x94 | 0xC4 0x04 SYNC | kind | 0xC6 u32be length | body | 0xCE u32be crc
              '---------------- head, 13 bytes ---------------'        '- tail, 5 -'
    SYNC    = F7 1A CE 5E
    crc     = CRC-32 of zlib over head and body
    trailer = a record of kind 8 whose body is 0xC4 0x10 | u64be offset | u64be length (of the footer record)

To a msgpack reader a segment is a plain stream of arrays `[sync, kind, body, crc]`. This reader checks the
exact bytes, so that no other spelling of the same objects passes, and any flipped bit is seen. After damage it
looks for the next SYNC whose record's checksum holds.

Source: docs/segment-format.md.
"""

import enum
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SYNC = b"\xf7\x1a\xce\x5e"
MARK = b"\x94\xc4\x04" + SYNC
HEAD_BYTES = 13
TAIL_BYTES = 5
TRAILER_BYTES = HEAD_BYTES + 18 + TAIL_BYTES

# A length above this is damage. Blocks hold at most a few MiB and the index of a footer 40 bytes a record; the
# limit keeps a flipped length from making the reader take gigabytes.
MAX_BODY_BYTES = 64 * 1024 * 1024

# How much is searched for the next sync at a time after damage.
_SEARCH_BYTES = 1024 * 1024

ReadAt = Callable[[int, int], bytes]  # (offset, size) -> at most size bytes; fewer only at the end of the file


class Kind(enum.IntEnum):
    """What the body of a record holds."""

    HEADER = 1
    OBJECT = 2
    BLOCK = 3
    GAP = 4
    COVERAGE = 5
    SAMPLE = 6
    FOOTER = 7
    TRAILER = 8


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One record whose checksum holds."""

    offset: int  # of its first byte in the file
    kind: int  # see Kind; a number that is not there comes from a later version
    body: memoryview
    length: int  # head and tail included, bytes
    crc: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of the file in which no record holds."""

    offset: int
    length: int  # bytes
    reason: str

    @property
    def end(self) -> int:
        return self.offset + self.length


def build_head_tail(kind: int, body: bytes | bytearray | memoryview) -> tuple[bytes, bytes]:
    """Gives what stands before and after a body, so that a big body is written without a copy."""
    size_bytes = len(body)
    if not 0 <= kind < 128:
        raise ValueError(f"kind {kind} is not a positive fixint")
    if size_bytes > MAX_BODY_BYTES:
        raise ValueError(f"a body of {size_bytes} bytes; at most {MAX_BODY_BYTES}")
    head = MARK + bytes((kind, 0xC6)) + size_bytes.to_bytes(4, "big")
    crc = zlib.crc32(body, zlib.crc32(head))
    return head, b"\xce" + crc.to_bytes(4, "big")


def build_record(kind: int, body: bytes) -> bytes:
    """Gives the bytes of one record."""
    head, tail = build_head_tail(kind, body)
    return head + body + tail


def build_trailer(footer_offset: int, footer_length: int) -> bytes:
    """Gives the trailer record that finds the footer record from the end of the file."""
    body = b"\xc4\x10" + footer_offset.to_bytes(8, "big") + footer_length.to_bytes(8, "big")
    return build_record(Kind.TRAILER, body)


def parse_trailer(body: bytes | memoryview) -> tuple[int, int] | None:
    """Gives (offset, length) of the footer record; None when the body is not a trailer's."""
    raw = bytes(body)
    if len(raw) != 18 or raw[:2] != b"\xc4\x10":
        return None
    return int.from_bytes(raw[2:10], "big"), int.from_bytes(raw[10:], "big")


def read_record(read: ReadAt, size_bytes: int, offset: int) -> Record | str:
    """Gives the record at an offset of a file of this size, or why there is none."""
    head = read(offset, HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return f"cut short: {len(head)} of the {HEAD_BYTES} bytes of a head"
    if not head.startswith(MARK) or head[8] != 0xC6 or head[7] > 127:
        return "no record begins here"
    length = HEAD_BYTES + int.from_bytes(head[9:], "big") + TAIL_BYTES
    if length > MAX_BODY_BYTES + HEAD_BYTES + TAIL_BYTES:
        return f"a body of {length - HEAD_BYTES - TAIL_BYTES} bytes; at most {MAX_BODY_BYTES}"
    if offset + length > size_bytes:
        return f"cut short: {size_bytes - offset} of {length} bytes"
    whole = memoryview(read(offset, length))
    if len(whole) < length:
        return f"cut short: {len(whole)} of {length} bytes"
    if whole[-TAIL_BYTES] != 0xCE:
        return "no tail where the length points"
    crc = int.from_bytes(whole[-4:], "big")
    found = zlib.crc32(whole[:-TAIL_BYTES])
    if found != crc:
        return f"checksum {found:08x} is not the stored {crc:08x}"
    return Record(offset, head[7], whole[HEAD_BYTES:-TAIL_BYTES], length, crc)


def _find_record(read: ReadAt, size_bytes: int, offset: int) -> int:
    """Gives the offset of the next record that holds, from offset on; the file's size when there is none."""
    at = offset
    while at < size_bytes:
        window = read(at, _SEARCH_BYTES)
        found = window.find(MARK)
        while found >= 0:
            if isinstance(read_record(read, size_bytes, at + found), Record):
                return at + found
            found = window.find(MARK, found + 1)
        if len(window) < _SEARCH_BYTES:
            break
        at += len(window) - len(MARK) + 1  # a mark may straddle two windows
    return size_bytes


def scan(read: ReadAt, size_bytes: int, offset: int = 0) -> Iterator[Record | Damage]:
    """Gives every record of a file in order, and the damage between them.

    Args:
      read: gives bytes of the file.
      size_bytes: of the file, as far as it is to be read.
      offset: of the first record.
    """
    while offset < size_bytes:
        found = read_record(read, size_bytes, offset)
        if isinstance(found, Record):
            yield found
            offset = found.end
        else:
            start, offset = offset, _find_record(read, size_bytes, offset + 1)
            yield Damage(start, offset - start, found)


def scan_bytes(data: bytes, offset: int = 0) -> Iterator[Record | Damage]:
    """As `scan`, for a file that is in memory."""
    return scan(lambda at, size: data[at : at + size], len(data), offset)
