"""What a sender has to bring: the records of an archive that a replay made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from collector.archive.frame import Kind, Record
from collector.archive.objects import END, build_object
from collector.archive.reader import list_segments, open_segment
from collector.cli import main
from sinks.contract.base import Parcel
from sinks.wire.messages import parse_parcel

CASE = "6.18/mix"


@pytest.fixture(scope="session")
def archive(recorded_case: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that a replay makes."""
    folder = tmp_path_factory.mktemp("sent") / "archive"
    config = folder.parent / "config.toml"
    config.write_text("[capture]\nblock_bytes = 65536\n")
    assert main(["run", "-c", str(config), "--replay", str(recorded_case(CASE)), "--output", str(folder), "-q"]) == 0
    return folder


@pytest.fixture(scope="session")
def parcels(archive: Path) -> list[Parcel]:
    """What a sender of that archive has to bring."""
    found = []
    for path in list_segments([archive]):
        with open_segment(path) as segment:
            for record in segment.records():
                assert isinstance(record, Record)
                if record.kind <= Kind.SAMPLE:
                    found.append(parse_parcel(record))
    run = found[0].run
    return [*found, Parcel(Kind.OBJECT, build_object(END, {"run": run})[1], run)]
