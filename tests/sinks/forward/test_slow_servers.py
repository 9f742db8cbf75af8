"""Servers that are slow: what they acknowledge counts, however long a batch and those before it take."""

from typing import Any

import msgpack
import pytest
import trio

from collector.batch import Delivery, StreamKey
from sinks.contract.base import Parcel
from sinks.network.backlog import MemoryBacklog
from sinks.network.delivery import NetworkRunner
from tests.archive.encoder import EVERY_ID, RUN, Maps, build_block, every_row
from tests.contract.made import Context, in_place
from tests.sinks.forward.rig import Server, Stream, make, messages, running

pytestmark = pytest.mark.network

ENTRIES = 4000  # of each block: about 18 chunks of 64 KiB
ACK_S, TIMEOUT_S = 0.2, 1.0


async def take_slowly(server: Server, stream: Stream, connection: int) -> None:
    """Takes a chunk after the other, each well within the time that it has."""
    async for tag, entries, option in messages(stream, msgpack.Unpacker(max_buffer_size=1 << 26)):
        await trio.sleep(ACK_S)
        await server.take(stream, connection, tag, entries, option)


async def test_a_slow_server_gets_everything_once(nursery: trio.Nursery) -> None:
    """A batch takes longer than the runner waits for one without a sign of life, and the others wait for it."""
    server = Server(take_slowly)
    await nursery.start(server.run)
    options = {"request_timeout_s": TIMEOUT_S, "chunk_bytes": 65536, "when_full": "block", "compress": "none"}
    transport = make(server.port, **options)
    log = MemoryBacklog(Context(StreamKey(RUN, "main", 0), run=RUN), Maps(), 300)
    runner = NetworkRunner(transport, log, transport._options, in_place)
    await runner.open()
    nursery.start_soon(runner.run)
    for number in range(3):
        first = ENTRIES * number
        rows = [(first + i, 7, 0, 0, EVERY_ID, every_row(i % 50)) for i in range(ENTRIES)]
        runner.put(build_block(rows, stream=("main", 0), number=number, ordinal=first, run=RUN))
    with trio.fail_after(60):
        while runner.snapshot().acked_events < 3 * ENTRIES:
            await trio.sleep(0.05)
    found = runner.snapshot()
    assert (found.retries, sum(found.request_failures.values())) == (0, 0)
    assert [record["ordinal"] for _, record in server.rows] == list(range(3 * ENTRIES))
    assert len(server.chunks) * ACK_S > 3 * 3 * TIMEOUT_S


async def test_a_chunk_that_the_server_drops_is_noticed_though_it_takes_those_behind_it(
    parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    async def drop_the_first(server: Server, stream: Stream, connection: int) -> None:
        dropped = False
        async for tag, entries, option in messages(stream, msgpack.Unpacker(max_buffer_size=1 << 26)):
            if dropped:
                await server.take(stream, connection, tag, entries, option)
            dropped = True

    server = Server(drop_the_first)
    await nursery.start(server.run)
    answers: list[Delivery] = []
    async with running(make(server.port, request_timeout_s=TIMEOUT_S)) as transport:

        async def deliver() -> None:
            answers.append(await transport.deliver(parcels))
            assert f"no acknowledgement within {TIMEOUT_S:g} s" in str(transport.state.last_error)

        with trio.fail_after(20):
            async with trio.open_nursery() as inner:
                inner.start_soon(deliver)
                await trio.testing.wait_all_tasks_blocked()
                while not answers:
                    await transport.deliver(parcels)
        assert answers == [Delivery.ERRORED]
    assert len(server.chunks) > 3


@pytest.mark.parametrize(("chunk_bytes", "events"), [(1 << 20, 34_952), (65536, 2184)])
def test_a_batch_of_records_is_bounded_by_its_rows(chunk_bytes: int, events: int) -> None:
    options: dict[str, Any] = {"chunk_bytes": chunk_bytes}
    assert int(make(1, **options).batch_events) == events
    assert make(1, payload="blocks", **options).batch_events > 1 << 40
