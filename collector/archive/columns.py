"""Decodes the columns of a block in pure Python: no native code is needed to read an archive. Pure.

Grammar of a column (docs/segment-format.md), n values of S bytes each, little-endian:

    [0, bin S]                   constant
    [1, [plane]*S]               byte planes; plane = int (a constant byte) | bin n
    [2, bin k*S table, bin n]    dictionary, k <= 256
    [3, [plane]*S]               planes of the differences mod 2^(8S) to the previous value
    [4, [bin...], bin n]         dictionary of byte strings
    [5, column of width 4, bin]  lengths, and all bytes one after the other
    [6, [column...]]             a column per element of an array

The work is done by slice assignment, memoryview.cast and itertools, none of which runs Python code per value; the
values stay in arrays of machine integers until they are iterated over. Nothing in a block is believed: each length is
checked before it is used, and what a block may make of itself is bounded, because a constant column of a million
values takes ten bytes.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, repeat
from typing import Any, TypeVar, overload

from collector.errors import SegmentError

T = TypeVar("T")

# What the columns of one block may come to when all are spelled out. Honest blocks hold less than the raw pages that
# they were made of (1 MiB) plus 22 bytes an entry.
MAX_DECODED_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 1 << 22

_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIGNED = {1: "b", 2: "h", 4: "i", 8: "q"}


class Repeat(Sequence[T]):
    """One value n times, without n references to it."""

    __slots__ = ("_n", "value")

    def __init__(self, value: T, n: int) -> None:
        self.value = value
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[T]:
        return repeat(self.value, self._n)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> "Repeat[T]": ...
    def __getitem__(self, at: int | slice) -> "T | Repeat[T]":
        if isinstance(at, slice):
            return Repeat(self.value, len(range(*at.indices(self._n))))
        if not -self._n <= at < self._n:
            raise IndexError(at)
        return self.value


class Budget:
    """Bytes that a block's columns may still decode to."""

    __slots__ = ("left_bytes",)

    def __init__(self, size_bytes: int = MAX_DECODED_BYTES) -> None:
        self.left_bytes = size_bytes

    def take(self, size_bytes: int) -> None:
        self.left_bytes -= size_bytes
        if self.left_bytes < 0:
            raise SegmentError("the columns of a block decode to more than any block holds")


def _expect(ok: bool, what: str, got: object = None) -> None:
    if not ok:
        raise SegmentError(f"column: {what}", got=None if got is None else repr(got)[:40])


def _expect_table(table: bytes, size: int) -> None:
    _expect(size > 0 and len(table) % size == 0 and len(table) <= 256 * size, "a dictionary's length", len(table))


def _form(column: object, length: int) -> list[Any]:
    _expect(isinstance(column, list) and len(column) == length, f"expected {length} parts", column)
    assert isinstance(column, list)
    return column


def _join_planes(planes: object, n: int, size: int, budget: Budget) -> bytearray | bytes:
    """Gives n * size bytes, value after value; `size` bytes only when all planes are constants."""
    _expect(isinstance(planes, list) and len(planes) == size, f"expected {size} planes")
    assert isinstance(planes, list)
    if all(type(plane) is int and 0 <= plane < 256 for plane in planes):
        return bytes(planes)
    for plane in planes:
        if type(plane) is int:
            _expect(0 <= plane < 256, "a plane's byte", plane)
        else:
            _expect(isinstance(plane, bytes) and len(plane) == n, f"expected a plane of {n} bytes")
    if size == 1:
        return bytes(planes[0])
    budget.take(n * size)
    out = bytearray(n * size)
    for at, plane in enumerate(planes):
        if type(plane) is not int:
            out[at::size] = plane
        elif plane:
            out[at::size] = bytes((plane,)) * n
    return out


def _integers(raw: bytes | bytearray, size: int, signed: bool) -> Sequence[int]:
    """Gives the integers in a run of bytes whose length is a multiple of size."""
    code = (_SIGNED if signed else _UNSIGNED).get(size)
    if code is None:  # no kernel field of today
        step = range(0, len(raw), size)
        return [int.from_bytes(raw[at : at + size], "little", signed=signed) for at in step]
    values = array(code)
    values.frombytes(raw)
    if _BIG_ENDIAN:
        values.byteswap()
    return values


_BIG_ENDIAN = array("H", b"\x00\x01")[0] == 1


