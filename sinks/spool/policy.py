"""Where a spool is, and its limits. Pure."""

from dataclasses import dataclass
from pathlib import Path

from sinks.contract.options import WhenFull

MOST_SEGMENT_BYTES = 32 << 20
LEAST_SEGMENT_BYTES = 1 << 20
SEGMENTS_IN_LIMIT = 8  # dropping the oldest segment gives up an eighth of the limit at most


@dataclass(frozen=True, slots=True)
class SpoolPolicy:
    """Where a spool is and how large it gets."""

    folder: Path
    max_bytes: int
    when_full: WhenFull
    segment_age_s: float  # header and objects are written again this often
    sync_interval_s: float  # 0: after every append

    @property
    def segment_bytes(self) -> int:
        """Size that seals a segment."""
        return max(LEAST_SEGMENT_BYTES, min(MOST_SEGMENT_BYTES, self.max_bytes // SEGMENTS_IN_LIMIT))
