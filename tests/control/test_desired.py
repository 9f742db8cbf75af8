"""Each key of an instance on a stand-in for the kernel: what is written, in which order, and what takes it back."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from collector.config.load import parse_config
from collector.control.desired import build_spec, describe, preview
from collector.control.executor import Executor
from collector.control.feasible import check_desired
from collector.control.instance import Instance
from collector.control.planner import plan_instance, plan_owned
from collector.control.probing import read_probe
from collector.control.wish import InstanceSpec, Undo
from collector.errors import InstanceBusyError, TracefsError, UsageError
from tests.tracefs.tree import FakeKernel, make_fake_kernel, put, stats

BASE = """\
instance = "ours"
events = ["sched:sched_switch"]
clock = "local"
buffer_size_kb = 1024
subbuf_size_kb = 4
"""
SWITCH_FILES = "events/sched/sched_switch"
FUNCTION = 'tracer = "function"\n'


def spec_of(kernel: FakeKernel, keys: str) -> InstanceSpec:
    return build_spec(parse_config(f"[trace]\n{BASE}{keys}\n", "c").trace, kernel)


def set_up(kernel: FakeKernel, keys: str) -> Instance:
    """An instance that did not exist before, set up."""
    made = Instance.open(kernel, spec_of(kernel, keys))
    made.existed = False
    made.configure()
    return made


def undo(made: Instance) -> None:
    """As `undo` does, but for the folder: this one can't be removed."""
    with pytest.raises(TracefsError, match="can't be removed"):
        made.undo(timeout_s=0)
    made.close()


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return make_fake_kernel(tmp_path / "tracefs", "ours")


def read_all(kernel: FakeKernel) -> dict[str, str]:
    """{file: text} of the top level and of /proc/sys."""
    root = kernel.path.parent
    files = (p for p in root.rglob("*") if p.is_file() and "instances" not in p.parts)
    return {str(p.relative_to(root)): p.read_text() for p in files}


def writes_of(kernel: FakeKernel, file: str) -> list[str]:
    return [value for name, value in kernel.written if name == file]


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        ('tracer = "function"', {"current_tracer": "function"}),
        (f'{FUNCTION}functions = ["vfs_*"]', {"set_ftrace_filter": "vfs_read\nvfs_write"}),
        (f'{FUNCTION}functions = [":mod:ext4"]', {"set_ftrace_filter": "ext4_sync [ext4]\next4_read [ext4]"}),
        (f'{FUNCTION}notrace_functions = ["vfs_read"]', {"set_ftrace_notrace": "vfs_read"}),
        (f"{FUNCTION}options = {{func_stack_trace = true, sym-addr = false}}", {"options/func_stack_trace": "1"}),
        (f"{FUNCTION}function_pids = [7, 5]", {"set_ftrace_pid": "5 7"}),
        (f"{FUNCTION}notrace_function_pids = [7]", {"set_ftrace_notrace_pid": "7"}),
        ("event_pids = [7, 5]", {"set_event_pid": "5 7"}),
        ("notrace_pids = [9]", {"set_event_notrace_pid": "9", "options/event-fork": "1"}),
        ("event_fork = true", {"options/event-fork": "1"}),
        ('filters = {"sched:sched_switch" = "prev_pid > 1"}', {f"{SWITCH_FILES}/filter": "prev_pid > 1"}),
        ('triggers = {"sched:sched_switch" = ["stacktrace"]}', {f"{SWITCH_FILES}/trigger": "stacktrace"}),
        ("max_graph_depth = 3\nallow_top_level = true", {"/max_graph_depth": "3"}),
        ("saved_cmdlines_size = 4096\nallow_top_level = true", {"/saved_cmdlines_size": "4096"}),
        ("tracing_thresh_us = 50\nallow_top_level = true", {"/tracing_thresh": "50"}),
        ('graph_functions = ["vfs_read"]\nallow_top_level = true', {"/set_graph_function": "vfs_read"}),
        ('graph_notrace_functions = ["vfs_read"]\nallow_top_level = true', {"/set_graph_notrace": "vfs_read"}),
        ("ftrace_enabled = false\nallow_top_level = true", {"/../sysctl/ftrace_enabled": "0"}),
        ("stack_tracer = true\nallow_top_level = true", {"/../sysctl/stack_tracer_enabled": "1"}),
        ('buffer_size_kb_per_cpu = {"0" = 4096}', {"per_cpu/cpu0/buffer_size_kb": "4096"}),
    ],
)
def test_each_key_reads_back_and_the_top_level_is_as_before_at_the_end(
    kernel: FakeKernel, keys: str, files: dict[str, str]
) -> None:
    before = read_all(kernel)
    made = set_up(kernel, keys)
    for file, value in files.items():
        place = kernel.path / file[1:] if file.startswith("/") else made.dir.path / file
        assert place.read_text().strip() == value, file
    undo(made)
    assert read_all(kernel) == before
    for file in ("current_tracer", "options/func_stack_trace", f"{SWITCH_FILES}/trigger"):
        assert (made.dir.path / file).read_text().strip() in ("nop", "0", "")


