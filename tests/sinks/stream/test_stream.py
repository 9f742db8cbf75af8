"""Records over the stream protocol: whole, again after a break, and from peers that mean no good."""

import contextlib
import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
import zstandard

from collector.archive.bodies import parse_block, parse_gap
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind, Record, build_record
from collector.archive.info import summarise
from collector.archive.objects import build_object
from collector.archive.reader import list_segments, open_segment
from collector.archive.verify import verify_archive
from collector.batch import Delivery, StreamKey
from collector.errors import ArchiveFullError, SegmentError
from sinks.contract.base import Parcel
from sinks.stream import host, run, segments, server
from sinks.stream.host import HostArchive
from sinks.stream.memory import Memory
from sinks.stream.policy import HostPolicy
from sinks.stream.seen import Seen
from sinks.stream.sender import Sender
from sinks.stream.server import Limits, Receiver
from sinks.stream.sink import StreamOptions, StreamTransport
from sinks.wire.messages import (
    Parser,
    StreamError,
    WireRecord,
    build_ack,
    build_hello,
    build_refused,
    build_welcome,
    parse_parcel,
)
from tests.sinks.stream.rig import LIMITS, POLICY, batches, bring, check_same, first_block, listen, sending, serving


async def test_what_is_sent_is_an_archive_on_the_other_side(
    tmp_path: Path, archive: Path, parcels: list[Parcel]
) -> None:
    async with serving(tmp_path) as served, sending(served.address) as transport:
        await bring(transport, parcels)
        assert transport.state.connected
    check_same(archive, served.folder / "web-1")
    assert served.receiver.state.total.events == sum(p.events for p in parcels)


async def test_batches_in_flight_together_arrive_in_order(tmp_path: Path, archive: Path, parcels: list[Parcel]) -> None:
    async with serving(tmp_path) as served, sending(served.address) as transport:
        results: list[Delivery] = []

        async def deliver(batch: Sequence[Parcel]) -> None:
            results.append(await transport.deliver(batch))

        async with trio.open_nursery() as nursery:
            for batch in batches(parcels):
                nursery.start_soon(deliver, batch)
                await trio.testing.wait_all_tasks_blocked()
        assert set(results) == {Delivery.DELIVERED}
    check_same(archive, served.folder / "web-1")


async def test_a_receiver_that_starts_again_goes_on_and_takes_nothing_twice(
    tmp_path: Path, archive: Path, parcels: list[Parcel]
) -> None:
    blocks = [at for at, parcel in enumerate(parcels) if parcel.kind is Kind.BLOCK]
    half = blocks[3]
    async with sending(str(tmp_path / "socket")) as transport:
        async with serving(tmp_path) as served:
            await bring(transport, parcels[:half])
        async with serving(tmp_path) as served:
            await bring(transport, parcels[blocks[1] :])
            assert served.receiver.state.total.duplicates == 2
    check_same(archive, served.folder / "web-1")


async def test_the_beginning_of_a_batch_may_be_acknowledged_before_its_end_is_sent(
    tmp_path: Path, parcels: list[Parcel]
) -> None:
    """What the receiver reads at once is less than the batch."""
    fillers = [Parcel(Kind.OBJECT, build_object("filler", os.urandom(600_000))[1], parcels[0].run) for _ in range(12)]
    async with serving(tmp_path) as served, sending(served.address) as transport:
        assert await transport.deliver([parcels[0], *fillers]) is Delivery.DELIVERED
        assert served.receiver.state.accepted == 1


