"""What every sink keeps, behind the runner and the spool that the daemon gives it, to a real receiver.

The way there is broken in all ways that a sink can meet. See harness.py for the clauses, and who has which.
"""

import gc
import os

import pytest
import trio

from tests.contract.arrived import ENTRIES, BlockSeen, GapSeen
from tests.contract.conftest import MakeWorld
from tests.contract.harness import Clause, clause
from tests.contract.world import Served


def assert_arrived(numbers: list[int], blocks: int) -> None:
    """Each at least once; the first arrivals in order."""
    assert list(dict.fromkeys(numbers)) == list(range(blocks))


@clause(Clause.ORDER)
async def test_everything_arrives_once_and_in_order(served: Served, make_world: MakeWorld) -> None:
    async with make_world().running() as world:
        await world.bring(25)
        assert world.ledger().connected
        assert world.ledger().last_error is None
    assert await served.numbers() == list(range(25))
    assert world.ledger().offered_events == world.ledger().acked_events == 25 * ENTRIES
    assert world.released == 25


@clause(Clause.ORDER)
async def test_a_gap_arrives_between_its_blocks(served: Served, make_world: MakeWorld) -> None:
    async with make_world().running() as world:
        world.put(range(3))
        world.put_gap()
        world.put(range(3, 5))
        await world.all_acknowledged(5)
    gap = GapSeen("dropped", 3, 1)
    assert await served.seen() == [*map(BlockSeen, range(3)), gap, *map(BlockSeen, range(3, 5))]


@clause(Clause.GOES_ON)
async def test_a_later_run_goes_on_behind_an_earlier_one(served: Served, make_world: MakeWorld) -> None:
    for run in range(3):
        async with make_world(run=run).running() as world:
            world.put(range(4 * run, 4 * run + 4))
            await world.all_acknowledged(4, last=4 * run + 3)
        assert world.ledger().replayed_events == 0
    assert await served.numbers() == list(range(12))


@clause(Clause.OUTAGE)
async def test_a_receiver_that_refuses_at_first_gets_everything(served: Served, make_world: MakeWorld) -> None:
    await served.way.refuse()
    async with make_world().running() as world:
        world.put(range(10))
        await world.failed()
        # Between a connection that is taken and its end a moment later, it is one.
        await world.until(lambda: not world.ledger().connected)
        assert world.ledger().last_error
        await served.way.allow()
        await world.all_acknowledged(10)
    assert_arrived(await served.numbers(), 10)


@clause(Clause.OUTAGE)
async def test_connections_that_are_cut_lose_nothing(served: Served, make_world: MakeWorld) -> None:
    async with make_world().running() as world:
        for at in range(0, 20, 4):
            world.put(range(at, at + 4))
            await trio.sleep(0.02)
            await served.way.cut()
        await world.all_acknowledged(20)
    assert_arrived(await served.numbers(), 20)


@clause(Clause.SILENCE)
async def test_a_receiver_that_takes_and_never_answers_is_given_up_in_time(
    served: Served, make_world: MakeWorld
) -> None:
    async with make_world().running() as world:
        await world.bring(3)
        await served.way.hold()
        world.put(range(3, 8))
        await world.failed()
        await served.way.cut()
        await served.way.flow()
        await world.all_acknowledged(8)
    assert_arrived(await served.numbers(), 8)


@clause(Clause.LATER_RUN)
async def test_what_is_not_delivered_is_there_for_the_next_run(served: Served, make_world: MakeWorld) -> None:
    await served.way.refuse()
    async with make_world().running() as world:
        world.put(range(6))
        await world.failed()
    assert world.ledger().spooled_events == 6 * ENTRIES
    await served.way.allow()
    await _run_later(served, make_world, 6)


