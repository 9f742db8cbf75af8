"""What the contract suite needs of a type of sink: a server, a way through a relay that it can break, and what arrived.

A new type of sink adds its harness to HARNESSES and passes the suite.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from collector.archive.bodies import parse_block
from collector.archive.frame import Kind
from collector.archive.reader import list_segments, open_segment
from sinks import registry
from sinks.base import SinkContext, Transport
from sinks.options import SinkCommon
from tests.sinks.proxy import Proxy

# Short, for the tests wait for them; on a busy machine a server takes longer than a millisecond.
WAITS: dict[str, Any] = {"request_timeout_s": 2.0, "retry_first_s": 0.02, "retry_max_s": 0.2}


@dataclass
class Served:
    """A server behind a relay."""

    proxy: Proxy
    settings: dict[str, Any]  # of a sink that sends there
    numbers: Callable[[], Any]  # awaited, gives the numbers of the blocks that are there, in the order they came

    def make(self, **options: Any) -> tuple[SinkCommon, Transport]:
        """A sink, as the daemon makes it from its configuration."""
        of = registry.load_type(self.settings["type"])
        settings = of.options.model_validate({**WAITS, **self.settings, **options})
        made = of.build(settings, SinkContext("this-host", "1"))
        assert isinstance(made, Transport)
        return settings, made


Harness = Callable[[Path], AbstractAsyncContextManager[Served]]  # given a folder of its own


@asynccontextmanager
async def _behind_proxy(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        proxy.to(port)
        yield proxy
        nursery.cancel_scope.cancel()


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the blocks in the segments of a folder and those below it, each once as the archive has them."""
    found = []
    for inner in sorted({path.parent for path in folder.rglob("*.ftseg*")}):
        for path in list_segments([inner]):
            with open_segment(path) as segment:
                found += [parse_block(record.body).number for record in segment.blocks()]
    return found


@asynccontextmanager
async def stream(folder: Path) -> AsyncIterator[Served]:
    """Our own receiver: it keeps segments, and takes nothing twice."""
    from sinks.stream.host import HostPolicy
    from sinks.stream.server import Limits, Receiver

    receiver = Receiver(folder / "hosts", HostPolicy(min_free_bytes=0), Limits())
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def numbers() -> list[int]:
        return numbers_in(folder / "hosts")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run)
        nursery.start_soon(trio.serve_listeners, receiver.serve, listeners)
        async with _behind_proxy(port) as proxy:
            yield Served(proxy, {"type": "stream", "address": f"127.0.0.1:{proxy.port}"}, numbers)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def forward(folder: Path) -> AsyncIterator[Served]:
    """A server of Fluent Forward in this process, which keeps what comes as it comes."""
    from tests.sinks.forward.rig import Server

    server = Server()

    async def numbers() -> list[int]:
        return [record["number"] for _, record in server.rows if record["kind"] == Kind.BLOCK.name.lower()]

    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with _behind_proxy(server.port) as proxy:
            servers = [{"host": "127.0.0.1", "port": proxy.port}]
            yield Served(proxy, {"type": "forward", "payload": "blocks", "servers": servers}, numbers)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def kafka(folder: Path) -> AsyncIterator[Served]:
    """Tansu, a broker that knows nothing of librdkafka; its messages are made segments again to be read."""
    from sinks.kafka.consume import rebuild_archive
    from tests.sinks.kafka.brokers import SILENT, Tansu, create_topics

    proxy = Proxy()
    looked = 0

    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        with Tansu(folder, advertised=proxy.port) as broker:
            proxy.to(broker.port)
            await trio.to_thread.run_sync(create_topics, broker.address, "ftrace-maps", ("ftrace",))

            async def numbers() -> list[int]:
                nonlocal looked
                looked += 1
                target = folder / f"rebuilt-{looked}"
                properties = {"bootstrap.servers": broker.address, "logger": SILENT}
                await trio.to_thread.run_sync(rebuild_archive, properties, ("ftrace-maps", "ftrace"), target)
                return numbers_in(target)

            yield Served(proxy, {"type": "kafka", "brokers": (broker.address,)}, numbers)
        nursery.cancel_scope.cancel()


HARNESSES: dict[str, Harness] = {"stream": stream, "forward": forward, "kafka": kafka}
