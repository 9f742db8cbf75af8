"""What a sink is: one that keeps an archive itself, and one that brings it over a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import trio

from collector.archive.frame import Kind
from collector.archive.totals import StreamId
from collector.batch import Block, Delivery, Note, SinkState, StreamKey
from collector.monitor.state import SinkSnapshot

Item = Block | Note

Release = Callable[[], None]  # gives the memory of an item back


class SegmentContext(Protocol):
    """What a segment, or a stream of records, says of where it comes from."""

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        """The header of the run's segment with this number; opening: None for the first."""
        ...

    def opening_notes(self) -> Sequence[Note]:
        """Clock pairs and coverage, as of now."""
        ...

    def closing_notes(self) -> Sequence[Note]:
        """Coverage up to now."""
        ...


class Sink(Protocol):
    """Takes blocks to where they are kept.

    The runner calls one method at a time; what a sink does on a disk or a
    socket of its own it does in threads or tasks of its own.
    """

    name: str  # as metrics and messages call it
    state: SinkState

    async def open(self) -> None:
        """Get ready to take blocks; an error here ends the daemon's start."""

    async def begin(self, items: Sequence[Item]) -> None:
        """Leave evidence that the run is there, with these notes, before it reads the first entry."""

    async def deliver(self, items: Sequence[Item]) -> Delivery:
        """Take the items, in this order.

        DELIVERED: they need not be held in memory any more. ERRORED: none of
        them was taken, try again. REJECTED: not all of them, `state.discarded_events` says how many entries.
        """
        ...

    async def tick(self) -> None:
        """About once a second, also when there is nothing to deliver: syncs, rotation by age."""

    async def close(self) -> None:
        """No more items will come."""


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """One record of the segment format on its way to a receiver.

    A receiver that starts at a HEADER decodes all that follows: the OBJECTs that a block refers to stand before it,
    again behind each HEADER.
    """

    kind: Kind
    body: bytes  # one msgpack object, as docs/segment-format.md has it
    run: bytes  # 16 bytes
    stream: StreamKey | None = None  # of blocks and of records about one stream
    number: int = -1  # of a block; (stream, number) names it everywhere
    events: int = 0  # entries in a block
    first_ts: int = 0  # of a block, in the unit of the stream's clock
    last_ts: int = 0


@dataclass(frozen=True, slots=True)
class TransportState:
    """How the way to a receiver is."""

    connected: bool = False
    last_error: str | None = None  # why not, or why the last batch was not taken
    certificate_not_after_s: float | None = None  # wall time at which the server's certificate ends
    slow_subscribers: int | None = None  # ended, for they did not keep up; None: nobody subscribes to such a sink
    acknowledged: int = 0  # parts of batches: while it grows, a batch that takes long is not given up


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is told of the daemon that it is part of."""

    host: str  # name of this machine
    version: str  # of this program
    archive: Path = Path()  # the archive's folder, for followers


@runtime_checkable
class Transport(Protocol):
    """Brings parcels to a receiver on a network.

    Every wait in it has a deadline; nothing in it retries a batch: the runner backs off and sends again.
    """

    name: str
    max_in_flight: int  # batches that may be on their way at once
    batch_bytes: int  # bodies of one batch together, unless one alone is larger
    batch_events: float  # entries of one batch together, unless one block alone has more; math.inf: any number

    @property
    def state(self) -> TransportState:
        """How the way to the receiver is now."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold connections until cancelled; started at once, also while no receiver is there."""

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        """Bring a batch to the receiver, and wait until it has acknowledged all of it.

        Called up to `max_in_flight` times at once; batches go out in the order of the calls.

        DELIVERED: acknowledged. ERRORED: not, or nobody knows; it is sent again. REJECTED: the receiver will never
        take it; `state.last_error` says why.
        """
        ...


class SealedSegment(Protocol):
    """What is told of a segment of the archive."""

    @property
    def name(self) -> str:
        """Of its file."""
        ...

    @property
    def last_blocks(self) -> Mapping[StreamKey, int] | None:
        """{stream: number of its last block in the segment}; None for a segment of an earlier run."""
        ...


class Acknowledgements(Protocol):
    """Somebody who takes what the archive has to another place."""

    def is_acknowledged(self, segment: SealedSegment) -> bool:
        """Whether nothing of the segment is still to arrive there; called in the archive's thread."""
        ...


class Follower(Protocol):
    """Brings the archive's sealed segments to a receiver: it reads the archive's folder, and is given no parcels.

    What it has brought it notes itself; nothing that it does holds the archive up.
    """

    name: str

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring each segment once it is sealed, until cancelled; errors are logged and tried again, not raised."""

    async def drain(self) -> None:
        """After run(): bring what has been sealed since, the run's last segment above all; can be cancelled."""

    def snapshot(self) -> SinkSnapshot:
        """What the metrics say; one segment is one request."""
        ...

    def is_acknowledged(self, segment: SealedSegment) -> bool:
        """As Acknowledgements have it."""
        ...

    def note_removal(self, segment: SealedSegment) -> None:
        """The archive is about to remove a segment, whose file is still there; called in the archive's thread.

        It may be called again for the same one, when the disk refused to remove it. Raises nothing.
        """
