"""Schema and map objects: the names that blocks refer to by a hash. Pure.

    id   = first 8 bytes of SHA-256(type, 0x00, uncompressed data)
    data = one msgpack object, compressed when that is worth it

Every segment carries the objects that its blocks need, before their first use, so that any one segment decodes
alone. The same content has the same id everywhere.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard

from collector.archive.fields import Fields, pack, unpack
from collector.errors import SegmentError

# Below this zstd's frame eats what it saves.
COMPRESS_ABOVE_BYTES = 200

# No object of a real kernel comes near (saved_cmdlines: 128 Ki entries at most, 3 MiB); it bounds what a hostile
# frame can make a reader allocate.
MAX_OBJECT_BYTES = 32 * 1024 * 1024
# Maps and arrays in one: an empty one has a byte here and 60 in memory. Ours have one for each address at most.
MAX_OBJECT_PARTS = 1 << 20
_BODY_PARTS = 8  # of the record around it

NAMES = frozenset(("symbols", "printk", "comms", "comms_proc", "tgids"))  # types whose value maps numbers to names

END = "end"  # type of the object that ends a run in a stream

INT, CHARS, DATA_LOC, REL_LOC, TAIL = "int", "chars", "data_loc", "rel_loc", "tail"
VARIABLE = frozenset((DATA_LOC, REL_LOC, TAIL))
_CLASSES = VARIABLE | {INT, CHARS}


class Compressor(Protocol):
    """What zstandard.ZstdCompressor gives; one per thread, it is not safe to share."""

    def compress(self, data: bytes, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as a segment holds it, its hash checked."""

    id: bytes  # 8 bytes
    type: str  # format, symbols, printk, comms, tgids, clock
    value: Any  # what the data decodes to


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """One field of an event, in the order of offset; but for the four of the head that every entry has."""

    name: str
    cls: str  # int, chars, data_loc, rel_loc, tail
    size: int  # bytes: of an element; of the whole for chars
    signed: bool
    count: int  # elements; 1 for a scalar, for chars and for the variable ones


@dataclass(frozen=True, slots=True)
class FormatObject:
    """One event's layout, or the name under which entries without a format are kept."""

    id: bytes  # of the object
    event_id: int  # the kernel's id
    system: str
    name: str
    columns: tuple[FieldColumn, ...]
    text: str  # the whole format file; "" when the id has none
    kinds: tuple[str, ...] | None = None  # what each column's values mean; None: the segment does not say it
    word_size: int = 8  # bytes of the kernel's long
    doubts: tuple[str, ...] = ()  # where the format contradicts itself, and what of it was believed

    @property
    def full_name(self) -> str:
        return f"{self.system}:{self.name}"


@dataclass(frozen=True, slots=True)
class ClockPair:
    """One moment in several clocks, taken by the daemon."""

    instance: str
    trace: int  # in the unit of the instance's clock
    realtime_ns: int
    boottime_ns: int
    monotonic_ns: int
    error_ns: int  # how far apart the readings may be


@dataclass(frozen=True, slots=True)
class ReportObject:
    """What the kernel said of a new maximum."""

    instance: str
    kind: str  # latency, stack
    tracer: str
    value: int
    unit: str  # us, bytes
    realtime_ns: int  # when it was found
    text: str
    clock: str = ""  # of the times in the text; "": it has none, or the segment does not say it
    trace_ts: int | None = None  # the instance's clock when it was found
    text_value: int | None = None  # what the text says it is of, where that is another maximum
    values: int = 1  # new values since the report before, this one included, as far as they were noticed


def object_id(kind: str, data: bytes) -> bytes:
    return hashlib.sha256(kind.encode(errors="surrogateescape") + b"\0" + data).digest()[:8]


def build_object(kind: str, value: object, compressor: Compressor | None = None) -> tuple[bytes, bytes]:
    """Gives (id, body of the object record).

    Args:
      kind: the object's type.
      value: what docs/segment-format.md says of that type.
      compressor: without one the data stays as it is.
    """
    data = pack(value)
    return object_id(kind, data), _build_body(kind, data, compressor)


