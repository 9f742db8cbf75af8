"""What is seen of a live daemon from outside: its pages, its terminal, and every clock the kernel has."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import TRACEFS
from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import (
    COMMAND,
    CPUS,
    PATIENCE_S,
    QUIET_EVENT,
    assert_verifies,
    read_events,
    read_info,
    wait_until,
)

CLOCKS = ["local", "global", "counter", "uptime", "perf", "mono", "mono_raw", "boot", "tai", "x86-tsc"]
NANOSECONDS = {"local", "global", "perf", "mono", "mono_raw", "boot", "tai"}


def write_markers(instance: Path, count: int) -> None:
    with (instance / "trace_marker").open("wb", buffering=0) as file:
        for number in range(count):
            file.write(b"marker %d\n" % number)


def test_ready_from_the_first_reader_to_the_stop(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("-e", "irq:*")
    daemon.wait_for_message("serving metrics")  # before it collects
    seen = [daemon.get("/readyz")]
    while seen[-1][0] != 200:
        assert seen[-1] == (503, "starting\n")
        seen.append(daemon.get("/readyz"))
    daemon.wait_ready()
    assert daemon.get("/readyz") == (200, "ok\n")
    assert daemon.get("/livez") == (200, "ok\n")
    assert daemon.get("/nothing")[0] == 404
    assert daemon.stop() == 0


def test_metrics_of_a_quiet_ring_are_the_kernels(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*QUIET_EVENT).wait_ready()
    write_markers(daemon.instance, 1000)
    wait_until(lambda: daemon.metric("kernel_read_events_total") == 1000, "read and sampled")
    stats = daemon.stats()
    metrics = daemon.metrics()
    name = daemon.instance.name
    for cpu, of_kernel in stats.items():
        labels = f'{{cpu="{cpu}",trace_instance="{name}"}}'
        assert metrics[f"kernel_read_events_total{labels}"] == of_kernel.read_events
        assert metrics[f"decoded_events_total{labels}"] == of_kernel.read_events
        assert metrics[f"kernel_buffer_events{labels}"] == of_kernel.entries == 0
        assert metrics[f"kernel_buffer_size_bytes{labels}"] >= 1024 * int(
            (daemon.instance / f"per_cpu/cpu{cpu}/buffer_size_kb").read_text().split()[0]
        )
    assert daemon.metric("ledger_residual_events") == daemon.metric("lost_events_total") == 0
    assert daemon.metric("ready") == 1
    wait_until(lambda: daemon.metric("archive_raw_bytes_total") > 0, "archived")
    assert daemon.metric("archive_segments") == 1
    assert daemon.stop() == 0


@pytest.mark.parametrize("clock", CLOCKS)
def test_every_clock(start_daemon: StartDaemon, pin_to_cpu: Callable[[int], None], clock: str) -> None:
    if clock not in (TRACEFS / "trace_clock").read_text().replace("[", "").replace("]", "").split():
        pytest.skip(f"this kernel has no clock {clock}")
    daemon = start_daemon("--clock", clock, *QUIET_EVENT).wait_ready()
    pin_to_cpu(CPUS[0])  # between CPUs the order is that of the times: `uptime` is coarse, `local` differs
    write_markers(daemon.instance, 100)
    now_ts = max(stats.now_ts or 0 for stats in daemon.stats().values())
    assert daemon.stop() == 0
    info = read_info(daemon.archive)
    events = read_events(daemon.archive)
    assert info["clock"] == [clock]
    assert (info["events"], info["residual"]) == (100, 0)
    assert [event["fields"]["buf"] for event in events] == [f"marker {number}\n" for number in range(100)]
    times = [event["ts_ns"] for event in events]
    assert times == sorted(times)
    assert 0 < times[-1] <= now_ts + 1000  # the kernel prints microseconds
    assert {event.get("clock") for event in events} <= ({clock, None} if clock in NANOSECONDS else {clock})
    assert bool(info["runs"][0]["wall_offset_ns"]) == (clock in NANOSECONDS)
    assert_verifies(daemon.archive)


class Terminal:
    """A pseudo-terminal with a program in it, and what it wrote there."""

    def __init__(self, *command: str | Path, cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )  # fmt: skip
        os.close(theirs)
        self.text = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: the program has ended
            while data := os.read(self._ours, 4096):
                self.text += data.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._thread.join(PATIENCE_S)
        os.close(self._ours)


def test_on_a_terminal(instance_name: str, tmp_path: Path) -> None:
    """A live line with the rate, and at Ctrl-C where the archive is and what shows it."""
    words = ("run", "--instance", instance_name, "--output", "./traces", "--http", "127.0.0.1:0")
    terminal = Terminal(COMMAND, *words, cwd=tmp_path)
    try:
        wait_until(lambda: terminal.text.count(" events/s, ") >= 2, "the live line, renewed")
        terminal.type(b"\x03")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()
    line = re.search(r"\r\x1b\[K([\d,]+ events/s, lost 0, archive \S+ \S+, rings \d+ % full, \d+ CPUs?)", terminal.text)
    assert line is not None, terminal.text
    assert re.search(r"\d+ events in ./traces; `\S*ftrace-collector show ./traces` prints them", terminal.text)
    assert not (TRACEFS / "instances" / instance_name).exists()
    assert read_info(tmp_path / "traces")["residual"] == 0
    assert_verifies(tmp_path / "traces")
