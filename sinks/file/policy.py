"""What the file sink is told."""

from dataclasses import dataclass
from pathlib import Path

from sinks.file.retention import Limits
from sinks.file.rotation import Rotation
from sinks.file.shelf import Room


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """When segments end, become durable, and may stay."""

    folder: Path
    rotation: Rotation
    limits: Limits
    room: Room
    sync_interval_s: float  # fdatasync at least this often; 0: after every delivery
