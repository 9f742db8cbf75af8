"""A record that the receiver will never take costs itself alone: it is found, given up, and all others arrive."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from collector.archive.fields import pack
from collector.archive.frame import Kind, build_record
from collector.archive.objects import END, build_object
from collector.archive.reader import list_segments, open_segment
from collector.batch import Delivery, StreamKey
from collector.errors import SegmentError
from sinks.contract.base import Parcel
from sinks.network.backlog import MemoryBacklog
from sinks.network.delivery import NetworkRunner
from sinks.stream import checks, names
from sinks.stream.sink import StreamOptions, StreamTransport
from sinks.wire.messages import (
    Parser,
    RefusedError,
    StreamError,
    WireRecord,
    build_ack,
    build_hello,
    build_refused,
    build_welcome,
    parse_ack,
    parse_parcel,
)
from tests.archive.encoder import Maps
from tests.contract.made import MIB, Context, block, gap, in_place
from tests.sinks.stream.rig import block_names, bring, check_same, first_block, listen, sending, serving

OTHER_RUN = b"\1" * 16


def stray_gap(run: bytes = OTHER_RUN) -> Parcel:
    """Of another run than the header's."""
    stream = StreamKey(run, "main", 0)
    body = {"run": run, "inst": "main", "cpu": 0, **gap().body}
    return Parcel(Kind.GAP, pack(body), run, stream)


async def test_a_runner_gives_up_the_malformed_record_alone(tmp_path: Path) -> None:
    options = StreamOptions(
        type="stream", address=f"unix:{tmp_path / 'socket'}", host="web-1", when_full="block", linger_s=0,
        retry_first_s=0.01, retry_max_s=0.02,
    )  # fmt: skip
    transport = StreamTransport(options, "here", None)
    runner = NetworkRunner(transport, MemoryBacklog(Context(), Maps(), 300.0), options, in_place)
    await runner.open()
    async with serving(tmp_path) as served, trio.open_nursery() as nursery:
        for number in range(20):
            runner.put(block(number, size_bytes=300_000))
            if number in (3, 4, 11):
                runner.put(gap(StreamKey(OTHER_RUN, "main", 0)))
        nursery.start_soon(runner.run)
        runner.finish(trio.current_time() + 30)
    await runner.close()
    found = runner.snapshot()
    assert found.acked_events == found.offered_events == 200
    assert served.receiver.state.refused["malformed"] >= 3
    assert [number for _, number, _ in block_names(tmp_path / "hosts/web-1")] == list(range(20))


async def test_those_before_it_are_acknowledged_and_those_behind_it_come_again(
    tmp_path: Path, archive: Path, parcels: list[Parcel]
) -> None:
    at = first_block(parcels) + 2
    sent = [parcels[:at], [stray_gap(), *parcels[at : at + 2]], parcels[at + 2 : at + 4]]
    results: dict[int, Delivery] = {}
    async with serving(tmp_path) as served, sending(served.address) as transport:

        async def deliver(number: int) -> None:
            results[number] = await transport.deliver(sent[number])

        async with trio.open_nursery() as nursery, transport._sending:  # all three are on their way together
            for number in range(3):
                nursery.start_soon(deliver, number)
                await trio.testing.wait_all_tasks_blocked()
        assert results == {0: Delivery.DELIVERED, 1: Delivery.REJECTED, 2: Delivery.ERRORED}
        assert "another run" in (transport.state.last_error or "")
        assert transport.max_in_flight == 1
        assert await transport.deliver([stray_gap()]) is Delivery.REJECTED
        await bring(transport, parcels[at:])
        assert transport.max_in_flight == 4
    check_same(archive, served.folder / "web-1")


async def test_a_refusal_is_heard_while_a_large_batch_is_on_its_way(tmp_path: Path, parcels: list[Parcel]) -> None:
    fillers = [Parcel(Kind.OBJECT, build_object("filler", bytes([n]) * 900_000)[1], b"") for n in range(12)]
    async with serving(tmp_path) as served, sending(served.address) as transport:
        await bring(transport, parcels[: first_block(parcels)])
        assert await transport.deliver([stray_gap(), *fillers]) is Delivery.REJECTED


