"""The stack tracer, which this machine's kernel may not have, on other kernels."""

import sys

import pytest

from tests.guest.conftest import KERNELS, RunGuest


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_deepest_stack_is_archived(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in reports.py."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.reports", kernel, timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok reports: tracefs as before" in done.stdout
