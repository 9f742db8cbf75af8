"""Inside a guest: tracers and probes of this kernel, each through the daemon into an archive; a line for each check.

Usage: python -m tests.guest.tracers RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import TRACEFS
from tests.control.test_desired_live import libc_function
from tests.guest.checks import check
from tests.kernel.daemon import QUICK, Daemon, assert_verifies, read_events, read_info, run_command, wait_until

OPENS = 50

FUNCTION = """
tracer = "function"
functions = ["do_sys_openat2", "vfs_fsta*"]
options = {func_stack_trace = true}
"""
GRAPH = """
tracer = "function_graph"
graph_functions = ["do_sys_openat2"]
max_graph_depth = 2
allow_top_level = true
options = {funcgraph-irqs = false}
"""
KPROBE = """
probes = [
  "p:opening do_sys_openat2 dfd=%di file=+0(%si):ustring",
  "r:opened do_sys_openat2 fd=$retval",
  "e:switched sched.sched_switch pid=$next_pid:s32",
]
triggers = {"probes:opening" = ["stacktrace:20"]}
filters = {"probes:opened" = "fd >= 0"}
"""
FPROBE = """
probes = ["f:entered do_sys_openat2 dfd", "f:left do_sys_openat2%return fd=$retval", "t:passed sched_switch preempt"]
"""
SYNTHETIC = """
events = ["sched:sched_waking", "sched:sched_switch"]
probes = ["s:wake_lat u64 lat; pid_t pid"]
[trace.triggers]
"sched:sched_waking" = ["hist:keys=pid:ts0=common_timestamp.usecs"]
"sched:sched_switch" = ["hist:keys=next_pid:lat=common_timestamp.usecs-$ts0:onmatch(sched.sched_waking).wake_lat($lat,next_pid)"]
"""  # noqa: E501
SHARED = """
events = ["sched:sched_switch"]
saved_cmdlines_size = 20000
tracing_thresh_us = 5
stack_tracer = false
ftrace_enabled = true
allow_top_level = true
event_pids = [1]
"""
REFUSED = """
events = ["sched:sched_switch"]
tracer = "function"
functions = ["do_sys_openat2"]
probes = ["p:opening do_sys_openat2"]
options = {func_stack_trace = true}
filters = {"sched:sched_switch" = "prev_pid > 1 && nothing == 2"}
"""

MODULE_EVENTS = """
events = ["ext4:ext4_sync_file_enter", "ext4:ext4_sync_file_exit", "jbd2:*"]
"""
LOSS = """
[trace]
buffer_size_kb = 64
subbuf_size_kb = {subbuf_kb}
events = ["sched:sched_kthread_stop"]
"""
MARKERS = 20_000  # some 40 bytes each: more than the rings hold

WATCHED = (
    "current_tracer", "set_event", "set_ftrace_filter", "set_ftrace_notrace", "set_graph_function", "set_graph_notrace",
    "max_graph_depth", "dynamic_events", "tracing_thresh", "saved_cmdlines_size", "tracing_on", "trace_clock",
    "buffer_size_kb", "tracing_cpumask", "enabled_functions", "/proc/sys/kernel/ftrace_enabled",
    "/proc/sys/kernel/stack_tracer_enabled",
)  # fmt: skip


def read_tracefs() -> dict[str, str]:
    """What a run may not leave otherwise than it found it."""
    texts = {name: (TRACEFS / name).read_text() for name in WATCHED if (TRACEFS / name).exists()}
    # "7 (expanded: 1408)" until somebody traces there; 6.1 forgets that with the first tracer of any instance.
    texts["buffer_size_kb"] = texts["buffer_size_kb"].split()[0]
    texts |= {f"options/{p.name}": p.read_text() for p in (TRACEFS / "options").iterdir()}
    texts["instances"] = " ".join(sorted(p.name for p in (TRACEFS / "instances").iterdir()))
    return texts


def open_files() -> None:
    for _ in range(OPENS):
        os.stat("/etc/hostname")
        with open("/etc/hostname", "rb") as file:
            os.fstat(file.fileno())


def config_of(keys: str) -> str:
    events = "" if "events =" in keys else "events = []\n"
    return f"{QUICK}\n[trace]\nbuffer_size_kb = 8192\n{events}{keys}"


def run_case(name: str, keys: str, load: Callable[[], None], wanted: Mapping[str, int]) -> Any:
    """Collect under a load; gives the events that were archived."""
    before = read_tracefs()
    with tempfile.TemporaryDirectory() as folder:
        with Daemon(f"tracers-{name}", Path(folder) / "archive", config=config_of(keys)) as daemon:
            wait_until(lambda: "event=collecting" in daemon.messages or daemon.process.poll() is not None, name)
            running = daemon.process.poll() is None
            check(running, f"{name}: collects{'' if running else daemon.messages}")
            load()
            wait_until(lambda: daemon.metric("decoded_events_total") >= max(wanted.values(), default=0), f"{name} runs")
            code = daemon.stop()
        check(code == 0, f"{name}: exit code {code}" + ("" if code == 0 else daemon.messages))
        info = read_info(daemon.archive)
        for event, count in wanted.items():
            check(info["by_event"].get(event, 0) >= count, f"{name}: {info['by_event'].get(event, 0)} {event}")
        check(info["residual"] == 0, f"{name}: residual {info['residual']}, lost {info['lost_events']}")
        assert_verifies(daemon.archive)
        shown = read_events(daemon.archive)
    assert_as_before(name, before)
    return shown


def assert_as_before(case: str, before: Mapping[str, str]) -> None:
    after = read_tracefs()
    changed = {name: (text[:200], after.get(name)) for name, text in before.items() if after.get(name) != text}
    check(not changed, f"{case}: tracefs as before {changed or ''}")


def expect_refusal(name: str, keys: str, said: str) -> None:
    """The daemon ends with a message, and leaves nothing behind."""
    before = read_tracefs()
    with (
        tempfile.TemporaryDirectory() as folder,
        Daemon(f"tracers-{name}", Path(folder) / "archive", config=config_of(keys)) as daemon,
    ):
        code = daemon.wait_end()
        refused = code != 0 and said in daemon.messages and "Traceback" not in daemon.messages
        check(refused, f"{name}: refused{'' if refused else daemon.messages}")
    assert_as_before(name, before)


def ask_for_parent() -> None:
    for _ in range(OPENS):
        os.getppid()


@contextlib.contextmanager
def mounted_ext4() -> Iterator[Callable[[], None]]:
    """A load for the events of a module: files that are synced on a filesystem that the kernel has as a module."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        image, place = Path(folder) / "image", Path(folder) / "place"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["modprobe", "-a", "loop", "ext4"], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)

        def sync_files() -> None:
            for number in range(OPENS):
                with (place / str(number)).open("wb", buffering=0) as file:
                    file.write(b"x")
                    os.fsync(file.fileno())

        try:
            yield sync_files
        finally:
            subprocess.run(["umount", place], check=True)


