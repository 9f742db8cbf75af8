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
from sinks.contract.base import Parcel
from sinks.forward.records import RecordBuilder
from tests.archive.encoder import PLAIN, PLAIN_ID, build_block
from tests.conftest import RECORDED_CASES
from tests.read.slow_rows import SlowRows
from tests.sinks.forward.rig import to_ns
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


def clock(run: bytes, wall_s: int) -> Parcel:
    """At 0 of the trace clock."""
    pair = {"instance": "main", "trace": 0, "realtime_ns": wall_s * 10**9, "boottime_ns": 0, "monotonic_ns": 0,
            "error_ns": 1}  # fmt: skip
    return Parcel(Kind.OBJECT, build_object("clock", pair)[1], run)


def plain_block(run: bytes) -> Parcel:
    block = build_block([(5, 7, 0, 0, PLAIN_ID, 1)], run=run)
    return Parcel(Kind.BLOCK, block.body, run, block.stream, 0, 1, 5, 5)


def rows(builder: RecordBuilder, *parcels: Parcel) -> bytes:
    return b"".join(found.data for p in parcels for found in builder.take(p, NOW_NS))


def records(builder: RecordBuilder, *parcels: Parcel) -> list[Any]:
    return [record for _, record in unpack_all(rows(builder, *parcels))]


def test_rewound_it_reads_a_block_as_the_first_time() -> None:
    """A batch that failed comes again after the header of the next epoch, or of the next run, has been seen."""
    builder = RecordBuilder(1 << 20)
    old, new = b"o" * 16, b"n" * 16
    layout = Parcel(Kind.OBJECT, build_object("format", PLAIN)[1], old)
    before = [header(old, 1), layout, comms(old, b"first"), clock(old, 1_700_000_000)]
    assert records(builder, *before) == []
    first = rows(builder, plain_block(old))
    ahead = [comms(old, b"later"), header(old, 2), comms(old, b"second"), header(new, 3), comms(new, b"third")]
    (now,) = records(builder, *ahead, plain_block(new))
    assert (now["host"], now["comm"], now["clock"]) == ("host3", "third", "mono")
    builder.rewind(before)
    assert rows(builder, plain_block(old)) == first
    ((at, record),) = unpack_all(first)
    assert (to_ns(at), record["host"], record["comm"]) == (1_700_000_000 * 10**9 + 5, "host1", "first")
    assert "clock" not in record
    (then,) = records(builder, *ahead, plain_block(new))
    assert (then["host"], then["comm"]) == ("host3", "third")


def test_a_report_before_what_comes_again_is_not_repeated() -> None:
    about = {"instance": "main", "kind": "k", "tracer": "t", "value": 1, "unit": "us", "text": "", "realtime_ns": 1}
    run = b"r" * 16
    before = [header(run, 1), Parcel(Kind.OBJECT, build_object("report", about)[1], run)]
    builder = RecordBuilder(1 << 20)
    assert len(records(builder, *before)) == 1
    builder.rewind(before)
    assert records(builder, comms(run, b"c")) == []


def test_formats_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.forward.records.MOST_FORMATS", 3)
    builder = RecordBuilder(1 << 20)
    run = b"r" * 16
    layout = Parcel(Kind.OBJECT, build_object("format", PLAIN)[1], run)
    others = [Parcel(Kind.OBJECT, build_object("format", {**PLAIN, "id": n})[1], run) for n in range(3)]
    assert len(records(builder, header(run, 1), layout, *others[:2], plain_block(run))) == 1
    assert records(builder, others[2]) == []
    assert len(records(builder, plain_block(run))) == 1  # it was used later than the first of the others
    assert records(builder, others[0], others[1], others[2]) == []
    with pytest.raises(SegmentError, match="was not sent"):
        records(builder, plain_block(run))
    assert len(records(builder, layout, plain_block(run))) == 1
