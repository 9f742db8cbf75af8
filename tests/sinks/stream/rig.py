"""Bringing parcels to a receiver, and whether they have arrived."""

from collections.abc import Sequence
from pathlib import Path

import trio

from collector.archive.bodies import parse_block
from collector.archive.frame import Kind
from collector.archive.info import summarise
from collector.archive.reader import list_segments, open_segment
from collector.archive.verify import verify_archive
from collector.batch import Delivery
from sinks.base import Parcel
from sinks.stream.sink import StreamTransport


def batches(parcels: Sequence[Parcel], size: int = 3) -> list[Sequence[Parcel]]:
    return [parcels[at : at + size] for at in range(0, len(parcels), size)]


def first_block(parcels: Sequence[Parcel]) -> int:
    return next(at for at, p in enumerate(parcels) if p.kind is Kind.BLOCK)


async def bring(transport: StreamTransport, parcels: Sequence[Parcel], size: int = 3) -> None:
    for batch in batches(parcels, size):
        while await transport.deliver(batch) is not Delivery.DELIVERED:
            await trio.sleep(0.01)


def check_same(sent: Path, received: Path) -> None:
    """What arrived is an archive of its own, with all events and blocks that were sent, each once."""
    assert verify_archive([received]).problems == []
    before, after = summarise([sent]), summarise([received])
    for key in ("events", "lost_events"):
        assert after[key] == before[key], key
    assert block_names(received) == block_names(sent)


def block_names(folder: Path) -> list[tuple[tuple[str, int], int, int]]:
    found = []
    for path in list_segments([folder]):
        with open_segment(path) as segment:
            found += [(h.stream, h.number, h.entries) for h in (parse_block(r.body) for r in segment.blocks())]
    return sorted(found)
