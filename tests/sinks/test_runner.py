"""The queue before a sink: order, when memory is given back, what is tried again."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from collector.batch import Block, Delivery, Note, NoteKind, SinkState, StreamKey
from sinks import runner as runner_module
from sinks.contract.base import Item
from sinks.runner import RETRY_S, TICK_S, SinkRunner

KEY = StreamKey(bytes(16), "i", 0)


def block(number: int, *, events: int = 10, size_bytes: int = 100) -> Block:
    return Block(KEY, number, 0, events, 0, 0, 0, (), (), frozenset(), frozenset(), bytes(size_bytes))


class FakeSink:
    """Answers as it is told, DELIVERED when it is told nothing more."""

    name = "fake"

    def __init__(self, *answers: Delivery, delay_s: float = 0.0) -> None:
        self.answers, self.delay_s = list(answers), delay_s
        self.deliveries: list[list[Item]] = []
        self.ticks_s: list[float] = []
        self.closed = False
        self.state = SinkState()
        self.discards = 0  # entries of the next delivery

    async def open(self) -> None: ...

    async def deliver(self, items: Sequence[Item]) -> Delivery:
        self.deliveries.append(list(items))
        await trio.sleep(self.delay_s)
        self.state = SinkState(discarded_events=self.state.discarded_events + self.discards)
        return self.answers.pop(0) if self.answers else Delivery.DELIVERED

    async def tick(self) -> None:
        self.ticks_s.append(trio.current_time())

    async def close(self) -> None:
        self.closed = True


async def run_to_the_end(runner: SinkRunner) -> None:
    runner.finish()
    with trio.fail_after(1000):
        await runner.run()


async def test_blocks_and_notes_are_delivered_in_their_order(autojump_clock: MockClock) -> None:
    sink = FakeSink()
    runner = SinkRunner(sink)
    items: list[Item] = [block(0), Note(NoteKind.SAMPLE, KEY, {}), block(1), Note(NoteKind.GAP, KEY, {}), block(2)]
    for item in items:
        runner.put(item)
    await run_to_the_end(runner)
    assert [item for delivery in sink.deliveries for item in delivery] == items


async def test_what_comes_during_a_delivery_goes_into_the_next(autojump_clock: MockClock) -> None:
    sink = FakeSink(delay_s=0.5)
    runner = SinkRunner(sink)
    blocks = [block(i) for i in range(4)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        for each in blocks:
            runner.put(each)
            await trio.sleep(0.2)
        runner.finish()
    assert sink.deliveries == [blocks[:1], blocks[1:3], blocks[3:]]


async def test_delivery_is_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "DELIVERY_BYTES", 250)
    sink = FakeSink()
    runner = SinkRunner(sink)
    for i in range(7):
        runner.put(block(i))
    await run_to_the_end(runner)
    assert [len(delivery) for delivery in sink.deliveries] == [3, 3, 1]


async def test_memory_is_given_back_after_the_delivery_and_not_before(autojump_clock: MockClock) -> None:
    released: list[int] = []
    sink = FakeSink(delay_s=3.0)
    runner = SinkRunner(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        runner.put(block(0), lambda: released.append(0))
        await trio.sleep(2.9)
        assert (released, runner.queued_events, runner.queued_bytes) == ([], 10, 100)
        await trio.sleep(0.2)
        assert (released, runner.queued_events, runner.queued_bytes) == ([0], 0, 0)
        runner.finish()
    assert (runner.delivered_events, runner.discarded_events) == (10, 0)


async def test_delivery_that_failed_is_tried_again_with_the_same_items(autojump_clock: MockClock) -> None:
    released: list[int] = []
    sink = FakeSink(Delivery.ERRORED, Delivery.ERRORED)
    runner = SinkRunner(sink)
    blocks = [block(0), block(1)]
    for each in blocks:
        runner.put(each, lambda: released.append(trio.current_time()))
    began_s = trio.current_time()
    await run_to_the_end(runner)
    assert sink.deliveries == [blocks] * 3
    assert released == [began_s + 2 * RETRY_S] * 2
    assert runner.delivered_events == 20


async def test_of_a_rejected_delivery_what_the_sink_did_not_take_is_discarded() -> None:
    released: list[int] = []
    sink = FakeSink(Delivery.REJECTED)
    runner = SinkRunner(sink)
    for number, events in ((0, 7), (1, 5)):
        runner.put(block(number, events=events), lambda number=number: released.append(number))
    sink.state = SinkState(discarded_events=3)  # of an earlier delivery
    sink.discards = 5
    await run_to_the_end(runner)
    assert (runner.discarded_events, runner.delivered_events, runner.queued_events) == (8, 7, 0)
    assert released == [0, 1]


async def test_sink_is_ticked_when_there_is_nothing_to_deliver(autojump_clock: MockClock) -> None:
    sink = FakeSink()
    runner = SinkRunner(sink)
    began_s = trio.current_time()
    with trio.move_on_after(3.5 * TICK_S):
        await runner.run()
    assert [at - began_s for at in sink.ticks_s] == [TICK_S, 2 * TICK_S, 3 * TICK_S]


async def test_sink_is_ticked_when_there_is_always_something_to_deliver(autojump_clock: MockClock) -> None:
    sink = FakeSink(delay_s=0.3)
    runner = SinkRunner(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        for i in range(40):
            runner.put(block(i))
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert 3 <= len(sink.ticks_s) <= 4


async def test_run_ends_when_no_more_comes_and_all_is_delivered(autojump_clock: MockClock) -> None:
    sink = FakeSink(delay_s=1.0)
    runner = SinkRunner(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await wait_all_tasks_blocked()
        runner.put(block(0))
        runner.finish()
    await runner.close()
    assert len(sink.deliveries) == 1
    assert sink.closed
