"""The messages of Fluent Forward v1: bytes to send, and what bytes that came mean. Pure.

    chunk = [tag, entries, {"chunk": id, "size": n, "compressed": "gzip"}]        PackedForward
            entries: bin, `[EventTime, record]` one behind the other; gzip of that when "compressed" stands there
    ack   = {"ack": id}

With a shared key the server speaks first:

    HELO  = ["HELO", {"nonce": ..., "auth": ..., "keepalive": bool}]              server
    PING  = ["PING", our host, salt, hex(salt + our host + nonce + key), user, hex(auth + user + password) or ""]
    PONG  = ["PONG", ok, reason, its host, hex(salt + its host + nonce + key)]    server

    hex   = SHA-512 in hexadecimal

By the last one we know that the server has the key too. Nonce and auth may come as bin, or as str that is no UTF-8.

Source: github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1.
"""

import hashlib
import hmac
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from collector.archive.fields import pack

# No message of a server comes near; a server that sends more is cut off.
MAX_MESSAGE_BYTES = 64 * 1024
# Of a nonce or of a salt for a password, and of names.
MAX_TEXT_BYTES = 4096


class ProtocolError(Exception):
    """The server says what it must not.

    Args:
      reason: for the counter of failures.
      text: for people.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Helo:
    """What the server wants to know first."""

    nonce: bytes
    auth: bytes  # salt for the password; empty: no user is asked for
    keepalive: bool  # False: it will close the connection after a chunk


@dataclass(frozen=True, slots=True)
class Credentials:
    """By what we are let in, and how we know the server."""

    host: str  # our own name
    shared_key: bytes
    user: str = ""
    password: str = ""


def compress_entries(entries: Sequence[bytes], level: int) -> bytes:
    """Give gzip of all together, the same for the same bytes: without a time."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join((*map(packer.compress, entries), packer.flush()))


def build_chunk(tag: str, entries: Sequence[bytes], count: int, chunk: str, *, is_gzip: bool) -> bytes:
    """Give one message.

    Args:
      entries: rows one behind the other, compressed if `is_gzip`.
      count: of the rows.
      chunk: the name by which the server acknowledges it.
    """
    option: dict[str, object] = {"chunk": chunk, "size": count}
    if is_gzip:
        option["compressed"] = "gzip"
    size = sum(map(len, entries))
    head = b"\xc4" + size.to_bytes(1, "big") if size < 256 else b"\xc6" + size.to_bytes(4, "big")
    return b"".join((b"\x93", pack(tag), head, *entries, pack(option)))


def build_ping(helo: Helo, credentials: Credentials, salt: str) -> bytes:
    """Give the answer to a HELO.

    Fluent Bit gives a salt for passwords also when it has no users, so that without one of ours the user is empty.

    Args:
      salt: of ours; text, because Fluent Bit takes no bin.
    """
    user = credentials.user if helo.auth else ""
    digest = _hex(helo.auth, user.encode(), credentials.password.encode()) if user else ""
    proof = _hex(salt.encode(), credentials.host.encode(), helo.nonce, credentials.shared_key)
    return pack(["PING", credentials.host, salt, proof, user, digest])


def parse_helo(message: object) -> Helo:
    """Read the server's first message.

    Raises:
      ProtocolError: it is no HELO.
    """
    match message:
        case ["HELO", dict(options)]:
            return Helo(
                _binary(options.get("nonce", b"")), _binary(options.get("auth", b"")),
                options.get("keepalive", True) is not False,
            )  # fmt: skip
    raise ProtocolError("handshake", f"expected HELO from the server, got {_shown(message)}")


def check_pong(message: object, helo: Helo, credentials: Credentials, salt: str) -> None:
    """Check the server's answer to our PING.

    Raises:
      ProtocolError: it refuses us, it does not have the key, or it is no PONG.
    """
    match message:
        case ["PONG", bool(ok), reason, host, digest]:
            pass
        case _:
            raise ProtocolError("handshake", f"expected PONG from the server, got {_shown(message)}")
    if not ok:
        text = _shown(reason) if reason else "without a reason"
        hint = "check shared_key, user and password"
        if helo.auth and not credentials.user:
            hint = "check shared_key; it asks for a user, and none is configured"
        raise ProtocolError("auth", f"the server refuses us: {text}; {hint}")
    name, proof = _binary(host), _binary(digest)
    if not hmac.compare_digest(proof, _hex(salt.encode(), name, helo.nonce, credentials.shared_key).encode()):
        raise ProtocolError("server_digest", f"the server {_shown(host)} does not have the shared key: wrong digest")
    if name == credentials.host.encode():
        raise ProtocolError(
            "handshake", f"the server has our own name, {credentials.host!r}; give us another one: client_host"
        )


def parse_ack(message: object) -> str:
    """Give the name of the chunk that the server has.

    Raises:
      ProtocolError: it is no acknowledgement.
    """
    match message:
        case {"ack": str(chunk)}:
            return chunk
        case {"ack": bytes(chunk)}:
            return chunk.decode("ascii", "replace")
        case ["HELO", *_]:
            raise ProtocolError("handshake", "the server asks for a shared key; set shared_key")
    raise ProtocolError("garbage", f'expected {{"ack": ...}} from the server, got {_shown(message)}')


class MessageReader:
    """Cuts what comes from a server into messages, and keeps no more than one of them."""

    def __init__(self) -> None:
        self._unpacker = _unpacker()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Give the messages that are complete.

        Raises:
          ProtocolError: it is no msgpack, or a message larger than any.
        """
        try:
            self._unpacker.feed(data)
            while True:
                try:
                    message = self._unpacker.unpack()
                except msgpack.OutOfData:
                    return
                yield message
        except msgpack.BufferFull:
            raise ProtocolError("too_large", f"the server sends a message above {MAX_MESSAGE_BYTES} bytes") from None
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as e:
            # A length above the limit is a ValueError too.
            reason = "too_large" if "exceeds max" in str(e) else "garbage"
            raise ProtocolError(reason, f"the server sends no msgpack ({e})") from None


def _unpacker() -> Any:
    # Nonces come as str from some servers, and are no UTF-8.
    return msgpack.Unpacker(
        max_buffer_size=MAX_MESSAGE_BYTES, raw=False, unicode_errors="surrogateescape", strict_map_key=False
    )


def _hex(*parts: bytes) -> str:
    return hashlib.sha512(b"".join(parts)).hexdigest()


def _binary(value: object) -> bytes:
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if not isinstance(raw, bytes) or len(raw) > MAX_TEXT_BYTES:
        raise ProtocolError("handshake", f"expected some bytes from the server, got {_shown(value)}")
    return raw


def _shown(message: object) -> str:
    """A few safe characters of what a server sent."""
    text = message if isinstance(message, str) else repr(message)
    return ascii(text[:60])
