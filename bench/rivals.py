"""What one would run instead, measured on the same loads.

splice          sub-buffers to a file undecoded, the way of `trace-cmd record`
read, null      sub-buffers read and written, or read and dropped: the floor of the read path
libtraceevent   every event walked and one field taken (`count`), or printed (`text`), by the library that
                trace-cmd and rasdaemon decode with; nothing is written, the reading is not live, and start-up is
                taken off
perf record     perf.data; part of its cost falls on the traced side, so all of it is counted
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .kernel import instance
from .loads import READER_CPU, TIMEOUT_S, TRACED_CPU, Load, Programs

# libtraceevent reads a ring that has stopped: it must hold the whole (small) load.
LIBRARY_BUFFER_KB = 262144

PERF_PAGES = "4096"  # 16 MiB, as the others have
STARTED_S = 0.2
DRAINED_S = 0.3
REAP_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Cost:
    """One measurement."""

    events: int
    lost: int | None  # None: not told
    cpu_s: float
    disk_bytes: int | None  # None: nothing is written

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s / self.events * 1e6 if self.events else float("nan")

    @property
    def bytes_per_event(self) -> float | None:
        return None if self.disk_bytes is None or not self.events else self.disk_bytes / self.events


@dataclass(frozen=True, slots=True)
class Rival:
    """One tool."""

    name: str
    missing: str | None  # why it cannot be measured here
    measure: Callable[[Load], Cost]


def rivals(programs: Programs, work: Path) -> list[Rival]:
    """All of them, in the order of the table."""
    no_library = None if programs.decoder else "libtracefs-dev and libtraceevent-dev are not installed"
    no_perf = None if shutil.which("perf") else "perf is not installed"
    return [
        Rival("splice to a file, 4 KiB sub-buffers", None, lambda load: _record(programs, work, load, "splice", 4)),
        Rival("splice to a file, 64 KiB", None, lambda load: _record(programs, work, load, "splice", 64)),
        Rival("read to a file, 64 KiB", None, lambda load: _record(programs, work, load, "read", 64)),
        Rival("read and dropped, 64 KiB", None, lambda load: _record(programs, work, load, "null", 64)),
        Rival("libtraceevent, one field", no_library, lambda load: _decode(programs, load, "count")),
        Rival("libtraceevent, text", no_library, lambda load: _decode(programs, load, "text")),
        Rival("perf record", no_perf, lambda load: _perf(programs, work, load)),
    ]


def _record(programs: Programs, work: Path, load: Load, mode: str, subbuf_kb: int) -> Cost:
    out = work / "pages"
    with instance("rival", load, subbuf_kb) as tree:
        words = [programs.recorder, mode, tree.path / f"per_cpu/cpu{TRACED_CPU}/trace_pipe_raw"]
        recorder = start_pinned([*words, "-" if mode == "null" else out])
        try:
            time.sleep(STARTED_S)
            programs.run_load(load, load.count)
            time.sleep(DRAINED_S)
            tree.write("tracing_on", "0")
        finally:
            recorder.send_signal(signal.SIGTERM)
            cpu_s, _ = reap(recorder)
        stats = tree.read_stats(TRACED_CPU)
    size_bytes = None if mode == "null" else out.stat().st_size
    out.unlink(missing_ok=True)
    return Cost(stats.read_events, stats.overrun, cpu_s, size_bytes)


def record_pages(programs: Programs, load: Load, count: int, out: Path, subbuf_kb: int) -> None:
    """Record a load's sub-buffers into a file."""
    with instance("pages", load, subbuf_kb, buffer_kb=65536) as tree:
        pipe = tree.path / f"per_cpu/cpu{TRACED_CPU}/trace_pipe_raw"
        recorder = start_pinned([programs.recorder, "read", pipe, out])
        try:
            time.sleep(STARTED_S)
            programs.run_load(load, count)
            time.sleep(DRAINED_S)
            tree.write("tracing_on", "0")
        finally:
            recorder.send_signal(signal.SIGTERM)
            reap(recorder)


def _decode(programs: Programs, load: Load, mode: str) -> Cost:
    with instance("rival", load, 4, LIBRARY_BUFFER_KB) as tree:
        tree.write("tracing_on", "0")
        tree.clear("trace")
        startup_s, _ = reap(start_pinned([programs.decoder, mode, tree.path.name]))  # it reads all formats
        tree.write("tracing_on", "1")
        programs.run_load(load, load.small_count)
        tree.write("tracing_on", "0")
        lost = tree.read_stats(TRACED_CPU).overrun
        cpu_s, printed = reap(start_pinned([programs.decoder, mode, tree.path.name]))
        return Cost(int(printed), lost, max(cpu_s - startup_s, 0.0), None)


def _perf(programs: Programs, work: Path, load: Load) -> Cost:
    out = work / "perf.data"
    events = [word for system in load.systems for word in ("-e", f"{system}:*")]
    words = [str(programs.load), load.name, str(TRACED_CPU), str(load.small_count)]
    record = ["perf", "record", "-q", "-C", str(TRACED_CPU), "-m", PERF_PAGES, *events, "-o", str(out), "--", *words]
    traced_s, _ = reap(subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True))
    plain_s, _ = reap(subprocess.Popen(words, stdout=subprocess.DEVNULL, text=True))
    report = ["perf", "report", "-i", str(out), "--stats"]
    text = subprocess.run(report, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
    found = re.search(r"SAMPLE events:\s+(\d+)", text)
    size_bytes = out.stat().st_size
    out.unlink()
    return Cost(int(found[1]) if found else 0, None, max(traced_s - plain_s, 0.0), size_bytes)


def start_pinned(words: list[object]) -> subprocess.Popen[str]:
    command = ["taskset", "-c", str(READER_CPU), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def reap(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Wait for a process; gives its CPU seconds, those of its children included, and what it printed.

    Its output must fit a pipe. Whatever happens it has ended afterwards.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    pid = status = 0
    try:
        while not pid and time.monotonic() < deadline_s:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            time.sleep(REAP_PAUSE_S)
    finally:
        if not pid:
            process.kill()
            process.wait()
    if not pid or status:
        raise RuntimeError(f"{process.args!r}: " + (f"status {status}" if pid else f"not done in {TIMEOUT_S:g} s"))
    process.returncode = 0
    printed = ""
    if process.stdout is not None:
        with process.stdout:
            printed = process.stdout.read()
    return usage.ru_utime + usage.ru_stime, printed
