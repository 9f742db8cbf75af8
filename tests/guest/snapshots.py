"""Inside a guest: flight recorders of this kernel, whose snapshots reach an archive; a line for each check.

Usage: python -m tests.guest.snapshots RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.guest.checks import check
from tests.guest.tracers import assert_as_before, expect_refusal, read_tracefs
from tests.kernel.daemon import (
    COMMAND,
    CPUS,
    QUICK,
    Daemon,
    assert_verifies,
    read_events,
    read_gaps,
    read_info,
    wait_until,
)

QUIET = 'events = ["sched:sched_kthread_stop"]\n'
RECORDER = f'{QUIET}read = "snapshot"\n'
SMALL = "buffer_size_kb = 64\nsubbuf_size_kb = 4\n"
ON_EXEC = 'triggers = {"sched:sched_process_exec" = ["snapshot"]}\n'


class Markers:
    """Numbered markers, and how many were written."""

    def __init__(self, instance: Path) -> None:
        self._file = instance / "trace_marker"
        self.written = 0

    def write(self, count: int, cpu: int = 0) -> None:
        os.sched_setaffinity(0, {cpu})
        with self._file.open("wb", buffering=0) as file:
            for number in range(self.written, self.written + count):
                file.write(b"marker %d\n" % number)
        self.written += count
        os.sched_setaffinity(0, CPUS)


@contextmanager
def recorder(name: str, keys: str, archive: Path) -> Iterator[tuple[Daemon, Markers]]:
    with Daemon(f"snapshots-{name}", archive, config=f"{QUICK}\n[trace]\n{keys}") as daemon:
        wait_until(lambda: "event=collecting" in daemon.messages or daemon.process.poll() is not None, name)
        running = daemon.process.poll() is None
        check(running, f"{name}: collects{'' if running else daemon.messages}")
        yield daemon, Markers(daemon.instance)


def run_command(*words: str) -> tuple[int, str]:
    """(exit code, what it said) of a command."""
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def numbers(archive: Path) -> list[int]:
    """The markers in the archive, as they are shown."""
    return [int(e["fields"]["buf"].split()[1]) for e in read_events(archive, "-e", "ftrace:print")]


def stop(name: str, daemon: Daemon, *, lost: bool = False) -> Mapping[str, Any]:
    """End it; the ledger must be settled to the entry. Gives what `info` says."""
    code = daemon.stop()
    check(code == 0, f"{name}: exit code {code}" + ("" if code == 0 else daemon.messages))
    info = read_info(daemon.archive)
    check(info["residual"] == 0, f"{name}: residual {info['residual']}, lost {info['lost_events']}")
    check((info["lost_events"] > 0) == lost, f"{name}: lost {info['lost_events']}, {info['gap_known_events']} in gaps")
    assert_verifies(daemon.archive)
    return info


def by_command(archive: Path) -> None:
    """Nothing is read until a snapshot is asked for; the last one comes at the end."""
    with recorder("command", RECORDER, archive) as (daemon, markers):
        for cpu in CPUS:
            markers.write(100, cpu)
        pages = daemon.metric("decoded_events_total")
        code, said = run_command("snapshot")
        check((code, said) == (0, "snapshots-command: snapshot taken\n"), f"command: {said.strip()}")
        wait_until(lambda: daemon.metric("decoded_events_total") >= markers.written, "the snapshot is archived")
        check(pages == 0, "command: nothing was read before")
        check("ledger_residual_events" not in str(daemon.metrics()), "command: an open ledger has no residual")
        markers.write(50)
        check(run_command("snapshot", "snapshots-command")[0] == 0, "command: by name")
        wait_until(lambda: daemon.metric("decoded_events_total") >= markers.written, "the second one")
        markers.write(30)
        code, said = run_command("snapshot", "nowhere")
        check(code == 64 and "no such instance" in said and "snapshots-command" in said, "command: no such instance")
        info = stop("command", daemon)
        check(numbers(archive) == list(range(markers.written)), f"command: all {markers.written} markers, in order")
        check(info["events"] == sum(s["read_events"] for s in info["streams"]), "command: read events are the kernel's")


def by_trigger(archive: Path) -> None:
    """An event takes it; also while the recorder is stopped, when the rings must not be swapped any more."""
    with recorder("trigger", RECORDER + ON_EXEC, archive) as (daemon, markers):
        markers.write(100)
        before = daemon.metric("decoded_events_total")
        subprocess.run(["true"], check=True)
        wait_until(lambda: daemon.metric("decoded_events_total") >= markers.written, "the trigger's snapshot")
        check(before == 0, "trigger: nothing was read before")
        load = subprocess.Popen(["sh", "-c", "while :; do /bin/true; done"])
        try:
            for _ in range(20):
                markers.write(50)
            stop("trigger", daemon)
        finally:
            load.kill()
            load.wait()
        check(sorted(numbers(archive)) == list(range(markers.written)), f"trigger: all {markers.written} markers")


def by_interval(archive: Path) -> None:
    """What is overwritten between two snapshots is counted, to the entry."""
    with recorder("interval", RECORDER + SMALL + "snapshot_interval_s = 0.3\n", archive) as (daemon, markers):
        wait_until(lambda: markers.write(2000) or daemon.metric("gap_known_events_total") > 0, "loss is seen")
        info = stop("interval", daemon, lost=True)
        check(info["events"] + info["lost_events"] == markers.written, f"interval: {markers.written} are accounted for")
        seen = numbers(archive)
        check(len(seen) == info["events"] and seen[-1] == markers.written - 1, f"interval: {len(seen)} shown")


def after_a_crash(archive: Path) -> None:
    """A killed recorder: the next one finds both rings, and what was read and not archived is counted."""
    with recorder("crash", RECORDER + SMALL, archive) as (daemon, markers):
        markers.write(3000)
        check(run_command("snapshot", "snapshots-crash")[0] == 0, "crash: snapshot")
        wait_until(lambda: daemon.metric("archive_raw_bytes_total") > 0, "the snapshot is archived")
        open_info = read_info(archive)
        check(open_info["lost_events"] is None and open_info["residual"] is None, "crash: what is open is not known")
        markers.write(3000)
        check(run_command("snapshot", "snapshots-crash")[0] == 0, "crash: another snapshot")
        markers.write(3000)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.wait_end()
        markers.write(7)
    with recorder("crash", RECORDER + SMALL, archive) as (again, more):
        more.written = markers.written
        more.write(20)
        info = stop("crash", again, lost=True)
        known = info["events"] + info["lost_events"] + info["crash_lost_events"]
        lost = f"{info['lost_events']} overwritten, {info['crash_lost_events']} lost with the crash"
        check(known == more.written, f"crash: {known} of {more.written} markers are accounted for, {lost}")


def then_raw(archive: Path) -> None:
    """A recorder was killed, and its instance is wanted for the live ring: what is in both rings is archived first."""
    with recorder("raw", RECORDER, archive) as (daemon, markers):
        markers.write(100)
        check(run_command("snapshot", "snapshots-raw")[0] == 0, "raw: snapshot")
        wait_until(lambda: daemon.metric("archive_raw_bytes_total") > 0, "the snapshot is archived")
        markers.write(40)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.wait_end()
    with recorder("raw", QUIET, archive) as (again, more):
        more.written = markers.written
        more.write(60)
        check((again.instance / "snapshot").read_text().count("* Snapshot is freed *") == 1, "raw: the memory is free")
        code, said = run_command("snapshot", "snapshots-raw")
        refused = code == 64 and "reads the live ring" in said
        check(refused, "raw: no snapshot of it" + ("" if refused else said))
        info = stop("raw", again)
        missing = more.written - len(numbers(archive))
        check(missing == info["crash_lost_events"], f"raw: all but {missing} markers, counted as lost with the crash")


def of_others(archive: Path) -> None:
    """Somebody takes the live ring away: it is said, counted and recorded."""
    with recorder("others", QUIET, archive) as (daemon, markers):
        markers.write(100)
        wait_until(lambda: daemon.metric("decoded_events_total") >= 100, "read")
        wait_until(lambda: daemon.metric("kernel_read_events_total") >= 100, "sampled")
        (daemon.instance / "snapshot").write_text("1")
        markers.write(10)
        wait_until(lambda: daemon.metrics()['interference_total{what="snapshot"}'] > 0, "noticed")
        wait_until(lambda: daemon.metric("kernel_stats_resets_total") > 0, "the other ring's counters")
        stop("others", daemon)
        details = {gap.detail for gap in read_gaps(archive, "interference")}
        check(details == {"snapshot: freed -> allocated, left as it is"}, f"others: {details}")
        check(read_gaps(archive, "cleared"), "others: the counters went with the ring")


def main() -> None:
    release = sys.argv[1]
    check(os.uname().release.startswith(release), f"kernel {os.uname().release}")
    cases = [by_command, by_trigger, by_interval, after_a_crash, then_raw, of_others]
    for case in cases:
        if len(sys.argv) > 2 and case.__name__ not in sys.argv[2:]:
            continue
        before = read_tracefs()
        with tempfile.TemporaryDirectory() as folder:
            case(Path(folder) / "archive")
        assert_as_before(case.__name__, before)
    expect_refusal("refused", QUIET + ON_EXEC, "a snapshot swaps the rings under their reader")


if __name__ == "__main__":
    main()
