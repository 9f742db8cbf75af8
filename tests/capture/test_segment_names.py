"""A replayed segment has the names that its entries refer to, and they stand before the block that needs them."""

from collections.abc import Callable
from pathlib import Path

from collector.archive.frame import Kind, Record
from collector.archive.objects import parse_object
from collector.archive.reader import Segment, list_segments, open_segment
from collector.cli import main


def names(segment: Segment, kind: str) -> dict[int, object]:
    """The maps of one type that stand before the last block."""
    found: dict[int, object] = {}
    records = list(segment.records())
    while not (isinstance(records[-1], Record) and records[-1].kind == Kind.BLOCK):
        records.pop()
    for record in records:
        assert isinstance(record, Record)
        if record.kind == Kind.OBJECT and (stored := parse_object(record.body)).type == kind:
            found.update(stored.value)
    return found


def replayed(case: Path, folder: Path) -> Segment:
    assert main(["run", "--replay", str(case), "--output", str(folder)]) == 0
    (path,) = list_segments([folder])
    return open_segment(path)


def test_stack_traces_bring_their_symbols(recorded_case: Callable[[str], Path], tmp_path: Path) -> None:
    with replayed(recorded_case("6.12/event_stack"), tmp_path / "a") as segment:
        symbols = names(segment, "symbols")
    assert {"do_syscall_64", "try_to_wake_up"} <= {name for name, _, _ in symbols.values()}


def test_bprint_brings_the_texts_that_it_points_to(recorded_case: Callable[[str], Path], tmp_path: Path) -> None:
    case = recorded_case("6.12/bprint")
    with replayed(case, tmp_path / "a") as segment:
        texts = names(segment, "printk")
    listed = (case / "tracefs/printk_formats").read_text()
    assert texts
    assert all(f"0x{address:x} :" in listed for address in texts)


def test_threads_are_named_as_the_kernel_saved_them(recorded_case: Callable[[str], Path], tmp_path: Path) -> None:
    case = recorded_case("6.18/mix")
    with replayed(case, tmp_path / "a") as segment:
        comms, tgids = names(segment, "comms"), names(segment, "tgids")
    assert comms[15] == b"rcu_preempt"
    assert set(tgids) <= set(comms)
