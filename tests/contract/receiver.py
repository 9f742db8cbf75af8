"""A receiver in memory that a test can break in every way, and the transport to it."""

import math
from collections.abc import Sequence

import trio

from collector.archive.frame import Kind
from collector.batch import Delivery
from sinks.contract.base import Parcel, TransportState


class Receiver:
    """Takes batches, or does not.

    Args:
      delay_s: from a batch's arrival to its acknowledgement.
    """

    def __init__(self, delay_s: float = 0.01) -> None:
        self.delay_s = delay_s
        self.up = True
        self.silent = False  # takes batches and never answers
        self.loses_acks = 0  # of so many batches that it has taken, the next ones
        self.rejects: set[int] = set()  # numbers of blocks
        self.arrived: list[Parcel] = []  # in the order of arrival, twice what came twice
        self.on_wire: list[list[int]] = []  # numbers of the blocks of each batch, as it was sent
        self.most_in_flight = 0

    @property
    def numbers(self) -> list[int]:
        """Of the blocks, in the order of arrival."""
        return [parcel.number for parcel in self.arrived if parcel.kind == Kind.BLOCK]

    @property
    def once(self) -> list[int]:
        """Of the blocks, without those that came before."""
        return list(dict.fromkeys(self.numbers))


class MemoryTransport:
    """The way to a Receiver."""

    name = "memory"

    def __init__(
        self, receiver: Receiver, *, max_in_flight: int = 4, batch_bytes: int = 4096, batch_events: float = math.inf
    ) -> None:
        self.receiver = receiver
        self.state = TransportState()
        self.max_in_flight, self.batch_bytes, self.batch_events = max_in_flight, batch_bytes, batch_events
        self.timeout_s = 5.0
        self.runs = 0
        self.crash: Exception | None = None  # raised by run(), once
        self._in_flight = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.runs += 1
        task_status.started()
        if (crash := self.crash) is not None:
            self.crash = None
            await trio.sleep(1)
            raise crash
        await trio.sleep_forever()

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        receiver = self.receiver
        if not receiver.up:
            self.state = TransportState(False, "connection refused")
            await trio.sleep(0.001)
            return Delivery.ERRORED
        self._in_flight += 1
        receiver.most_in_flight = max(receiver.most_in_flight, self._in_flight)
        receiver.on_wire.append([p.number for p in parcels if p.kind == Kind.BLOCK])
        try:
            return await self._answer(parcels)
        finally:
            self._in_flight -= 1

    async def _answer(self, parcels: Sequence[Parcel]) -> Delivery:
        receiver = self.receiver
        self.state = TransportState(True)
        if any(parcel.number in receiver.rejects for parcel in parcels if parcel.kind == Kind.BLOCK):
            await trio.sleep(receiver.delay_s)
            self.state = TransportState(True, "too large")
            return Delivery.REJECTED
        with trio.move_on_after(self.timeout_s):
            if receiver.silent:
                await trio.sleep_forever()
            receiver.arrived += parcels
            await trio.sleep(receiver.delay_s)
            if receiver.up and receiver.loses_acks <= 0:
                return Delivery.DELIVERED
            receiver.loses_acks -= 1
        self.state = TransportState(receiver.up, "no acknowledgement in time")
        return Delivery.ERRORED
