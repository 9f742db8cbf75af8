"""What brokers and librdkafka refuse: messages that are too large, and a producer that librdkafka calls broken."""

import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from confluent_kafka import KafkaError

from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind
from collector.batch import Delivery
from sinks.contract.base import Parcel
from sinks.kafka.sink import KafkaSink
from tests.sinks.kafka.brokers import Tansu, create_topics, mock_cluster
from tests.sinks.kafka.meddler import Meddler
from tests.sinks.kafka.test_sink import ALL, deliver_until_done, read_numbers, rebuild, running, wait_for
from tests.sinks.made import counts_of, make_segment
from tests.sinks.parcels import parcels_of

pytestmark = pytest.mark.network

ORDERED = {"host/main/0": list(range(20)), "host/main/1": list(range(20))}


@asynccontextmanager
async def meddling(folder: Path) -> AsyncIterator[tuple[Meddler, str]]:
    """Gives what stands before a broker, and its address."""
    broker = Tansu(folder)
    meddler = Meddler(broker.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(meddler.run)
        broker.advertised = meddler.port
        with broker:
            await trio.to_thread.run_sync(create_topics, broker.address, "ftrace-maps", ("ftrace",))
            yield meddler, broker.address
        nursery.cancel_scope.cancel()


async def first_numbers(address: str) -> dict[str, list[int]]:
    """{key: block numbers in the order in which they are there, each once}."""
    seen: dict[str, list[int]] = {}
    for key, number in await trio.to_thread.run_sync(read_numbers, address):
        seen.setdefault(key, []).append(number)
    return {key: list(dict.fromkeys(numbers)) for key, numbers in seen.items()}


async def test_after_a_fatal_error_a_new_producer_goes_on_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker says that a number is out of order: librdkafka calls that fatal, and takes nothing any more."""
    parcels = parcels_of(make_segment(tmp_path / "a", blocks=20))
    batches = [parcels[at : at + 6] for at in range(0, len(parcels), 6)]
    fatal: list[str] = []
    hear = KafkaSink._hear

    def note(sink: KafkaSink, channel: object, error: KafkaError) -> None:
        if error.fatal():
            fatal.append(error.name())
        hear(sink, channel, error)  # type: ignore[arg-type]

    monkeypatch.setattr(KafkaSink, "_hear", note)
    answers: dict[int, Delivery] = {}
    async with meddling(tmp_path) as (meddler, address), running(address, request_timeout_s=5.0) as sink:
        assert await sink.deliver(batches[0]) is Delivery.DELIVERED
        used = sink._channel
        assert used is not None
        errors = iter([KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
        meddler.error_of = lambda request: next(errors, 0) if b"first_ts" in request else 0

        async def deliver(at: int) -> None:
            answers[at] = await sink.deliver(batches[at])

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for at in range(1, len(batches)):
                    if Delivery.ERRORED in answers.values():
                        break
                    nursery.start_soon(deliver, at)
                    await trio.testing.wait_all_tasks_blocked(0)
        assert meddler.told == 1
        failed = min(at for at, answer in answers.items() if answer is not Delivery.DELIVERED)
        for batch in batches[failed:]:  # as the runner does, with one after another
            await deliver_until_done(sink, batch)
        assert sink._channel is not used
        with trio.fail_after(10):
            await used.closed.wait()
        assert fatal
        assert await first_numbers(address) == ORDERED
        await rebuild(address, tmp_path / "b", "ftrace-maps", "ftrace")
    assert sum(counts_of(tmp_path / "b").values()) == 20 * 2 * 20


async def test_nothing_overtakes_what_a_fatal_error_took_back(tmp_path: Path) -> None:
    """Between the error and the answer for what was on its way there is a moment in which the runner knows nothing."""
    parcels = parcels_of(make_segment(tmp_path / "a", blocks=20))
    answers: list[Delivery] = []
    with Tansu(tmp_path) as broker:
        create_topics(broker.address, "ftrace-maps", ("ftrace",))
        assert broker.process is not None
        async with running(broker.address) as sink:
            assert await sink.deliver(parcels[:10]) is Delivery.DELIVERED
            broker.process.send_signal(signal.SIGSTOP)

            async def deliver() -> None:
                answers.append(await sink.deliver(parcels[10:20]))

            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(deliver)
                    await trio.testing.wait_all_tasks_blocked(0)
                    assert sink._channel is not None
                    sink._hear(sink._channel, KafkaError(KafkaError._FATAL, "made", fatal=True))
                    assert await sink.deliver(parcels[20:]) is Delivery.ERRORED
                assert answers == [Delivery.ERRORED]
            assert sink.state.last_error == "made (_FATAL)"
            broker.process.send_signal(signal.SIGCONT)
            for batch in (parcels[10:20], parcels[20:]):
                await deliver_until_done(sink, batch)
        assert await first_numbers(broker.address) == ORDERED


async def test_a_fatal_error_is_told_at_once_and_ends_the_thread(tmp_path: Path) -> None:
    """A broker too old for what the sink promises."""
    parcels = parcels_of(make_segment(tmp_path / "a"))
    old = {"api.version.request": False, "broker.version.fallback": "0.8.2"}
    with mock_cluster() as address:
        async with running(address, options=old) as sink:
            for _ in range(3):
                with trio.fail_after(10):
                    assert await sink.deliver(parcels) is Delivery.ERRORED
                assert "requires Apache Kafka broker version" in (sink.state.last_error or "")
        await wait_for(lambda: not [of for of in threading.enumerate() if of.name == "kafka-poll"])


def too_large(like: Parcel) -> Parcel:
    """An object that no message holds; of a type that this reader does not know."""
    body = {**unpack(like.body, "object"), "id": bytes(8), "type": "later", "name": bytes(20_000)}
    return Parcel(Kind.OBJECT, pack(body), like.run)


async def test_a_map_that_is_too_large_is_refused_itself_and_not_the_blocks(tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path / "a"))
    first = next(at for at, parcel in enumerate(parcels) if parcel.kind is Kind.BLOCK)
    large = too_large(parcels[1])
    with mock_cluster() as address:
        async with running(address, maps="repeat", message_max_bytes=16384) as sink:
            for at in (first, first + 1):  # before any stream is told of maps, and after
                parcels.insert(at, large)
            answers = [(parcel.kind, await sink.deliver([parcel])) for parcel in parcels]
            refused = [(kind, answer) for kind, answer in answers if answer is not Delivery.DELIVERED]
            assert refused == [(Kind.OBJECT, Delivery.REJECTED)] * 2
            assert await sink.deliver([large]) is Delivery.REJECTED
            assert "of kind object" in (sink.state.last_error or "")
        await rebuild(address, tmp_path / "b", "ftrace")
    assert counts_of(tmp_path / "b") == ALL


async def test_a_map_that_brokers_refuse_before_a_block_is_said_once_and_the_block_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic's limit may be lower than ours."""
    parcels = parcels_of(make_segment(tmp_path / "a"))
    caplog.set_level(logging.ERROR)
    async with meddling(tmp_path) as (meddler, address), running(address, maps="repeat") as sink:
        meddler.error_of = lambda request: KafkaError.MSG_SIZE_TOO_LARGE if b"comms" in request else 0
        for parcel in parcels:
            with trio.fail_after(30):  # this broker fences a producer behind a refusal: that is tried again
                while (answer := await sink.deliver([parcel])) is Delivery.ERRORED:
                    pass
            assert answer is Delivery.DELIVERED
        assert meddler.told >= 1
        await rebuild(address, tmp_path / "b", "ftrace")
    assert counts_of(tmp_path / "b") == ALL
    said = [record for record in caplog.records if "will not take names" in record.message]
    assert len(said) == len([p for p in parcels if p.kind is Kind.OBJECT and b"comms" in p.body])
