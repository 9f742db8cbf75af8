"""A spool's open segment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collector.archive.segment import SegmentWriter
from collector.batch import Block
from sinks.contract.base import Parcel
from sinks.network.backlog import parcel_of_block, parcel_of_record


class SpoolWriter(SegmentWriter):
    """A segment whose records are kept as parcels too, until they are taken away."""

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.written: list[tuple[int, Parcel]] = []  # (size of the file behind it, parcel)
        super().__init__(folder, header)

    def write_record(self, kind: int, body: Mapping[str, Any] | bytes) -> None:
        super().write_record(kind, body)
        self.written.append((self.size_bytes, parcel_of_record(kind, body, self.header.run)))

    def _put_block(self, block: Block) -> None:
        super()._put_block(block)
        self.written.append((self.size_bytes, parcel_of_block(block)))
