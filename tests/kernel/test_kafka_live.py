"""The live kernel's entries in a broker: as many as in the archive, whatever happens to the broker and the daemon."""

import signal
from pathlib import Path

from sinks.kafka.consume import rebuild_archive
from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import CPUS, QUICK, assert_verifies, read_info, wait_until
from tests.sinks.kafka.brokers import SILENT, Tansu, create_topics

SINK = """
[[sinks]]
type = "kafka"
brokers = ["{address}"]
request_timeout_s = 3.0
retry_first_s = 0.1
retry_max_s = 0.5
[trace]
events = ["sched:sched_switch", "sched:sched_waking"]
"""


def counts_of(archive: Path) -> dict[str, int]:
    counts: dict[str, int] = read_info(archive)["by_event"]
    return counts


def rebuild(tansu: Tansu, folder: Path) -> Path:
    rebuild_archive({"bootstrap.servers": tansu.address, "logger": SILENT}, ("ftrace-maps", "ftrace"), folder)
    return folder


def test_what_info_says_is_in_the_topic(start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path) -> None:
    with Tansu(tmp_path) as tansu:
        create_topics(tansu.address, "ftrace-maps", ("ftrace",))
        daemon = start_daemon(config=QUICK + SINK.format(address=tansu.address)).wait_ready()
        start_load("mixed", CPUS[0], 20000).wait()
        assert daemon.stop() == 0
        found = counts_of(rebuild(tansu, tmp_path / "rebuilt"))
    assert found == counts_of(daemon.archive)
    assert sum(found.values()) > 20000
    assert read_info(daemon.archive)["residual"] == 0
    assert_verifies(daemon.archive)


def test_a_broker_that_stands_still_loses_nothing(
    start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path
) -> None:
    with Tansu(tmp_path) as tansu:
        create_topics(tansu.address, "ftrace-maps", ("ftrace",))
        daemon = start_daemon(config=QUICK + SINK.format(address=tansu.address)).wait_ready()
        start_load("mixed", CPUS[0], 5000).wait()
        wait_until(lambda: daemon.metric("sink_acked_events_total") > 0, "the first acknowledgement")
        assert tansu.process is not None
        tansu.process.send_signal(signal.SIGSTOP)
        start_load("mixed", CPUS[0], 5000).wait()
        wait_until(lambda: daemon.metric("sink_request_failures_total") > 0, "a failure")
        tansu.process.send_signal(signal.SIGCONT)
        wait_until(lambda: daemon.metric("spool_events") < 1000, "the acknowledgements")
        assert daemon.stop() == 0
        found = counts_of(rebuild(tansu, tmp_path / "rebuilt"))
    assert found == counts_of(daemon.archive)


def test_a_killed_daemon_goes_on_from_its_spool(
    start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path
) -> None:
    """The broker is not there while the first daemon runs; all of it is there after the second one."""
    tansu = Tansu(tmp_path)
    config = QUICK + SINK.format(address=tansu.address)
    first = start_daemon(config=config).wait_ready()
    start_load("mixed", CPUS[0], 5000).wait()
    wait_until(lambda: first.metric("sink_request_failures_total") > 0, "a failure")
    wait_until(lambda: first.metric("spool_events") > 5000, "the spool")
    first.process.kill()
    first.wait_end()
    with tansu:
        create_topics(tansu.address, "ftrace-maps", ("ftrace",))
        second = start_daemon(config=config).wait_ready()
        wait_until(lambda: second.metric("spool_events") < 1000, "the replay")
        assert second.stop() == 0
        found = counts_of(rebuild(tansu, tmp_path / "rebuilt"))
    assert found == counts_of(second.archive)