async def test_a_new_connection_takes_the_place_of_one_that_the_network_lost(
    tmp_path: Path, parcels: list[Parcel]
) -> None:
    async with serving(tmp_path) as served:
        old = await trio.open_unix_socket(served.address)
        await old.send_all(build_hello("web-1"))
        assert await old.receive_some(100)
        async with sending(served.address) as transport:
            await bring(transport, parcels[:6])
        said = b""
        with trio.fail_after(5):
            while data := await old.receive_some(1000):
                said += data
        assert b"takes its place" in said
        assert served.receiver.state.refused == {"replaced": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", "malformed", id="another protocol"),
        pytest.param(build_record(64, b"\x80"), "malformed", id="a hello without a name"),
        pytest.param(build_hello("../../etc"), "malformed", id="a name that leaves the folder"),
        pytest.param(build_hello("web-1")[:-1] + b"\0", "malformed", id="a wrong checksum"),
        pytest.param(build_record(64, bytes(5000))[:64], "malformed", id="a hello too large"),
        pytest.param(build_hello("web-1")[:20], "slow", id="a hello without an end"),
        pytest.param(b"", "slow", id="nothing at all"),
        pytest.param(build_hello("web-1") + build_record(1, b"\x80"), "malformed", id="records before the welcome"),
    ],
)
async def test_a_peer_that_does_not_speak_the_protocol_is_cut_off(tmp_path: Path, data: bytes, reason: str) -> None:
    async with serving(tmp_path, Limits(hello_timeout_s=0.2)) as served:
        stream = await trio.open_unix_socket(served.address)
        await stream.send_all(data)
        with trio.fail_after(5):
            while await stream.receive_some(1000):
                pass
        assert served.receiver.state.refused == {reason: 1}
        assert served.receiver.state.connections == 0
    assert not served.folder.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(build_record(3, bytes(70_000))[:100], "malformed", id="a record too large"),
        pytest.param(build_record(3, bytes(60_000))[:-1], "slow", id="a record without an end"),
        pytest.param(build_record(3, b"\x80"), "malformed", id="a block that is none"),
        pytest.param(build_record(8, b"\x80"), "malformed", id="a trailer"),
        pytest.param(bytes(100), "malformed", id="zeros"),
    ],
)
async def test_a_sender_gone_mad_is_cut_off_and_keeps_what_it_has_brought(
    tmp_path: Path, parcels: list[Parcel], data: bytes, reason: str
) -> None:
    limits = Limits(max_body_bytes=65_536, record_timeout_s=0.2)
    async with serving(tmp_path, limits) as served, sending(served.address) as transport:
        await bring(transport, parcels[: first_block(parcels) + 1])
        connection = transport._connection
        assert connection is not None
        await connection.stream.send_all(data)
        with trio.fail_after(5):
            while not served.receiver.state.refused:
                await trio.sleep(0.01)
        assert served.receiver.state.refused == {reason: 1}
    assert summarise([served.folder / "web-1"])["segments"] == 1


async def test_a_block_without_its_format_is_refused(tmp_path: Path, parcels: list[Parcel]) -> None:
    header = parcels[0]
    block = next(p for p in parcels if p.kind is Kind.BLOCK)
    async with serving(tmp_path) as served, sending(served.address) as transport:
        assert await transport.deliver([header, block]) is Delivery.REJECTED
        assert served.receiver.state.refused == {"malformed": 1}
        assert "format" in (transport.state.last_error or "")


async def test_a_full_disk_acknowledges_nothing(tmp_path: Path, parcels: list[Parcel]) -> None:
    full = HostPolicy(min_free_bytes=1 << 62)
    async with serving(tmp_path, policy=full) as served, sending(served.address) as transport:
        assert await transport.deliver(parcels[: first_block(parcels) + 1]) is Delivery.ERRORED
    assert served.receiver.state.refused["full"] >= 1


async def test_a_receiver_that_never_answers_costs_the_deadline(tmp_path: Path, parcels: list[Parcel]) -> None:
    address = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _swallow, [await listen(address)])
        async with sending(address, request_timeout_s=0.2) as transport:
            assert await transport.deliver(parcels[: first_block(parcels) + 1]) is Delivery.ERRORED
            assert not transport.state.connected
            assert transport.state.last_error is not None
        nursery.cancel_scope.cancel()


async def _swallow(stream: trio.SocketStream) -> None:
    while await stream.receive_some(65536):
        pass