@clause(Clause.LATER_RUN)
@pytest.mark.parametrize("end", ["deadline", "cancelled"])
async def test_what_is_on_its_way_at_the_end_is_there_for_the_next_run(
    served: Served, make_world: MakeWorld, end: str
) -> None:
    async with make_world().running(timeout_s=0.1) as world:
        await world.bring(3)
        await served.way.hold()
        world.put(range(3, 8))
        await world.all_offered(8)
        await world.until(lambda: world.ledger().in_flight > 0)
        if end == "cancelled":
            world.cancel()
    assert (world.ledger().acked_events, world.ledger().spooled_events) == (3 * ENTRIES, 5 * ENTRIES)
    assert world.released == 8
    await served.way.cut()
    await served.way.flow()
    await _run_later(served, make_world, 8, left=5)


async def _run_later(served: Served, make_world: MakeWorld, blocks: int, left: int | None = None) -> None:
    """The next run has blocks of its own behind what is left."""
    left = blocks if left is None else left
    async with make_world(run=1).running() as later:
        later.put([blocks])
        await later.until(lambda: later.ledger().acked_events == (left + 1) * ENTRIES)
    assert_arrived(await served.numbers(), blocks + 1)
    assert later.ledger().offered_events + later.ledger().replayed_events == (left + 1) * ENTRIES
    assert later.discarded_events == 0


@clause(Clause.TOLD)
async def test_what_comes_while_the_receiver_is_away_is_counted_and_never_waited_for(
    served: Served, make_world: MakeWorld
) -> None:
    async with make_world().running() as world:
        await world.bring(4)
        await served.way.refuse()
        world.put(range(4, 9))
        await world.until(lambda: world.released == 9)
        assert world.ledger().residual == world.ledger().queued_events == 0
        await served.way.allow()
        await world.until(lambda: world.ledger().connected)
        world.put(range(9, 12))
        await world.until(lambda: world.ledger().acked_events + world.discarded_events == 12 * ENTRIES)
        await world.until(lambda: served.arrives(11))
    assert await served.numbers() == [*range(4), *range(9, 12)]


@clause(Clause.FILTER)
async def test_what_the_filter_leaves_out_is_counted_and_not_sent(served: Served, make_world: MakeWorld) -> None:
    async with make_world(filter={"cpus": "1"}).running() as world:
        for number in range(5):
            world.put([number], cpu=1)
            world.put([100 + number])
        await world.all_acknowledged(5)
    assert await served.numbers() == list(range(5))
    found = world.ledger()
    assert (found.offered_events, found.filtered_events, found.acked_events) == (
        10 * ENTRIES, 5 * ENTRIES, 5 * ENTRIES,
    )  # fmt: skip


@clause(Clause.NO_LEAK)
async def test_connections_leave_no_descriptor_and_no_task(served: Served, make_world: MakeWorld) -> None:
    await _reconnect(served, make_world, 8)


@pytest.mark.parametrize("served", ["forward-blocks"], indirect=True)
async def test_a_thousand_connections_leave_no_descriptor_and_no_task(served: Served, make_world: MakeWorld) -> None:
    await _reconnect(served, make_world, 1000)


async def _reconnect(served: Served, make_world: MakeWorld, times: int) -> None:
    """Cut the connection so many times, each time with a block behind it."""
    world = make_world(retry_max_s=0.02)

    async def settled(blocks: int) -> None:
        """A block may be in the connection that is cut: that costs those nothing who keep it."""
        await world.until(lambda: world.ledger().acked_events + world.discarded_events == blocks * ENTRIES)
        await world.until(lambda: world.discarded_events > 0 or served.arrives(blocks - 1))

    async with world.running():
        world.put([0])
        await settled(1)
        gc.collect()
        fds, tasks = _fds(), trio.lowlevel.current_statistics().tasks_living
        for number in range(1, times + 1):
            await served.way.cut()
            world.put([number])
            await settled(number + 1)
        gc.collect()
        assert _fds() <= fds + 4  # a connection may be on its way in or out
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + 6
    lost = world.discarded_events // ENTRIES
    if not lost:
        assert_arrived(await served.numbers(), times + 1)


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))
