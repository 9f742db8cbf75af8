"""The archive of a live daemon: signals, what is durable, pins that the daemon heeds."""

import signal
from pathlib import Path

from collector.archive.pins import list_pins
from collector.archive.reader import open_segment
from collector.cli import main
from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import QUICK, QUIET_EVENT, assert_verifies, read_info, wait_until
from tests.kernel.test_daemon_outside import write_markers


def sealed(archive: Path) -> list[Path]:
    return sorted(archive.glob("*.ftseg"))


def test_signals_seal_the_open_segment_and_end_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*QUIET_EVENT).wait_ready()
    for round in (1, 2):
        write_markers(daemon.instance, 10)
        wait_until(lambda round=round: daemon.metric("archive_durable_events_total") >= 10 * round, "durable")  # type: ignore[misc]
        assert daemon.metric("archive_written_events_total") >= 10 * round
        daemon.process.send_signal(signal.SIGUSR1)
        wait_until(lambda round=round: len(sealed(daemon.archive)) == round, "sealed")  # type: ignore[misc]
    daemon.process.send_signal(signal.SIGUSR2)
    daemon.wait_for_message("a signal asks a suspended archive to go on")
    assert daemon.metric("archive_free_bytes") > 0
    assert daemon.stop() == 0
    with open_segment(sealed(daemon.archive)[0]) as segment:
        assert segment.footer is not None
        assert segment.footer.reason == "signal"
    assert read_info(daemon.archive)["by_event"]["ftrace:print"] == 20  # hardly anything else happens, but it may
    assert_verifies(daemon.archive)


def test_retention_by_age_spares_what_is_pinned_while_the_daemon_runs(start_daemon: StartDaemon) -> None:
    config = QUICK + "[archive]\nmax_age_s = 0.5\nreserve_bytes = 65536\n"
    daemon = start_daemon(*QUIET_EVENT, config=config).wait_ready()
    archive = daemon.archive
    assert main(["pin", str(archive), "--name", "all", "--from", "2020-01-01T00:00Z", "--to", "2099-01-01T00:00Z"]) == 0
    for round in (1, 2):
        write_markers(daemon.instance, 10)
        wait_until(lambda round=round: daemon.metric("archive_written_events_total") == 10 * round, "written")  # type: ignore[misc]
        daemon.process.send_signal(signal.SIGUSR1)
        wait_until(lambda round=round: len(sealed(archive)) == round, "sealed")  # type: ignore[misc]
    wait_until(lambda: daemon.metric("archive_pinned_bytes") == sum(p.stat().st_size for p in sealed(archive)), "seen")
    assert (archive / ".reserve").stat().st_size == 65536
    assert list_pins(archive)[0].startswith("all: 2020-01-01T00:00:00Z to 2099-01-01T00:00:00Z, ")
    assert main(["unpin", str(archive), "--name", "all"]) == 0
    wait_until(lambda: not sealed(archive), "removed")
    wait_until(lambda: daemon.metric("archive_removed_segments_total") == 2, "counted")
    assert daemon.stop() == 0
    assert_verifies(archive)
