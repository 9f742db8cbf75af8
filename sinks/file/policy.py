"""What the file sink is told: its limits, and what a segment says of where it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from collector.batch import Note
from sinks.file.retention import Limits
from sinks.file.rotation import Rotation
from sinks.file.shelf import Room

StreamId = tuple[str, int]


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """When segments end, become durable, and may stay."""

    folder: Path
    rotation: Rotation
    limits: Limits
    room: Room
    sync_interval_s: float  # fdatasync at least this often; 0: after every delivery


class SegmentContext(Protocol):
    """What a segment says of where it comes from."""

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        """The header of the run's segment with this number; opening: None for the first."""
        ...

    def opening_notes(self) -> Sequence[Note]:
        """Clock pairs and coverage, as of now."""
        ...

    def closing_notes(self) -> Sequence[Note]:
        """Coverage up to now."""
        ...
