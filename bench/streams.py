"""Many streams at once against one, at the same number of events a second in all.

Every instance records the same system call, so that one call is an event in each of them.
"""

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from collector.control.wish import default_subbuf_size_kb

from .daemon import FLUSHED_S, read_archive, running
from .kernel import PREFIX, open_tracefs
from .loads import READER_CPU, TRACED_CPU, Programs, finish_paced
from .report import build_table, build_targets, say

RATE = 200_000  # events a second, in all
SECONDS = 10.0
INSTANCES = 64  # on two CPUs: 128 streams
CPUS = (TRACED_CPU, READER_CPU)
EVENT = "syscalls:sys_enter_sched_get_priority_max"
MOST_RUNS = 3  # making and removing 64 instances takes long
MIB = 1 << 20

COST_FACTOR_TARGET = 3.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the events arise."""

    name: str
    instances: int
    cpus: tuple[int, ...]
    rate: int  # events a second, in all
    buffer_kb: int  # of each ring
    subbuf_kb: int


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement."""

    events: int
    lost: int
    is_complete: bool
    cpu_s: float
    disk_bytes: int
    peak_rss_bytes: int
    startup_cpu_s: float

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s / self.events * 1e6 if self.events else float("nan")


SINGLE = Shape("1 stream", 1, (TRACED_CPU,), RATE, 16384, 64)
MANY = Shape(f"{INSTANCES} instances on {len(CPUS)} CPUs", INSTANCES, CPUS, RATE, 1024,
             default_subbuf_size_kb(INSTANCES * len(CPUS)))  # fmt: skip
LARGE = replace(MANY, name="the same, sub-buffers of 64 KiB", subbuf_kb=64)
QUIET = replace(MANY, name="the same as the first, no events", rate=0)


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    if not open_tracefs().exists(f"events/{EVENT.replace(':', '/')}"):
        return f"Not measured: this kernel has no {EVENT} (CONFIG_FTRACE_SYSCALLS)."
    runs = min(runs, MOST_RUNS)
    found: dict[Shape, list[Run]] = {SINGLE: [], MANY: [], LARGE: [], QUIET: []}
    for number in range(runs):
        for shape, of in found.items():
            of.append(_run(programs, work, shape))
            say(f"streams {number + 1}/{runs} {shape.name}: {of[-1].events} events, {of[-1].cpu_s:.2f} CPU s, "
                f"complete: {of[-1].is_complete}")  # fmt: skip
    head = (
        "", "events/s", "lost", "complete", "CPU, % of one", "CPU s/million", "bytes/event", "peak RSS, MiB",
        "start-up, CPU s",
    )  # fmt: skip
    costs = {shape: median(r.cpu_s_per_million for r in found[shape]) for shape in (SINGLE, MANY)}
    return "\n\n".join((
        f"Medians of {runs} runs of {SECONDS:g} s.",
        build_table(head, [_row(shape, of) for shape, of in found.items()]),
        build_targets([
            ("lost, most", 0, max(r.lost for r in found[MANY]), ".0f"),
            ("cost per event, times that of 1 stream", COST_FACTOR_TARGET, costs[MANY] / costs[SINGLE], ".2f"),
        ]),
    ))  # fmt: skip


def _row(shape: Shape, runs: list[Run]) -> tuple[str, ...]:
    return (
        shape.name,
        f"{median(r.events for r in runs) / SECONDS:,.0f}",
        str(max(r.lost for r in runs)),
        f"{sum(r.is_complete for r in runs)} of {len(runs)}",
        f"{median(r.cpu_s for r in runs) / (SECONDS + FLUSHED_S) * 100:.2f}",
        f"{median(r.cpu_s_per_million for r in runs):.3f}" if shape.rate else "-",
        f"{median(r.disk_bytes / r.events for r in runs):.2f}" if shape.rate else "-",
        f"{max(r.peak_rss_bytes for r in runs) / MIB:.0f}",
        f"{median(r.startup_cpu_s for r in runs):.2f}",
    )


def _run(programs: Programs, work: Path, shape: Shape) -> Run:
    prefix = f"{PREFIX}streams-{os.getpid()}-"
    out = work / "archive"
    words = [
        sys.executable, "-m", "bench.many", shape.instances, EVENT, ",".join(map(str, shape.cpus)), shape.buffer_kb,
        shape.subbuf_kb, prefix, out,
    ]  # fmt: skip
    calls_per_s = shape.rate / shape.instances / len(shape.cpus)
    # With many streams the load is on all CPUs, so the process cannot have one of its own.
    with running(words, work, cpu=READER_CPU if len(shape.cpus) == 1 else None) as daemon:
        time.sleep(1.0)
        before_s = daemon.cpu_s()
        calls = 0
        if shape.rate:
            loads = [programs.start_paced("paced", cpu, calls_per_s, SECONDS) for cpu in shape.cpus]
            calls = finish_paced(loads, SECONDS)
        else:
            time.sleep(SECONDS)
        time.sleep(FLUSHED_S)
        cpu_s = daemon.cpu_s() - before_s
        daemon.stop()
    archive = read_archive(out)
    complete = archive.is_complete and archive.events >= calls * shape.instances
    return Run(archive.events, archive.info["lost_events"], complete, cpu_s, archive.disk_bytes,
               daemon.peak_rss_bytes, daemon.startup_cpu_s)  # fmt: skip
