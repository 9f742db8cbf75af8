"""The Kafka sink beside brokers: what it is told to deliver is there, once what it says is that it is."""

import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from confluent_kafka import Consumer

from collector.batch import Delivery
from collector.errors import ConfigError
from sinks.connect.tls import build_server_context
from sinks.contract.base import Parcel, SinkContext
from sinks.kafka import sink as sink_module
from sinks.kafka.consume import Rebuilt, _ends, _headers, _messages, rebuild_archive
from sinks.kafka.sink import KafkaConfig, KafkaSink, build
from tests.sinks.kafka.brokers import SILENT, Tansu, create_topics, free_port, mock_cluster
from tests.sinks.made import counts_of, make_segment
from tests.sinks.parcels import parcels_of
from tests.sinks.proxy import Proxy

pytestmark = pytest.mark.network

ALL = {"made:every": 100, "made:plain": 100}


@asynccontextmanager
async def running(address: str, **settings: Any) -> AsyncIterator[KafkaSink]:
    values = {
        "type": "kafka",
        "brokers": tuple(address.split(",")),
        "request_timeout_s": 20.0,
        "retry_first_s": 0.05,
        **settings,
    }
    sink = build(KafkaConfig.model_validate(values), SinkContext("host", "1"))
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.run)
        yield sink
        nursery.cancel_scope.cancel()


async def wait_for(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    with trio.fail_after(timeout_s):
        while not true():
            await trio.sleep(0.02)


async def deliver_until_done(sink: KafkaSink, parcels: list[Parcel]) -> None:
    """As the runner does, but without its waits."""
    with trio.fail_after(60):
        while (await sink.deliver(parcels)) is not Delivery.DELIVERED:
            await trio.sleep(0.1)


async def rebuild(address: str, folder: Path, *topics: str, **properties: Any) -> Rebuilt:
    found = {"bootstrap.servers": address, "logger": SILENT, **properties}
    return await trio.to_thread.run_sync(rebuild_archive, found, topics, folder)


@pytest.fixture
def tansu(tmp_path: Path) -> Iterator[Tansu]:
    with Tansu(tmp_path) as broker:
        yield broker


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    return make_segment(tmp_path / "a")


@pytest.mark.parametrize("maps", ["topic", "repeat"])
async def test_what_was_delivered_to_the_mock_cluster_decodes(maps: str, segment: Path, tmp_path: Path) -> None:
    with mock_cluster(3) as address:
        async with running(address, maps=maps) as sink:
            assert await sink.deliver(parcels_of(segment)) is Delivery.DELIVERED
            assert sink.state.connected
        topics = ("ftrace-maps", "ftrace") if maps == "topic" else ("ftrace",)
        rebuilt = await rebuild(address, tmp_path / "b", *topics)
    assert counts_of(tmp_path / "b") == ALL
    assert (rebuilt.duplicates, rebuilt.foreign) == (0, 0)


async def test_what_was_delivered_to_tansu_decodes(tansu: Tansu, segment: Path, tmp_path: Path) -> None:
    create_topics(tansu.address, "ftrace-maps", ("ftrace",))
    async with running(tansu.address) as sink:
        assert await sink.deliver(parcels_of(segment)) is Delivery.DELIVERED
    await rebuild(tansu.address, tmp_path / "b", "ftrace-maps", "ftrace")
    assert counts_of(tmp_path / "b") == ALL


async def test_batches_in_flight_keep_the_order_of_each_cpu(tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path / "a", blocks=60))
    seen: dict[str, list[int]] = {}
    with mock_cluster() as address:
        async with running(address) as sink, trio.open_nursery() as nursery:
            for start in range(0, len(parcels), 5):
                nursery.start_soon(sink.deliver, parcels[start : start + 5])
                await trio.testing.wait_all_tasks_blocked(0)
        for key, number in await trio.to_thread.run_sync(read_numbers, address):
            seen.setdefault(key, []).append(number)
    assert seen == {"host/main/0": list(range(60)), "host/main/1": list(range(60))}