MORE = b"\x94\xc4\x04\xf7\x1a\xce\x5e\x43\xc6\x40\x00\x00\x00"  # the head of an acknowledgement of 1 GiB


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(build_ack(1 << 40), "what was not sent", id="acknowledges what was not sent"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "no record begins here", id="garbage"),
        pytest.param(MORE + bytes(1000), "too large", id="1 GiB"),
        pytest.param(build_ack(1)[:9], "has closed the connection", id="closes in the middle"),
        pytest.param(build_refused("no room", "full"), "refuses: no room", id="refuses"),
        pytest.param(build_ack(1)[:-1] + b"!", "checksum", id="a wrong checksum"),
    ],
)
async def test_a_receiver_gone_mad_is_left_and_its_fault_is_told(
    tmp_path: Path, parcels: list[Parcel], answer: bytes, reason: str
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(build_welcome(1 << 20))
            await stream.receive_some(1 << 20)
            await stream.send_all(answer)

    address = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [await listen(address)])
        async with sending(address) as transport:
            with trio.fail_after(10):
                assert await transport.deliver(parcels[: first_block(parcels) + 1]) is Delivery.ERRORED
                while reason not in (transport.state.last_error or ""):
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_nothing_overtakes_a_batch_with_a_record_that_is_too_large(tmp_path: Path, parcels: list[Parcel]) -> None:
    first, second = [at for at, parcel in enumerate(parcels) if parcel.kind is Kind.BLOCK][:2]
    large = Parcel(Kind.BLOCK, bytes(70_000), parcels[0].run, StreamKey(parcels[0].run, "i", 0), 0)
    results: list[Delivery] = []
    async with serving(tmp_path, Limits(max_body_bytes=65_536)) as served, sending(served.address) as transport:
        await bring(transport, parcels[:first])

        async def deliver(batch: Sequence[Parcel]) -> None:
            results.append(await transport.deliver(batch))

        async with trio.open_nursery() as nursery, transport._sending:  # both wait, in this order
            for batch in ([parcels[first], large], parcels[first + 1 : second + 1]):
                nursery.start_soon(deliver, batch)
                await trio.testing.wait_all_tasks_blocked()
        assert served.receiver.state.total.blocks == 0
    assert set(results) == {Delivery.REJECTED, Delivery.ERRORED}


async def test_a_peer_without_tls_is_told_from_one_that_goes_away(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("receiver.test").configure_cert(context)
    receiver = Receiver(tmp_path / "hosts", POLICY, LIMITS)
    listener = trio.SSLListener(await listen(str(tmp_path / "socket")), context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        for data in (b"GET / HTTP/1.1\r\n\r\n", b""):
            stream = await trio.open_unix_socket(str(tmp_path / "socket"))
            if data:
                await stream.send_all(data)
            else:
                await stream.send_eof()
            with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some(1000):
                    pass
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert receiver.state.refused == {"tls": 1, "broken": 1}


async def test_nobody_there_is_an_error_that_says_so(tmp_path: Path, parcels: list[Parcel]) -> None:
    async with sending(str(tmp_path / "nobody"), request_timeout_s=0.1) as transport:
        assert await transport.deliver(parcels[: first_block(parcels) + 1]) is Delivery.ERRORED
        assert transport.state.last_error is not None


async def test_what_waits_for_a_receiver_goes_out_with_the_first_connection_that_is_welcomed(
    tmp_path: Path, parcels: list[Parcel]
) -> None:
    receiver = Receiver(tmp_path / "hosts", POLICY, LIMITS)
    closed = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal closed
        if closed < 3:
            closed += 1
            await stream.aclose()
        else:
            await receiver.serve(stream)

    address = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run)
        nursery.start_soon(trio.serve_listeners, serve, [await listen(address)])
        async with sending(address) as transport:
            with trio.fail_after(10):
                assert await transport.deliver(parcels[: first_block(parcels) + 1]) is Delivery.DELIVERED
        nursery.cancel_scope.cancel()
    assert closed == 3


async def test_waits_for_a_receiver_that_is_away_double_up_to_a_limit(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries_s: list[float] = []

    async def refuse(address: str) -> trio.SocketStream:
        tries_s.append(trio.current_time())
        raise ConnectionRefusedError

    monkeypatch.setattr(trio, "open_unix_socket", refuse)
    options = StreamOptions(type="stream", address="unix:/nowhere", retry_first_s=1.0, retry_max_s=10.0)
    transport = StreamTransport(options, "here", None, rng=lambda: 0.0)
    began_s = trio.current_time()
    with trio.move_on_after(40):
        await transport.run()
    assert [at - began_s for at in tries_s] == [0, 1, 3, 7, 15, 25, 35]


async def test_a_record_larger_than_the_receiver_takes_is_rejected(tmp_path: Path, parcels: list[Parcel]) -> None:
    large = Parcel(Kind.BLOCK, bytes(70_000), parcels[0].run, StreamKey(parcels[0].run, "i", 0), 0)
    async with serving(tmp_path, Limits(max_body_bytes=65_536)) as served, sending(served.address) as transport:
        assert await transport.deliver([large]) is Delivery.REJECTED
        assert "65536" in (transport.state.last_error or "")


def test_a_sender_has_its_limit_of_the_disk(tmp_path: Path, parcels: list[Parcel]) -> None:
    archive = HostArchive(tmp_path, HostPolicy(segment_bytes=20_000, max_bytes=60_000, min_free_bytes=0))
    for batch in batches(parcels):
        archive.take(batch)
    archive.close()
    sizes = [path.stat().st_size for path in list_segments([tmp_path])]
    assert len(sizes) > 1
    assert sum(sizes[:-1]) <= 60_000


def _changed(parcel: Parcel, **keys: Any) -> Parcel:
    return parse_parcel(WireRecord(parcel.kind, memoryview(pack({**unpack(parcel.body, "body"), **keys}))))


def test_a_gap_that_comes_again_counts_once(tmp_path: Path, parcels: list[Parcel]) -> None:
    """Its acknowledgement was lost with the connection, or with the receiver."""
    header = parcels[0]
    stream = next(p.stream for p in parcels if p.stream is not None)
    gaps = [
        build_gap(header.run, stream, {"cause": "discarded", "count": n, "from_ts": n, "to_ts": n, "detail": ""})
        for n in (5, 6)
    ]
    archive = HostArchive(tmp_path / "host", POLICY)
    archive.take([header, gaps[0]])
    archive.take([header, *gaps])
    archive.close()
    archive = HostArchive(tmp_path / "host", POLICY)
    archive.take([header, *gaps])
    archive.close()
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_segment(path)) for path in list_segments([tmp_path / "host"])]
        counts = [parse_gap(found.body).count for segment in opened for found in segment.records()
                  if isinstance(found, Record) and found.kind == Kind.GAP]  # fmt: skip
    assert counts == [5, 6]


