"""The byte budget: who is served when, and that it is never exceeded nor lost."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trio.testing import MockClock, wait_all_tasks_blocked

from collector.capture.budget import ByteBudget, Lease
from collector.errors import ConfigError


def taken(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


# ---- at once


def test_budget_is_given_up_to_its_last_byte_and_no_further() -> None:
    budget = ByteBudget(100)
    assert taken(budget.try_take(60)).size_bytes == 60
    assert budget.try_take(41) is None
    assert taken(budget.try_take(40)).size_bytes == 40
    assert budget.try_take(1) is None
    assert budget.used_bytes == 100


def test_lease_shrinks_and_never_grows() -> None:
    budget = ByteBudget(100)
    lease = taken(budget.try_take(80))
    lease.shrink(30)
    assert (lease.size_bytes, budget.used_bytes) == (30, 30)
    lease.shrink(50)
    assert (lease.size_bytes, budget.used_bytes) == (30, 30)


def test_lease_is_given_back_once() -> None:
    budget = ByteBudget(100)
    lease = taken(budget.try_take(80))
    lease.release()
    lease.release()
    assert budget.used_bytes == 0


def test_peak_is_remembered() -> None:
    budget = ByteBudget(100)
    taken(budget.try_take(70)).release()
    taken(budget.try_take(20))
    assert budget.peak_bytes == 70


# ---- in turn


async def test_more_than_the_whole_budget_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"capture\.memory_budget_bytes.*101 bytes; got 100; raise it"):
        await ByteBudget(100).take(101)


async def test_the_whole_budget_can_be_taken() -> None:
    budget = ByteBudget(100)
    assert (await budget.take(100)).size_bytes == 100


async def test_waiters_are_served_in_the_order_they_came() -> None:
    """A large request is not passed over for small ones that would fit."""
    budget = ByteBudget(100)
    first = await budget.take(90)
    served: list[str] = []
    leases: list[Lease] = []

    async def wait_for(name: str, size_bytes: int) -> None:
        leases.append(await budget.take(size_bytes))
        served.append(name)

    async with trio.open_nursery() as nursery:
        for name, size_bytes in (("large", 80), ("small", 5), ("middle", 30)):
            nursery.start_soon(wait_for, name, size_bytes)
            await wait_all_tasks_blocked()
        assert served == []
        first.release()
        await wait_all_tasks_blocked()
        assert sorted(served) == ["large", "small"]  # woken at once, and Trio runs them in any order
        leases[served.index("large")].release()
    assert served[2:] == ["middle"]
    assert budget.used_bytes == 35


@asynccontextmanager
async def one_waiting_for(budget: ByteBudget, size_bytes: int) -> AsyncIterator[trio.CancelScope]:
    """A task that waits for so much; at the end it has got it, or was cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.take, size_bytes)
        await wait_all_tasks_blocked()
        yield nursery.cancel_scope


async def test_nobody_passes_those_who_wait() -> None:
    budget = ByteBudget(100)
    first = await budget.take(60)
    async with one_waiting_for(budget, 50):
        assert budget.try_take(10) is None  # it would fit
        first.release()
        await wait_all_tasks_blocked()
    assert taken(budget.try_take(50)).size_bytes == 50


async def test_shrinking_wakes_a_waiter() -> None:
    budget = ByteBudget(100)
    lease = await budget.take(100)
    async with one_waiting_for(budget, 40):
        lease.shrink(60)
    assert budget.used_bytes == 100


async def test_release_in_a_thread_wakes_a_waiter() -> None:
    budget = ByteBudget(100)
    lease = await budget.take(100)
    with trio.fail_after(10):
        async with one_waiting_for(budget, 100):
            thread = threading.Thread(target=lease.release)
            thread.start()
        thread.join()
    assert budget.used_bytes == 100


# ---- those who give up


async def test_one_who_gives_up_waiting_takes_nothing() -> None:
    budget = ByteBudget(100)
    lease = await budget.take(100)
    async with one_waiting_for(budget, 50) as scope:
        scope.cancel()
    lease.release()
    assert budget.used_bytes == 0
    assert taken(budget.try_take(100)).size_bytes == 100


async def test_one_who_gives_up_waiting_lets_the_next_go_on() -> None:
    """The large one was in the way; what the next wants was free all the time."""
    budget = ByteBudget(100)
    await budget.take(50)
    large = trio.CancelScope()

    async def take_large() -> None:
        with large:
            await budget.take(90)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_large)
            await wait_all_tasks_blocked()
            nursery.start_soon(budget.take, 50)
            await wait_all_tasks_blocked()
            large.cancel()
    assert budget.used_bytes == 100


