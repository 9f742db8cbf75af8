"""The tracers of latencies, which Debian's kernels do not have, on a kernel that has them all."""

import sys

import pytest

from tests.guest.conftest import ALL_TRACERS, RunGuest


@pytest.mark.parametrize("tracers", [
    "irqsoff preemptoff preemptirqsoff", "wakeup wakeup_dl", pytest.param("wakeup_rt", marks=pytest.mark.quick_guest),
    "hwlat osnoise timerlat",
])  # fmt: skip
def test_latencies_are_archived_with_what_led_to_them(run_guest: RunGuest, tracers: str) -> None:
    """The checks are in latency.py."""
    words = (sys.executable, "-m", "tests.guest.latency", ALL_TRACERS, *tracers.split())
    done = run_guest("run", ALL_TRACERS, *words, timeout_s=700)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok clock: tracefs as before" in done.stdout
