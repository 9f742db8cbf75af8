"""What verify and info say of archives whose bytes are whole."""

from dataclasses import replace
from pathlib import Path

import pytest

from collector.archive.info import format_table, summarise
from collector.archive.lock import ArchiveLock, is_locked
from collector.archive.recover import recover_folder
from collector.archive.segment import SegmentWriter
from collector.archive.totals import Totals
from collector.archive.verify import check_identities, verify_archive, verify_paths
from collector.errors import ArchiveError, ArchiveLockedError, UsageError
from tests.archive.encoder import Maps, build_block, header, ledger, make_rows, write_run

STREAM = ("main", 0)


def one_block(folder: Path, closing: Totals, *, number: int = 0, ordinal: int = 0) -> Path:
    writer = SegmentWriter.create(folder, header(0, {STREAM: Totals()}))
    writer.write_block(build_block(make_rows(0, 6, 100), number=number, ordinal=ordinal), Maps())
    return writer.seal({STREAM: closing}, "shutdown", True)


def whats(*paths: Path) -> str:
    return "\n".join(p.what for p in verify_paths(paths))


def test_a_run_that_adds_up_has_no_problem(tmp_path: Path) -> None:
    write_run(tmp_path, segments=3)
    report = verify_archive([tmp_path])
    assert (report.problems, report.notes) == ([], [])
    assert (report.segments, report.blocks, report.events) == (3, 12, 72)


def test_info_gives_the_sums_of_the_footers(tmp_path: Path) -> None:
    paths = write_run(tmp_path, segments=2)
    info = summarise([tmp_path])
    assert info["events"] == 48
    assert info["by_event"] == {"made:every": 16, "made:plain": 16, "unknown:999": 16}
    assert (info["gaps"], info["gap_known_events"], info["unknown_gaps"]) == (8, 12, 4)
    assert info["lost_events"] == 12 + 4 * 5
    assert (info["residual"], info["segments"], info["raw_bytes"]) == (0, 2, 8 * 4096)
    assert info["archive_bytes"] == sum(p.stat().st_size for p in paths)
    assert (info["first_ts_ns"], info["last_ts_ns"]) == (10_000, 315_500)
    assert [(s["instance"], s["cpu"], s["events"], s["lost_events"]) for s in info["streams"]] == [
        ("main", 0, 24, 16),
        ("main", 1, 24, 16),
    ]
    assert info["damaged"] == []
    table = format_table(info)
    assert "events       48" in table
    assert "made:every" in table


def test_info_reads_an_open_segment_and_says_that_it_is_unsettled(tmp_path: Path) -> None:
    write_run(tmp_path, segments=2, seal_last=False)
    with ArchiveLock(tmp_path):
        info = summarise([tmp_path])
        assert verify_paths([tmp_path]) == []
        assert "being written" in verify_archive([tmp_path]).notes[0]
    assert (info["events"], info["gaps"], info["lost_events"], info["residual"]) == (48, 8, 32, None)
    assert info["damaged"] == []
    assert "unsettled" in format_table(info)


def test_a_stale_open_segment_is_a_problem_that_recover_solves(tmp_path: Path) -> None:
    write_run(tmp_path, segments=2, seal_last=False)
    assert "run `recover`" in whats(tmp_path)
    assert [r.reason for r in recover_folder(tmp_path)] == ["recovered"]
    report = verify_archive([tmp_path])
    assert report.problems == []
    assert "crash" in report.notes[0]
    info = summarise([tmp_path])
    assert (info["events"], info["lost_events"], info["residual"]) == (48, 32, None)


def test_recovery_waits_for_nobody(tmp_path: Path) -> None:
    write_run(tmp_path, seal_last=False)
    with ArchiveLock(tmp_path):
        with pytest.raises(ArchiveLockedError, match="held by process"):
            recover_folder(tmp_path)
        assert is_locked(tmp_path)
        assert len(recover_folder(tmp_path, holds_lock=True)) == 1
    assert not is_locked(tmp_path)


