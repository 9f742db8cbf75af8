"""Sends records to `ftrace-collector receive`, over TCP, TLS or a unix socket.

One connection; what was sent and not acknowledged when it breaks is sent again on the next, behind the header and the
names that the receiver needs. Source of the protocol: docs/stream.md.
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
from collector.archive.objects import object_key
from collector.batch import Delivery
from collector.config_types import MIB
from collector.errors import SegmentError
from sinks.address import parse_address
from sinks.base import Parcel, SinkContext, TransportState
from sinks.options import SinkCommon, SinkType
from sinks.retry import Backoff
from sinks.tls import TlsConfig, build_context, explain, not_after_s
from sinks.wire import HOST_NAME, Parser, StreamError, build_hello, parse_ack, parse_welcome

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
        self.max_in_flight = options.max_in_flight
        self.batch_bytes, self.batch_events = options.batch_bytes, math.inf
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
        self._header: Parcel | None = None  # the last one acknowledged, and what names came behind it
        self._names: dict[bytes, Parcel] = {}  # {id of the object: parcel}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold a connection until cancelled."""
        task_status.started()
        while True:
            try:
                await self._hold()
                self._note("the receiver has closed the connection")
            except trio.TooSlowError:
                self._note(f"no answer within {self._timeout_s:g} s")
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, SegmentError) as e:
                self._note(_reason(e))
            await trio.sleep(self._backoff.next_s())

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        """Send them, and wait until the receiver has them on its disk."""
        failures = self._failures
        deadline_s = trio.current_time() + self._timeout_s
        connection: _Connection | None = None
        try:
            with trio.fail_at(deadline_s):
                async with self._sending:
                    connection = await self._wait_connected()
                    if failures != self._failures:
                        return Delivery.ERRORED
                    for parcel in parcels:
                        if len(parcel.body) > connection.max_body_bytes:
                            self._note(f"the receiver takes {connection.max_body_bytes} bytes a record, "
                                       f"this one has {len(parcel.body)}")  # fmt: skip
                            if len(parcels) > 1:
                                self._failures += 1  # the others of it are sent again: none may overtake them
                            return Delivery.REJECTED
                    await self._send(connection, parcels)
                    until = connection.sent
                while connection.acked < until and not connection.is_broken:
                    await connection.news.wait()
        except trio.TooSlowError:
            self._fail(connection, f"no acknowledgement within {self._timeout_s:g} s")
            return Delivery.ERRORED
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
            self._fail(connection, _reason(e))
            return Delivery.ERRORED
        except trio.Cancelled:
            # Half a batch may be on its way: nothing can follow it on this connection.
            self._fail(connection)
            raise
        return Delivery.DELIVERED if connection.acked >= until else Delivery.ERRORED

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
        try:
            parser = Parser()
            with trio.fail_after(self._timeout_s):
                await stream.send_all(build_hello(self._host))
                connection = _Connection(stream, await self._read_welcome(stream, parser), scope)
                await self._send(connection, [*([self._header] if self._header else []), *self._names.values()])
            self._connection = connection
            # What was wrong stays to be seen until something has come through.
            self.state = TransportState(True, self.state.last_error, _not_after_s(stream))
            self._connected.set()
            while data := await stream.receive_some(READ_BYTES):
                parser.feed(data)
                for record in parser.records():
                    acked = parse_ack(record)
                    if not connection.acked <= acked <= connection.sent:
                        raise StreamError(
                            "an acknowledgement of what was not sent, or of less than before",
                            expected=f"{connection.acked} to {connection.sent}", got=str(acked),
                        )  # fmt: skip
                    connection.acked = acked
                    self._backoff.reset()  # not before: one that answers and takes nothing is no better than none
                    while connection.pending and connection.pending[0][0] <= connection.acked:
                        self._remember(connection.pending.popleft()[1])
                self.state = replace(self.state, last_error=None)
                connection.tell()
        finally:
            held, self._connection = self._connection, None
            if held is not None:  # else the event is not set, and those who wait for a connection wait for this one
                self._connected = trio.Event()
                self._failures += 1
                held.is_broken = True
                held.tell()
            await trio.aclose_forcefully(stream)

    async def _open(self) -> Stream:
        with trio.fail_after(self._timeout_s):
            if isinstance(self._address, str):
                stream: Stream = await trio.open_unix_socket(self._address)
            else:
                stream = await trio.open_tcp_stream(*self._address)
            if self._tls is None:
                return stream
            name = self._server_name or (self._host if isinstance(self._address, str) else self._address[0])
            secured = trio.SSLStream(stream, self._tls, server_hostname=name)
            try:
                await secured.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(secured)
                raise
            return secured

    @staticmethod
    async def _read_welcome(stream: Stream, parser: Parser) -> int:
        while data := await stream.receive_some(READ_BYTES):
            parser.feed(data)
            for record in parser.records():
                return parse_welcome(record)
        raise StreamError("the receiver has closed the connection before its welcome")

    @staticmethod
    async def _send(connection: _Connection, parcels: Sequence[Parcel]) -> None:
        # Counted first: the receiver may acknowledge the beginning before the end is on its way.
        connection.sent += len(parcels)
        connection.pending.append((connection.sent, parcels))
        parts = []
        for parcel in parcels:
            head, tail = build_head_tail(parcel.kind, parcel.body)
            parts += [head, parcel.body, tail]
        if parts:
            await connection.stream.send_all(b"".join(parts))

    def _remember(self, parcels: Sequence[Parcel]) -> None:
        """What a next connection has to begin with: the names for whatever was not acknowledged."""
        for parcel in parcels:
            if parcel.kind == Kind.HEADER:
                self._header = parcel
                self._names.clear()
            elif parcel.kind == Kind.OBJECT:
                key = object_key(parcel.body)
                self._names.pop(key, None)
                self._names[key] = parcel

    def _fail(self, connection: _Connection | None, why: str | None = None) -> None:
        """End a connection on which nobody knows any more what has come."""
        if why is not None:
            self._note(why)
        self._failures += 1
        if connection is not None and not connection.is_broken:
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
