"""A live daemon whose disk is full or slow: it goes on, loses what it must, and counts that to the entry."""

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import (
    CPUS,
    QUICK,
    assert_verifies,
    of_cpu,
    read_gaps,
    read_info,
    read_stats,
    total,
    wait_until,
)

EVENTS = ("-e", "raw_syscalls:*", "--keep-instance")
MIB = 1 << 20
BUDGET_BYTES = 8 * MIB
PROCESS_BYTES = 80 * MIB  # beside the budget
# Uncompressed and in small blocks, so that little load fills a disk or the budget.
SMALL = f"""\
{QUICK}
block_bytes = 262144
memory_budget_bytes = {BUDGET_BYTES}
[archive]
compression = "none"
"""


def run(*words: str | Path) -> None:
    subprocess.run(list(map(str, words)), check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder)
    yield folder
    run("umount", folder)


@pytest.fixture
def freezable_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that `fsfreeze` can stop: whoever writes to it then waits."""
    for tool in ("losetup", "mkfs.ext4", "fsfreeze"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    try:
        run("mkfs.ext4", "-q", image)
        run("mount", "-o", "loop", image, folder)
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no loop device can be mounted here: {e.stderr.decode().strip()}")
    yield folder
    with contextlib.suppress(subprocess.CalledProcessError):
        run("fsfreeze", "-u", folder)
    run("umount", folder)


def fill(folder: Path) -> Path:
    """Take all room that is left on a filesystem; gives the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
    return filler


def run_loads(start_load: StartLoad, calls: int) -> None:
    for load in [start_load("syscalls", cpu, calls) for cpu in CPUS]:
        load.communicate()


def test_a_full_disk_suspends_the_archive_until_there_is_room(
    start_daemon: StartDaemon, start_load: StartLoad, small_disk: Path
) -> None:
    daemon = start_daemon(*EVENTS, "--buffer-size-kb", "32768", archive=small_disk / "archive", config=SMALL)
    daemon.wait_ready()
    run_loads(start_load, 1000)
    wait_until(lambda: daemon.metric("archive_raw_bytes_total") > 0, "archived")
    assert daemon.get("/readyz")[0] == 200
    filler = fill(small_disk)

    run_loads(start_load, 50_000)
    wait_until(lambda: daemon.metric("discarded_events_total") > 0, "discarded")
    wait_until(lambda: daemon.get("/readyz")[0] == 503, "not ready")
    assert "suspended" in daemon.get("/readyz")[1]
    assert daemon.metric("archive_suspended") == 1
    assert daemon.get("/livez")[0] == 200

    filler.unlink()
    wait_until(lambda: daemon.metric("archive_suspended") == 0, "archiving goes on")
    run_loads(start_load, 1000)
    assert daemon.peak_memory_bytes < PROCESS_BYTES + BUDGET_BYTES
    assert daemon.stop() == 0

    info = read_info(daemon.archive)
    gaps = read_gaps(daemon.archive, "discarded")
    assert info["lost_events"] == info["residual"] == 0
    for cpu, stats in read_stats(daemon.instance).items():
        discarded = [gap for gap in gaps if gap.stream[1] == cpu]
        assert total(discarded) > 0
        assert of_cpu(info, cpu)["events"] + total(discarded) == stats.read_events
    assert_verifies(daemon.archive)


def test_a_disk_full_to_the_end_still_ends_well(
    start_daemon: StartDaemon, start_load: StartLoad, small_disk: Path
) -> None:
    """What was written before is intact; the daemon neither hangs nor fails at its stop."""
    daemon = start_daemon(*EVENTS, archive=small_disk / "archive", config=SMALL).wait_ready()
    run_loads(start_load, 1000)
    wait_until(lambda: daemon.metric("archive_raw_bytes_total") > 0, "archived")
    filler = fill(small_disk)
    run_loads(start_load, 50_000)
    wait_until(lambda: daemon.metric("discarded_events_total") > 0, "discarded")
    assert daemon.stop() == 0
    assert "suspended" in daemon.messages
    filler.unlink()
    second = start_daemon(*EVENTS, archive=daemon.archive, config=SMALL).wait_ready()
    assert second.stop() == 0
    info = read_info(daemon.archive)
    gaps = [gap for cause in ("crash", "discarded") for gap in read_gaps(daemon.archive, cause)]
    for cpu, stats in read_stats(daemon.instance).items():
        archived = sum(stream["events"] for stream in info["streams"] if stream["cpu"] == cpu)
        missing = total([gap for gap in gaps if gap.stream[1] == cpu])
        assert archived >= 2 * 1000
        assert missing > 0
        assert archived + missing == stats.read_events
    assert_verifies(daemon.archive)
    assert "Traceback" not in daemon.messages + second.messages


def test_a_slow_disk_stops_the_readers_and_the_kernel_counts_the_loss(
    start_daemon: StartDaemon, start_load: StartLoad, freezable_disk: Path
) -> None:
    words = (*EVENTS, "--buffer-size-kb", "1024", "--subbuf-size-kb", "16")
    daemon = start_daemon(*words, archive=freezable_disk / "archive", config=SMALL).wait_ready()
    run_loads(start_load, 1000)
    run("fsfreeze", "-f", freezable_disk)
    try:
        run_loads(start_load, 600_000)
        assert daemon.get("/livez")[0] == 200
        wait_until(lambda: sum(stats.overrun for stats in daemon.stats().values()) > 0, "the rings overflow")
        assert daemon.metric("queue_bytes") <= BUDGET_BYTES
        assert daemon.metric("archive_suspended") == 0
    finally:
        run("fsfreeze", "-u", freezable_disk)
    run_loads(start_load, 1000)
    wait_until(lambda: daemon.metric("queue_blocked_seconds_total") > 0, "waited for the disk")
    assert daemon.peak_memory_bytes < PROCESS_BYTES + BUDGET_BYTES
    assert daemon.stop() == 0

    info = read_info(daemon.archive)
    assert info["residual"] == 0
    for cpu, stats in read_stats(daemon.instance).items():
        stream = of_cpu(info, cpu)
        assert stream["events"] == stats.read_events
        assert stream["lost_events"] == stats.overrun > 0
        assert stats.entries == 0
    assert_verifies(daemon.archive)
