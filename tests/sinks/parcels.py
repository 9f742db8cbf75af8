"""Parcels for the tests of network sinks: of a segment on the disk, as the runner would hand them over."""

from pathlib import Path

from collector.archive.bodies import parse_block
from collector.archive.fields import unpack
from collector.archive.frame import Kind, Record
from collector.archive.reader import open_segment
from collector.batch import StreamKey
from sinks.contract.base import Parcel

SENT = {Kind.HEADER, Kind.OBJECT, Kind.BLOCK, Kind.GAP, Kind.COVERAGE, Kind.SAMPLE}


def parcels_of(path: Path) -> list[Parcel]:
    """Gives a segment's records but for footer and trailer."""
    with open_segment(path) as segment:
        return [
            parcel_of(Kind(record.kind), bytes(record.body), segment.run)
            for record in segment.records()
            if isinstance(record, Record) and record.kind in SENT
        ]


def parcel_of(kind: Kind, body: bytes, run: bytes) -> Parcel:
    if kind in (Kind.HEADER, Kind.OBJECT):
        return Parcel(kind, body, run)
    if kind != Kind.BLOCK:
        of = unpack(body, kind.name)
        return Parcel(kind, body, run, StreamKey(of["run"], of["inst"], of["cpu"]))
    head = parse_block(body)
    stream = StreamKey(head.run, *head.stream)
    return Parcel(kind, body, run, stream, head.number, head.entries, head.first_ts, head.last_ts)
