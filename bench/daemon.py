"""The daemon as a process, watched from outside."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("ftrace-collector"))
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0

# What was written when the load ended is on disk after the flush interval (1 s), the queue's tick and a sync (1 s).
FLUSHED_S = 2.5

# The number of another process's CPU clock, see clock_getcpuclockid(3): ~pid << 3 | 2.
_CPUCLOCK_SCHED = 2


@dataclass(slots=True)
class Daemon:
    """A daemon that is ready."""

    process: subprocess.Popen[bytes]
    startup_cpu_s: float  # from its start to READY
    stderr: Path
    peak_rss_bytes: int = 0  # known once it has ended

    def cpu_s(self) -> float:
        """CPU seconds of all its threads, ended ones included, since its start."""
        return read_cpu_s(self.process.pid)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024

    def stop(self) -> None:
        """End it as an operator would.

        Raises:
          RuntimeError: it did not end well.
        """
        self.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        pid = 0
        while not pid and time.monotonic() < deadline_s:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            time.sleep(0.01)
        if not pid:
            raise RuntimeError(f"the daemon has not ended {STOP_TIMEOUT_S:g} s after SIGTERM")
        self.peak_rss_bytes = usage.ru_maxrss * 1024
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            raise RuntimeError(f"the daemon ended with {self.process.returncode}: {self.stderr.read_text()[-1000:]}")


def read_cpu_s(pid: int) -> float:
    """CPU seconds of a process that runs, its children's not included.

    The kernel's account in nanoseconds; /proc/PID/stat has the same one in steps of 10 ms.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


@contextlib.contextmanager
def running(words: Sequence[object], work: Path, *, cpu: int | None = None) -> Iterator[Daemon]:
    """A daemon from READY on; ended where it was not stopped.

    Args:
      words: its command line.
      cpu: it is pinned there; None: it is not.
    Raises:
      RuntimeError: it does not become ready.
    """
    address = work / "notify"
    address.unlink(missing_ok=True)
    stderr = work / "stderr"
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, stderr.open("wb") as errors:
        notify.bind(str(address))
        # What is sent after READY is not read: when the queue is full the daemon goes on without.
        environ = {**os.environ, "NOTIFY_SOCKET": str(address)}
        process = subprocess.Popen([*pin, *map(str, words)], env=environ, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            daemon = Daemon(process, 0.0, stderr)
            _wait_ready(notify, daemon)
            daemon.startup_cpu_s = daemon.cpu_s()
            yield daemon
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a daemon that was not stopped: let it remove its instance, but not for ever."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(notify: socket.socket, daemon: Daemon) -> None:
    notify.settimeout(0.2)
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while daemon.process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in notify.recv(4096):
                return
    raise RuntimeError(f"the daemon did not become ready: {daemon.stderr.read_text()[-1000:]}")


@dataclass(frozen=True, slots=True)
class Archive:
    """What a run left on disk."""

    info: Mapping[str, Any]  # of `info --json`
    disk_bytes: int
    verified: bool

    @property
    def events(self) -> int:
        return int(self.info["events"])

    @property
    def is_complete(self) -> bool:
        """Nothing lost, all accounted for, no damage."""
        return self.verified and self.info["residual"] == 0 and self.info["lost_events"] == 0

    def describe(self) -> str:
        """`yes`, or why it is not complete."""
        if self.is_complete:
            return "yes"
        residual = "unsettled" if self.info["residual"] is None else self.info["residual"]
        return f"lost {self.info['lost_events']}, residual {residual}, verify {'passes' if self.verified else 'fails'}"


def read_archive(folder: Path, *, remove: bool = True) -> Archive:
    """Examine an archive with the commands that a user has, and remove it."""
    shown = subprocess.run([COMMAND, "info", folder, "--json"], check=True, capture_output=True, timeout=300)
    verify = subprocess.run([COMMAND, "verify", folder], capture_output=True, timeout=300)
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if remove:
        shutil.rmtree(folder)
    return Archive(json.loads(shown.stdout), size_bytes, verify.returncode == 0)
