"""What a receiver has: blocks and gaps, in the order in which they came, whatever they came as."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.archive.bodies import parse_block, parse_gap
from collector.archive.frame import Kind, Record
from collector.archive.reader import list_segments, open_segment
from sinks.contract.base import Parcel

ENTRIES = 20  # of each block


@dataclass(frozen=True, slots=True)
class BlockSeen:
    number: int


@dataclass(frozen=True, slots=True)
class GapSeen:
    cause: str
    count: int | None
    from_ts: int | None


Seen = BlockSeen | GapSeen
Sent = Mapping[tuple[bytes, int], bytes]  # {(run, number of the block): its body}


def numbers_of(seen: Iterable[Seen]) -> list[int]:
    """Of the blocks."""
    return [of.number for of in seen if isinstance(of, BlockSeen)]


def gaps_of(seen: Iterable[Seen]) -> list[GapSeen]:
    """Each once: what is sent again may come again."""
    return list(dict.fromkeys(of for of in seen if isinstance(of, GapSeen)))


def seen_in_folder(folder: Path, sent: Sent) -> list[Seen]:
    """Of the segments of a folder and those below it."""
    found: list[Seen] = []
    for inner in sorted({path.parent for path in folder.rglob("*.ftseg*")}):
        for path in list_segments([inner]):
            with open_segment(path) as segment:
                for record in segment.records():
                    assert isinstance(record, Record), record
                    found += seen_in_record(record.kind, bytes(record.body), sent)
    return found


def seen_in_parcels(parcels: Iterable[Parcel], sent: Sent) -> list[Seen]:
    return [seen for parcel in parcels for seen in seen_in_record(parcel.kind, parcel.body, sent)]


def seen_in_record(kind: int, body: bytes, sent: Sent) -> Iterator[Seen]:
    """A block has to be the one that was put, byte for byte."""
    if kind == Kind.BLOCK:
        head = parse_block(body)
        assert sent[head.run, head.number] == body
        yield BlockSeen(head.number)
    elif kind == Kind.GAP:
        gap = parse_gap(body)
        yield GapSeen(gap.cause, gap.count, gap.from_ts)


def seen_in_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Seen]:
    """Of a row per entry: a block is there with its last entry, and all others have to be before that."""
    before = -1
    for row in rows:
        if "gap" in row:
            yield GapSeen(row["gap"]["cause"], row["gap"]["count"], row["gap"]["from_ts"])
            continue
        number, at = divmod(row["ordinal"], ENTRIES)
        assert at == before + 1, row
        before = at
        if at == ENTRIES - 1:
            yield BlockSeen(number)
            before = -1
