"""What no sender of ours sends, and no segment could hold: numbers and names without end. Pure."""

from collections.abc import Iterable

from collector.archive.bodies import BlockHead, Header
from collector.archive.fields import unpack
from collector.archive.objects import MAX_OBJECT_PARTS, NAMES, FormatObject, StoredObject, check_object, parse_format
from collector.archive.totals import Totals
from collector.errors import SegmentError
from sinks.stream.run import MAX_STREAMS

# What no kernel counts to, for sums of larger numbers would fit no footer.
MAX_COUNT = 1 << 40  # of one block or gap
MAX_TOTAL = 1 << 58
MAX_CREATED_NS = 1 << 63  # wall time; those of the next segments are later

# Names stand in the footer once for each stream, and a footer has 64 MiB at most.
MAX_NAME_BYTES = 256  # of an instance, a system, an event
MAX_REASONS_BYTES = 640  # of the reasons in a stream's totals together; ours have some hundreds
MAX_KINDS = 8192  # of a block

MAX_FORMAT_BYTES = 256 << 10  # the kernel's have some pages at most
MAX_FORMAT_PARTS = 8192  # maps and arrays in it: one for each field

MAX_DECODED_BYTES = 5 << 20  # of an object of names, or of a report, whose text has 4 MiB at most


def check_counts(*counts: int) -> None:
    """Raises SegmentError when a count is larger than a kernel's can be."""
    if max(counts) > MAX_COUNT:
        raise SegmentError("a count that no kernel comes to", expected=f"at most {MAX_COUNT}", got=str(max(counts)))


def check_totals(of: Totals) -> None:
    """Raises SegmentError when a stream's totals are larger than a kernel's can be, or more than a footer may hold."""
    most = max(
        of.blocks, of.events, of.raw_bytes, of.gaps, of.gap_known_events, of.unknown_gaps, of.pages, of.overrun,
        of.dropped, of.commit_overrun, of.read, of.entries, of.residual or 0, of.left_in_kernel,
        *of.skipped.values(), *of.decode_errors.values(),
    )  # fmt: skip
    if most > MAX_TOTAL:
        raise SegmentError("totals that no kernel comes to", expected=f"at most {MAX_TOTAL}", got=str(most))
    size_bytes = sum(_length(reason) + 10 for reason in (*of.skipped, *of.decode_errors))
    if size_bytes > MAX_REASONS_BYTES:
        raise SegmentError(
            "totals of too many reasons", expected=f"at most {MAX_REASONS_BYTES} bytes", got=str(size_bytes)
        )


def check_name(name: str) -> None:
    """Raises SegmentError when a name is longer than a kernel's can be."""
    if _length(name) > MAX_NAME_BYTES:
        raise SegmentError("a name that is too long", expected=f"at most {MAX_NAME_BYTES} bytes",
                           got=f"{_length(name)}, {name[:40]!r}")  # fmt: skip


def check_header(header: Header) -> None:
    """Raises SegmentError when no segment could begin with it."""
    if len(header.streams) > MAX_STREAMS or len(header.clocks) > MAX_STREAMS:
        raise SegmentError("too many streams", expected=f"at most {MAX_STREAMS} a run", got=str(len(header.streams)))
    if header.created_ns > MAX_CREATED_NS:
        raise SegmentError("a time that no clock shows", expected=f"at most {MAX_CREATED_NS}",
                           got=str(header.created_ns))  # fmt: skip
    _check_names(header.clocks)
    _check_names(instance for instance, _ in header.streams)
    for totals in header.opening.values():
        check_totals(totals)


def check_block(head: BlockHead) -> None:
    """Raises SegmentError when it holds more than a block of ours can."""
    check_counts(head.entries, head.raw_bytes, *(gap.lost or 0 for gap in head.gaps))
    if len(head.kinds) > MAX_KINDS:
        raise SegmentError("a block of too many kinds", expected=f"at most {MAX_KINDS}", got=str(len(head.kinds)))


def parse_small_format(key: bytes, data: bytes) -> FormatObject:
    """Decodes a format.

    Args:
      key: id of the object.
      data: decompressed.
    Raises:
      SegmentError: it is none, or one that no kernel has.
    """
    if len(data) > MAX_FORMAT_BYTES:
        raise SegmentError("a format that no kernel has", expected=f"at most {MAX_FORMAT_BYTES} bytes",
                           got=str(len(data)))  # fmt: skip
    found = parse_format(StoredObject(key, "format", unpack(data, "object format", MAX_FORMAT_PARTS)))
    check_name(found.system)
    check_name(found.name)
    return found


def check_small_object(key: bytes, kind: str, data: bytes) -> None:
    """Decodes an object of names, a clock's or a report's, as every reader will.

    Raises:
      SegmentError: its value is not what its type has, or larger than any of ours.
    """
    if kind not in _DECODED:
        return  # of a later version: no reader of this one looks at it
    if len(data) > MAX_DECODED_BYTES:
        raise SegmentError(f"object {kind} that is too large", expected=f"at most {MAX_DECODED_BYTES} bytes",
                           got=str(len(data)))  # fmt: skip
    check_object(StoredObject(key, kind, unpack(data, f"object {kind}", MAX_OBJECT_PARTS)))


_DECODED = NAMES | {"clock", "report"}


def _check_names(names: Iterable[str]) -> None:
    for name in set(names):
        check_name(name)


def _length(name: str) -> int:
    return len(name.encode(errors="surrogateescape"))
