"""Servers that are wrong, mute, cut or hostile: each ends in an error that says which, and leaves nothing behind."""

import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from collector.archive.frame import Kind
from collector.batch import Delivery
from sinks.connect.tls import build_server_context
from sinks.contract.base import Parcel
from sinks.forward.protocol import MAX_MESSAGE_BYTES
from tests.sinks.forward.rig import (
    NAME,
    Certificates,
    Server,
    Stream,
    bring,
    descriptors,
    make,
    messages,
    running,
)

pytestmark = pytest.mark.network

Fault = Callable[[Server, Stream, int], Awaitable[None]]

sent_bytes = 0  # by the flood


async def mute(server: Server, stream: Stream, connection: int) -> None:
    """Takes everything and never answers."""
    async for _ in stream:
        pass


async def deaf(server: Server, stream: Stream, connection: int) -> None:
    """Takes nothing and never answers."""
    await trio.sleep_forever()


async def close_at_once(server: Server, stream: Stream, connection: int) -> None:
    """Closes without a word."""


async def close_in_the_middle(server: Server, stream: Stream, connection: int) -> None:
    """Closes after half a message of ours, and half a message of its own."""
    await stream.receive_some(100)
    await stream.send_all(msgpack.packb({"ack": "abcdef"})[:5])


async def ack_another(server: Server, stream: Stream, connection: int) -> None:
    async for _ in messages(stream, msgpack.Unpacker(max_buffer_size=1 << 26)):
        await stream.send_all(msgpack.packb({"ack": "bm90IHlvdXJzIQ=="}))


async def ack_twice(server: Server, stream: Stream, connection: int) -> None:
    async for _, _, option in messages(stream, msgpack.Unpacker(max_buffer_size=1 << 26)):
        await stream.send_all(msgpack.packb({"ack": "x" * 24}) + msgpack.packb({"ack": option["chunk"]}))


async def send_garbage(server: Server, stream: Stream, connection: int) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await mute(server, stream, connection)


async def flood(server: Server, stream: Stream, connection: int) -> None:
    """Sends 1 GiB, as one string."""
    global sent_bytes
    await stream.send_all(b"\xdb\x40\x00\x00\x00")
    for _ in range(1 << 14):
        await stream.send_all(bytes(1 << 16))
        sent_bytes += 1 << 16