@pytest.mark.parametrize(
    ("keys", "file", "value"),
    [
        ('clock = "global"', "trace_clock", "[global] local"),
        ("buffer_size_kb = 4096", "buffer_size_kb", "4096"),
        ("buffer_size_kb = 4096\nsubbuf_size_kb = 16", "buffer_subbuf_size_kb", "16"),
        ("buffer_percent = 10", "buffer_percent", "10"),
        ("overwrite = false", "options/overwrite", "0"),
        ('cpus = "1"', "tracing_cpumask", "2"),
        ('events = ["sched:*"]', "events/sched/enable", "1"),
        ('events = ["sched:sched_w*"]', "events/sched/sched_waking/enable", "1"),
        ("", "tracing_on", "1"),
    ],
)
def test_each_size_and_switch_reads_back(kernel: FakeKernel, keys: str, file: str, value: str) -> None:
    cpu = {f"per_cpu/cpu1/{name}": text for name, text in (("stats", stats(0)), ("buffer_size_kb", "1410\n"))}
    put(kernel.instance("ours").path, {**cpu, "tracing_cpumask": "3\n"})
    put(kernel.path, cpu)
    before = read_all(kernel)
    made = Instance.open(kernel, build_spec(parse_config(f'[trace]\ninstance = "ours"\n{keys}', "c").trace, kernel))
    made.existed = False
    made.configure()
    assert (made.dir.path / file).read_text().strip() == value
    undo(made)
    assert read_all(kernel) == before


@pytest.mark.parametrize(
    "tracer",
    ["function", "function_graph", "irqsoff", "preemptoff", "preemptirqsoff", "wakeup", "wakeup_rt", "wakeup_dl",
     "hwlat", "osnoise", "timerlat", "mmiotrace"],
)  # fmt: skip
def test_every_tracer_that_an_instance_lists_can_be_set(kernel: FakeKernel, tracer: str) -> None:
    put(kernel.instance("ours").path, {"available_tracers": f"{tracer} nop\n", "tracing_max_latency": "0\n"})
    made = set_up(kernel, f'tracer = "{tracer}"\nconsent_mmiotrace = true')
    assert writes_of(kernel, "current_tracer") == [tracer]
    undo(made)
    assert writes_of(kernel, "current_tracer") == [tracer, "nop"]


def test_probes_are_made_in_our_group_enabled_filtered_and_removed(kernel: FakeKernel) -> None:
    put(kernel.path, {"dynamic_events": "p:theirs/x vfs_read\n"})
    keys = (
        'probes = ["p:open do_sys_openat2", "s:lat u64 lat"]\nfilters = {"probes:open" = "a > 1"}\n'
        'triggers = {"synthetic:lat" = ["traceoff:1"]}'
    )
    made = set_up(kernel, keys)
    assert (kernel.path / "dynamic_events").read_text().splitlines() == [
        "p:theirs/x vfs_read", "p:ftc_ours/open do_sys_openat2", "s:synthetic/lat u64 lat",
    ]  # fmt: skip
    written = [entry for entry in kernel.written if entry[0].startswith("events/")]
    assert written == [
        ("events/ftc_ours/open/enable", "1"),
        (f"{SWITCH_FILES}/enable", "1"),
        ("events/synthetic/lat/enable", "1"),
        ("events/ftc_ours/open/filter", "a > 1"),
        ("events/synthetic/lat/trigger", "traceoff:1"),
    ]
    kernel.written.clear()
    undo(made)
    assert kernel.written == [
        ("tracing_on", "0"),
        ("events/enable", "0"),
        ("set_event_notrace_pid", ""),
        ("events/synthetic/lat/trigger", "!traceoff:1"),
        ("dynamic_events", "-:synthetic/lat"),
        ("dynamic_events", "-:ftc_ours/open"),
    ]
    assert (kernel.path / "dynamic_events").read_text() == "p:theirs/x vfs_read\n"


