"""What the columns of a format object hold, and what people read of such values: one place for all that print. Pure.

    text       a string up to the first NUL; bytes that are no UTF-8 are escaped, and that is told; None: not readable
    bytes      numbers from 0 to 255, all of them
    address, stack, string, bitmask    words without a sign
    ipv4, ipv6, mac, sockaddr, bitmask    have a readable form beside

What a field is, `collector/tracefs/meaning.py` has decided when it was recorded; of segments that do not say it, it is
asked again. rows.pyx does the same natively.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Final, cast

from collector.archive.objects import CHARS, DATA_LOC, INT, REL_LOC, FieldColumn, FormatObject
from collector.errors import TracefsFormatError
from collector.tracefs.formats import INT_SIZES, parse_event_format
from collector.tracefs.meaning import KINDS, FieldKind, field_kinds

UNSIGNED: Final = frozenset({"address", "stack", "string", "bitmask"})  # kinds of words without a sign
READABLE: Final = frozenset({"ipv4", "ipv6", "mac", "sockaddr", "bitmask"})

_OF_BYTES = frozenset({"text", "bytes", "plain", "ipv4", "ipv6", "mac", "sockaddr"})
_OF_ONE = frozenset({"plain", "address", "string", "flags", "enum"})
_OF_SEVERAL = frozenset({"plain", "address", "stack", "bitmask"})

_AF_INET, _AF_INET6 = 2, 10


def column_kinds(of: FormatObject) -> tuple[FieldKind, ...]:
    """What each of a format object's columns holds; never a kind that the column's class can't hold."""
    derived: Mapping[str, FieldKind] | None = None
    found: list[FieldKind] = []
    for at, column in enumerate(of.columns):
        kind = of.kinds[at] if of.kinds is not None else ""
        if kind not in KINDS:  # an older segment, or a newer one's kind
            derived = _kinds_by_text(of.system, of.text, of.word_size) if derived is None else derived
            kind = derived.get(column.name, "text" if column.cls == CHARS and not of.text else "")
        possible = _possible_kinds(column)
        found.append(cast(FieldKind, kind if kind in possible else "bytes" if possible is _OF_BYTES else "plain"))
    return tuple(found)


def _possible_kinds(column: FieldColumn) -> frozenset[str]:
    if has_bytes(column):
        return _OF_BYTES
    if column.size not in INT_SIZES:
        return frozenset({"plain"})
    if column.cls != INT or column.count != 1:
        return _OF_SEVERAL
    return _OF_ONE | {"ipv4"} if column.size == 4 else _OF_ONE


def has_bytes(column: FieldColumn) -> bool:
    """Whether a column's values are strings of bytes, rather than numbers or arrays of wider ones."""
    return column.cls == CHARS or (column.cls != INT and column.size == 1)


@lru_cache(maxsize=4096)  # a parse takes 100 µs, and there may be thousands in each of many segments
def _kinds_by_text(system: str, text: str, word_size: int) -> Mapping[str, FieldKind]:
    if not text:
        return {}
    try:
        fmt = parse_event_format(text, system, word_size)
    except TracefsFormatError:
        return {}
    return {field.name: kind for field, kind in zip(fmt.columns, field_kinds(fmt), strict=True)}


def is_missing(column: FieldColumn, value: bytes) -> bool:
    """Whether a text could not be read when it was traced: an empty one has its NUL at least."""
    return not value and column.cls in (DATA_LOC, REL_LOC)


def decode_text(value: bytes) -> tuple[str, bool]:
    """A text up to its NUL, and whether it is escaped.

    It is where it is no UTF-8: each byte that is none is `\\xNN` then, and each backslash is doubled.
    """
    value = value.partition(b"\0")[0]
    try:
        return value.decode(), False
    except UnicodeDecodeError:
        return value.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace"), True


def cut_stack(words: Sequence[int]) -> Sequence[int]:
    """The frames of a stack: synthetic events have their number before them, and zeros behind.

    Of 16 frames, the most that a synthetic event takes, there is room for 15 behind the number.
    """
    if not words or words[0] > len(words):
        return words
    frames, rest = words[1 : 1 + words[0]], words[1 + words[0] :]
    return words if any(rest) else frames


def readable_form(kind: FieldKind, column: FieldColumn) -> Callable[[Any], str | None] | None:
    """What makes the readable form of a column's values; None: the kind has none. It gives None for what is none."""
    if kind == "bitmask":
        return lambda words: None if isinstance(words, bytes) else format_bits(words, 8 * column.size)
    form = _FORMS.get(kind)
    if form is None:
        return None
    if column.cls == INT:
        return lambda value: form(value.to_bytes(column.size, "little", signed=value < 0))
    return form


def format_bits(words: Sequence[int], width: int) -> str:
    """Numbers of the bits that are set, as the kernel lists CPUs: "0-3,8".

    Args:
      words: without a sign, of `width` bits each, the lowest first.
    """
    bits = sum(word << (width * at) for at, word in enumerate(words))
    ranges = []
    at = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        run = (~bits & (bits + 1)).bit_length() - 1
        at += skip
        ranges.append(str(at) if run == 1 else f"{at}-{at + run - 1}")
        bits >>= run
        at += run
    return ",".join(ranges)


def _format_ipv4(value: bytes) -> str | None:
    return ".".join(map(str, value)) if len(value) == 4 else None


def _format_ipv6(value: bytes) -> str | None:
    if len(value) != 16:
        return None
    found = IPv6Address(value)
    return f"::ffff:{found.ipv4_mapped}" if found.ipv4_mapped is not None else str(found)


def _format_mac(value: bytes) -> str | None:
    return value.hex(":") if len(value) == 6 else None


def _format_sockaddr(value: bytes) -> str | None:
    family, port = int.from_bytes(value[:2], "little"), int.from_bytes(value[2:4], "big")
    if family == _AF_INET and len(value) >= 8:
        return f"{_format_ipv4(value[4:8])}:{port}"
    if family == _AF_INET6 and len(value) >= 24:
        return f"[{_format_ipv6(value[8:24])}]:{port}"
    return None


_FORMS: dict[str, Callable[[bytes], str | None]] = {
    "ipv4": _format_ipv4, "ipv6": _format_ipv6, "mac": _format_mac, "sockaddr": _format_sockaddr,
}  # fmt: skip