async def flood_with_nothing(server: Server, stream: Stream, connection: int) -> None:
    """Sends endless messages that are no acknowledgements."""
    global sent_bytes
    while sent_bytes < 1 << 30:
        await stream.send_all(b"\xc0" * (1 << 16))
        sent_bytes += 1 << 16


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (mute, "no acknowledgement within"),
        (deaf, "no acknowledgement within"),
        (close_at_once, "has closed the connection|reset|broken pipe"),
        (close_in_the_middle, "has closed the connection|reset|broken pipe"),
        (ack_another, "a chunk that was not sent"),
        (ack_twice, "a chunk that was not sent"),
        (send_garbage, "expected"),
        (flood, f"above {MAX_MESSAGE_BYTES}|exceeds max"),
        (flood_with_nothing, "expected"),
    ],
)
@pytest.mark.parametrize("payload", ["records", "blocks"])
async def test_a_fault_is_an_error_with_a_message_and_the_next_try_can_succeed(
    fault: Fault, message: str, payload: str, parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    global sent_bytes
    sent_bytes = 0
    server = Server(fault)
    await nursery.start(server.run)
    async with running(make(server.port, request_timeout_s=1.0, payload=payload)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert transport.state.last_error is not None
        assert re.search(message, transport.state.last_error), transport.state.last_error
        assert f"127.0.0.1:{server.port}" in transport.state.last_error
        assert sent_bytes < 32 << 20
        server.handler = Server.behave
        await bring(transport, [parcels])
        assert transport.state.connected
        assert transport.state.last_error is None
    assert len({(r.get("cpu"), r.get("ordinal"), r.get("body")) for _, r in server.rows}) == (
        200 if payload == "records" else len(parcels)
    )


async def test_large_messages_to_a_deaf_server_end_in_time(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    server = Server(deaf)
    await nursery.start(server.run)
    many = [p for p in parcels if p.kind != Kind.BLOCK] + [p for p in parcels if p.kind == Kind.BLOCK] * 4000
    async with running(make(server.port, request_timeout_s=2.0, compress="none")) as transport:
        with trio.fail_after(20):
            assert await transport.deliver(many) is Delivery.ERRORED
        assert "has not taken a message" in str(transport.state.last_error)


async def test_nobody_listens(parcels: list[Parcel]) -> None:
    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        async with running(make(port)) as transport:
            assert await transport.deliver(parcels) is Delivery.ERRORED
            assert "refused" in str(transport.state.last_error).lower()
            assert not transport.state.connected


async def test_a_batch_without_rows_is_not_delivered_to_nobody(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    """Header and objects make no records; they are delivered once a server is there, and clear no error."""
    names = [parcel for parcel in parcels if parcel.kind in (Kind.HEADER, Kind.OBJECT)]
    server = Server(close_at_once)
    await nursery.start(server.run)
    async with running(make(server.port)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        server.handler = Server.behave
        await bring(transport, [names])
        assert transport.state.last_error is not None
        await bring(transport, [parcels])
        assert transport.state.last_error is None
    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        async with running(make(held.getsockname()[1])) as transport:
            assert await transport.deliver(names) is Delivery.ERRORED


async def test_no_such_socket(parcels: list[Parcel], tmp_path: Path) -> None:
    async with running(make(servers=[{"path": str(tmp_path / "none.sock")}])) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert "no such file" in str(transport.state.last_error)


async def test_a_server_that_comes_later_is_found(parcels: list[Parcel], nursery: trio.Nursery, tmp_path: Path) -> None:
    path = str(tmp_path / "late.sock")
    server = Server()
    async with running(make(servers=[{"path": path}])) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(path)
            listening.listen()
            nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(listening)])
            await bring(transport, [parcels])
            nursery.cancel_scope.cancel()
    assert len(server.rows) == 200


@pytest.fixture
def key(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "key").write_text("key of both")
    return {"file": str(tmp_path / "key")}


async def wrong_proof(server: Server, stream: Stream, connection: int) -> None:
    await server.shake_hands(stream, msgpack.Unpacker(), b"key of both", b"another key")
    await mute(server, stream, connection)


async def pong_without_helo(server: Server, stream: Stream, connection: int) -> None:
    await stream.send_all(msgpack.packb(["PONG", True, "", "them", "0" * 128]))
    await mute(server, stream, connection)


async def helo_and_pong_at_once(server: Server, stream: Stream, connection: int) -> None:
    helo = ["HELO", {"nonce": b"n", "auth": b"", "keepalive": True}]
    await stream.send_all(msgpack.packb(helo) + msgpack.packb(["PONG", True, "", "them", "0" * 128]))
    await mute(server, stream, connection)


async def wrong_key(server: Server, stream: Stream, connection: int) -> None:
    await server.shake_hands(stream, msgpack.Unpacker(), b"another key")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_key, "refuses us: 'shared_key mismatch'"),
        (wrong_proof, "wrong digest"),
        (pong_without_helo, "expected HELO"),
        (helo_and_pong_at_once, "more than it should"),
        (mute, "no connection within 0.5 s; does it have a shared key"),
        (close_at_once, "closed the connection in the handshake"),
        (send_garbage, "expected HELO|more than it should"),
        (flood, "above|exceeds max"),
    ],
)
async def test_a_handshake_that_fails_sends_nothing(
    fault: Fault, message: str, key: dict[str, Any], parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    server = Server(fault, shared_key=b"key of both")
    await nursery.start(server.run)
    async with running(make(server.port, shared_key=key, connect_timeout_s=0.5)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert re.search(message, str(transport.state.last_error)), transport.state.last_error
        assert server.chunks == []
        server.handler = Server.behave
        await bring(transport, [parcels])
    assert len(server.rows) == 200


@pytest.mark.parametrize(
    ("cert", "ca", "name", "message"),
    [
        ("expired", "ca", NAME, "expired"),
        ("server_cert", "other_ca", NAME, "certificate is refused"),
        ("server_cert", "ca", "another.test", "certificate is refused"),
        ("server_cert", "ca", None, "certificate is refused"),
    ],
)
async def test_a_wrong_certificate_is_refused(
    cert: str, ca: str, name: str | None, message: str, certificates: Certificates, parcels: list[Parcel],
    nursery: trio.Nursery,
) -> None:  # fmt: skip
    own_key = certificates.server_key if cert == "server_cert" else None
    server = Server(ssl_context=build_server_context(getattr(certificates, cert), own_key, None))
    await nursery.start(server.run)
    tls = {"ca_file": getattr(certificates, ca), **({"server_name": name} if name else {})}
    async with running(make(server.port, tls=tls)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert message in str(transport.state.last_error)
    assert server.chunks == []


async def test_tls_to_a_server_without_it_and_the_other_way(
    certificates: Certificates, parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    plain = Server(send_garbage)
    await nursery.start(plain.run)
    async with running(make(plain.port, tls={"ca_file": certificates.ca}, connect_timeout_s=2.0)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert "TLS failed" in str(transport.state.last_error)
    context: ssl.SSLContext = build_server_context(certificates.server_cert, certificates.server_key, None)
    secured = Server(ssl_context=context)
    await nursery.start(secured.run)
    async with running(make(secured.port)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert transport.state.last_error


async def test_a_block_that_cannot_be_read_is_rejected_and_the_next_one_is_not(
    parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    server = Server()
    await nursery.start(server.run)
    blocks = [p for p in parcels if p.kind == Kind.BLOCK]
    bad = Parcel(Kind.BLOCK, b"\x80", blocks[0].run, blocks[0].stream, 0, 20)
    async with running(make(server.port)) as transport:
        assert await transport.deliver([*parcels[:5], bad]) is Delivery.REJECTED
        assert "cannot be made into records" in str(transport.state.last_error)
        assert await transport.deliver([bad]) is Delivery.REJECTED
        await bring(transport, [parcels])
    assert len(server.rows) == 200


async def test_a_delivery_that_is_given_up_breaks_only_its_connection(
    parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    server = Server(deaf)
    await nursery.start(server.run)
    blocks = [p for p in parcels if p.kind == Kind.BLOCK]
    many = [p for p in parcels if p.kind != Kind.BLOCK] + blocks * 4000
    async with running(make(server.port, compress="none")) as transport:
        with trio.move_on_after(1.0) as scope:
            await transport.deliver(many)
        assert scope.cancelled_caught
        server.handler = Server.behave
        await bring(transport, [parcels])
    assert len(server.rows) == 200


async def test_faults_leave_no_descriptors(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    server = Server(ack_another)
    await nursery.start(server.run)
    async with running(make(server.port)) as transport:
        await transport.deliver(parcels)
        before = descriptors()
        for _ in range(100):
            assert await transport.deliver(parcels) is Delivery.ERRORED
        assert descriptors() <= before + 4
