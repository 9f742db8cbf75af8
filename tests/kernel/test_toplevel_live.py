"""Collecting from the top-level buffer: every file of it reads as before, however the run ended."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TRACEFS
from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import QUICK, assert_verifies, read_events, read_gaps, read_info, run_command, wait_until

TOP = f"""{QUICK}
[trace]
top_level_buffer = true
allow_top_level = true
instance = "all"
events = ["sched:sched_switch", "sched:sched_process_exec"]
buffer_size_kb = 2048
buffer_percent = 10
cpus = "0"
overwrite = false
filters = {{"sched:sched_switch" = "prev_pid > 0"}}
triggers = {{"sched:sched_process_exec" = ["stacktrace:3"]}}
options = {{sym-addr = true}}
saved_cmdlines_size = 20000
event_fork = true
"""
MARKER = "written before anybody looked"
# What others do at any time, what the kernel never forgets, and what is too slow to read or refused.
LEFT_OUT = {
    "trace_pipe", "trace_pipe_raw", "snapshot", "snapshot_raw", "trace_marker", "trace_marker_raw", "free_buffer",
    "saved_cmdlines", "saved_tgids", "available_filter_functions", "available_filter_functions_addrs", "format", "id",
    "hist", "hist_debug", "inject", "printk_formats", "error_log", "touched_functions",
}  # fmt: skip


def read_tracefs() -> dict[str, str]:
    """{file: text} of the top level, its events, options and rings; of stats without the times."""
    found = {}
    for folder, folders, files in os.walk(TRACEFS):
        folders[:] = [name for name in folders if name != "instances"]
        for name in set(files) - LEFT_OUT:
            path = Path(folder, name)
            try:
                text = path.read_text(errors="replace")
            except OSError as error:
                text = str(error)
            found[str(path.relative_to(TRACEFS))] = re.sub(r"(now|oldest event) ts: .*", "", text)
    found["saved_cmdlines_size"] = found["saved_cmdlines_size"].split()[0]
    return found


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def untouched(runtime: Path) -> Iterator[None]:
    """The top level is unused before, and as before afterwards; a failed test's changes are taken back first."""
    size = (TRACEFS / "buffer_size_kb").read_text()
    if expanded := re.search(r"expanded: (\d+)", size):  # nobody has used it since the boot: this is its first use
        (TRACEFS / "buffer_size_kb").write_text(expanded[1])
    before = read_tracefs()
    assert before["set_event"] == ""
    assert before["current_tracer"] == "nop\n"
    assert "entries-written: 0/0 " in before["trace"], f"`echo > {TRACEFS}/trace` throws away what is in it"
    try:
        yield
        after = read_tracefs()
        assert {name: (text, after.get(name)) for name, text in before.items() if after.get(name) != text} == {}
        assert list(runtime.glob("*")) == []
    finally:
        run_command("cleanup")
        clear()  # what a failed test leaves would fail all after it


def clear() -> None:
    """Throw the top level's entries away; it had none before."""
    (TRACEFS / "trace").write_text("")


def put_marker(text: str) -> None:
    (TRACEFS / "trace_marker").write_text(text)


def markers(archive: Path) -> list[str]:
    return [event["fields"]["buf"].strip() for event in read_events(archive, "-e", "ftrace:print")]


def test_a_run_that_is_stopped(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config=TOP, instance="all").wait_ready()
    os.sched_setaffinity(0, {0})
    put_marker("from the top level")
    wait_until(lambda: daemon.metric("decoded_events_total") > 0, "entries of the top level")
    said = run_command("doctor", "-c", daemon.archive.with_suffix(".toml"), "--output", daemon.archive).stdout
    assert re.search(rf"(?s)instance all\n.*lock +already running, as \S+ \({daemon.pid}\)", said)
    assert daemon.stop() == 0
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    info = read_info(daemon.archive)
    assert (info["residual"], {stream["instance"] for stream in info["streams"]}) == (0, {"all"})
    assert info["by_event"]["sched:sched_switch"] > 0
    assert "from the top level" in markers(daemon.archive)
    assert_verifies(daemon.archive)


