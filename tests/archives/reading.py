"""What is read of an archive, a spool or a configuration, in a form that no way of printing changes."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from collector.archive.block import decode_block
from collector.archive.frame import Kind, Record
from collector.archive.objects import FormatObject, parse_object
from collector.archive.reader import list_segments, open_segment
from collector.config.load import parse_config
from collector.run.daemon import SINK_MODELS
from sinks.network.backlog import START
from sinks.spool.policy import SpoolPolicy
from sinks.spool.spool import Spool
from tests.archive.encoder import Maps
from tests.contract.made import Context


def plain(value: Any) -> Any:
    """A value as JSON has it: bytes as hex."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def digest(value: Any) -> str:
    packed = msgpack.packb(value, unicode_errors="surrogateescape")
    return hashlib.sha256(packed).hexdigest()


def read_archive(folder: Path) -> list[dict[str, Any]]:
    """Each segment with all its records, in their order."""
    found = []
    for path in list_segments([folder]):
        with open_segment(path) as segment:
            records = [record for record in segment.records() if isinstance(record, Record)]
            found.append({
                "name": path.name,
                "run": segment.run.hex(),
                "number": segment.number,
                "records": [read_record(record, segment.formats) for record in records],
            })  # fmt: skip
    return found


def read_record(record: Record, formats: Mapping[bytes, FormatObject]) -> dict[str, Any]:
    kind = Kind(record.kind)
    body = bytes(record.body)
    if kind is Kind.OBJECT:
        stored = parse_object(body)
        return {"kind": kind.name, "type": stored.type, "id": stored.id.hex(), "sha256": digest(stored.value)}
    if kind is not Kind.BLOCK:
        return {"kind": kind.name, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    block = decode_block(body, formats)
    entries = [
        [entry.ts, entry.cpu, entry.pid, entry.flags, entry.preempt_count, entry.format.name, entry.mode, entry.fields]
        for entry in block.entries()
    ]
    head = block.head
    return {
        "kind": kind.name, "stream": plain(head.stream), "number": head.number, "ordinal": head.ordinal,
        "entries": head.entries, "gaps": plain(head.gaps), "first": plain(entries[0]), "sha256": digest(entries),
    }  # fmt: skip


def read_spool(folder: Path, work: Path) -> list[dict[str, Any]]:
    """What a sink would be given of a spool, of which `work` is where a copy can be made."""
    shutil.copytree(folder, work)
    spool = open_spool(work)
    try:
        found = []
        after = START
        while True:
            back = spool.read(after, 1 << 20)
            after = back.position
            for entry in back.entries:
                of = entry.parcel
                found.append({"kind": Kind(of.kind).name, "number": of.number, "events": of.events,
                              "sha256": hashlib.sha256(of.body).hexdigest()})  # fmt: skip
            if back.at_end:
                return found
    finally:
        spool.close()


def open_spool(folder: Path) -> Spool:
    spool = Spool(SpoolPolicy(folder, 64 << 20, "spool", 300.0, 1.0), Context(), Maps())
    spool.open()
    return spool


def read_config(path: Path) -> Any:
    """All settings."""
    return plain(parse_config(path.read_text(), path.name, SINK_MODELS).model_dump(mode="json"))
