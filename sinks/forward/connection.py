"""One connection to a server: the handshake, chunks on their way, and the acknowledgements that come in any order."""

import math
import os
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import trio
from trio.abc import Stream

from sinks.connect.tls import explain, not_after_s, secure
from sinks.forward.protocol import (
    Credentials,
    MessageReader,
    ProtocolError,
    build_ping,
    check_pong,
    parse_ack,
    parse_helo,
)

READ_BYTES = 1 << 16
SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is."""

    host: str = ""
    port: int = 0
    path: str = ""  # of a unix socket, instead of host and port
    weight: int = 1  # 0: only when none of the others answers

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ConnectionFailed(Exception):
    """A connection could not be made, or is of no use any more; its text says why, for people."""


class SentChunk:
    """A chunk that the server has not acknowledged yet."""

    def __init__(self) -> None:
        self.done = trio.Event()  # acknowledged, or it never will be
        self.is_acked = False


class Connection:
    """An open connection whose handshake is done.

    Of the chunks that are not acknowledged the first one has a deadline: a slow server has that long for each, and one
    that has dropped a chunk is noticed though it takes others.

    Args:
      ack_timeout_s: for a chunk to be acknowledged, from when it was sent and those before it were acknowledged.
      stays: the server takes more than one chunk on it.
    """

    def __init__(
        self, stream: Stream, address: Address, reader: MessageReader, ack_timeout_s: float, *, stays: bool
    ) -> None:
        self.address = address
        self.stays = stays
        self.opened_s = trio.current_time()
        self.acked = 0  # chunks
        self.failure: ConnectionFailed | None = None
        self._stream = stream
        self._reader = reader
        self._ack_timeout_s = ack_timeout_s
        self._sent: dict[str, SentChunk] = {}  # in the order of sending
        self._is_sending = False
        self._retiring = False
        self._scope = trio.CancelScope()
        self._overdue = trio.CancelScope()  # its deadline is that of the first chunk

    @property
    def certificate_not_after_s(self) -> float | None:
        """Wall time at which the server's certificate ends; None without one that was verified."""
        return not_after_s(self._stream.getpeercert()) if isinstance(self._stream, trio.SSLStream) else None

    @property
    def is_usable(self) -> bool:
        """Whether chunks may still be sent on it."""
        return self.failure is None and not self._retiring

    async def send(self, chunk: str, message: bytes) -> SentChunk:
        """Put a chunk on the wire, behind those before it; one at a time.

        Raises:
          ConnectionFailed: it did not go out; what had gone out before may arrive or not.
        """
        if self.failure is not None:
            raise self.failure
        sent = self._sent[chunk] = SentChunk()
        self._is_sending = True
        if self._is_first(chunk):
            self._restart_deadline()
        try:
            await self._stream.send_all(message)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
            raise self.fail(explain_failure(e)) from e
        except trio.Cancelled:
            self.fail("a delivery was given up in the middle of a chunk")
            raise
        finally:
            self._is_sending = False
        if self._is_first(chunk):
            self._restart_deadline()
        return sent

    async def serve(self, acknowledged: Callable[[], None]) -> None:
        """Take acknowledgements until the connection fails, or is retired and has them all.

        Args:
          acknowledged: called for each.
        Raises:
          ConnectionFailed: why it ended.
        """
        try:
            with self._scope, self._overdue:
                while True:
                    data = await self._stream.receive_some(READ_BYTES)
                    if not data:
                        self.fail("the server has closed the connection")
                    for message in self._reader.feed(bytes(data)):
                        self._take_ack(parse_ack(message))
                        acknowledged()
            if self._overdue.cancelled_caught:
                what = "the server has not taken a message for" if self._is_sending else "no acknowledgement within"
                self.fail(f"{what} {self._ack_timeout_s:g} s")
        except ProtocolError as e:
            self.fail(str(e))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
            self.fail(explain_failure(e))
        finally:
            if self.failure is None:
                self._retiring = True
            for sent in self._sent.values():
                sent.done.set()
            await trio.aclose_forcefully(self._stream)
        if self.failure is not None:
            raise self.failure

    def retire(self) -> None:
        """Send no more on it, and end it when what was sent is acknowledged."""
        self._retiring = True
        if not self._sent:
            self._scope.cancel()

    def fail(self, why: str) -> ConnectionFailed:
        """End it: nobody knows any more what has arrived; gives the first reason."""
        if self.failure is None:
            self.failure = ConnectionFailed(f"{self.address}: {why}")
        self._scope.cancel()
        return self.failure

    def _is_first(self, chunk: str) -> bool:
        return chunk == next(iter(self._sent), None)

    def _restart_deadline(self) -> None:
        """The first chunk has all its time from now on."""
        self._overdue.deadline = trio.current_time() + self._ack_timeout_s if self._sent else math.inf

    def _take_ack(self, chunk: str) -> None:
        was_first = self._is_first(chunk)
        sent = self._sent.pop(chunk, None)
        if sent is None:
            raise ProtocolError("wrong_ack", f"the server acknowledges a chunk that was not sent: {chunk[:40]!a}")
        if was_first:
            self._restart_deadline()
        sent.is_acked = True
        sent.done.set()
        self.acked += 1
        if self._retiring and not self._sent:
            self._scope.cancel()


