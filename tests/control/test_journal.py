"""The journal of what takes changes back: its text, and what it makes of crashes, on a stand-in for the kernel."""

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from collector.cli import main
from collector.config.load import parse_config
from collector.control.desired import preview
from collector.control.feasible import check_desired
from collector.control.instance import Instance
from collector.control.journal import (
    Journals,
    Record,
    build_journal,
    parse_journal,
    read_boot_id,
    read_journal,
    runtime_folder,
)
from collector.control.leftovers import clean_up, find_leftovers
from collector.control.wish import Undo
from collector.errors import EXIT_USAGE, InstanceBusyError, TracefsError, UsageError
from tests.control.test_desired import BASE, read_all, spec_of
from tests.tracefs.tree import FakeKernel, make_fake_kernel, put

FUNCTION = 'tracer = "function"\n'
DEPTH = "max_graph_depth = 3\nallow_top_level = true"
UNDO = Undo("max_graph_depth", "0", scope="top")
RECORD = Record("ours", "boot-1", "ours", 7, {1: UNDO, 2: Undo("set_graph_function", "a\udc80", "append", "top")})


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return make_fake_kernel(tmp_path / "tracefs", "ours")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def start(kernel: FakeKernel, folder: Path, keys: str, *, boot: str = "boot-1", name: str = "ours") -> Instance:
    """A run's instance, set up."""
    made = Instance.open(kernel, replace(spec_of(kernel, keys), name=name), Journals(folder, boot))
    made.configure()
    return made


def add_instance(kernel: FakeKernel, folder: Path) -> None:
    """A second one, "theirs"."""
    (make_fake_kernel(folder, "theirs").path / "instances/theirs").rename(kernel.path / "instances/theirs")


def stop(made: Instance) -> None:
    """As `undo` does, but for the folder: this one can't be removed. The journal goes before that."""
    with pytest.raises(TracefsError, match="can't be removed"):
        made.undo(timeout_s=0)
    made._end()


def test_a_journal_reads_as_it_was_written() -> None:
    assert parse_journal(build_journal(RECORD).decode(), "ours") == RECORD


def test_what_was_done_is_taken_out() -> None:
    text = build_journal(RECORD).decode() + '{"done": 2}\n{"done": 9}\n'
    parsed = parse_journal(text, "ours")
    assert parsed is not None
    assert parsed.undos == {1: UNDO}


@pytest.mark.parametrize(
    "tail", ['{"n": 3, "file": "tracing_thr', '{"done": 1}', "nonsense\n", '{"n": 3, "file": "x", "value": "1"}\n',
             '{"n": 3, "file": "x", "value": "1", "mode": "erase", "scope": "top"}\n', "[1]\n"],
)  # fmt: skip
def test_a_torn_or_foreign_line_counts_for_nothing(tail: str) -> None:
    assert parse_journal(build_journal(RECORD).decode() + tail, "ours") == RECORD


@pytest.mark.parametrize("text", ["", "{}\n", '{"boot_id": "b", "instance": "x", "pid": 1}', "[]\n", "\0\0\n"])
def test_a_file_that_does_not_say_whose_it_is_is_none(text: str) -> None:
    assert parse_journal(text, "x") is None


