"""The daemon where little happens: the defaults on the machine as it is, and the size of sparse events on disk."""

import os
import re
import socket
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from collector.archive.frame import Damage, Kind, scan_bytes

from .daemon import COMMAND, read_archive, running
from .kernel import PREFIX, open_tracefs
from .loads import Programs, finish_paced
from .report import build_table, build_targets, say

SECONDS = 60.0
RATE_PER_CPU = 10.0  # events a second
EVENTS_PER_FORK = 6.0  # of the patterns below: new task, fork, exit, signal, wait, free
MIB = 1 << 20

CPU_TARGET_PERCENT = 0.5
RSS_TARGET_MIB = 80.0  # beside the byte budget
SIZE_TARGET_BYTES = 40.0


@dataclass(frozen=True, slots=True)
class Sparse:
    """A way to have few events."""

    name: str
    patterns: tuple[str, ...]
    load: str  # of load.c
    rate: float  # of calls or children, per CPU and second


SPARSE = (
    Sparse("one system call", ("syscalls:sys_enter_sched_get_priority_max",), "paced", RATE_PER_CPU),
    Sparse("short processes", ("sched:sched_process_*", "task:*", "signal:*"), "forks", RATE_PER_CPU / EVENTS_PER_FORK),
)


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables; a run takes a minute each, so there is one."""
    del runs
    say("idle: defaults for a minute")
    text, cpu_percent, rss_mib = _defaults(work)
    sizes = []
    for sparse in SPARSE:
        say(f"idle: {sparse.name} for a minute")
        sizes.append(_sparse(programs, work, sparse))
    head = ("", "events/s per CPU", "events", "bytes/event: blocks", "all but format and map objects", "everything")
    rows = [
        (s.name, f"{events / SECONDS / len(_cpus()):.1f}", str(events),
         *(f"{size / events:.1f}" for size in (blocks, beside, everything)))
        for s, (events, blocks, beside, everything) in zip(SPARSE, sizes, strict=True)
    ]  # fmt: skip
    targets = [
        ("CPU, % of one, defaults", CPU_TARGET_PERCENT, cpu_percent, ".2f"),
        ("RSS, MiB, defaults, budget included", RSS_TARGET_MIB, rss_mib, ".0f"),
        *((f"bytes/event of blocks, {s.name}", SIZE_TARGET_BYTES, blocks / events, ".1f")
          for s, (events, blocks, _, _) in zip(SPARSE, sizes, strict=True)),
    ]  # fmt: skip
    return "\n\n".join((text, build_table(head, rows), build_targets(targets)))


def _defaults(work: Path) -> tuple[str, float, float]:
    """The defaults for a minute: a sentence, % of one CPU, RSS in MiB."""
    out = work / "archive"
    port = _free_port()
    words = [
        COMMAND, "run", "--output", out, "--instance", f"{PREFIX}idle-{os.getpid()}", "--http", f"127.0.0.1:{port}",
    ]  # fmt: skip
    with running(words, work) as daemon:
        time.sleep(2.0)
        busy_before_s, cpu_before_s, began_s = _busy_s(), daemon.cpu_s(), time.monotonic()
        time.sleep(SECONDS)
        wall_s = time.monotonic() - began_s
        cpu_s, busy_s = daemon.cpu_s() - cpu_before_s, _busy_s() - busy_before_s
        rss_mib = daemon.rss_bytes() / MIB
        budget_mib = _budget_used_bytes(port) / MIB
        daemon.stop()
    archive = read_archive(out)
    percent = cpu_s / wall_s * 100
    text = (
        f"The defaults (sched:*, all CPUs) for {SECONDS:g} s: {percent:.2f} % of one CPU, RSS {rss_mib:.0f} MiB "
        f"(of the byte budget {budget_mib:.0f} MiB are leased, touched or not), peak "
        f"{daemon.peak_rss_bytes / MIB:.0f} MiB; {archive.events / wall_s:,.0f} events/s, complete: "
        f"{'yes' if archive.is_complete else 'no'}. All CPUs together were busy for "
        f"{busy_s / wall_s / len(_cpus()) * 100:.1f} % of the time, the daemon included."
    )
    return text, percent, rss_mib


def _sparse(programs: Programs, work: Path, sparse: Sparse) -> tuple[int, int, int, int]:
    """(events, bytes of blocks, bytes of all records but objects, bytes of everything)"""
    out = work / "archive"
    events = [word for pattern in sparse.patterns for word in ("-e", pattern)]
    words = [
        COMMAND, "run", *events, "--output", out, "--instance", f"{PREFIX}idle-{os.getpid()}", "--http", "127.0.0.1:0",
    ]  # fmt: skip
    open_tracefs()
    with running(words, work) as daemon:
        finish_paced([programs.start_paced(sparse.load, cpu, sparse.rate, SECONDS) for cpu in _cpus()], SECONDS)
        daemon.stop()
    blocks = beside = everything = 0
    for path in out.glob("*.ftseg"):
        for found in scan_bytes(path.read_bytes()):
            everything += found.length
            if isinstance(found, Damage):
                raise RuntimeError(f"{path}: damage at {found.offset}: {found.reason}")
            blocks += found.length if found.kind == Kind.BLOCK else 0
            beside += found.length if found.kind != Kind.OBJECT else 0
    return read_archive(out).events, blocks, beside, everything


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _busy_s() -> float:
    """Seconds that all CPUs together were busy, since the boot."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _budget_used_bytes(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(r"(?m)^ftrace_collector_queue_bytes\{[^}]*\} (\S+)$", text)
    return float(found[1]) if found else 0.0