def test_the_one_right_order(kernel: FakeKernel) -> None:
    made = set_up(
        kernel,
        'tracer = "function"\nfunctions = ["vfs_read", "do_sys_*"]\nfunction_pids = [3]\nprobes = ["p:open vfs_read"]\n'
        'options = {func_stack_trace = true}\ncpus = "0"\nevent_pids = [5]\nnotrace_pids = [6]\n'
        'buffer_size_kb_per_cpu = {"0" = 4096}\noverwrite = false\nbuffer_percent = 10\ntracing_thresh_us = 1\n'
        'allow_top_level = true\nfilters = {"sched:sched_switch" = "prev_pid > 1"}\n'
        'triggers = {"sched:sched_switch" = ["stacktrace", "traceoff:3 if prev_pid == 5"]}',
    )
    assert [name for name, _ in kernel.written] == [
        "tracing_on", "buffer_size_kb", "per_cpu/cpu0/buffer_size_kb", "buffer_percent", "options/overwrite",
        "dynamic_events", "tracing_thresh", "set_ftrace_filter", "set_ftrace_filter", "set_ftrace_pid",
        "current_tracer", "options/func_stack_trace", "set_event_pid", "options/event-fork", "set_event_notrace_pid",
        "events/ftc_ours/open/enable", f"{SWITCH_FILES}/enable", f"{SWITCH_FILES}/filter", f"{SWITCH_FILES}/trigger",
        f"{SWITCH_FILES}/trigger", "tracing_on",
    ]  # fmt: skip
    assert writes_of(kernel, "set_ftrace_filter") == ["vfs_read", "do_sys_*"]  # one word a write
    kernel.written.clear()
    undo(made)
    assert kernel.written == [
        ("tracing_on", "0"), ("events/enable", "0"), ("set_event_notrace_pid", ""),
        (f"{SWITCH_FILES}/trigger", "!traceoff:3 if prev_pid == 5"), (f"{SWITCH_FILES}/trigger", "!stacktrace"),
        ("options/func_stack_trace", "0"), ("current_tracer", "nop"), ("tracing_thresh", "0"),
        ("dynamic_events", "-:ftc_ours/open"),
    ]  # fmt: skip


def test_a_trigger_may_turn_tracing_off_before_it_is_read_back(kernel: FakeKernel) -> None:
    made = Instance.open(kernel, spec_of(kernel, 'triggers = {"sched:sched_switch" = ["traceoff:1"]}'))
    assert plan_instance(made.spec, made.probe())[-1].verify == "none"
    made.close()


