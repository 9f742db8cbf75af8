"""`run --replay` of each recorded kernel against the slow decoder: the archive's entries, fields, gaps and errors."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collector.archive.block import decode_block
from collector.archive.reader import list_segments, open_segment
from collector.archive.verify import verify_paths
from collector.cli import main
from tests import reference
from tests.conftest import RECORDED_CASES

# (ts, event id, flags, preempt count, pid, {field: value} or the whole record)
Row = tuple[int, int, int, int, int, Any]


@dataclass
class Archived:
    """What an archive holds of one CPU."""

    rows: list[Row] = field(default_factory=list)
    gaps: list[tuple[int, int | None]] = field(default_factory=list)
    decode_errors: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, int] = field(default_factory=dict)


def read_archive(folder: Path) -> dict[int, Archived]:
    found: dict[int, Archived] = {}
    for path in list_segments([folder]):
        with open_segment(path) as segment:
            for record in segment.blocks():
                block = decode_block(record.body, segment.formats)
                cpu = found.setdefault(block.head.stream[1], Archived())
                assert block.head.ordinal == len(cpu.rows)
                cpu.gaps += [(len(cpu.rows) + gap.at, gap.lost) for gap in block.head.gaps]
                for e in block.entries():
                    values = [column[e.row] for column in e.kind.columns]
                    names = [f.name for f in e.format.columns]
                    fields = values[0] if e.mode else dict(zip(names, values, strict=True))
                    cpu.rows.append((e.ts, e.format.event_id, e.flags, e.preempt_count, e.pid, fields))
            assert segment.footer is not None
            for stream in segment.footer.streams:
                cpu = found.setdefault(stream.stream[1], Archived())
                cpu.decode_errors = Counter(dict(stream.closing.decode_errors))
                cpu.skipped = dict(stream.closing.skipped)
    return found


def replay(case: Path, output: Path) -> dict[int, Archived]:
    assert main(["run", "--replay", str(case), "--output", str(output)]) == 0
    return read_archive(output)


def assert_same(case: Path, archived: dict[int, Archived]) -> None:
    layout, formats, pages = reference.read_case(case)
    for cpu, data in pages.items():
        want = reference.decode_pages(data, layout, formats)
        have = archived.get(cpu, Archived())
        rows = [(e.ts, e.id, e.flags, e.preempt_count, e.pid, e.record if e.fields is None else e.fields)
                for e in want.entries]  # fmt: skip
        for index, (mine, theirs) in enumerate(zip(have.rows, rows, strict=False)):
            assert mine == theirs, f"cpu {cpu}, entry {index}"
        assert len(have.rows) == len(rows), f"cpu {cpu}"
        assert have.gaps == want.gaps, f"cpu {cpu}"
        assert have.decode_errors == Counter(reason for _, reason in want.malformed), f"cpu {cpu}"
        assert have.skipped.get("short", 0) == want.skipped["short"], f"cpu {cpu}"


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_replay_gives_every_field_of_every_entry(
    name: str, recorded_case: Callable[[str], Path], tmp_path: Path
) -> None:
    case = recorded_case(name)
    assert_same(case, replay(case, tmp_path / "archive"))
    assert verify_paths([tmp_path / "archive"]) == []


@pytest.mark.parametrize("name", ["6.1/events", "6.12/events_subbuf16", "6.18/lost", "6.18/mix"])
def test_replay_passes_over_malformed_pages(name: str, recorded_case: Callable[[str], Path], tmp_path: Path) -> None:
    """Every third page is damaged, in turn in one of the ways that a page can be malformed."""
    case = tmp_path / "case"
    shutil.copytree(recorded_case(name), case)
    layout, _, pages = reference.read_case(case)
    for cpu, data in pages.items():
        damaged = bytearray(data)
        for number, at in enumerate(range(0, len(data), 3 * layout.subbuf_size)):
            commit = at + layout.commit_offset
            first = at + layout.data_offset
            low = int.from_bytes(data[commit : commit + 4], "little")
            if number % 3 == 0:
                damaged[commit : commit + 4] = (low & 3 << 30 | layout.data_size + 4).to_bytes(4, "little")
            elif number % 3 == 1 and not low >> 31:  # with another length a stored count would be read elsewhere
                damaged[commit : commit + 4] = (low - 8).to_bytes(4, "little")
            else:  # an event that says that it is longer than the page
                damaged[first : first + 8] = bytes(4) + (1 << 20).to_bytes(4, "little")
        (case / f"tracefs/per_cpu/cpu{cpu}/trace_pipe_raw").write_bytes(damaged)
    archived = replay(case, tmp_path / "archive")
    assert sum(a.decode_errors.total() for a in archived.values()) > 0
    assert_same(case, archived)
    assert all("malformed sub-buffers" in problem.what or "residual" in problem.what
               for problem in verify_paths([tmp_path / "archive"]))  # fmt: skip
