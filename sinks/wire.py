"""The stream protocol: the records of a segment as they are, over TCP or a unix socket. Pure.

    sender                                  receiver
    HELLO {protocol, version, host}   ->
                                      <-    WELCOME {protocol, version, max_body_bytes}, or REFUSED {why}
    HEADER, OBJECT..., BLOCK...       ->
                                      <-    ACK {records}: so many records since the welcome are durable

Each message is a record as in a segment file, checksum included; kinds from 64 on are the protocol's own. After a
new connection the sender begins with the HEADER and the OBJECTs of what it sends, so that the receiver needs nothing
from before; blocks that come again are known by (run, instance, cpu, number). A tap has no acknowledgements.

Source: docs/stream.md.
"""

import enum
import re
from dataclasses import dataclass

from collector.archive.bodies import parse_block, parse_coverage, parse_gap, parse_header, parse_sample
from collector.archive.fields import Fields, pack, unpack
from collector.archive.frame import HEAD_BYTES, MARK, MAX_BODY_BYTES, TAIL_BYTES, Kind, build_record, read_record
from collector.batch import StreamKey
from collector.errors import SegmentError
from sinks.base import Parcel

PROTOCOL = "ftrace-stream"
VERSION = 1
CONTROL_BODY_BYTES = 4096  # of a message of the protocol's own

# What a folder may be called, and what a certificate's name is compared with.
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


class Message(enum.IntEnum):
    """Kinds of records that are no segment's."""

    HELLO = 64
    WELCOME = 65
    REFUSED = 66
    ACK = 67


class StreamError(SegmentError):
    """The peer sends what the protocol does not have; the connection is useless from there on."""


@dataclass(frozen=True, slots=True, eq=False)
class WireRecord:
    """One message whose checksum holds."""

    kind: int
    body: memoryview


