"""From the live kernel to `receive` and to the tap: what arrives is what the archive says."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import COMMAND, CPUS, PATIENCE_S, QUICK, Daemon, assert_verifies, read_info, wait_until

CALLS = 20_000
BIG = ("-e", "raw_syscalls:*", "--buffer-size-kb", "16384")


def config_of(folder: Path) -> str:
    return f"""\
{QUICK}
[[sinks]]
type = "stream"
address = "unix:{folder / "receiver"}"
host = "web-1"
retry_first_s = 0.1
retry_max_s = 0.2
[[sinks]]
type = "tap"
address = "unix:{folder / "tap"}"
"""


@contextlib.contextmanager
def receiving(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """`receive` as a process; killed at the end where it has not ended."""
    words = [
        "receive",
        "--listen",
        f"unix:{folder / 'receiver'}",
        "--output",
        folder / "hosts",
        "--min-free-bytes",
        "0",
    ]
    process = subprocess.Popen([COMMAND, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert "event=receiving" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def run_loads(start_load: StartLoad) -> None:
    for load in [start_load("syscalls", cpu, CALLS) for cpu in CPUS]:
        load.communicate()


def of_stream(daemon: Daemon, metric: str) -> float:
    """Before the first tick there is none."""
    return daemon.metrics().get(f'{metric}{{sink="stream"}}', -1.0)


def check_same(received: Path, archive: Path) -> None:
    """The receiver's archive is settled, as the daemon's own is, and has the same entries."""
    assert_verifies(received)
    there, here = read_info(received), read_info(archive)
    for key in ("events", "lost_events", "residual", "by_event"):
        assert there[key] == here[key], key
    assert here["events"] >= 2 * CALLS * len(CPUS)


def test_the_receivers_archive_is_the_daemons(start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        daemon = start_daemon(*BIG, config=config_of(tmp_path)).wait_ready()
        run_loads(start_load)
        assert daemon.stop() == 0
        receiver.terminate()
        assert receiver.wait(PATIENCE_S) == 0
    check_same(tmp_path / "hosts/web-1", daemon.archive)
    assert read_info(daemon.archive)["residual"] == 0


def test_a_receiver_that_is_killed_and_comes_back_misses_nothing(
    start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path
) -> None:
    with receiving(tmp_path):
        daemon = start_daemon(*BIG, config=config_of(tmp_path)).wait_ready()
        run_loads(start_load)
        wait_until(lambda: of_stream(daemon, "sink_acked_events_total") > 0, "something arrives")
    run_loads(start_load)
    wait_until(lambda: of_stream(daemon, "sink_connected") == 0, "the sink has noticed")
    with receiving(tmp_path) as receiver:
        wait_until(lambda: of_stream(daemon, "sink_connected") == 1, "it is there again")
        run_loads(start_load)
        assert daemon.stop() == 0
        receiver.terminate()
        assert receiver.wait(PATIENCE_S) == 0
    assert_verifies(tmp_path / "hosts/web-1")
    there, here = read_info(tmp_path / "hosts/web-1"), read_info(daemon.archive)
    assert (there["events"], there["by_event"]) == (here["events"], here["by_event"])
    assert here["events"] >= 6 * CALLS * len(CPUS)


def test_the_tap_prints_what_is_collected(start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path) -> None:
    daemon = start_daemon(*BIG, config=config_of(tmp_path)).wait_ready()
    words = [
        "tap",
        f"unix:{tmp_path / 'tap'}",
        "--format",
        "json",
        "--event",
        "raw_syscalls:sys_enter",
        "--limit",
        "500",
    ]
    tap = subprocess.Popen([COMMAND, *words], stdout=subprocess.PIPE, text=True)
    try:
        run_loads(start_load)
        out, _ = tap.communicate(timeout=PATIENCE_S)
    finally:
        tap.kill()
        tap.wait()
    printed: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert len(printed) == 500
    assert {line["event"] for line in printed} == {"raw_syscalls:sys_enter"}
    assert daemon.stop() == 0
