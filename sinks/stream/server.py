"""The receiver: takes the streams of many senders and keeps each in a folder of its own.

    connection -> hello -> (read -> parse -> write and sync in a thread -> acknowledge)*

One connection a sender; a new one takes the place of an old one that the network has lost. A peer that sends
garbage, something endless or something huge is cut off; what it was to bring it brings again.
"""

import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.abc import Stream

from collector.errors import ArchiveError, ArchiveFullError, SegmentError
from sinks.stream.host import HostArchive, HostPolicy, Taken
from sinks.wire import (
    CONTROL_BODY_BYTES,
    Parser,
    StreamError,
    WireRecord,
    build_ack,
    build_refused,
    build_welcome,
    parse_hello,
    parse_parcel,
)

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
TICK_S = 1.0
CLOSE_S = 5.0  # for the last answer to a peer that is cut off

Certificate = Mapping[str, Any]  # as ssl.SSLSocket.getpeercert() gives it

# Disk work of all senders together: more at once would only wait for the same disk.
WRITERS = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may do."""

    max_connections: int = 4096
    max_hosts: int = 4096
    max_body_bytes: int = 16 << 20  # of one record
    hello_timeout_s: float = 10.0  # for TLS and the hello
    record_timeout_s: float = 60.0  # from a record's first byte to its last
    idle_s: float = 300.0  # a sender that has been away so long is forgotten until it comes again


@dataclass(slots=True)
class ReceiverState:
    """Counts since the start, for messages and metrics."""

    connections: int = 0  # open now
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # {reason: connections}
    total: Taken = field(default_factory=Taken)


class Receiver:
    """Serves connections until cancelled.

    Args:
      folder: has a folder per sender.
      policy: of each sender's folder.
      check_host: (certificate or None, host) -> why this peer may not call itself so; None: it may.
    """

    def __init__(
        self,
        folder: Path,
        policy: HostPolicy,
        limits: Limits,
        check_host: Callable[[Certificate | None, str], str | None] = lambda certificate, host: None,
    ) -> None:
        self.state = ReceiverState()
        self._folder = folder
        self._policy = policy
        self._limits = limits
        self._check_host = check_host
        self._hosts: dict[str, _Host] = {}
        self._writers = trio.CapacityLimiter(WRITERS)

    @property
    def hosts(self) -> int:
        """Senders whose folders are open."""
        return len(self._hosts)

    async def run(self) -> None:
        """Rotate by age until cancelled, then seal everything."""
        try:
            while True:
                await trio.sleep(TICK_S)
                for name, host in list(self._hosts.items()):
                    await host.tick()
                    if host.idle_s() >= self._limits.idle_s:
                        await host.close()
                        if not host.is_claimed:  # nobody came meanwhile
                            del self._hosts[name]
        finally:
            with trio.CancelScope(shield=True):
                for host in list(self._hosts.values()):
                    await host.close()

    async def serve(self, stream: Stream) -> None:
        """One connection, to its end; never raises but for cancellation."""
        self.state.accepted += 1
        self.state.connections += 1
        _keep_alive(stream)
        try:
            if self.state.connections > self._limits.max_connections:
                raise StreamError("too many connections", expected=f"at most {self._limits.max_connections}")
            await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError):
            self.state.refused["broken"] += 1
        except trio.TooSlowError:
            await self._refuse(stream, "slow", "too slow: a record has to come to its end")
        except _TlsError as e:
            await self._refuse(stream, "tls", str(e))
        except _ReplacedError as e:
            await self._refuse(stream, "replaced", str(e))
        except ArchiveFullError as e:
            logger.error("cannot write what a sender brings", extra={"fields": {"error": str(e)}})
            await self._refuse(stream, "full", str(e))
        except SegmentError as e:
            await self._refuse(stream, "malformed", str(e))
        except ArchiveError as e:
            await self._refuse(stream, "archive", str(e))
        finally:
            self.state.connections -= 1
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
                await trio.aclose_forcefully(stream)

    async def _refuse(self, stream: Stream, reason: str, why: str) -> None:
        self.state.refused[reason] += 1
        logger.warning("cut a sender off", extra={"fields": {"reason": reason, "why": why[:400]}})
        try:
            with trio.move_on_after(CLOSE_S):
                await stream.send_all(build_refused(why[:1000]))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError, ssl.SSLError):
            pass  # it is gone already

    async def _converse(self, stream: Stream) -> None:
        parser = Parser(CONTROL_BODY_BYTES)
        with trio.fail_after(self._limits.hello_timeout_s):
            name = await self._read_hello(stream, parser)
            if name is None:
                return
            certificate = stream.getpeercert() if isinstance(stream, trio.SSLStream) else None
            why = self._check_host(certificate, name)
            if why is not None:
                raise StreamError(why)
        async with self._claim(name) as host:
            parser.max_body_bytes = self._limits.max_body_bytes
            with trio.fail_after(self._limits.hello_timeout_s):
                await stream.send_all(build_welcome(self._limits.max_body_bytes))
            await self._receive(stream, parser, host)

    @staticmethod
    async def _read_hello(stream: Stream, parser: Parser) -> str | None:
        """The name that the sender gives itself; None when it goes away first."""
        if isinstance(stream, trio.SSLStream):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as e:
                if isinstance(e.__cause__, ssl.SSLError) and not isinstance(e.__cause__, ssl.SSLEOFError):
                    raise _TlsError(f"no TLS with a peer: {_explain(e.__cause__)}") from e
                raise
        while data := await stream.receive_some(READ_BYTES):
            parser.feed(data)
            records = parser.records()
            if len(records) > 1:
                raise StreamError("records before the welcome")
            if records:
                return parse_hello(records[0])
        return None

    async def _receive(self, stream: Stream, parser: Parser, host: "_Host") -> None:
        taken = 0
        deadline_s = float("inf")  # an idle sender may be quiet for ever, one in the middle of a record may not
        while True:
            with trio.fail_at(deadline_s):
                data = await stream.receive_some(READ_BYTES)
            if not data:
                return
            parser.feed(data)
            records = parser.records()
            if records:
                self.state.total.add(await host.take(records))
                taken += len(records)
                with trio.fail_after(self._limits.record_timeout_s):
                    await stream.send_all(build_ack(taken))
            if not parser.held_bytes:
                deadline_s = float("inf")
            elif records or deadline_s == float("inf"):
                deadline_s = trio.current_time() + self._limits.record_timeout_s

    @asynccontextmanager
    async def _claim(self, name: str) -> AsyncIterator["_Host"]:
        """The sender's folder, for this connection alone; an older connection of the same sender is ended."""
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._limits.max_hosts:
                raise StreamError("too many senders", expected=f"at most {self._limits.max_hosts}")
            host = self._hosts[name] = _Host(self._folder / name, self._policy, self._writers)
        async with host.claimed():
            yield host


