"""tracefs I/O: recorded trees, plain files, and what the kernel answers."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from collector.capture.format_index import RELIST_AGE_S, FormatIndex
from collector.errors import TracefsError, TracefsMissingError, TracefsPermissionError, UsageError
from collector.tracefs import files
from collector.tracefs.files import TracefsDir, errno_of, find_tracefs, read_stats_fd
from tests.tracefs.tree import event_format, make_recorded_tree, put


def test_a_recorded_tree_reads_like_the_real_one(tmp_path: Path) -> None:
    tree = make_recorded_tree(tmp_path)
    assert not tree.live
    assert tree.possible_cpus() == tree.online_cpus() == (0, 10)
    assert tree.read_clock() == ("mono", ("local", "mono"))
    assert tree.read_layout().subbuf_size == 4096
    assert tree.read_stats(0).entries == 3
    assert tree.list_events() == [("irq", "irq_entry"), ("sched", "sched_switch")]
    assert tree.list_events("sched:*") == [("sched", "sched_switch")]
    assert tree.list_events("nope:*") == []
    assert tree.read_event_format("sched", "sched_switch", 8).id == 300
    with pytest.raises(UsageError, match="sched_switch"):
        tree.match_events(["sched:sched_swich"])


def test_what_a_recorded_tree_lacks_is_none(tmp_path: Path) -> None:
    tree = make_recorded_tree(tmp_path)
    assert tree.try_read("buffer_subbuf_size_kb") is None
    assert tree.try_read_text("per_cpu/cpu0/stats/under_a_file") is None
    assert tree.try_read_stats(7) is None
    assert tree.try_read_ring_size_bytes(0) is None
    assert tree.read_saved_cmdlines() is None
    assert tree.read_saved_tgids() is None
    assert tree.read_printk_formats() is None
    assert tree.read_kallsyms() is None
    assert tree.read_uname() is None
    put(tmp_path, {"kallsyms": "ffffffff81000000 T a\n", "uname": "Linux x\n"})
    put(tmp_path / "tracefs", {"saved_cmdlines": "1 init\n"})
    assert tree.read_kallsyms() == b"ffffffff81000000 T a\n"
    assert tree.read_uname() == "Linux x"
    assert tree.read_saved_cmdlines() == b"1 init\n"


def test_raw_and_stats_open_without_blocking_or_inheritance(tmp_path: Path) -> None:
    tree = make_recorded_tree(tmp_path)
    raw, stats = tree.open_raw(0), tree.open_stats(0)
    try:
        assert not os.get_blocking(raw)
        assert not os.get_inheritable(raw)
        assert os.read(raw, 10) == b"raw"
        assert read_stats_fd(stats).entries == read_stats_fd(stats).entries == 3
    finally:
        os.close(raw)
        os.close(stats)
    with pytest.raises(TracefsMissingError, match="cpu7/trace_pipe_raw"):
        tree.open_raw(7)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TracefsMissingError, match=r"buffer_size_kb.*ENOENT") as caught:
        make_recorded_tree(tmp_path).read_text("buffer_size_kb")
    assert errno_of(caught.value) == errno.ENOENT
    with pytest.raises(TracefsMissingError, match="per_cpu"):
        TracefsDir(tmp_path / "none").possible_cpus()
    assert TracefsDir(tmp_path / "none").list_events() == []


def test_a_folder_of_events_that_goes_while_they_are_listed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_recorded_tree(tmp_path)
    before = tree.list_event_folders()
    real = os.scandir
    gone = SimpleNamespace(name="a_module", is_dir=lambda: True)
    monkeypatch.setattr(files.os, "scandir", lambda path: [gone, *real(path)] if path.name == "events" else real(path))
    assert tree.list_event_folders() == before


def test_a_file_of_what_is_being_removed_is_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_recorded_tree(tmp_path)

    def read(path: Path) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(TracefsMissingError, match="ENODEV"):
        tree.read_event_format("sched", "sched_switch", 8)
    assert FormatIndex(tree, 8).get(300) is None


def test_a_value_is_one_write_without_truncation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"set_event": "old content\n"})
    tree = TracefsDir(tmp_path)
    calls: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        calls.append(data)
        return os.pwrite(fd, data, 0)

    monkeypatch.setattr(files.os, "write", write)
    tree.write("set_event", "new")
    assert calls == [b"new\n"]
    assert tree.read_text("set_event") == "new\ncontent\n"
    tree.replace("set_event", "x")
    assert tree.read_text("set_event") == "x\n"
    tree.clear("set_event")
    assert tree.read_text("set_event") == ""
    assert len(calls) == 2


def test_what_a_value_names_is_missing_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOENT of write(2): the program of a uprobe, or an event to remove."""
    put(tmp_path, {"dynamic_events": ""})

    def write(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(files.os, "write", write)
    with pytest.raises(TracefsError, match=r"refuses the value; got ENOENT .* for 'p:u /no/such:0x1'") as caught:
        TracefsDir(tmp_path).append("dynamic_events", "p:u /no/such:0x1")
    assert not isinstance(caught.value, TracefsMissingError)
    with pytest.raises(TracefsMissingError, match="no such file"):
        TracefsDir(tmp_path).append("no_events", "x")


def test_a_value_taken_in_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"set_event": ""})
    monkeypatch.setattr(files.os, "write", lambda _fd, _data: 2)
    with pytest.raises(TracefsError, match=r"part of the value.*'a b c'.*2 of 6"):
        TracefsDir(tmp_path).write("set_event", "a b c")


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.EROFS, TracefsPermissionError, "ProtectKernelTunables"),
        (errno.EPERM, TracefsPermissionError, "lockdown|root"),
        (errno.EBUSY, TracefsError, "has its ring mapped"),
        (errno.ENOMEM, TracefsError, "smaller"),
        (errno.EINVAL, TracefsError, "4 to 512"),
    ],
)
def test_what_the_kernel_refuses_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[TracefsError], hint: str
) -> None:
    put(tmp_path, {"buffer_subbuf_size_kb": "4\n"})

    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "write", refuse)
    with pytest.raises(kind, match=hint) as caught:
        TracefsDir(tmp_path).write("buffer_subbuf_size_kb", "1024")
    assert "'1024'" in str(caught.value)
    assert errno_of(caught.value) == number


