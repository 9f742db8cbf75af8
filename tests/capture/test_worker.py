"""The threads that do the work: results, failures, and an end."""

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from collector.capture.worker import Workers


async def test_job_gets_the_state_of_its_thread_and_gives_its_result() -> None:
    workers = Workers(1, lambda: threading.current_thread().name, "decode")
    assert await workers.run(lambda name: (name, threading.current_thread().name)) == ("decode-0", "decode-0")
    workers.close()
    workers.join()


async def test_what_a_job_raises_is_raised_where_it_was_asked_for_and_the_thread_goes_on() -> None:
    workers = Workers(1, lambda: 7, "w")

    def fail(state: int) -> None:
        raise LookupError(f"state {state}")

    with pytest.raises(LookupError, match="state 7"):
        await workers.run(fail)
    assert await workers.run(lambda state: state) == 7
    workers.close()
    workers.join()


async def test_state_that_cannot_be_made_fails_every_job_and_hangs_none() -> None:
    def make() -> int:
        raise ImportError("no such compressor")

    workers = Workers(2, make, "w")
    with trio.fail_after(10):
        for _ in range(4):
            with pytest.raises(ImportError, match="no such compressor"):
                await workers.run(lambda state: state)
    workers.close()
    workers.join()


async def test_as_many_jobs_run_at_once_as_there_are_threads() -> None:
    workers = Workers(2, lambda: None, "w")
    both = threading.Barrier(2, timeout=10)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(workers.run, lambda _: both.wait())
    workers.close()
    workers.join()


async def test_job_that_runs_is_not_cancelled() -> None:
    """What it works on is the caller's until it is done."""
    workers = Workers(1, lambda: None, "w")
    go = threading.Event()
    results: list[int] = []

    async def run() -> None:
        results.append(await workers.run(lambda _: (go.wait(10), 5)[1]))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            go.set()
    assert results == [5]
    workers.close()
    workers.join()


async def test_threads_end_after_what_was_asked_before() -> None:
    workers = Workers(3, lambda: None, "w")
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        for i in range(10):
            nursery.start_soon(workers.run, lambda _, i=i: done.append(i))
        await wait_all_tasks_blocked()
        workers.close()
    workers.join()
    assert sorted(done) == list(range(10))
    assert not [t for t in threading.enumerate() if t.name.startswith("w-")]
