"""Several chunks and several servers: order, acknowledgements in any order, failover, weights, replaced connections."""

import random
from collections import Counter
from pathlib import Path

import msgpack
import pytest
import trio

from collector.archive.frame import Kind
from collector.batch import Delivery
from collector.errors import ConfigError
from sinks.contract.base import Parcel, SinkContext
from sinks.forward.sink import SINK, ForwardOptions, ForwardTransport
from tests.sinks.forward.rig import Server, Stream, bring, in_batches, make, messages, running
from tests.sinks.made import make_segment
from tests.sinks.parcels import parcels_of

pytestmark = pytest.mark.network


def ordinals(server: Server) -> list[tuple[int, int]]:
    return [(record["cpu"], record["ordinal"]) for _, record in server.rows]


def expected(parcels: list[Parcel]) -> list[tuple[int, int]]:
    """(cpu, ordinal) of all entries."""
    out, seen = [], Counter[int]()
    for parcel in parcels:
        if parcel.stream is not None and parcel.kind == Kind.BLOCK:
            out += [(parcel.stream.cpu, seen[parcel.stream.cpu] + at) for at in range(parcel.events)]
            seen[parcel.stream.cpu] += parcel.events
    return out


async def test_batches_are_on_their_way_at_once_and_acknowledged_in_any_order(
    parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    server = Server()
    server.holds = True
    await nursery.start(server.run)
    answers: dict[int, Delivery] = {}
    batches = [list(batch) for batch in in_batches(parcels, 12)]

    async with running(make(server.port)) as transport:

        async def deliver(number: int) -> None:
            answers[number] = await transport.deliver(batches[number])

        async with trio.open_nursery() as inner:
            for number in range(len(batches)):
                inner.start_soon(deliver, number)
                await trio.testing.wait_all_tasks_blocked()
            await server.wait_for_chunks(sum(any(p.events for p in batch) for batch in batches))
            assert all(not any(p.events for p in batches[number]) for number in answers)
            random.Random(3).shuffle(server.held)
            for stream, name in server.held:
                await stream.send_all(msgpack.packb({"ack": name}))
        assert set(answers.values()) == {Delivery.DELIVERED}
        assert len(answers) == len(batches)
    assert ordinals(server) == expected(parcels)


async def test_batches_go_out_in_the_order_of_the_calls(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    server = Server()
    await nursery.start(server.run)
    async with running(make(server.port, chunk_bytes=65536)) as transport, trio.open_nursery() as inner:
        for batch in in_batches(parcels, 1):
            inner.start_soon(bring, transport, [batch])
            await trio.testing.wait_all_tasks_blocked()
    assert ordinals(server) == expected(parcels)


async def test_a_batch_larger_than_a_chunk_is_several(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    server = Server()
    await nursery.start(server.run)
    async with running(make(server.port, chunk_bytes=65536, compress="none")) as transport:
        blocks = [p for p in parcels if p.kind == Kind.BLOCK]
        many = [*[p for p in parcels if p.kind != Kind.BLOCK], *blocks * 20]
        assert await transport.deliver(many) is Delivery.DELIVERED
    assert len(server.chunks) > 5
    assert len(server.rows) == 20 * 200
    assert len({chunk.name for chunk in server.chunks}) == len(server.chunks)


async def test_what_was_not_acknowledged_goes_to_another_server(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    first, second = Server(), Server()
    await nursery.start(first.run)
    await nursery.start(second.run)
    servers = [{"host": "127.0.0.1", "port": first.port}, {"host": "127.0.0.1", "port": second.port, "weight": 0}]
    batches = in_batches(parcels, 4)
    async with running(make(servers=servers)) as transport:
        await bring(transport, batches[:3])
        assert second.connections == 0
        first.handler = refuse
        first.holds = True
        half = len(first.chunks)
        async with trio.open_nursery() as inner:
            inner.start_soon(bring, transport, batches[3:])
            await first.wait_for_chunks(half + 1)
            for stream, _ in first.held:
                await stream.aclose()
    assert second.connections > 0
    got = ordinals(first) + ordinals(second)
    assert set(got) == set(expected(parcels))
    assert list(dict.fromkeys(got)) == expected(parcels)


async def run_until_cancelled(server: Server, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        task_status.started(nursery.cancel_scope)


async def refuse(server: Server, stream: object, connection: int) -> None:
    """Ends each connection at once."""


async def test_a_server_that_is_new_to_an_epoch_is_told_its_beginning(
    parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    first, second = Server(), Server()
    await nursery.start(first.run)
    await nursery.start(second.run)
    servers = [{"host": "127.0.0.1", "port": first.port}, {"host": "127.0.0.1", "port": second.port, "weight": 0}]
    batches = in_batches(parcels, 4)
    async with running(make(servers=servers, payload="blocks")) as transport:
        await bring(transport, batches[:3])
        first.handler = refuse
        first.holds = True
        async with trio.open_nursery() as inner:
            inner.start_soon(bring, transport, batches[3:])
            with trio.fail_after(10):
                while not first.held:
                    await first.more.wait()
            for stream, _ in first.held:
                await stream.aclose()
    kinds = [record["kind"] for _, record in second.rows]
    assert kinds[0] == "header"
    formats = {record["body"] for _, record in second.rows if record["kind"] == "object"}
    assert {p.body for p in parcels[:3] if p.kind == Kind.OBJECT} <= formats
    assert kinds.index("object") < kinds.index("block")


async def test_a_beginning_that_did_not_arrive_is_told_again(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    first, second = Server(), Server()
    first_scope = await nursery.start(run_until_cancelled, first)
    await nursery.start(second.run)
    servers = [{"host": "127.0.0.1", "port": first.port}, {"host": "127.0.0.1", "port": second.port, "weight": 0}]

    async def break_once(server: Server, stream: Stream, connection: int) -> None:
        await stream.receive_some(100)
        server.handler = Server.behave

    batches = in_batches(parcels, 4)
    async with running(make(servers=servers, payload="blocks")) as transport:
        await bring(transport, batches[:3])
        second.handler = break_once
        first_scope.cancel()
        await bring(transport, batches[3:])
    kinds = [record["kind"] for _, record in second.rows]
    assert kinds[0] == "header"
    assert kinds.index("object") < kinds.index("block")


@pytest.mark.parametrize("payload", ["records", "blocks"])
async def test_what_comes_again_is_read_by_its_own_epoch(payload: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """The headers of the next epochs have been sent when the connection breaks."""
    old, new, newest = (
        parcels_of(make_segment(tmp_path / f"{n}", host=f"h{n}", run=bytes([n]) * 16)) for n in range(3)
    )
    server = Server()
    await nursery.start(server.run)
    async with running(make(server.port, payload=payload)) as transport:
        await bring(transport, [old[:-1]])
        server.holds = True
        async with trio.open_nursery() as inner:
            for batch in (old[-1:], new, newest):
                inner.start_soon(transport.deliver, batch)
                await trio.testing.wait_all_tasks_blocked()
            await server.wait_for_chunks(4)
            for stream, _ in server.held:
                await stream.aclose()
        server.holds = False
        at = len(server.rows)
        await bring(transport, [old[-1:], new])
    again = [record for _, record in server.rows[at:]]
    if payload == "records":
        assert [record["host"] for record in again] == 20 * ["h0"] + 200 * ["h1"]
    else:
        headers = [record["run"] for record in again if record["kind"] == "header"]
        blocks = [record["run"] for record in again if record["kind"] == "block"]
        assert headers == [(b"\0" * 16).hex(), (b"\1" * 16).hex()]
        assert blocks == [headers[0]] + 10 * [headers[1]]
        assert again[0]["kind"] == "header"


@pytest.mark.parametrize("weights", [(1, 3), (1, 0), (5, 5)])
def test_servers_are_chosen_by_weight(weights: tuple[int, int]) -> None:
    servers = [{"host": "a", "weight": weights[0]}, {"host": "b", "weight": weights[1]}]
    options = ForwardOptions.model_validate({"type": "forward", "servers": servers})
    transport = ForwardTransport(options, None, None, random.Random(5).random)
    first = Counter(transport._servers._in_order()[0].host for _ in range(4000))
    assert abs(first["a"] / 4000 - weights[0] / sum(weights)) < 0.03


async def test_a_server_that_was_away_is_used_again(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    first, spare = Server(), Server()
    await nursery.start(first.run)
    await nursery.start(spare.run)
    servers = [{"host": "127.0.0.1", "port": first.port}, {"host": "127.0.0.1", "port": spare.port, "weight": 0}]
    async with running(make(servers=servers, keepalive_s=0.001)) as transport:
        first.handler = refuse
        await bring(transport, [parcels])
        used = spare.connections
        assert len(spare.rows) == 200
        first.handler = Server.behave
        for _ in range(5):
            await trio.sleep(0.002)
            await bring(transport, [parcels])
    assert spare.connections == used
    assert len(first.rows) == 5 * 200


async def test_weights_hold_after_a_failure(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    first, second = Server(), Server()
    await nursery.start(first.run)
    await nursery.start(second.run)
    servers = [
        {"host": "127.0.0.1", "port": first.port, "weight": 3}, {"host": "127.0.0.1", "port": second.port, "weight": 1}
    ]  # fmt: skip
    transport = make(servers=servers, keepalive_s=0.001)
    transport._servers._rng = random.Random(5).random
    async with running(transport):
        first.handler = refuse
        await bring(transport, [parcels])
        first.handler = Server.behave
        first.connections = second.connections = 0
        for _ in range(400):
            await trio.sleep(0.001)
            await bring(transport, [parcels[-1:]])
    all_of_them = first.connections + second.connections
    assert all_of_them > 300
    assert abs(first.connections / all_of_them - 3 / 4) < 0.08


async def test_all_servers_are_tried_where_each_takes_nothing(parcels: list[Parcel], nursery: trio.Nursery) -> None:
    servers = [Server(refuse), Server(refuse), Server(refuse)]
    for server in servers:
        await nursery.start(server.run)
    of = [{"host": "127.0.0.1", "port": server.port, "weight": 1 - n // 2} for n, server in enumerate(servers)]
    async with running(make(servers=of)) as transport:
        for _ in range(60):
            assert await transport.deliver(parcels) is Delivery.ERRORED
        tried = [server.connections for server in servers]
        assert min(tried) * 2 > max(tried)
        servers[2].handler = Server.behave
        await bring(transport, [parcels])
    assert len(servers[2].rows) == 200


async def test_an_old_connection_is_replaced_without_losing_a_batch(
    parcels: list[Parcel], nursery: trio.Nursery
) -> None:
    first, second = Server(), Server()
    await nursery.start(first.run)
    await nursery.start(second.run)
    async with running(make(first.port, second.port, keepalive_s=0.001)) as transport:
        for batch in in_batches(parcels, 2):
            assert await transport.deliver(batch) is Delivery.DELIVERED
            await trio.sleep(0.002)
    assert first.connections + second.connections > 3
    assert sorted(ordinals(first) + ordinals(second)) == sorted(expected(parcels))


async def test_a_server_that_takes_one_chunk_a_connection(
    parcels: list[Parcel], nursery: trio.Nursery, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("key")
    server = Server(shared_key=b"key", keepalive=False)
    await nursery.start(server.run)
    async with running(make(server.port, shared_key={"file": str(key)})) as transport:
        for batch in in_batches(parcels, 6):
            assert await transport.deliver(batch) is Delivery.DELIVERED
    assert len({chunk.connection for chunk in server.chunks}) == len(server.chunks) > 1
    assert ordinals(server) == expected(parcels)


async def test_each_server_can_read_what_it_gets_whichever_takes_the_next_chunk(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Each connection takes one chunk, so that the server changes in the middle of a batch and of a beginning."""
    key = tmp_path / "key"
    key.write_text("key")

    async def take_one(server: Server, stream: Stream, connection: int) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=1 << 26)
        await server.shake_hands(stream, unpacker, b"key")
        if connection == 5:
            return
        async for tag, entries, option in messages(stream, unpacker):
            await server.take(stream, connection, tag, entries, option)
            return

    servers = [Server(take_one, shared_key=b"key", keepalive=False) for _ in range(2)]
    for server in servers:
        await nursery.start(server.run)
    epochs = [parcels_of(make_segment(tmp_path / f"{n}", blocks=3, run=bytes([n]) * 16)) for n in range(3)]
    of = make(*(server.port for server in servers), payload="blocks", shared_key={"file": str(key)})
    object.__setattr__(of._options, "chunk_bytes", 600)  # some records
    async with running(of) as transport:
        await bring(transport, [[parcel for epoch in epochs for parcel in epoch]])
    assert {record["body"] for server in servers for _, record in server.rows} == {p.body for e in epochs for p in e}
    for server in servers:
        run, formats = "", 0
        for _, record in server.rows:
            if record["kind"] == "header":
                run, formats = record["run"], 0
            formats += record["kind"] == "object"
            assert record["run"] == run
            assert record["kind"] != "block" or formats >= 2


def test_what_does_not_fit_together_is_refused() -> None:
    host = [{"host": "h"}]
    for wrong in (
        {"servers": []}, {"servers": [{}]}, {"servers": [{"host": "h", "path": "/p"}]}, {"servers": [{"host": ""}]},
        {"servers": host, "user": "u"}, {"servers": host, "tag": ""},
        {"servers": host, "user": "u", "password": {"file": "f"}},
        {"servers": [{"path": "/p"}], "tls": {}}, {"servers": host, "gzip_level": 0},
        {"servers": host, "shared_key": "k"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="validation error"):
            ForwardOptions.model_validate({"type": "forward", **wrong})


def test_a_secret_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    options = {"type": "forward", "servers": [{"host": "h"}], "shared_key": {"file": str(tmp_path / "none")}}
    with pytest.raises(ConfigError, match="none"):
        SINK.build(ForwardOptions.model_validate(options), SinkContext("h", "1"))