MOUNTS = "nodev {place} tracefs rw 0 0\n"


def test_tracefs_is_found_where_it_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a place"
    put(place, {"trace_clock": "[local]\n"})
    put(tmp_path, {"mounts": MOUNTS.format(place=str(place).replace(" ", "\\040"))})
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "mounts")
    assert find_tracefs() == place


def test_tracefs_is_found_below_debugfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"debug/tracing/trace_clock": "", "mounts": f"nodev {tmp_path}/debug debugfs rw 0 0\n"})
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "mounts")
    assert find_tracefs() == tmp_path / "debug/tracing"


def test_a_missing_tracefs_says_how_to_mount_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"mounts": "nodev /gone tracefs rw 0 0\nproc /proc proc rw 0 0\n"})
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "mounts")
    with pytest.raises(TracefsMissingError, match="mount -t tracefs nodev /sys/kernel/tracing"):
        find_tracefs()


def test_formats_are_read_when_their_id_turns_up(tmp_path: Path) -> None:
    tree = make_recorded_tree(tmp_path)
    now_s = 0.0
    index = FormatIndex(tree, 8, lambda: now_s)
    assert [fmt.name for fmt in index.internal()] == ["print"]
    found = index.get(300)
    assert found is not None
    assert found.name_full == "sched:sched_switch"
    assert index.get(40) is not None  # without an `id` file
    assert index.get(41) is None
    put(tmp_path / "tracefs", {"events/new/ev/format": (tmp_path / "tracefs/events/irq/irq_entry/format").read_text()})
    (tmp_path / "tracefs/events/new/ev/format").write_text(
        (tmp_path / "tracefs/events/irq/irq_entry/format").read_text().replace("ID: 40", "ID: 41")
    )
    assert index.get(41) is None  # ids that a damaged page makes up don't cost a listing each
    now_s = RELIST_AGE_S
    assert index.get(41) is not None
    put(tmp_path / "tracefs", {"events/irq/irq_entry/format": event_format("irq_entry", 42)})
    assert index.reread(40, "irq", "irq_entry") is None  # the id may be another's now: they are listed again
    assert [index.get(event_id) is not None for event_id in (40, 41, 42)] == [False, True, True]
    put(tmp_path / "tracefs", {"events/irq/irq_entry/format": event_format("changed", 42)})
    changed = index.reread(42, "irq", "irq_entry")
    assert changed is not None
    assert "name: changed" in changed.text


