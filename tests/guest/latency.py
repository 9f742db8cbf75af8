"""Inside a guest that has them: the tracers of latencies, through the daemon into an archive; a line for each check.

Usage: python -m tests.guest.latency RELEASE, where RELEASE is what `uname -r` ends with. Exits 1 when a check fails.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collector.show.reports import show_reports
from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.guest.tracers import assert_as_before, expect_refusal, read_tracefs
from tests.kernel.daemon import QUICK, Daemon, assert_verifies, read_info, wait_until

DELAY_US = 30_000  # of the kernel's own test module: longer than anything else that happens here
SWAPPING = ("irqsoff", "preemptoff", "preemptirqsoff", "wakeup", "wakeup_rt", "wakeup_dl")
THRESHOLD = "tracing_thresh_us = 20000\nallow_top_level = true\n"


def delay(mode: str) -> Callable[[], None]:
    """A section of so many us with interrupts or preemption off, made by the kernel's test module."""

    def make() -> None:
        subprocess.run(["modprobe", "preemptirq_delay_test", f"test_mode={mode}", f"delay={DELAY_US}"], check=True)
        time.sleep(0.5)
        subprocess.run(["rmmod", "preemptirq_delay_test"], check=True)

    return make


def wake_up() -> None:
    """Threads of a high priority that sleep, and are woken."""
    code = (
        "import os, time\n"
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))\n"
        "for _ in range(40): time.sleep(0.01)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def wait() -> None:
    time.sleep(3)


LOADS: dict[str, Callable[[], None]] = {
    "irqsoff": delay("irq"), "preemptoff": delay("preempt"), "preemptirqsoff": delay("irq"), "wakeup": wake_up,
    "wakeup_rt": wake_up, "wakeup_dl": wait, "hwlat": wait, "osnoise": wait, "timerlat": wait,
}  # fmt: skip


def read_reports(archive: Path) -> list[dict[str, Any]]:
    out = io.StringIO()
    check(show_reports([archive], out, "json") == [], "reports are shown")
    return [json.loads(line) for line in out.getvalue().splitlines()]


def run_tracer(tracer: str) -> None:
    before = read_tracefs()
    top_clock = (TRACEFS / "trace_clock").read_text().split("[")[1].split("]")[0]
    config = f'{QUICK}\n[trace]\nevents = []\nbuffer_size_kb = 1024\ntracer = "{tracer}"\n'
    with tempfile.TemporaryDirectory() as folder:
        with Daemon(f"latency-{tracer}", Path(folder) / "archive", config=config) as daemon:
            wait_until(lambda: "event=collecting" in daemon.messages or daemon.process.poll() is not None, tracer)
            running = daemon.process.poll() is None
            check(running, f"{tracer}: collects{'' if running else daemon.messages}")
            for _ in range(3):
                LOADS[tracer]()
            if tracer != "wakeup_dl":  # nothing here has a deadline
                wait_until(lambda: 'event="a new maximum"' in daemon.messages, f"{tracer}: a report")
            code = daemon.stop()
            check(code == 0, f"{tracer}: exit code {code}" + ("" if code == 0 else daemon.messages))
        info = read_info(daemon.archive)
        swaps = tracer in SWAPPING
        check(info["residual"] == (None if swaps else 0), f"{tracer}: residual {info['residual']}")
        assert_verifies(daemon.archive)
        reports = read_reports(daemon.archive)
        check(bool(reports) or tracer == "wakeup_dl", f"{tracer}: {len(reports)} reports")
        for report in reports:
            if swaps:
                check(report["clock"] == top_clock, f"{tracer}: dated by {report['clock']}")
                told = report.get("text_value", report["value"])
                check(f"# latency: {told} us" in report["text"], f"{tracer}: {report['value']} us, a text of {told} us")
                lines = [line for line in report["text"].splitlines() if line and not line.startswith("#")]
                check(len(lines) >= 2, f"{tracer}: {len(lines)} lines led to it")
            else:
                check(bool(report["entries"]), f"{tracer}: {len(report['entries'])} entries led to it")
        if tracer in ("irqsoff", "preemptoff"):
            largest = max(report["value"] for report in reports)
            check(largest >= DELAY_US, f"{tracer}: {largest} us of a delay of {DELAY_US}")
    assert_as_before(tracer, before)


def main() -> None:
    check(os.uname().release.endswith(sys.argv[1]), f"kernel {os.uname().release}")
    for tracer in sys.argv[2:] or LOADS:
        run_tracer(tracer)
    expect_refusal("text", 'tracer = "irqsoff"\nread = "text"', "feed on itself")
    other = 'tracer = "wakeup"\nclock = "x86-tsc"'
    expect_refusal("clock", other, "with another clock than the top level's")


if __name__ == "__main__":
    main()
