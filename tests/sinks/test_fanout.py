"""The end of all sinks together."""

import math
from typing import Any, cast

import trio
from trio.testing import MockClock

from sinks.base import Follower
from sinks.fanout import Fanout
from sinks.runner import SinkRunner


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
