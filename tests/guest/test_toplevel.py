"""Tracers that run at the top level only, on kernels that have them."""

import sys

import pytest

from tests.guest.conftest import ALL_TRACERS, KERNELS, RunGuest, release_of


@pytest.mark.parametrize("kernel", [*KERNELS, ALL_TRACERS])
def test_the_top_level_is_collected_from_and_left_as_it_was(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in toplevel.py: function graphs, block requests, mmiotrace, a kill; every file as before."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.toplevel", release_of(kernel), timeout_s=700)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok all files of the top level as before" in done.stdout
