"""Whatever servers do, each row is that of one that nothing disturbed: the same epoch, names and wall time."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from collector.archive.frame import Kind
from collector.archive.objects import build_object
from collector.batch import Delivery
from sinks.contract.base import Parcel
from sinks.forward.sink import ForwardTransport
from tests.sinks.forward.rig import Server, Stream, make, messages, running
from tests.sinks.made import make_segment
from tests.sinks.parcels import parcels_of

pytestmark = pytest.mark.network

EPOCHS = 6


def make_log(folder: Path) -> list[Parcel]:
    """Epochs of three runs, in which threads get other names and the wall clock other readings again and again."""
    log: list[Parcel] = []
    for epoch in range(EPOCHS):
        run = bytes([epoch // 2]) * 16
        path = make_segment(folder / f"{epoch}", run=run, number=epoch % 2, host=f"h{epoch}", blocks=4)
        for at, parcel in enumerate(parcels_of(path)):
            log.append(parcel)
            if parcel.kind != Kind.BLOCK:
                continue
            pair = {"instance": "main", "trace": 1000 * at, "realtime_ns": 10**18 + (1000 + 7 * epoch) * at,
                    "boottime_ns": 0, "monotonic_ns": 0, "error_ns": 1}  # fmt: skip
            names = {7 + i: f"{epoch}-{at}-{i}".encode() for i in range(3)}
            log += [Parcel(Kind.OBJECT, build_object(*of)[1], run) for of in (("comms", names), ("clock", pair))]
    return log


async def send(transport: ForwardTransport, log: Sequence[Parcel], chance: random.Random) -> None:
    """As the runner does: several batches at once; after a failure all from the first that was not delivered on."""
    first = 0
    while first < len(log):
        ends = [first]
        while ends[-1] < len(log) and len(ends) <= transport.max_in_flight:
            ends.append(min(len(log), ends[-1] + chance.randint(1, 12)))
        answers: dict[int, Delivery] = {}

        async def deliver(at: int, end: int, answers: dict[int, Delivery]) -> None:
            answers[end] = await transport.deliver(log[at:end])

        async with trio.open_nursery() as nursery:
            for at, end in pairwise(ends):
                nursery.start_soon(deliver, at, end, answers)
                await trio.lowlevel.checkpoint()
        for end in ends[1:]:
            if answers[end] is not Delivery.DELIVERED:
                break
            first = end


async def run_disturbed(nursery: trio.Nursery, log: Sequence[Parcel], seed: int, payload: str) -> list[Server]:
    chance = random.Random(seed)

    async def disturb(server: Server, stream: Stream, connection: int) -> None:
        left = chance.randint(0, 12)
        async for tag, entries, option in messages(stream, msgpack.Unpacker(max_buffer_size=1 << 26)):
            server.holds = left <= chance.randint(0, 2)  # it is taken, but not acknowledged
            await server.take(stream, connection, tag, entries, option)
            left -= 1
            if left < 0:
                return

    servers = [Server(disturb), Server(disturb)]
    for server in servers:
        await nursery.start(server.run)
    transport = make(*(server.port for server in servers), payload=payload, keepalive_s=0.01, request_timeout_s=0.3)
    object.__setattr__(transport._options, "chunk_bytes", 2000)  # some chunks for each batch
    with trio.fail_after(60):
        async with running(transport):
            await send(transport, log, chance)
    return servers


@pytest.mark.parametrize("seed", range(4))
async def test_records_are_those_of_a_server_that_was_never_away(
    seed: int, nursery: trio.Nursery, tmp_path: Path
) -> None:
    log = make_log(tmp_path)
    undisturbed = Server()
    await nursery.start(undisturbed.run)
    async with running(make(undisturbed.port)) as transport:
        assert await transport.deliver(log) is Delivery.DELIVERED
    wanted = {name_of(record): (at, record) for at, record in undisturbed.rows}
    assert len(wanted) == EPOCHS * 8 * 20
    servers = await run_disturbed(nursery, log, seed, "records")
    rows = [row for server in servers for row in server.rows]
    assert len(rows) > len(wanted)
    for at, record in rows:
        first_at, first = wanted[name_of(record)]
        assert record == first
        assert at == first_at or "clock" in record  # then it is of sending
    assert sum("clock" not in record for _, record in rows) > len(rows) / 2
    assert {name_of(record) for _, record in rows} == wanted.keys()


def name_of(record: Any) -> tuple[str, int, int]:
    return record["run"], record["cpu"], record["ordinal"]


@pytest.mark.parametrize("seed", range(4))
async def test_before_a_block_each_server_has_got_all_that_it_refers_to(
    seed: int, nursery: trio.Nursery, tmp_path: Path
) -> None:
    log = make_log(tmp_path)
    wanted: dict[bytes, tuple[bytes, set[bytes]]] = {}  # {block: (its header, objects before it)}
    header, objects = b"", set[bytes]()
    for parcel in log:
        if parcel.kind == Kind.HEADER:
            header, objects = parcel.body, set()
        elif parcel.kind == Kind.OBJECT:
            objects.add(parcel.body)
        elif parcel.kind == Kind.BLOCK:
            wanted[parcel.body] = header, set(objects)
    servers = await run_disturbed(nursery, log, seed, "blocks")
    arrived = set[bytes]()
    for server in servers:
        header, objects = b"", set()
        for _, record in server.rows:
            body = record["body"]
            if record["kind"] == "header":
                header, objects = body, set()
            elif record["kind"] == "object":
                objects.add(body)
            elif record["kind"] == "block":
                arrived.add(body)
                assert header == wanted[body][0]
                assert objects >= wanted[body][1]
    assert arrived == wanted.keys()
