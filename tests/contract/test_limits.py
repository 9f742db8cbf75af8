"""What every sink with a log of its own does at the limit of it, and with what the receiver will never take."""

from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.contract.arrived import ENTRIES, gaps_of, numbers_of
from tests.contract.conftest import MakeWorld
from tests.contract.harness import Clause, clause
from tests.contract.made import MIB
from tests.contract.world import Served

SPOOL_BYTES = 8 * MIB
NOTES_BYTES = 100_000  # headers, names and notes, which no limit holds back


class Log(NamedTuple):
    """What is before the sink, and what is put into it, which is more than its limit."""

    name: str
    window_bytes: int  # limit in memory
    blocks: int


DISK = Log("disk", MIB, 24)
# More than can be on its way at once: that is what nobody gives up.
MEMORY = Log("memory", 10 * MIB, 30)

SIZE_BYTES = 500_000  # of each block


@clause(Clause.LIMITS)
@pytest.mark.parametrize(
    ("when_full", "log"),
    [
        ("spool", DISK), ("drop_oldest", DISK), ("drop_newest", DISK), ("block", DISK), ("drop_oldest", MEMORY),
        ("drop_newest", MEMORY), ("block", MEMORY),
    ],
    ids=lambda of: of if isinstance(of, str) else of.name,
)  # fmt: skip
async def test_a_policy_keeps_its_limit_and_says_what_it_gives_up(
    served: Served, make_world: MakeWorld, tmp_path: Path, when_full: str, log: Log
) -> None:
    blocks = log.blocks
    await served.way.refuse()
    world = make_world(
        when_full=when_full, queue_bytes=log.window_bytes, spool_bytes=SPOOL_BYTES,
        spool_folder=str(tmp_path / "spool") if log is DISK else None,
    )  # fmt: skip
    async with world.running():
        for number in range(blocks):
            world.put([number], size_bytes=SIZE_BYTES)
            await trio.sleep(0.001)
        await world.until(lambda: world.ledger().last_error is not None)
        if when_full == "block":
            assert world.released < blocks
            assert world.discarded_events == 0
        else:
            await world.until(lambda: world.released == blocks)
            assert world.discarded_events > 0
        found = world.ledger()
        assert found.residual == 0
        assert found.acked_events == 0
        assert found.held_bytes <= log.window_bytes + NOTES_BYTES
        assert found.spool_bytes <= SPOOL_BYTES + NOTES_BYTES
        await served.way.allow()
        await world.until(lambda: world.ledger().acked_events + world.discarded_events == blocks * ENTRIES)
    seen = await served.seen()
    numbers = list(dict.fromkeys(numbers_of(seen)))
    lost = [number for number in range(blocks) if number not in numbers]
    assert numbers == sorted(numbers)
    reason = "spool_full" if log is DISK else "queue_full"
    discarded = world.ledger().discarded_events
    assert discarded[reason] == sum(discarded.values()) == len(lost) * ENTRIES
    assert world.released == blocks
    if when_full == "drop_newest":
        assert lost == list(range(blocks - len(lost), blocks))
    elif lost:
        assert numbers[-1] == blocks - 1  # what was on its way when others had to go stands between those
    if log is DISK:
        told = [gap.count for gap in gaps_of(seen) if gap.cause == "discarded"]
        assert sum(count or 0 for count in told) == len(lost) * ENTRIES


@clause(Clause.REJECTED)
@pytest.mark.parametrize("when_full", ["spool", "block"])
async def test_what_the_receiver_will_never_take_is_given_up_alone(
    served: Served, make_world: MakeWorld, when_full: str
) -> None:
    world = make_world(when_full=when_full)
    assert served.make_unwanted is not None
    async with world.running():
        world.put(range(5))
        world.put_block(served.make_unwanted(5, world.run))
        world.put(range(6, 10))
        await world.until(lambda: world.ledger().acked_events == 9 * ENTRIES)
        found = world.ledger()
        assert found.discarded_events["rejected"] == world.discarded_events == ENTRIES
        assert found.request_failures["rejected"] > 0
    assert list(dict.fromkeys(await served.numbers())) == [*range(5), *range(6, 10)]
    if when_full == "spool":
        (kept,) = (world.spool / "rejected").iterdir()
        assert kept.name.endswith(".ftseg")
