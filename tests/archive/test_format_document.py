"""docs/segment-format.md and the reader beside it say what the product does."""

import re
import subprocess
import sys
from pathlib import Path

from collector.archive.block import decode_block
from collector.archive.bodies import BlockHead, parse_block
from collector.archive.columns import Budget, decode_array, decode_fixed, decode_integers, decode_variable
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind, Record, build_record, build_trailer, scan_bytes
from collector.archive.reader import open_segment
from collector.archive.verify import verify_paths
from tests.archive.encoder import write_run

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "segment-format.md").read_text()


def vector(name: str) -> bytes:
    """The hex block that follows `<!-- name -->` in the document."""
    found = re.search(rf"<!-- {name} -->\n+```\n(.*?)```", TEXT, re.DOTALL)
    assert found, name
    return bytes.fromhex(re.sub(r"#.*", "", found[1]))


def expected_lines(path: Path) -> list[str]:
    """What the 40-line reader must print, by the product's reader."""
    lines = []
    with open_segment(path) as segment:
        for record in segment.blocks():
            for e in decode_block(record.body, segment.formats).entries():
                name = e.format.full_name
                lines.append(f"{e.ts} {e.cpu} {e.flags} {e.preempt_count} {e.pid} {name} {e.fields}")
    return lines


def test_the_reader_has_40_lines_and_prints_every_entry(tmp_path: Path) -> None:
    reader = DOCS / "segment_reader.py"
    assert len(reader.read_text().splitlines()) <= 40
    paths = write_run(tmp_path, segments=2, blocks=3, entries=30)
    run = subprocess.run([sys.executable, reader, *paths], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [line for path in paths for line in expected_lines(path)]


def test_the_reader_stops_at_damage(tmp_path: Path) -> None:
    (path,) = write_run(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    run = subprocess.run([sys.executable, DOCS / "segment_reader.py", path], capture_output=True, text=True)
    assert run.returncode != 0


def test_the_documented_segment_is_whole_and_holds_the_documented_entries(tmp_path: Path) -> None:
    path = tmp_path / "vector.ftseg"
    path.write_bytes(vector("segment"))
    assert verify_paths([path]) == []
    run = subprocess.run([sys.executable, DOCS / "segment_reader.py", path], capture_output=True, text=True, check=True)
    found = re.search(r"<!-- entries -->\n+```\n(.*?)```", TEXT, re.DOTALL)
    assert found
    assert run.stdout == found[1]
    assert run.stdout.splitlines() == expected_lines(path)


def test_the_documented_records_are_built_to_the_byte() -> None:
    assert build_record(Kind.GAP, b"\x80") == vector("record")
    assert build_trailer(0x1234, 0x56) == vector("trailer")


def test_the_documented_segment_is_what_its_records_encode_to() -> None:
    data = vector("segment")
    records = [r for r in scan_bytes(data) if isinstance(r, Record)]
    assert [r.kind for r in records] == [1, 2, 2, 3, 6, 7, 8]
    for record in records[:-1]:
        body = pack(unpack(record.body, "body"))
        assert build_record(record.kind, body) == data[record.offset : record.end]
    assert isinstance(parse_block(records[3].body), BlockHead)


def test_the_documented_columns_decode_to_the_documented_values() -> None:
    rows = re.findall(r"^\| `([0-9a-f ]+)` \| ([a-z]+)\((.*?)\) \| `(.*?)` \|$", TEXT, re.MULTILINE)
    assert len(rows) >= 8
    for hexed, kind, how, values in rows:
        column = unpack(bytes.fromhex(hexed), "column")
        numbers = [int(word) for word in re.findall(r"-?\d+", how)]
        signed = "signed" in how and "unsigned" not in how
        n, size = numbers[0], numbers[1] if len(numbers) > 1 else 0
        if kind == "int":
            found: object = list(decode_integers(column, n, size, signed, Budget()))
        elif kind == "array":
            found = list(decode_array(column, n, size, signed, numbers[2], Budget()))
        elif kind == "chars":
            found = list(decode_fixed(column, n, size, Budget()))
        else:
            found = list(decode_variable(column, n, Budget()))
        assert repr(found) == values
