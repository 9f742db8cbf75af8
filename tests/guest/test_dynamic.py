"""Every kind of dynamic event, and tracers that exclude each other, on kernels that have them."""

import sys

import pytest

from tests.guest.conftest import ALL_TRACERS, RunGuest, release_of


@pytest.mark.parametrize("kernel", ["6.1", ALL_TRACERS])
def test_dynamic_events_are_made_used_and_removed_also_after_a_kill(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in dynamic.py: all kinds, user events that programs have, who is in the way."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.dynamic", release_of(kernel), timeout_s=800)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok in the way: tracefs as before" in done.stdout
