"""What earlier builds have written is read as it was."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from collector.archive.reader import list_segments
from collector.archive.verify import verify_archive
from collector.cli import main
from sinks.forward.records import RecordBuilder
from tests.archives.reading import read_archive, read_config, read_spool
from tests.read.slow_rows import SlowRows
from tests.sinks.parcels import parcels_of

FOLDERS = sorted(path for path in Path(__file__).parent.iterdir() if (path / "archive.json").exists())


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def expected(folder: Path, what: str) -> Any:
    return json.loads((folder / f"{what}.json").read_text())


def as_json(found: object) -> Any:
    return json.loads(json.dumps(found))


def contains(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; a table may have more keys."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and contains(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted)


def test_there_is_something_to_read() -> None:
    assert FOLDERS
    records = [record for of in expected(FOLDERS[0], "archive") for record in of["records"]]
    assert {record["kind"] for record in records} >= {"HEADER", "OBJECT", "BLOCK", "SAMPLE", "FOOTER"}
    assert any(record.get("gaps") for record in records)


def test_an_archive_has_what_it_had(folder: Path) -> None:
    assert as_json(read_archive(folder / "archive")) == expected(folder, "archive")


def test_an_archive_verifies(folder: Path) -> None:
    report = verify_archive([folder / "archive"])
    assert report.problems == []
    blocks = [record for of in expected(folder, "archive") for record in of["records"] if record["kind"] == "BLOCK"]
    assert (report.blocks, report.events) == (len(blocks), sum(record["entries"] for record in blocks))


def test_an_archive_is_shown_to_its_last_entry(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(folder / "archive"), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    blocks = [record for of in expected(folder, "archive") for record in of["records"] if record["kind"] == "BLOCK"]
    assert sum("event" in json.loads(line) for line in lines) == sum(record["entries"] for record in blocks)


def test_the_native_reader_reads_it_as_the_slow_one(folder: Path) -> None:
    for path in list_segments([folder / "archive"]):
        fast, slow = RecordBuilder(1 << 20), SlowRows()
        for parcel in parcels_of(path):
            unpacker = msgpack.Unpacker(max_buffer_size=1 << 26)
            for piece in fast.take(parcel, 0):
                unpacker.feed(piece.data)
            assert list(unpacker) == [msgpack.unpackb(msgpack.packb(row)) for row in slow.take(parcel, 0)]


def test_a_spool_gives_what_it_gave(folder: Path, tmp_path: Path) -> None:
    assert as_json(read_spool(folder / "spool", tmp_path / "spool")) == expected(folder, "spool")


def test_a_configuration_means_what_it_meant(folder: Path) -> None:
    assert contains(as_json(read_config(folder / "config.toml")), expected(folder, "config"))
