"""Flight recorders, which this machine's kernel may not have, on other kernels."""

import sys

import pytest

from tests.guest.conftest import KERNELS, RunGuest


@pytest.mark.parametrize("kernel", KERNELS)
def test_snapshots_reach_the_archive_to_the_entry(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in snapshots.py: by command, trigger and interval, after a crash, and where others take them."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.snapshots", kernel, timeout_s=700)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok refused: tracefs as before" in done.stdout
