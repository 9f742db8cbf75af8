"""Many hosts in one process, as far as a receiver can tell: the sink side of each, fed with blocks at a fixed rate.

    python -m bench.hosts JSON      prints one JSON object

Each host has a spool and a runner and a transport of its own, as in its daemon, or an archive and an uploader; what is
missing is the capture.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio

from collector.batch import Delivery, StreamKey
from collector.capture.worker import Workers
from collector.monitor.state import SinkSnapshot
from sinks import registry
from sinks.contract.base import Parcel, SinkContext, Transport
from sinks.contract.options import SinkCommon
from sinks.network.delivery import NetworkRunner
from sinks.spool.policy import SpoolPolicy
from sinks.spool.spool import Spool

from .archives import ArchiveHost
from .recorded import Context, InThread, Job, Recorded

DRAIN_S = 60.0  # for what is on its way when the last block was put
CONNECT_S = 3.0  # before the first block: brokers answer slowly at first
GIB = 1 << 30


class Host(Protocol):
    """One host's sink side."""

    latencies_s: list[float]  # of each block that was acknowledged

    async def open(self) -> None: ...

    async def run(self) -> None:
        """Deliver, until all is after finish(), or its deadline is over."""

    async def feed(self, start_s: float, seconds: float) -> int:
        """Put blocks at the job's rate; gives their entries."""
        ...

    def finish(self, deadline_s: float) -> None: ...

    async def close(self) -> None: ...

    def snapshot(self) -> SinkSnapshot: ...


class Timed:
    """A transport, with the time from a block's putting to its acknowledgement."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.put_s: dict[int, float] = {}  # {block number: when}
        self.latencies_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        done = await self._inner.deliver(parcels)
        if done is Delivery.DELIVERED:
            now_s = time.monotonic()
            self.latencies_s.extend(now_s - self.put_s.pop(p.number) for p in parcels if p.number in self.put_s)
        return done


class NetworkHost:
    """One whose sink has a spool and a runner."""

    def __init__(self, job: Job, number: int, recorded: Recorded, in_thread: InThread) -> None:
        self.key = StreamKey(number.to_bytes(16, "big"), "ftrace-collector", 0)
        name = f"host-{number}"
        options = registry.load_type(job.options["type"]).options.model_validate(job.options)
        assert isinstance(options, SinkCommon)
        self.transport = Timed(registry.load_type(job.options["type"]).build(options, SinkContext(name, "bench")))
        policy = SpoolPolicy(Path(job.work) / name, GIB, "spool", options.repeat_interval_s, options.sync_interval_s)
        spool = Spool(policy, Context(self.key, name), recorded)
        self.runner = NetworkRunner(self.transport, spool, options, in_thread)
        self.open, self.run, self.finish = self.runner.open, self.runner.run, self.runner.finish
        self.close, self.snapshot = self.runner.close, self.runner.snapshot
        self.latencies_s = self.transport.latencies_s
        self._recorded = recorded
        self._interval_s = 1 / job.blocks_per_s
        self._offset_s = self._interval_s * (number % 16) / 16  # hosts do not beat together

    async def feed(self, start_s: float, seconds: float) -> int:
        number = ordinal = 0
        while (due_s := self._offset_s + number * self._interval_s) < seconds:
            await trio.sleep_until(start_s + due_s)
            block = self._recorded.block(self.key, number, ordinal)
            self.transport.put_s[number] = time.monotonic()
            self.runner.put(block)
            number += 1
            ordinal += block.events
        return ordinal


async def simulate(job: Job) -> dict[str, Any]:
    """Run all hosts; gives counts, CPU seconds and latencies."""
    recorded = Recorded(Path(job.archive))
    threads: Workers[None] = Workers(1, lambda: None, "spools")

    async def in_thread(work: Callable[[], Any]) -> Any:
        return await threads.run(lambda _: work())

    make = ArchiveHost if job.options["type"] == "objectstore" else NetworkHost
    hosts: list[Host] = [make(job, number, recorded, in_thread) for number in range(job.hosts)]
    offered: list[int] = []

    async def feed(host: Host, start_s: float) -> None:
        offered.append(await host.feed(start_s, job.seconds))

    async with trio.open_nursery() as nursery:
        for host in hosts:
            await host.open()
            nursery.start_soon(host.run)
        await trio.sleep(CONNECT_S)
        before_s, began_s = time.process_time(), time.monotonic()
        async with trio.open_nursery() as feeding:
            for host in hosts:
                feeding.start_soon(feed, host, trio.current_time())
        for host in hosts:
            host.finish(trio.current_time() + DRAIN_S)
    cpu_s, wall_s = time.process_time() - before_s, time.monotonic() - began_s
    for host in hosts:
        await host.close()
    threads.close()
    found = [host.snapshot() for host in hosts]
    latencies_s = sorted(latency for host in hosts for latency in host.latencies_s)
    return {
        "offered": sum(offered),
        "acked": sum(of.acked_events for of in found),
        "acked_bytes": sum(of.acked_bytes for of in found),
        "retries": sum(of.retries for of in found),
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "p50_s": latencies_s[len(latencies_s) // 2] if latencies_s else None,
        "p99_s": latencies_s[len(latencies_s) * 99 // 100] if latencies_s else None,
    }


if __name__ == "__main__":
    print(json.dumps(trio.run(simulate, Job(**json.loads(sys.argv[1])))))
