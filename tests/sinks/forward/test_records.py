"""Rows of all recorded kernels against the slow builder, byte for byte; and what is remembered between parcels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from collector.archive.fields import pack
from collector.archive.frame import Kind
from collector.archive.objects import build_object
from collector.cli import main
from collector.errors import SegmentError
from sinks.base import Parcel
from sinks.forward.records import RecordBuilder
from tests.archive.encoder import PLAIN, PLAIN_ID, build_block
from tests.conftest import RECORDED_CASES
from tests.decode.slow_rows import SlowRows
from tests.sinks.parcels import parcels_of

NOW_NS = 1_800_000_000_123_456_789


@pytest.fixture(scope="module")
def parcels(
    recorded_case: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Parcel]]:
    """parcels(case) -> what a sink gets of that recorded kernel."""
    folder = tmp_path_factory.mktemp("rows")

    def replay(name: str) -> list[Parcel]:
        archive = folder / name
        if not archive.exists():
            assert main(["run", "--replay", str(recorded_case(name)), "--output", str(archive), "-q"]) == 0
        return [parcel for path in sorted(archive.glob("*.ftseg")) for parcel in parcels_of(path)]

    return replay


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_recorded_kernels_give_the_rows_of_the_slow_builder(name: str, parcels: Callable[[str], list[Parcel]]) -> None:
    fast, slow = RecordBuilder(1 << 16), SlowRows()
    entries = rows = 0
    for parcel in parcels(name):
        found = list(fast.take(parcel, NOW_NS))
        wanted = list(slow.take(parcel, NOW_NS))
        have = b"".join(piece.data for piece in found)
        # Packed anew, so that values, their types and the order of keys are compared, but not how long a head is.
        for number, (one, other) in enumerate(zip(unpack_all(have), wanted, strict=True)):
            assert msgpack.packb(one) == msgpack.packb(other), f"row {number}: {one} is not {other}"
        assert sum(piece.count for piece in found) == len(wanted)
        entries += parcel.events
        rows += len(wanted)
    assert 0 < entries <= rows


def unpack_all(data: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    found = list(unpacker)
    assert unpacker.tell() == len(data)
    return found


def header(run: bytes, segment: int) -> Parcel:
    body = {
        "format": "ftrace-segment", "version": 1, "run": run, "segment": segment, "host": f"host{segment}",
        "boot_id": "b", "kernel": "k", "created_ns": 0, "tool": "t", "config_hash": "c", "streams": [], "opening": [],
        "instances": {"main": {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}},
    }  # fmt: skip
    return Parcel(Kind.HEADER, pack(body), run)


def comms(run: bytes, name: bytes) -> Parcel:
    return Parcel(Kind.OBJECT, build_object("comms", {7: name})[1], run)


def plain_block(run: bytes) -> Parcel:
    block = build_block([(5, 7, 0, 0, PLAIN_ID, 1)], run=run)
    return Parcel(Kind.BLOCK, block.body, run, block.stream, 0, 1, 5, 5)


def records(builder: RecordBuilder, *parcels: Parcel) -> list[Any]:
    return [row[1] for p in parcels for rows in builder.take(p, NOW_NS) for row in unpack_all(rows.data)]


def test_an_epoch_that_is_sent_again_behind_the_next_one_has_its_own_names() -> None:
    """A batch that failed comes again after the header of the next run has been seen."""
    builder = RecordBuilder(1 << 20)
    old, new = b"o" * 16, b"n" * 16
    layout = Parcel(Kind.OBJECT, build_object("format", PLAIN)[1], old)
    assert records(builder, header(old, 1), layout, comms(old, b"old"), header(new, 2), comms(new, b"new")) == []
    (again,) = records(builder, plain_block(old))
    assert (again["host"], again["comm"]) == ("host1", "old")
    (now,) = records(builder, plain_block(new))
    assert (now["host"], now["comm"]) == ("host2", "new")
    (repeated,) = records(builder, header(old, 1), comms(old, b"older"), plain_block(old))
    assert repeated["comm"] == "older"
    (other,) = records(builder, plain_block(new))
    assert other["comm"] == "new"


def test_formats_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.forward.records.MOST_FORMATS", 3)
    builder = RecordBuilder(1 << 20)
    run = b"r" * 16
    layout = Parcel(Kind.OBJECT, build_object("format", PLAIN)[1], run)
    others = [Parcel(Kind.OBJECT, build_object("format", {**PLAIN, "id": n})[1], run) for n in range(3)]
    assert len(records(builder, header(run, 1), layout, *others[:2], plain_block(run))) == 1
    assert records(builder, others[2]) == []
    with pytest.raises(SegmentError, match="was not sent"):
        records(builder, plain_block(run))
    assert len(records(builder, layout, plain_block(run))) == 1
