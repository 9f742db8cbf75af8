"""Killed between the start of tracing and the first entry in the archive, again and again, while the rings overrun."""

import time

import pytest

from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import CPUS, assert_verifies, of_cpu, read_gaps, read_info, read_stats, wait_until

pytestmark = pytest.mark.kernel

WORDS = ("-e", "raw_syscalls:*", "--keep-instance", "--buffer-size-kb", "128", "--subbuf-size-kb", "4")
AFTER_MS = (0, 10, 20, 30, 40, 60, 80, 120, 160)  # the events were enabled: what follows is done by then, or is not


def test_killed_before_its_first_segment(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    loads = [start_load("paced", cpu, 400_000, 20) for cpu in CPUS]
    daemon = None
    for after_ms in AFTER_MS:
        daemon = start_daemon(*WORDS)
        if after_ms == AFTER_MS[0]:
            events = daemon.instance / "set_event"
            wait_until(lambda events=events: events.exists() and bool(events.read_text()), "the first run's events")
        else:
            before = sum(stats.read_events or 0 for stats in daemon.stats().values())
            wait_until(lambda d=daemon, n=before: sum(s.read_events or 0 for s in d.stats().values()) > n, "it reads")
        time.sleep(after_ms / 1000)
        daemon.process.kill()
        daemon.wait_end()
    for load in loads:
        load.kill()
        load.communicate()
    assert daemon is not None
    last = start_daemon(*WORDS).wait_ready()
    assert last.stop() == 0

    info = read_info(last.archive)
    runs = range(len(info["runs"]))
    assert info["runs"][-1]["ended"] == "shutdown"
    for cpu, stats in read_stats(last.instance).items():
        streams = [of_cpu(info, cpu, run) for run in runs]
        crash = sum(gap.count or 0 for gap in read_gaps(last.archive, "crash") if gap.stream[1] == cpu)
        assert stats.entries == 0
        assert sum(of["events"] for of in streams) + crash == stats.read_events
        assert sum(of["lost_events"] for of in streams) == stats.overrun + stats.dropped_events
        assert streams[-1]["residual"] == 0
    assert info["residual"] == 0
    assert_verifies(last.archive)
