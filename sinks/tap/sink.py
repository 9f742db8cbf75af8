"""The live tap: whoever connects to the daemon's socket is given the records as they come, from then on.

A subscriber that does not keep up is ended and counted. Nothing waits for it: delivering is putting into queues.
"""

import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import trio
from pydantic import Field, field_validator

from collector.archive.frame import build_record
from collector.batch import Delivery
from collector.config.types import MIB
from collector.errors import CollectorError, SegmentError
from sinks.connect.address import parse_address
from sinks.connect.listening import listen_on_path
from sinks.contract.base import Parcel, SinkContext, TransportState
from sinks.contract.options import SinkCommon, SinkType, WhenFull
from sinks.wire.messages import Parser, build_refused, build_welcome, parse_hello
from sinks.wire.preamble import Preamble

logger = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
SEND_BYTES = 1 << 18
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)  # a subscriber that is not there any more
MAX_BODY_BYTES = 64 * MIB


class TapOptions(SinkCommon):
    """The tap's socket."""

    type: Literal["tap"]
    when_full: WhenFull = "drop_oldest"  # what nobody has taken in time is in the archive
    linger_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    address: str = "unix:/run/ftrace-collector/tap.sock"  # unix:PATH, for owner and group
    subscriber_bytes: Annotated[int, Field(ge=MIB)] = 16 * MIB  # a subscriber that is so far behind is ended
    max_subscribers: Annotated[int, Field(ge=1, le=1024)] = 8

    @field_validator("address")
    @classmethod
    def _address_is_a_socket(cls, value: str) -> str:
        if isinstance(parse_address(value), tuple):
            raise ValueError("unix: and a path")
        return value


class _Subscriber:
    """One connection, and what it was not sent yet.

    Args:
      scope: of what serves it; cancelled when it is too slow.
    """

    def __init__(self, limit_bytes: int, scope: trio.CancelScope) -> None:
        self.is_slow = False
        self._limit_bytes = limit_bytes
        self._scope = scope
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._more = trio.Event()

    def put(self, record: bytes) -> None:
        self._queue.append(record)
        self._queued_bytes += len(record)
        if self._queued_bytes > self._limit_bytes:
            self.is_slow = True
            self._scope.cancel()
        self._more.set()

    async def take(self) -> bytes:
        """What is to be sent next."""
        while not self._queue:
            self._more = trio.Event()
            await self._more.wait()
        parts: list[bytes] = []
        size_bytes = 0
        while self._queue and size_bytes < SEND_BYTES:
            parts.append(self._queue.popleft())
            size_bytes += len(parts[-1])
        self._queued_bytes -= size_bytes
        return b"".join(parts)


class Tap:
    """Serves the socket, and gives each subscriber what is delivered."""

    max_in_flight = 1
    batch_bytes = MIB
    batch_events = math.inf

    def __init__(self, options: TapOptions) -> None:
        self.name = options.title
        self.state = TransportState(connected=True, slow_subscribers=0)
        self._options = options
        self._subscribers: set[_Subscriber] = set()
        self._preamble = Preamble()  # what a subscriber begins with

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled.

        Raises:
          CollectorError: the socket cannot be made.
        """
        path = parse_address(self._options.address)
        assert isinstance(path, str)
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
            listener = await listen_on_path(path)
        except OSError as e:
            raise CollectorError(
                f"the tap cannot listen there: {e.strerror}", where=self._options.address,
                hint="another daemon may have it; name another socket with `address` in its [[sinks]]",
            ) from e  # fmt: skip
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._serve, [listener])
                task_status.started()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        """Queue them for all who listen."""
        for parcel in parcels:
            self._preamble.add(parcel)
            if self._subscribers:
                record = build_record(parcel.kind, parcel.body)
                for subscriber in self._subscribers:
                    subscriber.put(record)
        return Delivery.DELIVERED

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                with trio.move_on_after(HELLO_TIMEOUT_S) as hello:
                    await self._read_hello(stream)
                    if len(self._subscribers) >= self._options.max_subscribers:
                        await stream.send_all(build_refused(f"{self._options.max_subscribers} listen already", "limit"))
                        return
                if not hello.cancelled_caught:
                    await self._feed(stream)
            except GONE:
                pass
            except SegmentError as e:
                logger.warning("cut a subscriber of the tap off", extra={"fields": {"why": str(e)[:400]}})

    @staticmethod
    async def _read_hello(stream: trio.SocketStream) -> None:
        parser = Parser()
        while data := await stream.receive_some(4096):
            parser.feed(data)
            for record in parser.records():
                parse_hello(record)
                return
        raise trio.BrokenResourceError

    async def _feed(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            subscriber = _Subscriber(self._options.subscriber_bytes, nursery.cancel_scope)
            # Without a checkpoint: nothing comes between the names and what is delivered next, and no other subscriber
            # since it was looked how many there are.
            for parcel in self._preamble.parcels:
                subscriber.put(build_record(parcel.kind, parcel.body))
            self._subscribers.add(subscriber)
            try:
                with contextlib.suppress(*GONE):
                    await stream.send_all(build_welcome(MAX_BODY_BYTES))
                    nursery.start_soon(_wait_closed, stream, nursery.cancel_scope)
                    while True:
                        await stream.send_all(await subscriber.take())
                nursery.cancel_scope.cancel()
            finally:
                self._subscribers.discard(subscriber)
                if subscriber.is_slow:
                    self.state = replace(self.state, slow_subscribers=(self.state.slow_subscribers or 0) + 1)
                    logger.warning(
                        "a subscriber of the tap was too slow and is ended", extra={"fields": {"sink": self.name}}
                    )


async def _wait_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """A subscriber says nothing: what comes is its end."""
    with contextlib.suppress(*GONE):
        while await stream.receive_some(4096):
            pass
    scope.cancel()


def _build(options: TapOptions, context: SinkContext) -> Tap:
    return Tap(options)


SINK = SinkType(TapOptions, _build)
