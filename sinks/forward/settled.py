"""What is settled of what was sent: a batch that comes again is read as it was the first time. Pure.

    begin ──> on their way ──end──> settled, in the order of begin()
                   └── one that failed comes again, and all behind it, once each has ended

What a block means depends on the header and the objects before it. So these are kept as of the first batch that is not
settled; what has been sent behind that may be of the next epoch already, or of the next run.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from collector.archive.frame import Kind
from collector.batch import Delivery
from sinks.contract.base import Parcel

# Header and objects of an epoch that are kept; logs end an epoch before that.
MOST_PREAMBLE_BYTES = 32 << 20


class Preamble:
    """The last HEADER and the OBJECTs behind it: what somebody needs who has not seen an epoch's beginning."""

    def __init__(self, parcels: Iterable[Parcel] = ()) -> None:
        self._parcels: list[Parcel] = []
        self._size_bytes = 0
        for parcel in parcels:
            self.add(parcel)

    @property
    def parcels(self) -> Sequence[Parcel]:
        """As of now."""
        return tuple(self._parcels)

    def add(self, parcel: Parcel) -> None:
        """Take the next parcel; most are passed over."""
        if parcel.kind == Kind.HEADER:
            self._parcels, self._size_bytes = [], 0
        if parcel.kind in (Kind.HEADER, Kind.OBJECT):
            self._size_bytes += len(parcel.body)
            if self._size_bytes <= MOST_PREAMBLE_BYTES:
                self._parcels.append(parcel)


@dataclass(slots=True, eq=False)
class Flight:
    """A batch on its way."""

    parcels: Sequence[Parcel]
    answer: Delivery | None = None  # None: none yet

    @property
    def is_settled(self) -> bool:
        """Whether it does not come again; of a batch that is rejected the parcels do, one by one."""
        return self.answer is Delivery.DELIVERED or (self.answer is Delivery.REJECTED and len(self.parcels) == 1)


class Settled:
    """See the module."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()
        self._preamble = Preamble()

    @property
    def preamble(self) -> Sequence[Parcel]:
        """What stands before the first batch that is not settled."""
        return self._preamble.parcels

    def begin(self, parcels: Sequence[Parcel]) -> Flight:
        """A batch is sent."""
        if all(flight.answer is not None for flight in self._flights):
            self._flights.clear()  # they come again, beginning with this one
        flight = Flight(parcels)
        self._flights.append(flight)
        return flight

    def end(self, flight: Flight, answer: Delivery) -> None:
        """A batch is not on its way any more."""
        flight.answer = answer
        while self._flights and self._flights[0].is_settled:
            done = self._flights.popleft()
            for parcel in done.parcels if done.answer is Delivery.DELIVERED else ():
                self._preamble.add(parcel)
