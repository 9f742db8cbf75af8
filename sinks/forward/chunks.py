"""What a chunk holds: parcels as they are, or rows; and how many of them. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from collector.archive.frame import Kind
from sinks.base import Parcel
from sinks.forward.records import Rows, build_row

# Header and names of an epoch that are kept for a server which comes new to it; spools end an epoch before that.
MOST_PREAMBLE_BYTES = 32 << 20


class Builder(Protocol):
    """Turns parcels into rows, in the order in which the sink gets them."""

    def take(self, parcel: Parcel, now_ns: int) -> Iterator[Rows]:
        """Gives the rows of a parcel.

        Args:
          now_ns: wall time, for what has none of its own.
        Raises:
          SegmentError: the body does not read as documented.
        """
        ...


class BlockBuilder:
    """Each parcel becomes one row with its bytes as they are, so that a receiver can rebuild a segment.

        [EventTime, {kind, body, run, and of what is about a stream: instance, cpu, and of blocks: number, events,
         first_ts, last_ts}]

    EventTime is when it was sent.
    """

    def __init__(self) -> None:
        self._preamble: list[Parcel] = []  # the last HEADER, and the OBJECTs behind it
        self._preamble_bytes = 0

    def take(self, parcel: Parcel, now_ns: int) -> Iterator[Rows]:
        """See Builder."""
        if parcel.kind == Kind.HEADER:
            self._preamble, self._preamble_bytes = [], 0
        if parcel.kind in (Kind.HEADER, Kind.OBJECT):
            self._preamble_bytes += len(parcel.body)
            if self._preamble_bytes <= MOST_PREAMBLE_BYTES:
                self._preamble.append(parcel)
        yield build_parcel_row(parcel, now_ns)

    @property
    def preamble(self) -> Sequence[Parcel]:
        """What a receiver needs that has not seen this epoch's beginning."""
        return tuple(self._preamble)


def build_parcel_row(parcel: Parcel, now_ns: int) -> Rows:
    """Gives a parcel as one row."""
    record: dict[str, object] = {"kind": parcel.kind.name.lower(), "body": parcel.body, "run": parcel.run.hex()}
    if parcel.stream is not None:
        record["instance"], record["cpu"] = parcel.stream.instance, parcel.stream.cpu
    if parcel.kind == Kind.BLOCK:
        record["number"], record["events"] = parcel.number, parcel.events
        record["first_ts"], record["last_ts"] = parcel.first_ts, parcel.last_ts
    return Rows(build_row(now_ns, record), 1)


def gather(pieces: Iterable[Rows], limit_bytes: int) -> Iterator[Rows]:
    """Gives the pieces joined: as many as fit into the limit, or one that alone is larger."""
    held: list[bytes] = []
    size_bytes = count = 0
    for piece in pieces:
        if held and size_bytes + len(piece.data) > limit_bytes:
            yield Rows(b"".join(held), count)
            held, size_bytes, count = [], 0, 0
        held.append(piece.data)
        size_bytes += len(piece.data)
        count += piece.count
    if held:
        yield Rows(b"".join(held), count)
