"""What a sink has in the place of a clause that it lacks: see LACKS in harness.py."""

import pytest
import trio.testing

from collector.archive.verify import verify_paths
from tests.contract.arrived import ENTRIES, gaps_of, numbers_of
from tests.contract.conftest import MakeWorld
from tests.contract.made import MIB
from tests.contract.world import Served

of_the_file = pytest.mark.parametrize("served", ["file"], indirect=True)
of_the_object_store = pytest.mark.parametrize("served", ["objectstore"], indirect=True)
of_the_tap = pytest.mark.parametrize("served", ["tap"], indirect=True)


@of_the_file
async def test_what_a_full_disk_refuses_is_told_by_a_gap_once_there_is_room(
    served: Served, make_world: MakeWorld
) -> None:
    async with make_world().running() as world:
        await world.bring(3)
        await served.way.refuse()
        world.put(range(3, 7))
        await world.failed()
        assert "No space left on device" in str(world.ledger().last_error)
        await served.way.allow()
        await world.until(lambda: world.ledger().connected)
        world.put(range(7, 9))
        await world.all_acknowledged(5)
    seen = await served.seen()
    assert numbers_of(seen) == [*range(3), 7, 8]
    assert [(gap.cause, gap.count, gap.from_ts) for gap in gaps_of(seen)] == [("discarded", 4 * ENTRIES, 3000)]
    assert world.discarded_events == 4 * ENTRIES
    assert verify_paths([world.folder]) == []


@of_the_file
async def test_a_write_that_ends_in_its_middle_costs_what_was_in_it(served: Served, make_world: MakeWorld) -> None:
    async with make_world().running() as world:
        await world.bring(3)
        await served.way.cut()
        world.put([3])
        await world.until(lambda: world.discarded_events > 0 and world.ledger().connected)
        world.put([4])
        await world.all_acknowledged(4)
    seen = await served.seen()
    assert numbers_of(seen) == [0, 1, 2, 4]
    assert [gap.count for gap in gaps_of(seen)] == [ENTRIES]
    assert verify_paths([world.folder]) == []


@of_the_file
async def test_what_waits_for_a_disk_that_hangs_keeps_its_memory(served: Served, make_world: MakeWorld) -> None:
    async with make_world().running() as world:
        await world.bring(1)
        await served.way.hold()
        world.put(range(1, 6))
        await trio.testing.wait_all_tasks_blocked()
        assert world.released == 1
        assert world.ledger().queued_events == 5 * ENTRIES
        await served.way.flow()
        await world.all_acknowledged(6)
    assert await served.numbers() == list(range(6))
    assert world.released == 6


@of_the_object_store
async def test_what_retention_takes_before_it_is_uploaded_is_counted(served: Served, make_world: MakeWorld) -> None:
    async with make_world(archive={"max_bytes": 12_000}).running() as world:
        await world.bring(1)
        await served.way.refuse()
        for number in range(1, 12):
            world.put([number])
            await world.all_offered(number + 1)
        assert world.discarded_events > 0
        await served.way.allow()
        await world.until(lambda: world.ledger().spooled_events == 0)
    numbers = await served.numbers()
    lost = [number for number in range(12) if number not in numbers]
    assert numbers == [0, *range(lost[-1] + 1, 12)]
    assert world.ledger().discarded_events == {"removed": len(lost) * ENTRIES}
    assert world.ledger().offered_events == 12 * ENTRIES


@of_the_object_store
async def test_retention_can_wait_for_what_is_not_uploaded(served: Served, make_world: MakeWorld) -> None:
    await served.way.refuse()
    world = make_world(archive={"max_bytes": 12_000})
    world.sink.acknowledgements.extend(world.fanout.acknowledgements())
    async with world.running():
        world.put(range(12))
        await world.failed()
        assert world.sink.state.segments == 12
        await served.way.allow()
        await world.all_acknowledged(12)
    assert await served.numbers() == list(range(12))
    assert world.discarded_events == 0


@of_the_tap
async def test_nobody_has_to_listen(served: Served, make_world: MakeWorld) -> None:
    async with make_world().running() as world:
        await served.way.refuse()
        world.put(range(100), size_bytes=100_000)
        await world.until(lambda: world.ledger().acked_events == 100 * ENTRIES)
        assert world.released == 100
    assert await served.numbers() == []
    assert world.discarded_events == 0


@of_the_tap
async def test_a_slow_subscriber_is_ended_counted_and_never_waited_for(served: Served, make_world: MakeWorld) -> None:
    async with make_world(subscriber_bytes=MIB).running() as world:
        await world.bring(3)
        await served.way.hold()
        assert world.ledger().slow_subscribers == 0
        world.put(range(3, 43), size_bytes=100_000)
        await world.until(lambda: world.ledger().acked_events == 43 * ENTRIES)
        assert world.ledger().slow_subscribers == 1
        await served.way.flow()
        await served.way.cut()
        world.put(range(43, 46))
        await world.all_acknowledged(46)
    numbers = await served.numbers()
    assert numbers == sorted(numbers)  # what had been on its way to it when it was ended came still
    assert numbers[:3] == [0, 1, 2]
    assert numbers[-3:] == [43, 44, 45]
    assert len(numbers) < 46
