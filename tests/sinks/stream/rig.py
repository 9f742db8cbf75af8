"""Bringing parcels to a receiver, and whether they have arrived."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from collector.archive.bodies import parse_block
from collector.archive.frame import Kind
from collector.archive.info import summarise
from collector.archive.reader import list_segments, open_segment
from collector.archive.verify import verify_archive
from collector.batch import Delivery
from sinks.contract.base import Parcel
from sinks.stream.policy import HostPolicy
from sinks.stream.server import Limits, Receiver
from sinks.stream.sink import StreamOptions, StreamTransport

POLICY = HostPolicy(min_free_bytes=0)
LIMITS = Limits()


@dataclass
class Served:
    receiver: Receiver
    address: str
    folder: Path
    stop: Callable[[], Any]


@asynccontextmanager
async def serving(folder: Path, limits: Limits = LIMITS, policy: HostPolicy = POLICY) -> AsyncIterator[Served]:
    receiver = Receiver(folder / "hosts", policy, limits)
    address = str(folder / "socket")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run)
        nursery.start_soon(trio.serve_listeners, receiver.serve, [await listen(address)])
        yield Served(receiver, address, folder / "hosts", nursery.cancel_scope.cancel)
        nursery.cancel_scope.cancel()
    (folder / "socket").unlink(missing_ok=True)


async def listen(address: str) -> trio.SocketListener:
    raw = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await raw.bind(address)
    raw.listen(16)
    return trio.SocketListener(raw)


@asynccontextmanager
async def sending(address: str, **options: Any) -> AsyncIterator[StreamTransport]:
    defaults = {"host": "web-1", "retry_first_s": 0.01, "retry_max_s": 0.01}
    settings = StreamOptions(type="stream", address=f"unix:{address}", **(defaults | options))
    transport = StreamTransport(settings, "here", None, rng=lambda: 0.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        yield transport
        nursery.cancel_scope.cancel()


def batches(parcels: Sequence[Parcel], size: int = 3) -> list[Sequence[Parcel]]:
    return [parcels[at : at + size] for at in range(0, len(parcels), size)]


def first_block(parcels: Sequence[Parcel]) -> int:
    return next(at for at, p in enumerate(parcels) if p.kind is Kind.BLOCK)


async def bring(transport: StreamTransport, parcels: Sequence[Parcel], size: int = 3) -> None:
    for batch in batches(parcels, size):
        while await transport.deliver(batch) is not Delivery.DELIVERED:
            await trio.sleep(0.01)


def check_same(sent: Path, received: Path) -> None:
    """What arrived is an archive of its own, with all events and blocks that were sent, each once."""
    assert verify_archive([received]).problems == []
    before, after = summarise([sent]), summarise([received])
    for key in ("events", "lost_events"):
        assert after[key] == before[key], key
    assert block_names(received) == block_names(sent)


def block_names(folder: Path) -> list[tuple[tuple[str, int], int, int]]:
    found = []
    for path in list_segments([folder]):
        with open_segment(path) as segment:
            found += [(h.stream, h.number, h.entries) for h in (parse_block(r.body) for r in segment.blocks())]
    return sorted(found)
