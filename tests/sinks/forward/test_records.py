"""Rows of all recorded kernels against the slow builder, byte for byte; and what is remembered between parcels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from collector.cli import main
from sinks.base import Parcel
from sinks.forward.records import RecordBuilder
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