def test_a_trigger_that_has_acted_before_it_is_read_back_is_the_same(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts down, as soon as the trigger is there."""
    read_text = FakeKernel.read_text

    def count_down(tree: FakeKernel, name: str) -> str:
        return read_text(tree, name).replace("stacktrace:50", "stacktrace:count=48")

    monkeypatch.setattr(FakeKernel, "read_text", count_down)
    made = set_up(kernel, 'triggers = {"sched:sched_switch" = ["stacktrace:50"]}')
    assert (made.dir.path / f"{SWITCH_FILES}/trigger").read_text().strip() == "stacktrace:50"
    made.close()


def test_a_failure_half_way_is_taken_back_in_reverse(kernel: FakeKernel) -> None:
    before = read_all(kernel)
    kernel.refused[(f"{SWITCH_FILES}/filter", "foo == 1")] = errno.EINVAL
    keys = (
        'tracer = "function"\nprobes = ["p:open vfs_read"]\nsaved_cmdlines_size = 999\nallow_top_level = true\n'
        'options = {func_stack_trace = true}\nfilters = {"sched:sched_switch" = "foo == 1"}'
    )
    made = Instance.open(kernel, spec_of(kernel, keys))
    made.existed = False
    with pytest.raises(TracefsError) as caught:
        made.configure()
    message = str(caught.value)
    assert f"{SWITCH_FILES}/filter: the kernel refuses the value; got EINVAL" in message
    assert "Field not found\n  Command: foo == 1\n             ^" in message
    assert "An old one" not in message
    at = kernel.written.index((f"{SWITCH_FILES}/filter", "foo == 1"))
    assert kernel.written[at + 1 :] == [
        ("tracing_on", "0"), ("events/enable", "0"), ("set_event_notrace_pid", ""),
        ("options/func_stack_trace", "0"), ("current_tracer", "nop"), ("saved_cmdlines_size", "128"),
        ("dynamic_events", "-:ftc_ours/open"),
    ]  # fmt: skip
    assert read_all(kernel) == before
    made.close()


def test_what_could_not_be_taken_back_after_a_failure_is_said_only_when_it_stays(kernel: FakeKernel) -> None:
    kernel.refused[(f"{SWITCH_FILES}/filter", "foo == 1")] = errno.EINVAL
    kernel.refused[("dynamic_events", "-:ftc_ours/open")] = errno.EBUSY
    keys = 'probes = ["p:open vfs_read"]\nfilters = {"sched:sched_switch" = "foo == 1"}'
    made = Instance.open(kernel, spec_of(kernel, keys))
    with pytest.raises(TracefsError, match=r"(?s)Field not found") as caught:
        made.configure()
    assert "dynamic_events" not in str(caught.value)
    with pytest.raises(InstanceBusyError, match=r"(?s)p:ftc_ours/open vfs_read.*EBUSY.*cleanup ours"):
        made.undo(timeout_s=0)
    kernel.refused.clear()
    undo(made)
    assert (kernel.path / "dynamic_events").read_text() == ""


def test_an_event_that_is_on_can_not_be_removed_so_a_failure_turns_it_off_first(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does: EBUSY while any instance has it on."""
    write, enabled = FakeKernel._write, kernel.path / "instances/ours/events/ftc_ours/open/enable"

    def refuse_while_on(tree: FakeKernel, name: str, value: str, flags: int) -> None:
        busy = value == "-:ftc_ours/open" and enabled.read_text() == "1\n"
        tree.refused[("dynamic_events", "-:ftc_ours/open")] = errno.EBUSY
        if not busy:
            tree.refused.pop(("dynamic_events", "-:ftc_ours/open"))
        write(tree, name, value, flags)

    monkeypatch.setattr(FakeKernel, "_write", refuse_while_on)
    kernel.refused[("events/ftc_ours/open/filter", "foo == 1")] = errno.EINVAL
    keys = 'probes = ["p:open vfs_read"]\nfilters = {"probes:open" = "foo == 1"}'
    made = Instance.open(kernel, spec_of(kernel, keys))
    with pytest.raises(TracefsError, match=r"Field not found"):
        made.configure()
    assert (kernel.path / "dynamic_events").read_text() == ""
    made.close()


@pytest.mark.parametrize(
    ("number", "trigger", "gone"),
    [(errno.ENOENT, "", True), (errno.ENOENT, "stacktrace:unlimited\n", False), (errno.ENODEV, None, True)],
)
def test_a_trigger_is_gone_when_it_is_not_listed(
    kernel: FakeKernel, number: int, trigger: str | None, gone: bool
) -> None:
    executor = Executor(kernel.instance("ours"))
    undo = Undo(f"{SWITCH_FILES}/trigger", "!stacktrace", "append")
    executor.own([undo])
    place = kernel.path / f"instances/ours/{SWITCH_FILES}/trigger"
    if trigger is None:
        place.unlink()
    else:
        place.write_text(trigger)
    kernel.refused[(undo.file, undo.value)] = number
    assert (undo not in executor.undo()) is gone
    assert (undo not in executor.pending) is gone


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EBUSY, errno.EINVAL])
@pytest.mark.parametrize("now", ["0", "5"])
def test_a_value_is_taken_back_when_it_reads_so(kernel: FakeKernel, number: int, now: str) -> None:
    put(kernel.path, {"tracing_thresh": f"{now}\n"})
    executor = Executor(kernel.instance("ours"))
    undo = Undo("tracing_thresh", "0", scope="top")
    executor.own([undo])
    kernel.refused[("tracing_thresh", "0")] = number
    assert list(executor.undo()) == ([] if now == "0" else [undo])


