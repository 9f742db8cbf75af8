"""The receiver: takes the streams of many senders and keeps each in a folder of its own.

    connection -> hello -> (read -> parse -> write and sync in a thread -> acknowledge)*

One connection a sender; a new one takes the place of an old one that the network has lost. A peer that sends
garbage, something endless or something huge is cut off; what it was to bring it brings again, but for a record that it
is told will never be taken.
"""

import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from trio.abc import Stream

from collector.errors import ArchiveError, ArchiveFullError, SegmentError
from sinks.stream.host import MalformedError, Taken
from sinks.stream.memory import Memory
from sinks.stream.policy import HostPolicy
from sinks.stream.sender import CrowdedError, ReplacedError, Sender
from sinks.wire.messages import (
    CONTROL_BODY_BYTES,
    MALFORMED,
    Parser,
    StreamError,
    TooLargeError,
    WireRecord,
    build_ack,
    build_refused,
    build_welcome,
    parse_hello,
)

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
TICK_S = 1.0
CLOSE_S = 5.0  # for the last answer to a peer that is cut off

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError, ssl.SSLError, OSError)

# A peer that has closed during the handshake; Python 3.11.0 to 3.11.3 call it the latter.
WENT_AWAY = (ssl.SSLEOFError, ssl.SSLZeroReturnError)

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
    max_memory_bytes: int = 1 << 30  # of all that senders make the receiver hold
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
        self._senders: dict[str, Sender] = {}
        self._writers = trio.CapacityLimiter(WRITERS)
        self.memory = Memory(limits.max_memory_bytes)

    @property
    def hosts(self) -> int:
        """Senders whose folders are open."""
        return len(self._senders)

    async def run(self) -> None:
        """Rotate by age until cancelled, then seal everything."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.sleep(TICK_S)
                    for name, sender in list(self._senders.items()):
                        if sender.is_busy:
                            continue  # nobody waits for its disk; what it writes rotates it
                        if sender.is_idle(self._limits.idle_s):
                            nursery.start_soon(self._forget, name, sender)
                        elif sender.is_due:
                            nursery.start_soon(sender.tick)
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for sender in self._senders.values():
                        nursery.start_soon(sender.close)

    async def _forget(self, name: str, sender: Sender) -> None:
        await sender.close()
        if not sender.is_claimed and self._senders.get(name) is sender:  # nobody came meanwhile
            del self._senders[name]
            sender.forget()

    async def serve(self, stream: Stream) -> None:
        """One connection, to its end; never raises but for cancellation."""
        self.state.accepted += 1
        self.state.connections += 1
        _keep_alive(stream)
        try:
            if self.state.connections > self._limits.max_connections:
                raise _LimitError("too many connections", expected=f"at most {self._limits.max_connections}")
            await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError):
            self.state.refused["broken"] += 1
        except trio.TooSlowError:
            await self._refuse(stream, "slow", "too slow: a record has to come to its end")
        except _TlsError as e:
            await self._refuse(stream, "tls", str(e))
        except ReplacedError as e:
            await self._refuse(stream, "replaced", str(e))
        except _LimitError as e:
            await self._refuse(stream, "limit", str(e))
        except CrowdedError as e:
            await self._refuse(stream, "memory", str(e))
        except ArchiveFullError as e:
            logger.error("cannot write what a sender brings", extra={"fields": {"error": str(e)}})
            await self._refuse(stream, "full", str(e))
        except _RecordError as e:
            await self._refuse(stream, MALFORMED, str(e), e.record)
        except SegmentError as e:
            await self._refuse(stream, MALFORMED, str(e))
        except ArchiveError as e:
            await self._refuse(stream, "archive", str(e))
        finally:
            self.state.connections -= 1
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
                await trio.aclose_forcefully(stream)

    async def _refuse(self, stream: Stream, reason: str, why: str, record: int | None = None) -> None:
        self.state.refused[reason] += 1
        logger.warning("cut a sender off", extra={"fields": {"reason": reason, "why": why[:400]}})
        with trio.move_on_after(CLOSE_S), contextlib.suppress(*GONE):
            await stream.send_all(build_refused(why, reason, record))
            if record is not None:
                # Closing with something unread could take from the sender what it has not read yet either.
                if isinstance(stream, trio.SocketStream):
                    await stream.send_eof()
                while await stream.receive_some(CONTROL_BODY_BYTES):
                    pass

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
        async with self._claim(name) as sender:
            parser.max_body_bytes = self._limits.max_body_bytes
            with trio.fail_after(self._limits.hello_timeout_s):
                await stream.send_all(build_welcome(self._limits.max_body_bytes))
            await self._receive(stream, parser, sender)

    @staticmethod
    async def _read_hello(stream: Stream, parser: Parser) -> str | None:
        """The name that the sender gives itself; None when it goes away first."""
        if isinstance(stream, trio.SSLStream):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as e:
                if isinstance(e.__cause__, ssl.SSLError) and not isinstance(e.__cause__, WENT_AWAY):
                    raise _TlsError(f"no TLS with a peer: {_explain(e.__cause__)}") from e
                raise
        while data := await stream.receive_some(CONTROL_BODY_BYTES):
            parser.feed(data)
            records = list(parser.records())
            if len(records) > 1 or (records and parser.held_bytes):
                raise StreamError("records before the welcome")
            if records:
                return parse_hello(records[0])
        return None

    async def _receive(self, stream: Stream, parser: Parser, sender: Sender) -> None:
        taken = 0
        deadline_s = float("inf")  # an idle sender may be quiet for ever, one in the middle of a record may not
        while True:
            with trio.fail_at(deadline_s):
                if isinstance(stream, trio.SocketStream):
                    await trio.lowlevel.wait_readable(stream.socket)  # who has nothing to say takes no memory
            began_s = trio.current_time()
            await self.memory.wait_room(READ_BYTES)
            deadline_s += trio.current_time() - began_s
            if isinstance(stream, trio.SocketStream):  # of TLS little comes at once, perhaps much later
                sender.hold(parser.held_bytes + READ_BYTES)
            with trio.fail_at(deadline_s):
                data = await stream.receive_some(READ_BYTES)
            if not data:
                return
            parser.feed(data)
            del data
            records, fault = _split(parser)
            if records:
                sender.hold(parser.held_bytes + sum(len(record.body) for record in records), is_busy=True)
                taken = await self._take(stream, sender, records, taken)
            if fault is not None:
                raise _RecordError(fault, taken) if isinstance(fault, TooLargeError) else fault
            if not parser.held_bytes:
                deadline_s = float("inf")
            elif records or deadline_s == float("inf"):
                deadline_s = trio.current_time() + self._limits.record_timeout_s
            del records
            sender.hold(parser.held_bytes)

    async def _take(self, stream: Stream, sender: Sender, records: list[WireRecord], taken: int) -> int:
        """Write records and acknowledge them; gives how many have been taken since the welcome.

        Raises:
          _RecordError: one is malformed; those before it are acknowledged.
        """
        fault: MalformedError | None = None
        try:
            done = await sender.take(records)
        except MalformedError as e:
            fault, done = e, e.taken
        self.state.total.add(done)
        taken += done.records
        if done.records:
            with trio.fail_after(self._limits.record_timeout_s):
                await stream.send_all(build_ack(taken))
        if fault is not None:
            raise _RecordError(fault, taken) from fault
        return taken

    @asynccontextmanager
    async def _claim(self, name: str) -> AsyncIterator[Sender]:
        """The sender's folder, for this connection alone; an older connection of the same sender is ended."""
        sender = self._senders.get(name)
        if sender is None:
            if len(self._senders) >= self._limits.max_hosts:
                raise _LimitError("too many senders", expected=f"at most {self._limits.max_hosts}")
            sender = Sender(self._folder / name, self._policy, self._writers, self.memory)
            self._senders[name] = sender
        async with sender.claimed():
            yield sender


class _TlsError(StreamError):
    """A peer that speaks no TLS, or has no certificate that is believed."""


class _LimitError(StreamError):
    """There are too many already."""


class _RecordError(StreamError):
    """One record that will never be taken.

    Args:
      record: its number since the welcome, from 0.
    """

    def __init__(self, why: SegmentError, record: int) -> None:
        super().__init__(str(why))
        self.record = record


def _split(parser: Parser) -> tuple[list[WireRecord], StreamError | None]:
    """The records that have come whole, and what is wrong behind them."""
    records: list[WireRecord] = []
    try:
        for record in parser.records():
            records.append(record)
    except StreamError as e:
        return records, e
    return records, None


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()


def _keep_alive(stream: Stream) -> None:
    """A sender whose machine went away without a word is noticed within some minutes."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(transport, trio.SocketStream) and transport.socket.family != socket.AF_UNIX:
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3)):
            transport.setsockopt(socket.IPPROTO_TCP, option, value)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
