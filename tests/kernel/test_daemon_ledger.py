"""The daemon under load on the live kernel: what it archived and what the kernel counted are the same, to the entry."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import (
    CPUS,
    QUICK,
    Daemon,
    assert_verifies,
    of_cpu,
    read_events,
    read_gaps,
    read_info,
    read_stats,
    total,
    wait_until,
)

GETPPID = 110 if os.uname().machine == "x86_64" else 173
SYSCALLS = ("-e", "raw_syscalls:*")
KEEP = "--keep-instance"  # with its counters, to compare
BIG = ("--buffer-size-kb", "32768")  # more than all that a test writes, whatever else runs on the machine
TINY = ("--buffer-size-kb", "128", "--subbuf-size-kb", "4")


def run_loads(start_load: StartLoad, calls: int) -> dict[int, int]:
    """`calls` getppid on each CPU at once; gives {cpu: pid}."""
    loads = {cpu: start_load("syscalls", cpu, calls) for cpu in CPUS}
    for load in loads.values():
        output, _ = load.communicate()
        assert output.split()[0] == str(calls)
    return {cpu: load.pid for cpu, load in loads.items()}


def assert_agrees_with_kernel(archive: Path, instance: Path) -> Any:
    """All that the kernel says was read is in the archive, all that it lost is told of; gives `info`."""
    info = read_info(archive)
    for cpu, stats in read_stats(instance).items():
        stream = of_cpu(info, cpu)
        assert stats.entries == 0
        assert stream["events"] == stream["read_events"] == stats.read_events
        assert (stream["overrun"], stream["dropped"]) == (stats.overrun, stats.dropped_events)
        assert stream["residual"] == 0
    assert info["residual"] == 0
    assert_verifies(archive)
    return info


def test_a_big_ring_loses_nothing(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    calls = 60_000
    daemon = start_daemon(*SYSCALLS, KEEP, *BIG).wait_ready()
    pids = run_loads(start_load, calls)
    assert daemon.stop() == 0
    info = assert_agrees_with_kernel(daemon.archive, daemon.instance)
    assert info["lost_events"] == info["gaps"] == 0
    for cpu, pid in pids.items():
        assert of_cpu(info, cpu)["events"] >= 2 * calls
        words = ("--cpu", str(cpu), "--pid", str(pid), "-e", "raw_syscalls:sys_enter")
        ids = [event["fields"]["id"] for event in read_events(daemon.archive, *words)]
        assert ids.count(GETPPID) == calls


def test_the_running_total_is_the_kernels(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    """While it runs: at any settled moment the metrics are what `stats` says, and all identities hold."""
    daemon = start_daemon("-e", "raw_syscalls:sys_enter").wait_ready()
    filter_file = daemon.instance / "events/raw_syscalls/sys_enter/filter"
    filter_file.write_text(f"id == {GETPPID}")  # nobody else's calls: the ring comes to rest
    run_loads(start_load, 20_000)
    wait_until(lambda: daemon.metric("decoded_events_total") >= 20_000 * len(CPUS), "everything decoded")

    def agree() -> bool:
        metrics = daemon.metrics()
        return all(
            metrics[f'kernel_read_events_total{{cpu="{cpu}",trace_instance="{daemon.instance.name}"}}']
            == metrics[f'decoded_events_total{{cpu="{cpu}",trace_instance="{daemon.instance.name}"}}']
            == stats.read_events
            for cpu, stats in daemon.stats().items()
        )

    wait_until(agree, "metrics as in stats")
    assert daemon.metric("ledger_residual_events") == daemon.metric("lost_events_total") == 0
    assert daemon.stop() == 0


@pytest.mark.parametrize("overwrite", [True, False])
def test_forced_loss_is_counted_to_the_entry(start_daemon: StartDaemon, start_load: StartLoad, overwrite: bool) -> None:
    calls = 50_000
    config = f"trace.overwrite = {str(overwrite).lower()}\n{QUICK}"
    daemon = start_daemon(*SYSCALLS, KEEP, *TINY, config=config).wait_ready()
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        pids = run_loads(start_load, calls)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    run_loads(start_load, 1000)  # overwritten entries show in the pages that come after them
    assert daemon.stop() == 0
    info = assert_agrees_with_kernel(daemon.archive, daemon.instance)
    for cpu, pid in pids.items():
        stream = of_cpu(info, cpu)
        assert stream["lost_events"] > calls
        assert stream["events"] + stream["lost_events"] >= 2 * calls
        if overwrite:
            assert stream["gaps"] > 0
            assert stream["unknown_gaps"] or stream["gap_known_events"] == stream["overrun"]
        else:
            gaps = [gap for gap in read_gaps(daemon.archive, "dropped") if gap.stream[1] == cpu]
            assert total(gaps) == stream["dropped"]
        assert len(read_events(daemon.archive, "--cpu", str(cpu), "--pid", str(pid))) < 2 * calls


def test_discarded_entries_are_no_loss(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    """A filter makes the kernel write entries and discard them: they are in the pages, but nobody counts them."""
    daemon = start_daemon(*SYSCALLS, KEEP, *BIG).wait_ready()
    (daemon.instance / "events/raw_syscalls/sys_enter/filter").write_text(f"id != {GETPPID}")
    pids = run_loads(start_load, 20_000)
    assert daemon.stop() == 0
    info = assert_agrees_with_kernel(daemon.archive, daemon.instance)
    assert info["lost_events"] == 0
    for pid in pids.values():
        calls = [e for e in read_events(daemon.archive, "--pid", str(pid)) if e["fields"]["id"] == GETPPID]
        assert {event["event"] for event in calls} == {"raw_syscalls:sys_exit"}
        assert len(calls) == 20_000


def test_somebody_else_clears_the_rings(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    """Writing the clock resets the kernel's counters and throws away what is unread: noticed, and gone on from."""
    daemon = start_daemon(*SYSCALLS).wait_ready()
    run_loads(start_load, 20_000)
    wait_until(lambda: daemon.metric("kernel_read_events_total") >= 80_000, "read and sampled")
    loads = [start_load("paced", cpu, 2000, 1) for cpu in CPUS]
    wait_until(lambda: daemon.metric("kernel_read_events_total") >= 82_000, "in the middle of the load")
    (daemon.instance / "trace_clock").write_text("mono")
    wait_until(lambda: daemon.metric("kernel_stats_resets_total") >= len(CPUS), "the resets noticed")
    for load in loads:
        load.communicate()
    assert daemon.stop() == 0
    info = read_info(daemon.archive)
    assert info["events"] >= 2 * 20_000 * len(CPUS)
    assert info["residual"] == 0
    assert {gap.stream[1] for gap in read_gaps(daemon.archive, "cleared")} == set(CPUS)
    assert "somebody else has reset a ring" in daemon.messages
    assert_verifies(daemon.archive)


