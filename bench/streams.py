"""Many streams at once against one, at the same number of events a second in all.

Every instance records the same system call, so that one call is an event in each of them.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .daemon import FLUSHED_S, read_archive, running
from .kernel import PREFIX, open_tracefs, remove_instance
from .loads import READER_CPU, TRACED_CPU, Programs, finish_paced
from .report import build_table, build_targets, say

RATE = 200_000  # events a second, in all
SECONDS = 10.0
INSTANCES = 64
CPUS = (TRACED_CPU, READER_CPU)
EVENT = "syscalls:sys_enter_getppid"
MOST_RUNS = 3  # making and removing 64 instances takes long
MIB = 1 << 20

COST_FACTOR_TARGET = 3.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the events arise."""

    name: str
    instances: int
    cpus: tuple[int, ...]
    buffer_kb: int  # of each ring


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
        return self.cpu_s / self.events * 1e6


SINGLE = Shape("1 stream", 1, (TRACED_CPU,), 16384)
MANY = Shape(f"{INSTANCES} instances on {len(CPUS)} CPUs = {INSTANCES * len(CPUS)} streams", INSTANCES, CPUS, 1024)


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    if not open_tracefs().exists(f"events/{EVENT.replace(':', '/')}"):
        return f"Not measured: this kernel has no {EVENT} (CONFIG_FTRACE_SYSCALLS)."
    runs = min(runs, MOST_RUNS)
    found: dict[Shape, list[Run]] = {SINGLE: [], MANY: []}
    for number in range(runs):
        for shape, of in found.items():
            of.append(_run(programs, work, shape))
            say(f"streams {number + 1}/{runs} {shape.name}: {of[-1].events} events, "
                f"{of[-1].cpu_s_per_million:.3f} s/M, complete: {of[-1].is_complete}")  # fmt: skip
    rows = [
        (
            shape.name,
            f"{median(r.events for r in of) / SECONDS:,.0f}",
            str(max(r.lost for r in of)),
            f"{sum(r.is_complete for r in of)} of {runs}",
            f"{median(r.cpu_s_per_million for r in of):.3f}",
            f"{median(r.disk_bytes / r.events for r in of):.2f}",
            f"{max(r.peak_rss_bytes for r in of) / MIB:.0f}",
            f"{median(r.startup_cpu_s for r in of):.2f}",
        )
        for shape, of in found.items()
    ]
    costs = {shape: median(r.cpu_s_per_million for r in of) for shape, of in found.items()}
    return "\n\n".join((
        f"Medians of {runs} runs of {SECONDS:g} s.",
        build_table(
            ("", "events/s", "lost", "complete", "CPU s/million", "bytes/event", "peak RSS, MiB", "start-up, CPU s"),
            rows,
        ),
        build_targets([
            ("lost, most", 0, max(r.lost for r in found[MANY]), ".0f"),
            ("cost per event, times that of 1 stream", COST_FACTOR_TARGET, costs[MANY] / costs[SINGLE], ".2f"),
        ]),
    ))  # fmt: skip


def _run(programs: Programs, work: Path, shape: Shape) -> Run:
    prefix = f"{PREFIX}streams-{os.getpid()}-"
    out = work / "archive"
    words = [
        sys.executable, "-m", "bench.many", shape.instances, EVENT, ",".join(map(str, shape.cpus)), shape.buffer_kb,
        prefix, out,
    ]  # fmt: skip
    calls_per_s = RATE / shape.instances / len(shape.cpus)
    top = open_tracefs()
    try:
        # With many streams the load is on all CPUs, so the process cannot have one of its own.
        with running(words, work, cpu=READER_CPU if len(shape.cpus) == 1 else None) as daemon:
            time.sleep(1.0)
            before_s = daemon.cpu_s()
            loads = [programs.start_paced("paced", cpu, calls_per_s, SECONDS) for cpu in shape.cpus]
            calls = finish_paced(loads, SECONDS)
            time.sleep(FLUSHED_S)
            cpu_s = daemon.cpu_s() - before_s
            daemon.stop()
        archive = read_archive(out)
        complete = archive.is_complete and archive.events >= calls * shape.instances
        return Run(archive.events, archive.info["lost_events"], complete, cpu_s, archive.disk_bytes,
                   daemon.peak_rss_bytes, daemon.startup_cpu_s)  # fmt: skip
    finally:
        for number in range(shape.instances):
            if (tree := top.instance(f"{prefix}{number}")).path.exists():
                remove_instance(tree)
