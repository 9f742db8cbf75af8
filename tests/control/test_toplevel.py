"""The top-level buffer as what is collected from, on a stand-in for the kernel: all is as before afterwards."""

import errno
import os
import re
from pathlib import Path

import pytest

from collector.config.load import parse_config
from collector.config.text import InvalidConfigError
from collector.control.desired import build_spec, preview
from collector.control.instance import Instance
from collector.control.journal import TOP_LEVEL, Journals, read_journal
from collector.control.leftovers import clean_up, find_leftovers
from collector.control.lock import lock_top_level
from collector.control.restoring import with_undos
from collector.control.toplevel import TopLevel, open_instance
from collector.control.wish import InstanceSpec, Undo, Write
from collector.errors import InstanceBusyError, TracefsError, UsageError
from tests.tracefs.tree import SECOND_RING, FakeKernel, make_fake_kernel, put, stats

BASE = """\
[trace]
top_level_buffer = true
allow_top_level = true
events = ["sched:sched_switch"]
clock = "mono"
buffer_size_kb = 2048
subbuf_size_kb = 64
"""
BLK = 'tracer = "blk"\nblock_devices = ["sda"]'
EVERYTHING = """\
buffer_size_kb_per_cpu = {"0" = 4096}
buffer_percent = 10
overwrite = false
cpus = "0"
functions = ["vfs_read"]
notrace_functions = ["do_sys_*"]
graph_functions = ["vfs_read"]
max_graph_depth = 3
tracer = "function"
options = {func_stack_trace = true}
event_pids = [5]
notrace_pids = [6]
function_pids = [3]
probes = ["p:open vfs_read"]
filters = {"sched:sched_switch" = "prev_pid > 1"}
triggers = {"sched:sched_switch" = ["stacktrace"]}
"""


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    """The top level has what an instance has."""
    kernel = make_fake_kernel(tmp_path / "tracefs", "other")
    instance = kernel.path / "instances/other"
    files = {str(path.relative_to(instance)): path.read_text() for path in instance.rglob("*") if path.is_file()}
    put(kernel.path, {name: text for name, text in files.items() if not (kernel.path / name).exists()})
    put(kernel.path, {"per_cpu/cpu0/buffer_size_kb": "1408\n"})
    put(kernel.path, {"buffer_size_kb": "1408\n", "set_event_pid": "4\n", "set_ftrace_filter": "vfs_write\n"})
    put(kernel.path, {"events/sched/sched_switch/filter": "prev_pid > 9\n"})
    put(kernel.path.parent, {"block/sda/trace/enable": "0\n"})
    return kernel


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    return Journals(tmp_path / "run", "boot-1")


def spec_of(kernel: FakeKernel, keys: str) -> InstanceSpec:
    return build_spec(parse_config(BASE + keys, "c").trace, kernel)


def start(kernel: FakeKernel, journals: Journals, keys: str) -> Instance:
    made = open_instance(kernel, spec_of(kernel, keys), Journals(journals.folder, journals.boot_id))
    made.configure()
    return made


def read_all(kernel: FakeKernel) -> dict[str, str]:
    """{file: text} of the top level, of /proc/sys and of /sys/block; of the clock its name alone."""
    root = kernel.path.parent
    files = (p for p in root.rglob("*") if p.is_file() and not {"instances", "run"} & {*p.relative_to(root).parts})
    texts = {str(p.relative_to(root)): p.read_text() for p in files}
    texts["tracefs/trace_clock"] = texts["tracefs/trace_clock"].partition("]")[0]
    return {name: text for name, text in texts.items() if not name.startswith("tracefs/events/ftc_")}


@pytest.mark.parametrize("keys", ["", EVERYTHING, BLK], ids=["little", "everything", "blk"])
def test_everything_is_as_before(kernel: FakeKernel, journals: Journals, keys: str) -> None:
    before = read_all(kernel)
    made = start(kernel, journals, keys)
    assert isinstance(made, TopLevel)
    assert (made.clock, made.subbuf_size, made.spec.name) == ("mono", 65536, "top")
    assert (kernel.path / "events/sched/sched_switch/enable").read_text() == "1\n"
    made.undo(timeout_s=0)
    assert read_all(kernel) == before
    assert kernel.written[-1] == ("tracing_on", "1")
    assert list(journals.folder.iterdir()) == []


@pytest.mark.parametrize("keys", ["", EVERYTHING, BLK], ids=["little", "everything", "blk"])
def test_after_a_crash_the_next_start_begins_with_the_original(
    kernel: FakeKernel, journals: Journals, keys: str
) -> None:
    before = read_all(kernel)
    start(kernel, journals, keys).close()  # as the end of its process does
    assert read_all(kernel) != before
    again = open_instance(kernel, spec_of(kernel, ""), Journals(journals.folder, "boot-1"))
    assert again.existed
    assert again.needs_drain_before_configure
    again.configure()
    assert not again.existed
    again.undo(timeout_s=0)
    assert read_all(kernel) == before
    assert list(journals.folder.iterdir()) == []