def _build_body(kind: str, data: bytes, compressor: Compressor | None) -> bytes:
    codec, stored = "none", data
    if compressor is not None and len(data) > COMPRESS_ABOVE_BYTES:
        packed = compressor.compress(data)
        if len(packed) < len(data):
            codec, stored = "zstd", packed
    return pack({"id": object_id(kind, data), "type": kind, "codec": codec, "data": stored})


def recompress(body: bytes, compressor: Compressor) -> bytes:
    """Gives the same object with its data compressed where that helps.

    Raises:
      SegmentError: the body is not an object's.
    """
    top = Fields(unpack(body, "object", _BODY_PARTS), "object")
    data = top.binary("data")
    if top.text("codec") != "none" or len(data) <= COMPRESS_ABOVE_BYTES:
        return body
    return _build_body(top.text("type"), data, compressor)


def object_key(body: bytes | memoryview) -> bytes:
    """Gives the id that the body of an object record says it has.

    Raises:
      SegmentError: malformed.
    """
    return Fields(unpack(body, "object", _BODY_PARTS), "object").binary("id", 8)


def object_type(body: bytes | memoryview) -> str:
    """Gives the type that the body of an object record says it has.

    Raises:
      SegmentError: malformed.
    """
    return Fields(unpack(body, "object", _BODY_PARTS), "object").text("type")


def open_object(body: bytes | memoryview) -> tuple[bytes, str, bytes]:
    """Gives (id, type, data) of the body of an object record: decompressed, its hash checked, not decoded.

    A few bytes can hold a value that takes gigabytes as objects of Python: what need not be decoded had better not be.

    Raises:
      SegmentError: malformed, too large, or its content is not what the id names.
    """
    top = Fields(unpack(body, "object", _BODY_PARTS), "object")
    kind, codec, data = top.text("type"), top.text("codec"), top.binary("data")
    if codec == "zstd":
        data = decompress_zstd(data, None, MAX_OBJECT_BYTES, f"object {kind}")
    elif codec != "none":
        raise SegmentError(f"object {kind}: codec", expected="none or zstd", got=repr(codec))
    found = object_id(kind, data)
    if found != top.binary("id", 8):
        raise SegmentError(f"object {kind} does not hash to its id", expected=top.binary("id").hex(), got=found.hex())
    return found, kind, data


def parse_object(body: bytes | memoryview) -> StoredObject:
    """Decodes the body of an object record and checks its hash.

    Raises:
      SegmentError: malformed, too large, or its content is not what the id names.
    """
    found, kind, data = open_object(body)
    return StoredObject(found, kind, unpack(data, f"object {kind}", MAX_OBJECT_PARTS))


def decompress_zstd(data: bytes, size_bytes: int | None, limit_bytes: int, what: str) -> bytes:
    """Decompresses one frame whose header must carry its content's size.

    Args:
      size_bytes: what the content must measure, None where only the frame says it.
      limit_bytes: refuses more before anything is allocated.
    Raises:
      SegmentError: not one such frame.
    """
    try:
        claimed = zstandard.get_frame_parameters(data).content_size
        # The claim is what decompress() allocates, whatever max_output_size says.
        if claimed > limit_bytes or (size_bytes is not None and claimed != size_bytes):
            expected = f"{size_bytes} bytes" if size_bytes is not None else f"at most {limit_bytes} bytes"
            raise SegmentError(f"{what}: a zstd frame of the wrong size", expected=expected, got=str(claimed))
        out = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as e:
        raise SegmentError(f"{what} does not decompress ({e})") from e
    if len(out) != claimed:
        raise SegmentError(f"{what}: decompressed size", expected=str(claimed), got=str(len(out)))
    return out