def lose_entries(subbuf_kb: int) -> None:
    """A daemon that stands still while its rings run over: what is missing is what the kernel counts."""
    name = f"loss-{subbuf_kb}"
    with tempfile.TemporaryDirectory() as folder:
        config = QUICK + LOSS.format(subbuf_kb=subbuf_kb)
        with Daemon(f"tracers-{name}", Path(folder) / "archive", config=config) as daemon:
            wait_until(lambda: "event=collecting" in daemon.messages or daemon.process.poll() is not None, name)
            daemon.process.send_signal(signal.SIGSTOP)
            with (daemon.instance / "trace_marker").open("wb", buffering=0) as markers:
                for number in range(MARKERS):
                    markers.write(b"marker %d\n" % number)
            overrun = sum(of.overrun for of in daemon.stats().values())
            daemon.process.send_signal(signal.SIGCONT)
            check(daemon.stop() == 0, f"{name}: exit code 0")
        info = read_info(daemon.archive)
        check(info["lost_events"] == overrun > 0, f"{name}: lost {info['lost_events']}, the kernel's overrun {overrun}")
        found = info["by_event"]["ftrace:print"]
        check(found + overrun == MARKERS, f"{name}: {found} of {MARKERS} markers and the loss are all")
        check(info["residual"] == 0, f"{name}: residual {info['residual']}")
        assert_verifies(daemon.archive)


