"""Printing: order, formats, filters, gaps, and text that must not steer a terminal."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collector.archive.segment import SegmentWriter
from collector.archive.totals import Totals
from collector.batch import Missed
from collector.errors import ArchiveError, UsageError
from collector.read.segments import Shown
from collector.read.times import Moment, parse_moment
from collector.show.show import show_paths
from tests.archive.encoder import (
    CREATED_NS,
    EVERY_ID,
    PLAIN_ID,
    UNKNOWN_ID,
    Maps,
    build_block,
    every_row,
    header,
    make_rows,
    write_run,
)


def show(*paths: Path, **how: Any) -> tuple[Shown, list[str]]:
    out = io.StringIO()
    return show_paths(paths, out, **how), out.getvalue().splitlines()


def show_json(*paths: Path, **how: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in show(*paths, format="json", **how)[1]]


def one_block(folder: Path, rows: Any, *, maps: Maps | None = None, unit: str = "ns", **how: Any) -> Path:
    writer = SegmentWriter.create(folder, header(unit=unit))
    writer.write_block(build_block(rows, **how), maps or Maps())
    return writer.seal({}, "shutdown", True)


def test_json_has_every_field_of_every_entry_in_order_of_time(tmp_path: Path) -> None:
    write_run(tmp_path, segments=2)
    found = show_json(tmp_path)
    assert len(found) == 48
    assert [e["ts_ns"] for e in found] == sorted(e["ts_ns"] for e in found)
    by_cpu = [[e for e in found if e["cpu"] == cpu] for cpu in (0, 1)]
    for at, entry in enumerate(by_cpu[1]):
        key = (EVERY_ID, PLAIN_ID, UNKNOWN_ID)[at % 3]
        pid = 100 + at % 4
        row = every_row(at)
        expected: dict[str, Any] = {"value": at - 5}
        if key == UNKNOWN_ID:
            expected = {"raw": (b"\xe7\x03raw%d" % at).hex()}
        elif key == EVERY_ID:
            expected = {
                **row,
                "name": row["name"].rstrip(b"\0").decode(),
                "path": row["path"].rstrip(b"\0").decode(),
                "blob": list(row["blob"]),
            }
        assert entry == {
            "ts_ns": entry["ts_ns"],
            "cpu": 1,
            "pid": pid,
            "comm": f"task-{pid}" if pid % 2 else None,
            "comm_source": "saved_cmdlines" if pid % 2 else None,
            "tgid": None,
            "event": {EVERY_ID: "made:every", PLAIN_ID: "made:plain", UNKNOWN_ID: "unknown:999"}[key],
            "flags": at % 2,
            "preempt_count": at % 3,
            "fields": expected,
        }


def test_fields_are_one_line_an_entry_with_gaps_in_their_places(tmp_path: Path) -> None:
    rows = [(1_500_000_000 + at, 0 if at else 101, 0, 0, PLAIN_ID, at - 1) for at in range(3)]
    path = one_block(tmp_path, rows, gaps=[Missed(1, 7, "page"), Missed(3, None, "page")])
    assert show(path)[1] == [
        "task-101-101 [000] 1.500000000: made:plain: value=-1",
        "CPU:0 [LOST 7 EVENTS]",
        "<idle>-0 [000] 1.500000001: made:plain: value=0",
        "<idle>-0 [000] 1.500000002: made:plain: value=1",
        "CPU:0 [LOST EVENTS]",
    ]


def test_stand_alone_gaps_are_shown_with_their_cause(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header())
    writer.write_block(build_block(make_rows(1, 1, 100)), Maps())
    body = {"run": bytes(range(16)), "inst": "main", "cpu": 0, "cause": "dropped", "count": 4, "from_ts": 100}
    writer.write_record(4, {**body, "to_ts": 900, "detail": ""})
    writer.write_block(build_block(make_rows(4, 1, 1_000), number=1, ordinal=1), Maps())
    path = writer.seal({}, "shutdown", True)
    assert [line[:30] for line in show(path)[1]] == [
        "task-101-101 [000] 0.000000100",
        "CPU:0 [LOST 4 EVENTS] dropped",
        "<...>-100 [000] 0.000001000: m",
    ]
    assert len(show_json(path)) == 2


def test_text_of_traced_programs_steers_nothing(tmp_path: Path) -> None:
    class Evil(Maps):
        def comms(self, pids: Any) -> dict[int, bytes]:
            return dict.fromkeys(pids, b"a\x1b[2J\n\xff%s")

    row = {**every_row(3), "name": b"%d\x9b\\\r\xe9\0\0", "path": "é\u2028\x00tail".encode()}
    path = one_block(tmp_path, [(5, 9, 0, 0, EVERY_ID, row)] * 2, maps=Evil())
    for line in show(path)[1]:
        assert line.startswith(r"a\x1b\x5b2J\x0a\xff%s-9 [000] 0.000000005: made:every: ")
        assert r" name=%d\x9b\\\x0d\xe9 path=é\u2028 list" in line
    for entry in show_json(path):
        assert entry["comm"] == "a\x1b[2J\n\\xff%s"
        assert entry["fields"]["name"] == "%d\\x9b\\\\\r\\xe9"
        assert entry["fields"]["path"] == "é\u2028"
        assert entry["escaped"] == ["common_comm", "name"]


def test_output_that_cannot_take_a_character_gets_it_escaped(tmp_path: Path) -> None:
    row = {**every_row(3), "path": "é".encode()}
    path = one_block(tmp_path, [(5, 9, 0, 0, EVERY_ID, row)])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show_paths([path], out)
    out.seek(0)
    assert r"path=\xe9 " in out.read()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"cpus": [1]}, 12),
        ({"pids": [101]}, 6),
        ({"event_globs": ["made:*"]}, 16),
        ({"event_globs": ["*:pl*n", "unknown"]}, 16),
        ({"event_globs": ["every"]}, 8),
        ({"event_globs": ["nothing:*"]}, 0),
        ({"limit": 5}, 5),
        ({"limit": 0}, 0),
        ({"since": 110_000}, 12),
        ({"since": 110_000, "until": 112_000}, 5),
        ({"until": "110000ns"}, 13),
        ({"since": "0.000110"}, 12),
        ({"cpus": [0], "pids": [100, 101], "event_globs": ["made:plain"], "until": 20_000}, 2),
    ],
)
def test_filters(tmp_path: Path, how: dict[str, Any], expected: int) -> None:
    write_run(tmp_path)
    found = show_json(tmp_path, **how)
    assert len(found) == expected
    everything = show_json(tmp_path)
    assert [e for e in everything if e in found] == found
    lines = [line for line in show(tmp_path, **how)[1] if "LOST" not in line]
    if "limit" not in how:  # of lines, and a gap is one
        assert len(lines) == expected


def test_wall_time_goes_through_the_clock_pairs(tmp_path: Path) -> None:
    write_run(tmp_path)  # trace 10000 was CREATED_NS, 2023-11-14T22:13:20.123456789Z
    assert len(show_json(tmp_path, since="2023-11-14T22:13:20.1235Z")) == 12
    assert len(show_json(tmp_path, until="2023-11-14T23:13:20.123500+01:00")) == 12
    assert len(show_json(tmp_path, since="2023-11-14 22:13:21+00:00")) == 0
    assert parse_moment("2023-11-14T22:13:20.123456Z") == Moment(
        CREATED_NS - 789, "wall", "2023-11-14T22:13:20.123456Z"
    )


def test_clocks_that_are_not_nanoseconds_say_so_and_have_no_wall_time(tmp_path: Path) -> None:
    path = one_block(tmp_path, make_rows(1, 1, 12345), unit="count")
    (entry,) = show_json(path)
    assert (entry["ts_ns"], entry["clock"]) == (12345, "mono")
    assert show(path)[1] == ["task-101-101 [000] 12345: made:plain: value=-4"]
    assert len(show_json(path, since=12345)) == 1
    for text in ("1.5", "2023-11-14T22:13:20Z"):
        with pytest.raises(UsageError, match="not count nanoseconds"):
            show_json(path, since=text)


def test_bad_requests_are_told(tmp_path: Path) -> None:
    path = one_block(tmp_path, make_rows(0, 3, 5))
    with pytest.raises(UsageError, match="not a point in time"):
        show(path, since="yesterday")
    with pytest.raises(UsageError, match="relates to wall time"):
        show(path, since="2023-11-14T22:13:20Z")
    with pytest.raises(UsageError, match="unknown format"):
        show(path, format="xml")
    with pytest.raises(UsageError, match="no such file"):
        show(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match="no segment"):
        show(tmp_path / "empty")


def test_instances_are_told_apart_where_there_are_several(tmp_path: Path) -> None:
    of = header(0, {("main", 0): Totals(), ("other", 0): Totals()})
    writer = SegmentWriter.create(tmp_path, of)
    for name in ("main", "other"):
        writer.write_block(build_block(make_rows(1, 1, 100), stream=(name, 0)), Maps())
    path = writer.seal({}, "shutdown", True)
    assert [e["instance"] for e in show_json(path)] == ["main", "other"]
    assert show(path)[1][1] == "task-101-101 [000] other 0.000000100: made:plain: value=-4"


def test_entries_of_one_time_keep_the_order_of_the_ring(tmp_path: Path) -> None:
    rows = [(100, 1, 0, 0, PLAIN_ID, at) for at in range(50)]
    path = one_block(tmp_path, rows)
    assert [e["fields"]["value"] for e in show_json(path)] == list(range(50))


def test_more_segments_than_may_be_open_at_a_time(tmp_path: Path) -> None:
    write_run(tmp_path, segments=20)
    before = len(os.listdir("/proc/self/fd"))
    assert len(show_json(tmp_path)) == 480
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    write_run(tmp_path, entries=600, blocks=8)
    code = (
        "import sys, pathlib; from collector.show.show import show_paths; "
        "shown = show_paths([pathlib.Path(sys.argv[1])], sys.stdout); sys.exit(0 if shown.closed else 3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")