def test_a_run_that_is_killed_and_the_next_start(start_daemon: StartDaemon) -> None:
    first = start_daemon(config=TOP, instance="all").wait_ready()
    wait_until(lambda: first.metric("archive_raw_bytes_total") > 0, "a block in the archive")
    first.stop(signal.SIGKILL)
    os.sched_setaffinity(0, {0})
    put_marker(MARKER)  # into the ring that nobody reads
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    other = TOP.replace("prev_pid > 0", "prev_pid > 1").replace("2048", "1024")
    second = start_daemon(config=other, instance="all").wait_ready()
    assert "archived what an earlier run had left" in second.messages
    assert second.stop() == 0
    assert MARKER in markers(second.archive)
    assert len(read_gaps(second.archive, "crash")) == 1
    info = read_info(second.archive)
    assert len(info["runs"]) == 3
    assert_verifies(second.archive)


def test_a_run_that_is_killed_and_cleaned_up(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config=TOP, instance="all").wait_ready()
    daemon.stop(signal.SIGKILL)
    assert "cleanup all` takes it back" in run_command("doctor").stdout
    done = run_command("cleanup")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("all: restored ")


def test_somebody_else_uses_it(start_daemon: StartDaemon) -> None:
    enable = TRACEFS / "events/sched/sched_kthread_stop/enable"
    enable.write_text("1")
    try:
        daemon = start_daemon(config=TOP, instance="all")
        assert daemon.wait_end() == 1
        assert "1 events that are on (sched:sched_kthread_stop)" in daemon.messages
        assert enable.read_text() == "1\n"
    finally:
        enable.write_text("0")
    clear()  # a thread of the kernel may have ended meanwhile
    put_marker("somebody else's")
    daemon = start_daemon(config=TOP, instance="all")
    assert daemon.wait_end() == 1
    assert "1 entries that nobody has read" in daemon.messages
    clear()
    with (TRACEFS / "trace_pipe").open("rb"):
        daemon = start_daemon(config=TOP, instance="all")
        assert daemon.wait_end() == 1
        assert f"process {os.getpid()} (" in daemon.messages


def test_two_collectors(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon(config=TOP, instance="all").wait_ready()
    second = start_daemon(config=TOP.replace('"all"', '"mine"'), instance="mine", archive=tmp_path / "second")
    assert second.wait_end() == 1
    assert f"the top-level buffer is in use; expected no other collector on it; got a lock of process {first.pid}" in (
        second.messages
    )
    assert first.stop() == 0


def test_block_requests_as_raw_records_and_as_text(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Records of the tracer blk have no format: raw they are kept as they are, the kernel's text reads them."""
    if "blk" not in (TRACEFS / "available_tracers").read_text():
        pytest.skip("this kernel has no blk tracer")
    devices = [path.parent.parent.name for path in Path("/sys/block").glob("*/trace/enable")]
    device = next((name for name in devices if name.startswith(("vd", "sd", "nvme"))), None)
    if device is None:
        pytest.skip("no disk to write to")
    for read, event in (("raw", "unknown:event_"), ("text", "text:blk")):
        keys = f'tracer = "blk"\nblock_devices = ["{device}"]\nread = "{read}"\n'
        config = f"{QUICK}\n[trace]\ntop_level_buffer = true\nallow_top_level = true\nevents = []\n{keys}"
        daemon = start_daemon(config=config, instance="all", archive=tmp_path / read).wait_ready()
        with (tmp_path / "data").open("wb") as file:
            file.write(os.urandom(65536))
            os.fsync(file.fileno())
        wait_until(lambda daemon=daemon: daemon.metric("decoded_events_total") > 0, "block requests")
        assert daemon.stop() == 0
        info = read_info(daemon.archive)
        assert info["residual"] == 0
        assert {name for name in info["by_event"] if not name.startswith(event)} == set()
        assert_verifies(daemon.archive)
        assert (Path("/sys/block") / device / "trace/enable").read_text() == "0\n"
