"""Several sinks at once: who is given what, and how they end together."""

import math
from dataclasses import replace
from typing import Any, cast

import trio
from trio.testing import MockClock

from collector.batch import Block, Missed, Note
from sinks.contract.base import Follower
from sinks.contract.options import FilterOptions
from sinks.fanout import Fanout, Route
from sinks.runner import SinkRunner
from tests.contract.made import block


class Archive:
    """Has nothing to deliver."""

    async def run(self) -> None: ...

    def finish(self) -> None: ...

    async def close(self) -> None: ...


class Slow:
    """A follower whose store never answers."""

    async def run(self, **_: Any) -> None:
        await trio.sleep_forever()

    async def drain(self) -> None:
        await trio.sleep_forever()


def make_fanout() -> Fanout:
    return Fanout(cast(SinkRunner, Archive()), (), (cast(Follower, Slow()),))


async def test_followers_end_at_the_deadline(autojump_clock: MockClock) -> None:
    fanout = make_fanout()
    started_s = trio.current_time()
    fanout.finish(started_s + 300)
    await fanout.run()
    await fanout.close()
    assert trio.current_time() == started_s + 300


async def test_an_earlier_deadline_ends_followers_that_are_at_it_already(autojump_clock: MockClock) -> None:
    """As the second signal sets it."""
    fanout = make_fanout()
    started_s = trio.current_time()
    fanout.finish(started_s + 300)
    await fanout.run()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fanout.close)
        await trio.sleep(1)
        fanout.finish(-math.inf)
    assert trio.current_time() == started_s + 1


async def test_a_later_deadline_changes_nothing(autojump_clock: MockClock) -> None:
    fanout = make_fanout()
    fanout.finish(-math.inf)
    fanout.finish(trio.current_time() + 300)
    started_s = trio.current_time()
    await fanout.run()
    await fanout.close()
    assert trio.current_time() == started_s


class Taker:
    """Stands in for a runner; notes what it is given."""

    def __init__(self) -> None:
        self.items: list[Block | Note] = []
        self.left_out = 0

    def put(self, item: Block | Note, release: Any = None) -> None:
        self.items.append(item)
        if release is not None:
            release()

    def leave_out(self, events: int) -> None:
        self.left_out += events


def make_routed(*routes: Route) -> Fanout:
    return Fanout(Taker(), routes)  # type: ignore[arg-type]


def test_gaps_of_a_block_of_which_nothing_passes_are_told() -> None:
    taker, elsewhere = Taker(), Taker()
    fanout = make_routed(
        Route(taker, FilterOptions(events=("irq:*",)), 0),  # type: ignore[arg-type]
        Route(elsewhere, FilterOptions(events=("irq:*",), cpus="7"), 0),  # type: ignore[arg-type]
    )
    gaps = (Missed(0, 5, "page"), Missed(10, None, "page"), Missed(10, None, "page"))
    released: list[int] = []
    fanout.put(replace(block(3), gaps=gaps, variants=(None,)), lambda: released.append(1))
    assert [of.body["count"] for of in taker.items if isinstance(of, Note)] == [5, None, None]
    assert len({str(of.body) for of in taker.items if isinstance(of, Note)}) == 3  # no two say the same
    assert {of.body["cause"] for of in taker.items if isinstance(of, Note)} == {"overrun"}
    assert (taker.left_out, elsewhere.left_out) == (10, 10)
    assert elsewhere.items == []
    assert released == [1]


def test_a_block_of_which_something_passes_keeps_its_gaps_itself() -> None:
    taker = Taker()
    fanout = make_routed(Route(taker, FilterOptions(events=("irq:*",)), 0))  # type: ignore[arg-type]
    whole = replace(block(3), gaps=(Missed(0, 5, "page"),))
    fanout.put(replace(whole, variants=(whole,)))
    assert taker.items == [whole]
