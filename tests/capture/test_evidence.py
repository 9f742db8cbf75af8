"""Malformed pages are kept, but never many, and never at the stream's expense."""

from pathlib import Path

import pytest

from collector.batch import StreamKey
from collector.capture.evidence import FOLDER, MOST_FILES, Evidence

KEY = StreamKey(bytes.fromhex("00112233445566778899aabbccddeeff"), "inst", 3)


def test_page_is_kept_under_a_name_that_says_where_it_comes_from(tmp_path: Path) -> None:
    Evidence(tmp_path).keep(KEY, "commit", b"page")
    (path,) = (tmp_path / FOLDER).iterdir()
    assert path.name.startswith("00112233-inst-cpu3-commit-")
    assert path.read_bytes() == b"page"


def test_no_more_than_so_many_are_kept_over_all_runs(tmp_path: Path) -> None:
    for run in (b"a" * 16, b"b" * 16):
        evidence = Evidence(tmp_path)
        for i in range(MOST_FILES - 3):
            evidence.keep(StreamKey(run, "inst", i), "commit", b"page")
    assert len(list((tmp_path / FOLDER).iterdir())) == MOST_FILES


def test_folder_that_cannot_be_written_is_a_warning_and_the_page_is_counted_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FOLDER).write_text("a file is in the way")
    Evidence(tmp_path).keep(KEY, "commit", b"page")
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert caplog.records[1].fields == {  # type: ignore[attr-defined]
        "instance": "inst", "cpu": 3, "reason": "commit", "kept": None,
    }  # fmt: skip