def _sum_differences(raw: bytes | bytearray, n: int, size: int, signed: bool) -> Sequence[int]:
    """Gives running sums mod 2^(8*size) of n differences.

    As signed steps the sums of real columns never leave the type's range, so that the plain sum is the answer; only
    when one does are all brought back into it.
    """
    steps: Iterable[int]
    if len(raw) == n * size:
        steps = _integers(raw, size, True)
    else:
        steps = Repeat(int.from_bytes(raw, "little", signed=True), n)  # gone through twice when a sum leaves the range
    code = (_SIGNED if signed else _UNSIGNED).get(size)
    if code is not None:
        try:
            return array(code, accumulate(steps))
        except OverflowError:
            pass
    bias, mask = (1 << (8 * size - 1) if signed else 0), (1 << 8 * size) - 1
    wrapped = [((v + bias) & mask) - bias for v in accumulate(steps)]
    return array(code, wrapped) if code is not None else wrapped


def _indexes(column: object, n: int, k: int) -> bytes:
    _expect(isinstance(column, bytes) and len(column) == n, f"expected {n} dictionary indexes")
    assert isinstance(column, bytes)
    _expect(n == 0 or max(column) < k, f"an index beyond a dictionary of {k}")
    return column


def decode_integers(column: object, n: int, size: int, signed: bool, budget: Budget) -> Sequence[int]:
    """Gives n integers of `size` bytes.

    Raises:
      SegmentError: the column does not read as documented.
    """
    budget.take(n * max(size, 8))
    match column:
        case [0, bytes(value)]:
            _expect(len(value) == size, f"expected a constant of {size} bytes", value)
            return Repeat(int.from_bytes(value, "little", signed=signed), n)
        case [1, planes]:
            raw = _join_planes(planes, n, size, budget)
            if len(raw) == n * size:
                return _integers(raw, size, signed)
            return Repeat(int.from_bytes(raw, "little", signed=signed), n)
        case [2, bytes(table), indexes]:
            _expect_table(table, size)
            values = _integers(table, size, signed)
            return list(map(values.__getitem__, _indexes(indexes, n, len(values))))
        case [3, planes]:
            return _sum_differences(_join_planes(planes, n, size, budget), n, size, signed)
    raise SegmentError("column: expected form 0, 1, 2 or 3", got=repr(column)[:40])


def decode_fixed(column: object, n: int, size: int, budget: Budget) -> Sequence[bytes]:
    """Gives n strings of exactly `size` bytes; errors as decode_integers."""
    budget.take(n * max(size, 8))
    match column:
        case [0, bytes(value)]:
            _expect(len(value) == size, f"expected a constant of {size} bytes", value)
            return Repeat(value, n)
        case [1, planes]:
            raw = bytes(_join_planes(planes, n, size, budget))
            if len(raw) == n * size and n:
                return _slices(raw, n, size)
            return Repeat(raw, n)
        case [2, bytes(table), indexes]:
            _expect_table(table, size)
            values = _slices(table, len(table) // size, size)
            return list(map(values.__getitem__, _indexes(indexes, n, len(values))))
        case [3, planes]:
            _expect(size > 0, "differences of nothing")
            summed = _sum_differences(_join_planes(planes, n, size, budget), n, size, False)
            return [value.to_bytes(size, "little") for value in summed]
    raise SegmentError("column: expected form 0, 1, 2 or 3", got=repr(column)[:40])


def _slices(raw: bytes, n: int, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, n * size, size)] if size else [b""] * n


def decode_variable(column: object, n: int, budget: Budget) -> Sequence[bytes]:
    """Gives n byte strings of any length; errors as decode_integers."""
    budget.take(8 * n)
    match column:
        case [0, bytes(value)]:
            return Repeat(value, n)
        case [4, list(table), indexes]:
            _expect(len(table) <= 256 and all(isinstance(v, bytes) for v in table), "a dictionary of byte strings")
            return list(map(table.__getitem__, _indexes(indexes, n, len(table))))
        case [5, lengths, bytes(joined)]:
            sizes = decode_integers(lengths, n, 4, False, budget)
            ends = list(accumulate(sizes))
            _expect((ends[-1] if ends else 0) == len(joined), f"lengths that come to {len(joined)}", ends[-1:])
            budget.take(len(joined) + 32 * n)
            return [joined[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    raise SegmentError("column: expected form 0, 4 or 5", got=repr(column)[:40])


def decode_array(column: object, n: int, size: int, signed: bool, count: int, budget: Budget) -> Sequence[list[int]]:
    """Gives n lists of `count` integers; errors as decode_integers."""
    budget.take(n * 8 * (count + 7))
    if isinstance(column, list) and column[:1] == [6]:
        elements = _form(column, 2)[1]
        _expect(isinstance(elements, list) and len(elements) == count, f"expected {count} columns of elements")
        parts = [decode_integers(of, n, size, signed, budget) for of in elements]
        return [list(row) for row in zip(*parts, strict=True)] if parts else [[] for _ in range(n)]
    rows: Iterable[bytes] = decode_fixed(column, n, size * count, budget)
    return [list(_integers(row, size, signed)) for row in rows]