def test_segments_dropped_at_the_start_are_retention_and_in_the_middle_are_missing(tmp_path: Path) -> None:
    paths = write_run(tmp_path, segments=4)
    paths[0].unlink()
    assert verify_paths([tmp_path]) == []
    assert summarise([tmp_path])["events"] == 72
    paths[2].unlink()
    assert "segment 2 of its run is missing" in whats(tmp_path)


def test_a_missing_end_is_told_and_recover_closes_the_run(tmp_path: Path) -> None:
    paths = write_run(tmp_path, segments=3)
    paths[2].unlink()
    assert "its run does not end here" in whats(tmp_path)
    assert verify_paths(paths[:2]) == []  # segments named themselves need not be all
    (closed,) = recover_folder(tmp_path)
    assert closed.path.name > paths[1].name
    assert verify_paths([tmp_path]) == []
    assert summarise([tmp_path])["residual"] is None
    assert recover_folder(tmp_path) == []


def test_segments_that_do_not_join_are_told(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header(0, {STREAM: Totals()}))
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    writer.seal({STREAM: ledger(6, 1, 4096)}, "size", False)
    wrong = replace(writer.closing[STREAM], overrun=3)
    SegmentWriter.create(tmp_path, header(1, {STREAM: wrong})).seal({STREAM: wrong}, "shutdown", True)
    assert "opens with other totals" in whats(tmp_path)


def test_the_same_segment_twice_is_told(tmp_path: Path) -> None:
    (path,) = write_run(tmp_path)
    (tmp_path / ("2" + path.name)).write_bytes(path.read_bytes())
    assert "the same segment" in whats(tmp_path)


def test_holes_in_a_stream_are_told(tmp_path: Path) -> None:
    one_block(tmp_path / "a", ledger(6, 1, 4096), ordinal=1)
    one_block(tmp_path / "b", ledger(6, 1, 4096), number=1)
    assert "begins at entry 1; expected block 0 at entry 0" in whats(tmp_path / "a")
    assert "block 1 begins at entry 0; expected block 0" in whats(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"residual": 2}, "residual 2, must be 0"),
        ({"read": 7}, "handed out 7 entries, 6 are accounted for"),
        ({"overrun": 1}, "overwrote 1 entries"),
        ({"read": 9, "unexplained": 3, "residual": 3}, "3 entries unexplained"),
        ({"read": 9, "unexplained": 3}, "3 entries unexplained"),  # nothing else is wrong
        # As it was called before: what is in no block balanced.
        ({"read": 9, "skipped": {"malformed": 3}}, "3 entries unexplained"),
        ({"settled": False, "residual": None, "read": 99}, ""),
    ],
)
def test_a_ledger_that_does_not_add_up_is_told(tmp_path: Path, change: dict[str, object], told: str) -> None:
    one_block(tmp_path, replace(ledger(6, 1, 4096), **change))  # type: ignore[arg-type]
    found = whats(tmp_path)
    assert told in found
    assert bool(found) == bool(told)


def test_gaps_without_a_count_may_hold_the_rest_of_the_overrun() -> None:
    assert check_identities(ledger(6, 1, 4096, gaps=2, known=3, unknown=1)) == []
    assert check_identities(replace(ledger(6, 1, 4096, gaps=2, known=3, unknown=1), overrun=2)) != []


def test_paths_that_hold_nothing_are_told(tmp_path: Path) -> None:
    for function in (verify_paths, summarise):
        with pytest.raises(UsageError, match="no such file"):
            function([tmp_path / "nowhere"])
        with pytest.raises(ArchiveError, match="no segment in this folder"):
            function([tmp_path])
    with pytest.raises(ArchiveError, match="no such folder"):
        recover_folder(tmp_path / "nowhere")


def test_two_runs_in_one_folder_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path, run=bytes(range(16)))
    write_run(tmp_path, run=bytes(range(1, 17)), seal_last=False)
    recover_folder(tmp_path)
    assert verify_paths([tmp_path]) == []
    info = summarise([tmp_path])
    assert [run["ended"] for run in info["runs"]] == ["shutdown", "recovered"]
    assert info["residual"] is None
    assert len(info["streams"]) == 4
