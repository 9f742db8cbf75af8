"""The tests of the live kernel, on other kernels than this machine's."""

import sys

import pytest

from tests.guest.conftest import KERNELS, RunGuest


@pytest.mark.parametrize("kernel", KERNELS)
def test_guest_runs_a_command_and_gives_its_exit_code(run_guest: RunGuest, kernel: str) -> None:
    done = run_guest("run", kernel, "sh", "-c", "uname -r; echo aside >&2; exit 7", timeout_s=120)
    assert done.stdout.startswith(f"{kernel}.")
    assert (done.stderr, done.returncode) == ("aside\n", 7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_pages_of_another_kernel_decode_alike(run_guest: RunGuest, kernel: str) -> None:
    tests = "tests/kernel/test_live_pages.py"
    done = run_guest("run", kernel, "env", "FTC_REQUIRE_KERNEL=1", sys.executable, "-m", "pytest", "-q", "-x",
                     "-p", "no:cacheprovider", tests, timeout_s=400)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.quick_guest
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_daemon_on_another_kernel(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in live.py: sub-buffers of that kernel, a CPU taken offline and online again, nothing lost."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.live", kernel, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok CPU 1 is offline" in done.stdout


@pytest.mark.parametrize("kernel", KERNELS)
def test_doctor_on_another_kernel(run_guest: RunGuest, kernel: str) -> None:
    """The checks are in doctor.py: what it finds, what it refuses and why, and that `run` agrees."""
    done = run_guest("run", kernel, sys.executable, "-m", "tests.guest.doctor", kernel, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "ok tracefs as before" in done.stdout
