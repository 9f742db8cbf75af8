"""How much a sender may have of the disk. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """When a sender's segments end, and how much of the disk it may have."""

    segment_bytes: int = 128 << 20  # size that seals a segment
    segment_age_s: float = 3600.0  # age that seals a segment
    max_bytes: int = 10 << 30  # of all its segments; the oldest go
    min_free_bytes: int = 1 << 30  # left free on the filesystem: less, and nothing is taken
    max_segments: int = 8192  # likewise the oldest go: each is an inode, and is read at the start
