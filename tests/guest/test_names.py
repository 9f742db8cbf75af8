"""Names of what comes and goes: only guests can load modules, wherever the tests run."""

import sys

import pytest

from tests.guest.conftest import KERNELS, RunGuest


@pytest.mark.parametrize("kernel", KERNELS)
def test_names_of_modules_and_threads(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in names.py."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.names", timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok symbols of the module" in done.stdout
