"""The names that a sender has sent since its last header: what the next segments begin with, and their blocks need."""

from collector.archive.records import FormatMaps
from collector.errors import SegmentError
from sinks.stream.checks import check_small_object, parse_small_format

# Every segment has them again; a sender whose names fill more than this is not sane.
MAX_NAMES_BYTES = 32 << 20

NAME_BYTES = 200  # that one takes in memory beside its body, about


class Names(FormatMaps):
    """Formats are written before the first block that needs them, all other objects as they come."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}  # {id: body} of all but formats, in the order of their last coming
        self._formats: dict[bytes, bytes] = {}  # {id: body}
        self._events: dict[bytes, str] = {}  # {id of the format: "system:name"}
        self._size_bytes = 0

    @property
    def held_bytes(self) -> int:
        """About what they take in memory."""
        return self._size_bytes + NAME_BYTES * (len(self.objects) + len(self._formats))

    def clear(self) -> None:
        """A header: all names come again."""
        self.objects.clear()
        self._formats.clear()
        self._events.clear()
        self._size_bytes = 0

    def add(self, key: bytes, kind: str, data: bytes, body: bytes) -> None:
        """Take an object.

        Args:
          key, kind, data: of the body, as open_object gives them.
        Raises:
          SegmentError: it is one too many, or not what its type has.
        """
        known = self._formats if kind == "format" else self.objects
        added_bytes = 0 if key in known else len(body)
        if self._size_bytes + added_bytes > MAX_NAMES_BYTES:
            raise SegmentError("too many names", expected=f"at most {MAX_NAMES_BYTES} bytes of objects a header")
        if kind == "format":
            self._events[key] = parse_small_format(key, data).full_name
        else:
            check_small_object(key, kind, data)
        self._size_bytes += added_bytes
        known.pop(key, None)  # a name that is changed back counts from its new place
        known[key] = body

    def event_name(self, format_id: bytes) -> str:
        """Gives "system:name".

        Raises:
          SegmentError: the format has not come.
        """
        found = self._events.get(format_id)
        if found is None:
            raise SegmentError("a block before the format that it needs", got=format_id.hex())
        return found

    # ---- MapSource, for a SegmentWriter

    def format_object(self, format_id: bytes) -> bytes:
        return self._formats[format_id]