def read_numbers(address: str) -> list[tuple[str, int]]:
    """(key, block number) of each block in the topic, in its partition's order."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "enable.partition.eof": True, "logger": SILENT})
    try:
        ends = list(_ends(consumer, "ftrace", 20))
        return [
            (m.key().decode(), int(dict(_headers(m))["number"]))
            for m in _messages(consumer, ends, 20)  # type: ignore[union-attr]
        ]
    finally:
        consumer.close()


async def test_a_broker_that_is_started_again_gets_what_it_had_not_acknowledged(
    tansu: Tansu, segment: Path, tmp_path: Path
) -> None:
    create_topics(tansu.address, "ftrace-maps", ("ftrace",))
    parcels = parcels_of(segment)
    maps = [p for p in parcels if p.stream is None]
    blocks = [p for p in parcels if p.stream is not None]
    async with running(tansu.address, request_timeout_s=2.0) as sink:
        assert await sink.deliver(maps + blocks[:4]) is Delivery.DELIVERED
        await rebuild(tansu.address, tmp_path / "before", "ftrace-maps", "ftrace")
        tansu.kill()
        assert await sink.deliver(blocks[4:]) is Delivery.ERRORED
        assert sink.state.last_error
        await wait_for(lambda: not sink.state.connected)
        tansu.start()
        create_topics(tansu.address, "ftrace-maps", ("ftrace",))
        await deliver_until_done(sink, maps + blocks[4:])  # its memory is empty
        assert sink.state.last_error is None
    await rebuild(tansu.address, tmp_path / "after", "ftrace-maps", "ftrace")
    assert sum(counts_of(tmp_path / "before", tmp_path / "after").values()) == sum(ALL.values())


async def test_cut_connections_lose_nothing_and_repeat_nothing_unseen(segment: Path, tmp_path: Path) -> None:
    parcels = parcels_of(segment)
    proxy = Proxy()
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        with Tansu(tmp_path, advertised=proxy.port) as tansu:
            proxy.to(tansu.port)
            await trio.to_thread.run_sync(create_topics, tansu.address, "ftrace-maps", ("ftrace",))
            async with running(tansu.address, request_timeout_s=4.0) as sink:
                for at in range(0, len(parcels), 3):
                    if at % 2:
                        await proxy.cut()
                    await deliver_until_done(sink, parcels[at : at + 3])
            await rebuild(tansu.address, tmp_path / "b", "ftrace-maps", "ftrace")
        nursery.cancel_scope.cancel()
    assert counts_of(tmp_path / "b") == ALL


async def test_a_broker_that_never_answers_is_an_error_in_time(segment: Path) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        async with running(f"127.0.0.1:{mute.getsockname()[1]}", request_timeout_s=1.0) as sink:
            with trio.fail_after(15):
                assert await sink.deliver(parcels_of(segment)[:2]) is Delivery.ERRORED
            assert "timed out" in (sink.state.last_error or "").lower()
            assert not sink.state.connected


async def test_a_batch_that_the_runner_gives_up_is_taken_back(tansu: Tansu, segment: Path) -> None:
    create_topics(tansu.address, "ftrace-maps", ("ftrace",))
    parcels = parcels_of(segment)
    assert tansu.process is not None
    async with running(tansu.address) as sink:
        assert await sink.deliver(parcels[:-2]) is Delivery.DELIVERED
        tansu.process.send_signal(signal.SIGSTOP)
        with trio.move_on_after(0.3) as scope:
            await sink.deliver(parcels[-2:])
        assert scope.cancelled_caught
        assert sink._channel is None
        tansu.process.send_signal(signal.SIGCONT)
        await deliver_until_done(sink, parcels[-2:])


async def test_an_unreachable_broker_is_an_error_with_its_reason(segment: Path) -> None:
    async with running(f"127.0.0.1:{free_port()}", request_timeout_s=1.0) as sink:
        await wait_for(lambda: "refused" in (sink.state.last_error or "").lower())
        assert await sink.deliver(parcels_of(segment)[:2]) is Delivery.ERRORED
        assert not sink.state.connected


async def test_a_message_above_the_limit_is_rejected_with_its_size(tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path))
    big = Parcel(parcels[-1].kind, bytes(20000), parcels[-1].run, parcels[-1].stream, 99, 5)
    with mock_cluster() as address:
        async with running(address, message_max_bytes=16384) as sink:
            assert await sink.deliver(parcels) is Delivery.DELIVERED
            assert await sink.deliver([big]) is Delivery.REJECTED
            assert "of kind block" in (sink.state.last_error or "")
            assert "message_max_bytes (16384)" in (sink.state.last_error or "")
            assert await sink.deliver(parcels[-1:]) is Delivery.DELIVERED


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path / "a", blocks=30))
    with mock_cluster() as address:
        async with running(address) as sink:
            sink._properties["queue.buffering.max.messages"] = 2
            assert await sink.deliver(parcels) is Delivery.DELIVERED
        await rebuild(address, tmp_path / "b", "ftrace-maps", "ftrace")
    assert sum(counts_of(tmp_path / "b").values()) == 30 * 2 * 20


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    """Files of an authority, of another one, and certificates of the first for a server and a client."""
    files = {}
    for name in ("ca", "other"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
        files[name] = str(tmp_path / f"{name}.pem")
        if name == "ca":
            server = authority.issue_cert("127.0.0.1")
            server.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
            server.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
            client = authority.issue_cert("collector.example")
            client.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    return {**files, **{name: str(tmp_path / f"{name}.pem") for name in ("key", "cert", "client")}}


async def test_tls_delivers_and_a_certificate_of_somebody_else_is_refused(
    certificates: dict[str, str], segment: Path, tmp_path: Path
) -> None:
    proxy = Proxy(build_server_context(certificates["cert"], certificates["key"], certificates["ca"]))
    ours = {"cert_file": certificates["client"], "ca_file": certificates["ca"]}
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        with Tansu(tmp_path, advertised=proxy.port) as tansu:
            proxy.to(tansu.port)
            async with running(tansu.address, tls=ours) as sink:
                assert await sink.deliver(parcels_of(segment)) is Delivery.DELIVERED
            client = {
                "security.protocol": "SSL", "ssl.ca.location": certificates["ca"],
                "ssl.certificate.location": certificates["client"], "ssl.key.location": certificates["client"],
            }  # fmt: skip
            await rebuild(tansu.address, tmp_path / "b", "ftrace-maps", "ftrace", **client)
            wrong = {**ours, "ca_file": certificates["other"]}
            async with running(tansu.address, tls=wrong, request_timeout_s=2.0) as sink:
                await wait_for(lambda: "certificate verify failed" in (sink.state.last_error or ""))
                assert await sink.deliver(parcels_of(segment)) is Delivery.ERRORED
            for unknown in ({"tls": {"ca_file": certificates["ca"]}}, {}):  # no certificate of ours; no TLS
                async with running(tansu.address, request_timeout_s=2.0, **unknown) as sink:
                    assert await sink.deliver(parcels_of(segment)) is Delivery.ERRORED
                    assert not sink.state.connected
        nursery.cancel_scope.cancel()
    assert counts_of(tmp_path / "b") == ALL


async def test_an_expired_certificate_is_refused(segment: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(server)
    proxy = Proxy(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        with Tansu(tmp_path, advertised=proxy.port) as tansu:
            proxy.to(tansu.port)
            tls = {"ca_file": str(tmp_path / "ca.pem")}
            async with running(tansu.address, tls=tls, request_timeout_s=2.0) as sink:
                # librdkafka does not say what is wrong with a certificate.
                await wait_for(lambda: "certificate verify failed" in (sink.state.last_error or ""))
                assert await sink.deliver(parcels_of(segment)[:1]) is Delivery.ERRORED
        nursery.cancel_scope.cancel()


async def test_a_wrong_password_is_an_error_that_says_so(segment: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong\n")
    sasl = {"mechanism": "SCRAM-SHA-256", "username": "u", "password": {"file": str(tmp_path / "password")}}
    with Tansu(tmp_path, arguments=("--authentication",)) as tansu:
        async with running(tansu.address, sasl=sasl, request_timeout_s=3.0) as sink:
            await wait_for(lambda: "authentication" in (sink.state.last_error or "").lower())
            assert await sink.deliver(parcels_of(segment)) is Delivery.ERRORED
            assert not sink.state.connected
            assert "wrong" not in str(sink.state)


async def test_nothing_overtakes_a_batch_that_failed(tansu: Tansu, segment: Path) -> None:
    """The broker stands still until the first batch fails: those behind it must fail too, though it goes on then."""
    create_topics(tansu.address, "ftrace-maps", ("ftrace",))
    parcels = parcels_of(segment)
    maps, blocks = [p for p in parcels if p.stream is None], [p for p in parcels if p.stream is not None]
    batches = [[*maps, *blocks[:2]], blocks[2:4], blocks[4:6], blocks[6:]]
    answers: dict[int, Delivery] = {}
    assert tansu.process is not None

    async with running(tansu.address, request_timeout_s=2.0) as sink:
        assert await sink.deliver(maps) is Delivery.DELIVERED
        tansu.process.send_signal(signal.SIGSTOP)

        async def deliver(at: int) -> None:
            answers[at] = await sink.deliver(batches[at])
            tansu.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for at in range(len(batches)):
                    nursery.start_soon(deliver, at)
                    await trio.testing.wait_all_tasks_blocked(0)
        assert set(answers.values()) == {Delivery.ERRORED}
        assert "timed out" in (sink.state.last_error or "").lower()
        for batch in batches:
            await deliver_until_done(sink, batch)
    seen: dict[str, list[int]] = {}
    for key, number in await trio.to_thread.run_sync(read_numbers, tansu.address):
        seen.setdefault(key, []).append(number)
    assert {key: list(dict.fromkeys(numbers)) for key, numbers in seen.items()} == {
        "host/main/0": list(range(5)),
        "host/main/1": list(range(5)),
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"brokers": ()}, "at least one HOST:PORT"),
        ({"brokers": ("kafka",)}, "HOST:PORT such as"),
        ({"options": {"acks": 0}}, "no acks: what is not acknowledged by all"),
        ({"options": {"delivery.report.only.error": True}}, "each message's acknowledgement is waited for"),
        ({"options": {"enabled_events": 65535}}, "each message's acknowledgement is waited for"),
        ({"options": {"on_delivery": "x"}}, "each message's acknowledgement is waited for"),
        ({"options": {"partitioner": "random"}}, "a CPU's blocks lose their order"),
        ({"options": {"default.topic.config": "x"}}, "stand in options themselves"),
        ({"options": {"logger": "x"}}, "log is the collector's"),
        ({"options": {"transactional.id": "x"}}, "no transactions"),
        ({"options": {"enable.gapless.guarantee": True}}, "sends again"),
        ({"options": {"linger.ms": 5}}, "the sink makes the batches"),
        ({"options": {"test.mock.num.brokers": 1}}, "librdkafka's own tests"),
        ({"options": {"dr_msg_cb": 1}}, "callbacks"),
        ({"options": {"enable.ssl.certificate.verification": False}}, "tls.verify"),
        ({"options": {"sasl.password": "x"}}, "secret_options"),
        ({"secret_options": {"acks": {"file": "f"}}}, "no acks"),
        ({"maps_topic": "ftrace"}, "other than topic"),
        ({"tls": {"server_name": "x"}}, "no tls.server_name"),
        ({"sasl": {"mechanism": "PLAIN"}}, "username and password"),
        ({"topic": "a b"}, "pattern"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        KafkaConfig.model_validate({"type": "kafka", "brokers": ("h:1",), **settings})


async def test_an_option_that_librdkafka_does_not_know_is_an_error_at_the_start() -> None:
    config = KafkaConfig.model_validate({"type": "kafka", "brokers": ("h:1",), "options": {"made.up": 1}})
    with pytest.raises(ConfigError, match=r"No such configuration property.*made.up"):
        build(config, SinkContext("h", "1"))


@pytest.mark.parametrize("options", [{"retries": 0}, {"max.in.flight": 6}, {"queuing.strategy": "lifo"}])
def test_what_an_idempotent_producer_cannot_have_librdkafka_refuses(options: dict[str, Any]) -> None:
    """So these need no rule of ours: order and nothing lost depend on them."""
    config = KafkaConfig.model_validate({"type": "kafka", "brokers": ("h:1",), "options": options})
    with pytest.raises(ConfigError, match=r"must be set .*enable\.idempotence"):
        build(config, SinkContext("h", "1"))


@pytest.mark.parametrize("error", [TypeError("not a callable"), AttributeError("no such thing")])
def test_what_the_binding_does_not_expect_ends_the_start_with_a_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(sink_module, "Producer", refuse)
    config = KafkaConfig.model_validate({"type": "kafka", "brokers": ("h:1",)})
    with pytest.raises(ConfigError, match=str(error)):
        build(config, SinkContext("h", "1"))


async def test_a_password_without_tls_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "password").write_text("the-secret")
    settings = {"type": "kafka", "brokers": ("h:1",)}
    for mechanism in ("SCRAM-SHA-256", "PLAIN"):
        sasl = {"mechanism": mechanism, "username": "u", "password": {"file": str(tmp_path / "password")}}
        build(KafkaConfig.model_validate({**settings, "sasl": sasl}), SinkContext("h", "1"))
    (record,) = caplog.records
    assert "without tls" in record.message
    assert "the-secret" not in caplog.text


async def test_failures_leave_no_threads_and_no_files_behind(segment: Path) -> None:
    """Each gives up a producer."""
    before = threading.active_count()
    files = len(list(Path("/proc/self/fd").iterdir()))
    tasks = len(list(Path("/proc/self/task").iterdir()))
    async with running(f"127.0.0.1:{free_port()}", request_timeout_s=0.1) as sink:
        for _ in range(8):
            assert await sink.deliver(parcels_of(segment)[-1:]) is Delivery.ERRORED
    await wait_for(lambda: len(list(Path("/proc/self/task").iterdir())) <= tasks + 2)
    assert threading.active_count() <= before + 2
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 4
