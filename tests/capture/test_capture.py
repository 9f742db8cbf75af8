"""The scheduler: who is visited when, and that a slow sink, an error or the end loses nothing.

The threads are replaced by calls in the event loop, so that trio's virtual clock decides what happens when.
"""

import errno
import os
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from collector.batch import Block, Delivery, SinkState, StreamKey
from collector.capture.budget import ByteBudget, Lease
from collector.capture.capture import Capture
from collector.capture.sizing import BLOCK_HEAD_BYTES, ENTRY_BYTES
from collector.capture.visit import Ask, Visit
from sinks.contract.base import Item
from sinks.runner import SinkRunner
from tests.capture.rig import (
    FULL_ENTRIES,
    NOISY_ENTRIES,
    RUN,
    Rig,
    as_ring,
    full_page,
    make_stats,
    make_worker,
    noisy_page,
    page,
)
from tests.pages import as_file


class InlineWorkers:
    """Does the work in the event loop; remembers how many streams each hop took."""

    def __init__(self, count: int = 2, hop_s: float = 0.0) -> None:
        self.count, self.hop_s = count, hop_s
        self.hops: list[int] = []
        self._worker = make_worker()

    async def run(self, job: Callable[[Any], Any]) -> Any:
        if job.args:  # of the scheduler; a drain's job has none
            self.hops.append(len(job.args[0]))
        with trio.CancelScope(shield=True):
            await trio.sleep(self.hop_s)
        return job(self._worker)


class FakeStream:
    """A stream that does what it is told; visits are (time, ask)."""

    is_live = True

    def __init__(self, fd: int, cpu: int, react: Callable[["FakeStream", Ask], Visit] | None = None) -> None:
        self.key = StreamKey(RUN, "i", cpu)
        self.fd = fd
        self.lease: Lease | None = None
        self.visits: list[tuple[float, Ask]] = []
        self._react = react or (lambda _, __: Visit(at_end=True))

    def visit(self, worker: object, ask: Ask, max_bytes: int) -> Visit:
        self.visits.append((trio.current_time() - start_s(), ask))
        return self._react(self, ask)


_start_s = [0.0]


def start_s() -> float:
    return _start_s[0]


def make_capture(
    streams: Sequence[Any],
    workers: InlineWorkers,
    *,
    budget: ByteBudget | None = None,
    emit: Callable[[Any, Visit], None] = lambda *_: None,
    flush_interval_s: float = 1.0,
) -> Capture:
    _start_s[0] = trio.current_time()
    return Capture(streams, workers, budget or ByteBudget(1 << 20), emit, flush_interval_s, 0.0)  # type: ignore[arg-type]


@asynccontextmanager
async def running(capture: Capture) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(capture.run)
        yield
        nursery.cancel_scope.cancel()


def pipes(stack: ExitStack, count: int) -> list[tuple[int, Callable[[bytes], None]]]:
    return [stack.enter_context(as_ring()) for _ in range(count)]


# ---- who is visited when


async def test_every_stream_is_visited_before_the_start_is_told(autojump_clock: MockClock) -> None:
    with ExitStack() as stack:
        streams = [FakeStream(fd, cpu) for cpu, (fd, _) in enumerate(pipes(stack, 3))]
        async with running(make_capture(streams, InlineWorkers())):
            assert [[time for time, _ in stream.visits] for stream in streams] == [[0.0]] * 3


async def test_quiet_stream_is_flushed_at_each_interval(autojump_clock: MockClock) -> None:
    """Its entries are below the watermark: nothing else would fetch them."""
    with ExitStack() as stack:
        ((fd, _),) = pipes(stack, 1)
        stream = FakeStream(fd, 0)
        async with running(make_capture([stream], InlineWorkers(), flush_interval_s=2.0)):
            await trio.sleep(7)
        assert [time for time, _ in stream.visits] == [0.0, 2.0, 4.0, 6.0]
        assert all(ask & Ask.FLUSH for _, ask in stream.visits)


