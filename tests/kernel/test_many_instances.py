"""Several instances in one run: one archive, one ledger each, none left behind."""

from pathlib import Path

from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import CPUS, QUICK, assert_verifies, read_events, read_info

EVENT = "syscalls:sys_enter_getppid"


def test_two_instances_of_one_run(start_daemon: StartDaemon, instance_name: str, tracefs: Path, start_load) -> None:
    other = f"{instance_name}-b"
    config = (
        QUICK
        + f"""
[trace]
events = ["{EVENT}"]
[[instances]]
instance = "{instance_name}"
[[instances]]
instance = "{other}"
clock = "boot"
cpus = "{CPUS[0]}"
"""
    )
    try:
        daemon = start_daemon(config=config).wait_ready()
        assert start_load("syscalls", CPUS[0], 1000).wait() == 0
        assert daemon.stop() == 0
    finally:
        left = (tracefs / "instances" / other).exists()
        if left:
            (tracefs / "instances" / other).rmdir()
    assert not left
    info = read_info(daemon.archive)
    streams = {(s["instance"], s["cpu"]): s for s in info["streams"]}
    assert set(streams) == {(instance_name, cpu) for cpu in CPUS} | {(other, CPUS[0])}
    assert {s["clock"] for s in info["streams"]} == {"mono", "boot"}
    assert streams[other, CPUS[0]]["events"] >= 1000
    assert info["residual"] == 0
    assert_verifies(daemon.archive)
    assert {event["instance"] for event in read_events(daemon.archive)} == {instance_name, other}
