"""Inside a guest: the daemon on that kernel, with a CPU that goes and comes back; a line for each check.

Usage: python -m tests.guest.live RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.kernel.daemon import (
    CPUS,
    Daemon,
    assert_verifies,
    of_cpu,
    read_events,
    read_info,
    read_stats,
    wait_until,
)

ONLINE = Path("/sys/devices/system/cpu/cpu1/online")
MARKERS = 300


class Markers:
    """Writes numbered markers and knows how many each CPU got."""

    def __init__(self, instance: Path) -> None:
        self._file = instance / "trace_marker"
        self.written: list[int] = []

    def write(self, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        with self._file.open("wb", buffering=0) as file:
            for number in range(len(self.written), len(self.written) + MARKERS):
                file.write(b"marker %d\n" % number)
                self.written.append(cpu)


def take_cpu_away_and_back(markers: Markers) -> None:
    """What was in its ring stays readable, and its ring goes on when it is back."""
    markers.write(0)
    ONLINE.write_text("0")
    check(Path("/sys/devices/system/cpu/online").read_text().strip() == "0", "CPU 1 is offline")
    markers.write(0)
    ONLINE.write_text("1")
    wait_until(lambda: Path("/sys/devices/system/cpu/online").read_text().strip() == "0-1", "CPU 1 is back")
    markers.write(1)


def assert_archived(daemon: Daemon, markers: Markers) -> None:
    info = read_info(daemon.archive)
    check(info["residual"] == 0, f"residual {info['residual']}")
    check(info["lost_events"] == info["gaps"] == 0, f"lost {info['lost_events']}, gaps {info['gaps']}")
    for cpu, stats in read_stats(daemon.instance).items():
        stream = of_cpu(info, cpu)
        check(
            stream["events"] == stream["read_events"] == stats.read_events and stats.entries == 0,
            f"CPU {cpu}: {stream['events']} archived, {stats.read_events} read, {stats.entries} unread",
        )
    shown = read_events(daemon.archive, "-e", "ftrace:print")
    seen = {int(e["fields"]["buf"].split()[1]): e["cpu"] for e in shown}
    check(len(shown) == len(seen) and seen == dict(enumerate(markers.written)), f"{len(seen)} markers, each on its CPU")
    check(any(name.startswith("sched:") for name in info["by_event"]), "sched events")
    assert_verifies(daemon.archive)
    check(True, "verify")


def main() -> None:
    check(os.uname().release.startswith(sys.argv[1]), f"kernel {os.uname().release}")
    has_sizes = (TRACEFS / "buffer_subbuf_size_kb").exists()
    subbuf_bytes = 65536 if has_sizes else 4096
    with tempfile.TemporaryDirectory() as folder, Daemon("live", Path(folder) / "archive", "--keep-instance") as daemon:
        daemon.wait_ready()
        check(f"subbuf_bytes={subbuf_bytes} " in daemon.messages, f"sub-buffers of {subbuf_bytes} bytes")
        markers = Markers(daemon.instance)
        for cpu in CPUS:
            markers.write(cpu)
        if ONLINE.exists():
            take_cpu_away_and_back(markers)
        wait_until(lambda: daemon.metric("decoded_events_total") >= len(markers.written), "decoded while it runs")
        check(daemon.metric("ledger_residual_events") == 0, "no residual while it runs")
        check(daemon.stop() == 0, "exit code 0")
        assert_archived(daemon, markers)
        daemon.instance.rmdir()


if __name__ == "__main__":
    main()