class _TlsError(StreamError):
    """A peer that speaks no TLS, or has no certificate that is believed."""


class _ReplacedError(StreamError):
    """A connection ends because its host has opened another one."""


class _Host:
    """One sender: its archive while it is open, and the connection that has it."""

    def __init__(self, folder: Path, policy: HostPolicy, limiter: trio.CapacityLimiter) -> None:
        self._folder = folder
        self._policy = policy
        self._limiter = limiter
        self._archive: HostArchive | None = None
        self._lock = trio.Lock()  # one call into the archive at a time
        self._claims: set[trio.CancelScope] = set()  # of the connection that has it, and of those that want it
        self._turn = trio.Lock()
        self._used_s = trio.current_time()

    @property
    def is_claimed(self) -> bool:
        return bool(self._claims)

    def idle_s(self) -> float:
        """Seconds since its last connection; 0 while there is one."""
        return 0.0 if self._claims else trio.current_time() - self._used_s

    @asynccontextmanager
    async def claimed(self) -> AsyncIterator[None]:
        """The folder is this connection's: all others of this sender end, and their last record is written first.

        Raises:
          _ReplacedError: another one came.
        """
        with trio.CancelScope() as scope:
            for other in self._claims:
                other.cancel()
            self._claims.add(scope)
            try:
                async with self._turn:
                    yield
            finally:
                self._claims.discard(scope)
                self._used_s = trio.current_time()
        if scope.cancelled_caught:
            raise _ReplacedError(
                "another connection of this host takes its place", hint="does each host have its name?"
            )

    async def take(self, records: Sequence[WireRecord]) -> Taken:
        """Write records, durably.

        Raises:
          ArchiveError: they could not be written, or are no segment's; the archive begins anew with the next.
        """
        parcels = await self._in_thread(lambda: [parse_parcel(record) for record in records])
        async with self._lock:
            try:
                if self._archive is None:
                    self._archive = await self._in_thread(partial(HostArchive, self._folder, self._policy))
                taken: Taken = await self._in_thread(partial(self._archive.take, parcels))
                return taken
            except ArchiveError:
                await self._close()
                raise
            except Exception as e:
                # A peer that finds a hole in our checks costs its own connection, and nobody else's.
                logger.error("cannot take what a sender brings", exc_info=e, extra={"fields": {"folder": self._folder}})
                await self._close()
                raise ArchiveError("the receiver failed; its log says why", got=type(e).__name__) from e

    async def tick(self) -> None:
        """Rotate by age; a segment that cannot be sealed now stays open and is recovered later."""
        async with self._lock:
            if self._archive is not None:
                try:
                    await self._in_thread(self._archive.tick)
                except Exception as e:
                    _log_seal(e)
                    await self._close()

    async def close(self) -> None:
        async with self._lock:
            await self._close()

    async def _close(self) -> None:
        """Seal; in any case the folder's lock is free afterwards, also when the connection ends meanwhile."""
        archive, self._archive = self._archive, None
        if archive is not None:
            with trio.CancelScope(shield=True):
                try:
                    await self._in_thread(archive.close)
                except Exception as e:
                    _log_seal(e)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await trio.to_thread.run_sync(function, limiter=self._limiter)


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()


def _log_seal(error: Exception) -> None:
    """It stays open and is recovered by the next start."""
    is_ours = isinstance(error, ArchiveError)
    logger.error("cannot seal a sender's segment", exc_info=None if is_ours else error,
                 extra={"fields": {"error": str(error)}})  # fmt: skip


def _keep_alive(stream: Stream) -> None:
    """A sender whose machine went away without a word is noticed within some minutes."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(transport, trio.SocketStream) and transport.socket.family != socket.AF_UNIX:
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3)):
            transport.setsockopt(socket.IPPROTO_TCP, option, value)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
