"""Many hosts in one process, as far as a receiver can tell: the sink side of each, fed with blocks at a fixed rate.

    python -m bench.hosts JSON      prints one JSON object

Each host has a spool and a runner and a transport of its own, as in its daemon; what is missing is the capture.
"""

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from collector.archive.bodies import parse_block
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind
from collector.archive.reader import list_segments, open_segment
from collector.archive.segment import build_header
from collector.archive.totals import StreamId, Totals
from collector.batch import Block, Delivery, Note, StreamKey
from collector.capture.worker import Workers
from sinks import registry
from sinks.base import Parcel, SinkContext, Transport
from sinks.delivery import NetworkRunner
from sinks.options import SinkCommon
from sinks.spool import Spool, SpoolPolicy

DRAIN_S = 60.0  # for what is on its way when the last block was put
CONNECT_S = 3.0  # before the first block: brokers answer slowly at first
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be simulated."""

    options: dict[str, Any]  # of a sink, as in [[sinks]]
    archive: str  # blocks are taken from there
    work: str  # spools go there
    hosts: int
    blocks_per_s: float  # of each host
    seconds: float


class Recorded:
    """The blocks of an archive, and the names they need."""

    def __init__(self, archive: Path) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._formats: dict[bytes, bytes] = {}
        for path in list_segments([archive]):
            with open_segment(path) as segment:
                for record in segment.good(segment.places):
                    if record.kind == Kind.BLOCK:
                        self.bodies.append(unpack(record.body, "block"))
                    elif record.kind == Kind.OBJECT:
                        body = bytes(record.body)
                        self._formats[unpack(body, "object")["id"]] = body

    def block(self, key: StreamKey, number: int, ordinal: int) -> Block:
        """The next block of a stream; which one of those recorded does not matter."""
        body = {
            **self.bodies[number % len(self.bodies)],
            "run": key.run,
            "inst": key.instance,
            "cpu": key.cpu,
            "no": number,
            "ord": ordinal,
        }
        packed = pack(body)
        head = parse_block(packed)
        return Block(
            key, number, ordinal, head.entries, head.first_ts, head.last_ts, head.raw_bytes, head.gaps, head.kinds,
            frozenset(), frozenset(), packed,
        )  # fmt: skip

    def format_object(self, format_id: bytes) -> bytes:
        return self._formats[format_id]

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        return {}

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        return {}

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        return {}

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        return {}

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        return {}


class Context:
    """What the spools say of the run."""

    def __init__(self, key: StreamKey, host: str) -> None:
        self._key, self._host = key, host

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        of = (self._key.instance, self._key.cpu)
        return build_header(
            run=self._key.run, segment=number, host=self._host, boot_id="bench", kernel="bench",
            created_ns=time.time_ns(), tool="bench", config_hash="",
            instances={of[0]: {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}},
            opening={of: (opening or {}).get(of, Totals())},
        )  # fmt: skip

    def opening_notes(self) -> Sequence[Note]:
        return []

    def closing_notes(self) -> Sequence[Note]:
        return []


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
            self.latencies_s += [now_s - self.put_s.pop(p.number) for p in parcels if p.number in self.put_s]
        return done


class Host:
    """One host's sink side."""

    def __init__(self, job: Job, number: int, recorded: Recorded, in_thread: Callable[[Any], Any]) -> None:
        self.key = StreamKey(number.to_bytes(16, "big"), "ftrace-collector", 0)
        name = f"host-{number}"
        options = registry.load_type(job.options["type"]).options.model_validate(job.options)
        assert isinstance(options, SinkCommon)
        self.transport = Timed(registry.load_type(job.options["type"]).build(options, SinkContext(name, "bench")))
        policy = SpoolPolicy(Path(job.work) / name, GIB, "spool", options.repeat_interval_s, options.sync_interval_s)
        spool = Spool(policy, Context(self.key, name), recorded)
        self.runner = NetworkRunner(self.transport, spool, options, in_thread)
        self._recorded = recorded
        self._interval_s = 1 / job.blocks_per_s
        self._offset_s = self._interval_s * (number % 16) / 16  # hosts do not beat together

    async def feed(self, start_s: float, seconds: float) -> int:
        """Put blocks at the job's rate; gives their entries."""
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

    hosts = [Host(job, number, recorded, in_thread) for number in range(job.hosts)]
    offered: list[int] = []

    async def feed(host: Host, start_s: float) -> None:
        offered.append(await host.feed(start_s, job.seconds))

    async with trio.open_nursery() as nursery:
        for host in hosts:
            await host.runner.open()
            nursery.start_soon(host.runner.run)
        await trio.sleep(CONNECT_S)
        before_s, began_s = time.process_time(), time.monotonic()
        async with trio.open_nursery() as feeding:
            for host in hosts:
                feeding.start_soon(feed, host, trio.current_time())
        for host in hosts:
            host.runner.finish(trio.current_time() + DRAIN_S)
    cpu_s, wall_s = time.process_time() - before_s, time.monotonic() - began_s
    for host in hosts:
        await host.runner.close()
    threads.close()
    found = [host.runner.snapshot() for host in hosts]
    latencies_s = sorted(latency for host in hosts for latency in host.transport.latencies_s)
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