class Parser:
    """Cuts a stream of bytes into records; bounded by the largest body.

    Args:
      max_body_bytes: more is an error before any of it is kept.
    """

    def __init__(self, max_body_bytes: int = CONTROL_BODY_BYTES) -> None:
        self.max_body_bytes = max_body_bytes
        self._data = bytearray()
        self._wanted_bytes = HEAD_BYTES  # before so many are there, looking again would find nothing

    @property
    def held_bytes(self) -> int:
        """Of a record that has not come to its end."""
        return len(self._data)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes bytes as they come."""
        self._data += data

    def records(self) -> list[WireRecord]:
        """Takes out the records that are whole.

        Raises:
          StreamError: what comes is no record, one too large, or one whose checksum does not hold.
        """
        if len(self._data) < self._wanted_bytes:
            self._check_mark(self._data[: len(MARK)])
            return []
        records = []
        data = bytes(self._data)
        at = 0
        self._wanted_bytes = HEAD_BYTES
        while len(data) - at >= HEAD_BYTES:
            length = self._check_head(data[at : at + HEAD_BYTES])
            if len(data) - at < length:
                self._wanted_bytes = length
                break
            found = read_record(lambda offset, size: data[offset : offset + size], len(data), at)
            if isinstance(found, str):
                raise StreamError(found)
            at = found.end
            records.append(WireRecord(found.kind, found.body))
        self._check_mark(data[at : at + len(MARK)])
        del self._data[:at]
        return records

    def _check_head(self, head: bytes) -> int:
        """The length of the whole record."""
        self._check_mark(head[: len(MARK)])
        size_bytes = int.from_bytes(head[9:], "big")
        if head[8] != 0xC6 or size_bytes > self.max_body_bytes:
            raise StreamError(
                "a body is too large", expected=f"at most {self.max_body_bytes} bytes", got=str(size_bytes)
            )
        return HEAD_BYTES + size_bytes + TAIL_BYTES

    @staticmethod
    def _check_mark(begin: bytes | bytearray) -> None:
        if not MARK.startswith(begin):
            raise StreamError("no record begins here", expected=MARK.hex(), got=begin.hex())


def build_hello(host: str) -> bytes:
    """The first message of a sender."""
    return build_record(Message.HELLO, pack({"protocol": PROTOCOL, "version": VERSION, "host": host}))


def parse_hello(record: WireRecord) -> str:
    """The sender's host.

    Raises:
      StreamError: it is no hello, or of another version.
    """
    body = _control(record, Message.HELLO)
    _check_protocol(body)
    host = body.text("host")
    if not HOST_NAME.fullmatch(host):
        raise StreamError("not a host name", expected="letters, digits and . _ -", got=repr(host)[:80])
    return host


def build_welcome(max_body_bytes: int) -> bytes:
    """The answer to a hello."""
    return build_record(
        Message.WELCOME, pack({"protocol": PROTOCOL, "version": VERSION, "max_body_bytes": max_body_bytes})
    )


def build_refused(why: str) -> bytes:
    """The answer to a hello that is not wanted; the connection ends."""
    return build_record(Message.REFUSED, pack({"why": why}))


def parse_welcome(record: WireRecord) -> int:
    """The largest body that the receiver takes.

    Raises:
      StreamError: it refuses, or answers something else.
    """
    body = _control(record, Message.WELCOME)
    _check_protocol(body)
    return min(body.integer("max_body_bytes", CONTROL_BODY_BYTES), MAX_BODY_BYTES)


def build_ack(records: int) -> bytes:
    """So many records since the welcome are durable."""
    return build_record(Message.ACK, pack({"records": records}))


def parse_ack(record: WireRecord) -> int:
    """Raises StreamError when it is something else, or the receiver refuses."""
    return _control(record, Message.ACK).integer("records")


def parse_parcel(record: WireRecord) -> Parcel:
    """A record of a segment as a parcel, its body looked through; an object's only by who keeps it.

    Raises:
      SegmentError: it does not hold what its kind says, or is no part of a segment's contents.
    """
    body = bytes(record.body)
    match record.kind:
        case Kind.HEADER:
            return Parcel(Kind.HEADER, body, parse_header(body).run)
        case Kind.OBJECT:
            return Parcel(Kind.OBJECT, body, b"")
        case Kind.BLOCK:
            block = parse_block(body)
            stream = StreamKey(block.run, *block.stream)
            return Parcel(
                Kind.BLOCK, body, block.run, stream, block.number, block.entries, block.first_ts, block.last_ts
            )
        case Kind.GAP:
            gap = parse_gap(body)
            return Parcel(Kind.GAP, body, gap.run, StreamKey(gap.run, *gap.stream))
        case Kind.COVERAGE:
            seen = parse_coverage(body)
            return Parcel(Kind.COVERAGE, body, seen.run, StreamKey(seen.run, *seen.stream))
        case Kind.SAMPLE:
            sample = parse_sample(body)
            return Parcel(Kind.SAMPLE, body, sample.run, StreamKey(sample.run, *sample.stream))
    raise StreamError("a record that does not belong here", expected="kinds 1 to 6", got=str(record.kind))


def _control(record: WireRecord, kind: Message) -> Fields:
    if record.kind == Message.REFUSED:
        why = Fields(unpack(record.body, "refused"), "refused").text("why")
        raise StreamError(f"the receiver refuses: {why}"[:400])
    if record.kind != kind:
        raise StreamError("another message than expected", expected=kind.name, got=f"kind {record.kind}")
    return Fields(unpack(record.body, kind.name.lower()), kind.name.lower())


def _check_protocol(body: Fields) -> None:
    if body.text("protocol") != PROTOCOL:
        raise StreamError("another protocol", expected=PROTOCOL, got=repr(body.text("protocol"))[:80])
    if body.integer("version") != VERSION:
        raise StreamError(
            "another version of the protocol", expected=str(VERSION), got=str(body.integer("version")),
            hint="the older side needs an update",
        )  # fmt: skip
