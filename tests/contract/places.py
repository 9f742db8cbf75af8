"""The real receivers of the contract suite, each with a way there that a test can break."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from collector.archive.frame import Kind
from collector.batch import Block, StreamKey
from sinks import runner as runner_module
from sinks.contract.base import Parcel
from sinks.file import sink as file_module
from tests.contract import made
from tests.contract.arrived import (
    ENTRIES,
    Seen,
    numbers_of,
    seen_in_folder,
    seen_in_parcels,
    seen_in_record,
    seen_in_rows,
)
from tests.contract.made import MIB
from tests.contract.ways import DiskWay, ProxyWay, TapWay
from tests.contract.world import Served, make_block
from tests.sinks.objectstore.servers import KEY, SECRET, Server
from tests.sinks.proxy import Proxy

SharedServer = Callable[[], Server]  # SeaweedFS, started when it is first asked for

# How often the file sink looks at what it does by time: a second is long in a test.
QUICK_S = 0.02


@asynccontextmanager
async def _behind_proxy(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        proxy.to(port)
        yield proxy
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def file(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """A disk, which may have no room."""
    sent: dict[tuple[bytes, int], bytes] = {}

    async def look() -> list[Seen]:
        return seen_in_folder(folder / "archive", sent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "TICK_S", QUICK_S)
        patch.setattr(file_module, "SPACE_CHECK_S", QUICK_S)
        way = DiskWay(patch)
        yield Served(way, {}, look, sent, in_thread=way.in_thread, archive={"sync_interval_s": 0.0})


@asynccontextmanager
async def stream(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """Our own receiver: it keeps segments, and takes nothing twice."""
    from sinks.stream.policy import HostPolicy
    from sinks.stream.server import Limits, Receiver

    receiver = Receiver(folder / "hosts", HostPolicy(min_free_bytes=0), Limits(max_body_bytes=MIB))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    sent: dict[tuple[bytes, int], bytes] = {}

    async def look() -> list[Seen]:
        return seen_in_folder(folder / "hosts", sent)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run)
        nursery.start_soon(trio.serve_listeners, receiver.serve, listeners)
        async with _behind_proxy(port) as proxy:
            settings = {"type": "stream", "address": f"127.0.0.1:{proxy.port}"}
            yield Served(ProxyWay(proxy), settings, look, sent, make_unwanted=_too_large)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def forward(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """A server of Fluent Forward in this process, which keeps what comes as it comes: the archive's blocks."""
    sent: dict[tuple[bytes, int], bytes] = {}
    async with _fluent("blocks", sent, lambda rows: _seen_in_forwarded(rows, sent)) as served:
        yield served


@asynccontextmanager
async def forward_records(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """The same server, which is sent a row per entry."""
    async with _fluent("records", {}, lambda rows: list(seen_in_rows(rows))) as served:
        served.make_unwanted = _damaged
        yield served


@asynccontextmanager
async def kafka(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """Tansu, a broker that knows nothing of librdkafka; its messages are made segments again to be read."""
    from sinks.kafka.consume import rebuild_archive
    from tests.sinks.kafka.brokers import SILENT, Tansu, create_topics

    proxy = Proxy()
    looked = 0
    sent: dict[tuple[bytes, int], bytes] = {}

    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        with Tansu(folder, advertised=proxy.port) as broker:
            proxy.to(broker.port)
            await trio.to_thread.run_sync(create_topics, broker.address, "ftrace-maps", ("ftrace",))

            async def look() -> list[Seen]:
                nonlocal looked
                looked += 1
                target = folder / f"rebuilt-{looked}"
                properties = {"bootstrap.servers": broker.address, "logger": SILENT}
                await trio.to_thread.run_sync(rebuild_archive, properties, ("ftrace-maps", "ftrace"), target)
                return seen_in_folder(target, sent)

            settings = {"type": "kafka", "brokers": (broker.address,)}
            yield Served(ProxyWay(proxy), settings, look, sent, make_unwanted=_too_large)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def objectstore(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """SeaweedFS; each block is sealed in a segment of its own, so that each is an object."""
    import obstore

    server = await trio.to_thread.run_sync(shared)
    secret = folder / "secret"
    secret.write_text(SECRET)
    options = {"access_key_id": KEY, "region": "us-east-1"}
    url = f"s3://bucket/{folder.name}"
    store = obstore.store.from_url(
        url, **options, endpoint=server.url, secret_access_key=SECRET, client_options={"allow_http": "true"}
    )
    looked = 0
    sent: dict[tuple[bytes, int], bytes] = {}

    def download() -> list[Seen]:
        nonlocal looked
        looked += 1
        target = folder / f"downloaded-{looked}"
        target.mkdir()
        for key in (of["path"] for batch in obstore.list(store) for of in batch):
            if key.endswith(".ftseg"):
                (target / key.rpartition("/")[2]).write_bytes(bytes(obstore.get(store, key).bytes()))
        return seen_in_folder(target, sent)

    async def look() -> list[Seen]:
        return await trio.to_thread.run_sync(download)

    async with _behind_proxy(server.port) as proxy:
        settings: dict[str, Any] = {
            "type": "objectstore", "url": url, "options": options | {"endpoint": f"http://127.0.0.1:{proxy.port}"},
            "secret_options": {"secret_access_key": {"file": str(secret)}}, "scan_interval_s": QUICK_S,
        }  # fmt: skip
        yield Served(ProxyWay(proxy), settings, look, sent, archive={"segment_bytes": 1})


@asynccontextmanager
async def tap(folder: Path, shared: SharedServer) -> AsyncIterator[Served]:
    """A subscriber that comes again when it was ended."""
    sent: dict[tuple[bytes, int], bytes] = {}
    parcels: list[Parcel] = []
    socket = folder / "tap"

    async def look() -> list[Seen]:
        return seen_in_parcels(parcels, sent)

    way = TapWay(socket, parcels.append)

    def arrives(number: int) -> bool:
        return not way.is_listening or number in numbers_of(seen_in_parcels(parcels[-20:], sent))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(way.run)
        yield Served(way, {"type": "tap", "address": f"unix:{socket}"}, look, sent, arrives=arrives)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _fluent(
    payload: str, sent: dict[tuple[bytes, int], bytes], see: Callable[[list[Any]], list[Seen]]
) -> AsyncIterator[Served]:
    from tests.sinks.forward.rig import Server as FluentServer

    server = FluentServer()

    async def look() -> list[Seen]:
        return see([record for _, record in server.rows])

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with _behind_proxy(server.port) as proxy:
            servers = [{"host": "127.0.0.1", "port": proxy.port}]
            settings = {"type": "forward", "payload": payload, "servers": servers}
            yield Served(ProxyWay(proxy), settings, look, sent)
        nursery.cancel_scope.cancel()


def _seen_in_forwarded(records: list[Any], sent: dict[tuple[bytes, int], bytes]) -> list[Seen]:
    return [seen for record in records for seen in seen_in_record(Kind[record["kind"].upper()], record["body"], sent)]


def _too_large(number: int, run: bytes) -> Block:
    """Larger than what the receiver says it takes, or the brokers."""
    return make_block(number, run=run, size_bytes=MIB + MIB // 2)


def _damaged(number: int, run: bytes) -> Block:
    """Its columns are none, so it makes no rows."""
    return made.block(number, events=ENTRIES, key=StreamKey(run, "main", 0))