def build_gap(run: bytes, stream: StreamKey, body: dict[str, Any]) -> Parcel:
    whole = {"run": run, "inst": stream.instance, "cpu": stream.cpu, **body}
    return Parcel(Kind.GAP, pack(whole), run, stream)


@pytest.mark.parametrize("keys", [{"n": 1 << 60}, {"raw": 1 << 63}, {"gaps": [[0, 1 << 63, "page"]]}])
def test_a_sender_that_counts_too_far_is_refused(tmp_path: Path, parcels: list[Parcel], keys: dict[str, Any]) -> None:
    """Sums of such numbers would fit no footer."""
    at = first_block(parcels)
    if "n" in keys:
        kinds = [[k.format_id, k.mode, keys["n"]] for k in parse_block(parcels[at].body).kinds[:1]]
        keys = keys | {"kinds": kinds, "gaps": []}
    archive = HostArchive(tmp_path, POLICY)
    archive.take(parcels[:at])
    with pytest.raises(SegmentError, match="no kernel"):
        archive.take([_changed(parcels[at], **keys)])
    archive.close()


def test_a_sender_of_endless_streams_is_refused(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "MAX_STREAMS", 100)
    header = parcels[0]
    made = [
        build_gap(header.run, StreamKey(header.run, f"i{n}", 0),
                  {"cause": "overrun", "count": n, "from_ts": 0, "to_ts": 0, "detail": ""})
        for n in range(101)
    ]  # fmt: skip
    archive = HostArchive(tmp_path, POLICY)
    archive.take([header, *made[:100]])
    with pytest.raises(SegmentError, match="too many streams"):
        archive.take(made[100:])
    archive.close()