def test_after_a_crash_cleaning_up_does_it_too(kernel: FakeKernel, journals: Journals) -> None:
    before = read_all(kernel)
    start(kernel, journals, EVERYTHING).close()
    (left,) = find_leftovers(kernel, journals)
    assert (left.instance, left.unread) == ("top", 0)
    assert "tracing_on 1" in left.changes
    cleaned = clean_up(kernel, journals, "top")
    assert str(cleaned).endswith("; cleared")
    assert read_all(kernel) == before
    assert find_leftovers(kernel, journals) == ()


def test_what_could_not_be_read_stays_set_up_for_the_next_start(kernel: FakeKernel, journals: Journals) -> None:
    before = read_all(kernel)
    made = start(kernel, journals, "")
    kernel.written.clear()
    made.undo(timeout_s=0, keep=True)
    assert kernel.written == [("tracing_on", "0"), ("events/enable", "0")]
    assert read_journal(journals.folder / f"{TOP_LEVEL}.undo") is not None
    clean_up(kernel, journals, "top")
    assert read_all(kernel) == before


def test_nothing_is_touched_before_it_is_set_up(kernel: FakeKernel, journals: Journals) -> None:
    made = open_instance(kernel, spec_of(kernel, ""), journals)
    made.undo(timeout_s=0)
    assert kernel.written == []


def test_a_failure_half_way_is_taken_back(kernel: FakeKernel, journals: Journals) -> None:
    before = read_all(kernel)
    kernel.refused[("events/sched/sched_switch/filter", "nonsense == 2")] = 22
    made = open_instance(kernel, spec_of(kernel, 'filters = {"sched:sched_switch" = "nonsense == 2"}'), journals)
    with pytest.raises(TracefsError, match="Field not found"):
        made.configure()
    made.undo(timeout_s=0)
    after = read_all(kernel)
    del after["tracefs/error_log"], before["tracefs/error_log"]
    assert after == before


def test_what_somebody_hinders_is_taken_back_later_and_tracing_goes_on(kernel: FakeKernel, journals: Journals) -> None:
    before = read_all(kernel)
    made = start(kernel, journals, "")
    kernel.refused[("buffer_size_kb", "1408")] = errno.EBUSY  # a reader of `trace`
    assert not made.try_remove()
    with pytest.raises(InstanceBusyError, match=r"EBUSY for 0 s.*buffer_size_kb"):
        made.undo(timeout_s=0, keep=True)
    assert (kernel.path / "tracing_on").read_text() == "1\n"
    made.close()
    kernel.refused.clear()
    clean_up(kernel, journals, "top")
    assert read_all(kernel) == before


def test_an_event_that_a_program_has_is_all_that_stays(kernel: FakeKernel, journals: Journals) -> None:
    """Then the top level is anybody's again: it is not taken for set up by a killed run."""
    keys = 'probes = ["user:app u32 a"]'
    before = read_all(kernel)
    kernel.refused[("dynamic_events", "-:user_events/app u32 a")] = errno.EBUSY
    made = start(kernel, journals, keys)
    made.undo(timeout_s=0)
    assert len(made.left) == 1
    put(kernel.path, {"current_tracer": "function\n", "trace_clock": "[local] global mono\n"})
    again = open_instance(kernel, spec_of(kernel, keys), Journals(journals.folder, "boot-1"))
    assert not again.existed
    with pytest.raises(InstanceBusyError, match="the tracer function"):
        again.configure()
    again.close()
    with pytest.raises(InstanceBusyError, match="the tracer function"):
        preview(parse_config(BASE + keys, "c").trace, kernel, Journals(journals.folder, "boot-1"))
    (left,) = find_leftovers(kernel, journals)
    assert (left.unread, len(left.changes)) == (None, 1)
    kernel.refused.clear()
    assert str(clean_up(kernel, journals, "top")) == "top: restored dynamic_events -:user_events/app u32 a"
    put(kernel.path, {"current_tracer": "nop\n"})
    after = {name: text for name, text in read_all(kernel).items() if "/user_events/" not in name}
    assert after.pop("tracefs/current_tracer") == "nop\n"
    assert after == {name: text for name, text in before.items() if name != "tracefs/current_tracer"}
    assert list(journals.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"current_tracer": "function\n"}, "the tracer function"),
        ({"set_event": "sched:sched_switch\nirq:a\nirq:b\nirq:c\n"}, "4 events that are on (sched:sched_switch, irq:a"),
        ({"per_cpu/cpu0/stats": stats(3)}, "3 entries that nobody has read"),
        ({"snapshot": SECOND_RING["full"]}, "a snapshot that is kept"),
    ],
)
def test_it_is_refused_while_somebody_uses_it(
    kernel: FakeKernel, journals: Journals, files: dict[str, str], said: str
) -> None:
    put(kernel.path, files)
    trace = parse_config(BASE, "c").trace
    for attempt in (lambda: open_instance(kernel, spec_of(kernel, ""), journals), lambda: preview(trace, kernel)):
        with pytest.raises(InstanceBusyError, match=f"in use by somebody else.*{re.escape(said)}"):
            attempt()
    assert kernel.written == []


