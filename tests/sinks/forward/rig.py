"""Servers of Fluent Forward for the tests: one that is not ours, and one that a test can break in every way."""

import base64
import gzip
import hashlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import trio
import trustme

from collector.batch import Delivery
from sinks.contract.base import Parcel, SinkContext
from sinks.forward.sink import SINK, ForwardOptions, ForwardTransport

SERVER_JS = Path(__file__).parent / "server.js"
HOST = "this-host"
NAME = "receiver.test"  # in the certificates

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@cache
def why_no_fluent_server() -> str | None:
    """Why FluentServer cannot be had here; None when it can."""
    if shutil.which("node") is None:
        return "no node"
    done = subprocess.run(["node", "-e", "require('@fluent-org/logger')"], capture_output=True, timeout=60, check=False)
    hint = "npm install --prefix DIR @fluent-org/logger, and NODE_PATH=DIR/node_modules"
    return None if done.returncode == 0 else f"no npm package @fluent-org/logger: {hint}"


@dataclass
class FluentServer:
    """A running FluentServer and what it has received: [tag, seconds, nanoseconds, record] each."""

    port: int
    entries: list[Any] = field(default_factory=list)

    async def wait_for(self, count: int, timeout_s: float = 30) -> None:
        with trio.fail_after(timeout_s):
            while len(self.entries) < count:
                await trio.sleep(0.01)


@asynccontextmanager
async def fluent_server(**options: Any) -> AsyncIterator[FluentServer]:
    """Runs one; ended with the block."""
    options.setdefault("listenOptions", {"port": 0, "host": "127.0.0.1"})
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            lambda task_status: trio.run_process(
                ["node", str(SERVER_JS), json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                check=False, task_status=task_status,
            )
        )  # fmt: skip
        assert process.stdout is not None
        server = FluentServer(0)
        ready = trio.Event()

        async def read() -> None:
            rest = b""
            async for data in process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                for line in (json.loads(line, parse_int=to_number) for line in lines):
                    if isinstance(line, dict):
                        server.port = line["port"]
                        ready.set()
                    else:
                        server.entries.append(line)

        nursery.start_soon(read)
        try:
            with trio.fail_after(30):
                await ready.wait()
            yield server
        finally:
            process.terminate()
            nursery.cancel_scope.cancel()


def to_number(text: str) -> int | float:
    """JavaScript has no larger integers, and writes fewer digits of the others."""
    return float(text) if abs(int(text)) > 2**53 else int(text)