def test_the_daemon_does_not_trace_itself(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*SYSCALLS).wait_ready()
    for _ in range(5):
        daemon.metrics()  # starts threads, reads, writes
    own = daemon.thread_ids
    assert daemon.stop() == 0
    assert {event["pid"] for event in read_events(daemon.archive)}.isdisjoint(own)


def read_archived(archive: Path, cpu: int, run: int) -> int:
    return int(of_cpu(read_info(archive), cpu, run)["events"])


@pytest.mark.parametrize("config", [QUICK, None], ids=["quick", "defaults"])
def test_killed_under_load_and_started_again(
    start_daemon: StartDaemon, start_load: StartLoad, config: str | None
) -> None:
    """What the killed one had read and not archived is counted; what it had not read is archived by the next one."""
    first = start_daemon(*SYSCALLS, KEEP, config=config).wait_ready()
    inode = first.instance.stat().st_ino
    loads = [start_load("paced", cpu, 20_000, 1.5) for cpu in CPUS]
    wait_until(lambda: first.metric("decoded_events_total") > 10_000, "entries decoded")
    first.process.kill()
    first.wait_end()
    for load in loads:
        load.communicate()

    second = start_daemon(*SYSCALLS, KEEP, config=config).wait_ready()
    assert second.instance.stat().st_ino == inode
    assert second.stop() == 0
    info = read_info(second.archive)
    assert [run["ended"] for run in info["runs"]] == ["recovered", "shutdown"]
    crash = {gap.stream[1]: gap.count or 0 for gap in read_gaps(second.archive, "crash")}
    for cpu, stats in read_stats(second.instance).items():
        archived = [read_archived(second.archive, cpu, run) for run in (0, 1)]
        assert stats.entries == 0
        assert sum(archived) + crash.get(cpu, 0) == stats.read_events
        lost = sum(of_cpu(info, cpu, run)["lost_events"] for run in (0, 1))
        assert lost == stats.overrun + stats.dropped_events
        assert of_cpu(info, cpu, 1)["residual"] == 0
    assert crash  # a block was open, at that rate
    assert_verifies(second.archive)


def test_nobody_else_sees_the_instance(start_daemon: StartDaemon) -> None:
    """It is made, locked and removed; a fresh one each time."""
    daemon: Daemon = start_daemon().wait_ready()
    assert daemon.instance.is_dir()
    assert daemon.stop() == 0
    assert not daemon.instance.exists()
    assert_verifies(daemon.archive)
