"""How large a record may be that comes over a network, by its kind, before it is parsed. Pure.

A byte of msgpack can become 60 bytes of Python's objects, made with the GIL held: what means no good must not decide
how many.
"""

import msgpack

from collector.archive.fields import unpack
from collector.archive.frame import MAX_BODY_BYTES, Kind
from collector.errors import SegmentError

MAX_NOTE_BYTES = 64 << 10  # of a gap, coverage, a sample; they have some hundreds
MAX_HEADER_BYTES = 8 << 20  # 16384 streams of 300 bytes each, and room
MAX_HEADER_PARTS = 1 << 17  # maps and arrays in it; a stream has six
MAX_BESIDE_BYTES = 512 << 10  # of a block without its columns, of an object without its data

_LARGE = {Kind.BLOCK: b"\xa4cols", Kind.OBJECT: b"\xa4data"}  # keys, as msgpack has them, of the one large value
_BINS = {0xC4: 2, 0xC5: 3, 0xC6: 5}  # {type of msgpack's bytes: length of its head}


def most_body_bytes(kind: int, most_bytes: int) -> int:
    """The largest body that a record of this kind may have, where none may have more than `most_bytes`."""
    if kind in _LARGE:
        return most_bytes
    return min(most_bytes, MAX_HEADER_BYTES if kind == Kind.HEADER else MAX_NOTE_BYTES)


def check_body(kind: int, body: bytes) -> None:
    """Look at what parsing a body would make, without making it.

    Raises:
      SegmentError: too much, or it is not one msgpack object.
    """
    if len(body) > (most_bytes := most_body_bytes(kind, MAX_BODY_BYTES)):
        raise SegmentError("a body is too large", expected=f"at most {most_bytes} bytes", got=str(len(body)))
    try:
        if kind == Kind.HEADER:
            unpack(body, "header", MAX_HEADER_PARTS)
        elif (key := _LARGE.get(Kind(kind))) is not None:
            _check_beside(body, key)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as e:
        raise SegmentError(f"a body is not one msgpack object ({type(e).__name__}: {e})") from e


def _check_beside(body: bytes, key: bytes) -> None:
    walker = msgpack.Unpacker(max_buffer_size=max(1, len(body)))
    walker.feed(body)
    beside_bytes = 0
    for _ in range(walker.read_map_header()):
        start = walker.tell()
        walker.skip()
        value = walker.tell()
        walker.skip()
        end = walker.tell()
        is_large = body[start:value] == key and body[value] in _BINS
        beside_bytes += value - start + (_BINS[body[value]] if is_large else end - value)
        if beside_bytes > MAX_BESIDE_BYTES:
            raise SegmentError(
                "a body of too much beside its data", expected=f"at most {MAX_BESIDE_BYTES} bytes beside {key[1:]!r}"
            )
