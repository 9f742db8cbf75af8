"""Somebody else's changes to our instance are noticed once each, and written back where that is wished."""

from pathlib import Path

import pytest

from collector.tracefs.files import TracefsDir
from collector.tracefs.guard import Guard, compare_settings, parse_setting

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
    ],
)
def test_values_compare(file: str, text: str, value: str) -> None:
    assert parse_setting(file, text) == value


def test_a_file_that_is_gone_is_no_change() -> None:
    assert compare_settings({"tracing_on": "1", "buffer_percent": "25"}, {"tracing_on": "1"}) == []


def test_an_untouched_instance_has_no_change(tree: TracefsDir) -> None:
    assert Guard(tree).look(repair=True) == []


def test_a_change_is_told_once_and_left(tree: TracefsDir) -> None:
    guard = Guard(tree)
    put(tree, "tracing_on", "0\n")
    put(tree, "set_event", "sched:sched_switch\n")
    found = guard.look(repair=False)
    assert [(str(change), repaired) for change, repaired in found] == [
        ("tracing_on: 1 -> 0", False),
        ("set_event: irq:irq_handler_entry,sched:sched_switch -> sched:sched_switch", False),
    ]
    assert guard.look(repair=False) == []
    put(tree, "tracing_on", "1\n")
    assert len(guard.look(repair=False)) == 1


def test_a_change_is_written_back_where_nothing_is_lost_by_it(tree: TracefsDir) -> None:
    guard = Guard(tree)
    put(tree, "tracing_on", "0\n")
    put(tree, "buffer_size_kb", "64\n")
    assert [(change.file, repaired) for change, repaired in guard.look(repair=True)] == [
        ("tracing_on", True),
        ("buffer_size_kb", False),  # growing keeps the data, shrinking does not: the operator decides
    ]
    assert tree.read_text("tracing_on").strip() == "1"


def test_another_clock_is_never_left(tree: TracefsDir) -> None:
    """Its times would be taken for those of ours."""
    guard = Guard(tree)
    put(tree, "trace_clock", "[local] global mono boot\n")
    ((change, repaired),) = guard.look(repair=False)
    assert (change.expected, change.found, repaired) == ("mono", "local", True)
    assert tree.read_text("trace_clock").startswith("mono")