async def test_a_name_that_is_sent_again_and_refused_is_left_out(
    tmp_path: Path, archive: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another receiver takes less than the one that took it."""
    large = Parcel(Kind.OBJECT, build_object("printk", {1: "a" * 200_000})[1], parcels[0].run)
    at = first_block(parcels)
    async with sending(str(tmp_path / "socket")) as transport:
        async with serving(tmp_path) as served:
            await bring(transport, [parcels[0], large, *parcels[1:at]])
        monkeypatch.setattr(names, "MAX_NAMES_BYTES", 100_000)
        async with serving(tmp_path) as served:
            await bring(transport, parcels[at:])
            assert served.receiver.state.refused == {"malformed": 1}
    check_same(archive, served.folder / "web-1")


async def test_a_header_that_is_sent_again_and_refused_costs_what_comes_before_the_next(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = first_block(parcels)
    async with sending(str(tmp_path / "socket")) as transport:
        async with serving(tmp_path):
            await bring(transport, parcels[:at])
        with monkeypatch.context() as patched:
            patched.setattr(checks, "MAX_STREAMS", 0)
            async with serving(tmp_path):
                assert await transport.deliver([parcels[at]]) is Delivery.ERRORED
                assert "too many streams" in (transport.state.last_error or "")
                assert await transport.deliver([parcels[at]]) is Delivery.REJECTED
                assert await transport.deliver([parcels[0]]) is Delivery.REJECTED
        async with serving(tmp_path):
            await bring(transport, parcels)
    assert [p for p in list_segments([tmp_path / "hosts/web-1"]) if open_segment(p).footer is None] == []


@pytest.mark.parametrize("reason", ["slow", "full", "archive", "limit", "memory", "replaced", "malformed"])
async def test_what_is_not_about_a_record_is_brought_again(tmp_path: Path, parcels: list[Parcel], reason: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(build_welcome(1 << 20))
            await stream.receive_some(1 << 20)
            await stream.send_all(build_refused("why", reason))

    address = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [await listen(address)])
        async with sending(address) as transport:
            assert await transport.deliver(parcels[: first_block(parcels) + 1]) is Delivery.ERRORED
        nursery.cancel_scope.cancel()


async def test_the_reason_stays_to_be_seen_while_only_names_come_through(tmp_path: Path, parcels: list[Parcel]) -> None:
    """They have come through before."""
    at = first_block(parcels)
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(build_welcome(1 << 20))
            parser = Parser(1 << 20)
            count = 0
            while count < at and (data := await stream.receive_some(1 << 20)):
                parser.feed(data)
                count += len(list(parser.records()))
            await stream.send_all(build_ack(at))
            if connections == 1:
                await stream.receive_some(1 << 20)
            await stream.send_all(build_refused("no room", "full"))

    address = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [await listen(address)])
        async with sending(address) as transport:
            assert await transport.deliver(parcels[:at]) is Delivery.DELIVERED
            assert transport.state.last_error is None
            for _ in range(3):
                assert await transport.deliver([parcels[at]]) is Delivery.ERRORED
                assert "no room" in (transport.state.last_error or "")
        nursery.cancel_scope.cancel()
    assert connections >= 3


async def test_a_record_too_large_for_its_kind_is_refused_with_its_number(
    tmp_path: Path, parcels: list[Parcel]
) -> None:
    at = first_block(parcels)
    large = build_record(Kind.GAP, bytes(70_000))
    async with serving(tmp_path) as served:
        async with await trio.open_unix_socket(served.address) as stream:
            await stream.send_all(build_hello("web-1"))
            assert await stream.receive_some(1000)
            await stream.send_all(b"".join(build_record(p.kind, p.body) for p in parcels[:at]) + large)
            answers: list[WireRecord] = []
            parser = Parser()
            with trio.fail_after(5):
                while data := await stream.receive_some(1000):
                    parser.feed(data)
                    answers += parser.records()
        assert parse_ack(answers[-2]) == at
        with pytest.raises(RefusedError, match="at most 65536") as refused:
            parse_ack(answers[-1])
        assert refused.value.record == at


async def test_a_sender_knows_what_is_too_large_for_its_kind(tmp_path: Path, parcels: list[Parcel]) -> None:
    async with serving(tmp_path) as served, sending(served.address) as transport:
        await bring(transport, parcels[: first_block(parcels)])
        large = replace(stray_gap(), body=bytes(70_000))
        assert await transport.deliver([large]) is Delivery.REJECTED
        assert "65536 bytes of a GAP" in (transport.state.last_error or "")
        assert served.receiver.state.refused == {}


async def test_the_end_of_a_run_is_not_sent_again(tmp_path: Path, parcels: list[Parcel]) -> None:
    sent: list[WireRecord] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(build_welcome(1 << 20))
            parser, count = Parser(1 << 20), 0
            while data := await stream.receive_some(1 << 20):
                parser.feed(data)
                records = list(parser.records())
                sent.extend(records)
                count += len(records)
                await stream.send_all(build_ack(count))
                if bytes(sent[-1].body) == parcels[-1].body:
                    return

    address = str(tmp_path / "socket")
    end = build_object(END, {"run": parcels[0].run})[1]
    assert parcels[-1].body == end
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [await listen(address)])
        async with sending(address) as transport:
            await bring(transport, parcels)
            await bring(transport, parcels[-2:-1])
        nursery.cancel_scope.cancel()
    assert [bytes(record.body) for record in sent].count(end) == 1
    assert [record.kind for record in sent].count(Kind.HEADER) == 1 + [p.kind for p in parcels].count(Kind.HEADER)


def test_what_a_refusal_says_is_cut_to_fit() -> None:
    parser = Parser()
    parser.feed(build_refused("ä" * 5000, "full") + build_refused("\udcff", "malformed", 7))
    first, second = parser.records()
    with pytest.raises(RefusedError) as refused:
        parse_ack(first)
    assert refused.value.record is None
    with pytest.raises(RefusedError) as refused:
        parse_ack(second)
    assert refused.value.record == 7


def test_records_before_a_damaged_one_are_given(parcels: list[Parcel]) -> None:
    parser = Parser(1 << 20)
    parser.feed(build_record(parcels[0].kind, parcels[0].body) + b"no record")
    records = parser.records()
    assert bytes(next(records).body) == parcels[0].body
    with pytest.raises(StreamError, match="no record begins here"):
        next(records)


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        pytest.param(Kind.GAP, b"\xdd\x00\x0f\xff\xfa" + b"\x90" * ((1 << 20) - 6), "too large", id="a gap of lists"),
        pytest.param(Kind.BLOCK, pack({"x": [[]] * MIB, "cols": b""}), "beside its data", id="a block of lists"),
        pytest.param(Kind.OBJECT, pack({"data": [[]] * MIB}), "beside its data", id="an object whose data is a list"),
        pytest.param(
            Kind.BLOCK, b"\xdf\x00\x03\x00\x00" + b"\xa4cols\xc4\x00" * 0x30000, "beside its data", id="the same key"
        ),
        pytest.param(Kind.HEADER, pack({"x": [[]] * MIB}), r"header|array_len", id="a header of lists"),
        pytest.param(Kind.HEADER, pack([[[]] * 1000] * 200), "too many parts", id="a header of lists of lists"),
        pytest.param(Kind.BLOCK, b"\x93\x01", "not one msgpack object", id="half a block"),
        pytest.param(Kind.OBJECT, b"", "not one msgpack object", id="nothing"),
    ],
)
def test_what_would_explode_is_refused_before_it_is_parsed(kind: Kind, body: bytes, message: str) -> None:
    with pytest.raises(SegmentError, match=message) as refused:
        parse_parcel(WireRecord(kind, memoryview(body)))
    assert len(str(refused.value)) < 300


def test_what_is_sent_passes(parcels: list[Parcel]) -> None:
    for parcel in parcels:
        found: Any = parse_parcel(WireRecord(parcel.kind, memoryview(parcel.body)))
        assert (found.kind, found.body) == (parcel.kind, parcel.body)
