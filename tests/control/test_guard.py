"""Somebody else's changes to our instance are noticed once each, and written back where that is wished."""

import errno
from pathlib import Path

import pytest

from collector.control.guard import Guard, compare_settings, parse_setting
from collector.control.wish import InstanceSpec
from collector.tracefs.files import TracefsDir
from tests.tracefs.tree import FakeKernel, make_fake_kernel

SPEC = InstanceSpec("i", ())
SWITCH, WAKING = ("sched", "sched_switch"), ("sched", "sched_waking")
FILES = {
    "tracing_on": "1\n",
    "trace_clock": "local global [mono] boot\n",
    "buffer_size_kb": "1410\n",
    "set_event": "sched:sched_switch\nirq:irq_handler_entry\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> TracefsDir:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return TracefsDir(tmp_path)


def put(tree: TracefsDir, name: str, text: str) -> None:
    (tree.path / name).write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "value"),
    [
        ("trace_clock", "local [mono] boot\n", "mono"),
        ("tracing_on", "1\n", "1"),
        ("set_event", "b:y\na:x\n\n", "a:x\nb:y"),
        ("set_event", "", ""),
        ("events/sched/sched_switch/filter", "prev_pid > 1\n", "prev_pid > 1"),
        # What the kernel counts down, and how it prints a histogram, are no changes.
        ("events/a/b/trigger", "traceoff:count=3 if prev_pid == 1\n", "traceoff if prev_pid == 1"),
        (
            "events/a/b/trigger",
            "stacktrace:unlimited\nhist:keys=pid:vals=hitcount:size=2048 [active]\n",
            "keys=pid\nstacktrace",
        ),
        ("events/a/b/trigger", "# Available triggers:\n# traceon traceoff\n", ""),
        ("set_ftrace_filter", "vfs_write\next4_sync [ext4]\n", "ext4_sync\nvfs_write"),
        ("set_ftrace_filter", "#### all functions enabled ####\n", ""),
    ],
)
def test_values_compare(file: str, text: str, value: str) -> None:
    assert parse_setting(file, text) == value


def test_a_file_that_is_gone_is_no_change() -> None:
    assert compare_settings({"tracing_on": "1", "buffer_percent": "25"}, {"tracing_on": "1"}) == []


def test_an_untouched_instance_has_no_change(tree: TracefsDir) -> None:
    assert Guard(tree, SPEC).look(repair=True) == []


def test_a_change_is_told_once_and_left(tree: TracefsDir) -> None:
    guard = Guard(tree, SPEC)
    put(tree, "tracing_on", "0\n")
    put(tree, "set_event", "sched:sched_switch\n")
    found = guard.look(repair=False)
    assert [(str(finding.change), finding.repaired) for finding in found] == [
        ("tracing_on: 1 -> 0", False),
        ("set_event: irq:irq_handler_entry,sched:sched_switch -> sched:sched_switch", False),
    ]
    assert guard.look(repair=False) == []
    put(tree, "tracing_on", "1\n")
    assert len(guard.look(repair=False)) == 1


def test_a_change_is_written_back_where_nothing_is_lost_by_it(tree: TracefsDir) -> None:
    guard = Guard(tree, SPEC)
    put(tree, "tracing_on", "0\n")
    put(tree, "buffer_size_kb", "64\n")
    assert [(finding.change.file, finding.repaired) for finding in guard.look(repair=True)] == [
        ("tracing_on", True),
        ("buffer_size_kb", False),  # growing keeps the data, shrinking does not: the operator decides
    ]
    assert tree.read_text("tracing_on").strip() == "1"


def test_another_clock_is_never_left(tree: TracefsDir) -> None:
    """Its times would be taken for those of ours."""
    guard = Guard(tree, SPEC)
    put(tree, "trace_clock", "[local] global mono boot\n")
    (finding,) = guard.look(repair=False)
    assert (finding.change.expected, finding.change.found, finding.repaired) == ("mono", "local", True)
    assert tree.read_text("trace_clock").startswith("mono")


