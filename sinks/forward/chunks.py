"""What a chunk holds: parcels as they are, or rows; and how many of them. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from collector.archive.frame import Kind
from sinks.contract.base import Parcel
from sinks.forward.records import Rows, build_row
from sinks.forward.settled import Preamble


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

    def rewind(self, preamble: Sequence[Parcel]) -> None:
        """Forget what was taken: the next parcel is the one behind these, header and objects of its epoch."""
        ...


class BlockBuilder:
    """Each parcel becomes one row with its bytes as they are, so that a receiver can rebuild a segment.

        [EventTime, {kind, body, run, and of what is about a stream: instance, cpu, and of blocks: number, events,
         first_ts, last_ts}]

    EventTime is when it was sent.
    """

    def __init__(self) -> None:
        self._preamble = Preamble()

    def take(self, parcel: Parcel, now_ns: int) -> Iterator[Rows]:
        """See Builder."""
        yield build_parcel_row(parcel, now_ns)
        self._preamble.add(parcel)

    def rewind(self, preamble: Sequence[Parcel]) -> None:
        """See Builder."""
        self._preamble = Preamble(preamble)

    @property
    def preamble(self) -> Sequence[Parcel]:
        """What a receiver needs that has seen none of the rows that were taken up to now."""
        return self._preamble.parcels


def build_parcel_row(parcel: Parcel, now_ns: int) -> Rows:
    """Gives a parcel as one row."""
    record: dict[str, object] = {"kind": parcel.kind.name.lower(), "body": parcel.body, "run": parcel.run.hex()}
    if parcel.stream is not None:
        record["instance"], record["cpu"] = parcel.stream.instance, parcel.stream.cpu
    if parcel.kind == Kind.BLOCK:
        record["number"], record["events"] = parcel.number, parcel.events
        record["first_ts"], record["last_ts"] = parcel.first_ts, parcel.last_ts
    return Rows(build_row(now_ns, record), 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What goes into one message."""

    rows: Sequence[bytes]  # one behind the other
    count: int  # of the rows


class Chunks:
    """Joins pieces: as many as fit into the limit, or one that alone is larger.

    To know where a chunk ends it takes the piece behind it too.
    """

    def __init__(self, pieces: Iterable[Rows], limit_bytes: int) -> None:
        self.is_at_end = False  # no chunk follows
        self._pieces = iter(pieces)
        self._limit_bytes = limit_bytes
        self._behind: Rows | None = None

    def next(self) -> Chunk | None:
        """The next chunk, None behind the last; errors of the pieces come through."""
        held: list[bytes] = []
        size_bytes = count = 0
        while (piece := self._behind or next(self._pieces, None)) is not None:
            if held and size_bytes + len(piece.data) > self._limit_bytes:
                self._behind = piece
                return Chunk(held, count)
            self._behind = None
            held.append(piece.data)
            size_bytes += len(piece.data)
            count += piece.count
        self.is_at_end = True
        return Chunk(held, count) if held else None
