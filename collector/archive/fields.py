"""Takes values of a checked type out of a decoded msgpack map: a checksum that holds does not make a body sane.

Pure.
"""

from typing import Any, TypeVar, get_type_hints

import msgpack

from collector.errors import SegmentError

T = TypeVar("T")


def unpack(body: bytes | memoryview, what: str, max_parts: int | None = None) -> Any:
    """Decodes one msgpack object.

    Text that is not UTF-8 (names in a kernel can be any bytes) comes as surrogate escapes.

    Args:
      max_parts: maps and arrays in it; None: as many as there are. An empty one has a byte here and 60 in memory.
    Raises:
      SegmentError: it is not exactly one well-formed object, or has too many parts.
    """
    limits: dict[str, Any] = {}
    if max_parts is not None:
        count = _Counter(what, max_parts)
        limits = {"object_hook": count, "list_hook": count, "max_array_len": max_parts, "max_map_len": max_parts}
    try:
        return msgpack.unpackb(body, strict_map_key=False, unicode_errors="surrogateescape", **limits)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as e:
        raise SegmentError(f"{what} is not one msgpack object ({type(e).__name__}: {e})") from e


class _Counter:
    """Is called for each map and array that has been decoded."""

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most, self._left = what, most, most

    def __call__(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise SegmentError(f"{self._what} has too many parts", expected=f"at most {self._most} maps and arrays")
        return value


def pack(value: object) -> bytes:
    """Encodes one msgpack object; the counterpart of `unpack`."""
    return bytes(msgpack.packb(value, unicode_errors="surrogateescape"))


class Fields:
    """A decoded map with typed getters, each of which raises SegmentError that names the key.

    Args:
      value: what msgpack gave; must be a map.
      what: the name for messages, such as "block".
    """

    __slots__ = ("_map", "_what")

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise SegmentError(f"{what} is not a map", got=type(value).__name__)
        self._map = value
        self._what = what

    def _wrong(self, key: str, expected: str) -> SegmentError:
        got = repr(self._map[key])[:40] if key in self._map else "nothing"
        return SegmentError(f"{self._what}: key {key!r}", expected=expected, got=got)

    def integer(self, key: str, low: int = 0, high: int = 2**64 - 1) -> int:
        value = self._map.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(key, f"an integer from {low} to {high}")
        return value

    def maybe_integer(self, key: str) -> int | None:
        return None if key in self._map and self._map[key] is None else self.integer(key)

    def boolean(self, key: str) -> bool:
        value = self._map.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "a boolean")
        return value

    def text(self, key: str) -> str:
        value = self._map.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def binary(self, key: str, size: int | None = None) -> bytes:
        value = self._map.get(key)
        if not isinstance(value, bytes) or (size is not None and len(value) != size):
            raise self._wrong(key, "bytes" if size is None else f"{size} bytes")
        return value

    def array(self, key: str) -> list[Any]:
        value = self._map.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "an array")
        return value

    def counts(self, key: str) -> dict[str, int]:
        """A map of names to counts."""
        value = self._map.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a map")
        for name, count in value.items():
            if not isinstance(name, str) or type(count) is not int or count < 0:
                raise self._wrong(key, "a map of names to counts")
        return value

    def has(self, key: str) -> bool:
        return key in self._map

    def map(self, key: str) -> dict[Any, Any]:
        value = self._map.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a map")
        return value

    def fields(self, key: str) -> "Fields":
        return Fields(self._map.get(key), f"{self._what}: {key}")

    def rows(self, key: str, *types: type | tuple[type, ...]) -> list[tuple[Any, ...]]:
        """An array of arrays of these types; `int` does not take booleans."""
        rows = []
        for row in self.array(key):
            if (
                not isinstance(row, list)
                or len(row) != len(types)
                or not all(isinstance(v, t) and not isinstance(v, bool) for v, t in zip(row, types, strict=True))
            ):
                raise self._wrong(key, f"rows of {len(types)}")
            rows.append(tuple(row))
        return rows

    def record(self, cls: type[T]) -> T:
        """A dataclass of integers and texts, each of which stands here under its name."""
        kinds = get_type_hints(cls)
        return cls(**{key: self.integer(key) if kind is int else self.text(key) for key, kind in kinds.items()})