def test_a_segment_of_many_small_records_ends(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_SEGMENT_RECORDS", 8)
    archive = HostArchive(tmp_path, POLICY)
    for batch in batches(parcels):
        archive.take(batch)
    archive.close()
    assert len(list_segments([tmp_path])) > 2
    assert verify_archive([tmp_path]).problems == []


async def test_a_hole_in_the_checks_costs_one_connection(
    tmp_path: Path, archive: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = HostArchive.take_part

    def fail_once(self: HostArchive, batch: Sequence[Parcel], start: int) -> Any:
        monkeypatch.setattr(HostArchive, "take_part", take)
        raise OverflowError("a hole")

    monkeypatch.setattr(HostArchive, "take_part", fail_once)
    async with serving(tmp_path) as served, sending(served.address) as transport:
        assert await transport.deliver(parcels[:1]) is Delivery.ERRORED
        await bring(transport, parcels)
        assert served.receiver.state.refused == {"archive": 1}
    check_same(archive, served.folder / "web-1")


async def test_a_record_that_comes_byte_by_byte_is_cut_off(tmp_path: Path) -> None:
    """Each byte is in time, the record is not."""
    async with serving(tmp_path, Limits(record_timeout_s=0.3)) as served:
        stream = await trio.open_unix_socket(served.address)
        await stream.send_all(build_hello("web-1"))
        assert await stream.receive_some(1000)
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            for byte in build_record(3, bytes(1000)):
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.05)
        assert served.receiver.state.refused == {"slow": 1}


async def test_a_sender_that_went_away_is_forgotten_until_it_comes_again(
    tmp_path: Path, archive: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK_S", 0.01)
    half = first_block(parcels) + 1
    async with serving(tmp_path, Limits(max_hosts=1, idle_s=0.05)) as served:
        async with sending(served.address) as transport:
            await bring(transport, parcels[:half])
        with trio.fail_after(10):
            while served.receiver._senders:
                await trio.sleep(0.01)
        assert [path.suffix for path in (served.folder / "web-1").iterdir() if path.name != ".lock"] == [".ftseg"]
        async with sending(served.address, host="web-2") as transport:  # there is room for it
            await bring(transport, parcels[:1])
        async with sending(served.address) as transport:
            await bring(transport, parcels)
    check_same(archive, served.folder / "web-1")


async def test_objects_that_explode_are_refused(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MAX_UNPACKED_BYTES", 8 << 20)
    compressor = zstandard.ZstdCompressor()
    bombs = [
        Parcel(Kind.OBJECT, build_object("printk", {1: chr(n) * (3 << 20)}, compressor)[1], parcels[0].run)
        for n in range(3)
    ]
    assert sum(len(bomb.body) for bomb in bombs) < 10_000
    async with serving(tmp_path) as served, sending(served.address) as transport:
        assert await transport.deliver([parcels[0], *bombs]) is Delivery.REJECTED
        assert served.receiver.state.refused == {"malformed": 1}


def test_a_format_that_explodes_is_refused_before_it_is_decoded(tmp_path: Path, parcels: list[Parcel]) -> None:
    bomb = build_object("format", [{}] * (2 << 20), zstandard.ZstdCompressor())[1]
    archive = HostArchive(tmp_path, POLICY)
    with pytest.raises(SegmentError, match="format that no kernel has"):
        archive.take([parcels[0], Parcel(Kind.OBJECT, bomb, parcels[0].run)])
    archive.close()


async def test_a_connection_that_ends_while_its_folder_is_closed_leaves_it_free(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = Sender(tmp_path / "host", POLICY, trio.CapacityLimiter(1), Memory(1 << 30))
    take = HostArchive.take_part

    def fail(self: HostArchive, batch: Sequence[Parcel], start: int) -> Any:
        take(self, batch, start)
        trio.from_thread.run_sync(scope.cancel)  # another connection takes its place just now
        raise ArchiveFullError("the disk refuses")

    monkeypatch.setattr(HostArchive, "take_part", fail)
    with trio.CancelScope() as scope, pytest.raises(ArchiveFullError):
        await claimed.take([WireRecord(p.kind, memoryview(p.body)) for p in parcels[: first_block(parcels) + 1]])
    HostArchive(tmp_path / "host", POLICY).close()  # raises where the lock is held


def test_a_parser_takes_bytes_as_they_come(parcels: list[Parcel]) -> None:
    data = b"".join(build_record(p.kind, p.body) for p in parcels[:8])
    parser = Parser(1 << 20)
    found = []
    for at in range(0, len(data), 7):
        parser.feed(data[at : at + 7])
        found += [(r.kind, bytes(r.body)) for r in parser.records()]
    assert found == [(p.kind, p.body) for p in parcels[:8]]
    assert parser.held_bytes == 0


def test_a_flipped_bit_is_seen(parcels: list[Parcel]) -> None:
    data = bytearray(build_record(parcels[0].kind, parcels[0].body))
    for bit in range(0, 8 * len(data), 5):
        data[bit // 8] ^= 1 << bit % 8
        parser = Parser(len(data))
        parser.feed(bytes(data) + bytes(len(data)))
        with pytest.raises(StreamError):
            list(parser.records())
        data[bit // 8] ^= 1 << bit % 8


def test_seen_numbers_are_ranges() -> None:
    seen = Seen()
    for number in (5, 7, 6, 0, 1, 9, 8, 5):
        seen.add(number)
    assert [n for n in range(12) if n in seen] == [0, 1, 5, 6, 7, 8, 9]
