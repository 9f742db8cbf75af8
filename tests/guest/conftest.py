"""Tests that boot another kernel: everything in this folder needs root, QEMU and an unpacked kernel.

FTC_REQUIRE_GUEST=1 makes a missing guest a failure instead of a skip; with "fetched" a kernel that has to be built
first may be missing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GUEST = HERE / "guest"
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("GUEST_CACHE") or Path.home() / ".cache/ftrace-guest")
KERNELS = ["6.1", "6.12"]
ALL_TRACERS = "all-tracers"  # built of Debian's 6.12, with every tracer that Linux has
GUEST_FAILED = 125  # exit code of the tool
# A kernel that patches its own code while the other emulated CPU runs it panics now and then, or the emulator dies.
BOOTS = 3

RunGuest = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.guest)
            item.add_marker(pytest.mark.timeout(900))  # an emulated kernel on a busy machine


def release_of(kernel: str) -> str:
    """How `uname -r` begins there."""
    return "6.12" if kernel == ALL_TRACERS else kernel


def missing_for(action: str, kernel: str) -> str | None:
    """Why a guest cannot run here, or None when it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not (shutil.which("qemu-system-x86_64") and shutil.which("busybox")):
        return "no QEMU: run tests/guest/guest deps"
    if not (CACHE / kernel / "package").exists():
        how = "build-kernel" if kernel == ALL_TRACERS else f"fetch {kernel}"
        return f"no kernel {kernel}: run tests/guest/guest {how}"
    if action == "systemd" and not Path("/lib/systemd/systemd").exists():
        return "no systemd to boot: apt-get install systemd dbus"
    return None


@pytest.fixture
def run_guest() -> RunGuest:
    """run_guest(action, kernel, *command, timeout_s=...) -> the finished command, output and exit code as its own."""

    def run(
        action: str, kernel: str, *command: str | Path, timeout_s: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        if why := missing_for(action, kernel):
            required = os.environ.get("FTC_REQUIRE_GUEST")
            if required == "1" or (required == "fetched" and kernel != ALL_TRACERS):
                pytest.fail(f"FTC_REQUIRE_GUEST={required}, but no guest can be had: {why}", pytrace=False)
            pytest.skip(f"guest: {why} (FTC_REQUIRE_GUEST=1 makes this a failure)")
        # The tool is plain Python: the interpreter itself starts faster in the guest than a shim of it.
        words = [
            sys.executable,
            GUEST,
            action,
            "--kernel",
            kernel,
            "--timeout",
            timeout_s,
            "--cwd",
            ROOT,
            "--",
            *command,
        ]
        for _ in range(BOOTS):
            done = subprocess.run(
                list(map(str, words)), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=timeout_s + 60,
            )  # fmt: skip
            if done.returncode != GUEST_FAILED:
                break
        return done

    return run
