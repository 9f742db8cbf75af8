"""The writer: what a segment carries, how it is sealed, and what a failing disk does to it."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.archive import disk
from collector.archive.fields import pack
from collector.archive.frame import Kind, Record
from collector.archive.objects import parse_object
from collector.archive.reader import list_segments, open_segment
from collector.archive.segment import SegmentWriter
from collector.archive.totals import Totals
from collector.archive.verify import verify_paths
from collector.errors import ArchiveError, ArchiveFullError, UsageError
from tests.archive.encoder import RUN, Maps, build_block, header, ledger, make_rows, write_run
from tests.faults import failing

STREAM = ("main", 0)


def kinds(path: Path) -> list[int]:
    with open_segment(path) as segment:
        return [r.kind for r in segment.records() if isinstance(r, Record)]


def test_a_segment_has_its_objects_before_their_first_use_and_once(tmp_path: Path) -> None:
    maps = Maps()
    writer = SegmentWriter.create(tmp_path, header())
    for number in range(2):
        writer.write_block(build_block(make_rows(0, 6, 100), number=number, ordinal=6 * number), maps)
    path = writer.seal({}, "shutdown", False)
    assert kinds(path) == [1, 2, 2, 2, 2, 2, 3, 3, 7, 8]  # three formats, symbols, comms
    with open_segment(path) as segment:
        types = [stored.type for _, stored in segment.objects()]
    assert types[-2:] == ["symbols", "comms"]
    assert sorted(maps.asked) == [100, 101, 102, 103]  # names are asked for once a segment


def test_large_objects_are_compressed_and_keep_their_id(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header())
    key = writer.write_object("printk", {address: f"text {address}" for address in range(100)})
    assert writer.write_object("printk", {address: f"text {address}" for address in range(100)}) == key
    writer.abandon()
    with open_segment(writer.path) as segment:
        ((offset, stored),) = segment.objects()
        record = segment.record_at(offset)
        assert isinstance(record, Record)
        assert len(record.body) < 600
        assert parse_object(record.body).id == stored.id == key


def test_modes_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "archive"
    writer = SegmentWriter.create(folder, header(7))
    assert writer.path.name == "20231114T221327.123456Z-00010203-000007.ftseg.part"
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o640
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    path = writer.seal({}, "shutdown", True)
    assert path.name == "20231114T221327.123456Z-00010203-000007.ftseg"
    assert list_segments([folder]) == [path]


def test_sealing_gives_the_next_opening(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header(0, {STREAM: Totals()}))
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    writer.seal({STREAM: ledger(6, 1, 4096)}, "size", False)
    assert writer.closing == {STREAM: ledger(6, 1, 4096)}


def test_totals_of_another_moment_leave_the_segment_unsettled(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header(0, {STREAM: Totals()}))
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    writer.seal({STREAM: ledger(9, 2, 8192)}, "size", False)
    closing = writer.closing[STREAM]
    assert (closing.events, closing.blocks, closing.read) == (6, 1, 9)
    assert (closing.settled, closing.residual) == (False, None)


def test_discarded_entries_are_accounted_as_skipped(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header(0, {STREAM: Totals()}))
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    writer.write_record(Kind.GAP, {
        "run": RUN, "inst": "main", "cpu": 0, "cause": "discarded", "count": 4, "from_ts": 200, "to_ts": 300,
        "detail": "no room",
    })  # fmt: skip
    writer.write_block(build_block(make_rows(0, 3, 9_000), number=2, ordinal=10), Maps())
    path = writer.seal({STREAM: ledger(13, 3, 9000)}, "size", False)
    closing = writer.closing[STREAM]
    assert (closing.events, closing.skipped, closing.residual) == (9, {"discarded": 4}, 0)
    second = SegmentWriter.create(tmp_path, header(1, writer.closing))
    second.write_block(build_block(make_rows(0, 1, 99_000), number=3, ordinal=13), Maps())
    second.seal({STREAM: ledger(14, 4, 99000)}, "shutdown", True)
    assert second.closing[STREAM].settled
    assert verify_paths([path.parent]) == []


def test_a_sealed_segment_is_never_replaced(tmp_path: Path) -> None:
    first = SegmentWriter.create(tmp_path, header()).seal({}, "shutdown", True)
    whole = first.read_bytes()
    second = SegmentWriter.create(tmp_path, header())
    with pytest.raises(ArchiveError, match="exists already"):
        second.seal({}, "size", False)
    assert first.read_bytes() == whole
    assert kinds(second.path) == [1]


def test_two_writers_of_one_segment_are_refused(tmp_path: Path) -> None:
    SegmentWriter.create(tmp_path, header())
    with pytest.raises(ArchiveError, match="open already"):
        SegmentWriter.create(tmp_path, header())


Write = Callable[[int, list[memoryview]], int]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None, int], None]:
    """Makes the disk take so many more bytes only; None: all."""
    left: list[int | None] = [None]
    code = [errno.ENOSPC]
    real: Write = os.writev  # type: ignore[assignment]

    def writev(fd: int, parts: list[memoryview]) -> int:
        room = left[0]
        if room is None:
            return real(fd, parts)
        if room == 0:
            raise OSError(code[0], os.strerror(code[0]))
        joined = b"".join(parts)[:room]
        left[0] = max(room - len(joined), 0)
        return real(fd, [memoryview(joined)])

    monkeypatch.setattr(os, "writev", writev)

    def set_room(size: int | None, error: int = errno.ENOSPC) -> None:
        left[0], code[0] = size, error

    return set_room


@pytest.mark.parametrize("room", [0, 1, 13, 200, 400])
def test_a_full_disk_leaves_the_file_whole_and_can_be_tried_again(
    tmp_path: Path, full_disk: Callable[[int | None], None], room: int
) -> None:
    writer = SegmentWriter.create(tmp_path, header(0, {STREAM: Totals()}))
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    size = writer.size_bytes
    block = build_block([(9_000 + at, 500 + at, 0, 0, *make_rows(0, 1, 0)[0][4:]) for at in range(40)], number=1,
                        ordinal=6)  # fmt: skip
    full_disk(room)
    with pytest.raises(ArchiveFullError, match=r"No space left.*free space") as caught:
        writer.write_block(block, Maps())
    assert str(writer.path) in str(caught.value)
    assert writer.path.stat().st_size == writer.size_bytes >= size
    with pytest.raises(ArchiveFullError):
        writer.seal({}, "size", False)
    assert writer.path.stat().st_size == writer.size_bytes
    full_disk(None)
    writer.write_block(block, Maps())
    path = writer.seal({STREAM: ledger(46, 2, 8192)}, "shutdown", True)
    assert verify_paths([path]) == []


def test_a_file_that_cannot_be_cut_back_is_cut_before_the_next_write(
    tmp_path: Path, full_disk: Callable[[int | None], None]
) -> None:
    writer = SegmentWriter.create(tmp_path, header(0, {STREAM: Totals()}))
    with failing(os, "ftruncate", code=errno.EIO):
        full_disk(30)
        with pytest.raises(ArchiveFullError):
            writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
        full_disk(None)
        with pytest.raises(ArchiveFullError):
            writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    assert verify_paths([writer.seal({STREAM: ledger(6, 1, 4096)}, "shutdown", True)]) == []


def test_a_header_that_does_not_fit_leaves_no_file(tmp_path: Path, full_disk: Callable[[int | None], None]) -> None:
    full_disk(20)
    with pytest.raises(ArchiveFullError):
        SegmentWriter.create(tmp_path, header())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_removed_while_writing_is_told_at_the_next_sync(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "archive"
    writer = SegmentWriter.create(folder, header())
    writer.sync()
    assert writer.unsynced_bytes == 0
    shutil.rmtree(folder)
    writer.write_block(build_block(make_rows(0, 6, 100)), Maps())
    with pytest.raises(ArchiveFullError, match="the folder is gone"):
        writer.sync()
    with pytest.raises(ArchiveFullError, match="the folder is gone"):
        writer.seal({}, "shutdown", True)


def test_a_rename_that_is_not_durable_yet_is_only_synced_again(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, header())
    with failing(disk, "fsync_folder", code=errno.EIO), pytest.raises(ArchiveFullError, match="Input/output error"):
        writer.seal({}, "shutdown", True)
    path = writer.seal({}, "shutdown", True)
    assert verify_paths([path]) == []


def test_paths_that_hold_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        list_segments([tmp_path / "nowhere"])
    with pytest.raises(ArchiveError, match="no segment in this folder"):
        list_segments([tmp_path])


def test_a_part_that_was_sealed_since_it_was_listed_is_opened(tmp_path: Path) -> None:
    (path,) = write_run(tmp_path)
    with open_segment(path.with_name(path.name + ".part")) as segment:
        assert segment.footer is not None


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    of: dict[str, Any] = {**header(), "host": text}
    writer = SegmentWriter.create(tmp_path, of)
    writer.abandon()
    with open_segment(writer.path) as segment:
        assert segment.header is not None
        assert segment.header.host == text
    assert pack(text) == b"\xa4caf\xe9"
