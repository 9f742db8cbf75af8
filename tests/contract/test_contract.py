"""What every network sink keeps, through its runner and its spool, to a real server that the way to is broken."""

import gc
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from collector.batch import Block, StreamKey
from sinks.assemble import spool_policy
from sinks.delivery import NetworkRunner
from sinks.log import MemoryLog
from sinks.options import SinkCommon
from sinks.spool import Spool
from tests.archive.encoder import PLAIN_ID, build_block
from tests.contract.harness import HARNESSES, Harness, Served
from tests.contract.made import RUN, Context, Maps, in_place

ENTRIES = 20
LIMIT_S = 60.0  # of any wait; the machine may be busy


@pytest.fixture(params=sorted(HARNESSES))
def harness(request: pytest.FixtureRequest) -> Harness:
    return HARNESSES[str(request.param)]


def block(number: int) -> Block:
    rows = [(1000 * number + at, 7, 0, 0, PLAIN_ID, at) for at in range(ENTRIES)]
    return build_block(rows, number=number, ordinal=number * ENTRIES, run=RUN)


class World:
    """A sink on its way to a server."""

    def __init__(self, served: Served, folder: Path, **options: object) -> None:
        self.served = served
        self.options, self.transport = served.make(**options)
        self.log = _make_log(self.options, folder)
        self.runner = NetworkRunner(self.transport, self.log, self.options, in_place)

    def put(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.runner.put(block(number))

    @asynccontextmanager
    async def running(self, timeout_s: float = LIMIT_S) -> AsyncIterator[None]:
        await self.runner.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.runner.run)
            yield
            self.runner.finish(trio.current_time() + timeout_s)
        await self.runner.close()
        assert self.runner.snapshot().residual == 0

    async def all_acknowledged(self, blocks: int) -> None:
        with trio.fail_after(LIMIT_S):
            while self.runner.snapshot().acked_events < blocks * ENTRIES:
                await trio.sleep(0.01)

    async def failed(self) -> None:
        with trio.fail_after(LIMIT_S):
            while not sum(self.runner.snapshot().request_failures.values()):
                await trio.sleep(0.01)


def _make_log(options: SinkCommon, folder: Path) -> Spool | MemoryLog:
    context = Context(StreamKey(RUN, "main", 0))
    if options.spools:
        return Spool(spool_policy(options, folder), context, Maps())
    return MemoryLog(context, Maps(), options.repeat_interval_s)


def assert_arrived(numbers: list[int], blocks: int) -> None:
    """Each at least once; the first arrivals in order."""
    assert list(dict.fromkeys(numbers)) == list(range(blocks))


@pytest.mark.parametrize("when_full", ["spool", "block"])
async def test_everything_arrives_in_order(harness: Harness, tmp_path: Path, when_full: str) -> None:
    async with harness(tmp_path) as served:
        world = World(served, tmp_path, when_full=when_full)
        async with world.running():
            world.put(range(25))
            await world.all_acknowledged(25)
            assert world.transport.state.connected
        assert await served.numbers() == list(range(25))
    assert world.runner.snapshot().acked_events == 25 * ENTRIES


async def test_a_server_that_refuses_at_first_gets_everything(harness: Harness, tmp_path: Path) -> None:
    async with harness(tmp_path) as served:
        served.proxy.refuse(True)
        world = World(served, tmp_path)
        async with world.running():
            world.put(range(10))
            await world.failed()
            assert not world.transport.state.connected
            assert world.transport.state.last_error
            served.proxy.refuse(False)
            await world.all_acknowledged(10)
        assert_arrived(await served.numbers(), 10)


async def test_connections_that_are_cut_lose_nothing(harness: Harness, tmp_path: Path) -> None:
    async with harness(tmp_path) as served:
        world = World(served, tmp_path)
        async with world.running():
            for at in range(0, 20, 4):
                world.put(range(at, at + 4))
                await trio.sleep(0.02)
                await served.proxy.cut()
            await world.all_acknowledged(20)
        assert_arrived(await served.numbers(), 20)


async def test_a_server_that_takes_and_never_answers_is_given_up_in_time(harness: Harness, tmp_path: Path) -> None:
    async with harness(tmp_path) as served:
        world = World(served, tmp_path)
        async with world.running():
            world.put(range(3))
            await world.all_acknowledged(3)
            served.proxy.hold()
            world.put(range(3, 8))
            await world.failed()
            await served.proxy.cut()
            served.proxy.flow()
            await world.all_acknowledged(8)
        assert_arrived(await served.numbers(), 8)


async def test_what_is_not_delivered_is_there_for_the_next_run(harness: Harness, tmp_path: Path) -> None:
    async with harness(tmp_path) as served:
        served.proxy.refuse(True)
        world = World(served, tmp_path)
        async with world.running():
            world.put(range(6))
            await world.failed()
        assert world.runner.snapshot().spooled_events == 6 * ENTRIES
        served.proxy.refuse(False)
        later = World(served, tmp_path)
        async with later.running():
            await later.all_acknowledged(6)
        assert_arrived(await served.numbers(), 6)
        assert later.runner.snapshot().replayed_events == 6 * ENTRIES


async def _reconnect(served: Served, folder: Path, times: int) -> None:
    """Cut the connection so many times, each time with a block behind it."""
    world = World(served, folder, retry_max_s=0.02)
    async with world.running():
        world.put([0])
        await world.all_acknowledged(1)
        gc.collect()
        fds, tasks = _fds(), trio.lowlevel.current_statistics().tasks_living
        for number in range(1, times + 1):
            await served.proxy.cut()
            world.put([number])
            await world.all_acknowledged(number + 1)
        gc.collect()
        assert _fds() <= fds + 4  # a connection may be on its way in or out
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + 6
    assert_arrived(await served.numbers(), times + 1)


async def test_connections_leave_no_descriptor_and_no_task(harness: Harness, tmp_path: Path) -> None:
    async with harness(tmp_path) as served:
        await _reconnect(served, tmp_path, 8)


async def test_a_thousand_connections_leave_no_descriptor_and_no_task(tmp_path: Path) -> None:
    async with HARNESSES["forward"](tmp_path) as served:
        await _reconnect(served, tmp_path, 1000)
        assert served.proxy.accepted >= 1000


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))
