"""Several servers of the same data: which one is used, and the connection to it."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from sinks.contract.base import TransportState
from sinks.forward.connection import Address, Connection, ConnectionFailed
from sinks.network.retry import Backoff

logger = logging.getLogger(__name__)


class Servers:
    """Holds a connection to one of them at a time.

    Args:
      name: of the sink.
      dial: connects to a server. Raises ConnectionFailed.
      keepalive_s: a connection is replaced when it is so old; 0: never.
      backoff: between tries.
      rng: gives numbers from 0 to below 1, for the order in which they are tried.
    """

    def __init__(
        self, name: str, addresses: Sequence[Address], dial: Callable[[Address], Awaitable[Connection]],
        keepalive_s: float, backoff: Backoff, rng: Callable[[], float],
    ) -> None:  # fmt: skip
        self.state = TransportState()
        self.failures = 0  # who began before the last one must not overtake what failed with it
        self._name = name
        self._addresses = addresses
        self._dial = dial
        self._keepalive_s = keepalive_s
        self._backoff = backoff
        self._rng = rng
        self._useless: set[Address] = set()  # whose last connection took nothing; until one takes something
        self._connection: Connection | None = None
        self._changed = trio.Event()  # a connection is there, or another try has failed
        self._wanted = trio.Event()  # somebody has something to send

    async def run(self) -> None:
        """Hold a connection until cancelled."""
        while True:
            connection = await self._connect_any()
            if connection is not None:
                await self._use(connection)
                if connection.acked or connection.failure is None:
                    self._backoff.reset()
                    continue
            self._wanted = trio.Event()
            with trio.move_on_after(self._backoff.next_s()):
                await self._wanted.wait()

    async def usable(self, failures: int) -> Connection:
        """The connection; waits for one, as long as the one before it and the tries to connect take.

        Args:
          failures: there were so many when the delivery began.
        Raises:
          ConnectionFailed: something has failed since, or there is none and another try has failed.
        """
        self._wanted.set()
        while True:
            if failures != self.failures:
                raise ConnectionFailed(self.state.last_error or "a delivery before this one has failed")
            connection = self._connection
            if connection is not None and connection.is_usable:
                if not self._is_old(connection):
                    return connection
                connection.retire()
            await self._changed.wait()

    def fail(self) -> None:
        """Something has failed, and with it what was begun before."""
        self.failures += 1
        self._wake()

    def note(self, why: str) -> None:
        """Say what has failed."""
        if why != self.state.last_error:
            logger.info("a server of a sink", extra={"fields": {"sink": self._name, "why": why}})
        self.state = replace(self.state, last_error=why)

    def note_success(self) -> None:
        """A delivery was acknowledged: what was wrong before is over."""
        self.state = replace(self.state, last_error=None)

    async def _connect_any(self) -> Connection | None:
        """The first server that takes us, in an order of chance and weights; None: none does."""
        for address in self._in_order():
            try:
                return await self._dial(address)
            except ConnectionFailed as e:
                self.note(str(e))
        self.fail()
        return None

    def _in_order(self) -> list[Address]:
        """All servers: by chance, a larger weight sooner; then those without weight.

        Those that let us connect but take nothing come behind all others, else no other would ever be tried.
        """

        def place(address: Address) -> tuple[bool, bool, float]:
            chance = self._rng() ** (1 / address.weight) if address.weight else self._rng()
            return address in self._useless, address.weight == 0, -chance

        return sorted(self._addresses, key=place)

    async def _use(self, connection: Connection) -> None:
        """Send on a connection until it ends."""
        self._connection = connection
        # What was wrong stays to be seen until something has come through.
        ends_s = connection.certificate_not_after_s
        self.state = replace(self.state, connected=True, certificate_not_after_s=ends_s)
        self._wake()
        try:
            await connection.serve(self._count_ack)
        except ConnectionFailed as e:
            if not connection.acked:
                self._useless.add(connection.address)
                if self._useless.issuperset(self._addresses):
                    self._useless.clear()  # from the first one again
            self.note(str(e))
            self.fail()
        finally:
            self._connection = None
            self.state = replace(self.state, connected=False)

    def _count_ack(self) -> None:
        self._useless.clear()
        self.state = replace(self.state, acknowledged=self.state.acknowledged + 1)

    def _is_old(self, connection: Connection) -> bool:
        age_s = trio.current_time() - connection.opened_s
        return 0 < self._keepalive_s <= age_s and len(self._addresses) > 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