def events_and_functions(tmp_path: Path) -> tuple[FakeKernel, Guard]:
    """An instance with a filter, triggers and a list of functions, set up as the settings say."""
    tree = make_fake_kernel(tmp_path, "i").instance("i")
    spec = InstanceSpec(
        "i", (), filters={SWITCH: "prev_pid > 1"}, triggers={SWITCH: ("stacktrace:20",), WAKING: ("traceoff",)},
        functions=("vfs_*", "do_sys_openat2"),
    )  # fmt: skip
    put(tree, "events/sched/sched_switch/filter", "prev_pid > 1\n")
    put(tree, "events/sched/sched_switch/trigger", "stacktrace:count=20\n")
    put(tree, "events/sched/sched_waking/trigger", "traceoff:unlimited\n")
    put(tree, "set_ftrace_filter", "vfs_read\nvfs_write\ndo_sys_openat2\n")
    return tree, Guard(tree, spec)


def change_all(tree: TracefsDir) -> None:
    put(tree, "events/sched/sched_switch/filter", "none\n")
    put(tree, "events/sched/sched_switch/trigger", "stacktrace:count=7\nsnapshot:unlimited\n")
    put(tree, "events/sched/sched_waking/trigger", "")
    put(tree, "events/sched/sched_waking/filter", "pid == 1\n")  # of which the settings say nothing
    put(tree, "set_ftrace_filter", "vfs_write\n")


CHANGED = ["filter", "trigger", "trigger", "set_ftrace_filter"]


def test_filters_triggers_and_functions_of_the_settings_are_watched(tmp_path: Path) -> None:
    tree, guard = events_and_functions(tmp_path)
    assert guard.look(repair=False) == []
    change_all(tree)
    findings = guard.look(repair=False)
    assert [(finding.change.what, finding.repaired) for finding in findings] == [(what, False) for what in CHANGED]
    assert str(findings[1].change) == "events/sched/sched_switch/trigger: stacktrace -> snapshot,stacktrace"
    assert guard.look(repair=False) == []


def test_filters_triggers_and_functions_are_written_back_on_request(tmp_path: Path) -> None:
    tree, guard = events_and_functions(tmp_path)
    change_all(tree)
    tree.written.clear()

    def remove(name: str, value: str) -> None:  # the kernel looks at the command alone
        lines = tree.read_text(name).splitlines()
        put(tree, name, "".join(f"{line}\n" for line in lines if line != value.removeprefix("!")))

    append = tree.append
    tree.append = lambda name, value: remove(name, value) if value[:1] == "!" else append(name, value)  # type: ignore[method-assign]
    assert [(finding.change.what, finding.repaired) for finding in guard.look(repair=True)] == [
        (what, True) for what in CHANGED
    ]
    assert tree.read_text("events/sched/sched_switch/filter") == "prev_pid > 1\n"
    assert tree.read_text("events/sched/sched_switch/trigger") == "stacktrace:count=7\n"
    assert tree.read_text("events/sched/sched_waking/trigger") == "traceoff:unlimited\n"
    assert tree.read_text("events/sched/sched_waking/filter") == "pid == 1\n"
    assert set(tree.read_text("set_ftrace_filter").split()) == {"vfs_read", "vfs_write", "do_sys_openat2"}
    assert guard.look(repair=True) == []


def test_what_the_kernel_refuses_to_take_back_is_told_once(tmp_path: Path) -> None:
    tree, guard = events_and_functions(tmp_path)
    file = "events/sched/sched_switch/filter"
    put(tree, file, "none\n")
    tree.refused[file, "prev_pid > 1"] = errno.EINVAL
    (finding,) = guard.look(repair=True)
    assert not finding.repaired
    assert "prev_pid > 1" in str(finding.error)
    assert guard.look(repair=True) == []


@pytest.mark.parametrize(("trigger", "told"), [("traceoff:1 if prev_pid == 0", []), ("stacktrace", ["tracing_on"])])
def test_tracing_that_a_trigger_of_the_settings_has_stopped_stays_so(
    tree: TracefsDir, trigger: str, told: list[str]
) -> None:
    guard = Guard(tree, InstanceSpec("i", (), triggers={SWITCH: (trigger,)}))
    put(tree, "tracing_on", "0\n")
    assert [finding.change.what for finding in guard.look(repair=True)] == told
    assert tree.read_text("tracing_on") == ("1\n" if told else "0\n")