async def connect(
    address: Address, tls: ssl.SSLContext | None, server_name: str | None, credentials: Credentials | None,
    timeout_s: float, ack_timeout_s: float,
) -> Connection:  # fmt: skip
    """Connect, and shake hands where there is a shared key.

    Args:
      server_name: in the server's certificate; None: the host.
      credentials: None: the server asks for none.
      timeout_s: for all this.
      ack_timeout_s: see Connection.
    Raises:
      ConnectionFailed: not in that time, or refused, or it is not whom we look for.
    """
    try:
        with trio.fail_after(timeout_s):
            stream = await _open(address, tls, server_name)
            try:
                return await _shake_hands(stream, address, credentials, ack_timeout_s)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError:
        hint = "; does it have a shared key?" if credentials is not None else ""
        raise ConnectionFailed(f"{address}: no connection within {timeout_s:g} s{hint}") from None
    except ProtocolError as e:
        raise ConnectionFailed(f"{address}: {e}") from e
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
        raise ConnectionFailed(f"{address}: {explain_failure(e)}") from e


async def _open(address: Address, tls: ssl.SSLContext | None, server_name: str | None) -> Stream:
    if address.path:
        plain = await trio.open_unix_socket(address.path)
    else:
        plain = await trio.open_tcp_stream(address.host, address.port)
        plain.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1)
    if tls is None:
        return plain
    return await secure(plain, tls, server_name or address.host, https_compatible=True)


async def _shake_hands(
    stream: Stream, address: Address, credentials: Credentials | None, ack_timeout_s: float
) -> Connection:
    reader = MessageReader()
    if credentials is None:
        return Connection(stream, address, reader, ack_timeout_s, stays=True)
    helo = parse_helo(await _receive(stream, reader))
    salt = secrets.token_hex(SALT_BYTES)
    await stream.send_all(build_ping(helo, credentials, salt))
    check_pong(await _receive(stream, reader), helo, credentials, salt)
    return Connection(stream, address, reader, ack_timeout_s, stays=helo.keepalive)


async def _receive(stream: Stream, reader: MessageReader) -> object:
    """The next message; a server that says two at once in a handshake says the second one too early."""
    while data := await stream.receive_some(READ_BYTES):
        found = list(reader.feed(bytes(data)))
        if len(found) > 1:
            raise ProtocolError("handshake", "the server sends more than it should in the handshake")
        if found:
            return found[0]
    raise ProtocolError("closed", "the server has closed the connection in the handshake")


def explain_failure(error: BaseException) -> str:
    """Say why a connection failed; a broken stream carries what broke it as its cause."""
    cause: BaseException = error
    while not isinstance(cause, ssl.SSLError) and getattr(cause, "errno", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__
        while isinstance(cause, ExceptionGroup):  # an attempt for each of a host's addresses
            cause = cause.exceptions[0]
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and (cause.errno or 0) > 0:
        return os.strerror(cause.errno or 0).lower()
    return explain(cause if isinstance(cause, Exception) else RuntimeError(type(cause).__name__))
