"""Text pipes of tracers that this machine's kernel lacks or forbids, on other kernels."""

import sys

import pytest

from tests.guest.conftest import KERNELS, RunGuest


@pytest.mark.parametrize("kernel", KERNELS)
def test_text_of_tracers_and_options_is_kept_as_the_kernel_prints_it(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in pipes.py: lines as printed, nothing unparsed, residual 0; some of them through the daemon."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.pipes", kernel, timeout_s=700)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    last = "function-merged" if kernel == "6.1" else "graph1-text"
    assert f"ok {last}: tracefs as before" in done.stdout
