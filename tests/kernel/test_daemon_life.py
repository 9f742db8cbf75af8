"""Start, stop and leftovers of the daemon on the live kernel: signals, second daemons, wrong words, kept instances."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import TRACEFS
from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import (
    CPUS,
    QUICK,
    assert_verifies,
    of_cpu,
    read_events,
    read_info,
    read_stats,
    run_command,
    wait_until,
)

MARKERS = 500


def write_markers(instance: Path, count: int, first: int = 0) -> None:
    """`count` numbered entries, from the CPU that runs this."""
    fd = os.open(instance / "trace_marker", os.O_WRONLY)
    try:
        for number in range(first, first + count):
            os.write(fd, b"marker %d\n" % number)
    finally:
        os.close(fd)


def read_markers(archive: Path) -> list[int]:
    """The numbers of the archived markers, in the order of `show`."""
    found = read_events(archive, "-e", "ftrace:print")
    return [int(event["fields"]["buf"].split()[1]) for event in found]


def make_leftover(instance: Path, clock: str) -> None:
    """An instance as a killed daemon leaves it, with entries nobody has read."""
    instance.mkdir()
    (instance / "trace_clock").write_text(clock)
    write_markers(instance, MARKERS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_was_written_before_the_signal_is_archived(start_daemon: StartDaemon, number: signal.Signals) -> None:
    """With the default intervals: nothing of it has been read when the signal comes."""
    daemon = start_daemon(config=None).wait_ready()
    write_markers(daemon.instance, MARKERS)
    assert daemon.stop(number) == 0
    assert read_markers(daemon.archive) == list(range(MARKERS))
    assert not list(daemon.archive.glob("*.part"))
    assert not daemon.instance.exists()
    assert read_info(daemon.archive)["residual"] == 0
    assert_verifies(daemon.archive)
    assert f"ftrace-collector show {daemon.archive}`" in daemon.messages


def test_ends_by_itself_after_its_duration(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--duration", "0.3")
    assert daemon.wait_end() == 0
    assert read_info(daemon.archive)["residual"] == 0


def test_a_second_daemon_is_told_who_has_the_instance(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon().wait_ready()
    second = start_daemon(archive=tmp_path / "other")
    assert second.wait_end() == 1
    assert str(first.pid) in second.messages
    assert str(first.instance) in second.messages
    assert "Traceback" not in second.messages
    write_markers(first.instance, MARKERS)
    assert first.stop() == 0
    assert read_markers(first.archive) == list(range(MARKERS))


def test_a_second_daemon_is_told_who_has_the_archive(start_daemon: StartDaemon) -> None:
    first = start_daemon().wait_ready()
    second = start_daemon(instance=f"{first.instance.name}-2")
    assert second.wait_end() == 1
    assert str(first.pid) in second.messages
    assert str(first.archive) in second.messages
    assert not second.instance.exists()
    assert first.stop() == 0
    assert_verifies(first.archive)


@pytest.mark.parametrize(
    ("words", "config", "code", "says"),
    [
        (("-e", "nosuch:event"), "", 64, "nosuch:event"),
        (("-e", "sched:no_such_*"), "", 64, "sched:no_such_*"),
        (("-e", "sched"), "shutdown_timeout_s = 1", 0, "collecting"),
        (("--clock", "sundial"), "", 64, "mono_raw"),
        (("--buffer-size-kb", "0"), "", 64, "buffer"),
        (("--buffer-size-kb", str(1 << 40)), "", 64, "half of memory"),
        (("--subbuf-size-kb", "3"), "", 64, "subbuf"),
        (("--subbuf-size-kb", "1024"), "", 64, "subbuf"),
        (("--cpu", "4000"), "", 64, "no such CPU"),
        (("--cpu", "x"), "", 64, "0-3,8"),
        (("--duration", "-1"), "", 64, "seconds"),
        ((), "trace.evnets = []", 78, "did you mean"),
        ((), "trace.clock = 7", 78, "trace.clock"),
        ((), "trace = [", 78, "TOML"),
        (("--output", "/proc/none"), "", 1, "/proc/none"),
        (("--output", "/dev/null"), "", 1, "/dev/null"),
        (("--http", "203.0.113.1:1"), "", 1, "http.listen"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_and_leave_nothing(
    start_daemon: StartDaemon, words: tuple[str, ...], config: str, code: int, says: str
) -> None:
    daemon = start_daemon(*words, *(() if "--duration" in words else ("--duration", "0.1")), config=config)
    assert daemon.wait_end() == code
    assert says in daemon.messages
    assert "Traceback" not in daemon.messages
    assert not daemon.instance.exists()


@pytest.mark.parametrize("name", ["../tracing", "a/b", "", "."])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    done = run_command("run", "--instance", name, "--output", tmp_path, "--http", "", "--duration", "0.1")
    assert done.returncode == 64
    assert "instance" in done.stderr


def test_a_kept_instance_is_taken_up_again(start_daemon: StartDaemon) -> None:
    first = start_daemon("--keep-instance").wait_ready()
    write_markers(first.instance, MARKERS)
    assert first.stop() == 0
    assert (first.instance / "tracing_on").read_text() == "0\n"
    assert (first.instance / "set_event").read_text() == ""
    second = start_daemon().wait_ready()
    write_markers(second.instance, MARKERS, MARKERS)
    assert second.stop() == 0
    assert not second.instance.exists()
    assert read_markers(second.archive) == list(range(2 * MARKERS))
    assert read_info(second.archive)["residual"] == 0
    assert_verifies(second.archive)


@pytest.mark.parametrize("on_leftover", ["adopt", "remove"])
def test_a_leftover_is_archived_or_removed(start_daemon: StartDaemon, instance_name: str, on_leftover: str) -> None:
    make_leftover(TRACEFS / "instances" / instance_name, "mono")
    words = ("--subbuf-size-kb", "4", "--buffer-size-kb", "1408")  # as a new instance has them
    daemon = start_daemon(*words, config=f'trace.on_leftover = "{on_leftover}"\n{QUICK}').wait_ready()
    assert daemon.stop() == 0
    assert read_markers(daemon.archive) == (list(range(MARKERS)) if on_leftover == "adopt" else [])
    assert read_info(daemon.archive)["residual"] == 0
    assert_verifies(daemon.archive)


def test_a_leftover_with_another_clock_is_a_run_of_its_own(start_daemon: StartDaemon, instance_name: str) -> None:
    """Setting the clock would throw its entries away."""
    make_leftover(TRACEFS / "instances" / instance_name, "boot")
    daemon = start_daemon().wait_ready()
    write_markers(daemon.instance, MARKERS, MARKERS)
    assert daemon.stop() == 0
    info = read_info(daemon.archive)
    assert len(info["runs"]) == 2
    assert {of_cpu(info, cpu, run)["clock"] for run in (0, 1) for cpu in CPUS} == {"boot", "mono"}
    assert of_cpu(info, CPUS[0], 0)["clock"] == "boot"
    assert sorted(read_markers(daemon.archive)) == list(range(2 * MARKERS))
    assert info["residual"] == 0
    assert_verifies(daemon.archive)


def test_a_drain_that_takes_too_long_leaves_the_rest_to_the_next_start(
    start_daemon: StartDaemon, start_load: StartLoad
) -> None:
    words = ("-e", "raw_syscalls:*", "--buffer-size-kb", "65536")  # several visits of 16 MiB
    first = start_daemon(*words, config="shutdown_timeout_s = 0.001\ntrace.buffer_percent = 100").wait_ready()
    os.kill(first.pid, signal.SIGSTOP)
    try:
        loads = [start_load("syscalls", cpu, 300_000) for cpu in CPUS]
        for load in loads:
            load.communicate()
        os.kill(first.pid, signal.SIGTERM)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    code = first.wait_end()
    left = read_info(first.archive)["left_in_kernel"]
    assert code == (75 if left else 0)
    if not left:  # this machine drained 128 MiB within a millisecond: a complete drain, and its code said so
        return
    assert sum(stats.entries for stats in read_stats(first.instance).values()) == left
    second = start_daemon(*words, "--keep-instance").wait_ready()
    assert second.stop() == 0
    info = read_info(second.archive)
    # 0 on a machine that does nothing else
    assert info["lost_events"] == sum(stats.overrun for stats in read_stats(second.instance).values())
    for cpu, stats in read_stats(second.instance).items():
        assert of_cpu(info, cpu, 0)["events"] + of_cpu(info, cpu, 1)["events"] == stats.read_events
    assert_verifies(second.archive)


def test_instance_taken_away_while_it_runs(start_daemon: StartDaemon) -> None:
    """It can't be: the kernel refuses, for its files are open."""
    daemon = start_daemon().wait_ready()
    with pytest.raises(OSError, match="busy"):
        daemon.instance.rmdir()
    write_markers(daemon.instance, MARKERS)
    wait_until(lambda: daemon.metric("decoded_events_total") >= MARKERS, "it goes on")
    assert daemon.stop() == 0
