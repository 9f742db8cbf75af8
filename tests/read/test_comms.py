"""The name of a thread at an event: from events that mention it, else as it was saved."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from collector.archive import maps as maps_module
from collector.archive.totals import Totals
from collector.show.show import show_paths
from tests.archive.encoder import header
from tests.read.made import Maps, Row, plain, switch, write_segment

CPU0, CPU1 = ("main", 0), ("main", 1)


def names(path: Path, event: str = "made:plain", **how: Any) -> list[tuple[str | None, str | None]]:
    """(comm, comm_source) of the entries of one event, by time."""
    return [(e["comm"], e["comm_source"]) for e in entries(path, event, **how)]


def entries(path: Path, event: str = "made:plain", **how: Any) -> list[dict[str, Any]]:
    out = io.StringIO()
    assert show_paths([path], out, format="json", event_globs=[event], **how).damaged == []
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_name_holds_from_its_mention_to_the_next_one_on_any_cpu(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [
        (CPU0, [switch(100, (0, b"swapper/0"), (7, b"old")), *(plain(t, 7) for t in (150, 250, 350, 450))]),
        (CPU1, [(200, 9, "sched:sched_waking", {"pid": 7, "comm": b"mid"}), switch(400, (7, b"new"), (9, b"x"))]),
    ])  # fmt: skip
    assert names(path) == [("old", "event"), ("mid", "event"), ("mid", "event"), ("new", "event")]
    assert names(path, cpus=[0]) == names(path)
    assert names(path, since=300, limit=1) == [("mid", "event")]


def test_before_the_first_mention_the_next_one_counts(tmp_path: Path) -> None:
    rows: list[Row] = [plain(10, 7), switch(20, (7, b"later"), (0, b"swapper/0"))]
    path = write_segment(tmp_path, [(CPU0, rows)], Maps(saved={7: b"saved"}))
    assert names(path) == [("later", "event")]


def test_rename_counts_from_the_entry_behind_it(tmp_path: Path) -> None:
    rename: Row = (20, 7, "task:task_rename", {"pid": 7, "oldcomm": b"before", "newcomm": b"after"})
    path = write_segment(tmp_path, [(CPU0, [plain(10, 7), rename, plain(20, 7), plain(21, 7)])])
    assert names(path) == [("before", "event"), ("before", "event"), ("after", "event")]
    assert names(path, "task:*") == [("before", "event")]


def test_a_child_has_its_parents_name_and_an_id_that_was_used_before_does_not(tmp_path: Path) -> None:
    fork = {"parent_comm": b"sh\0", "parent_pid": 5, "child_comm": b"sh\0", "child_pid": 7}
    rows: list[Row] = [plain(10, 7), (20, 5, "sched:sched_process_fork", fork), plain(30, 7), plain(40, 5)]
    path = write_segment(tmp_path, [(CPU0, rows)], Maps(saved={7: b"late"}))
    assert names(path) == [("late", "saved_cmdlines"), ("sh", "event"), ("sh", "event")]


def test_an_exec_ends_a_name_and_the_next_mention_tells_the_new_one(tmp_path: Path) -> None:
    def run(pid: int) -> list[Row]:
        executed = {"filename": b"/usr/bin/python3.11\0", "pid": pid, "old_pid": pid}
        return [switch(10, (0, b""), (pid, b"sh")), (20, pid, "sched:sched_process_exec", executed), plain(30, pid)]

    told = [*run(7), switch(40, (7, b"python3"), (0, b""))]
    path = write_segment(tmp_path / "a", [(CPU0, told)])
    assert names(path) == [("python3", "event")]
    assert names(path, "sched:sched_process_exec") == [("python3", "event")]
    assert entries(path)[0]["tgid"] == 7
    assert names(write_segment(tmp_path / "b", [(CPU0, run(7))])) == [(None, None)]
    path = write_segment(tmp_path / "c", [(CPU0, run(7))], Maps(saved={7: b"python3"}))
    assert names(path) == [("python3", "saved_cmdlines")]
    rename: Row = (19, 7, "task:task_rename", {"pid": 7, "oldcomm": b"sh", "newcomm": b"renamed"})
    path = write_segment(tmp_path / "d", [(CPU0, [run(7)[0], rename, *run(7)[1:]])])
    assert names(path) == [("renamed", "event")]


def test_a_thread_is_of_its_creators_process(tmp_path: Path) -> None:
    def task(ts: int, creator: int, pid: int, flags: int) -> Row:
        return ts, creator, "task:task_newtask", {"pid": pid, "comm": b"made", "clone_flags": flags}

    rows = [task(10, 5, 6, 0), task(20, 6, 7, 0x10000), task(30, 7, 8, 0x10000), task(40, 4, 9, 0x10000)]
    rows += [plain(50 + pid, pid) for pid in range(3, 11)]
    path = write_segment(tmp_path, [(CPU0, rows)], Maps(saved_tgids={4: 3}, proc={10: (b"of proc", 2)}))
    assert {e["pid"]: e["tgid"] for e in entries(path)} == {3: None, 4: 3, 5: None, 6: 6, 7: 6, 8: 6, 9: 3, 10: 2}
    assert names(path)[-1] == ("of proc", "proc")


def test_what_was_saved_is_the_second_choice_and_proc_the_third(tmp_path: Path) -> None:
    found = Maps(saved={1: b"one"}, proc={1: (b"not asked", 1), 2: (b"two", 22)})
    path = write_segment(tmp_path, [(CPU0, [plain(10 + pid, pid) for pid in range(4)])], found)
    assert [(e["comm"], e["comm_source"], e["tgid"]) for e in entries(path)] == [
        ("<idle>", None, None), ("one", "saved_cmdlines", 1), ("two", "proc", 22), (None, None, None),
    ]  # fmt: skip


def test_a_thread_that_changes_its_name_gets_another_object_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(maps_module.time, "monotonic", lambda: now[0])

    class Changing(Maps):
        def comms(self, pids: Any) -> dict[int, bytes]:
            return dict.fromkeys(pids, self.comm)

    found = Changing()
    blocks = [(100, b"a", 0), (200, b"b", 1), (300, b"b", 11), (400, b"a", 30)]

    def streams() -> Any:
        for ts, comm, at_s in blocks:
            found.comm, now[0] = comm, 1000.0 + at_s
            yield CPU0, [plain(ts, 7)]

    path = write_segment(tmp_path, streams(), found)
    # Looked up again after 10 s at the earliest; the same object a second time when it changes back.
    assert [comm for comm, _ in names(path)] == ["a", "a", "b", "a"]


@pytest.mark.parametrize("fork", [False, True])
def test_a_name_that_is_taken_up_again_on_another_cpu(tmp_path: Path, fork: bool) -> None:
    rows = [switch(ts, (7, b"one"), (0, b"")) for ts in (10, 20, 60, 70)]
    rows += [plain(ts, 7) for ts in (15, 25, 55, 61, 75)]
    if fork:  # then the block's times are looked at from the start
        values = {"parent_comm": b"sh\0", "parent_pid": 5, "child_comm": b"sh\0", "child_pid": 6}
        rows.append((80, 5, "sched:sched_process_fork", values))
    other = [switch(50, (0, b""), (7, b"two")), plain(51, 7)]
    path = write_segment(tmp_path, [(CPU0, sorted(rows, key=lambda row: row[0])), (CPU1, other)])
    assert [comm for comm, _ in names(path)] == ["one", "one", "two", "two", "one", "one"]


def test_instances_share_mentions_where_they_share_the_clock(tmp_path: Path) -> None:
    of = header(0, {("main", 0): Totals(), ("other", 0): Totals(), ("count", 0): Totals()})
    of["instances"]["other"] = of["instances"]["main"]
    of["instances"]["count"] = {**of["instances"]["main"], "clock": "counter", "clock_unit": "count"}
    path = write_segment(tmp_path, [
        (("main", 0), [switch(100, (7, b"told"), (0, b""))]), (("other", 0), [plain(200, 7)]),
        (("count", 0), [plain(300, 7)]),
    ], of=of)  # fmt: skip
    assert names(path) == [("told", "event"), (None, None)]


def unescape(text: str) -> bytes:
    """The bytes of a text that JSON calls escaped."""
    escape = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
    return escape.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", text.encode())


HOSTILE = [
    b"a\nb-1 [000] 1.0", b"x [000] 1.5: s:", b'"}\n{"pid": 1', b"\x1b[2J\x1b]0;t\x07", b"\xff\xfe\xc0\x80",
    b"%s%n%(a)d",
    b"sixteen bytes!!!", b"\x9b31m\x85\x90", b"\\x0a\\", "\u2028\u202e\u2029".encode(), b"", b"   ", b"-1 [0",
    b"\r\t\x0b\x0c\x08", b"\xed\xa0\x80lone",
]  # fmt: skip


@pytest.mark.parametrize("comm", HOSTILE)
@pytest.mark.parametrize("time", ["trace", "both"])
def test_no_name_forges_a_record_or_steers_a_terminal(tmp_path: Path, comm: bytes, time: Any) -> None:
    rows: list[Row] = [switch(1_000_000_000 + at, (7, comm), (8, comm)) for at in range(2)]
    rows += [plain(1_000_000_009, 7), plain(1_000_000_010, 9)]
    pair = {"trace": 5, "realtime_ns": 10**18, "boottime_ns": 5, "monotonic_ns": 5, "error_ns": 1}
    path = write_segment(tmp_path, [(CPU0, rows)], Maps(saved={9: comm}), pairs=[pair])
    for form in ("fields", "json"):
        out = io.StringIO()
        show_paths([path], out, format=form, time=time)
        text = out.getvalue()
        lines = text.split("\n")
        assert (len(lines), lines[-1]) == (5, "")
        assert len(text.splitlines()) == 4  # which splits at more than newlines
        assert all(c.isprintable() or c == "\n" for c in text)
        for line, pid in zip(lines, (7, 7, 7, 9), strict=False):
            if form == "json":
                entry = json.loads(line)
                told = unescape(entry["comm"]) if "common_comm" in entry.get("escaped", ()) else entry["comm"].encode()
                assert (entry["pid"], entry["cpu"], told) == (pid, 0, comm[:16])
            else:
                # The first " [" is the CPU's; what is before it ends with the thread's id.
                head, _, rest = line.partition(" [")
                assert head.rpartition("-")[2] == str(pid)
                assert rest.startswith("000] 1.0000000")