@pytest.mark.parametrize("release_first", [True, False])
async def test_turn_that_comes_as_one_gives_up_is_not_lost(release_first: bool) -> None:
    budget = ByteBudget(100)
    lease = await budget.take(100)
    scope = trio.CancelScope()
    got: list[Lease] = []

    async def take_or_give_up() -> None:
        with scope:
            got.append(await budget.take(60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_or_give_up)
        await wait_all_tasks_blocked()
        nursery.start_soon(budget.take, 30)
        await wait_all_tasks_blocked()
        steps: list[Callable[[], None]] = [lease.release, budget._wake, scope.cancel]
        for step in steps if release_first else (scope.cancel, lease.release, budget._wake):
            step()
    assert budget.used_bytes == 30 + sum(each.size_bytes for each in got)
    assert len(got) == release_first


async def test_taking_in_a_cancelled_scope_takes_nothing() -> None:
    budget = ByteBudget(100)
    with trio.CancelScope() as scope:
        scope.cancel()
        await budget.take(10)
    assert scope.cancelled_caught
    assert budget.used_bytes == 0


# ---- any order of all that can be done


class AnyOrder(RuleBasedStateMachine):
    """Takes, gives back and gives up in any order, in one event loop that is stepped by hand.

    The model: leases in hand, and requests that wait, oldest first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Requester] = []
        self.leases: list[Lease] = []

    @initialize(limit=st.integers(1, 50))
    def begin(self, limit: int) -> None:
        self.budget = ByteBudget(limit)
        self.loop = Loop()

    @rule(size=st.integers(1, 50))
    def try_take(self, size: int) -> None:
        waiting = any(task.waits for task in self.tasks)
        lease = self.budget.try_take(size)
        assert (lease is not None) == (not waiting and self.held() + size <= self.budget.limit_bytes)
        if lease is not None:
            self.leases.append(lease)

    @rule(size=st.integers(1, 50))
    def take(self, size: int) -> None:
        if size <= self.budget.limit_bytes:
            self.tasks.append(Requester(self.budget, size))
            self.loop.start(self.tasks[-1])
            self.collect()

    @rule(which=st.integers(0, 99), keep=st.integers(0, 50))
    def give_back(self, which: int, keep: int) -> None:
        if self.leases:
            self.leases[which % len(self.leases)].shrink(keep)
            self.collect()

    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        if waiting := [task for task in self.tasks if task.waits]:
            waiting[which % len(waiting)].scope.cancel()
            self.collect()

    def held(self) -> int:
        return sum(lease.size_bytes for lease in self.leases)

    def collect(self) -> None:
        self.loop.settle()
        for task in [task for task in self.tasks if not task.waits]:
            self.tasks.remove(task)
            if task.lease is not None:
                self.leases.append(task.lease)

    @invariant()
    def what_is_used_is_what_is_held(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.used_bytes == self.held() <= self.budget.limit_bytes
            assert self.budget.peak_bytes <= self.budget.limit_bytes

    @invariant()
    def the_first_who_waits_does_not_fit(self) -> None:
        if self.tasks:
            assert self.held() + self.tasks[0].size > self.budget.limit_bytes

    def teardown(self) -> None:
        """Once all is given back nobody waits any more."""
        if hasattr(self, "budget"):
            for _ in range(len(self.tasks) + 1):
                for lease in self.leases:
                    lease.release()
                self.collect()
            assert not self.tasks
            self.loop.close()


class Requester:
    """A task that waits for its lease."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self.budget, self.size = budget, size
        self.scope = trio.CancelScope()
        self.lease: Lease | None = None
        self.waits = True

    async def run(self) -> None:
        with self.scope:
            self.lease = await self.budget.take(self.size)
        self.waits = False


class Loop:
    """Trio's event loop as a guest of the test: runs until all tasks wait, then returns."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []
        self._lock = threading.Condition()
        self._done = False
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._soon,
            done_callback=lambda _: setattr(self, "_done", True),
            clock=MockClock(),
        )
        self._pump(lambda: hasattr(self, "_nursery"))

    def start(self, task: Requester) -> None:
        self._nursery.start_soon(task.run)

    def settle(self) -> None:
        """Run until every task waits for something."""
        blocked: list[bool] = []

        async def look() -> None:
            await wait_all_tasks_blocked()
            blocked.append(True)

        self._nursery.start_soon(look)
        self._pump(lambda: bool(blocked))

    def close(self) -> None:
        self._nursery.cancel_scope.cancel()
        self._pump(lambda: self._done)

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def _soon(self, step: Callable[[], object]) -> None:
        with self._lock:
            self._steps.append(step)
            self._lock.notify()

    def _pump(self, until: Callable[[], bool]) -> None:
        while not until():
            with self._lock:
                assert self._lock.wait_for(lambda: self._steps, 10), "the event loop stands still"
                step = self._steps.pop(0)
            step()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