def kill_and_clean_up() -> None:
    """The kernel has an option of a tracer once, for all instances: it goes back with `cleanup`, as does the tracer."""
    before = read_tracefs()
    option = TRACEFS / "options/func_stack_trace"
    with tempfile.TemporaryDirectory() as folder:
        killed, other = (Path(folder) / name for name in ("killed", "other"))
        with Daemon("tracers-killed", killed, config=config_of(FUNCTION)) as daemon:
            daemon.wait_ready()
            check(option.read_text() == "1\n", "killed: the top level has the instance's option")
            with Daemon("tracers-other", other, config=config_of(FUNCTION)) as second:
                code = second.wait_end()
                refused = code != 0 and f"by process {daemon.pid}" in second.messages
                check(refused, f"killed: a second run is refused{'' if refused else second.messages}")
            daemon.stop(signal.SIGKILL)
    check(option.read_text() == "1\n", "killed: the option is left")
    done = run_command("cleanup")
    check(done.returncode == 0, f"killed: {done.stdout.strip()}{done.stderr}")
    assert_as_before("killed", before)


def main() -> None:
    release = sys.argv[1]
    check(os.uname().release.startswith(release), f"kernel {os.uname().release}")
    newer = release != "6.1"
    shown = run_case("function", FUNCTION, open_files, {"ftrace:function": OPENS, "ftrace:kernel_stack": OPENS})
    check(any(e["event"] == "ftrace:function" for e in shown), "function: shown")
    if newer:
        run_case("graph", GRAPH, open_files, {"ftrace:funcgraph_entry": OPENS, "ftrace:funcgraph_exit": OPENS})
    else:
        expect_refusal("graph", GRAPH, "at the top level only")
    kill_and_clean_up()
    group = "ftc_tracers_kprobe"
    wanted = {f"{group}:opening": OPENS, f"{group}:opened": OPENS, f"{group}:switched": 10, "ftrace:kernel_stack": 20}
    shown = run_case("kprobe", KPROBE, open_files, wanted)
    check(any(e["fields"].get("file") == "/etc/hostname" for e in shown), "kprobe: a name that was opened")
    if newer:
        group = "ftc_tracers_fprobe"
        wanted = {f"{group}:entered": OPENS, f"{group}:left": OPENS, f"{group}:passed": 10}
        run_case("fprobe", FPROBE, open_files, wanted)
    path, offset = libc_function("getppid")
    uprobe = f'probes = ["u:asked {path}:{offset:#x}", "ur:told {path}:{offset:#x} pid=$retval"]'
    group = "ftc_tracers_uprobe"
    run_case("uprobe", uprobe, ask_for_parent, {f"{group}:asked": OPENS, f"{group}:told": OPENS})
    with mounted_ext4() as sync_files:
        run_case(
            "module", MODULE_EVENTS, sync_files, {"ext4:ext4_sync_file_enter": OPENS, "jbd2:jbd2_commit_flushing": 1}
        )
    for subbuf_kb in (4, 16) if newer else (4,):
        lose_entries(subbuf_kb)
    run_case("synthetic", SYNTHETIC, open_files, {"synthetic:wake_lat": 10})
    run_case("shared", SHARED, open_files, {})
    expect_refusal("refused", REFUSED, "Field not found")
    expect_refusal("misspelt", 'tracer = "function"\nfunctions = ["do_sys_openat3"]', "did you mean do_sys_openat2")


if __name__ == "__main__":
    main()
