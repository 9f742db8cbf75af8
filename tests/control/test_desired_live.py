"""The desired state on the live kernel: what is set reads back, and afterwards tracefs reads as before."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.cli import main
from collector.config.load import parse_config
from collector.config.trace import TraceConfig
from collector.control.desired import build_spec, preview
from collector.control.instance import Instance
from collector.errors import TracefsError, TracefsPermissionError, UsageError
from collector.tracefs.dynamic import group_of
from collector.tracefs.files import TracefsDir
from tests.kernel.daemon import QUICK, assert_verifies, read_info

pytestmark = pytest.mark.kernel

SMALL = 'events = ["sched:sched_switch"]\nbuffer_size_kb = 64\nsubbuf_size_kb = 4\nexclude_self = false\n'
TOP_FILES = (
    "current_tracer", "set_event", "set_event_pid", "set_event_notrace_pid", "tracing_on", "trace_clock",
    "buffer_size_kb", "buffer_percent", "tracing_cpumask", "dynamic_events", "tracing_thresh", "saved_cmdlines_size",
    "max_graph_depth", "set_graph_function", "snapshot",
)  # fmt: skip


def read_top(tracefs: Path) -> dict[str, str]:
    texts = {}
    for path in [*(tracefs / name for name in TOP_FILES), *sorted((tracefs / "options").iterdir())]:
        try:
            texts[path.name] = path.read_text()
        except OSError:
            continue  # this kernel has no such file, or nobody may read it
    return texts


@pytest.fixture
def top(tracefs: Path) -> Iterator[TracefsDir]:
    """The live tracefs; at the end its top level must read as before."""
    before = read_top(tracefs)
    yield TracefsDir(tracefs)
    assert read_top(tracefs) == before


def config_of(name: str, keys: str) -> TraceConfig:
    return parse_config(f"[trace]\ninstance = '{name}'\n{SMALL}{keys}\n", "c").trace


def set_up(top: TracefsDir, name: str, keys: str) -> Instance:
    made = Instance.open(top, build_spec(config_of(name, keys), top))
    try:
        made.configure()
    except BaseException:
        made.undo(timeout_s=5)
        raise
    return made


def needs(top: TracefsDir, *files: str) -> None:
    for file in files:
        if not top.exists(file):
            pytest.skip(f"this kernel has no {file}")


def test_filters_triggers_pids_and_options_read_back(top: TracefsDir, instance_name: str) -> None:
    keys = (
        'filters = {"sched:sched_switch" = "prev_pid > 1 && next_pid > 1"}\n'
        'triggers = {"sched:sched_switch" = ["stacktrace:5 if prev_pid == 4000000", '
        '"traceoff if prev_pid == 4000001"]}\n'
        "event_pids = [1, 2]\nnotrace_pids = [3]\nevent_fork = false\noptions = {sym-addr = true}\n"
    )
    made = set_up(top, instance_name, keys)
    event = made.dir.path / "events/sched/sched_switch"
    assert (event / "filter").read_text() == "prev_pid > 1 && next_pid > 1\n"
    assert sorted((event / "trigger").read_text().replace("count=", "").splitlines()) == [
        "stacktrace:5 if prev_pid == 4000000", "traceoff:unlimited if prev_pid == 4000001",
    ]  # fmt: skip
    assert made.dir.read_text("set_event_pid").split() == ["1", "2"]
    assert made.dir.read_text("set_event_notrace_pid").split() == ["3"]
    assert made.dir.read_text("options/event-fork") == "0\n"
    assert made.dir.read_text("options/sym-addr") == "1\n"
    made.undo(timeout_s=5)
    assert not made.dir.path.exists()


def test_sizes_of_single_cpus(top: TracefsDir, instance_name: str) -> None:
    made = set_up(top, instance_name, 'buffer_size_kb_per_cpu = {"0" = 256}')
    sizes = {cpu: int(made.dir.read_text(f"per_cpu/cpu{cpu}/buffer_size_kb")) for cpu in made.dir.possible_cpus()}
    assert sizes.pop(0) >= 256
    assert all(64 <= size < 256 for size in sizes.values())
    made.close()
    again = Instance.open(top, build_spec(config_of(instance_name, 'buffer_size_kb_per_cpu = {"0" = 256}'), top))
    assert preview(config_of(instance_name, 'buffer_size_kb_per_cpu = {"0" = 256}'), top) == []
    again.undo(timeout_s=5)


def test_the_same_wish_after_a_crash_writes_nothing(top: TracefsDir, instance_name: str) -> None:
    keys = (
        'filters = {"sched:sched_switch" = "prev_pid > 1"}\nevent_pids = [1]\n'
        'triggers = {"sched:sched_switch" = ["stacktrace if prev_pid == 4000000", "traceoff:3"]}'
    )
    set_up(top, instance_name, keys).close()
    assert preview(config_of(instance_name, keys), top) == []
    other = config_of(instance_name, "")
    assert [(w.file, w.value.replace("count=", "")) for w in preview(other, top) if w.file != "tracing_on"] == [
        ("events/sched/sched_switch/trigger", "!traceoff:3"),
        ("events/sched/sched_switch/trigger", "!stacktrace:unlimited if prev_pid == 4000000"),
        ("set_event_pid", ""),
        ("events/sched/sched_switch/filter", "0"),
    ]
    again = Instance.open(top, build_spec(other, top))
    again.configure()
    assert preview(other, top) == []
    again.undo(timeout_s=5)


def test_a_refused_filter_shows_the_kernel_s_words_and_a_caret(top: TracefsDir, instance_name: str) -> None:
    with pytest.raises(TracefsError) as caught:
        set_up(top, instance_name, 'filters = {"sched:sched_switch" = "prev_pid > 1 && nothing == 2"}')
    assert "Field not found" in str(caught.value)
    assert any(line.strip() == "^" for line in str(caught.value).splitlines())
    assert not (top.path / "instances" / instance_name).exists()


def test_a_refused_trigger_is_not_explained_by_an_old_entry(top: TracefsDir, instance_name: str) -> None:
    with pytest.raises(TracefsError, match=r"trigger: the kernel refuses the value; got EINVAL") as caught:
        set_up(top, instance_name, 'triggers = {"sched:sched_switch" = ["nonsense"]}')
    assert "nothing == 2" not in str(caught.value)


def libc_function(name: str) -> tuple[str, int]:
    """(file, offset) of a function of the C library, for a uprobe."""
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    assert address is not None
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        start, end = (int(part, 16) for part in words[0].split("-"))
        if start <= address < end and len(words) > 5:
            return words[5], address - start + int(words[2], 16)
    raise AssertionError(f"{name} is in no file")


def test_uprobes_are_made_enabled_and_removed(top: TracefsDir, instance_name: str) -> None:
    needs(top, "dynamic_events", "uprobe_events")
    path, offset = libc_function("getppid")
    keys = (
        f'probes = ["u:asked {path}:{offset:#x}", "ur:told {path}:{offset:#x} pid=$retval"]\n'
        'filters = {"probes:told" = "pid > 0", "sched:sched_switch" = "prev_pid == 4000000"}\n'
    )
    made = set_up(top, instance_name, keys)
    group = group_of(instance_name)
    listed = [line for line in top.read_text("dynamic_events").splitlines() if f":{group}/" in line]
    assert [line.split()[0] for line in listed] == [f"p:{group}/asked", f"r:{group}/told"]
    enabled = set(made.dir.read_text("set_event").split())
    assert enabled == {"sched:sched_switch", f"{group}:asked", f"{group}:told"}
    # A crash leaves them; the next start knows them again.
    made.close()
    assert preview(config_of(instance_name, keys), top) == []
    again = Instance.open(top, build_spec(config_of(instance_name, keys), top))
    again.configure()
    before = again.probe().unread
    os.getppid()
    assert again.probe().unread > before
    again.undo(timeout_s=5)


def test_a_crashed_run_s_probes_go_with_its_instance(top: TracefsDir, instance_name: str) -> None:
    needs(top, "dynamic_events", "uprobe_events")
    path, offset = libc_function("getppid")
    set_up(top, instance_name, f'probes = ["u:asked {path}:{offset:#x}"]').close()
    Instance.open(top, build_spec(config_of(instance_name, ""), top)).remove(timeout_s=5)
    assert group_of(instance_name) not in top.read_text("dynamic_events")


def test_a_failure_half_way_removes_the_probes(top: TracefsDir, instance_name: str) -> None:
    needs(top, "dynamic_events", "uprobe_events")
    path, offset = libc_function("getppid")
    with pytest.raises(TracefsError, match="Field not found"):
        set_up(top, instance_name, f'probes = ["u:asked {path}:{offset:#x}"]\nfilters = {{"probes:asked" = "x == 1"}}')


def test_a_refused_probe_shows_the_kernel_s_words(top: TracefsDir, instance_name: str) -> None:
    needs(top, "dynamic_events", "uprobe_events")
    path, _ = libc_function("getppid")
    with pytest.raises(TracefsError, match=r"dynamic_events: the kernel refuses the value.*the kernel says"):
        set_up(top, instance_name, f'probes = ["u:asked {path}:0x10 x=$nonsense"]')


def test_the_shared_size_of_thread_names_is_restored(top: TracefsDir, instance_name: str) -> None:
    needs(top, "saved_cmdlines_size", "tracing_thresh")
    before = top.read_text("saved_cmdlines_size")
    with pytest.raises(UsageError, match="expected allow_top_level = true"):
        set_up(top, instance_name, "tracing_thresh_us = 7")
    keys = f"tracing_thresh_us = 7\nsaved_cmdlines_size = {int(before) * 2}\nallow_top_level = true"
    made = set_up(top, instance_name, keys)
    assert top.read_text("tracing_thresh") == "7\n"
    assert int(top.read_text("saved_cmdlines_size")) >= 2 * int(before)
    made.undo(timeout_s=5)


def test_the_function_tracer_runs_or_is_refused_in_words(top: TracefsDir, instance_name: str) -> None:
    """Some hosts forbid its files even to root; tests/guest has kernels that allow it."""
    needs(top, "available_filter_functions")
    keys = 'tracer = "function"\nfunctions = ["vfs_read"]'
    try:
        top.read_text("available_filter_functions")
    except TracefsPermissionError:
        with pytest.raises(TracefsPermissionError, match="EPERM"):
            set_up(top, instance_name, keys)
        assert not (top.path / "instances" / instance_name).exists()
        return
    made = set_up(top, instance_name, keys)
    assert made.dir.read_text("set_ftrace_filter").split() == ["vfs_read"]
    made.undo(timeout_s=5)


def test_plan_prints_each_write_and_what_undoes_it(
    top: TracefsDir, instance_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(
        f'[trace]\n{SMALL}tracing_thresh_us = 7\nallow_top_level = true\n[[instances]]\ninstance = "{instance_name}"\n'
    )
    assert main(["plan", "-c", str(tmp_path / "c.toml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{instance_name}: events/sched/sched_switch/enable 1  [undone by: removing the instance]" in lines
    assert "top level: tracing_thresh 7  [undone by: tracing_thresh 0]" in lines
    assert main(["plan", "--json", "-c", str(tmp_path / "c.toml")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(lines)
    assert not (top.path / "instances" / instance_name).exists()


def test_a_plan_that_cannot_be_ends_with_a_message(top: TracefsDir, instance_name: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[trace]\n{SMALL}tracing_thresh_us = 7\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("ftrace-collector"), "plan", "-c", tmp_path / "c.toml"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 64
    assert "allow_top_level = true" in done.stderr


def test_probes_and_triggers_reach_the_archive(top: TracefsDir, instance_name: str, tmp_path: Path) -> None:
    """The whole daemon: two instances, a uprobe with a stack trace in one, a filter in the other."""
    needs(top, "dynamic_events", "uprobe_events")
    path, offset = libc_function("getppid")
    other = f"{instance_name}-b"
    config = (
        f"{QUICK}[trace]\nexclude_self = false\nbuffer_size_kb = 1024\n"
        f'[[instances]]\ninstance = "{instance_name}"\nevents = []\nprobes = ["u:asked {path}:{offset:#x}"]\n'
        f'filters = {{"probes:asked" = "common_pid == {os.getpid()}"}}\n'
        'triggers = {"probes:asked" = ["stacktrace:3"]}\n'
        f'[[instances]]\ninstance = "{other}"\nevents = ["sched:sched_switch"]\n'
        'filters = {"sched:sched_switch" = "prev_pid == 4000000"}\n'
    )
    group = group_of(instance_name)
    archive = tmp_path / "archive"
    (tmp_path / "c.toml").write_text(config)
    command = [Path(sys.executable).with_name("ftrace-collector"), "run", "-c", tmp_path / "c.toml", "--http", "",
               "--output", archive]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            seen = ""
            while f"instance={other}" not in seen:
                line = daemon.stderr.readline()
                assert line, seen
                seen += line
            for _ in range(10):
                os.getppid()
            daemon.terminate()
            seen += daemon.stderr.read()
            assert daemon.wait() == 0, seen
        finally:
            daemon.kill()
    info = read_info(archive)
    assert (info["residual"], info["lost_events"]) == (0, 0)
    assert info["by_event"] == {f"{group}:asked": 10, "ftrace:kernel_stack": 3}
    assert_verifies(archive)
    assert not (top.path / "instances" / other).exists()
