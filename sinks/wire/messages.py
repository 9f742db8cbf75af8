"""The stream protocol: the records of a segment as they are, over TCP or a unix socket. Pure.

    sender                                  receiver
    HELLO {protocol, version, host}   ->
                                      <-    WELCOME {protocol, version, max_body_bytes}
    HEADER, OBJECT..., BLOCK...       ->
                                      <-    ACK {records}: so many records since the welcome are durable
                                      <-    REFUSED {why, reason, record}, at any time: the connection ends

A record that the receiver will never take is refused with the reason `malformed` and its number since the welcome, from
0; those before it are acknowledged first. All other refusals are about the connection: what it was to bring can be
brought again.

Each message is a record as in a segment file, checksum included; kinds from 64 on are the protocol's own. After a
new connection the sender begins with the HEADER and the OBJECTs of what it sends, so that the receiver needs nothing
from before; blocks that come again are known by (run, instance, cpu, number). A tap has no acknowledgements.

Source: docs/stream.md.
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from collector.archive.bodies import parse_block, parse_coverage, parse_gap, parse_header, parse_sample
from collector.archive.fields import Fields, pack, unpack
from collector.archive.frame import HEAD_BYTES, MARK, MAX_BODY_BYTES, TAIL_BYTES, Kind, build_record, read_record
from collector.batch import StreamKey
from collector.errors import SegmentError
from sinks.contract.base import Parcel
from sinks.wire.sizes import check_body, most_body_bytes

PROTOCOL = "ftrace-stream"
VERSION = 1
CONTROL_BODY_BYTES = 4096  # of a message of the protocol's own
WHY_BYTES = 1000  # of what a refusal says in words, so that it fits
MALFORMED = "malformed"  # reason of a refusal: the peer sends what the receiver will never take

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


class TooLargeError(StreamError):
    """A record has a larger body than one of its kind may have."""


class RefusedError(StreamError):
    """The receiver refuses.

    Args:
      record: the number since the welcome, from 0, of the record that it will never take; None: it is not about one.
    """

    def __init__(self, why: str, record: int | None = None) -> None:
        super().__init__(f"the receiver refuses: {why}"[:400])
        self.record = record


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

    def records(self) -> Iterator[WireRecord]:
        """Takes out the records that are whole; to be gone through to the end.

        Raises:
          StreamError: what comes behind those that were given is no record, or one whose checksum does not hold.
          TooLargeError: it is a record, and too large.
        """
        at = 0
        try:
            while len(self._data) - at >= self._wanted_bytes:
                self._wanted_bytes = HEAD_BYTES
                length = self._check_head(self._read(at, HEAD_BYTES))
                if len(self._data) - at < length:
                    self._wanted_bytes = length
                    return
                found = read_record(lambda offset, size: self._read(offset, size), len(self._data), at)
                if isinstance(found, str):
                    raise StreamError(found)
                at = found.end
                yield WireRecord(found.kind, found.body)
            self._check_mark(self._read(at, len(MARK)))
        finally:
            del self._data[:at]

    def _read(self, offset: int, size: int) -> bytes:
        with memoryview(self._data) as view:
            return bytes(view[offset : offset + size])

    def _check_head(self, head: bytes) -> int:
        """The length of the whole record."""
        self._check_mark(head[: len(MARK)])
        if head[8] != 0xC6:
            raise StreamError("no record begins here", expected="c6 before the length", got=f"{head[8]:02x}")
        kind, size_bytes = head[7], int.from_bytes(head[9:], "big")
        most_bytes = most_body_bytes(kind, self.max_body_bytes)
        if size_bytes > most_bytes:
            raise TooLargeError(
                "a body is too large", expected=f"at most {most_bytes} bytes for kind {kind}", got=str(size_bytes)
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


def build_refused(why: str, reason: str, record: int | None = None) -> bytes:
    """The last message of a receiver: the connection ends.

    Args:
      why: in words.
      reason: in one word, for programs.
      record: see RefusedError; only beside the reason MALFORMED.
    """
    body: dict[str, object] = {"why": why.encode(errors="replace")[:WHY_BYTES].decode(errors="ignore"),
                               "reason": reason}  # fmt: skip
    if record is not None:
        body["record"] = record
    return build_record(Message.REFUSED, pack(body))


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
    if record.kind not in (Kind.HEADER, Kind.OBJECT, Kind.BLOCK, Kind.GAP, Kind.COVERAGE, Kind.SAMPLE):
        raise StreamError("a record that does not belong here", expected="kinds 1 to 6", got=str(record.kind))
    body = bytes(record.body)
    check_body(record.kind, body)
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
        case _:
            sample = parse_sample(body)
            return Parcel(Kind.SAMPLE, body, sample.run, StreamKey(sample.run, *sample.stream))


def _control(record: WireRecord, kind: Message) -> Fields:
    if record.kind == Message.REFUSED:
        refused = Fields(unpack(record.body, "refused"), "refused")
        is_about_one = refused.text("reason") == MALFORMED and refused.has("record")
        raise RefusedError(refused.text("why"), refused.integer("record") if is_about_one else None)
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
