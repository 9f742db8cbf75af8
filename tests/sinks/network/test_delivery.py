"""The runner of network sinks under a virtual clock: at least once, in order, and every entry accounted for."""

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from collector.archive.bodies import parse_gap, parse_sample
from collector.archive.frame import Kind
from collector.batch import Block, Delivery, StreamKey
from sinks.contract.base import Parcel, TransportState
from sinks.contract.options import FilterOptions, SinkCommon
from sinks.fanout import Route
from sinks.network.backlog import Backlog, MemoryBacklog
from sinks.network.delivery import NetworkRunner
from sinks.spool.policy import SpoolPolicy
from sinks.spool.spool import Spool
from tests.archive.encoder import Maps
from tests.contract.made import KEY, MIB, RUN, Context, block, gap, in_place, sample
from tests.contract.receiver import MemoryTransport, Receiver

MakeRunner = Callable[..., NetworkRunner]


@pytest.fixture(params=["disk", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_log(kind: str, folder: Path, options: SinkCommon, context: Context | None = None) -> Backlog:
    context = context or Context()
    if kind == "memory":
        return MemoryBacklog(context, Maps(), options.repeat_interval_s)
    policy = SpoolPolicy(folder, options.spool_bytes, options.when_full, options.repeat_interval_s, 1.0)
    return Spool(policy, context, Maps(), clock=lambda: time.monotonic())  # looked up when asked: a test may replace it


class World:
    """A receiver, and a runner before it."""

    def __init__(self, kind: str, folder: Path, transport: dict[str, Any] | None = None, **options: Any) -> None:
        defaults = {"when_full": "spool" if kind == "disk" else "block"}
        self.options = SinkCommon(type="memory", **(defaults | options))
        self.receiver = Receiver()
        self.transport = MemoryTransport(self.receiver, **(transport or {}))
        self.log = make_log(kind, folder, self.options)
        self.runner = NetworkRunner(self.transport, self.log, self.options, in_place, lambda: 0.0)
        self.released = 0

    def put(self, *numbers: int, **made: Any) -> None:
        for number in numbers:
            self.runner.put(block(number, **made), self._release)

    def _release(self) -> None:
        self.released += 1

    @asynccontextmanager
    async def running(self, timeout_s: float = 30.0) -> AsyncIterator[None]:
        """Runs it; at the end it has so long to deliver."""
        await self.runner.open()
        with trio.fail_after(100_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.runner.run)
                yield
                self.runner.finish(trio.current_time() + timeout_s)
        await self.runner.close()
        assert self.runner.snapshot().residual == 0

    async def deliver_all(self) -> None:
        """The receiver is there, and gets everything."""
        self.receiver.up = True
        await self.until(lambda: self.runner.snapshot().queued_events + self.runner.snapshot().spooled_events == 0)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await trio.sleep(0.05)


def gap_counts(receiver: Receiver) -> int:
    """Entries that the receiver was told to be missing."""
    return sum(parse_gap(of.body).count or 0 for of in receiver.arrived if of.kind == Kind.GAP)


async def test_everything_arrives_once_and_in_order(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path)
    async with world.running():
        world.put(0, 1)
        world.runner.put(gap())
        world.put(*range(2, 30))
    assert world.receiver.numbers == list(range(30))
    kinds = [parcel.kind for parcel in world.receiver.arrived]
    assert kinds[:5] == [Kind.HEADER, Kind.COVERAGE, Kind.OBJECT, Kind.BLOCK, Kind.BLOCK]
    assert kinds[5] == Kind.GAP
    assert kinds[-2:] == [Kind.COVERAGE, Kind.OBJECT]  # how far it observed, and the end of the run
    found = world.runner.snapshot()
    assert (found.acked_events, found.queued_events, found.spooled_events, found.in_flight) == (300, 0, 0, 0)
    assert (found.retries, found.resent_events, sum(found.request_failures.values())) == (0, 0, 0)
    assert world.released == 30
    assert 1 < world.receiver.most_in_flight <= world.transport.max_in_flight
    assert found.delivery_latency is not None
    assert sum(found.delivery_latency.counts) == 30


@pytest.mark.parametrize(
    ("limits", "large"),
    [
        pytest.param({"batch_bytes": 3500}, {"size_bytes": 20_000}, id="bytes"),
        pytest.param({"batch_bytes": MIB, "batch_events": 35}, {"events": 50}, id="entries"),
    ],
)
async def test_batches_are_bounded(
    kind: str, tmp_path: Path, autojump_clock: MockClock, limits: dict[str, int], large: dict[str, int]
) -> None:
    """What alone is more than a batch may have goes alone."""
    world = World(kind, tmp_path, limits)
    async with world.running():
        world.put(*range(10))
        world.put(10, **large)
    assert world.receiver.numbers == list(range(11))
    assert max(len(numbers) for numbers in world.receiver.on_wire) == 3
    assert [10] in world.receiver.on_wire


async def test_a_batch_that_is_not_full_waits_for_more(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path, {"batch_bytes": 10_000}, linger_s=1.0)
    world.receiver.delay_s = 0.0
    async with world.running():
        began_s = trio.current_time()
        for number in range(4):
            world.put(number)
            await trio.sleep(0.2)
        await world.until(lambda: bool(world.receiver.numbers))
        assert trio.current_time() - began_s == pytest.approx(1.0, abs=0.1)
        world.put(*range(4, 15))  # more than a batch
        await world.until(lambda: len(world.receiver.numbers) > 4)
        assert trio.current_time() - began_s < 1.5
    assert len(world.receiver.on_wire[0]) == 4
    assert world.receiver.numbers == list(range(15))


async def test_a_receiver_that_was_away_gets_everything_in_order(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(kind, tmp_path)
    world.receiver.up = False
    async with world.running():
        world.put(*range(20))
        await trio.sleep(100)
        found = world.runner.snapshot()
        assert (found.acked_events, found.connected, found.last_error) == (0, False, "connection refused")
        assert found.stalled_s == pytest.approx(100, abs=2)
        assert found.request_failures["error"] > 5
        waits = found.request_failures["error"]
        assert waits < 40  # it backs off
        world.receiver.up = True
        await world.until(lambda: world.runner.snapshot().acked_events == 200)
        assert world.runner.snapshot().stalled_s == 0
        world.put(*range(20, 25))
    assert world.receiver.numbers == list(range(25))


async def test_after_a_failure_all_that_is_not_acknowledged_is_sent_again_in_order(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(kind, tmp_path, {"batch_bytes": 2500})
    async with world.running():
        world.put(*range(8))
        world.receiver.loses_acks = 1
        await trio.sleep(0.005)
    assert world.receiver.once == list(range(8))
    assert len(world.receiver.numbers) > 8  # duplicates, which their numbers tell
    sent = [number for numbers in world.receiver.on_wire for number in numbers]
    (back,) = [at for at in range(1, len(sent)) if sent[at] < sent[at - 1]]  # it went back once, ...
    assert sent == [*range(sent[back - 1] + 1), *range(sent[back], 8)]  # ... and left nothing out
    found = world.runner.snapshot()
    assert found.resent_events > 0
    assert (found.acked_events, found.discarded_events["rejected"]) == (80, 0)


@pytest.mark.parametrize("answer", [Delivery.ERRORED, Delivery.REJECTED])
async def test_nothing_overtakes_a_batch_that_comes_back_at_once(
    kind: str, tmp_path: Path, autojump_clock: MockClock, answer: Delivery
) -> None:
    """The next one may be about to begin just then; tasks take their turns by chance, so it is tried often."""
    world = World(kind, tmp_path, {"batch_bytes": 2500})
    deliver = world.transport.deliver
    calls = 0

    async def come_back(parcels: Sequence[Parcel]) -> Delivery:
        nonlocal calls
        calls += 1
        if calls % 2 and len(parcels) > 1:
            await trio.lowlevel.checkpoint()
            return answer
        return await deliver(parcels)

    world.transport.deliver = come_back  # type: ignore[method-assign]
    async with world.running(timeout_s=10_000):
        for number in range(40):
            world.put(*range(8 * number, 8 * number + 8))
            await trio.sleep(100)
    assert world.receiver.once == list(range(320))
    assert world.receiver.numbers == sorted(world.receiver.numbers)


async def test_a_receiver_that_takes_and_never_answers_is_given_up_after_the_deadline(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(kind, tmp_path, request_timeout_s=2.0)
    world.transport.timeout_s = 1e9  # one that has no deadline of its own
    world.receiver.silent = True
    async with world.running():
        world.put(0, 1, 2)
        await trio.sleep(20)
        assert world.runner.snapshot().request_failures["timeout"] >= 2
        world.receiver.silent = False
    assert world.receiver.once == [0, 1, 2]


async def test_a_batch_of_which_parts_are_acknowledged_is_not_given_up(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(kind, tmp_path, request_timeout_s=2.0)
    deliver = world.transport.deliver

    async def deliver_slowly(parcels: Sequence[Parcel]) -> Delivery:
        for part in range(60):
            await trio.sleep(1.9)
            world.transport.state = TransportState(True, acknowledged=part + 1)
        return await deliver(parcels)

    world.transport.deliver = deliver_slowly  # type: ignore[method-assign]
    async with world.running(timeout_s=1000):
        world.put(0, 1, 2)
    assert world.receiver.numbers == [0, 1, 2]
    assert sum(world.runner.snapshot().request_failures.values()) == 0


async def test_a_block_that_is_rejected_is_found_counted_and_the_others_arrive(
    kind: str, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(kind, tmp_path, {"batch_bytes": 100_000})
    world.receiver.rejects = {3, 4}
    async with world.running():
        world.put(*range(10))
    assert world.receiver.once == [0, 1, 2, 5, 6, 7, 8, 9]
    found = world.runner.snapshot()
    assert (found.discarded_events["rejected"], found.acked_events) == (20, 80)
    assert found.discarded_bytes["rejected"] > 2000
    messages = [record for record in caplog.records if "will not take" in record.message]
    assert len(messages) == 2
    if kind == "disk":  # the bytes are kept beside the spool
        assert [path.name[-6:] for path in (tmp_path / "rejected").iterdir()] == [".ftseg"]


async def test_a_defect_in_a_transport_is_logged_and_tried_again(
    kind: str, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(kind, tmp_path)
    deliver, calls = world.transport.deliver, 0

    async def fail_once(parcels: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("oops")
        return await deliver(parcels)

    world.transport.deliver = fail_once  # type: ignore[method-assign]
    world.transport.crash = RuntimeError("crashed")
    async with world.running():
        world.put(0)
        await trio.sleep(60)
        world.put(1)
    assert world.receiver.once == [0, 1]
    assert world.runner.snapshot().request_failures["defect"] == 1
    assert world.transport.runs == 2
    assert "oops" in caplog.text
    assert "crashed" in caplog.text


async def test_at_the_end_an_absent_receiver_costs_no_time_with_a_spool(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World("disk", tmp_path)
    world.receiver.up = False
    async with world.running():
        world.put(0, 1, 2)
        await trio.sleep(3)
        before_s = trio.current_time()
    assert trio.current_time() - before_s < 1
    assert world.runner.snapshot().spooled_events == 30
    # The next run brings it, and what it has itself.
    later = World("disk", tmp_path)
    async with later.running():
        later.put(7)
    assert later.receiver.numbers == [0, 1, 2, 7]
    found = later.runner.snapshot()
    assert (found.replayed_events, found.acked_events, found.spooled_events) == (30, 40, 0)
    assert list(tmp_path.glob("*.ftseg*")) == []


async def test_at_the_end_what_is_in_memory_alone_is_counted(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World("memory", tmp_path)
    world.receiver.up = False
    async with world.running(timeout_s=7):
        world.put(0, 1, 2)
        await trio.sleep(3)
        before_s = trio.current_time()
    assert trio.current_time() - before_s == pytest.approx(7, abs=0.1)  # it tried to the end
    found = world.runner.snapshot()
    assert (found.discarded_events["shutdown"], found.queued_events) == (30, 0)
    assert world.released == 3
    assert "entries are lost to a sink" in caplog.text


async def test_a_second_request_to_end_shortens_the_first(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path)
    world.receiver.silent = True
    async with world.running(timeout_s=1000):
        world.put(0)
        await trio.sleep(1)
        world.runner.finish(trio.current_time() + 2)
        before_s = trio.current_time()
    assert trio.current_time() - before_s <= 2.1
    found = world.runner.snapshot()
    assert found.spooled_events + found.discarded_events["shutdown"] == 10


async def test_a_window_that_overflows_is_read_back_from_the_spool(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World("disk", tmp_path, {"batch_bytes": MIB // 2}, queue_bytes=MIB, spool_bytes=64 * MIB)
    world.receiver.up = False
    async with world.running():
        for number in range(100):
            world.put(number, size_bytes=100_000)
            if number % 10 == 0:
                await trio.sleep(1)
        await world.until(lambda: world.released == 100)
        found = world.runner.snapshot()
        assert found.held_bytes <= MIB
        assert found.spool_bytes > 9 * MIB
        assert (found.queued_events, found.spooled_events) == (0, 1000)
        world.receiver.up = True
        await world.until(lambda: world.runner.snapshot().acked_events >= 500)
        world.put(*range(100, 110), size_bytes=100_000)  # while it is behind
        await world.deliver_all()
    assert world.receiver.once == list(range(110))
    assert world.runner.snapshot().acked_events == 1100
    assert list(tmp_path.glob("*.ftseg*")) == []


@pytest.mark.parametrize("when_full", ["spool", "drop_oldest"])
async def test_a_full_spool_gives_up_its_oldest_segment_and_says_so(
    tmp_path: Path, autojump_clock: MockClock, when_full: str
) -> None:
    world = World(
        "disk", tmp_path, {"batch_bytes": MIB}, queue_bytes=MIB, spool_bytes=8 * MIB, when_full=when_full,
        spool_folder=str(tmp_path),
    )  # fmt: skip
    world.receiver.up = False
    async with world.running():
        for number in range(26):
            world.put(number, size_bytes=500_000)
            await trio.sleep(0.1)
        found = world.runner.snapshot()
        assert found.spool_bytes <= 8 * MIB + 100_000
        lost = found.discarded_events["spool_full"]
        assert lost >= 40
        assert found.residual == 0
        await world.deliver_all()
    assert world.receiver.once == list(range(lost // 10, 26))
    assert gap_counts(world.receiver) == lost  # the receiver is told, of what waited in memory too


async def test_what_a_full_spool_gave_up_is_not_said_to_be_in_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    first = World("disk", tmp_path, queue_bytes=4 * MIB, spool_bytes=8 * MIB)
    first.receiver.up = False
    async with first.running(1.0):
        for number in range(60):
            first.put(number, size_bytes=300_000)
            await trio.sleep(0.1)
    found = first.runner.snapshot()
    assert found.discarded_events["spool_full"] + found.spooled_events == 600
    second = World("disk", tmp_path)
    async with second.running():
        await second.deliver_all()
    assert second.runner.snapshot().replayed_events == found.spooled_events
    assert len(second.receiver.once) * 10 == found.spooled_events


@pytest.mark.parametrize("harm", ["removed", "damaged"])
async def test_what_does_not_read_back_is_counted(tmp_path: Path, autojump_clock: MockClock, harm: str) -> None:
    world = World("disk", tmp_path, queue_bytes=MIB, spool_bytes=64 * MIB)
    world.receiver.up = False
    async with world.running():
        for number in range(60):
            world.put(number, size_bytes=300_000)
            await trio.sleep(0.05)
        if harm == "removed":
            sorted(tmp_path.glob("*.ftseg"))[1].unlink()
        else:
            (part,) = tmp_path.glob("*.part")
            with open(part, "r+b") as file:
                file.seek(part.stat().st_size - 100_000)
                file.write(b"XXXX")
        await world.deliver_all()
        found = world.runner.snapshot()
    assert found.discarded_events["damaged"] == 600 - found.acked_events > 0
    assert found.acked_events == 10 * len(world.receiver.once)


async def test_a_spool_smaller_than_one_append_counts_each_entry_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World("disk", tmp_path, queue_bytes=16 * MIB, spool_bytes=8 * MIB)
    world.receiver.up = False
    async with world.running():
        for number in range(0, 60, 30):
            world.put(*range(number, number + 30), size_bytes=300_000)
            await trio.sleep(1)
        await world.deliver_all()
    found = world.runner.snapshot()
    assert found.acked_events == 10 * len(world.receiver.once)
    assert found.acked_events + found.discarded_events["spool_full"] == 600
    assert gap_counts(world.receiver) == found.discarded_events["spool_full"]


async def test_a_disk_that_hangs_keeps_no_memory_from_the_archive(tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World("disk", tmp_path)
    hangs = trio.Event()

    async def in_thread(job: Callable[[], Any]) -> Any:
        if world.released < 40:
            await trio.sleep(0)
        else:
            await hangs.wait()
        return job()

    world.runner._feeder._in_thread = in_thread
    async with world.running():
        for number in range(100):
            world.put(number, size_bytes=300_000)
            await trio.sleep(0.5)
        held = 100 - world.released
        assert held * 300_000 <= 16 * MIB
        lost = world.runner.snapshot().discarded_events["suspended"]
        assert lost > 0
        hangs.set()
        await world.deliver_all()
        world.put(100)
    assert len(world.receiver.once) == 101 - lost // 10
    assert gap_counts(world.receiver) == lost


async def test_samples_do_not_pile_up_before_a_receiver_that_is_away(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(
        kind, tmp_path, {"batch_bytes": MIB}, queue_bytes=MIB, spool_bytes=8 * MIB, when_full="block",
        spool_folder=str(tmp_path) if kind == "disk" else None,
    )  # fmt: skip
    world.receiver.up = False
    async with world.running(100):
        world.put(*range(40), size_bytes=400_000)
        for at in range(1000):
            world.runner.put(sample(at))
            await trio.sleep(0.01)
        assert len(world.runner._feeder.intake._items) < 50
        await world.deliver_all()
    samples = [parse_sample(of.body) for of in world.receiver.arrived if of.kind == Kind.SAMPLE]
    assert samples[-1].totals.events == 999


async def test_nothing_stalls_where_nothing_waits(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path)
    async with world.running():
        world.put(0)
        await world.deliver_all()
        world.runner.put(sample(1, keep=False))
        await trio.sleep(1000)
        assert world.runner.stalled_s() == 0


async def test_drop_newest_keeps_the_oldest(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(
        kind, tmp_path, {"batch_bytes": MIB}, queue_bytes=MIB, spool_bytes=8 * MIB, when_full="drop_newest",
        spool_folder=str(tmp_path) if kind == "disk" else None,
    )  # fmt: skip
    world.receiver.up = False
    async with world.running():
        for number in range(20):
            world.put(number, size_bytes=500_000)
            await trio.sleep(0.1)
        reason = "spool_full" if kind == "disk" else "queue_full"
        lost = world.runner.snapshot().discarded_events[reason]
        assert lost >= 40
        assert world.released == 20
        await world.deliver_all()
    assert world.receiver.once == list(range(20 - lost // 10))


async def test_drop_oldest_without_a_spool_keeps_the_newest_and_what_they_need(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World("memory", tmp_path, {"batch_bytes": MIB}, queue_bytes=MIB, when_full="drop_oldest")
    world.receiver.up = False
    async with world.running():
        for number in range(20):
            world.put(number, size_bytes=300_000)
            await trio.sleep(0.1)
        found = world.runner.snapshot()
        assert found.held_bytes <= MIB
        assert found.discarded_events["queue_full"] == 200 - found.queued_events
        world.receiver.up = True
    numbers = world.receiver.once
    assert numbers[-1] == 19
    kinds = [parcel.kind for parcel in world.receiver.arrived]
    assert kinds[0] == Kind.HEADER
    assert kinds.index(Kind.OBJECT) < kinds.index(Kind.BLOCK)
    assert gap_counts(world.receiver) == found.discarded_events["queue_full"]


async def test_block_holds_the_memory_until_there_is_room(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(
        kind, tmp_path, {"batch_bytes": MIB}, queue_bytes=MIB, spool_bytes=8 * MIB, when_full="block",
        spool_folder=str(tmp_path) if kind == "disk" else None,
    )  # fmt: skip
    world.receiver.up = False
    async with world.running(timeout_s=100):
        world.put(*range(30), size_bytes=400_000)
        await trio.sleep(50)
        held = 30 - world.released
        assert held > 5
        assert world.runner.snapshot().queued_events >= held * 10
        world.receiver.up = True
        await world.until(lambda: world.released == 30)
    assert world.receiver.once == list(range(30))
    assert sum(world.runner.snapshot().discarded_events.values()) == 0


async def test_one_block_larger_than_the_window_passes(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path, queue_bytes=MIB)
    async with world.running():
        world.put(0, 1)
        world.put(2, size_bytes=3 * MIB)
        world.put(3, 4)
    assert world.receiver.once == [0, 1, 2, 3, 4]


async def test_header_and_objects_are_sent_again_each_interval(
    kind: str, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", trio.current_time)
    world = World(kind, tmp_path, repeat_interval_s=60.0)
    async with world.running():
        for number in range(4):
            world.put(number)
            await trio.sleep(40)
    kinds = [parcel.kind for parcel in world.receiver.arrived]
    assert kinds.count(Kind.HEADER) == 2
    second = kinds.index(Kind.HEADER, 1)
    assert kinds[second - 1] == Kind.COVERAGE  # how long the first one observed
    assert Kind.OBJECT in kinds[second : kinds.index(Kind.BLOCK, second)]


async def test_a_cancelled_runner_gives_all_memory_back(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path)
    world.receiver.silent = True
    await world.runner.open()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.runner.run)
            world.put(*range(10))
    assert world.released == 10
    assert world.runner.snapshot().residual == 0


async def test_notes_alone_are_delivered_too(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    world = World(kind, tmp_path)
    async with world.running():
        world.runner.put(gap())
    assert Kind.GAP in [parcel.kind for parcel in world.receiver.arrived]


def test_the_made_block_is_one() -> None:
    made = block(3)
    assert isinstance(made, Block)


# ---- what retention of the archive asks


@dataclass
class Segment:
    last_blocks: Mapping[StreamKey, int] | None
    name: str = "x.ftseg"


async def test_a_segment_is_acknowledged_once_its_last_blocks_are(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(kind, tmp_path)
    route = Route(world.runner, FilterOptions(cpus="0"))

    def has(last_block: int) -> bool:
        other = StreamKey(RUN, "main", 1)  # which the sink is not given
        return route.is_acknowledged(Segment({KEY: last_block, other: 1000}))

    async with world.running():
        world.put(0, 1)
        await world.deliver_all()
        assert has(1)
        assert has(5)  # the last block that it was given; of those behind it the filter left nothing
        world.receiver.up = False
        world.put(2, 3)
        await trio.sleep(50)
        assert (has(1), has(2), has(3)) == (True, False, False)
        await world.deliver_all()
        assert has(3)


async def test_segments_of_earlier_runs_wait_for_what_they_left_in_the_spool(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    first = World("disk", tmp_path)
    first.receiver.up = False
    async with first.running(1.0):
        first.put(0, 1)
    second = World("disk", tmp_path)
    second.receiver.up = False
    route = Route(second.runner, FilterOptions())
    async with second.running():
        await trio.sleep(50)
        assert not route.is_acknowledged(Segment(None))
        second.receiver.up = True
        second.put(2)  # of this run: what is acknowledged of the earlier ones says nothing
        await second.until(lambda: second.runner.snapshot().acked_events >= 10)
        assert route.is_acknowledged(Segment(None)) == (second.runner.snapshot().acked_events == 30)
        await second.deliver_all()
        await second.until(lambda: route.is_acknowledged(Segment(None)))
    assert second.receiver.numbers == [0, 1, 2]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_the_receiver_does_all_arrive_in_order(
    kind: str, tmp_path: Path, autojump_clock: MockClock, seed: int
) -> None:
    chance = random.Random(seed)
    transport = {"batch_bytes": chance.choice([1000, 5000, 200_000]), "max_in_flight": chance.choice([1, 3, 8])}
    world = World(kind, tmp_path, transport, queue_bytes=MIB, spool_bytes=64 * MIB, request_timeout_s=2.0)
    world.transport.timeout_s = 3.0
    receiver = world.receiver
    async with world.running():
        for number in range(150):
            world.put(number, size_bytes=chance.choice([100, 3000, 60_000]))
            if chance.random() < 0.1:
                world.runner.put(gap())
            match chance.randrange(12):
                case 0:
                    receiver.up = not receiver.up
                case 1:
                    receiver.silent = not receiver.silent
                case 2:
                    receiver.loses_acks = chance.randrange(3)
                case 3:
                    receiver.delay_s = chance.choice([0.001, 0.1, 1.5])
                case 4:
                    await trio.sleep(chance.random() * 5)
                case _:
                    await trio.sleep(0)
            assert world.runner.snapshot().residual == 0
        receiver.silent, receiver.loses_acks = False, 0
        await world.deliver_all()
    # What came over a batch that was lost came again behind it.
    assert list(dict.fromkeys(reversed(receiver.numbers))) == list(range(149, -1, -1))
    assert world.released == 150
    found = world.runner.snapshot()
    assert (found.acked_events, sum(found.discarded_events.values())) == (1500, 0)