async def test_stream_is_read_as_soon_as_its_watermark_is_reached(autojump_clock: MockClock) -> None:
    with ExitStack() as stack:
        (fd, feed), (quiet_fd, _) = pipes(stack, 2)
        busy = FakeStream(fd, 0, lambda s, _: (os.read(s.fd, 9) if s.visits[1:] else None, Visit(at_end=True))[1])
        quiet = FakeStream(quiet_fd, 1)
        async with running(make_capture([busy, quiet], InlineWorkers(), flush_interval_s=10.0)):
            await trio.sleep(3)
            feed(b"full")
            await trio.sleep(1)
        assert busy.visits[1:] == [(3.0, Ask.READ)]
        assert len(quiet.visits) == 1


async def test_one_hop_takes_all_streams_that_are_quiet(autojump_clock: MockClock) -> None:
    with ExitStack() as stack:
        streams = [FakeStream(fd, cpu) for cpu, (fd, _) in enumerate(pipes(stack, 40))]
        workers = InlineWorkers(2)
        async with running(make_capture(streams, workers)):
            await trio.sleep(2.5)
        assert workers.hops == [40, 40, 40]


async def test_busy_streams_are_shared_out_to_the_workers(autojump_clock: MockClock) -> None:
    with ExitStack() as stack:
        ends = pipes(stack, 4)
        read_it = lambda s, _: (os.read(s.fd, 9) if s.visits[1:] else None, Visit(at_end=True))[1]  # noqa: E731
        streams = [FakeStream(fd, cpu, read_it) for cpu, (fd, _) in enumerate(ends)]
        workers = InlineWorkers(2, hop_s=0.1)
        async with running(make_capture(streams, workers, flush_interval_s=100.0)):
            workers.hops.clear()
            for _, feed in ends:
                feed(b"full")
            await trio.sleep(1)
        assert workers.hops == [2, 2]


async def test_stream_is_never_in_two_hops_at_once(autojump_clock: MockClock) -> None:
    """It stays readable while a slow hop has it, and flushes come meanwhile."""
    with ExitStack() as stack:
        ((fd, feed),) = pipes(stack, 1)
        stream = FakeStream(fd, 0)
        workers = InlineWorkers(3, hop_s=2.5)
        async with running(make_capture([stream], workers)):
            feed(b"always readable")
            await trio.sleep(30)
        times = [time for time, _ in stream.visits]
        assert len(times) > 5
        assert all(later - earlier >= 2.5 for earlier, later in pairwise(times))


async def test_flush_that_comes_while_a_stream_is_visited_is_made_up_for(autojump_clock: MockClock) -> None:
    with ExitStack() as stack:
        ((fd, _),) = pipes(stack, 1)
        stream = FakeStream(fd, 0)
        async with running(make_capture([stream], InlineWorkers(1, hop_s=0.7), flush_interval_s=1.0)):
            await trio.sleep(10)
        assert len([ask for _, ask in stream.visits if ask & Ask.FLUSH]) >= 9


# ---- errors


async def test_error_of_one_ring_is_tried_again_at_each_flush_and_holds_up_nobody(
    autojump_clock: MockClock,
) -> None:
    """poll() of a ring that cannot be read says ready, always."""
    with ExitStack() as stack:
        (bad_fd, feed_bad), (fd, feed) = pipes(stack, 2)
        feed_bad(b"always readable")
        bad = FakeStream(bad_fd, 0, lambda *_: Visit(errno=errno.ENODEV))
        good = FakeStream(fd, 1, lambda s, _: (os.read(s.fd, 9) if len(s.visits) == 2 else None, Visit(at_end=True))[1])
        async with running(make_capture([bad, good], InlineWorkers())):
            await trio.sleep(0.5)
            feed(b"full")
            await trio.sleep(5)
        assert (0.5, Ask.READ) in good.visits
        assert len(good.visits) == 7
        assert len(bad.visits) <= 13  # twice a flush, not in a circle


