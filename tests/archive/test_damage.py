"""Damage of every place and kind: each flipped bit and each cut is found, what is good is still read."""

import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from collector.archive.block import decode_block
from collector.archive.frame import Damage
from collector.archive.info import summarise
from collector.archive.objects import FormatObject
from collector.archive.reader import open_segment
from collector.archive.recover import recover_folder
from collector.archive.segment import SegmentWriter
from collector.archive.totals import Totals
from collector.archive.verify import verify_archive, verify_paths
from collector.errors import SegmentError
from collector.show.show import show_paths
from tests.archive.encoder import PLAIN_ID, Maps, build_block, header, ledger, write_run
from tests.memory import memory_folder

STREAM = ("main", 0)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: each recovery syncs, and there are two thousand. On a busy disk they took 11 s instead of 1."""
    with memory_folder() as folder:
        yield folder


def small_segment(folder: Path, *, seal: bool = True) -> Path:
    """The smallest segment with two blocks."""
    writer = SegmentWriter.create(folder, header(0, {STREAM: Totals()}))
    for number in range(2):
        rows = [(100 + number, 7, 0, 0, PLAIN_ID, 5)]
        writer.write_block(build_block(rows, stream=STREAM, number=number, ordinal=number, raw_bytes=64), Maps())
    if seal:
        writer.write_formats_again()
        return writer.seal({STREAM: ledger(2, 2, 128)}, "shutdown", True, 1)
    writer.sync()
    writer.abandon()
    return writer.path


def show_quietly(path: Path) -> None:
    try:
        with open(os.devnull, "w") as out:
            show_paths([path], out, format="json")
    except SegmentError:
        pass


def entries_in(path: Path) -> list[int]:
    """Times of the entries that can be read."""
    times: list[int] = []
    with open_segment(path) as segment:
        formats = tuple(segment.formats.items())
        for record in segment.blocks():
            times += times_in(bytes(record.body), formats)
    return times


@cache
def times_in(body: bytes, formats: tuple[tuple[bytes, FormatObject], ...]) -> list[int]:
    """Of a block: most damages leave what was decoded before."""
    return [entry.ts for entry in decode_block(body, dict(formats)).entries()]


def test_each_flipped_bit_is_found_and_costs_its_block_at_most(tmp_path: Path) -> None:
    path = small_segment(tmp_path)
    assert verify_paths([path]) == []
    whole = path.read_bytes()
    with open_segment(path) as segment:
        blocks = [(record.offset, record.end) for record in segment.blocks()]
    every = entries_in(path)
    assert len(every) == len(blocks) == 2  # one entry in each
    missed, lost = [], []
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes((byte ^ 1 << bit,)), at)
                if not verify_paths([path]):
                    missed.append((at, bit))
                good = [ts for ts, (start, end) in zip(every, blocks, strict=True) if not start <= at < end]
                if entries_in(path) != good:
                    lost.append((at, bit))
            os.pwrite(file.fileno(), bytes((byte,)), at)
    assert (missed, lost) == ([], [])
    assert path.read_bytes() == whole


def test_a_flipped_bit_leaves_the_rest_readable(tmp_path: Path) -> None:
    path = small_segment(tmp_path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x10,)) + whole[at + 1 :])
        with open_segment(path) as segment:
            damage = [r for r in segment.records() if isinstance(r, Damage)]
            assert len(damage) == 1
            assert damage[0].offset <= at < damage[0].end
            assert sum(1 for _ in segment.blocks()) >= 1
        show_quietly(path)
        summarise([path])


def test_each_cut_is_found(tmp_path: Path) -> None:
    path = small_segment(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole) - 1, -1, -1):
        os.truncate(path, size)
        assert verify_paths([path]), size
        show_quietly(path)


def test_bytes_behind_the_end_are_found(tmp_path: Path) -> None:
    path = small_segment(tmp_path)
    with open(path, "ab") as file:
        file.write(b"\0")
    assert verify_paths([path])


def test_a_damaged_block_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    (path,) = write_run(tmp_path)
    with open_segment(path) as segment:
        block = next(p for p in segment.places if p.kind == 3 and p.number == 1)
    data = bytearray(path.read_bytes())
    data[block.offset + 40] ^= 1
    path.write_bytes(data)
    (problem,) = verify_paths([tmp_path])
    assert problem.offset == block.offset
    assert "lost: block 1 of main CPU 0 with 6 events" in problem.what
    with open(tmp_path / "out", "w") as out:
        shown = show_paths([path], out, format="json")
    assert shown.events == 18
    assert len(shown.damaged) == 1


def test_a_flipped_length_costs_its_own_record_only(tmp_path: Path) -> None:
    (path,) = write_run(tmp_path)
    with open_segment(path) as segment:
        block = next(p for p in segment.places if p.kind == 3)
    data = bytearray(path.read_bytes())
    data[block.offset + 11] ^= 0x40
    path.write_bytes(data[:-36])  # and without the index
    with open_segment(path) as segment:
        assert sum(1 for p in segment.places if p.kind == 3) == 3


def test_recovery_of_each_cut_keeps_what_was_whole(tmp_path: Path) -> None:
    source = small_segment(tmp_path / "source", seal=False)
    whole = source.read_bytes()
    with open_segment(source) as segment:
        ends = [(r.end, r.kind) for r in segment.records() if not isinstance(r, Damage)]
    folder = tmp_path / "archive"
    folder.mkdir()
    for size in range(len(whole) + 1):
        part = folder / source.name
        part.write_bytes(whole[:size])
        assert verify_paths([folder])
        (result,) = recover_folder(folder)
        good = max((end for end, _ in ends if end <= size), default=0)
        blocks = sum(1 for end, kind in ends if end <= size and kind == 3)
        if good == 0:
            assert result.reason.startswith("quarantined")
            assert result.path.read_bytes() == whole[:size]
        else:
            assert (result.reason, result.blocks, result.events) == ("recovered", blocks, blocks)
            assert result.cut_bytes == size - good
            report = verify_archive([folder])
            assert (report.problems, report.blocks) == ([], blocks)
            assert summarise([folder])["residual"] is None
            assert recover_folder(folder) == []
        result.path.unlink()
        assert sorted(p.name for p in folder.iterdir()) == [".lock"]


def test_a_recovered_segment_has_its_formats_twice_too(tmp_path: Path) -> None:
    part = small_segment(tmp_path, seal=False)
    (result,) = recover_folder(tmp_path)
    with open_segment(result.path) as segment:
        first, second = (offset for offset, stored in segment.objects() if stored.type == "format")
    every = entries_in(result.path)
    data = bytearray(result.path.read_bytes())
    data[first + 30] ^= 1
    result.path.write_bytes(data)
    assert entries_in(result.path) == every == [100, 101]
    (problem,) = verify_paths([result.path])
    assert problem.offset == first
    result.path.rename(part)
    with open(part, "r+b") as file:
        file.truncate(second + 200)  # in the footer
    (result,) = recover_folder(tmp_path)
    assert result.blocks == 2
    assert entries_in(result.path) == every


def test_recovery_of_each_cut_inside_the_footer_keeps_or_redoes_it(tmp_path: Path) -> None:
    sealed = small_segment(tmp_path / "source")
    whole = sealed.read_bytes()
    with open_segment(sealed) as segment:
        start, footer_end = segment.footer_offset, segment.size_bytes - 36
    folder = tmp_path / "archive"
    folder.mkdir()
    for size in range(start, len(whole) + 1, 7):
        (folder / (sealed.name + ".part")).write_bytes(whole[:size])
        (result,) = recover_folder(folder)
        assert result.events == 2
        assert result.reason == ("sealed" if size >= footer_end else "recovered")
        assert verify_paths([folder]) == []
        if size >= footer_end:
            assert result.path.read_bytes() == whole
        result.path.unlink()


def part_with_a_damaged_block(folder: Path) -> tuple[int, int]:
    """A segment that is not sealed; gives (where the first block is, which is damaged, and its size)."""
    part = small_segment(folder, seal=False)
    with open_segment(part) as segment:
        block = next(p for p in segment.places if p.kind == 3)
    data = bytearray(part.read_bytes())
    data[block.offset + 30] ^= 4
    part.write_bytes(data)
    return block.offset, len(data)


def test_recovery_keeps_good_records_behind_damage(tmp_path: Path) -> None:
    at, _ = part_with_a_damaged_block(tmp_path)
    (result,) = recover_folder(tmp_path)
    assert result.blocks == 1
    assert [p.offset for p in verify_paths([tmp_path])] == [at]


def test_recovery_up_to_damage_leaves_what_is_behind_it_to_come_again(tmp_path: Path) -> None:
    at, size = part_with_a_damaged_block(tmp_path)
    (result,) = recover_folder(tmp_path, up_to_damage=True)
    assert (result.blocks, result.cut_bytes) == (0, size - at)
    assert verify_paths([tmp_path]) == []


def test_recovery_sets_aside_what_is_no_segment_and_goes_on(tmp_path: Path) -> None:
    part = small_segment(tmp_path, seal=False)
    (tmp_path / "0-empty.ftseg.part").touch()
    (tmp_path / "0-noise.ftseg.part").write_bytes(b"noise" * 100)
    (tmp_path / "0-empty.ftseg.part.bad").write_bytes(b"an earlier one")
    reasons = {r.path.name: r.reason for r in recover_folder(tmp_path)}
    assert reasons.pop(part.name.removesuffix(".part")) == "recovered"
    assert sorted(reasons) == ["0-empty.1.ftseg.part.bad", "0-noise.ftseg.part.bad"]
    assert (tmp_path / "0-empty.ftseg.part.bad").read_bytes() == b"an earlier one"
    report = verify_archive([tmp_path])
    assert report.problems == []
    assert "3 files that recovery set aside" in report.notes[-1]


def test_recovery_never_replaces_a_sealed_segment(tmp_path: Path) -> None:
    sealed = small_segment(tmp_path)
    whole = sealed.read_bytes()
    (tmp_path / (sealed.name + ".part")).write_bytes(whole[:400])
    (result,) = recover_folder(tmp_path)
    assert result.reason.startswith("quarantined")
    assert sealed.read_bytes() == whole


def test_recovery_on_a_full_disk_harms_nothing_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = small_segment(tmp_path, seal=False)
    whole = part.read_bytes()
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if len(data) < 50:  # the lock's content
            return real(fd, data, offset)
        if offset > len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:30], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    (result,) = recover_folder(tmp_path)
    assert result.reason.startswith("failed: No space left")
    assert part.read_bytes()[: len(whole)] == whole
    monkeypatch.setattr(os, "pwrite", real)
    (result,) = recover_folder(tmp_path)
    assert (result.reason, result.blocks) == ("recovered", 2)
    assert verify_paths([tmp_path]) == []


def test_a_file_of_another_kind_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.ftseg"
    path.write_bytes(b"GIF89a" * 50)
    with pytest.raises(SegmentError, match="no record in this file can be read"):
        open_segment(path)
    with open(os.devnull, "w") as out, pytest.raises(SegmentError):
        show_paths([path], out)
    (problem,) = verify_paths([path])
    assert "no record" in problem.what
    assert summarise([path])["damaged"]
