"""An instance of our own: on a stand-in for the kernel, and on the live one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collector.control import instance as instance_module
from collector.control.instance import Exclusion, Instance
from collector.control.wish import InstanceSpec
from collector.errors import InstanceBusyError, TracefsError, TracefsMissingError, UsageError
from collector.tracefs.files import TracefsDir
from tests.tracefs.tree import make_fake_kernel, stats

SWITCH = ("sched", "sched_switch")
SPEC = InstanceSpec("ours", (SWITCH,), buffer_size_kb=1024, subbuf_size_kb=64)


# On a stand-in


def test_sub_buffers_fall_back_when_memory_is_short(tmp_path: Path) -> None:
    kernel = make_fake_kernel(tmp_path, "ours")
    kernel.memory_kb = 16
    made = Instance.open(kernel, SPEC)
    made.configure()
    tried = [value for name, value in kernel.written if name == "buffer_subbuf_size_kb"]
    assert tried == ["64", "32", "16"]
    assert made.subbuf_size == 16384
    assert [note.split(" (")[0] for note in made.notes] == [
        "no memory for sub-buffers of 64 KiB",
        "no memory for sub-buffers of 32 KiB",
    ]
    assert kernel.written[-1] == ("tracing_on", "1")
    made.close()


def test_no_memory_at_all_is_an_error(tmp_path: Path) -> None:
    kernel = make_fake_kernel(tmp_path, "ours")
    kernel.memory_kb = 2
    kernel.instance("ours")._write("buffer_size_kb", "5000", 0)
    (tmp_path / "instances/ours/events/header_page").write_text(
        (tmp_path / "instances/ours/events/header_page").read_text().replace("4080", "8176")
    )
    made = Instance.open(kernel, SPEC)
    with pytest.raises(TracefsError, match=r"buffer_subbuf_size_kb.*ENOMEM"):
        made.configure()
    made.close()


def test_unread_entries_are_not_thrown_away(tmp_path: Path) -> None:
    kernel = make_fake_kernel(tmp_path, "ours", entries=5)
    made = Instance.open(kernel, SPEC)
    assert (made.existed, made.unread_at_open) == (True, 5)
    assert made.needs_drain_before_configure
    assert (made.clock, made.subbuf_size) == ("local", 4096)  # what the old entries are in
    with pytest.raises(TracefsError, match=r"discard.*5 entries.*read them first"):
        made.configure()
    assert kernel.written == []
    (tmp_path / "instances/ours/per_cpu/cpu0/stats").write_text(stats(0))  # the caller has read them
    assert not made.needs_drain_before_configure
    made.configure()
    assert (made.clock, made.subbuf_size) == ("mono", 65536)
    made.close()


def test_unread_entries_can_be_given_up(tmp_path: Path) -> None:
    kernel = make_fake_kernel(tmp_path, "ours", entries=5)
    made = Instance.open(kernel, SPEC)
    made.configure(discard_unread=True)
    assert kernel.written[:2] == [("tracing_on", "0"), ("trace", "")]
    assert "5 entries" in made.notes[0]
    made.close()


def test_threads_in_another_pid_namespace_can_not_be_excluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_module, "in_initial_pid_namespace", lambda: False)
    kernel = make_fake_kernel(tmp_path, "ours")
    made = Instance.open(kernel, InstanceSpec("ours", (SWITCH,), notrace_pids=(7,)))
    made.configure()
    assert made.exclusion is Exclusion.OTHER_NAMESPACE
    assert "namespace" in made.notes[0]
    assert "set_event_notrace_pid" not in dict(kernel.written)
    made.close()


def test_a_kernel_without_exclusion(tmp_path: Path) -> None:
    kernel = make_fake_kernel(tmp_path, "ours")
    (tmp_path / "instances/ours/set_event_notrace_pid").unlink()
    made = Instance.open(kernel, InstanceSpec("ours", (SWITCH,), notrace_pids=(7,)))
    made.configure()
    assert made.exclusion is Exclusion.UNSUPPORTED
    assert "set_event_notrace_pid (5.7" in made.notes[0]
    made.close()


def test_a_value_that_does_not_read_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = make_fake_kernel(tmp_path, "ours")
    made = Instance.open(kernel, InstanceSpec("ours", (SWITCH,), buffer_percent=20))
    monkeypatch.setattr(type(made.dir), "_write", lambda *_: None)
    with pytest.raises(TracefsError, match=r"tracing_on.*expected 0; got 1.*another process"):
        made.configure()
    made.close()


def test_a_recorded_tree_has_no_instances(tmp_path: Path) -> None:
    with pytest.raises(TracefsMissingError, match="recorded"):
        Instance.open(TracefsDir(tmp_path), SPEC)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 200])
def test_names_that_can_not_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="instance name"):
        Instance.open(TracefsDir(tmp_path), InstanceSpec(name, ()))


# On the live kernel


def mark(tree: TracefsDir, text: str = "x") -> None:
    """One entry into the instance's ring."""
    tree.write("trace_marker", text)


def read_all(made: Instance) -> None:
    for cpu in made.dir.online_cpus():
        fd = made.dir.open_raw(cpu)
        try:
            while made.dir.read_stats(cpu).entries:
                os.read(fd, made.subbuf_size)
        finally:
            os.close(fd)


