"""Topics read back into an archive's folder: all that is complete, or nothing; and never twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from collector.archive.frame import Kind
from collector.archive.lock import ArchiveLock
from collector.archive.verify import verify_paths
from collector.batch import Delivery
from collector.errors import ArchiveError, ArchiveLockedError
from sinks.contract.base import Parcel, SinkContext
from sinks.kafka import consume
from sinks.kafka.consume import Rebuilt, rebuild_archive
from sinks.kafka.sink import KafkaConfig, build
from tests.archive.encoder import CREATED_NS, RUN
from tests.sinks.kafka.brokers import SILENT, mock_cluster
from tests.sinks.made import counts_of, make_segment
from tests.sinks.parcels import parcels_of

pytestmark = pytest.mark.network

OTHER = b"\x77" * 16
ALL = {"made:every": 100, "made:plain": 100}


@pytest.fixture
def cluster() -> Iterator[str]:
    with mock_cluster() as address:
        yield address


def deliver(address: str, parcels: list[Parcel]) -> None:
    async def run() -> None:
        settings = {"type": "kafka", "brokers": (address,), "request_timeout_s": 20.0}
        sink = build(KafkaConfig.model_validate(settings), SinkContext("h", "1"))
        async with trio.open_nursery() as nursery:
            await nursery.start(sink.run)
            assert await sink.deliver(parcels) is Delivery.DELIVERED
            nursery.cancel_scope.cancel()

    trio.run(run)


def rebuild(address: str, folder: Path) -> Rebuilt:
    return rebuild_archive({"bootstrap.servers": address, "logger": SILENT}, ("ftrace-maps", "ftrace"), folder)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_run_whose_header_has_expired_spoils_no_other(cluster: str, tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path / "a"))
    deliver(cluster, parcels)
    other = parcels_of(make_segment(tmp_path / "a", run=OTHER, created_ns=CREATED_NS + 10**12))
    deliver(cluster, [parcel for parcel in other if parcel.kind is not Kind.HEADER])
    found = rebuild(cluster, tmp_path / "b")
    assert found.headless == (OTHER.hex(),)
    assert (found.duplicates, found.foreign, found.broken) == (0, 0, 0)
    assert [path.name for path in found.segments] == names_in(tmp_path / "b")
    assert counts_of(tmp_path / "b") == ALL


def test_a_folder_that_has_a_run_is_refused_and_stays_as_it_is(cluster: str, tmp_path: Path) -> None:
    deliver(cluster, parcels_of(make_segment(tmp_path / "a")))
    (path,) = rebuild(cluster, tmp_path / "b").segments
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match="has segments of a run") as error:
        rebuild(cluster, tmp_path / "b")
    assert RUN.hex() in str(error.value)
    assert names_in(tmp_path / "b") == [path.name]
    assert path.read_bytes() == before


def test_runs_of_others_in_the_folder_do_not_matter(cluster: str, tmp_path: Path) -> None:
    make_segment(tmp_path / "b", run=OTHER, created_ns=CREATED_NS + 10**12)
    deliver(cluster, parcels_of(make_segment(tmp_path / "a")))
    assert len(rebuild(cluster, tmp_path / "b").segments) == 1
    assert sum(counts_of(tmp_path / "b").values()) == 400


def test_an_error_leaves_nothing_and_the_next_try_succeeds(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(cluster, parcels_of(make_segment(tmp_path / "a")))
    messages = consume._messages

    def break_off(*of: Any) -> Iterator[Any]:
        for at, message in enumerate(messages(*of)):
            if at == 3:
                raise ArchiveError("no message")
            yield message

    monkeypatch.setattr(consume, "_messages", break_off)
    with pytest.raises(ArchiveError, match="no message"):
        rebuild(cluster, tmp_path / "b")
    assert names_in(tmp_path / "b") == []
    monkeypatch.setattr(consume, "_messages", messages)
    (tmp_path / "b" / consume.WORK).mkdir()  # as one that was killed leaves it
    (tmp_path / "b" / consume.WORK / "x.ftseg.part").write_bytes(b"half")
    rebuild(cluster, tmp_path / "b")
    assert counts_of(tmp_path / "b") == ALL


def test_a_folder_that_somebody_writes_to_is_refused(cluster: str, tmp_path: Path) -> None:
    with ArchiveLock(tmp_path), pytest.raises(ArchiveLockedError):
        rebuild(cluster, tmp_path)


def test_a_message_that_is_not_what_it_says_costs_itself(cluster: str, tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path / "a"))
    other = parcels_of(make_segment(tmp_path / "c", run=OTHER))
    liar = Parcel(Kind.HEADER, parcels[0].body, OTHER)
    deliver(cluster, [liar, *parcels, *other[1:]])
    found = rebuild(cluster, tmp_path / "b")
    assert (found.broken, found.headless) == (1, (OTHER.hex(),))
    assert counts_of(tmp_path / "b") == ALL
    assert not [of for of in verify_paths([tmp_path / "b"]) if "damage" in str(of).lower()]
