"""Sends records to `ftrace-collector receive`, over TCP, TLS or a unix socket.

One connection; what was sent and not acknowledged when it breaks is sent again on the next, behind the header and the
names that the receiver needs. A record that the receiver will never take makes its batch REJECTED; one of those that
are sent again at the start is left out from then on. Source of the protocol: docs/stream.md.
"""

import math
import random
import re
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import trio
from pydantic import Field, field_validator
from trio.abc import Stream

from collector.archive.frame import Kind, build_head_tail
from collector.archive.objects import END, object_type
from collector.batch import Delivery
from collector.config.types import MIB
from collector.errors import SegmentError
from sinks.connect.address import parse_address
from sinks.connect.tls import TlsConfig, build_context, explain, not_after_s, secure
from sinks.contract.base import Parcel, SinkContext, TransportState
from sinks.contract.options import SinkCommon, SinkType
from sinks.network.retry import Backoff
from sinks.wire.messages import HOST_NAME, Parser, RefusedError, StreamError, build_hello, parse_ack, parse_welcome
from sinks.wire.preamble import Preamble
from sinks.wire.sizes import most_body_bytes

READ_BYTES = 1 << 16
JITTER = 0.5


class StreamOptions(SinkCommon):
    """A receiver of the stream protocol."""

    type: Literal["stream"]
    address: str  # HOST:PORT, or unix:PATH
    tls: TlsConfig | None = None  # None: without; not over a unix socket
    host: str = ""  # what the receiver calls this machine; "": its host name
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 4  # batches that were not acknowledged yet
    batch_bytes: Annotated[int, Field(ge=65536, le=16 * MIB)] = MIB  # of a batch, unless one block alone is larger

    @field_validator("address")
    @classmethod
    def _address_is_one(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("host")
    @classmethod
    def _host_is_a_name(cls, value: str) -> str:
        if value and not HOST_NAME.fullmatch(value):
            raise ValueError("a name of letters, digits and . _ -")
        return value


class _Connection:
    """An open connection that was welcomed."""

    def __init__(self, stream: Stream, max_body_bytes: int, scope: trio.CancelScope) -> None:
        self.stream = stream
        self.scope = scope  # cancelled, it ends the connection
        self.max_body_bytes = max_body_bytes
        self.sent = 0  # records
        self.acked = 0
        self.prefix: Sequence[Parcel] = ()  # records of earlier connections that are sent again, before all others
        self.malformed: int | None = None  # number of the record that the receiver will never take
        self.is_broken = False
        self.news = trio.Event()  # an acknowledgement, or the end
        self.pending: deque[tuple[int, Sequence[Parcel]]] = deque()  # (records sent with it, batch)

    def tell(self) -> None:
        self.news.set()
        self.news = trio.Event()


class StreamTransport:
    """One receiver.

    Args:
      host: name of this machine, where the options have none.
      tls: None: without.
      rng: gives numbers from 0 to below 1, for the waits between connections.
    """

    def __init__(
        self,
        options: StreamOptions,
        host: str,
        tls: ssl.SSLContext | None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = options.title
        self.state = TransportState()
        self.max_in_flight = options.max_in_flight  # 1 while a record is looked for that the receiver will not take
        self.batch_bytes, self.batch_events = options.batch_bytes, math.inf
        self._most_in_flight = options.max_in_flight
        self._host = options.host or re.sub(r"[^A-Za-z0-9._-]", "-", host).strip("._-") or "localhost"
        self._address = parse_address(options.address)
        self._tls = tls
        self._server_name = options.tls.server_name if options.tls is not None else None
        self._timeout_s = options.request_timeout_s
        self._backoff = Backoff(options.retry_first_s, options.retry_max_s, JITTER, rng)
        self._connection: _Connection | None = None
        self._connected = trio.Event()
        self._sending = trio.Lock()  # in the order of the calls
        self._failures = 0  # a delivery that began before the last one must not overtake what failed with it
        self._preamble = Preamble()  # of what is acknowledged: a connection begins with it

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold a connection until cancelled."""
        task_status.started()
        while True:
            try:
                await self._hold()
                self._note("the receiver has closed the connection")
            except trio.TooSlowError:
                self._note(f"no answer within {self._timeout_s:g} s")
            except RefusedError as e:
                self._note(_reason(e))
                if e.record is not None:
                    continue  # without that record it may do at once
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, SegmentError) as e:
                self._note(_reason(e))
            await trio.sleep(self._backoff.next_s())

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        """Send them, and wait until the receiver has them on its disk."""
        failures = self._failures
        connection: _Connection | None = None
        first = until = 0  # numbers of their records
        try:
            with trio.fail_after(self._timeout_s):
                async with self._sending:
                    connection = await self._wait_connected()
                    if failures != self._failures:
                        return Delivery.ERRORED
                    if self._is_too_large(connection, parcels):
                        return Delivery.REJECTED
                    if not connection.sent and parcels[0].kind != Kind.HEADER:
                        connection.prefix = self._preamble.parcels
                        await self._send(connection, connection.prefix)
                    first, until = connection.sent, connection.sent + len(parcels)
                    await self._send(connection, parcels)
                while connection.acked < until and not connection.is_broken:
                    await connection.news.wait()
        except trio.TooSlowError:
            # Without a connection the last error is why there is none.
            if connection is not None or self.state.last_error is None:
                self._note(f"no acknowledgement within {self._timeout_s:g} s")
            self._fail(connection)
            return Delivery.ERRORED
        except trio.Cancelled:
            # Half a batch may be on its way: nothing can follow it on this connection.
            self._fail(connection)
            raise
        if connection.acked >= until:
            return Delivery.DELIVERED
        is_at_fault = connection.malformed is not None and first <= connection.malformed < until
        return Delivery.REJECTED if is_at_fault else Delivery.ERRORED

    def _is_too_large(self, connection: _Connection, parcels: Sequence[Parcel]) -> bool:
        """Whether one of them is more than the receiver takes."""
        for parcel in parcels:
            most_bytes = most_body_bytes(parcel.kind, connection.max_body_bytes)
            if len(parcel.body) > most_bytes:
                self._note(f"the receiver takes {most_bytes} bytes of a {parcel.kind.name}, "
                           f"this one has {len(parcel.body)}")  # fmt: skip
                if len(parcels) > 1:
                    self._failures += 1  # the others of it are sent again: none may overtake them
                return True
        return False

    async def _wait_connected(self) -> _Connection:
        while self._connection is None:
            await self._connected.wait()
        return self._connection

    async def _hold(self) -> None:
        """One connection from its beginning to its end."""
        stream = await self._open()
        with trio.CancelScope() as scope:
            await self._serve(stream, scope)

    async def _serve(self, stream: Stream, scope: trio.CancelScope) -> None:
        connection: _Connection | None = None
        try:
            parser = Parser()
            with trio.fail_after(self._timeout_s):
                await stream.send_all(build_hello(self._host))
                connection = _Connection(stream, await self._read_welcome(stream, parser), scope)
            self._connection = connection
            # What was wrong stays to be seen until something has come through.
            self.state = TransportState(True, self.state.last_error, _not_after_s(stream))
            self._connected.set()
            await self._listen(connection, parser)
        except RefusedError as e:
            self._note(_reason(e))
            if connection is not None and e.record is not None:
                self._note_malformed(connection, e.record)
            raise
        finally:
            if connection is not None:
                self._retire(connection)
                connection.is_broken = True
                connection.tell()
            await trio.aclose_forcefully(stream)

    async def _listen(self, connection: _Connection, parser: Parser) -> None:
        """Take acknowledgements until the receiver closes the connection."""
        data = b""
        while True:
            parser.feed(data)
            for record in parser.records():
                acked = parse_ack(record)
                if not connection.acked <= acked <= connection.sent:
                    raise StreamError(
                        "an acknowledgement of what was not sent, or of less than before",
                        expected=f"{connection.acked} to {connection.sent}", got=str(acked),
                    )  # fmt: skip
                if acked > max(connection.acked, len(connection.prefix)):
                    self.state = replace(self.state, last_error=None)
                    self.max_in_flight = self._most_in_flight
                    self._backoff.reset()  # not before: one that answers and takes nothing is no better than none
                connection.acked = acked
                while connection.pending and connection.pending[0][0] <= connection.acked:
                    self._remember(connection.pending.popleft()[1])
            connection.tell()
            data = bytes(await connection.stream.receive_some(READ_BYTES))
            if not data:
                return

    def _note_malformed(self, connection: _Connection, number: int) -> None:
        """The receiver will never take this record; those before it are acknowledged.

        Raises:
          StreamError: it was not sent, or is acknowledged.
        """
        if not connection.acked <= number < connection.sent:
            raise StreamError("a refusal of what was not sent", expected=f"{connection.acked} to {connection.sent - 1}",
                              got=str(number))  # fmt: skip
        connection.malformed = number
        self.max_in_flight = 1
        if number < len(connection.prefix):  # what needs it is refused with it
            self._preamble.forget(connection.prefix[number])

    def _retire(self, connection: _Connection) -> None:
        """Nothing more is sent on it, also by those who wait for their turn."""
        if self._connection is connection:
            self._connection = None
            self._connected = trio.Event()
            self._failures += 1

    async def _open(self) -> Stream:
        with trio.fail_after(self._timeout_s):
            if isinstance(self._address, str):
                stream: Stream = await trio.open_unix_socket(self._address)
            else:
                stream = await trio.open_tcp_stream(*self._address)
            if self._tls is None:
                return stream
            name = self._server_name or (self._host if isinstance(self._address, str) else self._address[0])
            return await secure(stream, self._tls, name)

    @staticmethod
    async def _read_welcome(stream: Stream, parser: Parser) -> int:
        while data := await stream.receive_some(READ_BYTES):
            parser.feed(data)
            for record in parser.records():
                return parse_welcome(record)
        raise StreamError("the receiver has closed the connection before its welcome")

    async def _send(self, connection: _Connection, parcels: Sequence[Parcel]) -> None:
        # Counted first: the receiver may acknowledge the beginning before the end is on its way.
        connection.sent += len(parcels)
        connection.pending.append((connection.sent, parcels))
        parts = []
        for parcel in parcels:
            head, tail = build_head_tail(parcel.kind, parcel.body)
            parts += [head, parcel.body, tail]
        try:
            await connection.stream.send_all(b"".join(parts))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._retire(connection)  # why it broke the receiver may have said: the other task reads that

    def _remember(self, parcels: Sequence[Parcel]) -> None:
        """What a next connection has to begin with: the names for whatever was not acknowledged."""
        for parcel in parcels:
            if parcel.kind != Kind.OBJECT or object_type(parcel.body) != END:
                self._preamble.add(parcel)

    def _fail(self, connection: _Connection | None) -> None:
        """End a connection on which nobody knows any more what has come."""
        self._failures += 1
        if connection is not None:
            self._retire(connection)
            connection.is_broken = True
            connection.scope.cancel()

    def _note(self, why: str) -> None:
        self.state = replace(self.state, connected=self._connection is not None, last_error=why)


def _reason(error: Exception) -> str:
    """A broken stream carries what broke it as its cause."""
    cause = error.__cause__
    return explain(cause if isinstance(cause, (OSError, ssl.SSLError)) else error)


def _not_after_s(stream: Stream) -> float | None:
    return not_after_s(stream.getpeercert()) if isinstance(stream, trio.SSLStream) else None


def _build(options: StreamOptions, context: SinkContext) -> StreamTransport:
    return StreamTransport(options, context.host, None if options.tls is None else build_context(options.tls))


SINK = SinkType(StreamOptions, _build)
