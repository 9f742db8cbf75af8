"""What a parcel is as a Kafka message: topic, key, headers, value. Pure.

    parcel                        topic     key                    value
    block, gap, coverage, sample  topic     HOST/INSTANCE/CPU      the record's body, as it is
    object of type format         maps      OBJECT ID              ..., the same for all hosts
    other objects                 maps      RUN/OBJECT ID          ..., they hold for one run
    header of a segment           maps      RUN                    ..., the latest of the run stays

One key is one partition, so a CPU's blocks stay in order. The topic of the maps is to be compacted: reading it from its
beginning gives all names that blocks of any age refer to. Without one (`maps = "repeat"`) the header and the objects
go to the blocks' topic, under the key of each stream and before its blocks, after each header that the runner sends.

Source: docs/kafka.md, docs/segment-format.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from collector.archive.fields import Fields, unpack
from collector.archive.frame import Kind
from collector.batch import StreamKey
from sinks.contract.base import Parcel

# No stream has a longer name: that of an instance is a folder's.
_LONGEST = StreamKey(bytes(16), "x" * 255, 999_999)

# What stands in the message's header "format"; another number when a reader of this one would go wrong.
FORMAT = b"ftrace-segment/1"

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """What is given to the producer."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    is_map: bool = False  # blocks behind it refer to it, so it must be there before they are
    repeats: Parcel | None = None  # the map that is told once more, before a parcel that does not fail with it

    @property
    def size_bytes(self) -> int:
        """As the broker counts it, a little more: its limit is on a batch that holds this message alone."""
        headers = sum(len(name) + len(value) + 10 for name, value in self.headers)
        return len(self.key) + len(self.value) + headers + _OVERHEAD_BYTES

    @property
    def kind(self) -> str:
        """Of the record in it: block, object, ..."""
        return dict(self.headers)["kind"].decode()


# Head of a record batch (61) and of the record in it, with lengths at their longest.
_OVERHEAD_BYTES = 61 + 40


def build_key(host: str, stream: StreamKey) -> bytes:
    """Gives HOST/INSTANCE/CPU."""
    return f"{host}/{stream.instance}/{stream.cpu}".encode(errors="surrogateescape")


def build_headers(host: str, parcel: Parcel) -> Headers:
    """Gives what a consumer wants to know of a record without decoding it; numbers are decimal, ids are hex.

    Raises:
      SegmentError: an object does not say its id and type.
    """
    found = [
        ("format", FORMAT),
        ("kind", parcel.kind.name.lower().encode()),
        ("run", parcel.run.hex().encode()),
        ("host", host.encode(errors="surrogateescape")),
    ]
    if parcel.stream is not None:
        found.append(("instance", parcel.stream.instance.encode(errors="surrogateescape")))
        found.append(("cpu", b"%d" % parcel.stream.cpu))
    if parcel.kind is Kind.BLOCK:
        for name in ("number", "events", "first_ts", "last_ts"):
            found.append((name, b"%d" % getattr(parcel, name)))
    if parcel.kind is Kind.OBJECT:
        top = Fields(unpack(parcel.body, "object"), "object")
        found.append(("id", top.binary("id", 8).hex().encode()))
        found.append(("type", top.text("type").encode()))
    return tuple(found)


def build_map_key(parcel: Parcel, headers: Headers) -> bytes:
    """Gives the key of a header or an object in the topic of the maps.

    The names of threads and the addresses of symbols hold for one run, though two runs may have an object of the same
    content: only formats are shared.
    """
    run = parcel.run.hex().encode()
    if parcel.kind is Kind.HEADER:
        return run
    of = dict(headers)
    return of["id"] if of["type"] == b"format" else run + b"/" + of["id"]


class TopicMaps:
    """Maps go to a topic of their own."""

    def __init__(self, host: str, topic: str, maps_topic: str) -> None:
        self.host, self.topic, self.maps_topic = host, topic, maps_topic

    def messages(self, parcel: Parcel) -> Iterator[Message]:
        """Gives the messages that a parcel becomes, in the order in which they must arrive."""
        headers = build_headers(self.host, parcel)
        if parcel.stream is None:
            yield Message(self.maps_topic, build_map_key(parcel, headers), parcel.body, headers, is_map=True)
        else:
            yield Message(self.topic, build_key(self.host, parcel.stream), parcel.body, headers)

    def forget(self) -> None:
        """Nobody knows what of the messages so far has arrived."""


class RepeatedMaps:
    """Maps go where the blocks go: after each header, once for each stream, before its next block.

    Args:
      max_bytes: a map that would be larger is given when it comes, to be refused, and then to no stream.
    """

    def __init__(self, host: str, topic: str, max_bytes: int) -> None:
        self.host, self.topic, self._max_bytes = host, topic, max_bytes
        self._header: Parcel | None = None
        self._objects: dict[bytes, Parcel] = {}  # {id: object} since the last header, the latest last
        self._told: set[StreamKey] = set()  # streams that were told all of the above

    def messages(self, parcel: Parcel) -> Iterator[Message]:
        """Gives the messages that a parcel becomes, in the order in which they must arrive."""
        if parcel.kind is Kind.HEADER:
            self._header = None
            self._objects.clear()
            self._told.clear()
        if parcel.stream is not None:
            if parcel.stream not in self._told:
                for map_parcel in ([self._header] if self._header is not None else []) + list(self._objects.values()):
                    yield self._under(parcel.stream, map_parcel, map_parcel)
                self._told.add(parcel.stream)
            yield self._under(parcel.stream, parcel)
        elif (large := self._under(_LONGEST, parcel)).size_bytes > self._max_bytes:
            yield large
        elif parcel.kind is Kind.HEADER:
            self._header = parcel
        elif parcel.kind is Kind.OBJECT:
            key = dict(large.headers)["id"]
            self._objects.pop(key, None)
            self._objects[key] = parcel
            for stream in sorted(self._told, key=lambda of: (of.instance, of.cpu)):
                yield self._under(stream, parcel)

    def forget(self) -> None:
        """Nobody knows what of the messages so far has arrived: each stream is told again."""
        self._told.clear()

    def drop(self, parcel: Parcel) -> bool:
        """The brokers will not take a map: no stream is told of it, until it comes again; False when it is known."""
        if parcel is self._header:
            self._header = None
            return True
        for key, of in self._objects.items():
            if of is parcel:
                del self._objects[key]
                return True
        return False

    def _under(self, stream: StreamKey, parcel: Parcel, repeats: Parcel | None = None) -> Message:
        headers = build_headers(self.host, parcel)
        return Message(self.topic, build_key(self.host, stream), parcel.body, headers, repeats=repeats)