def parse_format(found: StoredObject) -> FormatObject:
    """Gives the layout that a format object holds.

    Raises:
      SegmentError: a key is missing, has the wrong type or an impossible size.
    """
    top = Fields(found.value, "format object")
    columns = []
    for name, cls, size, signed, count in _column_rows(top):
        if cls not in _CLASSES or not 0 <= size <= 65536 or not 0 <= count <= 65536 or (cls != CHARS and size == 0):
            raise SegmentError(
                f"format object: column {name!r}",
                expected="a class, a size and a count of version 1",
                got=f"{cls!r}, {size}, {count}",
            )
        columns.append(FieldColumn(name, cls, size, signed, count))
    return FormatObject(
        found.id, top.integer("id"), top.text("system"), top.text("name"), tuple(columns), top.text("text"),
        _texts(top, "kinds", len(columns)) if top.has("kinds") else None,
        top.integer("word", 4, 8) if top.has("word") else 8, _texts(top, "doubts") if top.has("doubts") else (),
    )  # fmt: skip


def _texts(top: Fields, key: str, count: int | None = None) -> tuple[str, ...]:
    found = top.array(key)
    if not all(isinstance(text, str) for text in found) or (count is not None and len(found) != count):
        expected = "strings" if count is None else f"{count} strings"
        raise SegmentError(f"format object: {key}", expected=expected, got=repr(found)[:60])
    return tuple(found)


def _column_rows(top: Fields) -> list[tuple[str, str, int, bool, int]]:
    rows = []
    for row in top.array("columns"):
        if not isinstance(row, list) or [type(v) for v in row] not in (
            [str, str, int, bool, int],
            [str, str, int, int, int],  # a native encoder may write 0 and 1
        ):
            expected = "[name, class, size, signed, count]"
            raise SegmentError("format object: columns", expected=expected, got=repr(row)[:60])
        rows.append((row[0], row[1], row[2], bool(row[3]), row[4]))
    return rows


def check_object(found: StoredObject) -> None:
    """Look at an object as whoever reads it does; one of a type that is not known here is let through.

    Raises:
      SegmentError: its value is not what its type has.
    """
    match found.type:
        case "format":
            parse_format(found)
        case "clock":
            parse_clock(found)
        case "report":
            parse_report(found)
        case kind if kind in NAMES:
            parse_names(found)


def parse_names(found: StoredObject) -> dict[int, Any]:
    """Gives the map of an object of names.

    Returns: {number: [name, offset, module] of symbols, text of printk, bytes of comms and comms_proc, int of tgids}
    Raises:
      SegmentError: it is not such a map.
    """
    if not isinstance(found.value, dict):
        raise SegmentError(f"object {found.type} is not a map", got=type(found.value).__name__)
    fits = _FITS[found.type]
    for key, value in found.value.items():
        if type(key) is not int or not fits(value):
            raise SegmentError(
                f"object {found.type}: a name of the wrong type", expected="a number and its name",
                got=f"{key!r:.40}: {value!r:.40}",
            )  # fmt: skip
    return found.value


_FITS: dict[str, Callable[[Any], bool]] = {
    "symbols": lambda row: isinstance(row, list) and [type(part) for part in row] == [str, int, str],
    "printk": lambda text: isinstance(text, str),
    "comms": lambda comm: isinstance(comm, bytes),
    "comms_proc": lambda comm: isinstance(comm, bytes),
    "tgids": lambda tgid: type(tgid) is int,
}


def parse_clock(found: StoredObject) -> ClockPair:
    """Gives the pair of a clock object.

    Raises:
      SegmentError: a key is missing or has the wrong type.
    """
    return Fields(found.value, "clock object").record(ClockPair)


def parse_report(found: StoredObject) -> ReportObject:
    """Gives what a report object holds.

    Raises:
      SegmentError: a key is missing or has the wrong type.
    """
    top = Fields(found.value, "report object")
    return ReportObject(
        top.text("instance"), top.text("kind"), top.text("tracer"), top.integer("value"), top.text("unit"),
        top.integer("realtime_ns"), top.text("text"), top.text("clock") if top.has("clock") else "",
        top.maybe_integer("trace_ts") if top.has("trace_ts") else None,
        top.maybe_integer("text_value") if top.has("text_value") else None,
        top.integer("values") if top.has("values") else 1,
    )  # fmt: skip