def test_it_is_refused_while_another_collector_has_it(kernel: FakeKernel, journals: Journals) -> None:
    start(kernel, journals, "")
    with pytest.raises(InstanceBusyError, match=r"the top-level buffer is in use.*process \d+"):
        open_instance(kernel, spec_of(kernel, ""), journals)
    with pytest.raises(InstanceBusyError, match="top-level buffer is in use"):
        clean_up(kernel, journals, "top")


def test_without_a_journal_nothing_is_changed(kernel: FakeKernel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = read_all(kernel)
    made = open_instance(kernel, spec_of(kernel, ""), Journals(tmp_path / "file/run", "boot-1"))
    with pytest.raises(TracefsError, match="can't be noted, so it isn't made"):
        made.configure()
    assert kernel.written == []
    assert read_all(kernel) == before


def test_a_tracer_of_the_top_level_alone_is_refused_in_an_instance_with_the_way_out(kernel: FakeKernel) -> None:
    keys = BASE.replace("top_level_buffer = true", 'instance = "other"') + 'tracer = "function_graph"'
    spec = build_spec(parse_config(keys, "c").trace, kernel)
    with pytest.raises(UsageError, match=r"at the top level only.*top_level_buffer = true, with allow_top_level"):
        Instance.open(kernel, spec)


def test_block_devices_are_looked_at_first(kernel: FakeKernel, journals: Journals) -> None:
    with pytest.raises(UsageError, match=r"no such block device.*ls /sys/block"):
        open_instance(kernel, spec_of(kernel, BLK.replace("sda", "sdz")), journals)
    put(kernel.path.parent, {"block/sda/trace/enable": "1\n"})
    with pytest.raises(InstanceBusyError, match="somebody else traces this block device"):
        open_instance(kernel, spec_of(kernel, BLK), journals)
    assert kernel.written == []


def test_the_plan_says_what_takes_each_write_back(kernel: FakeKernel) -> None:
    lines = [(write.file, write.undone_by) for write in preview(parse_config(BASE, "c").trace, kernel)]
    assert lines == [
        ("tracing_on", "tracing_on 1"),
        ("buffer_subbuf_size_kb", "buffer_subbuf_size_kb 4; buffer_size_kb 1408"),
        ("buffer_size_kb", "buffer_size_kb 1408"),
        ("buffer_percent", "buffer_percent 50"),
        ("trace_clock", "trace_clock local"),
        ("set_ftrace_filter", "clear set_ftrace_filter; set_ftrace_filter vfs_write"),
        ("set_event_pid", "set_event_pid 4"),
        ("events/sched/sched_switch/enable", "events/enable 0"),
        ("events/sched/sched_switch/filter", "events/sched/sched_switch/filter prev_pid > 9"),
        ("tracing_on", "tracing_on 1"),
    ]


@pytest.mark.parametrize(
    ("before", "undo"),
    [
        ({"buffer_size_kb": "7 (expanded: 1408)\n"}, (Undo("buffer_size_kb", "1408"),)),
        (
            {"buffer_size_kb": "X\n", "per_cpu/cpu0/buffer_size_kb": "8\n", "per_cpu/cpu1/buffer_size_kb": "16\n"},
            (Undo("per_cpu/cpu0/buffer_size_kb", "8"), Undo("per_cpu/cpu1/buffer_size_kb", "16")),
        ),
    ],
)
def test_sizes_are_restored_as_they_were(before: dict[str, str], undo: tuple[Undo, ...]) -> None:
    (write,) = with_undos([Write("buffer_size_kb", "64")], before)
    assert write.undo == undo


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trace]\ntop_level_buffer = true", "allow_top_level = true with top_level_buffer"),
        (BASE + "keep_instance = true", "keep_instance = false with top_level_buffer"),
        (BASE + 'read = "snapshot"', "its snapshot is everybody's"),
        (BASE + 'tracer = "blk"', "block_devices, such as"),
        (BASE + 'block_devices = ["sda"]', "block_devices, such as"),
        (BASE + BLK.replace("sda", "../x"), "names of /sys/block"),
        (BASE + '[[instances]]\ninstance = "a"\n[[instances]]\ninstance = "b"', "in one table at most"),
    ],
)
def test_settings_that_can_not_be(text: str, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        parse_config(text, "c")


def test_its_name() -> None:
    assert parse_config(BASE, "c").trace.instance == "top"
    assert parse_config(BASE + 'instance = "all"', "c").trace.instance == "all"
    config = parse_config("[[instances]]\ntop_level_buffer = true\nallow_top_level = true\n[[instances]]", "c")
    assert [trace.instance for trace in config.instances()] == ["top", "ftrace-collector"]


def test_the_lock_is_given_up(kernel: FakeKernel, journals: Journals) -> None:
    start(kernel, journals, "").undo(timeout_s=0)
    os.close(lock_top_level(kernel))