def plain(value: Any) -> Any:
    """A record as server.js gives it."""
    if isinstance(value, bytes):
        return {"bin": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [plain(of) for of in value]
    if isinstance(value, dict):
        return {name: plain(of) for name, of in value.items()}
    return to_number(str(value)) if type(value) is int else value


@dataclass(frozen=True, slots=True)
class Chunk:
    """One message as it came."""

    name: str
    tag: str
    rows: list[tuple[int, Any]]  # (wall time in ns, record)
    option: dict[str, Any]
    connection: int  # counted


Handler = Callable[["Server", Stream, int], Awaitable[None]]


class Server:
    """A server in this process, on a port that the kernel gives.

    Args:
      handler: takes a connection from its beginning, None: as a server should.
      shared_key: shakes hands by it.
      ssl_context: of TLS.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        shared_key: bytes | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keepalive: bool = True,
    ) -> None:
        self.handler = handler or Server.behave
        self.shared_key, self.keepalive = shared_key, keepalive
        self.chunks: list[Chunk] = []
        self.port = 0
        self.connections = self.open = 0
        self.held: list[tuple[Stream, str]] = []  # acknowledgements that were not sent yet
        self.holds = False  # keeps acknowledgements back
        self.more = trio.Event()
        self._ssl_context = ssl_context

    @property
    def rows(self) -> list[tuple[int, Any]]:
        return [row for chunk in self.chunks for row in chunk.rows]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self.serve, listeners, task_status=task_status)

    async def serve(self, stream: Stream) -> None:
        """Take one connection."""
        self.connections += 1
        self.open += 1
        try:
            if self._ssl_context is not None:
                stream = trio.SSLStream(stream, self._ssl_context, server_side=True, https_compatible=True)
            await self.handler(self, stream, self.connections)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    @staticmethod
    async def behave(server: "Server", stream: Stream, connection: int) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=1 << 30)
        if server.shared_key is not None:
            await server.shake_hands(stream, unpacker, server.shared_key)
        async for tag, entries, option in messages(stream, unpacker):
            await server.take(stream, connection, tag, entries, option)

    async def take(self, stream: Stream, connection: int, tag: str, entries: bytes, option: dict[str, Any]) -> None:
        """Keep a chunk, and acknowledge it."""
        if option.get("compressed") == "gzip":
            entries = gzip.decompress(entries)
        rows = msgpack.Unpacker(max_buffer_size=1 << 30)
        rows.feed(entries)
        found = [(to_ns(at), record) for at, record in rows]
        assert len(found) == option["size"]
        self.chunks.append(Chunk(option["chunk"], tag, found, option, connection))
        if self.holds:
            self.held.append((stream, option["chunk"]))
        else:
            await stream.send_all(msgpack.packb({"ack": option["chunk"]}))
        self.more.set()
        self.more = trio.Event()

    async def shake_hands(self, stream: Stream, unpacker: Any, key: bytes, proof_key: bytes | None = None) -> None:
        """Ask for the key, and prove that we have it, or another one."""
        nonce = b"\xffnonce"
        await stream.send_all(msgpack.packb(["HELO", {"nonce": nonce, "auth": b"", "keepalive": self.keepalive}]))
        async for _ping, host, salt, digest, _user, _password in messages(stream, unpacker):
            salt = salt if isinstance(salt, bytes) else salt.encode()
            ok = digest == hashlib.sha512(salt + host.encode() + nonce + key).hexdigest()
            proof = hashlib.sha512(salt + b"them" + nonce + (proof_key or key)).hexdigest()
            await stream.send_all(msgpack.packb(["PONG", ok, "" if ok else "shared_key mismatch", "them", proof]))
            if not ok:
                raise trio.ClosedResourceError
            return

    async def wait_for_chunks(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self.chunks) < count:
                await self.more.wait()


async def messages(stream: Stream, unpacker: Any) -> AsyncIterator[Any]:
    """What a client says, message for message; one generator hands over to the next by the unpacker."""
    while True:
        for message in unpacker:
            yield message
        data = await stream.receive_some(1 << 16)
        if not data:
            return
        unpacker.feed(bytes(data))


def to_ns(at: msgpack.ExtType) -> int:
    assert at.code == 0
    return int.from_bytes(at.data[:4], "big") * 10**9 + int.from_bytes(at.data[4:], "big")


def make(*ports: int, **options: Any) -> ForwardTransport:
    """A transport to servers on the loopback, with short waits."""
    values = {
        "type": "forward", "servers": [{"host": "127.0.0.1", "port": port} for port in ports],
        "request_timeout_s": 10.0, "retry_first_s": 0.01, "retry_max_s": 0.02, **options,
    }  # fmt: skip
    found = SINK.build(ForwardOptions.model_validate(values), SinkContext(HOST, "1"))
    assert isinstance(found, ForwardTransport)
    return found


@asynccontextmanager
async def running(transport: ForwardTransport) -> AsyncIterator[ForwardTransport]:
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        yield transport
        nursery.cancel_scope.cancel()


async def bring(transport: ForwardTransport, batches: Sequence[Sequence[Parcel]], tries: int = 100) -> None:
    """Deliver batches one after the other, each until it is taken."""
    for batch in batches:
        for _ in range(tries):
            if await transport.deliver(batch) is Delivery.DELIVERED:
                break
            await trio.sleep(0.005)
        else:
            raise AssertionError(f"not delivered: {transport.state.last_error}")


def in_batches(parcels: Sequence[Parcel], size: int = 5) -> list[Sequence[Parcel]]:
    return [parcels[at : at + size] for at in range(0, len(parcels), size)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files."""

    ca: str
    other_ca: str
    server_cert: str
    server_key: str
    expired: str  # with its key
    client: str  # with its key
    other_client: str  # of the other authority


def make_certificates(folder: Path) -> Certificates:
    ca, other = trustme.CA(), trustme.CA()
    server, client = ca.issue_cert(NAME), ca.issue_cert("client.test")
    expired = ca.issue_cert(NAME, not_after=datetime.now(UTC) - timedelta(days=1))
    other_client = other.issue_cert("client.test")

    def write(name: str, *blobs: trustme.Blob) -> str:
        (folder / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(folder / name)

    return Certificates(
        write("ca.pem", ca.cert_pem), write("other.pem", other.cert_pem),
        write("server.pem", *server.cert_chain_pems), write("server.key", server.private_key_pem),
        write("expired.pem", expired.private_key_and_cert_chain_pem),
        write("client.pem", client.private_key_and_cert_chain_pem),
        write("other-client.pem", other_client.private_key_and_cert_chain_pem),
    )  # fmt: skip