def test_what_is_the_instance_s_own_is_gone_with_it(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is not said that it could not be taken back."""
    made = set_up(kernel, 'tracer = "function"\ntriggers = {"sched:sched_switch" = ["stacktrace"]}')
    kernel.refused[(f"{SWITCH_FILES}/trigger", "!stacktrace")] = errno.EINVAL
    monkeypatch.setattr("os.rmdir", lambda path: None)
    made.undo(timeout_s=0)


def test_what_cannot_be_taken_back_now_is_tried_again(kernel: FakeKernel) -> None:
    made = set_up(kernel, 'probes = ["p:open vfs_read"]')
    kernel.refused[("dynamic_events", "-:ftc_ours/open")] = errno.EBUSY  # somebody has enabled it
    assert not made.try_remove()
    kernel.refused.clear()
    undo(made)
    assert (kernel.path / "dynamic_events").read_text() == ""


def test_what_a_crash_left_as_wished_is_kept_and_removed_at_the_end(kernel: FakeKernel) -> None:
    keys = 'tracer = "function"\nfunctions = ["vfs_read"]\nprobes = ["p:open vfs_read", "s:lat u64 lat"]\n' \
           'triggers = {"sched:sched_switch" = ["stacktrace"]}'  # fmt: skip
    crashed = set_up(kernel, keys)
    crashed.close()
    put(crashed.dir.path, {"set_event": "sched:sched_switch\nftc_ours:open\nsynthetic:lat\n"})
    put(crashed.dir.path, {f"{SWITCH_FILES}/trigger": "stacktrace:unlimited\n"})  # as the kernel prints it
    kernel.written.clear()

    again = Instance.open(kernel, spec_of(kernel, keys))
    assert again.existed
    again.configure()
    assert kernel.written == []
    put(again.dir.path, {f"{SWITCH_FILES}/trigger": ""})
    undo(again)
    assert (kernel.path / "dynamic_events").read_text() == ""
    assert (again.dir.path / "current_tracer").read_text() == "nop\n"


def test_what_a_crash_left_and_is_not_wished_goes(kernel: FakeKernel) -> None:
    crashed = set_up(kernel, 'probes = ["p:open vfs_read"]\nevent_pids = [4]\nnotrace_pids = [5]\n'
                     'tracer = "function"\nfunctions = ["vfs_read"]')  # fmt: skip
    crashed.close()
    put(crashed.dir.path, {"set_event": "sched:sched_switch\nftc_ours:open\n"})
    put(crashed.dir.path, {f"{SWITCH_FILES}/trigger": "traceoff:unlimited\n", f"{SWITCH_FILES}/filter": "prev_pid > 1"})
    kernel.written.clear()
    again = Instance.open(kernel, spec_of(kernel, 'probes = ["p:open vfs_write"]'))
    put(again.dir.path, {f"{SWITCH_FILES}/trigger": "traceoff:unlimited\n"})
    again.configure()
    assert kernel.written[1:-1] == [
        (f"{SWITCH_FILES}/trigger", "!traceoff:unlimited"),
        ("events/ftc_ours/open/enable", "0"),
        ("dynamic_events", "-:ftc_ours/open"),
        ("dynamic_events", "p:ftc_ours/open vfs_write"),
        ("set_ftrace_filter", ""),
        ("current_tracer", "nop"),
        ("set_event_pid", ""),
        ("set_event_notrace_pid", ""),
        ("events/ftc_ours/open/enable", "1"),
        (f"{SWITCH_FILES}/filter", "0"),
    ]
    again.close()


def test_unread_entries_hinder_what_clears_the_ring(kernel: FakeKernel) -> None:
    made = Instance.open(kernel, spec_of(kernel, 'tracer = "function"'))
    put(made.dir.path, {"per_cpu/cpu0/stats": stats(3), "buffer_size_kb": "1024\n"})
    assert made.needs_drain_before_configure
    made.spec = replace(made.spec, tracer="nop")
    assert not made.needs_drain_before_configure
    made.close()


def test_a_kept_instance_keeps_tracer_and_probes_but_not_what_all_share(kernel: FakeKernel) -> None:
    keys = 'tracer = "function"\nprobes = ["p:a vfs_read"]\ntracing_thresh_us = 9\nallow_top_level = true'
    made = set_up(kernel, keys)
    made.undo(timeout_s=0, keep=True)
    assert (made.dir.path / "current_tracer").read_text() == "function\n"
    assert "ftc_ours/a" in (kernel.path / "dynamic_events").read_text()
    assert (kernel.path / "tracing_thresh").read_text() == "0\n"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('tracer = "osnoise"', r"tracer: this kernel has no such tracer; expected one of function nop blk"),
        ('tracer = "function_graph"', r"at the top level only.*top_level_buffer = true.*Linux 6\.12"),
        ('tracer = "function_graph"\nallow_top_level = true', r"at the top level only"),
        ('tracer = "mmiotrace"', r"all CPUs but one offline; expected consent_mmiotrace = true"),
        ("options = {func_stak_trace = true}", r"options\.func_stak_trace.*did you mean func_stack_trace"),
        ("options = {overwrite = true}", r"use the key overwrite"),
        (f'{FUNCTION}functions = ["vfs_raed"]', r"set_ftrace_filter.*did you mean vfs_read"),
        (f'{FUNCTION}functions = ["vfs_read", ":mod:ext3"]', r"did you mean ext4"),
        ("max_graph_depth = 3", r"max_graph_depth: this file is shared.*expected allow_top_level = true"),
        ("stack_tracer = true", r"stack_tracer_enabled: this file is shared"),
        ('buffer_size_kb_per_cpu = {"5" = 4096}', r"buffer_size_kb_per_cpu: no such CPU"),
        ('filters = {"sched:sched_swich" = "x"}', r"no such event.*sched:sched_switch"),
    ],
)
def test_what_is_not_possible_is_found_before_anything_is_written(kernel: FakeKernel, keys: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Instance.open(kernel, spec_of(kernel, keys))
    assert kernel.written == []


def test_a_file_that_this_kernel_lacks(kernel: FakeKernel) -> None:
    (kernel.path / "max_graph_depth").unlink()
    with pytest.raises(UsageError, match=r"no such file.*CONFIG_FUNCTION_GRAPH_TRACER"):
        Instance.open(kernel, spec_of(kernel, "max_graph_depth = 3\nallow_top_level = true"))


@pytest.mark.parametrize(
    ("line", "wish", "said"),
    [
        ("s:synthetic/lat\tu64 lat", "s:lat u64 lat", r"synthetic:lat.*echo '-:synthetic/lat' >> dynamic_events"),
        ("u:app u32 a; u8 b", "user:app u64 a", r"user_events:app.*echo '-:user_events/app u32 a; u8 b' >> dynamic"),
    ],
)
def test_an_event_of_somebody_else_is_left_alone(kernel: FakeKernel, line: str, wish: str, said: str) -> None:
    put(kernel.path, {"dynamic_events": f"{line}\n"})
    spec = spec_of(kernel, f'probes = ["{wish}"]')
    probe = read_probe(kernel.instance("ours"), spec, existed=False)
    with pytest.raises(UsageError, match=rf"an event of this name already, made by somebody else.*{said}"):
        check_desired(spec, probe)
    made = spec.probes[0]
    check_desired(spec, replace(probe, owned=frozenset({(made.group, made.name)})))


def test_a_user_event_that_a_program_has_made_is_the_same_one_and_stays(kernel: FakeKernel) -> None:
    put(kernel.path, {"dynamic_events": "u:app u32 a; u8 b\n"})
    put(kernel.path / "instances/ours", {"events/user_events/app/enable": "0\n"})
    spec = spec_of(kernel, 'probes = ["user:app u32 a;u8 b"]')
    probe = read_probe(kernel.instance("ours"), spec, existed=False)
    check_desired(spec, probe)
    writes = plan_instance(spec, probe)
    assert ("events/user_events/app/enable", "1") in [(write.file, write.value) for write in writes]
    assert "dynamic_events" not in [write.file for write in writes]
    assert plan_owned(spec, probe) == []


def test_a_filter_of_what_is_not_collected_is_said(kernel: FakeKernel) -> None:
    keys = 'probes = ["p:a vfs_read"]\n[trace.filters]\n"sched:sched_waking" = "x"\n"sched:sched_switch" = "x"\n'
    made = set_up(kernel, keys + '"probes:a" = "x"')
    assert made.notes == ["the filter of sched:sched_waking has no effect: events doesn't mean it"]
    made.close()


def test_what_all_share_and_the_tracer_ignores_is_said(kernel: FakeKernel) -> None:
    keys = 'allow_top_level = true\nmax_graph_depth = 3\ntracing_thresh_us = 5\ngraph_functions = ["vfs_read"]'
    made = set_up(kernel, keys)
    assert [note.partition(":")[0] for note in made.notes] == [
        f"{key} has no effect here" for key in ("graph_functions", "max_graph_depth", "tracing_thresh_us")
    ]
    made.close()


def test_the_old_list_of_the_top_level_comes_back_word_by_word(kernel: FakeKernel) -> None:
    put(kernel.path, {"set_graph_function": "vfs_write\next4_read [ext4]\n"})
    made = set_up(kernel, 'graph_functions = ["vfs_read"]\nallow_top_level = true')
    kernel.written.clear()
    undo(made)
    assert (kernel.path / "set_graph_function").read_text() == "vfs_write\next4_read [ext4]\n"


def test_a_list_that_was_emptied_for_words_that_are_refused_comes_back_too(kernel: FakeKernel) -> None:
    kernel.refused[("set_graph_function", "vfs_read")] = errno.EINVAL
    made = Instance.open(kernel, spec_of(kernel, 'graph_functions = ["vfs_read"]\nallow_top_level = true'))
    with pytest.raises(TracefsError, match="set_graph_function"):
        made.configure()
    assert writes_of(kernel, "set_graph_function") == ["vfs_read", "", "vfs_write"]
    assert (kernel.path / "set_graph_function").read_text() == "vfs_write\n"
    made.close()


@pytest.mark.parametrize("exists", [True, False])
def test_a_preview_writes_nothing_and_says_what_undoes_each_write(
    kernel: FakeKernel, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exists:
        (kernel.path / "instances/ours").rename(kernel.path / "elsewhere")
        put(kernel.path, {"options/func_stack_trace": "0\n", "set_ftrace_filter": "vfs_write\n"})
    keys = 'functions = ["vfs_read"]\ntracer = "function"\nprobes = ["p:a vfs_read"]\n'
    keys += "options = {func_stack_trace = true}\n"
    config = parse_config(f"[trace]\n{BASE}{keys}", "c")
    writes = preview(config.trace, kernel)
    assert kernel.written == []
    told = [(w.scope, w.file, w.value, w.undone_by) for w in writes if w.undo]
    assert told == [
        ("top", "dynamic_events", "p:ftc_ours/a vfs_read", "dynamic_events -:ftc_ours/a"),
        ("instance", "current_tracer", "function", "current_tracer nop"),
        ("instance", "options/func_stack_trace", "1", "options/func_stack_trace 0"),
    ]
    (own,) = [w for w in writes if w.file == "set_ftrace_filter"]
    assert describe(own) == {
        "scope": "instance", "file": "set_ftrace_filter", "mode": "replace", "value": "vfs_read",
        "verify": "functions", "undone_by": "removing the instance",
    }  # fmt: skip