def test_a_format_that_can_not_be_read_is_noted(tmp_path: Path) -> None:
    tree = make_recorded_tree(tmp_path)
    put(
        tmp_path / "tracefs",
        {"events/bad/ev/format": "name: ev\nID: 77\nformat:\n\tfield:?\n", "events/bad/no/id": "x"},
    )
    index = FormatIndex(tree, 8)
    assert index.get(77) is None
    assert "line 4" in index.unreadable["bad", "ev"]
    assert "not an event id" in index.unreadable["bad", "no"]


@pytest.mark.parametrize("case", ["6.1/events", "6.12/events_subbuf16", "6.18/mix"])
def test_recorded_kernels(recorded_case: Callable[[str], Path], case: str) -> None:
    root = next(recorded_case(case).glob("**/tracefs"))
    tree = TracefsDir(root)
    assert tree.possible_cpus() == (0, 1)
    assert tree.read_layout().subbuf_size == (16384 if "subbuf16" in case else 4096)
    assert sum(tree.read_stats(cpu).entries for cpu in tree.possible_cpus()) == 0
    assert tree.read_saved_cmdlines()
    index = FormatIndex(tree, 8)
    assert "kernel_stack" in {fmt.name for fmt in index.internal()}
    for system, name in tree.list_events():
        fmt = tree.read_event_format(system, name, 8)
        assert index.get(fmt.id) == fmt
    assert not index.unreadable


@pytest.mark.kernel
def test_the_live_tree(tracefs: Path) -> None:
    tree = TracefsDir(find_tracefs())
    assert tree.live
    assert tree.read_uname() is None
    assert set(tree.online_cpus()) <= set(tree.possible_cpus())
    events = tree.match_events(["sched:sched_sw*", "sched_switch"])
    assert ("sched", "sched_switch") in events
    assert all(system != "ftrace" for system, _ in tree.list_events())
    index = FormatIndex(tree, 8)
    fmt = tree.read_event_format("sched", "sched_switch", 8)
    assert index.get(fmt.id) == fmt
    assert index.get(65535) is None
    cpu = tree.online_cpus()[0]
    assert tree.try_read_stats(cpu) is not None
    assert (tree.try_read_ring_size_bytes(cpu) or 0) > 0


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("trace_clock", "sundial", r"EINVAL.*'sundial'.*this kernel has: local"),
        ("buffer_percent", "101", r"0 to 100.*'101'"),
        ("set_event_notrace_pid", "-4", "thread ids"),
        ("options/sunshine", "1", r"no such file.*overwrite"),
        ("events/sched/sched_swich/enable", "1", r"no such file.*near it: sched:sched_switch"),
        ("events/sched/sched_switch/filter", "sun == 1", r"the kernel says: (?s:.*)Field not found"),
    ],
)
def test_the_live_kernels_refusals(tracefs: Path, instance_name: str, name: str, value: str, said: str) -> None:
    tree = TracefsDir(tracefs).instance(instance_name)
    tree.path.mkdir()
    with pytest.raises(TracefsError, match=said):
        tree.write(name, value)


@pytest.mark.kernel
def test_without_rights_it_says_so(tracefs: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(TracefsPermissionError, match=r"EACCES.*root"):
            find_tracefs()
    finally:
        os.seteuid(0)