def test_where_it_is() -> None:
    assert runtime_folder({}) == Path("/run/ftrace-collector")
    assert runtime_folder({"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == Path("/run/a")


def test_a_change_is_noted_before_it_is_made_and_the_file_goes_with_the_last(
    kernel: FakeKernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    write = FakeKernel._write

    def look(tree: FakeKernel, name: str, value: str, flags: int) -> None:
        if name == "max_graph_depth" and value == "3":
            noted.extend((folder / "ours.undo").read_text().splitlines())
        write(tree, name, value, flags)

    monkeypatch.setattr(FakeKernel, "_write", look)
    made = start(kernel, folder, DEPTH)
    assert [json.loads(line) for line in noted] == [
        {"boot_id": "boot-1", "instance": "ours", "pid": os.getpid()},
        {"n": 1, "file": "max_graph_depth", "value": "0", "mode": "write", "scope": "top"},
    ]
    stop(made)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "keys",
    [
        DEPTH,
        'graph_functions = ["do_sys_openat2"]\nallow_top_level = true',
        'probes = ["p:open do_sys_openat2", "s:lat u64 lat"]',
        "stack_tracer = true\nsaved_cmdlines_size = 4096\nallow_top_level = true",
    ],
)
def test_the_next_start_after_a_crash_restores_what_the_killed_run_found(
    kernel: FakeKernel, folder: Path, keys: str
) -> None:
    before = read_all(kernel)
    del before["tracefs/error_log"]
    start(kernel, folder, keys).close()  # as the end of its process does
    start(kernel, folder, keys).close()
    assert read_all(kernel) != before
    stop(start(kernel, folder, ""))  # other settings, the same instance
    assert {name: text for name, text in read_all(kernel).items() if name != "tracefs/error_log"} == before
    assert list(folder.iterdir()) == []


def test_the_original_is_restored_and_not_what_the_killed_run_set(kernel: FakeKernel, folder: Path) -> None:
    start(kernel, folder, DEPTH).close()
    made = start(kernel, folder, DEPTH.replace("3", "5"))
    assert (kernel.path / "max_graph_depth").read_text() == "5\n"
    stop(made)
    assert (kernel.path / "max_graph_depth").read_text() == "0\n"


def test_an_options_value_outlives_the_instance_too(kernel: FakeKernel, folder: Path) -> None:
    start(kernel, folder, f"{FUNCTION}options = {{func_stack_trace = true}}").close()
    record = read_journal(folder / "ours.undo")
    assert record is not None
    assert list(record.undos.values()) == [Undo("options/func_stack_trace", "0")]


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_two_runs_do_not_change_the_same_option_of_a_tracer(
    kernel: FakeKernel, folder: Path, tmp_path: Path, wanted: str
) -> None:
    add_instance(kernel, tmp_path / "more/tracefs")
    theirs = kernel.path / "instances/theirs"
    first = start(kernel, folder, f"{FUNCTION}options = {{func_stack_trace = true, sym-addr = true}}")
    put(theirs, {"options/func_stack_trace": "1\n", "options/sym-addr": "1\n"})  # the flag is the same one
    keys = f"{FUNCTION}options = {{func_stack_trace = {wanted}, sym-addr = false}}"
    with pytest.raises(InstanceBusyError, match=r"func_stack_trace: another run.*instance ours; stop it") as refused:
        start(kernel, folder, keys, name="theirs")
    assert "sym-addr" not in str(refused.value)
    stop(start(kernel, folder, "options = {sym-addr = false}", name="theirs"))
    stop(first)
    start(kernel, folder, keys, name="theirs").close()


def test_where_each_instance_has_its_own_option_of_a_tracer_two_runs_may_change_it(
    kernel: FakeKernel, folder: Path, tmp_path: Path
) -> None:
    add_instance(kernel, tmp_path / "more/tracefs")
    start(kernel, folder, f"{FUNCTION}options = {{func_stack_trace = true}}")
    second = start(kernel, folder, f"{FUNCTION}options = {{func_stack_trace = true}}", name="theirs")
    assert second.dir.read_text("options/func_stack_trace") == "1\n"


def test_a_journal_of_another_boot_is_void(kernel: FakeKernel, folder: Path) -> None:
    start(kernel, folder, DEPTH).close()
    (kernel.path / "max_graph_depth").write_text("9\n")  # the machine has restarted, and somebody has set this
    stop(start(kernel, folder, "", boot="boot-2"))
    assert (kernel.path / "max_graph_depth").read_text() == "9\n"


def test_two_runs_do_not_change_the_same_shared_value(kernel: FakeKernel, folder: Path, tmp_path: Path) -> None:
    add_instance(kernel, tmp_path / "more/tracefs")
    first = start(kernel, folder, DEPTH)
    for keys in (DEPTH, DEPTH.replace("3", "5")):  # also what is as wished already would be taken back under it
        with pytest.raises(InstanceBusyError, match=r"max_graph_depth: another run.*instance ours; stop it"):
            start(kernel, folder, keys, name="theirs")
    second = start(kernel, folder, "tracing_thresh_us = 5\nallow_top_level = true", name="theirs")
    stop(second)
    stop(first)
    start(kernel, folder, DEPTH, name="theirs").close()


def test_instances_of_one_run_share_a_value(kernel: FakeKernel, folder: Path, tmp_path: Path) -> None:
    add_instance(kernel, tmp_path / "more/tracefs")
    journals = Journals(folder, "boot-1")
    spec = spec_of(kernel, DEPTH)
    both = [Instance.open(kernel, replace(spec, name=name), journals) for name in ("ours", "theirs")]
    for made in both:
        made.configure()
    for made in reversed(both):
        stop(made)
    assert (kernel.path / "max_graph_depth").read_text() == "0\n"


USER = 'probes = ["user:app u32 a;u8 b"]'
SYNTHETIC = 'probes = ["s:lat u64 lat"]'
USER_REMOVAL = "-:user_events/app u32 a; u8 b"


@pytest.mark.parametrize("keys", [USER, SYNTHETIC])
def test_an_event_in_a_group_of_the_kernel_is_known_again_by_its_journal(
    kernel: FakeKernel, folder: Path, keys: str
) -> None:
    start(kernel, folder, keys).close()
    made = (kernel.path / "dynamic_events").read_text()
    again = Instance.open(kernel, spec_of(kernel, keys), Journals(folder, "boot-1"))
    again.existed = False  # somebody has removed the instance
    check_desired(again.spec, again.probe())
    again.configure()
    assert (kernel.path / "dynamic_events").read_text() == made != ""
    stop(again)
    assert (kernel.path / "dynamic_events").read_text() == ""
    assert list(folder.iterdir()) == []


def test_a_user_event_that_a_program_has_stays_in_the_journal(
    kernel: FakeKernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    kernel.refused[("dynamic_events", USER_REMOVAL)] = errno.EBUSY
    made = start(kernel, folder, USER)
    made.undo(timeout_s=0)
    (left,) = made.left
    assert re.search(r"app u32 a; u8 b', EBUSY.*used by.*`ftrace-collector cleanup ours` removes it later", left)
    journals = Journals(folder, "boot-1")
    (found,) = find_leftovers(kernel, journals)
    assert found.changes == (f"dynamic_events {USER_REMOVAL}",)
    with pytest.raises(InstanceBusyError, match=r"ours: not all that was made.*EBUSY"):
        clean_up(kernel, journals, "ours")
    made = start(kernel, folder, USER)  # it is taken over
    made.undo(timeout_s=0)
    kernel.refused.clear()
    assert str(clean_up(kernel, journals, "ours")) == f"ours: restored dynamic_events {USER_REMOVAL}; removed"
    assert (kernel.path / "dynamic_events").read_text() == ""
    assert list(folder.iterdir()) == []


def test_what_an_earlier_version_noted_without_the_fields_is_removed(
    kernel: FakeKernel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    put(kernel.path, {"dynamic_events": "u:app u32 a; u8 b\n"})
    undo = Undo("dynamic_events", "-:user_events/app", "append", "top")
    folder.mkdir()
    (folder / "ours.undo").write_bytes(build_journal(Record("ours", "boot-1", "ours", 7, {1: undo})))
    clean_up(kernel, Journals(folder, "boot-1"), "ours")
    assert (kernel.path / "dynamic_events").read_text() == ""


def test_enoent_is_not_taken_for_removed(kernel: FakeKernel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    kernel.refused[("dynamic_events", "-:synthetic/lat")] = errno.ENOENT
    made = start(kernel, folder, SYNTHETIC)
    with pytest.raises(TracefsError, match=r"can't be removed.*ENOENT"):
        made.undo(timeout_s=0)
    assert [path.name for path in folder.iterdir()] == ["ours.undo"]


def test_an_event_of_another_run_is_refused_with_whose_it_is(kernel: FakeKernel, folder: Path, tmp_path: Path) -> None:
    add_instance(kernel, tmp_path / "more/tracefs")
    first = start(kernel, folder, USER)
    with pytest.raises(InstanceBusyError, match=rf"user_events/app of process {os.getpid()}, instance ours; .*cleanup"):
        start(kernel, folder, USER, name="theirs")
    stop(first)
    start(kernel, folder, USER, name="theirs").close()


def test_a_preview_knows_what_a_killed_run_has_made(kernel: FakeKernel, folder: Path, tmp_path: Path) -> None:
    start(kernel, folder, SYNTHETIC).close()
    (kernel.path / "instances/ours").rename(tmp_path / "gone")
    trace = parse_config(f"[trace]\n{BASE}{SYNTHETIC}\n", "c").trace
    writes = preview(trace, kernel, Journals(folder, "boot-1"))
    assert "dynamic_events" not in [write.file for write in writes]
    with pytest.raises(UsageError, match="made by somebody else"):
        preview(trace, kernel, Journals(folder, "boot-2"))


@pytest.mark.parametrize("keys", [USER, SYNTHETIC])
def test_without_a_folder_nothing_is_made_that_nobody_would_know_again(
    kernel: FakeKernel, tmp_path: Path, keys: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TracefsError, match=r"so it isn't made"):
        start(kernel, tmp_path / "file" / "run", keys)
    assert (kernel.path / "dynamic_events").read_text() == ""


def test_without_a_folder_only_shared_values_are_refused(kernel: FakeKernel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = tmp_path / "file" / "run"
    made = start(kernel, nowhere, 'probes = ["p:open do_sys_openat2"]')
    stop(made)
    with pytest.raises(TracefsError, match=re.escape(f"{nowhere}/ours.undo") + r".*so it isn't made.*RUNTIME_DIR"):
        start(kernel, nowhere, DEPTH)
    assert (kernel.path / "max_graph_depth").read_text() == "0\n"


def test_cleaning_up_restores_and_says_what(kernel: FakeKernel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_all(kernel)
    start(kernel, folder, f'{DEPTH}\nprobes = ["p:open do_sys_openat2"]').close()
    journals = Journals(folder, "boot-1")
    (left,) = find_leftovers(kernel, journals)
    assert (left.instance, left.unread, left.changes) == (
        "ours", 0, ("dynamic_events -:ftc_ours/open", "max_graph_depth 0"),
    )  # fmt: skip
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    cleaned = clean_up(kernel, journals, "ours")
    assert str(cleaned) == "ours: restored dynamic_events -:ftc_ours/open, max_graph_depth 0; removed"
    assert read_all(kernel) == before
    assert list(folder.iterdir()) == []
    assert find_leftovers(kernel, journals) == ()


def test_cleaning_up_keeps_unread_entries_on_request(kernel: FakeKernel, folder: Path) -> None:
    start(kernel, folder, DEPTH).close()
    stats = (kernel.path / "instances/ours/per_cpu/cpu0/stats").read_text()
    put(kernel.path, {"instances/ours/per_cpu/cpu0/stats": stats.replace("entries: 0", "entries: 4")})
    cleaned = clean_up(kernel, Journals(folder, "boot-1"), "ours", keep_entries=True)
    assert str(cleaned) == "ours: restored max_graph_depth 0; kept with 4 unread entries"
    assert (kernel.path / "instances/ours/events/enable").read_text() == "0\n"


def test_cleaning_up_what_lives_or_never_was(kernel: FakeKernel, folder: Path) -> None:
    live = start(kernel, folder, DEPTH)
    journals = Journals(folder, "boot-1")
    assert find_leftovers(kernel, journals) == ()
    with pytest.raises(InstanceBusyError, match="in use"):
        clean_up(kernel, journals, "ours")
    live.close()
    with pytest.raises(UsageError, match="nothing of such an instance"):
        clean_up(kernel, journals, "others")


def test_one_that_cannot_be_cleaned_up_does_not_keep_the_others(
    kernel: FakeKernel, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(kernel, folder, DEPTH, boot=read_boot_id()).close()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    monkeypatch.setattr("collector.tracefs.files.find_tracefs", lambda: kernel.path)
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    assert main(["cleanup", "never", "ours"]) == EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == "ours: restored max_graph_depth 0; removed\n"
    assert "instances/never: nothing of such an instance is left" in err
    assert (kernel.path / "max_graph_depth").read_text() == "0\n"