@pytest.mark.parametrize(("number", "warns"), [(errno.ENODEV, False), (errno.EIO, True)])
async def test_only_a_surprising_errno_is_logged(
    autojump_clock: MockClock, number: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        ((fd, _),) = pipes(stack, 1)
        async with running(make_capture([FakeStream(fd, 3, lambda *_: Visit(errno=number))], InlineWorkers())):
            await trio.sleep(0.5)
        fields = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
        assert fields == ([{"instance": "i", "cpu": 3, "error": os.strerror(number)}] if warns else [])


# ---- the budget


def starving(size_bytes: int, fed: list[tuple[int, int]]) -> Callable[[FakeStream, Ask], Visit]:
    """How a stream reacts that wants so much once: (its CPU, bytes of the lease) goes into `fed` when it has it."""

    def starve(stream: FakeStream, ask: Ask) -> Visit:
        if stream.lease is None:
            return Visit(starved_bytes=size_bytes)
        fed.append((stream.key.cpu, stream.lease.size_bytes))
        stream.lease.release()
        stream.lease = None
        stream._react = lambda *_: Visit(at_end=True)
        return Visit(at_end=True)

    return starve


async def test_starving_stream_waits_for_its_lease_and_the_others_are_visited(
    autojump_clock: MockClock,
) -> None:
    budget = ByteBudget(100)
    all_of_it = budget.try_take(100)
    assert all_of_it is not None
    fed: list[tuple[int, int]] = []
    with ExitStack() as stack:
        (fd, _), (other_fd, _) = pipes(stack, 2)
        hungry, other = FakeStream(fd, 0), FakeStream(other_fd, 1)
        capture = make_capture([hungry, other], InlineWorkers(), budget=budget)
        async with running(capture):
            hungry._react = starving(60, fed)
            await trio.sleep(5.5)
            assert [time for time, _ in hungry.visits] == [0.0, 1.0]
            assert [time for time, _ in other.visits] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
            assert capture.starving == 1
            all_of_it.release()
            await trio.sleep(0.1)
            assert hungry.visits[2][1] & Ask.FLUSH  # what it was asked for
            assert (fed, capture.starving) == ([(0, 60)], 0)
            await trio.sleep(1)
        assert len(hungry.visits) == 4


async def test_starving_streams_are_fed_one_after_the_other(autojump_clock: MockClock) -> None:
    """Each wants the whole budget; no one is forgotten."""
    budget = ByteBudget(100)
    all_of_it = budget.try_take(100)
    assert all_of_it is not None
    fed: list[tuple[int, int]] = []
    with ExitStack() as stack:
        streams = [FakeStream(fd, cpu) for cpu, (fd, _) in enumerate(pipes(stack, 5))]
        async with running(make_capture(streams, InlineWorkers(1), budget=budget)):
            for stream in streams:
                stream._react = starving(100, fed)
            await trio.sleep(1.5)
            all_of_it.release()
            await trio.sleep(0.2)
        assert sorted(fed) == [(cpu, 100) for cpu in (0, 1, 2, 3, 4)]


class Gathered:
    """What came out of a capture, delivered or not."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[Block]] = defaultdict(list)  # {cpu: blocks in the order of delivery}

    def add(self, items: Sequence[Item]) -> None:
        for item in items:
            assert isinstance(item, Block)
            self.blocks[item.stream.cpu].append(item)

    def check_order(self) -> None:
        for blocks in self.blocks.values():
            assert [b.number for b in blocks] == list(range(len(blocks)))
            assert [b.ordinal for b in blocks] == [sum(b.events for b in blocks[:i]) for i in range(len(blocks))]

    def events(self, cpu: int) -> int:
        return sum(block.events for block in self.blocks[cpu])


class SlowSink:
    """A sink that takes its time: `delay()` seconds for a delivery."""

    name = "slow"
    state = SinkState()

    def __init__(self, gathered: Gathered, delay: Callable[[], float]) -> None:
        self.gathered, self.delay = gathered, delay

    async def open(self) -> None: ...

    async def deliver(self, items: Sequence[Item]) -> Delivery:
        await trio.sleep(self.delay())
        self.gathered.add(items)
        return Delivery.DELIVERED

    async def tick(self) -> None: ...

    async def close(self) -> None: ...


class Bench:
    """Real streams on pipes, a budget, and a slow sink behind them."""

    def __init__(self, stack: ExitStack, streams: int, budget_bytes: int, delay: Callable[[], float]) -> None:
        self.budget = ByteBudget(budget_bytes)
        self.ends = pipes(stack, streams)
        self.rigs = [
            Rig(fd, cpu=cpu, room_pages=2, budget=self.budget, block_age_s=5.0, stats=make_stats())
            for cpu, (fd, _) in enumerate(self.ends)
        ]
        self.streams = [rig.stream for rig in self.rigs]
        self.gathered = Gathered()
        self.runner = SinkRunner(SlowSink(self.gathered, delay))
        self.capture = make_capture(
            self.streams, InlineWorkers(2, hop_s=0.001), budget=self.budget, emit=self.emit, flush_interval_s=1.0
        )

    def emit(self, stream: Any, visit: Visit) -> None:
        for block, lease in visit.blocks:
            self.runner.put(block, lease.release)

    async def drain(self) -> list[bool]:
        done: list[bool] = []

        async def drain(stream: Any) -> None:
            done.append(await self.capture.drain(stream))

        async with trio.open_nursery() as nursery:
            for stream in self.streams:
                nursery.start_soon(drain, stream)
        return done


BLOCK_NEED = 2 * 4096 + ENTRY_BYTES * 2 * FULL_ENTRIES + BLOCK_HEAD_BYTES  # of a full batch of the bench


async def test_slow_sink_stops_the_readers_and_the_rings_take_it(autojump_clock: MockClock) -> None:
    """Then it wakes up, and everything arrives."""
    blocked = trio.Event()

    class Stuck(SlowSink):
        async def deliver(self, items: Sequence[Item]) -> Delivery:
            await blocked.wait()
            return await super().deliver(items)

    with ExitStack() as stack:
        bench = Bench(stack, 2, 2 * BLOCK_NEED, lambda: 0.0)
        bench.runner.sink = Stuck(bench.gathered, lambda: 0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runner.run)
            async with running(bench.capture):
                for _, feed in bench.ends:
                    feed(b"".join(noisy_page(1 + 10000 * i) for i in range(16)))
                await trio.sleep(20)
                read = [stream.reader_pages for stream in bench.streams]
                assert bench.capture.starving == 2
                assert sum(read) < 16  # of 32
                await trio.sleep(100)
                assert [stream.reader_pages for stream in bench.streams] == read
                blocked.set()
                await trio.sleep(20)
                assert [stream.reader_pages for stream in bench.streams] == [16, 16]
                assert bench.capture.starving == 0
            assert await bench.drain() == [True, True]
            bench.runner.finish()
        bench.gathered.check_order()
        assert [bench.gathered.events(cpu) for cpu in (0, 1)] == [16 * NOISY_ENTRIES] * 2
        assert bench.budget.used_bytes == 0
        assert bench.budget.peak_bytes <= bench.budget.limit_bytes


@pytest.mark.parametrize("seed", range(3))
async def test_128_streams_and_a_tiny_budget_do_not_deadlock(autojump_clock: MockClock, seed: int) -> None:
    """Room for one block and a bit, a sink of random slowness, bursts at random times: all arrives, in order."""
    dice = random.Random(seed)
    fed: dict[int, int] = defaultdict(int)
    with ExitStack() as stack:
        bench = Bench(stack, 128, BLOCK_NEED + 5000, lambda: dice.choice([0.0, 0.0, 0.01, 0.3]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runner.run)
            async with running(bench.capture):
                for at in range(12):
                    for cpu in dice.sample(range(128), 64):
                        entries = dice.choice([1, 30, NOISY_ENTRIES])
                        if fed[cpu] < 15 * NOISY_ENTRIES:
                            bench.ends[cpu][1](noisy_page(1 + at * 10000, entries))
                            fed[cpu] += entries
                    await trio.sleep(dice.choice([0.0, 0.1, 2.0]))
            assert all(await bench.drain())
            bench.runner.finish()
    bench.gathered.check_order()
    assert {cpu: bench.gathered.events(cpu) for cpu in fed} == fed
    assert bench.budget.peak_bytes <= bench.budget.limit_bytes
    assert bench.budget.used_bytes == 0


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.001, 0.0015, 0.003, 0.5, 1.0005])
async def test_cancelled_run_loses_nothing(autojump_clock: MockClock, after_s: float) -> None:
    """Cancelled at any moment, starving or in a hop; the drain brings the rest."""
    with ExitStack() as stack:
        bench = Bench(stack, 4, BLOCK_NEED + 5000, lambda: 0.002)
        for _, feed in bench.ends:
            feed(b"".join(noisy_page(1 + 10000 * i) for i in range(8)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.runner.run)
            with trio.move_on_after(after_s):
                await bench.capture.run()
            assert await bench.drain() == [True] * 4
            bench.runner.finish()
    bench.gathered.check_order()
    assert [bench.gathered.events(cpu) for cpu in range(4)] == [8 * NOISY_ENTRIES] * 4
    assert bench.budget.used_bytes == 0


# ---- the end


async def drain_alone(rig: Rig) -> tuple[bool, list[Block]]:
    blocks: list[Block] = []
    capture = make_capture(
        [rig.stream], InlineWorkers(), budget=rig.budget, emit=lambda _, v: blocks.extend(b for b, _ in v.blocks)
    )
    with trio.fail_after(60):
        return await capture.drain(rig.stream), blocks


async def test_drain_reads_a_recording_to_its_end_and_closes_its_block(autojump_clock: MockClock) -> None:
    with as_file(b"".join(page(2, 1 + 100 * i) for i in range(9))) as fd:
        drained, blocks = await drain_alone(Rig(fd, room_pages=2, stats=make_stats(read=18)))
    assert drained
    assert sum(block.events for block in blocks) == 18


async def test_drain_goes_on_until_the_kernel_has_no_entry_left(autojump_clock: MockClock) -> None:
    """A read of 0 or EAGAIN is not the end as long as stats says that entries wait."""
    with as_ring() as (fd, feed):
        rig = Rig(fd, stats=make_stats(entries=3))
        async with trio.open_nursery() as nursery:
            result: list[tuple[bool, list[Block]]] = []

            async def drain() -> None:
                result.append(await drain_alone(rig))

            nursery.start_soon(drain)
            await trio.sleep(1)
            assert result == []
            feed(page(3))
            rig.say(read=3)
        ((drained, blocks),) = result
    assert drained
    assert [block.events for block in blocks] == [3]
    assert rig.stream.totals().settled


async def test_drain_of_a_ring_that_fails_gives_up_and_keeps_what_was_read(autojump_clock: MockClock) -> None:
    with as_file(page(2)) as fd:
        rig = Rig(fd, stats=make_stats(read=2, entries=5))
        rig.visit()
        rig.batch.errno = errno.EIO
        drained, blocks = await drain_alone(rig)
    assert not drained
    assert [block.events for block in blocks] == [2]


async def test_drain_of_a_cpu_that_is_gone_keeps_what_was_read(autojump_clock: MockClock) -> None:
    with as_file(page(2)) as fd:
        rig = Rig(fd, stats=make_stats(read=2))
        rig.visit()
        rig.batch.errno = errno.ENODEV
        drained, blocks = await drain_alone(rig)
    assert drained
    assert [block.events for block in blocks] == [2]


async def test_block_of_a_stream_that_cannot_be_drained_is_closed_without_reading_on(autojump_clock: MockClock) -> None:
    with as_file(page(2) + page(3, 2000)) as fd:
        rig = Rig(fd, stats=make_stats(read=2, entries=3))
        rig.visit()
        blocks: list[Block] = []
        capture = make_capture([rig.stream], InlineWorkers(), emit=lambda _, v: blocks.extend(b for b, _ in v.blocks))
        await capture.close_block(rig.stream)
    assert [block.events for block in blocks] == [2]
    totals = rig.stream.totals()
    assert (totals.events, totals.entries, totals.settled) == (2, 3, False)


async def test_drain_waits_for_the_budget(autojump_clock: MockClock) -> None:
    budget = ByteBudget(1 << 20)
    all_of_it = budget.try_take(1 << 20)
    assert all_of_it is not None
    with as_file(full_page() * 6) as fd:
        rig = Rig(fd, room_pages=2, budget=budget, stats=make_stats(read=6 * FULL_ENTRIES))
        async with trio.open_nursery() as nursery:
            result: list[tuple[bool, list[Block]]] = []

            async def drain() -> None:
                result.append(await drain_alone(rig))

            nursery.start_soon(drain)
            await trio.sleep(5)
            assert result == []
            all_of_it.release()
        ((drained, blocks),) = result
    assert drained
    assert sum(block.events for block in blocks) == 6 * FULL_ENTRIES
    assert budget.used_bytes == sum(len(block.body) for block in blocks)