@pytest.mark.kernel
def test_from_nothing_to_tracing_and_back(tracefs: Path, instance_name: str) -> None:
    top = TracefsDir(tracefs)
    top_before = (top.read_text("trace_clock"), top.read_text("set_event"), top.read_text("buffer_size_kb"))
    spec = InstanceSpec(
        instance_name, (SWITCH,), buffer_size_kb=512, subbuf_size_kb=16, buffer_percent=20, overwrite=False,
        cpus=(0,), notrace_pids=(os.getpid(),),
    )  # fmt: skip
    made = Instance.open(top, spec)
    assert not made.existed
    made.configure()
    tree = made.dir
    assert (made.subbuf_size, made.clock, made.cpus, made.notes) == (16384, "mono", (0,), [])
    assert int(tree.read_text("buffer_size_kb")) >= 512
    assert tree.read_text("buffer_percent").strip() == "20"
    assert tree.read_text("options/overwrite").strip() == "0"
    assert tree.read_text("tracing_on").strip() == "1"
    assert tree.read_text("set_event").split() == ["sched:sched_switch"]
    assert made.exclusion in (Exclusion.EXCLUDED, Exclusion.OTHER_NAMESPACE)
    if made.exclusion is Exclusion.EXCLUDED:
        assert tree.read_text("set_event_notrace_pid").split() == [str(os.getpid())]
    made.stop_tracing()
    assert tree.read_text("tracing_on").strip() == "0"
    pair = made.read_clock_pair()
    assert pair is not None
    made.undo(timeout_s=1)
    assert not tree.path.exists()
    top_after = (top.read_text("trace_clock"), top.read_text("set_event"), top.read_text("buffer_size_kb"))
    assert top_before == top_after


@pytest.mark.kernel
def test_the_default_set_up(tracefs: Path, instance_name: str) -> None:
    made = Instance.open(TracefsDir(tracefs), InstanceSpec(instance_name, (SWITCH,)))
    made.configure(start=False)
    assert made.dir.read_text("tracing_on").strip() == "0"
    if made.dir.exists("buffer_subbuf_size_kb"):
        assert made.subbuf_size == 65536 or made.notes
    made.remove(timeout_s=1)


@pytest.mark.kernel
def test_what_a_crash_leaves_is_adopted_with_its_entries_and_counters(tracefs: Path, instance_name: str) -> None:
    top = TracefsDir(tracefs)
    spec = InstanceSpec(instance_name, (), buffer_size_kb=256, subbuf_size_kb=4)
    first = Instance.open(top, spec)
    first.configure()
    mark(first.dir)
    read_all(first)
    for _ in range(3):
        mark(first.dir)
    first.close()  # as the end of its process does

    second = Instance.open(top, spec)
    assert (second.existed, second.unread_at_open) == (True, 3)
    assert not second.needs_drain_before_configure
    second.configure()
    counters = [second.dir.read_stats(cpu) for cpu in second.dir.online_cpus()]
    assert sum(c.entries for c in counters) == 3
    assert sum(c.read_events for c in counters) == 1
    second.close()

    third = Instance.open(top, InstanceSpec(instance_name, (), clock="boot", buffer_size_kb=256, subbuf_size_kb=16))
    assert third.needs_drain_before_configure
    assert (third.clock, third.subbuf_size) == ("mono", 4096)
    with pytest.raises(TracefsError, match="3 entries"):
        third.configure()
    third.stop_tracing()
    read_all(third)
    third.configure()
    assert (third.clock, third.subbuf_size) == ("boot", 16384)
    third.remove(timeout_s=1)


HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.kernel
def test_one_process_per_instance(tracefs: Path, instance_name: str) -> None:
    (tracefs / "instances" / instance_name).mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tracefs / "instances" / instance_name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(InstanceBusyError, match=rf"in use.*process {holder.pid} \(.+\)"):
            Instance.open(TracefsDir(tracefs), InstanceSpec(instance_name, ()))
    finally:
        holder.communicate()
    Instance.open(TracefsDir(tracefs), InstanceSpec(instance_name, ())).remove(timeout_s=1)


@pytest.mark.kernel
def test_removal_waits_for_open_files_until_its_time_is_over(tracefs: Path, instance_name: str) -> None:
    made = Instance.open(TracefsDir(tracefs), InstanceSpec(instance_name, (SWITCH,)))
    made.configure()
    fd = made.dir.open_raw(0)
    waits: list[float] = []
    with pytest.raises(InstanceBusyError, match="EBUSY"):
        made.remove(timeout_s=0, sleep=waits.append)
    assert not made.try_remove()
    assert waits == []

    def close_it(_step_s: float) -> None:
        os.close(fd)

    made.remove(timeout_s=60, sleep=close_it)
    assert not made.dir.path.exists()


@pytest.mark.kernel
def test_kept_on_purpose(tracefs: Path, instance_name: str) -> None:
    top = TracefsDir(tracefs)
    made = Instance.open(top, InstanceSpec(instance_name, (SWITCH,), keep=True))
    made.configure()
    mark(made.dir)
    made.undo(timeout_s=1)
    assert made.dir.read_text("events/enable").strip() == "0"
    assert made.dir.read_text("tracing_on").strip() == "0"
    again = Instance.open(top, InstanceSpec(instance_name, (SWITCH,)))
    assert again.unread_at_open >= 1
    again.undo(timeout_s=1)
    assert not again.dir.path.exists()
    again.undo(timeout_s=1)  # what is gone is gone


@pytest.mark.kernel
def test_a_spec_that_can_not_be_leaves_nothing_behind(tracefs: Path, instance_name: str) -> None:
    with pytest.raises(UsageError, match=r"no such clock.*mono"):
        Instance.open(TracefsDir(tracefs), InstanceSpec(instance_name, (), clock="sundial"))
    assert not (tracefs / "instances" / instance_name).exists()
