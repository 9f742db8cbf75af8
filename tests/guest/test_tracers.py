"""Tracers and probes that this machine's kernel lacks or forbids, on other kernels."""

import sys

import pytest

from tests.guest.conftest import ALL_TRACERS, KERNELS, RunGuest


@pytest.mark.parametrize("kernel", KERNELS)
def test_tracers_and_probes_reach_the_archive_and_leave_nothing_behind(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in tracers.py: function tracers, all kinds of probes, a module's events, loss, refusals."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.tracers", kernel, timeout_s=700)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok misspelt: tracefs as before" in done.stdout


def test_each_tracer_of_the_kernel_that_has_them_all(run_guest: RunGuest) -> None:
    """The checks are in everytracer.py; the latency tracers have a test of their own, as what runs at the top level."""
    done = run_guest("run", ALL_TRACERS, sys.executable, "-m", "tests.guest.everytracer", timeout_s=700)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok hist: tracefs as before" in done.stdout
