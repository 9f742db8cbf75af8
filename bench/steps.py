"""The columns of a block without the steps that the encoder takes, rebuilt from what it made. Pure.

Each variant holds the same values in fewer or more bytes:

    plain        every value in its full width, one column after the other, times absolute
    times        times as differences to the entry before
    shuffled     byte 0 of all values of a column, then byte 1 of all, ...
    constants    columns and bytes that do not change are left out
    all          dictionaries and differences where the encoder chose them: what the archive holds
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import msgpack

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}  # {bytes: array code}
_LENGTH_BYTES = 4

Plain = tuple[int, bytes]  # (bytes of a value, all values); a width of 1 for joined strings


def build_steps(encoded: bytes) -> dict[str, bytes]:
    """{step: the bytes that a compressor gets}, in the order in which the steps add up.

    Args:
      encoded: what `Encoder.columns` gives.
    """
    kind, times, flags, preempt, pid, payload = msgpack.unpackb(encoded)
    n = _entries(times, kind)
    common = [(1 if len(kind[1]) == 1 else 2, kind), (8, times), (1, flags), (1, preempt), (4, pid)]
    plain = [part for _, column in common for part in _spell_out(column, n)]
    index = _kinds(kind, n)
    for number, columns in enumerate(payload):
        for column in columns:
            plain += _spell_out(column, index.count(number))
    absolute = list(plain)
    absolute[1] = (8, array("Q", _sums(plain[1][1])).tobytes())
    return {
        "columns, times absolute": b"".join(values for _, values in absolute),
        "times as differences": b"".join(values for _, values in plain),
        "bytes shuffled": b"".join(_plane(values, width, i) for width, values in plain for i in range(width)),
        "constants dropped": b"".join(_drop_constants(plain)),
        "dictionaries and differences: as archived": encoded,
    }


def _entries(*columns: list[Any]) -> int:
    """The number of values, from a plane that is not constant: times always have one but in a block of one entry."""
    for form, planes in columns:
        if form == 1:
            for plane in planes:
                if isinstance(plane, bytes):
                    return len(plane)
    return 1


def _kinds(kind: list[Any], n: int) -> Sequence[int]:
    """The index of each entry's kind."""
    values = _spell_out(kind, n)[0]
    return values[1] if values[0] == 1 else array("H", values[1])


def _spell_out(column: list[Any], n: int) -> list[Plain]:
    """All values of a column in full."""
    match column:
        case [0, value]:
            return [(max(1, len(value)), value * n)]
        case [1, planes]:
            return [(len(planes), _join(planes, n))]
        case [2, table, indexes]:
            width = len(table) // (max(indexes) + 1)
            values = [table[at : at + width] for at in range(0, len(table), width)]
            return [(width, b"".join(map(values.__getitem__, indexes)))]
        case [3, planes]:
            width = len(planes)
            mask = (1 << 8 * width) - 1
            steps = array(_CODES[width], _join(planes, n))
            return [(width, array(_CODES[width], (v & mask for v in accumulate(steps))).tobytes())]
        case [4, table, indexes]:
            strings = list(map(table.__getitem__, indexes))
            lengths = b"".join(len(string).to_bytes(_LENGTH_BYTES, "little") for string in strings)
            return [(_LENGTH_BYTES, lengths), (1, b"".join(strings))]
        case [5, lengths, joined]:
            return [*_spell_out(lengths, n), (1, joined)]
        case [6, columns]:
            return [part for element in columns for part in _spell_out(element, n)]
    raise ValueError(f"not a form of columns: {column[0]!r}")


def _join(planes: list[Any], n: int) -> bytes:
    out = bytearray(n * len(planes))
    for i, plane in enumerate(planes):
        out[i :: len(planes)] = plane if isinstance(plane, bytes) else bytes((plane,)) * n
    return bytes(out)


def _sums(differences: bytes) -> Iterator[int]:
    """Running sums mod 2^64; they start at 0, which a compressor sees as it sees any other start."""
    return (value & 0xFFFF_FFFF_FFFF_FFFF for value in accumulate(array("Q", differences)))


def _plane(values: bytes, width: int, i: int) -> bytes:
    return values if width == 1 else values[i::width]


def _drop_constants(plain: list[Plain]) -> Iterator[bytes]:
    for width, values in plain:
        for i in range(width):
            plane = _plane(values, width, i)
            if plane and plane.count(plane[0]) != len(plane):
                yield plane
