"""A run is killed: what it changed outside of its instance is restored by the next start, or by `cleanup`."""

import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import TRACEFS
from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import QUICK, QUIET_EVENT, assert_verifies, run_command

CONFIG = f"""{QUICK}
[trace]
saved_cmdlines_size = 20000
allow_top_level = true
options = {{test_nop_accept = true, sym-addr = true}}
probes = ["u:started {sys.executable}:0x10"]
triggers = {{"probes:started" = ["stacktrace:5"]}}
"""
OTHER = f'{QUICK}\n[trace]\nevents = ["sched:sched_kthread_stop"]\n'


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def read_shared() -> dict[str, str]:
    names = ["saved_cmdlines_size", "dynamic_events", *(f"options/{p.name}" for p in (TRACEFS / "options").iterdir())]
    texts = {name: (TRACEFS / name).read_text() for name in names}
    texts["saved_cmdlines_size"] = texts["saved_cmdlines_size"].split()[0]
    return texts


def kill_one(start_daemon: StartDaemon, runtime: Path) -> None:
    """A run that has changed what all share is killed."""
    before = read_shared()
    with start_daemon(*QUIET_EVENT, config=CONFIG) as daemon:
        daemon.wait_ready()
        daemon.stop(signal.SIGKILL)
        assert read_shared() != before
        assert [path.name for path in runtime.iterdir()] == [f"{daemon.instance.name}.undo"]


def test_the_next_start_restores_it_at_its_end(start_daemon: StartDaemon, runtime: Path) -> None:
    before = read_shared()
    kill_one(start_daemon, runtime)
    daemon = start_daemon(config=OTHER).wait_ready()
    assert daemon.stop() == 0
    assert read_shared() == before
    assert not daemon.instance.exists()
    assert list(runtime.iterdir()) == []
    assert_verifies(daemon.archive)


def test_killed_twice(start_daemon: StartDaemon, runtime: Path) -> None:
    before = read_shared()
    kill_one(start_daemon, runtime)
    second = start_daemon(config=CONFIG.replace("20000", "40000")).wait_ready()
    second.stop(signal.SIGKILL)
    assert run_command("cleanup", second.instance.name).returncode == 0
    assert read_shared() == before


def test_doctor_names_it_and_cleanup_takes_it_away(start_daemon: StartDaemon, runtime: Path) -> None:
    before = read_shared()
    kill_one(start_daemon, runtime)
    (journal,) = runtime.iterdir()
    name = journal.stem
    report = run_command("doctor", "--instance", name).stdout
    assert f"cleanup {name}` takes it back" in report
    done = run_command("cleanup")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{name}: restored ")
    assert "saved_cmdlines_size" in done.stdout
    assert read_shared() == before
    assert not (TRACEFS / "instances" / name).exists()
    assert list(runtime.iterdir()) == []
    assert run_command("cleanup").stdout == "nothing is left of a killed run\n"


def test_a_live_run_is_not_cleaned_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*QUIET_EVENT, config=CONFIG).wait_ready()
    assert run_command("cleanup").stdout == "nothing is left of a killed run\n"
    refused = run_command("cleanup", daemon.instance.name)
    assert refused.returncode == 1
    assert f"process {daemon.pid}" in refused.stderr
    other = start_daemon(*QUIET_EVENT, config=CONFIG, instance=f"{daemon.instance.name}-2",
                         archive=daemon.archive.with_name("other"))  # fmt: skip
    assert other.wait_end() == 1
    assert f"by process {daemon.pid}, instance {daemon.instance.name}" in other.messages
    assert not other.instance.exists()
    assert daemon.stop() == 0
