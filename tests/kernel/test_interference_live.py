"""Somebody else changes the instance of a running daemon: it is noticed, recorded, and written back where wished."""

import pytest

from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import CPUS, QUICK, QUIET_EVENT, Daemon, assert_verifies, read_gaps, read_info, wait_until


def noticed(daemon: Daemon, what: str) -> None:
    wait_until(lambda: daemon.metrics().get(f'interference_total{{what="{what}"}}') == 1, f"{what} was noticed")


@pytest.mark.parametrize(
    ("file", "value", "left"),
    [("tracing_on", "0", "0"), ("buffer_percent", "77", "77"), ("events/sched/sched_waking/enable", "1", "1")],
)
def test_a_change_is_recorded_and_left(start_daemon: StartDaemon, file: str, value: str, left: str) -> None:
    daemon = start_daemon(*QUIET_EVENT).wait_ready()
    (daemon.instance / file).write_text(value)
    noticed(daemon, "set_event" if file.startswith("events/") else file)
    assert (daemon.instance / file).read_text().strip() == left
    assert daemon.stop() == 0
    details = {gap.detail for gap in read_gaps(daemon.archive, "interference")}
    assert len(details) == 1
    assert "left as it is" in details.pop()
    assert read_info(daemon.archive)["residual"] == 0
    assert_verifies(daemon.archive)


def test_a_change_is_written_back_on_request(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*QUIET_EVENT, config=QUICK + '[trace]\non_interference = "repair"\n').wait_ready()
    (daemon.instance / "tracing_on").write_text("0")
    noticed(daemon, "tracing_on")
    assert (daemon.instance / "tracing_on").read_text().strip() == "1"
    assert daemon.stop() == 0
    assert len(read_gaps(daemon.archive, "interference")) == len(CPUS)


FILTERED = """
[trace]
on_interference = "{wish}"
filters = {{"sched:sched_kthread_stop" = "pid == 4000000"}}
triggers = {{"sched:sched_kthread_stop" = ["stacktrace:5 if pid == 4000000"]}}
"""


@pytest.mark.parametrize("wish", ["record", "repair"])
def test_a_filter_and_triggers_of_the_settings(start_daemon: StartDaemon, wish: str) -> None:
    daemon = start_daemon(*QUIET_EVENT, config=QUICK + FILTERED.format(wish=wish)).wait_ready()
    event = daemon.instance / "events/sched/sched_kthread_stop"
    before = (event / "filter").read_text(), (event / "trigger").read_text()
    assert "stacktrace" in before[1]
    (event / "filter").write_text("0")
    noticed(daemon, "filter")
    with (event / "trigger").open("wb", buffering=0) as file:
        file.write(b"!stacktrace")
    noticed(daemon, "trigger")
    with (event / "trigger").open("wb", buffering=0) as file:
        file.write(b"traceon if pid == 4000000")
    wait_until(lambda: daemon.metrics()['interference_total{what="trigger"}'] == 2, "the second trigger was noticed")
    after = (event / "filter").read_text(), (event / "trigger").read_text()
    assert (after == before) == (wish == "repair")
    assert daemon.stop() == 0
    assert len(read_gaps(daemon.archive, "interference")) == 3 * len(CPUS)
    assert_verifies(daemon.archive)


def test_another_clock_is_never_left(start_daemon: StartDaemon) -> None:
    """Its times would be taken for those of the clock that the archive names."""
    daemon = start_daemon(*QUIET_EVENT).wait_ready()
    (daemon.instance / "trace_clock").write_text("local")
    noticed(daemon, "trace_clock")
    assert "[mono]" in (daemon.instance / "trace_clock").read_text()
    assert daemon.stop() == 0
    assert_verifies(daemon.archive)
